"""scripts/shim_profile.py: what nvidia-smi says of real GPUs, as scenarios of the test library."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from scripts import shim_profile
from tests.fakes.shim import ROOT
from tests.fakes.shim_probe import Bench

CAPTURES = ROOT.parent / "shared" / "data" / "telemetry"

# Small, invented, and in nvidia-smi's layout: two GPUs, one of them cut up.
INVENTED = """
==============NVSMI LOG==============

Driver Version                                         : 610.10
CUDA Version                                           : 13.3

Attached GPUs                                          : 2
GPU 00000000:1B:00.0
    Product Name                                       : NVIDIA Test Card
    Product Architecture                               : Hopper
    Persistence Mode                                   : Disabled
    MIG Mode
        Current                                        : Disabled
        Pending                                        : Disabled
    Serial Number                                      : 1654321000017
    GPU UUID                                           : GPU-0a1b2c3d-0000-4000-8000-00000000000f
    GPU PDI                                            : 0xd52bae2e458244e2
    GPU Recovery Action                                : Drain P2P
    PCI
        Device Id                                      : 0x233010DE
        Bus Id                                         : 00000000:1B:00.0
        GPU Link Info
            PCIe Generation
                Max                                    : 5
                Current                                : 3
    Performance State                                  : P2
    Clocks Event Reasons
        Idle                                           : Not Active
        SW Power Cap                                   : Active
        HW Slowdown                                    : Active
            HW Thermal Slowdown                        : Active
    Clocks Event Reasons Counters
        SW Power Capping                               : 17 us
    FB Memory Usage
        Total                                          : 81559 MiB
        Reserved                                       : 479 MiB
        Used                                           : 100 MiB
    ECC Mode
        Current                                        : Enabled
    ECC Errors
        Aggregate
            SRAM Uncorrectable Parity                  : 3
        Unrepairable Memory                            : Yes
    Remapped Rows                                      : N/A
    Temperature
        GPU Shutdown T.Limit Temp                      : -8 C
        Memory Current Temp                            : N/A
    GPU Power Readings
        Average Power Draw                             : 69.85 W
        Instantaneous Power Draw                       : N/A
    Processes
        GPU instance ID                   : N/A
        Process ID                        : 11
            Type                          : C
        GPU instance ID                   : N/A
        Process ID                        : 12
            Type                          : C
