"""Rules that hold a price against its own series and its own feed: the gate beside `peers`.

Each is given the rows of one day after the other, those that are left of it, in order of series and
price, and gives those that do not count. It judges a row by rows of its day and of before alone.
"""

from __future__ import annotations

import itertools
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from assay_valuer.market.labels import is_sale, rental_feed, seller
from assay_valuer.market.peers import NODE_COUNT_MIN, Board, gpu_count
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
FROZEN_MOVERS: Final = 2
"""Sellers: where so many move, the feed lives, however many series of another stand."""
ALIVE_DAYS: Final = 30
FROZEN_SERIES_MAX: Final = 5_000
"""Of one feed that are looked at."""

CARRIED_SOLD_DAYS: Final = 60
CARRIED_SOLD_ROWS: Final = 5
"""An average of sales that comes out the same again and again was copied: in public data none is the
same more than twice running."""
CARRIED_SPOT_DAYS: Final = 730
CARRIED_SPOT_ROWS: Final = 10
"""Spot prices were seen to stand for 483 days."""
_AVERAGE: Final = re.compile(r"avg|average|mean|median", re.IGNORECASE)


_WORD: Final = re.compile(r"[a-z0-9]+")


class Interested:
    """Prices of those who gain by them: borrowers of registered loans and their affiliates.

    They count for nobody, their own collateral or another's, so one rule suffices. A seller whose first
    words are a party's name (`acme-eu`, `Acme GPU Cloud` of `acme`) is taken for it: better one honest
    seller too few.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._parties: Final = {
            seller(name) for name in names if re.search(r"[a-z0-9]", name.lower())
        }
        self._known: Final[dict[str, bool]] = {}

    def step(self, _: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows."""
        return [
            Rejected(row.line, "interested", f"a loan's file names {row.seller} as a party's")
            for row in rows
            if self._parties and self._is_party(row)
        ]

    def _is_party(self, row: Quote) -> bool:
        name = row.names[0]
        if name not in self._known:
            words = _WORD.findall(name.lower())
            leading = {seller(" ".join(words[:count])) for count in range(1, len(words))}
            self._known[name] = bool(self._parties & {row.seller, *leading})
        return self._known[name]


