"""The process that is inside the driver, so that the agent never is.

It answers "look" over its standard input and output, tells of events as they come, and beats
between driver calls; or it answers "attest", once. It ends when it is told to, or when its input ends: never inside a call, since
the thread that reads the input is the one that calls. Signals that would end it are ignored for
the same reason: a process killed inside the driver can take the GPU with it until a reboot.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from typing import BinaryIO, Final

from assay_agent import lean

with lean.bare():  # two MiB
    import dataclasses  # noqa: F401 - for those who take from it below

    import msgspec

from assay_agent.telemetry.nvml_attest import attest
from assay_agent.telemetry.nvml_driver import Driver
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.wire import Ask, Beat, Happened, Told

BEAT_S: Final = 0.2
"""Beats are no closer than this: a look over healthy GPUs is done before the first."""
_ASK_BYTES_MAX: Final = 4096


class Channel:
    """Messages to the agent; both threads speak, one at a time."""

    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._encoder = msgspec.json.Encoder()
        self._spoke_s = time.monotonic()

    def tell(self, message: Told) -> None:
        """Sends one message. Raises BrokenPipeError when the agent has gone."""
        line = self._encoder.encode(message) + b"\n"
        with self._lock:
            self._output.write(line)
            self._output.flush()
            self._spoke_s = time.monotonic()

    def beat(self) -> None:
        """Says that a call has returned, if nothing was said for a while."""
        if time.monotonic() - self._spoke_s >= BEAT_S:
            self.tell(Beat())

    def happened(self, uuid: str, kind: int, code: int) -> None:
        """Tells of an event at once; when the agent has gone there is nobody to tell."""
        try:
            self.tell(Happened(uuid, kind, code, time.time_ns() // 1_000_000))
        except BrokenPipeError:
            return


def serve(asks: BinaryIO, channel: Channel, host_root: str) -> None:
    """Answers until told to end, or until the agent has gone."""
    driver = Driver(channel.beat, channel.happened, host_root=host_root)
    decoder = msgspec.json.Decoder(Ask)
    try:
        while line := asks.readline(_ASK_BYTES_MAX):
            ask = decoder.decode(line)
            if ask.do == "close":
                break
            if ask.do == "attest":
                attest(ask.nonce, channel.tell, channel.beat, lambda: _spoken(asks), host_root)
                break
            look = driver.look(ask.generation, Depth(ask.depth))
            channel.tell(look)
            if look.final:
                break
    except BrokenPipeError:
        pass  # the agent has gone: let go of the driver and end
    driver.close()


def _spoken(asks: BinaryIO) -> bool:
    """Whether there is something to read, or nobody left to say it."""
    return bool(select.select([asks], [], [], 0)[0])


def main() -> None:
    """Runs as `python -m assay_agent.telemetry.nvml_child ROOT`, started by nvml_process.py alone.

    ROOT is where the host's / is seen.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library may print must not end up among the messages
    os.set_blocking(2, False)  # nor must a library that prints much ever wait for a reader
    serve(sys.stdin.buffer, Channel(output), sys.argv[1])


if __name__ == "__main__":
    main()
