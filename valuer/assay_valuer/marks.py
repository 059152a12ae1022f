"""Marks and forecasts: what products are worth by each fit, and what is forecast of it, on record.

They are kept, with one signed record in the ledger, when a fit comes into use, and are never changed
afterwards: a forecast that is scored later was made before anybody could know how it comes out.

Quantities are `rental` (US dollars per GPU-hour), `new_ask`, `used_ask` and `sold` (a GPU's price in
each way), where somebody quotes the product; and `value`: the FMV, in the middle, of a healthy single
GPU. Each is a series of its own, so that none moves because another took its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, insert, select

from assay_core.money import Usd
from assay_core.seal import Signer
from assay_valuer.cases import Author, Basis, day_of, valued
from assay_valuer.ledger.append import append_record
from assay_valuer.market.models import PRODUCTS
from assay_valuer.market.prices import PriceSnapshot
from assay_valuer.policy import ValuerPolicy
from assay_valuer.store.schema import MARK, MARK_FORECAST
from assay_valuer.valuation.case import Subject
from assay_valuer.valuation.fixed import E6, LOG_MAX_E6, exp_e6, usd_of_log
from assay_valuer.valuation.parameters import Level, Outlook, Parameters, ProductParameters

RECORD: Final = "mark"
"""The kind of the ledger's record."""
VALUE: Final = "value"
RENTAL: Final = "rental"
NEAR_PCT: Final = 10
"""How far from its horizon, in percent of it, an outcome may lie."""
MICROS_MAX: Final = 10**15
"""Nothing here costs a billion dollars: what does is not marked."""
_NAMES: Final = {str(product): name for name, product in reversed(list(PRODUCTS.items()))}
"""A driver's name of each product."""


