"""From bytes to rows: CSV and JSON, pure and bounded. Parquet, which takes a process, is in parquet.py.

One table gives the same rows whichever way it is written: numbers keep the digits that they were
written with, null is an empty cell, and NaN and infinity are text, which the gate rejects as prices.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    COLUMNS,
    OPTIONAL,
    Cells,
    Fault,
    FeedMalformed,
    Format,
)
from assay_valuer.market.observations import Market, Rejected
from assay_valuer.market.words import BESIDE
from assay_valuer.nesting import nests_deeper

ROWS_MAX: Final = 100_000
"""Of one answer: six times what the largest public collection of such rows has."""
COLUMNS_MAX: Final = 64
LEVELS_MAX: Final = 8
"""How deep JSON may nest; rows take three levels, and what is deeper in a cell is no cell."""
CELL_MAX: Final = 1_024
"""Characters of a cell that counts. A source's path may be long; no name is."""
UNREAD_MAX: Final = 1_000
"""From so many things on that are no rows, it is no table of rows."""
TEXT_MAX: Final = 2 * BYTES_MAX
"""Characters of all cells that count: what is short where it is compressed may be long here."""
_SHOWN_MAX: Final = 80


@dataclass(frozen=True, slots=True)
class Table:
    """The rows of one answer, and what is no row."""

    rows: tuple[Cells, ...]
    unread: tuple[Rejected, ...]


