"""Parquet, as its own process reads it: the very same rows as CSV, and nothing that is too large."""

from __future__ import annotations

import asyncio
import csv
import datetime as dt
import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay_valuer.market.feeds import parquet, parquet_child, rows
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    COLUMNS,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Format,
)
from assay_valuer.market.observations import Market
from tests.fakes.price_files import rental_file, rentals, resale_file, resales

PRICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "prices"
RENTAL, RESALE = Market.RENTAL, Market.RESALE
ONE = {
    "date": [dt.date(2026, 11, 20)],
    "accelerator": ["H100"],
    "price_usd": [20_000.5],
    "price_type": ["sold"],
    "condition": ["used"],
    "market": ["shop"],
}


def packed(table: pa.Table, **how: object) -> bytes:
    out = io.BytesIO()
    pa.parquet.write_table(table, out, **how)
    return out.getvalue()


def read(data: bytes, market: Market = RESALE) -> rows.Table:
    return asyncio.run(parquet.read(data, market, "feed"))


def refused(data: bytes, fault: Fault, words: str, market: Market = RESALE) -> None:
    with pytest.raises((FeedMalformed, FeedUnavailable), match=words) as caught:
        read(data, market)
    assert caught.value.fault is fault
    assert str(caught.value).isprintable()


def typed(text: str, *, texts: bool = False) -> pa.Table:
    """A CSV as a program would load it: dates, numbers and texts, or texts alone."""
    names = next(csv.reader(io.StringIO(text)))
    kinds = {name: pa.string() for name in names if texts or name == "variant"}
    return pa.csv.read_csv(
        io.BytesIO(text.encode()),
        convert_options=pa.csv.ConvertOptions(strings_can_be_null=True, column_types=kinds),
    )


@pytest.mark.parametrize("how", ["plain", "texts", "packed", "in groups", "by dictionary"])
def test_a_table_gives_the_very_same_rows_as_csv(how: str):
    for market, text in ((RENTAL, rental_file(rentals(200))), (RESALE, resale_file(resales(200)))):
        # A fraction that is whole has its .0 in whatever a program writes.
        text = re.sub(r",(\d+),(?=sold|asking)", r",\1.0,", text)
        table = typed(text, texts=how == "texts")
        if how == "by dictionary":
            table = pa.table(
                [one.dictionary_encode() if pa.types.is_string(one.type) else one for one in table],
                names=table.column_names,
            )
        data = packed(
            table,
            compression={"packed": "zstd"}.get(how, "snappy"),
            row_group_size={"in groups": 7}.get(how, 10_000),
        )
        expected = rows.parse(text.encode(), Format.CSV, market, "feed")
        assert len(expected.rows) > 20
        assert read(data, market) == expected


@pytest.mark.parametrize(
    ("market", "file"), [(RENTAL, "rental_prices.csv"), (RESALE, "resale_or_purchase_prices.csv")]
)
def test_so_do_real_prices(market: Market, file: str, leave_out: Callable[[str], NoReturn]):
    if not (PRICES / file).exists():
        leave_out("the prices are not beside the project")
    text = (PRICES / file).read_text(encoding="utf-8")
    expected = rows.parse(text.encode(), Format.CSV, market, "feed")
    assert read(packed(typed(text)), market) == expected


def cells(column: str, array: pa.Array) -> list[str]:
    """What becomes of one column, beside others that are as they should be; in this process."""
    whole = {name: value * len(array) for name, value in ONE.items()} | {column: array}
    lines = parquet_child._lines(packed(pa.table(whole)), rows.kept(RESALE), 100, 100_000)
    found = rows.parse("".join(lines).encode(), Format.CSV, RESALE, "feed")
    assert found.unread == ()
    return [row[column] for row in found.rows]


def test_days_and_instants_are_dates():
    day, noon = dt.datetime(2026, 11, 20), dt.datetime(2026, 11, 20, 12, 30, 1, 500)
    for array, expected in (
        (pa.array([day.date(), None]), ["2026-11-20", ""]),
        (pa.array([day.date()], pa.date64()), ["2026-11-20"]),
        (pa.array([day, noon, None]), ["2026-11-20", "2026-11-20T12:30:01Z", ""]),
        (pa.array([day, noon], pa.timestamp("ns", "UTC")), ["2026-11-20", "2026-11-20T12:30:01Z"]),
        (pa.array([day], pa.timestamp("s", "America/New_York")), ["2026-11-20"]),
        (pa.array([2**31 - 1], pa.int32()).cast(pa.date32()), ["185542587100800"]),
        (pa.array([-(2**62)]).cast(pa.timestamp("us")), [str(-(2**62))]),
        (pa.array(["2026-11-20"]), ["2026-11-20"]),
    ):
        assert cells("date", array) == expected


