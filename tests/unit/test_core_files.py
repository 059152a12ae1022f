"""Files that people write: every error names its line and its field."""

from __future__ import annotations

import msgspec
import pytest

from assay_core import files
from assay_core.errors import FileError
from assay_core.instants import format_duration, format_instant, parse_instant
from assay_core.money import Usd


class Loan(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    id: str
    rate: int
    note: str | None = None


class Book(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    loans: list[Loan]


GOOD = "loans:\n  - id: a\n    rate: 5\n  - id: 'b'\n    rate: 6\n    note: null\n"


def test_a_good_file_is_read_and_json_is_read_alike():
    book = files.parse(GOOD, Book, "loans.yaml")
    assert [loan.id for loan in book.loans] == ["a", "b"]
    assert files.parse(msgspec.json.encode(book).decode(), Book, "loans.json") == book


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (GOOD.replace("rate: 6", "rate: six"), "loans.yaml:5", "loans.1.rate"),
        (GOOD.replace("note: null", "nota: null"), "loans.yaml:6", "loans.1.nota"),
        (GOOD.replace("note: null", "rate: 7"), "loans.yaml:6", "rate: given twice"),
        (GOOD.replace("    rate: 5\n", ""), "loans.yaml:2", "rate"),
        (GOOD.replace("rate: 5", "rate: 5.5"), "loans.yaml:3", "loans.0.rate"),
        (GOOD.replace("rate: 5", "rate: 5_"), "loans.yaml:3", "loans.0.rate"),
        (GOOD.replace("rate: 5", "rate: " + "9" * 5_000), "loans.yaml:3", "more than 100 digits"),
        (GOOD.replace("rate: 5", "rate: " + "[" * 3_000), "loans.yaml:3", "nested deeper"),
        (GOOD.replace("rate: 5", "rate: ٣"), "loans.yaml:3", "loans.0.rate"),
        (GOOD.replace("rate: 5", "rate: true"), "loans.yaml:3", "loans.0.rate"),
        (GOOD.replace("id: a", "id: 7"), "loans.yaml:2", "loans.0.id"),
        (GOOD.replace("id: a", "id: [a"), "loans.yaml:3", ""),
        ("loans: &x []\nother: *x\n", "loans.yaml:1", "anchors"),
        ("", "loans.yaml:1", "the file"),
        ("loans: !!python/name:os.system []", "loans.yaml:1", "tags"),
        ("? [a]\n: 1\n", "loans.yaml:1", "plain word"),
        ("a: " + "[" * 40 + "]" * 40, "loans.yaml:1", "nested"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(text, place, says):
    with pytest.raises(FileError) as error:
        files.parse(text, Book, "loans.yaml")
    assert str(error.value).startswith(place)
    assert says in str(error.value)


def test_a_file_without_bound_is_not_read():
    with pytest.raises(FileError, match="larger"):
        files.parse("x" * (files.FILE_BYTES_MAX + 1), Book, "loans.yaml")


def test_words_that_yaml_would_bend_stay_words():
    class Any_(msgspec.Struct):
        a: str
        b: str
        c: str

    read = files.parse("a: no\nb: 12:30:00\nc: 2026-11-23\n", Any_, "x")
    assert (read.a, read.b, read.c) == ("no", "12:30:00", "2026-11-23")


@pytest.mark.parametrize("text", ["", "1,000", "1e3", "0.1234567", "nan", "--1", "1."])
def test_what_is_no_amount_is_no_amount(text):
    with pytest.raises(FileError):
        Usd.parse(text)


def test_amounts_and_instants_read_as_people_write_them():
    assert Usd.parse("29500.25") == Usd(29_500_250_000)
    assert str(Usd(29_500_250_000)) == "$29,500.25"
    assert str(Usd(-1_500_000)) == "-$1.50"
    assert Usd(1).to_wad() == 10**12
    assert Usd.from_wad_up(1) == Usd(1)
    assert Usd.from_wad_down(10**12 + 1) == Usd(1)
    assert parse_instant("2026-11-23T10:00:00+01:00") == parse_instant("2026-11-23T09:00:00Z")
    assert format_instant(parse_instant("2026-11-23T09:00:00Z")) == "2026-11-23T09:00:00.000Z"
    assert format_duration(5_000) == "5.0 s"
    for text in ("2026-11-23T09:00:00", "soon"):
        with pytest.raises(FileError):
            parse_instant(text)
