"""Builders of cases to value: a plausible H100 unless told, in dollars and days that a person can read."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from msgspec.structs import replace

from assay_valuer.policy import DEFAULT, ValuerPolicy
from assay_valuer.valuation.case import Case, CasePolicy, Subject, TablePrice
from assay_valuer.valuation.parameters import ClassParameters, Level, ProductParameters
from assay_valuer.valuation.value import METHOD

DAY = date(2026, 11, 18).toordinal()
H100 = "NVIDIA H100 80GB HBM3"
CLASS = "data_centre"


def log_e6(dollars: float | str) -> int:
    """ln of dollars, by decimal: tests state prices and not logarithms."""
    return round(Decimal(str(dollars)).ln() * 1_000_000)


def level(
    dollars: float | str,
    *,
    error_e6: int = 80_000,
    sellers: int = 5,
    row_days: int = 3,
    basis: str = "quotes",
) -> Level:
    return Level(
        log_e6=log_e6(dollars),
        error_e6=error_e6,
        sellers=sellers,
        quotes=40,
        newest_day=DAY - row_days,
        basis=basis,
    )


def parameters(
    product: str = "H100 SXM5", asset_class: str = CLASS, **fitted: object
) -> ProductParameters:
    bare = ProductParameters(product=product, asset_class=asset_class, day=DAY)
    return replace(bare, **fitted)


def learned(asset_class: str = CLASS, sales: int = 0, **known: object) -> ClassParameters:
    return replace(ClassParameters(asset_class=asset_class, sales=sales), **known)


def case_policy(policy: ValuerPolicy = DEFAULT) -> CasePolicy:
    return CasePolicy(
        health=policy.health,
        market=policy.market,
        income=policy.income,
        cost=policy.cost,
        reconciliation=policy.reconciliation,
        factors=policy.factors,
        lending=policy.lending,
    )


def case(name: str | None = H100, /, **parts: object) -> Case:
    """A case of a GPU with this driver's name; `subject` overrides the name."""
    stated = Case(
        method=METHOD,
        day=DAY,
        subject=Subject(name=name),
        policy=case_policy(),
        policy_sha256=DEFAULT.sha256,
        has_prices=True,
    )
    return replace(stated, **parts)


def h100(**fitted: object) -> Case:
    """An H100 SXM5 with every level there is, near the prices of 2026, unless told."""
    levels = {
        "rental": level("2.20"),
        "new_ask": level("29000"),
        "used_ask": level("30000"),
        **fitted,
    }
    return case(product=replace(parameters(), **levels), asset_class=learned())


def of_subject(one: Case, **changes: object) -> Case:
    """The case with its subject changed."""
    return replace(one, subject=replace(one.subject, **changes))


def of_product(one: Case, **changes: object) -> Case:
    """The case with its product's parameters changed."""
    assert one.product is not None
    return replace(one, product=replace(one.product, **changes))


def row(condition: str, low: int, mid: int, high: int, *, days: int = 17) -> TablePrice:
    """A row of the price table, in whole dollars."""
    return TablePrice(
        condition=condition,
        low_micros=low * 1_000_000,
        mid_micros=mid * 1_000_000,
        high_micros=high * 1_000_000,
        day=DAY - days,
        source="made up for tests",
    )
