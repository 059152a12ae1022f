"""Rules that hold a price against other sellers' of the same model: whole sellers, then single rows.

What is compared is the newest price of each series within half a year, a seller's series of a model
as one number, its median. A seller or row is rejected only where nearly all others, or all of them,
stand far from it, so that one liar makes no honest seller look like one.

A rule goes from day to day and is given each day's rows at once, in order of series and price: what
it says of a row rests on rows of that day and before it.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from assay_valuer.market.quotes import Market, Quote, Rejected, comparable

Key: TypeAlias = tuple[str, str]
"""Model and kind."""

FRESH_DAYS: Final = 180
"""An older price is compared with nothing."""
SCALE_LOG: Final = math.log(5)
"""From the median of the others. Honest sellers as a whole, hyperscalers too, lie within 4 times."""
SCALE_EACH_LOG: Final = math.log(2.5)
"""From each of more than three quarters of them, so that a few liars make no honest seller look like one."""
SCALE_OTHERS: Final = 3
SCALE_MODELS: Final = 2
OUTLIER_LOG: Final = math.log(8)
OUTLIER_OTHERS: Final = 3
LOOK_ALIKE_LOG: Final = math.log(5)
"""Hardly any honest row lies so far from all others."""
LOOK_ALIKE_OTHERS: Final = 2
FITS_LOG: Final = math.log(1.5)
"""How far outside the range of a model's prices one still fits it."""
NODE_COUNT_MIN: Final = 4

SERIES_MAX: Final = 500
"""Of one seller's model, that stand on a board; the largest list in public data has 26."""
SELLERS_MAX: Final = 500
"""Of one model; there are about 40."""
MODELS_MAX: Final = 500
"""Of one seller. With these bounds no feed can make a day's judgement long."""
KEYS_MAX: Final = 5_000
"""Models and kinds of all."""


class Board:
    """The newest price of every series, as far as a walk over the days has come."""

    def __init__(self, market: Market) -> None:
        self._market: Final = market
        self._series: Final[dict[tuple[Key, str], dict[tuple[str, ...], tuple[int, float]]]] = {}
        self._keys: Final[dict[str, set[Key]]] = defaultdict(set)
        self._sellers: Final[dict[Key, set[str]]] = defaultdict(set)
        self._muted: Final[set[tuple[str, ...]]] = set()
        # What each seller asks for a model, with its day; worked out anew only where it is stale.
        self._levels: Final[dict[Key, dict[str, tuple[int, float]]]] = defaultdict(dict)
        self._stale: Final[dict[Key, set[str]]] = defaultdict(set)

    def key(self, quote: Quote) -> Key:
        """What a quote's price is comparable by."""
        return comparable(quote.names, self._market)

    def post(self, quote: Quote) -> None:
        """Notes a price; days must not fall."""
        key, seller = self.key(quote), quote.seller
        if not self._has_room(key, seller, quote.names):
            return
        series = self._series.setdefault((key, seller), {})
        series[quote.names] = (quote.day, math.log(quote.usd))
        self._keys[seller].add(key)
        self._sellers[key].add(seller)
        self._stale[key].add(seller)

    def mute(self, quote: Quote, *, muted: bool) -> None:
        """Whether a quote's series is held against others' from now on."""
        if (self.key(quote), quote.seller) not in self._series:
            return
        if muted != (quote.names in self._muted):
            (self._muted.add if muted else self._muted.discard)(quote.names)
            self._stale[self.key(quote)].add(quote.seller)

    def others(self, key: Key, seller: str, day: int) -> list[float]:
        """What each other seller asks for a model, in logs."""
        if key not in self._sellers:
            return []
        levels = self._levels[key]
        for stale in self._stale[key]:
            level = self._level(key, stale)
            if level is None:
                levels.pop(stale, None)
            else:
                levels[stale] = level
        self._stale[key].clear()
        since = day - FRESH_DAYS
        return [log for other, (at, log) in levels.items() if at >= since and other != seller]

    def own(self, key: Key, seller: str, day: int) -> float | None:
        """What a seller asks for a model, in logs, whether it is held against others' or not."""
        series = self._series.get((key, seller), {}).values()
        logs = [log for at, log in series if at >= day - FRESH_DAYS]
        return statistics.median(logs) if logs else None

    def keys_of(self, seller: str) -> set[Key]:
        """The models that a seller was ever seen with."""
        return self._keys.get(seller, set())

    def look_alikes(self, key: Key) -> list[Key]:
        """Other models of the same kind whose name has this one's in it, or stands in it."""
        model, kind = key
        return sorted(
            other
            for other in self._sellers
            if other[1] == kind and other != key and (model in other[0] or other[0] in model)
        )

    def _has_room(self, key: Key, seller: str, names: tuple[str, ...]) -> bool:
        """Whether a series may stand on the board: who came first stays."""
        series = self._series.get((key, seller))
        if series is not None:
            return names in series or len(series) < SERIES_MAX
        if len(self._keys.get(seller, ())) >= MODELS_MAX:
            return False
        sellers = self._sellers.get(key)
        return len(self._sellers) < KEYS_MAX if sellers is None else len(sellers) < SELLERS_MAX

    def _level(self, key: Key, seller: str) -> tuple[int, float] | None:
        series = self._series[key, seller]
        counted = [one for names, one in series.items() if names not in self._muted]
        newest = max((day for day, _ in counted), default=0)
        logs = [log for day, log in counted if day >= newest - FRESH_DAYS]
        return (newest, statistics.median(logs)) if logs else None


