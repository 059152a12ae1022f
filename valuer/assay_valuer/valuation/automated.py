"""The automated valuation: every approach that has something to say, reconciled, under each premise."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import msgspec

from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import Specs
from assay_valuer.valuation.appraisals import appraisals, newest
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.cost_approach import Replacement, cost, replacement
from assay_valuer.valuation.estimate import Estimate, Scope, validated
from assay_valuer.valuation.factors import on_lot, on_value
from assay_valuer.valuation.fixed import LOG_MAX_E6, exp_e6, ln_ratio, log_of_usd, usd_of_log
from assay_valuer.valuation.income_approach import income
from assay_valuer.valuation.market_approach import market, table
from assay_valuer.valuation.premises import fall_log_e6, lending_of, range_of_log, values_of
from assay_valuer.valuation.reconcile import Reconciled, Start, lending_start, reconcile
from assay_valuer.valuation.worth import Indication, Range, Values


@dataclass(frozen=True, slots=True)
class Automated:
    """An automated valuation; `values` is None where nothing counts, and the findings say why."""

    values: Values | None
    lending: Usd | None
    error_e6: int | None
    indications: tuple[Indication, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class _Gathered:
    """What all approaches said, and what a new one costs."""

    estimates: tuple[Estimate, ...]
    rcn_log_e6: int | None


def automated(case: Case, specs: Specs | None) -> Automated:
    """The value of the case's GPU by its sources alone."""
    refusals: list[Finding] = []
    young, *older = _scopes(case)
    fresh = _gather(case, specs, young, refusals)
    if all(one.nothing for one in fresh.estimates):
        return Automated(None, None, None, (), tuple(refusals))
    one = reconcile(fresh.estimates, fresh.rcn_log_e6, case)
    fair = range_of_log(one.log_e6, one.error_e6)
    only = fresh.estimates[0].own if len(fresh.estimates) == 1 and not one.capped else None
    if only is not None:
        fair = only
    factors, lot = on_value(case, specs), on_lot(case)
    gathered = [fresh, *(_gather(case, specs, scope, []) for scope in older)]
    starts = _starts(gathered, only, case)
    bare = _bare_starts(case, specs)
    start = min([*starts, *bare], key=lambda one: one.lent_log_e6(fall_log_e6(case)))
    lending, falls = lending_of(start, factors, lot, case)
    said = tuple(finding for estimate in fresh.estimates for finding in estimate.findings)
    findings = [*refusals, *said, *_reconciled(one, fresh, case), *factors]
    worth = fair
    for factor in factors:
        if factor.effect_bps is not None:
            worth = worth.times_down(factor.effect_bps)
    values, steps = values_of(worth, lot, case)
    findings += steps
    if values.olv.low.micros <= 0:
        findings.append(Finding("price.vanishes", "Its value rounds to nothing: no value."))
        return Automated(None, None, one.error_e6, _indications(fresh, one), tuple(findings))
    if start not in starts:
        detail = "Nothing more is lent on a contract: only its loan's file says that there is one."
        findings.append(Finding("lending.contract", detail))
    older_decides = start not in (starts[0], *bare[:1])
    findings += (*_lending(start, fair, older=older_decides), *falls)
    return Automated(values, lending, one.error_e6, _indications(fresh, one), tuple(findings))


def _starts(gathered: list[_Gathered], only: Range | None, case: Case) -> list[Start]:
    """What lending starts from by the sources that count, then with any of what is too old. `only`: the
    range of a table's row that stands alone.
    """
    fall_e6 = fall_log_e6(case)
    fresh, *older = (
        lending_start(one.estimates, one.rcn_log_e6, case, fall_e6) for one in gathered
    )
    if only is not None:
        low_e6 = ln_ratio(only.mid.micros, only.low.micros)
        own = Start(log_of_usd(only.mid), low_e6, 0, lowest=False)
        fresh = min(fresh, own, key=lambda one: one.lent_log_e6(fall_e6))
    # A row's own range holds what is lent when it is too old as well, where it would stand alone.
    for one in gathered[1:]:
        row = one.estimates[0].own if len(one.estimates) == 1 else None
        if row is not None:
            low_e6 = ln_ratio(row.mid.micros, row.low.micros)
            older.append(Start(log_of_usd(row.mid), low_e6, 0, lowest=False))
    return [fresh, *older]


def _bare_starts(case: Case, specs: Specs | None) -> list[Start]:
    """What lending would start from without the contract; none where there is no contract."""
    if case.subject.contract is None:
        return []
    subject = msgspec.structs.replace(case.subject, contract=None)
    bare = msgspec.structs.replace(case, subject=subject)
    gathered = [_gather(bare, specs, scope, []) for scope in _scopes(bare)]
    said = [one for one in gathered if not all(each.nothing for each in one.estimates)]
    if not said:
        return []
    alone = len(said[0].estimates) == 1
    return _starts(said, said[0].estimates[0].own if alone else None, bare)


