"""A value from its case: each approach, each factor and each refusal says what it did."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from assay_core.covenant import Premise
from assay_core.money import Usd
from assay_valuer.policy import Income, Lending, ValuerPolicy
from assay_valuer.valuation.case import Appraisal, Board, Contract, Override, Subject
from assay_valuer.valuation.parameters import Equivalent
from assay_valuer.valuation.value import METHOD, value_case
from tests.fakes.valuing import (
    DAY,
    H100,
    case,
    case_policy,
    h100,
    learned,
    level,
    log_e6,
    of_product,
    of_subject,
    parameters,
    row,
)

USED = row("used", 18_000, 22_000, 26_000)


def codes(valued):
    return [finding.code for finding in valued.findings]


def by(valued, approach):
    return next(one for one in valued.indications if one.approach == approach)


def dollars(amount):
    return round(amount.micros / 1_000_000)


def signed(usd, *, premise=Premise.FMV, days=30, appraiser="appraiser"):
    return Appraisal(
        appraiser=appraiser,
        premise=premise,
        micros=usd * 1_000_000,
        day=DAY - days,
        document_sha256="ab" * 32,
    )


def override(usd, *, until=DAY + 10):
    return Override(
        micros=usd * 1_000_000,
        reason="fire in the hall",
        until=until,
        signed_by=("ada", "bob"),
        position=7,
    )


# -- the price table alone: what its author says, as ever ------------------------------------------


def test_a_used_row_alone_passes_through_premise_by_premise():
    valued = value_case(case(table=(replace(USED, mid_micros=22_000_500_000),)))
    assert valued.values is not None
    assert valued.values.fmv.low == Usd(18_000_000_000)
    assert valued.values.fmv.mid == Usd(22_000_500_000)
    assert valued.values.olv.mid == Usd(18_700_425_000)  # × 0.85
    assert valued.values.nolv.mid == Usd(13_090_297_500)  # × 0.70
    assert valued.values.flv.mid == Usd(14_025_318_750)  # × 0.75
    assert codes(valued)[0] == "price.row"
    assert {"premise.olv", "sale.cost", "class.unvalidated", "lending.market"} <= {*codes(valued)}
    assert [one.weight_bps for one in valued.indications] == [10_000]


def test_a_new_row_alone_is_cut_and_the_cut_is_named():
    valued = value_case(case("NVIDIA B200", table=(row("new", 38_000, 42_000, 47_000),)))
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(27_300_000_000)  # 42,000 × 0.65
    assert "condition.used" in codes(valued)
    assert by(valued, "cost").range == valued.values.fmv


def test_a_table_with_both_is_its_used_row_and_no_more_than_its_new_one():
    both = (USED, row("new", 27_000, 30_000, 33_000))
    assert value_case(case(table=both)).values == value_case(case(table=(USED,))).values
    dear = (USED, row("new", 19_000, 20_000, 21_000))
    capped = value_case(case(table=dear))
    assert capped.values is not None
    assert dollars(capped.values.fmv.mid) == 20_000
    assert "value.capped" in codes(capped)
    cheap = value_case(case(table=(USED, row("new", 5_900, 6_000, 6_100))))
    assert cheap.lending < Usd(6_000_000_000).times_down(8_500 * 7_000 * 7_000, 10**12)


def test_a_degraded_gpu_is_worth_less_and_says_that_nobody_can_check_it():
    valued = value_case(of_subject(case(table=(USED,)), degraded=True))
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(18_700_000_000)
    said = next(one for one in valued.findings if one.code == "health.degraded")
    assert said.effect_bps == 8_500
    assert "no public data" in said.detail


# -- what cannot be known is unknown ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "code"),
    [
        (case(None), "product.unread"),
        (case("NVIDIA H999"), "product.unknown"),
        (case(has_prices=False), "price.none"),
        (case(), "price.missing"),
        (case(method="price-table/1"), "method.unknown"),
        (case(table=(row("used", 1, 2, 3, days=181),)), "price.old"),
        (case(table=(row("used", 1, 2, 3, days=-2),)), "price.ahead"),
        (case(table=(row("used", 3, 2, 4),)), "price.unusable"),
        (case(table=(row("used", 0, 0, 0),)), "price.unusable"),
        (case(product=parameters(sold=level("20000", error_e6=2_000_001))), "level.absurd"),
        (case(product=parameters(sold=level("3000000"))), "level.absurd"),
        (case(product=parameters(rental=level("0.004"))), "level.absurd"),
        (case(product=parameters(day=DAY - 181, sold=level("20000"))), "price.old"),
        (case(product=parameters(day=DAY + 2, sold=level("20000"))), "price.ahead"),
        (case(product=parameters("B200 SXM6", sold=level("20000"))), "product.other"),
        (case(product=parameters(asset_class="consumer", sold=level("9"))), "product.other"),
        (case(appraisals=(signed(20_000, days=366),)), "appraisal.old"),
        (case(appraisals=(signed(20_000, days=-2),)), "appraisal.ahead"),
        (case(appraisals=(signed(30_000_000),)), "appraisal.absurd"),
    ],
)
def test_what_cannot_be_known_has_no_value_and_says_why(one, code):
    valued = value_case(one)
    assert valued.values is None
    assert valued.lending is None
    assert code in codes(valued)


def test_a_value_that_rounds_to_nothing_is_unknown_and_never_zero():
    speck = replace(USED, low_micros=1, mid_micros=1_000_000)
    valued = value_case(case(table=(speck,)))
    assert valued.values is None
    assert "price.vanishes" in codes(valued)


# -- market ----------------------------------------------------------------------------------------


def test_sales_come_before_asking_prices_and_asking_prices_are_cut_to_sales():
    asked = value_case(case(product=parameters(used_ask=level("30000"))))
    assert dollars(by(asked, "market").range.mid) == 19_500  # × 0.65, the policy's
    learnt = case(
        product=parameters(used_ask=level("30000")),
        asset_class=learned(ask_to_sold_log_e6=log_e6("0.8")),
    )
    assert dollars(by(value_case(learnt), "market").range.mid) == 24_000
    both = case(product=parameters(used_ask=level("30000"), sold=level("21000")))
    assert dollars(by(value_case(both), "market").range.mid) == 21_000
    guess = case(product=parameters(used_ask=level("30000"), sold=level("9", basis="hedonic")))
    assert dollars(by(value_case(guess), "market").range.mid) == 19_500


def test_thin_and_estimated_levels_are_wider_and_say_so():
    plain = value_case(case(product=parameters(sold=level("20000"))))
    thin = value_case(case(product=parameters(sold=level("20000", sellers=1))))
    guess = value_case(case(product=parameters(sold=level("20000", sellers=0, basis="hedonic"))))
    assert "level.thin" in codes(thin)
    assert {"level.hedonic", "level.thin"} <= {*codes(guess)}
    wide = [one.indications[0].error_e6 for one in (plain, thin, guess)]
    assert wide == sorted(wide)
    assert plain.lending > thin.lending > guess.lending


def test_another_class_teaches_nothing():
    stated = case(product=parameters(used_ask=level("30000")))
    pooled = replace(
        stated, asset_class=learned("consumer", 500, ask_to_sold_log_e6=0, market_error_e6=90_000)
    )
    valued = value_case(pooled)
    assert "class.other" in codes(valued)
    assert valued.values == value_case(stated).values


def test_a_class_with_sales_enough_is_weighed_by_its_own_errors():
    tested = learned(sales=30, market_error_e6=100_000, income_error_e6=600_000)
    few = replace(tested, sales=29)
    validated = value_case(replace(h100(), asset_class=tested))
    stated = value_case(replace(h100(), asset_class=few))
    assert "class.unvalidated" not in codes(validated)
    assert "class.unvalidated" in codes(stated)
    assert stated.values == value_case(h100()).values
    assert by(validated, "market").weight_bps > 9_000 > by(stated, "market").weight_bps


# -- cost ------------------------------------------------------------------------------------------


def test_the_cheapest_that_does_the_same_work_is_what_a_new_one_costs():
    twice = Equivalent(product="B200 SXM6", new_ask=level("40000"), performance_log_e6=log_e6("2"))
    one = case(product=parameters(new_ask=level("30000"), equivalents=(twice,)))
    # 40,000 ÷ 2^0.8 = 22,974; × 0.65
    assert dollars(by(value_case(one), "cost").range.mid) == 14_933
    for performance in ("4.1", "0.49"):
        unlike = replace(twice, new_ask=level("9"), performance_log_e6=log_e6(performance))
        left = value_case(of_product(one, equivalents=(unlike,)))
        assert dollars(by(left, "cost").range.mid) == 19_500
        assert "equivalent.unlike" in codes(left)


def test_of_weaker_ones_as_many_are_bought_as_do_the_work():
    half = Equivalent(product="H100 PCIe", new_ask=level("14000"), performance_log_e6=log_e6("0.5"))
    one = case(product=parameters(new_ask=level("30000"), equivalents=(half,)))
    assert dollars(by(value_case(one), "cost").range.mid) == 18_200  # 2 × 14,000 × 0.65


# -- income ----------------------------------------------------------------------------------------


def test_what_a_gpu_earns_is_of_the_order_of_what_it_sells_for():
    """Rental levels, asking prices and the sales they stand for as in 2026: judgement, not data."""
    for name, product, rental, asked, least, most in (
        (H100, "H100 SXM5", "2.20", "30000", 10_000, 30_000),
        ("NVIDIA B200", "B200 SXM6", "4.00", "57000", 20_000, 60_000),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB SXM4", "1.20", "13000", 4_000, 14_000),
    ):
        valued = value_case(
            case(name, product=parameters(product, rental=level(rental), used_ask=level(asked)))
        )
        assert least < dollars(by(valued, "income").range.mid) < most
        assert "approaches.disagree" not in codes(valued)


def test_months_that_lose_money_are_switched_off():
    valued = value_case(case(product=parameters(rental=level("0.40"), sold=level("5000"))))
    assert "income.switched_off" in codes(valued)
    assert by(valued, "income").range.mid >= Usd(1_000_000_000)


def test_a_contract_comes_first_and_only_as_far_as_its_payer_lives():
    bare = h100()
    contract = Contract(
        counterparty="renter",
        micros_per_hour=2_500_000,
        until=DAY + 365,
        default_bps_per_year=100,
        document_sha256="cd" * 32,
    )
    let = of_subject(bare, contract=contract)
    doubtful = of_subject(bare, contract=replace(contract, default_bps_per_year=5_000))
    over = of_subject(bare, contract=replace(contract, until=DAY - 1))
    said = [value_case(one) for one in (let, doubtful, over, bare)]
    mids = [by(one, "income").range.mid for one in said]
    assert mids[0] > mids[1] > mids[2] == mids[3]
    assert "income.contract" in codes(said[0])
    assert "contract.over" in codes(said[2])


def test_where_no_rental_price_is_known_nothing_is_said_of_what_the_market_pays():
    contract = Contract(
        counterparty="renter",
        micros_per_hour=2_500_000,
        until=DAY + 365,
        default_bps_per_year=100,
        document_sha256="cd" * 32,
    )
    valued = value_case(
        of_subject(case(product=parameters(sold=level("15000"))), contract=contract)
    )
    assert "income.unpriced" in codes(valued)
    assert "income.switched_off" not in codes(valued)
    assert not any("the market" in f.detail for f in by(valued, "income").findings)


def test_without_the_hardwares_price_nothing_is_left_at_the_end():
    valued = value_case(case(product=parameters(rental=level("2.20"))))
    assert "income.no_residual" in codes(valued)
    assert valued.values is not None
    assert "lending.missing" in codes(valued)


def test_a_gpu_that_earns_nothing_has_no_value_by_what_it_earns():
    valued = value_case(case(product=parameters(rental=level("0.40"))))
    assert valued.values is None
    assert codes(valued) == ["income.nothing"]
    thin = value_case(case(product=parameters(rental=level("0.80"))))
    assert "income.thin" in codes(thin)


def test_hardware_that_a_policy_lets_keep_nothing_has_a_value_all_the_same():
    policy = case_policy(ValuerPolicy(income=Income(months=120, residual_year_bps=0)))
    one = case(product=parameters(rental=level("2.20"), sold=level("9000")), policy=policy)
    assert value_case(one).values is not None


def test_rent_far_from_what_the_hardware_costs_is_held_nearer():
    valued = value_case(case(product=parameters(rental=level("12"), sold=level("5000"))))
    assert "income.far" in codes(valued)
    assert dollars(by(valued, "income").range.mid) == 13_591  # 5,000 × e


# -- appraisals ------------------------------------------------------------------------------------


def test_an_appraisal_anchors_the_level_on_its_premise_and_weighs_less_as_it_ages():
    fresh = value_case(replace(h100(), appraisals=(signed(12_000, days=0),)))
    aged = value_case(replace(h100(), appraisals=(signed(12_000, days=300),)))
    net = value_case(replace(h100(), appraisals=(signed(12_000, premise=Premise.NOLV, days=0),)))
    assert by(fresh, "appraisal").weight_bps > by(aged, "appraisal").weight_bps
    assert fresh.values.fmv.mid < aged.values.fmv.mid < value_case(h100()).values.fmv.mid
    assert dollars(by(net, "appraisal").range.mid) == 20_168  # ÷ 0.85 ÷ 0.70
    assert aged.lending <= fresh.lending
    two = (signed(12_000, days=0), signed(11_000, days=0, appraiser="other"))
    assert len(value_case(replace(h100(), appraisals=two)).indications) == 5


def test_only_the_newest_appraisals_count():
    many = tuple(signed(12_000 + day, days=day) for day in range(1, 40))
    valued = value_case(replace(h100(), appraisals=many))
    assert sum(one.approach == "appraisal" for one in valued.indications) == 8
    assert "appraisal.more" in codes(valued)


def test_an_appraisal_a_little_below_the_market_lends_no_more_by_ageing():
    """Its weight would fall faster than its error grows, were it that of the day."""
    steady = case(
        product=parameters(sold=level("20000", error_e6=10_000), daily_volatility_e6=6_000),
        asset_class=learned(sales=100, market_error_e6=80_000),
    )
    fresh, aged = (
        value_case(replace(steady, appraisals=(signed(18_648, days=days),))) for days in (0, 300)
    )
    assert aged.values.fmv.mid > fresh.values.fmv.mid
    assert aged.lending <= fresh.lending


# -- reconciled ------------------------------------------------------------------------------------


def test_approaches_that_disagree_widen_the_value_and_the_lowest_is_lent_on():
    agreed = value_case(case(product=parameters(sold=level("20000"), new_ask=level("31000"))))
    apart = value_case(case(product=parameters(sold=level("20000"), new_ask=level("110000"))))
    assert "approaches.disagree" not in codes(agreed)
    assert {"approaches.disagree", "lending.lowest"} <= {*codes(apart)}
    spans = [
        one.values.fmv.high.micros * 100 // one.values.fmv.low.micros for one in (agreed, apart)
    ]
    assert spans[0] < spans[1]
    lowest = by(apart, "market").range.mid
    factors = 8_500 * 7_000 * 7_000
    assert apart.lending < lowest.times_down(factors, 10**12)


def test_appraisals_far_above_the_market_do_not_buy_a_loan():
    names = ("one", "two", "three")
    praised = tuple(signed(90_000, days=0, appraiser=name) for name in names)
    one = case(product=parameters(sold=level("20000")), appraisals=praised)
    valued = value_case(one)
    assert dollars(valued.values.fmv.mid) > 50_000
    assert valued.lending < Usd(20_000_000_000).times_down(8_500 * 7_000 * 7_000, 10**12)
    assert "lending.lowest" in codes(valued)


def test_a_level_too_old_for_a_value_still_lowers_what_is_lent():
    low = case(product=parameters(day=DAY - 181, sold=level("9000")), table=(USED,))
    alone = value_case(case(table=(USED,)))
    valued = value_case(low)
    assert valued.values == alone.values
    assert valued.lending < alone.lending
    assert {"price.old", "lending.older"} <= {*codes(valued)}
    high = value_case(of_product(low, sold=level("90000")))
    assert high.lending == alone.lending


# -- factors and lending ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "effect_bps"),
    [
        ({"board": Board.PARTIAL}, "board.partial", 8_500),
        ({"warranty_until": DAY + 180}, "warranty", 10_300),
        ({"lot": 128}, "lot", 9_700),
        ({"lot": 1_000_000}, "lot", 7_500),
    ],
)
def test_each_factor_is_named_with_its_effect_and_called_a_judgement(change, code, effect_bps):
    bare, valued = value_case(h100()), value_case(of_subject(h100(), **change))
    said = next(one for one in valued.findings if one.code == code)
    assert said.effect_bps is not None
    assert abs(said.effect_bps - effect_bps) <= 1
    assert "judgement" in said.detail
    assert (
        abs(valued.values.olv.mid.micros - bare.values.olv.mid.micros * effect_bps // 10_000)
        < 10**7
    )
    assert (valued.values.fmv == bare.values.fmv) is (code == "lot")


def test_a_warranty_about_to_end_is_none():
    assert "warranty" not in codes(value_case(of_subject(h100(), warranty_until=DAY + 179)))


def test_a_variant_for_export_is_worth_less():
    one = case("NVIDIA H20", table=(USED,))
    assert dollars(value_case(one).values.fmv.mid) == 19_800
    assert "export.variant" in codes(value_case(one))


def test_a_lot_is_measured_by_what_its_market_sells():
    one = of_subject(of_product(h100(), monthly_sales=1_000), lot=100)
    assert "lot" not in codes(value_case(one))
    assert "lot" in codes(value_case(of_product(one, monthly_sales=500)))


def test_the_market_haircut_is_the_fitted_shortfall_and_never_less_than_the_least():
    effects = []
    for shortfall in (None, 400_000, 10_000):
        valued = value_case(of_product(h100(), shortfall_log_e6=shortfall))
        effects.append(
            next(one.effect_bps for one in valued.findings if one.code == "lending.market")
        )
    assert effects == [7_000, 6_703, 9_000]  # stated; e^-0.4; 1 - 10%


def test_a_low_level_and_a_fall_are_taken_by_the_root_of_their_squares():
    policy = case_policy()
    exact = replace(
        policy,
        reconciliation=replace(policy.reconciliation, market_error_e6=300_000, missing_e6=0),
    )
    one = case(
        policy=exact,
        product=parameters(sold=level("20000", error_e6=400_000), shortfall_log_e6=500_000),
    )
    valued = value_case(one)
    steps = {found.code: found.effect_bps for found in valued.findings}
    # the level: 1.281552 × √(.3² + .4²) = .640776; the fall: .5; √(.640776² + .5²) = .812769
    assert steps["lending.low"] == 5_268  # e^-.640776
    assert steps["lending.market"] == 6_065  # e^-.5
    assert steps["lending.together"] == 13_881  # e^(.640776 + .5 - .812769)
    # 20,000 × e^-.812769 × .85 × .70 = 5,279.17
    assert abs(valued.lending.micros - 5_279_170_000) < 20_000
    calm = value_case(of_product(one, shortfall_log_e6=0))
    # no less than 10%: -ln .9 = .105361; √(.640776² + .105361²) = .649380; 6,216.20
    assert abs(calm.lending.micros - 6_216_197_000) < 20_000


def test_where_all_may_be_lost_until_the_sale_nothing_is_lent():
    policy = replace(case_policy(), lending=Lending(market_haircut_bps=10_000))
    valued = value_case(replace(h100(), policy=policy))
    assert valued.lending == Usd(0)
    assert valued.values == value_case(h100()).values


def test_what_is_lent_on_multiplies_up_from_its_steps():
    valued = value_case(of_subject(h100(), degraded=True, lot=128))
    steps = {one.code: one.effect_bps for one in valued.findings if one.effect_bps is not None}
    amount = valued.values.fmv.mid.micros  # after health
    both = ("lending.market", "lending.together")
    for code in ("lending.low", "premise.olv", "lot", "sale.cost", *both):
        amount = amount * steps[code] // 10_000
    assert abs(amount - valued.lending.micros) * 1_000 < amount


def test_approaches_that_say_nothing_are_taken_to_say_less():
    valued = value_case(case(product=parameters(sold=level("20000"))))
    steps = {one.code: one.effect_bps for one in valued.findings}
    # 0.20 × (1/.40² + 1/.45²) ÷ (1/.25² + 1/.40² + 1/.45²) = 0.0823; e^-0.0823
    assert steps["lending.missing"] == 9_209
    low = valued.values.fmv.low.micros * 9_209 // valued.values.fmv.mid.micros
    assert abs(steps["lending.low"] - low) <= 2
    full = value_case(h100())
    assert "lending.missing" not in codes(full)


# -- overrides -------------------------------------------------------------------------------------


def test_an_override_in_force_stands_in_the_place_of_the_automated_value_which_is_shown():
    plain = value_case(h100())
    valued = value_case(replace(h100(), override=override(10_000)))
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(10_000_000_000)
    assert valued.values.fmv.low < valued.values.fmv.mid < valued.values.fmv.high
    said = valued.findings[0]
    assert said.code == "override.in_force"
    for word in ("ada", "bob", "fire in the hall", "2026-11-28", str(plain.values.fmv.mid), "7"):
        assert word in said.detail
    assert valued.lending < plain.lending
    higher = value_case(replace(h100(), override=override(90_000)))
    assert higher.lending == plain.lending


def test_an_override_holds_through_its_last_day_and_not_beyond():
    last = value_case(replace(h100(), override=override(10_000, until=DAY)))
    assert last.values.fmv.mid == Usd(10_000_000_000)
    gone = value_case(replace(h100(), override=override(10_000, until=DAY - 1)))
    assert gone.values == value_case(h100()).values
    assert "override.expired" in codes(gone)


def test_nothing_is_lent_on_an_override_that_no_automated_value_stands_beside():
    valued = value_case(case(override=override(10_000)))
    assert valued.values is not None
    assert valued.lending is None
    assert "override.alone" in codes(valued)


def test_the_method_is_part_of_what_a_case_says():
    assert METHOD == "three-approaches/1"
    assert value_case(h100()).case_sha256 == h100().sha256


def contract(usd, **changes):
    stated = Contract(
        counterparty="US Treasury",
        micros_per_hour=usd * 1_000_000,
        until=DAY + 73 * 365,
        default_bps_per_year=0,
        document_sha256="cd" * 32,
    )
    return replace(stated, **changes)


def test_a_contract_that_is_made_up_moves_little_lends_nothing_and_is_named():
    bare = h100()
    false = value_case(of_subject(bare, contract=contract(1_000)))
    assert "contract.far" in codes(false)
    dearer = max(by(value_case(bare), one).range.mid for one in ("income", "market"))
    assert by(false, "income").range.mid <= dearer.times_down(13_001, 10_000)
    assert false.lending == value_case(bare).lending
    assert "lending.contract" in codes(false)


@pytest.mark.parametrize("fitted", [None, parameters()])
def test_a_contract_that_nothing_stands_beside_is_no_value(fitted):
    alone = value_case(case(product=fitted, subject=Subject(name=H100, contract=contract(1_000))))
    assert alone.values is None and alone.lending is None
    assert "contract.alone" in codes(alone)


def test_a_contract_without_any_price_of_the_hardware_is_held_to_what_the_market_pays():
    rented = case(product=parameters(rental=level("2.20")))
    let = of_subject(rented, contract=contract(1_000))
    most = value_case(rented).values.fmv.mid.times_down(13_001, 10_000)
    assert value_case(let).values.fmv.mid <= most
    assert value_case(let).lending == value_case(rented).lending


@pytest.mark.parametrize("days", [0, 5_000])
def test_an_appraisal_tenfold_above_the_market_counts_no_further_than_any_approach_may_lie(days):
    sold = case(product=parameters(sold=level("20000"), day=DAY - days))
    praised = value_case(replace(sold, appraisals=(signed(300_000, days=0),)))
    assert by(praised, "appraisal").range.mid < Usd(54_400_000_000)
    assert "appraisal.far" in codes(praised)
    low = value_case(replace(sold, appraisals=(signed(2_000, days=0),)))
    assert by(low, "appraisal").range.mid < Usd(2_001_000_000)
