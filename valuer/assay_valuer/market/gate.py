"""The gate: which rows of a market count. Each that does not keeps its reason; none is lost.

Rules follow each other, and each sees what those before it left. None looks ahead, so whether a row
counts is decided by it and by rows no later than it: a backtest sees at each date what one would have
seen then, and rows that come later change no verdict on earlier days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

from assay_valuer.market import peers, rules
from assay_valuer.market.quotes import Market, Observations, Quote, Rejected

Rule: TypeAlias = Callable[[Sequence[Quote], Market], list[Rejected]]

RULES: Final[tuple[Rule, ...]] = (
    rules.repeated,
    rules.node_totals,
    peers.scale,
    peers.off_all_others,
    rules.frozen,
    rules.carried,
    rules.jumps,
)
"""In this order: a whole seller of another unit must not hide among single rows that are off."""


def judge(
    market: Market,
    quotes: Iterable[Quote],
    rejected: Iterable[Rejected] = (),
    interested: frozenset[str] = frozenset(),
) -> Observations:
    """What counts of the quotes; `rejected` are rows that never became one.

    `interested`: names under which borrowers and their affiliates quote prices.
    """
    left = sorted(quotes, key=lambda quote: (quote.names, quote.day, quote.usd, quote.line))
    found = [*rejected]
    verdicts = rules.interested(left, interested)
    left = _without(left, verdicts)
    found += verdicts
    for rule in RULES:
        verdicts = rule(left, market)
        left = _without(left, verdicts)
        found += verdicts
    found.sort(key=lambda one: one.line)
    return Observations(market, tuple(left), tuple(found))


def _without(quotes: list[Quote], verdicts: Sequence[Rejected]) -> list[Quote]:
    if not verdicts:
        return quotes
    gone = {verdict.line for verdict in verdicts}
    return [quote for quote in quotes if quote.line not in gone]
