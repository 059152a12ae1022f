"""From a market snapshot and the fit before it to the parameters that values rest on.

Each day has one fit. What it finds is brought to the fit before it by bounded steps (steps.py), so that
no seller moves a value by much; the first fit of a product has nothing to hold it. Outlooks aim at what
the month's first fit finds, for the forecasts learn by months, and go there a step a day.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np

from assay_core.units import BPS
from assay_valuer.forecast import history, present, steps
from assay_valuer.forecast.cases import HORIZONS, Floats
from assay_valuer.forecast.rounding import e6
from assay_valuer.forecast.specs import performance
from assay_valuer.forecast.steps import Pace, Seen
from assay_valuer.market import labels
from assay_valuer.market.models import SPECS, Product
from assay_valuer.market.names import candidates
from assay_valuer.market.observations import Market, Observations
from assay_valuer.market.series import Series, build_series
from assay_valuer.market.snapshot import MarketSnapshot
from assay_valuer.policy import DEFAULT
from assay_valuer.valuation.estimate import bps_log_e6
from assay_valuer.valuation.parameters import (
    ClassParameters,
    Equivalent,
    Level,
    Outlook,
    Parameters,
    ProductParameters,
)

CODE: Final = "market-fit/2"
"""Name and version of this method."""
CLASSES: Final = (labels.CONSUMER, labels.DATA_CENTRE, labels.WORKSTATION)
KINDS: Final = (present.RENTAL, present.NEW, present.USED, present.SOLD)
EQUIVALENTS_MAX: Final = 6
"""The nearest in performance."""
EQUIVALENT_WITHIN: Final = math.log(4)
"""Beyond a factor of four no product does another's work. Judgement."""


# What a value takes where nothing was fitted: a figure that comes later begins there, whoever brings it.
_USUAL_1Y_E6: Final = bps_log_e6(DEFAULT.income.committed_1y_bps)
_USUAL_3Y_E6: Final = bps_log_e6(DEFAULT.income.committed_3y_bps)
_USUAL_DRIFT_E6: Final = bps_log_e6(DEFAULT.income.residual_year_bps)
_USUAL_VOLATILITY_E6: Final = DEFAULT.reconciliation.daily_volatility_e6
_USUAL_SHORTFALL_E6: Final = -bps_log_e6(BPS - DEFAULT.lending.market_haircut_bps)
_USUAL_SOLD_E6: Final = bps_log_e6(DEFAULT.market.ask_to_sold_bps)
_USUAL_ERROR_E6: Final = DEFAULT.reconciliation.market_error_e6


class _Old(NamedTuple):
    """A figure of the previous fit: whether that knew its product or class, what it had, and what a
    value takes where it had nothing.
    """

    known: bool
    e6: int | None
    usual_e6: int

    @property
    def start_e6(self) -> int | None:
        """What the figure goes on from; None where nothing holds it."""
        return self.usual_e6 if self.known and self.e6 is None else self.e6


Before: TypeAlias = Mapping[str, ProductParameters]
"""The previous fit's products, by name."""


