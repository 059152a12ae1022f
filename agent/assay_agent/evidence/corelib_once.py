"""Corelib's program: reads a nonce from the socket it was started with, answers once, and ends.

Runs as root, as `python -I -m assay_agent.evidence.corelib_once` from assay-corelib@.service, and
does as little as can be done: whoever may connect can have the GPUs sign a nonce, and no more. It
ignores what would end it, since a process that is killed while it speaks with a GPU may leave it
waiting (docs/adr/0006): a library that hangs holds this process and no other, and its caller gives
up by itself.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Final

import msgspec

from assay_agent.evidence import corelib

NONCE_BYTES: Final = 32
TALK_TIMEOUT_S: Final = 10.0
"""How long the caller may take to ask, and to take its answer."""


def main() -> int:
    """Answers whoever is connected to standard input. Exit status 1: nobody asked in full."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=os.dup(0)) as connection:
        # What the library may print, or read, must not be mixed with what is said here.
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        os.dup2(2, 1)
        connection.settimeout(TALK_TIMEOUT_S)
        try:
            nonce = _nonce(connection)
            if nonce is None:
                print("the caller sent no nonce of 32 bytes", file=sys.stderr)  # noqa: T201
                return 1
            connection.sendall(msgspec.json.encode(corelib.told(nonce)))
        except OSError as error:  # the caller went away, or is too slow
            print(f"the caller did not take its answer: {error}", file=sys.stderr)  # noqa: T201
            return 1
    return 0


def _nonce(connection: socket.socket) -> bytes | None:
    """Exactly so many bytes; None where the caller stops earlier."""
    nonce = b""
    while len(nonce) < NONCE_BYTES:
        more = connection.recv(NONCE_BYTES - len(nonce))
        if not more:
            return None
        nonce += more
    return nonce


if __name__ == "__main__":
    sys.exit(main())
