"""What every source yields: one poll of a host, each field a value or the reason why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from assay_core.header import Source
from assay_core.leaves import DriverState, EventKind, Reason

Sample = int | str | Reason
"""A field at one instant, in the unit its schema gives it."""


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at one instant.

    `subject` is the 16 bytes of its NVML UUID. `values` holds every field of the groups identity,
    health and use by its schema name, but for `polls` and `events`, which are the window's to
    count. A gauge's or counter's sample is a plain integer.
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
    is among them with its fields GPU_LOST. `host` holds driver_version, nvml_version and
    gpu_count. When the driver does not answer, `gpus` is empty and `driver` says why.
    """

    at_utc_ms: int
    at_boottime_ms: int
    driver: DriverState
    host: Mapping[str, Sample]
    abandoned_processes: int
    gpus: tuple[GpuReading, ...]
    events: tuple[Happening, ...]


class GpuSource(Protocol):
    """The seam behind which a driver, a trace or a simulation stands."""

    @property
    def kind(self) -> Source:
        """What is written into the signed header."""
        ...

    async def poll(self, timeout_ms: int) -> Poll:
        """Waits at most `timeout_ms` for events, returns at once when one comes, polls either way.

        Never raises for what the driver does, and never takes much longer than it may wait.
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
