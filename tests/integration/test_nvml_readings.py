"""Every reading of the driver source, at its depth and with its trap, over the test library."""

import asyncio
import os
from pathlib import Path

import pytest

from assay_agent.telemetry.fields import FIELDS, names
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import Depth, Happening, Poll, Sample
from assay_agent.telemetry.table import ENTRIES, GPM, LINKS
from assay_core.leaves import HOST, DriverState, EventKind, MigInstance, Reason
from tests.fakes.shim import ShimScenario
from tests.integration.test_nvml_source import check, every_sample, kinds, play, poll_until, slot

GPM_NAMES = [field.name for _, field in GPM]
BUS_ID = "0000:1b:00.0"
APART_MS = 150
"""Performance samples are taken no closer than 100 ms."""


@pytest.fixture
def shim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ShimScenario:
    scenario = ShimScenario(tmp_path)
    for key, value in scenario.env({}).items():
        monkeypatch.setenv(key, value)
    return scenario


def read(poll: Poll, place: int, *wanted: str) -> list[Sample]:
    return [poll.gpus[place].values[name] for name in wanted]


def test_each_depth_reads_what_it_should_in_as_few_calls(shim: ShimScenario) -> None:
    shim.host.set(gpus=2)

    async def story(source: NvmlSource) -> None:
        assert slot(await source.poll(0, Depth.TICK), 1).values.keys() == FIELDS.keys()
        for depth in Depth:
            before = len(shim.calls())
            poll = await source.poll(APART_MS, depth)
            check(poll)
            assert slot(poll, 1).values.keys() == set(names(depth))
            made = [call.function for call in shim.calls()[before:] if call.gpu == 1]
            assert made.count("nvmlGpmSampleGet") == 1
            batches = {Depth.TICK: 1, Depth.WINDOW: 3, Depth.DAY: 6}[depth]
            assert made.count("nvmlDeviceGetFieldValues") <= batches
            assert ("nvmlDeviceGetSerial" in made) is (depth is Depth.DAY)
            assert ("nvmlDeviceValidateInforom" in made) is (depth is Depth.DAY)
            assert ("nvmlDeviceGetComputeRunningProcesses_v3" in made) is (depth > Depth.TICK)
            if depth is Depth.TICK:
                assert len(made) <= 13

    play(story)


def test_a_blackwell_has_what_only_it_has(shim: ShimScenario) -> None:
    with shim.batch():
        shim.every.set(profile="b200")
        shim.gpu(0).field(208, 77, scope=3)
        shim.gpu(0).field(258, 41)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        links = slot(poll, 0).values["nvlink_count"]
        assert isinstance(links, int)
        for link in LINKS:
            if link.field_id in {161, 162, 163}:  # the older links' counters
                continue
            values = slot(poll, 0).values[link.field.name]
            assert isinstance(values, tuple), link.field.name
            assert len(values) == links
        assert read(poll, 0, "nvlink5_receive_errors") == [
            (0, 0, 0, 77, *(0 for _ in range(links - 4)))
        ]
        assert read(poll, 0, "power_smoothing_lifetime_pct") == [41]
        assert isinstance(slot(poll, 0).values["chassis_serial"], str)

    play(story)


def test_a_link_that_is_down_is_down_and_one_that_says_nothing_is_not_zero(
    shim: ShimScenario,
) -> None:
    with shim.batch():
        shim.gpu(0).set(nvlink_active=17)
        shim.gpu(1).field_error(163, 999, scope=5)
        shim.gpu(2).field(165, 9, scope=0)
        shim.gpu(3).set(nvlink_count=200)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        states, speeds = "nvlink_states", "nvlink_speeds_mbps"
        assert read(poll, 0, states, speeds) == [(1,) * 17 + (0,), (26_562,) * 17 + (0,)]
        assert read(poll, 1, "nvlink_crc_errors", states) == [Reason.DRIVER_ERROR, (1,) * 18]
        assert read(poll, 2, states) == [Reason.INVALID_VALUE]
        assert read(poll, 3, "nvlink_count", states) == [Reason.INVALID_VALUE] * 2

    play(story)


