"""The worst falls that a market's own history has: what a stress of a loan book is made of.

A fall is one series' own, between two of its days: few series of a class overlap for long, so there is
no index to fall. It is history, and no forecast; whoever reads it is told which series it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assay_valuer.market.series import Series

HORIZONS_DAYS: Final = (30, 90, 180, 365)
SLACK: Final = 10
"""A window ends at a price within a tenth of its horizon of it."""
DAYS_MIN: Final = 10
"""Days with a price that a series needs. Judgement."""
AROUND: Final = 3
"""A price is the median of so many of its series running: one odd day is no fall. Judgement."""


@dataclass(frozen=True, slots=True)
class Fall:
    """How far a series fell, in basis points of what it was, between two of its days (ordinals).

    `others`: how many series of its kind had a window of that length, itself among them.
    """

    bps: int
    begin_day: int
    end_day: int
    series: str
    others: int


def worst_fall(series: Iterable[Series], horizon_days: int) -> Fall | None:
    """The worst of all windows of a horizon; None where none fell."""
    found = [one for each in series if (one := _worst_window(each, horizon_days)) is not None]
    return _worst(found)


def worst_slide(series: Iterable[Series], first_day: int, last_day: int) -> Fall | None:
    """The deepest fall of a series from a peak to any later day, both between two days."""
    return _worst([
        one for each in series if (one := _slide(each, first_day, last_day)) is not None
    ])  # fmt: skip


def of_kind(series: Iterable[Series], asset_class: str, feeds: Sequence[str]) -> list[Series]:
    """The series of a class whose prices come about in one of these ways."""
    return [
        one
        for one in series
        if one.asset_class == asset_class and one.feed in feeds and len(one.days) >= DAYS_MIN
    ]


def _worst(found: Sequence[tuple[float, int, int, str]]) -> Fall | None:
    change, begin, end, name = min(found, default=(0.0, 0, 0, ""))
    bps = round(-math.expm1(change) * 10_000)
    return Fall(bps, begin, end, name, len(found)) if bps > 0 else None


def _worst_window(one: Series, horizon_days: int) -> tuple[float, int, int, str] | None:
    days, logs = one.days, _smooth(one.logs)
    wanted = days + horizon_days
    after = np.searchsorted(days, wanted).clip(1, len(days) - 1)
    nearer = wanted - days[after - 1] <= days[after] - wanted
    ends = np.where(nearer, after - 1, after)
    slack = max(horizon_days // SLACK, 1)
    good = (np.abs(days[ends] - wanted) <= slack) & (ends > np.arange(len(days)))
    if not good.any():
        return None
    changes = np.where(good, logs[ends] - logs, np.inf)
    at = int(changes.argmin())
    return float(changes[at]), int(days[at]), int(days[ends[at]]), one.name


def _slide(one: Series, first_day: int, last_day: int) -> tuple[float, int, int, str] | None:
    inside = (one.days >= first_day) & (one.days <= last_day)
    if inside.sum() < DAYS_MIN:
        return None
    days, logs = one.days[inside], _smooth(one.logs)[inside]
    peaks = np.maximum.accumulate(logs)
    end = int((logs - peaks).argmin())
    begin = int(logs[: end + 1].argmax())
    return float(logs[end] - logs[begin]), int(days[begin]), int(days[end]), one.name


def _smooth(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each with its neighbours, by their median; the ends repeat themselves."""
    padded = np.pad(logs, AROUND // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, AROUND), axis=-1))
