"""Who fetched a device's report."""

from __future__ import annotations

import enum


class Origin(enum.IntEnum):
    """Numbers as on the wire. Recorded, so that reports fetched outside the host can be told apart
    from those that the host's own system handed over.
    """

    IN_BAND_NVML = 1
    IN_BAND_CORELIB = 2
    MANAGEMENT = 3
