"""`assay-agent record`: writes a trace of the GPUs, to be replayed on a machine without them."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from assay_agent import config, host
from assay_agent.cli.durations import duration_ms
from assay_agent.config import AgentConfig
from assay_agent.host import Clock
from assay_agent.recording import Recorder
from assay_agent.telemetry.sources import make_source
from assay_core.instants import format_duration

Show = Callable[[int, str], None]
"""Milliseconds recorded, and what there is of it."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "record",
        help="record what the GPUs say to a file, for replay",
        description="Writes every poll to a file, one JSON object a line, and a line for each "
        "window that the agent would have closed, until the time is over or ^C. The file holds "
        "serial numbers and usage, as a window does; it stays on this host unless you move it. An "
        "existing file is never written over.",
        epilog="example: assay-agent record --out trace.jsonl --for 10m",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file")
    parser.add_argument(
        "--for", dest="duration_ms", type=duration_ms, metavar="10m", help="default: until ^C"
    )


def run(args: argparse.Namespace) -> int:
    """Records, and says how much."""
    with _progress(args.duration_ms) as show:
        recorder = asyncio.run(_record(config.load(args.config), args.out, args.duration_ms, show))
    print(f"{args.out}: {recorder.polls} polls, {recorder.windows} windows")
    return 0 if recorder.polls else 1


async def _record(
    settings: AgentConfig, out: Path, duration_ms: int | None, show: Show
) -> Recorder:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    source = make_source(settings.source)
    try:
        recorder = Recorder(
            out,
            source,
            poll_ms=settings.poll_ms,
            window_ms=settings.window_ms,
            boot_id=host.boot_id(source.kind),
            clock=Clock(),
        )
        try:
            await _steps(recorder, stopping, duration_ms, show)
        finally:
            recorder.close()
        return recorder
    finally:
        await source.close()


async def _steps(
    recorder: Recorder, stopping: asyncio.Event, duration_ms: int | None, show: Show
) -> None:
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    stopped = asyncio.create_task(stopping.wait())
    left_ms = duration_ms
    try:
        while not stopping.is_set() and (left_ms is None or left_ms > 0):
            step = asyncio.create_task(recorder.step(left_ms))
            await asyncio.wait((step, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not step.done():
                step.cancel()
                await asyncio.wait((step,))
            if not step.cancelled():
                step.result()
            past_ms = int((loop.time() - begin_s) * 1_000)
            left_ms = None if duration_ms is None else duration_ms - past_ms
            show(past_ms, f"{recorder.polls} polls, {recorder.windows} windows")
    finally:
        stopped.cancel()


@contextmanager
def _progress(duration_ms: int | None) -> Iterator[Show]:
    """A bar where somebody watches; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _past_ms, _text: None
        return
    from rich.console import Console  # noqa: PLC0415 - only where it is shown
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    length = "until ^C" if duration_ms is None else f"of {format_duration(duration_ms)}"
    columns = (
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn(length),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=duration_ms)
        yield lambda past_ms, text: progress.update(task, completed=past_ms, description=text)
