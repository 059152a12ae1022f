"""What a window says of the polls it was made of."""

from __future__ import annotations

import pytest

from assay_agent.window import GPUS_MAX, Aggregator, KnownGpu
from assay_core import codec
from assay_core.header import CloseReason
from assay_core.leaves import (
    Counter,
    DriverState,
    Event,
    EventKind,
    Gauge,
    Group,
    Leaf,
    Reason,
)
from tests.fakes.readings import BOOT_MS, START_MS, happening, lost, poll, reading, uuid


def aggregator(*known: KnownGpu) -> Aggregator:
    return Aggregator(known, begin_utc_ms=START_MS, begin_boottime_ms=BOOT_MS)


def draft_of(found: Aggregator, after_ms: int = 300_000, **more):
    draft = found.draft(
        at_utc_ms=START_MS + after_ms,
        at_boottime_ms=BOOT_MS + after_ms,
        close_reason=CloseReason.PERIOD,
        **more,
    )
    for content in draft.contents:  # whatever it says, it must be a leaf that can be sealed
        codec.decode_leaf(codec.encode_leaf(Leaf(bytes(16), content)))
    return draft


def leaf(draft, group: Group, number: int | None = None):
    subject = b"" if number is None else uuid(number)
    return next(c for c in draft.contents if (c.subject, c.group) == (subject, group))


def test_the_host_comes_first_then_each_gpu_in_the_order_of_its_subject():
    found = aggregator()
    found.add(poll(reading(2), reading(1)))
    order = [(c.subject, c.group) for c in draft_of(found).contents]
    assert order == [
        (b"", Group.HOST),
        (uuid(1), Group.IDENTITY),
        (uuid(1), Group.HEALTH),
        (uuid(1), Group.USE),
        (uuid(2), Group.IDENTITY),
        (uuid(2), Group.HEALTH),
        (uuid(2), Group.USE),
    ]


def test_statistics_over_the_period():
    found = aggregator()
    for power, reasons, state in ((100, 1, 0), (101, 4, 2), (104, 0, 5)):
        found.add(
            poll(reading(1, power_mw=power, clocks_event_reasons=reasons, performance_state=state))
        )
    use = leaf(draft_of(found), Group.USE, 1)
    assert use.gauge("power_mw") == Gauge(100, 102, 104)  # 101.67 rounds half up
    assert use.integer("clocks_event_reasons") == 5
    assert use.integer("performance_state") == 5


def test_a_mean_of_a_half_is_rounded_up():
    found = aggregator()
    for power in (1, 2):
        found.add(poll(reading(1, power_mw=power)))
    assert leaf(draft_of(found), Group.USE, 1).gauge("power_mw") == Gauge(1, 2, 2)


def test_a_counter_that_was_reset_starts_anew():
    found = aggregator()
    for total in (100, 130, 4, 9):
        found.add(poll(reading(1, energy_mj=total)))
    assert leaf(draft_of(found), Group.USE, 1).counter("energy_mj") == Counter(35, 9)


def test_a_counters_increase_between_two_windows_is_not_lost():
    found = aggregator()
    found.add(poll(reading(1, energy_mj=100)))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1, energy_mj=160)))
    assert leaf(draft_of(found), Group.USE, 1).counter("energy_mj") == Counter(60, 160)


def test_a_field_without_a_sample_says_why_and_one_with_a_sample_keeps_it():
    found = aggregator()
    found.add(poll(reading(1, power_mw=Reason.NOT_SUPPORTED, ecc_enabled=1)))
    found.add(poll(reading(1, power_mw=Reason.DRIVER_ERROR, ecc_enabled=Reason.DRIVER_ERROR)))
    draft = draft_of(found)
    assert leaf(draft, Group.USE, 1).gauge("power_mw") is Reason.DRIVER_ERROR
    assert leaf(draft, Group.HEALTH, 1).integer("ecc_enabled") == 1