def test_numbers_have_the_digits_that_they_need():
    for array, expected in (
        (pa.array([3.559, 7_959.0, 0.1, None]), ["3.559", "7959.0", "0.1", ""]),
        (pa.array([3.559, 0.1, 16_777_216.0], pa.float32()), ["3.559", "0.1", "16777216.0"]),
        (pa.array([2.5], pa.float32()).cast(pa.float16()), ["2.5"]),
        (pa.array([float("nan"), float("inf"), -float("inf")]), ["nan", "inf", "-inf"]),
        (pa.array([Decimal("12.50"), None]), ["12.50", ""]),
        (pa.array([Decimal("0.0000001")]), ["0.0000001"]),
        (pa.array([7, None], pa.uint8()), ["7", ""]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([None]), [""]),
    ):
        assert cells("price_usd", array) == expected


def test_a_count_that_its_writer_made_a_fraction_is_a_count():
    assert cells("n_obs", pa.array([8.0, None, 2.5])) == ["8", "", "2.5"]
    assert cells("n_obs", pa.array([Decimal("8.0"), Decimal("2.5")])) == ["8", "2.5"]


def test_text_that_nobody_could_keep_is_no_row():
    whole = {name: value * 2 for name, value in ONE.items()} | {"market": ["a\nb", "x" * 2_000]}
    found = read(packed(pa.table(whole)))
    assert found.rows == ()
    assert [one.reason for one in found.unread] == ["text", "text"]


@pytest.mark.parametrize(
    ("column", "array"),
    [
        ("market", pa.array([["shop"]])),
        ("market", pa.array([{"name": "shop"}])),
        ("market", pa.array([b"shop"])),
        ("date", pa.array([dt.timedelta(1)])),
        ("date", pa.array([dt.time(1)])),
    ],
)
def test_what_has_no_text_is_refused(column: str, array: pa.Array):
    refused(packed(pa.table(ONE | {column: array})), Fault.COLUMNS, f"'{column}'.* is of type")


def test_columns_are_held_to_the_same_rules():
    table = pa.table(ONE)
    missing = table.drop_columns(["price_usd"])
    refused(packed(missing), Fault.COLUMNS, "no column 'price_usd'")
    twice = pa.table([*table.columns, table["date"]], names=[*table.column_names, "date"])
    refused(packed(twice), Fault.COLUMNS, "'date' is there twice")
    for name in ("other", "price_usd "):
        spaced = pa.table([*table.columns, table["date"], table["date"]],
                          names=[*table.column_names, name, name])  # fmt: skip
        refused(packed(spaced), Fault.COLUMNS, "is there twice")
    wide = pa.table(ONE | {f"x{at}": [1] for at in range(60)})
    refused(packed(wide), Fault.COLUMNS, "more than 64 columns")
    # What nobody reads may be of any type.
    assert len(read(packed(pa.table(ONE | {"extra": [[1, 2]]}))).rows) == 1


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(8) + b"PAR1", b"date,market\n"])
def test_what_is_no_parquet_is_said(data: bytes):
    refused(data, Fault.MALFORMED, "not Parquet")


def test_more_rows_than_are_taken_are_refused_by_what_the_file_says():
    many = pa.table({name: value * (rows.ROWS_MAX + 1) for name, value in ONE.items()})
    data = packed(many)
    assert len(data) < 100_000
    refused(data, Fault.TOO_LARGE, "says that it has 100001 rows, 100000 is most")


def test_so_is_more_than_memory_should_hold():
    long = pa.array([f"{at}{'x' * 50_000}" for at in range(1_000)])
    data = packed(pa.table({n: v * 1_000 for n, v in ONE.items()} | {"market": long}),
                  compression="zstd")  # fmt: skip
    assert len(data) < 1_000_000
    refused(data, Fault.TOO_LARGE, r"says that it is \d+ bytes unpacked, 33554432 is most")


def varint(number: int) -> bytes:
    """A positive number in Thrift's compact protocol."""
    number, found = number * 2, b""
    while number > 127:
        found += bytes([number & 127 | 128])
        number >>= 7
    return found + bytes([number])


