"""Properties of the incident machine: no order of events and no cut into windows changes what is
said of a GPU, and no host can make it say too much, too little or something that cannot be.
"""

from __future__ import annotations

from collections import Counter as Tally
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.health import START, HealthState, Record, follow, merge_told, observe
from assay_core.health.rules import rule_for
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.leaves import (
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Group,
    Incident,
    IncidentKind,
    Reason,
    Severity,
)
from tests.fakes.health import CONDITION, GPU, HEALTH, HOST, IDENTITY, NOW, check

XID = IncidentKind.XID
BOOT = b"\x01" * 16
CODES = (13, 31, 45, 48, 64, 79, 94, 119, 154, 162, 163, 173)
TICK_MS = 20 * MINUTE_MS

codes = st.sampled_from(CODES)
# One occurrence: when, after the beginning, and which Xid; None is a reset of the GPU.
# On a grid: things that meet, and cuts that fall between, are what goes wrong.
ticks = st.integers(0, 4 * DAY_MS // TICK_MS - 1).map(lambda tick: tick * TICK_MS)
happenings = st.lists(st.tuples(ticks, codes | st.none()), max_size=40)
more_cuts = st.lists(ticks.map(lambda at_ms: at_ms + DAY_MS), max_size=60)


def window(at_ms: int, events: tuple[Event, ...], order: int | None = None, boot: bytes = BOOT):
    return observe(
        Content(b"", Group.HOST, HOST),
        Content(GPU, Group.HEALTH, {**HEALTH, "events": events}),
        Content(GPU, Group.CONDITION, CONDITION),
        at_ms=at_ms,
        boot_id=boot,
        order=order,
    )


def said(happened: list[tuple[int, int | None]]) -> tuple[Event, ...]:
    """A window's events: one a kind and code, as an agent writes them."""
    grouped: dict[int | None, list[int]] = {}
    for at_ms, code in happened:
        grouped.setdefault(code, []).append(at_ms)
    return tuple(
        Event(
            EventKind.GPU_RESET if code is None else EventKind.XID,
            code or 0,
            min(times),
            max(times),
            len(times),
        )
        for code, times in grouped.items()
    )


def follow_cut(happened: list[tuple[int, int | None]], cuts: list[int]) -> HealthState:
    """The state after windows that end at these times, the last beyond everything."""
    state = START
    for begin_ms, end_ms in pairwise([-1, *cuts]):
        within = [(NOW + at, code) for at, code in happened if begin_ms <= at < end_ms]
        state = follow(state, window(NOW + end_ms, said(within)))
    return check(state)


def essence(record: Record) -> tuple[object, ...]:
    return (
        record.kind,
        record.code,
        record.severity,
        record.begin_ms,
        record.last_ms,
        record.end_ms,
        record.count,
    )


def cuts_of(happened: list[tuple[int, int | None]], more: list[int]) -> list[int]:
    """Cuts after each event that closes a window (a reset, a cancelling Xid), and some more."""
    end_ms = 5 * DAY_MS
    closing = [at + 1 for at, code in happened if code in (None, 162)]
    return sorted({*closing, *(cut for cut in more if 0 < cut < end_ms), end_ms})


@given(happenings, more_cuts)
@settings(deadline=None)
def test_no_cut_into_windows_changes_begin_count_end_or_class(happened, more):
    regular = list(range(0, 5 * DAY_MS, 6 * HOUR_MS))
    once = follow_cut(happened, cuts_of(happened, regular))
    again = follow_cut(happened, cuts_of(happened, regular + more))
    assert sorted(map(essence, once.records)) == sorted(map(essence, again.records))


@given(happenings, st.lists(st.integers(1, 4 * DAY_MS), max_size=30))
@settings(deadline=None)
def test_no_occurrence_is_lost_or_counted_twice(happened, cuts):
    state = follow_cut(happened, sorted({*cuts, 5 * DAY_MS}))
    counted = Tally[int]()
    for record in state.records:
        counted[record.code] += record.count
    truth = Tally(code for _, code in happened if code is not None and rule_for(XID, code).severity)
    # Who has more than are remembered has the newest and the worst of them.
    if len(state.records) < 32:
        assert counted == truth


events = st.builds(
    Event,
    st.sampled_from(EventKind),
    codes,
    st.integers(NOW - HOUR_MS, NOW),
    st.integers(NOW - HOUR_MS, NOW),
    st.integers(1, 9),
)


@given(st.lists(events, max_size=12), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_no_order_of_events_within_a_window_matters(listed, random):
    shuffled = list(listed)
    random.shuffle(shuffled)
    before = follow(START, window(NOW - HOUR_MS, (Event(EventKind.XID, 163, 1, 1, 1),)))
    first = check(follow(before, window(NOW, tuple(listed))))
    assert check(follow(before, window(NOW, tuple(shuffled)))) == first


@given(
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from((162, 163))), max_size=30),
    st.lists(st.integers(1, 40), max_size=12),
)
@settings(deadline=None)
def test_a_cancel_ends_what_was_before_and_never_what_came_later(happened, cuts):
    state = follow_cut(happened, sorted({*cuts, 41}))
    wrong = [at for at, code in happened if code == 163]
    right = [at for at, code in happened if code == 162]
    still = bool(wrong) and (not right or max(wrong) >= max(right))
    assert bool(state.open) is still


