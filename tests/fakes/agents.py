"""An enrolled agent's parts, and a source that reads what a test tells it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from assay_agent import enroll, spool_file
from assay_agent.config import AgentConfig, MetricsConfig, TpmConfig
from assay_agent.host import Clock
from assay_agent.keys import KeyStore
from assay_agent.metrics import AgentMetrics, UplinkState
from assay_agent.service import Service
from assay_agent.spool import Chain, Spool
from assay_agent.telemetry.reading import Depth, Happening, Poll
from assay_agent.uplink.uplink import Pace, Uplink
from assay_core.header import Source
from assay_core.leaves import DriverState, EventKind, Reason
from tests.fakes.readings import reading, uuid
from tests.fakes.spools import append
from tests.fakes.valuer import FakeValuer, now_ms

QUICK = Pace(least_s=0.01, most_s=0.05, person_s=100_000.0)


async def until(holds: Callable[[], bool]) -> None:
    """Waits until it holds; fails after a minute, which no test comes near."""
    for _ in range(6_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to hold")


class FakeAgent:
    """Keys, spool and uplink of a host that is enrolled with `valuer`."""

    def __init__(
        self,
        folder: Path,
        *,
        bytes_max: int = 2**30,
        proxy: str | None = None,
        tpm: TpmConfig | None = None,
    ) -> None:
        self.keys = KeyStore(folder, tpm=tpm)
        self.bytes_max = bytes_max
        self.proxy = proxy
        self.metrics = AgentMetrics(Source.SIMULATED)

    async def enrol(self, valuer: FakeValuer) -> None:
        await enroll.enroll(self.keys, enroll.parse_token(valuer.token), None)
        self.open()

    def open(self) -> None:
        host = self.keys.host()
        self.spool = Spool(
            self.keys.state_dir / spool_file.FILE,
            chain=Chain(host.host_id, host.incarnation),
            signer=self.keys.signer(),
            boot_id=bytes(16),
            bytes_max=self.bytes_max,
            acknowledged_keep_ms=86_400_000,
            now_ms=now_ms(),
            previous=self.keys.previous_signer(),
        )
        self.uplink = Uplink(
            self.keys, self.spool, self.metrics, proxy=self.proxy, clock=now_ms, pace=QUICK
        )

    def append(self, count: int = 1) -> None:
        append(self.spool, count)
        self.uplink.wake()

    def state(self) -> str:
        """The uplink's state as metrics show it."""
        shown = [
            state.value for state in UplinkState if self.metrics.uplink.labels(state.value).value
        ]
        return " ".join(shown)

    def service(self, source: FakeSource, **config) -> Service:
        settings = AgentConfig(metrics=MetricsConfig(listen=None), **config)
        return Service(
            settings, self.keys, source, self.spool, self.metrics, clock=Clock(), pace=QUICK
        )

    @asynccontextmanager
    async def running(self):
        task = asyncio.ensure_future(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            self.spool.close()


class FakeSource:
    """Two GPUs that are always well; `happen` wakes a poll, as a driver's event does."""

    kind = Source.SIMULATED

    def __init__(self) -> None:
        self._events: list[Happening] = []
        self._wake = asyncio.Event()
        self._paused = False
        self._hangs = False
        self.hanging = False
        self.polls = 0
        self.depths: list[Depth] = []
        self.pauses = 0
        self.closed = False

    def happen(self, kind: EventKind, code: int, number: int = 1) -> None:
        self._events.append(Happening(uuid(number), kind, code, now_ms()))
        self._wake.set()

    def hang(self) -> None:
        """No poll comes back any more, until a pause lets go of the driver."""
        self._hangs = True
        self._wake.set()

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        while self._hangs and not self._paused:
            self.hanging = True
            self._wake.clear()
            await self._wake.wait()
        if not self._events:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout_ms / 1_000)
        self._wake.clear()
        events, self._events = tuple(self._events), []
        self.polls += 1
        self.depths.append(depth)
        names = ("driver_version", "nvml_version", "gpu_count")
        return Poll(
            at_utc_ms=now_ms(),
            at_boottime_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            driver=DriverState.PAUSED if self._paused else DriverState.RUNNING,
            host=dict.fromkeys(names, Reason.IN_MAINTENANCE)
            if self._paused
            else dict(zip(names, ("fake", "fake", 2), strict=True)),
            abandoned_processes=0,
            gpus=() if self._paused else (reading(1), reading(2)),
            events=events,
        )

    async def pause(self) -> None:
        self._paused = True
        self.pauses += 1
        self._wake.set()

    async def resume(self) -> None:
        self._paused = False
        self._wake.set()

    async def close(self) -> None:
        self.closed = True
