"""Forecasts that stand open on a day, and what history says of a class: all from what is backtested.

Outlooks are the very intervals of `intervals.Walk` about the centres of `centres.medians`, for each
series from its last row: their mean over the sellers of a product, or of its class where it has none
(a quantile of a market is no typical list price's, which stands still). No class lends another its errors, but for the share α that a horizon's intervals leave outside.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import (
    HORIZONS,
    NEVER,
    OUTCOME_WITHIN,
    Floats,
    build_cases,
    nearest,
)
from assay_valuer.forecast.centres import VARIANCE_MAX, medians
from assay_valuer.forecast.intervals import Walk
from assay_valuer.market.names import candidates
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

REGIME_DAYS: Final = (60, 180)
"""Volatility's windows, blended evenly."""
STRESS_SHARE: Final = 0.5
"""Volatility is never below so much of the market's worst quarter. Judgement."""
STRESS_SERIES: Final = 5
SHORTFALL_DAYS: Final = 120
SHORTFALL_SHARE: Final = 0.025
OUTCOMES_MIN: Final = 30
"""Fewer say nothing about a tail."""
TERMS_DAYS: Final = 180
"""How old a pair of committed and on-demand prices may be."""
SALE_AGO: Final = (20, 90)
"""Days between a sale and the earlier one that foretells it."""
_YEARS: Final = re.compile(r"(?<!\d)([13]) ?_?-?y")


@dataclass(frozen=True, slots=True)
class Open:
    """One series' forecast: quantiles .025, .1, .5, .9 and .975 of the log change, by horizon."""

    series: Series
    quantiles: Floats


def open_forecasts(
    series: Sequence[Series], market: Market, day: int, age_max: int
) -> tuple[Open, ...]:
    """Of each series whose last row is at most `age_max` days old; none where there is no such."""
    cases = build_cases(series, market, day)
    centre = medians(cases)
    edges = Walk(cases, centre).run()
    found = []
    mine = np.flatnonzero(cases.outcome == NEVER)
    order = mine[np.lexsort((cases.horizon[mine], cases.index[mine]))]
    for at in range(0, len(order), len(HORIZONS)):
        which = order[at : at + len(HORIZONS)]
        one = cases.series[int(cases.index[which[0]])]
        if day - int(one.days[-1]) > age_max:
            continue
        low80, high80, low95, high95 = edges[which].T
        rows = np.stack([low95, low80, centre[which], high80, high95], axis=1)
        # A centre may lie beyond an edge of its own interval, and then it is that edge.
        found.append(Open(one, np.maximum.accumulate(rows, axis=1)))
    return tuple(found)


def pooled(forecasts: Sequence[Open]) -> Floats | None:
    """Horizon by horizon, each quantile's mean over sellers, each the mean of its own; None of none.

    A longer horizon is never surer than a shorter one.
    """
    if not forecasts:
        return None
    by_seller: dict[str, list[Floats]] = {}
    for one in forecasts:
        by_seller.setdefault(one.series.seller, []).append(one.quantiles)
    mean: Floats = np.mean([np.mean(by_seller[name], axis=0) for name in sorted(by_seller)], axis=0)
    centre = mean[:, 2:3]
    wider = np.concatenate(
        (
            np.minimum.accumulate(mean[:, :2] - centre, axis=0),
            np.zeros_like(centre),
            np.maximum.accumulate(mean[:, 3:] - centre, axis=0),
        ),
        axis=1,
    )
    found: Floats = centre + wider
    return found


def volatility(series: Iterable[Series]) -> float | None:
    """Deviation of the daily log change in the present regime: the median over the series."""
    found = [math.sqrt(value) for one in series if (value := _regime(one)) is not None]
    return float(np.median(found)) if found else None


def _regime(one: Series) -> float | None:
    if len(one.days) < 2:
        return None
    squares = np.diff(one.logs) ** 2
    ends, last = one.days[1:], int(one.days[-1])
    parts = [float(squares[ends > last - window].sum()) / window for window in REGIME_DAYS]
    return min(sum(parts) / len(parts), VARIANCE_MAX)


