"""Rules that hold a price against its own series and its own feed: the gate beside `peers`.

Each is a pure function of the rows that are left, gives the rows that do not count, does not depend
on their order, and judges a row by rows of its day and of before alone.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from assay_valuer.market.labels import is_sale, rental_feed, seller
from assay_valuer.market.peers import NODE_COUNT_MIN, Board, by_day, gpu_count
from assay_valuer.market.quotes import Market, Quote, Rejected

JUMP_LOG: Final = math.log(6.5)
JUMP_ROWS: Final = 3
"""Days that a jump must stand before it counts."""
JUMP_ROWS_THIN: Final = 6
"""The same of a model that fewer than `JUMP_SELLERS` sell: nobody else could say that it is so."""
JUMP_SELLERS: Final = 3
JUMP_OTHERS: Final = 2
"""Other sellers at the new level that make a jump count at once."""

FROZEN_DAYS: Final = 90
FROZEN_SERIES: Final = 10
FROZEN_SELLERS: Final = 5
"""So many sellers together never let all their prices stand for so long: the longest that a public
feed of five stood is 59 days. One seller's list may stand for years, and that is no fault."""
FROZEN_MOVED: Final = 50
"""One series in so many that moves does not make a frozen feed a living one."""
ALIVE_DAYS: Final = 30

CARRIED_SOLD_DAYS: Final = 60
CARRIED_SOLD_ROWS: Final = 5
"""An average of sales that comes out the same again and again was copied: in public data none is the
same more than twice running."""
CARRIED_SPOT_DAYS: Final = 730
CARRIED_SPOT_ROWS: Final = 10
"""Spot prices were seen to stand for 483 days."""
_AVERAGE: Final = re.compile(r"avg|average|mean|median", re.IGNORECASE)


def interested(quotes: Sequence[Quote], names: frozenset[str]) -> list[Rejected]:
    """Prices of those who gain by them: borrowers of registered loans and their affiliates.

    They count for nobody, their own collateral or another's, so one rule suffices.
    """
    parties = {seller(name) for name in names if re.search(r"[a-z0-9]", name.lower())}
    return [
        Rejected(quote.line, "interested", f"a loan's file names {quote.seller} as a party's")
        for quote in quotes
        if quote.seller in parties
    ]


def repeated(quotes: Sequence[Quote], _: Market) -> list[Rejected]:
    """The same series, day and price again says nothing new."""
    found = []
    for _same, group in itertools.groupby(quotes, key=lambda one: (one.names, one.day, one.usd)):
        first, *again = group
        found += [
            Rejected(one.line, "duplicate", f"the same as row {first.line}") for one in again
        ]
    return found


def node_totals(quotes: Sequence[Quote], market: Market) -> list[Rejected]:
    """A node's price written as one GPU's: N times what one GPU costs there on the same day."""
    if market is not Market.RENTAL:
        return []
    single = {_where(quote): quote.usd for quote in quotes if quote.names[3] in ("1", "1.0")}
    found = []
    for quote in quotes:
        count = gpu_count(quote.names[3])
        one = single.get(_where(quote)) if count >= NODE_COUNT_MIN else None
        if one is not None and abs(quote.usd / (one * count) - 1) < 0.03:
            detail = f"{quote.usd:g} is {count:g} times the {one:g} of one GPU: a node's total"
            found.append(Rejected(quote.line, "node_total", detail))
    return found


def _where(quote: Quote) -> tuple[tuple[str, ...], tuple[str, ...], int]:
    return quote.names[:3], quote.names[4:], quote.day


# ---------------------------------------------------------------------------- what stands still


@dataclass(slots=True)
class _Standing:
    """A series of a feed: since when it is seen, and at one price; when it was seen last."""

    first: int
    since: int
    last: int
    usd: float


def frozen(quotes: Sequence[Quote], _: Market) -> list[Rejected]:
    """Rows of a feed of many sellers whose prices all stand while its dates go on: carried forward."""
    feeds: dict[str, dict[tuple[str, ...], _Standing]] = defaultdict(dict)
    found = []
    for day, rows in by_day(quotes):
        for row in rows:
            _note(feeds[row.source], row)
        dead = {source for source in {row.source for row in rows} if _dead(feeds[source], day)}
        for row in rows:
            stood = day - feeds[row.source][row.names].since
            if row.source in dead and stood >= FROZEN_DAYS:
                detail = (
                    f"its feed goes on with new dates and old prices: this one for {stood} days"
                )
                found.append(Rejected(row.line, "frozen", detail))
    return found


