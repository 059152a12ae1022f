"""What one seller can do to a fit, whatever it writes; and that the order of rows says nothing."""

from __future__ import annotations

from datetime import date
from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_valuer.forecast.fit import fit
from assay_valuer.valuation.parameters import Level, Outlook, Parameters
from tests.fakes.price_files import rental_row, resale_row
from tests.fakes.quoted_market import DAY, MARKETS, SELLERS, Rows, rows, shuffled, snapshot

LEVEL_E6 = 14_000
RATIO_E6 = 2_000
ERROR_E6 = 8_000
USUAL = {
    "committed_1y_log_e6": -430_783,  # ln .65
    "committed_3y_log_e6": -867_501,  # ln .42
    "drift_log_e6": -223_144,  # ln .80
}
"""What the policy as it comes has for each."""
KINDS = ("rental", "new_ask", "used_ask", "sold")
MODELS = ("H100|SXM", "H200|", "B200|", "A100|SXM 80GB", "L40S|", "T4|", "RTX 3090|", "RTX A6000|")
TERMS = ("on_demand", "reserved_1y", "reserved_3y", "spot")


@cache
def base(factor: float = 1.0) -> Rows:
    """The market as it was, or after all of its prices have moved in the last days."""
    return rows(factor=factor, since=DAY - 13)


@cache
def previous(day: int) -> Parameters:
    return fit(snapshot(base()), None, day)


ages = st.integers(0, 500)
prices = st.one_of(
    st.floats(0.001, 3_000_000), st.sampled_from([0.005, 0.3, 1, 8, 20, 1_000, 25_000, 2_000_000])
)


@st.composite
def lies(draw, moved: float = 1.0) -> Rows:
    """The market with one seller's rows gone, and whatever it likes in their place."""
    seller = draw(st.sampled_from([*SELLERS, *MARKETS, "newcomer"]))
    market = told = base(moved)
    if draw(st.booleans()):
        told = told.without(seller)
    factor = draw(st.sampled_from([0.0, 0.001, 0.125, 0.9, 1.01, 1.3, 8.0, 1_000.0]))
    if factor:
        scaled = [row for who, row in market.rental if who == seller]
        resold = [row for who, row in market.resale if who == seller]
        told = told.without(seller).plus(
            seller,
            [times(row, 5, factor) for row in scaled],
            [times(row, 2, factor) for row in resold],
        )
    rental, resale = [], []
    for age, usd, model, kind in draw(
        st.lists(
            st.tuples(ages, prices, st.sampled_from(MODELS), st.sampled_from(TERMS)), max_size=25
        )
    ):
        day = date.fromordinal(DAY - age).isoformat()
        if seller in MARKETS:
            what = {"spot": "sold_monthly_avg|used", "on_demand": "asking|new"}.get(
                kind, "asking|used"
            )
            resale.append(resale_row(day, usd, f"{seller}|{model.replace('|', ' ')}|{what}"))
        else:
            rental.append(rental_row(day, usd, f"{seller}|{model}|8|{kind}|eu"))
    return told.plus(seller, rental, resale)


def times(row: str, column: int, factor: float) -> str:
    cells = row.split(",")
    cells[column] = repr(float(cells[column]) * factor)
    return ",".join(cells)


def near(one: int | None, other: int | None, most: float) -> bool:
    return (one is None) == (other is None) and abs((one or 0) - (other or 0)) <= most


