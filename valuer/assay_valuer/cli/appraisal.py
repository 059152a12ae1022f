"""`assay-valuer appraisal`: what registered appraisers signed that GPUs are worth."""

from __future__ import annotations

import argparse
from pathlib import Path

from assay_core.instants import format_instant
from assay_valuer.appraisal_draft import read_appraisal
from assay_valuer.appraisals import (
    TakenAppraisal,
    import_appraisal,
    list_appraisals,
    withdraw_appraisal,
)
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    read_text,
    say,
)
from assay_valuer.rows import usd


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "appraisal", help="what registered appraisers signed that GPUs are worth"
    ).add_subparsers(required=True)
    importing = add_command(
        group,
        "import",
        "take an appraisal that a registered appraiser signed",
        "assay-valuer appraisal import signed.json",
    )
    importing.add_argument(
        "file", metavar="FILE", type=Path, help="a DSSE envelope; see docs/collateral.md"
    )
    importing.set_defaults(run=run_import)
    listing = add_command(
        group, "list", "list what was taken, newest last", "assay-valuer appraisal list --json"
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)
    withdrawing = add_command(
        group,
        "withdraw",
        "let an appraisal count for nothing from now on",
        "assay-valuer appraisal withdraw SHA256 --why 'its appraiser took it back'",
    )
    withdrawing.add_argument("sha256", metavar="SHA256", help="see `assay-valuer appraisal list`")
    withdrawing.add_argument("--why", required=True, help="kept in the ledger for ever")
    withdrawing.set_defaults(run=run_withdraw)


def run_import(args: argparse.Namespace) -> int:
    """All of it, or nothing of it."""
    envelope = read_appraisal(read_text(args.file), str(args.file))
    with opened(args) as state:
        now = now_ms()
        appraisal, new = state.database.write(
            lambda c: import_appraisal(
                c,
                envelope,
                age_max_days=state.config.policy.reconciliation.appraisal_age_max_days,
                signer=state.ledger_key,
                now_ms=now,
            )
        )
    count = len(appraisal.assets)
    what = f"{count} GPU{'' if count == 1 else 's'} as of {appraisal.effective_on}"
    if not new:
        say(f"{appraisal.appraiser}'s appraisal of {what} was taken before")
        return OK
    say(
        f"{appraisal.appraiser} appraises {what}, {appraisal.premise.value}: values are anchored to it"
    )
    return OK


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON with every GPU."""
    with opened(args) as state:
        taken = state.database.read(list_appraisals)
    if args.json:
        print_json({"appraisals": [_json(one) for one in taken]})
        return OK
    print_table(
        ("sha256", "appraiser", "premise", "as of", "GPUs", "together", "taken", "state"),
        [
            (
                one.sha256,
                one.appraisal.appraiser,
                one.appraisal.premise.value,
                one.appraisal.effective_on.isoformat(),
                str(len(one.appraisal.assets)),
                usd(sum(gpu.usd_micros for gpu in one.appraisal.assets)),
                format_instant(one.imported_ms),
                "withdrawn" if one.withdrawn else "taken",
            )
            for one in taken
        ],
    )
    if not taken:
        say("no appraisal was taken yet; see `assay-valuer appraisal import --help`")
    return OK


def run_withdraw(args: argparse.Namespace) -> int:
    """The lender's own decision: it makes a value rest on less, never on more."""
    with opened(args) as state:
        now = now_ms()
        changed = state.database.write(
            lambda c: withdraw_appraisal(
                c, args.sha256, why=args.why, signer=state.ledger_key, now_ms=now
            )
        )
    say(f"{args.sha256} counts for nothing now" if changed else "it was withdrawn already")
    return OK if changed else FALSE


def _json(one: TakenAppraisal) -> dict[str, object]:
    return {
        "sha256": one.sha256,
        "appraisal": one.appraisal,
        "imported_ms": one.imported_ms,
        "position": one.position,
        "withdrawn": one.withdrawn,
    }
