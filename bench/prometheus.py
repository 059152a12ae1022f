"""What a real Prometheus spends on one scrape of the same fields: the bar that ingest is held to."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import exporter, processes
from bench.exporter import Exporter
from bench.row import MeasurementFailed
from scripts import tools

TARGETS: Final = 60
"""Hosts, each scraped every second: enough that what Prometheus does besides hardly counts."""
WARM_S: Final = 4.0
ROUNDS: Final = 3
ROUND_S: Final = 5.0

_CONFIG: Final = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
  - job_name: hosts
    static_configs:
{targets}
    relabel_configs:
      - {{source_labels: [host], target_label: instance}}
"""
_TARGET: Final = '      - {{targets: ["127.0.0.1:{port}"], labels: {{host: host-{one}}}}}'


@dataclass(frozen=True, slots=True)
class Scrapes:
    """User and system time of Prometheus for one scrape, microseconds, in the round that took least.

    `count` is how many scrapes all rounds had, each of `fields` samples.
    """

    count: int
    fields: int
    cpu_us_each: float


def measure(folder: Path, say: Callable[[str], None], fields: int | None) -> Scrapes:
    """Runs Prometheus over 60 hosts of 8 GPUs with so many fields each, or all that there are.

    Raises MeasurementFailed.
    """
    program = tools.locate("prometheus")
    if isinstance(program, tools.Missing):
        raise MeasurementFailed(f"no Prometheus to compare with: {program.why}")
    with exporter.serving(fields) as host:
        folder.mkdir()
        config = folder / "prometheus.yml"
        rows = [_TARGET.format(port=host.port, one=one) for one in range(TARGETS)]
        config.write_text(_CONFIG.format(targets="\n".join(rows)))
        port = processes.free_port()
        log = folder / "prometheus.log"
        command = [
            str(program),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        with processes.running(command, log) as process:
            say(f"Prometheus scrapes 60 hosts of {host.fields} fields: warming up")
            processes.wait_for_port(port, process, log)
            _wait(lambda: host.scrapes >= 2 * TARGETS)
            time.sleep(WARM_S)
            say(f"Prometheus scrapes 60 hosts of {host.fields} fields: measuring")
            rounds = [_round(process, host, log) for _ in range(ROUNDS)]
    return Scrapes(
        count=sum(count for count, _ in rounds),
        fields=host.fields,
        cpu_us_each=min(each_us for _, each_us in rounds),
    )


def _round(process: subprocess.Popen[bytes], host: Exporter, log: Path) -> tuple[int, float]:
    """Scrapes within a few seconds, and the microseconds each took."""
    used_s, scrapes = processes.cpu_s(process.pid), host.scrapes
    time.sleep(ROUND_S)
    processes.alive(process, log)
    used_s = processes.cpu_s(process.pid) - used_s
    scrapes = host.scrapes - scrapes
    if scrapes < TARGETS * ROUND_S * 0.8:
        raise MeasurementFailed(f"only {scrapes} scrapes in {ROUND_S:.0f} s: too busy a machine")
    return scrapes, used_s / scrapes * 1e6


def _wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        if time.monotonic() > deadline:
            raise MeasurementFailed("Prometheus did not scrape within a minute")
        time.sleep(0.1)
