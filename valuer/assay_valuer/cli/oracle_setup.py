"""`oracle keystore`, `oracle deploy` and `oracle register`: what an operator does once."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from eth_utils.address import is_address, is_checksum_address, to_checksum_address

from assay_core.errors import AssayError, FileError
from assay_valuer.cli.common import OK, config_of, opened, print_json, say
from assay_valuer.cli.oracle_hub import chosen_loans, configured_domain, open_hub
from assay_valuer.oracle.deploy import deploy_hub, register_feed
from assay_valuer.oracle.hub import Hub, HubError, HubRefused, register_feed_data
from assay_valuer.oracle.report import DECIMALS, DEVELOPMENT_CHAIN_IDS
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.signer import create_keystore, open_keystore
from assay_valuer.registry import feed_key

PAUSE_S: Final = 1.0
"""Between two looks for a transaction's block."""
SIGNERS_MAX: Final = 31


@dataclass(frozen=True, slots=True)
class _Roles:
    """Who may do what with a new hub, as checksummed addresses."""

    admin: str
    guardian: str
    signers: tuple[str, ...]
    threshold: int


def run_keystore(args: argparse.Namespace) -> int:
    """Prints the new key's address, and nothing else, on standard output."""
    address = create_keystore(args.keystore, args.passphrase_file)
    say(f"wrote {args.keystore}; back it up apart from its passphrase: nobody can recover either")
    print(address)
    return OK


def run_deploy(args: argparse.Namespace) -> int:
    """Prints the hub's lines of valuer.yaml on standard output."""
    url = _one_url(args)
    signers = tuple(_address(one, "--signer") for one in args.signer)
    _check_quorum(signers, args.threshold)
    guardian = _address(args.guardian, "--guardian")
    admin = None if args.admin is None else _address(args.admin, "--admin")
    deployer = open_keystore(args.keystore, args.passphrase_file)
    roles = _Roles(admin or deployer.address, guardian, signers, args.threshold)
    rpc = JsonRpc(url)
    try:
        hub = deploy_hub(
            rpc,
            deployer,
            admin=roles.admin,
            guardian=guardian,
            signers=signers,
            threshold=args.threshold,
            pause=_pause,
        )
        _read_back(hub, roles)
    except HubRefused as error:
        raise AssayError(f"nothing was deployed: {error}") from error
    finally:
        rpc.close()
    _warn(roles, hub.domain.chain_id)
    if args.json:
        print_json({"hub": hub.domain.hub, "chain_id": hub.domain.chain_id, "roles": roles})
    else:
        say(f"deployed and read back: hub {hub.domain.hub} on chain {hub.domain.chain_id}")
        print(_config_lines(hub, roles, url))
    return OK


def run_register(args: argparse.Namespace) -> int:
    """Each feed in turn; one that is registered already is left as it is."""
    if bool(args.loans) == args.all:
        raise FileError("name the loans to register, or say --all")
    if args.data:
        return _print_calls(args)
    if args.keystore is None or args.passphrase_file is None:
        raise FileError("--keystore and --passphrase-file are needed, or --data to send nothing")
    with opened(args) as state:
        loans = chosen_loans(state, args.loans)
        admin = open_keystore(args.keystore, args.passphrase_file)
        hub = open_hub(state.config, args.rpc)
    try:
        for loan in loans:
            _register(hub, admin, loan.file.id, loan.feed_id, feed_key(loan.file))
    finally:
        hub.rpc.close()
    return OK
