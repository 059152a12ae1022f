"""Fits the simulation's load shape "measured" to recorded GPU duty cycles, and says how well it does.

Reads a CSV with the columns series, t_s and gpu_duty_cycle_pct: readings 57 s apart over 24 bins of
60. Prints the model's numbers as they stand in agent/assay_agent/telemetry/shapes.py, and what the
recording and the simulation come to.

    python scripts/calibrate_load.py duty_cycle.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assay_agent.telemetry import shapes
from assay_agent.telemetry.scenario import Load

BINS = 24
LEVELS = 21

Series = Sequence[float]
"""Duty cycles of one GPU, percent, a step apart."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The model: how likely work begins and stops by bin, and quantiles of the level at work."""

    begin: tuple[float, ...]
    stop: tuple[float, ...]
    levels_pct: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Figures:
    """What series come to: means and quantiles in percent, dwell times in steps."""

    mean: float
    at_work: float
    quantiles: tuple[float, ...]
    """At 50, 75, 90, 95 and 99 %."""
    correlation: tuple[float, ...]
    """With itself 1, 5, 30 and 60 steps later, over all series."""
    work_steps: float
    rest_steps: float


def read(path: Path) -> list[list[float]]:
    """The series of a recording, in the order of their names."""
    found: dict[str, list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["series"], []).append(float(row["gpu_duty_cycle_pct"]))
    return [found[name] for name in sorted(found)]


def fit(series: Sequence[Series]) -> Fit:
    """The model's numbers, rounded as they are written down."""
    begin, stop = [], []
    for index in range(BINS):
        steps = range(index * shapes.BIN_STEPS, (index + 1) * shapes.BIN_STEPS)
        pairs = [(one[i] > 0, one[i + 1] > 0) for one in series for i in steps]
        resting = [after for before, after in pairs if not before]
        working = [after for before, after in pairs if before]
        begin.append(round(sum(resting) / len(resting), 3))
        stop.append(round(working.count(False) / len(working), 3))
    levels = sorted(value for one in series for value in one if value > 0)
    quantiles = [_quantile(levels, index / (LEVELS - 1)) for index in range(LEVELS)]
    return Fit(tuple(begin), tuple(stop), tuple(round(value, 2) for value in quantiles))


def simulated(count: int, steps: int) -> list[list[float]]:
    """As many series of the simulation, of GPUs of as many seeds."""
    load = Load(shape="measured")
    return [
        [100 * shapes.share(load, seed, step * shapes.STEP_S * 1_000) for step in range(steps)]
        for seed in range(count)
    ]


def figures(series: Sequence[Series]) -> Figures:
    """What they come to."""
    every = sorted(value for one in series for value in one)
    mean = sum(every) / len(every)
    spread = sum((value - mean) ** 2 for value in every) / len(every)
    working, resting = _dwells(series, at_work=True), _dwells(series, at_work=False)
    return Figures(
        mean,
        sum(value > 0 for value in every) / len(every),
        tuple(_quantile(every, share) for share in (0.5, 0.75, 0.9, 0.95, 0.99)),
        tuple(_correlation(series, mean, spread, lag) for lag in (1, 5, 30, 60)),
        sum(working) / len(working),
        sum(resting) / len(resting),
    )


def _quantile(ordered: Series, share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]


def _correlation(series: Sequence[Series], mean: float, spread: float, lag: int) -> float:
    products = [
        (one[i] - mean) * (one[i + lag] - mean) for one in series for i in range(len(one) - lag)
    ]
    return sum(products) / len(products) / spread


def _dwells(series: Sequence[Series], *, at_work: bool) -> list[int]:
    """How long each whole spell of work, or of rest, was."""
    found = []
    for one in series:
        length, before = 0, not at_work
        for value in one:
            if (value > 0) is at_work:
                length += 1
            elif before is at_work:
                found.append(length)
                length = 0
            before = value > 0
    return found


def main() -> int:
    """Prints the fit, and both sides' figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("recording", type=Path)
    series = read(parser.parse_args().recording)
    found = fit(series)
    for name in ("begin", "stop", "levels_pct"):
        print(f"{name} = {getattr(found, name)}")
    print("recorded ", figures(series))
    print("simulated", figures(simulated(len(series), len(series[0]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