def lying(data: bytes, truth: int, lie: int) -> bytes:
    """The same file, but for a number in its footer."""
    size = int.from_bytes(data[-8:-4], "little")
    body, footer = data[: -8 - size], data[-8 - size :]
    assert varint(truth) in footer
    assert len(varint(truth)) == len(varint(lie))
    return body + footer.replace(varint(truth), varint(lie))


def test_a_file_that_lies_of_its_rows_gives_no_more_than_it_may():
    """Every count in the footer says less than is there."""
    many = pa.table({name: value * 200_000 for name, value in ONE.items()})
    data = lying(packed(many), 200_000, 50_000)
    try:
        found = read(data)
    except FeedMalformed:
        return
    assert len(found.rows) <= rows.ROWS_MAX


def test_a_file_that_lies_of_its_size_ends_at_the_bound():
    """Two texts of 20 MiB that the footer calls small."""
    text = "x" * (20 * 1024**2)
    table = pa.table({name: value * 2 for name, value in ONE.items()} | {"market": [text] * 2})
    data = packed(table, compression="zstd")
    assert len(data) < 100_000
    chunk = pa.parquet.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(5)
    assert chunk.path_in_schema == "market"
    size = chunk.total_uncompressed_size
    data = lying(data, size, 20_000_000)
    refused(data, Fault.TOO_LARGE, "more than|takes more than")


def test_the_process_has_little_memory_and_writes_no_file(tmp_path: Path):
    program = (
        "import os, sys\n"
        "from assay_valuer.market.feeds import parquet_child\n"
        "parquet_child._limit()\n"
        "try:\n    bytearray(parquet_child.MEMORY_BYTES_MAX)\n"
        "except MemoryError:\n    print('no memory')\n"
        "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)\n"
        "try:\n    os.write(file, b'x')\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split("\n")[:2] == ["no memory", "27"], done.stderr


@pytest.mark.parametrize("missing", ["pyarrow", "pyarrow.parquet"])
def test_without_the_extra_it_says_what_to_install(tmp_path: Path, missing: str):
    """The child's exit status where the import fails, and what the parent makes of it."""
    hidden = f"import sys; sys.modules[{missing!r}] = None\n"
    program = (
        f"{hidden}from assay_valuer.market.feeds import parquet_child\n"
        "sys.exit(parquet_child.main(['1', '1', 'date']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"", capture_output=True, check=False
    )
    assert done.returncode == parquet_child.MISSING
    with pytest.raises(FeedUnavailable, match=r"install gpu-assay\[parquet\]") as caught:
        parquet.judge(parquet_child.MISSING, b"", "", "feed")
    assert caught.value.fault is Fault.PARQUET


def test_a_process_that_dies_is_ours_and_no_hosts():
    with pytest.raises(FeedUnavailable, match="ended with status -11") as caught:
        parquet.judge(-signal.SIGSEGV, b"date\n", "", "feed")
    assert caught.value.fault is Fault.PARQUET


def test_too_many_bytes_never_reach_a_process():
    refused(bytes(BYTES_MAX + 1), Fault.TOO_LARGE, "more than 16777216 bytes")


def test_no_process_outlives_who_asked():
    """Cancelled while the child works, or while it starts: it is gone when the call is."""

    async def story() -> None:
        data = packed(typed(rental_file(rentals(200))))
        task = asyncio.create_task(parquet.read(data, RENTAL, "feed"))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(story())
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.one_of(
            st.none(),
            st.floats(width=32),
            st.floats(width=64),
            st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9),
                        max_value=10**9),
        ),
        min_size=1, max_size=20,
    )
)  # fmt: skip
def test_digits_read_back_as_the_number(values: list[float | Decimal | None]):
    """The child's own functions, in this process: numbers survive their text."""
    for value in values:
        if isinstance(value, Decimal):
            assert Decimal(parquet_child._decimal(value, whole=False)) == value
            continue
        for single in (False, True):
            if value is None or (single and abs(value) > 3.3e38):
                continue
            kind = pa.float32() if single else pa.float64()
            exact = pa.array([value], kind)[0].as_py()
            text = parquet_child._float(exact, single=single, whole=False)
            again = pa.array([float(text)], kind)[0].as_py()
            assert repr(again) == repr(exact)


def test_every_column_that_counts_is_asked_for():
    assert set(COLUMNS[RENTAL]) | set(COLUMNS[RESALE]) <= {*rows.kept(RENTAL), *rows.kept(RESALE)}
