"""An automated valuation of one GPU: from its case to a range of values.

Integers only. Every amount is rounded down to a micro-dollar (`Usd.times_down`), for value secures
a debt. What cannot be known is None with the reason beside it, and never zero.
"""

from __future__ import annotations

from datetime import date
from typing import Final

import msgspec

from assay_core.instants import DAY_MS, format_duration
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import SPECS, Product, product_of
from assay_valuer.market.prices import Condition, Price, PriceSnapshot
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.types import Standing
from assay_valuer.valuation.automated import Automated, automated
from assay_valuer.valuation.case import Case, Override
from assay_valuer.valuation.factors import on_lot
from assay_valuer.valuation.fixed import log_of_usd
from assay_valuer.valuation.premises import lending_of, range_of_log, values_of
from assay_valuer.valuation.worth import Indication, Range, Valuation, Values
from assay_valuer.valuation.worth import unknown as _unknown

__all__ = ["METHOD", "Indication", "Range", "Valuation", "Values", "value", "value_case"]

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
    case, notes = _own_alone(case, product)
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
    lending, _ = lending_of(fair.low, (), lot, case)
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


def value(
    standing: Standing, prices: PriceSnapshot | None, policy: ValuerPolicy, now_ms: int
) -> Valuation:
    """What the GPU is worth now. Market value: assurance does not touch it, health does."""
    if standing.name is None:
        return _unknown(None, "product.unread", "What product it is has not been read yet.")
    product = product_of(standing.name)
    if product is None:
        return _unknown(None, "product.unknown", f"No product is known as {standing.name!r}.")
    if prices is None:
        return _unknown(product, "price.none", "No price table has been imported.")
    findings: list[Finding] = []
    fair = _fair(product, prices, policy, now_ms, findings)
    if fair is None:
        return Valuation(product, None, tuple(findings))
    if standing.severity in (Severity.DEGRADED, Severity.IMPAIRED):
        factor_bps = policy.health.degraded_bps
        fair = fair.times_down(factor_bps)
        detail = (
            f"Degraded: {factor_bps // 100}.{factor_bps % 100:02d}% of the price, a judgement: no public data pairs "
            "telemetry with sale prices."
        )
        findings.append(Finding("health.degraded", detail, factor_bps))
    market = policy.market
    olv = fair.times_down(market.olv_of_fmv_bps)
    nolv = olv.times_down(BPS - market.sale_cost_bps)
    flv = olv.times_down(market.flv_of_olv_bps)
    findings += (
        Finding("premise.olv", "Orderly sale in about 90 days.", market.olv_of_fmv_bps),
        Finding("sale.cost", "Net of a reseller's cost of sale.", BPS - market.sale_cost_bps),
    )
    if olv.low.micros <= 0:
        return _unknown(product, "price.vanishes", "Its value rounds to nothing: no value.")
    return Valuation(product, Values(fair, olv, nolv, flv), tuple(findings))


def _fair(
    product: Product,
    prices: PriceSnapshot,
    policy: ValuerPolicy,
    now_ms: int,
    findings: list[Finding],
) -> Range | None:
    """FMV as used; says where it comes from, or why there is none."""
    price = prices.price(product, Condition.USED)
    if price is not None:
        return _range(price) if _fresh(price, policy, now_ms, findings) else None
    price = prices.price(product, Condition.NEW)
    if price is None:
        findings.append(Finding("price.missing", f"The price table has no {product}."))
        return None
    if not _fresh(price, policy, now_ms, findings):
        return None
    factor_bps = policy.market.used_of_new_bps
    detail = "No used price: taken from the new one, a judgement."
    findings.append(Finding("condition.used", detail, factor_bps))
    return _range(price).times_down(factor_bps)


def _range(price: Price) -> Range:
    return Range(price.low, price.mid, price.high)


def _fresh(price: Price, policy: ValuerPolicy, now_ms: int, findings: list[Finding]) -> bool:
    age_ms = now_ms - price.as_of_ms
    what = f"{price.product}, {price.condition.value}"
    if age_ms > policy.price_age_max_ms:
        detail = f"The price of {what} is {format_duration(age_ms)} old: too old to be one."
        findings.append(Finding("price.old", detail))
        return False
    if age_ms < -DAY_MS:
        findings.append(Finding("price.ahead", f"The price of {what} is dated in the future."))
        return False
    detail = f"{what}: {price.low} / {price.mid} / {price.high}, from {price.source}."
    findings.append(Finding("price.row", detail))
    return True
