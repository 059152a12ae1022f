"""Forecasts and their scores, against figures worked out by hand or by another road."""

from __future__ import annotations

import math
import random
from datetime import date

import numpy as np
import pytest

from assay_valuer.backtest.nowcast import leave_one_out
from assay_valuer.backtest.run import Watch, run
from assay_valuer.backtest.scores import score
from assay_valuer.backtest.significance import block_p
from assay_valuer.forecast.cases import build_cases, nearest, slope
from assay_valuer.forecast.centres import baselines, common_drift, medians, points
from assay_valuer.forecast.hedonic import Priced, fit
from assay_valuer.forecast.intervals import Walk, conformal, within
from assay_valuer.forecast.prior import prior
from assay_valuer.market.observations import Market, read_observations
from assay_valuer.market.series import build_series
from tests.fakes.price_files import (
    rental_file,
    rental_row,
    rentals,
    resale_file,
    resale_row,
    resales,
)

LATER = date(2027, 1, 1).toordinal()


def series(market: Market, rows: list[str]):
    text = rental_file(rows) if market is Market.RENTAL else resale_file(rows)
    return build_series(read_observations(text, "f.csv", market, LATER))


def day(text: str) -> int:
    return date.fromisoformat(text).toordinal()


@pytest.mark.parametrize(
    ("days", "target", "within_days", "found"),
    [
        ([10, 20, 30], 20, 0, 1),
        ([10, 20, 30], 22, 3, 1),
        ([10, 20, 30], 25, 5, 1),  # as near to either: the earlier
        ([10, 20, 30], 26, 5, 2),
        ([10, 20, 30], 24, 3, None),
        ([10, 20, 30], 34, 3, None),
        ([10, 20, 30], 33, 3, 2),
        ([10], 7, 3, 0),
        ([], 7, 3, None),
    ],
)
def test_an_outcome_is_the_nearest_row_and_none_further_off(days, target, within_days, found):
    assert nearest(np.array(days, dtype=np.int64), target, within_days) == found


def test_origins_are_the_first_row_of_a_month_and_outcomes_lie_within_a_tenth():
    rows = [
        rental_row(when, usd)
        for when, usd in (
            ("2025-01-05", 2.0),  # origin
            ("2025-01-20", 2.2),  # the same month: none
            ("2025-02-03", 2.4),  # origin; 29 days after the first
            ("2025-04-09", 3.0),  # origin; 94 days after the first, 65 after the second
        )
    ]
    cases = build_cases(series(Market.RENTAL, rows), Market.RENTAL)
    found = {
        (int(o), int(h)): math.exp(change)
        for o, h, change in zip(cases.origin, cases.horizon, cases.change, strict=True)
    }
    assert found == {
        (day("2025-01-05"), 30): pytest.approx(1.2),
        (day("2025-01-05"), 90): pytest.approx(1.5),
    }


def test_baselines_are_what_their_names_say():
    rows = [resale_row(f"2025-{month:02}-01", 1000 * 0.9**month) for month in range(1, 10)]
    cases = build_cases(series(Market.RESALE, rows), Market.RESALE)
    at = int(np.flatnonzero((cases.origin == day("2025-03-01")) & (cases.horizon == 90))[0])
    x = np.array([day(f"2025-0{month}-01") for month in (1, 2, 3)], dtype=float)
    trend = np.polyfit(x - x[0], np.log([900.0, 810.0, 729.0]), 1)[0] * 90
    got = {name: float(points[at]) for name, points in baselines(cases).items()}
    assert got == {
        "no_change": 0.0,
        "conformal_no_change": 0.0,
        "trend_180d": pytest.approx(trend),
        "half_trend": pytest.approx(trend / 2),
        "dep_15": pytest.approx(math.log(0.85) * 90 / 365),
        "dep_25": pytest.approx(math.log(0.75) * 90 / 365),
    }


