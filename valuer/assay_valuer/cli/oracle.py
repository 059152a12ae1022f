"""`assay-valuer oracle`: keys, the hub, its feeds, and what the chain says of each loan.

Only the parsers are here. What the commands do needs the extra `oracle`, which a lender who
publishes nothing does not have to install.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from assay_core.errors import ServiceError
from assay_valuer.cli.common import Commands, add_command


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser("oracle", help="the CALIBER oracle").add_subparsers(required=True)
    _add_keystore(group)
    _add_deploy(group)
    _add_register(group)
    _add_show(group)


def _add_keystore(group: Commands) -> None:
    parser = add_command(
        group,
        "keystore",
        "make a key, write it encrypted, and print its address",
        "assay-valuer oracle keystore signer-1.json --passphrase-file passphrase",
    )
    parser.add_argument("keystore", type=Path, metavar="FILE")
    _add_passphrase(parser)
    parser.set_defaults(run=_keystore)


def _add_deploy(group: Commands) -> None:
    parser = add_command(
        group,
        "deploy",
        "deploy a hub, read it back, and print its lines for valuer.yaml",
        "assay-valuer oracle deploy --rpc http://127.0.0.1:8545 --keystore admin.json "
        "--passphrase-file passphrase \\\n           --signer 0x... --signer 0x... --signer 0x... "
        "--threshold 2 --guardian 0x...",
    )
    _add_rpc(parser)
    _add_keystore_options(parser, "pays for the deployment")
    parser.add_argument(
        "--signer",
        nargs="+",
        action="extend",
        required=True,
        metavar="ADDRESS",
        help="may sign reports; all of them, in any order",
    )
    parser.add_argument(
        "--threshold",
        type=int,
        required=True,
        metavar="K",
        help="signatures that a report needs: a majority of the signers",
    )
    parser.add_argument(
        "--guardian", required=True, metavar="ADDRESS", help="may pull the ripcord, nothing else"
    )
    parser.add_argument(
        "--admin",
        metavar="ADDRESS",
        help="registers feeds and rotates signers: a timelock; without it, the keystore's address",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=_deploy)


def _add_register(group: Commands) -> None:
    parser = add_command(
        group,
        "register",
        "register loans' feeds with the hub, as its admin; or print the calls for a timelock",
        "assay-valuer oracle register --all --keystore admin.json --passphrase-file passphrase",
    )
    _add_rpc(parser)
    _add_keystore_options(parser, "is the hub's admin", required=False)
    parser.add_argument("loans", nargs="*", metavar="LOAN")
    parser.add_argument("--all", action="store_true", help="every loan")
    parser.add_argument(
        "--data",
        action="store_true",
        help="send nothing: print each call's target and calldata, as JSON, for a timelock",
    )
    parser.set_defaults(run=_register)


def _add_show(group: Commands) -> None:
    parser = add_command(
        group,
        "show",
        "show each loan's feed as the chain has it, beside the newest report in the outbox; "
        "exit code 1 where a feed is not fresh",
        "assay-valuer oracle show --json",
    )
    _add_rpc(parser)
    parser.add_argument("loans", nargs="*", metavar="LOAN", help="without any: every loan")
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=_show)


def _add_rpc(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rpc",
        metavar="URL",
        help="JSON-RPC endpoint; without it, those of oracle.rpc_urls, where a URL that holds a "
        "key is not seen by other users of this machine",
    )


def _add_keystore_options(
    parser: argparse.ArgumentParser, role: str, *, required: bool = True
) -> None:
    parser.add_argument(
        "--keystore", type=Path, required=required, metavar="FILE", help=f"its key {role}"
    )
    _add_passphrase(parser, required=required)


def _add_passphrase(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        required=required,
        metavar="FILE",
        help="one line, of mode 0600",
    )


@contextmanager
def _extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"this command needs the extra `oracle` ({error.name} is not installed): "
            "in a clone of this project, pip install '.[valuer,oracle]'"
        ) from error


def _keystore(args: argparse.Namespace) -> int:
    with _extra():
        from assay_valuer.cli import oracle_setup  # noqa: PLC0415 - needs the extra
    return oracle_setup.run_keystore(args)


def _deploy(args: argparse.Namespace) -> int:
    with _extra():
        from assay_valuer.cli import oracle_setup  # noqa: PLC0415 - needs the extra
    return oracle_setup.run_deploy(args)


def _register(args: argparse.Namespace) -> int:
    with _extra():
        from assay_valuer.cli import oracle_setup  # noqa: PLC0415 - needs the extra
    return oracle_setup.run_register(args)


def _show(args: argparse.Namespace) -> int:
    with _extra():
        from assay_valuer.cli import oracle_show  # noqa: PLC0415 - needs the extra
    return oracle_show.run(args)
