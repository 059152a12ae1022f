"""`assay-agent read`, `record` and `check` as an operator runs them, over the test driver library."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assay_agent.cli.read import WINDOWS
from assay_core import codec
from assay_core.leaves import Group
from tests.fakes.attesting import CHAIN_PEM, REPORT, DeviceAuthority
from tests.fakes.machine import FakeMachine
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
        assert gpu.keys() == {"uuid", "identity", "health", "condition", "use"}
        assert gpu["uuid"].startswith("GPU-")
    assert said["gpus"][1]["identity"]["serial"] == {"reason": "no_permission"}
    assert said["gpus"][0]["health"]["temperature_mc"] == 41_000


@pytest.mark.parametrize("columns", [80, 120, 200])
def test_read_shows_a_line_a_gpu_at_any_width(shim: ShimScenario, columns: int) -> None:
    shim.set_every(load="loaded")
    shim.gpu(1).fail("nvmlDeviceGetSerial", code=4)
    env = shim.env(BARE_ENV) | {"COLUMNS": str(columns)}
    gpus = json.loads(agent(env, "read", "--json").stdout)["gpus"]
    identities = [gpu["identity"] for gpu in gpus]
    places = [who["pci_bus_id"].removeprefix("00000000:").removesuffix(".0") for who in identities]
    serials = [who["serial"] for who in identities]
    done = agent(env, "read")
    assert done.returncode == 0
    first, _, _, *rest = done.stdout.splitlines()
    lines, notes = rest[:8], rest[8:]
    assert first == "8 GPUs, driver 590.48.01"
    assert f"serial: none, no_permission (GPU {places[1]})" in notes
    assert notes[-1] == f"every field of one: assay-agent read --gpu {places[0]}"
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


def test_a_gpu_that_only_the_bus_has_is_not_passed_over(shim: ShimScenario, tmp_path: Path) -> None:
    shim.gpu(3).unplug()
    machine = FakeMachine(tmp_path / "root").gpus(8).bind(3, "vfio-pci")
    file = config(tmp_path, f"source: {{host_root: {machine.root}, kernel_log: 'off'}}\n")
    done = agent(shim.env(BARE_ENV), "read", "--config", file)
    assert done.returncode == 0
    assert done.stdout.startswith("7 GPUs (8 on the PCI bus), driver 590.48.01\n")


def test_no_gpu_is_counted_where_no_driver_answers(shim: ShimScenario) -> None:
    shim.host.set(driver_loaded=False)
    done = agent(shim.env(BARE_ENV), "read")
    assert (done.returncode, done.stdout) == (1, "driver version not known: driver absent\n")


def test_a_long_model_name_gives_way_and_not_the_serial(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("seed: 1\nfleets: [{profile: rtx-pro-6000, count: 2}]\n")
    settings = config(tmp_path, f"source: {{kind: simulated, file: {tmp_path}/fleet.yaml}}\n")
    env = BARE_ENV | {"COLUMNS": "80"}
    said = json.loads(agent(env, "read", "--json", "--config", settings).stdout)
    lines = agent(env, "read", "--config", settings).stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for gpu, line in zip(said["gpus"], lines[3:], strict=False):
        assert "RTX PRO 6000" in line
        assert gpu["identity"]["serial"] in line


def test_a_terminal_with_no_room_says_which_columns_it_leaves_out(shim: ShimScenario) -> None:
    done = agent(shim.env(BARE_ENV) | {"COLUMNS": "50"}, "read")
    head = done.stdout.splitlines()[1]
    left_out = next(line for line in done.stdout.splitlines() if line.startswith("no room here"))
    for heading in ("serial", "°C", "busy %", "GiB", "W", "ECC", "remap", "action"):
        assert (heading in head) is (f" {heading}" not in left_out.replace(",", ""))
    assert max(map(len, done.stdout.splitlines()[1:11])) <= 50


@pytest.mark.parametrize("columns", [80, 140])
def test_read_of_one_gpu_shows_every_field_of_it(shim: ShimScenario, columns: int) -> None:
    shim.set_every(load="loaded")
    shim.every.fail("nvmlDeviceGetSramEccErrorStatus", code=4)
    env = shim.env(BARE_ENV) | {"COLUMNS": str(columns)}
    gpu = json.loads(agent(env, "read", "--json").stdout)["gpus"][3]
    place = gpu["identity"]["pci_bus_id"].removeprefix("00000000:").removesuffix(".0")
    done = agent(env, "read", "--gpu", place)
    assert done.returncode == 0, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    for group in (Group.IDENTITY, Group.HEALTH, Group.CONDITION, Group.USE):
        for name in codec.fields_of(group):
            assert (name in rows) is (name not in WINDOWS), name
    assert gpu["identity"]["serial"] in rows["serial"]
    assert "none: no permission" in rows["ecc_sram_l2"]
    assert "18 up of 18" in rows["nvlink_states"]
    assert "Hopper" in rows["architecture"]
    assert ("SRAM errors" in rows["ecc_sram_corrected"]) is (columns == 140)
    assert max(map(len, done.stdout.splitlines())) <= columns
    for name in (gpu["identity"]["serial"], gpu["uuid"], gpu["uuid"][:12]):
        said = json.loads(agent(env, "read", "--json", "--gpu", name).stdout)
        assert [one["uuid"] for one in said["gpus"]] == [gpu["uuid"]]


@pytest.mark.parametrize("name", ["GPU-", "zz:00", "00"])
def test_a_name_of_no_gpu_or_of_several_is_refused(shim: ShimScenario, name: str) -> None:
    done = agent(shim.env(BARE_ENV), "read", "--gpu", name)
    assert done.returncode == 2
    assert f"--gpu {name}:" in done.stderr
    assert "00000000:1B:00.0" in done.stderr


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


def test_a_recording_is_read_as_a_host_is(shim: ShimScenario, tmp_path: Path) -> None:
    out = tmp_path / "trace.jsonl"
    env = shim.env(BARE_ENV)
    now = json.loads(agent(env, "read", "--json").stdout)
    done = agent(env, "record", "--out", str(out), "--for", "1s")
    assert done.returncode == 0, done.stderr

    again = agent(env, "record", "--out", str(out))
    assert again.returncode == 2
    assert "File exists" in again.stderr

    settings = config(tmp_path, f"source: {{kind: replay, file: {out}}}\n")
    done = agent(BARE_ENV, "read", "--json", "--config", settings)
    said = json.loads(done.stdout)
    assert said["source"] == "replay"
    assert [gpu["identity"] for gpu in said["gpus"]] == [gpu["identity"] for gpu in now["gpus"]]
    done = agent(BARE_ENV | {"COLUMNS": "100"}, "read", "--config", settings)
    assert done.stdout.startswith("REPLAY READINGS. 8 GPUs")


def found(done: "subprocess.CompletedProcess[str]") -> dict[str, dict[str, str]]:
    return {finding["about"]: finding for finding in json.loads(done.stdout)}


def test_check_without_a_driver_names_each_fix(tmp_path: Path) -> None:
    settings = config(tmp_path, f"state_dir: {tmp_path}/none\n")
    done = agent(BARE_ENV, "check", "--json", "--config", settings)
    assert (done.returncode, done.stderr) == (1, "")
    findings = found(done)
    assert findings["configuration"]["what"] == settings
    assert set(findings) == {
        "configuration",
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


def test_check_says_what_evidence_the_host_gives_and_why_not(
    shim: ShimScenario, tmp_path: Path
) -> None:
    def said(settings: Path, env: dict[str, str]) -> tuple[str, str]:
        findings = found(agent(env, "check", "--json", "--config", settings))
        assert "Traceback" not in str(findings)
        return findings["hardware evidence"]["state"], findings["hardware evidence"]["code"]

    off = config(tmp_path, f"state_dir: {tmp_path}/none\n")
    (tmp_path / "on").mkdir()
    on = config(tmp_path / "on", f"state_dir: {tmp_path}/none\nevidence: {{nvml: true}}\n")
    with DeviceAuthority(8) as authority:
        env = shim.env(BARE_ENV) | {"ASSAY_SHIM_EVIDENCE": authority.socket}
        assert said(off, env) == ("note", "evidence-needs-mode")
        assert said(on, env) == ("warning", "evidence-missing")
        shim.host.set(cc_feature=1)
        assert said(off, env) == ("note", "evidence-off")
        assert authority.asked == [(CHAIN_PEM, slot, bytes(32)) for slot in range(8)]
        assert said(on, env) == ("ok", "evidence-given")
        nonces = [nonce for what, _, nonce in authority.asked if what == REPORT]
        assert len(nonces) == 8
        assert len({*nonces, bytes(32)}) == 2
        shim.gpu(3).fail("nvmlDeviceGetConfComputeGpuAttestationReport", code=999)
        assert said(on, env) == ("warning", "evidence-partial")


def test_check_names_the_line_of_a_bad_configuration(tmp_path: Path) -> None:
    settings = config(tmp_path, "poll_ms: 5000\npol_ms: 1\n")
    done = agent(BARE_ENV | {"COLUMNS": "300"}, "check", "--config", settings)
    assert done.returncode == 1
    assert "agent.yaml:" in done.stdout
    assert "pol_ms" in done.stdout
