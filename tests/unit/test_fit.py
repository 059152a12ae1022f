"""A fit of a market: levels, what they rest on, and how they move from one day to the next."""

from __future__ import annotations

import math
import statistics
from datetime import date
from itertools import pairwise

import numpy as np
import pytest

from assay_valuer.forecast.cases import NEVER, build_cases
from assay_valuer.forecast.centres import medians
from assay_valuer.forecast.fit import fit
from assay_valuer.forecast.intervals import Walk
from assay_valuer.market.models import BY_NAME
from assay_valuer.market.observations import Market
from assay_valuer.market.series import build_series
from assay_valuer.valuation.parameters import Level, from_json, to_json
from tests.fakes.price_files import rental_row, resale_row
from tests.fakes.quoted_market import DAY, Rows, rows, snapshot

NOTHING = Rows((), ())
KINDS = ("rental", "new_ask", "used_ask", "sold")


def quotes(*prices: float, age: int = 3, series: str = "H100|SXM|8|on_demand|eu") -> Rows:
    """One price of each of as many sellers."""
    found = NOTHING
    for number, usd in enumerate(prices):
        name = f"seller{'abcdefgh'[number]}"
        found = found.plus(name, [rental_row(iso(DAY - age), usd, f"{name}|{series}")])
    return found


def iso(day: int) -> str:
    return date.fromordinal(day).isoformat()


def level(parameters, product="H100 SXM5", kind="rental") -> Level:
    found = getattr(parameters.of(product), kind)
    assert found is not None
    return found


def test_what_three_sellers_agree_on_is_the_level():
    found = level(fit(snapshot(quotes(2.5, 2.5, 2.5)), None, DAY))
    assert math.exp(found.log_e6 / 1e6) == pytest.approx(2.5, rel=0.02)
    assert (found.basis, found.sellers, found.quotes) == ("quotes", 3, 3)
    assert found.newest_day == DAY - 3
    assert [one.seller for one in found.references] == ["sellera", "sellerb", "sellerc"]


def test_two_sellers_are_too_few_to_be_a_price_of_its_own():
    assert level(fit(snapshot(quotes(2.5, 2.5)), None, DAY)).basis == "hedonic"


def test_dear_sellers_do_not_set_what_a_buyer_pays():
    """Two neoclouds at list price, three marketplaces below: the level is the middle one's."""
    found = NOTHING
    for name, usd in (("neoa", 4.3), ("neob", 6.1), ("vast", 2.2), ("runpod", 2.7), ("cudo", 2.5)):
        found = found.plus(name, [rental_row(iso(DAY), usd, f"{name}|H100|SXM|8|on_demand|eu")])
    one = level(fit(snapshot(found), None, DAY))
    assert math.exp(one.log_e6 / 1e6) == pytest.approx(2.7, rel=0.05)
    # Two tiers' middles, each one vote: half the distance between them.
    apart = math.log(math.sqrt(4.3 * 6.1) / 2.5) / 2
    assert one.error_e6 >= 1e6 * apart - 20_000


def test_what_hyperscalers_alone_rent_out_has_no_seller_and_says_so():
    plain = rows()
    aws = [rental_row(iso(DAY), 10.0, "aws|H200|SXM|8|on_demand|eu")]
    found = fit(snapshot(plain.plus("aws", aws)), None, DAY)
    one = level(found, "H200 SXM5")
    assert (one.basis, one.sellers, one.references) == ("hedonic", 0, ())
    # gcp asks two to three times the others' prices, so 10 dollars are no 10 of theirs.
    assert math.exp(one.log_e6 / 1e6) < 7
    assert "gcp" not in {seller.seller for seller in level(found).references}


def test_beyond_what_is_quoted_less_is_known_the_further_it_is():
    found = fit(snapshot(rows()), None, DAY)
    errors = [level(found, name, "new_ask").error_e6 for name in ("H200 SXM5", "B200 SXM6")]
    assert errors[1] - errors[0] > 50_000


def test_the_wider_sellers_lie_apart_the_less_is_known():
    close = level(fit(snapshot(quotes(2.4, 2.5, 2.6, 2.5)), None, DAY))
    wide = level(fit(snapshot(quotes(1.2, 2.5, 5.0, 2.5)), None, DAY))
    assert wide.error_e6 > close.error_e6
    # Each but two is ln 2.5/0.625 = ln 4 off the others' median; half of that is the median miss.
    apart = level(fit(snapshot(quotes(0.625, 2.5, 10.0, 2.5)), None, DAY))
    assert apart.error_e6 >= 1e6 * 1.4826 * math.log(4) / 2 / math.sqrt(4) - 1


