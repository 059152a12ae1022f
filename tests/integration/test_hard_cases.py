"""The hard cases: what the sealed windows say when the driver, the GPUs or the host misbehave.

Each is a scenario of the test driver library, lived through by the whole agent (tests/fakes/
hard_case.py): the real service over the real binding, and a valuer that verifies each window. What
holds of every window, whatever happened, is checked after each story (`check` there).
"""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from assay_core.header import CloseReason
from assay_core.leaves import (
    HOST,
    Counter,
    DriverState,
    EventKind,
    Group,
    IncidentKind,
    Reason,
    Tenancy,
)
from tests.fakes.hard_case import HANG_TIMEOUT_MS, SteppedClock, Stepping, Window, World, live

RESET_REQUIRED = 16
LOSSES = {EventKind.GPU_LOST, EventKind.GPU_RETURNED, EventKind.COUNTER_FELL}
Live = Callable[..., list[Window]]


@pytest.fixture(name="live")
def _live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Live:
    return lambda story, **more: live(tmp_path, monkeypatch, story, **more)


def well(window: Window, count: int = 8) -> bool:
    """All GPUs are read, and the driver runs."""
    return (
        window.driver is DriverState.RUNNING
        and len(window.subjects) == count
        and not any(isinstance(window.health(gpu), Reason) for gpu in window.subjects)
        and window.missing == ()
    )


def happened(windows: list[Window], subject: bytes = HOST) -> list[EventKind]:
    return [kind for window in windows if (subject == HOST or subject in window.subjects)
            for kind in window.kinds(subject)]  # fmt: skip


def lost_incidents(window: Window, gpu: bytes) -> list[IncidentKind]:
    return [one.kind for one in window.incidents(gpu) if one.kind is IncidentKind.GPU_LOST]


# The driver comes late


def test_a_driver_that_is_absent_at_boot_and_arrives(live: Live) -> None:
    async def story(world: World) -> None:
        world.shim.unload_driver()
        async with world.agent_running():
            first = await world.until(lambda window: True)
            assert first.driver is DriverState.ABSENT
            assert first.host.values["gpu_count"] is Reason.DRIVER_ABSENT
            assert first.missing is Reason.DRIVER_ABSENT
            assert first.subjects == frozenset()
            world.shim.load_driver()
            await world.gpus()
            await world.settled(well)

    windows = live(story)
    assert EventKind.DRIVER_RELOADED not in happened(windows), "it was never there before"


@pytest.mark.parametrize("folder", ["there and empty", "not there"])
def test_a_library_that_is_installed_while_the_agent_runs(
    live: Live, tmp_path: Path, folder: str
) -> None:
    """glibc remembers for a process's whole life that a folder of its search path is missing."""
    place = tmp_path / "driver"
    if folder == "there and empty":
        place.mkdir()

    async def story(world: World) -> None:
        async with world.agent_running():
            absent = await world.until(lambda window: window.driver is DriverState.ABSENT)
            assert absent.subjects == frozenset()
            world.shim.install(place)
            await world.gpus()
            window = await world.until(
                lambda window: (
                    (HOST, Group.PLATFORM) in window.contents
                    and window.value(HOST, Group.PLATFORM, "library_path").__class__ is str
                )
            )
            path = window.value(HOST, Group.PLATFORM, "library_path")
            assert str(path).endswith("libnvidia-ml.so.1")
            await world.settled(lambda window: window.driver is DriverState.RUNNING)

    live(story, env=lambda shim: shim.env_before_install(place))


def test_initialising_that_blocks_for_ever_at_boot(live: Live) -> None:
    async def story(world: World) -> None:
        world.timeout_ms = HANG_TIMEOUT_MS
        world.shim.host.hang("nvmlInitWithFlags")
        async with world.agent_running():
            first = await world.until(lambda w: w.driver is DriverState.UNRESPONSIVE)
            assert first.kinds() == [EventKind.DRIVER_UNRESPONSIVE]
            later = await world.settled(lambda w: bool(w.host.values["abandoned_processes"]))
            assert later.driver is DriverState.UNRESPONSIVE
            world.shim.host.release()
            await world.gpus()

    windows = live(story)
    assert happened(windows).count(EventKind.DRIVER_UNRESPONSIVE) == 1
    assert EventKind.DRIVER_RECOVERED in happened(windows)


