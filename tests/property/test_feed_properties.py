"""Rows of feeds, whatever is in them: the same however they are written, ordered or cut."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from assay_valuer.market.feeds import rows, web
from assay_valuer.market.feeds.feed import COLUMNS, FeedMalformed, Format
from assay_valuer.market.observations import Market

# Whatever a text can be, and the characters that CSV and JSON have plans for.
CELL = st.one_of(
    st.text(alphabet='",;|\\\r\n \t{}[]aé\x00\u200b\u2028', max_size=8), st.text(max_size=8)
)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Market, list[dict[str, str]]]:
    market = draw(st.sampled_from(list(Market)))
    columns = draw(st.permutations((*COLUMNS[market], "title", "unheard_of")))
    row = st.fixed_dictionaries(dict.fromkeys(columns, CELL))
    return market, draw(st.lists(row, max_size=6))


def as_csv(market: Market, found: list[dict[str, str]]) -> bytes:
    columns = list(found[0]) if found else list(COLUMNS[market])
    out = io.StringIO(newline="")
    writer = csv.writer(out, quoting=csv.QUOTE_ALL)
    writer.writerows([columns, *([row[one] for one in columns] for row in found)])
    return out.getvalue().encode()


def read(data: bytes, format_: Format, market: Market) -> rows.Table:
    return rows.parse(data, format_, market, "feed")


def said(table: rows.Table) -> list[tuple[str, str]]:
    return [(one.reason, one.detail) for one in table.unread]


@given(tables())
def test_csv_and_json_are_the_very_same_rows(made: tuple[Market, list[dict[str, str]]]):
    market, found = made
    from_csv = read(as_csv(market, found), Format.CSV, market)
    from_json = read(json.dumps(found).encode(), Format.JSON, market)
    assert from_csv.rows == from_json.rows
    assert said(from_csv) == said(from_json)
    assert len(from_csv.rows) + len(from_csv.unread) == len(found)


@given(tables(), st.randoms())
def test_the_order_of_rows_and_columns_changes_no_row(
    made: tuple[Market, list[dict[str, str]]], luck
):
    market, found = made
    other = [dict(luck.sample(list(row.items()), len(row))) for row in found]
    luck.shuffle(other)
    one, two = (read(json.dumps(some).encode(), Format.JSON, market) for some in (found, other))

    def bag(table: rows.Table) -> list[list[tuple[str, str]]]:
        return sorted(sorted(row.items()) for row in table.rows)

    assert bag(one) == bag(two)
    assert len(one.unread) == len(two.unread)


@given(tables())
def test_what_is_taken_can_be_kept_and_read_again(made: tuple[Market, list[dict[str, str]]]):
    market, found = made
    taken = read(json.dumps(found).encode(), Format.JSON, market)
    again = json.dumps(taken.rows, ensure_ascii=False).encode()
    assert read(again, Format.JSON, market) == rows.Table(taken.rows, ())


@given(st.binary(max_size=3_000), st.lists(st.integers(0, 4_000), max_size=8), st.booleans())
def test_how_a_body_comes_in_parts_changes_nothing(data: bytes, cuts: list[int], packed: bool):
    sent = gzip.compress(data) if packed else data
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    body = web.Unpacking("gzip" if packed else "", 4_000, "feed")
    for begin, end in itertools.pairwise(edges):
        if end > begin:
            body.feed(sent[begin:end])
    assert body.whole() == data


@given(st.integers(0, 400_000), st.integers(1, 5_000), st.integers(1, 9_000))
def test_no_more_is_unpacked_than_the_bound(size: int, bound: int, step: int):
    sent = gzip.compress(bytes(size))
    body = web.Unpacking("gzip", bound, "feed")
    try:
        for begin in range(0, len(sent), step):
            body.feed(sent[begin : begin + step])
            assert len(body._data) <= bound
        taken = len(body.whole())
    except FeedMalformed:
        assert max(size, len(sent)) > bound
        assert len(body._data) <= bound + 1
    else:
        assert taken == size <= bound
