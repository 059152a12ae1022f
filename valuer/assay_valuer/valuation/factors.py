"""Named factors on a value: the state of the GPU and the terms of its sale, each with its reason.

All are judgement: no public data pair telemetry or the terms of a sale with sale prices.
"""

from __future__ import annotations

from typing import Final

from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import Specs
from assay_valuer.valuation.case import Board, Case
from assay_valuer.valuation.estimate import bps_log_e6
from assay_valuer.valuation.fixed import E6, exp_e6, ln_ratio

_LN_2_E6: Final = 693_147


def on_value(case: Case, specs: Specs | None) -> tuple[Finding, ...]:
    """The factors on FMV, and on all that follows from it, in the order in which they are taken."""
    policy, subject = case.policy, case.subject
    found = []
    if subject.degraded:
        bps = policy.health.degraded_bps
        detail = (
            f"Degraded: {bps // 100}.{bps % 100:02d}% of the price, a judgement: no public data pairs "
            "telemetry with sale prices."
        )
        found.append(Finding("health.degraded", detail, bps))
    if subject.board is Board.PARTIAL:
        detail = (
            "Not all GPUs of its baseboard are pledged with it: hard to sell alone, a judgement."
        )
        found.append(Finding("board.partial", detail, policy.factors.board_partial_bps))
    if specs is not None and specs.export:
        detail = "Made for one country's export rules: fewer buyers, a judgement."
        found.append(Finding("export.variant", detail, policy.factors.export_bps))
    until = subject.warranty_until
    if until is not None and until - case.day >= policy.factors.warranty_days:
        detail = (
            f"Under warranty for {until - case.day} days more, by its loan's file: a judgement."
        )
        found.append(Finding("warranty", detail, policy.factors.warranty_bps))
    return tuple(found)


def on_lot(case: Case) -> Finding | None:
    """The factor on OLV and FLV for a lot that its market must first swallow."""
    policy, lot = case.policy.factors, case.subject.lot
    sales = None if case.product is None else case.product.monthly_sales
    free = policy.lot_free if sales is None else max(sales * policy.lot_free_of_sales_bps // BPS, 1)
    if lot <= free:
        return None
    doublings_e6 = ln_ratio(lot, free) * E6 // _LN_2_E6
    log_e6 = max(bps_log_e6(policy.lot_doubling_bps) * doublings_e6 // E6, -60 * E6)
    bps = max(exp_e6(log_e6) // 100, policy.lot_least_bps)
    seen = "sales of its market are not known" if sales is None else f"{sales} are sold in a month"
    detail = f"A lot of {lot} where {free} sell as one does ({seen}): a judgement."
    return Finding("lot", detail, bps)
