"""The driver through NVIDIA's unmodified binding, and around it a host made of files."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from assay_agent.config import SourceConfig
from assay_agent.machine.packages import NONE
from assay_agent.telemetry.fields import names
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import Depth, GpuReading, Poll
from assay_agent.telemetry.sources import make_source
from assay_agent.telemetry.surroundings import Surroundings
from assay_core.leaves import HOST, EventKind, Reason, Tenancy
from tests.fakes.machine import FakeKmsg, FakeMachine, shim_address
from tests.fakes.shim import ShimScenario, build_shim

GPUS = 4
Told = list[tuple[bytes, EventKind, int]]


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShimScenario:
    scenario = ShimScenario(tmp_path, gpus=GPUS)
    for key, value in scenario.env({}).items():
        monkeypatch.setenv(key, value)
    return scenario


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    machine = FakeMachine(tmp_path / "root").gpus(GPUS)
    for slot in range(GPUS + 1):
        machine.device_file(slot, slot)
    return machine


@pytest.fixture
def kmsg(machine: FakeMachine) -> Iterator[FakeKmsg]:
    fake = machine.kmsg()
    yield fake
    fake.close()


def play(machine: FakeMachine, story: Callable[[Surroundings], Awaitable[None]]) -> None:
    async def whole() -> None:
        source = Surroundings(
            NvmlSource(10_000, (50, 200), host_root=str(machine.root)),
            utc_ms=lambda: 1_790_000_000_000,
            root=machine.root,
            devices=machine.root / "dev",
            kernel_log="off",
        )
        try:
            await story(source)
        finally:
            await source.close()

    asyncio.run(whole())


def told(poll: Poll) -> Told:
    return [(event.subject, event.kind, event.code) for event in poll.events]


def at(poll: Poll, place: int, subjects: list[bytes]) -> GpuReading:
    return next(gpu for gpu in poll.gpus if gpu.subject == subjects[place])


async def poll_until(source: Surroundings, holds: Callable[[Poll], bool]) -> tuple[Poll, Told]:
    """Polls until it holds: the poll, and every event on the way."""
    events: Told = []
    async with asyncio.timeout(60):
        while True:
            poll = await source.poll(20)
            events += told(poll)
            if holds(poll):
                return poll, events


def test_the_library_that_answers_is_named(shim: ShimScenario, machine: FakeMachine) -> None:
    library = (build_shim() / "libnvidia-ml.so.1").resolve()
    machine.write("var/lib/dpkg/info/base-files.list", "/.\n")

    async def story(source: Surroundings) -> None:
        host = (await source.poll(0, Depth.DAY)).host
        assert host["library_path"] == str(library)
        assert host["library_inode"] == library.stat().st_ino
        assert host["library_sha256"] == hashlib.sha256(library.read_bytes()).hexdigest()
        assert host["library_package"] == NONE
        assert host["kernel_module_version"] == "590.48.01"
        assert host["kernel_log"] == "none"
        assert "library_path" not in (await source.poll(0)).host
        machine.module("595.10")
        shim.reload_driver()
        poll, _ = await poll_until(source, lambda poll: "library_path" in poll.host)
        assert poll.host["kernel_module_version"] == "595.10"
        assert poll.host["library_path"] == str(library)

    play(machine, story)


def test_a_gpu_goes_to_a_guest_and_comes_back(shim: ShimScenario, machine: FakeMachine) -> None:
    async def story(source: Surroundings) -> None:
        first = await source.poll(0, Depth.DAY)
        subjects = [gpu.subject for gpu in first.gpus]
        assert {gpu.values["tenancy"] for gpu in first.gpus} == {Tenancy.HOST}
        machine.bind(2, "vfio-pci")
        shim.gpu(2).unplug()
        poll, events = await poll_until(
            source, lambda poll: Reason.PASSED_THROUGH in at(poll, 2, subjects).values.values()
        )
        assert events == []
        values = dict(at(poll, 2, subjects).values)
        assert values.pop("tenancy") == Tenancy.PASSED_THROUGH
        assert values.keys() <= set(names(Depth.DAY))
        assert set(values.values()) == {Reason.PASSED_THROUGH}
        machine.bind(2, "nvidia")
        shim.gpu(2).restore()
        poll, events = await poll_until(
            source, lambda poll: at(poll, 2, subjects).values.get("power_mw").__class__ is int
        )
        assert events == []
        poll = await source.poll(0, Depth.WINDOW)
        assert at(poll, 2, subjects).values["tenancy"] == Tenancy.HOST

    play(machine, story)


def test_a_gpu_that_leaves_the_bus_is_lost_and_gone(
    shim: ShimScenario, machine: FakeMachine
) -> None:
    async def story(source: Surroundings) -> None:
        first = await source.poll(0, Depth.DAY)
        subjects = [gpu.subject for gpu in first.gpus]
        machine.remove(1)
        shim.gpu(1).unplug()
        poll, events = await poll_until(
            source, lambda poll: Reason.GPU_LOST in at(poll, 1, subjects).values.values()
        )
        assert events == [(subjects[1], EventKind.GPU_LOST, 0)]
        assert at(poll, 1, subjects).values["tenancy"] == Tenancy.GONE

    play(machine, story)


def test_a_gpu_that_nvml_does_not_show(shim: ShimScenario, machine: FakeMachine) -> None:
    machine.add(shim_address(GPUS))

    async def story(source: Surroundings) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert told(poll) == [(HOST, EventKind.GPU_HIDDEN, 0)]
        assert poll.host["hidden_gpus"] == (shim_address(GPUS),)
        assert (poll.host["pci_gpu_count"], poll.host["gpu_count"]) == (GPUS + 1, GPUS)

    play(machine, story)


def test_a_gpu_that_is_plugged_in(shim: ShimScenario, machine: FakeMachine) -> None:
    async def story(source: Surroundings) -> None:
        assert len((await source.poll(0, Depth.DAY)).gpus) == GPUS
        machine.add(shim_address(GPUS))
        shim.host.set(gpus=GPUS + 1)
        poll, events = await poll_until(source, lambda poll: len(poll.gpus) > GPUS)
        assert events == []
        poll = await source.poll(0, Depth.WINDOW)
        assert (told(poll), poll.host["hidden_gpus"]) == ([], ())

    play(machine, story)


def test_a_library_that_makes_gpus_up(shim: ShimScenario, machine: FakeMachine) -> None:
    """NVIDIA publishes one: what it shows is on no bus."""
    for slot in range(GPUS):
        machine.remove(slot)

    async def story(source: Surroundings) -> None:
        poll = await source.poll(0, Depth.DAY)
        assert poll.host["phantom_gpus"] == tuple(shim_address(slot) for slot in range(GPUS))
        kinds = [(event.kind, event.subject != HOST) for event in poll.events]
        assert kinds == [(EventKind.GPU_PHANTOM, True)] * GPUS
        assert {gpu.values["tenancy"] for gpu in poll.gpus} == {Tenancy.GONE}

    play(machine, story)


def test_an_xid_by_both_ways_is_one(
    shim: ShimScenario, machine: FakeMachine, kmsg: FakeKmsg
) -> None:
    """By the source that a configuration makes, over NVML's own events and a log's lines."""

    async def whole() -> None:
        source = make_source(SourceConfig(host_root=str(machine.root), kernel_log="kmsg"))
        try:
            first = await source.poll(0, Depth.DAY)
            subjects = [gpu.subject for gpu in first.gpus]
            assert first.host["kernel_log"] == "kmsg"
            await source.poll(20)
            shim.wait_for_call("nvmlEventSetWait_v2")
            shim.gpu(1).xid(48)
            kmsg.xid(1, 48)
            kmsg.xid(3, 79)  # the driver's events do not tell of it
            kmsg.say("NVRM: Xid (PCI:0000:1b:00): 31, forged by a user", facility=1)
            events: Told = []
            async with asyncio.timeout(30):
                while len(events) < 2:
                    events += told(await source.poll(1_000))
            for _ in range(5):  # the driver's own telling comes within a second
                events += told(await source.poll(300))
        finally:
            await source.close()
        assert sorted(events) == sorted(
            [(subjects[1], EventKind.XID, 48), (subjects[3], EventKind.XID, 79)]
        )

    asyncio.run(whole())
