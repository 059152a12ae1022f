"""What is around the driver: who has a GPU, what the driver does not show, and Xids told once."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from assay_agent.machine.kernel_log import FILE
from assay_agent.telemetry import losses, xids
from assay_agent.telemetry.addresses import FILE as ADDRESSES
from assay_agent.telemetry.fields import names
from assay_agent.telemetry.reading import Depth, GpuReading, Happening, Poll, Sample
from assay_agent.telemetry.surroundings import Surroundings
from assay_core.header import Source
from assay_core.leaves import HOST, DriverState, EventKind, Reason, Tenancy
from tests.fakes.machine import FakeJournal, FakeKmsg, FakeMachine, shim_address

SUBJECTS = [bytes([slot]) * 16 for slot in range(8)]


class FakeDriver:
    """The inner source: GPUs that a test takes away and gives back, without a process."""

    def __init__(self, gpus: int) -> None:
        self.shown = dict.fromkeys(range(gpus))
        self.lost: set[int] = set()
        self.known = set(self.shown)
        self.state = DriverState.RUNNING
        self.pid: int | None = 1_000_000_000
        self.starts = 0
        self.paused = self.closed = self.asleep = False
        self.depths: list[Depth] = []
        self.on_start: Callable[[], None] = lambda: None
        self._pending: list[Happening] = []
        self._wake = asyncio.Event()

    kind = Source.NVML

    @property
    def process(self) -> int | None:
        return self.pid

    @property
    def bus_ids(self) -> dict[bytes, str]:
        return {SUBJECTS[slot]: f"0000{shim_address(slot).upper()}" for slot in sorted(self.known)}

    def happen(self, happening: Happening) -> None:
        self._pending.append(happening)
        self._wake.set()

    def tell(self, slot: int | None, kind: EventKind, code: int = 0, *, at_ms: int) -> None:
        subject = HOST if slot is None else SUBJECTS[slot]
        self.happen(Happening(subject, kind, code, at_ms))

    def lose(self, slot: int) -> None:
        self.lost.add(slot)
        self.tell(slot, EventKind.GPU_LOST, at_ms=now_ms())

    def restore(self, slot: int) -> None:
        self.lost.discard(slot)
        self.tell(slot, EventKind.GPU_RETURNED, at_ms=now_ms())

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:
        self.depths.append(depth)
        self._wake.clear()
        if not self._pending and timeout_ms:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    await self._wake.wait()
            except TimeoutError:
                pass
        answers = self.state in (DriverState.RUNNING, DriverState.RELOADED)
        why = Reason.DRIVER_ABSENT
        host: dict[str, Sample] = {"driver_version": "590.48.01" if answers else why}
        host["gpu_count"] = len(self.shown) if answers else why
        if self.asleep:
            host["gpu_count"] = Reason.ASLEEP
        gpus = tuple(
            GpuReading(
                SUBJECTS[slot],
                dict.fromkeys(names(depth), Reason.GPU_LOST if slot in self.lost else 50),
            )
            for slot in sorted(self.shown)
            if answers
        )
        events, self._pending = tuple(self._pending), []
        return Poll(now_ms(), 0, self.state, host, 0, gpus, events)

    async def pause(self) -> None:
        await asyncio.sleep(0)
        self.paused = True

    async def resume(self) -> None:
        self.paused = False
        self.starts += 1
        self.pid = 1_000_000_000 + self.starts
        self.on_start()

    async def close(self) -> None:
        self.closed = True


def now_ms() -> int:
    return time.time_ns() // 1_000_000


Story = Callable[[Surroundings, FakeDriver], Awaitable[None]]


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    return FakeMachine(tmp_path / "root").gpus(4)


def play(machine: FakeMachine, story: Story, *, gpus: int = 4, state: Path | None = None) -> None:
    async def whole() -> None:
        driver = FakeDriver(gpus)
        source = Surroundings(
            driver,
            utc_ms=now_ms,
            root=machine.root,
            devices=machine.root / "dev",
            state_dir=state,
            journalctl="/nonexistent/journalctl",
        )
        try:
            await story(source, driver)
        finally:
            await source.close()
            assert driver.closed

    asyncio.run(whole())


def told(poll: Poll) -> list[tuple[bytes, EventKind, int]]:
    return [(event.subject, event.kind, event.code) for event in poll.events]


def tenancies(poll: Poll) -> list[object]:
    return [gpu.values.get("tenancy") for gpu in poll.gpus]


def test_a_host_where_all_is_well(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert tenancies(poll) == [Tenancy.HOST] * 4
        assert all(type(gpu.values["tenancy"]) is int for gpu in poll.gpus)
        assert (poll.host["pci_gpu_count"], poll.host["hidden_gpus"]) == (4, ())
        assert poll.host["phantom_gpus"] == ()
        assert poll.host["kernel_module_version"] == "590.48.01"
        assert poll.host["kernel_log"] == "none"
        assert poll.host["library_path"] is Reason.NOT_SAMPLED  # no such process
        assert told(poll) == []
        poll = await source.poll(0)
        assert tenancies(poll) == [None] * 4  # not looked at, not told
        assert "pci_gpu_count" not in poll.host
        assert "kernel_log" not in poll.host
        assert tenancies(await source.poll(0, Depth.WINDOW)) == [Tenancy.HOST] * 4
        assert driver.depths == [Depth.DAY, Depth.TICK, Depth.WINDOW]

    play(machine, story)


def test_a_gpu_that_a_guest_has_was_never_lost(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(2, "vfio-pci")
        driver.lose(2)
        for depth in (Depth.TICK, Depth.TICK, Depth.WINDOW):
            poll = await source.poll(0, depth)
            assert told(poll) == []
            values = dict(poll.gpus[2].values)
            assert values.pop("tenancy") == Tenancy.PASSED_THROUGH
            assert set(values.values()) == {Reason.PASSED_THROUGH}
            assert Reason.PASSED_THROUGH not in poll.gpus[1].values.values()
        machine.bind(2, "nvidia")
        driver.restore(2)
        poll = await source.poll(0)
        assert told(poll) == []
        assert poll.gpus[2].values["tenancy"] == Tenancy.HOST

    play(machine, story)


def test_a_gpu_that_a_guest_had_before_the_agent_came(machine: FakeMachine, tmp_path: Path) -> None:
    """NVML does not name it: it is known by the place where an earlier run saw it."""

    async def before(source: Surroundings, driver: FakeDriver) -> None:
        assert len((await source.poll(0, Depth.DAY)).gpus) == 4

    async def after(source: Surroundings, driver: FakeDriver) -> None:
        del driver.shown[2]
        driver.known = {0, 1, 3}
        for depth in (Depth.DAY, Depth.TICK):
            poll = await source.poll(0, depth)
            assert (told(poll), len(poll.gpus)) == ([], 4)
            values = dict(poll.gpus[-1].values)
            assert poll.gpus[-1].subject == SUBJECTS[2]
            assert values.pop("tenancy") == Tenancy.PASSED_THROUGH
            assert values == dict.fromkeys(names(depth), Reason.PASSED_THROUGH)
        machine.remove(2)
        assert len((await source.poll(0)).gpus) == 3

    play(machine, before, state=tmp_path)
    assert (tmp_path / ADDRESSES).stat().st_mode & 0o777 == 0o600
    machine.bind(2, "vfio-pci")
    play(machine, after, state=tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"zz": "0000:18:00.0"}', '{"00": "x"}', "\x00"])
def test_places_that_cannot_be_read_are_forgotten(
    machine: FakeMachine, tmp_path: Path, text: str
) -> None:
    (tmp_path / ADDRESSES).write_text(text)

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        assert len((await source.poll(0, Depth.DAY)).gpus) == 4

    play(machine, story, state=tmp_path)
    assert len(json.loads((tmp_path / ADDRESSES).read_text())) == 4


def test_a_gpu_that_a_guest_had_and_the_bus_lost(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(2, "vfio-pci")
        driver.lose(2)
        assert told(await source.poll(0)) == []
        machine.remove(2)
        poll = await source.poll(0)
        assert told(poll) == [(SUBJECTS[2], EventKind.GPU_LOST, 0)]
        assert poll.gpus[2].values["tenancy"] == Tenancy.GONE
        assert set(poll.gpus[2].values.values()) == {Reason.GPU_LOST, Tenancy.GONE}
        assert told(await source.poll(0)) == []

    play(machine, story)


def test_a_gpu_that_fell_off_is_lost_at_once(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        driver.lose(1)  # still on the bus, and the driver's
        poll = await source.poll(0)
        assert told(poll) == [(SUBJECTS[1], EventKind.GPU_LOST, 0)]
        assert poll.gpus[1].values["tenancy"] == Tenancy.HOST
        assert poll.host["hidden_gpus"] == ()  # lost says more
        machine.remove(3)
        driver.lose(3)
        poll = await source.poll(0)
        assert told(poll) == [(SUBJECTS[3], EventKind.GPU_LOST, 0)]
        assert poll.gpus[3].values["tenancy"] == Tenancy.GONE
        driver.restore(1)
        assert told(await source.poll(0)) == [(SUBJECTS[1], EventKind.GPU_RETURNED, 0)]

    play(machine, story)


def test_a_gpu_on_its_way_to_a_guest(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(2, "").bind(3, "")
        driver.lose(2)
        driver.lose(3)
        poll = await source.poll(0)
        assert told(poll) == []  # unbound: not yet anybody's
        assert tenancies(poll)[2:] == [Tenancy.UNBOUND] * 2
        machine.bind(2, "vfio-pci")
        monkeypatch.setattr(losses, "UNBOUND_S", 0.0)
        assert told(await source.poll(0)) == [(SUBJECTS[3], EventKind.GPU_LOST, 0)]
        assert told(await source.poll(0, Depth.WINDOW)) == []

    play(machine, story)


def test_a_gpu_that_comes_back_is_looked_for_by_a_new_process(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(2, "vfio-pci")
        driver.lose(2)
        await source.poll(0)
        machine.bind(2, "nvidia")  # the driver's old process does not see it
        driver.on_start = lambda: driver.restore(2)
        assert (told(await source.poll(0)), driver.starts) == ([], 1)
        poll = await source.poll(0)
        assert (told(poll), driver.starts) == ([], 1)
        assert Reason.GPU_LOST not in poll.gpus[2].values.values()

    play(machine, story)


def test_a_gpu_that_does_not_come_back_is_lost(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(2, "vfio-pci")
        driver.lose(2)
        await source.poll(0)
        machine.bind(2, "nvidia")
        assert (told(await source.poll(0)), driver.starts) == ([], 1)
        assert told(await source.poll(0)) == [(SUBJECTS[2], EventKind.GPU_LOST, 0)]
        for _ in range(3):
            assert told(await source.poll(0, Depth.WINDOW)) == []
        assert driver.starts == 1

    play(machine, story)


def test_a_hidden_gpu_is_the_hosts(machine: FakeMachine) -> None:
    machine.device_file(3, 3)

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        for depth in (Depth.DAY, Depth.WINDOW):
            poll = await source.poll(0, depth)
            assert poll.host["hidden_gpus"] == (shim_address(3),)
            new = depth is Depth.DAY
            assert told(poll) == ([(HOST, EventKind.GPU_HIDDEN, 0)] if new else [])
        assert driver.starts == 0  # the process was new already
        machine.bind(3, "vfio-pci")
        assert (await source.poll(0, Depth.WINDOW)).host["hidden_gpus"] == ()
        machine.bind(3, "nvidia")
        poll = await source.poll(0, Depth.WINDOW)
        assert (poll.host["hidden_gpus"], told(poll), driver.starts) == ((), [], 1)
        poll = await source.poll(0)  # not asked for: but a new process has looked
        assert poll.host["hidden_gpus"] == (shim_address(3),)
        assert told(poll) == [(HOST, EventKind.GPU_HIDDEN, 0)]

    play(machine, story, gpus=3)


def test_a_gpu_that_was_plugged_in_is_found_by_a_new_process(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        def found() -> None:
            driver.shown[3] = None
            driver.known.add(3)

        driver.on_start = found
        await source.poll(0, Depth.DAY)
        machine.add(shim_address(3)).device_file(3, 3)
        poll = await source.poll(0, Depth.WINDOW)
        assert (told(poll), poll.host["hidden_gpus"]) == ([], ())
        poll = await source.poll(0)
        assert (told(poll), len(poll.gpus), poll.host["hidden_gpus"]) == ([], 4, ())
        assert driver.starts == 1

    machine.remove(3)
    play(machine, story, gpus=3)


def test_an_operators_pause_is_not_ended_by_looking_anew(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.add(shim_address(5)).device_file(5, 5)
        await source.pause()
        await source.poll(0, Depth.WINDOW)
        assert (driver.paused, driver.starts) == (True, 0)

    play(machine, story)


def test_a_pause_that_comes_while_it_looks_anew(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.add(shim_address(5)).device_file(5, 5)
        looking = asyncio.create_task(source.poll(0, Depth.WINDOW))
        await asyncio.sleep(0)  # it now waits for the old process to let go
        await source.pause()
        await looking
        assert (driver.paused, driver.starts) == (True, 0)

    play(machine, story)


def test_gpus_that_sleep_are_not_hidden(machine: FakeMachine) -> None:
    """Nobody asked the driver which GPUs it has: that would have woken them."""

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        driver.shown, driver.known, driver.asleep = {}, set(), True
        for slot in range(4):
            machine.device_file(slot, slot)
        poll = await source.poll(0, Depth.DAY)
        assert (poll.host["pci_gpu_count"], told(poll)) == (4, [])
        assert poll.host["hidden_gpus"] is Reason.ASLEEP
        assert driver.starts == 0

    play(machine, story)


def test_a_container_that_was_given_some(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert (poll.host["pci_gpu_count"], poll.host["hidden_gpus"]) == (4, ())
        assert told(poll) == []

    play(machine, story, gpus=3)


def test_a_phantom_is_itself(machine: FakeMachine) -> None:
    machine.remove(1)

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert poll.host["phantom_gpus"] == (shim_address(1),)
        assert told(poll) == [(SUBJECTS[1], EventKind.GPU_PHANTOM, 0)]
        assert told(await source.poll(0, Depth.WINDOW)) == []
        driver.lose(1)  # shown no more: no phantom, but lost
        poll = await source.poll(0)
        assert poll.host["phantom_gpus"] == ()
        assert told(poll) == [(SUBJECTS[1], EventKind.GPU_LOST, 0)]

    play(machine, story)


def test_where_there_is_no_bus(tmp_path: Path) -> None:
    machine = FakeMachine(tmp_path / "bare")
    (machine.root / "dev/dxg").touch()

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        poll = await source.poll(0, Depth.DAY)
        for name in ("pci_gpu_count", "hidden_gpus", "phantom_gpus"):
            assert poll.host[name] is Reason.NOT_SUPPORTED
        assert tenancies(poll) == [Reason.NOT_SUPPORTED] * 4
        assert told(poll) == []

    play(machine, story)


def test_without_a_driver_the_bus_is_still_there(machine: FakeMachine) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        machine.bind(0, "vfio-pci").bind(1, "vfio-pci")
        await source.poll(0, Depth.WINDOW)
        driver.state = DriverState.ABSENT
        poll = await source.poll(0)
        assert poll.host["pci_gpu_count"] == 4
        assert poll.host["hidden_gpus"] is Reason.DRIVER_ABSENT
        # What guests have is not the driver's to lose, whether it is loaded or not.
        assert [gpu.subject for gpu in poll.gpus] == SUBJECTS[:2]
        values = dict(poll.gpus[0].values)
        assert values.pop("tenancy") == Tenancy.PASSED_THROUGH
        assert values == dict.fromkeys(names(Depth.TICK), Reason.PASSED_THROUGH)

    play(machine, story)


@pytest.fixture
def kmsg(machine: FakeMachine) -> Iterator[FakeKmsg]:
    fake = machine.kmsg()
    yield fake
    fake.close()


async def gather(source: Surroundings, count: int) -> list[tuple[bytes, EventKind, int]]:
    """The events of polls that wait for them, until so many came, and what comes just after."""
    events: list[tuple[bytes, EventKind, int]] = []
    async with asyncio.timeout(20):
        while len(events) < count:
            events += told(await source.poll(10_000))
    for _ in range(3):
        events += told(await source.poll(30))
    return events


def test_an_xid_of_the_log_ends_the_wait(machine: FakeMachine, kmsg: FakeKmsg) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert poll.host["kernel_log"] == "kmsg"
        await source.poll(1)
        asyncio.get_running_loop().call_later(0.05, lambda: kmsg.xid(2, 79))
        before_s = asyncio.get_running_loop().time()
        assert await gather(source, 1) == [(SUBJECTS[2], EventKind.XID, 79)]
        assert asyncio.get_running_loop().time() - before_s < 9

    play(machine, story)


@pytest.mark.parametrize("first", ["log", "driver"])
def test_what_both_tell_is_told_once(machine: FakeMachine, kmsg: FakeKmsg, first: str) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        await source.poll(1)
        if first == "log":
            kmsg.xid(1, 48)
            events = await gather(source, 1)
            driver.tell(1, EventKind.XID, 48, at_ms=now_ms())
        else:
            driver.tell(1, EventKind.XID, 48, at_ms=now_ms())
            events = await gather(source, 1)
            kmsg.xid(1, 48)
        kmsg.xid(2, 31)
        events += await gather(source, 1)
        assert events == [
            (SUBJECTS[1], EventKind.XID, 48),
            (SUBJECTS[2], EventKind.XID, 31),
        ]

    play(machine, story)


def test_an_xid_of_a_gpu_that_nobody_knows_is_the_hosts(
    machine: FakeMachine, kmsg: FakeKmsg
) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(0, Depth.DAY)
        await source.poll(1)
        kmsg.xid("0000:fe:00.0", 79)
        await asyncio.sleep(0.05)
        assert told(await source.poll(0)) == [(HOST, EventKind.XID, 79)]

    play(machine, story)


def test_an_xid_waits_for_the_driver_to_name_its_gpu(
    machine: FakeMachine, kmsg: FakeKmsg, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(source: Surroundings, driver: FakeDriver) -> None:
        driver.state, driver.known = DriverState.ABSENT, set()
        await source.poll(1, Depth.DAY)
        kmsg.xid(2, 62)
        await asyncio.sleep(0.05)
        assert told(await source.poll(0)) == []
        driver.state, driver.known = DriverState.RUNNING, {0, 1, 2, 3}
        assert told(await source.poll(0)) == [(SUBJECTS[2], EventKind.XID, 62)]
        driver.state, driver.known = DriverState.ABSENT, set()
        await source.poll(0)
        kmsg.xid(2, 63)
        await asyncio.sleep(0.05)
        monkeypatch.setattr(xids, "HELD_S", 0.0)
        assert told(await source.poll(0)) == [(HOST, EventKind.XID, 63)]

    play(machine, story)


def test_the_place_in_the_log_is_kept_when_its_xids_had_time_to_be_sealed(
    machine: FakeMachine, kmsg: FakeKmsg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept() -> int:
        return int(json.loads((tmp_path / FILE).read_text())["sequence"])

    async def story(source: Surroundings, driver: FakeDriver) -> None:
        await source.poll(1, Depth.DAY)
        kmsg.xid(2, 62)
        assert len(await gather(source, 1)) == 1
        await source.poll(0, Depth.WINDOW)
        assert kept() == -1
        monkeypatch.setattr(xids, "SEALED_S", 0.0)
        await source.poll(0)
        assert kept() == 1
        kmsg.say("a line of no importance")
        await asyncio.sleep(0.05)
        await source.poll(0)
        assert kept() == 1
        await source.poll(0, Depth.WINDOW)
        assert kept() == 2
        kmsg.xid(2, 63)  # told to the driver's source, and never handed on
        await asyncio.sleep(0.05)

    play(machine, story, state=tmp_path)
    assert kept() == 2


def test_the_journal_through_everything(machine: FakeMachine, tmp_path: Path) -> None:
    journal = FakeJournal(tmp_path / "systemd")
    machine.journal()

    async def whole() -> None:
        driver = FakeDriver(4)
        source = Surroundings(
            driver, utc_ms=now_ms, root=machine.root, journalctl=str(journal.program)
        )
        poll = await source.poll(0, Depth.DAY)
        assert (poll.host["kernel_log"], source.log_process) == ("journal", None)
        await source.poll(1)
        assert source.log_process is not None
        journal.xid(3, 79)
        assert await gather(source, 1) == [(SUBJECTS[3], EventKind.XID, 79)]
        await source.close()

    asyncio.run(whole())
    journal.close()