def stress_floor(series: Iterable[Series]) -> float:
    """From the quarter in which hardware of all classes moved most; 0 where too few were seen."""
    quarters: dict[int, list[float]] = {}
    for one in series:
        squares = np.diff(one.logs) ** 2
        numbers = one.days[1:] // 91
        for quarter in np.unique(numbers).tolist():
            mine = squares[numbers == quarter]
            if len(mine) >= 2:
                quarters.setdefault(quarter, []).append(min(float(mine.sum()) / 91, VARIANCE_MAX))
    worst = [float(np.median(all_)) for all_ in quarters.values() if len(all_) >= STRESS_SERIES]
    return STRESS_SHARE * math.sqrt(max(worst, default=0.0))


def shortfall(series: Iterable[Series]) -> float | None:
    """Expected shortfall of the log change over 120 days beyond its median; None of too few."""
    changes: list[float] = []
    for one in series:
        month = -1
        for at, day in enumerate(one.days.tolist()):
            when = date.fromordinal(day)
            if when.year * 12 + when.month == month:
                continue
            month = when.year * 12 + when.month
            found = nearest(one.days, day + SHORTFALL_DAYS, OUTCOME_WITHIN * SHORTFALL_DAYS)
            if found is not None and found > at:
                changes.append(float(one.logs[found] - one.logs[at]))
    if len(changes) < OUTCOMES_MIN:
        return None
    ordered = np.sort(np.array(changes))
    worst = ordered[: max(1, math.ceil(SHORTFALL_SHARE * len(ordered)))]
    return max(float(np.median(ordered) - worst.mean()), 0.0)


def committed(series: Iterable[Series], day: int) -> dict[tuple[str, int], float]:
    """ln of committed ÷ on demand by product and years: same seller, configuration, place and day."""
    lists: dict[tuple[str, ...], Series] = {}
    terms: list[tuple[int, tuple[str, ...], Series]] = []
    for one in series:
        provider, accelerator, variant, count, kind, region = one.name.split("|")
        key: tuple[str, ...] = (provider, accelerator, variant, count, region)
        years = _YEARS.search(kind.lower())
        if one.feed == "committed" and years:
            terms.append((int(years[1]), key, one))
        elif kind.lower() == "on_demand":
            lists[key] = one
    pairs: dict[tuple[str, int], dict[str, list[float]]] = {}
    for span, key, one in terms:
        other = lists.get(key)
        if other is None:
            continue
        _, mine, theirs = np.intersect1d(one.days, other.days, return_indices=True)
        recent = (one.days[mine] <= day) & (one.days[mine] > day - TERMS_DAYS)
        gaps = (one.logs[mine] - other.logs[theirs])[recent].tolist()
        for product in candidates(key[1], key[2]) if gaps else ():
            sellers = pairs.setdefault((str(product), span), {})
            sellers.setdefault(one.seller, []).extend(gaps)
    return {
        key: float(np.median([np.median(gaps) for gaps in sellers.values()]))
        for key, sellers in pairs.items()
    }


def ask_to_sold(series: Iterable[Series]) -> float | None:
    """ln of sold ÷ asked for the same model in the same month: the median over models."""
    months: dict[tuple[str, int], dict[str, list[float]]] = {}
    for one in series:
        for day, log in zip(one.days.tolist(), one.logs.tolist(), strict=True):
            when = date.fromordinal(day)
            month = months.setdefault((one.accelerator, when.year * 12 + when.month), {})
            month.setdefault(one.feed, []).append(log)
    models: dict[str, list[float]] = {}
    for (model, _), feeds in months.items():
        if "sold" in feeds and "asking" in feeds:
            gap = float(np.median(feeds["sold"]) - np.median(feeds["asking"]))
            models.setdefault(model, []).append(gap)
    return float(np.median([np.median(gaps) for gaps in models.values()])) if models else None


def sales_foretold(series: Iterable[Series]) -> tuple[int, float | None]:
    """How many realised sales there are, and how well each is foretold by the one before it.

    The root mean square log error of taking the sale 20 to 90 days earlier: what a market approach does
    with its comparables. None where fewer than 30 can be foretold.
    """
    sales, squares = 0, []
    for one in series:
        if one.feed != "sold":
            continue
        sales += len(one.days)
        for at, day in enumerate(one.days.tolist()):
            before = int(np.searchsorted(one.days, day - SALE_AGO[0], side="right")) - 1
            if before >= 0 and day - int(one.days[before]) <= SALE_AGO[1]:
                squares.append(float(one.logs[at] - one.logs[before]) ** 2)
    error = math.sqrt(math.fsum(squares) / len(squares)) if len(squares) >= OUTCOMES_MIN else None
    return sales, error