@pytest.mark.parametrize("garbage", [-1, 2**64, "seven", 3.5, None])
def test_what_cannot_be_is_not_a_value(garbage):
    found = aggregator()
    found.add(poll(reading(1, power_mw=garbage, energy_mj=garbage, performance_state=garbage)))
    use = leaf(draft_of(found), Group.USE, 1)
    assert use.gauge("power_mw") is Reason.INVALID_VALUE
    assert use.counter("energy_mj") is Reason.INVALID_VALUE
    assert use.values["performance_state"] is Reason.INVALID_VALUE


def test_a_text_that_is_too_long_is_not_a_value():
    found = aggregator()
    found.add(poll(reading(1, name="x" * 257)))
    assert leaf(draft_of(found), Group.IDENTITY, 1).text("name") is Reason.INVALID_VALUE


def test_an_identity_travels_once_and_again_when_it_changes():
    found = aggregator()
    found.add(poll(reading(1)))
    first = draft_of(found, 10)
    found.restart(first)
    found.add(poll(reading(1)))
    second = draft_of(found, 20)
    found.restart(second)
    found.add(poll(reading(1, vbios_version="new")))
    third = draft_of(found, 30)
    groups = [{c.group for c in d.contents} for d in (first, second, third)]
    assert [Group.IDENTITY in each for each in groups] == [True, False, True]


def test_an_identity_that_was_sealed_in_this_boot_does_not_travel_again():
    found = aggregator()
    found.add(poll(reading(1)))
    known = draft_of(found).known
    again = aggregator(*known)
    again.add(poll(reading(1)))
    assert Group.IDENTITY not in {c.group for c in draft_of(again).contents}
    forgotten = aggregator(*(KnownGpu(gpu.subject, gpu.last_seen_ms) for gpu in known))
    forgotten.add(poll(reading(1)))
    assert Group.IDENTITY in {c.group for c in draft_of(forgotten).contents}


def test_a_reason_is_not_the_number_it_has_on_the_wire():
    found = aggregator()
    found.add(poll(reading(1, architecture=int(Reason.NO_PERMISSION))))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1, architecture=Reason.NO_PERMISSION)))
    draft = draft_of(found)
    assert leaf(draft, Group.IDENTITY, 1).values["architecture"] is Reason.NO_PERMISSION


def test_a_passing_failure_to_read_does_not_make_another_identity():
    found = aggregator()
    found.add(poll(reading(1)))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1, serial=Reason.DRIVER_ERROR)))
    assert Group.IDENTITY not in {c.group for c in draft_of(found).contents}


def test_a_draft_that_was_not_sealed_is_said_again_whole():
    found = aggregator()
    found.add(poll(reading(1), events=(happening(1, EventKind.XID, 79),)))
    draft_of(found, 10)
    found.add(poll(reading(1)))
    draft = draft_of(found, 20)
    assert draft.period.begin_utc_ms == START_MS
    assert leaf(draft, Group.HEALTH, 1).integer("polls") == 2
    assert leaf(draft, Group.HEALTH, 1).events()
    assert Group.IDENTITY in {c.group for c in draft.contents}


def test_events_are_told_once_with_first_last_and_count():
    found = aggregator()
    storm = tuple(happening(1, EventKind.XID, 79, after_ms=at) for at in (30, 10, 20))
    found.add(poll(reading(1), events=(*storm, happening(None, EventKind.DRIVER_RELOADED))))
    assert found.has_events
    draft = draft_of(found)
    expected = Event(EventKind.XID, 79, START_MS + 10, START_MS + 30, 3)
    assert leaf(draft, Group.HEALTH, 1).events() == (expected,)
    assert [e.kind for e in leaf(draft, Group.HOST).events()] == [EventKind.DRIVER_RELOADED]
    found.restart(draft)
    assert not found.has_events


def test_more_events_than_a_leaf_holds_wait_for_the_next():
    found = aggregator()
    found.add(
        poll(reading(1), events=tuple(happening(1, EventKind.XID, code) for code in range(300)))
    )
    first = draft_of(found, 10)
    found.restart(first)
    assert found.has_events
    found.add(poll(reading(1)))
    second = draft_of(found)
    told = [event.code for d in (first, second) for event in leaf(d, Group.HEALTH, 1).events()]
    assert told == list(range(300))


