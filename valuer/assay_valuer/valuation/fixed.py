"""Logarithms as whole micro-nats (1e-6), and money from them, the same on every machine.

`decimal` rounds e^x and ln x correctly by its specification (IEEE 854, General Decimal Arithmetic),
so no result here depends on a processor, a C library or a numpy build.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Final

from assay_core.money import MICROS_PER_USD, Usd

E6: Final = 1_000_000
"""Micro-nats in a nat; also parts of one where a number is said to be in e6."""
LOG_MAX_E6: Final = 60 * E6
"""No price, ratio or error here lies beyond e^±60."""
_CONTEXT: Final = Context(prec=40, rounding=ROUND_HALF_EVEN)
_MICRO: Final = Decimal(1).scaleb(-6)
_KEPT: Final = 16_384
"""Results that are kept of each function: a policy's numbers come again with every case."""


def usd_of_log(log_e6: int) -> Usd:
    """e^x US dollars, rounded down to a micro-dollar. Raises ValueError beyond `LOG_MAX_E6`."""
    return Usd(int((exp(log_e6) * MICROS_PER_USD).to_integral_value(ROUND_FLOOR)))


def log_of_usd(amount: Usd) -> int:
    """ln of the dollars, in micro-nats, rounded half to even. Raises ValueError of what is not positive."""
    if amount.micros <= 0:
        raise ValueError(f"{amount} has no logarithm")
    return ln_ratio(amount.micros, MICROS_PER_USD)


@lru_cache(maxsize=_KEPT)
def ln_ratio(numerator: int, denominator: int) -> int:
    """ln of a positive ratio, in micro-nats, rounded half to even. Raises ValueError."""
    if numerator <= 0 or denominator <= 0:
        raise ValueError("the ratio has no logarithm")
    with_log = _CONTEXT.ln(_CONTEXT.divide(Decimal(numerator), Decimal(denominator)))
    return int(_CONTEXT.multiply(with_log, Decimal(E6)).to_integral_value(ROUND_HALF_EVEN))


def exp_e6(log_e6: int) -> int:
    """e^x in millionths, rounded down: the factor that a log change is."""
    return int((exp(log_e6) * E6).to_integral_value(ROUND_FLOOR))


@lru_cache(maxsize=_KEPT)
def exp(log_e6: int) -> Decimal:
    """e^x to 40 digits, correctly rounded. Raises ValueError beyond `LOG_MAX_E6`."""
    if abs(log_e6) > LOG_MAX_E6:
        raise ValueError(f"e^{log_e6 // E6} is no price")
    return _CONTEXT.exp(_CONTEXT.multiply(Decimal(log_e6), _MICRO))


def root(square: int) -> int:
    """The square root of what is not negative and below 10^38, rounded down."""
    return int(_CONTEXT.sqrt(Decimal(square)).to_integral_value(ROUND_FLOOR))


def exp_scaled(log_e6: int, scale: int) -> int:
    """e^x times a whole scale, rounded down. Raises ValueError beyond `LOG_MAX_E6`."""
    return int(_CONTEXT.multiply(exp(log_e6), Decimal(scale)).to_integral_value(ROUND_FLOOR))