def test_a_trend_needs_two_rows_within_180_days():
    days = np.array([0, 200, 300], dtype=np.int64)
    logs = np.array([5.0, 1.0, 2.0])
    assert slope(days, logs, 0, 180) == 0.0
    assert slope(days, logs, 1, 180) == 0.0
    assert slope(days, logs, 2, 180) == pytest.approx(0.01)


def test_hardware_goes_with_its_class_for_a_while_and_down_by_the_year():
    rows = [
        resale_row(when, usd, f"auction|RTX 30{n}0|sold_avg|used")
        for n in range(1, 6)
        for when, usd in (("2025-01-01", 1000), ("2025-02-01", 1000 * math.exp(-0.031)),
                          ("2025-03-03", 900), ("2025-05-02", 900))
    ]  # fmt: skip
    group = list(series(Market.RESALE, rows))
    # Five series fall by 0.001 a day to February: 5/(5 + 5) of it.
    drift = common_drift(group, day("2025-02-01"))
    assert drift == pytest.approx(5 / 10 * -0.001)
    cases = build_cases(group, Market.RESALE)
    for horizon in (30, 90):
        at = (cases.origin == day("2025-02-01")) & (cases.horizon == horizon)
        lasting = 45 * (1 - math.exp(-horizon / 45))
        expected = drift * lasting + horizon * math.log(0.75) / 365
        assert medians(cases)[at] == pytest.approx([expected] * 5)
        assert (points(cases)[at] < expected).all()


def test_what_is_asked_goes_part_of_the_way_back_to_where_it_just_stood():
    prices = {"2024-09-30": 500, "2025-01-01": 1000, "2025-02-01": 800, "2025-03-01": 1000,
              "2025-03-31": 1000}  # fmt: skip
    rows = [resale_row(when, usd, "shop|L40S|asking|new") for when, usd in prices.items()]
    cases = build_cases(series(Market.RESALE, rows), Market.RESALE)
    at = (cases.origin == day("2025-03-01")) & (cases.horizon == 30)
    # One series, level over 59 days: no drift. The 500 is older than 90 days, the 800 is not.
    expected = 0.3 * math.log(0.8) + 30 * math.log(0.85) / 365
    assert medians(cases)[at] == pytest.approx([expected])


def test_an_interval_score_is_width_and_what_was_missed():
    rows = [rental_row("2025-01-01", 1.0), rental_row("2025-01-31", math.exp(0.5))]
    cases = build_cases(series(Market.RENTAL, rows), Market.RENTAL)
    got = score(cases, np.array([0.5]), np.array([[-0.1, 0.3, -0.2, 0.6]]))
    assert got.ape[0] == pytest.approx(0.0, abs=1e-9)
    assert got.inside.tolist() == [[False, True]]
    assert got.interval[0] == pytest.approx([0.4 + 10 * 0.2, 0.8])


def test_conformal_no_change_is_a_quantile_of_earlier_errors_of_the_class():
    """Independently: for each case, the sorted errors whose outcome came before its month."""
    cases = build_cases(series(Market.RENTAL, rentals()), Market.RENTAL)
    edges = conformal(cases, np.zeros(len(cases)))
    classes = cases.of_series("asset_class")
    checked = 0
    for at in range(0, len(cases), 7):
        pool = [
            abs(cases.change[i])
            for i in range(len(cases))
            if cases.outcome[i] < cases.month[at]
            and cases.horizon[i] == cases.horizon[at]
            and classes[i] == classes[at]
        ]
        if len(pool) >= 20:
            rank = min(len(pool), math.ceil((len(pool) + 1) * 0.8))
            # numpy's "higher" quantile of share s takes the element at ceil(s·(n − 1)).
            share = rank / len(pool)
            width = sorted(pool)[math.ceil(share * (len(pool) - 1) - 1e-9)]
            assert edges[at, 1] == pytest.approx(width, abs=1e-12)
            assert edges[at, 0] == -edges[at, 1]
            checked += 1
    assert checked > 20


