"""Leaves: what one window says of one subject, in the group it may be disclosed by.

Which fields a group has, their units and sources stand in proto/assay_proto/v1/window.proto.
A field is a value or the reason why there is none; a missing field is never zero.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SALT_BYTES: Final = 16
SUBJECT_BYTES: Final = 16
HOST: Final = b""
"""The subject of the host and platform leaves."""


class Group(enum.StrEnum):
    """The parts of a window that are disclosed apart from each other."""

    IDENTITY = "identity"
    HEALTH = "health"
    USE = "use"
    HOST = "host"
    CONDITION = "condition"
    PLATFORM = "platform"


OF_HOST: Final = frozenset({Group.HOST, Group.PLATFORM})
"""Groups whose subject is the host; the others' is a GPU."""
ON_CHANGE: Final = frozenset({Group.IDENTITY, Group.CONDITION, Group.PLATFORM})
"""Groups that travel when they change, at each boot, once a day and after a gap; others always do."""


class Reason(enum.IntEnum):
    """Why a field has no value. Numbers as on the wire."""

    NOT_SUPPORTED = 1
    NO_PERMISSION = 2
    DRIVER_UNRESPONSIVE = 3
    DRIVER_ABSENT = 4
    GPU_LOST = 5
    SYMBOL_MISSING = 6
    HIDDEN_BY_MIG = 7
    IN_MAINTENANCE = 8
    NOT_SAMPLED = 9
    INVALID_VALUE = 10
    DRIVER_ERROR = 11
    ASLEEP = 12
    PASSED_THROUGH = 13

    @property
    def label(self) -> str:
        """The name in documents, JSON and metrics, e.g. "not_supported"."""
        return self.name.lower()


class DriverState(enum.IntEnum):
    """The driver over a window; a window carries the worst that was seen."""

    RUNNING = 1
    RELOADED = 2
    UNRESPONSIVE = 3
    ABSENT = 4
    PAUSED = 5

    @property
    def answers(self) -> bool:
        """Whether it shows what there is: what it does not show has gone."""
        return self in (DriverState.RUNNING, DriverState.RELOADED)


class EventKind(enum.IntEnum):
    """What happened. Numbers as on the wire."""

    XID = 1
    GPU_LOST = 2
    GPU_RETURNED = 3
    DRIVER_RELOADED = 4
    DRIVER_UNRESPONSIVE = 5
    DRIVER_RECOVERED = 6
    PAUSED = 7
    RESUMED = 8
    DRAM_RETIREMENT = 9
    POISON = 10
    UNAVAILABLE = 11
    RECOVERY_ACTION = 12
    MIG_CHANGED = 13
    COUNTER_FELL = 14
    CLOCK_STEPPED = 15
    GPU_HIDDEN = 16
    GPU_PHANTOM = 17
    GPU_RESET = 18


class Tenancy(enum.IntEnum):
    """Who has a GPU, as the PCI bus shows it. Numbers as on the wire."""

    HOST = 1
    PASSED_THROUGH = 2
    UNBOUND = 3
    GONE = 4


class IncidentKind(enum.IntEnum):
    """What an incident is of: an event, or from 101 on a condition. Numbers as on the wire."""

    XID = 1
    GPU_LOST = 2
    DRAM_RETIREMENT = 3
    POISON = 4
    UNAVAILABLE = 5
    REMAP_FAILED = 101
    REMAP_PENDING = 102
    RECOVERY_ACTION = 103
    ROWS_EXHAUSTED = 104
    UNREPAIRABLE_MEMORY = 105
    SRAM_THRESHOLD = 106
    REPAIR_PENDING = 107
    PAGES_EXHAUSTED = 108
    INFOROM_CORRUPTED = 109
    NVLINK_DOWN = 110
    NVLINK_ERRORS = 111
    PCIE_REPLAYS = 112
    PCIE_DEGRADED = 113
    PCIE_ERRORS = 114
    THERMAL_SLOWDOWN = 115
    POWER_BRAKE = 116
    HIDDEN = 117
    BANKS_EXHAUSTED = 118
    SMOOTHING_WORN = 119
    FABRIC = 120
    PHANTOM = 121


