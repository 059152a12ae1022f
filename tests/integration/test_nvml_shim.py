"""The test driver library, through NVIDIA's unmodified binding.

Everything runs in a process of its own: the binding loads the library once, by name.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.fakes.shim import SOURCES, ShimScenario, build_shim

UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 1, 2, 3, 6
DRIVER_NOT_LOADED, TIMEOUT, FUNCTION_NOT_FOUND, GPU_IS_LOST, UNKNOWN = 9, 10, 13, 15, 999

# Answers one expression a line: its value, or the NVML code it raised.
PROBE = """
import json, sys, threading
from pynvml import *

kept, threads = {}, {}

def h(index):
    return nvmlDeviceGetHandleByIndex(index)

def keep(name, value):
    kept[name] = value

def answer(work):
    try:
        return {"value": work()}
    except NVMLError as error:
        return {"error": error.value}

def start(name, work):
    thread = threading.Thread(target=lambda: keep(name, answer(work)), daemon=True)
    threads[name] = thread
    thread.start()

def finish(name):
    threads[name].join(30)
    return kept[name]

def field(handle, *fields):
    return [[v.nvmlReturn, v.value.uiVal] for v in nvmlDeviceGetFieldValues(handle, list(fields))]

def wait(name, timeout_ms):
    event = nvmlEventSetWait_v2(kept[name], timeout_ms)
    return [nvmlDeviceGetIndex(event.device), event.eventType, event.eventData]

def register(name, *indexes):
    kept[name] = nvmlEventSetCreate()
    for index in indexes:
        nvmlDeviceRegisterEvents(h(index), nvmlEventTypeXidCriticalError, kept[name])

def gpm(index, *metrics):
    request = c_nvmlGpmMetricsGet_t()
    request.version = NVML_GPM_METRICS_GET_VERSION
    request.sample1, request.sample2 = nvmlGpmSampleAlloc(), nvmlGpmSampleAlloc()
    request.numMetrics = len(metrics)
    for place, metric in enumerate(metrics):
        request.metrics[place].metricId = metric
    try:
        nvmlGpmSampleGet(h(index), request.sample1)
        nvmlGpmSampleGet(h(index), request.sample2)
        nvmlGpmMetricsGet(request)
    finally:
        nvmlGpmSampleFree(request.sample1)
        nvmlGpmSampleFree(request.sample2)
    return [[m.nvmlReturn, m.value] for m in request.metrics[: len(metrics)]]

def struct(call, handle, value):
    call(handle, byref(value))
    return value

for line in sys.stdin:
    print(json.dumps(answer(lambda: eval(line))), flush=True)
"""


class Probe:
    """A process that uses the binding, one question at a time."""

    def __init__(self, env: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROBE],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answer(self, expression: str) -> dict[str, object]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self.end()
        decoded: dict[str, object] = json.loads(line)
        return decoded

    def value(self, expression: str) -> object:
        answer = self.answer(expression)
        assert "value" in answer, (expression, answer)
        return answer["value"]

    def error(self, expression: str) -> object:
        answer = self.answer(expression)
        assert "error" in answer, (expression, answer)
        return answer["error"]

    def init(self) -> "Probe":
        self.value("nvmlInit()")
        return self

    def end(self) -> str:
        """Stop the process; what it said on stderr."""
        self._process.kill()
        return self._process.communicate()[1]


class Bench:
    """A scenario, and the processes that look at it."""

    def __init__(self, folder: Path) -> None:
        self.shim = ShimScenario(folder)
        self._probes: list[Probe] = []

    def probe(self, env: dict[str, str] | None = None) -> Probe:
        self._probes.append(Probe(env or self.shim.env()))
        return self._probes[-1]

    def close(self) -> None:
        for probe in self._probes:
            probe.end()


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


def test_use_outside_init_and_shutdown(bench: Bench) -> None:
    probe = bench.probe()
    probe.value("nvmlInit()")
    probe.value("keep('handle', h(0))")
    probe.value("nvmlShutdown()")
    assert probe.error("nvmlDeviceGetName(kept['handle'])") == UNINITIALIZED
    assert probe.error("nvmlShutdown()") == UNINITIALIZED


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
