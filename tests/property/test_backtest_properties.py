"""What holds of a backtest whatever the prices: order and currency unit say nothing."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_valuer.backtest.nowcast import leave_one_out
from assay_valuer.backtest.run import Watch, run
from assay_valuer.forecast.cases import build_cases
from assay_valuer.forecast.centres import medians, points
from assay_valuer.forecast.intervals import Walk
from assay_valuer.market.observations import Market, read_observations
from assay_valuer.market.series import build_series
from tests.fakes.price_files import rental_file, rental_row, resale_file, resale_row

LATER = date(2027, 1, 1).toordinal()
FIRST = date(2024, 1, 3)
NAMES = {
    Market.RENTAL: (
        "acme|H100|SXM|8|on_demand|eu",
        "acme|H100|SXM|1|on_demand|eu",
        "vast|H100||4|spot|all",
        "brook|Z900|||weekly|",
        "acme labs|L4||1|reserved_1y|us",
    ),
    Market.RESALE: (
        "auction|RTX 3090|sold_monthly_avg|used",
        "auction|RTX 4090|sold_monthly_avg|used",
        "shop|H100 80GB PCIe|asking|new",
        "shop|thing|asking|",
    ),
}


@st.composite
def markets(draw):
    """Rows of a few series, gappy and irregular, as (day, price, series)."""
    market = draw(st.sampled_from(list(Market)))
    rows = []
    for name in draw(st.lists(st.sampled_from(NAMES[market]), min_size=1, unique=True)):
        price = draw(st.floats(3.0, 30.0))
        day = draw(st.integers(0, 60))
        for _ in range(draw(st.integers(1, 30))):
            rows.append((day, round(price, 4), name))
            day += draw(st.sampled_from([0, 1, 7, 14, 30, 31, 90]))
            price *= draw(st.sampled_from([1.0, 1.0, 1.0, 0.9, 1.25, 0.6, 20.0]))
            price = min(max(price, 2.0), 200.0)
    return market, rows


def read(market: Market, rows, factor: float = 1.0):
    one = rental_row if market is Market.RENTAL else resale_row
    lines = [one((FIRST + timedelta(days=day)).isoformat(), usd * factor, name)
             for day, usd, name in rows]  # fmt: skip
    text = rental_file(lines) if market is Market.RENTAL else resale_file(lines)
    return build_series(read_observations(text, "f.csv", market, LATER))


def everything(market: Market, found):
    pair = (found, ()) if market is Market.RENTAL else ((), found)
    done = run(*pair, 0, Watch())
    return done.rows, done.summaries, done.guesses, done.comparisons


@settings(max_examples=40, deadline=None)
@given(markets(), st.randoms(use_true_random=False))
def test_the_order_of_rows_says_nothing(given_market, luck):
    market, rows = given_market
    shuffled = list(rows)
    luck.shuffle(shuffled)
    assert everything(market, read(market, rows)) == everything(market, read(market, shuffled))


@settings(max_examples=40, deadline=None)
@given(markets(), st.sampled_from([0.5, 2.0, 4.0]))
def test_forecasts_scale_with_prices(given_market, factor):
    """A market in half dollars has the same forecasts in half dollars: changes are the same."""
    market, rows = given_market
    seen = []
    for scale in (1.0, factor):
        cases = build_cases(read(market, rows, scale), market)
        edges = Walk(cases, medians(cases)).run()
        seen.append((cases.last, cases.index, points(cases), edges))
    (last, index, point, edges), (scaled, *others) = seen
    assert np.allclose(scaled, last + np.log(factor))
    assert np.array_equal(index, others[0])
    assert np.allclose(point, others[1], atol=1e-9)
    # A quantile of a step may fall on either side of it by rounding: then both lie in both.
    same = np.isclose(edges, others[2], atol=1e-9)
    assert same.sum() >= 0.9 * same.size
    if market is Market.RENTAL:
        guesses = [leave_one_out(read(market, rows, scale), 0) for scale in (1.0, factor)]
        changes = [[g.assay - g.truth for g in some] for some in guesses]
        assert np.allclose(*changes, atol=0.02)


@settings(max_examples=40, deadline=None)
@given(markets())
def test_every_figure_is_finite_and_no_interval_is_inside_out(given_market):
    market, rows = given_market
    cases = build_cases(read(market, rows), market)
    edges = Walk(cases, medians(cases)).run()
    assert np.isfinite(edges).all()
    assert (edges[:, 0] <= edges[:, 1]).all()
    assert (edges[:, 2] <= edges[:, 0] + 1e-12).all()
    assert (edges[:, 1] <= edges[:, 3] + 1e-12).all()
