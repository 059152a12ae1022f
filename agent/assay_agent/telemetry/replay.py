"""A recorded trace as a source: the same polls again, at their own pace or at once."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from assay_agent.telemetry import trace
from assay_agent.telemetry.reading import Depth, Poll
from assay_core.header import Source
from assay_core.leaves import DriverState, Reason

Pace = Literal["real", "at_once"]


class ReplaySource:
    """A trace from its beginning; see GpuSource.

    At the pace "real", polls come as far apart as they were recorded, sooner when the caller waits
    less, and say that they were taken now. "at_once" gives each poll as it was recorded, without
    waiting. After the end of the trace the driver is absent.
    """

    def __init__(self, path: Path, pace: Pace = "real") -> None:
        for _line in trace.read(path):  # every line is checked before the first is believed
            pass
        self._polls: Iterator[Poll] = (line for line in trace.read(path) if isinstance(line, Poll))
        self._pace = pace
        self._paused = False
        self._before: Poll | None = None

    @property
    def kind(self) -> Source:
        """Readings are of another time, and the signed header says so."""
        return Source.REPLAY

    async def poll(self, timeout_ms: int, depth: Depth = Depth.TICK) -> Poll:  # noqa: ARG002
        """See GpuSource; as deep as it was recorded, whatever is asked.

        Raises FileError when the file was changed since it was opened.
        """
        if self._paused:
            await asyncio.sleep(timeout_ms / 1_000)
            return _nothing(DriverState.PAUSED, Reason.IN_MAINTENANCE)
        poll = next(self._polls, None)
        if poll is None:
            await asyncio.sleep(timeout_ms / 1_000)
            return _nothing(DriverState.ABSENT, Reason.DRIVER_ABSENT)
        if self._pace == "at_once":
            return poll
        return await self._at_its_pace(poll, timeout_ms)

    async def pause(self) -> None:
        """See GpuSource."""
        self._paused = True

    async def resume(self) -> None:
        """See GpuSource: goes on where it stopped."""
        self._paused = False
        self._before = None

    async def close(self) -> None:
        """See GpuSource."""
        self._polls = iter(())

    async def _at_its_pace(self, poll: Poll, timeout_ms: int) -> Poll:
        if self._before is not None:
            gap_ms = poll.at_boottime_ms - self._before.at_boottime_ms
            await asyncio.sleep(max(0, min(gap_ms, timeout_ms)) / 1_000)
        self._before = poll
        at_utc_ms, at_boottime_ms = _now_ms()
        shift_ms = at_utc_ms - poll.at_utc_ms
        return dataclasses.replace(
            poll,
            at_utc_ms=at_utc_ms,
            at_boottime_ms=at_boottime_ms,
            events=tuple(
                dataclasses.replace(event, at_ms=event.at_ms + shift_ms) for event in poll.events
            ),
        )


def _nothing(driver: DriverState, reason: Reason) -> Poll:
    at_utc_ms, at_boottime_ms = _now_ms()
    return Poll(
        at_utc_ms=at_utc_ms,
        at_boottime_ms=at_boottime_ms,
        driver=driver,
        host=dict.fromkeys(("driver_version", "nvml_version", "gpu_count"), reason),
        abandoned_processes=0,
        gpus=(),
        events=(),
    )


def _now_ms() -> tuple[int, int]:
    """UTC and CLOCK_BOOTTIME, milliseconds."""
    boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return time.time_ns() // 1_000_000, boottime_ns // 1_000_000
