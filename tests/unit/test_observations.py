"""What a price row must be to count, and that nothing else does."""

from __future__ import annotations

from datetime import date

import pytest

from assay_core.errors import FileError
from assay_valuer.market.labels import asset_class, rental_feed, resale_feed, seller, tier
from assay_valuer.market.observations import Market, read_observations
from assay_valuer.market.series import build_series
from tests.fakes.price_files import (
    RENTAL_HEAD,
    RESALE_HEAD,
    rental_file,
    rental_row,
    resale_file,
    resale_row,
)

TODAY = date(2026, 5, 1).toordinal()


def rental(*rows: str):
    return read_observations(rental_file(rows), "r.csv", Market.RENTAL, TODAY)


def resale(*rows: str):
    return read_observations(resale_file(rows), "h.csv", Market.RESALE, TODAY)


def test_a_series_is_named_by_its_columns_in_the_stated_order():
    (hour,) = rental(rental_row("2025-01-01", 2.5)).quotes
    (card,) = resale(resale_row("2025-01-01", 800)).quotes
    assert hour.series == "acme|H100|SXM|8|on_demand|eu"
    assert card.series == "shop|RTX 3090|sold_monthly_avg|used"
    assert (hour.usd, date.fromordinal(hour.day)) == (2.5, date(2025, 1, 1))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (rental_row("2025-01-01", 0), "price.not_positive"),
        (rental_row("2025-01-01", -2.5), "price.not_positive"),
        (rental_row("2025-01-01", 1e9), "price.bounds"),
        (rental_row("2025-01-01", 0.0001), "price.bounds"),
        (rental_row("2025-01-01", "nan"), "price"),
        (rental_row("2025-01-01", "inf"), "price"),
        (rental_row("2025-01-01", "1e999"), "price"),
        (rental_row("2025-01-01", "€2.50"), "currency"),
        (rental_row("2025-01-01", "$2.50"), "currency"),
        (rental_row("2025-01-01", "2.50 EUR"), "currency"),
        (rental_row("2025-01-01", "2_5"), "price"),
        (rental_row("2025-01-01", ""), "price"),
        (rental_row("01.02.2025", 2.5), "date"),
        (rental_row("", 2.5), "date"),
        (rental_row("1999-01-01", 2.5), "date"),
        (rental_row("2025-02-30", 2.5), "date"),
        (rental_row("2026-05-02", 2.5), "date.future"),
        (rental_row("2025-01-01", 2.5, "|H100|SXM|8|on_demand|eu"), "name"),
        (rental_row("2025-01-01", 2.5, "acme||SXM|8|on_demand|eu"), "name"),
        (rental_row("2025-01-01", 2.5, "a" * 300 + "|H100|SXM|8|on_demand|eu"), "name"),
        (rental_row("2025-01-01", 2.5).replace("feed,rev", "feed,seed_data.csv"), "synthetic"),
        (rental_row("2025-01-01", 2.5).replace("feed", "synthetic prices"), "synthetic"),
        (rental_row("2025-01-01", 2.5) + ",more", "columns"),
        ("2025-01-01,acme", "columns"),
    ],
)
def test_a_row_that_is_no_price_is_kept_with_its_reason(row, reason):
    found = rental(rental_row("2025-01-01", 2.25), row)
    assert [(one.line, one.reason) for one in found.rejected] == [(3, reason)]
    assert [quote.usd for quote in found.quotes] == [2.25]


def test_the_same_row_twice_counts_once_and_another_price_of_the_day_is_another_row():
    row = rental_row("2025-01-01", 2.5)
    found = rental(row, rental_row("2025-01-01", 3.5), row)
    assert found.reasons() == {"duplicate": 1}
    (series,) = build_series(found)
    assert series.days.tolist() == [date(2025, 1, 1).toordinal()]
    assert round(2.718281828459045 ** series.logs[0], 9) == 3.0


def test_a_nodes_total_written_as_one_gpus_price_does_not_count():
    one = rental_row("2025-01-01", 2.5, "acme|H100|SXM|1|on_demand|eu")
    node = rental_row("2025-01-01", 20.0)
    dearer = rental_row("2025-01-01", 3.5, "acme|H100|SXM|4|on_demand|eu")
    found = rental(one, node, dearer)
    assert [(one.line, one.reason) for one in found.rejected] == [(3, "node_total")]
    # On another day, or elsewhere, the two say nothing of each other.
    assert rental(one, node.replace("2025-01-01", "2025-01-02")).rejected == ()
    assert rental(one, node.replace(",eu,", ",us,")).rejected == ()


def others(days: int, usd: float = 2.2) -> list[str]:
    """Two more sellers of the model."""
    return [
        rental_row(f"2025-01-{day:02}", usd, f"{who}|H100|SXM|8|on_demand|eu")
        for day in range(1, days + 1)
        for who in ("brook", "delta")
    ]


def counted(*rows: str) -> list[float]:
    """The prices of acme's series that count."""
    return [one.usd for one in rental(*rows).quotes if one.names[0] == "acme"]


