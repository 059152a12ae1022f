"""What a log change looks like before any outcome is known: often nothing, else a jump or two.

A list price stands still for months and then moves by a fifth: no bell shape describes it. A series
that changed k times in t months is taken to move at λ = (k + λ₀·t₀)/(t + t₀) a month, and each time by
a jump of mean square j² = (Σ jumps² + k₀·j₀²)/(k + k₀). Over h days it does not move with probability
p = e^(−λh/30); if it does, the change is normal with the variance that is left, λh/30·j²/(1 − p).
Of rentals λ₀ is what sellers of the same tier move prices of the same feed by, each seller once: a spot
price that nobody has seen before is no list price of a hyperscaler. Other symbols with a zero are
judgement; the series' own record replaces them as it grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import MONTH_DAYS, STILL, Cases, Floats
from assay_valuer.market import labels
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

GRID: Final = np.array([NormalDist().inv_cdf((i + 0.5) / 40) for i in range(40)])
"""Forty equally likely points of a standard normal."""


@dataclass(frozen=True, slots=True)
class Belief:
    """λ₀ moves a month, counted as t₀ months; j₀ as a log change, counted as k₀ moves."""

    moves_monthly: float
    months: float
    jump: float
    jumps: float
    may_stand_still: bool


BELIEFS: Final = {
    Market.RENTAL: Belief(0.1, 8.0, 0.12, 3.0, may_stand_still=True),
    Market.RESALE: Belief(1.0, 6.0, 0.12, 6.0, may_stand_still=False),
}


SELLERS: Final = 3.0
"""How many sellers' records weigh as much as the stated rate."""
SELLER_MONTHS: Final = 2.0
"""As how many months the stated rate counts in one seller's record."""


@dataclass(frozen=True, slots=True)
class Prior:
    """Of each case: the probability of no change, and the deviation of a change."""

    still: Floats
    deviation: Floats


def move_rate(cases: Cases) -> Floats:
    """λ: moves a month, of each series up to its origin."""
    belief = BELIEFS[cases.market]
    expected = _peers(cases) if cases.market is Market.RENTAL else belief.moves_monthly
    rate: Floats = (cases.moves + expected * belief.months) / (cases.months + belief.months)
    return rate


def _peers(cases: Cases) -> Floats:
    """λ₀ of each case: what its tier and feed had shown before its origin's month began."""
    groups: dict[tuple[str, str], list[tuple[Series, Floats]]] = {}
    keys = []
    for one in cases.series:
        key = (labels.tier(one.name.split("|")[0]), one.feed)
        keys.append(key)
        moves = np.cumsum(np.abs(np.diff(one.logs, prepend=one.logs[:1])) > STILL)
        groups.setdefault(key, []).append((one, moves.astype(np.float64)))
    known: dict[tuple[str, str, int], float] = {}
    found = np.zeros(len(cases))
    for case, (number, month) in enumerate(zip(cases.index, cases.month.tolist(), strict=True)):
        key = keys[number]
        if (*key, month) not in known:
            known[*key, month] = _rate(groups[key], month)
        found[case] = known[*key, month]
    return found


def _rate(group: Sequence[tuple[Series, Floats]], month: int) -> float:
    """Moves a month over a group's sellers, of rows before a day."""
    stated = BELIEFS[Market.RENTAL].moves_monthly
    records: dict[str, tuple[float, float]] = {}
    for one, moves in group:
        last = int(np.searchsorted(one.days, month)) - 1
        if last < 1:
            continue
        seen, months = records.get(one.seller, (0.0, 0.0))
        months += (int(one.days[last]) - int(one.days[0])) / MONTH_DAYS
        records[one.seller] = seen + float(moves[last]), months
    rates = [
        (seen + stated * SELLER_MONTHS) / (months + SELLER_MONTHS)
        for seen, months in records.values()
    ]
    return (sum(rates) + stated * SELLERS) / (len(rates) + SELLERS)


def prior(cases: Cases) -> Prior:
    """The belief about each case, from its own series' record alone."""
    belief = BELIEFS[cases.market]
    square = (cases.squares + belief.jumps * belief.jump**2) / (cases.moves + belief.jumps)
    expected = move_rate(cases) * cases.horizon / MONTH_DAYS
    still = np.exp(-expected) if belief.may_stand_still else np.zeros(len(cases))
    return Prior(still, np.sqrt(expected * square / (1 - still)))