class Scale:
    """Sellers whose prices as a whole are of another unit: cents, months, nodes, another currency."""

    def __init__(self, market: Market) -> None:
        self._board: Final = Board(market)

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows; days must rise."""
        for row in rows:
            self._board.post(row)
        found = []
        wrong = {one: _scaled(self._board, one, day) for one in {row.seller for row in rows}}
        for row in rows:
            factor = wrong[row.seller]
            self._board.mute(row, muted=factor is not None)
            if factor is not None:
                detail = f"{row.seller} as a whole is {factor} what nearly all others ask"
                found.append(Rejected(row.line, "scale", detail))
        return found


def _scaled(board: Board, seller: str, day: int) -> str | None:
    """How far off a seller is in most of what it can be compared in; None where it is not."""
    dear: list[float] = []
    cheap: list[float] = []
    compared = 0
    for key in board.keys_of(seller):
        others, own = board.others(key, seller, day), board.own(key, seller, day)
        if own is None or len(others) < SCALE_OTHERS:
            continue
        compared += 1
        gap = own - statistics.median(others)
        sign = 1 if gap > 0 else -1
        far = sum(sign * (own - other) >= SCALE_EACH_LOG for other in others)
        if abs(gap) >= SCALE_LOG and 4 * far > 3 * len(others):
            (dear if gap > 0 else cheap).append(gap)
    most = max(dear, cheap, key=len)
    if compared < SCALE_MODELS or 3 * len(most) < 2 * compared:
        return None
    factor = math.exp(abs(statistics.median(most)))
    return f"{factor:.0f} times" if most is dear else f"a {factor:.0f}th of"


class OffAllOthers:
    """Rows far from every other seller's price: a node's total, another model's, or no price."""

    def __init__(self, market: Market) -> None:
        self._board: Final = Board(market)
        self._market: Final = market

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows; days must rise."""
        for row in rows:
            self._board.post(row)
        found = []
        wrong = [_off(self._board, row, day, self._market) for row in rows]
        for row, fault in zip(rows, wrong, strict=True):
            self._board.mute(row, muted=fault is not None)
            if fault is not None:
                found.append(Rejected(row.line, *fault))
        return found


def _off(board: Board, row: Quote, day: int, market: Market) -> tuple[str, str] | None:
    key = board.key(row)
    others = board.others(key, row.seller, day)
    if len(others) < LOOK_ALIKE_OTHERS:
        return None
    log = math.log(row.usd)
    below, above = log - max(others), min(others) - log
    gap = max(below, above)
    if gap < LOOK_ALIKE_LOG:
        return None
    side = "above" if below > 0 else "below"
    what = f"{row.usd:g} is {math.exp(gap):.1f} times {side} each of {len(others)} other sellers'"
    count = gpu_count(row.names[3]) if market is Market.RENTAL else 1.0
    if count >= NODE_COUNT_MIN and _fits(log - math.log(count), others):
        return "node_total", f"{what}, and by the {count:g} GPUs it fits them: a node's total"
    for other in board.look_alikes(key):
        prices = board.others(other, row.seller, day)
        if len(prices) >= LOOK_ALIKE_OTHERS and _fits(log, prices):
            return "look_alike", f"{what}, and it fits what {other[0].upper()} costs"
    if gap >= OUTLIER_LOG and len(others) >= OUTLIER_OTHERS:
        return "outlier", f"{what}: not the price of one {key[0].upper()}"
    return None


def _fits(log: float, prices: Sequence[float]) -> bool:
    return min(prices) - FITS_LOG <= log <= max(prices) + FITS_LOG


@lru_cache(maxsize=1_024)
def gpu_count(text: str) -> float:
    """How many GPUs; 1 where the row does not say."""
    return float(text) if re.fullmatch(r"\d{1,4}(\.0)?", text, re.ASCII) else 1.0
