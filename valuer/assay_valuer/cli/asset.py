"""`assay-valuer asset list` and `asset show`: what assets are, and what is held against them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from assay_core.printable import printable
from assay_valuer.asset_rows import AssetRow, asset_rows
from assay_valuer.cli import asset_event, trust
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
from assay_valuer.held import Held, amiss
from assay_valuer.policy import ValuerPolicy


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
    now = now_ms()
    with opened(args) as state:
        rows = state.database.read(asset_rows)
        told = state.database.read(lambda c: trust.trusts(c, rows, state.config.policy, now))
    listed = [
        _Listed(**msgspec.structs.asdict(row), held=one.held)
        for row, one in zip(rows, told, strict=True)
    ]
    if args.amiss:
        listed = [row for row in listed if any(map(amiss, row.held))]
    if args.json:
        print_json({"assets": listed})
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
                "\n".join(one.title for one in row.held if amiss(one)),
            )
            for row in listed
        ],
        prose="held against it",
    )
    return OK


def run_show(args: argparse.Namespace) -> int:
    """One asset, whole; 1 where there is none of this name."""
    wanted: str = args.asset
    now = now_ms()
    with opened(args) as state:
        rows = state.database.read(asset_rows)
        found = [row for row in rows if wanted in (row.serial, f"asset-{row.id}")]
        shown = state.database.read(lambda c: _shown(c, found, state.config.policy, now))
    if not shown:
        say(f"there is no asset {printable(wanted, 64)}; see `assay-valuer asset list`")
        return FALSE
    if args.json:
        print_json({"assets": shown})
        return OK
    for row in shown:
        print_table(("", "asset"), _facts(row, now), prose="asset")
        trust.print_trust(row.explained)
    say("its incidents and counters: assay-valuer gpu show")
    return OK


class _Listed(AssetRow, frozen=True, kw_only=True):
    """An asset, with whatever is held against it in words."""

    held: tuple[Held, ...]


class _Shown(AssetRow, frozen=True, kw_only=True):
    """An asset, with trust in it now in words."""

    explained: trust.Explained


def _shown(
    connection: Connection, rows: Sequence[AssetRow], policy: ValuerPolicy, now: int
) -> list[_Shown]:
    told = trust.explained(connection, rows, policy, now)
    return [
        _Shown(**msgspec.structs.asdict(row), explained=one)
        for row, one in zip(rows, told, strict=True)
    ]


def _facts(row: AssetRow, now: int) -> list[tuple[str, str]]:
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
        ("seen", trust.ago(row.seen_ms, now)),
        ("presence", None if row.result is None else row.result.presence),
    )
    return [(name, value) for name, value in facts if value]


def _name(row: AssetRow) -> str:
    return row.serial or f"asset-{row.id}"
