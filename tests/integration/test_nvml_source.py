"""The agent's driver source through NVIDIA's unmodified binding, over the test driver library."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from assay_agent.telemetry.fields import FIELDS, in_bounds, names
from assay_agent.telemetry.nvml import ABANDONED_MAX, NvmlSource
from assay_agent.telemetry.reading import Depth, GpuReading, Poll, Sample
from assay_agent.telemetry.table import GPM
from assay_core.header import Source
from assay_core.leaves import HOST, DriverState, EventKind, Reason
from tests.fakes.shim import ShimScenario, build_shim

TIMEOUT_MS = 2_000
FAST_MS = 500
RESTART_MS = (50, 200)

BETWEEN_SAMPLES = {field.name for _, field in GPM}
"""What is left out of a poll that comes too soon after another."""

Story = Callable[[NvmlSource], Awaitable[None]]


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShimScenario:
    scenario = ShimScenario(tmp_path)
    for key, value in scenario.env({}).items():
        monkeypatch.setenv(key, value)
    return scenario


def play(story: Story, timeout_ms: int = TIMEOUT_MS, host_root: str = "/") -> None:
    """One source, lived through, and let go of; no process of it is left."""

    async def whole() -> None:
        source = NvmlSource(timeout_ms, RESTART_MS, host_root)
        try:
            await story(source)
        finally:
            pid = source.process
            await source.close()
            assert pid is None or not alive(pid) or pid in source.abandoned

    asyncio.run(whole())


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def poll_until(
    source: NvmlSource, holds: Callable[[Poll], bool], timeout_s: float = 30, wait_ms: int = 20
) -> Poll:
    """The first poll of which something holds."""
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        poll = await source.poll(wait_ms)
        if holds(poll):
            return poll
    raise TimeoutError("it never came to hold")


def running(poll: Poll) -> bool:
    return poll.driver is DriverState.RUNNING


def kinds(poll: Poll) -> list[tuple[bytes, EventKind, int]]:
    return [(event.subject, event.kind, event.code) for event in poll.events]


def slot(poll: Poll, number: int) -> GpuReading:
    return poll.gpus[number]


def is_lost(gpu: GpuReading) -> bool:
    return set(gpu.values.values()) == {Reason.GPU_LOST}


def number(poll: Poll, place: int, name: str) -> int:
    value = poll.gpus[place].values[name]
    assert isinstance(value, int)
    return value


def every_sample(poll: Poll) -> set[Sample]:
    return {sample for gpu in poll.gpus for sample in gpu.values.values()}


def check(poll: Poll) -> None:
    """What holds of every poll that reached a driver."""
    assert len({gpu.subject for gpu in poll.gpus}) == len(poll.gpus)
    for gpu in poll.gpus:
        assert len(gpu.subject) == 16
        assert any(gpu.values.keys() <= set(names(depth)) for depth in Depth)
        assert set(names(Depth.TICK)) - gpu.values.keys() <= BETWEEN_SAMPLES
        for name, sample in gpu.values.items():
            assert in_bounds(FIELDS[name], sample), (name, sample)


def test_reads_eight_gpus_each_field_a_value_or_a_reason(shim: ShimScenario) -> None:
    shim.set_every(load="loaded")

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        assert source.kind is Source.NVML
        assert (poll.driver, len(poll.gpus), poll.events) == (DriverState.RUNNING, 8, ())
        assert poll.host == {
            "driver_version": "590.48.01",
            "nvml_version": "13.590.48.01",
            "gpu_count": 8,
            "cc_environment": 0,
            "cc_feature": 0,
            "cc_devtools": 0,
            "cc_multi_gpu_mode": 0,
            "cc_gpus_ready": 0,
            "cuda_driver_version": 13_010,
        }
        values = slot(poll, 0).values
        assert values["name"] == "NVIDIA H100 80GB HBM3"
        assert values["board_part_number"] == "692-2G520-0200-000"
        assert values["temperature_mc"] == 59_000
        assert values["memory_temperature_mc"] == 55_000
        assert values["gpu_utilisation_bps"] == 10_000
        assert values["memory_used_bytes"] == 19_818 * 1024 * 1024
        assert values["power_mw"] == 629_450
        assert values["sm_clock_mhz"] == 1_980
        assert values["pci_device_id"] == 0x233010DE
        assert values["recovery_action"] == 0
        assert values["graphics_activity_pct"] == 100
        assert values["power_limit_mw"] == 700_000
        assert values["nvlink_speeds_mbps"] == (26_562,) * 18
        assert values["tlimit_shutdown_mc"] == -8_000
        assert values["remap_banks_max"] == 2_560
        assert values.keys() == FIELDS.keys()
        ticks = {name: values[name] for name in names(Depth.TICK)}
        assert not [name for name, sample in ticks.items() if isinstance(sample, Reason)]
        again = await source.poll(150)
        assert slot(again, 0).values.keys() == ticks.keys()
        assert number(again, 0, "energy_mj") >= number(poll, 0, "energy_mj")
        assert again.host.keys() == {"driver_version", "nvml_version", "gpu_count"}

    play(story)
    assert len(shim.calls("nvmlDeviceGetSerial")) == 8, "identity is read once"


def test_a_model_without_a_sensor_gives_a_reason(shim: ShimScenario) -> None:
    shim.set_every(profile="l40s")

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        assert slot(poll, 0).values["memory_temperature_mc"] is Reason.NOT_SUPPORTED

    play(story)


@pytest.mark.parametrize("gpus", [0, 16])
def test_none_and_sixteen(shim: ShimScenario, gpus: int) -> None:
    shim.host.set(gpus=gpus)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus)) == (DriverState.RUNNING, gpus)
        assert poll.host["gpu_count"] == gpus

    play(story)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (3, Reason.NOT_SUPPORTED),
        (4, Reason.NO_PERMISSION),
        (13, Reason.SYMBOL_MISSING),
        (16, Reason.DRIVER_ERROR),
        (2, Reason.DRIVER_ERROR),
        (999, Reason.DRIVER_ERROR),
    ],
)
def test_a_call_that_fails_gives_its_reason(shim: ShimScenario, code: int, reason: Reason) -> None:
    with shim.batch():
        shim.every.fail("nvmlDeviceGetPowerUsage", code=code)
        shim.every.fail("nvmlDeviceGetSerial", code=code)
        shim.every.field_error(82, code)

    async def story(source: NvmlSource) -> None:
        for _ in range(2):
            poll = await source.poll(0)
            check(poll)
            values = slot(poll, 3).values
            assert values["power_mw"] is reason
            assert values.get("serial", reason) is reason
            assert values["memory_temperature_mc"] is reason
            assert values["temperature_mc"] == 41_000

    play(story)


def test_an_older_library_is_asked_by_the_older_name(shim: ShimScenario) -> None:
    shim.every.fail("nvmlDeviceGetTemperatureV", code=13)

    async def story(source: NvmlSource) -> None:
        assert slot(await source.poll(0), 0).values["temperature_mc"] == 41_000

    play(story)


def test_absurd_answers_are_no_values(shim: ShimScenario) -> None:
    with shim.batch():
        shim.gpu(0).set(
            utilization_gpu_pct=101,
            temperature_gpu_c=-40,
            power_usage_mw=2**32 - 1,
            performance_state=32,
        )
        shim.gpu(0).field(230, 2**31)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        for name in (
            "gpu_utilisation_bps",
            "temperature_mc",
            "power_mw",
            "performance_state",
            "recovery_action",
        ):
            assert slot(poll, 0).values[name] is Reason.INVALID_VALUE, name
        assert slot(poll, 0).values["memory_utilisation_bps"] == 0

    play(story)


def test_text_that_is_not_utf8_is_no_value(shim: ShimScenario) -> None:
    text = shim.path.read_bytes() + b"[gpu 1]\nserial = 16\xff\xfe\n"
    fresh = shim.path.with_suffix(".raw")
    fresh.write_bytes(text)
    fresh.replace(shim.path)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert slot(poll, 1).values["serial"] is Reason.INVALID_VALUE
        assert isinstance(slot(poll, 0).values["serial"], str)

    play(story)


def test_mig_mode_explains_what_it_hides(shim: ShimScenario) -> None:
    with shim.batch():
        shim.gpu(0).set(mig_mode=1)
        shim.gpu(0).fail("nvmlDeviceGetUtilizationRates", code=3)
        shim.gpu(1).fail("nvmlDeviceGetUtilizationRates", code=3)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert slot(poll, 0).values["gpu_utilisation_bps"] is Reason.HIDDEN_BY_MIG
        assert slot(poll, 1).values["gpu_utilisation_bps"] is Reason.NOT_SUPPORTED

    play(story)


@pytest.mark.parametrize("way", ["lose", "unplug"])
def test_a_gpu_goes_and_comes_back(shim: ShimScenario, way: str) -> None:
    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        gone = slot(before, 2).subject
        shim.gpu(2).lose() if way == "lose" else shim.gpu(2).unplug()
        poll = await source.poll(0)
        check(poll)
        assert kinds(poll) == [(gone, EventKind.GPU_LOST, 0)]
        assert [gpu.subject for gpu in poll.gpus if is_lost(gpu)] == [gone]
        assert len(poll.gpus) == 8
        poll = await source.poll(0)
        assert poll.events == ()
        assert len([gpu for gpu in poll.gpus if is_lost(gpu)]) == 1

        shim.gpu(2).restore()
        poll = await poll_until(source, lambda poll: not any(map(is_lost, poll.gpus)))
        check(poll)
        assert kinds(poll) == [(gone, EventKind.GPU_RETURNED, 0)]
        assert slot(poll, 2).values["serial"] == slot(before, 2).values["serial"]

    play(story)


def test_another_gpu_in_its_place_is_another_gpu(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        gone = slot(before, 5).subject
        shim.gpu(5).unplug()
        await source.poll(0)
        with shim.batch():
            shim.gpu(5).restore()
            shim.gpu(5).set(uuid="GPU-11111111-2222-3333-4444-555555555555", serial="1111111111111")
        poll = await poll_until(source, lambda poll: len(poll.gpus) == 9)
        check(poll)
        assert [gpu.subject for gpu in poll.gpus if is_lost(gpu)] == [gone]
        assert poll.gpus[-1].values["serial"] == "1111111111111"

    play(story)


def test_a_gpu_that_may_not_be_opened_is_not_called_lost(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        with shim.batch():
            shim.every.fail("nvmlDeviceGetHandleByIndex_v2", code=4)
            shim.reload_driver()
        poll = await source.poll(0)
        check(poll)
        assert EventKind.GPU_LOST not in {event.kind for event in poll.events}
        assert every_sample(poll) == {Reason.NO_PERMISSION}

    play(story)


def test_no_permission_from_the_start(shim: ShimScenario) -> None:
    shim.fail_init(code=4)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert (poll.driver, poll.gpus) == (DriverState.ABSENT, ())
        assert poll.host["driver_version"] is Reason.NO_PERMISSION

    play(story)


def test_an_xid_ends_the_wait(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        gpu = slot(poll, 6).subject
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        shim.gpu(6).xid(79)
        poll = await asyncio.wait_for(waiting, 30)
        assert kinds(poll) == [(gpu, EventKind.XID, 79)]
        assert abs(poll.events[0].at_ms - poll.at_utc_ms) < 30_000
        check(poll)
        assert (await source.poll(50)).events == (), "told once"

    play(story)


def test_the_driver_is_reloaded_under_us(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await source.poll(0)
        shim.reload_driver()
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus)) == (DriverState.RELOADED, 8)
        assert kinds(poll) == [(HOST, EventKind.DRIVER_RELOADED, 0)]
        gpu = slot(poll, 0).subject
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        shim.gpu(0).xid(48)
        poll = await asyncio.wait_for(waiting, 30)
        assert poll.driver is DriverState.RUNNING
        assert kinds(poll) == [(gpu, EventKind.XID, 48)], "events are registered anew"

    play(story)


def test_the_driver_goes_and_comes_back(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await source.poll(0)
        shim.unload_driver()
        poll = await source.poll(0)
        assert (poll.driver, poll.gpus, poll.events) == (DriverState.ABSENT, (), ())
        assert set(poll.host.values()) == {Reason.DRIVER_ABSENT}
        shim.load_driver()
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus)) == (DriverState.RELOADED, 8)
        assert kinds(poll) == [(HOST, EventKind.DRIVER_RELOADED, 0)]

    play(story)


def test_a_driver_that_arrives_late(shim: ShimScenario) -> None:
    shim.unload_driver()

    async def story(source: NvmlSource) -> None:
        for _ in range(2):
            poll = await source.poll(0)
            assert (poll.driver, poll.gpus, poll.events) == (DriverState.ABSENT, (), ())
        shim.load_driver()
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus), poll.events) == (DriverState.RUNNING, 8, ())

    play(story)


def test_a_library_that_arrives_late(
    shim: ShimScenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "not-there-yet"
    monkeypatch.setenv("LD_LIBRARY_PATH", str(later))

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert (poll.driver, poll.abandoned_processes) == (DriverState.ABSENT, 0)
        assert set(poll.host.values()) == {Reason.DRIVER_ABSENT}
        later.symlink_to(build_shim())
        poll = await poll_until(source, running)
        check(poll)
        assert len(poll.gpus) == 8

    play(story)


def test_a_hung_driver_hangs_nothing_and_its_process_is_left_alone(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await poll_until(source, running)
        stuck = source.process
        assert stuck is not None
        shim.host.hang("nvmlDeviceGetPowerUsage")
        poll = await source.poll(0)
        assert (poll.driver, poll.gpus) == (DriverState.UNRESPONSIVE, ())
        assert set(poll.host.values()) == {Reason.DRIVER_UNRESPONSIVE}
        assert kinds(poll) == [(HOST, EventKind.DRIVER_UNRESPONSIVE, 0)]

        poll = await poll_until(source, lambda poll: poll.abandoned_processes == 1)
        assert poll.events == (), "told once"
        assert source.abandoned == (stuck,)
        assert alive(stuck), "never killed"

        poll = await poll_until(source, lambda poll: poll.abandoned_processes == 2)
        assert poll.driver is DriverState.UNRESPONSIVE, "its replacement hangs too"

        shim.host.release()
        poll = await poll_until(source, running)
        check(poll)
        assert len(poll.gpus) == 8
        assert kinds(poll) == [(HOST, EventKind.DRIVER_RECOVERED, 0)]
        await poll_until(source, lambda poll: poll.abandoned_processes == 0)
        assert not alive(stuck), "it ended by itself"
        assert source.process != stuck

    play(story, FAST_MS)


def test_a_driver_that_hangs_every_caller_is_not_given_more(shim: ShimScenario) -> None:
    shim.host.hang("nvmlInitWithFlags")

    async def story(source: NvmlSource) -> None:
        await poll_until(
            source, lambda poll: poll.abandoned_processes == ABANDONED_MAX, timeout_s=60
        )
        for _ in range(20):
            poll = await source.poll(50)
            assert poll.abandoned_processes == ABANDONED_MAX
            assert (poll.driver, source.process) == (DriverState.UNRESPONSIVE, None)
        shim.host.release()
        poll = await poll_until(source, running)
        assert len(poll.gpus) == 8
        await poll_until(source, lambda poll: poll.abandoned_processes == 0)

    play(story, 100)


def test_a_short_hang_costs_no_process(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await poll_until(source, running)
        first = source.process
        shim.host.hang("nvmlDeviceGetPowerUsage")
        poll = await source.poll(0)
        assert poll.driver is DriverState.UNRESPONSIVE
        shim.host.release()
        poll = await poll_until(source, running)
        assert kinds(poll) == [(HOST, EventKind.DRIVER_RECOVERED, 0)]
        assert source.process == first

    play(story, 1_000)


def test_slow_is_not_hung(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await poll_until(source, running)
        shim.host.delay("nvmlDeviceGetPowerUsage", ms=250)
        poll = await source.poll(0)  # eight times 250 ms: longer than the limit, none of them is
        assert (poll.driver, len(poll.gpus)) == (DriverState.RUNNING, 8)

    play(story, 1_000)


def test_a_process_that_dies_is_replaced(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        first = source.process
        assert first is not None
        os.kill(first, signal.SIGKILL)  # as the kernel does when memory runs out
        poll = await poll_until(source, running)
        assert source.process not in (None, first)
        assert [gpu.values["serial"] for gpu in poll.gpus] == [
            gpu.values["serial"] for gpu in before.gpus
        ]
        assert poll.abandoned_processes == 0

    play(story)


def test_the_process_ignores_what_is_meant_for_the_agent(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await source.poll(0)
        pid = source.process
        assert pid is not None
        assert os.getpgid(pid) != os.getpgid(0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        assert running(await source.poll(50))
        assert source.process == pid

    play(story)


def test_pause_closes_every_handle(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        pid = source.process
        assert pid is not None
        await source.pause()
        assert not alive(pid)
        assert [call.outcome for call in shim.calls("nvmlShutdown")] == ["0"]
        assert [call.outcome for call in shim.calls("nvmlEventSetFree")] == ["0"]
        made = len(shim.calls())
        poll = await source.poll(20)
        assert (poll.driver, poll.gpus, poll.abandoned_processes) == (DriverState.PAUSED, (), 0)
        assert set(poll.host.values()) == {Reason.IN_MAINTENANCE}
        assert len(shim.calls()) == made, "nothing touches the driver"
        await source.resume()
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, poll.events) == (DriverState.RUNNING, ())
        assert [gpu.subject for gpu in poll.gpus] == [gpu.subject for gpu in before.gpus]

    play(story)


def test_pause_ends_a_poll_that_waits(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await source.poll(0)
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        await source.pause()
        poll = await asyncio.wait_for(waiting, 30)
        assert poll.driver is DriverState.PAUSED

    play(story)


def test_close_leaves_a_stuck_process_to_itself(shim: ShimScenario) -> None:
    stuck: list[int] = []

    async def story(source: NvmlSource) -> None:
        await poll_until(source, running)
        shim.host.hang("nvmlDeviceGetPowerUsage")
        await source.poll(0)
        await source.close()
        stuck.extend(source.abandoned)
        assert len(stuck) == 1
        assert alive(stuck[0])

    play(story, FAST_MS)
    shim.host.release()
    deadline_s = time.monotonic() + 20
    while alive(stuck[0]):
        assert time.monotonic() < deadline_s, "its input is closed: it ends when it comes back"
        time.sleep(0.02)


def test_a_driver_that_answers_nothing_but_errors(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        await source.poll(0)
        fine = shim.path.read_text()
        shim.write_text("nonsense")  # every call answers NVML_ERROR_UNKNOWN
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus), poll.events) == (DriverState.RUNNING, 8, ())
        assert every_sample(poll) == {Reason.DRIVER_ERROR}
        assert set(poll.host.values()) == {Reason.DRIVER_ERROR}
        shim.write_text(fine)
        poll = await source.poll(0)
        check(poll)
        assert (poll.driver, len(poll.gpus), poll.events) == (DriverState.RUNNING, 8, ())

    play(story)


STARTS_ANEW = """
import sys, time
from assay_agent.telemetry.nvml_driver import Driver

