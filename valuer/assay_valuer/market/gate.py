"""The gate: which rows of a market count. Each that does not keeps its reason; none is lost.

It goes from day to day. Rules follow each other, and each sees what those before it left of a day.
None looks ahead, so whether a row counts is decided by it and by rows no later than it: a backtest
sees at each date what one would have seen then, and what was said of a day is never taken back.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol, Self

from assay_valuer.market import peers, rules
from assay_valuer.market.quotes import Market, Observations, Quote, Rejected


class Rule(Protocol):
    """One reason, or a few, why a row does not count."""

    def step(self, day: int, rows: Sequence[Quote]) -> list[Rejected]:
        """What does not count of a day's rows, which are in order of series and price; days rise."""
        ...


class Gate:
    """One market's rules, and how far they have come."""

    def __init__(self, market: Market, interested: frozenset[str] = frozenset()) -> None:
        """`interested`: names under which borrowers and their affiliates quote prices."""
        # In this order: a whole seller of another unit must not hide among single rows that are off.
        self._rules: Final[tuple[Rule, ...]] = (
            rules.Interested(interested),
            rules.Repeated(),
            rules.NodeTotals(market),
            peers.Scale(market),
            peers.OffAllOthers(market),
            rules.Frozen(),
            rules.Carried(market),
            rules.Jumps(market),
        )

    def step(self, day: int, rows: Iterable[Quote]) -> tuple[list[Quote], list[Rejected]]:
        """What counts of a day's rows, all of them, and what does not. Days must rise."""
        left = sorted(rows, key=lambda row: (row.names, row.usd, row.line))
        found: list[Rejected] = []
        for rule in self._rules:
            verdicts = rule.step(day, left)
            if verdicts:
                gone = {verdict.line for verdict in verdicts}
                left = [row for row in left if row.line not in gone]
                found += verdicts
        return left, found

    def copy(self) -> Self:
        """One that stands where this one does, and goes on by itself."""
        return copy.deepcopy(self)


def by_day(quotes: Iterable[Quote]) -> Iterator[tuple[int, list[Quote]]]:
    """The quotes of each day, days rising."""
    ordered = sorted(quotes, key=lambda quote: quote.day)
    for day, group in itertools.groupby(ordered, key=lambda quote: quote.day):
        yield day, list(group)


def judge(
    market: Market,
    quotes: Iterable[Quote],
    rejected: Iterable[Rejected] = (),
    interested: frozenset[str] = frozenset(),
) -> Observations:
    """What counts of the quotes; `rejected` are rows that never became one."""
    gate = Gate(market, interested)
    left: list[Quote] = []
    found = [*rejected]
    for day, rows in by_day(quotes):
        counted, verdicts = gate.step(day, rows)
        left += counted
        found += verdicts
    return observations(market, left, found)


def observations(
    market: Market, quotes: Iterable[Quote], rejected: Iterable[Rejected]
) -> Observations:
    """Both in the order that observations have."""
    return Observations(
        market,
        tuple(sorted(quotes, key=lambda quote: (quote.names, quote.day, quote.usd, quote.line))),
        tuple(sorted(rejected, key=lambda one: one.line)),
    )
