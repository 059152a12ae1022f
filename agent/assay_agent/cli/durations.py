"""Durations as people type them."""

from __future__ import annotations

import argparse
import re
from typing import Final

from assay_core.instants import HOUR_MS, MINUTE_MS, SECOND_MS

_UNITS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS}


def duration_ms(text: str) -> int:
    """Milliseconds of "90s", "30m" or "2h"; for argparse."""
    match = re.fullmatch(r"([1-9]\d{0,5})([smh])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 30m or 2h")
    return int(match[1]) * _UNITS[match[2]]
