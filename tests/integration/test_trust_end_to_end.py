"""From a TPM and a driver to a level of assurance: agent and valuer as processes, over mutual TLS.

The TPM is a real swtpm, the driver the test library under NVIDIA's unmodified binding. Both are made
up, and so their makers are named by the valuer's policy: the last test is of one that names neither.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from demo.simulated_tpm import Maker
from tests.fakes import swtpm
from tests.fakes.attesting import DeviceAuthority
from tests.fakes.shim import ShimScenario
from tests.integration.test_valuer_process import ValuerProcess

AGENT = Path(sys.executable).parent / "assay-agent"
GPUS = 2
WAIT_S = 60


@pytest.fixture
def tpm(requires_tool):
    maker = Maker()
    program = requires_tool("swtpm")
    with (  # a socket's path is short: pytest's folders may be deeper
        tempfile.TemporaryDirectory(prefix="tpm-") as folder,
        swtpm.running(program, Path(folder), maker) as running,
    ):
        yield running, maker


@pytest.fixture
def devices() -> Iterator[DeviceAuthority]:
    with DeviceAuthority(GPUS) as serving:
        yield serving


class Host:
    """One agent's process, over the test driver."""

    def __init__(self, folder: Path, shim: ShimScenario, devices: DeviceAuthority) -> None:
        self.config = folder / "agent.json"
        self.folder = folder
        self.environment = os.environ | shim.env({}) | {"ASSAY_SHIM_EVIDENCE": devices.socket}
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, tpm: object, maker: Maker, *, evidence: bool) -> None:
        chain = self.folder / "ek_chain.pem"
        chain.write_bytes(
            b"".join(one.public_bytes(Encoding.PEM) for one in (maker.intermediate, maker.root))
        )
        settings = {
            "state_dir": str(self.folder / "agent"),
            "poll_ms": 500,
            "window_ms": 1_000,
            "metrics": {"listen": None},
            "source": {"kind": "nvml", "kernel_log": "off"},
            "evidence": {"nvml": evidence},
            "tpm": {"device": str(tpm), "ek_chain": str(chain)},
        }
        self.config.write_text(json.dumps(settings))

    def command(self, *arguments: str, text: str = "") -> str:
        done = subprocess.run(
            [AGENT, *arguments, "--config", self.config],
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self.environment,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self) -> None:
        with (self.folder / "agent.log").open("wb") as log:
            self.process = subprocess.Popen(
                [AGENT, "run", "--config", self.config],
                stdin=subprocess.DEVNULL,
                stderr=log,
                env=self.environment,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(20) == 0
            self.process = None


@pytest.fixture
def host(tmp_path: Path, devices: DeviceAuthority) -> Iterator[Host]:
    shim = ShimScenario(tmp_path, gpus=GPUS)
    shim.host.set(cc_feature=1, cc_environment=2, cc_ready=1)
    for slot, device in enumerate(devices.devices):
        shim.gpu(slot).set(pdi=device.pdi)
    made = Host(tmp_path, shim, devices)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


@pytest.fixture
def valuer(tmp_path: Path) -> Iterator[ValuerProcess]:
    made = ValuerProcess(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait()


def begin(valuer: ValuerProcess, evidence: dict[str, object]) -> str:
    """A valuer that runs under this policy; returns a token."""
    settings = f"tick_s: 1\nwindow_ms: 1000\npolicy: {json.dumps({'evidence': evidence})}\n"
    valuer.config.write_text(valuer.config.read_text() + settings)
    assert valuer.command("init").returncode == 0
    valuer.start()
    asyncio.run(valuer.serving())
    return valuer.command("token", "create", "--hosts", "1", "--site", "lab").stdout


def levels(valuer: ValuerProcess) -> list[int]:
    gpus = json.loads(valuer.command("gpu", "list", "--json").stdout)["gpus"]
    return [gpu["result"]["assurance"] for gpu in gpus if gpu["result"] is not None]


def reach(valuer: ValuerProcess, host: Host, expected: list[int]) -> None:
    found: list[int] = []
    for _ in range(WAIT_S):
        found = levels(valuer)
        if found == expected:
            return
        time.sleep(1)
    raise AssertionError(
        f"{found}\n{findings(valuer)}\n{(host.folder / 'agent.log').read_text()}\n{(valuer.folder / 'log').read_text()}"
    )


def policy(maker: Maker, devices: DeviceAuthority) -> dict[str, object]:
    root = maker.root.fingerprint(maker.root.signature_hash_algorithm).hex()
    return {
        "tpm_interval_s": 5,
        "device_interval_s": 5,
        "answer_within_s": 20,
        "simulated_tpm_roots": [root],
        "device_roots": sorted(devices.maker.roots),
        "ocsp": "waived",
    }


def findings(valuer: ValuerProcess) -> set[str]:
    gpus = json.loads(valuer.command("gpu", "list", "--json").stdout)["gpus"]
    return {one["code"] for gpu in gpus for one in gpu["result"]["findings"]}


def test_a_host_with_a_tpm_and_devices_that_answer_reaches_l2(valuer, host, devices, tpm):
    running, maker = tpm
    token = begin(valuer, policy(maker, devices))
    host.configure(running.address, maker, evidence=True)
    host.command("enroll", text=token)
    host.start()
    reach(valuer, host, [2] * GPUS)
    said = findings(valuer)
    assert {"assurance.l2", "assurance.simulated_tpm", "assurance.simulated_device"} <= said
    host.stop()
    assert valuer.stop(signal.SIGTERM) == 0
    assert "entries checked" in valuer.command("check").stdout


def test_without_evidence_of_devices_it_stays_at_l1_and_says_why(valuer, host, devices, tpm):
    running, maker = tpm
    token = begin(valuer, policy(maker, devices))
    host.configure(running.address, maker, evidence=False)
    host.command("enroll", text=token)
    host.start()
    reach(valuer, host, [1] * GPUS)
    assert "assurance.no_device" in findings(valuer)


def test_makers_that_the_policy_does_not_name_prove_nothing(valuer, host, devices, tpm):
    running, maker = tpm
    believing = policy(maker, devices) | {"simulated_tpm_roots": [], "device_roots": []}
    token = begin(valuer, believing)
    host.configure(running.address, maker, evidence=True)
    host.command("enroll", text=token)
    host.start()
    reach(valuer, host, [0] * GPUS)
    assert "assurance.tpm_unknown" in findings(valuer)