def read(look):
    return len([gpu for gpu in look.gpus if isinstance(gpu, tuple)])

driver = Driver(lambda: None, lambda uuid, kind, code: None, (0.1, 0.2))
print(read(driver.look(0)), flush=True)
sys.stdin.readline()
for _ in range(3):
    look = driver.look(1)
    print(look.code, read(look), look.reloaded, look.changes, flush=True)
    time.sleep(0.3)
sys.stdin.readline()
print(read(driver.look(1)), flush=True)
driver.close()
"""


def test_while_a_gpu_is_lost_the_driver_is_now_and_then_started_anew(shim: ShimScenario) -> None:
    """Some GPUs come back only for a client that starts anew; the others are read throughout."""
    asked = subprocess.Popen(
        [sys.executable, "-P", "-c", STARTS_ANEW],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    assert asked.stdin is not None
    assert asked.stdout is not None
    assert asked.stdout.readline() == "8\n"
    shim.gpu(2).lose()
    asked.stdin.write("\n")
    assert [asked.stdout.readline() for _ in range(3)] == ["0 7 False []\n"] * 3
    starts = [call.outcome for call in shim.calls("nvmlInitWithFlags")]
    assert len(starts) >= 2
    assert set(starts) == {"0"}
    shim.gpu(2).restore()
    asked.stdin.write("\n")
    assert asked.stdout.readline() == "8\n"
    assert asked.wait(30) == 0
