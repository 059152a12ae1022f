"""Judging rows as they come: what is long past is judged once, the last days anew each time.

The gate never takes back what it said of a day, so it need not be asked again. Rows of the last
week are still coming in; where one comes that is older, everything is judged anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from assay_valuer.market.gate import Gate, observations
from assay_valuer.market.quotes import Market, Observations, Quote, Rejected

TAIL_DAYS: Final = 7


class Gradual:
    """One market's rows. What it gives is what `gate.judge` gives of all of them at once."""

    def __init__(self, market: Market, interested: frozenset[str]) -> None:
        self._market: Final = market
        self._interested: Final = interested
        self._all: Final[list[Quote]] = []
        self._gate = Gate(market, interested)
        self._until = 0
        """The last day that is judged for good."""
        self._late = False
        self._counted: list[Quote] = []
        self._rejected: list[Rejected] = []
        self._coming: dict[int, list[Quote]] = defaultdict(list)

    def add(self, quote: Quote) -> None:
        """Takes a row that was judged by itself, and is a quote."""
        self._all.append(quote)
        if quote.day > self._until:
            self._coming[quote.day].append(quote)
        else:
            self._late = True

    def judged(self, rejected: Iterable[Rejected]) -> Observations:
        """What counts and what does not by now; `rejected` are rows that never became a quote."""
        if self._late:
            self._begin_anew()
            for quote in self._all:
                self._coming[quote.day].append(quote)
        days = sorted(self._coming)
        newest = days[-1] if days else 0
        for day in days:
            if day <= newest - TAIL_DAYS:
                counted, verdicts = self._gate.step(day, self._coming.pop(day))
                self._counted += counted
                self._rejected += verdicts
                self._until = day
        left, found = list(self._counted), [*rejected, *self._rejected]
        gate = self._gate.copy()
        for day in sorted(self._coming):
            counted, verdicts = gate.step(day, self._coming[day])
            left += counted
            found += verdicts
        return observations(self._market, left, found)

    def _begin_anew(self) -> None:
        """Forgets what was said of days that are past."""
        self._gate = Gate(self._market, self._interested)
        self._until = 0
        self._late = False
        self._counted.clear()
        self._rejected.clear()
        self._coming.clear()
