"""The systemd units: hardened, and written so that nothing inside a driver call is killed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parent.parent.parent / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
DAEMONS = ("assay-agent.service", "assay-valuer.service")
MANUAL = SYSTEMD.parent / "docs" / "evidence-collectors.md"
CORELIB, CORELIB_SOCKET = "assay-corelib@.service", "assay-corelib.socket"


def settings(name: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (SYSTEMD / name).read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def run(*command: object) -> subprocess.CompletedProcess[str]:
    argv = [str(word) for word in command]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_exposure_is_at_most_two(requires_tool, unit):
    done = run(
        requires_tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", unit
    )
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout


def test_the_threshold_can_fail(requires_tool, tmp_path):
    bare = tmp_path / "bare.service"
    bare.write_text("[Service]\nExecStart=/bin/true\n")
    done = run(
        requires_tool("systemd-analyze"), "security", "--offline=true", "--threshold=20", bare
    )
    assert done.returncode != 0


@pytest.mark.parametrize(
    ("drop_in", "group"), [(None, None), ("journal.conf", "systemd-journal"), ("tpm.conf", "tss")]
)
def test_the_agents_exposure(requires_tool, tmp_path, drop_in, group):
    """Reading the journal, or using the TPM, is a drop-in's to add: it costs a tenth."""
    copy = tmp_path / "assay-agent.service"
    copy.write_text((SYSTEMD / copy.name).read_text())
    if drop_in is not None:
        folder = tmp_path / f"{copy.name}.d"
        folder.mkdir()
        text = (SYSTEMD / folder.name / drop_in).read_text()
        assert f"\nSupplementaryGroups={group}\n" in text
        (folder / drop_in).write_text(text)
    threshold = 13 if drop_in is None else 14
    done = run(
        requires_tool("systemd-analyze"),
        "security",
        "--offline=true",
        f"--threshold={threshold}",
        copy,
    )
    assert done.returncode == 0, done.stdout
    assert ("Service runs with supplementary groups" in done.stdout) is bool(group)


def test_systemd_understands_every_line(requires_tool, tmp_path):
    """All that it may miss is the program, which is installed elsewhere."""
    copies = []
    for unit in (*UNITS, SYSTEMD / CORELIB_SOCKET):
        text = re.sub(
            r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE
        )
        copies.append(tmp_path / unit.name)
        copies[-1].write_text(text)
    done = run(requires_tool("systemd-analyze"), "verify", *copies)
    said = done.stdout + done.stderr
    ours = [line for line in said.splitlines() if "assay" in line]
    assert ours == []


def test_both_are_watched_and_unprivileged():
    assert {unit.name for unit in UNITS} == {*DAEMONS, CORELIB}
    for unit in DAEMONS:
        found = settings(unit)
        assert found["Type"] == ["notify"]
        assert found["WatchdogSec"]
        assert found["User"][0].startswith("assay-")
        assert found["CapabilityBoundingSet"] == [""]
        assert found["LoadCredential"]
        assert found["LimitCORE"] == ["0"]


def test_the_agent_may_open_nothing_but_what_nvml_opens():
    found = settings("assay-agent.service")
    assert found["DevicePolicy"] == ["closed"]
    nodes = {line.split()[0] for line in found["DeviceAllow"]}
    assert nodes == {"/dev/nvidiactl", "char-nvidia", "char-nvidia-frontend"}
    assert settings("assay-agent.service.d/tpm.conf")["DeviceAllow"] == ["/dev/tpmrm0 rw"]
    assert settings("assay-valuer.service")["PrivateDevices"] == ["yes"]


def test_nothing_ever_kills_a_process_inside_a_driver_call():
    for unit in ("assay-agent.service", CORELIB):
        found = settings(unit)
        assert found["SendSIGKILL"] == ["no"]
        assert found["KillMode"] == ["mixed"]
        assert found["OOMPolicy"] == ["continue"]
        assert "MemoryMax" not in found
        assert "RuntimeMaxSec" not in found
        assert "FinalKillSignal" not in found
    assert settings(CORELIB)["TimeoutStartSec"] == ["infinity"]


def test_the_one_program_that_is_root_has_two_capabilities_no_network_and_one_caller():
    """Two for PCI configuration space; the socket is the agent's, and off until it is enabled."""
    service, listens = settings(CORELIB), settings(CORELIB_SOCKET)
    assert service["CapabilityBoundingSet"] == ["CAP_SYS_ADMIN CAP_SYS_RAWIO"]
    assert service["AmbientCapabilities"] == [""]
    assert service["PrivateNetwork"] == service["NoNewPrivileges"] == ["yes"]
    assert service["DevicePolicy"] == ["closed"]
    assert service["StandardInput"] == ["socket"]
    assert " -I -m assay_agent.evidence.corelib_once" in service["ExecStart"][0]
    assert "WantedBy" not in service
    assert (listens["SocketMode"], listens["SocketGroup"]) == (["0660"], ["assay-agent"])
    assert (listens["Accept"], listens["MaxConnections"]) == (["yes"], ["1"])
    (socket,) = listens["ListenStream"]
    assert (
        f"evidence: {{corelib: {socket}}}" in MANUAL.read_text()
    )  # where operators are told to look


def test_the_exposure_of_the_program_that_is_root(requires_tool):
    done = run(
        requires_tool("systemd-analyze"),
        "security",
        "--offline=true",
        "--threshold=15",
        SYSTEMD / CORELIB,
    )
    assert done.returncode == 0, done.stdout
