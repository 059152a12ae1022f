"""What must hold of every value: what is worse never lends more, and nobody moves it by much alone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from assay_core.covenant import Premise
from assay_core.money import Usd
from assay_valuer.valuation.case import Appraisal, Board, from_json, to_json
from assay_valuer.valuation.estimate import RENTAL_LOGS_E6
from assay_valuer.valuation.fixed import exp_e6, ln_ratio, log_of_usd, root, usd_of_log
from assay_valuer.valuation.parameters import Equivalent
from assay_valuer.valuation.value import Valuation, value_case
from tests.fakes.cases import LEVELS, maybe, plausible, readable, with_levels
from tests.fakes.valuing import DAY, case, h100, level, of_product, of_subject, parameters, row

MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
SOME = settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
ONE_SELLER_MAX_BPS = 500


def lent(one) -> int:
    """What is lent on, in micro-dollars; where nothing is known to lend on, less than nothing."""
    lending = value_case(one).lending
    return -1 if lending is None else lending.micros


def amounts(valued: Valuation) -> list[int]:
    assert valued.values is not None
    assert valued.lending is not None
    values = valued.values
    return [
        amount.micros
        for span in (values.fmv, values.olv, values.nolv, values.flv)
        for amount in (span.low, span.mid, span.high)
    ] + [valued.lending.micros]


def assert_near(before: list[int], after: list[int]) -> None:
    for was, now in zip(before, after, strict=True):
        assert abs(now - was) * 10_000 <= ONE_SELLER_MAX_BPS * was + 20_000, (before, after)


# -- nothing that can be read breaks it, and it is the same everywhere ----------------------------


@MANY
@given(readable())
def test_any_case_that_can_be_read_is_valued_or_says_why_not(one):
    valued = value_case(from_json(to_json(one)))
    assert valued.findings
    assert valued.case_sha256 == one.sha256
    if valued.values is None:
        assert valued.lending is None
        return
    values = valued.values
    for span in (values.fmv, values.olv, values.nolv, values.flv):
        assert span.low <= span.mid <= span.high
    for worse, better in ((values.nolv, values.olv), (values.olv, values.fmv)):
        assert worse.low <= better.low
        assert worse.mid <= better.mid
        assert worse.high <= better.high
    assert values.olv.low > Usd(0)
    if valued.lending is not None:
        assert Usd(0) <= valued.lending <= values.nolv.mid
    if valued.indications:
        weights = [indication.weight_bps for indication in valued.indications]
        assert 10_000 - len(weights) <= sum(weights) <= 10_000


@SOME
@given(plausible())
def test_a_case_that_is_written_and_read_again_is_worth_the_same_to_the_micro(one):
    text = to_json(one)
    again = from_json(text)
    assert to_json(again) == text
    assert value_case(again) == value_case(one)


def test_a_value_is_the_same_in_every_process_whatever_its_hash_seed():
    one = h100()
    program = (
        "import sys\n"
        "from assay_valuer.valuation.case import from_json\n"
        "from assay_valuer.valuation.value import value_case\n"
        "print(value_case(from_json(sys.stdin.buffer.read())))\n"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            input=to_json(one),
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout.decode()
        for seed in ("0", "1", "4242")
    }
    assert said == {f"{value_case(one)}\n"}


# -- logarithms and money -------------------------------------------------------------------------


@given(st.integers(10_000, 10**15))
def test_money_survives_its_logarithm_to_a_millionth(micros):
    back = usd_of_log(log_of_usd(Usd(micros))).micros
    assert abs(back - micros) * 1_000_000 <= micros + 1_000_000


@given(st.integers(-13_000_000, 20_000_000))
def test_a_logarithm_survives_its_money(log):
    amount = usd_of_log(log)
    assert abs(log_of_usd(amount) - log) <= 1 + 1_000_000 // amount.micros


@given(st.integers(0, 10**37))
def test_a_root_is_the_largest_whole_number_whose_square_is_no_more(square):
    found = root(square)
    assert found * found <= square < (found + 1) ** 2


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_ratio_and_its_reverse_are_opposite(over, under):
    assert abs(ln_ratio(over, under) + ln_ratio(under, over)) <= 1
    assert exp_e6(0) == 1_000_000


# -- what is worse never lends more ---------------------------------------------------------------


@MANY
@given(plausible())
def test_worse_health_a_partial_board_and_a_larger_lot_never_lend_more(one):
    good = of_subject(one, degraded=False, board=Board.WHOLE)
    assert lent(of_subject(good, degraded=True)) <= lent(good)
    assert lent(of_subject(good, board=Board.PARTIAL)) <= lent(good)
    assert lent(of_subject(good, lot=good.subject.lot * 3)) <= lent(good)


@MANY
@given(plausible(), st.integers(1, 400))
def test_a_warranty_and_a_market_that_swallows_more_never_lend_less(one, days):
    bare = of_subject(one, warranty_until=None)
    assert lent(of_subject(bare, warranty_until=DAY + days)) >= lent(bare)
    sold = of_product(one, monthly_sales=100)
    assert lent(of_product(one, monthly_sales=100 + days)) >= lent(sold)


@MANY
@given(plausible(), st.integers(1, 400), st.sampled_from(["fit", "table", "appraisals", "all"]))
def test_older_data_never_lend_more(one, by_days, which):
    older = one
    if which in ("fit", "all"):
        older = of_product(older, day=one.product.day - by_days)
    if which in ("table", "all"):
        table = tuple(replace(row, day=row.day - by_days) for row in older.table)
        older = replace(older, table=table)
    if which in ("appraisals", "all"):
        signed = tuple(replace(one, day=one.day - by_days) for one in older.appraisals)
        older = replace(older, appraisals=signed)
    assert lent(older) <= lent(one)


def test_a_row_of_a_wide_range_lends_no_more_when_it_is_too_old_and_another_price_takes_its_place():
    other = Equivalent(
        product="B200 SXM6",
        new_ask=level("3000", error_e6=10_000, basis="hedonic"),
        performance_log_e6=0,
    )
    fitted = parameters(equivalents=(other,))
    young, old = (
        case(table=(row("new", 800, 2_217, 2_217, days=days),), product=fitted) for days in (0, 181)
    )
    assert lent(old) <= lent(young)


@MANY
@given(plausible(), st.sampled_from(LEVELS), st.integers(1, 5))
def test_fewer_sellers_and_wider_errors_never_lend_more(one, name, by):
    level = getattr(one.product, name)
    if level is None:
        return
    fewer = replace(level, sellers=max(level.sellers - by, 0))
    wider = replace(level, error_e6=level.error_e6 + by * 50_000)
    assert lent(of_product(one, **{name: fewer})) <= lent(one)
    assert lent(of_product(one, **{name: wider})) <= lent(one)


@MANY
@given(plausible(), st.integers(0, 3))
def test_the_loss_of_an_approach_that_said_no_less_than_the_value_never_lends_more(one, which):
    one = replace(one, table=(), appraisals=())
    valued = value_case(one)
    name = ("rental", "new_ask", "used_ask", "sold")[which]
    approach = {"rental": "income", "new_ask": "cost"}.get(name, "market")
    said = [found for found in valued.indications if found.approach == approach]
    lost = {"used_ask": None, "sold": None} if approach == "market" else {name: None}
    if approach == "cost":
        lost["equivalents"] = ()
    if approach == "income":
        one = of_subject(one, contract=None)
        valued = value_case(one)
        said = [found for found in valued.indications if found.approach == approach]
    if len(valued.indications) < 2 or not said or valued.values is None:
        return
    without = of_product(one, **lost)
    left = {found.approach: found.range.mid for found in value_case(without).indications}
    kept = {found.approach: found.range.mid for found in valued.indications if found is not said[0]}
    # Hardware prices also make what is left of a GPU, and the cap: then not only one was lost.
    if left != kept or any(found.code == "value.capped" for found in valued.findings):
        return
    if said[0].range.mid >= max(kept.values()):
        assert lent(without) <= lent(one)


@MANY
@given(plausible(), st.integers(1, 300_000))
def test_a_higher_rental_price_never_lends_less(one, by):
    """Of what counts as a price: below half a cent an hour there is none, and nothing is held against it."""
    level = one.product.rental
    if level is not None and level.log_e6 >= RENTAL_LOGS_E6[0]:
        higher = of_product(one, rental=replace(level, log_e6=level.log_e6 + by))
        assert lent(higher) >= lent(one)


def test_the_lending_of_an_appraisal_falls_with_what_the_gpu_earns_below_its_costs_too():
    """Nothing is known but a rental price, across what it costs to run, and a signature of $31,897."""
    signed = Appraisal(
        appraiser="one",
        premise=Premise.FMV,
        micros=31_897_000_000,
        day=DAY,
        document_sha256="0" * 64,
    )
    alone = case(product=parameters(), appraisals=(signed,))
    rented = [
        of_product(alone, rental=level("1", error_e6=10_000)),
        *(
            of_product(alone, rental=replace(level("1", error_e6=10_000), log_e6=log))
            for log in range(-17_000, -2_000_000, -17_000)
        ),
    ]
    assert "income.nothing" in {found.code for found in value_case(rented[-1]).findings}
    assert lent(rented[-1]) * 20 < lent(alone)
    for more, less in itertools.pairwise(rented):
        assert lent(less) <= lent(more)
        assert_near(amounts(value_case(more)), amounts(value_case(less)))


def test_an_approach_that_says_next_to_nothing_lends_what_its_absence_lends():
    """New ones are asked for by nobody knows how much, within a factor of 3.4: only sales say anything."""
    sold = case(product=parameters(sold=level("299", error_e6=10_000)))
    unsure = of_product(sold, new_ask=level("493", error_e6=1_228_426, sellers=0))
    sure = of_product(sold, new_ask=level("493", error_e6=10_000))
    assert lent(unsure) == lent(sold) < lent(sure)
    low = of_product(sold, new_ask=level("100", error_e6=1_228_426, sellers=0))
    assert lent(low) < lent(sold)


# -- one seller -----------------------------------------------------------------------------------


@SOME
@given(plausible())
def test_no_corner_of_a_move_of_every_level_by_1_7_percent_moves_anything_by_5(one):
    valued = value_case(one)
    if valued.values is None or valued.values.olv.low.micros < 1_000_000:
        return
    before = amounts(valued)
    product = one.product
    there = [getattr(product, name) for name in LEVELS]
    count = sum(level is not None for level in there) + len(product.equivalents)
    for signs in itertools.product((-17_000, 17_000), repeat=count):
        steps = iter(signs)
        moved = with_levels(
            one, lambda level, steps=steps: replace(level, log_e6=level.log_e6 + next(steps))
        )
        assert_near(before, amounts(value_case(moved)))


@MANY
@given(st.integers(-900_000, 1_200_000), maybe(st.integers(5_000_000, 9_500_000)))
def test_where_costs_take_nearly_all_that_is_earned_a_step_of_rental_is_still_no_more(rent, price):
    """About 0.40 to 3.30 an hour, of hardware nobody prices or from 150 to 13,000 dollars."""

    def valued(by: int) -> Valuation:
        sold = None if price is None else replace(level("1"), log_e6=price + by)
        rental = replace(level("1"), log_e6=rent + by)
        return value_case(case(product=parameters(rental=rental, sold=sold)))

    less, more = valued(0), valued(17_000)
    if less.values is None:  # nothing is earned, and nothing else is known: no value
        assert price is None
        return
    assert_near(amounts(less), amounts(more))


@MANY
@given(plausible(), st.data())
def test_what_one_seller_can_do_to_a_fit_moves_nothing_by_more_than_5_percent(one, data):
    """The bounds of `valuation/parameters.py`, all at once, at errors up to 1.7 and shortfalls to 1.3."""
    valued = value_case(one)
    if valued.values is None or valued.values.olv.low.micros < 1_000_000:
        return
    either = st.sampled_from([-1, 1])
    wider = data.draw(either)

    def moved(level):
        return replace(
            level,
            log_e6=level.log_e6 + data.draw(either) * 14_000,
            error_e6=level.error_e6 + wider * min(level.error_e6 // 50, 8_000),
            quotes=data.draw(st.integers(0, 1_000)),
            newest_day=DAY - data.draw(st.integers(0, 3_000)),
        )

    after = with_levels(one, moved)
    ratios = ("committed_1y_log_e6", "committed_3y_log_e6", "drift_log_e6")
    shares = ("daily_volatility_e6", "shortfall_log_e6")
    change = {name: getattr(one.product, name) for name in (*ratios, *shares)}
    for name in ratios:
        if change[name] is not None:
            change[name] += data.draw(either) * 2_000
    for name in shares:
        if change[name] is not None:
            change[name] += wider * min(change[name] // 50, 8_000)
    after = of_product(after, **change)
    to_sold, error = one.asset_class.ask_to_sold_log_e6, one.asset_class.market_error_e6
    if to_sold is not None:
        to_sold += data.draw(either) * 2_000
    if error is not None:
        error += wider * min(error // 50, 8_000)
    classed = replace(one.asset_class, ask_to_sold_log_e6=to_sold, market_error_e6=error)
    after = replace(after, asset_class=classed)
    assert_near(amounts(valued), amounts(value_case(after)))


@MANY
@given(plausible(), maybe(st.integers(0, 3_000)))
def test_no_number_hangs_on_when_or_how_often_sellers_quoted(one, days):
    after = with_levels(
        one, lambda level: replace(level, newest_day=DAY - (days or 0), quotes=days or 0)
    )
    was, now = value_case(one), value_case(after)
    assert (was.values, was.lending) == (now.values, now.lending)
