"""`oracle keystore`, `oracle deploy` and `oracle register`: what an operator does once."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from eth_utils.address import is_hex_address, to_checksum_address

from assay_core.errors import AssayError, FileError
from assay_valuer.book import Loan
from assay_valuer.cli.common import OK, config_of, opened, print_json, say
from assay_valuer.cli.oracle_hub import chosen_loans, configured_domain, endpoints, open_hub
from assay_valuer.oracle.deploy import deploy_hub, register_feed
from assay_valuer.oracle.hub import Hub, HubError, HubRefused, ascending, register_feed_data
from assay_valuer.oracle.report import DECIMALS, DEVELOPMENT_CHAIN_IDS
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.signer import LocalSigner, create_keystore, open_keystore
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
    url = endpoints(config_of(args), args.rpc)[0]
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
            _register(hub, admin, loan)
    finally:
        hub.rpc.close()
    return OK


# ------------------------------------------------------------------------------- deploy


def _pause() -> None:
    time.sleep(PAUSE_S)


def _address(text: str, option: str) -> str:
    """A checksummed address. Raises FileError, also where capitals are a wrong checksum."""
    if not text.startswith("0x") or not is_hex_address(text):
        raise FileError(f"{option} {text!r}: not an address: 0x and 40 hexadecimal digits")
    address = to_checksum_address(text)
    if text not in (address, text.lower(), "0x" + text[2:].upper()):
        raise FileError(f"{option} {text!r}: mistyped: its capitals are not its checksum")
    if int(address, 16) == 0:
        raise FileError(f"{option} {text!r}: nobody has the key of the zero address")
    return address


def _check_quorum(signers: Sequence[str], threshold: int) -> None:
    """The hub's own rules, before anything is paid for. Raises FileError."""
    count = len(signers)
    if len(set(signers)) != count:
        raise FileError("--signer: an address is given twice; each signer counts once")
    if count > SIGNERS_MAX:
        raise FileError(f"--signer: {count} are too many; the hub takes {SIGNERS_MAX}")
    least = count // 2 + 1
    if not least <= threshold <= count:
        raise FileError(
            f"--threshold {threshold}: of {count} signers a majority must sign, {least} to {count}, "
            "or two quorums could sign different values"
        )


def _read_back(hub: Hub, roles: _Roles) -> None:
    """Compares what the chain now has with what was asked for. Raises HubError."""
    config = hub.config()
    seated = all(hub.signer_version(one) == config.version for one in roles.signers)
    shown = (hub.admin(), config.guardian, config.threshold, config.signers, config.paused)
    asked = (roles.admin, roles.guardian, roles.threshold, len(roles.signers), False)
    if shown != asked or not seated:
        raise HubError(
            f"hub {hub.domain.hub} was deployed and does not read back as asked: do not use it"
        )


def _warn(roles: _Roles, chain_id: int) -> None:
    """What a lender will ask about, said where it matters: not on a development chain."""
    if chain_id in DEVELOPMENT_CHAIN_IDS:
        return
    if roles.guardian == roles.admin:
        say("warning: guardian and admin are one key: who can stop the oracle can also change it")
    if {roles.admin, roles.guardian} & set(roles.signers):
        say("warning: a report signer is also admin or guardian: keep these keys apart")
    if len(roles.signers) == 1:
        say("warning: one signer: whoever has its key can publish any value")


def _config_lines(hub: Hub, roles: _Roles, url: str) -> str:
    """The part of valuer.yaml that is known now, and what is left to fill in."""
    chain_id = hub.domain.chain_id
    parts = urlsplit(url)
    secret = parts.path.strip("/") or parts.query or parts.username or parts.password
    rpc_url = "URL" if secret else url  # a path or a query may hold a key to a paid service
    lines = [
        "oracle:",
        "  enabled: false  # true once the keystores below are filled in",
        f"  chain_id: {chain_id}",
    ]
    if chain_id in DEVELOPMENT_CHAIN_IDS:
        lines.append("  development: true")
    lines += [
        f'  rpc_urls: ["{rpc_url}"]',
        f'  hub: "{hub.domain.hub}"',
        f"  threshold: {roles.threshold}",
        "  report_keystores: []  # at least as many as the threshold, of "
        + ", ".join(ascending(roles.signers)),
        "  sender_keystore: null  # pays for transactions, signs no report",
        "  passphrase_file: null  # opens these keystores; mode 0600, or a systemd credential",
    ]
    return "\n".join(lines)


# ------------------------------------------------------------------------------- register


def _register(hub: Hub, admin: LocalSigner, loan: Loan) -> None:
    name, shown = loan.file.id, f"0x{loan.feed_id.hex()}"
    if hub.is_registered(loan.feed_id):
        print(f"{name} {shown} was registered already")
        return
    try:
        register_feed(hub, admin, feed_key(loan.file), pause=_pause)
    except HubRefused as error:
        raise AssayError(
            f"{name}: {error}; the admin of hub {hub.domain.hub} is {hub.admin()}: use its key, or "
            "--data for the call that it must make"
        ) from error
    if not hub.is_registered(loan.feed_id):
        raise HubError(f"{name}: feed {shown} was registered and does not read back: look again")
    print(f"{name} {shown} registered")


def _print_calls(args: argparse.Namespace) -> int:
    """What a timelock has to be given. Needs no endpoint: nothing is asked of the chain."""
    with opened(args) as state:
        domain = configured_domain(state.config)
        loans = chosen_loans(state, args.loans)
    calls = [
        {
            "loan": loan.file.id,
            "feed_id": f"0x{loan.feed_id.hex()}",
            "chain_id": domain.chain_id,
            "to": domain.hub,
            "value": 0,
            "data": f"0x{register_feed_data(feed_key(loan.file), DECIMALS).hex()}",
        }
        for loan in loans
    ]
    print_json({"calls": calls})
    return OK
