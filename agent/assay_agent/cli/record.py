"""`assay-agent record`: writes a trace of the GPUs, to be replayed on a machine without them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from assay_agent import config
from assay_agent.cli.durations import duration_ms
from assay_agent.config import AgentConfig
from assay_agent.telemetry.sources import make_source
from assay_agent.telemetry.trace import TraceWriter


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "record",
        help="record what the GPUs say to a file, for replay",
        description="Writes every poll to a file, one JSON object a line, until the time is over or "
        "^C. The file holds serial numbers and usage, as a window does; it stays on this host "
        "unless you move it. An existing file is never written over.",
        epilog="example: assay-agent record --out trace.jsonl --for 10m",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the new file")
    parser.add_argument(
        "--for", dest="duration_ms", type=duration_ms, metavar="10m", help="default: until ^C"
    )


def run(args: argparse.Namespace) -> int:
    """Records, and says how much."""
    recorder = _Recorder(config.load(args.config), args.out)
    with contextlib.suppress(KeyboardInterrupt):  # how a recording without an end is ended
        asyncio.run(recorder.record(args.duration_ms))
    print(f"{args.out}: {recorder.polls} polls")
    return 0 if recorder.polls else 1


class _Recorder:
    def __init__(self, settings: AgentConfig, out: Path) -> None:
        self._settings = settings
        self._out = out
        self.polls = 0

    async def record(self, duration_ms: int | None) -> None:
        loop = asyncio.get_running_loop()
        source = make_source(self._settings.source)
        end_s = None if duration_ms is None else loop.time() + duration_ms / 1_000
        wait_ms = 0
        try:
            with TraceWriter(self._out, source.kind) as writer:
                while end_s is None or loop.time() < end_s:
                    writer.write(await source.poll(wait_ms))
                    self.polls += 1
                    wait_ms = self._settings.poll_ms
                    if end_s is not None:
                        wait_ms = max(1, min(wait_ms, int((end_s - loop.time()) * 1_000)))
        finally:
            await source.close()
