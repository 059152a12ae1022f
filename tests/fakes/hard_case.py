"""A whole agent over the test driver library: what the windows say that its valuer took.

The real Service, spool, seal and uplink, the real Surroundings over the real NvmlSource and its
child process, NVIDIA's unmodified binding; a driver that a scenario scripts, a bus made of files,
and a valuer that verifies each window before it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from assay_agent import control
from assay_agent.config import AgentConfig, MetricsConfig
from assay_agent.host import Clock
from assay_agent.service import Service
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import Depth, GpuSource, Poll
from assay_agent.telemetry.surroundings import Surroundings
from assay_core import codec
from assay_core.header import Header
from assay_core.leaves import (
    HOST,
    Content,
    DriverState,
    Event,
    EventKind,
    Group,
    Incident,
    Reason,
    Value,
)
from tests.fakes.agents import QUICK, FakeAgent
from tests.fakes.machine import FakeMachine
from tests.fakes.shim import ShimScenario
from tests.fakes.valuer import FakeValuer

POLL_MS = 100
WINDOW_MS = 1_000
TIMEOUT_MS = 3_000
"""More than a process needs to end in good order, on a busy machine too."""
HANG_TIMEOUT_MS = 500
"""For what is to be found stuck."""
RESTART_MS = (50, 200)


@dataclass(frozen=True)
class Window:
    """One sealed window, verified and decoded."""

    header: Header
    contents: Mapping[tuple[bytes, Group], Content]

    @property
    def host(self) -> Content:
        return self.contents[HOST, Group.HOST]

    @property
    def driver(self) -> DriverState:
        return DriverState(int(self.value(HOST, Group.HOST, "driver_state")))  # type: ignore[arg-type]

    @property
    def subjects(self) -> frozenset[bytes]:
        return frozenset(subject for subject, _ in self.contents if subject != HOST)

    @property
    def missing(self) -> Value:
        return self.host.values["missing_gpus"]

    def value(self, subject: bytes, group: Group, name: str) -> Value:
        return self.contents[subject, group].values[name]

    def health(self, subject: bytes, name: str = "temperature_mc") -> Value:
        return self.value(subject, Group.HEALTH, name)

    def use(self, subject: bytes, name: str) -> Value:
        return self.value(subject, Group.USE, name)

    def events(self, subject: bytes = HOST) -> tuple[Event, ...]:
        group = Group.HOST if subject == HOST else Group.HEALTH
        return self.contents[subject, group].events()

    def kinds(self, subject: bytes = HOST) -> list[EventKind]:
        return [event.kind for event in self.events(subject)]

    def incidents(self, subject: bytes) -> tuple[Incident, ...]:
        return self.contents[subject, Group.HEALTH].incidents()


@dataclass
class World:
    """One host. `windows()` is all that its valuer has taken."""

    folder: Path
    shim: ShimScenario
    machine: FakeMachine
    valuer: FakeValuer
    agent: FakeAgent
    clock: Clock = field(default_factory=Clock)
    wrap: Callable[[GpuSource], GpuSource] = lambda source: source
    kernel_log: str = "off"
    timeout_ms: int = TIMEOUT_MS
    _decoded: list[Window] = field(default_factory=list)

    def windows(self) -> list[Window]:
        for kept in self.valuer.chain[len(self._decoded) :]:
            assert kept.sealed is not None
            leaves = [codec.decode_leaf(data).content for data in kept.sealed.leaves]
            contents = {(content.subject, content.group): content for content in leaves}
            header = codec.decode_header(kept.sealed.envelope.payload)
            self._decoded.append(Window(header, contents))
        return self._decoded

    def last(self) -> Window:
        return self.windows()[-1]

    async def until(
        self, holds: Callable[[Window], bool], *, after: int = 0, timeout_s: float = 40
    ) -> Window:
        """The first window from number `after` on of which something holds."""
        async with asyncio.timeout(timeout_s):
            while True:
                for window in self.windows()[after:]:
                    if holds(window):
                        return window
                await asyncio.sleep(0.02)

    async def settled(self, holds: Callable[[Window], bool]) -> Window:
        """The first window that begins from now on, and of which something holds."""
        return await self.until(holds, after=len(self.windows()))

    async def gpus(self, count: int = 8) -> list[bytes]:
        """The GPUs, in the driver's order, once a window has all of them."""
        window = await self.until(
            lambda one: sum(group is Group.IDENTITY for _, group in one.contents) == count
        )
        return sorted(
            window.subjects,
            key=lambda subject: int(window.value(subject, Group.IDENTITY, "index")),  # type: ignore[arg-type]
        )

    async def ask(self, pause_ms: int) -> str:
        """`assay-agent pause`, or with 0 the end of it; what it answers."""
        request = control.Request(pause_ms=pause_ms)
        reply = await asyncio.to_thread(control.ask, self.agent.keys.state_dir, request)
        assert reply.ok, reply.message
        return reply.message

    @asynccontextmanager
    async def agent_running(self) -> AsyncIterator[NvmlSource]:
        """One life of the agent."""
        driver = NvmlSource(self.timeout_ms, RESTART_MS, host_root=str(self.machine.root))
        source = Surroundings(
            driver,
            utc_ms=self.clock.utc_ms,
            root=self.machine.root,
            devices=self.machine.root / "dev",
            kernel_log=self.kernel_log,  # type: ignore[arg-type]
            state_dir=self.agent.keys.state_dir,
        )
        config = AgentConfig(
            metrics=MetricsConfig(listen=None), window_ms=WINDOW_MS, poll_ms=POLL_MS
        )
        service = Service(
            config,
            self.agent.keys,
            self.wrap(source),
            self.agent.spool,
            self.agent.metrics,
            clock=self.clock,
            pace=QUICK,
        )
        task = asyncio.ensure_future(service.run())
        try:
            yield driver
        finally:
            service.stop()
            await task
            self.agent.spool.close()


