"""The test driver library, through NVIDIA's unmodified binding.

Everything runs in a process of its own: the binding loads the library once, by name.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from assay_core.evidence import nvidia
from tests.fakes.attesting import REPORT, DeviceAuthority
from tests.fakes.nvidia import NOW_MS
from tests.fakes.shim import SOURCES, build_shim
from tests.fakes.shim_probe import Bench

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND, INSUFFICIENT_SIZE = 1, 2, 3, 6, 7
DRIVER_NOT_LOADED, TIMEOUT, LIBRARY_NOT_FOUND, FUNCTION_NOT_FOUND = 9, 10, 12, 13
GPU_IS_LOST, UNKNOWN = 15, 999


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_nothing_set_is_eight_h100(bench: Bench) -> None:
    env = {"LD_LIBRARY_PATH": str(build_shim())}
    probe = bench.probe(env).init()
    assert probe.value("nvmlDeviceGetCount()") == 8
    assert probe.value("nvmlSystemGetDriverVersion()") == "590.48.01"
    assert probe.value("nvmlSystemGetCudaDriverVersion()") == 13010
    for index in range(8):
        assert probe.value(f"nvmlDeviceGetName(h({index}))") == "NVIDIA H100 80GB HBM3"
        assert probe.value(f"nvmlDeviceGetBoardPartNumber(h({index}))") == "692-2G520-0200-000"
        assert probe.value(f"nvmlDeviceGetVbiosVersion(h({index}))") == "96.00.A5.00.01"
        assert probe.value(f"nvmlDeviceGetInforomImageVersion(h({index}))") == "G520.0200.00.05"
    for call in ("Serial", "UUID", "Pdi"):
        values = probe.value(f"[nvmlDeviceGet{call}(h(i)) for i in range(8)]")
        assert isinstance(values, list)
        assert len(set(values)) == 8, call
    again = bench.probe(env).init()
    question = "[[nvmlDeviceGetUUID(h(i)), nvmlDeviceGetSerial(h(i))] for i in range(8)]"
    assert again.value(question) == probe.value(question)
    uuids = probe.value("[nvmlDeviceGetUUID(h(i)) for i in range(8)]")
    assert isinstance(uuids, list)
    assert all(re.fullmatch(r"GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", u) for u in uuids)


def test_every_way_to_a_handle(bench: Bench) -> None:
    probe = bench.probe().init()
    for way in (
        "nvmlDeviceGetHandleByUUID(nvmlDeviceGetUUID(h(5)))",
        "nvmlDeviceGetHandleByUUIDV(nvmlDeviceGetUUID(h(5)).encode(), NVML_UUID_TYPE_ASCII)",
        "nvmlDeviceGetHandleBySerial(nvmlDeviceGetSerial(h(5)))",
        "nvmlDeviceGetHandleByPciBusId(nvmlDeviceGetPciInfo(h(5)).busId)",
        "nvmlDeviceGetHandleByPciBusId('0:c3:0.0')",
    ):
        assert probe.value(f"nvmlDeviceGetIndex({way})") == 5, way
    assert probe.error("nvmlDeviceGetHandleByUUID('GPU-nobody')") == NOT_FOUND
    assert probe.error("h(8)") == INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("profile", "load", "expected"),
    [
        ("h100", "idle", [0, 0, 69850, 41, 48, 345, 2619, 1, 0]),
        ("h100", "loaded", [100, 11, 629450, 59, 55, 1980, 2619, 0, 19818]),
        ("h200", "idle", [0, 0, 77670, 28, 32, 345, 3201, 1, 0]),
        ("h200", "loaded", [100, 7, 627320, 52, 41, 1980, 3201, 0, 32362]),
    ],
)
def test_idle_and_loaded_are_what_the_captures_say(
    bench: Bench, profile: str, load: str, expected: list[int]
) -> None:
    bench.shim.set_every(profile=profile, load=load)
    probe = bench.probe().init()
    assert [
        probe.value("nvmlDeviceGetUtilizationRates(h(0)).gpu"),
        probe.value("nvmlDeviceGetUtilizationRates(h(0)).memory"),
        probe.value("nvmlDeviceGetPowerUsage(h(0))"),
        probe.value("nvmlDeviceGetTemperatureV(h(0), NVML_TEMPERATURE_GPU)"),
        probe.value("field(h(0), NVML_FI_DEV_MEMORY_TEMP)[0][1]"),
        probe.value("nvmlDeviceGetClockInfo(h(0), NVML_CLOCK_SM)"),
        probe.value("nvmlDeviceGetClockInfo(h(0), NVML_CLOCK_MEM)"),
        probe.value("nvmlDeviceGetCurrentClocksEventReasons(h(0))"),
        probe.value("nvmlDeviceGetMemoryInfo(h(0), nvmlMemory_v2).used >> 20"),
    ] == expected


def test_an_l40s_has_no_nvlink_no_gpm_and_no_memory_temperature(bench: Bench) -> None:
    bench.shim.set_every(profile="l40s")
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetName(h(0))") == "NVIDIA L40S"
    assert probe.error("nvmlDeviceGetNvLinkState(h(0), 0)") == NOT_SUPPORTED
    assert probe.error("nvmlDeviceGetMigMode(h(0))") == NOT_SUPPORTED
    assert probe.value("nvmlGpmQueryDeviceSupport(h(0)).isSupportedDevice") == 0
    assert probe.error("gpm(0, 1)") == NOT_SUPPORTED
    assert probe.value("field(h(0), NVML_FI_DEV_MEMORY_TEMP)") == [[NOT_SUPPORTED, 0]]


def test_structures_arrive_field_by_field(bench: Bench) -> None:
    bench.shim.gpu(0).set(
        ecc_sram_parity_aggregate=1,
        ecc_sram_secded_aggregate=2,
        ecc_sram_corrected_volatile=3,
        ecc_sram_source_other=4,
        ecc_sram_threshold_exceeded=1,
        ecc_dram_uncorrected_volatile=5,
        remapped_rows_corrected=6,
        remapped_rows_uncorrected=7,
        remapped_rows_failed=1,
        remap_banks_low=8,
        repair_tpc_pending=1,
        pdi="0xd52bae2e458244e2",
        recovery_action=2,
        chassis_serial="CHASSIS-1",
    )
    probe = bench.probe().init()
    probe.value("keep('sram', struct(nvmlDeviceGetSramEccErrorStatus, h(0), "
                "c_nvmlEccSramErrorStatus_v1_t()))")  # fmt: skip
    sram = ("aggregateUncParity", "aggregateUncSecDed", "volatileCor", "aggregateUncBucketOther")
    assert probe.value(f"[getattr(kept['sram'], f) for f in {sram}]") == [1, 2, 3, 4]
    assert probe.value("kept['sram'].bThresholdExceeded") == 1
    assert probe.value("nvmlDeviceGetTotalEccErrors(h(0), 1, 0)") == 5
    assert probe.value("nvmlDeviceGetTotalEccErrors(h(0), 1, 1)") == 3
    assert probe.value("nvmlDeviceGetMemoryErrorCounter(h(0), 1, 1, 7)") == 3
    assert probe.value("nvmlDeviceGetRemappedRows(h(0))") == [6, 7, 0, 1]
    assert probe.value("nvmlDeviceGetRowRemapperHistogram(h(0)).low") == 8
    assert probe.value("nvmlDeviceGetRepairStatus(h(0))") == [0, 1]
    assert probe.value("nvmlDeviceGetPdi(h(0))") == 0xD52BAE2E458244E2
    assert probe.value("field(h(0), NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)") == [[0, 2]]
    assert probe.value("struct(nvmlDeviceGetPlatformInfo, h(0), "
                       "c_nvmlPlatformInfo_v2_t()).chassisSerialNumber") == "CHASSIS-1"  # fmt: skip
    assert probe.value("struct(nvmlDeviceGetGpuFabricInfoV, h(0), "
                       "c_nvmlGpuFabricInfo_v3_t()).state") == 3  # fmt: skip


def test_unrepairable_memory_is_written_as_the_header_declares_it(bench: Bench) -> None:
    """The binding then reads 0: it looks at the second word. Whoever reads must know."""
    bench.shim.gpu(0).set(unrepairable_memory=1)
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetUnrepairableMemoryFlag_v1(h(0))") == 0
    bench.shim.gpu(0).set(unrepairable_memory_layout="binding")
    assert probe.value("nvmlDeviceGetUnrepairableMemoryFlag_v1(h(0))") == 1


def test_calls_younger_than_the_driver_are_not_there(bench: Bench) -> None:
    probe = bench.probe().init()
    rows = "struct(nvmlDeviceGetRemappedRows_v2, h(0), c_nvmlRemappedRowsInfo_v2_t())"
    hours = "nvmlDeviceGetBBXTimeData_v1(h(0)).timeRun"
    assert probe.error(rows) == FUNCTION_NOT_FOUND
    assert probe.error(hours) == FUNCTION_NOT_FOUND
    bench.shim.host.set(driver_version="535.261.03")
    assert probe.error("nvmlDeviceGetPdi(h(0))") == FUNCTION_NOT_FOUND
    assert probe.value("nvmlDeviceGetName(h(0))") == "NVIDIA H100 80GB HBM3"
    bench.shim.host.set(driver_version="610.10")
    bench.shim.gpu(0).set(remapped_rows_corrected_inactive=4, bbx_time_run_s=7200)
    assert probe.value(f"{rows}.corrInactiveRemaps") == 4
    assert probe.value(hours) == 7200


def test_field_values_carry_their_own_codes(bench: Bench) -> None:
    bench.shim.gpu(0).set(nvlink_active=17, energy_mj=77).field(487, 5).field_error(82, 4)
    probe = bench.probe().init()
    state = "NVML_FI_DEV_NVLINK_GET_STATE"
    assert probe.value(f"field(h(0), 82, 83, ({state}, 16), ({state}, 17), ({state}, 18))") == [
        [4, 0],
        [0, 77],
        [0, 1],
        [0, 0],
        [NOT_SUPPORTED, 0],
    ]
    assert probe.value("field(h(0), 487, 300)") == [[0, 5], [NOT_SUPPORTED, 0]]


def test_gpm_metrics_follow_the_load(bench: Bench) -> None:
    bench.shim.set_every(load="loaded").gpu(1).metric(5, 93)
    probe = bench.probe().init()
    assert probe.value("gpm(0, 1, 2, 10, 400)") == [[0, 100.0], [0, 100.0], [0, 11.0], [3, 0.0]]
    assert probe.value("gpm(1, 5)") == [[0, 93.0]]


def test_mig_hides_utilisation_and_remapped_rows(bench: Bench) -> None:
    bench.shim.gpu(0).set(mig_mode=1)
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetMigMode(h(0))") == [1, 1]
    assert probe.error("nvmlDeviceGetUtilizationRates(h(0))") == NOT_SUPPORTED
    assert probe.error("nvmlDeviceGetRemappedRows(h(0))") == NOT_SUPPORTED
    assert probe.value("nvmlDeviceGetMigMode(h(1))") == [0, 0]


def test_an_injected_error_hits_one_call_of_one_gpu(bench: Bench) -> None:
    bench.shim.gpu(2).fail("nvmlDeviceGetPowerUsage", code=4)
    probe = bench.probe().init()
    assert probe.error("nvmlDeviceGetPowerUsage(h(2))") == 4
    assert probe.value("nvmlDeviceGetUUID(h(2))")
    assert probe.value("nvmlDeviceGetPowerUsage(h(1))") == 69850
    bench.shim.gpu(2).fail("nvmlDeviceGetPowerUsage", code=0)
    assert probe.value("nvmlDeviceGetPowerUsage(h(2))") == 69850


def test_a_lost_gpu_leaves_its_peers_alone_and_comes_back(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('old', h(3))")
    bench.shim.gpu(3).lose()
    assert probe.error("nvmlDeviceGetPowerUsage(kept['old'])") == GPU_IS_LOST
    assert probe.error("h(3)") == GPU_IS_LOST
    assert probe.value("nvmlDeviceGetCount()") == 8
    peers = "[nvmlDeviceGetPowerUsage(h(i)) for i in range(8) if i != 3]"
    assert probe.value(peers) == [69850] * 7
    bench.shim.gpu(3).restore()
    assert probe.value("nvmlDeviceGetPowerUsage(kept['old'])") == 69850


def test_an_unplugged_gpu_is_not_counted_and_its_handle_stays_bad(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('old', h(3))")
    probe.value("keep('uuid', nvmlDeviceGetUUID(h(4)))")
    bench.shim.gpu(3).unplug()
    assert probe.value("nvmlDeviceGetCount()") == 7
    assert probe.error("nvmlDeviceGetName(kept['old'])") == INVALID_ARGUMENT
    assert probe.value("nvmlDeviceGetUUID(h(3)) == kept['uuid']") is True
    bench.shim.gpu(3).restore()
    assert probe.value("nvmlDeviceGetCount()") == 8
    assert probe.error("nvmlDeviceGetName(kept['old'])") == INVALID_ARGUMENT
    assert probe.value("nvmlDeviceGetUUID(h(4)) == kept['uuid']") is True


def test_a_hang_holds_one_call_until_it_is_released(bench: Bench) -> None:
    bench.shim.gpu(0).hang("nvmlDeviceGetPowerUsage")
    probe = bench.probe().init()
    probe.value("start('hung', lambda: nvmlDeviceGetPowerUsage(h(0)))")
    bench.shim.wait_for_call("nvmlDeviceGetPowerUsage", outcome="hang")
    assert probe.value("nvmlDeviceGetPowerUsage(h(1))") == 69850
    assert probe.value("nvmlDeviceGetName(h(0))") == "NVIDIA H100 80GB HBM3"
    assert probe.value("threads['hung'].is_alive()") is True
    bench.shim.gpu(0).release()
    assert probe.value("finish('hung')") == {"value": 69850}


def test_a_hang_of_everything_holds_init_too(bench: Bench) -> None:
    bench.shim.host.hang()
    probe = bench.probe()
    probe.value("start('init', nvmlInit)")
    bench.shim.wait_for_call("nvmlInitWithFlags", outcome="hang")
    bench.shim.host.release()
    assert probe.value("finish('init')") == {"value": None}


def test_a_delayed_call_answers_all_the_same(bench: Bench) -> None:
    bench.shim.host.delay("nvmlDeviceGetName", ms=30)
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetName(h(0))") == "NVIDIA H100 80GB HBM3"


def test_an_xid_wakes_the_waiter_with_the_right_handle_once(bench: Bench) -> None:
    bench.shim.gpu(5).xid(13)  # before anyone registered: never seen
    probe = bench.probe().init()
    probe.value("register('set', *range(8))")
    probe.value("start('wait', lambda: wait('set', 20000))")
    bench.shim.gpu(5).xid(79)
    assert probe.value("finish('wait')") == {"value": [5, 8, 79]}
    assert probe.error("wait('set', 50)") == TIMEOUT
    with bench.shim.batch():
        bench.shim.gpu(1).xid(48)
        bench.shim.gpu(0).xid(63)
    assert probe.value("wait('set', 20000)") == [1, 8, 48]
    assert probe.value("wait('set', 20000)") == [0, 8, 63]
    probe.value("nvmlEventSetFree(kept['set'])")
    assert probe.error("wait('set', 50)") == INVALID_ARGUMENT


def test_a_reloaded_driver_forgets_its_handles_and_its_energy(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('old', h(0))")
    probe.value("keep('uuid', nvmlDeviceGetUUID(h(0)))")
    before = probe.value("nvmlDeviceGetTotalEnergyConsumption(h(0))")
    bench.shim.reload_driver()
    assert probe.error("nvmlDeviceGetUUID(kept['old'])") == UNINITIALIZED
    assert probe.error("nvmlDeviceGetCount()") == UNINITIALIZED
    probe.init()
    assert probe.error("nvmlDeviceGetUUID(kept['old'])") == INVALID_ARGUMENT
    assert probe.value("nvmlDeviceGetUUID(h(0)) == kept['uuid']") is True
    after = probe.value("nvmlDeviceGetTotalEnergyConsumption(h(0))")
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert after < before


def test_energy_never_falls_between_processes_or_loads(bench: Bench) -> None:
    energy = "nvmlDeviceGetTotalEnergyConsumption(h(0))"
    last = 0
    for load in ("loaded", "idle", "loaded", "idle"):
        bench.shim.set_every(load=load)
        now = bench.probe().init().value(energy)
        assert isinstance(now, int)
        assert now >= last
        last = now
    bench.shim.set_every(energy_mj=12345)
    assert bench.probe().init().value(energy) == 12345


def test_init_fails_as_often_as_told_then_succeeds_in_the_same_process(bench: Bench) -> None:
    bench.shim.fail_init(code=DRIVER_NOT_LOADED, times=3)
    probe = bench.probe()
    assert [probe.error("nvmlInit()") for _ in range(3)] == [DRIVER_NOT_LOADED] * 3
    assert probe.init().value("nvmlDeviceGetCount()") == 8


def test_an_absent_driver_and_its_return(bench: Bench) -> None:
    bench.shim.unload_driver()
    probe = bench.probe()
    assert probe.error("nvmlInit()") == DRIVER_NOT_LOADED
    bench.shim.load_driver()
    assert probe.init().value("nvmlDeviceGetCount()") == 8


PCIE_ERRORS = [
    "correctable_errors",
    "naks_received",
    "receiver_errors",
    "bad_tlps",
    "naks_sent",
    "bad_dllps",
    "non_fatal_errors",
    "fatal_errors",
    "unsupported_requests",
    "lcrc_errors",
    "lane_errors",
]


def test_errors_of_the_slot_and_what_wears_are_fields_of_their_own(bench: Bench) -> None:
    pcie = {f"pcie_{name}": 10 + place for place, name in enumerate(PCIE_ERRORS)}
    bench.shim.gpu(0).set(power_smoothing_lifetime_pct=97, tlimit_shutdown_c=-8, **pcie)
    probe = bench.probe().init()
    values = probe.value("field(h(0), *range(173, 184))")
    assert values == [[0, 10 + place] for place in range(11)]
    assert probe.value("field(h(0), 258)") == [[0, 97]]
    assert probe.value("nvmlDeviceGetFieldValues(h(0), [193])[0].value.siVal") == -8
    assert probe.value("field(h(1), 258)") == [[NOT_SUPPORTED, 0]]


def test_a_blackwell_card_has_the_fifth_nvlink_a_place_and_a_lifetime(bench: Bench) -> None:
    bench.shim.set_every(profile="b200").gpu(1).set(nvlink5_symbol_errors=7)
    probe = bench.probe().init()
    links = "[(i, 17) for i in range(206, 223)]"
    assert probe.value(f"[v[0] for v in field(h(0), *{links})]") == [0] * 17
    assert probe.value("field(h(1), (221, 0), (221, 17))") == [[0, 7], [0, 7]]
    assert probe.value("field(h(0), (221, 18), (161, 0), (164, 3))") == [
        [NOT_SUPPORTED, 0],
        [NOT_SUPPORTED, 0],
        [0, 53125],
    ]
    place = "struct(nvmlDeviceGetPlatformInfo, h(0), c_nvmlPlatformInfo_v2_t())"
    assert probe.value(f"[{place}.chassisSerialNumber, ord({place}.slotNumber)]") == [
        "1820000000001",
        1,
    ]
    fabric = "struct(nvmlDeviceGetGpuFabricInfoV, h(0), c_nvmlGpuFabricInfo_v3_t())"
    assert probe.value(f"bytes({fabric}.clusterUuid)[:2].hex()") == "b200"
    assert probe.value(f"{fabric}.healthSummary") == 1
    assert probe.value("field(h(0), 258)") == [[0, 100]]
    assert probe.value("nvmlDeviceGetArchitecture(h(0))") == 10


def test_a_link_may_differ_from_the_others(bench: Bench) -> None:
    gpu = bench.shim.gpu(0).field(161, 4, scope=3).field(165, 0, scope=9)
    gpu.field_error(163, 4, scope=2)
    probe = bench.probe().init()
    assert probe.value("field(h(0), (161, 2), (161, 3), (161, 4))") == [[0, 0], [0, 4], [0, 0]]
    assert probe.value("field(h(0), (163, 1), (163, 2))") == [[0, 0], [4, 0]]
    states = probe.value("[nvmlDeviceGetNvLinkState(h(0), link) for link in range(18)]")
    assert states == [int(link != 9) for link in range(18)]
    assert probe.value("nvmlDeviceGetNvLinkErrorCounter(h(0), 3, 0)") == 4
    gpu.field(161, 1)
    assert probe.value("field(h(0), (161, 2), (161, 3))") == [[0, 1], [0, 4]]


@pytest.mark.parametrize(("load", "power_mw"), [("idle", 71270), ("loaded", 432210)])
def test_a_cut_up_gpu_is_what_the_capture_says(bench: Bench, load: str, power_mw: int) -> None:
    bench.shim.set_every(profile="h100-mig", load=load)
    probe = bench.probe().init()
    assert probe.value("instances(0)") == [[2, 40448], [3, 20096], [9, 9984], [10, 9984]]
    assert probe.value("nvmlDeviceGetAttributes(mig(0, 0)).multiprocessorCount") == 60
    assert probe.value("nvmlDeviceGetPowerUsage(h(0))") == power_mw
    assert probe.error("nvmlDeviceGetUtilizationRates(h(0))") == NOT_SUPPORTED
    assert probe.value("field(h(0), (165, 0))") == [[NOT_SUPPORTED, 0]]
    assert probe.value("nvmlDeviceGetMemoryInfo(mig(0, 2)).total >> 20") == 9984


def test_an_instance_speaks_for_itself_and_no_further(bench: Bench) -> None:
    bench.shim.gpu(0).cut((2, 40448, 60), (9, 9984, 16))
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceIsMigDeviceHandle(mig(0, 1)).value") == 1
    assert probe.value("nvmlDeviceIsMigDeviceHandle(h(0)).value") == 0
    assert probe.value("nvmlDeviceGetUUID(mig(0, 1))[:13]") == "MIG-00000009-"
    assert probe.value("nvmlDeviceGetName(mig(0, 1))") == "NVIDIA H100 80GB HBM3 MIG 1g.9gb"
    assert probe.error("nvmlDeviceGetPowerUsage(mig(0, 1))") == NOT_SUPPORTED
    parent = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle(mig(0, 1))"
    assert probe.value(f"nvmlDeviceGetUUID({parent}) == nvmlDeviceGetUUID(h(0))") is True
    assert probe.error("mig(0, 2)") == NOT_FOUND
    assert probe.error("mig(0, 7)") == INVALID_ARGUMENT
    assert probe.error("mig(1, 0)") == NOT_FOUND
    assert probe.error("nvmlDeviceGetGpuInstanceId(h(0))") == INVALID_ARGUMENT
    info = "nvmlGpuInstanceGetInfo(nvmlDeviceGetGpuInstanceById(h(0), 9))"
    assert probe.value(f"[{info}.id, {info}.profileId]") == [9, 19]
    probe.value("keep('list', (c_nvmlGpuInstance_t * 8)())")
    probe.value("keep('count', c_uint(8))")
    probe.value("nvmlDeviceGetGpuInstances(h(0), 9, kept['list'], byref(kept['count']))")
    assert probe.value("kept['count'].value") == 1
    assert probe.error("nvmlDeviceGetGpuInstanceById(h(0), 3)") == NOT_FOUND


def test_performance_of_an_instance(bench: Bench) -> None:
    bench.shim.set_every(load="loaded").gpu(0).cut((2, 40448, 60), (9, 9984, 16))
    bench.shim.gpu(0).metric(2, 80).metric(2, 12.5, instance=9)
    probe = bench.probe().init()
    assert probe.value("gpm(0, 2, 5, 20, instance=2)") == [[0, 80.0], [0, 40.0], [3, 0.0]]
    assert probe.value("gpm(0, 2, instance=9)") == [[0, 12.5]]
    assert probe.error("gpm(0, 2, instance=4)") == INVALID_ARGUMENT
    assert probe.error("gpm(1, 2, instance=2)") == NOT_SUPPORTED


def test_a_gpu_is_cut_anew_while_it_is_watched(bench: Bench) -> None:
    bench.shim.gpu(0).cut((2, 40448, 60), (9, 9984, 16))
    probe = bench.probe().init()
    probe.value("keep('big', mig(0, 0))")
    probe.value("keep('small', mig(0, 1))")
    bench.shim.gpu(0).cut((9, 9984, 16), (10, 9984, 16))
    assert probe.error("nvmlDeviceGetAttributes(kept['big'])") == INVALID_ARGUMENT
    assert probe.value("nvmlDeviceGetGpuInstanceId(kept['small'])") == 9
    assert probe.value("instances(0)") == [[9, 9984], [10, 9984]]
    bench.shim.gpu(0).make_whole()
    assert probe.value("nvmlDeviceGetMigMode(h(0))") == [0, 0]
    assert probe.value("instances(0)") == []
    assert probe.error("nvmlDeviceGetAttributes(kept['small'])") == INVALID_ARGUMENT
    bench.shim.gpu(0).cut()
    assert probe.value("nvmlDeviceGetMigMode(h(0))") == [1, 1]
    assert probe.value("instances(0)") == []


def test_processes_are_counted_without_being_named(bench: Bench) -> None:
    bench.shim.gpu(0).set(compute_processes=3)
    bench.shim.gpu(1).set(compute_processes="unsupported")
    probe = bench.probe().init()
    assert probe.value("count_processes(h(0))") == [INSUFFICIENT_SIZE, 3]
    assert probe.value("count_processes(h(2))") == [0, 0]
    assert probe.value("count_processes(h(1))")[0] == NOT_SUPPORTED  # type: ignore[index]
    assert probe.value("len(nvmlDeviceGetComputeRunningProcesses(h(0)))") == 3
    assert probe.value("nvmlDeviceGetGraphicsRunningProcesses(h(0))") == []


def test_confidential_computing_and_the_certificate(bench: Bench) -> None:
    probe = bench.probe().init()
    assert probe.error("certificate(h(0))") == NOT_SUPPORTED
    bench.shim.host.set(cc_feature=1, cc_environment=2, cc_devtools=1, cc_multi_gpu=1, cc_ready=1)
    assert probe.value("nvmlSystemGetConfComputeState().ccFeature") == 1
    assert probe.value("nvmlSystemGetConfComputeState().devToolsMode") == 1
    assert probe.value("nvmlSystemGetConfComputeGpusReadyState()") == 1
    size, first = probe.value("certificate(h(0))")  # type: ignore[misc]
    assert (size, len(first)) == (3000, 6000)
    assert probe.value("certificate(h(0))") == [size, first]
    assert probe.value("certificate(h(1))") != [size, first]
    bench.shim.gpu(0).set(attestation_certificate_bytes=90000)  # more than there is room for
    assert probe.value("certificate(h(0))")[0] == 90000  # type: ignore[index]


def test_a_report_is_signed_by_the_tests_device_authority(bench: Bench) -> None:
    nonce = bytes(range(32))
    question = f"report(h(1), bytes.fromhex('{nonce.hex()}'))"
    probe = bench.probe().init()
    assert probe.error(question) == NOT_SUPPORTED
    bench.shim.host.set(cc_feature=1)
    assert probe.error(question) == TIMEOUT  # nobody is there to sign
    with DeviceAuthority(2) as authority:
        env = {**bench.shim.env(), "ASSAY_SHIM_EVIDENCE": authority.socket}
        probe = bench.probe(env).init()
        data = probe.value(question)
        assert isinstance(data, str)
        proof = nvidia.verify(
            nvidia.Evidence(bytes.fromhex(data), authority.devices[1].chain),
            nonce=nonce,
            now_ms=NOW_MS,
            roots=authority.maker.roots,
        )
        assert proof.device.pdi == authority.devices[1].pdi
        authority.say(REPORT, 1, code=UNKNOWN)
        assert probe.error(question) == UNKNOWN
        bench.shim.host.set(cc_feature=0, cc_multi_gpu=1)  # protected PCIe
        assert probe.error(question) == UNKNOWN
        bench.shim.host.set(driver_version="470.256.02")
        assert probe.error(question) == FUNCTION_NOT_FOUND


def test_a_gpu_is_reset_alone(bench: Bench) -> None:
    bench.shim.gpu(0).set(ecc_sram_parity_volatile=2, ecc_sram_parity_aggregate=5)
    probe = bench.probe().init()
    probe.value("keep('old', h(0))")
    probe.value("keep('peer', h(1))")
    before = probe.value("nvmlDeviceGetTotalEnergyConsumption(h(0))")
    peer = probe.value("nvmlDeviceGetTotalEnergyConsumption(h(1))")
    bench.shim.gpu(0).reset()
    assert probe.error("nvmlDeviceGetName(kept['old'])") == INVALID_ARGUMENT
    assert probe.value("nvmlDeviceGetName(kept['peer'])") == "NVIDIA H100 80GB HBM3"
    assert probe.value("nvmlDeviceGetTotalEccErrors(h(0), 1, 0)") == 0
    assert probe.value("nvmlDeviceGetTotalEccErrors(h(0), 1, 1)") == 5
    assert probe.value("nvmlDeviceGetTotalEnergyConsumption(h(0))") < before  # type: ignore[operator]
    assert probe.value("nvmlDeviceGetTotalEnergyConsumption(h(1))") >= peer  # type: ignore[operator]
    probe.value("keep('old', h(0))")
    bench.shim.gpu(0).reset(keeps_handles=True)
    assert probe.value("nvmlDeviceGetName(kept['old'])") == "NVIDIA H100 80GB HBM3"


def test_events_of_every_kind_and_of_the_system(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('set', nvmlEventSetCreate())")
    wished = "nvmlEventTypeXidCriticalError | 0xFC00"
    probe.value(f"nvmlDeviceRegisterEvents(h(2), {wished}, kept['set'])")
    for place in range(10, 16):
        bench.shim.gpu(2).event(1 << place, place)
        assert probe.value("wait('set', 20000)") == [2, 1 << place, place]
    bench.shim.system_event(1, 7)  # before anyone registered: never seen
    probe.value("system_register('system')")
    assert probe.value("system_wait('system', 10)") == []
    with bench.shim.batch():
        bench.shim.system_event(1, 0x43)
        bench.shim.system_event(2, 0x43)
    assert probe.value("system_wait('system', 20000)") == [[1, 0x43], [2, 0x43]]


def test_a_container_that_lost_its_devices(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('old', h(0))")
    bench.shim.forbid_devices()
    assert probe.error("nvmlDeviceGetPowerUsage(kept['old'])") == UNKNOWN
    assert probe.error("nvmlDeviceGetCount()") == UNKNOWN
    assert bench.probe().error("nvmlInit()") == UNKNOWN
    bench.shim.allow_devices()
    assert probe.value("nvmlDeviceGetPowerUsage(kept['old'])") == 69850


@pytest.mark.parametrize("there_before", [False, True])
def test_a_library_installed_into_a_folder_that_was_not_there_is_not_found(
    bench: Bench, tmp_path: Path, *, there_before: bool
) -> None:
    """glibc remembers a folder of its search path that is missing; only a new process looks
    again. One that is there and empty is looked into each time."""
    folder = tmp_path / "driver"
    if there_before:
        folder.mkdir()
    env = bench.shim.env_before_install(folder)
    probe = bench.probe(env)
    assert probe.error("nvmlInit()") == LIBRARY_NOT_FOUND
    bench.shim.install(folder)
    again = probe.answer("nvmlInit()")
    assert again == ({"value": None} if there_before else {"error": LIBRARY_NOT_FOUND})
    assert bench.probe(env).init().value("nvmlDeviceGetCount()") == 8


def test_what_no_driver_should_say(bench: Bench) -> None:
    gpu = bench.shim.gpu(0).metric(1, "nan").metric(2, "-inf").metric(5, 1e300).metric(10, 12.75)
    gpu.metric(11, "unsupported").field(186, "nan").field(91, 2**62).field_type(82, 99)
    gpu.field_type(185, 2).set(serial=r"16\xff\xfe5", compute_processes=4_000_000_000)
    bench.shim.gpu(1).set(mig_mode=1, mig_invented=1000)
    bench.shim.gpu(2).set(mig_mode=1, mig_device_max=4_000_000_000)
    bench.shim.gpu(3).fail("nvmlDeviceGetPdi", code=25)
    probe = bench.probe().init()
    metrics = probe.value("repr(gpm(0, 1, 2, 5, 10, 11))")
    assert metrics == "[[0, nan], [0, -inf], [0, 1e+300], [0, 12.75], [3, 0.0]]"
    value = "nvmlDeviceGetFieldValues(h(0), [186])[0]"
    assert probe.value(f"[{value}.valueType, repr({value}.value.dVal)]") == [0, "nan"]
    assert probe.value("wide(h(0), 82, 185)") == [[0, 99, 48], [0, 2, 69850]]
    assert probe.value("count_processes(h(0))") == [INSUFFICIENT_SIZE, 4_000_000_000]
    assert probe.value("len(instances(1))") == 1000
    assert probe.value("nvmlDeviceGetMaxMigDeviceCount(h(2))") == 4_000_000_000
    assert probe.error("nvmlDeviceGetPdi(h(3))") == 25
    bench.shim.host.set(device_count=1000)
    assert probe.value("nvmlDeviceGetCount()") == 1000
    assert probe.error("h(8)") == INVALID_ARGUMENT
    raw = "create_string_buffer(30)"
    probe.value(f"keep('raw', {raw})")
    read = "CDLL('libnvidia-ml.so.1').nvmlDeviceGetSerial(h(0), kept['raw'], 30)"
    assert probe.value(read) == 0
    assert probe.value("kept['raw'].value.hex()") == b"16\xff\xfe5".hex()


def test_use_outside_init_and_shutdown(bench: Bench) -> None:
    probe = bench.probe()
    probe.value("nvmlInit()")
    probe.value("keep('handle', h(0))")
    probe.value("nvmlShutdown()")
    assert probe.error("nvmlDeviceGetName(kept['handle'])") == UNINITIALIZED
    assert probe.value("nvmlSystemGetNVMLVersion()") == "13.590.48.01"
    assert probe.error("nvmlSystemGetDriverVersion()") == UNINITIALIZED


def test_the_scenario_is_read_again_while_running(bench: Bench) -> None:
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetPowerUsage(h(0))") == 69850
    for power_mw in range(100_000, 100_050):
        bench.shim.gpu(0).set(power_usage_mw=power_mw)
        assert probe.value("nvmlDeviceGetPowerUsage(h(0))") == power_mw


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[host]\ngpu = 8\n", ":2: unknown key 'gpu' in [host]"),
        ("[host]\ngpus = 17\n", ":2: gpus: 17 is outside 0 to 16"),
        ("[host]\ngpus = eight\n", ":2: gpus: 'eight' is not a number"),
        ("gpus = 8\n", ":1: 'gpus' stands outside a section"),
        ("[gpu 3]\n\npower = 5\n", ":3: unknown key 'power' in a [gpu] section"),
        ("[gpu 3]\nerror.nvmlDeviceGetPower = 5\n", ":2: error.nvmlDeviceGetPower: the shim has"),
        ("[gpu 3]\nerror.* = 777\n", ":2: error.*: 777 is not an NVML return code"),
        ("[gpu 3]\nlost = yes\n", ":2: lost: 'yes' is neither true nor false"),
        ("[gpu 3]\nlost = true\nlost = true\n", ":3: 'lost' again in this section"),
        ("[gpu 3]\n[gpu 3]\n", ":2: [gpu 3] again; it is already on line 1"),
        ("[host]\ngpus = 2\n[gpu 3]\nlost = true\n", ":3: [gpu 3], but there are only 2"),
        ("[gpu x]\n", ":1: no such section: [gpu x]"),
        ("[gpu *]\nxid = 1:79\n", ":2: xid: an event belongs to one GPU"),
        ("[gpu 1]\nxid = 79\n", ":2: xid: '79' is not SEQUENCE:CODE"),
        ("[gpu 1]\nxid = 2:79\nxid = 2:48\n", ":3: xid: sequence numbers must rise"),
        ("[gpu *]\nprofile = h300\n", ":2: profile: no profile is called 'h300'"),
        ("[gpu *]\npower_usage_mw = -5\n", ":2: power_usage_mw: -5 is outside 0"),
        ("[gpu 1]\nfield.0 = 1\n", ":2: field.0: not KIND.ID or KIND.ID.SCOPE"),
        ("[gpu 1]\nfield.161.x = 1\n", ":2: field.161.x: not KIND.ID or KIND.ID.SCOPE"),
        ("[gpu 1]\nfield.161.2.3 = 1\n", ":2: field.161.2.3: not KIND.ID or KIND.ID.SCOPE"),
        ("[gpu 1]\nfield.161 = much\n", ":2: field.161: 'much' is not a number"),
        ("[gpu 1]\nmetric.2 = fast\n", ":2: metric.2: 'fast' is not a number"),
        ("[gpu 1]\nserial = a\\x0\n", ":2: serial: a backslash begins"),
        ("[gpu 1]\nmig_instances = 1g.10gb\n", ":1: mig_instances: '1g.10gb' is not ID:"),
        ("[gpu 1]\nmig_instances = 9:9984:16,3\n", ":1: mig_instances: ',3' follows"),
        ("[host]\nsystem_event = 1:2\n", ":2: system_event: '1:2' is not SEQUENCE:TYPE:DATA"),
        ("[gpu *]\nmemory_used_mib = unsupported\n", ":2: memory_used_mib is part of a sum"),
        ("[gpu *]\nlost\n", ":2: 'lost' is neither a section nor 'key = value'"),
        ("[gpu 1]\npci_bus_id = here\n", ":1: pci_bus_id of gpu 1: 'here' is not DOMAIN"),
    ],
)
def test_a_wrong_line_is_refused_with_its_place(bench: Bench, text: str, complaint: str) -> None:
    bench.shim.write_text(text)
    probe = bench.probe()
    assert probe.error("nvmlInit()") == UNKNOWN
    assert f"{bench.shim.path}{complaint}" in probe.end()


def test_a_scenario_gone_wrong_fails_every_call_until_put_right(bench: Bench) -> None:
    probe = bench.probe().init()
    probe.value("keep('handle', h(0))")
    bench.shim.write_text("[nonsense]\n")
    assert probe.error("nvmlDeviceGetName(kept['handle'])") == UNKNOWN
    bench.shim.path.unlink()
    assert probe.error("nvmlDeviceGetName(kept['handle'])") == UNKNOWN
    bench.shim.write()
    assert probe.value("nvmlDeviceGetName(kept['handle'])") == "NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("gpus", [0, 16])
def test_as_few_and_as_many_gpus_as_can_be(bench: Bench, gpus: int) -> None:
    bench.shim.host.set(gpus=gpus)
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetCount()") == gpus
    serials = probe.value(f"[nvmlDeviceGetSerial(h(i)) for i in range({gpus})]")
    assert isinstance(serials, list)
    assert len(set(serials)) == gpus
    assert probe.error(f"h({gpus})") == INVALID_ARGUMENT


def test_another_seed_is_another_host(bench: Bench) -> None:
    serials = "[nvmlDeviceGetSerial(h(i)) for i in range(8)]"
    here = bench.probe().init().value(serials)
    bench.shim.host.set(identity_seed=1)
    there = bench.probe().init().value(serials)
    assert isinstance(here, list)
    assert isinstance(there, list)
    assert len({*here, *there}) == 16


def test_the_call_log_counts_calls(bench: Bench) -> None:
    bench.shim.gpu(1).lose()
    probe = bench.probe().init()
    probe.value("[nvmlDeviceGetName(h(0)) for _ in range(5)]")
    probe.error("h(1)")
    names = bench.shim.calls("nvmlDeviceGetName")
    assert [(call.gpu, call.outcome) for call in names] == [(0, "0")] * 5
    assert bench.shim.calls("nvmlDeviceGetHandleByIndex_v2")[-1].gpu == 1
    assert bench.shim.calls("nvmlDeviceGetHandleByIndex_v2")[-1].outcome == "15"


# Exported for callers other than the binding: the names without a version suffix, which old
# programs link against, and the first way to initialise.
NOT_IN_BINDING = {
    "nvmlInit",
    "nvmlInit_v2",
    "nvmlDeviceGetCount",
    "nvmlDeviceGetHandleByIndex",
    "nvmlDeviceGetHandleByPciBusId",
    "nvmlDeviceGetPciInfo",
    "nvmlDeviceGetPciInfo_v2",
    "nvmlDeviceGetComputeRunningProcesses",
    "nvmlDeviceGetGraphicsRunningProcesses",
    "nvmlDeviceGetMPSComputeRunningProcesses",
    "nvmlEventSetWait",
}


def test_exported_symbols_are_the_listed_ones_and_the_bindings() -> None:
    listed = set(
        re.findall(r"^FUNCTION\((\w+)\)", (SOURCES / "functions.def").read_text(), re.MULTILINE)
    )
    library = build_shim() / "libnvidia-ml.so.1"
    table = subprocess.run(
        ["nm", "-D", "--defined-only", str(library)], capture_output=True, text=True, check=True
    ).stdout
    exported = {line.split()[-1] for line in table.splitlines()}
    called = set(
        re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', Path(pynvml.__file__).read_text())
    )
    assert exported == listed
    assert exported - called == NOT_IN_BINDING
    soname = subprocess.run(
        ["readelf", "-d", str(library)], capture_output=True, text=True, check=True
    ).stdout
    assert "Library soname: [libnvidia-ml.so.1]" in soname
