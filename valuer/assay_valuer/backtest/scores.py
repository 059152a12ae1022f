"""Scores of a forecast against what came: percentage error, coverage, interval score.

- Percentage error: |forecast ÷ outcome − 1| · 100.
- Interval score of an interval [l, u] at level 1 − α (Gneiting and Raftery, JASA 2007), in log price:
  (u − l) + 2/α·(how far the outcome lies outside). 0.01 is about 1% of the price; lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import HORIZONS, STILL, Bools, Cases, Floats, Ints
from assay_valuer.forecast.intervals import LEVELS, within

MODELS: Final = (
    "assay",
    "no_change",
    "conformal_no_change",
    "trend_180d",
    "half_trend",
    "dep_15",
    "dep_25",
)
ALL: Final = "all"


@dataclass(frozen=True, slots=True)
class Scored:
    """One model's errors, a case per element."""

    ape: Floats
    """Absolute percentage error."""
    inside: Bools
    """One column per level."""
    interval: Floats
    """Interval score, one column per level."""


@dataclass(frozen=True, slots=True)
class Row:
    """What the JSON has per series, horizon and model. Coverage is a share, 0 to 1."""

    series: str
    group: str
    asset_class: str
    kind: str
    horizon_days: int
    model: str
    n: int
    mape_pct: float
    median_ape_pct: float
    coverage80: float
    coverage95: float
    interval_score: float
    interval_score95: float


@dataclass(frozen=True, slots=True)
class Summary:
    """The same over a class, or all, of one market and horizon; `moved` where the price changed."""

    kind: str
    asset_class: str
    horizon_days: int
    model: str
    n: int
    series: int
    mape_pct: float
    median_ape_pct: float
    coverage80: float
    coverage95: float
    coverage80_moved: float | None
    moved: float
    interval_score: float


def score(cases: Cases, point: Floats, edges: Floats) -> Scored:
    """Every case's errors. Forecasts so far off that they overflow count as infinitely wrong."""
    with np.errstate(over="ignore"):
        ape = 100 * np.abs(np.expm1(point - cases.change))
    columns = []
    for at, level in enumerate(LEVELS):
        low, high = edges[:, 2 * at], edges[:, 2 * at + 1]
        outside = np.maximum(low - cases.change, 0) + np.maximum(cases.change - high, 0)
        columns.append(high - low + 2 / (1 - level) * outside)
    return Scored(ape, within(cases.change, edges), np.stack(columns, axis=1))


def rows(cases: Cases, counted: Bools, scored: dict[str, Scored]) -> list[Row]:
    """One per series, horizon and model that has a counted case, in the order of their names."""
    found = []
    for which in _groups(cases, counted):
        one = cases.series[int(cases.index[which[0]])]
        for model in MODELS:
            mape, median, inside, interval = _means(scored[model], which)
            found.append(
                Row(
                    one.name,
                    one.feed,
                    one.asset_class,
                    cases.market.value,
                    int(cases.horizon[which[0]]),
                    model,
                    len(which),
                    mape,
                    median,
                    inside[0],
                    inside[1],
                    interval[0],
                    interval[1],
                )
            )
    return found


def _groups(cases: Cases, counted: Bools) -> list[Ints]:
    """The counted cases of each series and horizon, by the numbers of both; in one sort."""
    which = np.flatnonzero(counted)
    order = which[np.lexsort((which, cases.horizon[which], cases.index[which]))]
    if not len(order):
        return []
    index, horizon = cases.index[order], cases.horizon[order]
    starts = np.flatnonzero((np.diff(index) != 0) | (np.diff(horizon) != 0)) + 1
    return np.split(order, starts)


def summaries(cases: Cases, counted: Bools, scored: dict[str, Scored]) -> list[Summary]:
    """One per class (and all of them), horizon and model that has a counted case."""
    found = []
    classes = cases.of_series("asset_class")
    moved = np.abs(cases.change) > STILL
    for name in (ALL, *np.unique(classes[counted]).tolist()):
        for horizon in HORIZONS:
            mine = counted & (cases.horizon == horizon) & ((classes == name) | (name == ALL))
            if not mine.any():
                continue
            for model in MODELS:
                errors = scored[model]
                mape, median, inside, interval = _means(errors, mine)
                moving = mine & moved
                found.append(
                    Summary(
                        cases.market.value,
                        name,
                        horizon,
                        model,
                        int(mine.sum()),
                        len(np.unique(cases.index[mine])),
                        mape,
                        median,
                        inside[0],
                        inside[1],
                        float(errors.inside[moving, 0].mean()) if moving.any() else None,
                        float(moved[mine].mean()),
                        interval[0],
                    )
                )
    return found


def _means(
    errors: Scored, mine: Bools | Ints
) -> tuple[float, float, Sequence[float], Sequence[float]]:
    return (
        float(errors.ape[mine].mean()),
        float(np.median(errors.ape[mine])),
        errors.inside[mine].mean(axis=0).tolist(),
        errors.interval[mine].mean(axis=0).tolist(),
    )
