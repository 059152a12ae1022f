"""Instants are UTC milliseconds since 1970, as plain integers; nothing here reads a clock."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from assay_core.errors import FileError

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS

_DURATION: Final = re.compile(r"([1-9]\d{0,5})([smhd])", re.ASCII)
_UNITS_MS: Final = {"s": SECOND_MS, "m": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def parse_instant(text: str) -> int:
    """RFC 3339 with an offset ("2026-11-23T09:00:00Z") to UTC milliseconds."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise FileError(f"{text!r} is not a time such as 2026-11-23T09:00:00Z") from error
    if moment.tzinfo is None:
        raise FileError(f"{text!r} names no offset from UTC; write Z for UTC")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def format_instant(instant_ms: int) -> str:
    """UTC milliseconds to RFC 3339 in UTC with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=instant_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_duration(text: str) -> int:
    """Durations as people type them, "90s", "30m", "24h" or "7d", to milliseconds."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise FileError(f"{text!r} is not a duration such as 90s, 30m, 24h or 7d")
    return int(found[1]) * _UNITS_MS[found[2]]


def format_duration(duration_ms: int) -> str:
    """Milliseconds as people say them: "850 ms", "5.0 s", "12 min", "6.0 h", "3.0 d"."""
    for unit_ms, unit, digits in (
        (DAY_MS, "d", 1),
        (HOUR_MS, "h", 1),
        (MINUTE_MS, "min", 0),
        (SECOND_MS, "s", 1),
    ):
        if abs(duration_ms) >= unit_ms:
            return f"{duration_ms / unit_ms:.{digits}f} {unit}"
    return f"{duration_ms} ms"
