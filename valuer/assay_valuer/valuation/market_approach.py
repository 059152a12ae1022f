"""The market approach: what such GPUs sell for, or are asked for and sold below it.

A level of realised sales comes first; else the level of asking prices for used ones, times what sales
are of asking prices. A used row of the price table is an indication of its own: its author has read
the market for himself.
"""

from __future__ import annotations

from typing import Final

from assay_core.money import Usd
from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Case, TablePrice
from assay_valuer.valuation.estimate import (
    HARDWARE_LOGS_E6,
    Z10_E6,
    Estimate,
    Scope,
    approach_error_e6,
    bps_log_e6,
    class_of,
    grown_e6,
    level_errors_e6,
    said_of,
    too_old,
    usable,
    volatility_e6,
    young,
)
from assay_valuer.valuation.fixed import E6, exp_e6, ln_ratio, log_of_usd
from assay_valuer.valuation.parameters import Level
from assay_valuer.valuation.worth import Range

ASK_TO_SOLD_LEAST_E6: Final = -1_609_438
"""No class sells at less than a fifth of what is asked: less is a fault of its pairs. Judgement."""


def market(case: Case, scope: Scope, findings: list[Finding]) -> Estimate | None:
    """The market approach's estimate; None with the reasons among the findings."""
    product = case.product
    if product is None:
        return None
    named = ((product.sold, "sales"), (product.used_ask, "asking prices, used"))
    there = [(level, what) for level, what in named if level is not None]
    # Quoted before estimated, sold before asked: neither hangs on what today's sellers say.
    there.sort(key=lambda one: one[0].basis != "quotes")
    for level, what in there:
        counts, why_not = usable(level, what, case, scope, HARDWARE_LOGS_E6)
        if counts is not None:
            return _estimate(case, counts, what)
        findings += why_not
    return None


def _estimate(case: Case, level: Level, what: str) -> Estimate:
    found = list(said_of(level, what, case))
    log_e6 = level.log_e6
    if what != "sales":
        to_sold_e6, finding = ask_to_sold(case)
        log_e6 += to_sold_e6
        found.append(finding)
    error_e6, weighs_e6 = level_errors_e6(case, level, approach_error_e6(case, "market"))
    return Estimate("market", log_e6, error_e6, weighs_e6, weighs_e6, tuple(found))


def ask_to_sold(case: Case) -> tuple[int, Finding]:
    """ln of sold ÷ asked, micro-nats: the class's own, else the policy's."""
    learned = class_of(case)
    if learned is None or learned.ask_to_sold_log_e6 is None:
        bps = case.policy.market.ask_to_sold_bps
        detail = "Sold ÷ asked: a judgement, for this class has no pairs of its own."
        return bps_log_e6(bps), Finding("ask.to_sold", detail, bps)
    log_e6 = min(max(learned.ask_to_sold_log_e6, ASK_TO_SOLD_LEAST_E6), 0)
    detail = "Sold ÷ asked: learned from this class's own pairs."
    return log_e6, Finding("ask.to_sold", detail, exp_e6(log_e6) // 100)


def table(case: Case, scope: Scope, findings: list[Finding]) -> Estimate | None:
    """The estimate of the price table's used row; None with the reasons among the findings."""
    row = usable_row(case, "used", scope, findings)
    if row is None:
        return None
    spread_e6 = ln_ratio(row.high_micros, row.low_micros)
    # A narrow range is its author's word: it weighs no more than a market that nobody has tested.
    own_e6 = max(spread_e6 * E6 // (2 * Z10_E6), approach_error_e6(case, "market"))
    error_e6 = grown_e6(own_e6, case.day - row.day, volatility_e6(case))
    return Estimate(
        "table",
        log_of_usd(Usd(row.mid_micros)),
        error_e6,
        own_e6,
        own_e6,
        (row_finding(case, row),),
        range_of(row),
    )


def usable_row(
    case: Case, condition: str, scope: Scope, findings: list[Finding]
) -> TablePrice | None:
    """The table's row in a condition, of several the lowest; None with the reason said."""
    rows = [row for row in case.table if row.condition == condition]
    if not rows:
        return None
    row = min(rows, key=lambda one: (one.mid_micros, one.low_micros, one.high_micros, one.day))
    what = f"{case.subject.name}, {condition}"
    if not 0 < row.low_micros <= row.mid_micros <= row.high_micros:
        findings.append(Finding("price.unusable", f"The row of {what} is no range of prices."))
        return None
    if row.day > case.day + 1:
        findings.append(Finding("price.ahead", f"The price of {what} is dated in the future."))
        return None
    days_max = scope.used_row if condition == "used" else scope.new_row
    if not young(row.day, days_max, case):
        findings.append(too_old(f"The price of {what}", row.day, case))
        return None
    return row


def row_finding(case: Case, row: TablePrice) -> Finding:
    """A row of the table as a finding."""
    shown = range_of(row)
    detail = (
        f"{case.subject.name}, {row.condition}: {shown.low} / {shown.mid} / {shown.high}, "
        f"from {row.source}."
    )
    return Finding("price.row", detail)


def range_of(row: TablePrice) -> Range:
    """A row's own range."""
    return Range(Usd(row.low_micros), Usd(row.mid_micros), Usd(row.high_micros))