def test_old_rows_make_a_level_less_sure_than_new_ones():
    errors = [
        level(fit(snapshot(quotes(2.4, 2.5, 2.6, age=a)), None, DAY)).error_e6 for a in (1, 40)
    ]
    assert errors[0] < errors[1]


def test_a_product_that_nobody_quotes_is_drawn_from_its_class_with_its_error():
    found = fit(snapshot(rows()), None, DAY)
    for kind in ("rental", "new_ask"):
        estimated = level(found, "H200 SXM5", kind)
        quoted = level(found, "H100 SXM5", kind)
        assert (estimated.basis, estimated.sellers, estimated.quotes) == ("hedonic", 0, 0)
        assert estimated.error_e6 > quoted.error_e6
        # It does more than an H100 in everything.
        assert estimated.log_e6 > quoted.log_e6


def test_what_is_not_sold_anywhere_in_a_class_has_no_such_level():
    found = fit(snapshot(rows()), None, DAY)
    assert found.of("H100 SXM5").sold is None
    assert found.of("RTX 3090 PCIe").sold is not None


def test_nothing_of_consumer_cards_is_claimed_of_data_centre_ones():
    plain = rows()
    without = Rows(
        tuple(row for row in plain.rental if ",RTX" not in row[1]),
        tuple(row for row in plain.resale if ",RTX" not in row[1]),
    )
    one, two = fit(snapshot(plain), None, DAY), fit(snapshot(without), None, DAY)
    same = (
        "new_ask",
        "used_ask",
        "sold",
        "equivalents",
        "rental",
        "drift_log_e6",
        "shortfall_log_e6",
    )
    for product in (one for one in one.products if one.asset_class == "data_centre"):
        other = two.of(product.product)
        assert [getattr(product, name) for name in same] == [getattr(other, name) for name in same]
    assert one.of_class("data_centre") == two.of_class("data_centre")
    assert two.of("RTX 3090 PCIe").new_ask is None


def test_a_market_that_falls_is_followed():
    """Every seller asks a tenth less: so does the level, within four weeks, and no faster than said."""
    before = fit(snapshot(rows()), None, DAY)
    fallen = rows(factor=0.9, since=DAY - 13)
    after = [before]
    for number in range(28):
        after.append(fit(snapshot(fallen), after[-1], DAY + 1 + number))
    logs = [level(one).log_e6 for one in after]
    assert logs[-1] - logs[0] == pytest.approx(1e6 * math.log(0.9), abs=12_000)
    count = len(level(before).references)
    assert max(abs(b - a) for a, b in pairwise(logs)) <= 4_500 * count + 2_500


def test_a_seller_that_comes_moves_nothing_but_what_the_market_as_a_whole_says():
    before = fit(snapshot(rows()), None, DAY - 1)
    lone = [rental_row(iso(DAY - 1), 20.0, "newcomer|H100|SXM|8|on_demand|eu")]
    plain = level(fit(snapshot(rows()), before, DAY))
    joined = level(fit(snapshot(rows().plus("newcomer", lone)), before, DAY))
    assert abs(joined.log_e6 - plain.log_e6) <= 5_000
    (own,) = (one for one in joined.references if one.seller == "newcomer")
    assert own.log_e6 == round(1e6 * math.log(20))


def test_what_a_seller_moves_today_it_does_not_move_again_tomorrow():
    """One of five goes from 2 to 2.02: the level follows by a fifth of that, once."""
    sellers = {"a": 2.0, "b": 2.0, "c": 2.0, "d": 2.0, "e": 2.0}
    first = fit(snapshot(quotes(*sellers.values(), age=2)), None, DAY - 1)
    raised = quotes(2.02, 2.0, 2.0, 2.0, 2.0, age=2)
    fits = [first]
    for number in range(4):
        fits.append(fit(snapshot(raised), fits[-1], DAY + number))
    logs = [level(one).log_e6 for one in fits]
    moved = 1e6 * math.log(1.01) / 5
    assert logs[1] - logs[0] == pytest.approx(moved, abs=400)
    # What is left is the cross-section's: four sellers of five still ask what they asked.
    assert logs[0] - 400 < logs[4] <= logs[1]


def test_a_level_outlives_its_rows_and_is_ever_less_sure():
    before = fit(snapshot(rows()), None, DAY)
    later = fit(snapshot(NOTHING), before, DAY + 1)
    again = fit(snapshot(NOTHING), later, DAY + 30)
    old, new, last = level(before), level(later), level(again)
    assert old.log_e6 == new.log_e6 == last.log_e6
    assert old.error_e6 < new.error_e6 < last.error_e6
    assert new.newest_day == old.newest_day
    assert (new.quotes, last.sellers) == (0, 0)
    assert last.basis == "hedonic"
    hardware = level(before, kind="new_ask"), level(again, kind="new_ask")
    # Asking prices age by 15% a year.
    yearly = (hardware[1].log_e6 - hardware[0].log_e6) * 365 / 30
    assert yearly == pytest.approx(1e6 * math.log(0.85), rel=0.01)


