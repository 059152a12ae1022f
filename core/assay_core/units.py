"""Ratios in basis points (1e-4), and the two ways to round them."""

from __future__ import annotations

from typing import Final

BPS: Final = 10_000
"""One whole, in basis points."""

LTV_BPS_MAX: Final = 65_535
"""Largest LTV a report can carry; anything above is published as this, and means "no cover"."""


def ratio_bps_up(numerator: int, denominator: int) -> int:
    """numerator / denominator in basis points, rounded up. The denominator is positive."""
    if denominator <= 0:
        raise ValueError("a ratio needs a positive denominator")
    return -(-numerator * BPS // denominator)


def ratio_bps_down(numerator: int, denominator: int) -> int:
    """numerator / denominator in basis points, rounded down. The denominator is positive."""
    if denominator <= 0:
        raise ValueError("a ratio needs a positive denominator")
    return numerator * BPS // denominator


def mean_half_up(total: int, count: int) -> int:
    """total / count rounded half up, for non-negative totals."""
    return (2 * total + count) // (2 * count)
