"""Recording what a source says, window by window, and coming to the same windows from it again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from assay_agent import VERSION
from assay_agent.cutting import Cutter, Plan
from assay_agent.host import Clock
from assay_agent.telemetry import trace
from assay_agent.telemetry.reading import GpuSource, Poll
from assay_agent.telemetry.trace import RecordedWindow, Recording, TraceWriter
from assay_agent.window import Aggregator, Draft
from assay_core import codec, health
from assay_core.errors import FileError
from assay_core.header import CloseReason
from assay_core.leaves import SALT_BYTES, Content, Group, Leaf

LeafKey = tuple[bytes, Group]


def digests(draft: Draft) -> dict[LeafKey, bytes]:
    """SHA-256 of each leaf's bytes under a salt of zeros: salts are not the readings'."""
    return {(each.subject, each.group): _digest(each) for each in draft.contents}


class Recorder:
    """Polls a source as the service does, into a trace; belongs to the caller's event loop."""

    def __init__(
        self,
        path: Path,
        source: GpuSource,
        *,
        poll_ms: int,
        window_ms: int,
        boot_id: bytes,
        clock: Clock,
    ) -> None:
        """Begins a trace at `path`. Raises FileError where there is a file already."""
        self._source = source
        self._poll_ms = poll_ms
        self._window_ms = window_ms
        self._clock = clock
        self._cutter = Cutter()
        begin_utc_ms, begin_boottime_ms = clock.utc_ms(), clock.boottime_ms()
        self._aggregator = Aggregator(
            (), begin_utc_ms=begin_utc_ms, begin_boottime_ms=begin_boottime_ms, boot_id=boot_id
        )
        self._writer = TraceWriter(
            path,
            Recording(
                source.kind,
                VERSION,
                health.RULES_SHA256_8,
                boot_id,
                begin_utc_ms,
                begin_boottime_ms,
            ),
        )
        self.polls = 0
        self.windows = 0

    async def step(self, most_ms: int | None = None) -> None:
        """Takes one poll, which waits `most_ms` at most, and closes the window if it is due."""
        plan = self._plan()
        wait_ms = plan.wait_ms if most_ms is None else min(plan.wait_ms, max(most_ms, 0))
        poll = await self._source.poll(wait_ms, plan.depth)
        self._writer.write(poll)
        self.polls += 1
        self._cutter.polled(poll, plan.depth)
        self._aggregator.add(poll)
        reason = self._cutter.reason(
            self._clock.boottime_ms(),
            begin_ms=self._aggregator.begin_boottime_ms,
            window_ms=self._window_ms,
            polls=self._aggregator.polls,
            has_events=self._aggregator.has_events,
            paused=False,
        )
        if reason is not None:
            self._close_window(reason)

    def close(self) -> None:
        """Ends the trace in good order: what was polled since the last window is one more."""
        if self._aggregator.polls:
            self._close_window(CloseReason.SHUTDOWN)
        self._writer.close()

    def _plan(self) -> Plan:
        return self._cutter.plan(
            self._clock.boottime_ms(),
            begin_ms=self._aggregator.begin_boottime_ms,
            window_ms=self._window_ms,
            poll_ms=self._poll_ms,
            has_events=self._aggregator.has_events,
        )

    def _close_window(self, reason: CloseReason) -> None:
        draft = self._aggregator.draft(
            at_utc_ms=self._clock.utc_ms(),
            at_boottime_ms=self._clock.boottime_ms(),
            close_reason=reason,
        )
        self._writer.write_window(
            RecordedWindow(
                draft.period.end_utc_ms, draft.period.end_boottime_ms, reason, digests(draft)
            )
        )
        self._aggregator.restart(draft)
        self._cutter.closed(draft.period.end_boottime_ms)
        self.windows += 1


@dataclass(frozen=True, slots=True)
class Replayed:
    """A window made again from a trace. `differing`: leaves whose bytes are not the recorded ones,
    or that only one of the two has.
    """

    recorded: RecordedWindow
    draft: Draft
    polls: int
    differing: tuple[LeafKey, ...]


def replay(path: Path, change: Callable[[Poll], Poll] = lambda poll: poll) -> Iterator[Replayed]:
    """Makes each window of a trace again, in order; `change` may alter a poll before it counts.

    Raises FileError, naming the line; also for a trace that another version's rules judged.
    """
    recording = trace.read_recording(path)
    if recording.health_rules != health.RULES_SHA256_8:
        raise FileError(
            f"{path}: recorded under health rules {recording.health_rules}, this agent judges by "
            f"{health.RULES_SHA256_8}; replay it with assay-agent {recording.agent_version}"
        )
    aggregator = Aggregator(
        (),
        begin_utc_ms=recording.begin_utc_ms,
        begin_boottime_ms=recording.begin_boottime_ms,
        boot_id=recording.boot_id,
    )
    for line in trace.read(path):
        if isinstance(line, Poll):
            aggregator.add(change(line))
            continue
        polls = aggregator.polls
        if not polls:
            raise FileError(f"{path}: a window without a poll before it")
        draft = aggregator.draft(
            at_utc_ms=line.at_utc_ms,
            at_boottime_ms=line.at_boottime_ms,
            close_reason=line.close_reason,
        )
        yield Replayed(line, draft, polls, _differing(line.leaves, digests(draft)))
        aggregator.restart(draft)


def _differing(
    recorded: Mapping[LeafKey, bytes], made: Mapping[LeafKey, bytes]
) -> tuple[LeafKey, ...]:
    return tuple(
        key for key in dict.fromkeys((*recorded, *made)) if recorded.get(key) != made.get(key)
    )


def _digest(content: Content) -> bytes:
    return hashlib.sha256(codec.encode_leaf(Leaf(bytes(SALT_BYTES), content))).digest()
