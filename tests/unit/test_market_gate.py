"""Each rule of the gate finds its lie, and lets the lie's honest neighbour through."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import pytest

from assay_valuer.market.gate import judge
from assay_valuer.market.observations import Market, Quote, Rejected, read_observations, read_row
from tests.fakes.price_files import rental_file, rental_row, resale_file, resale_row

TODAY = date(2026, 5, 1).toordinal()
START = date(2025, 1, 6)


def on(days: int) -> str:
    return (START + timedelta(days=days)).isoformat()


def judged(market: Market, rows: Iterable[dict[str, str]], interested: Iterable[str] = ()):
    read = [read_row(cells, at, market, TODAY, "feed") for at, cells in enumerate(rows, 1)]
    quotes = [one for one in read if isinstance(one, Quote)]
    rejected = [one for one in read if isinstance(one, Rejected)]
    return judge(market, quotes, rejected, frozenset(interested))


def rental(**cells: str) -> dict[str, str]:
    row = {
        "date": on(0),
        "provider": "acme",
        "accelerator": "H100",
        "variant": "SXM",
        "gpu_count": "8",
        "usd_per_gpu_hour": "2.5",
        "kind": "on_demand",
        "region": "eu",
        "source_repo": "prices",
    }
    return row | cells


def resale(**cells: str) -> dict[str, str]:
    row = {
        "date": on(0),
        "accelerator": "H100 80GB PCIe",
        "price_usd": "25000",
        "price_type": "asking",
        "condition": "used",
        "market": "shop",
        "source_repo": "prices",
    }
    return row | cells


def market_of(*prices: float, accelerator: str = "H100", day: int = 0, **cells: str):
    """One row of each of several sellers."""
    return [
        rental(
            provider=f"seller{at:02}",
            accelerator=accelerator,
            usd_per_gpu_hour=str(usd),
            date=on(day),
            **cells,
        )
        for at, usd in enumerate(prices)
    ]


def reasons(found) -> dict[int, str]:
    return {one.line: one.reason for one in found.rejected}


# ---------------------------------------------------------------------------- a row by itself


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (rental(currency="EUR"), "currency"),
        (rental(usd_per_gpu_hour="2.5 EUR"), "currency"),
        (rental(usd_per_gpu_hour="$2.5"), "currency"),
        (rental(currency="USD"), None),
        (rental(currency="us dollars"), None),
        (rental(currency=""), None),
        (rental(unit="month"), "unit"),
        (rental(unit="USD/instance-hour"), "unit"),
        (rental(unit="node_hour"), "unit"),
        (rental(unit="hour"), "unit"),
        (rental(unit="gpu_hour"), None),
        (rental(unit="USD/GPU/h"), None),
        (rental(unit="usd_per_gpu_hour"), None),
        (resale(unit="server"), "unit"),
        (resale(unit="each"), None),
        (resale(accelerator="8x H100 80GB PCIe"), "unit"),
        (resale(accelerator="RTX 3080 x2"), "unit"),
        (resale(title="Lot of 4 NVIDIA H100 80GB"), "unit"),
        (rental(accelerator="8x H100"), None),
        (resale(accelerator="H100 NVLink bridge"), "accessory"),
        (resale(accelerator="H100 PCIe power cable"), "accessory"),
        (resale(accelerator="A100 heatsink"), "accessory"),
        (resale(accelerator="RTX 3090 waterblock"), "accessory"),
        (resale(accelerator="PCIe riser"), "accessory"),
        (resale(title="NVLink bridge for H100 PCIe"), "accessory"),
        (resale(title="NVIDIA H100 PCIe box only"), "accessory"),
        (resale(title="NVIDIA H100 80GB PCIe with NVLink bridge and power cable"), None),
        (resale(accelerator="RTX 3090 Founders Edition"), None),
        (resale(condition="for parts or not working"), "broken"),
        (resale(condition="for_parts"), "broken"),
        (resale(title="H100 80GB PCIe, untested"), "broken"),
        (resale(condition="used, tested and working"), None),
        (resale(accelerator="RTX 3080 Ti Laptop"), "look_alike"),
        (resale(accelerator="Quadro RTX 5000 Max-Q"), "look_alike"),
        (resale(accelerator="RTX 3080 Mobile"), "look_alike"),
        (resale(accelerator="RTX PRO 6000 Max-Q"), None),
        (rental(variant="141GB"), "look_alike"),
        (rental(variant="SXM", memory_gb="141"), "look_alike"),
        (rental(variant="SXM 80GB"), None),
        (rental(variant="NVL 94GB"), None),
        (rental(variant="640GB"), None),
        (rental(accelerator="A100", variant="40GB"), None),
        (rental(accelerator="A100", variant="16GB"), "look_alike"),
        (rental(accelerator="A10G", variant=""), None),
        (rental(accelerator="H200", variant="96GB"), "look_alike"),
        (rental(accelerator="H200", variant="GH200"), "look_alike"),
        (rental(accelerator="H200", variant="", title="1x GH200 480GB, 64 vCPU"), "look_alike"),
        (rental(accelerator="H200", variant="", title="8x H200-SXM"), None),
        (rental(accelerator="GH200", variant="480GB"), None),
        (rental(accelerator="A100", variant="", title="a2-highgpu-8g"), None),
        (rental(accelerator="XQ77", variant="333GB"), None),
        (rental(usd_per_gpu_hour="0"), "price.not_positive"),
        (rental(usd_per_gpu_hour="-1"), "price.not_positive"),
        (rental(usd_per_gpu_hour="NaN"), "price"),
        (rental(usd_per_gpu_hour="1e9"), "price.bounds"),
        ({"date": on(0)}, "name"),
        ({}, "name"),
    ],
)
def test_what_a_rows_own_words_say_against_it(row, reason):
    market = Market.RESALE if "price_usd" in row else Market.RENTAL
    found = judged(market, [row])
    assert [one.reason for one in found.rejected] == ([] if reason is None else [reason])
    assert len(found.quotes) == (reason is None)


def test_a_row_of_a_feed_and_a_row_of_a_file_go_the_same_way():
    written = [rental_row(on(0), 2.5), rental_row(on(0), "€3"), rental_row(on(0), 2.5)]
    from_file = read_observations(rental_file(written), "r.csv", Market.RENTAL, TODAY)
    head = rental_file([]).strip().split(",")
    cells = [dict(zip(head, row.split(","), strict=True)) for row in written]
    from_feed = judged(Market.RENTAL, cells)
    assert [one.reason for one in from_file.rejected] == ["currency", "duplicate"]
    assert [one.reason for one in from_feed.rejected] == ["currency", "duplicate"]
    assert [one.names for one in from_file.quotes] == [one.names for one in from_feed.quotes]


# ---------------------------------------------------------------------------- against other sellers


def test_a_party_to_a_loan_counts_for_nobody_under_any_spelling_of_its_name():
    rows = [rental(provider="acme_cloud"), rental(provider="Acme"), rental(provider="acmeish")]
    assert reasons(judged(Market.RENTAL, rows, ["ACME Cloud", "", "--"])) == {
        1: "interested",
        2: "interested",
    }


@pytest.mark.parametrize("name", ["acme-eu", "Acme GPU Cloud", "acme compute, Inc.", "ACME_2"])
def test_a_name_that_begins_with_a_party_s_is_the_party_s(name):
    rows = [rental(provider=name), rental(provider="Grand Acme"), rental(provider="acm")]
    assert reasons(judged(Market.RENTAL, rows, ["acme"])) == {1: "interested"}


@pytest.mark.parametrize("factor", [8.0, 1 / 8, 100.0, 1000.0])
def test_a_seller_whose_whole_list_is_off_by_a_factor_does_not_count(factor):
    honest = [
        row
        for accelerator, level in (("H100", 2.5), ("A100", 1.3), ("L40S", 0.9))
        for row in market_of(level, level * 1.3, level * 0.8, level * 1.1, accelerator=accelerator)
    ]
    liar = [
        rental(provider="liar", accelerator=name, usd_per_gpu_hour=str(level * factor))
        for name, level in (("H100", 2.5), ("A100", 1.3))
    ]
    found = judged(Market.RENTAL, [*honest, *liar])
    lines = {len(honest) + 1, len(honest) + 2}
    beyond = {"price.bounds"} if factor >= 1000 else set()
    assert set(reasons(found)) == lines
    assert set(reasons(found).values()) <= {"scale"} | beyond


def test_a_dear_seller_is_no_liar_and_two_liars_make_none_of_the_honest():
    models = (("H100", 2.5), ("A100", 1.3), ("L40S", 0.9))
    honest = [
        row
        for accelerator, level in models
        for row in market_of(level, level * 1.3, level * 4.5, accelerator=accelerator)
    ]
    assert judged(Market.RENTAL, honest).rejected == ()
    lies = [
        rental(provider=who, accelerator=name, usd_per_gpu_hour=str(level * 100))
        for who in ("liar", "other liar")
        for name, level in models
    ]
    counted = {q.seller for q in judged(Market.RENTAL, [*honest, *lies]).quotes}
    assert {"seller00", "seller01", "seller02"} <= counted


def test_a_lone_price_far_from_every_other_sellers_is_none():
    others = market_of(2.0, 2.5, 3.0, 1.5)
    assert reasons(judged(Market.RENTAL, [*others, rental(usd_per_gpu_hour="0.06")])) == {
        5: "outlier"
    }
    # A cheap one is not that far; and where one other seller is near, nothing is said.
    assert judged(Market.RENTAL, [*others, rental(usd_per_gpu_hour="0.4")]).rejected == ()
    near = rental(provider="bids", usd_per_gpu_hour="0.1")
    lone = rental(usd_per_gpu_hour="0.06")
    assert not judged(Market.RENTAL, [*others, near, lone]).reasons().get("outlier", 0) > 1


def test_with_two_other_sellers_nobody_can_say_that_a_price_is_none():
    rows = [*market_of(2.0, 2.5), rental(usd_per_gpu_hour="0.06")]
    assert judged(Market.RENTAL, rows).rejected == ()


def test_prices_of_half_a_year_ago_say_nothing_of_todays():
    for day, wrong in ((180, {5: "outlier"}), (181, {})):
        others = market_of(2.0, 2.5, 3.0, 1.5)
        lone = rental(usd_per_gpu_hour="0.06", date=on(day))
        assert reasons(judged(Market.RENTAL, [*others, lone])) == wrong


def test_a_feed_of_more_sellers_than_can_stand_on_a_board_is_judged_all_the_same():
    crowd = market_of(*[2.5] * 520)
    lone = rental(provider="zz late", usd_per_gpu_hour="0.06")
    assert reasons(judged(Market.RENTAL, [*crowd, lone])) == {521: "outlier"}


def test_a_node_price_is_known_by_other_sellers_too():
    others = market_of(2.0, 2.5, 3.0)
    node = rental(usd_per_gpu_hour="20.0")
    assert reasons(judged(Market.RENTAL, [*others, node])) == {4: "node_total"}
    single = rental(usd_per_gpu_hour="20.0", gpu_count="1")
    assert reasons(judged(Market.RENTAL, [*others, single])) == {}


def test_a_price_that_fits_another_model_of_a_name_like_it_is_that_models():
    others = [
        *market_of(10.0, 11.0, 12.0, accelerator="GB200"),
        *market_of(1.9, 2.0, 2.1, accelerator="B200"),
    ]
    mistaken = rental(accelerator="B200", gpu_count="1", usd_per_gpu_hour="11.5")
    assert reasons(judged(Market.RENTAL, [*others, mistaken])) == {7: "look_alike"}
    unlike = [row | {"accelerator": row["accelerator"].replace("GB200", "XQ9")} for row in others]
    assert judged(Market.RENTAL, [*unlike, mistaken]).rejected == ()


# ---------------------------------------------------------------------------- against its own feed


def feed(days: Iterable[int], *, sellers: int, moving: int = 0, source: str = "prices"):
    """A feed of two models for each seller; the first `moving` of them move every time."""
    return [
        rental(
            date=on(day),
            provider=f"seller{seller:02}",
            accelerator=model,
            usd_per_gpu_hour=str(2.0 + (day / 1000 if seller < moving else 0)),
            source_repo=source,
        )
        for day in days
        for seller in range(sellers)
        for model in ("H100", "A100")
    ]


def test_a_feed_of_many_sellers_that_goes_on_while_nothing_ever_changes_is_frozen():
    rows = feed(range(0, 120, 10), sellers=6)
    found = judged(Market.RENTAL, rows)
    assert set(found.reasons()) == {"frozen"}
    assert {rows[one.line - 1]["date"] for one in found.rejected} == {on(d) for d in (90, 100, 110)}
    # Not before the bound; and what was counted stays.
    assert judged(Market.RENTAL, feed(range(0, 90, 10), sellers=6)).rejected == ()


def test_one_series_that_moves_does_not_make_a_frozen_feed_alive_and_several_do():
    one = judged(Market.RENTAL, feed(range(0, 120, 10), sellers=60, moving=1))
    assert set(one.reasons()) == {"frozen"}
    assert all(quote.seller != "seller00" or quote.usd for quote in one.quotes)
    assert {q.day for q in one.quotes if q.seller == "seller00"} >= {
        date.fromisoformat(on(110)).toordinal()
    }
    some = judged(Market.RENTAL, feed(range(0, 120, 10), sellers=60, moving=6))
    assert some.rejected == ()


def test_one_sellers_list_may_stand_for_years():
    rows = [
        rental(date=on(day), accelerator=f"H{100 + model}", source_repo="list")
        for day in range(0, 1500, 30)
        for model in range(15)
        if date.fromisoformat(on(day)).toordinal() <= TODAY
    ]
    assert judged(Market.RENTAL, rows).rejected == ()


def test_an_average_of_sales_that_is_the_same_every_month_was_copied():
    same = [resale(date=on(day), price_type="sold_monthly_avg") for day in range(0, 210, 30)]
    found = judged(Market.RESALE, same)
    assert reasons(found) == {5: "carried", 6: "carried", 7: "carried"}
    asked = [row | {"price_type": "asking"} for row in same]
    each = [row | {"price_type": "sold"} for row in same]
    moved = [row | {"price_usd": str(25_000 + at)} for at, row in enumerate(same)]
    for honest in (asked, each, moved):
        assert judged(Market.RESALE, honest).rejected == ()


def test_a_spot_price_may_stand_for_a_year_and_not_for_three():
    rows = [rental(date=on(day - 1100), kind="spot") for day in range(0, 1100, 50)]
    found = judged(Market.RENTAL, rows)
    assert set(found.reasons()) == {"carried"}
    assert min(reasons(found)) == 16
    assert judged(Market.RENTAL, [row | {"kind": "on_demand"} for row in rows]).rejected == ()


def test_what_a_rule_finds_is_kept_with_its_row_and_its_words():
    text = resale_file([resale_row(on(0), 800), resale_row(on(0), 0), resale_row(on(0), 800)])
    found = read_observations(text, "h.csv", Market.RESALE, TODAY)
    assert [(one.line, one.reason, one.detail) for one in found.rejected] == [
        (3, "price.not_positive", "0 is not a price"),
        (4, "duplicate", "the same as row 2"),
    ]