def check(honest: Parameters, lied: Parameters, before: Parameters) -> None:
    """The bounds that valuation/parameters.py states."""
    assert [one.product for one in honest.products] == [one.product for one in lied.products]
    for old in before.products:
        one, two = honest.of(old.product), lied.of(old.product)
        assert one is not None
        assert two is not None
        for kind in KINDS:
            if getattr(old, kind) is not None:
                check_level(getattr(one, kind), getattr(two, kind))
            for level in (getattr(one, kind), getattr(two, kind)):
                # What the previous fit had not is not in use, whoever shows it.
                assert level is None or not level.in_use or getattr(old, kind) is not None
        for name in ("rental_outlook", "hardware_outlook"):
            if getattr(old, name):
                check_outlooks(getattr(one, name), getattr(two, name))
        for name in ("committed_1y_log_e6", "committed_3y_log_e6", "drift_log_e6"):
            if getattr(old, name) is not None:
                assert near(getattr(one, name), getattr(two, name), RATIO_E6)
            for found in (getattr(one, name), getattr(two, name)):
                if getattr(old, name) is None and found is not None:
                    assert near(found, USUAL[name], RATIO_E6)
        for name in ("daily_volatility_e6", "shortfall_log_e6"):
            if getattr(old, name) is not None:
                most = min(getattr(old, name) / 50 + 2, ERROR_E6)
                assert near(getattr(one, name), getattr(two, name), most)
        assert [e.product for e in one.equivalents] == [e.product for e in two.equivalents]
        for mine, other in zip(one.equivalents, two.equivalents, strict=True):
            check_level(mine.new_ask, other.new_ask)
            assert mine.performance_log_e6 == other.performance_log_e6
    for old_class in before.classes:
        mine_class = honest.of_class(old_class.asset_class)
        other_class = lied.of_class(old_class.asset_class)
        assert mine_class is not None
        assert other_class is not None
        if old_class.ask_to_sold_log_e6 is not None:
            assert near(mine_class.ask_to_sold_log_e6, other_class.ask_to_sold_log_e6, RATIO_E6)
        if old_class.market_error_e6 is not None:
            most = min(old_class.market_error_e6 / 50 + 2, ERROR_E6)
            assert near(mine_class.market_error_e6, other_class.market_error_e6, most)


def check_level(one: Level | None, two: Level | None) -> None:
    assert one is not None
    assert two is not None
    assert near(one.log_e6, two.log_e6, LEVEL_E6)
    assert near(one.error_e6, two.error_e6, min(one.error_e6 / 49 + 2, ERROR_E6))
    assert (one.basis, one.sellers, one.in_use) == (two.basis, two.sellers, two.in_use)


def check_outlooks(one: tuple[Outlook, ...], two: tuple[Outlook, ...]) -> None:
    for mine, other in zip(one, two, strict=True):
        for name in ("q025_e6", "q10_e6", "q50_e6", "q90_e6", "q975_e6"):
            assert near(getattr(mine, name), getattr(other, name), RATIO_E6)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([DAY - 1, DAY - 20]), st.sampled_from([1.0, 0.7, 1.5]))
def test_one_seller_moves_nothing_by_more_than_is_said(data, before_day, moved):
    """In the same month as the previous fit, and in the next, where outlooks learn; in a market that
    stands still, and in one that everybody else's prices move too."""
    told = data.draw(lies(moved))
    before = previous(before_day)
    check(honest(before_day, moved), fit(snapshot(told), before, DAY), before)


@cache
def honest(before_day: int, moved: float) -> Parameters:
    return fit(snapshot(base(moved)), previous(before_day), DAY)


@settings(max_examples=6, deadline=None)
@given(st.lists(lies(), min_size=3, max_size=4))
def test_nor_does_it_over_several_days_by_more_than_their_sum(told):
    lied = straight = previous(DAY - 1)
    for number, one in enumerate(told):
        before = lied
        lied = fit(snapshot(one), lied, DAY + number)
        straight = fit(snapshot(base()), before, DAY + number)
        check(straight, lied, before)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_the_order_of_rows_changes_nothing(seed, first):
    before = None if first else previous(DAY - 20)
    plain = snapshot(base())
    assert fit(shuffled(plain, seed), before, DAY) == fit(plain, before, DAY)


@settings(max_examples=10, deadline=None)
@given(lies())
def test_a_fit_of_anything_is_made_and_its_quantiles_are_in_order(told):
    found = fit(snapshot(told), None, DAY)
    for one in found.products:
        for outlook in (*one.rental_outlook, *one.hardware_outlook):
            quantiles = (
                outlook.q025_e6, outlook.q10_e6, outlook.q50_e6, outlook.q90_e6, outlook.q975_e6
            )  # fmt: skip
            assert list(quantiles) == sorted(quantiles)