def parse(data: bytes, format_: Format, market: Market, name: str) -> Table:
    """The rows in CSV or JSON bytes. Raises FeedMalformed where there is no table of rows at all."""
    if len(data) > BYTES_MAX:
        raise FeedMalformed(Fault.TOO_LARGE, f"{name}: more than {BYTES_MAX} bytes")
    readers: dict[Format, Callable[[str, Gathering], None]] = {
        Format.CSV: _read_csv,
        Format.JSON: _read_json,
    }
    gathering = Gathering(market, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise gathering.malformed(f"byte {error.start} is not UTF-8") from None
    readers[format_](text, gathering)
    return gathering.table()


@dataclass(slots=True)
class Gathering:
    """Collects rows as a reader comes upon them, within the bounds."""

    market: Market
    name: str
    _rows: list[Cells] = field(default_factory=list)
    _unread: list[Rejected] = field(default_factory=list)
    _texts: dict[str, str] = field(default_factory=dict)
    _length: int = 0

    def header(self, columns: Sequence[str]) -> list[tuple[str, int]]:
        """The columns of a table that are kept, each with its place. Raises FeedMalformed."""
        if len(columns) > COLUMNS_MAX:
            raise self.malformed(f"more than {COLUMNS_MAX} columns", Fault.COLUMNS)
        twice = next((one for at, one in enumerate(columns) if one in columns[:at]), None)
        if twice is not None:
            raise self.malformed(f"column {shown(twice)} is there twice", Fault.COLUMNS)
        if (missing := self.missing(columns)) is not None:
            wanted = ", ".join(COLUMNS[self.market])
            raise self.malformed(
                f"no column {missing!r}; a {self.market} feed has {wanted}", Fault.COLUMNS
            )
        return [(one, columns.index(one)) for one in kept(self.market) if one in columns]

    def missing(self, columns: Iterable[str]) -> str | None:
        """The first column that a row of this market cannot be without, and is."""
        there = set(columns)
        needed = (one for one in COLUMNS[self.market] if one not in OPTIONAL)
        return next((one for one in needed if one not in there), None)

    def add(self, line: int, cells: Iterable[tuple[str, str]]) -> None:
        """Takes a row; one with a cell that nobody could keep is kept as no row."""
        self.count(line)
        row = dict.fromkeys(COLUMNS[self.market], "")
        for column, cell in cells:
            if len(cell) > CELL_MAX:
                self.leave(line, "text", f"{column} is longer than {CELL_MAX} characters")
                return
            text = cell.strip()
            if not text.isprintable():
                self.leave(line, "text", f"{column} is not printable text: {shown(text)}")
                return
            # Names repeat in nearly every row: each is held once.
            row[column] = self._texts.setdefault(text, text)
        self._length += sum(map(len, row.values()))
        if self._length > TEXT_MAX:
            raise self.malformed(f"its rows have more than {TEXT_MAX} characters", Fault.TOO_LARGE)
        self._rows.append(row)

    def leave(self, line: int, reason: str, detail: str) -> None:
        """Keeps what is no row. Raises FeedMalformed where there is too much of it."""
        self._unread.append(Rejected(line, reason, detail))
        if len(self._unread) >= UNREAD_MAX:
            raise self.malformed(
                f"{UNREAD_MAX} of its rows are none; the last: line {line}: {detail}"
            )

    def count(self, line: int) -> None:
        """Raises FeedMalformed where there is no room for another row."""
        if len(self._rows) >= ROWS_MAX:
            raise FeedMalformed(Fault.TOO_LARGE, f"{self.name}:{line}: more than {ROWS_MAX} rows")

    def malformed(self, detail: str, fault: Fault = Fault.MALFORMED) -> FeedMalformed:
        """The error that says what is wrong with the whole."""
        return FeedMalformed(fault, f"{self.name}: {detail}")

    def table(self) -> Table:
        """Everything that was collected."""
        return Table(tuple(self._rows), tuple(self._unread))


def kept(market: Market) -> tuple[str, ...]:
    """The columns whose cells go on."""
    return (*COLUMNS[market], *BESIDE)


def shown(text: str) -> str:
    """A foreign text for a message: quoted, escaped and cut."""
    return ascii(text[:_SHOWN_MAX])


def _read_csv(text: str, gathering: Gathering) -> None:
    """RFC 4180, strictly. Without a single line there are no rows; with a header alone, neither."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        first = next(reader, None)
        if first is None:
            return
        columns = [column.strip() for column in first]
        places = gathering.header(columns)
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(columns):
                found = f"{len(cells)} fields where the first line has {len(columns)}"
                gathering.leave(reader.line_num, "columns", f"{found}: {shown(','.join(cells))}")
                continue
            gathering.add(reader.line_num, ((column, cells[at]) for column, at in places))
    except csv.Error as error:
        raise gathering.malformed(f"line {reader.line_num}: not CSV: {error}") from None


class _Twice:
    """An object of JSON that has a key twice: nobody knows which was meant."""

    def __init__(self, key: str) -> None:
        self.key = key


_Json = None | bool | str | list["_Json"] | dict[str, "_Json"] | _Twice


def _object(pairs: list[tuple[str, _Json]]) -> dict[str, _Json] | _Twice:
    found: dict[str, _Json] = {}
    for key, value in pairs:
        if key in found:
            return _Twice(key)
        found[key] = value
    return found


def _read_json(text: str, gathering: Gathering) -> None:
    """A list of objects, or an object whose `rows` are one. A number keeps its own digits."""
    if text.count("{") + text.count("[") > 2 * ROWS_MAX:
        raise gathering.malformed(f"more than {2 * ROWS_MAX} objects and lists", Fault.TOO_LARGE)
    if nests_deeper(text, LEVELS_MAX):
        raise gathering.malformed("not JSON of rows: nested too deep")
    try:
        tree: _Json = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=str,
            parse_float=str,
            parse_constant=str,
        )
    except ValueError as error:
        raise gathering.malformed(f"not JSON: {error}") from None
    if isinstance(tree, _Twice):
        raise gathering.malformed(f"{shown(tree.key)} is there twice", Fault.COLUMNS)
    rows = tree.get("rows") if isinstance(tree, dict) else tree
    if not isinstance(rows, list):
        raise gathering.malformed('neither a list of rows, nor {"rows": [...]}')
    for number, row in enumerate(rows, 1):
        _read_object(number, row, gathering)


def _read_object(number: int, row: _Json, gathering: Gathering) -> None:
    if isinstance(row, _Twice):
        gathering.leave(number, "columns", f"{shown(row.key)} is there twice")
    elif not isinstance(row, dict):
        gathering.leave(number, "columns", "a row is an object with a key for each column")
    elif len(row) > COLUMNS_MAX:
        gathering.leave(number, "columns", f"has more than {COLUMNS_MAX} keys")
    elif (missing := gathering.missing(row)) is not None:
        gathering.leave(number, "columns", f"has no {missing!r}")
    else:
        cells: list[tuple[str, str]] = []
        for column, value in _of_market(row, gathering.market):
            if value is not None and not isinstance(value, str | bool):
                gathering.leave(number, "columns", f"{column} is neither a text nor a number")
                return
            cells.append((column, text_of(value)))
        gathering.add(number, cells)


def _of_market(row: dict[str, _Json], market: Market) -> Iterator[tuple[str, _Json]]:
    return ((column, row[column]) for column in kept(market) if column in row)


def text_of(value: str | bool | None) -> str:
    """The cell that stands for a value which is already text, or has only one text."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return value
