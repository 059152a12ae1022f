"""The agent's end of a driver process: starts it, asks, listens, and knows when it is stuck."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from typing import IO, Final

import msgspec
import structlog

from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.waiting import Signal
from assay_agent.telemetry.wire import (
    LINE_BYTES_MAX,
    Ask,
    Attested,
    Attesting,
    Beat,
    Happened,
    Look,
    Told,
)

COMMAND: Final = (sys.executable, "-P", "-m", "assay_agent.telemetry.nvml_child")
"""-P: the folder the agent was started in is not searched for modules."""

_READ_BYTES: Final = 64 * 1024
_COMPLAINTS_BYTES_MAX: Final = 4 * 1024
_ATTESTED_MAX: Final = 128
"""Answers about evidence that are kept: more than a host has GPUs."""


class DriverProcess:
    """One driver process. Never killed: it ends itself when it is not inside the driver."""

    def __init__(self, happened: Callable[[Happened], None], host_root: str) -> None:
        self._happened: Callable[[Happened], None] | None = happened
        self._loop = asyncio.get_running_loop()
        self._decoder = msgspec.json.Decoder(Told)
        self._changed = Signal()
        self._buffer = bytearray()
        self.look: Look | None = None
        """The answer to the last question, once there is one."""
        self.attesting: Attesting | None = None
        self.attested: list[Attested] = []
        """What it has answered so far when it was asked for evidence."""
        self.asked = False
        """A question is out that was not answered."""
        self.ended = False
        """It has closed its output: it has ended, or is about to."""
        self.spoke_s = self._loop.time()
        """When it last said anything, on the event loop's clock."""
        # A session of its own: ^C at a terminal goes to the agent alone. And nothing of the
        # agent's is inherited: a process left behind would keep open whatever reads our output.
        self._process = subprocess.Popen(  # noqa: S603  # our own module, in our own interpreter
            (*COMMAND, host_root),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._input = _pipe(self._process.stdin)
        self._output = _pipe(self._process.stdout)
        self._complaints = _pipe(self._process.stderr)
        os.set_blocking(self._complaints.fileno(), False)
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)
        self._loop.add_reader(self._output.fileno(), self._readable)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask_look(self, generation: int, depth: Depth) -> None:
        """Asks for a look; one question at a time."""
        self.look = None
        self.asked = True
        self.spoke_s = self._loop.time()
        self._tell(Ask("look", generation, int(depth)))

    def ask_attest(self, nonce: bytes) -> None:
        """Asks for evidence; it ends when it has answered for every GPU."""
        self.asked = True
        self.spoke_s = self._loop.time()
        self._tell(Ask("attest", nonce=nonce))

    def ask_close(self) -> None:
        """Tells it to let go of the driver and end, as soon as it is out of any call."""
        self._tell(Ask("close"))

    def forget(self) -> None:
        """No longer listens to what it says; it ends when it comes back from the driver."""
        self._happened = None
        self._close_input()

    async def wait(self, until_s: float) -> None:
        """Until it answered or ended, or until it said nothing new by `until_s`."""
        while self.asked and not self.ended:
            if not await self._changed.wait(until_s):
                return

    async def wait_end(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        until_s = self._loop.time() + timeout_s
        while self._process.poll() is None:
            if self._loop.time() >= until_s:
                return False
            await asyncio.sleep(0.01)
        self._close()
        return True

    def reap(self) -> bool:
        """Whether it has ended; its remains are cleared away."""
        if self._process.poll() is None:
            return False
        self._close()
        return True

    def _tell(self, ask: Ask) -> None:
        try:
            os.write(self._input.fileno(), msgspec.json.encode(ask) + b"\n")
        except (OSError, ValueError):  # it has ended, or its input is closed: both seen elsewhere
            return

    def _readable(self) -> None:
        try:
            data = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.spoke_s = self._loop.time()
        self._buffer += data
        try:
            self._take_lines()
        except (msgspec.DecodeError, UnicodeDecodeError):
            data = b""  # not our language: nothing more from it is believed
        if not data or len(self._buffer) > LINE_BYTES_MAX:
            self.ended = True
            self._loop.remove_reader(self._output.fileno())
            self._close_input()
        self._changed.send()

    def _take_lines(self) -> None:
        while (end := self._buffer.find(b"\n")) >= 0:
            message = self._decoder.decode(bytes(self._buffer[:end]))
            del self._buffer[: end + 1]
            if isinstance(message, Look):
                self.look = message
                self.asked = False
            elif isinstance(message, Happened) and self._happened is not None:
                self._happened(message)
            elif isinstance(message, Attesting):
                self.attesting = message
            elif isinstance(message, Attested) and len(self.attested) < _ATTESTED_MAX:
                self.attested.append(message)
            elif not isinstance(message, Beat | Happened):
                raise msgspec.DecodeError("not a message")

    def _close_input(self) -> None:
        if not self._input.closed:
            self._input.close()

    def _close(self) -> None:
        self.ended = True
        self._close_input()
        if not self._output.closed:
            self._loop.remove_reader(self._output.fileno())
            self._output.close()
            self._log_complaints()
        self._changed.send()

    def _log_complaints(self) -> None:
        """What it, or the driver's library in it, printed as an error; kept until it has ended."""
        try:
            complaints = os.read(self._complaints.fileno(), _COMPLAINTS_BYTES_MAX)
        except OSError:
            complaints = b""
        self._complaints.close()
        if complaints:
            text = complaints.decode(errors="replace").strip()
            # To stderr whatever is configured: the output of a command is for its answer.
            log = structlog.wrap_logger(structlog.PrintLogger(sys.stderr))
            log.warning("the driver process said", pid=self.pid, text=text)


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the driver process has no pipes")
    return pipe