@pytest.mark.parametrize("code", [2, 3])
def test_a_driver_without_the_field_ids_is_asked_by_its_calls(
    shim: ShimScenario, code: int
) -> None:
    older = {entry.field_id: entry.field.name for entry in ENTRIES if entry.otherwise is not None}
    with shim.batch():
        shim.every.set(
            remapped_rows_corrected=7, pcie_replay_count=5, ecc_dram_corrected_volatile=3
        )
        for field_id in older:
            shim.gpu(1).field_error(field_id, code)

    async def story(source: NvmlSource) -> None:
        for wait_ms, depth in ((0, Depth.DAY), (APART_MS, Depth.WINDOW)):
            poll = await source.poll(wait_ms, depth)
            check(poll)
            for name in older.values():
                if name in slot(poll, 0).values and name != "energy_mj":
                    assert read(poll, 1, name) == read(poll, 0, name), name
            assert isinstance(slot(poll, 1).values["energy_mj"], int)
            assert read(poll, 1, "remapped_rows_corrected", "pcie_replays") == [7, 5]

    play(story)


def test_a_card_before_ampere_is_read_as_far_as_it_goes(shim: ShimScenario) -> None:
    with shim.batch():
        shim.every.set(
            profile="l40s",
            architecture=6,
            retired_pages_sbe=3,
            retired_pages_dbe=1,
            retired_pages_pending=1,
        )
        for field_id in (29, 30, 31, 142, 143, 144, 145):
            shim.every.field_error(field_id, 3)
        shim.every.fail("nvmlDeviceGetRemappedRows", code=3)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        pages = ("retired_pages_single_bit", "retired_pages_double_bit", "retired_pages_pending")
        assert read(poll, 0, *pages) == [3, 1, 1]
        for name in ("remap_failed", "memory_temperature_mc", *GPM_NAMES, "nvlink_states"):
            assert read(poll, 0, name) == [Reason.NOT_SUPPORTED], name

    play(story)


def test_a_library_without_a_symbol_gives_no_zero(shim: ShimScenario) -> None:
    asked = (
        "nvmlDeviceGetUnrepairableMemoryFlag_v1",
        "nvmlDeviceGetRepairStatus",
        "nvmlDeviceGetPlatformInfo",
        "nvmlDeviceGetMarginTemperature",
        "nvmlDeviceGetSramEccErrorStatus",
        "nvmlGpmQueryDeviceSupport",
        "nvmlDeviceGetFieldValues",
        "nvmlSystemGetConfComputeSettings",
    )
    with shim.batch():
        for function in asked:
            shim.host.fail(function, code=13)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        gone = [
            name for name, value in slot(poll, 0).values.items() if value is Reason.SYMBOL_MISSING
        ]
        assert {"unrepairable_memory", "repair_tpc_pending", "slot_number", "recovery_action"} <= {
            *gone
        }
        assert {"temperature_margin_min_mc", "ecc_sram_l2", *GPM_NAMES, "nvlink_states"} <= {*gone}
        assert poll.host["cc_multi_gpu_mode"] is Reason.SYMBOL_MISSING
        assert isinstance(slot(poll, 0).values["energy_mj"], int), "by the older call"

    play(story)


def test_what_only_root_may_read_says_so(shim: ShimScenario) -> None:
    shim.every.fail("nvmlDeviceGetSramEccErrorStatus", code=4)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert read(poll, 0, "ecc_sram_threshold_exceeded") == [Reason.NO_PERMISSION]

    play(story)


@pytest.mark.parametrize("layout", ["header", "binding"])
def test_unrepairable_memory_is_seen_in_either_layout(shim: ShimScenario, layout: str) -> None:
    with shim.batch():
        shim.every.set(unrepairable_memory_layout=layout)
        shim.gpu(3).set(unrepairable_memory=1)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert [read(poll, place, "unrepairable_memory") for place in (2, 3)] == [[0], [1]]

    play(story)


