"""The kernel's log from /dev/kmsg: one record a read, each with a number that rises from boot."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Final

from assay_agent.machine.xid_lines import KERNEL, MARK, Mention, mention, record

READ_BYTES: Final = 8192
"""A record is never longer; a smaller read is refused by the kernel."""
RECORDS_A_TURN: Final = 256
"""Most records read before others have their turn: a storm must not stop the agent."""
_LINE_BYTES_MAX: Final = 2 * READ_BYTES

Told = Callable[[Mention, int], None]
"""Takes an Xid, and the microseconds since boot or of UTC at which it was written."""


class KmsgReader:
    """Follows the log from a record on. Belongs to one event loop.

    Any file that can be waited for will do, a FIFO too: it has no past, and ends with its writers.
    """

    def __init__(
        self,
        path: str,
        told: Told,
        *,
        after: int,
        read: Callable[[int, int], bytes] = os.read,
    ) -> None:
        """Begins after the record numbered `after`, -1 for the oldest. Raises OSError."""
        self.sequence = after
        """Number of the last record read; -1: none was."""
        self.ended = False
        self._told = told
        self._read = read
        self._rest = b""
        self._file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            asyncio.get_running_loop().add_reader(self._file, self._readable)
        except OSError:
            os.close(self._file)
            raise

    def close(self) -> None:
        """Lets go of the file."""
        if not self.ended:
            self.ended = True
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)

    def _readable(self) -> None:
        for _ in range(RECORDS_A_TURN):
            try:
                data = self._read(self._file, READ_BYTES)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # records were overwritten before we came; the next read goes on after them
            except OSError:
                data = b""
            if not data:
                self.close()
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LINE_BYTES_MAX:
            self._rest = b""
        for line in lines:
            if not line.startswith(b" "):  # more about the record before
                self._take_line(line)

    def _take_line(self, line: bytes) -> None:
        found = record(line)
        if found is None or found.sequence <= self.sequence:
            return
        self.sequence = found.sequence
        if found.facility == KERNEL and MARK in line:
            told = mention(found.text)
            if told is not None:
                self._told(told, found.at_us)
