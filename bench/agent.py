"""The agent at work over the test driver library, beside nvitop's exporter over the same library.

Everything is on: readings of every depth, GPU performance, the kernel's log where this machine lets
one read it, metrics scraped every 15 s, windows sent. It polls once a second here; its default is
5 s.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from assay_agent import spool_file
from assay_agent.keys import SEALING, Host, KeyStore
from assay_agent.pem import new_sealing_key, new_tls_key, signing_request
from assay_core.header import SCHEMA
from assay_core.instants import DAY_MS
from assay_valuer import ca
from bench import fleet, processes
from bench.row import Context, Measurement, MeasurementFailed, Row
from tests.fakes.shim import ShimScenario

BIN: Final = Path(sys.executable).parent
HOST_ID: Final = "spiffe://assay.bench/site/bench/host/0"
POLL_MS: Final = 1_000
WINDOW_MS: Final = 60_000
"""A fifth of the default, so that what sealing costs is in the figure, and more than its share."""
EVENT_WAIT_MS: Final = 1_000
WARM_S: Final = 8.0
MEASURE_S: Final = 60.0
SCRAPE_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class _Used:
    """What processes used: percent of a core, MiB resident, MiB of it that is theirs."""

    core_pct: float
    rss_mib: float
    pss_mib: float


@dataclass(frozen=True, slots=True)
class Running:
    """An agent that runs, and where its metrics are."""

    process: subprocess.Popen[bytes]
    metrics_port: int
    log: Path
    state: Path

    def pids(self) -> tuple[int, ...]:
        """Parent and child. Raises MeasurementFailed where there are others, or not both."""
        processes.alive(self.process, self.log)
        found = processes.family(self.process.pid)
        if len(found) != 2:
            raise MeasurementFailed(f"the agent is {len(found)} processes, not parent and child")
        return found

    def scrape(self) -> int:
        """Reads the metrics; returns how many bytes they are."""
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10
        ) as page:
            return len(page.read())


def environment(folder: Path) -> tuple[ShimScenario, dict[str, str]]:
    """8 busy GPUs, and the environment in which they are there.

    Without what only a pretended driver costs: a log of its calls, and looking for events, which
    only the agent waits for; a real driver blocks in that wait.
    """
    # nvitop would look for who they are, of which the test library knows nothing, and log that.
    shim = ShimScenario(folder).set_every(load="loaded", compute_processes=0)
    env = shim.env(processes.environment())
    del env["ASSAY_SHIM_CALL_LOG"]
    env["ASSAY_SHIM_WAIT_POLL_MS"] = str(EVENT_WAIT_MS)
    return shim, env


def measure(context: Context) -> Sequence[Row]:
    """Both at once, each reading 8 busy GPUs every second, for a minute."""
    folder = context.folder
    _, env = environment(folder)
    nvitop = [str(BIN / "nvitop-exporter"), "--port", str(processes.free_port())]
    log = folder / "nvitop.log"
    with (
        running(folder, env) as agent,
        processes.running([*nvitop, "--interval", "1"], log, env=env) as exporter,
    ):
        context.say("warming up")
        time.sleep(WARM_S)
        processes.alive(exporter, log)
        page_bytes = agent.scrape()
        pids = (agent.pids(), (exporter.pid,))
        context.say(f"measuring both for {MEASURE_S:.0f} s")
        before_s = [sum(map(processes.cpu_s, group)) for group in pids]
        began_s = time.monotonic()
        while time.monotonic() < began_s + MEASURE_S:
            time.sleep(SCRAPE_S)
            agent.scrape()
        ours, theirs = (
            _used(group, before, time.monotonic() - began_s)
            for group, before in zip(pids, before_s, strict=True)
        )
    sealed = agent.log.read_text().count('"sealed"')
    if not sealed:
        raise MeasurementFailed(f"the agent sealed {sealed} windows; see its log")
    return _rows(ours, theirs, sealed, page_bytes)


def _rows(ours: _Used, theirs: _Used, sealed: int, page_bytes: int) -> list[Row]:
    return [
        Row(
            name="agent_cpu_vs_nvitop",
            value=ours.core_pct,
            unit="% of a core",
            bound=theirs.core_pct,
            bound_is="the bound is nvitop's exporter over the same driver library, meanwhile",
            ratio=ours.core_pct / theirs.core_pct,
            target=0.5,
            judged="ratio",
            better="lower",
            note=f"8 GPUs at 1 Hz for {MEASURE_S:.0f} s; the agent sealed, spooled and sent "
            f"{sealed} windows of {WINDOW_MS // 1000} s; its metrics ({page_bytes:,} bytes) were "
            f"scraped every {SCRAPE_S:.0f} s",
        ),
        Row(
            name="agent_rss_mib",
            value=ours.rss_mib,
            unit="MiB",
            bound=theirs.rss_mib,
            bound_is="the bound is nvitop's exporter, one process",
            ratio=ours.rss_mib / theirs.rss_mib,
            target=80,
            judged="value",
            better="lower",
            note=f"the sum of both processes; {ours.pss_mib:.1f} MiB with what they share "
            f"counted once (nvitop {theirs.pss_mib:.1f})",
        ),
    ]


def _used(pids: Sequence[int], before_s: float, seconds: float) -> _Used:
    used_s = sum(map(processes.cpu_s, pids)) - before_s
    return _Used(
        core_pct=used_s / seconds * 100,
        rss_mib=sum(map(processes.rss_kib, pids)) / 1024,
        pss_mib=sum(map(processes.pss_kib, pids)) / 1024,
    )


@contextmanager
def running(
    folder: Path,
    env: dict[str, str],
    *,
    command: Sequence[str] = (str(BIN / "assay-agent"), "run"),
    poll_ms: int = POLL_MS,
    window_ms: int = WINDOW_MS,
) -> Iterator[Running]:
    """`assay-agent run`, enrolled and connected to a valuer that stores nothing."""
    state, valuer = folder / "agent", folder / "valuer"
    valuer.mkdir()
    now_ms = time.time_ns() // 1_000_000
    certificate, key = ca.create_authority("bench", now_ms)
    (valuer / "ca.pem").write_bytes(certificate)
    ca.write_secret(valuer / "ca.key", key)
    keys = KeyStore(state)
    keys.prepare()
    keys.write(SEALING, new_sealing_key())
    public = keys.signer().public_key
    with fleet.bare(valuer, valuer, {HOST_ID: public}) as (_, port):
        _enrol(keys, valuer, port, now_ms)
        config = folder / "agent.yaml"
        metrics_port = processes.free_port()
        config.write_text(
            yaml.safe_dump(
                {
                    "state_dir": str(state),
                    "poll_ms": poll_ms,
                    "window_ms": window_ms,
                    "metrics": {"listen": f"127.0.0.1:{metrics_port}"},
                }
            )
        )
        log = folder / "agent.log"
        with processes.running([*command, "--config", str(config)], log, env=env) as process:
            processes.wait_for_port(metrics_port, process, log)
            yield Running(process, metrics_port, log, state)
            processes.alive(process, log)


def _enrol(keys: KeyStore, valuer: Path, port: int, now_ms: int) -> None:
    """Writes what enrolment would have left in the state directory."""
    authority = ca.load_authority(valuer / "ca.pem", valuer / "ca.key")
    tls_key = new_tls_key()
    issued = authority.issue_host(signing_request(tls_key), HOST_ID, now_ms, DAY_MS)
    keys.store_tls(tls_key, issued.chain_pem, authority.certificate_pem)
    path = keys.state_dir / spool_file.FILE
    spool_file.create(path, host_id=HOST_ID, incarnation=0, first_previous_hash=b"")
    endpoint = f"127.0.0.1:{port}"
    keys.store_host(
        Host(
            host_id=HOST_ID,
            incarnation=0,
            previous_head_hash="",
            enrollment_endpoint=endpoint,
            attestation_endpoint=endpoint,
            schema_max=SCHEMA,
        )
    )


COST: Final = Measurement(
    ("agent_cpu_vs_nvitop", "agent_rss_mib"),
    "the agent's CPU and memory, 8 GPUs at 1 Hz, beside nvitop's exporter",
    measure,
)
