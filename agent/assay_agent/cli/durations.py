"""Durations as argparse takes them."""

from __future__ import annotations

import argparse

from assay_core.errors import FileError
from assay_core.instants import parse_duration


def duration_ms(text: str) -> int:
    """Milliseconds of "90s", "30m" or "2h"."""
    try:
        return parse_duration(text)
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
