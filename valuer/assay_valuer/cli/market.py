"""`assay-valuer market`: price rows in, what counts of them, and what was fitted to it."""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from sqlalchemy import Connection

from assay_core.errors import FileError
from assay_valuer.cli import market_export, market_show
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    say,
)
from assay_valuer.config import FeedConfig
from assay_valuer.market.feeds.feed import Fault, FeedUnavailable, Fetched, Known
from assay_valuer.market.feeds.file import SUFFIXES, FileFeed
from assay_valuer.market.observations import Market
from assay_valuer.market_desk import MarketDesk
from assay_valuer.market_store import (
    FeedState,
    add_rows,
    last_row,
    note_feed,
    unread_cells,
)

MANUAL: Final = "manual"
"""The feed that rows are kept under where no other is named."""


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser(
        "market", help="prices: rows of feeds, what counts of them, and what is fitted to it"
    ).add_subparsers(required=True)
    _add_import(group)
    market_show.add_parsers(group)
    refreshing = add_command(
        group,
        "refresh",
        "judge the rows there are and fit to what counts, as the running valuer does by itself",
        "assay-valuer market refresh",
    )
    refreshing.add_argument("--json", action="store_true", help="for machines")
    refreshing.set_defaults(run=run_refresh)
    market_export.add_parsers(group)


def _add_import(group: Commands) -> None:
    importing = add_command(
        group,
        "import",
        "keep a file's price rows: of a feed that is not fetched, or realised sales (price_type sold_…)",
        "assay-valuer market import sales.csv --resale --feed auctions",
    )
    importing.add_argument(
        "file", metavar="FILE", type=Path, help="CSV, JSON or Parquet; see docs/valuation.md"
    )
    which = importing.add_mutually_exclusive_group(required=True)
    which.add_argument("--rental", dest="market", action="store_const", const=Market.RENTAL,
                       help="prices of an hour's use")  # fmt: skip
    which.add_argument("--resale", dest="market", action="store_const", const=Market.RESALE,
                       help="prices of hardware, asked or paid")  # fmt: skip
    importing.add_argument(
        "--feed", default=MANUAL, metavar="NAME", help=f"what it is kept under; {MANUAL} without it"
    )
    importing.set_defaults(run=run_import)


def run_import(args: argparse.Namespace) -> int:
    """All rows of the file that this feed never gave before, or none of them."""
    market: Market = args.market
    fetched = _read(args.file, market)
    name: str = args.feed
    rows = [*fetched.rows, *map(unread_cells, fetched.unread)]
    now = now_ms()
    state_of_feed = FeedState(
        name=name,
        asked_ms=now,
        answered_ms=now,
        changed_ms=now,
        content_sha256=fetched.content_sha256,
    )
    with opened(args) as state:
        _check_name(name, state.config.market.feeds)

        def write(connection: Connection) -> int:
            added = add_rows(connection, name, market, shown(rows), now)
            note_feed(connection, state_of_feed)
            return added

        with market_export.progress() as bar:
            task = bar.add_task("rows", total=len(rows))

            def shown(rows: Iterable[Mapping[str, str]]) -> Iterator[Mapping[str, str]]:
                for row in rows:
                    yield row
                    bar.advance(task)

            added = state.database.write(write)
    say(f"{args.file}: {len(rows)} rows, {added} of them new to feed {name}")
    if added:
        say("they are judged at the valuer's next look, or by `assay-valuer market refresh`")
    return OK


def run_refresh(args: argparse.Namespace) -> int:
    """0 where there is a fit, new or as before; 1 where the fit failed."""
    with opened(args) as state:
        done = MarketDesk(state.database, state.ledger_key).refresh(now_ms())
        empty = state.database.read(last_row) == 0
    if args.json:
        print_json(
            {
                "snapshot_sha256": None if done is None else done.snapshot.sha256,
                "summary": None if done is None else done.summary,
                "parameters_sha256": None
                if done is None or done.parameters is None
                else done.parameters.sha256,
            }
        )
    if done is None:
        if empty:
            say(
                "there are no rows yet: name feeds in valuer.yaml (docs/collateral.md) and let "
                "`assay-valuer run` ask them, or keep a file's with `assay-valuer market import`"
            )
            return OK
        say("nothing to do: no row came since the newest snapshot, and no day began")
        return OK
    counted = sum(done.summary.counted.values())
    rejected = sum(sum(reasons.values()) for reasons in done.summary.rejected.values())
    say(f"snapshot {done.snapshot.sha256}: {counted} rows count, {rejected} do not")
    if done.parameters is None:
        say(f"nothing was fitted, the last fit stays in use: {done.summary.fit_error}")
        return FALSE
    say(f"fitted for {len(done.parameters.products)} products: {done.parameters.sha256}")
    return OK


def _read(path: Path, market: Market) -> Fetched:
    """A file's rows. Raises FileError."""
    format_ = SUFFIXES.get(path.suffix.lower())
    if format_ is None:
        raise FileError(f"{path}: its name must end in {', '.join(SUFFIXES)}")
    try:
        fetched = asyncio.run(FileFeed(MANUAL, market, path, format_).fetch(Known()))
    except FeedUnavailable as error:
        if error.fault is Fault.FILE:
            raise FileError(str(error)) from error
        raise
    if not isinstance(fetched, Fetched):
        raise FileError(f"{path}: gave nothing")
    return fetched


def _check_name(name: str, feeds: tuple[FeedConfig, ...]) -> None:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name):
        raise FileError(f"--feed {name[:80]!r}: a-z, 0-9, dots and dashes; at most 64 of them")
    if any(feed.name == name for feed in feeds):
        raise FileError(f"--feed {name}: valuer.yaml has a feed of this name; take another")