def test_a_jump_counts_once_it_has_stood_for_three_rows_and_not_before():
    prices = (2.0, 2.1, 13.8, 2.1, 14.0, 14.2, 14.1, 14.3)
    rows = [rental_row(f"2025-01-{day:02}", usd, "acme|XQ77|SXM|1|on_demand|eu")
            for day, usd in enumerate(prices, 1)]  # fmt: skip
    far = [row.replace("H100", "XQ77") for row in others(8, usd=5.0)]
    found = rental(*rows, *far)
    assert counted(*rows, *far) == [2.0, 2.1, 2.1, 14.1, 14.3]
    assert [one.reason for one in found.rejected] == ["jump"] * 3
    # And what counted before the third row came is what counts now.
    early = [row for row in (*rows, *far) if row < "2025-01-07"]
    assert counted(*early) == [2.0, 2.1, 2.1]


def test_where_hardly_anybody_sells_a_model_a_jump_stands_twice_as_long():
    prices = (2.0, 16.8, 2.1, *(16.0 + day / 10 for day in range(8)))
    rows = [rental_row(f"2025-01-{day:02}", usd) for day, usd in enumerate(prices, 1)]
    assert counted(*rows) == [2.0, 2.1, 16.5, 16.6, 16.7]
    assert counted(*rows[:8]) == [2.0, 2.1]


def test_a_jump_to_where_two_others_stand_counts_at_once():
    rows = [rental_row("2025-01-05", 0.3), rental_row("2025-01-06", 2.3)]
    assert counted(*rows, *others(4)) == [0.3, 2.3]
    one_other = [row for row in others(4) if "brook" in row]
    assert counted(*rows, *one_other) == [0.3]


@pytest.mark.parametrize("factor", [8, 1000, 1 / 8, 1 / 1000])
def test_a_feed_that_once_lies_by_a_factor_moves_nothing(factor):
    rows = [rental_row(f"2025-01-{day:02}", 2.0) for day in range(1, 20)]
    lie = rental_row("2025-01-20", 2.0 * factor)
    found = rental(*rows, lie)
    (series,) = build_series(found)
    assert len(series.days) == 19
    beyond = not 0.005 <= 2.0 * factor <= 1000
    assert [one.reason for one in found.rejected] == ["price.bounds" if beyond else "jump"]


@pytest.mark.parametrize(
    "text", ["", "\n", RENTAL_HEAD, RENTAL_HEAD + "\n", "\ufeff" + RENTAL_HEAD]
)
def test_a_file_without_rows_has_none(text):
    found = read_observations(text, "r.csv", Market.RENTAL, TODAY)
    assert (found.quotes, found.rejected) == ((), ())
    assert build_series(found) == ()


@pytest.mark.parametrize("column", ["date", "provider", "usd_per_gpu_hour", "region"])
def test_a_file_without_a_column_is_refused_by_name(column):
    text = rental_file([]).replace(column, "colour")
    with pytest.raises(FileError, match=f"r.csv:1: no column '{column}'"):
        read_observations(text, "r.csv", Market.RENTAL, TODAY)


def test_a_file_of_the_other_shape_is_refused():
    with pytest.raises(FileError, match="no column"):
        read_observations(RESALE_HEAD + "\n", "r.csv", Market.RENTAL, TODAY)


@pytest.mark.parametrize(
    ("accelerator", "which"),
    [
        ("H100", "data_centre"),
        ("GB300", "data_centre"),
        ("MI325X", "data_centre"),
        ("A100 SXM (40/80 mixed)", "data_centre"),
        ("NVIDIA L40S", "data_centre"),
        ("Tesla T4", "data_centre"),
        ("RTX PRO 6000", "workstation"),
        ("RTX 6000 Ada", "workstation"),
        ("RTX A5000", "workstation"),
        ("Quadro RTX 6000", "workstation"),
        ("RTX 4080 SUPER", "consumer"),
        ("GeForce GTX 1660 Ti", "consumer"),
        ("rx-7900-xtx", "consumer"),
        ("Intel Arc A770 16GB", "consumer"),
        ("Trainium2", "other"),
        ("🤖", "other"),
    ],
)
def test_a_class_is_read_from_the_name_and_an_unknown_one_is_other(accelerator, which):
    assert asset_class(accelerator) == which


def test_one_seller_under_several_names_is_one():
    assert {seller(name) for name in ("lambda", "lambda_labs", "LambdaLabs")} == {"lambda"}
    assert seller("runpod.io") == seller("runpod")
    assert seller("io") == "io"
    assert seller("—") == "unnamed"
    tiers = {
        "aws": "hyperscaler",
        "oracle_cloud": "hyperscaler",
        "vast": "marketplace",
        "io.net": "marketplace",
        "flyio": "platform",
        "never seen": "neocloud",
    }
    assert {name: tier(name) for name in tiers} == tiers


def test_a_feed_is_read_from_the_kind():
    kinds = ("on_demand_restated", "reserved_3y", "spot", "weekly", "")
    assert [rental_feed(kind) for kind in kinds] == ["list", "committed", "spot", "weekly", "other"]
    assert [resale_feed(kind) for kind in ("sold_daily_median", "asking")] == ["sold", "asking"]
