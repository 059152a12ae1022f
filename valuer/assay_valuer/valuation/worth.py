"""What a valuation comes to: ranges, the same thing under each premise, and what each approach said.

Integers only. Every amount is rounded down to a micro-dollar (`Usd.times_down`), for value secures a
debt. What cannot be known is None with the reason beside it, and never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from assay_core.money import Usd
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import Product


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


def together(some: Sequence[tuple[Values, int]]) -> Values:
    """What so many of each are worth, as if all moved together: the widest ranges, for nothing is known
    to offset.
    """
    return Values(
        fmv=_sum([(one.fmv, count) for one, count in some]),
        olv=_sum([(one.olv, count) for one, count in some]),
        nolv=_sum([(one.nolv, count) for one, count in some]),
        flv=_sum([(one.flv, count) for one, count in some]),
    )


def _sum(some: Sequence[tuple[Range, int]]) -> Range:
    low = mid = high = 0
    for one, count in some:
        low += one.low.micros * count
        mid += one.mid.micros * count
        high += one.high.micros * count
    return Range(Usd(low), Usd(mid), Usd(high))


@dataclass(frozen=True, slots=True)
class Indication:
    """What one approach says that such a GPU in good health is worth (FMV), and how much that weighs.

    `approach` is market, income, cost, appraisal, or table for a used row of the price table.
    `error_e6` is its standard error in log, micro-nats; the weights of a value's indications come to
    10,000 basis points but for rounding down.
    """

    approach: str
    range: Range
    error_e6: int
    weight_bps: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Valuation:
    """Values, or None where they are unknown; the findings say why, either way.

    `lending` is what the house would lend on for one such GPU before assurance; None where nothing is
    known to lend on.
    """

    product: Product | None
    values: Values | None
    findings: tuple[Finding, ...]
    lending: Usd | None = None
    indications: tuple[Indication, ...] = ()
    case_sha256: str | None = None


def unknown(
    product: Product | None, code: str, detail: str, case_sha256: str | None = None
) -> Valuation:
    """No value, for one reason."""
    return Valuation(product, None, (Finding(code, detail),), case_sha256=case_sha256)
