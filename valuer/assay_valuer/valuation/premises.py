"""The same value under each premise, and what the house lends on, step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.estimate import Z10_E6
from assay_valuer.valuation.fixed import E6, LOG_MAX_E6, exp_e6, usd_of_log
from assay_valuer.valuation.worth import Range, Values

SHORTFALL_MAX_E6: Final = E6
"""A fitted shortfall beyond 63% of the price is taken as that. Judgement."""


def range_of_log(log_e6: int, error_e6: int) -> Range:
    """10th, 50th and 90th percentile of a log-normal price."""
    off_e6 = error_e6 * Z10_E6 // E6
    low, mid, high = (
        usd_of_log(min(max(one, -LOG_MAX_E6), LOG_MAX_E6))
        for one in (log_e6 - off_e6, log_e6, log_e6 + off_e6)
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


def lending_of(
    fair_low: Usd, factors: Iterable[Finding], lot: Finding | None, case: Case
) -> tuple[Usd, Finding]:
    """What is lent on from a low FMV of a GPU in good health, and the market haircut on its NOLV."""
    market = case.policy.market
    haircut = _market_haircut(case)
    steps = [one.effect_bps for one in factors]
    steps += [market.olv_of_fmv_bps, None if lot is None else lot.effect_bps]
    steps += [BPS - market.sale_cost_bps, haircut.effect_bps]
    amount = fair_low
    for bps in steps:
        amount = amount if bps is None else amount.times_down(bps, BPS)
    return amount, haircut


def _market_haircut(case: Case) -> Finding:
    """What prices may lose while collateral is called, cured and sold."""
    policy = case.policy.lending
    shortfall = None if case.product is None else case.product.shortfall_log_e6
    if shortfall is None:
        bps = BPS - policy.market_haircut_bps
        detail = "A fall of prices until the sale, where none was fitted: a judgement."
        return Finding("lending.market", detail, bps)
    bps = min(
        exp_e6(-min(shortfall, SHORTFALL_MAX_E6)) // 100, BPS - policy.market_haircut_least_bps
    )
    detail = "A fall of prices until the sale: expected shortfall at 97.5% over 120 days, fitted."
    return Finding("lending.market", detail, bps)


def _times(amounts: Range, factor: Finding) -> Range:
    return amounts if factor.effect_bps is None else amounts.times_down(factor.effect_bps)
