"""Processes under measurement: starting and stopping them by id, their CPU and memory from /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.row import MeasurementFailed

STOP_MAX_S: Final = 20.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """User and system time of all of a process's threads, seconds: fields 14 and 15 of its stat."""
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def rss_kib(pid: int) -> int:
    """Resident memory, KiB."""
    return _kib(_read(pid, "status"), "VmRSS")


def anonymous_kib(pid: int) -> int:
    """Resident memory that is no file's, KiB: what a process has taken, whatever the page cache does."""
    return _kib(_read(pid, "status"), "RssAnon")


def pss_kib(pid: int) -> int:
    """Proportional set size, KiB: what is shared is divided among those who share it."""
    return _kib(_read(pid, "smaps_rollup"), "Pss")


def family(pid: int) -> tuple[int, ...]:
    """The process and all its descendants."""
    children = _read(pid, f"task/{pid}/children").split()
    return (pid, *(one for child in children for one in family(int(child))))


def environment(**more: str) -> dict[str, str]:
    """Ours without proxies, which loopback does not need."""
    kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    return kept | more


@contextmanager
def running(
    command: Sequence[str], log: Path, *, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with its output in `log`, stopped by its id at the end."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment() if env is None else env),
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_MAX_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, given: str | None = None
) -> str:
    """Runs a command to its end and returns its output; `given` is its standard input.

    Raises MeasurementFailed.
    """
    done = subprocess.run(
        command,
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env=dict(environment() if env is None else env),
    )
    if done.returncode != 0:
        raise MeasurementFailed(
            f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr}"
        )
    return done.stdout


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until something listens on a loopback port. Raises MeasurementFailed."""
    deadline = time.monotonic() + 60
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        alive(process, log)
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"nothing listens on port {port}:\n{tail(log)}")
        time.sleep(0.05)


def alive(process: subprocess.Popen[bytes], log: Path) -> None:
    """Raises MeasurementFailed where the process has ended."""
    if process.poll() is not None:
        raise MeasurementFailed(f"a process ended with {process.returncode}:\n{tail(log)}")


def tail(log: Path) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError) as error:
        raise MeasurementFailed(f"process {pid} has ended; see its log") from error


def _kib(text: str, name: str) -> int:
    for line in text.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise MeasurementFailed(f"/proc does not tell {name} on this machine")
