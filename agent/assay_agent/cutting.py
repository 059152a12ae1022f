"""When a window is cut, and how deep the next poll looks: the service's rules and the recorder's.

Pure: the boot clock is an argument, milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_agent.telemetry.reading import Depth, Poll
from assay_core.header import CloseReason
from assay_core.instants import DAY_MS, MINUTE_MS, SECOND_MS

WINDOW_MS_LEAST: Final = SECOND_MS
WINDOW_MS_MOST: Final = 15 * MINUTE_MS
EVENT_WINDOW_MS_LEAST: Final = SECOND_MS // 2
"""Least time between two windows closed by events: a storm of events fills one window, and what
comes right after another is still sealed well within a second."""
SEAL_AGAIN_MS: Final = 10 * SECOND_MS
"""After a write that failed; the period goes on meanwhile."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next poll is: how long it may wait for events, and how deep it looks."""

    wait_ms: int
    depth: Depth


class Cutter:
    """Follows one chain of windows."""

    __slots__ = ("_day_ms", "_deep", "_event_not_before_ms", "_not_before_ms")

    def __init__(self) -> None:
        self._not_before_ms = 0
        self._event_not_before_ms = 0
        self._day_ms: int | None = None
        self._deep = False

    def plan(
        self, now_ms: int, *, begin_ms: int, window_ms: int, poll_ms: int, has_events: bool
    ) -> Plan:
        """The next poll of a period that began at `begin_ms`.

        The one that ends the period looks as deep as a window; the first, and one a day, deeper.
        """
        left_ms = max(self._due_ms(begin_ms, window_ms, has_events=has_events) - now_ms, 0)
        wait_ms = min(left_ms, poll_ms)
        if self._day_ms is None:
            return Plan(0, Depth.DAY)  # the first look at once
        if left_ms > poll_ms:
            return Plan(wait_ms, Depth.TICK)
        due = now_ms + wait_ms - self._day_ms >= DAY_MS
        return Plan(wait_ms, Depth.DAY if due else Depth.WINDOW)

    def polled(self, poll: Poll, depth: Depth) -> None:
        """A poll was taken that was to look so deep; a driver that did not answer is asked again.

        A source looks as deep as a window by itself when something happened.
        """
        self._deep = depth >= Depth.WINDOW or bool(poll.events)
        answered = poll.driver.answers
        if depth is Depth.DAY and (answered or self._day_ms is None):
            self._day_ms = poll.at_boottime_ms

    def reason(
        self,
        now_ms: int,
        *,
        begin_ms: int,
        window_ms: int,
        polls: int,
        has_events: bool,
        paused: bool,
    ) -> CloseReason | None:
        """Why the period is to be closed now; None: it goes on.

        What came up between two deep looks (a clock that stepped, a poll that took its time) waits
        for the next one, which `plan` lets come at once: a window holds what windows are read for.
        """
        due_ms = self._due_ms(begin_ms, window_ms, has_events=has_events)
        if polls == 0 or now_ms < due_ms:
            return None
        if paused:
            return CloseReason.MAINTENANCE
        if not self._deep:
            return None
        return CloseReason.EVENT if has_events else CloseReason.PERIOD

    def closed(self, at_ms: int) -> None:
        """A window was closed and is durable."""
        self._event_not_before_ms = at_ms + EVENT_WINDOW_MS_LEAST

    def failed(self, at_ms: int) -> None:
        """A window could not be made durable: its period goes on."""
        self._not_before_ms = at_ms + SEAL_AGAIN_MS

    def _due_ms(self, begin_ms: int, window_ms: int, *, has_events: bool) -> int:
        due_ms = begin_ms + window_ms
        if has_events:
            due_ms = min(due_ms, self._event_not_before_ms)
        return max(due_ms, self._not_before_ms)
