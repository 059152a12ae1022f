"""`assay-agent read`, `record` and `check` as an operator runs them, over the test driver library."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assay_agent.telemetry import trace
from assay_agent.telemetry.fields import FIELDS
from assay_core.leaves import DriverState
from tests.fakes.shim import ShimScenario

AGENT = Path(sys.executable).with_name("assay-agent")
BARE_ENV = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def shim(tmp_path: Path) -> ShimScenario:
    return ShimScenario(tmp_path)


def agent(env: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [AGENT, *arguments], env=env, capture_output=True, text=True, timeout=60, check=False
    )


def config(folder: Path, text: str) -> str:
    path = folder / "agent.yaml"
    path.write_text(text)
    return str(path)


def test_read_json_has_eight_gpus_and_no_null(shim: ShimScenario) -> None:
    shim.gpu(1).fail("nvmlDeviceGetSerial", code=4)
    done = agent(shim.env(BARE_ENV), "read", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert "null" not in done.stdout
    said = json.loads(done.stdout)
    assert said["source"] == "nvml"
    assert said["host"]["gpu_count"] == 8
    assert said["host"]["driver_state"] == "running"
    assert len(said["gpus"]) == 8
    for gpu in said["gpus"]:
        assert gpu.keys() == {"uuid", *FIELDS}
        assert gpu["uuid"].startswith("GPU-")
        for name in FIELDS:
            assert isinstance(gpu[name], int | str) or gpu[name].keys() == {"reason"}
    assert said["gpus"][1]["serial"] == {"reason": "no_permission"}
    assert said["gpus"][0]["temperature_mc"] == 41_000


@pytest.mark.parametrize("columns", [80, 120])
def test_read_shows_a_line_a_gpu_at_any_width(shim: ShimScenario, columns: int) -> None:
    shim.set_every(load="loaded")
    shim.gpu(1).fail("nvmlDeviceGetSerial", code=4)
    env = shim.env(BARE_ENV) | {"COLUMNS": str(columns)}
    gpus = json.loads(agent(env, "read", "--json").stdout)["gpus"]
    places = [gpu["pci_bus_id"].removeprefix("00000000:").removesuffix(".0") for gpu in gpus]
    serials = [gpu["serial"] for gpu in gpus]
    done = agent(env, "read")
    assert done.returncode == 0
    first, _, _, *lines, why = done.stdout.splitlines()
    assert first == "8 GPUs, driver 590.48.01"
    assert why == f"serial: none, no_permission (GPU {places[1]})"
    assert len(lines) == 8
    assert max(map(len, lines)) <= columns
    for index, (line, serial) in enumerate(zip(lines, serials, strict=True)):
        shown = "none" if index == 1 else serial
        assert line.split()[:5] == [places[index], "H100", "80GB", "HBM3", shown]


def test_a_gpu_that_says_nothing_is_not_passed_over(shim: ShimScenario) -> None:
    shim.gpu(1).lose()
    shim.gpu(2).lose()
    done = agent(shim.env(BARE_ENV), "read")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "6 of 8 GPUs, driver 590.48.01"
    assert "2 of 8 GPUs answer nothing" in done.stderr


def test_a_long_model_name_gives_way_and_not_the_serial(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("seed: 1\nfleets: [{profile: rtx-pro-6000, count: 2}]\n")
    settings = config(tmp_path, f"source: {{kind: simulated, file: {tmp_path}/fleet.yaml}}\n")
    env = BARE_ENV | {"COLUMNS": "80"}
    said = json.loads(agent(env, "read", "--json", "--config", settings).stdout)
    lines = agent(env, "read", "--config", settings).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for gpu, line in zip(said["gpus"], lines[3:], strict=False):
        assert "RTX PRO 6000" in line
        assert gpu["serial"] in line


def test_read_without_a_driver_says_so() -> None:
    done = agent(BARE_ENV, "read", "--json")
    assert done.returncode == 1
    said = json.loads(done.stdout)
    assert said["gpus"] == []
    assert said["host"]["driver_state"] == "absent"
    assert said["host"]["driver_version"] == {"reason": "driver_absent"}
    assert "the driver is absent" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_the_library_prints_is_told_beside_the_answer(
    shim: ShimScenario, tmp_path: Path
) -> None:
    shim.write_text("nonsense")  # the library complains of it on its standard error
    done = agent(shim.env(BARE_ENV), "read", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["host"]["driver_version"] == {"reason": "driver_error"}
    assert "the driver process said" in done.stderr
    assert "nonsense" in done.stderr


def test_read_of_a_hung_driver_returns(shim: ShimScenario, tmp_path: Path) -> None:
    shim.host.hang("nvmlDeviceGetPowerUsage")
    settings = config(tmp_path, "source: {timeout_ms: 500}\n")
    done = agent(shim.env(BARE_ENV), "read", "--json", "--config", settings)
    assert done.returncode == 1
    assert json.loads(done.stdout)["host"]["driver_state"] == "unresponsive"
    assert not shim.calls("nvmlShutdown"), "its process is left in its call"
    shim.host.release()
    shim.wait_for_call("nvmlShutdown")


def test_read_of_a_simulated_host_is_labelled(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("seed: 1\nfleets: [{profile: b200, count: 3}]\n")
    settings = config(tmp_path, f"source: {{kind: simulated, file: {tmp_path}/fleet.yaml}}\n")
    done = agent(BARE_ENV | {"COLUMNS": "200"}, "read", "--config", settings)
    assert done.returncode == 0
    assert "SIMULATED READINGS" in done.stdout
    assert done.stdout.count(" B200 ") == 3


def test_a_recording_is_replayed(shim: ShimScenario, tmp_path: Path) -> None:
    out = tmp_path / "trace.jsonl"
    settings = config(tmp_path, "poll_ms: 100\n")
    done = agent(
        shim.env(BARE_ENV), "record", "--config", settings, "--out", str(out), "--for", "1s"
    )
    assert done.returncode == 0, done.stderr
    polls = list(trace.read(out))
    assert done.stdout == f"{out}: {len(polls)} polls\n"
    assert len(polls) >= 2
    assert {poll.driver for poll in polls} == {DriverState.RUNNING}

    again = agent(shim.env(BARE_ENV), "record", "--out", str(out))
    assert again.returncode == 2
    assert "File exists" in again.stderr

    settings = config(tmp_path, f"source: {{kind: replay, file: {out}}}\n")
    done = agent(BARE_ENV, "read", "--json", "--config", settings)
    said = json.loads(done.stdout)
    assert said["source"] == "replay"
    assert [gpu["serial"] for gpu in said["gpus"]] == [
        gpu.values["serial"] for gpu in polls[0].gpus
    ]


def test_a_recording_ends_on_interrupt(shim: ShimScenario, tmp_path: Path) -> None:
    out = tmp_path / "trace.jsonl"
    settings = config(tmp_path, "poll_ms: 100\n")
    running = subprocess.Popen(
        [AGENT, "record", "--config", settings, "--out", out],
        env=shim.env(BARE_ENV),
        stdout=subprocess.PIPE,
        text=True,
    )
    shim.wait_for_call("nvmlDeviceGetPowerUsage", count=16)
    running.send_signal(signal.SIGINT)
    said, _ = running.communicate(timeout=30)
    assert running.returncode == 0
    assert said == f"{out}: {len(list(trace.read(out)))} polls\n"
    deadline_s = time.monotonic() + 20
    while not shim.calls("nvmlShutdown"):
        assert time.monotonic() < deadline_s, "the driver process lets go"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "trace.jsonl:1: not a trace"),
        ('{"assay_trace": 2, "source": "nvml"}\n', "version 2"),
        ('{"assay_trace": 1, "source": "guess"}\n', "there is no 'guess'"),
        ('{"assay_trace": 1, "source": "nvml"}\n{}\n', "trace.jsonl:2"),
        ('{"assay_trace": 1, "source": "nvml"}\n{"at_utc', "trace.jsonl:2: cut short"),
        ('{"assay_trace": 1, "source": "nvml"}\nnull\n', "trace.jsonl:2"),
    ],
)
def test_a_bad_trace_is_refused_by_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "trace.jsonl").write_text(text)
    settings = config(tmp_path, f"source: {{kind: replay, file: {tmp_path}/trace.jsonl}}\n")
    done = agent(BARE_ENV, "read", "--config", settings)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def found(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, str]]:
    return {finding["about"]: finding for finding in json.loads(done.stdout)}


def test_check_without_a_driver_names_each_fix(tmp_path: Path) -> None:
    settings = config(tmp_path, f"state_dir: {tmp_path}/none\n")
    done = agent(BARE_ENV, "check", "--json", "--config", settings)
    assert (done.returncode, done.stderr) == (1, "")
    findings = found(done)
    assert set(findings) == {
        "driver library",
        "driver",
        "device files",
        "GPUs",
        "PCI bus",
        "kernel log",
        "clock",
        "state directory",
        "metrics",
        "enrolment",
        "certificate",
        "valuer",
    }
    for about in ("driver library", "driver", "state directory", "enrolment", "certificate"):
        assert findings[about]["state"] == "failed"
        assert findings[about]["fix"]
    assert "assay-agent enroll" in findings["enrolment"]["fix"]


def test_check_with_a_driver(shim: ShimScenario, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    shim.every.fail("nvmlDeviceGetSerial", code=4)
    settings = config(tmp_path, f"state_dir: {state}\nspool: {{bytes_max: 1}}\n")
    findings = found(agent(shim.env(BARE_ENV), "check", "--json", "--config", settings))
    assert findings["driver library"]["state"] == "ok"
    assert findings["driver"]["state"] == "ok"
    assert findings["GPUs"]["state"] == "warning"
    assert "serial" in findings["GPUs"]["what"]
    assert findings["state directory"]["state"] == "ok"
    state.chmod(0o755)
    findings = found(agent(shim.env(BARE_ENV), "check", "--json", "--config", settings))
    assert findings["state directory"]["fix"] == f"chmod 0700 {state}"


def test_check_names_the_line_of_a_bad_configuration(tmp_path: Path) -> None:
    settings = config(tmp_path, "poll_ms: 5000\npol_ms: 1\n")
    done = agent(BARE_ENV | {"COLUMNS": "300"}, "check", "--config", settings)
    assert done.returncode == 1
    assert "agent.yaml:" in done.stdout
    assert "pol_ms" in done.stdout
