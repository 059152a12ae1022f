"""A simulated host as a source: simulation.py against this machine's clock."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from assay_agent.telemetry.reading import Happening, Poll, Sample
from assay_agent.telemetry.scenario import Scenario
from assay_agent.telemetry.simulation import gpus_of, hangs, occurrences_of, read
from assay_core.header import Source
from assay_core.leaves import DriverState, Reason

_VERSION: Final = "simulated"
_HOST_NAMES: Final = ("driver_version", "nvml_version", "gpu_count")


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

    async def poll(self, timeout_ms: int) -> Poll:
        """See GpuSource."""
        if self._start_utc_ms is None:
            self._start_utc_ms, self._start_s = _utc_ms(), self._now_s()
        if self._paused.is_set():
            await _within(self._resumed, timeout_ms)
        else:
            await _within(self._paused, min(timeout_ms, self._next_ms()))
        after_ms = self._after_ms()
        if self._paused.is_set():
            return self._poll(DriverState.PAUSED, Reason.IN_MAINTENANCE, after_ms)
        if hangs(self._scenario, after_ms):
            return self._poll(DriverState.UNRESPONSIVE, Reason.DRIVER_UNRESPONSIVE, after_ms)
        return self._poll(DriverState.RUNNING, None, after_ms)

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

    def _poll(self, driver: DriverState, why: Reason | None, after_ms: int) -> Poll:
        """One poll: with readings, or why there are none."""
        readings = (
            tuple(read(self._scenario, gpu, after_ms) for gpu in self._gpus) if why is None else ()
        )
        there = sum(not isinstance(reading.values["name"], Reason) for reading in readings)
        known: tuple[Sample, ...] = (_VERSION, _VERSION, there)
        return Poll(
            at_utc_ms=_utc_ms(),
            at_boottime_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            driver=driver,
            host=dict(zip(_HOST_NAMES, known if why is None else (why,) * 3, strict=True)),
            abandoned_processes=0,
            gpus=readings,
            events=self._events(after_ms),
        )

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