# The driver goes


def test_a_driver_reload(live: Live) -> None:
    async def story(world: World) -> None:
        world.shim.set_every(load="loaded")
        async with world.agent_running():
            gpus = await world.gpus()
            before = world.last()
            energy = before.use(gpus[0], "energy_mj")
            assert isinstance(energy, Counter)
            world.shim.reload_driver()
            at = await world.settled(lambda window: window.driver is DriverState.RELOADED)
            assert EventKind.DRIVER_RELOADED in at.kinds()
            after = await world.settled(well)
            anew = after.use(gpus[0], "energy_mj")
            assert isinstance(anew, Counter)
            assert anew.total < energy.total, "the driver's counter starts anew"
            assert after.subjects == set(gpus)

    windows = live(story)
    for gpu in windows[-1].subjects:
        assert not set(happened(windows, gpu)) & LOSSES


def test_a_driver_that_is_unloaded_and_loaded_again(live: Live) -> None:
    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            world.shim.unload_driver()
            gone = await world.settled(
                lambda window: (
                    window.driver is DriverState.ABSENT and window.health(gpus[0], "polls") == 0
                )
            )
            assert gone.missing is Reason.DRIVER_ABSENT, "who is there cannot be said"
            assert {gone.health(gpu) for gpu in gpus} == {Reason.DRIVER_ABSENT}
            world.shim.reload_driver().load_driver()
            await world.settled(well)

    windows = live(story)
    assert EventKind.DRIVER_RELOADED in happened(windows)
    for gpu in windows[-1].subjects:
        assert not set(happened(windows, gpu)) & LOSSES


def test_a_call_that_blocks_for_ever(live: Live) -> None:
    async def story(world: World) -> None:
        world.timeout_ms = HANG_TIMEOUT_MS
        async with world.agent_running() as driver:
            gpus = await world.gpus()
            stuck = driver.process
            world.shim.gpu(3).hang("nvmlDeviceGetTotalEnergyConsumption").hang(
                "nvmlDeviceGetFieldValues"
            )
            hung = await world.settled(
                lambda window: (
                    window.driver is DriverState.UNRESPONSIVE
                    and window.health(gpus[0], "polls") == 0
                )
            )
            assert {hung.health(gpu) for gpu in gpus} == {Reason.DRIVER_UNRESPONSIVE}
            assert hung.missing is Reason.DRIVER_UNRESPONSIVE
            left = await world.settled(lambda w: bool(w.host.values["abandoned_processes"]))
            assert left.driver is DriverState.UNRESPONSIVE
            assert stuck in driver.abandoned, "it is left alone, never killed"
            world.shim.gpu(3).release()
            await world.settled(well)
            await world.settled(lambda window: window.host.values["abandoned_processes"] == 0)

    windows = live(story)
    kinds = happened(windows)
    assert kinds.count(EventKind.DRIVER_UNRESPONSIVE) == 1
    assert kinds.count(EventKind.DRIVER_RECOVERED) == 1
    for gpu in windows[-1].subjects:
        assert not set(happened(windows, gpu)) & LOSSES


def test_a_container_that_loses_its_devices_has_lost_no_gpu(live: Live) -> None:
    """`systemctl daemon-reload`: every call answers Unknown Error, and the bus has them all."""

    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            world.shim.forbid_devices()
            shut = await world.settled(
                lambda window: (
                    window.health(gpus[0]) is Reason.DRIVER_ERROR
                    and window.health(gpus[0], "polls") == 0
                )
            )
            assert {shut.health(gpu) for gpu in gpus} == {Reason.DRIVER_ERROR}
            assert shut.missing == (), "they are where they were"
            assert {shut.health(gpu, "tenancy") for gpu in gpus} == {int(Tenancy.HOST)}
            assert shut.host.values["pci_gpu_count"] == 8
            world.shim.allow_devices()
            await world.settled(well)

    windows = live(story)
    for gpu in windows[-1].subjects:
        assert not set(happened(windows, gpu)) & LOSSES
        assert not any(lost_incidents(window, gpu) for window in windows if gpu in window.subjects)
    assert EventKind.GPU_HIDDEN not in happened(windows)


