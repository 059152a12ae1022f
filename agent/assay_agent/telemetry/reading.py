"""What every source yields: one poll of a host, each field a value or the reason why not."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from assay_core.leaves import DriverState, EventKind, MigInstance, Reason

if TYPE_CHECKING:  # what it brings has no place in the driver's process
    from assay_core.header import Source

Sample = int | str | tuple[int, ...] | tuple[str, ...] | tuple[MigInstance, ...] | Reason
"""A field at one instant, in the unit its schema gives it; a list has an item for each link."""


_UNREAD: Final = MappingProxyType(
    {
        DriverState.UNRESPONSIVE: Reason.DRIVER_UNRESPONSIVE,
        DriverState.ABSENT: Reason.DRIVER_ABSENT,
        DriverState.PAUSED: Reason.IN_MAINTENANCE,
    }
)


class Depth(enum.IntEnum):
    """How much a poll reads; each depth reads all of the one before."""

    TICK = 1
    """What moves from second to second."""
    WINDOW = 2
    """What is worth one look a window, and one after every event."""
    DAY = 3
    """What is costly or constant: at start, when GPUs are enumerated anew, and once a day."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one instant.

    `subject` is the 16 bytes of its NVML UUID. `values` holds what was read at this poll of the
    groups identity, condition, health and use, by schema name; a field that is not in it was not
    due. `polls`, `events` and `incidents` are the window's to count. A gauge's or counter's
    sample is a plain integer.
    """

    subject: bytes
    values: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that happened to a GPU, or to the host (an empty subject), UTC milliseconds."""

    subject: bytes
    kind: EventKind
    code: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class Poll:
    """One look at a host.

    `gpus` are those the driver enumerates now; a GPU that is lost but still known to the source
    is among them with its fields GPU_LOST. `host` holds, by schema name, what was read of the
    groups host and platform; driver_version, nvml_version and gpu_count always. When the driver
    does not answer, `driver` says why, and no GPU was read.
    """

    at_utc_ms: int
    at_boottime_ms: int
    driver: DriverState
    host: Mapping[str, Sample]
    abandoned_processes: int
    gpus: tuple[GpuReading, ...]
    events: tuple[Happening, ...]

    @property
    def unread(self) -> Reason | None:
        """Why no GPU could be read. None: the driver answers, and has lost what it does not list."""
        return _UNREAD.get(self.driver)


class GpuSource(Protocol):
    """The seam behind which a driver, a trace or a simulation stands."""

    @property
    def kind(self) -> Source:
        """What is written into the signed header."""
        ...

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        """Waits at most `timeout_ms` for events, returns at once when one comes, polls either way.

        Reads at least as deep as asked; deeper by itself: WINDOW when an event ended the wait, DAY
        when GPUs were enumerated anew. Never raises for what the driver does, and never takes much
        longer than it may wait.
        """
        ...

    async def pause(self) -> None:
        """Closes every device handle; until `resume`, `poll` says PAUSED."""
        ...

    async def resume(self) -> None:
        """Opens the devices again at the next poll."""
        ...

    async def close(self) -> None:
        """Lets go of everything, without killing a process that is inside the driver."""
        ...
