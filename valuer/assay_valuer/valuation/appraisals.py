"""Signed appraisals: what a registered appraiser said that this very GPU is worth.

Each is brought to FMV by the policy's ratios between premises, and counts for no more than the policy lets
any approach lie above the hardware's price (`income.far_e6`). Its weight falls as it ages. For
lending it weighs, from its first day, as it will at the end of its time: so its ageing never raises
what is lent.
"""

from __future__ import annotations

from typing import Final

from assay_core.covenant import Premise
from assay_core.money import Usd
from assay_valuer.findings import Finding
from assay_valuer.valuation.case import Appraisal, Case
from assay_valuer.valuation.estimate import (
    HARDWARE_LOGS_E6,
    Estimate,
    Scope,
    bps_log_e6,
    grown_e6,
    volatility_e6,
    young,
)
from assay_valuer.valuation.fixed import LOG_MAX_E6, exp_e6, log_of_usd, usd_of_log

APPRAISALS_MAX: Final = 8
"""So many of the newest count; a GPU that was appraised more often has older ones left out."""


def newest(case: Case) -> list[Appraisal]:
    """The appraisals that may count, newest first."""
    return sorted(case.appraisals, key=lambda one: (-one.day, one.micros))[:APPRAISALS_MAX]


def appraisals(
    case: Case, scope: Scope, asked_log_e6: int | None, findings: list[Finding]
) -> list[Estimate]:
    """An estimate for each appraisal that counts; the reasons why others do not are said.

    `asked_log_e6`: what a used one sells for by prices; None where none is known.
    """
    found = []
    if len(case.appraisals) > APPRAISALS_MAX:
        detail = f"Of {len(case.appraisals)} appraisals, the newest {APPRAISALS_MAX} alone count."
        findings.append(Finding("appraisal.more", detail))
    for one in newest(case):
        what = f"The appraisal by {one.appraiser}"
        if one.day > case.day + 1:
            findings.append(Finding("appraisal.ahead", f"{what} is dated in the future."))
            continue
        if not young(one.day, scope.appraisal, case):
            detail = f"{what} is {case.day - one.day} days old: too old to count."
            findings.append(Finding("appraisal.old", detail))
            continue
        log_e6 = log_of_usd(Usd(one.micros)) - _premise_log_e6(case, one.premise)
        if not HARDWARE_LOGS_E6[0] <= log_e6 <= HARDWARE_LOGS_E6[1]:
            findings.append(Finding("appraisal.absurd", f"{what} says no price of a GPU."))
            continue
        most_e6 = log_e6 if asked_log_e6 is None else asked_log_e6 + case.policy.income.far_e6
        if log_e6 > most_e6:
            detail = f"{what} says {usd_of_log(log_e6)}, too far above the market: held nearer."
            effect = exp_e6(max(most_e6 - log_e6, -LOG_MAX_E6)) // 100
            findings.append(Finding("appraisal.far", detail, effect))
        found.append(_estimate(case, one, min(log_e6, most_e6)))
    return found


def _estimate(case: Case, one: Appraisal, log_e6: int) -> Estimate:
    policy = case.policy.reconciliation
    stated_e6, daily_e6 = policy.appraisal_error_e6, policy.daily_volatility_e6
    age_days = case.day - one.day
    detail = (
        f"Appraised by {one.appraiser} at {Usd(one.micros)} ({one.premise}), {max(age_days, 0)} days "
        f"ago; document {one.document_sha256[:12]}."
    )
    return Estimate(
        "appraisal",
        log_e6,
        grown_e6(stated_e6, age_days, volatility_e6(case)),
        grown_e6(stated_e6, age_days, daily_e6),
        grown_e6(stated_e6, policy.appraisal_age_max_days, daily_e6),
        (Finding("appraisal", detail),),
    )


def _premise_log_e6(case: Case, premise: Premise) -> int:
    """ln of the premise ÷ FMV, micro-nats."""
    market = case.policy.market
    if premise is Premise.FMV:
        return 0
    log_e6 = bps_log_e6(market.olv_of_fmv_bps)
    if premise is Premise.NOLV:
        log_e6 += bps_log_e6(10_000 - market.sale_cost_bps)
    return log_e6
