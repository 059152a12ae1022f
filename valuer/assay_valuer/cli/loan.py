"""`assay-valuer loan import`."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_valuer.cli.common import OK, Commands, add_command, now_ms, opened, read_text, say
from assay_valuer.covenants import load_covenants
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.registry import import_loan


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    group = commands.add_parser("loan", help="loans and what secures them").add_subparsers(
        required=True
    )
    importing = add_command(
        group,
        "import",
        "register a loan, or its newer terms and payments",
        "assay-valuer loan import loan-1.yaml",
    )
    importing.add_argument(
        "file", metavar="FILE", type=Path, help="YAML or JSON; see docs/collateral.md"
    )
    importing.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """All of the file, or nothing of it."""
    name = str(args.file)
    loan = read_loan(read_text(args.file), name)
    with opened(args) as state:
        now = now_ms()
        done = state.database.write(lambda c: import_loan(c, loan, name, state.ledger_key, now))
        with_covenant = loan.id in state.database.read(load_covenants)
    say(
        f"loan {loan.id} is registered: feed 0x{done.feed_id.hex()}, {done.pledged} GPUs pledged, "
        f"{done.expected} of them not seen yet"
    )
    if not with_covenant:
        say(
            "it has no covenant file: its position is the house's risk view alone, which can call no "
            "loan; see `assay-valuer covenant import`"
        )
    if done.released:
        say(
            f"{done.released} that the file names were released and are not pledged again; see "
            "`assay-valuer asset events`, and take them out of the file"
        )
    return OK
