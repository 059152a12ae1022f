"""When windows are cut and how deep polls look, for the service and the recorder alike."""

from __future__ import annotations

import dataclasses

import pytest

from assay_agent.cutting import EVENT_WINDOW_MS_LEAST, SEAL_AGAIN_MS, Cutter, Plan
from assay_agent.telemetry.reading import Depth, Poll
from assay_core.header import CloseReason
from assay_core.instants import DAY_MS
from assay_core.leaves import DriverState, EventKind
from tests.fakes.readings import happening, poll

WINDOW_MS, POLL_MS = 300_000, 5_000


def at(now_ms: int, **more) -> Poll:
    return dataclasses.replace(poll(**more), at_boottime_ms=now_ms)


def plan(cutter: Cutter, now_ms: int, *, begin_ms: int = 0, has_events: bool = False) -> Plan:
    return cutter.plan(
        now_ms, begin_ms=begin_ms, window_ms=WINDOW_MS, poll_ms=POLL_MS, has_events=has_events
    )


def reason(
    cutter: Cutter, now_ms: int, *, polls: int = 1, has_events: bool = False, paused: bool = False
) -> CloseReason | None:
    return cutter.reason(
        now_ms,
        begin_ms=0,
        window_ms=WINDOW_MS,
        polls=polls,
        has_events=has_events,
        paused=paused,
    )


@pytest.fixture
def cutter() -> Cutter:
    found = Cutter()
    assert plan(found, 0) == Plan(0, Depth.DAY), "the first look is at once, and of everything"
    found.polled(at(0), Depth.DAY)
    return found


def test_only_the_poll_that_ends_a_period_is_deep(cutter: Cutter) -> None:
    assert plan(cutter, 0) == Plan(5_000, Depth.TICK)
    assert plan(cutter, 294_999) == Plan(5_000, Depth.TICK)
    assert plan(cutter, 295_000) == Plan(5_000, Depth.WINDOW)
    assert plan(cutter, 299_000) == Plan(1_000, Depth.WINDOW)
    assert plan(cutter, 400_000) == Plan(0, Depth.WINDOW)


def test_everything_is_read_once_a_day_when_a_period_ends(cutter: Cutter) -> None:
    begin_ms = DAY_MS - WINDOW_MS
    assert plan(cutter, DAY_MS - 9_000, begin_ms=begin_ms).depth is Depth.TICK
    assert plan(cutter, DAY_MS - 5_000, begin_ms=begin_ms) == Plan(5_000, Depth.DAY)
    cutter.polled(at(DAY_MS, driver=DriverState.UNRESPONSIVE), Depth.DAY)
    begin_ms = DAY_MS
    late_ms = DAY_MS + WINDOW_MS - 1
    assert plan(cutter, late_ms, begin_ms=begin_ms).depth is Depth.DAY, "nobody answered"
    cutter.polled(at(late_ms), Depth.DAY)
    assert plan(cutter, late_ms, begin_ms=begin_ms).depth is Depth.WINDOW


def test_a_period_ends_when_it_is_over_and_was_looked_into(cutter: Cutter) -> None:
    cutter.polled(at(299_999), Depth.WINDOW)
    assert reason(cutter, 299_999) is None
    assert reason(cutter, 300_000) is CloseReason.PERIOD
    assert reason(cutter, 300_000, polls=0) is None
    assert reason(cutter, 300_000, paused=True) is CloseReason.MAINTENANCE


def test_what_comes_up_in_a_shallow_poll_waits_for_a_deep_one_that_comes_at_once(
    cutter: Cutter,
) -> None:
    cutter.polled(at(7_000), Depth.TICK)
    assert reason(cutter, 7_000, has_events=True) is None
    assert plan(cutter, 7_000, has_events=True) == Plan(0, Depth.WINDOW)
    cutter.polled(at(7_001), Depth.WINDOW)
    assert reason(cutter, 7_001, has_events=True) is CloseReason.EVENT


def test_an_event_that_ended_the_wait_closes_at_once(cutter: Cutter) -> None:
    happened = (happening(1, EventKind.XID, 79),)
    cutter.polled(at(7_000, events=happened), Depth.TICK)
    assert reason(cutter, 7_000, has_events=True) is CloseReason.EVENT


def test_events_in_a_storm_wait_for_each_other_but_never_for_a_second(cutter: Cutter) -> None:
    cutter.polled(at(7_000), Depth.WINDOW)
    cutter.closed(7_000)
    assert reason(cutter, 7_000 + EVENT_WINDOW_MS_LEAST - 1, has_events=True) is None
    assert reason(cutter, 7_000 + EVENT_WINDOW_MS_LEAST, has_events=True) is CloseReason.EVENT
    assert EVENT_WINDOW_MS_LEAST <= 500


def test_after_a_write_that_failed_nothing_is_closed_for_a_while(cutter: Cutter) -> None:
    cutter.polled(at(300_000), Depth.WINDOW)
    cutter.failed(300_000)
    assert reason(cutter, 300_000 + SEAL_AGAIN_MS - 1, has_events=True) is None
    assert reason(cutter, 300_000 + SEAL_AGAIN_MS, has_events=True) is CloseReason.EVENT