class Markets(NamedTuple):
    """Both markets' series."""

    rental: tuple[Series, ...]
    hardware: tuple[Series, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One class of assets: its products, its series, and what was seen of its levels."""

    name: str
    products: tuple[Product, ...]
    markets: Markets
    seen: dict[tuple[Product, str], Seen]
    forecasts: tuple[tuple[history.Open, ...], tuple[history.Open, ...]] | None
    """Of rentals and of hardware; None where the month's first fit has made them."""
    stress: float


def fit(snapshot: MarketSnapshot, previous: Parameters | None, day: int) -> Parameters:
    """The parameters for a day (an ordinal). Rows dated later do not count.

    `previous` is the last fit of an earlier day: where a day's market is fitted again, it is fitted from
    there again. Given a fit of this day or a later one nothing moves. Never raises for what rows say.
    """
    sha256 = previous.sha256 if previous is not None else None
    if previous is not None and previous.made_day >= day:
        named = {"snapshot_sha256": snapshot.sha256, "previous_sha256": sha256}
        return msgspec.structs.replace(previous, **named)
    markets = Markets(_series(snapshot.rental, day), _series(snapshot.resale, day))
    groups = _groups(markets, day, learn=_learns(markets, previous, day))
    before = {one.product: one for one in previous.products} if previous is not None else None
    days = day - previous.made_day if previous is not None else 0
    products: list[ProductParameters] = []
    for group in groups:
        products += _products(group, _levels(group, before or {}, days), before, day)
    return Parameters(
        made_day=day,
        snapshot_sha256=snapshot.sha256,
        previous_sha256=sha256,
        code=CODE,
        products=tuple(sorted(products, key=lambda one: one.product)),
        classes=tuple(_class(group, previous) for group in groups),
    )


def _series(observations: Observations, day: int) -> tuple[Series, ...]:
    quotes = tuple(quote for quote in observations.quotes if quote.day <= day)
    # The order of rows is no fact about prices: a snapshot may hold them in any.
    ordered = tuple(sorted(quotes, key=lambda quote: (quote.names, quote.day, quote.usd)))
    return build_series(Observations(observations.market, ordered, ()))


def _learns(markets: Markets, previous: Parameters | None, day: int) -> bool:
    """Whether outlooks are found anew: in a month's first fit, and where a market had none."""
    if previous is None or _month(previous.made_day) != _month(day):
        return True
    rental = any(one.rental_outlook_aim for one in previous.products)
    hardware = any(one.hardware_outlook_aim for one in previous.products)
    return bool((markets.rental and not rental) or (markets.hardware and not hardware))


def _month(day: int) -> date:
    return date.fromordinal(day).replace(day=1)


def _groups(markets: Markets, day: int, *, learn: bool) -> list[Group]:
    rental_quotes = present.rental_quotes(markets.rental, day)
    hardware_quotes = present.hardware_quotes(markets.hardware, day)
    if learn:
        forecasts = (
            history.open_forecasts(markets.rental, Market.RENTAL, day, present.RENTAL_AGE_MAX),
            history.open_forecasts(markets.hardware, Market.RESALE, day, present.HARDWARE_AGE_MAX),
        )
    stress = history.stress_floor(markets.hardware)
    found = []
    for name in CLASSES:
        products = tuple(sorted(one for one, specs in SPECS.items() if specs.asset_class == name))
        rentals = present.rentals(rental_quotes, name, products, day)
        seen = {(product, present.RENTAL): one for product, one in rentals.items()}
        seen |= present.hardware(hardware_quotes, products, day)
        mine = Markets(*(tuple(s for s in all_ if s.asset_class == name) for all_ in markets))
        own = (
            (
                tuple(one for one in forecasts[0] if one.series.asset_class == name),
                tuple(one for one in forecasts[1] if one.series.asset_class == name),
            )
            if learn
            else None
        )
        found.append(Group(name, products, mine, seen, own, stress))
    return found


def _levels(group: Group, previous: Before, days: int) -> dict[tuple[Product, str], Level | None]:
    """Every product's level of every kind, moved from the previous fit's."""
    found: dict[tuple[Product, str], Level | None] = {}
    for kind in KINDS:
        pace = _pace(kind, days)
        before = {product: _level(previous.get(str(product)), kind) for product in group.products}
        moves = [
            steps.own_move(old, group.seen.get((product, kind)), pace)[0]
            for product, old in before.items()
            if old is not None and old.references
        ]
        family_e6 = round(float(np.median(moves))) if moves else 0
        for product, old in before.items():
            seen = group.seen.get((product, kind))
            if old is not None:
                found[product, kind] = steps.moved(old, seen, pace, family_e6)
            else:
                new = str(product) not in previous
                found[product, kind] = steps.first(seen, pace, in_use=new) if seen else None
    return found


def _pace(kind: str, days: int) -> Pace:
    rental = kind == present.RENTAL
    yearly = present.UNKNOWN_YEARLY / math.sqrt(365)
    return Pace(
        days=days,
        ageing_e6=e6(present.AGEING[kind] * days),
        unknown_e6=e6(present.RENTAL_UNKNOWN_DAILY if rental else yearly),
        quoted_from=steps.QUOTED_FROM if rental else 1,
    )


def _level(old: ProductParameters | None, kind: str) -> Level | None:
    if old is None:
        return None
    return {
        present.RENTAL: old.rental,
        present.NEW: old.new_ask,
        present.USED: old.used_ask,
        present.SOLD: old.sold,
    }[kind]


def _products(
    group: Group,
    levels: dict[tuple[Product, str], Level | None],
    previous: Before | None,
    day: int,
) -> list[ProductParameters]:
    terms = history.committed(group.markets.rental, day)
    volatility = history.volatility(group.markets.hardware)
    shortfall = history.shortfall(group.markets.hardware)
    found = []
    for product in group.products:
        name = str(product)
        old = previous.get(name) if previous is not None else None
        known = old is not None
        rental_aim, hardware_aim = _aims(group, product, old)
        own = history.volatility(_of(group.markets.hardware, product))
        daily = own if own is not None else volatility
        yearly = [one.q50_e6 * 365 // 180 for one in hardware_aim if one.horizon_days == 180]
        found.append(
            ProductParameters(
                product=name,
                asset_class=group.name,
                day=day,
                rental=levels[product, present.RENTAL],
                new_ask=levels[product, present.NEW],
                used_ask=levels[product, present.USED],
                sold=levels[product, present.SOLD],
                committed_1y_log_e6=_ratio(
                    _Old(known, old.committed_1y_log_e6 if old else None, _USUAL_1Y_E6),
                    _e6(terms.get((name, 1))),
                ),
                committed_3y_log_e6=_ratio(
                    _Old(known, old.committed_3y_log_e6 if old else None, _USUAL_3Y_E6),
                    _e6(terms.get((name, 3))),
                ),
                equivalents=_equivalents(group, product, levels, previous),
                rental_outlook=steps.outlooks(old.rental_outlook if old else (), rental_aim),
                hardware_outlook=steps.outlooks(old.hardware_outlook if old else (), hardware_aim),
                rental_outlook_aim=rental_aim,
                hardware_outlook_aim=hardware_aim,
                drift_log_e6=_ratio(
                    _Old(known, old.drift_log_e6 if old else None, _USUAL_DRIFT_E6),
                    yearly[0] if yearly else None,
                ),
                daily_volatility_e6=_stepped(
                    _Old(known, old.daily_volatility_e6 if old else None, _USUAL_VOLATILITY_E6),
                    max(daily, group.stress) if daily is not None else None,
                ),
                shortfall_log_e6=_stepped(
                    _Old(known, old.shortfall_log_e6 if old else None, _USUAL_SHORTFALL_E6),
                    shortfall,
                ),
            )
        )
    return found


def _aims(
    group: Group, product: Product, old: ProductParameters | None
) -> tuple[tuple[Outlook, ...], tuple[Outlook, ...]]:
    """What the outlooks go to: found in a month's first fit, and kept for the rest of it."""
    kept = (old.rental_outlook_aim, old.hardware_outlook_aim) if old is not None else ((), ())
    if group.forecasts is None:
        return kept
    found = []
    for forecasts, before in zip(group.forecasts, kept, strict=True):
        chosen = [one for one in forecasts if one.series.feed in {"list", "sold", "asking"}]
        own = [one for one in chosen if _is(one.series, product)]
        quantiles = history.pooled(own or chosen)
        found.append(_outlooks(quantiles) if quantiles is not None else before)
    return found[0], found[1]


def _outlooks(quantiles: Floats) -> tuple[Outlook, ...]:
    return tuple(
        Outlook(
            horizon_days=horizon,
            q025_e6=e6(row[0]),
            q10_e6=e6(row[1]),
            q50_e6=e6(row[2]),
            q90_e6=e6(row[3]),
            q975_e6=e6(row[4]),
        )
        for horizon, row in zip(HORIZONS, quantiles.tolist(), strict=True)
    )


def _equivalents(
    group: Group,
    product: Product,
    levels: dict[tuple[Product, str], Level | None],
    previous: Before | None,
) -> tuple[Equivalent, ...]:
    """Products of its class, at least as new, that are quoted new: as the previous fit has it."""
    found = []
    for other in group.products:
        level = levels[other, present.NEW]
        decided = _level(previous.get(str(other)), present.NEW) if previous is not None else level
        if level is None or decided is None or decided.basis != "quotes" or not decided.in_use:
            continue
        gap = performance(other) - performance(product)
        if SPECS[other].released >= SPECS[product].released and abs(gap) <= EQUIVALENT_WITHIN:
            bare = msgspec.structs.replace(level, references=())
            found.append((abs(gap), Equivalent(product=str(other), new_ask=bare,
                                               performance_log_e6=e6(gap))))  # fmt: skip
    found.sort(key=lambda one: (one[0], one[1].product))
    nearest = [one for _, one in found[:EQUIVALENTS_MAX]]
    return tuple(sorted(nearest, key=lambda one: one.product))


def _class(group: Group, previous: Parameters | None) -> ClassParameters:
    old = previous.of_class(group.name) if previous is not None else None
    known = old is not None
    sales, error = history.sales_foretold(group.markets.hardware)
    # Whether a class is tested is what the previous fit has, so that no seller's rows turn it.
    tested = old is None or old.market_error_e6 is not None or old.sales >= history.OUTCOMES_MIN
    return ClassParameters(
        asset_class=group.name,
        # A class that was tested stays so, whoever takes its rows back.
        sales=sales if old is None else max(old.sales, sales),
        ask_to_sold_log_e6=_ratio(
            _Old(known, old.ask_to_sold_log_e6 if old else None, _USUAL_SOLD_E6),
            _e6(history.ask_to_sold(group.markets.hardware)),
        ),
        market_error_e6=_stepped(
            _Old(known, old.market_error_e6 if old else None, _USUAL_ERROR_E6),
            error if tested and sales >= history.OUTCOMES_MIN else None,
        ),
    )


def _of(series: Sequence[Series], product: Product) -> list[Series]:
    return [one for one in series if _is(one, product)]


def _is(one: Series, product: Product) -> bool:
    variant = one.name.split("|")[2] if one.market is Market.RENTAL else ""
    return candidates(one.accelerator, variant) == (product,)


def _e6(value: float | None) -> int | None:
    return None if value is None else e6(value)


def _ratio(old: _Old, aim_e6: int | None) -> int | None:
    """A ratio or drift after a fit; kept where nothing was found."""
    return old.e6 if aim_e6 is None else steps.ratio(old.start_e6, aim_e6)


def _stepped(old: _Old, value: float | None) -> int | None:
    """A deviation after a fit; kept where nothing was found."""
    if value is None:
        return old.e6
    start_e6 = old.start_e6
    return e6(value) if start_e6 is None else steps.stepped(start_e6, e6(value))