class Severity(enum.IntEnum):
    """How bad an incident is; larger is worse. Numbers as on the wire."""

    USER_ERROR = 1
    DEGRADED = 2
    IMPAIRED = 3

    @property
    def label(self) -> str:
        """The name in documents, JSON and metrics, e.g. "user_error"."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Gauge:
    """Smallest, mean (rounded half up) and largest sample of the period, in the field's unit."""

    min: int
    mean: int
    max: int


@dataclass(frozen=True, slots=True)
class Counter:
    """The sum of a counter's increases over the period, and the counter as last read."""

    delta: int
    total: int


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, deduplicated within its window. Times are the host's, UTC ms."""

    kind: EventKind
    code: int
    first_ms: int
    last_ms: int
    count: int


@dataclass(frozen=True, slots=True)
class Incident:
    """Something wrong, with a beginning and, once over, an end. Times are the host's, UTC ms."""

    kind: IncidentKind
    code: int
    severity: Severity
    begin_ms: int
    last_ms: int
    end_ms: int | None
    count: int


@dataclass(frozen=True, slots=True)
class MigInstance:
    """One instance of a GPU that is cut up: percent of what the instance has at most.

    `activity` is graphics, SM, SM occupancy, tensor and DRAM, in this order, or why there is none.
    """

    gpu_instance_id: int
    memory_mib: int
    activity: tuple[int, int, int, int, int] | Reason


Value = (
    int
    | str
    | Gauge
    | Counter
    | tuple[int, ...]
    | tuple[str, ...]
    | tuple[bytes, ...]
    | tuple[Event, ...]
    | tuple[Incident, ...]
    | tuple[MigInstance, ...]
    | Reason
)


@dataclass(frozen=True, slots=True)
class Content:
    """What a leaf says, before it has a salt: a subject, a group and the group's fields.

    `values` holds every field of the group by its name in the schema.
    """

    subject: bytes
    group: Group
    values: Mapping[str, Value]

    def integer(self, name: str) -> int | Reason:
        """An integer field, or why it has no value."""
        value = self.values[name]
        if isinstance(value, int):
            return value
        raise TypeError(f"{name} is not an integer field")

    def text(self, name: str) -> str | Reason:
        """A text field, or why it has no value."""
        value = self.values[name]
        if isinstance(value, str | Reason):
            return value
        raise TypeError(f"{name} is not a text field")

    def gauge(self, name: str) -> Gauge | Reason:
        """A gauge, or why it has no value."""
        value = self.values[name]
        if isinstance(value, Gauge | Reason):
            return value
        raise TypeError(f"{name} is not a gauge")

    def counter(self, name: str) -> Counter | Reason:
        """A counter, or why it has no value."""
        value = self.values[name]
        if isinstance(value, Counter | Reason):
            return value
        raise TypeError(f"{name} is not a counter")

    def integers(self, name: str) -> tuple[int, ...] | Reason:
        """A list of integers, one for each link, or why it has no value."""
        value = self.values[name]
        if isinstance(value, Reason):
            return value
        if isinstance(value, tuple):
            return tuple(item for item in value if isinstance(item, int))
        raise TypeError(f"{name} is not a list of integers")

    def incidents(self) -> tuple[Incident, ...]:
        """The incidents of a health leaf, as its host judged; none where there is a reason."""
        value = self.values["incidents"]
        return (
            tuple(item for item in value if isinstance(item, Incident))
            if isinstance(value, tuple)
            else ()
        )

    def events(self) -> tuple[Event, ...]:
        """The events of a health or host leaf; none where they could not be read."""
        value = self.values["events"]
        return (
            tuple(item for item in value if isinstance(item, Event))
            if isinstance(value, tuple)
            else ()
        )


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf as sealed: its content and the salt that keeps it secret until it is disclosed."""

    salt: bytes
    content: Content