Story = Callable[[World], Awaitable[None]]


def live(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    story: Story,
    *,
    gpus: int = 8,
    env: Callable[[ShimScenario], dict[str, str]] | None = None,
) -> list[Window]:
    """Lets a story happen to a host, and checks of every window what holds of all."""
    shim = ShimScenario(tmp_path, gpus=gpus)
    for key, value in (env or (lambda one: one.env({})))(shim).items():
        monkeypatch.setenv(key, value)
    machine = FakeMachine(tmp_path / "root").gpus(gpus)
    for slot in range(gpus):
        machine.device_file(slot, slot)
    windows: list[Window] = []

    async def whole() -> None:
        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder) as valuer:
            agent = FakeAgent(tmp_path / "agent")
            await agent.enrol(valuer)
            world = World(tmp_path, shim, machine, valuer, agent)
            try:
                await story(world)
            finally:
                # Nothing that hangs is left behind the test.
                with shim.batch():
                    shim.host.release()
                    for slot in range(gpus):
                        shim.gpu(slot).release()
            windows.extend(world.windows())

    asyncio.run(whole())
    check(windows)
    return windows


def check(windows: list[Window]) -> None:
    """What holds of every chain of windows, whatever happened to the host."""
    assert [window.header.sequence for window in windows] == list(range(len(windows)))
    ever: set[bytes] = set()
    identity: dict[bytes, tuple[Value, ...]] = {}
    lifetime: dict[bytes, int] = {}
    end_ms = 0
    for window in windows:
        period = window.header.period
        assert end_ms <= period.begin_boottime_ms <= period.end_boottime_ms
        end_ms = period.end_boottime_ms
        assert ever <= window.subjects, "a GPU once seen was dropped"
        ever |= window.subjects
        if isinstance(window.missing, tuple):
            assert set(window.missing) <= ever  # type: ignore[arg-type]
        for subject in window.subjects:
            reached = window.health(subject, "polls") != 0
            heat = window.health(subject)
            assert reached or isinstance(heat, Reason), "a value of a GPU that was not reached"
            assert not isinstance(heat, Reason) or heat is not Reason.NOT_SAMPLED
            energy = window.use(subject, "energy_lifetime_mj")
            if not isinstance(energy, Reason):
                assert isinstance(energy, int)
                assert energy >= lifetime.get(subject, 0), "a lifetime ran backwards"
                lifetime[subject] = energy
            if (subject, Group.IDENTITY) in window.contents:
                who = tuple(
                    window.value(subject, Group.IDENTITY, name) for name in ("serial", "pdi")
                )
                if not any(isinstance(part, Reason) for part in who):
                    assert identity.setdefault(subject, who) == who, "a GPU became another"


class Stepping:
    """A source on a host whose wall clock is off by `offset_ms`, which a test changes."""

    def __init__(self, inner: GpuSource, clock: SteppedClock) -> None:
        self._inner = inner
        self._clock = clock
        self.kind = inner.kind

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        poll = await self._inner.poll(timeout_ms, depth)
        return Poll(
            poll.at_utc_ms + self._clock.offset_ms,
            poll.at_boottime_ms,
            poll.driver,
            poll.host,
            poll.abandoned_processes,
            poll.gpus,
            poll.events,
        )

    async def pause(self) -> None:
        await self._inner.pause()

    async def resume(self) -> None:
        await self._inner.resume()

    async def close(self) -> None:
        await self._inner.close()


class SteppedClock(Clock):
    """The host's clocks, with a wall clock that somebody sets."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def utc_ms(self) -> int:
        return super().utc_ms() + self.offset_ms
