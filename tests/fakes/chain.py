"""Real chains on loopback, as processes of their own: the development EVM, and anvil.

Each is started on a free port, waited for by asking it, and stopped by its process id.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from assay_valuer.devchain.accounts import development_keys
from assay_valuer.oracle.rpc import ChainUnreachable, JsonRpc
from assay_valuer.oracle.signer import LocalSigner

ROOT = Path(__file__).resolve().parents[2]
START_MAX_S = 60.0
STOP_MAX_S = 20.0


@dataclass(frozen=True, slots=True)
class RunningChain:
    """A chain that answers. Every test's account is funded on it."""

    kind: str
    url: str
    process_id: int

    def rpc(self) -> JsonRpc:
        """A client of its own."""
        return JsonRpc(self.url)


def account(index: int) -> LocalSigner:
    """One of the ten funded accounts; the same on both kinds of chain."""
    return LocalSigner(development_keys()[index])


@contextmanager
def devchain(directory: Path) -> Iterator[RunningChain]:
    """`python -m assay_valuer.devchain` on a free port."""
    port_file = directory / "devchain.port"
    command = [sys.executable, "-m", "assay_valuer.devchain", "--port-file", str(port_file)]
    with _running(command, directory / "devchain.log") as process:
        deadline = time.monotonic() + START_MAX_S
        while not port_file.exists():
            _still_starting(process, deadline, directory / "devchain.log")
            time.sleep(0.05)
        url = f"http://127.0.0.1:{port_file.read_text().strip()}"
        _wait_for_answer(url, process, deadline, directory / "devchain.log")
        yield RunningChain("devchain", url, process.pid)


@contextmanager
def anvil(program: Path, directory: Path, *options: str) -> Iterator[RunningChain]:
    """anvil (`requires_tool("anvil")` names the program), mining each transaction at once unless `options` say otherwise.

    An epoch of one slot, so that its `finalized` block is two behind the newest.
    """
    port = _free_port()
    log = directory / f"anvil-{port}.log"
    command = [
        str(program), "--host", "127.0.0.1", "--port", str(port),
        "--slots-in-an-epoch", "1", "--no-request-size-limit", *options,
    ]  # fmt: skip
    with _running(command, log) as process:
        url = f"http://127.0.0.1:{port}"
        _wait_for_answer(url, process, time.monotonic() + START_MAX_S, log)
        yield RunningChain("anvil", url, process.pid)


class Chains:
    """Chains started when first asked for and stopped together: one of a kind for a test module."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = ExitStack()
        self._running: dict[str, RunningChain] = {}

    def devchain(self) -> RunningChain:
        """The development chain."""
        if "devchain" not in self._running:
            self._running["devchain"] = self._stack.enter_context(devchain(self._directory))
        return self._running["devchain"]

    def anvil(self, program: Path) -> RunningChain:
        """anvil as it starts by default."""
        if "anvil" not in self._running:
            self._running["anvil"] = self._stack.enter_context(anvil(program, self._directory))
        return self._running["anvil"]

    def close(self) -> None:
        """Stops what was started."""
        self._stack.close()


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=ROOT
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


def _wait_for_answer(
    url: str, process: subprocess.Popen[bytes], deadline: float, log: Path
) -> None:
    rpc = JsonRpc(url)
    try:
        while True:
            try:
                rpc.chain_id()
            except ChainUnreachable:
                _still_starting(process, deadline, log)
                time.sleep(0.05)
            else:
                return
    finally:
        rpc.close()


def _still_starting(process: subprocess.Popen[bytes], deadline: float, log: Path) -> None:
    if process.poll() is not None or time.monotonic() > deadline:
        raise RuntimeError(f"the chain did not start:\n{log.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
