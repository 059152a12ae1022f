"""A feed that is a file of this machine. Whoever writes it puts a whole one in its place (rename)."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from assay_valuer.market.feeds import parquet, rows
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Fetched,
    Format,
    Known,
    Unchanged,
)
from assay_valuer.market.observations import Market

SUFFIXES: Final = {".csv": Format.CSV, ".json": Format.JSON, ".parquet": Format.PARQUET}


@dataclass(frozen=True, slots=True)
class FileFeed:
    """A local file of rows; it has changed when its bytes have."""

    name: str
    market: Market
    path: Path
    format: Format

    async def fetch(self, known: Known) -> Fetched | Unchanged:
        """The file's rows, unless its bytes are those known. Raises FeedUnavailable, FeedMalformed."""
        data = await asyncio.to_thread(read_regular, self.path)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == known.content_sha256:
            return Unchanged()
        table = await read_table(data, self.format, self.market, str(self.path))
        return Fetched(table.rows, table.unread, sha256)


async def read_table(data: bytes, format_: Format, market: Market, name: str) -> rows.Table:
    """The rows in bytes of any format, off the event loop. Raises FeedMalformed, FeedUnavailable."""
    if format_ is Format.PARQUET:
        return await parquet.read(data, market, name)
    return await asyncio.to_thread(rows.parse, data, format_, market, name)


def read_regular(path: Path) -> bytes:
    """A regular file's bytes, all of one moment. It blocks. Raises FeedUnavailable, FeedMalformed."""
    try:
        with open_now(path) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise FeedUnavailable(Fault.FILE, f"{path}: is no regular file")
            if before.st_size > BYTES_MAX:
                raise FeedMalformed(Fault.TOO_LARGE, f"{path}: more than {BYTES_MAX} bytes")
            data = file.read(BYTES_MAX + 1)
            after = os.fstat(file.fileno())
    except OSError as error:
        raise FeedUnavailable(Fault.FILE, f"{path}: cannot be read: {error.strerror}") from error
    if (len(data), after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
        raise FeedUnavailable(
            Fault.FILE, f"{path}: was written to while it was read; put a whole one in its place"
        )
    return data


def open_now(path: Path) -> BinaryIO:
    """Opens a file to read, and waits for nobody: a pipe would wait for who writes it. Raises OSError."""
    return open(path, "rb", opener=_opener)


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