class Quantiles(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a mark may be after a horizon, micro-dollars."""

    horizon_days: int
    q025_micros: int
    q10_micros: int
    q50_micros: int
    q90_micros: int
    q975_micros: int


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a product, or an hour of it, costs on a day (an ordinal, UTC), micro-dollars."""

    product: str
    quantity: str
    day: int
    micros: int


class MarkedForecast(Mark, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mark, and what is forecast of it on its own day."""

    forecasts: tuple[Quantiles, ...] = ()


class MarkRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the ledger says of a day's marks."""

    at_ms: int
    parameters_sha256: str
    marks: tuple[MarkedForecast, ...]


@dataclass(frozen=True, slots=True)
class KeptForecast:
    """A forecast as it was logged, with the mark that it was made of. `position`: in the ledger."""

    mark: Mark
    quantiles: Quantiles
    position: int


def marks_of(
    parameters: Parameters, prices: PriceSnapshot | None, policy: ValuerPolicy, today: int
) -> tuple[MarkedForecast, ...]:
    """The marks of a fit, by product and quantity; none of one that is of a day to come.

    A forecast is left out whose outcome may be known today, and one of levels that are older than the
    fit: they were marked when they were made.
    """
    if parameters.made_day > today:
        return ()
    author = Author(Basis(prices, parameters), policy, parameters.made_day)
    found: list[MarkedForecast] = []
    for product in parameters.products:
        for quantity, micros, outlooks in _quantities(product, parameters.made_day, author):
            forecasts = (
                _quantiles(micros, one)
                for one in outlooks
                if today * 100 < parameters.made_day * 100 + one.horizon_days * (100 - NEAR_PCT)
            )
            found.append(
                MarkedForecast(
                    product=product.product,
                    quantity=quantity,
                    day=parameters.made_day,
                    micros=micros,
                    forecasts=tuple(one for one in forecasts if one is not None),
                )
            )
    return tuple(found)


def keep_marks(
    connection: Connection,
    *,
    parameters: Parameters,
    prices: PriceSnapshot | None,
    policy: ValuerPolicy,
    signer: Signer,
    now_ms: int,
) -> int:
    """Keeps a fit's marks that its day has none of yet, with a signed record; how many those are."""
    held = {
        (row.product, row.quantity)
        for row in connection.execute(select(MARK).where(MARK.c.day == parameters.made_day))
    }
    marks = tuple(
        one
        for one in marks_of(parameters, prices, policy, day_of(now_ms))
        if (one.product, one.quantity) not in held
    )
    if not marks:
        return 0
    record = MarkRecord(at_ms=now_ms, parameters_sha256=parameters.sha256, marks=marks)
    payload = msgspec.json.encode(record, order="sorted")
    position = append_record(connection, RECORD, payload, signer, now_ms)
    connection.execute(
        insert(MARK),
        [
            {
                "product": one.product,
                "quantity": one.quantity,
                "day": one.day,
                "micros": one.micros,
                "parameters_sha256": parameters.sha256,
            }
            for one in marks
        ],
    )
    forecasts = [
        {
            "product": one.product,
            "quantity": one.quantity,
            "day": one.day,
            "position": position,
            **msgspec.structs.asdict(quantiles),
        }
        for one in marks
        for quantiles in one.forecasts
    ]
    if forecasts:
        connection.execute(insert(MARK_FORECAST), forecasts)
    return len(marks)


def load_marks(connection: Connection) -> list[Mark]:
    """Every mark, by product, quantity and day."""
    statement = select(MARK).order_by(MARK.c.product, MARK.c.quantity, MARK.c.day)
    return [
        Mark(product=row.product, quantity=row.quantity, day=row.day, micros=row.micros)
        for row in connection.execute(statement)
    ]


def load_forecasts(
    connection: Connection, marks: Mapping[tuple[str, str, int], Mark]
) -> list[KeptForecast]:
    """Every forecast with its mark, by product, quantity, day and horizon."""
    found = []
    statement = select(MARK_FORECAST).order_by(
        MARK_FORECAST.c.product,
        MARK_FORECAST.c.quantity,
        MARK_FORECAST.c.day,
        MARK_FORECAST.c.horizon_days,
    )
    for row in connection.execute(statement):
        quantiles = Quantiles(
            horizon_days=row.horizon_days,
            q025_micros=row.q025_micros,
            q10_micros=row.q10_micros,
            q50_micros=row.q50_micros,
            q90_micros=row.q90_micros,
            q975_micros=row.q975_micros,
        )
        mark = marks[row.product, row.quantity, row.day]
        found.append(KeptForecast(mark, quantiles, row.position))
    return found


def _quantities(
    product: ProductParameters, day: int, author: Author
) -> Iterator[tuple[str, int, tuple[Outlook, ...]]]:
    levels: tuple[tuple[str, Level | None, tuple[Outlook, ...]], ...] = (
        (RENTAL, product.rental, product.rental_outlook),
        ("new_ask", product.new_ask, product.hardware_outlook),
        ("used_ask", product.used_ask, product.hardware_outlook),
        ("sold", product.sold, product.hardware_outlook),
    )
    for quantity, level, outlooks in levels:
        if level is None or not level.sellers or product.day != day:
            continue
        micros = usd_of_log(level.log_e6).micros if level.log_e6 <= LOG_MAX_E6 else 0
        if 0 < micros <= MICROS_MAX:
            yield quantity, micros, outlooks
    name = _NAMES.get(product.product)
    values = None if name is None else valued(author.case(Subject(name=name))).values
    if values is not None and 0 < values.fmv.mid.micros <= MICROS_MAX:
        yield VALUE, values.fmv.mid.micros, product.hardware_outlook


def _quantiles(micros: int, outlook: Outlook) -> Quantiles | None:
    """The outlook of an amount; None where it foresees what is no price."""
    logs = (outlook.q025_e6, outlook.q10_e6, outlook.q50_e6, outlook.q90_e6, outlook.q975_e6)
    amounts = [Usd(micros).times_down(exp_e6(log), E6).micros for log in logs]
    if not 0 < amounts[0] <= amounts[-1] <= MICROS_MAX or amounts != sorted(amounts):
        return None
    q025, q10, q50, q90, q975 = amounts
    return Quantiles(
        horizon_days=outlook.horizon_days,
        q025_micros=q025,
        q10_micros=q10,
        q50_micros=q50,
        q90_micros=q90,
        q975_micros=q975,
    )
