"""Point forecasts: the baselines, and Assay's centre. All are log changes from the last price.

Symbols: h the horizon in days, x the log change over it, s the 180-day slope of the series' log
price, m the class's own drift, l the lowest log price of the series' last 90 days less the last one,
v the variance of its log price per day.

Rental: x = 0. Momentum of spot and of marketplace prices was tried, and lost on every horizon before
the scoring window (docs/valuation.md).
Resale: x = m·τ(1 − e^(−h/τ)) + b·l + h/365·ln(1 − d), τ = 45 days, b = 0.3, d by feed. m is the median
slope of the last 75 days over the n series of the same class and feed, times n/(n + 5): what all cards
of a class do together says more about one of them than its own past, which is mostly the noise of its
listings. A trend dies away (Gardner and McKenzie's damped trend). l is there since a price that rose
above where it just stood has mostly run out of cheap offers, not gained in value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import Cases, Floats
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

YEAR_DAYS: Final = 365.0
DECAY_YEARLY: Final = MappingProxyType({"sold": 0.25, "asking": 0.15})
"""Judgement, the two ends of the 15 to 25% a year that hardware lost in the long run: what is asked
follows what is paid slowly. Chosen, like all that follow, on outcomes before 2024."""
MAPE_SHARE: Final = MappingProxyType({"sold": 0.5, "asking": 0.25})
FLOOR_WEIGHT: Final = 0.3
FLOOR_DAYS: Final = 90
TREND_LASTS_DAYS: Final = 45.0
"""τ: what a trend of today adds in all is what it would in so many days."""
COMMON_SERIES: Final = 5.0
COMMON_DAYS: Final = 75
COMMON_AGE_MAX: Final = 45
COMMON_SPAN_MIN: Final = 25
SLOPE_MAX: Final = 0.004
"""Log per day. No class of cards moved faster for long; a typing mistake does."""
MAPE_VARIANCE_MAX: Final = 0.0009
"""Per day. What a series of listings shows beyond it is which offers were up, not the market."""
VARIANCE_DAILY: Final = 0.0006
VARIANCE_STEPS: Final = 6.0
"""A series' own variance counts as six steps of 39% a year do: judgement, as of volatile hardware."""
VARIANCE_MAX: Final = 0.004


def baselines(cases: Cases) -> MappingProxyType[str, Floats]:
    """The forecasts that a release is compared with, by name."""
    h = cases.horizon
    zero = np.zeros(len(cases))
    return MappingProxyType(
        {
            "no_change": zero,
            "conformal_no_change": zero,
            "trend_180d": cases.trend * h,
            "half_trend": 0.5 * cases.trend * h,
            "dep_15": math.log(0.85) / YEAR_DAYS * h,
            "dep_25": math.log(0.75) / YEAR_DAYS * h,
        }
    )


def variance(cases: Cases) -> Floats:
    """Variance of the log price per day: each series' own, shrunk to a stated one."""
    days = np.maximum(cases.months * 30.0, 1.0)
    own = np.minimum(cases.squares / days, VARIANCE_MAX)
    weight = cases.steps / (cases.steps + VARIANCE_STEPS)
    shrunk: Floats = weight * own + (1 - weight) * VARIANCE_DAILY
    return shrunk


def medians(cases: Cases) -> Floats:
    """Assay's median forecast of the log change."""
    if cases.market is Market.RENTAL:
        return np.zeros(len(cases))
    decay = np.log1p(-_by_feed(cases, DECAY_YEARLY)) / YEAR_DAYS
    lasting = TREND_LASTS_DAYS * -np.expm1(-cases.horizon / TREND_LASTS_DAYS)
    return _common(cases) * lasting + decay * cases.horizon + FLOOR_WEIGHT * _floor(cases)


def points(cases: Cases) -> Floats:
    """The figure that is scored: for hardware the median less a share of its variance over h.

    What minimises the expected percentage error of a log-normal price is its median times e^−σ²: an
    error above is unbounded, one below is not. Less than all of it, since σ² is itself uncertain, and
    least for asking prices, whose variance is mostly which offers were up.
    """
    centre = medians(cases)
    if cases.market is Market.RENTAL:
        return centre
    spread = np.minimum(variance(cases), MAPE_VARIANCE_MAX) * cases.horizon
    return centre - _by_feed(cases, MAPE_SHARE) * spread


def _by_feed(cases: Cases, figures: Mapping[str, float]) -> Floats:
    """Each case's own."""
    return np.array([figures[one.feed] for one in cases.series], dtype=np.float64)[cases.index]


def _floor(cases: Cases) -> Floats:
    """l: how far the lowest price of a case's last 90 days lies below its last one, as a log change."""
    below = np.zeros(len(cases))
    for case, (number, day) in enumerate(zip(cases.index, cases.origin.tolist(), strict=True)):
        one = cases.series[number]
        end = int(np.searchsorted(one.days, day, side="right"))
        # A forecast that stands open may have no row so near: then the last one is its own floor.
        start = min(int(np.searchsorted(one.days, day - FLOOR_DAYS)), end - 1)
        below[case] = float(one.logs[start:end].min()) - float(one.logs[end - 1])
    return below


def _common(cases: Cases) -> Floats:
    """m for each case: the drift per day of its class and feed at its origin, shrunk to none."""
    groups: dict[tuple[str, str], list[Series]] = {}
    for one in cases.series:
        groups.setdefault((one.asset_class, one.feed), []).append(one)
    known: dict[tuple[str, str, int], float] = {}
    drift = np.zeros(len(cases))
    for case, (number, day) in enumerate(zip(cases.index, cases.origin.tolist(), strict=True)):
        one = cases.series[number]
        key = (one.asset_class, one.feed, day)
        if key not in known:
            known[key] = common_drift(groups[key[:2]], day)
        drift[case] = known[key]
    return drift


def common_drift(group: list[Series], day: int) -> float:
    """The median slope of a group's last 75 days, log per day, shrunk by how many series show one."""
    slopes = []
    for one in group:
        end = int(np.searchsorted(one.days, day, side="right"))
        start = int(np.searchsorted(one.days, day - COMMON_DAYS))
        if end - start < 2 or day - one.days[end - 1] > COMMON_AGE_MAX:
            continue
        span = int(one.days[end - 1] - one.days[start])
        if span >= COMMON_SPAN_MIN:
            slopes.append(float(one.logs[end - 1] - one.logs[start]) / span)
    if not slopes:
        return 0.0
    median = float(np.clip(np.median(slopes), -SLOPE_MAX, SLOPE_MAX))
    return len(slopes) / (len(slopes) + COMMON_SERIES) * median