def test_wear_and_what_is_costly(shim: ShimScenario) -> None:
    with shim.batch():
        shim.host.set(driver_version="610.10.00", cc_feature=1, cc_ready=1, cc_devtools=1)
        shim.gpu(0).set(
            inforom_valid=0,
            bbx_time_run_s=31_536_000,
            bbx_flush_timestamp_us=1_768_000_000_000_000,
            remapped_rows_uncorrected_inactive=2,
            ecc_sram_threshold_exceeded=1,
            repair_channel_pending=1,
            remap_banks_none=4,
            compute_processes=3,
        )

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        expected = {
            "inforom_valid": 0,
            "odometer_s": 31_536_000,
            "bbx_flush_utc_ms": 1_768_000_000_000,
            "remapped_rows_uncorrected_inactive": 2,
            "ecc_sram_threshold_exceeded": 1,
            "repair_channel_pending": 1,
            "remap_banks_none": 4,
            "compute_process_count": 3,
        }
        assert {name: slot(poll, 0).values[name] for name in expected} == expected
        digest = slot(poll, 0).values["attestation_certificate_sha256"]
        assert isinstance(digest, str)
        assert len(bytes.fromhex(digest)) == 32
        assert digest != slot(poll, 1).values["attestation_certificate_sha256"]
        assert [poll.host[name] for name in ("cc_feature", "cc_gpus_ready", "cc_devtools")] == [
            1
        ] * 3

    play(story)
    asked = shim.calls("nvmlDeviceGetComputeRunningProcesses_v3")
    assert [call.outcome for call in asked if call.gpu == 0] == ["7"], "never with room for who"


def test_garbage_is_no_value(shim: ShimScenario) -> None:
    with shim.batch():
        gpu = shim.gpu(0)
        for metric, value in ((1, "nan"), (2, "inf"), (3, -5), (5, 1e300), (10, 101)):
            gpu.metric(metric, value)
        gpu.metric(11, "unsupported")
        gpu.field(82, "nan")
        gpu.field_type(230, 99)
        gpu.field(94, -1)
        gpu.set(
            temperature_margin_c=-250,
            pcie_width=2**32 - 1,
            fabric_state=2**31,
            mig_mode=7,
            chassis_serial="18\\x1b[2J",
        )

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        for name in (
            "graphics_activity_pct",
            "sm_activity_pct",
            "sm_occupancy_pct",
            "tensor_activity_pct",
            "dram_activity_pct",
            "memory_temperature_mc",
            "recovery_action",
            "pcie_replays",
            "temperature_margin_min_mc",
            "pcie_width",
            "fabric_state",
            "mig_mode",
            "chassis_serial",
        ):
            assert read(poll, 0, name) == [Reason.INVALID_VALUE], name
        assert read(poll, 0, "fp64_activity_pct") == [Reason.NOT_SUPPORTED]
        assert read(poll, 0, "fp32_activity_pct", "pcie_replays") == [0, Reason.INVALID_VALUE]
        assert read(poll, 1, "pcie_replays") == [0]

    play(story)


def test_a_library_that_is_told_another_structure_version(shim: ShimScenario) -> None:
    shim.gpu(0).fail(code=25)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        assert DriverState.RUNNING is poll.driver

    play(story)


def test_more_gpus_than_there_can_be(shim: ShimScenario) -> None:
    shim.host.set(device_count=1_000)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        assert poll.host["gpu_count"] is Reason.INVALID_VALUE
        assert len(poll.gpus) == 8

    play(story)