class Repeated:
    """The same series, day and price again says nothing new."""

    def step(self, _: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows."""
        found = []
        for _same, group in itertools.groupby(rows, key=lambda row: (row.names, row.usd)):
            first, *again = group
            detail = f"the same as row {first.line}"
            found += [Rejected(row.line, "duplicate", detail) for row in again]
        return found


class NodeTotals:
    """A node's price written as one GPU's: N times what one GPU costs there on the same day."""

    def __init__(self, market: Market) -> None:
        self._market: Final = market

    def step(self, _: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows."""
        if self._market is not Market.RENTAL:
            return []
        single = {_where(row.names): row.usd for row in rows if row.names[3] in ("1", "1.0")}
        found = []
        for row in rows:
            count = gpu_count(row.names[3])
            one = single.get(_where(row.names)) if count >= NODE_COUNT_MIN else None
            if one is not None and abs(row.usd / (one * count) - 1) < 0.03:
                detail = f"{row.usd:g} is {count:g} times the {one:g} of one GPU: a node's total"
                found.append(Rejected(row.line, "node_total", detail))
        return found


def _where(names: tuple[str, ...]) -> tuple[str, ...]:
    """A rental series without its count of GPUs."""
    return names[:3] + names[4:]


# ---------------------------------------------------------------------------- what stands still


@dataclass(slots=True)
class _Standing:
    """A series of a feed: since when it is seen, and at one price; when it was seen last."""

    first: int
    since: int
    last: int
    usd: float


class Frozen:
    """Rows of a feed of many sellers whose prices all stand while its dates go on: carried forward."""

    def __init__(self) -> None:
        self._feeds: Final[dict[str, dict[tuple[str, ...], _Standing]]] = defaultdict(dict)

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows; days must rise."""
        feeds = self._feeds
        for row in rows:
            _note(feeds[row.source], row)
        dead = {source for source in {row.source for row in rows} if _dead(feeds[source], day)}
        found = []
        for row in rows:
            known = feeds[row.source].get(row.names)
            stood = 0 if known is None else day - known.since
            if row.source in dead and stood >= FROZEN_DAYS:
                detail = (
                    f"its feed goes on with new dates and old prices: this one for {stood} days"
                )
                found.append(Rejected(row.line, "frozen", detail))
        return found


def _note(series: dict[tuple[str, ...], _Standing], row: Quote) -> None:
    known = series.get(row.names)
    if known is None:
        if len(series) < FROZEN_SERIES_MAX:
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
    moved = [names for names, one in old.items() if one.since > day - FROZEN_DAYS]
    # However many series one seller shows that never change, it makes no feed dead where two move.
    movers = {seller(names[0]) for names in moved}
    return len(moved) * FROZEN_MOVED < len(old) and len(movers) < FROZEN_MOVERS


@dataclass(slots=True)
class _Run:
    """How long a series has been at one price: since when, until when, on how many days."""

    usd: float
    first: int
    last: int
    days: int


class Carried:
    """Prices that a market makes, and that are the same for longer than any market was: copied."""

    def __init__(self, market: Market) -> None:
        self._market: Final = market
        self._runs: Final[dict[tuple[str, ...], _Run]] = {}

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows; days must rise."""
        found = []
        for row in rows:
            bounds = _may_stand(row.names, self._market)
            if bounds is None:
                continue
            run = self._runs.get(row.names)
            if run is None or run.usd != row.usd:
                self._runs[row.names] = _Run(row.usd, day, day, 1)
                continue
            run.days += run.last != day
            run.last = day
            stood = day - run.first
            if stood > bounds[0] and run.days >= bounds[1]:
                detail = f"{row.usd:g} again, {run.days} times running over {stood} days"
                found.append(Rejected(row.line, "carried", detail))
        return found


@lru_cache(maxsize=65_536)
def _may_stand(names: tuple[str, ...], market: Market) -> tuple[int, int] | None:
    """For how many days and rows a price may be the same; None where it may be so for ever."""
    if market is Market.RENTAL:
        spot = rental_feed(names[4]) == "spot"
        return (CARRIED_SPOT_DAYS, CARRIED_SPOT_ROWS) if spot else None
    average = is_sale(names[2]) and _AVERAGE.search(names[2])
    return (CARRIED_SOLD_DAYS, CARRIED_SOLD_ROWS) if average else None


# ---------------------------------------------------------------------------- what jumps


@dataclass(slots=True)
class _Level:
    """A series: the last price that counted, and the days that stand on another level, in logs."""

    log: float
    waiting: list[float]


class Jumps:
    """Rows on a level that is far from the series' last, until it has stood, or others stand there.

    A series' day has the median of its rows. What was held back stays so: nothing before the row that
    settles a jump changes when that comes, so the past looks as it looked then.
    """

    def __init__(self, market: Market) -> None:
        self._board: Final = Board(market)
        self._levels: Final[dict[tuple[str, ...], _Level]] = {}

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows; days must rise."""
        found: list[Rejected] = []
        counted: list[Quote] = []
        for names, group in itertools.groupby(rows, key=lambda row: row.names):
            series = list(group)
            log = math.log(statistics.median([row.usd for row in series]))
            level = self._levels.setdefault(names, _Level(log, []))
            gap = abs(log - level.log)
            if gap < JUMP_LOG or _settled(self._board, series[0], log, level, day):
                level.log, level.waiting = log, []
                counted += series
                continue
            detail = f"{math.exp(gap):.1f} times off the price before it"
            found += [Rejected(row.line, "jump", f"{row.usd:g} is {detail}") for row in series]
        for row in counted:
            self._board.post(row)
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
