"""Scores of logged forecasts, worked out by hand."""

from __future__ import annotations

import math

import pytest

from assay_valuer.forecast.outcomes import SCORED_MIN, Made, first_due, outcome, score

SERIES = ("H100 SXM5", "value")
CLASS = {"H100 SXM5": "data_centre"}


def made(day=100, horizon=30, usd=100.0, quantiles=(80.0, 90.0, 100.0, 110.0, 125.0)):
    return Made(series=SERIES, day=day, horizon_days=horizon, usd=usd, quantiles=quantiles)


def marked(*found):
    return {SERIES: sorted(found)}


def test_a_forecast_that_came_true_costs_its_width_alone():
    found = outcome(made(), marked((130, 100.0)), 130)
    assert (found.ape_pct, found.inside80, found.inside95) == (0, True, True)
    assert found.interval_score == pytest.approx(math.log(110 / 90))
    assert (found.no_change_ape_pct, found.no_change_interval_score) == (0, 0)


def test_one_that_missed_costs_ten_times_how_far():
    found = outcome(made(), marked((130, 120.0)), 130)
    assert found.ape_pct == pytest.approx(100 / 6)  # |100 ÷ 120 − 1|
    assert (found.inside80, found.inside95) == (False, True)
    expected = math.log(110 / 90) + 10 * math.log(120 / 110)
    assert found.interval_score == pytest.approx(expected)
    assert found.no_change_interval_score == pytest.approx(10 * math.log(1.2))
    low = outcome(made(), marked((130, 70.0)), 130)
    assert (low.inside80, low.inside95) == (False, False)
    assert low.interval_score == pytest.approx(math.log(110 / 90) + 10 * math.log(90 / 70))


def test_nothing_is_scored_before_its_day():
    assert outcome(made(), marked((127, 100.0), (129, 100.0)), 129) is None
    assert outcome(made(), marked((127, 100.0)), 130) is not None


def test_the_mark_nearest_to_the_horizon_counts_and_none_beyond_a_tenth_of_it():
    assert outcome(made(), marked((126, 1.0)), 140) is None
    assert outcome(made(), marked((134, 1.0)), 140) is None
    for near in (127, 133):
        assert outcome(made(), marked((near, 100.0)), 140).ape_pct == 0
    both = outcome(made(), marked((128, 50.0), (131, 100.0)), 140)
    assert both.ape_pct == 0
    tied = outcome(made(), marked((129, 100.0), (131, 50.0)), 140)
    assert tied.ape_pct == 0  # the earlier
    # A mark of a day that is not there yet, by whatever clock: unseen.
    assert outcome(made(), marked((131, 50.0)), 130) is None
    assert outcome(made(), {}, 140) is None


def test_rows_are_by_quantity_class_and_horizon_and_few_validate_nothing():
    forecasts = [made(day=day) for day in range(100, 100 + SCORED_MIN)]
    forecasts += [made(horizon=90)]
    marks = marked(*((day, 100.0) for day in range(130, 130 + SCORED_MIN)), (190, 150.0))
    month, quarter = score(forecasts, marks, CLASS, 1_000)
    assert (month.quantity, month.asset_class, month.horizon_days) == ("value", "data_centre", 30)
    assert (month.n, month.validated, month.coverage80) == (SCORED_MIN, True, 1)
    assert (quarter.n, quarter.validated, quarter.coverage95) == (1, False, 0)
    assert quarter.mape_pct == pytest.approx(100 / 3)
    fewer = score(forecasts[1:], marks, CLASS, 1_000)[0]
    assert (fewer.n, fewer.validated) == (SCORED_MIN - 1, False)
    (unknown, _) = score(forecasts, marks, {}, 1_000)
    assert unknown.asset_class == "unknown"


def test_a_median_is_not_a_mean():
    marks = marked((130, 100.0), (131, 100.0), (132, 50.0))
    (row,) = score([made(day=100), made(day=101), made(day=102)], marks, CLASS, 1_000)
    assert row.mape_pct == pytest.approx(100 / 3)
    assert row.median_ape_pct == 0
    assert row.coverage80 == pytest.approx(2 / 3)


def test_the_first_that_falls_due_is_named():
    assert first_due([made(day=100), made(day=90)], 110) == 120
    assert first_due([made(day=100)], 130) is None
    assert first_due([], 1) is None
