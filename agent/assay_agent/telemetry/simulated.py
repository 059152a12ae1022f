"""A simulated host as a source: simulation.py against this machine's clock."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.reading import Depth, GpuReading, Happening, Poll, Sample
from assay_agent.telemetry.scenario import Scenario
from assay_agent.telemetry.simulation import (
    gpus_of,
    hangs,
    is_hidden,
    occurrences_of,
    read,
    tenancy,
)
from assay_core.header import Source
from assay_core.leaves import DriverState, Reason, Tenancy

_VERSION: Final = "simulated"
_HOST_NAMES: Final = ("driver_version", "nvml_version", "gpu_count")
_PLATFORM: Final[Mapping[str, Sample]] = MappingProxyType(
    {
        "kernel_module_version": _VERSION,
        "library_path": Reason.NOT_SUPPORTED,
        "library_inode": Reason.NOT_SUPPORTED,
        "library_sha256": Reason.NOT_SUPPORTED,
        "library_package": Reason.NOT_SUPPORTED,
        "cc_feature": 0,
        "cc_environment": 0,
        "cc_devtools": 0,
        "cc_multi_gpu_mode": 0,
        "cc_gpus_ready": 0,
        "cuda_driver_version": 13_010,
        "kernel_log": "none",
    }
)
"""Made up, but for the CUDA version: the captures' driver said 13.1."""


class SimulatedSource:
    """A scenario, played from the first poll on; see GpuSource."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._gpus = gpus_of(scenario)
        self._occurrences = occurrences_of(scenario)
        self._told = 0
        self._start_utc_ms: int | None = None
        self._start_s = 0.0
        self._paused = asyncio.Event()
        self._resumed = asyncio.Event()
        self._resumed.set()

    @property
    def kind(self) -> Source:
        """Readings are made up, and the signed header says so."""
        return Source.SIMULATED

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        """See GpuSource."""
        if self._start_utc_ms is None:
            self._start_utc_ms, self._start_s = _utc_ms(), self._now_s()
            depth = Depth.DAY
        if self._paused.is_set():
            await _within(self._resumed, timeout_ms)
        else:
            await _within(self._paused, min(timeout_ms, self._next_ms()))
        after_ms = self._after_ms()
        if self._paused.is_set():
            return self._nothing(DriverState.PAUSED, Reason.IN_MAINTENANCE, after_ms)
        if hangs(self._scenario, after_ms):
            return self._nothing(DriverState.UNRESPONSIVE, Reason.DRIVER_UNRESPONSIVE, after_ms)
        events = self._events(after_ms)
        depth = max(depth, Depth.WINDOW if events else Depth.TICK)
        return self._poll(
            DriverState.RUNNING, self._readings(after_ms, depth), after_ms, depth, events
        )

    async def pause(self) -> None:
        """See GpuSource."""
        self._resumed.clear()
        self._paused.set()

    async def resume(self) -> None:
        """See GpuSource."""
        self._paused.clear()
        self._resumed.set()

    async def close(self) -> None:
        """See GpuSource: there is nothing to let go of."""

    def _next_ms(self) -> int:
        """Milliseconds until something happens."""
        if self._told == len(self._occurrences):
            return 10**12
        return max(0, self._occurrences[self._told].after_ms - self._after_ms())

    def _readings(self, after_ms: int, depth: Depth) -> tuple[GpuReading, ...]:
        return tuple(read(self._scenario, gpu, after_ms, depth) for gpu in self._gpus)

    def _nothing(self, driver: DriverState, why: Reason, after_ms: int) -> Poll:
        poll = self._poll(driver, (), after_ms, Depth.TICK, self._events(after_ms))
        return dataclasses.replace(poll, host=dict.fromkeys(_HOST_NAMES, why))

    def _poll(
        self,
        driver: DriverState,
        readings: tuple[GpuReading, ...],
        after_ms: int,
        depth: Depth,
        events: tuple[Happening, ...],
    ) -> Poll:
        there = sum(not isinstance(one.values["power_mw"], Reason) for one in readings)
        host: dict[str, Sample] = dict(zip(_HOST_NAMES, (_VERSION, _VERSION, there), strict=True))
        if depth >= Depth.WINDOW:
            host |= self._bus(after_ms)
        if depth >= Depth.DAY:
            host |= _PLATFORM
        return Poll(
            at_utc_ms=_utc_ms(),
            at_boottime_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            driver=driver,
            host=host,
            abandoned_processes=0,
            gpus=readings,
            events=events,
        )

    def _bus(self, after_ms: int) -> dict[str, Sample]:
        """What the PCI bus would show."""
        gone = sum(tenancy(self._scenario, gpu, after_ms) is Tenancy.GONE for gpu in self._gpus)
        hidden = tuple(
            str(gpu.identity["pci_bus_id"])
            for gpu in self._gpus
            if is_hidden(self._scenario, gpu, after_ms)
        )
        return {
            "pci_gpu_count": len(self._gpus) - gone,
            "hidden_gpus": hidden,
            "phantom_gpus": (),
        }

    def _events(self, after_ms: int) -> tuple[Happening, ...]:
        """What happened since the last poll; each is told once."""
        start_ms = self._start_utc_ms or 0
        events = []
        while (
            self._told < len(self._occurrences)
            and self._occurrences[self._told].after_ms <= after_ms
        ):
            one = self._occurrences[self._told]
            events.append(Happening(one.subject, one.kind, one.code, start_ms + one.after_ms))
            self._told += 1
        return tuple(events)

    def _after_ms(self) -> int:
        return int((self._now_s() - self._start_s) * 1_000)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


async def _within(event: asyncio.Event, timeout_ms: int) -> None:
    try:
        async with asyncio.timeout(timeout_ms / 1_000):
            await event.wait()
    except TimeoutError:
        return


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000