def test_performance_is_measured_between_two_samples_and_they_are_freed(
    shim: ShimScenario,
) -> None:
    with shim.batch():
        shim.host.set(gpus=1)
        shim.every.metric(5, 41.6)

    async def story(source: NvmlSource) -> None:
        assert read(await source.poll(0), 0, "tensor_activity_pct") == [42]
        at_once = await source.poll(0)
        assert not set(GPM_NAMES) & slot(at_once, 0).values.keys(), "not due"
        for _ in range(3):
            assert read(await source.poll(APART_MS), 0, "tensor_activity_pct") == [42]
        shim.gpu(0).fail("nvmlGpmSampleGet", code=999)
        failed = await source.poll(APART_MS)
        assert read(failed, 0, *GPM_NAMES) == [Reason.DRIVER_ERROR] * len(GPM_NAMES)
        shim.gpu(0).fail("nvmlGpmSampleGet", code=0)
        await source.poll(APART_MS)
        assert read(await source.poll(APART_MS), 0, "tensor_activity_pct") == [42]

    play(story)
    allocated = len(shim.calls("nvmlGpmSampleAlloc"))
    assert allocated == len(shim.calls("nvmlGpmSampleFree")) == 2


def test_mig_is_read_by_instance_and_explains_what_it_hides(shim: ShimScenario) -> None:
    with shim.batch():
        shim.gpu(0).cut((1, 20_096, 32), (5, 9_856, 16))
        shim.gpu(0).metric(2, 80, instance=1)
        shim.gpu(0).metric(2, "nan", instance=5)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        first, second = mig(poll)
        assert (first.gpu_instance_id, first.memory_mib) == (1, 20_096)
        assert isinstance(first.activity, tuple)
        assert first.activity[1] == 80
        assert second == MigInstance(5, 9_856, Reason.INVALID_VALUE)
        hidden = ("gpu_utilisation_bps", "remap_failed", "remapped_rows_corrected_inactive")
        assert set(read(poll, 0, *hidden)) == {Reason.HIDDEN_BY_MIG}
        assert read(poll, 0, "mig_mode", "remap_banks_max") != read(
            poll, 1, "mig_mode", "remap_banks_max"
        )
        assert read(poll, 1, "mig_instances", "gpu_utilisation_bps") == [(), 0]

    play(story)


def mig(poll: Poll) -> list[MigInstance]:
    instances = slot(poll, 0).values["mig_instances"]
    assert isinstance(instances, tuple)
    return [instance for instance in instances if isinstance(instance, MigInstance)]


