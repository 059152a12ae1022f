"""How a simulated fleet's load moves: its share of full load at a moment, and what that adds up to.

The shape "measured" is fitted to the GPU duty cycles of Alibaba's cluster-trace-v2026-GenAI (the
first 32 series of pod_gpu_duty_cycle that are whole: 46,112 readings, 57 s apart, over 22.8 h;
github.com/alibaba/clusterdata), restated as a model of 69 numbers by scripts/calibrate_load.py: a
GPU works or does not; how likely it begins and stops moves with the time of day; how much it does
while it works is drawn afresh at each step. Measured, that level hardly remembers the one before
(correlation 0.11). The trace's day of 24 bins of 57 min is played over and over.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.scenario import Load

STEP_S: Final = 57
BIN_STEPS: Final = 60
MEASURED_BEGIN: Final[Sequence[float]] = (
    0.071,
    0.383,
    0.534,
    0.448,
    0.136,
    0.345,
    0.527,
    0.56,
    0.537,
    0.516,
    0.236,
    0.146,
    0.117,
    0.114,
    0.154,
    0.066,
    0.076,
    0.039,
    0.051,
    0.031,
    0.025,
    0.016,
    0.014,
    0.012,
)
"""How likely a GPU that did nothing does something a step later, by the bin of the day."""
MEASURED_STOP: Final[Sequence[float]] = (
    0.454,
    0.267,
    0.182,
    0.205,
    0.351,
    0.205,
    0.175,
    0.083,
    0.149,
    0.179,
    0.368,
    0.434,
    0.468,
    0.419,
    0.449,
    0.487,
    0.471,
    0.459,
    0.662,
    0.509,
    0.46,
    0.39,
    0.463,
    0.453,
)
"""How likely one that did something does nothing a step later."""
MEASURED_LEVELS_PCT: Final[Sequence[float]] = (
    0.03,
    0.47,
    1.4,
    4.53,
    7.47,
    9.8,
    11.27,
    13.47,
    15.13,
    16.67,
    18.47,
    20.47,
    22.1,
    23.53,
    24.53,
    25.53,
    26.93,
    29.8,
    34.53,
    48.7,
    99.53,
)
"""Duty cycle while something is done, percent: 21 quantiles at equal distances, 0 to 1."""

_PERIODS_S: Final = MappingProxyType({"diurnal": 86_400, "burst": 300, "training": 600})
_DUTIES_PCT: Final = MappingProxyType({"burst": 50, "training": 95})
_WALKS: Final = 64


def share(load: Load, seed: int, after_ms: int) -> float:
    """The share of full load so long after the start, 0 to 1."""
    level = load.level_pct / 100
    if load.shape == "measured":
        return _walk(seed).share(after_ms)
    if load.shape in ("idle", "steady"):
        return level if load.shape == "steady" else 0.0
    period_s = load.period_s or _PERIODS_S[load.shape]
    within = (after_ms / 1_000 % period_s) / period_s
    if load.shape == "diurnal":
        return level * (1 - math.cos(2 * math.pi * within)) / 2
    return level if within < _duty(load) else level * _between_bursts(load)


def busy_s(load: Load, seed: int, after_ms: int) -> float:
    """The integral of `share` from the start, seconds of full load."""
    level, after_s = load.level_pct / 100, after_ms / 1_000
    if load.shape == "measured":
        return _walk(seed).busy_s(after_ms)
    if load.shape in ("idle", "steady"):
        return level * after_s if load.shape == "steady" else 0.0
    period_s = load.period_s or _PERIODS_S[load.shape]
    if load.shape == "diurnal":
        turn = 2 * math.pi * after_s / period_s
        return level / 2 * (after_s - math.sin(turn) * period_s / (2 * math.pi))
    periods, rest_s = divmod(after_s, period_s)
    duty, low = _duty(load), _between_bursts(load)
    high_s = periods * duty * period_s + min(rest_s, duty * period_s)
    return level * (high_s + low * (after_s - high_s))


class _Walk:
    """One GPU's steps, made as far as anybody asked; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - a load, not a secret
        self._levels: list[float] = []
        self._sums: list[float] = [0.0]
        begin, stop = MEASURED_BEGIN[0], MEASURED_STOP[0]
        self._works = self._draw.random() < begin / (begin + stop)

    def share(self, after_ms: int) -> float:
        step = after_ms // (STEP_S * 1_000)
        self._reach(step)
        return self._levels[step]

    def busy_s(self, after_ms: int) -> float:
        step, rest_ms = divmod(after_ms, STEP_S * 1_000)
        self._reach(step)
        return self._sums[step] * STEP_S + self._levels[step] * rest_ms / 1_000

    def _reach(self, step: int) -> None:
        while len(self._levels) <= step:
            level = self._level() if self._works else 0.0
            self._levels.append(level)
            self._sums.append(self._sums[-1] + level)
            time = (len(self._levels) - 1) // BIN_STEPS % len(MEASURED_BEGIN)
            turns = MEASURED_STOP[time] if self._works else MEASURED_BEGIN[time]
            if self._draw.random() < turns:
                self._works = not self._works

    def _level(self) -> float:
        """A draw from the quantiles, straight between two."""
        place = self._draw.random() * (len(MEASURED_LEVELS_PCT) - 1)
        low = int(place)
        below, above = MEASURED_LEVELS_PCT[low], MEASURED_LEVELS_PCT[low + 1]
        return (below + (above - below) * (place - low)) / 100


@lru_cache(_WALKS)
def _walk(seed: int) -> _Walk:
    return _Walk(seed)


def _duty(load: Load) -> float:
    return (_DUTIES_PCT[load.shape] if load.duty_pct is None else load.duty_pct) / 100


def _between_bursts(load: Load) -> float:
    return 0.1 if load.shape == "training" else 0.0
