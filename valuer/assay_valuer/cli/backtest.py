"""`assay-valuer backtest`: how good the forecasts are, on files of prices, with no look ahead."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections import Counter
from contextlib import AbstractContextManager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from assay_core.errors import AssayError
from assay_valuer.cli.common import (
    FALSE,
    OK,
    UNAVAILABLE,
    Commands,
    add_command,
    print_table,
    read_text,
    say,
)
from assay_valuer.market.labels import asset_class, is_sale
from assay_valuer.market.observations import Market, Observations, read_observations

if TYPE_CHECKING:
    from assay_valuer.backtest.report import Report, Source
    from assay_valuer.market.series import Series

REASONS_SHOWN: Final = 5


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "backtest",
        "score the forecasts on price files, from every origin with what was known then",
        "assay-valuer backtest --rental rental.csv --resale resale.csv --json report.json",
    )
    parser.add_argument("--rental", type=Path, required=True, metavar="FILE",
                        help="CSV of rental prices; docs/valuation.md has the columns")  # fmt: skip
    parser.add_argument("--resale", type=Path, required=True, metavar="FILE",
                        help="CSV of prices of hardware, asked or paid")  # fmt: skip
    parser.add_argument("--score-from", type=_date, metavar="DATE",
                        help="score outcomes dated on or after it; learn from all before")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report for machines")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots as PNG into it")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Reads, forecasts, scores, prints. 1 where nothing could be scored."""
    missing = [name for name in ("numpy", *(["matplotlib"] if args.plots else []))
               if importlib.util.find_spec(name) is None]  # fmt: skip
    if missing:
        say(f"assay-valuer: not installed: {missing[0]}; install gpu-assay[valuer,valuation]")
        return UNAVAILABLE
    from assay_valuer.backtest.report import build_report  # noqa: PLC0415 - needs numpy
    from assay_valuer.backtest.run import Watch  # noqa: PLC0415
    from assay_valuer.backtest.run import run as backtest  # noqa: PLC0415

    rental, rental_source, _ = _load(args.rental, Market.RENTAL)
    resale, resale_source, sales = _load(args.resale, Market.RESALE)
    since: date | None = args.score_from
    with _progress() as bar:
        stages = {name: bar.add_task(name, total=None) for name in ("rental", "resale", "nowcast")}

        def told(name: str, done: int, total: int) -> None:
            bar.update(stages[name], completed=done, total=total)

        watch = Watch(*(lambda done, total, name=name: told(name, done, total) for name in stages))
        done = backtest(rental, resale, 0 if since is None else since.toordinal(), watch)
    report = build_report(done, (rental_source, resale_source), dict(sorted(sales.items())), since)
    if args.json is not None:
        _write(args.json, report)
    if args.plots is not None:
        from assay_valuer.backtest.plots import draw  # noqa: PLC0415 - matplotlib takes a second

        try:
            for path in draw(done, report, args.plots):
                say(f"wrote {path}")
        except OSError as error:
            raise AssayError(f"{args.plots}: cannot be written: {error.strerror}") from error
    _print(report)
    if report.rows or report.nowcast:
        return OK
    say("nothing could be scored: no series has a row at an origin and one near a horizon after it")
    return FALSE


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date such as 2025-05-01") from None


def _load(path: Path, market: Market) -> tuple[tuple[Series, ...], Source, Counter[str]]:
    """A file's series, what it was, and its realised sales by class. Says what was rejected."""
    from assay_valuer.backtest.report import Source  # noqa: PLC0415 - needs numpy
    from assay_valuer.market.series import build_series  # noqa: PLC0415

    text = read_text(path)
    today = datetime.now(UTC).date().toordinal()
    found = read_observations(text, str(path), market, today)
    series, rejected = build_series(found), len(found.rejected)
    say(f"{path}: {len(found.quotes)} rows count, {rejected} do not, {len(series)} series")
    for one in found.rejected[:REASONS_SHOWN]:
        say(f"{path}:{one.line}: {one.reason}: {one.detail}")
    if rejected > REASONS_SHOWN:
        say(f"{path}: and {rejected - REASONS_SHOWN} more; --json has how many of each reason")
    if not found.quotes:
        say(f"{path}: has no row that counts; there is no {market.value} market to score")
    days = [quote.day for quote in found.quotes]
    source = Source(
        path.name,
        hashlib.sha256(text.encode()).hexdigest(),
        len(found.quotes),
        len(series),
        date.fromordinal(min(days)).isoformat() if days else None,
        date.fromordinal(max(days)).isoformat() if days else None,
        dict(Counter(one.reason for one in found.rejected).most_common()),
    )
    return series, source, _sales(found)


def _sales(found: Observations) -> Counter[str]:
    if found.market is not Market.RESALE:
        return Counter()
    return Counter(asset_class(q.accelerator) for q in found.quotes if is_sale(q.names[2]))


def _progress() -> Progress | AbstractContextManager[Progress]:
    return Progress(
        TextColumn("{task.description:>8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )


def _write(path: Path, report: Report) -> None:
    content = msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n"
    try:
        path.write_bytes(content)
    except OSError as error:
        raise AssayError(f"{path}: cannot be written: {error.strerror}") from error
    say(f"wrote {path}")


def _print(report: Report) -> None:
    """The tables, then the aims, one a line."""
    from assay_valuer.backtest import report as of  # noqa: PLC0415 - needs numpy

    for kind in (market.value for market in Market):
        if not any(row.kind == kind for row in report.rows):
            continue
        print(f"\n{kind}: mean absolute percentage error of point forecasts (same: no change)")
        points = ("class", "days", "n", "assay", "same", "trend", "half", "-15%", "-25%")
        print_table(points, of.point_cells(report, kind))
        print(
            f"{kind}: % of outcomes inside the 80% and 95% intervals, inside the 80% where the price"
        )
        print(
            "moved, score of the 80% interval; of conformal no change; how much better; in % of price"
        )
        bands = ("class", "days", "80%", "95%", "moved", "score", "conf.", "score", "better")
        print_table(bands, of.interval_cells(report, kind))
    if report.nowcast:
        print("\nleaving one provider out: median absolute percentage error of its quotes")
        left_out = ("accelerator", "n", "assay", "cross-provider median", "better")
        print_table(left_out, of.nowcast_cells(report))
    if report.significance:
        print(
            "\nblock bootstrap, blocks of 180 days: assay's loss less the other's, p that it is luck"
        )
        columns = ("market", "against", "measure", "blocks", "difference", "p")
        print_table(columns, of.significance_cells(report))
    print()
    for aim in report.aims:
        word = {True: "held", False: "MISSED", None: "no claim"}[aim.held]
        print(f"{word:8}  {aim.aim}: {aim.figures}")
    for name in report.unvalidated:
        kind, _, which = name.partition(" ")
        few = f"{report.sales.get(which, 0)} realised sales, fewer than 30"
        why = "fewer than 30 outcomes" if kind == Market.RENTAL.value else few
        print(f"* {name}: unvalidated ({why}): no claim is made about it")
    if report.score_from is None:
        say("scored from the first outcome on; --score-from DATE scores later ones alone")