@pytest.mark.parametrize("listed", [True, False])
def test_a_lost_gpu_stays_in_the_window_as_lost(listed):
    found = aggregator()
    found.add(poll(reading(1), reading(2)))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1), *([lost(2)] if listed else [])))
    draft = draft_of(found)
    health = leaf(draft, Group.HEALTH, 2)
    assert health.integer("polls") == 0
    assert set(health.values.values()) == {0, Reason.GPU_LOST}
    assert leaf(draft, Group.HOST).values["missing_gpus"] == (uuid(2),)
    assert leaf(draft, Group.HEALTH, 1).integer("polls") == 1


def test_a_gpu_seen_by_an_earlier_run_and_not_by_this_one_is_missing():
    found = aggregator(KnownGpu(uuid(9), START_MS - 1))
    found.add(poll(reading(1)))
    draft = draft_of(found)
    assert leaf(draft, Group.HOST).values["missing_gpus"] == (uuid(9),)
    assert leaf(draft, Group.HEALTH, 9).gauge("temperature_mc") is Reason.GPU_LOST


def test_a_gpu_that_is_asleep_is_not_missing():
    found = aggregator()
    found.add(poll(lost(1, Reason.ASLEEP)))
    draft = draft_of(found)
    assert leaf(draft, Group.HOST).values["missing_gpus"] == ()
    assert leaf(draft, Group.HEALTH, 1).integer("polls") == 0


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (DriverState.UNRESPONSIVE, Reason.DRIVER_UNRESPONSIVE),
        (DriverState.ABSENT, Reason.DRIVER_ABSENT),
        (DriverState.PAUSED, Reason.IN_MAINTENANCE),
    ],
)
def test_a_driver_that_does_not_answer_says_so_everywhere(driver, reason):
    found = aggregator(KnownGpu(uuid(1), START_MS))
    found.add(poll(driver=driver, host=dict.fromkeys(("gpu_count", "driver_version"), reason)))
    draft = draft_of(found)
    host, health = leaf(draft, Group.HOST), leaf(draft, Group.HEALTH, 1)
    assert host.integer("driver_state") == int(driver)
    assert host.values["missing_gpus"] is reason
    assert host.integer("gpu_count") is reason
    assert set(health.values.values()) == {0, reason}
    assert set(leaf(draft, Group.USE, 1).values.values()) == {reason}


def test_the_worst_driver_state_of_the_period_counts():
    found = aggregator()
    for state in (DriverState.RUNNING, DriverState.UNRESPONSIVE, DriverState.RELOADED):
        found.add(poll(reading(1), driver=state))
    draft = draft_of(found)
    assert leaf(draft, Group.HOST).integer("driver_state") == int(DriverState.UNRESPONSIVE)
    found.restart(draft)
    found.add(poll(reading(1)))
    assert leaf(draft_of(found), Group.HOST).integer("driver_state") == int(DriverState.RUNNING)


def test_announced_maintenance_is_told():
    found = aggregator()
    found.add(poll(driver=DriverState.PAUSED))
    draft = draft_of(found, maintenance_until_ms=START_MS + 60_000)
    assert leaf(draft, Group.HOST).integer("maintenance_until_ms") == START_MS + 60_000
    plain = leaf(draft_of(found), Group.HOST)
    assert plain.integer("maintenance_until_ms") is Reason.NOT_SAMPLED


def test_more_gpus_than_a_window_holds_leave_out_those_not_seen_for_longest():
    old = [KnownGpu(uuid(1_000 + n), START_MS - 10_000 + n) for n in range(GPUS_MAX)]
    found = aggregator(*old)
    found.add(poll(*(reading(n) for n in range(1, 9))))
    draft = draft_of(found)
    shown = {c.subject for c in draft.contents} - {b""}
    assert len(shown) == GPUS_MAX
    assert {uuid(n) for n in range(1, 9)} < shown
    assert uuid(1_000) not in shown
    assert len(leaf(draft, Group.HOST).values["missing_gpus"]) == GPUS_MAX


def test_a_window_without_a_poll_cannot_be():
    with pytest.raises(ValueError, match="at least one poll"):
        draft_of(aggregator())
