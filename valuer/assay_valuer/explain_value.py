"""One GPU's value in words and numbers, from price rows to what is lent: for whoever must believe it.

Nothing is worked out here that the value does not rest on: this reads its case, and says what each
number in it is, how well it is known, who stands behind it and where it can be looked up. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date

import msgspec

from assay_core.money import Usd
from assay_valuer.results import StoredFinding, StoredIndication, StoredValuation, StoredValues
from assay_valuer.valuation.case import Appraisal, Case, Override, Subject, TablePrice
from assay_valuer.valuation.fixed import E6, LOG_MAX_E6, exp_e6, usd_of_log
from assay_valuer.valuation.parameters import Level, ProductParameters


class SellerReference(msgspec.Struct, frozen=True, kw_only=True):
    """Up to where a seller's own price has moved a level, micro-dollars."""

    seller: str
    micros: int


class LevelSaid(msgspec.Struct, frozen=True, kw_only=True):
    """A level of prices that the value may rest on. `error_bps`: one standard error, of the price."""

    what: str
    micros: int
    error_bps: int
    sellers: int
    quotes: int
    newest_day: str
    basis: str
    references: tuple[SellerReference, ...]


class RatioSaid(msgspec.Struct, frozen=True, kw_only=True):
    """A fitted ratio, basis points."""

    what: str
    bps: int


class HashSaid(msgspec.Struct, frozen=True, kw_only=True):
    """Something that the value rests on, by its name; `position` is of its record in the ledger."""

    what: str
    sha256: str
    position: int | None


class ValueExplained(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about one value, from the market to the loan. `rejected` counts rows of its product
    that do not count, by reason; `loan` is what was taken off on the way to what the house would lend.
    """

    gpu: str
    product: str | None
    loan: str | None
    counts: bool
    day: str
    method: str
    subject: Subject
    table: tuple[TablePrice, ...]
    levels: tuple[LevelSaid, ...]
    ratios: tuple[RatioSaid, ...]
    rejected: dict[str, int]
    appraisals: tuple[Appraisal, ...]
    override: Override | None
    indications: tuple[StoredIndication, ...]
    findings: tuple[StoredFinding, ...]
    values: StoredValues | None
    lending_micros: int | None
    standing: tuple[StoredFinding, ...]
    position: tuple[StoredFinding, ...]
    hashes: tuple[HashSaid, ...]


def levels_of(product: ProductParameters | None) -> tuple[LevelSaid, ...]:
    """Every level fitted of a product, those of what would do its work among them."""
    return () if product is None else tuple(_levels(product))


def _levels(product: ProductParameters) -> Iterator[LevelSaid]:
    own = {
        "rental, $ per GPU-hour": product.rental,
        "asked, new": product.new_ask,
        "asked, used": product.used_ask,
        "sold": product.sold,
    }
    for what, level in own.items():
        if level is not None:
            yield _level(what, level)
    for one in product.equivalents:
        work = exp_e6(one.performance_log_e6) * 100 // E6
        yield _level(f"asked, new: {one.product}, {work}% of its work", one.new_ask)


def _level(what: str, level: Level) -> LevelSaid:
    return LevelSaid(
        what=what,
        micros=usd_of_log(level.log_e6).micros,
        error_bps=(exp_e6(min(level.error_e6, LOG_MAX_E6)) - E6) * 10_000 // E6,
        sellers=level.sellers,
        quotes=level.quotes,
        newest_day=date.fromordinal(level.newest_day).isoformat(),
        basis=level.basis,
        references=tuple(
            SellerReference(seller=one.seller, micros=usd_of_log(one.log_e6).micros)
            for one in level.references
        ),
    )


def ratios_of(case: Case) -> tuple[RatioSaid, ...]:
    """Every ratio that was fitted of the product and its class."""
    product, learned = case.product, case.asset_class
    if product is None:
        return ()
    logs: Mapping[str, int | None] = {
        "committed for a year ÷ on demand": product.committed_1y_log_e6,
        "committed for three years ÷ on demand": product.committed_3y_log_e6,
        "price after a year ÷ now": product.drift_log_e6,
        "sold ÷ asked, of its class": None if learned is None else learned.ask_to_sold_log_e6,
    }
    return tuple(
        RatioSaid(what=what, bps=exp_e6(log) * 10_000 // E6)
        for what, log in logs.items()
        if log is not None
    )


def explain_value(
    case: Case,
    valuation: StoredValuation,
    *,
    gpu: str,
    loan: str | None,
    counts: bool,
    rejected: Mapping[str, int],
    standing: tuple[StoredFinding, ...],
    position: tuple[StoredFinding, ...],
    hashes: tuple[HashSaid, ...],
) -> ValueExplained:
    """A GPU's value from its case, and what the store says around it."""
    return ValueExplained(
        gpu=gpu,
        product=valuation.product,
        loan=loan,
        counts=counts,
        day=date.fromordinal(case.day).isoformat(),
        method=case.method,
        subject=case.subject,
        table=case.table,
        levels=levels_of(case.product),
        ratios=ratios_of(case),
        rejected=dict(rejected),
        appraisals=case.appraisals,
        override=case.override,
        indications=valuation.indications,
        findings=valuation.findings,
        values=valuation.values,
        lending_micros=valuation.lending_micros,
        standing=standing,
        position=position,
        hashes=hashes,
    )


def usd(micros: int) -> str:
    """Micro-dollars as people read them."""
    return str(Usd(micros))
