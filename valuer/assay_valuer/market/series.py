"""Price series: one per name, a price a day, in logs; a jump counts once it is seen to last.

A series' day has the median of its rows. A price 6.5 times off the last one that counted is held
back until three rows in a row stand on the new level: a feed that once writes a node's total, cents
for dollars, or another model's price does not move a value. Nothing before the third row changes
when it comes, so the past looks as it looked then.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from assay_valuer.market import labels
from assay_valuer.market.observations import Market, Observations, Quote, Rejected

JUMP_LOG: Final = math.log(6.5)
JUMP_ROWS: Final = 3


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


def build_series(observations: Observations) -> tuple[tuple[Series, ...], tuple[Rejected, ...]]:
    """Every series of a file in order of its name, and the rows that were held back as jumps."""
    found: list[Series] = []
    held: list[Rejected] = []
    for name, quotes in itertools.groupby(observations.quotes, key=lambda quote: quote.series):
        rows = list(quotes)
        steady, jumps = _steady(_daily(rows))
        held += jumps
        if steady:
            found.append(_series(name, observations.market, rows[0], steady))
    return tuple(sorted(found, key=lambda one: one.name)), tuple(held)


def _daily(quotes: Iterable[Quote]) -> list[tuple[int, float, int]]:
    """(day, median price, a line of it), one per day."""
    days = itertools.groupby(quotes, key=lambda quote: quote.day)
    daily = []
    for day, group in days:
        rows = list(group)
        daily.append((day, statistics.median(row.usd for row in rows), rows[0].line))
    return daily


def _steady(
    daily: list[tuple[int, float, int]],
) -> tuple[list[tuple[int, float]], list[Rejected]]:
    """What counts, and what was held back. Looks back only."""
    kept: list[tuple[int, float]] = []
    held: list[Rejected] = []
    level: list[float] = []
    for day, usd, line in daily:
        log = math.log(usd)
        if not kept or abs(log - kept[-1][1]) < JUMP_LOG:
            kept.append((day, log))
            level = []
            continue
        level = [log] if level and abs(log - level[-1]) >= JUMP_LOG else [*level, log]
        if len(level) >= JUMP_ROWS:
            kept.append((day, log))
            level = []
            continue
        detail = f"{usd:g} is {math.exp(abs(log - kept[-1][1])):.1f} times off the price before it"
        held.append(Rejected(line, "jump", detail))
    return kept, held


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
