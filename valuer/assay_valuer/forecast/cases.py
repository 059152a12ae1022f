"""Forecasting cases: a series at an origin, what was known of it then, and what came of it.

An origin is a series' first row in a calendar month. Its outcome at a horizon of h days is the row
nearest to h days later, within ±10% of h; of two as near, the earlier; without one there is no case.
Every feature is computed from rows dated on or before the origin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Bools: TypeAlias = NDArray[np.bool_]

HORIZONS: Final = (30, 90, 180)
"""Days."""
OUTCOME_WITHIN: Final = 0.10
TREND_DAYS: Final = 180
STILL: Final = 1e-6
"""A log change below it is none: prices are quoted to a few digits."""
MONTH_DAYS: Final = 30.0
NEVER: Final = date.max.toordinal()
"""The day of an outcome that is still to come."""


@dataclass(frozen=True, slots=True)
class Cases:
    """One array per property, a case per element; all of one market, in order of origin and series."""

    market: Market
    series: tuple[Series, ...]
    index: Ints
    """Which of `series`."""
    horizon: Floats
    """Days."""
    origin: Ints
    outcome: Ints
    """Days, as ordinals."""
    month: Ints
    """The first day of the origin's month: what is fitted for it knows outcomes before it."""
    last: Floats
    """Log price at the origin."""
    change: Floats
    """Log price at the outcome minus `last`: what is to be forecast."""
    trend: Floats
    """Slope of log price over the last 180 days, per day."""
    moves: Floats
    """How often the price had changed before the origin."""
    months: Floats
    """How long it had been observed, in units of 30 days."""
    squares: Floats
    """The sum of its squared log changes."""
    steps: Floats
    """How many changes, of nothing too, had been observed."""

    def __len__(self) -> int:
        return len(self.index)

    def of_series(self, name: str) -> NDArray[np.str_]:
        """A property of each case's series, such as its feed, as an array."""
        return np.array([getattr(one, name) for one in self.series], dtype=np.str_)[self.index]


def build_cases(series: Sequence[Series], market: Market, today: int | None = None) -> Cases:
    """Every case of the series; each series must have at least one row.

    With `today` also the forecasts that stand open: a case per horizon of each series from its last
    row, with `today` as its origin and an outcome that is not known in any month.
    """
    columns: list[tuple[float, ...]] = []
    for number, one in enumerate(series):
        columns += _of_series(number, one)
        if today is not None:
            columns += _open(number, one, today)
    columns.sort(key=lambda row: (row[2], row[0], row[1]))
    table = np.array(columns, dtype=np.float64).reshape(-1, 12)
    whole = table.astype(np.int64)
    return Cases(
        market,
        tuple(series),
        index=whole[:, 0],
        horizon=table[:, 1],
        origin=whole[:, 2],
        outcome=whole[:, 3],
        month=whole[:, 4],
        last=table[:, 5],
        change=table[:, 6],
        trend=table[:, 7],
        moves=table[:, 8],
        months=table[:, 9],
        squares=table[:, 10],
        steps=table[:, 11],
    )


def _of_series(number: int, series: Series) -> Iterator[tuple[float, ...]]:
    days, logs = series.days, series.logs
    squares, moves = _history(logs)
    seen = 0
    for at, day in enumerate(days.tolist()):
        month = date.fromordinal(day).replace(day=1).toordinal()
        if month == seen:
            continue
        seen = month
        months = (day - int(days[0])) / MONTH_DAYS
        trend = slope(days, logs, at, TREND_DAYS)
        for horizon in HORIZONS:
            found = nearest(days, day + horizon, OUTCOME_WITHIN * horizon)
            if found is None or found <= at:
                continue
            known = (trend, float(moves[at]), months, float(squares[at]), float(at))
            change = float(logs[found] - logs[at])
            yield (number, horizon, day, int(days[found]), month, float(logs[at]), change, *known)


def _open(number: int, series: Series, today: int) -> Iterator[tuple[float, ...]]:
    days, logs = series.days, series.logs
    squares, moves = _history(logs)
    at = len(days) - 1
    month = date.fromordinal(today).replace(day=1).toordinal()
    months = (int(days[at]) - int(days[0])) / MONTH_DAYS
    trend = slope(days, logs, at, TREND_DAYS)
    known = (trend, float(moves[at]), months, float(squares[at]), float(at))
    for horizon in HORIZONS:
        yield (number, horizon, today, NEVER, month, float(logs[at]), 0.0, *known)


def _history(logs: Floats) -> tuple[Floats, Floats]:
    """Up to each row: the sum of squared changes, and how often the price had changed."""
    steps = np.diff(logs)
    squares = np.concatenate(([0.0], np.cumsum(steps**2)))
    moves = np.concatenate(([0.0], np.cumsum(np.abs(steps) > STILL)))
    return squares, moves


def nearest(days: Ints, target: int, within: float) -> int | None:
    """The position of the row nearest to a day, at most `within` days off; the earlier of two."""
    after = int(np.searchsorted(days, target))
    around = [at for at in (after - 1, after) if 0 <= at < len(days)]
    best = min(around, key=lambda at: abs(int(days[at]) - target), default=None)
    return best if best is not None and abs(int(days[best]) - target) <= within else None


def slope(days: Ints, logs: Floats, at: int, window: int) -> float:
    """Least-squares slope per day of the rows of the last `window` days up to row `at`; 0 of one."""
    start = int(np.searchsorted(days, days[at] - window))
    x = days[start : at + 1].astype(np.float64)
    if len(x) < 2:
        return 0.0
    x = x - x.mean()
    return float((x * logs[start : at + 1]).sum() / (x * x).sum())
