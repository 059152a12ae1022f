"""Parquet, read in a process of its own, which has little memory and less time.

What decodes it is a large library in C++, and what it decodes may have been written to break it. The
child checks what the file says of its own size before any of it is decoded, lives under limits of the
kernel in case the file lies, and answers in CSV: so the same table gives the very same rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Final

from assay_valuer.market.feeds import parquet_child
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Format,
)
from assay_valuer.market.feeds.rows import ROWS_MAX, Table, kept, parse
from assay_valuer.market.observations import Market

TIME_MAX_S: Final = 60.0
_ANSWER_MAX: Final = BYTES_MAX
_TOLD_MAX: Final = 2_048
_CHILD: Final = "assay_valuer.market.feeds.parquet_child"
_FAULTS: Final = {
    parquet_child.TOO_LARGE: Fault.TOO_LARGE,
    parquet_child.COLUMNS: Fault.COLUMNS,
    parquet_child.MALFORMED: Fault.MALFORMED,
}


async def read(data: bytes, market: Market, name: str) -> Table:
    """The rows in a Parquet file's bytes. Raises FeedMalformed, FeedUnavailable."""
    if len(data) > BYTES_MAX:
        raise FeedMalformed(Fault.TOO_LARGE, f"{name}: more than {BYTES_MAX} bytes")
    try:
        async with asyncio.timeout(TIME_MAX_S):
            status, answer, told = await _run(data, market)
    except TimeoutError:
        raise FeedMalformed(
            Fault.TOO_LARGE, f"{name}: takes longer than {TIME_MAX_S:.0f} s to read"
        ) from None
    except OSError as error:
        raise FeedUnavailable(
            Fault.PARQUET, f"{name}: no process to read Parquet in: {error.strerror}"
        ) from error
    judge(status, answer, told, name)
    return await asyncio.to_thread(parse, answer, Format.CSV, market, name)


def judge(status: int, answer: bytes, told: str, name: str) -> None:
    """Holds what the child did against what it should. Raises FeedMalformed, FeedUnavailable."""
    if len(answer) > _ANSWER_MAX:
        raise FeedMalformed(Fault.TOO_LARGE, f"{name}: more than {_ANSWER_MAX} bytes as CSV")
    if status == parquet_child.MISSING:
        raise FeedUnavailable(
            Fault.PARQUET, f"{name}: Parquet needs pyarrow: install gpu-assay[parquet]"
        )
    if status in _FAULTS:
        raise FeedMalformed(_FAULTS[status], f"{name}: {told}")
    if status != 0:
        raise FeedUnavailable(
            Fault.PARQUET, f"{name}: the process that reads Parquet ended with status {status}"
        )


async def _run(data: bytes, market: Market) -> tuple[int, bytes, str]:
    """The child's exit status, its answer up to one byte too many, and its last word on stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",  # neither the environment nor the working directory says what is imported
        "-m",
        _CHILD,
        str(ROWS_MAX),
        str(2 * BYTES_MAX),
        *kept(market),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # No secret of ours is in its environment; its allocator is the one that the limits bind.
        env={"ARROW_DEFAULT_MEMORY_POOL": "system", "PATH": os.defpath},
    )
    try:
        _, answer, told = await asyncio.gather(
            _feed(process, data),
            _answer(process),
            _at_most(process.stderr, _TOLD_MAX),
        )
    except BaseException:  # however this ends, cancelled too, the child does not go on alone
        _kill(process)
        raise
    finally:
        await _end(process)
    lines = told.decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, answer, ascii(lines[-1])[1:-1] if lines else ""


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Waits for the child's end, with everything closed that was open to it.

    asyncio knows of a process's end only once its pipes are empty.
    """
    if process.stdin is not None:
        process.stdin.close()
    for stream in (process.stdout, process.stderr):
        while stream is not None and await stream.read(65_536):
            pass
    await process.wait()


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()
    except (BrokenPipeError, ConnectionResetError):
        return  # it has read enough to refuse the rest


async def _answer(process: asyncio.subprocess.Process) -> bytes:
    """What the child answers; one that goes on beyond the bound is ended."""
    answer = await _at_most(process.stdout, _ANSWER_MAX + 1)
    if len(answer) > _ANSWER_MAX:
        _kill(process)
    return answer


async def _at_most(stream: asyncio.StreamReader | None, size: int) -> bytes:
    """What a stream has up to its end, or up to a size: then the rest is nobody's."""
    found = bytearray()
    while stream is not None and len(found) < size:
        part = await stream.read(size - len(found))
        if not part:
            break
        found += part
    return bytes(found)
