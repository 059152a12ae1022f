"""From bytes to rows: what is taken, what is no row, and what is no table at all."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

from assay_core.errors import FileError
from assay_valuer import config
from assay_valuer.market.feeds import rows, web
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    COLUMNS,
    OPTIONAL,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Format,
)
from assay_valuer.market.feeds.file import SUFFIXES
from assay_valuer.market.observations import Market, Rejected, read_observations
from tests.fakes.price_files import (
    rental_file,
    rental_row,
    rentals,
    resale_file,
    resale_row,
    resales,
)

PRICES = Path(__file__).resolve().parents[3] / "shared" / "data" / "prices"
RENTAL, RESALE = Market.RENTAL, Market.RESALE
ROW = {
    "date": "2026-11-20",
    "accelerator": "H100 SXM",
    "price_usd": "20000.50",
    "price_type": "sold",
    "condition": "used",
    "market": "shop",
}


def table(text: str | bytes, market: Market = RENTAL, format_: Format = Format.CSV) -> rows.Table:
    data = text if isinstance(text, bytes) else text.encode()
    return rows.parse(data, format_, market, "feed")


def from_json(tree: object, market: Market = RESALE) -> rows.Table:
    return table(json.dumps(tree), market, Format.JSON)


def refused(fault: Fault, words: str, call: Callable[[], object]) -> None:
    with pytest.raises(FeedMalformed, match=words) as caught:
        call()
    assert caught.value.fault is fault
    assert str(caught.value).isprintable()


def reasons(found: rows.Table) -> list[tuple[int, str]]:
    return [(one.line, one.reason) for one in found.unread]


@pytest.mark.parametrize(
    ("market", "text"), [(RENTAL, rental_file(rentals(90))), (RESALE, resale_file(resales(90)))]
)
def test_a_row_has_what_the_file_says_and_nothing_else(market: Market, text: str):
    found = table(text, market)
    assert list(found.rows) == list(csv.DictReader(io.StringIO(text)))
    assert found.unread == ()
    assert {tuple(row) for row in found.rows} == {COLUMNS[market]}


@pytest.mark.parametrize(
    ("market", "file"), [(RENTAL, "rental_prices.csv"), (RESALE, "resale_or_purchase_prices.csv")]
)
def test_real_files_are_rows_to_the_last(
    market: Market, file: str, leave_out: Callable[[str], NoReturn]
):
    if not (PRICES / file).exists():
        leave_out("the prices are not beside the project")
    text = (PRICES / file).read_text(encoding="utf-8")
    found = table(text, market)
    assert list(found.rows) == list(csv.DictReader(io.StringIO(text)))
    assert found.unread == ()


def test_json_is_the_same_rows_as_csv():
    text = resale_file(resales(90))
    expected = table(text, RESALE)
    objects = json.dumps(list(csv.DictReader(io.StringIO(text))))
    numbers = re.sub(r'"(price_usd|n_obs)": "([^"]*)"', r'"\1": \2', objects)
    assert numbers.count('"') < objects.count('"')
    for written in (objects, numbers, f'{{"rows": {numbers}, "next": null}}'):
        assert table(written, RESALE, Format.JSON) == expected
    assert len(expected.rows) > 10


@pytest.mark.parametrize("number", ["2", "2.0", "2.50", "-0", "1e3", "1E-2", "NaN", "-Infinity"])
def test_a_number_keeps_the_digits_it_was_written_with(number: str):
    text = json.dumps([ROW]).replace('"20000.50"', number)
    (row,) = table(text, RESALE, Format.JSON).rows
    assert row["price_usd"] == number


@pytest.mark.parametrize(
    ("number", "reason"),
    [("NaN", "price"), ("Infinity", "price"), ("0", "price.not_positive"), ("1e9", "price.bounds")],
)
def test_what_is_a_row_but_no_price_is_for_the_gate(number: str, reason: str):
    (row,) = table(json.dumps([ROW]).replace('"20000.50"', number), RESALE, Format.JSON).rows
    text = f"{','.join(row)}\n{','.join(row.values())}\n"
    judged = read_observations(text, "feed", RESALE, 800_000)
    assert [one.reason for one in judged.rejected] == [reason]


def test_null_is_empty_and_what_may_be_left_out_is_empty():
    (row,) = from_json([ROW | {"condition": None, "n_obs": None}]).rows
    assert (row["condition"], row["n_obs"], row["source_repo"]) == ("", "", "")


def test_columns_that_the_gate_reads_stay_and_others_do_not():
    (row,) = from_json([ROW | {"currency": "EUR", "title": "a card", "fetched_at": "now"}]).rows
    assert (row["currency"], row["title"]) == ("EUR", "a card")
    assert "fetched_at" not in row
    text = resale_file([resale_row("2026-11-20", 5)]).replace("\n", ",memory_gb,extra\n", 1)
    (row,) = table(text.rstrip("\n") + ",80,x\n", RESALE).rows
    assert row["memory_gb"] == "80"
    assert "extra" not in row


def test_spaces_and_a_mark_of_byte_order_are_no_part_of_a_row():
    text = "\ufeff" + rental_file([rental_row(" 2026-11-20 ", " 2.5")])
    (row,) = table(text).rows
    assert (row["date"], row["usd_per_gpu_hour"]) == ("2026-11-20", "2.5")


def test_a_row_of_another_shape_is_kept_as_none_beside_the_others():
    good = rental_row("2026-11-20", 2.5)
    found = table(rental_file([good, "2026-11-20,acme", good + ",more", good]))
    assert len(found.rows) == 2
    assert reasons(found) == [(3, "columns"), (4, "columns")]
    assert found.unread[0] == Rejected(
        3, "columns", "2 fields where the first line has 11: '2026-11-20,acme'"
    )


@pytest.mark.parametrize(
    ("one", "reason", "words"),
    [
        (7, "columns", "a row is an object"),
        (None, "columns", "a row is an object"),
        ([], "columns", "a row is an object"),
        ({}, "columns", "has no 'date'"),
        ({key: ROW[key] for key in ROW if key != "price_usd"}, "columns", "has no 'price_usd'"),
        (ROW | {"price_usd": [1]}, "columns", "price_usd is neither"),
        (ROW | {"market": {"name": "shop"}}, "columns", "market is neither"),
        (ROW | {f"x{n}": 1 for n in range(64)}, "columns", "more than 64 keys"),
        (ROW | {"market": "x" * 1_025}, "text", "market is longer than 1024"),
        (ROW | {"market": "sh\u0000op"}, "text", "market is not printable text: 'sh\\x00op'"),
        (ROW | {"market": "a\u200bb"}, "text", "market is not printable"),
        (ROW | {"market": "two\nlines"}, "text", "market is not printable"),
        (ROW | {"market": "\ud800"}, "text", "market is not printable"),
    ],
)
def test_what_is_no_object_of_cells_is_kept_as_no_row(one: object, reason: str, words: str):
    found = from_json([ROW, one, ROW])
    assert len(found.rows) == 2
    assert reasons(found) == [(2, reason)]
    assert words in found.unread[0].detail
    assert found.unread[0].detail.isprintable()


def test_a_key_that_is_there_twice_is_neither():
    text = json.dumps([ROW, ROW]).replace('"date"', '"date": "2026-01-01", "date"', 1)
    found = table(text, RESALE, Format.JSON)
    assert (len(found.rows), reasons(found)) == (1, [(1, "columns")])
    assert found.unread[0].detail == "'date' is there twice"


@pytest.mark.parametrize(
    ("data", "fault", "words"),
    [
        (b"\xff\xfe", Fault.MALFORMED, "byte 0 is not UTF-8"),
        (b"date,provider", Fault.COLUMNS, "no column 'accelerator'; a rental feed has date"),
        (b"{}", Fault.COLUMNS, "no column 'date'"),
        (resale_file([]).encode(), Fault.COLUMNS, "no column 'provider'"),
        (rental_file([]).replace("n_obs", "date").encode(), Fault.COLUMNS, "'date' is there twice"),
        (rental_file([]).replace("n_obs", " date ").encode(), Fault.COLUMNS, "is there twice"),
        (b"x," * 64 + b"date", Fault.COLUMNS, "more than 64 columns"),
        (rental_file(['2026-11-20,"acme']).encode(), Fault.MALFORMED, "line 2: not CSV"),
        (rental_file(['2026-11-20,"a"b']).encode(), Fault.MALFORMED, "line 2: not CSV"),
        (b"x" * 200_000, Fault.MALFORMED, "not CSV: field larger"),
    ],
)
def test_what_is_no_table_is_refused_whole(data: bytes, fault: Fault, words: str):
    refused(fault, words, lambda: table(data))


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("", Fault.MALFORMED, "not JSON"),
        ("[", Fault.MALFORMED, "not JSON"),
        ("[]]", Fault.MALFORMED, "not JSON"),
        ("null", Fault.MALFORMED, "neither a list of rows"),
        ('{"rows": {}}', Fault.MALFORMED, "neither a list of rows"),
        ('{"data": []}', Fault.MALFORMED, "neither a list of rows"),
        ('{"rows": [], "rows": []}', Fault.COLUMNS, "'rows' is there twice"),
        ("[" * 100_000, Fault.MALFORMED, "nested too deep"),
        ("[" + "{}," * (2 * rows.ROWS_MAX) + "{}]", Fault.TOO_LARGE, "more than 200000 objects"),
    ],
)
def test_what_is_no_json_of_rows_is_refused_whole(text: str, fault: Fault, words: str):
    refused(fault, words, lambda: table(text, RESALE, Format.JSON))


def test_nothing_is_no_rows_and_no_error():
    assert table("") == table(rental_file([])) == from_json([]) == rows.Table((), ())


def test_every_bound_of_size_holds():
    refused(Fault.TOO_LARGE, "16777216 bytes", lambda: table(b"x" * (BYTES_MAX + 1)))
    head, row = rental_file([]), "d,p,a,v,1,1,k,r,1,s,c\n"
    assert len(table(head + row * rows.ROWS_MAX).rows) == rows.ROWS_MAX
    refused(Fault.TOO_LARGE, "100000 rows", lambda: table(head + row * (rows.ROWS_MAX + 1)))
    bad = "one field\n"
    assert len(table(head + bad * (rows.UNREAD_MAX - 1)).unread) == rows.UNREAD_MAX - 1
    refused(Fault.MALFORMED, "1000 of its rows", lambda: table(head + bad * rows.UNREAD_MAX))


def test_more_text_than_any_plain_table_could_have_is_refused():
    gathering = rows.Gathering(RESALE, "feed")
    cells = [(column, "x" * rows.CELL_MAX) for column in COLUMNS[RESALE]]

    def pour() -> None:
        for line in range(rows.ROWS_MAX):
            gathering.add(line, cells)

    refused(Fault.TOO_LARGE, "more than 33554432 characters", pour)


def test_files_are_known_by_the_names_that_the_configuration_takes():
    assert set(SUFFIXES) == set(config.FEED_SUFFIXES) == {f".{one}" for one in Format}
    assert set(OPTIONAL) <= set(COLUMNS[RENTAL]) & set(COLUMNS[RESALE])


@pytest.mark.parametrize(
    ("kind", "path", "format_"),
    [
        ("text/csv", "/a", Format.CSV),
        ("Application/JSON; charset=utf-8", "/a.csv", Format.JSON),
        ("application/vnd.api+json", "/a", Format.JSON),
        ("application/vnd.apache.parquet", "/a", Format.PARQUET),
        ("application/octet-stream", "/a.parquet", Format.PARQUET),
        ("", "/a.json", Format.JSON),
        ("text/plain", "/a", None),
        ("text/html", "/a.csv", None),
    ],
)
def test_how_an_answer_is_written(kind: str, path: str, format_: Format | None):
    assert web.format_of(kind, httpx.URL(f"https://example.com{path}?x=.csv")) is format_


@pytest.mark.parametrize(
    ("after", "date", "wait_s"),
    [
        ("0", "", 0.0),
        (" 120 ", "", 120.0),
        ("-5", "", None),
        ("1.5", "", None),
        ("9" * 40, "", None),
        ("soon", "", None),
        ("", "", None),
        ("Fri, 20 Nov 2026 10:01:00 GMT", "Fri, 20 Nov 2026 10:00:00 GMT", 60.0),
        ("Fri, 20 Nov 2026 09:00:00 GMT", "Fri, 20 Nov 2026 10:00:00 GMT", 0.0),
        ("Fri, 20 Nov 2026 10:01:00 GMT", "", None),
        ("Fri, 20 Nov 2026 10:01:00 GMT", "Fri, 20 Nov 2026 10:00:00", None),
    ],
)
def test_how_long_a_server_asks_to_be_left_alone(after: str, date: str, wait_s: float | None):
    assert web.retry_after_s({"retry-after": after, "date": date}) == wait_s


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("https://Example.COM/a", "example.com"),
        ("https://example.com:443/a", "example.com"),
        ("https://example.com:8443/a", "example.com:8443"),
        ("http://[::1]:80/", "[::1]"),
        ("https://[::1]:444/", "[::1]:444"),
        ("https://bücher.example/", "xn--bcher-kva.example"),
    ],
)
def test_a_host_is_written_as_in_the_list(url: str, place: str):
    assert web.place(httpx.URL(url)) == place


@pytest.mark.parametrize(
    "location",
    [
        "//evil.example/a",
        "https://good.example@evil.example/",
        "https://good.example:444/",
        "https://good.example.evil.example/",
        "https://good.example\\@evil.example/",
        "http://good.example/",
        "http://127.0.0.1/",
        "https://127.0.0.1/",
        "javascript:alert(1)",
        "https://u@good.example/x",
    ],
)
def test_no_spelling_of_a_redirect_leads_off_the_list(location: str):
    start = httpx.URL("https://good.example/prices.csv")
    with pytest.raises(FeedUnavailable) as caught:
        web.follow(start, location, frozenset({"good.example"}))
    assert caught.value.fault is Fault.REDIRECT


def test_a_redirect_on_the_list_is_where_it_says():
    start = httpx.URL("https://good.example/a/prices.csv")
    hosts = frozenset({"good.example", "also.example:8443"})
    for location, url in (
        ("b.csv", "https://good.example/a/b.csv"),
        ("/b.csv", "https://good.example/b.csv"),
        ("https://also.example:8443/", "https://also.example:8443/"),
    ):
        assert str(web.follow(start, location, hosts)) == url


FEED = "{name: a, market: rental, %s}"


@pytest.mark.parametrize(
    ("feeds", "words"),
    [
        ("{name: a, market: rental}", r"market\.feeds\.0: either path or url"),
        (FEED % "path: /a.csv, url: 'https://good.example'", "either path or url"),
        (FEED % "path: /a.txt", r"market\.feeds\.0\.format: is needed"),
        (FEED % "path: /a.csv, token_file: /t", "are for a url"),
        (FEED % "path: /a.csv, own_ca: /t", "are for a url"),
        (FEED % "url: 'http://good.example/'", r"feeds\.0\.url: an https:// URL"),
        (FEED % "url: 'https://bad.example/'", r"bad\.example is not in market\.hosts"),
        (FEED % "url: 'https://good.example:444/'", r"good\.example:444 is not in market\.hosts"),
        (FEED % "url: 'https://u:p@good.example/'", "use token_file"),
        (FEED % "url: 'https://good.example:x/'", r"feeds\.0\.url"),
        (FEED % "url: 'https://[good/'", r"feeds\.0\.url"),
        (FEED % "path: /a.csv}, {name: a, market: resale, path: /b.csv", "name of another feed"),
        (FEED % "path: /a.csv, every_s: 1", r"valuer\.yaml:1: market\.feeds\.0\.every_s"),
        ("{name: A b, market: rental, path: /a.csv}", r"valuer\.yaml:1: market\.feeds\.0\.name"),
        ("{name: a, market: both, path: /a.csv}", r"valuer\.yaml:1: market\.feeds\.0\.market"),
        (FEED % "path: /a.csv, verify: false", r"market\.feeds\.0\.verify"),
    ],
)
def test_a_feed_that_cannot_be_is_refused_with_its_place(tmp_path: Path, feeds: str, words: str):
    file = tmp_path / "valuer.yaml"
    file.write_text(f"market: {{hosts: [good.example], feeds: [{feeds}]}}\n")
    with pytest.raises(FileError, match=words):
        config.load(file)


def test_feeds_as_they_should_be(tmp_path: Path):
    file = tmp_path / "valuer.yaml"
    feeds = [
        FEED % "path: /a.CSV",
        "{name: b.1, market: resale, url: 'https://good.example:443/x', token_file: /t}",
        "{name: c, market: resale, url: 'https://[::1]:8443/', own_ca: /ca.pem, format: csv}",
    ]
    file.write_text(
        f"market: {{hosts: [good.example, '[::1]:8443'], feeds: [{', '.join(feeds)}]}}\n"
    )
    read = config.load(file).market
    assert [feed.name for feed in read.feeds] == ["a", "b.1", "c"]
    file.write_text("market: {proxy: 'socks5://x'}\n")
    with pytest.raises(FileError, match=r"market\.proxy"):
        config.load(file)
