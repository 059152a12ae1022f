"""`market show` and `market rejected`: how feeds are, what is fitted, and what did not count."""

from __future__ import annotations

import argparse
from collections import Counter
from datetime import date
from typing import Final

import msgspec
from sqlalchemy import Connection

from assay_core.instants import format_instant
from assay_core.printable import printable
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
from assay_valuer.cli.trust import ago
from assay_valuer.market_store import (
    FeedState,
    StoredRow,
    StoredSnapshot,
    count_rejected,
    load_feeds,
    load_rejected,
    newest_parameters,
    newest_snapshot,
)
from assay_valuer.valuation.fixed import usd_of_log
from assay_valuer.valuation.parameters import Level, Parameters

LIMIT: Final = 20
LIMIT_MAX: Final = 10_000
_CELL_MAX: Final = 60
_ROW_CELLS: Final = ("date", "provider", "market", "accelerator", "variant", "usd_per_gpu_hour",
                     "price_usd", "kind", "price_type", "condition")  # fmt: skip
"""Cells that tell a person which row it is."""


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What `show --json` prints."""

    feeds: tuple[FeedState, ...]
    snapshot: StoredSnapshot | None
    parameters_sha256: str | None
    parameters: Parameters | None


def add_parsers(group: Commands) -> None:
    """Registers the two commands."""
    showing = add_command(
        group,
        "show",
        "show how feeds are, the newest snapshot, and the levels that were fitted to it",
        "assay-valuer market show",
    )
    showing.add_argument("--json", action="store_true", help="for machines")
    showing.set_defaults(run=run_show)
    rejected = add_command(
        group,
        "rejected",
        "list rows that do not count, the newest first, and why",
        "assay-valuer market rejected --reason look_alike --limit 50",
    )
    rejected.add_argument("--reason", metavar="CODE", help="only this; `market show` has them")
    rejected.add_argument("--limit", type=_limit, default=LIMIT, metavar="N",
                          help=f"at most so many; {LIMIT} without it")  # fmt: skip
    rejected.add_argument("--json", action="store_true", help="for machines")
    rejected.set_defaults(run=run_rejected)


def run_show(args: argparse.Namespace) -> int:
    """0 where there is a fit; 1 where there is none, or the newest snapshot has none."""
    now = now_ms()
    with opened(args) as state:
        seen = state.database.read(_seen)
    ok = seen.snapshot is not None and seen.snapshot.summary.fit_error is None
    if args.json:
        print_json(seen)
        return OK if ok else FALSE
    print_table(
        ("feed", "asked", "gave rows", "gave new ones", "error"),
        [
            (
                printable(feed.name, _CELL_MAX),
                ago(feed.asked_ms, now),
                ago(feed.answered_ms, now),
                ago(feed.changed_ms, now),
                printable(feed.error or "", 512),
            )
            for feed in seen.feeds
        ],
        prose="error",
    )
    if seen.snapshot is None:
        say("nothing was judged yet: `assay-valuer market refresh`")
        return FALSE
    _print_snapshot(seen.snapshot)
    if seen.parameters is not None:
        _print_levels(seen.parameters)
    if seen.snapshot.summary.fit_error is not None:
        say(f"nothing was fitted to it: {printable(seen.snapshot.summary.fit_error, 512)}")
        if seen.parameters is not None:
            day = date.fromordinal(seen.parameters.made_day)
            say(f"the fit of {day} stays in use, and grows old")
    return OK if ok else FALSE


def run_rejected(args: argparse.Namespace) -> int:
    """0, also where there are none."""
    with opened(args) as state:
        rows = state.database.read(lambda c: load_rejected(c, args.reason, args.limit))
        reasons = state.database.read(count_rejected)
    if args.json:
        print_json({"rejected": rows})
        return OK
    if not rows:
        known = ", ".join(reasons)
        say(f"none; the reasons that there are: {known}" if known else "no row is rejected")
        return OK
    print_table(
        ("row", "feed", "reason", "what", "why"),
        [
            (
                str(row.id),
                printable(row.feed, _CELL_MAX),
                row.reason or "",
                _what(row),
                printable(row.detail or "", 512),
            )
            for row in rows
        ],
        prose="why",
    )
    return OK


def _seen(connection: Connection) -> _Seen:
    parameters = newest_parameters(connection)
    return _Seen(
        feeds=tuple(load_feeds(connection).values()),
        snapshot=newest_snapshot(connection),
        parameters_sha256=None if parameters is None else parameters.sha256,
        parameters=parameters,
    )


def _print_snapshot(snapshot: StoredSnapshot) -> None:
    summary = snapshot.summary
    print(
        f"snapshot {snapshot.sha256} of {date.fromordinal(summary.day)}, made "
        f"{format_instant(snapshot.made_ms)}, rows up to {snapshot.last_row}"
    )
    feeds = sorted({*summary.counted, *summary.rejected})
    print_table(
        ("rows of feed", "count", "do not", "why not"),
        [
            (
                printable(feed, _CELL_MAX),
                str(summary.counted.get(feed, 0)),
                str(sum(summary.rejected.get(feed, {}).values())),
                ", ".join(
                    f"{reason} {count}"
                    for reason, count in Counter(summary.rejected.get(feed, {})).most_common()
                ),
            )
            for feed in feeds
        ],
        prose="why not",
    )


def _print_levels(parameters: Parameters) -> None:
    print_table(
        ("product", "rental, USD/h", "new, USD", "used, USD", "sold, USD"),
        [
            (
                one.product,
                _level(one.rental, 3),
                *(_level(level, 0) for level in (one.new_ask, one.used_ask, one.sold)),
            )
            for one in parameters.products
        ],
    )
    say("each with its standard error and how many sellers stand behind it; 0: drawn from others'")


def _level(level: Level | None, digits: int) -> str:
    if level is None:
        return ""
    usd = usd_of_log(level.log_e6).micros / 1e6
    return f"{usd:,.{digits}f} ±{level.error_e6 / 10_000:.0f}% ({level.sellers})"


def _what(row: StoredRow) -> str:
    cells = [row.cells[name] for name in _ROW_CELLS if row.cells.get(name)]
    return printable(" ".join(cells) or " ".join(row.cells.values()), 120)


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= LIMIT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {LIMIT_MAX}")
    return int(text)
