"""Times and durations as people write them."""

from __future__ import annotations

import pytest

from assay_core.errors import FileError
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, parse_duration


@pytest.mark.parametrize(
    ("written", "meant_ms"),
    [
        ("90s", 90_000),
        ("30m", 30 * MINUTE_MS),
        ("24h", DAY_MS),
        ("7d", 7 * DAY_MS),
        ("1h", HOUR_MS),
    ],
)
def test_a_duration(written: str, meant_ms: int) -> None:
    assert parse_duration(written) == meant_ms


@pytest.mark.parametrize(
    "written", ["", "30", "m", "0m", "-1m", "1.5h", " 1h", "1h\n", "1w", "٣m", "1000000s"]
)
def test_what_is_no_duration_is_named(written: str) -> None:
    with pytest.raises(FileError, match="is not a duration such as 90s, 30m, 24h or 7d"):
        parse_duration(written)
