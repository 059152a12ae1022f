"""`assay-valuer covenant`: the signed file that a loan is measured by, and how it stands by it."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_core.errors import AssayError
from assay_core.instants import format_instant
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_sentences,
    print_table,
    read_text,
    say,
)
from assay_valuer.covenant_draft import read_covenant
from assay_valuer.covenants import history, import_covenant, load_covenants
from assay_valuer.credit.covenant import ReplayDiffers, replay, sha256_of
from assay_valuer.credit.position import percent
from assay_valuer.results import StoredCovenant, StoredTranche
from assay_valuer.rows import LoanRow, loan_rows, usd


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "covenant", help="what lender and borrower agreed, and how a loan stands by it"
    ).add_subparsers(required=True)
    importing = add_command(
        group,
        "import",
        "take a covenant file that lender and borrower signed",
        "assay-valuer covenant import signed.json",
    )
    importing.add_argument(
        "file", metavar="FILE", type=Path, help="a DSSE envelope; see docs/collateral.md"
    )
    importing.add_argument("--loan", metavar="LOAN", help="refuse the file of any other loan")
    importing.set_defaults(run=run_import)
    showing = add_command(
        group,
        "show",
        "show a loan's covenant position, and its risk position beside it",
        "assay-valuer covenant show loan-1",
    )
    showing.add_argument("loan", metavar="LOAN")
    showing.add_argument("--json", action="store_true", help="for machines")
    showing.set_defaults(run=run_show)
    telling = add_command(
        group,
        "history",
        "show every change of a loan's covenant state with what it rested on, and take each step again",
        "assay-valuer covenant history loan-1",
    )
    telling.add_argument("loan", metavar="LOAN")
    telling.add_argument("--json", action="store_true", help="for machines")
    telling.set_defaults(run=run_history)


def run_import(args: argparse.Namespace) -> int:
    """It is in force from the next tick, or from when it says."""
    envelope = read_covenant(read_text(args.file), str(args.file))
    with opened(args) as state:
        now = now_ms()
        covenant, new = state.database.write(
            lambda c: import_covenant(
                c, envelope, loan=args.loan, signer=state.ledger_key, now_ms=now
            )
        )
    if not new:
        say(f"version {covenant.version} of loan {covenant.loan}'s covenant was taken before")
        return OK
    say(
        f"loan {covenant.loan} is measured by version {covenant.version} of its covenant, signed by "
        f"{covenant.parties.lender} and {covenant.parties.borrower}, from "
        f"{format_instant(max(now, covenant.effective_from_ms))}"
    )
    return OK


def run_show(args: argparse.Namespace) -> int:
    """Both positions, apart."""
    with opened(args) as state:
        rows = state.database.read(loan_rows)
    row = next((one for one in rows if one.id == args.loan), None)
    if row is None:
        raise AssayError(f"there is no loan {args.loan}; see `assay-valuer value`")
    if args.json:
        print_json(row)
        return OK
    if row.covenant is None:
        say(
            f"loan {row.id} has no covenant file in force, or no tick has taken it yet: nothing can "
            "call it. Its risk position only advises"
        )
    else:
        _print_covenant(row.id, row.covenant)
    _print_risk(row)
    return OK


def run_history(args: argparse.Namespace) -> int:
    """Exits 1 where a step, taken again from its own inputs, comes out otherwise."""
    with opened(args) as state:
        records, held = state.database.read(
            lambda c: (history(c, args.loan), load_covenants(c).get(args.loan, ()))
        )
    if args.json:
        print_json({"loan": args.loan, "steps": records})
    else:
        for record in records:
            ltv = record.inputs.ltv_bps
            title = (
                f"{format_instant(record.at_ms)}  {record.state.level}, LTV "
                f"{'unknown' if ltv is None else percent(ltv)}, debt {usd(record.inputs.debt_micros)}"
            )
            print_sentences(title, [f"{one.code}: {one.detail}" for one in record.transitions])
    try:
        replay({sha256_of(one): one for one in held}, records)
    except ReplayDiffers as error:
        say(f"{error}: the ledger, or this version's rules, are not those that it was made by")
        return FALSE
    say(f"{len(records)} steps, each taken again with the same outcome")
    return OK


def _print_covenant(loan: str, covenant: StoredCovenant) -> None:
    marks = {
        "STALE": covenant.stale,
        "DISPUTED": covenant.disputed,
        "notice of a breach of reporting": covenant.notice,
    }
    beside = "".join(f", {mark}" for mark, stands in marks.items() if stands)
    print_sentences(
        f"{loan}, covenant version {covenant.version}: {covenant.level}{beside}, since "
        f"{format_instant(covenant.since_ms)}",
        [finding.detail for finding in covenant.findings],
    )
    _print_tranches(f"tranches against {covenant.premise}", covenant.tranches)


def _print_risk(row: LoanRow) -> None:
    if row.position is None:
        say(f"loan {row.id} is not valued yet: is `assay-valuer run` running?")
        return
    print_sentences(
        f"{row.id}, risk (the house's view, which only advises): {row.position.state}",
        [finding.detail for finding in row.position.findings],
    )
    _print_tranches("tranches against OLV", row.position.tranches)


def _print_tranches(title: str, tranches: tuple[StoredTranche, ...]) -> None:
    print_table(
        (title, "owed", "attaches at", "detaches at", "covered"),
        [
            (
                one.lender,
                usd(one.owed_micros),
                *(
                    "unknown" if bps is None else percent(bps)
                    for bps in (one.attaches_bps, one.detaches_bps, one.covered_bps)
                ),
            )
            for one in tranches
        ],
    )
