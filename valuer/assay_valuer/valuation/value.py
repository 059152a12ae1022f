"""An automated valuation of one GPU: from its standing and a price table to a range of values.

Integers only. Every amount is rounded down to a micro-dollar (`Usd.times_down`), for value secures
a debt. What cannot be known is None with the reason beside it, and never zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_core.instants import DAY_MS, format_duration
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import Product, product_of
from assay_valuer.market.prices import Condition, Price, PriceSnapshot
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.types import Standing

METHOD: Final = "price-table/1"
"""Name and version of this method; part of the methodology's hash."""


@dataclass(frozen=True, slots=True)
class Range:
    """10th percentile, median, 90th percentile."""

    low: Usd
    mid: Usd
    high: Usd

    def times_down(self, factor_bps: int) -> Range:
        """Each times a factor in basis points, rounded down."""
        return Range(
            self.low.times_down(factor_bps, BPS),
            self.mid.times_down(factor_bps, BPS),
            self.high.times_down(factor_bps, BPS),
        )

    def times(self, count: int) -> Range:
        """Of `count` alike."""
        return Range(
            self.low.times_down(count, 1),
            self.mid.times_down(count, 1),
            self.high.times_down(count, 1),
        )

    def __add__(self, other: Range) -> Range:
        """Sums as if both moved together: the widest range, for nothing is known to offset."""
        return Range(self.low + other.low, self.mid + other.mid, self.high + other.high)


@dataclass(frozen=True, slots=True)
class Values:
    """The same thing under each premise; NOLV is OLV net of the cost of sale."""

    fmv: Range
    olv: Range
    nolv: Range
    flv: Range

    def times(self, count: int) -> Values:
        """Of `count` alike."""
        return Values(
            self.fmv.times(count),
            self.olv.times(count),
            self.nolv.times(count),
            self.flv.times(count),
        )

    def __add__(self, other: Values) -> Values:
        return Values(
            self.fmv + other.fmv,
            self.olv + other.olv,
            self.nolv + other.nolv,
            self.flv + other.flv,
        )


@dataclass(frozen=True, slots=True)
class Valuation:
    """Values, or None where they are unknown; the findings say why, either way."""

    product: Product | None
    values: Values | None
    findings: tuple[Finding, ...]


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


def _unknown(product: Product | None, code: str, detail: str) -> Valuation:
    return Valuation(product, None, (Finding(code, detail),))


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
