"""What hardware of a class costs by what it can do, for products that few or none quote.

    ln p = b₀ + b·z + κ_kind + u_product + v_product,kind + ε

z are logs of the dense FP16 rate, bandwidth and memory, and the years since release; b, κ, u and v are
normal about stated means, so this is a Bayesian regression with partial pooling: a product with prices
of its own stays near them, one without is drawn from its class, and its error says how far off that
may be. ε is Student's t with ν = 4: a price that fits nothing loses its weight. A fit sees one class.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from assay_valuer.forecast.cases import Floats
from assay_valuer.market.models import SPECS, Product

SLOPES: Final = (0.30, 0.30, 0.20, 0.0)
"""Judgement: a product twice as good in all three costs 1.7 times as much, and age alone costs nothing."""
SLOPES_APART: Final = (0.15, 0.15, 0.15, 0.05)
LEVEL_APART: Final = 2.0
PRODUCT_APART: Final = 0.30
"""How far products of the same figures lie apart. Judgement."""
PRODUCT_KIND_APART: Final = 0.10
BEYOND: Final = 0.5
"""How unsure a product's price is per log of performance beyond all that are quoted, as a deviation.
Judgement: nothing quoted can test it."""
FREEDOM: Final = 4.0
ROUNDS: Final = 6


@dataclass(frozen=True, slots=True)
class Point:
    """What a product costs in one kind of price: its log, with a standard error."""

    product: Product
    kind: str
    log: float
    error: float


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of price: how it lies to the others (in logs), and how surely. Judgement."""

    mean: float
    apart: float


@dataclass(frozen=True, slots=True)
class Guess:
    """A log price and its standard error."""

    log: float
    error: float


def regress(
    points: Sequence[Point], wanted: Sequence[tuple[Product, str]], kinds: dict[str, Kind]
) -> list[Guess]:
    """The price of each wanted product and kind, from points of one class; none of no points."""
    if not points:
        return []
    points = sorted(points, key=lambda one: (one.product, one.kind, one.log))
    have = [(one.product, one.kind) for one in points]
    means = np.array([_mean(product, kinds[kind]) for product, kind in have])
    logs = np.array([one.log for one in points]) - means
    level = float(np.median(logs))
    covariance = _covariance(have, have, kinds)
    trust = np.ones(len(points))
    stated = np.array([one.error for one in points]) ** 2
    total: Floats = covariance
    solved: Floats = np.zeros(len(points))
    for _ in range(ROUNDS):
        noise = stated / trust
        total = covariance + np.diag(noise)
        solved = np.asarray(np.linalg.solve(total, logs - level), dtype=np.float64)
        misses = noise * solved / np.sqrt(stated)
        trust = (FREEDOM + 1) / (FREEDOM + misses**2)
    across = _covariance(wanted, have, kinds)
    centres = level + np.array([_mean(p, kinds[k]) for p, k in wanted]) + across @ solved
    own = np.array([_covariance([one], [one], kinds)[0, 0] for one in wanted])
    known = (across * np.linalg.solve(total, across.T).T).sum(axis=1)
    beyond = np.array([_beyond(product, have) for product, _ in wanted])
    errors = np.sqrt(np.maximum(own - known, 0.0) + (BEYOND * beyond) ** 2)
    return [Guess(log, error) for log, error in zip(centres.tolist(), errors.tolist(), strict=True)]


@cache
def features(product: Product) -> tuple[float, float, float, float]:
    """ln TFLOPS, ln TB/s, ln of 100 GB, and years of release since 2020."""
    specs = SPECS[product]
    years = specs.released.year - 2020 + (specs.released.month - 1) / 12
    return (
        math.log(specs.fp16_gflops / 1e6),
        math.log(specs.bandwidth_gb_s / 1e3),
        math.log(specs.memory_gb / 1e2),
        years,
    )


def performance(product: Product) -> float:
    """ln of how much work it does: the mean of the three logs, weighed 0.4, 0.4 and 0.2.

    Judgement: training is held up by arithmetic, serving by bandwidth, and both by memory less.
    """
    rate, bandwidth, memory, _ = features(product)
    return 0.4 * rate + 0.4 * bandwidth + 0.2 * memory


def _beyond(product: Product, have: Sequence[tuple[Product, str]]) -> float:
    """How far its performance lies outside that of what has a price; 0 within."""
    quoted = [performance(other) for other, _ in have]
    own = performance(product)
    return max(own - max(quoted), min(quoted) - own, 0.0)


def _mean(product: Product, kind: Kind) -> float:
    return kind.mean + sum(b * z for b, z in zip(SLOPES, features(product), strict=True))


def _covariance(
    one: Sequence[tuple[Product, str]], two: Sequence[tuple[Product, str]], kinds: dict[str, Kind]
) -> Floats:
    """How far two sets of prices move together before anything is known."""
    left, right = (np.array([features(product) for product, _ in rows]) for rows in (one, two))
    apart = np.array(SLOPES_APART) ** 2
    total: Floats = LEVEL_APART**2 + (left * apart) @ right.T
    for row, (product, kind) in enumerate(one):
        same = np.array([other == product for other, _ in two])
        alike = np.array([what == kind for _, what in two])
        total[row] += PRODUCT_APART**2 * same + kinds[kind].apart ** 2 * alike
        total[row] += PRODUCT_KIND_APART**2 * (same & alike)
    return total