@given(happenings, st.lists(st.integers(1, 4 * DAY_MS), max_size=20))
@settings(deadline=None)
def test_a_window_followed_twice_changes_nothing(happened, cuts):
    state = START
    followed = []
    for order, (begin_ms, end_ms) in enumerate(pairwise([-1, *sorted({*cuts, 5 * DAY_MS})])):
        within = [(NOW + at, code) for at, code in happened if begin_ms <= at < end_ms]
        followed.append(window(NOW + end_ms, said(within), order))
        state = follow(state, followed[-1])
        assert all(follow(state, one) is state for one in followed)


# ------------------------------------------------------------------------------- hostile hosts

odd = st.one_of(
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.sampled_from(Reason),
    st.builds(Counter, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    st.lists(st.integers(0, 2**64 - 1), max_size=18).map(tuple),
    st.text(max_size=9),
)
times = st.integers(-(2**63), 2**63 - 1)
wild = st.builds(
    Event, st.sampled_from(EventKind), st.integers(0, 2**32 - 1) | codes, times, times,
    st.integers(0, 2**32 - 1),
)  # fmt: skip
told_by_it = st.builds(
    Incident,
    st.sampled_from(IncidentKind),
    st.integers(0, 2**32 - 1) | codes,
    st.sampled_from(Severity),
    times,
    times,
    times | st.none(),
    st.integers(0, 2**32 - 1),
)


@st.composite
def windows(draw: st.DrawFn):
    def some(names):
        return {name: draw(odd) for name in draw(st.sets(st.sampled_from(sorted(names))))}

    health = {**HEALTH, **some(HEALTH), "events": tuple(draw(st.lists(wild, max_size=8)))}
    condition = {**CONDITION, **some(CONDITION)}
    identity = {**IDENTITY, **some(IDENTITY)}
    host = {
        **HOST,
        **some(HOST),
        "driver_state": draw(st.sampled_from(DriverState) | odd),
        "missing_gpus": draw(st.sampled_from([(), (GPU,)])),
        "events": tuple(draw(st.lists(wild, max_size=3))),
    }
    return (
        observe(
            draw(st.sampled_from([None, Content(b"", Group.HOST, host)])),
            draw(st.sampled_from([None, Content(GPU, Group.HEALTH, health)])),
            draw(st.sampled_from([None, Content(GPU, Group.CONDITION, condition)])),
            at_ms=draw(st.integers(0, 2**45)),
            boot_id=draw(st.sampled_from([BOOT, b"\x02" * 16, b""])),
            identity=draw(st.sampled_from([None, Content(GPU, Group.IDENTITY, identity)])),
        ),
        tuple(draw(st.lists(told_by_it, max_size=5))),
    )


@given(st.lists(windows(), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_whatever_a_host_says_the_state_is_bounded_sound_and_never_better_for_it(sequence):
    state = START
    for seen, incidents in sequence:
        before = {(one.kind, one.code): one for one in state.open}
        state = check(follow(state, seen))
        stood = {(one.kind, one.code): one for one in state.open}
        for key, one in stood.items():
            earlier = before.get(key)
            if earlier is not None and earlier.begin_ms == one.begin_ms:
                assert one.severity >= earlier.severity
        merged = check(merge_told(state, incidents))
        if len(merged.open) < 64:
            after = {(one.kind, one.code): one for one in merged.open}
            assert stood.keys() <= after.keys()
            assert all(after[key].severity >= one.severity for key, one in stood.items())
        state = merged


@given(st.integers(1, 60), st.lists(st.integers(0, 3), min_size=1, max_size=40))
@settings(deadline=None)
def test_a_rate_hangs_on_the_counter_and_not_on_the_cut(per_minute, tenths):
    """Replays that come evenly are over the limit, or under it, however long windows are."""
    state, at_ms = START, NOW
    for tenth in (0, *tenths, 9):
        at_ms += 1_000 + tenth * 6 * 10_000
        replays = per_minute * (at_ms - NOW) // MINUTE_MS
        health = {**HEALTH, "pcie_replays": Counter(0, replays)}
        state = follow(
            state,
            observe(
                Content(b"", Group.HOST, HOST),
                Content(GPU, Group.HEALTH, health),
                None,
                at_ms=at_ms,
                boot_id=BOOT,
            ),
        )
    shown = any(one.kind is IncidentKind.PCIE_REPLAYS for one in state.records)
    if per_minute > 32:
        assert shown
    if per_minute < 31:
        assert not shown
