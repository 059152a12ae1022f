"""However time is cut into windows, nothing is lost and everything can be sealed."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_agent.fields import PASSING
from assay_agent.window import Aggregator
from assay_core import codec
from assay_core.header import CloseReason
from assay_core.leaves import (
    Counter,
    DriverState,
    EventKind,
    Gauge,
    Group,
    Leaf,
    MigInstance,
    Reason,
)
from tests.fakes.readings import (
    BOOT_MS,
    START_MS,
    happening,
    lost,
    partial,
    poll,
    reading,
    uuid,
)

reasons = st.sampled_from(list(Reason))
numbers = st.integers(-5, 2**64 + 5)
lists = st.lists(st.one_of(numbers, st.text(max_size=2)), max_size=3).map(tuple)
instances = st.builds(
    MigInstance,
    st.integers(-1, 3),
    st.integers(0, 9),
    reasons | st.tuples(*(st.integers(-1, 100),) * 5),
)
anything = st.one_of(
    numbers, reasons, st.text(max_size=5), lists, st.lists(instances, max_size=4).map(tuple)
)
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
                st.sampled_from(
                    [
                        "name",
                        "power_mw",
                        "energy_mj",
                        "pdi",
                        "ecc_enabled",
                        "nvlink_states",
                        "mig_instances",
                        "tlimit_slowdown_mc",
                        "temperature_margin_min_mc",
                        "sm_activity_pct",
                        "pcie_tx_bytes",
                        "tenancy",
                        "fabric_cluster_uuid",
                        "bbx_flush_utc_ms",
                    ]
                ),
                anything,
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


DUE = {
    "temperature_mc": st.integers(0, 200_000),
    "power_mw": st.integers(0, 10**6),
    "energy_mj": st.integers(0, 10**12),
    "remap_failed": st.integers(0, 1),
    "nvlink_crc_errors": st.lists(st.integers(0, 9), max_size=3).map(tuple),
    "odometer_s": st.integers(0, 10**9),
    "sm_activity_pct": st.integers(0, 100),
    "name": st.sampled_from(["a", "b"]),
}
dues = st.fixed_dictionaries(
    {}, optional={name: one | reasons for name, one in DUE.items()}
).filter(bool)


@given(st.lists(st.tuples(dues, cut), min_size=1, max_size=15))
@settings(max_examples=80)
def test_no_depth_of_polls_and_no_cut_invents_a_value(steps):
    """A window's value was read in its period, or is kept of those read less often, or is none."""
    found, period, ever = new(), {}, {}
    found.add(poll(reading(1)))
    close(found)
    before = {name: value for name, value in reading(1).values.items() if name in DUE}
    for due, closes in [*steps, ({"power_mw": 1}, True)]:
        found.add(poll(partial(1, **due)))
        for name, sample in due.items():
            period.setdefault(name, []).append(sample)
            if not isinstance(sample, Reason) or sample not in PASSING:
                ever[name] = sample
        if not closes:
            continue
        for each in close(found).contents:
            for name, value in each.values.items():
                if name in DUE and each.subject:
                    check(name, value, period.get(name, []), ever.get(name, before[name]))
        period = {}


def check(name, value, samples, kept):
    read = [sample for sample in samples if not isinstance(sample, Reason)]
    if name in ("nvlink_crc_errors", "odometer_s", "name"):
        assert value == kept
    elif not read:
        assert value is (samples[-1] if samples else Reason.NOT_SAMPLED)
    elif isinstance(value, Gauge):
        assert (value.min, value.max) == (min(read), max(read))
    elif isinstance(value, Counter):
        assert value.total == read[-1]
    elif name == "sm_activity_pct":
        assert min(read) <= value <= max(read)
    else:
        assert value == read[-1]


@given(
    st.lists(
        st.tuples(st.integers(0, 2**30), st.sampled_from(["", "cut", "restart", "reload"])),
        min_size=1,
        max_size=20,
    )
)
def test_lifetime_energy_loses_no_increase_however_often_the_agent_is_cut_or_restarted(steps):
    """The counter's increases, each counted once, over windows, restarts and reloads."""
    found, total, lifetime = new(), 0, 0
    found.add(poll(reading(1, energy_mj=0)))
    for increase, what in steps:
        if what == "reload":
            total = 0
        total += increase
        lifetime += increase
        driver = DriverState.RELOADED if what == "reload" else DriverState.RUNNING
        found.add(poll(reading(1, energy_mj=total), driver=driver))
        draft = found.draft(
            at_utc_ms=START_MS + 1, at_boottime_ms=BOOT_MS + 1, close_reason=CloseReason.PERIOD
        )
        assert content(draft, Group.USE).values["energy_lifetime_mj"] == lifetime
        assert not content(draft, Group.HEALTH).events()
        if what == "cut":
            found.restart(draft)
        elif what == "restart":
            found = Aggregator(draft.known, begin_utc_ms=START_MS, begin_boottime_ms=BOOT_MS)
    assert lifetime == sum(increase for increase, _ in steps)


@given(st.lists(st.integers(0, 2**40), min_size=2), st.integers(0, 6))
def test_a_fall_without_a_reload_is_always_told_and_never_counted(totals, after):
    found = new()
    falls = sum(now < before for before, now in itertools.pairwise(totals))
    rises = sum(max(0, now - before) for before, now in itertools.pairwise(totals))
    told = 0
    for number, total in enumerate(totals):
        found.add(poll(reading(1, energy_mj=total)))
        if number == after:
            told += fallen(close(found))
    if found.polls:
        draft = close(found)
        told += fallen(draft)
        assert content(draft, Group.USE).values["energy_lifetime_mj"] == rises
    assert told == falls


def fallen(draft) -> int:
    events = content(draft, Group.HEALTH).events()
    return sum(event.count for event in events if event.kind is EventKind.COUNTER_FELL)
