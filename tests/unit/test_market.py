"""Price tables are read strictly, and a product is never guessed."""

from __future__ import annotations

import pytest

from assay_core.errors import FileError
from assay_core.money import Usd
from assay_valuer.market.models import Product, product_of
from assay_valuer.market.prices import Condition, from_json, read_prices, to_json
from tests.fakes.collateral import PRICES, prices

HEAD = PRICES.splitlines()[0]
ROW = "H100,SXM5,used,18000,22000,26000,2026-11-01,somewhere"


def test_a_table_is_read_exactly_and_reads_back_from_what_is_stored():
    table = prices()
    row = table.price(Product("H100", "SXM5"), Condition.USED)
    assert row is not None
    assert row.mid == Usd(22_000_500_000)
    assert from_json(to_json(table)) == table


def test_the_order_of_rows_is_no_part_of_a_snapshot_and_a_price_is():
    head, *rows = PRICES.splitlines()
    assert prices("\n".join([head, *reversed(rows)])).sha256 == prices().sha256
    assert prices(PRICES.replace("18000", "18001")).sha256 != prices().sha256


@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("", "prices.csv:1", "model"),
        (HEAD, "prices.csv", "no prices"),
        (f"{HEAD},colour\n{ROW},red", "prices.csv:1", "'colour'"),
        (HEAD.replace("low_usd,mid_usd", "mid_usd,low_usd") + f"\n{ROW}", ":1", "in this order"),
        (f"{HEAD}\n{ROW}\n{ROW}", "prices.csv:3", "model: H100 SXM5, used: given twice"),
        (f"{HEAD}\n{ROW},more", "prices.csv:2", "9 fields"),
        (f"{HEAD}\n{ROW.replace('18000', '22001')}", "prices.csv:2", "mid_usd"),
        (f"{HEAD}\n{ROW.replace('18000', '0')}", "prices.csv:2", "low_usd"),
        (f"{HEAD}\n{ROW.replace('18000', '-1')}", "prices.csv:2", "low_usd"),
        (f"{HEAD}\n{ROW.replace('26000', '2.6e4')}", "prices.csv:2", "high_usd"),
        (f"{HEAD}\n{ROW.replace('26000', 'nan')}", "prices.csv:2", "high_usd"),
        (f"{HEAD}\n{ROW.replace('26000', '26000.1234567')}", "prices.csv:2", "high_usd"),
        (f"{HEAD}\n{ROW.replace('used', 'mint')}", "prices.csv:2", "condition"),
        (f"{HEAD}\n{ROW.replace('2026-11-01', '01.11.2026')}", "prices.csv:2", "as_of"),
        (f"{HEAD}\n{ROW.replace('2026-11-01', '20261101')}", "prices.csv:2", "as_of"),
        (f"{HEAD}\n{ROW.replace('somewhere', '')}", "prices.csv:2", "source"),
        (f"{HEAD}\n{ROW.replace('H100', ' H100')}", "prices.csv:2", "model"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line_and_field(text, line, field):
    with pytest.raises(FileError) as caught:
        read_prices(text, "prices.csv")
    assert line in str(caught.value)
    assert field in str(caught.value)


def test_a_name_that_the_table_does_not_know_is_no_product():
    assert product_of("NVIDIA H100 80GB HBM3") == Product("H100", "SXM5")
    assert product_of("NVIDIA H100 80GB HBM3e") is None
    assert product_of("nvidia h100 80gb hbm3") is None
    assert product_of("") is None
    assert product_of(None) is None