# A GPU goes


def test_a_gpu_falls_off_the_bus_and_returns(live: Live) -> None:
    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            lost = gpus[3]
            with world.shim.batch():
                world.shim.gpu(3).xid(79)
                world.shim.gpu(3).lose()
            gone = await world.settled(
                lambda window: (
                    window.health(lost) is Reason.GPU_LOST and window.health(lost, "polls") == 0
                )
            )
            assert gone.missing == (lost,)
            assert lost_incidents(gone, lost) == [IncidentKind.GPU_LOST]
            assert not any(isinstance(gone.health(gpu), Reason) for gpu in gpus if gpu != lost)
            world.shim.gpu(3).restore()
            await world.settled(well)

    windows = live(story)
    by_gpu = {gpu: happened(windows, gpu) for gpu in windows[-1].subjects}
    (lost,) = [gpu for gpu, kinds in by_gpu.items() if EventKind.GPU_LOST in kinds]
    assert by_gpu[lost].count(EventKind.GPU_LOST) == 1
    assert by_gpu[lost].count(EventKind.GPU_RETURNED) == 1
    assert not any(kinds for gpu, kinds in by_gpu.items() if gpu != lost)
    codes = [event.code for window in windows if lost in window.subjects
             for event in window.events(lost) if event.kind is EventKind.XID]  # fmt: skip
    assert codes == [79]


def test_a_hot_unplug_and_a_restart_of_the_agent_drop_nothing(live: Live) -> None:
    """A GPU that was ever seen and is not there is missing, in every window to come."""

    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            gone = gpus[5]
            world.shim.gpu(5).unplug()
            world.machine.remove(5)
            window = await world.settled(lambda window: window.missing == (gone,))
            assert window.health(gone) is Reason.GPU_LOST
            after = await world.settled(
                lambda window: window.health(gone, "tenancy") == int(Tenancy.GONE)
            )
            assert after.host.values["pci_gpu_count"] == 7
            assert after.host.values["gpu_count"] == 7
            assert after.host.values["hidden_gpus"] == ()
        world.agent.open()
        count = len(world.windows())
        async with world.agent_running():
            window = await world.until(lambda w: w.driver is DriverState.RUNNING, after=count)
            assert window.missing == (gone,)
            assert window.health(gone) is Reason.GPU_LOST
            assert len(window.subjects) == 8

    live(story)


def test_a_gpu_that_a_guest_has_is_not_lost(live: Live) -> None:
    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            with world.shim.batch():
                world.machine.bind(4, "vfio-pci")
                world.shim.gpu(4).unplug()
            given = await world.settled(
                lambda window: (
                    window.health(gpus[4]) is Reason.PASSED_THROUGH
                    and window.health(gpus[4], "polls") == 0
                )
            )
            assert given.health(gpus[4], "tenancy") == int(Tenancy.PASSED_THROUGH)
            assert given.missing == ()
            world.machine.bind(4, "nvidia")
            world.shim.gpu(4).restore()
            await world.settled(well)

    windows = live(story)
    for gpu in windows[-1].subjects:
        assert not set(happened(windows, gpu)) & LOSSES


def test_a_gpu_on_the_bus_that_the_driver_does_not_show(live: Live) -> None:
    async def story(world: World) -> None:
        world.shim.gpu(6).unplug()
        async with world.agent_running():
            window = await world.until(
                lambda window: (
                    isinstance(window.host.values["hidden_gpus"], tuple)
                    and bool(window.host.values["hidden_gpus"])
                )
            )
            assert window.host.values["hidden_gpus"] == ("0000:d1:00.0",)
            assert window.host.values["gpu_count"] == 7
            assert window.host.values["pci_gpu_count"] == 8

    windows = live(story)
    assert happened(windows).count(EventKind.GPU_HIDDEN) == 1