def _note(series: dict[tuple[str, ...], _Standing], row: Quote) -> None:
    known = series.get(row.names)
    if known is None:
        series[row.names] = _Standing(row.day, row.day, row.day, row.usd)
        return
    if known.usd != row.usd:
        known.since, known.usd = row.day, row.usd
    known.last = row.day


def _dead(series: dict[tuple[str, ...], _Standing], day: int) -> bool:
    old = {
        names: one
        for names, one in series.items()
        if one.last > day - ALIVE_DAYS and one.first <= day - FROZEN_DAYS
    }
    if len(old) < FROZEN_SERIES or len({seller(names[0]) for names in old}) < FROZEN_SELLERS:
        return False
    moved = sum(one.since > day - FROZEN_DAYS for one in old.values())
    return moved * FROZEN_MOVED < len(old)


def carried(quotes: Sequence[Quote], market: Market) -> list[Rejected]:
    """Prices that a market makes, and that are the same for longer than any market was: copied."""
    found = []
    for names, group in itertools.groupby(quotes, key=lambda quote: quote.names):
        bounds = _may_stand(names, market)
        if bounds is None:
            continue
        for run in _runs(list(group)):
            days: set[int] = set()
            for row in run:
                days.add(row.day)
                stood = row.day - run[0].day
                if stood > bounds[0] and len(days) >= bounds[1]:
                    detail = f"{row.usd:g} again, {len(days)} times running over {stood} days"
                    found.append(Rejected(row.line, "carried", detail))
    return found


def _may_stand(names: tuple[str, ...], market: Market) -> tuple[int, int] | None:
    """For how many days and rows a price may be the same; None where it may be so for ever."""
    if market is Market.RENTAL:
        spot = rental_feed(names[4]) == "spot"
        return (CARRIED_SPOT_DAYS, CARRIED_SPOT_ROWS) if spot else None
    average = is_sale(names[2]) and _AVERAGE.search(names[2])
    return (CARRIED_SOLD_DAYS, CARRIED_SOLD_ROWS) if average else None


def _runs(rows: Sequence[Quote]) -> Iterator[list[Quote]]:
    for _, group in itertools.groupby(rows, key=lambda row: row.usd):
        yield list(group)


# ---------------------------------------------------------------------------- what jumps


@dataclass(slots=True)
class _Level:
    """A series: the last price that counted, and the days that stand on another level, in logs."""

    log: float
    waiting: list[float]


def jumps(quotes: Sequence[Quote], market: Market) -> list[Rejected]:
    """Rows on a level that is far from the series' last, until it has stood, or others stand there.

    A series' day has the median of its rows. What was held back stays so: nothing before the row that
    settles a jump changes when that comes, so the past looks as it looked then.
    """
    if not _jumping(quotes):
        return []
    board = Board(market)
    levels: dict[tuple[str, ...], _Level] = {}
    found = []
    for day, rows in by_day(quotes):
        counted = []
        for names, group in itertools.groupby(rows, key=lambda row: row.names):
            series = list(group)
            log = math.log(statistics.median(row.usd for row in series))
            level = levels.setdefault(names, _Level(log, []))
            gap = abs(log - level.log)
            if gap < JUMP_LOG or _settled(board, series[0], log, level, day):
                level.log, level.waiting = log, []
                counted += series
                continue
            detail = f"{math.exp(gap):.1f} times off the price before it"
            found += [Rejected(row.line, "jump", f"{row.usd:g} is {detail}") for row in series]
        for row in counted:
            board.post(row)
    return found


def _settled(board: Board, row: Quote, log: float, level: _Level, day: int) -> bool:
    """Whether a jump counts from this row on; notes it where it does not."""
    if level.waiting and abs(log - level.waiting[-1]) >= JUMP_LOG:
        level.waiting = []
    level.waiting.append(log)
    others = board.others(board.key(row), row.seller, day)
    if sum(abs(log - other) < JUMP_LOG / 2 for other in others) >= JUMP_OTHERS:
        return True
    thin = len(others) + 1 < JUMP_SELLERS
    return len(level.waiting) >= (JUMP_ROWS_THIN if thin else JUMP_ROWS)


def _jumping(quotes: Sequence[Quote]) -> bool:
    """Whether any series ever moves so far from one day to the next: hardly any does."""
    names: tuple[str, ...] | None = None
    before = 0.0
    for (series, _), group in itertools.groupby(quotes, key=lambda quote: (quote.names, quote.day)):
        log = math.log(statistics.median([row.usd for row in group]))
        if series == names and abs(log - before) >= JUMP_LOG:
            return True
        names, before = series, log
    return False