def test_a_gpu_is_cut_anew_under_us(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        gpu = slot(await source.poll(0), 0).subject
        shim.gpu(0).cut((1, 40_192, 64), (2, 40_192, 64))
        poll = await source.poll(APART_MS)  # no deeper asked: that it hides things gives it away
        check(poll)
        assert kinds(poll) == [(gpu, EventKind.MIG_CHANGED, 2)]
        assert [instance.gpu_instance_id for instance in mig(poll)] == [1, 2]
        assert (await source.poll(APART_MS, Depth.WINDOW)).events == ()
        shim.gpu(0).cut((7, 9_856, 16))
        poll = await source.poll(APART_MS, Depth.WINDOW)
        assert kinds(poll) == [(gpu, EventKind.MIG_CHANGED, 1)]
        shim.gpu(0).make_whole()
        poll = await source.poll(APART_MS, Depth.WINDOW)
        check(poll)
        assert kinds(poll) == [(gpu, EventKind.MIG_CHANGED, 0)]
        assert read(poll, 0, "gpu_utilisation_bps", "mig_instances") == [0, ()]

    play(story)
    taken = [len(shim.calls(f"nvmlGpmSample{what}")) for what in ("Alloc", "Free")]
    assert taken[0] == taken[1] == 8 * 2 + 3 * 2, "of the GPUs, and of each instance there was"


def test_more_instances_than_there_can_be(shim: ShimScenario) -> None:
    shim.gpu(0).set(mig_mode=1, mig_invented=1_000)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        check(poll)
        instances = slot(poll, 0).values["mig_instances"]
        assert instances is Reason.INVALID_VALUE or len(mig(poll)) <= 16

    play(story)


@pytest.mark.parametrize(
    ("event", "kind", "code"),
    [
        (0x400, EventKind.DRAM_RETIREMENT, 0),
        (0x800, EventKind.DRAM_RETIREMENT, 1),
        (0x1000, EventKind.POISON, 0),
        (0x2000, EventKind.POISON, 1),
        (0x4000, EventKind.UNAVAILABLE, 0),
        (0x8000, EventKind.RECOVERY_ACTION, 0),
    ],
)
def test_every_kind_of_event_ends_the_wait(
    shim: ShimScenario, event: int, kind: EventKind, code: int
) -> None:
    async def story(source: NvmlSource) -> None:
        gpu = slot(await source.poll(0), 4).subject
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        shim.gpu(4).event(event, 0)
        poll = await asyncio.wait_for(waiting, 30)
        assert kinds(poll) == [(gpu, kind, code)]
        assert "remap_banks_max" in slot(poll, 4).values, "a look after an event is a deep one"

    play(story)


def test_only_events_that_the_gpu_has_are_asked_for(shim: ShimScenario) -> None:
    shim.every.set(event_types_supported=0x1B)

    async def story(source: NvmlSource) -> None:
        await source.poll(0)

    play(story)
    assert {call.outcome for call in shim.calls("nvmlDeviceRegisterEvents")} == {"0"}


@pytest.mark.parametrize("others", [0, 7])
def test_a_gpu_that_the_driver_takes_is_seen_at_once(shim: ShimScenario, others: int) -> None:
    with shim.batch():
        shim.host.set(gpus=others + 1)
        shim.gpu(others).unplug()

    async def story(source: NvmlSource) -> None:
        assert len((await source.poll(0)).gpus) == others
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        with shim.batch():
            shim.gpu(others).restore()
            shim.system_event(2, others)
        poll = await asyncio.wait_for(waiting, 30)
        check(poll)
        assert (len(poll.gpus), poll.events) == (others + 1, ())
        assert slot(poll, others).values.keys() == FIELDS.keys()

    play(story)


@pytest.mark.parametrize("keeps_handles", [False, True])
def test_a_gpu_is_reset_while_the_driver_stays(shim: ShimScenario, *, keeps_handles: bool) -> None:
    shim.set_every(load="loaded")

    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        gpu = slot(before, 3).subject
        shim.gpu(3).reset(keeps_handles=keeps_handles)
        poll = await source.poll(APART_MS)
        check(poll)
        assert poll.driver is DriverState.RUNNING
        # Where nothing but a counter that fell tells of it, it is not called a reset.
        told = [] if keeps_handles else [(gpu, EventKind.GPU_RESET, 0)]
        assert kinds(poll) == told
        assert [item.subject for item in poll.gpus] == [item.subject for item in before.gpus]
        assert (await source.poll(APART_MS)).events == (), "told once"

    play(story)


def test_a_gpu_that_asks_for_a_reset_and_gets_one(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        gpu = slot(await source.poll(0), 3).subject
        shim.gpu(3).fail(code=16)
        poll = await source.poll(APART_MS)
        check(poll)
        assert (poll.events, slot(poll, 3).values["power_mw"]) == ((), Reason.DRIVER_ERROR)
        shim.gpu(3).fail(code=0)
        poll = await source.poll(APART_MS)
        assert kinds(poll) == [(gpu, EventKind.GPU_RESET, 0)]

    play(story)


def test_a_container_that_loses_its_devices_has_lost_no_gpu(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        before = await source.poll(0)
        shim.forbid_devices()
        for _ in range(3):
            poll = await source.poll(20)
            check(poll)
            assert (poll.driver, poll.events) == (DriverState.RUNNING, ())
            assert every_sample(poll) == {Reason.DRIVER_ERROR}
            assert len(poll.gpus) == 8
        shim.allow_devices()
        poll = await poll_until(source, lambda poll: every_sample(poll) != {Reason.DRIVER_ERROR})
        check(poll)
        assert poll.events == ()
        assert [gpu.subject for gpu in poll.gpus] == [gpu.subject for gpu in before.gpus]

    play(story)


@pytest.mark.parametrize("function", ["nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion"])
def test_a_library_that_calls_the_host_itself_lost(shim: ShimScenario, function: str) -> None:
    shim.host.fail(function, code=15)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert (poll.events, poll.abandoned_processes) == ((), 0)
        assert {Reason.DRIVER_ERROR, Reason.GPU_LOST} & set(poll.host.values())
        shim.host.fail(function, code=0)
        assert len((await poll_until(source, lambda poll: bool(poll.gpus))).gpus) == 8

    play(story)


def test_what_is_learnt_beside_the_driver_ends_the_wait(shim: ShimScenario) -> None:
    async def story(source: NvmlSource) -> None:
        gpu = slot(await source.poll(0), 0).subject
        assert source.bus_ids[gpu] == slot(await source.poll(0, Depth.DAY), 0).values["pci_bus_id"]
        assert len(source.bus_ids) == 8
        waiting = asyncio.create_task(source.poll(600_000))
        await asyncio.sleep(0.05)
        happening = Happening(gpu, EventKind.XID, 79, 1_768_000_000_000)
        source.happen(happening)
        poll = await asyncio.wait_for(waiting, 30)
        assert poll.events == (happening,)
        assert "remap_banks_max" in slot(poll, 0).values

    play(story)


def sysfs(root: Path, bus_id: str, status: str, control: str = "auto") -> None:
    """A GPU on the PCI bus of a made-up host."""
    device = root / "sys/bus/pci/devices" / bus_id
    (device / "power").mkdir(parents=True, exist_ok=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    (device / "power/control").write_text(f"{control}\n")
    (device / "power/runtime_status").write_text(f"{status}\n")
    if not (device / "driver").is_symlink():
        os.symlink("../../../bus/pci/drivers/nvidia", device / "driver")


def addresses(shim: ShimScenario) -> None:
    for place in range(2):
        shim.gpu(place).set(pci_bus_id=f"0000000{place}:1B:00.0")


def test_a_sleeping_gpu_is_not_woken(shim: ShimScenario, tmp_path: Path) -> None:
    with shim.batch():
        shim.host.set(gpus=2)
        addresses(shim)
    sysfs(tmp_path, "0000:1b:00.0", "suspended")
    sysfs(tmp_path, "0001:1b:00.0", "active")

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert (poll.driver, poll.gpus, poll.events) == (DriverState.RUNNING, (), ())
        assert set(poll.host.values()) == {Reason.ASLEEP}
        assert shim.calls() == [], "not even opening the library is safe"

        sysfs(tmp_path, "0000:1b:00.0", "active")
        poll = await source.poll(0)
        check(poll)
        assert [slot(poll, place).values["power_mw"] for place in (0, 1)] == [69_850] * 2

        sysfs(tmp_path, "0000:1b:00.0", "suspended")
        made = len(shim.calls())
        for depth in Depth:
            poll = await source.poll(APART_MS, depth)
            check(poll)
            assert set(slot(poll, 0).values.values()) == {Reason.ASLEEP}
            assert slot(poll, 1).values["power_mw"] == 69_850
            assert poll.events == ()
        later = [call for call in shim.calls()[made:] if "Event" not in call.function]
        assert {call.gpu for call in later} <= {None, 1}
        assert not [call for call in later if call.function == "nvmlDeviceGetCount_v2"]

        sysfs(tmp_path, "0000:1b:00.0", "active")
        poll = await source.poll(0)
        assert (slot(poll, 0).values["power_mw"], poll.events) == (69_850, ())

    play(story, host_root=str(tmp_path))


@pytest.mark.parametrize("way", ["not managed", "passed through"])
def test_what_is_not_the_drivers_to_wake_keeps_nobody_waiting(
    shim: ShimScenario, tmp_path: Path, way: str
) -> None:
    shim.host.set(gpus=1)
    sysfs(tmp_path, BUS_ID, "suspended", "on" if way == "not managed" else "auto")
    if way == "passed through":
        driver = tmp_path / "sys/bus/pci/devices" / BUS_ID / "driver"
        driver.unlink()
        os.symlink("../../../bus/pci/drivers/vfio-pci", driver)

    async def story(source: NvmlSource) -> None:
        poll = await source.poll(0)
        assert (poll.driver, len(poll.gpus)) == (DriverState.RUNNING, 1)
        assert HOST not in source.bus_ids

    play(story, host_root=str(tmp_path))
