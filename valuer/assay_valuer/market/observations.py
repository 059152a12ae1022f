"""Price rows of the two CSV shapes, read behind a gate: what does not count is kept, with its reason.

Rental rows have the columns date, provider, accelerator, variant, gpu_count, usd_per_gpu_hour, kind,
region, source_repo; resale rows date, accelerator, price_usd, price_type, condition, market,
source_repo. Others may stand beside them. Prices are US dollars, per GPU-hour or per GPU.

No rule looks ahead: whether a row counts is decided from that row and from rows no later than it,
so that a backtest sees at each date what one would have seen then.
"""

from __future__ import annotations

import csv
import enum
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from assay_core.errors import FileError


class Market(enum.StrEnum):
    """What a price is for: an hour's use, or the thing itself."""

    RENTAL = "rental"
    RESALE = "resale"


ROWS_MAX: Final = 2_000_000
TEXT_MAX: Final = 256
FIRST_DAY: Final = date(2006, 1, 1).toordinal()
"""Before CUDA there was nothing to rent or to lend on."""
_NAMES: Final = {
    Market.RENTAL: ("provider", "accelerator", "variant", "gpu_count", "kind", "region"),
    Market.RESALE: ("market", "accelerator", "price_type", "condition"),
}
"""The columns that name a series, in the order of its name."""
_REQUIRED: Final = {
    Market.RENTAL: ("provider", "accelerator", "kind"),
    Market.RESALE: ("market", "accelerator", "price_type"),
}
_PRICE: Final = {Market.RENTAL: "usd_per_gpu_hour", Market.RESALE: "price_usd"}
_BOUNDS: Final = {Market.RENTAL: (0.005, 1_000.0), Market.RESALE: (1.0, 2_000_000.0)}
"""US dollars. Outside them a number is no price of a GPU, whatever it is of."""
_INVENTED: Final = re.compile(r"synthetic|simulat|fixture|seed[-_ ]?data|mock|fake", re.IGNORECASE)
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_NODE_COUNT_MIN: Final = 4
"""From so many GPUs on, a price per GPU of that multiple of one GPU's is no coincidence."""


@dataclass(frozen=True, slots=True)
class Quote:
    """One accepted row: names in the order of its market's series name, the day as an ordinal."""

    names: tuple[str, ...]
    day: int
    usd: float
    line: int

    @property
    def series(self) -> str:
        """provider|accelerator|variant|gpu_count|kind|region, or market|accelerator|type|condition."""
        return "|".join(self.names)

    @property
    def accelerator(self) -> str:
        """The model, as the feed writes it."""
        return self.names[1]


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not count: where it stands, why (a code), and in words."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Observations:
    """What a file held: rows that count, in order of series and day, and rows that do not."""

    market: Market
    quotes: tuple[Quote, ...]
    rejected: tuple[Rejected, ...]

    def reasons(self) -> dict[str, int]:
        """How many rows were rejected for each reason, the most frequent first."""
        return dict(Counter(one.reason for one in self.rejected).most_common())


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
            read = _row(cells, line, market, last_day)
            if isinstance(read, Quote):
                quotes.append(read)
            else:
                rejected.append(read)
    except csv.Error as error:
        raise FileError(f"{name}:{reader.line_num}: not CSV: {error}") from error
    quotes.sort(key=lambda quote: (quote.names, quote.day, quote.usd, quote.line))
    for rule in (_repeated, _node_totals):
        quotes = rule(quotes, market, rejected)
    rejected.sort(key=lambda one: one.line)
    return Observations(market, tuple(quotes), tuple(rejected))


def _check_columns(header: Sequence[str] | None, name: str, market: Market) -> None:
    if not header:
        return
    wanted = ("date", *_NAMES[market], _PRICE[market])
    missing = [column for column in wanted if column not in header]
    if missing:
        raise FileError(
            f"{name}:1: no column {missing[0]!r}; a {market} file has {', '.join(wanted)}"
        )


def _row(
    cells: Mapping[str | None, str | list[str] | None], line: int, market: Market, last_day: int
) -> Quote | Rejected:
    """One row as read, before it is compared with others."""
    texts = {key: cell.strip() for key, cell in cells.items() if key and isinstance(cell, str)}
    if None in cells or len(texts) != len(cells):
        return Rejected(line, "columns", "has more or fewer fields than the first line")
    for field in _REQUIRED[market]:
        if not texts[field]:
            return Rejected(line, "name", f"{field} is empty")
    names = tuple(texts[field].replace("|", "/") for field in _NAMES[market])
    if max(map(len, names)) > TEXT_MAX:
        return Rejected(line, "name", f"a name is longer than {TEXT_MAX} characters")
    if _INVENTED.search(
        texts.get("source_repo", "") + " " + texts.get("source_commit_or_path", "")
    ):
        return Rejected(line, "synthetic", "its source calls it made up")
    day = _day(texts["date"])
    if day is None or day < FIRST_DAY:
        return Rejected(line, "date", f"{texts['date'][:40]!r} is not a date such as 2026-11-23")
    if day > last_day:
        return Rejected(line, "date.future", f"{texts['date'][:40]} is yet to come")
    usd = texts[_PRICE[market]]
    if not _NUMBER.fullmatch(usd) or not math.isfinite(price := float(usd)):
        return Rejected(line, "price", f"{usd[:40]!r} is not a number of US dollars")
    low, high = _BOUNDS[market]
    if not price > 0:
        return Rejected(line, "price.not_positive", f"{usd[:40]} is not a price")
    if not low <= price <= high:
        return Rejected(
            line, "price.bounds", f"{usd[:40]} lies outside {low:g} to {high:g} dollars"
        )
    return Quote(names, day, price, line)


def _day(text: str) -> int | None:
    """An ISO date, or the date of an ISO instant."""
    try:
        return date.fromisoformat(re.sub(r"[T ].*$", "", text)).toordinal()
    except ValueError:
        return None


def _repeated(quotes: list[Quote], _: Market, rejected: list[Rejected]) -> list[Quote]:
    """The same series, day and price again says nothing new."""
    kept: list[Quote] = []
    for quote in quotes:
        last = kept[-1] if kept else None
        if last and (last.names, last.day, last.usd) == (quote.names, quote.day, quote.usd):
            rejected.append(Rejected(quote.line, "duplicate", f"the same as line {last.line}"))
        else:
            kept.append(quote)
    return kept


def _node_totals(quotes: list[Quote], market: Market, rejected: list[Rejected]) -> list[Quote]:
    """A node's price written as one GPU's: N times what one GPU costs there on the same day."""
    if market is not Market.RENTAL:
        return quotes
    single: dict[tuple[str, ...], float] = {}
    for quote in quotes:
        if quote.names[3] in ("1", "1.0"):
            single[_where(quote)] = quote.usd
    kept: list[Quote] = []
    for quote in quotes:
        count, one = _count(quote.names[3]), single.get(_where(quote))
        if one and count >= _NODE_COUNT_MIN and abs(quote.usd / (one * count) - 1) < 0.03:
            detail = f"{quote.usd:g} is {count:g} times the {one:g} of one GPU: a node's total"
            rejected.append(Rejected(quote.line, "node_total", detail))
        else:
            kept.append(quote)
    return kept


def _where(quote: Quote) -> tuple[str, ...]:
    provider, accelerator, variant, _, kind, region = quote.names
    return provider, accelerator, variant, kind, region, str(quote.day)


def _count(text: str) -> float:
    """How many GPUs; 1 where the row does not say."""
    return float(text) if re.fullmatch(r"\d{1,4}(\.0)?", text) else 1.0
