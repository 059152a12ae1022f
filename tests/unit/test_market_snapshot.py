"""A snapshot of the market has one name, and any price in it leads back to that name."""

from __future__ import annotations

import random
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_core import merkle
from assay_core.price_proof import holds
from assay_valuer.market.observations import Market, Observations, Quote
from assay_valuer.market.snapshot import canonical, prove, snapshot_of

DAY = date(2026, 5, 1).toordinal()
RENTAL = [
    Quote(("acme", "H100", "SXM", "8", "on_demand", "eu"), DAY, 2.5, 2),
    Quote(("acme", "H100", "SXM", "8", "on_demand", "eu"), DAY - 1, 2.25, 3),
    Quote(("brook", "L4", "", "1", "spot", "us"), DAY, 0.31, 4),
]
RESALE = [Quote(("shop", "RTX 3090", "sold_monthly_avg", "used"), DAY, 800.0, 2)]


def of(market: Market, quotes) -> Observations:
    return Observations(market, tuple(quotes), ())


def snapshot(rental=RENTAL, resale=RESALE):
    return snapshot_of(of(Market.RENTAL, rental), of(Market.RESALE, resale), DAY)


def test_its_name_is_the_merkle_root_over_what_the_page_says_a_line_is():
    lines = [
        b'["rental","2026-04-30",2.25,"acme","H100","SXM","8","on_demand","eu"]',
        b'["rental","2026-05-01",0.31,"brook","L4","","1","spot","us"]',
        b'["rental","2026-05-01",2.5,"acme","H100","SXM","8","on_demand","eu"]',
        b'["resale","2026-05-01",800.0,"shop","RTX 3090","sold_monthly_avg","used"]',
    ]
    assert snapshot().lines == tuple(lines)
    assert snapshot().sha256 == merkle.root([merkle.leaf_hash(line) for line in lines]).hex()


def test_of_no_rows_there_is_a_snapshot_too():
    empty = snapshot([], [])
    assert empty.sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert prove(empty, b"[]") is None


def test_the_order_and_place_of_rows_change_nothing_and_any_price_does():
    mixed = random.Random(1).sample(RENTAL, len(RENTAL))
    shuffled = [Quote(quote.names, quote.day, quote.usd, 99) for quote in mixed]
    assert snapshot(shuffled).sha256 == snapshot().sha256
    dearer = [*RENTAL[1:], Quote(RENTAL[0].names, DAY, 2.500001, 2)]
    assert snapshot(dearer).sha256 != snapshot().sha256


def test_the_markets_are_not_to_be_confused():
    with pytest.raises(ValueError, match="rental market first"):
        snapshot_of(of(Market.RESALE, []), of(Market.RENTAL, []), DAY)


@given(count=st.integers(1, 70), data=st.data())
def test_every_line_has_a_proof_that_holds_and_no_other_line_has_it(count, data):
    quotes = [Quote(("acme", f"M{one}", "", "1", "spot", ""), DAY, 1.0 + one, 0)
              for one in range(count)]  # fmt: skip
    made = snapshot(quotes, [])
    line = canonical(Market.RENTAL, data.draw(st.sampled_from(quotes)))
    proof = prove(made, line)
    assert proof is not None and proof.snapshot_sha256 == made.sha256
    assert holds(proof)
    assert holds(msgspec.json.decode(msgspec.json.encode(proof), type=type(proof)))
    for lie in (
        msgspec.structs.replace(proof, line=proof.line.replace("spot", "spo")),
        msgspec.structs.replace(proof, index=proof.index + 1),
        msgspec.structs.replace(proof, size=proof.size + 64),
        msgspec.structs.replace(proof, snapshot_sha256="0" * 64),
        msgspec.structs.replace(proof, path=(*proof.path, "00" * 32)),
        msgspec.structs.replace(proof, path=(*proof.path, "zz")),
        msgspec.structs.replace(proof, path=(*proof.path, "00")),
    ):
        assert not holds(lie)


def test_a_row_that_does_not_count_has_no_proof():
    assert prove(snapshot(), canonical(Market.RENTAL, Quote(RENTAL[0].names, DAY, 9.0, 2))) is None
