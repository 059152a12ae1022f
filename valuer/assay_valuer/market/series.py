"""Price series: one per name, a price a day, in logs. A series' day has the median of its rows.

Which rows count, and which are held back as jumps, `market.gate` has decided before.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assay_valuer.market import labels
from assay_valuer.market.observations import Market, Observations, Quote


@dataclass(frozen=True, slots=True)
class Series:
    """Days rise strictly; `logs` are natural logarithms of US dollars. Arrays are not to be written."""

    name: str
    market: Market
    accelerator: str
    asset_class: str
    feed: str
    """How its price comes about: list, spot, committed; sold, asking."""
    seller: str
    days: NDArray[np.int64]
    logs: NDArray[np.float64]


def build_series(observations: Observations) -> tuple[Series, ...]:
    """Every series in order of its name."""
    found: list[Series] = []
    for name, quotes in itertools.groupby(observations.quotes, key=lambda quote: quote.series):
        rows = list(quotes)
        found.append(_series(name, observations.market, rows[0], _daily(rows)))
    return tuple(sorted(found, key=lambda one: one.name))


def _daily(quotes: Iterable[Quote]) -> list[tuple[int, float]]:
    """(day, log of the median price), one per day."""
    days = itertools.groupby(quotes, key=lambda quote: quote.day)
    return [(day, math.log(statistics.median(quote.usd for quote in group))) for day, group in days]


def _series(name: str, market: Market, quote: Quote, rows: list[tuple[int, float]]) -> Series:
    rental = market is Market.RENTAL
    days = np.array([day for day, _ in rows], dtype=np.int64)
    logs = np.array([log for _, log in rows], dtype=np.float64)
    days.setflags(write=False)
    logs.setflags(write=False)
    return Series(
        name=name,
        market=market,
        accelerator=quote.accelerator,
        asset_class=labels.asset_class(quote.accelerator),
        feed=labels.rental_feed(quote.names[4]) if rental else labels.resale_feed(quote.names[2]),
        seller=labels.seller(quote.names[0]),
        days=days,
        logs=logs,
    )
