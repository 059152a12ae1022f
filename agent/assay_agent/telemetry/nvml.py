"""The real driver as a source: a driver process that may hang, and an agent that may not.

Rules:

1. Silence is measured between driver calls. A process silent for `timeout_ms` makes the driver
   unresponsive; one silent for three times that is left alone, counted, and replaced.
2. A process is never killed. One that comes back from its call finds its input closed, and ends.
3. No more than ABANDONED_MAX are left behind: a driver that hangs every caller is not given more.
4. Evidence is asked of another process (attestor.py): no poll waits for it, or is lost with it.
5. A GPU is known by its UUID for as long as this source lives: gone, it stays, as GPU_LOST.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from assay_agent.telemetry.attestor import END_TIMEOUT_S, Attestation, Attestor
from assay_agent.telemetry.calls import UNLOADED, reason_of
from assay_agent.telemetry.fields import names
from assay_agent.telemetry.nvml_process import DriverProcess
from assay_agent.telemetry.reading import Depth, GpuReading, Happening, Poll, Sample
from assay_agent.telemetry.table import HOST_NAMES, PLATFORM_NAMES
from assay_agent.telemetry.waiting import Signal
from assay_agent.telemetry.wire import Happened, Look, host_sample, values
from assay_core.header import Source
from assay_core.leaves import HOST, SUBJECT_BYTES, DriverState, EventKind, Reason

ABANDONED_MAX: Final = 4
MISSED_BEATS_MAX: Final = 3
KNOWN_MAX: Final = 64
"""GPUs remembered; the longest gone is forgotten first. A host holds 16."""
PENDING_MAX: Final = 1024
"""Most events kept between two polls: a storm says nothing new after that."""
RESTART_MS: Final = (1_000, 60_000)
"""How soon a driver process is started again after one ended or hung: at first, and at most."""


class NvmlSource:
    """GPUs through NVIDIA's driver library; see GpuSource. Belongs to one event loop."""

    def __init__(
        self, timeout_ms: int, restart_ms: tuple[int, int] = RESTART_MS, host_root: str = "/"
    ) -> None:
        self._timeout_s = timeout_ms / 1000
        self._restart_s = (restart_ms[0] / 1000, restart_ms[1] / 1000)
        self._restarts = 0
        self._start_at_s = 0.0
        self._process: DriverProcess | None = None
        self._attestor = Attestor(self._timeout_s, host_root)
        self._abandoned: list[DriverProcess] = []
        self._ending: list[DriverProcess] = []
        self._generation = 0
        self._host_root = host_root
        self._known: dict[bytes, str | None] = {}
        self._order: tuple[bytes, ...] = ()
        self._lost: dict[bytes, None] = {}
        self._pending: list[Happening] = []
        self._wake = Signal()
        self._prompted = False
        self._paused = False
        self._closed = asyncio.Event()
        self._closed.set()
        self._hung = False
        self._gone: Reason | None = None
        self._unloaded = False
        self._ran = False

    @property
    def kind(self) -> Source:
        """Readings come from a driver library."""
        return Source.NVML

    @property
    def abandoned(self) -> tuple[int, ...]:
        """Process ids of those left behind in a call."""
        return (*(process.pid for process in self._abandoned), *self._attestor.abandoned)

    @property
    def process(self) -> int | None:
        """Process id of the one in use."""
        return self._process.pid if self._process else None

    @property
    def bus_ids(self) -> Mapping[bytes, str]:
        """The PCI address, as NVML writes it, at which each known GPU was last seen."""
        return {subject: bus_id for subject, bus_id in self._known.items() if bus_id is not None}

    def happen(self, happening: Happening) -> None:
        """Adds what was learnt of beside the driver; the wait for events is over."""
        if len(self._pending) < PENDING_MAX:
            self._pending.append(happening)
        self._wake.send()

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        """See GpuSource."""
        until_s = self._now_s() + timeout_ms / 1000
        self._reap()
        if not await self._resumed(until_s):
            return await self._in_maintenance()
        process = self._process
        if process is not None and process.asked and not process.ended:
            await process.wait(until_s)  # the question of an earlier poll is still out
            if process.asked and not process.ended and not self._paused:
                return self._silent(process)
        else:
            await self._wait_for_events(until_s)
        if self._paused:
            return await self._in_maintenance()
        process = self._started()
        if process is None:
            return self._without_process()
        if self._pending or self._prompted:
            depth = max(depth, Depth.WINDOW)
        self._prompted = False
        process.ask_look(self._generation, depth)
        return await self._answer(process, depth)

    async def attest(self, nonce: bytes) -> Attestation:
        """What the GPUs answered when they were asked for evidence; takes bounded time."""
        return await self._attestor.attest(nonce)

    async def pause(self) -> None:
        """See GpuSource."""
        self._paused = True
        self._wake.send()
        self._closed.clear()
        try:
            await self._let_go()
        finally:
            self._closed.set()

    async def resume(self) -> None:
        """See GpuSource."""
        self._paused = False
        self._attestor.resume()
        self._start_at_s = 0.0
        self._wake.send()

    async def close(self) -> None:
        """See GpuSource."""
        self._paused = True
        self._wake.send()
        await self._let_go()
        self._reap()

    async def _in_maintenance(self) -> Poll:
        """Not before the handles are closed, or a process that keeps them is given up and counted."""
        await self._closed.wait()
        return self._nothing(DriverState.PAUSED, Reason.IN_MAINTENANCE)

    async def _let_go(self) -> None:
        process, self._process = self._process, None
        self._generation = 0
        if process is not None:
            process.ask_close()
            if not await process.wait_end(min(self._timeout_s, END_TIMEOUT_S)):
                self._abandon(process)
        await self._attestor.pause()

    async def _answer(self, process: DriverProcess, depth: Depth) -> Poll:
        """Waits while the process shows that it gets on, but not for ever."""
        limit_s = self._now_s() + MISSED_BEATS_MAX * self._timeout_s
        while process.asked and not process.ended and self._now_s() < limit_s:
            if self._now_s() - process.spoke_s >= self._timeout_s:
                break
            await process.wait(min(process.spoke_s + self._timeout_s, limit_s))
        if self._paused:
            return await self._in_maintenance()
        if process.look is not None:
            return self._seen(process.look, depth)
        return self._silent(process)

    def _silent(self, process: DriverProcess) -> Poll:
        """No answer: the process has died, or is stuck, perhaps for long enough to leave it."""
        if process.ended:
            self._drop(process)
            return self._unresponsive(Reason.DRIVER_ERROR)
        if self._now_s() - process.spoke_s >= MISSED_BEATS_MAX * self._timeout_s:
            self._process = None
            self._generation = 0
            self._abandon(process)
        return self._unresponsive(Reason.DRIVER_UNRESPONSIVE)

    def _without_process(self) -> Poll:
        if self._gone is not None:
            return self._nothing(DriverState.ABSENT, self._gone)
        return self._unresponsive(Reason.DRIVER_UNRESPONSIVE)

    def _unresponsive(self, reason: Reason) -> Poll:
        if not self._hung:
            self._hung = True
            self._happen(HOST, EventKind.DRIVER_UNRESPONSIVE)
        return self._nothing(DriverState.UNRESPONSIVE, reason)

    def _seen(self, look: Look, depth: Depth) -> Poll:
        if self._hung:
            self._hung = False
            self._happen(HOST, EventKind.DRIVER_RECOVERED)
        if look.final and self._process is not None:
            self._drop(self._process)
        if look.asleep:
            return self._all(depth, Reason.ASLEEP)
        if look.code != 0:
            self._gone = reason_of(look.code)
            self._unloaded = self._unloaded or look.code in UNLOADED
            if self._gone is Reason.DRIVER_ERROR and self._known:
                return self._all(depth, self._gone)
            return self._nothing(DriverState.ABSENT, self._gone)
        reloaded = look.reloaded or (self._unloaded and self._ran)
        self._gone, self._unloaded, self._ran, self._restarts = None, False, True, 0
        if reloaded:
            self._happen(HOST, EventKind.DRIVER_RELOADED)
        gpus = self._gpus(look)
        host_names = HOST_NAMES if look.depth < Depth.DAY else HOST_NAMES + PLATFORM_NAMES
        return self._poll(
            DriverState.RELOADED if reloaded else DriverState.RUNNING,
            dict(zip(host_names, map(host_sample, look.host), strict=True)),
            gpus,
        )

    def _all(self, depth: Depth, reason: Reason) -> Poll:
        """A driver that is there and was not read, for one reason: nothing is lost by that."""
        readings = tuple(
            GpuReading(subject, dict.fromkeys(names(depth), reason)) for subject in self._known
        )
        return self._poll(DriverState.RUNNING, dict.fromkeys(HOST_NAMES, reason), readings)

    def _gpus(self, look: Look) -> tuple[GpuReading, ...]:
        if look.uuids is not None:
            self._order = tuple(bytes.fromhex(uuid) for uuid in look.uuids)
            self._generation = look.generation
        named = names(Depth(look.depth))
        why = next((Reason(r) for r in look.unreadable if r != Reason.GPU_LOST), Reason.GPU_LOST)
        seen: dict[bytes, Mapping[str, Sample]] = {}
        for subject, reading in zip(self._order, look.gpus, strict=True):
            if isinstance(reading, tuple):
                seen[subject] = values(named, reading)
            elif reading != Reason.GPU_LOST:
                seen[subject] = dict.fromkeys(named, Reason(reading))
        for subject, read in seen.items():
            bus_id = read.get("pci_bus_id")
            if isinstance(bus_id, str) or subject not in self._known:
                self._known[subject] = bus_id if isinstance(bus_id, str) else None
            if subject in self._lost:
                del self._lost[subject]
                self._happen(subject, EventKind.GPU_RETURNED)
        for place, kind, code in look.changes:
            self._happen(self._order[place], EventKind(kind), code)
        readings = []
        for subject in tuple(self._known):
            if subject not in seen:
                self._miss(subject, why)
            read = seen.get(subject) or dict.fromkeys(named, why)
            readings.append(GpuReading(subject, read))
        return tuple(readings)

    def _miss(self, subject: bytes, why: Reason) -> None:
        """A known GPU is gone, unless one that may be it is there and only cannot be read."""
        if why is not Reason.GPU_LOST or subject in self._lost:
            return
        self._lost[subject] = None
        self._happen(subject, EventKind.GPU_LOST)
        if len(self._known) > KNOWN_MAX:
            oldest = next(iter(self._lost))
            del self._lost[oldest], self._known[oldest]

    def _started(self) -> DriverProcess | None:
        """The process in use, started if need be and if it may be."""
        if self._process is not None and self._process.ended:
            self._drop(self._process)
        if self._process is None:
            if self._now_s() < self._start_at_s or len(self._abandoned) >= ABANDONED_MAX:
                return None
            self._put_off_start()
            self._process = DriverProcess(self._heard, self._host_root)
        return self._process

    def _drop(self, process: DriverProcess) -> None:
        """It has ended by itself, or is ending."""
        self._process = None
        self._generation = 0
        process.forget()
        self._ending.append(process)

    def _abandon(self, process: DriverProcess) -> None:
        process.forget()
        self._abandoned.append(process)

    def _put_off_start(self) -> None:
        first_s, most_s = self._restart_s
        self._start_at_s = self._now_s() + min(most_s, first_s * 2 ** min(self._restarts, 16))
        self._restarts += 1

    def _reap(self) -> None:
        self._abandoned = [process for process in self._abandoned if not process.reap()]
        self._ending = [process for process in self._ending if not process.reap()]
        self._attestor.reap()

    async def _wait_for_events(self, until_s: float) -> None:
        while not (self._pending or self._prompted or self._paused):
            if not await self._wake.wait(until_s):
                return

    async def _resumed(self, until_s: float) -> bool:
        """Whether it is not paused, or not any more by `until_s`."""
        while self._paused:
            if not await self._wake.wait(until_s):
                return False
        return True

    def _heard(self, happened: Happened) -> None:
        try:
            subject = bytes.fromhex(happened.subject)
            kind = EventKind(happened.kind) if happened.kind else None
        except ValueError:
            return
        if len(subject) not in (0, SUBJECT_BYTES) or len(self._pending) >= PENDING_MAX:
            return
        if kind is None:
            self._prompted = True
        else:
            self._happen(subject, kind, happened.code, happened.at_ms)
        self._wake.send()

    def _happen(
        self, subject: bytes, kind: EventKind, code: int = 0, at_ms: int | None = None
    ) -> None:
        at_ms = _utc_ms() if at_ms is None else at_ms
        self._pending.append(Happening(subject, kind, code, at_ms))

    def _nothing(self, driver: DriverState, reason: Reason) -> Poll:
        return self._poll(driver, dict.fromkeys(HOST_NAMES, reason), ())

    def _poll(
        self, driver: DriverState, host: dict[str, Sample], gpus: tuple[GpuReading, ...]
    ) -> Poll:
        events, self._pending = tuple(self._pending), []
        return Poll(
            at_utc_ms=_utc_ms(),
            at_boottime_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            driver=driver,
            host=host,
            abandoned_processes=len(self.abandoned),
            gpus=gpus,
            events=events,
        )

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000
