"""The same value under each premise, and what the house lends on, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.estimate import Z10_E6
from assay_valuer.valuation.fixed import E6, LOG_MAX_E6, exp_e6, ln_ratio, usd_of_log
from assay_valuer.valuation.reconcile import Start
from assay_valuer.valuation.worth import Range, Values

SHORTFALL_MAX_E6: Final = E6
"""A fitted shortfall beyond 63% of the price is taken as that. Judgement."""


def range_of_log(log_e6: int, error_e6: int) -> Range:
    """10th, 50th and 90th percentile of a log-normal price."""
    off_e6 = error_e6 * Z10_E6 // E6
    low, mid, high = (
        usd_of_log(_within(one)) for one in (log_e6 - off_e6, log_e6, log_e6 + off_e6)
    )
    return Range(low, mid, high)


def values_of(fair: Range, lot: Finding | None, case: Case) -> tuple[Values, tuple[Finding, ...]]:
    """FMV → OLV → NOLV, and FLV, with the steps between them."""
    market = case.policy.market
    olv = fair.times_down(market.olv_of_fmv_bps)
    steps = [Finding("premise.olv", "Orderly sale in about 90 days.", market.olv_of_fmv_bps)]
    if lot is not None:
        olv = _times(olv, lot)
        steps.append(lot)
    nolv = olv.times_down(BPS - market.sale_cost_bps)
    flv = olv.times_down(market.flv_of_olv_bps)
    steps.append(
        Finding("sale.cost", "Net of a reseller's cost of sale.", BPS - market.sale_cost_bps)
    )
    return Values(fair, olv, nolv, flv), tuple(steps)


def fall_log_e6(case: Case) -> int:
    """How far prices may fall while collateral is called, cured and sold, in micro-nats."""
    policy = case.policy.lending
    shortfall = None if case.product is None else case.product.shortfall_log_e6
    if shortfall is None:
        return _loss_log_e6(policy.market_haircut_bps)
    return max(min(shortfall, SHORTFALL_MAX_E6), _loss_log_e6(policy.market_haircut_least_bps))


def lending_of(
    start: Start, factors: Iterable[Finding], lot: Finding | None, case: Case
) -> tuple[Usd, tuple[Finding, ...]]:
    """What is lent on from where lending starts, for a GPU in good health, and what a fall of prices
    takes off it.
    """
    market = case.policy.market
    fall_e6 = fall_log_e6(case)
    steps = [one.effect_bps for one in factors]
    steps += [market.olv_of_fmv_bps, None if lot is None else lot.effect_bps]
    steps.append(BPS - market.sale_cost_bps)
    amount = usd_of_log(_within(start.lent_log_e6(fall_e6)))
    for bps in steps:
        amount = amount if bps is None else amount.times_down(bps, BPS)
    found = [_fall(case)]
    both_e6 = start.log_e6 - start.missing_e6 - start.lent_log_e6(fall_e6)
    back_bps = exp_e6(min(start.low_e6 + fall_e6 - both_e6, LOG_MAX_E6)) // 100
    if back_bps > BPS:
        detail = (
            "A low level and such a fall seldom come together: the root of their squares is taken."
        )
        found.append(Finding("lending.together", detail, back_bps))
    return amount, tuple(found)


def _fall(case: Case) -> Finding:
    """What a fall of prices takes by itself."""
    policy = case.policy.lending
    shortfall = None if case.product is None else case.product.shortfall_log_e6
    if shortfall is None:
        detail = "A fall of prices until the sale, where none was fitted: a judgement."
        return Finding("lending.market", detail, BPS - policy.market_haircut_bps)
    bps = min(
        exp_e6(-min(shortfall, SHORTFALL_MAX_E6)) // 100, BPS - policy.market_haircut_least_bps
    )
    detail = "A fall of prices until the sale: expected shortfall at 97.5% over 120 days, fitted."
    return Finding("lending.market", detail, bps)


def _loss_log_e6(haircut_bps: int) -> int:
    """A haircut as a fall in logs; all of it is more than any price has."""
    return LOG_MAX_E6 if haircut_bps >= BPS else ln_ratio(BPS, BPS - haircut_bps)


def _within(log_e6: int) -> int:
    return min(max(log_e6, -LOG_MAX_E6), LOG_MAX_E6)


def _times(amounts: Range, factor: Finding) -> Range:
    return amounts if factor.effect_bps is None else amounts.times_down(factor.effect_bps)