GPU 00000000:43:00.0
    Product Name                                       : NVIDIA Test Card
    Product Architecture                               : Hopper
    MIG Mode
        Current                                        : Enabled
    MIG Device
        Index                                          : 0
        GPU Instance ID                                : 9
        Device Attributes
            Shared
                Multiprocessor count                   : 16
        Shared FB Memory Usage
            Total                                      : 9984 MiB
            Used                                       : 9 MiB
    Serial Number                                      : 0000000000000
    Remapped Rows                                      : N/A
    Processes                                          : None
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def test_what_it_says_is_what_the_library_answers(bench: Bench) -> None:
    bench.shim.write_text(shim_profile.convert(INVENTED, "idle"))
    probe = bench.probe().init()
    assert probe.value("nvmlDeviceGetCount()") == 2
    assert probe.value("nvmlSystemGetDriverVersion()") == "610.10"
    assert probe.value("nvmlDeviceGetName(h(0))") == "NVIDIA Test Card"
    assert probe.value("nvmlDeviceGetSerial(h(0))") == "1654321000017"
    assert probe.value("nvmlDeviceGetUUID(h(0))") == "GPU-0a1b2c3d-0000-4000-8000-00000000000f"
    assert probe.value("nvmlDeviceGetPdi(h(0))") == 0xD52BAE2E458244E2
    assert probe.value("nvmlDeviceGetPciInfo(h(1)).busId") == "00000000:43:00.0"
    assert probe.value("nvmlDeviceGetPersistenceMode(h(0))") == 0
    assert probe.value("field(h(0), 230, 74)") == [[0, 3], [0, 17_000]]
    assert probe.value("nvmlDeviceGetCurrPcieLinkGeneration(h(0))") == 3
    assert probe.value("nvmlDeviceGetPerformanceState(h(0))") == 2
    assert probe.value("nvmlDeviceGetCurrentClocksEventReasons(h(0))") == 0x4 | 0x8 | 0x40
    assert probe.value("nvmlDeviceGetTotalEccErrors(h(0), 1, 1)") == 3
    assert probe.value("nvmlDeviceGetPowerUsage(h(0))") == 69_850
    assert probe.value("nvmlDeviceGetFieldValues(h(0), [193])[0].value.siVal") == -8
    assert probe.value("field(h(0), 82, 186)") == [[3, 0], [3, 0]]
    assert probe.error("nvmlDeviceGetRemappedRows(h(0))") == 3
    assert probe.value("count_processes(h(0))") == [7, 2]
    assert probe.value("instances(1)") == [[9, 9984]]
    assert probe.value("len(nvmlDeviceGetSerial(h(1)).strip('0'))")  # masked: one was made up
    assert probe.value("gpm(0, 2)") == [[0, 0.0]]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no GPU in it: this is not what `nvidia-smi -q` says"),
        ("# idle :: dmon\n", "the capture has no section 'idle :: query (-q)'"),
        (
            "GPU 00000000:1B:00.0\n    GPU Recovery Action : Pray\n",
            "GPU Recovery Action: 'Pray' is none of None, Reset",
        ),
        (
            "GPU 00000000:1B:00.0\n    FB Memory Usage\n        Total : much\n",
            "FB Memory Usage / Total: 'much' does not begin with a number",
        ),
    ],
)
def test_what_is_no_such_output_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, complaint: str
) -> None:
    file = tmp_path / "capture.txt"
    file.write_text(text)
    assert shim_profile.main([str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{file}: {complaint}" in said.err


# What both the capture and the profile restated from it by hand answer; asked of GPU 0. Left out is
# what a capture masks or its host decides: identifiers, place, driver, traffic since boot.
LINKS = "field(h(0), 91, (164, 0), (165, 17))"
QUESTIONS = (
    "nvmlDeviceGetName(h(0))",
    "nvmlDeviceGetBoardPartNumber(h(0))",
    "nvmlDeviceGetVbiosVersion(h(0))",
    "nvmlDeviceGetInforomImageVersion(h(0))",
    "nvmlDeviceGetArchitecture(h(0))",
    "nvmlDeviceGetMigMode(h(0))",
    "nvmlDeviceGetEccMode(h(0))",
    "nvmlDeviceGetPowerUsage(h(0))",
    "nvmlDeviceGetEnforcedPowerLimit(h(0))",
    "nvmlDeviceGetPowerManagementDefaultLimit(h(0))",
    "nvmlDeviceGetPerformanceState(h(0))",
    "nvmlDeviceGetPowerManagementLimitConstraints(h(0))",
    "nvmlDeviceGetCurrentClocksEventReasons(h(0))",
    "nvmlDeviceGetCurrPcieLinkGeneration(h(0))",
    "nvmlDeviceGetCurrPcieLinkWidth(h(0))",
    "nvmlDeviceGetMaxPcieLinkWidth(h(0))",
    "nvmlDeviceGetRepairStatus(h(0))",
    "nvmlDeviceGetRemappedRows(h(0))",
    "nvmlDeviceGetNumFans(h(0))",
    "nvmlDeviceGetPersistenceMode(h(0))",
    "nvmlDeviceGetRetiredPagesPendingStatus(h(0))",
    "nvmlDeviceGetTemperatureV(h(0), 0)",
    "nvmlDeviceGetMarginTemperature(h(0))",
    "[nvmlDeviceGetClockInfo(h(0), domain) for domain in range(4)]",
    "[nvmlDeviceGetMaxClockInfo(h(0), domain) for domain in range(4)]",
    "nvmlDeviceGetMemoryInfo(h(0), nvmlMemory_v2).total >> 20",
    "nvmlDeviceGetMemoryInfo(h(0), nvmlMemory_v2).used >> 20",
    "nvmlDeviceGetMemoryInfo(h(0), nvmlMemory_v2).reserved >> 20",
    "(lambda r: [r.max, r.high, r.none])(nvmlDeviceGetRowRemapperHistogram(h(0)))",
    "nvmlDeviceGetUtilizationRates(h(0)).gpu",
    "field(h(0), 82, 142, 143, 185, 186, 187, 188, 190, 193, 194, 195, 196, 230, 269, 270, 271)",
    LINKS,
    "instances(0)",
    "count_processes(h(0))",
    "gpm(0, 20)[0][0]",
    "struct(nvmlDeviceGetGpuFabricInfoV, h(0), c_nvmlGpuFabricInfo_v3_t()).state",
)


@pytest.mark.parametrize(
    ("name", "profile", "state"),
    [
        ("smi_h100-80gb-hbm3__590.48.01.txt", "h100", "idle"),
        ("smi_h100-80gb-hbm3__590.48.01.txt", "h100", "load"),
        ("smi_h100-mig__590.48.01.txt", "h100-mig", "idle"),
        ("smi_h100-mig__590.48.01.txt", "h100-mig", "load"),
        ("smi_h200__590.48.01.txt", "h200", "idle"),
        ("smi_h200__590.48.01.txt", "h200", "load"),
        # Not idle: that query was made while the card still worked; the profile is of a later row.
        ("smi_l40s__595.80.txt", "l40s", "load"),
    ],
)
def test_real_captures_say_what_the_profiles_restate(
    bench: Bench, leave_out: Callable[[str], NoReturn], name: str, profile: str, state: str
) -> None:
    if not (CAPTURES / name).exists():
        leave_out(f"the capture {name} is not part of the project and not beside it")
    capture = shim_profile.convert((CAPTURES / name).read_text(), state)
    bench.shim.write_text(capture)
    real = bench.probe().init()
    answers = [real.answer(question) for question in QUESTIONS]
    driver = real.value("nvmlSystemGetDriverVersion()")
    with bench.shim.batch():
        bench.shim.host.set(gpus=1, driver_version=str(driver))
        bench.shim.set_every(profile=profile, load="loaded" if state == "load" else "idle")
    restated = bench.probe().init()
    differing = {
        question: (answer, own)
        for question, answer in zip(QUESTIONS, answers, strict=True)
        if (own := restated.answer(question)) != answer
    }
    if profile == "h100-mig":
        del differing[LINKS]  # of a GPU in MIG mode nvidia-smi does not tell them
    assert not differing
