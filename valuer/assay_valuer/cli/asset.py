"""`assay-valuer asset list` and `asset show`: what assets are, and what is held against them."""

from __future__ import annotations

import argparse

from assay_core.instants import format_duration, format_instant
from assay_core.printable import printable
from assay_valuer.asset_rows import AssetRow, asset_rows
from assay_valuer.cli import asset_event
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    say,
)
from assay_valuer.cli.gpu import assurance_of


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "asset", help="GPUs as collateral: identity, claims, and what two parties decide"
    ).add_subparsers(required=True)
    listing = add_command(
        group,
        "list",
        "list every asset with its identifiers, pledge, standing, freezes and disputes",
        "assay-valuer asset list --amiss",
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.add_argument(
        "--amiss", action="store_true", help="only what is frozen, disputed or in transition"
    )
    listing.set_defaults(run=run_list)
    showing = add_command(
        group,
        "show",
        "show one asset with the evidence for and against it",
        "assay-valuer asset show 1652222012345",
    )
    showing.add_argument("asset", metavar="SERIAL", help="its serial number, or asset-N")
    showing.add_argument("--json", action="store_true", help="for machines")
    showing.set_defaults(run=run_show)
    asset_event.add_parsers(group)


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON."""
    with opened(args) as state:
        rows = state.database.read(asset_rows)
    if args.amiss:
        rows = [row for row in rows if _held(row)]
    if args.json:
        print_json({"assets": rows})
        return OK
    print_table(
        ("asset", "part", "device", "host", "loan", "presence", "assurance", "held against it"),
        [
            (
                _name(row),
                row.board_part_number or "",
                (row.identity or "")[:16] or (row.pdi or ""),
                row.host or "",
                row.loan or "",
                "not valued yet" if row.result is None else row.result.presence,
                "" if row.result is None else assurance_of(row.result.assurance),
                "\n".join(what for what, _ in _held(row)),
            )
            for row in rows
        ],
        prose="held against it",
    )
    return OK


def run_show(args: argparse.Namespace) -> int:
    """One asset, whole; 1 where there is none of this name."""
    wanted: str = args.asset
    with opened(args) as state:
        rows = state.database.read(asset_rows)
    found = [row for row in rows if wanted in (row.serial, f"asset-{row.id}")]
    if not found:
        say(f"there is no asset {printable(wanted, 64)}; see `assay-valuer asset list`")
        return FALSE
    if args.json:
        print_json({"assets": found})
        return OK
    now = now_ms()
    for row in found:
        print_table(("", "asset"), _facts(row, now), prose="asset")
        if _held(row):
            print_table(("held against it", "evidence"), _held(row), prose="evidence")
    say("its incidents and counters: assay-valuer gpu show")
    return OK


def _facts(row: AssetRow, now: int) -> list[tuple[str, str]]:
    seen = "never" if row.seen_ms is None else f"{format_duration(max(0, now - row.seen_ms))} ago"
    proof = row.trust.proof
    proved = ""
    if proof is not None:
        proved = f"{format_instant(proof.at_ms)}: {proof.chip}, driver {proof.driver}" + (
            ", SIMULATED" if proof.simulated else ""
        )
    facts = (
        ("asset", _name(row)),
        ("board part number", row.board_part_number),
        ("PDI", row.pdi),
        ("UUID", row.uuid),
        ("device identity", row.identity),
        ("product", row.name),
        ("host", row.host),
        ("site", row.site),
        ("loan", row.loan),
        ("reserved to", row.reserved_host or row.reserved_site),
        ("took the place of", row.successor_of),
        ("seen", seen),
        ("presence", None if row.result is None else row.result.presence),
        ("assurance", None if row.result is None else assurance_of(row.result.assurance)),
        ("last device proof", proved),
        *(
            (
                "custody",
                f"{one.custodian} until {format_instant(one.until_ms)}, document {one.document_sha256}",
            )
            for one in row.trust.custody
        ),
    )
    return [(name, value) for name, value in facts if value]


def _held(row: AssetRow) -> list[tuple[str, str]]:
    """What is held against an asset, and the evidence for and against that, in words."""
    held = [
        (f"FROZEN {one.code} since {format_instant(one.since_ms)}", one.detail)
        for one in row.trust.freezes
    ]
    held += [
        (f"its host FROZEN {one.code} since {format_instant(one.since_ms)}", one.detail)
        for one in row.host_freezes
    ]
    held += [
        (
            f"claimed by {one.host_id}: {one.verdict}",
            one.why
            or f"shown there from {format_instant(one.since_ms)} to {format_instant(one.last_ms)}",
        )
        for one in row.trust.claims
    ]
    held += [
        (
            f"IN TRANSITION until {format_instant(one.until_ms)}: {one.kind}",
            f"event {one.event_id}: {one.why}",
        )
        for one in row.trust.transitions
    ]
    return held


def _name(row: AssetRow) -> str:
    return row.serial or f"asset-{row.id}"
