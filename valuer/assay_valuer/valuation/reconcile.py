"""From what the approaches say to one value with its error, and to what the house lends on.

ln V = Σ w_a·ln V_a with w_a ∝ 1/e_a², e_a the weight's error (`estimate.py`): the inverse of Σ, the
approaches' covariance, taken as diagonal, for no data pair their errors yet. They share sources, so
the truth is somewhat wider than said. V is no more than a new one costs (RCN).

Its error has two parts: Σ w_a²·s_a², by the errors of today, and a share of the scatter Σ w_a·(ln V_a −
ln V)², by which approaches that disagree widen it. Both grow smoothly: there is no point at which a
small move of a price changes anything by more than a small move.

*Lending* takes other care. Its weights never change as sources age, its scatter is not bought off by
a high approach, and its low is at most one error above that of the lowest approach: where they disagree,
the lowest decides. What says nothing is taken to say less than the others, and what is so unsure that
it costs more than its absence as if it were absent: its price still holds the value down, and its error no
longer widens that of the rest. So neither more errors, nor older sources, nor the loss of one that said
no less than the rest ever raise it, and a higher rental price never lowers it.

How uncertain the level is and how far prices may fall until a sale are two things that seldom turn out
badly together: what is taken off for both is the root of the sum of their squares, in logs.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from assay_core.units import BPS
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.estimate import Z10_E6, Estimate, approach_error_e6
from assay_valuer.valuation.fixed import E6, root

SCATTER_SHARE: Final = (1, 2)
"""Of the scatter's square, what adds to the error's square: the error of a mean of three from their
scatter. Judgement; more of it would let one seller move a range by more than 5%."""
LEAD_E6: Final = E6
"""How many of its errors lending's low may lie above that of the lowest approach. Judgement."""
_WEIGHT: Final = 10**30


@dataclass(frozen=True, slots=True)
class Reconciled:
    """One value: its log, its error, the weight of each estimate (bps), how far they are apart."""

    log_e6: int
    error_e6: int
    weights_bps: tuple[int, ...]
    capped: bool
    disagree: bool
    """Whether an approach lies further off than the policy's count of standard errors."""


@dataclass(frozen=True, slots=True)
class Start:
    """What lending starts from, in micro-nats: a log of FMV, and what comes off it."""

    log_e6: int
    low_e6: int
    """How far below it the truth lies one time in ten."""
    missing_e6: int
    """For approaches that say nothing, or too unsurely to help."""
    lowest: bool
    """Whether the lowest approach decided."""

    def lent_log_e6(self, fall_e6: int) -> int:
        """What is left after a fall of prices as well."""
        return self.log_e6 - self.missing_e6 - root(self.low_e6**2 + fall_e6**2)


def reconcile(estimates: Sequence[Estimate], rcn_log_e6: int | None, case: Case) -> Reconciled:
    """One value of at least one estimate, for every use but lending."""
    weights = [_WEIGHT // (one.weight_error_e6 * one.weight_error_e6) for one in estimates]
    total = sum(weights)
    mean_e6 = _mean(estimates, weights)
    own_e12 = _own_e12(estimates, weights)
    apart = max(abs(one.log_e6 - mean_e6) for one in estimates)
    sigmas_bps = case.policy.reconciliation.disagreement_sigmas_bps
    scatter_e12 = (
        sum(
            weight * (one.log_e6 - mean_e6) ** 2
            for one, weight in zip(estimates, weights, strict=True)
        )
        // total
    )
    share, of = SCATTER_SHARE
    capped = rcn_log_e6 is not None and rcn_log_e6 < mean_e6
    return Reconciled(
        log_e6=rcn_log_e6 if rcn_log_e6 is not None and capped else mean_e6,
        error_e6=root(own_e12 + scatter_e12 * share // of),
        weights_bps=tuple(weight * BPS // total for weight in weights),
        capped=capped,
        disagree=apart * BPS > sigmas_bps * root(own_e12),
    )


def lending_start(
    estimates: Sequence[Estimate], rcn_log_e6: int | None, case: Case, fall_e6: int
) -> Start:
    """What lending starts from where prices may fall by so much (micro-nats) until a sale: of the
    weighted mean and the lowest approach, what leaves less, with the errors of those that are sure
    enough to help.
    """
    mean_e6 = _lending_mean_e6(estimates)
    if rcn_log_e6 is not None:
        mean_e6 = min(mean_e6, rcn_log_e6)
    lowest_e6 = min(one.log_e6 for one in estimates)
    usual = _usual_weights(case)
    all_e12 = _own_e12(estimates, _lending_weights(estimates))
    found: list[Start] = []
    for sure in _sure(estimates):
        own_e12 = _own_e12(sure, _lending_weights(sure))
        if found and own_e12 >= all_e12:  # no surer than all together, so it lends no more
            continue
        error_e6 = root(own_e12)
        missing_e6 = _missing_e6(sure, usual, case)
        low_e6 = error_e6 * Z10_E6 // E6
        # Who is left out still holds the mean down: that never raises it.
        middle_e6 = min(mean_e6, _lending_mean_e6(sure))
        # The lead comes off the low and not onto the centre: a wider error never raises what is left.
        lead_e6 = error_e6 * LEAD_E6 // E6
        ways = (
            Start(middle_e6, low_e6, missing_e6, lowest=False),
            Start(lowest_e6, low_e6 - lead_e6, missing_e6, lowest=True),
        )
        found.append(min(ways, key=lambda one: one.lent_log_e6(fall_e6)))
    return max(found, key=lambda one: one.lent_log_e6(fall_e6))


def _sure(estimates: Sequence[Estimate]) -> Iterator[tuple[Estimate, ...]]:
    """Every choice of approaches whose errors count, all of them first. What is signed always counts."""
    signed = tuple(one for one in estimates if one.approach == "appraisal")
    others = [one for one in estimates if one.approach != "appraisal"]
    for count in range(len(others), -1, -1):
        for some in itertools.combinations(others, count):
            if some or signed:
                yield (*some, *signed)


def _lending_weights(estimates: Sequence[Estimate]) -> list[int]:
    return [
        _WEIGHT // (one.lending_weight_error_e6 * one.lending_weight_error_e6) for one in estimates
    ]


def _lending_mean_e6(estimates: Sequence[Estimate]) -> int:
    return _mean(estimates, _lending_weights(estimates))


def _mean(estimates: Sequence[Estimate], weights: Sequence[int]) -> int:
    parts = (weight * one.log_e6 for one, weight in zip(estimates, weights, strict=True))
    return sum(parts) // sum(weights)


def _own_e12(estimates: Sequence[Estimate], weights: Sequence[int]) -> int:
    """Σ w²s², in square micro-nats."""
    total = sum(weights)
    parts = ((weight * one.error_e6) ** 2 for one, weight in zip(estimates, weights, strict=True))
    return sum(parts) // (total * total)


def _usual_weights(case: Case) -> dict[str, int]:
    return {
        approach: _WEIGHT // approach_error_e6(case, approach) ** 2
        for approach in ("market", "income", "cost")
    }


def _missing_e6(estimates: Sequence[Estimate], usual: dict[str, int], case: Case) -> int:
    """What lending takes off for approaches that say nothing, micro-nats."""
    said = {"market" if one.approach == "table" else one.approach for one in estimates}
    if "appraisal" in said:
        said.add("market")
    absent = sum(weight for approach, weight in usual.items() if approach not in said)
    return case.policy.reconciliation.missing_e6 * absent // sum(usual.values())
