"""What renting a product costs a buyer who may go to any seller but a hyperscaler.

Each seller has one vote: the mean of its on-demand prices of the product, brought by the hedonic model
to the neutral place and number of GPUs. The level is the median of the votes, weighed by age, drawn
by `DRAWN` votes to what the class says: the hedonic model's neocloud, moved by the middle distance
that the class's sellers keep from it. A neocloud's list price alone lies above what the market as a
whole asks where dear and cheap sellers part, and a lender must not count on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import Floats

APART: Final = 0.30
"""How far sellers of one product lie apart, as a deviation: leaving each out, before May 2025, half of
their prices lay within 0.20 of the others' median, which is 0.30 of a normal one."""
APART_VOTES: Final = 3.0
"""How many sellers that counts for, beside a product's own. Judgement."""
DRAWN: Final = 1.0
"""How many sellers the class counts for. Judgement: one half to four foretell equally well."""
MEDIAN_ERROR: Final = math.sqrt(math.pi / 2)
"""A median's standard error ÷ a mean's."""


@dataclass(frozen=True, slots=True)
class Vote:
    """One seller's price of one product, in logs, for the neutral configuration."""

    seller: str
    tier: str
    log: float
    weight: float
    """By age: above 0, 1 at most."""


@dataclass(frozen=True, slots=True)
class Centre:
    """Where votes lie."""

    log: float
    error: float
    """No smaller than the votes lie apart, nor than the tiers of sellers do, each taken as one."""
    votes: float
    """How many that are equally old would say as much."""


def centre(votes: Sequence[Vote]) -> Centre:
    """The weighted median of one or more votes, and its standard error."""
    votes = sorted(votes, key=lambda vote: vote.seller)
    logs = np.array([vote.log for vote in votes])
    weight = np.array([vote.weight for vote in votes])
    middle = median(logs, weight)
    effective = float(weight.sum() ** 2 / (weight**2).sum())
    own = 1.4826 * median(np.abs(logs - middle), weight)
    apart = math.sqrt((effective * own**2 + APART_VOTES * APART**2) / (effective + APART_VOTES))
    error = MEDIAN_ERROR * apart / math.sqrt(effective)
    return Centre(middle, max(error, _tiers_apart(votes)), effective)


def drawn(own: Centre, guess_log: float, guess_error: float) -> Centre:
    """A centre drawn to what the class says: by less, the more votes it has.

    The error has the distance between the two in it, for one of them is wrong.
    """
    share = DRAWN / (own.votes + DRAWN)
    log = (1 - share) * own.log + share * guess_log
    error = math.hypot((1 - share) * own.error, share * guess_error, share * (guess_log - own.log))
    return Centre(log, max(error, own.error), own.votes)


def distance(votes: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """How far sellers lie off something, each one vote: the middle, and its standard error; 0 of none.

    `votes` has each seller's distances, of whatever products.
    """
    each = np.array([float(np.median(votes[seller])) for seller in sorted(votes)])
    if not len(each):
        return 0.0, 0.0
    middle = float(np.median(each))
    own = 1.4826 * float(np.median(np.abs(each - middle)))
    return middle, MEDIAN_ERROR * max(own, APART) / math.sqrt(len(each))


def median(values: Floats, weight: Floats) -> float:
    """The weighted median; midway where the weights on both sides are the same."""
    order = np.argsort(values, kind="stable")
    ranked, share = values[order], np.cumsum(weight[order]) / weight.sum()
    low = int(np.searchsorted(share, 0.5 - 1e-9))
    high = int(np.searchsorted(share, 0.5 + 1e-9))
    return float(ranked[low] + ranked[min(high, len(ranked) - 1)]) / 2


def _tiers_apart(votes: Sequence[Vote]) -> float:
    """The standard error of the level if each tier of sellers were one vote; 0 of one tier."""
    tiers = sorted({vote.tier for vote in votes})
    if len(tiers) < 2:
        return 0.0
    middles = [float(np.median([v.log for v in votes if v.tier == tier])) for tier in tiers]
    return float(np.std(middles, ddof=1)) / math.sqrt(len(tiers))