@pytest.mark.parametrize("way", ["handles go bad", "it was required", "nothing tells of it"])
def test_a_gpu_reset(live: Live, way: str) -> None:
    """Its own counters start anew; its peers' and the driver go on."""

    async def story(world: World) -> None:
        world.shim.set_every(load="loaded")
        world.shim.gpu(2).set(ecc_sram_parity_volatile=3, ecc_sram_parity_aggregate=9)
        async with world.agent_running():
            gpus = await world.gpus()
            if way == "it was required":
                world.shim.gpu(2).fail(code=RESET_REQUIRED)
                await world.settled(lambda window: isinstance(window.health(gpus[2]), Reason))
            with world.shim.batch():
                world.shim.gpu(2).fail(code=0).reset(keeps_handles=way != "handles go bad")
            after = await world.settled(
                lambda window: (
                    isinstance(
                        counted := window.health(gpus[2], "ecc_uncorrected_volatile"), Counter
                    )
                    and counted.total == 0
                )
            )
            aggregate = after.health(gpus[2], "ecc_uncorrected_aggregate")
            assert isinstance(aggregate, Counter)
            assert (aggregate.delta, aggregate.total) == (0, 9)
            await world.settled(well)

    windows = live(story)
    told = [kind for gpu in windows[-1].subjects for kind in happened(windows, gpu)]
    # Where the handles stay good and nobody asked for it, all that is seen is a counter that fell.
    fell = way == "nothing tells of it"
    assert set(told) == {EventKind.COUNTER_FELL if fell else EventKind.GPU_RESET}
    assert not any(window.driver is DriverState.RELOADED for window in windows)


def test_a_gpu_is_cut_up_anew_within_a_window(live: Live) -> None:
    def numbers(window: Window, gpu: bytes) -> list[int]:
        found = window.use(gpu, "mig_instances")
        return [] if isinstance(found, Reason) else [one.gpu_instance_id for one in found]

    def activity(window: Window, gpu: bytes) -> list[int]:
        """The SMs' share of each instance."""
        return [
            one.activity[1]
            for one in window.use(gpu, "mig_instances")
            if not isinstance(one.activity, Reason)
        ]

    async def story(world: World) -> None:
        world.shim.set_every(load="loaded")
        async with world.agent_running():
            gpu = (await world.gpus())[1]
            assert numbers(world.last(), gpu) == []
            world.shim.gpu(1).cut((2, 40448, 60), (9, 9984, 16)).metric(2, 33, instance=9)
            cut = await world.settled(lambda window: numbers(window, gpu) == [2, 9])
            assert cut.use(gpu, "gpu_utilisation_bps") is Reason.HIDDEN_BY_MIG
            await world.until(
                lambda window: activity(window, gpu) == [100, 33], after=cut.header.sequence
            )
            world.shim.gpu(1).cut((9, 9984, 16), (10, 9984, 16), (11, 9984, 16))
            await world.settled(lambda window: numbers(window, gpu) == [9, 10, 11])
            world.shim.gpu(1).make_whole()
            whole = await world.settled(
                lambda window: (
                    numbers(window, gpu) == []
                    and not isinstance(window.use(gpu, "gpu_utilisation_bps"), Reason)
                )
            )
            assert whole.missing == ()

    windows = live(story)
    by_gpu = {gpu: happened(windows, gpu) for gpu in windows[-1].subjects}
    (changed,) = [gpu for gpu, kinds in by_gpu.items() if EventKind.MIG_CHANGED in kinds]
    codes = [event.code for window in windows for event in window.events(changed)
             if event.kind is EventKind.MIG_CHANGED]  # fmt: skip
    assert codes == [2, 3, 0]
    assert not any(set(kinds) & LOSSES for kinds in by_gpu.values())


# The operator pauses, whatever is going on


def _unload(world: World) -> None:
    world.shim.unload_driver()


def _reload(world: World) -> None:
    world.shim.reload_driver()


def _reset(world: World) -> None:
    world.shim.gpu(3).reset()


