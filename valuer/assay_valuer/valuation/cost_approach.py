"""The cost approach: what the same work would cost to buy new today, less what use has taken.

Replacement cost new (RCN) is the cheapest of: the price table's new row, the level of asking prices for
new ones, and what a product that does the same work costs new, by performance. Never a list price of
long ago. RCN caps every value: a used GPU is worth no more than a new one.
"""

from __future__ import annotations

from dataclasses import dataclass

from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.estimate import (
    HARDWARE_LOGS_E6,
    Estimate,
    Scope,
    approach_error_e6,
    bps_log_e6,
    grown_e6,
    level_errors_e6,
    said_of,
    usable,
    volatility_e6,
)
from assay_valuer.valuation.fixed import E6, exp_e6, log_of_usd
from assay_valuer.valuation.market_approach import range_of, row_finding, usable_row
from assay_valuer.valuation.parameters import Level
from assay_valuer.valuation.worth import Range


@dataclass(frozen=True, slots=True)
class Replacement:
    """Replacement cost new: its log, and the errors of the worst of what it was chosen from."""

    log_e6: int
    error_e6: int
    weight_error_e6: int
    findings: tuple[Finding, ...]
    row: Range | None
    """Of the price table's new row, where that is all there is."""


@dataclass(frozen=True, slots=True)
class _New:
    """One price of something new."""

    log_e6: int
    error_e6: int
    weight_error_e6: int
    quoted: bool
    findings: tuple[Finding, ...]
    row: Range | None = None


def replacement(case: Case, scope: Scope, findings: list[Finding]) -> Replacement | None:
    """The cheapest way to do the same work with new hardware; None with the reasons said.

    The errors are the largest of all candidates, so that which of two equal prices is the lower
    changes nothing else.
    """
    found = _candidates(case, scope, findings)
    found = [one for one in found if one.quoted] or found
    if not found:
        return None
    cheapest = min(found, key=lambda one: one.log_e6)
    return Replacement(
        cheapest.log_e6,
        max(one.error_e6 for one in found),
        max(one.weight_error_e6 for one in found),
        cheapest.findings,
        cheapest.row if len(found) == 1 else None,
    )


def cost(case: Case, new: Replacement) -> Estimate:
    """RCN × what a used one is of a new one: physical, functional and economic depreciation in one."""
    factor_bps = case.policy.market.used_of_new_bps
    detail = "Used ÷ new, all depreciation in one factor: taken from the new price, a judgement."
    return Estimate(
        "cost",
        new.log_e6 + bps_log_e6(factor_bps),
        new.error_e6,
        new.weight_error_e6,
        new.weight_error_e6,
        (*new.findings, Finding("condition.used", detail, factor_bps)),
        None if new.row is None else new.row.times_down(factor_bps),
    )


def _candidates(case: Case, scope: Scope, findings: list[Finding]) -> list[_New]:
    own_e6 = approach_error_e6(case, "cost")
    found = []
    row = usable_row(case, "new", scope, findings)
    if row is not None:
        error_e6 = grown_e6(own_e6, case.day - row.day, volatility_e6(case))
        log_e6 = log_of_usd(Usd(row.mid_micros))
        said = (row_finding(case, row),)
        found.append(_New(log_e6, error_e6, own_e6, True, said, range_of(row)))
    product = case.product
    if product is None:
        return found
    found += _level(case, scope, findings, product.new_ask, "new ones, asked")
    policy = case.policy.cost
    least_e6 = bps_log_e6(policy.performance_least_bps)
    most_e6 = bps_log_e6(policy.performance_most_bps)
    for one in product.equivalents:
        if not least_e6 <= one.performance_log_e6 <= most_e6:
            detail = f"{one.product} differs too much in performance to replace it."
            findings.append(Finding("equivalent.unlike", detail))
            continue
        what = f"{one.product} new, asked"
        found += _level(
            case, scope, findings, one.new_ask, what, performance_log_e6=one.performance_log_e6
        )
    return found


def _level(
    case: Case,
    scope: Scope,
    findings: list[Finding],
    level: Level | None,
    what: str,
    *,
    performance_log_e6: int | None = None,
) -> list[_New]:
    """The level as a candidate, or none with the reason said."""
    counts, why_not = usable(level, what, case, scope, HARDWARE_LOGS_E6)
    findings += why_not
    if counts is None:
        return []
    said = list(said_of(counts, what, case))
    log_e6 = counts.log_e6
    if performance_log_e6 is not None:
        power_bps = case.policy.cost.performance_power_bps
        if performance_log_e6 < 0:
            power_bps = max(power_bps, BPS)
        scaled_e6 = -performance_log_e6 * power_bps // BPS
        log_e6 += scaled_e6
        detail = (
            f"{what}: by its performance ({exp_e6(performance_log_e6) * 100 // E6}% of this one's)."
        )
        said.append(Finding("equivalent.performance", detail, exp_e6(scaled_e6) // 100))
    error_e6, weighs_e6 = level_errors_e6(case, counts, approach_error_e6(case, "cost"))
    return [_New(log_e6, error_e6, weighs_e6, counts.basis == "quotes", tuple(said))]
