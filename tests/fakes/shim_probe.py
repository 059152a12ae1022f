"""NVIDIA's unmodified binding in a process of its own, which answers one question at a time.

The binding loads the driver library once and by name, so each scenario needs its own process.
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.fakes.shim import ShimScenario

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

def gpm(index, *metrics, instance=None):
    def take(sample):
        if instance is None:
            nvmlGpmSampleGet(h(index), sample)
        else:
            nvmlGpmMigSampleGet(h(index), instance, sample)
    request = c_nvmlGpmMetricsGet_t()
    request.version = NVML_GPM_METRICS_GET_VERSION
    request.sample1, request.sample2 = nvmlGpmSampleAlloc(), nvmlGpmSampleAlloc()
    request.numMetrics = len(metrics)
    for place, metric in enumerate(metrics):
        request.metrics[place].metricId = metric
    try:
        take(request.sample1)
        take(request.sample2)
        nvmlGpmMetricsGet(request)
    finally:
        nvmlGpmSampleFree(request.sample1)
        nvmlGpmSampleFree(request.sample2)
    return [[m.nvmlReturn, m.value] for m in request.metrics[: len(metrics)]]

def struct(call, handle, value):
    call(handle, byref(value))
    return value

def wide(handle, *fields):
    return [
        [v.nvmlReturn, v.valueType, v.value.ullVal]
        for v in nvmlDeviceGetFieldValues(handle, list(fields))
    ]

def mig(index, n):
    return nvmlDeviceGetMigDeviceHandleByIndex(h(index), n)

def instances(index):
    found = []
    for n in range(nvmlDeviceGetMaxMigDeviceCount(h(index))):
        try:
            handle = mig(index, n)
        except NVMLError_NotFound:
            break
        size = nvmlDeviceGetAttributes_v2(handle).memorySizeMB
        found.append([nvmlDeviceGetGpuInstanceId(handle), size])
    return found

def count_processes(handle):
    count = c_uint(0)
    call = CDLL("libnvidia-ml.so.1").nvmlDeviceGetComputeRunningProcesses_v3
    return [call(handle, byref(count), None), count.value]

def certificate(handle):
    answer = nvmlDeviceGetConfComputeGpuCertificate(handle)
    return [answer.certChainSize, bytes(answer.certChain[: answer.certChainSize]).hex()]

def report(handle, nonce):
    answer = nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce)
    return bytes(answer.attestationReport[: answer.attestationReportSize]).hex()

def system_register(name):
    kept[name] = nvmlSystemEventSetCreate(nvmlSystemEventSetCreateRequest_v1)
    nvmlSystemRegisterEvents(nvmlSystemRegisterEventRequest_v1, 3, kept[name])

def system_wait(name, timeout_ms):
    data = (c_nvmlSystemEventData_v1_t * 4)()
    version = nvmlSystemEventSetWaitRequest_v1
    events = nvmlSystemEventSetWait(version, kept[name], timeout_ms, data, 4)
    return [[event["eventType"], event["gpuId"]] for event in events]

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
