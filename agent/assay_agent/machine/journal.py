"""The kernel's log from systemd's journal, which a group may read: journalctl in a child process.

The journal's files have no other stable reader than systemd's own; its library is bound to the
system's Python, where there is one. The child follows, holds a few MiB and sleeps; it ends when it
is told to, and by itself when its output has no reader.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

import msgspec

from assay_agent.machine.xid_lines import MARK, Entry, Mention, mention

LINE_BYTES_MAX: Final = 64 * 1024
_READ_BYTES: Final = 64 * 1024
_PROGRAMS: Final = ("/usr/bin/journalctl", "/bin/journalctl")
_FOLDERS: Final = ("var/log/journal", "run/log/journal")
_MACHINES_MAX: Final = 16
_END_TIMEOUT_S: Final = 1.0

Told = Callable[[Mention, int], None]
"""Takes an Xid, and the UTC milliseconds at which the journal received it."""


def program() -> str | None:
    """The journal's reader, where there is one."""
    return next((path for path in _PROGRAMS if os.access(path, os.X_OK)), None)


def folder(root: Path) -> Path | None:
    """Where this user may read the system's journal; None where nowhere.

    Without its file journalctl would show this user's own lines alone, and say nothing of it.
    """
    for name in _FOLDERS:
        try:
            machines = sorted((root / name).iterdir())[:_MACHINES_MAX]
        except OSError:
            continue
        for machine in machines:
            if os.access(machine / "system.journal", os.R_OK):
                return root / name
    return None


class JournalReader:
    """Follows the kernel's lines. Belongs to one event loop.

    `after`: the cursor to begin after; "" for the beginning of this boot; None for its last line.
    """

    def __init__(
        self, command: str, told: Told, *, after: str | None, boot_id: str, folder: Path | None
    ) -> None:
        self.ended = False
        self._told = told
        self._cursor = after or ""
        self._last = b""
        self._rest = b""
        self._skipping = False
        self._decoder = msgspec.json.Decoder(Entry)
        self._process = subprocess.Popen(  # noqa: S603  # systemd's program, every argument ours
            _arguments(command, after, boot_id, folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
            start_new_session=True,
        )
        self._output = _pipe(self._process.stdout)
        os.set_blocking(self._output.fileno(), False)
        asyncio.get_running_loop().add_reader(self._output.fileno(), self._readable)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def cursor(self) -> str:
        """Where the last line read stands; "" before the first."""
        if self._last:
            with contextlib.suppress(msgspec.MsgspecError):  # no line of the journal's
                self._cursor = self._decoder.decode(self._last).cursor
            self._last = b""
        return self._cursor

    def close(self) -> None:
        """Ends the process. It is only a reader of files: it ends at once."""
        if not self._output.closed:
            asyncio.get_running_loop().remove_reader(self._output.fileno())
            self._output.close()
        self.ended = True
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _readable(self) -> None:
        try:
            data = os.read(self._output.fileno(), _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if not self._skipping:
                self._take(line)
            self._skipping = False
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest, self._skipping = b"", True

    def _take(self, line: bytes) -> None:
        self._last = line
        # Other lines are the many: what is no line of the driver's is not taken apart. A message
        # that is not UTF-8 is a list of numbers, and may be one.
        if MARK not in line and b'"MESSAGE":[' not in line.replace(b" ", b""):
            return
        try:
            entry = self._decoder.decode(line)
        except msgspec.MsgspecError:
            return
        at_ms = entry.at_ms
        if entry.of_kernel and at_ms is not None:
            told = mention(entry.text)
            if told is not None:
                self._told(told, at_ms)


def _arguments(command: str, after: str | None, boot_id: str, folder: Path | None) -> list[str]:
    arguments = [command, "--follow", "--output=json", "--quiet", "--no-pager"]
    arguments.append("--output-fields=MESSAGE,SYSLOG_FACILITY,_TRANSPORT")
    if folder is not None:
        arguments.append(f"--directory={folder}")
    if after is None:
        arguments.append("--lines=1")
    else:
        arguments.append("--no-tail")
        # After a cursor of an earlier boot its last lines come too: an Xid before a crash is told.
        arguments.append(f"--after-cursor={after}" if after else f"_BOOT_ID={boot_id}")
    return [*arguments, "_TRANSPORT=kernel"]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise RuntimeError("the journal's reader has no output")
    return pipe