def _lose(world: World) -> None:
    world.shim.gpu(3).lose()


def _unplug(world: World) -> None:
    world.shim.gpu(3).unplug()
    world.machine.remove(3)


def _cut(world: World) -> None:
    world.shim.gpu(3).cut((9, 9984, 16))


def _forbid(world: World) -> None:
    world.shim.forbid_devices()


def _hang(world: World) -> None:
    world.shim.gpu(3).hang()


def _undo(world: World) -> None:
    with world.shim.batch():
        world.shim.load_driver().allow_devices()
        world.shim.gpu(3).restore().release()
        world.shim.gpu(3).make_whole()
    if not (world.machine.devices / "0000:61:00.0").exists():
        world.machine.add("0000:61:00.0")


@pytest.mark.parametrize(
    "trouble", [_unload, _reload, _reset, _lose, _unplug, _cut, _forbid, _hang]
)
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_pause_during_trouble(live: Live, trouble: Callable[[World], None], when: str) -> None:
    """The trouble begins before the pause or while it lasts, and is over before it ends."""

    async def story(world: World) -> None:
        async with world.agent_running() as driver:
            gpus = await world.gpus()
            if when == "before":
                trouble(world)
                await asyncio.sleep(0.6)
            answer = await world.ask(600_000)
            stuck = trouble is _hang and when == "before"
            assert ("1 that hang in a call" in answer) is stuck, "handles are not said to be closed"
            sealed = await world.until(
                lambda window: window.header.close_reason is CloseReason.MAINTENANCE
            )
            assert sealed.driver is DriverState.PAUSED
            assert driver.process is None, "every handle of a device is closed"
            if when == "while":
                trouble(world)
                await asyncio.sleep(0.3)
            calls = len(world.shim.calls())
            paused = await world.settled(lambda window: window.driver is DriverState.PAUSED)
            assert paused.missing is Reason.IN_MAINTENANCE
            assert {paused.health(gpu) for gpu in gpus} == {Reason.IN_MAINTENANCE}
            if not stuck:
                assert len(world.shim.calls()) == calls, "a paused agent asks nothing"
            _undo(world)
            await world.ask(0)
            await world.settled(lambda window: EventKind.RESUMED in window.kinds())
            await world.settled(well)

    live(story)


# How many


@pytest.mark.parametrize("gpus", [0, 1, 16])
def test_as_few_and_as_many_gpus_as_a_host_has(live: Live, gpus: int) -> None:
    async def story(world: World) -> None:
        async with world.agent_running():
            window = await world.until(lambda window: window.driver is DriverState.RUNNING)
            assert window.host.values["gpu_count"] == gpus
            assert window.host.values["pci_gpu_count"] == gpus
            assert len(window.subjects) == gpus
            assert window.missing == ()
            await world.settled(lambda window: well(window, gpus))

    live(story, gpus=gpus)


# Clocks


@pytest.mark.parametrize("step_ms", [3_600_000, -3_600_000])
def test_the_wall_clock_is_stepped(live: Live, step_ms: int) -> None:
    """What can be injected without root: the agent's own view of the wall clock, set forward or
    back by an hour under a boot clock that goes on."""

    async def story(world: World) -> None:
        clock = SteppedClock()
        world.clock = clock
        world.wrap = lambda source: Stepping(source, clock)
        # The valuer has windows wait that are of its future: begin where the step leads to now.
        clock.offset_ms = min(-step_ms, 0)
        async with world.agent_running():
            await world.gpus()
            clock.offset_ms += step_ms
            stepped = await world.settled(lambda window: EventKind.CLOCK_STEPPED in window.kinds())
            told = stepped.host.values["clock_step_ms"]
            assert isinstance(told, int)
            assert abs(told - step_ms) < 1_000
            period = stepped.header.period
            spent_ms = period.end_boottime_ms - period.begin_boottime_ms
            assert 0 <= spent_ms < 60_000, "the boot clock measures the period"
            await world.settled(lambda window: window.host.values["clock_step_ms"] == 0)

    windows = live(story)
    assert happened(windows).count(EventKind.CLOCK_STEPPED) == 1


