"""The words of standing: what a GPU is, what has befallen it, and what we believe of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

import msgspec

from assay_core.leaves import DriverState, Event
from assay_valuer.findings import Finding


class Presence(enum.StrEnum):
    """Where a GPU is, as far as anybody said."""

    EXPECTED = "expected"  # pledged, never seen
    PRESENT = "present"
    SILENT = "silent"
    MAINTENANCE = "maintenance"
    MISSING = "missing"  # its host says that it is gone
    UNKNOWN = "unknown"  # nobody whom we believe speaks for it


class Cause(enum.StrEnum):
    """Whose silence it is."""

    NONE = ""
    OURS = "ours"
    SITE = "site"
    HOST = "host"
    GPU = "gpu"


class Severity(enum.StrEnum):
    """How bad an incident is."""

    IMPAIRED = "impaired"
    DEGRADED = "degraded"
    USER_ERROR = "user_error"

    @property
    def rank(self) -> int:
        """Larger is worse."""
        return _RANK[self]


_RANK = {Severity.USER_ERROR: 0, Severity.DEGRADED: 1, Severity.IMPAIRED: 2}


class Kind(enum.IntEnum):
    """What an incident is of: an event's number, or from 101 on a condition that health shows."""

    XID = 1
    GPU_LOST = 2
    REMAP_FAILED = 101
    REMAP_PENDING = 102
    RECOVERY_ACTION = 103
    ROWS_EXHAUSTED = 104


@dataclass(frozen=True, slots=True)
class Incident:
    """Something wrong with a GPU, with a beginning and, once it is over, an end. UTC ms.

    `windows` is the number of windows running that it has stood in.
    """

    kind: Kind
    code: int
    severity: Severity
    begin_ms: int
    seen_ms: int
    end_ms: int | None
    count: int
    windows: int
    position: int

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.end_ms is None


class Condition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the newest windows said that standing needs; kept as JSON beside the asset."""

    boot_id: str = ""
    driver: int = int(DriverState.RUNNING)
    lost: bool = False
    alone: bool = False
    """Gone by itself, while its driver worked; so until it is seen again."""
    maintenance_until_ms: int | None = None
    recovery_action: int | None = None
    temperature_mc: int | None = None
    ecc_uncorrected: int | None = None
    claimed_by: str = ""
    """Another host that also claims this asset: disputed until a person decides."""


DRIVER_SILENT: Final = (DriverState.UNRESPONSIVE, DriverState.ABSENT)
"""A driver that does not answer: the host's silence, not its GPUs'."""
DRIVER_WORKS: Final = (DriverState.RUNNING, DriverState.RELOADED)
"""A driver that shows what there is: what it does not show has gone."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one window says of one GPU.

    `seen`: a poll reached it. `lost`: its host says that it is gone. None is "no value".
    `reset` marks a driver reload or a reset within the window.
    """

    observed_ms: int
    position: int
    boot_id: str
    driver: DriverState
    seen: bool
    lost: bool
    reset: bool = False
    maintenance_until_ms: int | None = None
    events: tuple[Event, ...] = ()
    remap_failed: int | None = None
    remap_pending: int | None = None
    recovery_action: int | None = None
    rows_uncorrected: int | None = None
    temperature_mc: int | None = None
    ecc_uncorrected: int | None = None


@dataclass(frozen=True, slots=True)
class Track:
    """What all windows so far have shown of one GPU; the fold of its sights."""

    first_seen_ms: int | None = None
    seen_ms: int | None = None
    missing_since_ms: int | None = None
    position: int | None = None
    condition: Condition = field(default_factory=Condition)
    incidents: tuple[Incident, ...] = ()


@dataclass(frozen=True, slots=True)
class Host:
    """What the registry says of a host. `observed_ms` is of its newest window."""

    key: int
    host_id: str
    site: str
    observed_ms: int | None
    revoked: bool


@dataclass(frozen=True, slots=True)
class Asset:
    """A GPU as an asset: its identifiers, where it is, and its track."""

    id: int
    serial: str | None
    board_part_number: str | None
    uuid: bytes | None
    name: str | None
    host_key: int | None
    simulated: bool
    track: Track

    @property
    def label(self) -> str:
        """What a person calls it: its serial, else its number here."""
        return self.serial or f"asset-{self.id}"


@dataclass(frozen=True, slots=True)
class Standing:
    """What we believe of one GPU at one instant.

    `severity` is the worst incident that may move its value; `assurance` is 0 to 4, with 128 for
    custody. `observed_ms` is its newest evidence, None if it was never seen.
    """

    presence: Presence
    cause: Cause
    observed_ms: int | None
    assurance: int
    severity: Severity | None
    counts: bool
    simulated: bool
    disputed: bool
    name: str | None
    incidents: tuple[Incident, ...]
    findings: tuple[Finding, ...]
