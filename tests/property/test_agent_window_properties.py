"""However time is cut into windows, nothing is lost and everything can be sealed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_agent.window import Aggregator
from assay_core import codec
from assay_core.header import CloseReason
from assay_core.leaves import DriverState, EventKind, Gauge, Group, Leaf, Reason
from tests.fakes.readings import BOOT_MS, START_MS, happening, lost, poll, reading, uuid

reasons = st.sampled_from(list(Reason))
numbers = st.integers(-5, 2**64 + 5)
anything = st.one_of(numbers, reasons, st.text(max_size=5))
cut = st.booleans()


def close(found: Aggregator):
    draft = found.draft(
        at_utc_ms=START_MS + 1, at_boottime_ms=BOOT_MS + 1, close_reason=CloseReason.PERIOD
    )
    found.restart(draft)
    return draft


def content(draft, group: Group, number: int = 1):
    return next(c for c in draft.contents if (c.subject, c.group) == (uuid(number), group))


def new() -> Aggregator:
    return Aggregator((), begin_utc_ms=START_MS, begin_boottime_ms=BOOT_MS)


@given(st.lists(st.tuples(st.one_of(st.integers(0, 2**40), reasons), cut), min_size=1))
def test_deltas_add_up_to_every_increase_however_time_is_cut(steps):
    found, windows, before, increases = new(), [], None, 0
    for sample, closes in steps:
        found.add(poll(reading(1, energy_mj=sample)))
        if not isinstance(sample, Reason):
            increases += max(0, sample - before) if before is not None else 0
            before = sample
        if closes:
            windows.append(close(found))
    if found.polls:
        windows.append(close(found))
    counters = [content(draft, Group.USE).counter("energy_mj") for draft in windows]
    values = [counter for counter in counters if not isinstance(counter, Reason)]
    assert sum(counter.delta for counter in values) == increases
    assert not values or values[-1].total == before


@given(st.lists(st.one_of(st.integers(0, 2**64 - 1), reasons), min_size=1))
def test_a_gauge_is_its_samples_or_the_last_reason(samples):
    found = new()
    for sample in samples:
        found.add(poll(reading(1, power_mw=sample)))
    gauge = content(close(found), Group.USE).gauge("power_mw")
    read = [sample for sample in samples if not isinstance(sample, Reason)]
    if not read:
        assert gauge is samples[-1]
        return
    assert isinstance(gauge, Gauge)
    assert (gauge.min, gauge.max) == (min(read), max(read))
    assert gauge.mean - 1 < sum(read) / len(read) + 1e-9 * gauge.mean
    assert (
        2 * len(read) * gauge.mean <= 2 * sum(read) + len(read) < 2 * len(read) * (gauge.mean + 1)
    )


events = st.tuples(st.integers(1, 3), st.sampled_from(list(EventKind)), st.integers(0, 4))


@given(st.lists(st.tuples(st.lists(events, max_size=4), cut), min_size=1, max_size=20))
def test_every_event_is_told_exactly_once(steps):
    found, windows, total = new(), [], 0
    for happened, closes in steps:
        total += len(happened)
        found.add(
            poll(
                *(reading(n) for n in (1, 2, 3)),
                events=tuple(happening(n, kind, code) for n, kind, code in happened),
            )
        )
        if closes:
            windows.append(close(found))
    if found.polls:
        windows.append(close(found))
    told = [
        event
        for draft in windows
        for c in draft.contents
        if c.group is Group.HEALTH
        for event in c.events()
    ]
    assert sum(event.count for event in told) == total
    assert not found.has_events


gpu_states = st.sampled_from(["there", "lost", "absent"])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(DriverState)),
            st.lists(gpu_states, min_size=3, max_size=3),
            st.dictionaries(
                st.sampled_from(["name", "power_mw", "energy_mj", "pdi", "ecc_enabled"]), anything
            ),
            cut,
        ),
        min_size=1,
        max_size=12,
    )
)
@settings(max_examples=60)
def test_whatever_a_source_says_becomes_leaves_that_the_door_takes(steps):
    found, ever = new(), set()
    for driver, states, changed, closes in steps:
        answered = driver in (DriverState.RUNNING, DriverState.RELOADED)
        gpus = []
        for number, state in enumerate(states, 1):
            if answered and state != "absent":
                gpus.append(reading(number, **changed) if state == "there" else lost(number))
                ever.add(uuid(number))
        found.add(poll(*gpus, driver=driver))
        if not closes:
            continue
        draft = close(found)
        assert {c.subject for c in draft.contents if c.group is Group.HEALTH} == ever
        assert {c.subject for c in draft.contents if c.group is Group.USE} == ever
        for each in draft.contents:
            codec.decode_leaf(codec.encode_leaf(Leaf(bytes(16), each)))
        missing = draft.contents[0].values["missing_gpus"]
        there = {uuid(n) for n, state in enumerate(states, 1) if answered and state == "there"}
        assert missing == tuple(sorted(ever - there)) if answered else isinstance(missing, Reason)
