"""Price rows of the two CSV shapes, read behind a gate: what does not count is kept, with its reason.

Rental rows have the columns date, provider, accelerator, variant, gpu_count, usd_per_gpu_hour, kind,
region, source_repo; resale rows date, accelerator, price_usd, price_type, condition, market,
source_repo. Others may stand beside them. Prices are US dollars, per GPU-hour or per GPU.

Rows of feeds, which come as cells by column, and rows of a file go the same way: `read_row` judges
one by itself, `market.gate` then judges them together.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from datetime import date
from functools import lru_cache
from typing import Final

from assay_core.errors import FileError
from assay_valuer.market import gate, words
from assay_valuer.market.labels import latin
from assay_valuer.market.quotes import Market, Observations, Quote, Rejected

__all__ = [
    "NAMES",
    "PRICE",
    "ROWS_MAX",
    "Market",
    "Observations",
    "Quote",
    "Rejected",
    "read_observations",
    "read_row",
]

ROWS_MAX: Final = 2_000_000
TEXT_MAX: Final = 256
FIRST_DAY: Final = date(2006, 1, 1).toordinal()
"""Before CUDA there was nothing to rent or to lend on."""
NAMES: Final = {
    Market.RENTAL: ("provider", "accelerator", "variant", "gpu_count", "kind", "region"),
    Market.RESALE: ("market", "accelerator", "price_type", "condition"),
}
"""The columns that name a series, in the order of its name."""
_REQUIRED: Final = {
    Market.RENTAL: ("provider", "accelerator", "kind"),
    Market.RESALE: ("market", "accelerator", "price_type"),
}
PRICE: Final = {Market.RENTAL: "usd_per_gpu_hour", Market.RESALE: "price_usd"}
"""The column that has the price."""
_BOUNDS: Final = {Market.RENTAL: (0.005, 1_000.0), Market.RESALE: (1.0, 2_000_000.0)}
"""US dollars. Outside them a number is no price of a GPU, whatever it is of."""
_INVENTED: Final = re.compile(r"synthetic|simulat|fixture|seed[-_ ]?data|mock|fake", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def read_observations(text: str, name: str, market: Market, last_day: int) -> Observations:
    """The rows of a CSV file's text; `last_day` is today, as an ordinal: later rows are not facts.

    A file without any row is no error, and has none. Raises FileError where a column is missing or
    the file is no CSV.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff"), newline=""))
    quotes: list[Quote] = []
    rejected: list[Rejected] = []
    try:
        _check_columns(reader.fieldnames, name, market)
        for cells in reader:
            line = reader.line_num
            if line > ROWS_MAX:
                raise FileError(f"{name}:{line}: more than {ROWS_MAX} lines")
            read = _csv_row(cells, line, market, last_day)
            if isinstance(read, Quote):
                quotes.append(read)
            else:
                rejected.append(read)
    except csv.Error as error:
        raise FileError(f"{name}:{reader.line_num}: not CSV: {error}") from error
    return gate.judge(market, quotes, rejected)


def read_row(
    cells: Mapping[str, str], line: int, market: Market, last_day: int, feed: str = ""
) -> Quote | Rejected:
    """One row, cells by column, before it is compared with others. A column may be missing."""
    texts = {column: cell.strip() for column, cell in cells.items()}
    for field in _REQUIRED[market]:
        if not texts.get(field):
            return Rejected(line, "name", f"{field} is empty")
    names = tuple(texts.get(field, "").replace("|", "/") for field in NAMES[market])
    if max(map(len, names)) > TEXT_MAX:
        return Rejected(line, "name", f"a name is longer than {TEXT_MAX} characters")
    if any(one.isalpha() and not one.isascii() for one in latin(names[0])):
        return Rejected(line, "name", f"{names[0][:40]!a} has letters that are none of a to z")
    repository = texts.get("source_repo", "")
    if _invented(repository) or _invented(texts.get("source_commit_or_path", "")):
        return Rejected(line, "synthetic", "its source calls it made up")
    written = texts.get("date", "")
    day = _day(written)
    if day is None or day < FIRST_DAY:
        return Rejected(line, "date", f"{written[:40]!r} is not a date such as 2026-11-23")
    if day > last_day:
        return Rejected(line, "date.future", f"{written[:40]} is yet to come")
    price = texts.get(PRICE[market], "")
    for rule in words.RULES:
        fault = rule(texts, market, price)
        if fault is not None:
            return Rejected(line, *fault)
    usd = _usd(price, line, market)
    if isinstance(usd, Rejected):
        return usd
    return Quote(names, day, usd, line, f"{feed}/{repository}"[:TEXT_MAX])


def _usd(text: str, line: int, market: Market) -> float | Rejected:
    if not _NUMBER.fullmatch(text) or not math.isfinite(usd := float(text)):
        return Rejected(line, "price", f"{text[:40]!r} is not a number of US dollars")
    low, high = _BOUNDS[market]
    if not usd > 0:
        return Rejected(line, "price.not_positive", f"{text[:40]} is not a price")
    if not low <= usd <= high:
        return Rejected(
            line, "price.bounds", f"{text[:40]} lies outside {low:g} to {high:g} dollars"
        )
    return usd


def _csv_row(
    cells: Mapping[str | None, str | list[str] | None], line: int, market: Market, last_day: int
) -> Quote | Rejected:
    texts = {key: cell for key, cell in cells.items() if key is not None and isinstance(cell, str)}
    if None in cells or len(texts) != len(cells):
        return Rejected(line, "columns", "has more or fewer fields than the first line")
    return read_row(texts, line, market, last_day)


def _check_columns(header: Sequence[str] | None, name: str, market: Market) -> None:
    if not header:
        return
    wanted = ("date", *NAMES[market], PRICE[market])
    missing = [column for column in wanted if column not in header]
    if missing:
        raise FileError(
            f"{name}:1: no column {missing[0]!r}; a {market} file has {', '.join(wanted)}"
        )


@lru_cache(maxsize=65_536)
def _invented(text: str) -> bool:
    return _INVENTED.search(text) is not None


@lru_cache(maxsize=65_536)
def _day(text: str) -> int | None:
    """An ISO date, or the date of an ISO instant."""
    try:
        return date.fromisoformat(re.sub(r"[T ].*$", "", text)).toordinal()
    except ValueError:
        return None