def test_a_day_has_one_fit():
    first = fit(snapshot(rows()), None, DAY)
    fallen = snapshot(rows(factor=0.5, since=DAY - 60))
    second = fit(fallen, first, DAY)
    assert second.products == first.products
    assert second.snapshot_sha256 == fallen.sha256
    assert second.previous_sha256 == first.sha256
    assert fit(fallen, first, DAY - 5).products == first.products


@pytest.mark.parametrize("before", [False, True])
def test_rows_dated_later_than_the_day_change_nothing(before):
    day = DAY - 50
    old = fit(snapshot(rows()), None, day - 30) if before else None
    planted = rows(factor=8.0, since=day + 1)
    one, two = fit(snapshot(planted), old, day), fit(snapshot(rows()), old, day)
    assert (one.products, one.classes) == (two.products, two.classes)


@pytest.mark.parametrize(
    "found",
    [
        NOTHING,
        quotes(2.5),
        quotes(2.5, age=400),
        NOTHING.plus(
            "shop", resale=[resale_row(iso(DAY), 25_000, "shop|H100 80GB PCIe|asking|new")]
        ),
        NOTHING.plus("shop", resale=[resale_row(iso(DAY - 2_000), 9, "shop|T4|sold|used")]),
        quotes(2.5, 2.6, 2.7, series="ZZ9|SXM|8|on_demand|eu"),
        quotes(0.005, 1_000.0, 2.5),
    ],
    ids=[
        "nothing",
        "one row",
        "one old row",
        "one ask",
        "one old sale",
        "unknown model",
        "far apart",
    ],
)
def test_little_to_go_by_makes_no_error_and_no_price(found):
    before = None
    for day in (DAY, DAY + 1, DAY + 40):
        before = fit(snapshot(found), before, day)
        assert from_json(to_json(before)) == before
    for product in before.products:
        for kind in KINDS:
            one = getattr(product, kind)
            assert one is None or one.error_e6 >= 50_000


def test_nothing_comes_of_nothing():
    for product in fit(snapshot(NOTHING), None, DAY).products:
        assert [getattr(product, kind) for kind in KINDS] == [None] * 4
        assert product.rental_outlook == product.hardware_outlook == ()
        assert product.shortfall_log_e6 is None


def test_every_product_of_the_table_is_in_it_by_name():
    names = [one.product for one in fit(snapshot(NOTHING), None, DAY).products]
    assert names == sorted(BY_NAME)


def test_committed_prices_are_compared_with_their_sellers_own_on_demand():
    found = fit(snapshot(rows()), None, DAY).of("H100 SXM5")
    assert found.committed_1y_log_e6 == pytest.approx(1e6 * math.log(0.65), abs=200)
    assert found.committed_3y_log_e6 is None


def test_sold_is_compared_with_asked_in_the_same_month():
    """The made-up market sells at 55% of new and asks 70% for used: between the two medians."""
    consumer = fit(snapshot(rows()), None, DAY).of_class("consumer")
    expected = math.log(0.55) - statistics.mean((math.log(1.0), math.log(0.7)))
    assert consumer.ask_to_sold_log_e6 == pytest.approx(1e6 * expected, abs=60_000)
    assert consumer.sales >= 30
    assert consumer.market_error_e6 > 0
    assert consumer.income_error_e6 is None
    data_centre = fit(snapshot(rows()), None, DAY).of_class("data_centre")
    assert (data_centre.sales, data_centre.market_error_e6) == (0, None)


def test_equivalents_are_as_new_and_quoted_new():
    found = fit(snapshot(rows()), None, DAY).of("A100 80GB SXM4")
    ratios = {one.product: one.performance_log_e6 for one in found.equivalents}
    assert ratios["A100 80GB SXM4"] == 0
    # (989.5/312)^.4 × (3350/2039)^.4 × (80/80)^.2
    expected = 0.4 * math.log(989.5 / 312) + 0.4 * math.log(3350 / 2039)
    assert ratios["H100 SXM5"] == pytest.approx(1e6 * expected, abs=2)
    assert "T4 PCIe" not in ratios
    assert "H200 SXM5" not in ratios