# Two witnesses


def test_an_xid_that_driver_and_kernel_both_tell_is_one(live: Live) -> None:
    async def story(world: World) -> None:
        kmsg = world.machine.kmsg()
        world.kernel_log = "kmsg"
        async with world.agent_running():
            gpu = (await world.gpus())[2]
            world.shim.gpu(2).xid(63)
            kmsg.xid(2, 63)
            kmsg.say("usb 1-1: NVRM: Xid (PCI:0000:52:00): 79, not the kernel's driver")
            await world.settled(lambda window: EventKind.XID in window.kinds(gpu))
            await asyncio.sleep(2.5)
        kmsg.close()

    windows = live(story)
    told = [(event.code, event.count) for window in windows for gpu in window.subjects
            for event in window.events(gpu) if event.kind is EventKind.XID]  # fmt: skip
    assert told == [(63, 1)]


# Garbage


def test_garbage_from_the_library_is_no_value_and_stops_nothing(live: Live) -> None:
    async def story(world: World) -> None:
        gpu = world.shim.gpu(0).set(
            serial=r"16\xff\xfe5", temperature_gpu_c=5_000, compute_processes=4_000_000_000
        )
        gpu.metric(1, "nan").metric(2, "-inf").metric(10, 1e300).metric(20, -5)
        gpu.field_type(82, 99).field(186, "nan").field(91, 2**62).field_type(91, 3)
        gpu.fail("nvmlDeviceGetPdi", code=25)
        world.shim.gpu(1).set(mig_mode=1, mig_invented=1_000)
        world.shim.gpu(2).set(mig_mode=1, mig_device_max=4_000_000_000)
        world.shim.gpu(3).set(name=r"\x1b[2Jx", attestation_certificate_bytes=90_000)
        world.shim.gpu(4).cut((9, 9984, 16), (10, 9984, 16)).metric(2, "nan", instance=9)
        async with world.agent_running():
            gpus = await world.gpus()
            window = await world.settled(lambda window: len(window.subjects) == 8)
            cut = [one.activity for one in window.use(gpus[4], "mig_instances")]
            assert cut == [Reason.INVALID_VALUE, (0, 0, 0, 0, 0)], "one of two instances"
            assert window.health(gpus[0]) is Reason.INVALID_VALUE
            assert window.health(gpus[0], "memory_temperature_mc") is Reason.INVALID_VALUE
            for name in ("graphics_activity_pct", "sm_activity_pct", "dram_activity_pct"):
                assert window.use(gpus[0], name) is Reason.INVALID_VALUE, name
            assert window.use(gpus[0], "pcie_tx_mibps") is Reason.INVALID_VALUE
            assert window.use(gpus[0], "compute_process_count") is Reason.INVALID_VALUE
            first = world.windows()[0]
            for subject, name, why in (
                (gpus[0], "serial", Reason.INVALID_VALUE),
                (gpus[0], "pdi", Reason.DRIVER_ERROR),
                (gpus[0], "nvlink_count", Reason.INVALID_VALUE),
                (gpus[3], "name", Reason.INVALID_VALUE),
                (gpus[3], "attestation_certificate_sha256", Reason.INVALID_VALUE),
            ):
                assert first.value(subject, Group.IDENTITY, name) is why, name
            found = window.use(gpus[1], "mig_instances")
            assert found is Reason.INVALID_VALUE or len(found) <= 128  # type: ignore[arg-type]
            assert not isinstance(window.health(gpus[7]), Reason), "its peers are read"

    live(story)


def test_a_driver_that_says_it_has_a_thousand_gpus(live: Live) -> None:
    async def story(world: World) -> None:
        async with world.agent_running():
            gpus = await world.gpus()
            world.shim.host.set(device_count=1_000)
            window = await world.settled(lambda window: True)
            window = await world.settled(lambda window: True)
            assert window.subjects == set(gpus)

    windows = live(story)
    for gpu in windows[-1].subjects:
        assert EventKind.GPU_LOST not in happened(windows, gpu)