def test_a_prior_stands_still_by_its_own_record():
    rows = [rental_row(f"2024-{month:02}-01", 2.0) for month in range(1, 13)]
    cases = build_cases(series(Market.RENTAL, rows), Market.RENTAL)
    of_30 = np.flatnonzero(cases.horizon == 30)
    still = prior(cases).still[of_30]
    assert (np.diff(still) > 0).all()  # the longer it stood, the surer it is to stand
    first, before, last = (day(f"2024-{month}-01") for month in ("01", "10", "11"))
    of_seller = (0.1 * 2) / ((before - first) / 30 + 2)  # of rows before the month
    of_peers = (of_seller + 0.1 * 3) / (1 + 3)
    assert still[-1] == pytest.approx(math.exp(-of_peers * 8 / ((last - first) / 30 + 8)))
    long = prior(cases).still[np.flatnonzero(cases.horizon == 180)]
    assert long[0] == pytest.approx(still[0] ** 6)


def test_a_new_price_is_taken_to_move_as_its_peers_do():
    """Of the same tier and feed; by sellers, not by how many configurations they list."""
    names = {
        "spot": [f"market{n}|H100||8|spot|" for n in range(4)],
        "list": [f"house{n}|H100||8|on_demand|" for n in range(4)],
    }
    rows = [
        rental_row(f"2024-{month:02}-01", 2 + (feed == "spot") * 0.1 * (month % 2), name)
        for feed, all_ in names.items()
        for name in all_
        for month in range(1, 13)
    ]
    new = [
        rental_row(when, 3, f"new|L4||1|{kind}|")
        for when in ("2024-11-01", "2024-12-01")
        for kind in ("spot", "on_demand")
    ]
    # One more seller that lists fifty spot prices, none of which ever moved.
    many = [
        rental_row(when, 3, f"large|L4||{n}|spot|")
        for n in range(1, 51)
        for when in ("2024-01-01", "2024-10-01")
    ]
    still = {}
    for told, some in (("few", [*rows, *new]), ("many", [*rows, *new, *many])):
        cases = build_cases(series(Market.RENTAL, some), Market.RENTAL)
        mine = [
            at for at in range(len(cases)) if cases.series[cases.index[at]].name.startswith("new|")
        ]
        assert len(mine) == 2
        for at in mine:
            still[told, cases.series[cases.index[at]].feed] = prior(cases).still[at]
    assert still["few", "spot"] < 0.6
    assert still["few", "list"] > 0.9
    # Four of five sellers still move: fifty series of the fifth are one record.
    assert still["many", "spot"] < 0.7


def test_intervals_hold_what_they_say_on_a_market_that_wanders():
    cases = build_cases(series(Market.RESALE, resales(days=1500)), Market.RESALE)
    late = cases.origin > cases.origin.min() + 500
    inside = within(cases.change, Walk(cases, medians(cases)).run())[late]
    assert 0.70 < inside[:, 0].mean() < 0.92
    assert 0.88 < inside[:, 1].mean() <= 1.0


def test_a_future_that_is_planted_is_not_used():
    """Every price after a day is changed, by less than the gate sees: no forecast made by that day
    may be another."""
    cut = day("2024-03-15")
    luck = random.Random(4)

    def planted(rows: list[str]) -> list[str]:
        changed = []
        for row in rows:
            cells = row.split(",")
            at = 5 if len(cells) == 11 else 2
            if day(cells[0]) > cut:
                cells[at] = str(float(cells[at]) * luck.choice([0.9, 0.95, 1.1]))
            changed.append(",".join(cells))
        return changed

    compared = 0
    for market, rows in ((Market.RENTAL, rentals()), (Market.RESALE, resales())):
        seen = []
        for version in (rows, planted(rows)):
            cases = build_cases(series(market, version), market)
            edges = Walk(cases, medians(cases)).run()
            rival = conformal(cases, np.zeros(len(cases)))
            early = cases.origin <= cut
            known = (cases.index, cases.horizon, cases.origin, points(cases), cases.trend)
            seen.append([array[early] for array in (*known, edges, rival)])
        assert all(np.array_equal(*pair) for pair in zip(*seen, strict=True))
        compared += len(seen[0][0])
    assert compared > 300
    quotes = [
        [guess for guess in leave_one_out(series(Market.RENTAL, version), 0) if guess.day <= cut]
        for version in (rentals(), planted(rentals()))
    ]
    # A month's guess may use its own first day's rows, and none after.
    months = [[g for g in guesses if g.day <= day("2024-03-01")] for guesses in quotes]
    assert months[0] == months[1] != []


