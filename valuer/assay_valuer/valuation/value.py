"""An automated valuation of one GPU: from its case to a range of values.

Integers only. Every amount is rounded down to a micro-dollar (`Usd.times_down`), for value secures
a debt. What cannot be known is None with the reason beside it, and never zero.
"""

from __future__ import annotations

from datetime import date
from typing import Final

import msgspec

from assay_core.money import Usd
from assay_valuer.findings import Finding
from assay_valuer.market.models import SPECS, Product, product_of
from assay_valuer.valuation.automated import Automated, automated
from assay_valuer.valuation.case import Case, Override
from assay_valuer.valuation.estimate import Z10_E6
from assay_valuer.valuation.factors import on_lot
from assay_valuer.valuation.fixed import E6, log_of_usd
from assay_valuer.valuation.premises import lending_of, range_of_log, values_of
from assay_valuer.valuation.reconcile import Start
from assay_valuer.valuation.worth import Indication, Range, Valuation, Values
from assay_valuer.valuation.worth import unknown as _unknown

__all__ = ["METHOD", "Indication", "Range", "Valuation", "Values", "value_case"]

METHOD: Final = "three-approaches/1"
"""Name and version of this method; part of the methodology's hash."""


def value_case(case: Case) -> Valuation:
    """What the case's GPU is worth on its day. Never raises for a case that `from_json` takes."""
    digest = case.sha256
    if case.method != METHOD:
        detail = f"The case is of the method {case.method}, and this code knows {METHOD} alone."
        return _unknown(None, "method.unknown", detail, digest)
    name = case.subject.name
    if name is None:
        detail = "What product it is has not been read yet."
        return _unknown(None, "product.unread", detail, digest)
    product = product_of(name)
    if product is None:
        return _unknown(None, "product.unknown", f"No product is known as {name!r}.", digest)
    case, notes = _in_use(*_own_alone(case, product))
    by_sources = automated(case, SPECS.get(product))
    if case.override is not None and case.override.until < case.day:
        detail = "The value that people signed in its place has expired: it counts for nothing."
        notes += (Finding("override.expired", detail),)
    elif case.override is not None:
        return _overridden(case, product, case.override, by_sources, notes=notes, digest=digest)
    findings = notes + by_sources.findings
    if by_sources.values is None and not findings:
        findings = (_why_nothing(case, product),)
    return Valuation(
        product, by_sources.values, findings, by_sources.lending, by_sources.indications, digest
    )


def _own_alone(case: Case, product: Product) -> tuple[Case, tuple[Finding, ...]]:
    """The case without parameters that are another product's or another class's."""
    fitted, learned = case.product, case.asset_class
    notes: tuple[Finding, ...] = ()
    specs = SPECS.get(product)
    if fitted is not None and (
        fitted.product != str(product) or specs is None or fitted.asset_class != specs.asset_class
    ):
        detail = (
            f"The parameters are of {fitted.product} ({fitted.asset_class}): not this product's."
        )
        notes += (Finding("product.other", detail),)
        fitted = None
    if learned is not None and (specs is None or learned.asset_class != specs.asset_class):
        detail = (
            f"What was learned is of the class {learned.asset_class}: never pooled with others."
        )
        notes += (Finding("class.other", detail),)
        learned = None
    if not notes:
        return case, notes
    return msgspec.structs.replace(case, product=fitted, asset_class=learned), notes


def _in_use(case: Case, notes: tuple[Finding, ...]) -> tuple[Case, tuple[Finding, ...]]:
    """The case without levels that too few sellers have shown to be used yet."""
    fitted = case.product
    if fitted is None:
        return case, notes
    levels = {
        "rental": fitted.rental,
        "new_ask": fitted.new_ask,
        "used_ask": fitted.used_ask,
        "sold": fitted.sold,
    }
    waiting = [name for name, one in levels.items() if one is not None and not one.in_use]
    for name in waiting:
        detail = (
            f"A price of this kind ({name}) is new to it: it counts when three sellers stand behind "
            "it. A price table or an appraisal counts at once."
        )
        notes += (Finding("level.waiting", detail),)
    product = msgspec.structs.replace(fitted, **dict.fromkeys(waiting))
    return msgspec.structs.replace(case, product=product), notes


def _why_nothing(case: Case, product: Product) -> Finding:
    if not case.has_prices:
        return Finding("price.none", "No price table has been imported, and no market data are in.")
    return Finding("price.missing", f"There is no price of {product} in use.")


def _overridden(
    case: Case,
    product: Product,
    override: Override,
    by_sources: Automated,
    *,
    notes: tuple[Finding, ...],
    digest: str,
) -> Valuation:
    """The value that people signed, with the automated one beside it; lent on is the lower."""
    error_e6 = by_sources.error_e6 or case.policy.reconciliation.cost_error_e6
    signed = Usd(override.micros)
    fair = range_of_log(log_of_usd(signed), error_e6)
    lot = on_lot(case)
    values, steps = values_of(Range(fair.low, signed, max(fair.high, signed)), lot, case)
    start = Start(log_of_usd(signed), error_e6 * Z10_E6 // E6, 0, lowest=False)
    lending, _ = lending_of(start, (), lot, case)
    beside = "none" if by_sources.values is None else str(by_sources.values.fmv.mid)
    detail = (
        f"{signed} (FMV) in the place of the automated {beside}, by {' and '.join(override.signed_by)} "
        f"until {_date(override.until)}, record {override.position}: {override.reason}"
    )
    findings = (Finding("override.in_force", detail), *notes, *by_sources.findings, *steps)
    if by_sources.lending is None:
        detail = "No automated value stands beside the signed one: nothing is lent on it."
        findings += (Finding("override.alone", detail),)
        lent = None
    else:
        lent = min(by_sources.lending, lending)
    if values.olv.low.micros <= 0:
        findings += (Finding("price.vanishes", "Its value rounds to nothing: no value."),)
        return Valuation(product, None, findings, None, by_sources.indications, digest)
    return Valuation(product, values, findings, lent, by_sources.indications, digest)


def _date(day: int) -> str:
    return date.fromordinal(day).isoformat()