@pytest.mark.parametrize("market", list(Market))
def test_forecasts_for_values_are_those_that_the_backtest_scores(market):
    """Asking for the open ones changes none of those that are scored."""
    found = snapshot(rows())
    observations = found.rental if market is Market.RENTAL else found.resale
    series = build_series(observations)
    scored, both = build_cases(series, market), build_cases(series, market, DAY)
    edges = Walk(both, medians(both)).run()
    closed = both.outcome != NEVER
    assert closed.sum() == len(scored)
    assert (~closed).sum() == 3 * len(series)
    assert np.array_equal(edges[closed], Walk(scored, medians(scored)).run())


def test_outlooks_learn_with_the_month_and_move_by_a_step_a_day():
    before = fit(snapshot(rows()), None, DAY)
    fallen = snapshot(rows(factor=0.5, since=DAY - 200))
    same_month = fit(fallen, before, DAY + 1)
    assert same_month.of("H100 SXM5").hardware_outlook == before.of("H100 SXM5").hardware_outlook
    next_month = fit(fallen, before, DAY + 20)
    one, two = before.of("H100 SXM5"), next_month.of("H100 SXM5")
    moves = [
        abs(new.q10_e6 - old.q10_e6)
        for old, new in zip(one.hardware_outlook, two.hardware_outlook, strict=True)
    ]
    assert max(moves) == 1_000
    assert two.hardware_outlook_aim != one.hardware_outlook_aim


def test_a_kind_of_price_that_is_new_to_a_product_waits_until_three_sellers_stand_behind_it():
    name = "RTX 3090 PCIe"
    two = rows()
    third = [row.replace("shop", "stall") for who, row in two.resale if who == "shop"]
    three = two.plus("stall", resale=third)
    before = fit(
        snapshot(Rows(two.rental, tuple(row for row in two.resale if ",RTX" not in row[1]))),
        None,
        DAY - 2,
    )
    assert [before.of(name).new_ask, before.of(name).equivalents] == [None, ()]
    waiting = before
    for day in range(DAY - 1, DAY + 5):
        waiting = fit(snapshot(two, day), waiting, day)
        level = waiting.of(name).new_ask
        assert (level.sellers, level.in_use, waiting.of(name).equivalents) == (2, False, ())
    seen = [waiting]
    for day in range(DAY + 5, DAY + 8):
        seen.append(fit(snapshot(three, day), seen[-1], day))
    # The third is heard of, then counts, then others are compared with what it sells.
    assert [one.of(name).new_ask.in_use for one in seen] == [False, False, True, True]
    listed = [name in {e.product for e in one.of(name).equivalents} for one in seen]
    assert listed == [False, False, False, True]
    gone = fit(snapshot(two, DAY + 8), seen[-1], DAY + 8)
    assert gone.of(name).new_ask.in_use


def test_a_figure_that_is_new_begins_at_what_a_value_took_without_it():
    """One seller who is the first to rent by the year does not set what a year costs."""
    plain = rows()
    bare = Rows(tuple(row for row in plain.rental if "reserved" not in row[1]), ())
    before = fit(snapshot(bare), None, DAY - 1)
    old = before.of("H100 SXM5")
    assert (old.committed_1y_log_e6, old.drift_log_e6, old.shortfall_log_e6) == (None, None, None)
    series = "acme|H100|SXM|8|reserved_1y|eu"
    told = plain.plus("acme", [rental_row("2025-06-01", 0.02, series)])
    found = fit(snapshot(told), before, DAY).of("H100 SXM5")
    assert abs(found.committed_1y_log_e6 - -430_783) <= 1_000  # ln .65
    assert abs(found.drift_log_e6 - -223_144) <= 1_000  # ln .80
    assert abs(found.shortfall_log_e6 - 356_675) <= 3_567  # -ln .70
    assert abs(found.daily_volatility_e6 - 12_000) <= 120
    classes = fit(snapshot(told), before, DAY).of_class("consumer")
    assert abs(classes.ask_to_sold_log_e6 - -430_783) <= 1_000


def test_realised_sales_that_are_taken_back_leave_a_class_tested():
    plain = rows()
    before = fit(snapshot(plain), None, DAY - 1)
    sales = before.of_class("consumer").sales
    assert sales >= 30
    after = fit(snapshot(plain.without("shop").without("bazaar")), before, DAY)
    assert after.of_class("consumer").sales == sales
    assert after.of_class("consumer").market_error_e6 is not None


def test_a_market_that_had_no_outlook_has_one_from_its_first_rows_on():
    empty = fit(snapshot(NOTHING), None, DAY)
    found = fit(snapshot(rows()), empty, DAY + 1).of("H100 SXM5")
    assert [one.horizon_days for one in found.rental_outlook] == [30, 90, 180]
    assert [one.horizon_days for one in found.hardware_outlook] == [30, 90, 180]