def test_what_is_left_out_is_not_used():
    """A seller's own prices, under any of its names, say nothing about the guess of them."""
    rows = rentals(days=60)
    others = [row for row in rows if ",delta labs," not in row]
    mine = [row for row in rows if ",delta labs," in row]
    tripled = []
    for row in mine:
        cells = row.split(",")
        cells[5] = str(3 * float(cells[5]))
        tripled.append(",".join(cells))
    found = []
    for own in (mine, tripled):
        alias = [row.replace(",delta labs,", ",Delta,").replace(",8,", ",1,") for row in own]
        guesses = leave_one_out(series(Market.RENTAL, others + own + alias), 0)
        found.append(
            [(g.day, g.assay, g.cross_provider_median) for g in guesses if g.seller == "delta"]
        )
    assert found[0] == found[1] != []


def test_a_level_is_found_and_one_quote_in_error_does_not_move_it():
    names = [("p" + str(n), "H100", "SXM", "8", "on_demand", "eu") for n in range(9)]
    quotes = [Priced(name, 1000, math.log(2.0)) for name in names]
    wanted = [("new", "H100", "SXM", "8", "on_demand", "eu")]
    clean = fit(quotes, 1000)
    wrong = fit([*quotes, Priced(("liar", *names[0][1:]), 1000, math.log(16.0))], 1000)
    assert clean is not None
    assert wrong is not None
    assert math.exp(clean.predict(wanted)[0]) == pytest.approx(2.0, rel=0.01)
    assert math.exp(wrong.predict(wanted)[0]) == pytest.approx(2.0, rel=0.05)
    # A model that nobody quotes has a wide error, and one that nine quote a narrow one.
    unseen = [("new", "Z900", "", "", "on_demand", "eu")]
    assert clean.errors(unseen)[0] > 3 * clean.errors(wanted)[0]
    assert fit([], 1000) is None


def test_p_is_small_for_a_steady_gain_and_large_for_none():
    days = np.arange(0, 1800, 10, dtype=np.int64)
    luck = np.random.default_rng(7)
    noise = luck.normal(0, 1, len(days))
    assert block_p(noise * 0.1 - 1, days) == (10, pytest.approx(1 / 4001))
    _, p = block_p(noise - noise.mean() + 0.05, days)
    assert p is not None
    assert p > 0.3
    # One season's gain is one draw in ten, however many cases it has.
    once = np.where(days < 180, -5.0, 0.1)
    assert block_p(once, days)[1] > 0.2
    assert block_p(noise[:20], days[:20]) == (2, None)
    assert block_p(noise[:0], days[:0]) == (0, None)


@pytest.mark.parametrize(
    "prices",
    [
        [],
        [2.0],
        [2.0] * 40,
        [2.0, 2.0000001] * 20,
        [1000.0, 0.005] * 20,
        [0.005] * 20 + [1000.0] * 20,
        [2.0 * 1.5**n for n in range(15)],
    ],
)
def test_no_series_is_too_odd_to_be_forecast(prices):
    rows = [rental_row(str(date(2024, 1, 1 + n % 28).replace(month=1 + n // 28)), usd)
            for n, usd in enumerate(prices)]  # fmt: skip
    rows += [rental_row("2024-07-01", usd) for usd in prices[-1:]]
    done = run(series(Market.RENTAL, rows), (), 0, Watch())
    for row in done.rows:
        assert math.isfinite(row.mape_pct)
        assert math.isfinite(row.interval_score)
        assert 0 <= row.coverage80 <= row.coverage95 <= 1
