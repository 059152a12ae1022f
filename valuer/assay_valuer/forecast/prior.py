"""What a log change looks like before any outcome is known: often nothing, else a jump or two.

A list price stands still for months and then moves by a fifth: no bell shape describes it. A series
that changed k times in t months is taken to move at λ = (k + λ₀·t₀)/(t + t₀) a month, and each time by
a jump of mean square j² = (Σ jumps² + k₀·j₀²)/(k + k₀). Over h days it does not move with probability
p = e^(−λh/30); if it does, the change is normal with the variance that is left, λh/30·j²/(1 − p).
Symbols with a zero are judgement; the series' own record replaces them as it grows.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import MONTH_DAYS, Cases, Floats
from assay_valuer.market.observations import Market

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
    Market.RENTAL: Belief(0.1, 4.0, 0.12, 3.0, may_stand_still=True),
    Market.RESALE: Belief(1.0, 6.0, 0.12, 6.0, may_stand_still=False),
}


@dataclass(frozen=True, slots=True)
class Prior:
    """Of each case: the probability of no change, and the deviation of a change."""

    still: Floats
    deviation: Floats


def move_rate(cases: Cases) -> Floats:
    """λ: moves a month, of each series up to its origin."""
    belief = BELIEFS[cases.market]
    return (cases.moves + belief.moves_monthly * belief.months) / (cases.months + belief.months)


def prior(cases: Cases) -> Prior:
    """The belief about each case, from its own series' record alone."""
    belief = BELIEFS[cases.market]
    square = (cases.squares + belief.jumps * belief.jump**2) / (cases.moves + belief.jumps)
    expected = move_rate(cases) * cases.horizon / MONTH_DAYS
    still = np.exp(-expected) if belief.may_stand_still else np.zeros(len(cases))
    return Prior(still, np.sqrt(expected * square / (1 - still)))
