"""Price tables: a strict CSV of what a product sells for, and the snapshot it is kept as.

Columns: model, form_factor, condition, low_usd, mid_usd, high_usd, as_of, source. Prices are what a
willing buyer pays a willing seller in reasonable time (FMV), in US dollars for one GPU; low and high
are the 10th and 90th percentile. Every row names where it comes from.
"""

from __future__ import annotations

import csv
import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from types import MappingProxyType
from typing import Final

from assay_core.errors import FileError
from assay_core.instants import parse_instant
from assay_core.money import Usd
from assay_valuer.market.models import Product

COLUMNS: Final = (
    "model",
    "form_factor",
    "condition",
    "low_usd",
    "mid_usd",
    "high_usd",
    "as_of",
    "source",
)
ROWS_MAX: Final = 10_000
TEXT_MAX: Final = 512


class Condition(enum.StrEnum):
    """The state a price is for."""

    NEW = "new"
    USED = "used"
    FOR_PARTS = "for_parts"


@dataclass(frozen=True, slots=True)
class Price:
    """One row: low ≤ mid ≤ high, all positive, as of midnight UTC of a day."""

    product: Product
    condition: Condition
    low: Usd
    mid: Usd
    high: Usd
    as_of_ms: int
    source: str


@dataclass(frozen=True, slots=True)
class PriceSnapshot:
    """A price table as it was imported; `sha256` is of its canonical JSON, hex."""

    rows: Mapping[tuple[Product, Condition], Price]
    sha256: str

    def price(self, product: Product, condition: Condition) -> Price | None:
        """The row for a product in a condition, if the table has one."""
        return self.rows.get((product, condition))

    @property
    def as_of_ms(self) -> int:
        """The day of the newest row."""
        return max(price.as_of_ms for price in self.rows.values())


def read_prices(text: str, name: str) -> PriceSnapshot:
    """The table in a CSV file's text. Raises FileError naming the line and the field."""
    reader = csv.reader(text.splitlines(), strict=True)
    rows: dict[tuple[Product, Condition], Price] = {}
    try:
        header = next(reader, None)
        _check_header(header, name)
        for cells in reader:
            if not cells:
                continue
            where = f"{name}:{reader.line_num}"
            price = _row(cells, where)
            key = (price.product, price.condition)
            if key in rows:
                raise FileError(f"{where}: model: {price.product}, {price.condition}: given twice")
            rows[key] = price
            if len(rows) > ROWS_MAX:
                raise FileError(f"{where}: more than {ROWS_MAX} rows")
    except csv.Error as error:
        raise FileError(f"{name}:{reader.line_num}: {error}") from error
    if not rows:
        raise FileError(f"{name}: has no prices")
    return _snapshot(rows)


def to_json(snapshot: PriceSnapshot) -> str:
    """Canonical JSON: sorted rows, sorted keys, no spaces, amounts in micro-dollars."""
    return _canonical(snapshot.rows)


def from_json(text: str) -> PriceSnapshot:
    """What `to_json` wrote. Raises FileError."""
    try:
        rows = {}
        for one in json.loads(text):
            product = Product(str(one["model"]), str(one["form_factor"]))
            condition = Condition(one["condition"])
            rows[product, condition] = Price(
                product,
                condition,
                Usd(int(one["low_micros"])),
                Usd(int(one["mid_micros"])),
                Usd(int(one["high_micros"])),
                int(one["as_of_ms"]),
                str(one["source"]),
            )
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(f"a stored price table does not read back: {error}") from error
    return _snapshot(rows)


def _snapshot(rows: dict[tuple[Product, Condition], Price]) -> PriceSnapshot:
    digest = hashlib.sha256(_canonical(rows).encode()).hexdigest()
    return PriceSnapshot(MappingProxyType(rows), digest)


def _canonical(rows: Mapping[tuple[Product, Condition], Price]) -> str:
    table = [
        {
            "model": price.product.model,
            "form_factor": price.product.form_factor,
            "condition": price.condition.value,
            "low_micros": price.low.micros,
            "mid_micros": price.mid.micros,
            "high_micros": price.high.micros,
            "as_of_ms": price.as_of_ms,
            "source": price.source,
        }
        for _, price in sorted(rows.items(), key=lambda item: item[0])
    ]
    return json.dumps(table, sort_keys=True, separators=(",", ":"))


def _check_header(header: list[str] | None, name: str) -> None:
    if not header:
        raise FileError(f"{name}:1: the first line names the columns: {','.join(COLUMNS)}")
    unknown = [column for column in header if column not in COLUMNS]
    if unknown:
        raise FileError(f"{name}:1: {unknown[0]!r}: no such column; there are {', '.join(COLUMNS)}")
    if tuple(header) != COLUMNS:
        raise FileError(f"{name}:1: the columns must be, in this order: {','.join(COLUMNS)}")


def _row(cells: list[str], where: str) -> Price:
    if len(cells) != len(COLUMNS):
        raise FileError(f"{where}: {len(cells)} fields, {len(COLUMNS)} are expected")
    values = dict(zip(COLUMNS, cells, strict=True))
    for field in ("model", "form_factor", "source"):
        text = values[field]
        if not text or text != text.strip() or len(text) > TEXT_MAX:
            raise FileError(f"{where}: {field}: empty, too long, or with spaces around it")
    try:
        condition = Condition(values["condition"])
    except ValueError:
        known = ", ".join(Condition)
        raise FileError(f"{where}: condition: {values['condition']!r} is none of {known}") from None
    low, mid, high = (_amount(values, f"{which}_usd", where) for which in ("low", "mid", "high"))
    if not low <= mid <= high:
        raise FileError(f"{where}: mid_usd: not low {low} <= mid {mid} <= high {high}")
    product = Product(values["model"], values["form_factor"])
    return Price(product, condition, low, mid, high, _day(values["as_of"], where), values["source"])


def _amount(values: Mapping[str, str], field: str, where: str) -> Usd:
    try:
        amount = Usd.parse(values[field])
    except FileError as error:
        raise FileError(f"{where}: {field}: {error}") from error
    if amount.micros <= 0:
        raise FileError(f"{where}: {field}: {values[field]!r} is not a price; it must be positive")
    return amount


def _day(text: str, where: str) -> int:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise FileError(f"{where}: as_of: {text!r} is not a date such as 2026-11-23") from None
    if day.isoformat() != text:
        raise FileError(f"{where}: as_of: write the date as {day.isoformat()}")
    return parse_instant(f"{text}T00:00:00Z")
