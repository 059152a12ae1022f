"""Where statistics become parameters: the one place that rounds a float to whole millionths."""

from __future__ import annotations

from typing import Final

E6: Final = 1_000_000
LOG_MAX: Final = 60.0
"""No price, ratio or error lies beyond e^±60."""


def e6(value: float) -> int:
    """A natural logarithm, or a deviation of one, in micro-nats; half to even, within ±60."""
    return round(min(max(value, -LOG_MAX), LOG_MAX) * E6)
