"""The kernel's log as a second witness of Xids: where it is read from, and how far it was read.

Rules:

1. The journal where its files may be read, else /dev/kmsg where that may be opened, else nothing:
   Xids then come from NVML alone, and the platform leaf says so.
2. A log is taken up where it was left: after a restart nothing is told twice and nothing is lost.
   A boot that is new to the agent is read from its beginning; the first boot of all from now on,
   for what happened before the agent came is not its to tell.
3. How far it was read is written down only once what was told has had time to be sealed. A crash
   in between tells an Xid again rather than never.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from assay_agent import state_file
from assay_agent.machine.journal import JournalReader, folder, program
from assay_agent.machine.kmsg import KmsgReader
from assay_agent.machine.xid_lines import Mention

Choice = Literal["auto", "journal", "kmsg", "off"]
Origin = Literal["journal", "kmsg", "none"]

FILE: Final = "kernel-log.json"
AGAIN_S: Final = 60.0
"""Before a reader that ended is started again."""
_FILE_BYTES_MAX: Final = 4096
_ROUNDING_MS: Final = 2
"""By how much a time may seem earlier than it was: two clocks, each cut to milliseconds."""

Told = Callable[[Mention, int], None]
"""Takes an Xid and its time, UTC milliseconds."""


class Position(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a log was read."""

    boot_id: str
    origin: Origin
    at_ms: int = 0
    """When, UTC milliseconds."""
    not_before_ms: int = 0
    """Lines older than this are not told."""
    sequence: int = -1
    """Of /dev/kmsg: the last record."""
    cursor: str = ""
    """Of the journal: the last line."""


def offered(root: Path, choice: Choice, command: str | None = None) -> Origin:
    """Where the log could be read from, as things are; starts nothing."""
    if choice in ("auto", "journal") and folder(root) is not None and (command or program()):
        return "journal"
    if choice in ("auto", "kmsg") and _opens(root / "dev/kmsg"):
        return "kmsg"
    return "none"


class KernelLog:
    """Follows the log, and starts again when its reader ends. Belongs to one event loop."""

    def __init__(
        self,
        root: Path,
        choice: Choice,
        told: Told,
        *,
        state_dir: Path | None,
        utc_ms: Callable[[], int],
        command: str | None = None,
        again_s: float = AGAIN_S,
    ) -> None:
        """Without a state directory it begins now, and how far it was read is not kept."""
        self._root = root
        self._choice: Choice = choice
        self._told = told
        self._file = None if state_dir is None else state_dir / FILE
        self._utc_ms = utc_ms
        self._command = program() if command is None else command
        self._boot_id = _boot_id(root)
        self._saved = self._load()
        self._reader: KmsgReader | JournalReader | None = None
        self._not_before_ms = 0
        self._again_s = again_s
        self._again_at_s = 0.0
        self._began = False
        self._closed = False

    @property
    def origin(self) -> Origin:
        """Where it is read from now."""
        return "none" if self._reader is None or self._reader.ended else self._origin()

    @property
    def began(self) -> bool:
        """Whether a reader was ever asked for."""
        return self._began

    @property
    def pid(self) -> int | None:
        """Process id of the journal's reader."""
        return self._reader.pid if isinstance(self._reader, JournalReader) else None

    def follow(self) -> None:
        """Starts a reader where there is none and one may be; else does nothing."""
        self._began = True
        if self._closed or self._choice == "off":
            return
        if self._reader is not None and not self._reader.ended:
            return
        now_s = asyncio.get_running_loop().time()
        if now_s < self._again_at_s:
            return
        self._again_at_s = now_s + self._again_s
        failed = isinstance(self._reader, JournalReader)
        if self._reader is not None:
            self._saved = self._position()
            self._reader = None
        # A journal that ended at once may end again: the other way is tried in between.
        ways = (self._kmsg, self._journal) if failed else (self._journal, self._kmsg)
        self._reader = ways[0]() or ways[1]()

    def save(self) -> None:
        """Writes down how far it was read (rule 3: when is the caller's to know)."""
        position = self._position()
        if self._file is None or position is None or _same(position, self._saved):
            return
        # Where the disk is full, it is read again from the place before, at worst.
        if state_file.replace(self._file, msgspec.json.encode(position)):
            self._saved = position

    def close(self) -> None:
        """Stops reading."""
        self._closed = True
        if self._reader is not None:
            self._reader.close()

    def _journal(self) -> JournalReader | None:
        place = folder(self._root) if self._choice in ("auto", "journal") else None
        if place is None or self._command is None:
            return None
        resumed = self._take_up("journal")
        after = None if self._saved is None else resumed.cursor if resumed else ""
        try:
            return JournalReader(
                self._command,
                self._tell,
                after=after,
                boot_id=self._boot_id.replace("-", ""),
                folder=None if self._root == Path("/") else place,
            )
        except OSError:
            return None

    def _kmsg(self) -> KmsgReader | None:
        if self._choice not in ("auto", "kmsg"):
            return None
        resumed = self._take_up("kmsg")
        same_boot = resumed is not None and resumed.boot_id == self._boot_id
        after = resumed.sequence if resumed is not None and same_boot else -1
        try:
            return KmsgReader(str(self._root / "dev/kmsg"), self._tell_since_boot, after=after)
        except OSError:
            return None

    def _take_up(self, origin: Origin) -> Position | None:
        """Where this log was left; None: it was another, and time says what is told already."""
        saved = self._saved
        if saved is None:
            self._not_before_ms = self._utc_ms()
            return None
        if saved.origin == origin:
            self._not_before_ms = saved.not_before_ms
            return saved
        self._not_before_ms = saved.at_ms if saved.boot_id == self._boot_id else 0
        return None

    def _tell(self, told: Mention, at_ms: int) -> None:
        if at_ms + _ROUNDING_MS >= self._not_before_ms:
            self._told(told, at_ms)

    def _tell_since_boot(self, told: Mention, at_us: int) -> None:
        # The kernel stamps its records by a clock that stands still in suspend, as this one does.
        ago_ms = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000_000 - at_us // 1_000
        self._tell(told, self._utc_ms() - max(ago_ms, 0))

    def _position(self) -> Position | None:
        origin = self._origin()
        if origin == "none":
            return None
        at_ms, reader = self._utc_ms(), self._reader
        return Position(
            self._boot_id,
            origin,
            at_ms,
            self._not_before_ms,
            reader.sequence if isinstance(reader, KmsgReader) else -1,
            reader.cursor if isinstance(reader, JournalReader) else "",
        )

    def _origin(self) -> Origin:
        if self._reader is None:
            return "none"
        return "kmsg" if isinstance(self._reader, KmsgReader) else "journal"

    def _load(self) -> Position | None:
        if self._file is None:
            return None
        try:
            with self._file.open("rb") as file:
                return msgspec.json.decode(file.read(_FILE_BYTES_MAX), type=Position)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError):
            return Position("", "none")  # kept, and lost: this boot from its beginning


def _same(position: Position, saved: Position | None) -> bool:
    """Whether nothing was read since."""
    return saved is not None and msgspec.structs.replace(position, at_ms=saved.at_ms) == saved


def _boot_id(root: Path) -> str:
    try:
        return (root / "proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _opens(path: Path) -> bool:
    """Whether it can be read: the kernel says so only when it is opened."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return False
    return True