def _scopes(case: Case) -> list[Scope]:
    """The scope of the value, and those that lending takes beside it: with any of what is too old.

    Lending takes the lowest of all: so a source never lends more by growing too old to count.
    """
    prices = case.policy.market.price_age_max_days
    signed = case.policy.reconciliation.appraisal_age_max_days
    fit = () if case.product is None else (case.product.day,)
    used = (row.day for row in case.table if row.condition == "used")
    new = (row.day for row in case.table if row.condition == "new")
    by_kind = [
        [prices, None] if any(case.day - day > prices for day in days) else [prices]
        for days in (fit, used, new)
    ]
    ages = {case.day - one.day for one in newest(case)}
    by_kind.append([signed, *sorted(age for age in ages if age > signed)])
    return [Scope(*days) for days in itertools.product(*by_kind)]


def _gather(case: Case, specs: Specs | None, scope: Scope, findings: list[Finding]) -> _Gathered:
    """Every approach's estimate by the sources that count."""
    sold, row, used, new = _of_hardware(case, scope, findings)
    hardware = _first_log_e6(sold, row, used)
    earned = income(case, specs, hardware, scope, findings)
    found = [one for one in (sold, row, earned, used) if one is not None]
    if case.appraisals:
        # However old: nobody's word counts for more by outliving every price.
        ever = replace(scope, fit=None, used_row=None, new_row=None)
        asked = hardware
        if asked is None:
            asked = _first_log_e6(*_of_hardware(case, ever, [])[:3])
        found += appraisals(case, scope, asked, findings)
    return _Gathered(tuple(found), None if new is None else new.log_e6)


def _of_hardware(
    case: Case, scope: Scope, findings: list[Finding]
) -> tuple[Estimate | None, Estimate | None, Estimate | None, Replacement | None]:
    """By sales and asking prices, by the table, and by what a new one costs."""
    sold = market(case, scope, findings)
    row = table(case, scope, findings)
    new = replacement(case, scope, findings)
    # A table that prices used ones has said what they are worth: its new row only caps that.
    used = None if new is None or (row is not None and new.row is not None) else cost(case, new)
    return sold, row, used, new


def _first_log_e6(*estimates: Estimate | None) -> int | None:
    return next((one.log_e6 for one in estimates if one is not None), None)


def _indications(fresh: _Gathered, one: Reconciled) -> tuple[Indication, ...]:
    return tuple(
        Indication(
            estimate.approach,
            estimate.own or range_of_log(estimate.log_e6, estimate.error_e6),
            estimate.error_e6,
            weight_bps,
            estimate.findings,
        )
        for estimate, weight_bps in zip(fresh.estimates, one.weights_bps, strict=True)
    )


def _reconciled(one: Reconciled, fresh: _Gathered, case: Case) -> list[Finding]:
    """How the indications became one, where that needs saying."""
    found = []
    if not validated(case):
        least = case.policy.reconciliation.sales_min
        detail = (
            f"Fewer than {least} realised sales of this class to test on: errors and weights are the "
            "policy's judgement, and nothing here is validated."
        )
        found.append(Finding("class.unvalidated", detail))
    if one.disagree:
        said = ", ".join(
            f"{estimate.approach} {usd_of_log(estimate.log_e6)}" for estimate in fresh.estimates
        )
        detail = (
            f"The approaches disagree ({said}): the error is widened, and the lowest is lent on."
        )
        found.append(Finding("approaches.disagree", detail))
    if one.capped:
        detail = f"No more than a new one costs: {usd_of_log(one.log_e6)}."
        found.append(Finding("value.capped", detail))
    return found


def _lending(start: Start, fair: Range, *, older: bool) -> list[Finding]:
    """The steps from FMV to what lending starts from."""
    low = usd_of_log(max(start.log_e6 - start.low_e6 - start.missing_e6, -LOG_MAX_E6))
    effect = low.micros * BPS // fair.mid.micros
    found = [Finding("lending.low", f"One in ten is worth less than {low} (FMV).", effect)]
    if start.missing_e6:
        detail = (
            "Approaches that say nothing, or so unsurely that it comes to that, are taken to say less "
            "than the others: a judgement."
        )
        found.append(Finding("lending.missing", detail, exp_e6(-start.missing_e6) // 100))
    if start.lowest:
        found.append(Finding("lending.lowest", "The lowest approach decides what is lent on."))
    if older:
        found.append(
            Finding("lending.older", "What is too old to count as a price lowers it still.")
        )
    return found
