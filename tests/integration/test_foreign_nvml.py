"""The agent, and the test library itself, against NVML libraries that we did not write.

NVIDIA's own, of three drivers, as Debian redistributes them (scripts/tools.py fetches them by
hash). There is no driver under them here, so each says so; what they export and how they say it is
what the test library is held to.
"""

import asyncio
import ctypes
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import Depth, Poll
from assay_agent.telemetry.surroundings import Surroundings
from assay_core.leaves import DriverState, Reason
from scripts.tools import NVML_LIBRARIES
from tests.fakes.shim import SOURCES, ShimScenario, build_shim

Require = Callable[[str], Path]
AGENT = Path(sys.executable).with_name("assay-agent")
CAPTURE = SOURCES.parents[2] / "shared/data/telemetry/smi_h100-mig__590.48.01.txt"

DRIVERS = {"nvml-470": "470.256.02", "nvml-535": "535.261.03", "nvml-550": "550.163.01"}
UNINITIALIZED, FUNCTION_NOT_FOUND = 1, 13
BEFORE_INIT = {"nvmlInit", "nvmlInit_v2", "nvmlInitWithFlags", "nvmlShutdown", "nvmlErrorString"}
OWN_VERSION = "nvmlSystemGetNVMLVersion"
YOUNGEST = {"nvmlDeviceGetRemappedRows_v2", "nvmlDeviceGetBBXTimeData_v1"}
"""Younger than any library at hand: 595 and 610."""

FUNCTIONS = re.findall(r"^FUNCTION\((\w+)\)", (SOURCES / "functions.def").read_text(), re.MULTILINE)

# Calls each function with nothing, before any init: null, for a symbol that is not there.
CALL_ALL = """
import ctypes, json, sys
library, answers = ctypes.CDLL(sys.argv[1]), {}
for name in sys.argv[2:]:
    function = getattr(library, name, None)
    if function is not None:
        function.argtypes = [ctypes.c_void_p] * 4
    answers[name] = None if function is None else function(None, None, None, None)
print(json.dumps(answers))
"""


@pytest.fixture(params=sorted(NVML_LIBRARIES))
def foreign(request: pytest.FixtureRequest, requires_tool: Require) -> Path:
    return requires_tool(request.param)


def with_library(library: Path) -> dict[str, str]:
    return {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}


def answers(library: Path, env: dict[str, str] | None = None) -> dict[str, int | None]:
    names = [name for name in FUNCTIONS if name not in BEFORE_INIT]
    done = subprocess.run(
        [sys.executable, "-c", CALL_ALL, str(library), *names],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, int | None] = json.loads(done.stdout)
    return told


def test_read_says_that_there_is_no_driver(foreign: Path) -> None:
    done = subprocess.run(
        [AGENT, "read", "--json"],
        env=with_library(foreign),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["host"]["driver_state"] == "absent"
    assert said["host"]["gpu_count"] == {"reason": "driver_absent"}
    assert said["gpus"] == []
    assert "Traceback" not in done.stderr


def test_check_tells_the_library_from_the_driver(foreign: Path) -> None:
    done = subprocess.run(
        [AGENT, "check", "--json"],
        env=with_library(foreign),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    found = {each["about"]: each["state"] for each in json.loads(done.stdout)}
    assert found["driver library"] == "ok"
    assert found["driver"] == "failed"
    assert "Traceback" not in done.stderr


def test_the_source_lives_on_beside_a_library_without_a_driver(
    foreign: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(foreign.parent))

    async def story() -> list[Poll]:
        source = Surroundings(
            NvmlSource(5_000, (50, 200)), utc_ms=lambda: 1, kernel_log="off", state_dir=tmp_path
        )
        try:
            return [await source.poll(20, depth) for depth in (Depth.DAY, Depth.TICK)]
        finally:
            await source.close()

    for poll in asyncio.run(story()):
        assert poll.driver is DriverState.ABSENT
        assert poll.gpus == ()
        assert poll.host["driver_version"] is Reason.DRIVER_ABSENT
        assert poll.abandoned_processes == 0


def test_a_symbol_is_missing_where_it_is_missing_from_nvidias(
    request: pytest.FixtureRequest, foreign: Path, tmp_path: Path
) -> None:
    real = answers(foreign)
    shim = ShimScenario(tmp_path)
    shim.host.set(driver_version=DRIVERS[request.node.callspec.params["foreign"]])
    ours = answers(build_shim() / foreign.name, shim.env())
    lacking = {name for name, answer in real.items() if answer is None}
    assert lacking >= YOUNGEST
    assert {name for name, answer in ours.items() if answer == FUNCTION_NOT_FOUND} == (
        lacking - YOUNGEST
    )
    others = set(real) - lacking - {OWN_VERSION}
    assert {real[name] for name in others} == {UNINITIALIZED}
    assert {ours[name] for name in others} == {UNINITIALIZED}


def test_every_symbol_is_one_of_nvidias(leave_out: Callable[[str], None]) -> None:
    if not CAPTURE.exists():
        leave_out("the captures are not part of the project and not beside it")
    listed = CAPTURE.read_text().partition("capabilities :: nvml-symbols")[2].split()
    assert set(FUNCTIONS) - {name for name in listed if name.startswith("nvml")} == YOUNGEST


def test_return_codes_are_said_as_nvidias_newest_says_them(requires_tool: Require) -> None:
    def said(library: Path) -> list[bytes]:
        function = ctypes.CDLL(str(library)).nvmlErrorString
        function.restype = ctypes.c_char_p
        return [function(code) for code in (*range(40), 999)]

    assert said(build_shim() / "libnvidia-ml.so.1") == said(requires_tool("nvml-550"))


@pytest.mark.parametrize(
    ("name", "says"), [("nvml-470", UNINITIALIZED), ("nvml-535", 0), ("nvml-550", 0)]
)
def test_the_library_says_its_own_version_without_a_driver(
    requires_tool: Require, name: str, says: int
) -> None:
    library = ctypes.CDLL(str(requires_tool(name)))
    text = ctypes.create_string_buffer(80)
    assert library.nvmlSystemGetNVMLVersion(text, 80) == says
    expected = "" if says else f"12.{DRIVERS[name]}"
    assert text.value.decode() == expected
