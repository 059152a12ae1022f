"""The process that decodes Parquet: bytes on its standard input, CSV on its standard output.

It is given bounds and the columns that count as arguments. Other columns keep their names, so that one
there twice is seen, and are never decoded. Exit status: 0, or why not, with the words on stderr.
"""

from __future__ import annotations

import csv
import io
import math
import resource
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MISSING: Final = 3
TOO_LARGE: Final = 4
COLUMNS: Final = 5
MALFORMED: Final = 6

MEMORY_BYTES_MAX: Final = 1024**3
"""Of address space: the library alone maps a third of it."""
CPU_S_MAX: Final = 60
COLUMNS_MAX: Final = 64
GROUPS_MAX: Final = 4_096
_FOOTER_MAX: Final = 1024**2
"""Bytes of a text, and entries of a list, in what the file says of itself."""
_BATCH_ROWS: Final = 1_024
_WHOLE: Final = ("gpu_count", "n_obs")
"""Counts. A writer that knows no empty whole number makes them fractions: 8.0 is 8."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_PER_S: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


class Refused(Exception):
    """The file is not taken; `status` says why to the parent."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def main(arguments: Sequence[str]) -> int:
    """Reads, answers, and returns the exit status."""
    rows_max, size_max, columns = int(arguments[0]), int(arguments[1]), arguments[2:]
    _limit()
    try:
        import pyarrow as pa  # noqa: PLC0415 - after the limits, and only where it is installed
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError:
        return MISSING
    try:
        lines = _lines(sys.stdin.buffer.read(), columns, rows_max, size_max)
        for text in lines:
            sys.stdout.buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.buffer.flush()
    except Refused as error:
        return _told(error.status, str(error))
    except MemoryError:
        return _told(TOO_LARGE, f"takes more than {MEMORY_BYTES_MAX} bytes of memory to read")
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        return _told(MALFORMED, f"not Parquet: {error}")
    return 0


def _limit() -> None:
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES_MAX),
        (resource.RLIMIT_CPU, CPU_S_MAX),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def _told(status: int, detail: str) -> int:
    sys.stderr.write(detail.replace("\n", " ")[:1_000] + "\n")
    return status


def _lines(data: bytes, wanted: Sequence[str], rows_max: int, size_max: int) -> Iterator[str]:
    """The table as CSV, a batch of lines at a time. Raises Refused before it decodes too much."""
    import pyarrow as pa  # noqa: PLC0415
    from pyarrow import parquet  # noqa: PLC0415

    file = parquet.ParquetFile(
        pa.BufferReader(data),
        thrift_string_size_limit=_FOOTER_MAX,
        thrift_container_size_limit=_FOOTER_MAX,
    )
    _check_size(file.metadata, wanted, rows_max, size_max)
    schema = file.schema_arrow
    names = [str(name) for name in schema.names]
    there = [name for name in wanted if name in names]
    twice = next((name for name in there if names.count(name) > 1), None)
    if twice is not None:
        raise Refused(COLUMNS, f"column {twice!r} is there twice")
    writers = {name: _writer(name, schema.field(name).type) for name in there}
    yield _csv([names])
    rows = 0
    for batch in file.iter_batches(_BATCH_ROWS, columns=there, use_threads=False):
        rows += batch.num_rows
        if rows > rows_max:
            raise Refused(TOO_LARGE, f"more than {rows_max} rows")
        texts = {name: writers[name](batch.column(name)) for name in there}
        blank = [""] * batch.num_rows
        yield _csv(zip(*(texts.get(name, blank) for name in names), strict=True))


def _check_size(
    metadata: pq.FileMetaData, wanted: Sequence[str], rows_max: int, size_max: int
) -> None:
    """Holds what the file says of itself against the bounds, before any of it is decoded."""
    if metadata.num_columns > COLUMNS_MAX:
        raise Refused(COLUMNS, f"more than {COLUMNS_MAX} columns")
    if metadata.num_rows > rows_max:
        raise Refused(TOO_LARGE, f"says that it has {metadata.num_rows} rows, {rows_max} is most")
    if metadata.num_row_groups > GROUPS_MAX:
        raise Refused(TOO_LARGE, f"more than {GROUPS_MAX} row groups")
    size = 0
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in wanted:
                size += max(column.total_uncompressed_size, 0)
    if size > size_max:
        raise Refused(TOO_LARGE, f"says that it is {size} bytes unpacked, {size_max} is most")


def _csv(rows: Sequence[Sequence[str]] | zip[tuple[str, ...]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


_T = TypeVar("_T")
_Writer = Callable[["pa.Array"], list[str]]


def _writer(name: str, kind: pa.DataType) -> _Writer:
    """What turns a column of this type into the texts that a CSV would have. Raises Refused."""
    import pyarrow as pa  # noqa: PLC0415

    types = pa.types
    if types.is_dictionary(kind):
        inner = _writer(name, kind.value_type)
        return lambda column: _spread(column, inner)
    whole = name in _WHOLE
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        return lambda column: _each(column, str)
    if types.is_integer(kind):
        return lambda column: _each(column, str)
    if types.is_boolean(kind):
        return lambda column: _each(column, _boolean)
    if types.is_float16(kind) or types.is_float32(kind) or types.is_float64(kind):
        single = not types.is_float64(kind)
        return lambda column: _each(column, partial(_float, single=single, whole=whole))
    if types.is_decimal(kind):
        return lambda column: _each(column, partial(_decimal, whole=whole))
    if types.is_date32(kind):
        return lambda column: _instants(column, pa.int32(), 86_400, 1)
    if types.is_date64(kind):
        return lambda column: _instants(column, pa.int64(), 1, 1_000)
    if types.is_timestamp(kind):
        return lambda column: _instants(column, pa.int64(), 1, _PER_S[kind.unit])
    raise Refused(COLUMNS, f"column {name!r} is of type {str(kind)[:80]}, which no CSV has")


def _each(column: pa.Array, text: Callable[[_T], str]) -> list[str]:
    return ["" if value is None else text(value) for value in column.to_pylist()]


def _spread(column: pa.Array, writer: _Writer) -> list[str]:
    """The texts of a dictionary's entries, in the order in which they are pointed to."""
    entries = writer(column.dictionary)
    return ["" if at is None else entries[at] for at in column.indices.to_pylist()]


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _float(value: float, *, single: bool, whole: bool) -> str:
    """The shortest digits that read back as the same number of its precision."""
    if not math.isfinite(value):
        return str(value)
    if whole and value.is_integer():
        return str(int(value))
    if not single:
        return repr(value)
    bits = struct.pack("f", value)
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if abs(float(text)) < 3.4e38 and struct.pack("f", float(text)) == bits:
            return repr(float(text))
    return repr(value)


def _decimal(value: Decimal, *, whole: bool) -> str:
    return format(value.to_integral_value() if whole and value == value // 1 else value, "f")


def _instants(column: pa.Array, integer: pa.DataType, times: int, parts: int) -> list[str]:
    """Days, and instants in UTC; one that no calendar has is a number, which is no date."""
    return [
        "" if value is None else _instant(value * times, parts)
        for value in column.cast(integer).to_pylist()
    ]


def _instant(value: int, parts: int) -> str:
    seconds, rest = divmod(value, parts)
    try:
        at = _EPOCH + timedelta(seconds=seconds)
    except OverflowError:
        return str(value)
    if rest == 0 and seconds % 86_400 == 0:
        return at.date().isoformat()
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
