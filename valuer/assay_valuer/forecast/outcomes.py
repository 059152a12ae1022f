"""Logged forecasts against what came: percentage error, coverage, interval score, beside no change.

A forecast is scored once its horizon has passed, against the mark of the same quantity that is nearest
to the horizon and within ±10% of it; of two as near, the earlier. No change is the mark that the
forecast was made of: a point, and so an interval of no width.

- Percentage error: |forecast ÷ outcome − 1| · 100, of the median.
- Interval score of [l, u] at 80% (Gneiting and Raftery, JASA 2007), in log price: (u − l) + 10·(how far
  the outcome lies outside). 0.01 is about 1% of the price; lower is better.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Final

SCORED_MIN: Final = 30
"""Fewer outcomes say nothing of a forecast: the row is called unvalidated."""
_NEAR_PCT: Final = 10
_PENALTY: Final = 2 / (1 - 0.8)


@dataclass(frozen=True, slots=True)
class Made:
    """One forecast: of which series, on which day (an ordinal), what stood then, and what it said."""

    series: tuple[str, str]
    """Product and quantity."""
    day: int
    horizon_days: int
    usd: float
    quantiles: tuple[float, float, float, float, float]
    """US dollars at 2.5, 10, 50, 90 and 97.5%."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a forecast came out."""

    ape_pct: float
    inside80: bool
    inside95: bool
    interval_score: float
    no_change_ape_pct: float
    no_change_interval_score: float


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """The forecasts of one quantity, class and horizon. Coverage is a share, 0 to 1."""

    quantity: str
    asset_class: str
    horizon_days: int
    n: int
    validated: bool
    mape_pct: float
    median_ape_pct: float
    coverage80: float
    coverage95: float
    interval_score: float
    no_change_mape_pct: float
    no_change_interval_score: float


Series = Mapping[tuple[str, str], Sequence[tuple[int, float]]]
"""Marks by product and quantity: day and US dollars, ascending."""


def outcome(made: Made, marks: Series, today: int) -> Outcome | None:
    """How it came out; None where its horizon has not passed, or no mark is near enough to it."""
    due = made.day + made.horizon_days
    if due > today:
        return None
    usd = _nearest(marks.get(made.series, ()), due, made.horizon_days, today)
    if usd is None:
        return None
    q025, q10, q50, q90, q975 = made.quantiles
    width = math.log(q90 / q10)
    outside = max(math.log(q10 / usd), math.log(usd / q90), 0.0)
    return Outcome(
        ape_pct=abs(q50 / usd - 1) * 100,
        inside80=q10 <= usd <= q90,
        inside95=q025 <= usd <= q975,
        interval_score=width + _PENALTY * outside,
        no_change_ape_pct=abs(made.usd / usd - 1) * 100,
        no_change_interval_score=_PENALTY * abs(math.log(usd / made.usd)),
    )


def _nearest(
    marks: Sequence[tuple[int, float]], due: int, horizon_days: int, today: int
) -> float | None:
    at = bisect_left(marks, (due, 0.0))
    near = [mark for mark in marks[max(at - 1, 0) : at + 1] if mark[0] <= today]
    best = min(near, key=lambda mark: (abs(mark[0] - due), mark[0]), default=None)
    if best is None or abs(best[0] - due) * 100 > horizon_days * _NEAR_PCT:
        return None
    return best[1]


def score(
    forecasts: Iterable[Made], marks: Series, class_of: Mapping[str, str], today: int
) -> list[ScoreRow]:
    """A row for each quantity, class and horizon that has an outcome, in the order of their names."""
    groups: dict[tuple[str, str, int], list[Outcome]] = defaultdict(list)
    for made in forecasts:
        found = outcome(made, marks, today)
        if found is not None:
            product, quantity = made.series
            key = (quantity, class_of.get(product, "unknown"), made.horizon_days)
            groups[key].append(found)
    return [
        ScoreRow(
            quantity=quantity,
            asset_class=asset_class,
            horizon_days=horizon_days,
            n=len(found),
            validated=len(found) >= SCORED_MIN,
            mape_pct=fmean(one.ape_pct for one in found),
            median_ape_pct=median(one.ape_pct for one in found),
            coverage80=fmean(one.inside80 for one in found),
            coverage95=fmean(one.inside95 for one in found),
            interval_score=fmean(one.interval_score for one in found),
            no_change_mape_pct=fmean(one.no_change_ape_pct for one in found),
            no_change_interval_score=fmean(one.no_change_interval_score for one in found),
        )
        for (quantity, asset_class, horizon_days), found in sorted(groups.items())
    ]


def first_due(forecasts: Iterable[Made], today: int) -> int | None:
    """The day of the earliest horizon that is still to come; None where there is none."""
    return min(
        (due for one in forecasts if (due := one.day + one.horizon_days) > today), default=None
    )
