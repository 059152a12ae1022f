"""`assay-valuer score`: forecasts that were logged before their outcome, against what came."""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import date

from sqlalchemy import Connection

from assay_core.money import MICROS_PER_USD
from assay_valuer.cases import day_of
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
from assay_valuer.forecast.outcomes import SCORED_MIN, Made, ScoreRow, first_due, score
from assay_valuer.market.models import BY_NAME, SPECS
from assay_valuer.marks import KeptForecast, load_forecasts, load_marks


def add_parser(commands: Commands) -> None:
    """Registers the command."""
    parser = add_command(
        commands,
        "score",
        "score the forecasts whose horizon has passed against what came",
        "assay-valuer score --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """A table, or JSON; 1 where nothing can be scored yet."""
    today = day_of(now_ms())
    with opened(args) as state:
        made, marks = state.database.read(_loaded)
    class_of = {name: SPECS[product].asset_class for name, product in BY_NAME.items()}
    rows = score(made, marks, class_of, today)
    if args.json:
        due = first_due(made, today)
        print_json(
            {
                "rows": rows,
                "logged": len(made),
                "next_due": None if due is None else date.fromordinal(due).isoformat(),
            }
        )
        return OK if rows else FALSE
    if rows:
        print_table(_HEADINGS, [_cells(row) for row in rows])
        say(
            "interval scores are of 80% intervals in log price; no change is an interval of no "
            f"width; fewer than {SCORED_MIN} outcomes validate nothing"
        )
        return OK
    say(_why_none(made, today))
    return FALSE


def _loaded(
    connection: Connection,
) -> tuple[list[Made], dict[tuple[str, str], list[tuple[int, float]]]]:
    kept = load_marks(connection)
    marks: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    for one in kept:
        marks[one.product, one.quantity].append((one.day, one.micros / MICROS_PER_USD))
    named = {(one.product, one.quantity, one.day): one for one in kept}
    return [_made(one) for one in load_forecasts(connection, named)], marks


def _made(kept: KeptForecast) -> Made:
    mark, said = kept.mark, kept.quantiles
    quantiles = (
        said.q025_micros,
        said.q10_micros,
        said.q50_micros,
        said.q90_micros,
        said.q975_micros,
    )
    q025, q10, q50, q90, q975 = (micros / MICROS_PER_USD for micros in quantiles)
    return Made(
        series=(mark.product, mark.quantity),
        day=mark.day,
        horizon_days=said.horizon_days,
        usd=mark.micros / MICROS_PER_USD,
        quantiles=(q025, q10, q50, q90, q975),
    )


def _why_none(made: list[Made], today: int) -> str:
    if not made:
        return (
            "no forecast has been logged yet: the first are with the first fit of the market; see "
            "`assay-valuer market`"
        )
    due = first_due(made, today)
    passed = sum(one.day + one.horizon_days <= today for one in made)
    words = f"{len(made)} forecasts are logged, and none can be scored yet"
    if passed:
        words += f": of {passed} the horizon has passed, with no mark within a tenth of it"
    if due is not None:
        words += f"; the next falls due on {date.fromordinal(due).isoformat()}"
    return words


_HEADINGS = (
    "quantity",
    "class",
    "days",
    "n",
    "MAPE",
    "median APE",
    "in 80%",
    "in 95%",
    "interval score",
    "MAPE, no change",
    "interval score, no change",
    "",
)


def _cells(row: ScoreRow) -> tuple[str, ...]:
    return (
        row.quantity,
        row.asset_class,
        str(row.horizon_days),
        str(row.n),
        f"{row.mape_pct:.2f}%",
        f"{row.median_ape_pct:.2f}%",
        f"{row.coverage80:.0%}",
        f"{row.coverage95:.0%}",
        f"{row.interval_score:.4f}",
        f"{row.no_change_mape_pct:.2f}%",
        f"{row.no_change_interval_score:.4f}",
        "" if row.validated else "unvalidated",
    )
