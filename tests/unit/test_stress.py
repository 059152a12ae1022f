"""A book under shocks: what is supposed, what it comes to, and that nothing of the book is changed."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.instants import DAY_MS
from assay_valuer.credit.covenant import Level
from assay_valuer.credit.reach import reach
from assay_valuer.forecast.falls import of_kind, worst_fall, worst_slide
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series
from assay_valuer.standing.types import Cause
from assay_valuer.stress import Outcome, Shock, fall, run, scaled, silent, standing_shocks
from assay_valuer.stress_market import H100, class_of, judged_shocks, market_shocks
from tests.fakes.collateral import NOW, PRICES, prices
from tests.fakes.covenant import Measured
from tests.fakes.proofs import tpm

SHA = "ab" * 32


def series(name: str, rows: list[tuple[int, float]], feed: str = "list", cls: str = "data_centre"):
    return Series(
        name=name,
        market=Market.RENTAL,
        accelerator=name.split("|")[1],
        asset_class=cls,
        feed=feed,
        seller=name.split("|", maxsplit=1)[0],
        days=np.array([day for day, _ in rows], dtype=np.int64),
        logs=np.log(np.array([usd for _, usd in rows])),
    )


def falling(name: str = "acme|H100|SXM", begin: int = 738_900, **changed: str):
    """Weekly: flat at 4 for 20 weeks, then at 2."""
    rows = [(begin + 7 * week, 4.0 if week < 20 else 2.0) for week in range(40)]
    return series(name, rows, **changed)


# ---------------------------------------------------------------------------- history


def test_the_worst_fall_is_found_with_its_days_and_its_series():
    flat = series("other|H100|SXM", [(738_900 + 7 * week, 3.0) for week in range(40)])
    worst = worst_fall([flat, falling()], 30)
    assert worst is not None
    assert (worst.bps, worst.series, worst.others) == (5_000, "acme|H100|SXM", 2)
    assert 27 <= worst.end_day - worst.begin_day <= 33
    assert worst.begin_day < 738_900 + 7 * 20 <= worst.end_day
    assert worst_fall([flat], 30) is None
    assert worst_fall([], 30) is None
    assert worst_fall([falling()], 365) is None  # no window is so long


def test_one_odd_day_is_no_fall():
    rows = [(738_900 + 7 * week, 0.5 if week == 20 else 4.0) for week in range(40)]
    assert worst_fall([series("acme|H100|SXM", rows)], 30) is None


def test_a_slide_is_the_deepest_from_any_peak_within_its_years():
    rows = [(738_900 + 10 * n, 4.0 - 0.05 * n) for n in range(40)]
    slide = worst_slide([series("acme|H100|SXM", rows)], 738_900, 739_280)
    assert slide is not None
    assert (slide.begin_day, slide.end_day) == (738_900, 739_280)
    assert 4_500 < slide.bps < 4_800  # 4.00 to 2.10, but for what the smoothing takes
    assert worst_slide([series("acme|H100|SXM", rows)], 1, 2) is None


def test_a_class_is_never_pooled_with_another_nor_a_spot_price_with_a_list_price():
    found = [falling(), falling("b|H100|x", feed="spot"), falling("c|RTX 4090|x", cls="consumer")]
    assert of_kind(found, "data_centre", ("list",)) == [found[0]]
    assert of_kind([series("d|H100|x", [(1, 1.0)])], "data_centre", ("list",)) == []


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 60), st.floats(0.1, 10)), min_size=12, max_size=60))
def test_no_fall_is_more_than_everything_nor_ends_before_it_began(steps):
    day, rows = 738_000, []
    for ahead, usd in steps:
        day += ahead
        rows.append((day, usd))
    for horizon in (30, 90):
        worst = worst_fall([series("a|H100|x", rows)], horizon)
        if worst is not None:
            assert 0 < worst.bps < 10_000
            assert worst.begin_day < worst.end_day
            assert abs(worst.end_day - worst.begin_day - horizon) <= horizon // 10


# ---------------------------------------------------------------------------- the book


@pytest.fixture
def world():
    """Four H100s, a loan of 80%, on hosts at L1: watched from 82%, called from 85%, default at 95%."""
    loan = Measured()
    return loan, loan.appraise(proofs={1: tpm()})


def under(world, shock: Shock) -> Outcome:
    loan, held = world
    _, after = run(held, loan.known, [shock])
    return after


def down(bps: int) -> Shock:
    return Shock("down", "", "", fall(bps, None, class_of))


def test_without_a_shock_it_is_the_book_itself_and_nothing_of_it_is_changed(world):
    loan, held = world
    known, lines = msgspec.json.encode(held.covenants["loan-1"].state), dict(held.lines)
    before, *_ = run(held, loan.known, [*standing_shocks(held), down(5_000)])
    risk, covenant = held.positions["loan-1"], held.covenants["loan-1"]
    assert before.shock == "none"
    assert before.olv_micros == risk.values.olv.mid.micros
    assert (before.ltv_gross_bps, before.lendable_micros) == (8_000, risk.lendable.micros)
    assert (before.covenant_ltv_bps, before.covenant_at_once) == (8_000, "CURRENT")
    assert (before.covenant_lasting, before.lasting_after_hours) == ("CURRENT", 0)
    assert msgspec.json.encode(covenant.state) == known
    assert held.lines == lines


@pytest.mark.parametrize(
    ("bps", "ltv_bps", "levels", "hours"),
    [
        (0, 8_000, ("CURRENT", "CURRENT"), 0),
        (300, 8_248, ("WATCH", "WATCH"), 0),
        # 80% ÷ 90%: called on the second valuation, a day later; not cured in ten days
        (1_000, 8_889, ("WATCH", "DEFAULT"), 24 + 240),
        # 80% ÷ 80%: in default on the second valuation itself
        (2_000, 10_000, ("WATCH", "DEFAULT"), 24),
    ],
)
def test_a_fall_goes_as_far_as_the_covenant_file_lets_it(world, bps, ltv_bps, levels, hours):
    after = under(world, down(bps))
    assert abs(after.covenant_ltv_bps - ltv_bps) <= 1
    assert (after.covenant_at_once, after.covenant_lasting) == levels
    assert after.lasting_after_hours == hours


@given(st.integers(0, 9_998), st.integers(0, 9_999))
def test_a_deeper_fall_never_lends_more_nor_makes_an_ltv_lower(bps, more):
    loan = Measured()
    made = (loan, loan.appraise(proofs={1: tpm()}))
    less, deeper = (under(made, down(one)) for one in (bps, min(bps + more, 9_999)))
    assert deeper.lendable_micros <= less.lendable_micros
    assert deeper.debt_micros == less.debt_micros
    assert deeper.covenant_ltv_bps is None or deeper.covenant_ltv_bps >= less.covenant_ltv_bps
    ranks = [Level(one.covenant_lasting).rank for one in (less, deeper)]
    assert ranks[0] <= ranks[1]


def test_a_fall_of_another_class_changes_nothing(world):
    other = Shock("other", "", "", fall(9_000, "consumer", class_of))
    assert under(world, other).ltv_gross_bps == 8_000


def test_a_site_that_falls_silent_is_no_fall_in_value_and_calls_nothing(world):
    (shock,) = (one for one in standing_shocks(world[1]) if one.name == "site-silent")
    assert "lab" in shock.what
    after = under(world, shock)
    assert (after.coverage_bps, after.olv_micros, after.lendable_micros) == (0, None, 0)
    assert (after.covenant_ltv_bps, after.covenant_lasting) == (8_000, "CURRENT")


def test_what_is_out_of_service_is_worth_nothing_to_the_covenant_either(world):
    (shock,) = (one for one in standing_shocks(world[1]) if one.name == "model-out")
    assert "H100 SXM5" in shock.what
    after = under(world, shock)
    assert (after.coverage_bps, after.lendable_micros) == (0, 0)
    assert (after.covenant_at_once, after.covenant_lasting) == ("WATCH", "DEFAULT")


def test_lapsed_proofs_lend_less_and_move_no_value(world):
    shocks = {one.name: one for one in standing_shocks(world[1])}
    l1, l0 = (under(world, shocks[f"proofs-lapse-{level}"]) for level in ("l1", "l0"))
    now = under(world, down(0))
    assert (l1.olv_micros, l0.olv_micros) == (now.olv_micros, now.olv_micros)
    assert l1.lendable_micros == now.lendable_micros  # they are at L1
    # from 25% to 10%, each GPU's rounded down
    assert 0 <= now.lendable_micros - l0.lendable_micros * 5 // 2 <= 12


def test_when_no_price_comes_less_is_lent_and_in_the_end_nothing_is_known():
    loan = Measured()
    held = loan.appraise()
    (out,) = (one for one in standing_shocks(held) if one.name == "feeds-out-90d")
    _, after = run(held, loan.known, [out])
    assert after.lendable_micros < held.positions["loan-1"].lendable.micros
    older = PRICES.replace("2026-11-01", "2026-07-01")  # 140 days old, and 180 are too many
    held = loan.appraise(prices=prices(older))
    assert held.positions["loan-1"].values is not None
    (out,) = (one for one in standing_shocks(held) if one.name == "feeds-out-90d")
    _, after = run(held, loan.known, [out])
    assert (after.olv_micros, after.covenant_ltv_bps, after.lendable_micros) == (None, None, 0)


def test_silent_gpus_go_on_at_what_they_are_worth_today(world):
    change = silent(lambda line: line.asset.id == 1, Cause.GPU, NOW + DAY_MS)
    after = under(world, Shock("one", "", "", change))
    assert after.coverage_bps == 7_500
    assert after.covenant_ltv_bps == 8_000


def test_market_history_is_named_to_its_series_and_days_and_no_judgement(world):
    shocks = market_shocks(world[1], [falling()], [], SHA)
    assert {one.name for one in shocks} == {
        "data_centre-rental-30d",
        "data_centre-rental-90d",
        "data_centre-rental-180d",
        H100,
    }
    for one in shocks:
        assert not one.judgement
        assert "acme|H100|SXM, 2024-0" in one.source
        assert SHA[:16] in one.source
        assert under(world, one).ltv_gross_bps == 16_000  # half the value


def test_judged_falls_are_called_so(world):
    shocks = judged_shocks((1_500, 3_000))
    assert [one.name for one in shocks] == ["judged-15", "judged-30"]
    assert all(one.judgement and one.source.startswith("judgement") for one in shocks)
    assert under(world, shocks[0]).covenant_ltv_bps == 9_412


def test_a_value_that_falls_to_nothing_is_unknown_and_not_zero(world):
    valuation = next(iter(world[1].lines.values())).valuation
    assert scaled(valuation, 0).values is None
    assert scaled(valuation, 0).lending is None


def test_reach_begins_where_the_loan_stands(world):
    loan, held = world
    one = held.covenants["loan-1"]
    called = msgspec.structs.replace(
        one.state, level=Level.CALL, called_ms=NOW - DAY_MS, call_counted_ms=(NOW, NOW)
    )
    inputs = msgspec.structs.replace(one.inputs, ltv_bps=9_000, called_served_ms=DAY_MS)
    far = reach(called, inputs, loan.covenant, NOW)
    assert (far.at_once, far.lasting, far.after_hours) == (Level.CALL, Level.DEFAULT, 9 * 24)
