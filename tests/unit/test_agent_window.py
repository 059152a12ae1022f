"""What a window says of the polls it was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_agent.known import Known
from assay_agent.telemetry.reading import GpuReading
from assay_agent.window import GPUS_MAX, KNOWN_MAX, Aggregator
from assay_core import codec
from assay_core.header import CloseReason
from assay_core.health import RULES_SHA256_8
from assay_core.instants import DAY_MS
from assay_core.leaves import (
    ON_CHANGE,
    Counter,
    DriverState,
    Event,
    EventKind,
    Gauge,
    Group,
    IncidentKind,
    Leaf,
    MigInstance,
    Reason,
    Tenancy,
)
from assay_core.verify import LEAVES_MAX
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


def aggregator(*known: Known) -> Aggregator:
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


def said(content) -> set:
    """The values of a health leaf, without what the agent makes of them."""
    return {value for name, value in content.values.items() if name != "incidents"}


def leaf(draft, group: Group, number: int | None = None):
    subject = b"" if number is None else uuid(number)
    return next(c for c in draft.contents if (c.subject, c.group) == (subject, group))


def test_the_host_comes_first_then_each_gpu_in_the_order_of_its_subject():
    found = aggregator()
    found.add(poll(reading(2), reading(1)))
    order = [(c.subject, c.group) for c in draft_of(found).contents]
    of_gpu = (Group.IDENTITY, Group.HEALTH, Group.USE, Group.CONDITION)
    assert order == [
        (b"", Group.HOST),
        (b"", Group.PLATFORM),
        *((uuid(1), group) for group in of_gpu),
        *((uuid(2), group) for group in of_gpu),
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


def test_after_a_gap_what_travels_on_change_travels_again():
    found = aggregator()
    for at_s, travels in ((10, True), (20, False), (30, True), (40, False)):
        if at_s == 30:
            found.tell_again()
        found.add(poll(reading(1)))
        draft = draft_of(found, at_s)
        found.restart(draft)
        groups = {content.group for content in draft.contents} & ON_CHANGE
        assert groups == (ON_CHANGE if travels else set())


def test_an_identity_that_was_sealed_in_this_boot_does_not_travel_again():
    found = aggregator()
    found.add(poll(reading(1)))
    known = draft_of(found).known
    again = aggregator(*known)
    again.add(poll(reading(1)))
    assert Group.IDENTITY not in {c.group for c in draft_of(again).contents}
    assert {c.group for c in draft_of(again).contents} == {Group.HOST, Group.HEALTH, Group.USE}
    forgotten = aggregator(*(Known(gpu.subject, gpu.last_seen_ms) for gpu in known))
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


def test_nor_does_one_right_after_a_restart_of_the_agent():
    found = aggregator()
    found.add(poll(reading(1)))
    again = aggregator(*draft_of(found, 10).known)
    again.add(poll(reading(1, serial=Reason.DRIVER_ERROR, odometer_s=Reason.DRIVER_ERROR)))
    assert not {c.group for c in draft_of(again).contents} & ON_CHANGE


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
    assert said(health) == {0, Reason.GPU_LOST}
    assert [one.kind for one in health.incidents()] == [IncidentKind.GPU_LOST]
    assert leaf(draft, Group.HOST).values["missing_gpus"] == (uuid(2),)
    assert leaf(draft, Group.HEALTH, 1).integer("polls") == 1


def test_a_gpu_seen_by_an_earlier_run_and_not_by_this_one_is_missing():
    found = aggregator(Known(uuid(9), START_MS - 1))
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
    found = aggregator(Known(uuid(1), START_MS))
    found.add(poll(driver=driver, host=dict.fromkeys(("gpu_count", "driver_version"), reason)))
    draft = draft_of(found)
    host, health = leaf(draft, Group.HOST), leaf(draft, Group.HEALTH, 1)
    assert host.integer("driver_state") == int(driver)
    assert host.values["missing_gpus"] is reason
    assert host.integer("gpu_count") is reason
    assert said(health) == {0, reason}
    assert health.incidents() == (), "a driver that does not answer has lost nothing"
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
    old = [Known(uuid(1_000 + n), START_MS - 10_000 + n) for n in range(GPUS_MAX)]
    found = aggregator(*old)
    found.add(poll(*(reading(n) for n in range(1, 9))))
    draft = draft_of(found)
    shown = {c.subject for c in draft.contents} - {b""}
    assert len(draft.contents) <= LEAVES_MAX
    assert len(shown) == GPUS_MAX
    assert {uuid(n) for n in range(1, 9)} < shown
    assert uuid(1_000) not in shown
    assert len(leaf(draft, Group.HOST).values["missing_gpus"]) == GPUS_MAX


def test_a_window_without_a_poll_cannot_be():
    with pytest.raises(ValueError, match="at least one poll"):
        draft_of(aggregator())


def test_a_field_that_was_not_due_brings_neither_sample_nor_reason():
    found = aggregator()
    found.add(poll(reading(1, power_mw=100)))
    found.add(poll(partial(1, temperature_mc=40_000)))
    found.add(poll(partial(1, power_mw=200)))
    draft = draft_of(found)
    assert leaf(draft, Group.USE, 1).gauge("power_mw") == Gauge(100, 150, 200)
    assert leaf(draft, Group.HEALTH, 1).integer("polls") == 3
    found.restart(draft)
    found.add(poll(partial(1, power_mw=5)))
    draft = draft_of(found)
    assert leaf(draft, Group.HEALTH, 1).gauge("temperature_mc") is Reason.NOT_SAMPLED
    assert leaf(draft, Group.HEALTH, 1).integer("remap_failed") is Reason.NOT_SAMPLED


def test_each_kind_of_field_comes_to_its_own():
    found = aggregator()
    looks = [
        {"temperature_margin_min_mc": -2_000, "pcie_width": 16, "pcie_generation": 1},
        {"temperature_margin_min_mc": 5_000, "pcie_width": 8, "pcie_generation": 5},
    ]
    for number, look in enumerate(looks):
        found.add(
            poll(
                reading(
                    1,
                    **look,
                    power_instant_max_mw=100 - number,
                    pcie_tx_bytes=1_000 + 500 * number,
                    sm_activity_pct=50 + number,
                    nvlink_crc_errors=(number, number),
                    tlimit_slowdown_mc=-2_000,
                    tenancy=int(Tenancy.HOST),
                )
            )
        )
    draft = draft_of(found)
    health, use = leaf(draft, Group.HEALTH, 1), leaf(draft, Group.USE, 1)
    assert health.integer("temperature_margin_min_mc") == -2_000
    assert (health.integer("pcie_width"), health.integer("pcie_generation")) == (8, 5)
    assert use.integer("power_instant_max_mw") == 100
    assert use.integer("pcie_tx_bytes") == 500
    assert use.integer("sm_activity_pct") == 51, "50.5 is rounded half up"
    assert leaf(draft, Group.CONDITION, 1).integers("nvlink_crc_errors") == (1, 1)
    assert leaf(draft, Group.IDENTITY, 1).integer("tlimit_slowdown_mc") == -2_000


def test_instances_are_averaged_each_and_those_of_the_last_look_are_told():
    found = aggregator()
    found.add(
        poll(
            reading(
                1,
                mig_instances=(
                    MigInstance(3, 10, Reason.NOT_SAMPLED),
                    MigInstance(1, 20, (10, 0, 0, 0, 1)),
                ),
            )
        )
    )
    found.add(
        poll(
            reading(
                1,
                mig_instances=(
                    MigInstance(1, 20, (13, 0, 0, 0, 2)),
                    MigInstance(2, 20, Reason.NOT_SUPPORTED),
                ),
            )
        )
    )
    assert leaf(draft_of(found), Group.USE, 1).values["mig_instances"] == (
        MigInstance(1, 20, (12, 0, 0, 0, 2)),
        MigInstance(2, 20, Reason.NOT_SUPPORTED),
    )
    found.add(poll(reading(1, mig_instances=(MigInstance(1, 40, (1, 1, 1, 1, 1)),))))
    assert leaf(draft_of(found), Group.USE, 1).values["mig_instances"] == (
        MigInstance(1, 40, (1, 1, 1, 1, 1)),
    ), "an instance of another size under an old number is another one"


@pytest.mark.parametrize(
    "garbage", [(1, -1), (1, "x"), (7,) * 129, 7, "text", (1, 2**64), (MigInstance(1, 1, None),)]
)
def test_a_list_that_cannot_be_is_not_a_value(garbage):
    found = aggregator()
    found.add(poll(reading(1, nvlink_states=garbage, mig_instances=garbage)))
    draft = draft_of(found)
    assert leaf(draft, Group.CONDITION, 1).values["nvlink_states"] is Reason.INVALID_VALUE
    assert leaf(draft, Group.USE, 1).values["mig_instances"] is Reason.INVALID_VALUE


def test_what_is_read_less_often_is_kept_and_travels_on_change_and_once_a_day():
    found = aggregator()
    found.add(poll(reading(1, nvlink_crc_errors=(1, 1), odometer_s=10)))
    travelled = []

    def close(after_ms):
        draft = draft_of(found, after_ms)
        found.restart(draft)
        travelled.append({c.group for c in draft.contents} - {Group.HOST, Group.HEALTH, Group.USE})
        return draft

    close(10)
    found.add(poll(partial(1, power_mw=1), after_ms=20))
    close(30)
    found.add(poll(partial(1, power_mw=1, nvlink_crc_errors=(1, 2)), after_ms=40))
    changed = leaf(close(50), Group.CONDITION, 1)
    found.add(poll(partial(1, power_mw=1), after_ms=60))
    close(DAY_MS)
    found.add(poll(partial(1, power_mw=1), after_ms=DAY_MS + 9))
    close(DAY_MS + 10)
    found.add(poll(partial(1, power_mw=1), after_ms=DAY_MS + 49))
    close(DAY_MS + 50)
    assert travelled == [
        {Group.IDENTITY, Group.CONDITION, Group.PLATFORM},
        set(),
        {Group.CONDITION},
        set(),
        {Group.IDENTITY, Group.PLATFORM},
        {Group.CONDITION},
    ]
    assert changed.integer("odometer_s") == 10, "kept over the windows in which it was not read"


def test_that_a_condition_cannot_be_read_any_more_replaces_what_was_read():
    found = aggregator()
    found.add(poll(reading(1, remap_banks_max=3_072)))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1, remap_banks_max=Reason.DRIVER_ERROR, odometer_s=8)))
    passing = draft_of(found, 20)
    found.restart(passing)
    found.add(poll(reading(1, remap_banks_max=Reason.HIDDEN_BY_MIG)))
    hidden = draft_of(found, 30)
    assert leaf(passing, Group.CONDITION, 1).integer("remap_banks_max") == 3_072
    assert leaf(hidden, Group.CONDITION, 1).integer("remap_banks_max") is Reason.HIDDEN_BY_MIG


def test_the_platform_travels_when_it_changes():
    host = {"driver_version": "1", "nvml_version": "1", "gpu_count": 1, "library_path": "/a.so"}
    found = aggregator()
    found.add(poll(reading(1), host=host))
    first = draft_of(found, 10)
    found.restart(first)
    found.add(poll(reading(1)))
    second = draft_of(found, 20)
    found.restart(second)
    found.add(poll(reading(1), host=host | {"library_path": "/b.so"}))
    third = draft_of(found, 30)
    assert leaf(first, Group.PLATFORM).text("library_path") == "/a.so"
    assert leaf(first, Group.PLATFORM).text("health_rules") == RULES_SHA256_8
    assert Group.PLATFORM not in {c.group for c in second.contents}
    assert leaf(third, Group.PLATFORM).text("library_path") == "/b.so"


def test_what_the_bus_shows_is_kept_until_the_next_look():
    host = {"driver_version": "1", "nvml_version": "1", "gpu_count": 1}
    found = aggregator()
    found.add(poll(reading(1), host=host | {"pci_gpu_count": 2, "hidden_gpus": ("0000:41:00.0",)}))
    found.restart(draft_of(found, 10))
    found.add(poll(reading(1), host=host))
    kept = leaf(draft_of(found), Group.HOST)
    assert kept.integer("pci_gpu_count") == 2
    assert kept.values["hidden_gpus"] == ("0000:41:00.0",)
    assert kept.values["phantom_gpus"] is Reason.NOT_SAMPLED


def lifetime(draft) -> object:
    return leaf(draft, Group.USE, 1).values["energy_lifetime_mj"]


def test_energy_is_put_together_over_reloads_restarts_and_reboots():
    found = aggregator()
    found.add(poll(reading(1, energy_mj=1_000)))
    assert lifetime(draft_of(found)) == 0, "counted since it was first seen"
    found.add(poll(reading(1, energy_mj=1_500)))
    found.add(poll(reading(1, energy_mj=40), driver=DriverState.RELOADED))
    assert lifetime(draft_of(found)) == 540
    found.add(poll(reading(1, energy_mj=100)))
    known = draft_of(found).known
    again = aggregator(*known)
    again.add(poll(reading(1, energy_mj=160)))
    assert lifetime(draft_of(again)) == 660, "the same boot: the increase"
    reloaded = aggregator(*known)
    reloaded.add(poll(reading(1, energy_mj=7)))
    assert lifetime(draft_of(reloaded)) == 607, "reloaded while nobody looked"
    rebooted = aggregator(
        *(
            Known(one.subject, one.last_seen_ms, energy=replace(one.energy, same_boot=False))
            for one in known
            if one.energy is not None
        )
    )
    rebooted.add(poll(reading(1, energy_mj=160)))
    assert lifetime(draft_of(rebooted)) == 760, "another boot: all of it is new"


def test_energy_that_falls_without_a_reload_adds_nothing_and_is_told():
    found = aggregator()
    for energy in (1_000, 1_100, 50, 70):
        found.add(poll(reading(1, energy_mj=energy)))
    draft = draft_of(found)
    assert lifetime(draft) == 120
    events = leaf(draft, Group.HEALTH, 1).events()
    assert [(event.kind, event.code) for event in events] == [(EventKind.COUNTER_FELL, 5_006)]
    assert found.has_events


def test_a_gpu_without_an_energy_counter_has_no_lifetime_energy():
    found = aggregator()
    found.add(poll(reading(1, energy_mj=Reason.NOT_SUPPORTED)))
    assert lifetime(draft_of(found)) is Reason.NOT_SUPPORTED


@pytest.mark.parametrize(
    ("name", "code", "excused"),
    [
        ("ecc_corrected_volatile", 4_005, True),
        ("pcie_replays", 4_022, True),
        ("ecc_uncorrected_aggregate", 4_008, False),
        ("remapped_rows_uncorrected", 4_010, False),
        ("odometer_s", 7_028, False),
        ("ecc_dram_uncorrected", 7_011, False),
    ],
)
def test_a_counter_that_runs_backwards_is_told_and_only_a_lifetimes_also_after_a_reload(
    name, code, excused
):
    def fell(**more) -> list[int]:
        found = aggregator()
        found.add(poll(reading(1, **{name: 9})))
        found.add(poll(reading(1, **{name: 3}), **more))
        events = leaf(draft_of(found), Group.HEALTH, 1).events()
        return [event.code for event in events if event.kind is EventKind.COUNTER_FELL]

    assert fell() == [code]
    reload = (happening(None, EventKind.DRIVER_RELOADED),)
    assert fell(events=reload) == ([] if excused else [code])
    reset = (happening(1, EventKind.GPU_RESET),)
    assert fell(events=reset) == ([] if excused else [code])


def test_a_step_of_the_wall_clock_is_told_with_its_length():
    found = aggregator()
    for after_ms, step_ms in ((0, 0), (5_000, 900), (10_000, 1_901), (15_000, -3_000)):
        at = poll(reading(1), after_ms=after_ms)
        found.add(replace(at, at_utc_ms=at.at_utc_ms + step_ms))
    draft = draft_of(found)
    host = leaf(draft, Group.HOST)
    assert host.integer("clock_step_ms") == 1_001 - 4_901
    assert [(e.kind, e.count) for e in host.events()] == [(EventKind.CLOCK_STEPPED, 2)]
    found.restart(draft)
    found.add(replace(poll(reading(1), after_ms=20_000), at_utc_ms=START_MS + 17_000))
    after = leaf(draft_of(found), Group.HOST)
    assert (after.integer("clock_step_ms"), after.events()) == (0, ())


def test_a_gpu_that_a_virtual_machine_has_is_not_missing():
    found = aggregator()
    found.add(poll(reading(1)))
    found.restart(draft_of(found, 10))
    away = {**dict.fromkeys(reading(1).values, Reason.PASSED_THROUGH)}
    found.add(poll(GpuReading(uuid(1), away | {"tenancy": int(Tenancy.PASSED_THROUGH)})))
    draft = draft_of(found)
    health = leaf(draft, Group.HEALTH, 1)
    assert leaf(draft, Group.HOST).values["missing_gpus"] == ()
    assert health.integer("tenancy") == int(Tenancy.PASSED_THROUGH)
    assert health.integer("polls") == 0, "the bus told it, not the GPU"
    assert health.incidents() == ()


def test_no_more_missing_gpus_than_a_list_holds_are_told():
    found = aggregator(*(Known(uuid(n), START_MS) for n in range(1, 200)))
    found.add(poll(reading(300)))
    assert len(leaf(draft_of(found), Group.HOST).values["missing_gpus"]) == 128


def test_incidents_go_on_from_window_to_window_and_over_a_restart():
    found = aggregator()
    found.add(poll(reading(1), events=(happening(1, EventKind.XID, 79),)))
    first = draft_of(found, 10)
    found.restart(first)
    again = aggregator(*first.known)
    again.add(poll(reading(1), after_ms=20))
    second = draft_of(again, 30)
    told = [leaf(draft, Group.HEALTH, 1).incidents() for draft in (first, second)]
    assert [(one.kind, one.code) for one in told[0]] == [(IncidentKind.XID, 79)]
    assert [(one.kind, one.begin_ms) for one in told[1]] == [
        (one.kind, one.begin_ms) for one in told[0]
    ]


def test_no_more_gpus_are_known_than_can_be_and_the_longest_gone_are_forgotten():
    found = aggregator(*(Known(uuid(n), START_MS - 1_000 + n) for n in range(1, KNOWN_MAX + 1)))
    found.add(poll(reading(1_000), reading(1_001)))
    draft = draft_of(found)
    assert draft.forgotten == (uuid(1), uuid(2))
    assert len(draft.known) == KNOWN_MAX + 1, "and the host"
    found.restart(draft)
    found.add(poll(reading(1_000), reading(1_001)))
    assert draft_of(found).forgotten == ()
