"""The load shape "measured" against the recording that it is fitted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from assay_agent.telemetry import shapes
from assay_agent.telemetry.scenario import Load
from scripts import calibrate_load

RECORDING = (
    Path(__file__).resolve().parents[3] / "shared/data/telemetry/alibaba_genai_2026_duty_cycle.csv"
)
SERIES, STEPS = 128, 1_440
MEASURED = Load(shape="measured")


@pytest.fixture
def recorded(leave_out: Callable[[str], NoReturn]) -> list[list[float]]:
    if not RECORDING.exists():
        leave_out("the recorded duty cycles are not beside the project")
    return calibrate_load.read(RECORDING)


def test_the_models_numbers_are_those_of_the_recording(recorded: list[list[float]]) -> None:
    found = calibrate_load.fit(recorded)
    assert found.begin == shapes.MEASURED_BEGIN
    assert found.stop == shapes.MEASURED_STOP
    assert found.levels_pct == shapes.MEASURED_LEVELS_PCT


def test_what_is_simulated_is_distributed_as_what_was_recorded(
    recorded: list[list[float]],
) -> None:
    """Tolerances: what a recording of 32 series for a day leaves uncertain, and the model's own
    error, which is to remember less than real work does.
    """
    real = calibrate_load.figures(recorded)
    made = calibrate_load.figures(calibrate_load.simulated(SERIES, STEPS))
    assert made.mean == pytest.approx(real.mean, abs=0.5)
    assert made.at_work == pytest.approx(real.at_work, abs=0.02)
    assert made.quantiles == pytest.approx(real.quantiles, abs=2, rel=0.1)
    assert made.correlation == pytest.approx(real.correlation, abs=0.1)
    assert made.work_steps == pytest.approx(real.work_steps, rel=0.15)
    assert made.rest_steps == pytest.approx(real.rest_steps, rel=0.15)


def test_the_restated_figures_hold_without_the_recording() -> None:
    """What facts and recording said: a mean duty of 7 %, idle two thirds of the time."""
    made = calibrate_load.figures(calibrate_load.simulated(64, STEPS))
    assert made.mean == pytest.approx(6.8, abs=0.7)
    assert made.at_work == pytest.approx(0.339, abs=0.03)
    assert made.quantiles[0] == 0.0


def test_a_load_is_the_same_whoever_asks_and_in_whatever_order() -> None:
    moments = [7_000_000, 0, 57_000, 56_999, 3_000_000, 82_080_000]
    first = [shapes.share(MEASURED, 5, at_ms) for at_ms in moments]
    shapes._walk.cache_clear()
    assert [shapes.share(MEASURED, 5, at_ms) for at_ms in reversed(moments)] == first[::-1]
    assert len({tuple(calibrate_load.simulated(8, 200)[n]) for n in range(8)}) == 8


def test_the_busy_time_is_the_sum_of_the_shares() -> None:
    for at_ms in (0, 30_000, 57_000, 1_000_000):
        summed = sum(shapes.share(MEASURED, 9, step) for step in range(0, at_ms, 1_000))
        assert shapes.busy_s(MEASURED, 9, at_ms) == pytest.approx(summed, abs=1e-6)
