"""Whether one model's errors are smaller than another's by more than luck: a block bootstrap.

Windows that overlap share their outcome, and all series of a season share their season. So what is
drawn, with replacement, are whole blocks of 180 days of origins, all series together. p is the share
of draws in which the first model is not better: one-sided, and never below 1/(draws + 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import Floats, Ints

BLOCK_DAYS: Final = 180
DRAWS: Final = 4_000
SEED: Final = 20_260_430
BLOCKS_MIN: Final = 3
"""With fewer there is nothing to draw from."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Assay against another model, by one measure: the mean difference of loss, negative if better."""

    kind: str
    horizon_days: int | None
    against: str
    measure: str
    n: int
    blocks: int
    difference: float
    p: float | None
    """None where there are too few blocks."""


def block_p(differences: Floats, days: Ints) -> tuple[int, float | None]:
    """(blocks, p) of a mean difference below zero; `days` are the origins of its cases."""
    if not len(days):
        return 0, None
    block = (days - days.min()) // BLOCK_DAYS
    numbers, at = np.unique(block, return_inverse=True)
    if len(numbers) < BLOCKS_MIN:
        return len(numbers), None
    sums = np.bincount(at, weights=differences)
    counts = np.bincount(at).astype(np.float64)
    random = np.random.default_rng(SEED)
    drawn = random.integers(0, len(numbers), size=(DRAWS, len(numbers)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    not_better = int((means >= 0).sum())
    return len(numbers), (1 + not_better) / (DRAWS + 1)
