"""The incident machine: what begins, stands, grows worse and ends, by what windows say."""

from __future__ import annotations

import cProfile
from dataclasses import replace

import pytest

from assay_core.errors import ServiceError
from assay_core.health import (
    START,
    HealthPolicy,
    follow,
    merge_told,
    observe,
    pack,
    told,
    unpack,
)
from assay_core.health.state import CLOSED_MAX, OPEN_MAX
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
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
    Tenancy,
)
from tests.fakes.health import CONDITION, GPU, HEALTH, IDENTITY, LOST, NOW, Gpu, event, xid

XID = IncidentKind.XID
IMPAIRED, DEGRADED, USER_ERROR = Severity.IMPAIRED, Severity.DEGRADED, Severity.USER_ERROR
WIDE_MS = 10 * MINUTE_MS


def counter(total: int) -> Counter:
    return Counter(0, total)


# ------------------------------------------------------------------------------------ conditions

LEVELS = [
    (IncidentKind.REMAP_FAILED, 0, {"remap_failed": 1}, IMPAIRED),
    (IncidentKind.REMAP_PENDING, 0, {"remap_pending": 1}, DEGRADED),
    (IncidentKind.ROWS_EXHAUSTED, 0, {"remapped_rows_uncorrected": counter(512)}, IMPAIRED),
    (IncidentKind.UNREPAIRABLE_MEMORY, 0, {"unrepairable_memory": 1}, IMPAIRED),
    (IncidentKind.SRAM_THRESHOLD, 0, {"ecc_sram_threshold_exceeded": 1}, IMPAIRED),
    (IncidentKind.REPAIR_PENDING, 0, {"repair_channel_pending": 1}, DEGRADED),
    (IncidentKind.REPAIR_PENDING, 0, {"repair_tpc_pending": 1}, DEGRADED),
    (IncidentKind.REPAIR_PENDING, 0, {"retired_pages_pending": 1}, DEGRADED),
    (IncidentKind.PAGES_EXHAUSTED, 0, {"retired_pages_single_bit": 63}, IMPAIRED),
    (
        IncidentKind.PAGES_EXHAUSTED,
        0,
        {"retired_pages_single_bit": 60, "retired_pages_double_bit": 3},
        IMPAIRED,
    ),
    (IncidentKind.INFOROM_CORRUPTED, 0, {"inforom_valid": 0}, IMPAIRED),
    (IncidentKind.BANKS_EXHAUSTED, 0, {"remap_banks_none": 1}, DEGRADED),
    (IncidentKind.SMOOTHING_WORN, 0, {"power_smoothing_lifetime_pct": 0}, IMPAIRED),
    (IncidentKind.RECOVERY_ACTION, 1, {"recovery_action": 1}, DEGRADED),
    (IncidentKind.RECOVERY_ACTION, 77, {"recovery_action": 77}, DEGRADED),
    (IncidentKind.PCIE_DEGRADED, 0, {"pcie_width": 8}, DEGRADED),
    (IncidentKind.NVLINK_DOWN, 0, {"nvlink_states": (1,) * 17 + (0,)}, DEGRADED),
    (IncidentKind.NVLINK_DOWN, 0, {"nvlink_states": (0,) * 18}, DEGRADED),
    (IncidentKind.NVLINK_DOWN, 0, {"nvlink_speeds_mbps": (26_562,) * 17 + (13_281,)}, DEGRADED),
    (IncidentKind.NVLINK_DOWN, 0, {"nvlink_speeds_mbps": (13_281,) * 18}, DEGRADED),
    (IncidentKind.FABRIC, 0, {"fabric_health_summary": 2}, DEGRADED),
    (IncidentKind.FABRIC, 0, {"fabric_health_summary": 3}, DEGRADED),
    (IncidentKind.FABRIC, 0, {"fabric_health_mask": 0b01}, DEGRADED),  # degraded bandwidth: true
    (IncidentKind.FABRIC, 0, {"fabric_health_mask": 0b01 << 4}, DEGRADED),  # route unhealthy: true
    (IncidentKind.FABRIC, 0, {"fabric_health_mask": 5 << 8}, DEGRADED),  # too few NVLinks
    (IncidentKind.FABRIC, 0, {"fabric_status": 999}, DEGRADED),
]
NEARLY = [
    {"remapped_rows_uncorrected": counter(511)},
    {"retired_pages_single_bit": 62},
    {"power_smoothing_lifetime_pct": 1},
    {"fabric_health_mask": 0b10 | 0b10 << 4 | 1 << 8},
    {"fabric_health_summary": 0},
    {"nvlink_speeds_mbps": (26_500,) * 18},
    {"fabric_state": 2, "fabric_status": 999},
    {"mig_mode": 1, "nvlink_states": (0,) * 18},
]


@pytest.mark.parametrize(("kind", "code", "changed", "severity"), LEVELS)
def test_a_condition_opens_stands_and_ends_with_what_readings_show(kind, code, changed, severity):
    gpu = Gpu().window()
    assert gpu.state.records == ()
    gpu.window(**changed).window()
    record = gpu.open()[kind, code]
    assert (record.severity, record.windows, record.count) == (severity, 2, 1)
    assert (record.begin_ms, record.last_ms) == (gpu.at_ms - 5 * MINUTE_MS, gpu.at_ms)
    assert len(gpu.state.records) == 1
    gpu.window(**{name: {**HEALTH, **CONDITION}[name] for name in changed})
    assert gpu.only(kind, code).end_ms == gpu.at_ms
    assert [one.end_ms for one in told(gpu.state)] == [gpu.at_ms]
    assert told(gpu.window().state) == ()


@pytest.mark.parametrize("changed", NEARLY)
def test_what_is_just_within_its_limit_is_well(changed):
    assert Gpu().window().window(**changed).window().state.records == ()


@pytest.mark.parametrize(("kind", "code", "changed", "severity"), LEVELS)
def test_an_absent_value_neither_confirms_nor_ends(kind, code, changed, severity):
    gpu = Gpu().window().window(**changed)
    before = gpu.open()[kind, code]
    gone = {
        name: Reason.NO_PERMISSION
        for name in {**HEALTH, **CONDITION}
        if name.startswith(("fabric", "retired", "repair", "nvlink")) or name in changed
    }
    after = gpu.window(**gone).window(condition=False).open()[kind, code]
    assert (after.windows, after.last_ms) == (before.windows, before.last_ms)


@pytest.mark.parametrize(("kind", "code", "changed", "severity"), LEVELS)
def test_a_leaf_that_did_not_travel_did_not_change(kind, code, changed, severity):
    gpu = Gpu().window().window(**changed).window(condition=False).window(condition=False)
    assert gpu.open()[kind, code].windows == 3


def test_a_model_that_is_not_known_is_held_to_the_links_it_had():
    gpu = Gpu().window(identity=False, nvlink_states=(1,) * 12 + (0,) * 6)
    assert gpu.state.records == ()
    gpu.window(identity=False, nvlink_states=(1,) * 11 + (0,) * 7)
    assert gpu.open().keys() == {(IncidentKind.NVLINK_DOWN, 0)}
    speeds = (26_562,) * 10 + (13_281,)
    gpu = Gpu().window(identity=False, nvlink_states=(1,) * 11, nvlink_speeds_mbps=speeds)
    assert gpu.open().keys() == {(IncidentKind.NVLINK_DOWN, 0)}
    unbridged = Gpu().window(identity=False, nvlink_states=(0,) * 18)
    assert unbridged.state.records == ()


def test_more_than_one_page_in_a_week_beyond_fifteen_is_a_return_and_one_is_not():
    slowly = Gpu().window(retired_pages_double_bit=15)
    for pages in (16, 17, 18):
        slowly.window(retired_pages_double_bit=pages, after_ms=8 * DAY_MS)
    assert slowly.state.records == ()
    fast = Gpu().window(retired_pages_double_bit=14)
    fast.window(retired_pages_double_bit=15, after_ms=DAY_MS)
    fast.window(retired_pages_double_bit=16, after_ms=DAY_MS)
    assert fast.open().keys() == {(IncidentKind.PAGES_EXHAUSTED, 0)}


# ----------------------------------------------------------------------------------------- rates

RATES = [  # kind, field, the total that is just over in ten minutes, and the one that is not
    (IncidentKind.NVLINK_ERRORS, "nvlink_replay_errors", (10,), (9,)),
    (IncidentKind.NVLINK_ERRORS, "nvlink_recovery_errors", (0, 10), (4, 5)),
    (IncidentKind.NVLINK_ERRORS, "nvlink_crc_errors", (60_000,), (59_999,)),
    (IncidentKind.NVLINK_ERRORS, "nvlink5_recoveries_failed", (1,), (0,)),
    (IncidentKind.PCIE_REPLAYS, "pcie_replays", counter(311), counter(310)),
    (IncidentKind.PCIE_ERRORS, "pcie_fatal_errors", 1, 0),
    *(
        (kind, name, counter(360 * 10**9), counter(360 * 10**9 - 1))
        for kind, name in (
            (IncidentKind.THERMAL_SLOWDOWN, "slowdown_thermal_ns"),
            (IncidentKind.THERMAL_SLOWDOWN, "slowdown_software_thermal_ns"),
            (IncidentKind.THERMAL_SLOWDOWN, "slowdown_hardware_thermal_ns"),
            (IncidentKind.POWER_BRAKE, "slowdown_power_brake_ns"),
        )
    ),
]


def zero(value: object) -> object:
    if isinstance(value, tuple):
        return (0,) * len(value)
    return counter(0) if isinstance(value, Counter) else 0


@pytest.mark.parametrize(("kind", "name", "over", "under"), RATES)
def test_a_rate_over_its_limit_opens_and_an_hour_below_it_ends(kind, name, over, under):
    gpu = Gpu().window(**{name: zero(over)}).window(after_ms=WIDE_MS, **{name: under})
    assert gpu.state.records == ()
    gpu = Gpu().window(**{name: zero(over)}).window(after_ms=WIDE_MS, **{name: over})
    shown_ms = gpu.at_ms
    assert gpu.open()[kind, 0].severity is DEGRADED
    for _ in range(5):
        gpu.window(after_ms=WIDE_MS)
    assert (kind, 0) in gpu.open()
    gpu.window(after_ms=WIDE_MS)
    assert gpu.only(kind).end_ms == shown_ms + HOUR_MS


@pytest.mark.parametrize(("kind", "name", "over", "under"), RATES)
def test_a_counter_that_fell_or_a_restart_is_a_new_beginning(kind, name, over, under):
    fell = Gpu().window(**{name: over}).window(**{name: zero(over)}).window(after_ms=WIDE_MS)
    assert fell.state.records == ()
    again = Gpu().window(**{name: zero(over)}).window(after_ms=WIDE_MS, boot=2, **{name: over})
    assert again.state.records == ()


def test_short_windows_make_no_rate_of_a_single_replay():
    gpu = Gpu().window(after_ms=SECOND_MS)
    for second in range(58):
        gpu.window(after_ms=SECOND_MS, nvlink_replay_errors=(int(second > 5),) * 18)
    assert gpu.state.records == ()
    gpu.window(after_ms=2 * SECOND_MS)
    assert gpu.open().keys() == {(IncidentKind.NVLINK_ERRORS, 0)}  # 18 in a minute


def test_the_ordinary_power_cap_is_no_incident():
    gpu = Gpu().window().window(after_ms=WIDE_MS, slowdown_power_ns=counter(600 * 10**9))
    assert gpu.state.records == ()


# ------------------------------------------------------------------------------------ occurrences


def test_the_same_xid_again_is_one_incident_that_grows():
    gpu = Gpu().window(xid(48, NOW, NOW + 9, 3)).window(xid(48, NOW + 400_000))
    record = gpu.only(XID, 48)
    assert (record.begin_ms, record.last_ms, record.count) == (NOW, NOW + 400_000, 4)
    assert (record.severity, record.windows) == (DEGRADED, 2)


def test_a_restart_ends_a_degraded_xid_and_the_same_code_within_thirty_days_is_impaired():
    for days, severity in ((29, IMPAIRED), (31, DEGRADED)):
        gpu = Gpu().window(xid(119, NOW)).window(boot=2)
        assert gpu.only(XID, 119).end_ms == NOW + 5 * MINUTE_MS
        gpu.window(xid(119, NOW + days * DAY_MS), after_ms=days * DAY_MS)
        assert gpu.open()[XID, 119].severity is severity


@pytest.mark.parametrize("kind", [EventKind.GPU_RESET, EventKind.DRIVER_RELOADED])
def test_a_reset_within_a_window_parts_what_came_before_from_what_came_after(kind):
    reset = event(kind, NOW + 100)
    one = Gpu().window(xid(48, NOW + 50), reset)
    assert (one.open(), one.only(XID, 48).end_ms) == ({}, NOW + 100)
    both = Gpu().window(xid(48, NOW + 50, NOW + 150, 3), reset)
    first, second = sorted(both.state.records, key=lambda record: record.begin_ms)
    assert (first.count, first.end_ms, first.severity) == (2, NOW + 100, DEGRADED)
    assert (second.count, second.open, second.severity) == (1, True, IMPAIRED)


def test_an_xid_of_one_day_and_of_the_next_is_the_same_code_again():
    gpu = Gpu().window(xid(119, NOW)).window(xid(119, NOW + 20 * HOUR_MS), after_ms=20 * HOUR_MS)
    assert gpu.open()[XID, 119].severity is DEGRADED
    gpu.window(xid(119, NOW + 25 * HOUR_MS), after_ms=6 * HOUR_MS)
    assert (gpu.open()[XID, 119].severity, gpu.open()[XID, 119].days) == (IMPAIRED, 2)


def test_a_quiet_day_ends_an_xid_when_it_was_quiet_and_only_where_somebody_looked():
    gpu = Gpu().window(xid(119, NOW)).paused(after_ms=2 * DAY_MS)
    assert (XID, 119) in gpu.open()
    assert gpu.window().only(XID, 119).end_ms == NOW + DAY_MS


def test_an_xid_that_was_quiet_for_a_day_had_ended_before_the_restart_that_came_later():
    gpu = Gpu().window(xid(119, NOW))
    gpu.window(event(EventKind.GPU_RESET, NOW + 30 * HOUR_MS), after_ms=31 * HOUR_MS)
    assert gpu.only(XID, 119).end_ms == NOW + DAY_MS


def test_an_impaired_code_stays_and_one_that_became_impaired_stays_for_thirty_quiet_days():
    gpu = Gpu().window(xid(64, NOW)).window(boot=2, after_ms=90 * DAY_MS)
    assert gpu.open()[XID, 64].severity is IMPAIRED
    gpu = Gpu().window(xid(48, NOW)).window(boot=2).window(xid(48, NOW + HOUR_MS), after_ms=HOUR_MS)
    gpu.window(boot=3, after_ms=29 * DAY_MS)
    assert gpu.open()[XID, 48].severity is IMPAIRED
    gpu.window(after_ms=2 * DAY_MS)
    assert gpu.open() == {}


def test_storms_of_45_never_grow_worse():
    gpu = Gpu()
    for _ in range(40):
        gpu.window(xid(45, gpu.at_ms, gpu.at_ms + 10, 1_232), after_ms=DAY_MS)
    assert gpu.open()[XID, 45].severity is USER_ERROR
    assert gpu.open()[XID, 45].count == 40 * 1_232


@pytest.mark.parametrize(("code", "days"), [(13, 8), (31, 8), (43, 8), (126, 8), (94, 2)])
@pytest.mark.parametrize("hours", [24, 80])
def test_an_applications_error_that_stays_with_the_gpu_for_days_is_degraded(code, days, hours):
    gpu = Gpu()
    for day in range(1, days + 1):
        gpu.window(xid(code, gpu.at_ms, gpu.at_ms, 500))
        gpu.window(xid(code, gpu.at_ms, gpu.at_ms, 500))
        assert gpu.open()[XID, code].severity is (DEGRADED if day == days else USER_ERROR)
        gpu.window(after_ms=hours * HOUR_MS - 10 * MINUTE_MS)


def test_xid_154_and_an_action_that_is_none_are_no_incidents():
    gpu = Gpu().window(xid(154, NOW), event(EventKind.RECOVERY_ACTION, NOW))
    assert gpu.state.records == ()


def test_an_unknown_xid_is_degraded():
    assert Gpu().window(xid(173, NOW)).open()[XID, 173].severity is DEGRADED


@pytest.mark.parametrize(
    ("kind", "code", "incident", "severity"),
    [
        (EventKind.DRAM_RETIREMENT, 1, IncidentKind.DRAM_RETIREMENT, IMPAIRED),
        (EventKind.DRAM_RETIREMENT, 0, None, None),
        (EventKind.POISON, 1, IncidentKind.POISON, DEGRADED),
        (EventKind.POISON, 0, IncidentKind.POISON, USER_ERROR),
        (EventKind.UNAVAILABLE, 0, IncidentKind.UNAVAILABLE, DEGRADED),
        (EventKind.MIG_CHANGED, 3, None, None),
        (EventKind.COUNTER_FELL, 2011, None, None),
    ],
)
def test_other_events_are_incidents_where_the_rules_say_so(kind, code, incident, severity):
    gpu = Gpu().window(event(kind, NOW, code))
    shown = {(key[0], record.severity) for key, record in gpu.open().items()}
    assert shown == (set() if incident is None else {(incident, severity)})


# ----------------------------------------------------------------------------- cancelling


def test_162_ends_163_that_came_before_and_not_one_that_came_with_it_or_after():
    gpu = Gpu().window(xid(163, NOW)).window(xid(162, NOW + 400_000))
    assert gpu.only(XID, 163).end_ms == NOW + 400_000
    for later_ms in (NOW + 100, NOW + 101):
        gpu = Gpu().window(xid(162, NOW + 100), xid(163, later_ms))
        assert gpu.open().keys() == {(XID, 163)}
    parted = Gpu().window(xid(163, NOW, NOW + 200, 5), xid(162, NOW + 100))
    ended, still = sorted(parted.state.records, key=lambda record: record.begin_ms)
    assert (ended.count, ended.end_ms) == (4, NOW + 100)
    assert (still.count, still.open, still.begin_ms) == (1, True, NOW + 200)


def test_a_return_ends_a_loss_within_a_window():
    gpu = Gpu().window(
        event(EventKind.GPU_LOST, NOW + 10), event(EventKind.GPU_RETURNED, NOW + 900)
    )
    record = gpu.only(IncidentKind.GPU_LOST)
    assert (record.begin_ms, record.end_ms, record.severity) == (NOW + 10, NOW + 900, DEGRADED)
    assert [one.end_ms for one in told(gpu.state)] == [NOW + 900]


# ------------------------------------------------------------------------- what does not go away


def test_a_lost_gpu_is_degraded_and_impaired_once_a_restart_did_not_bring_it_back():
    gpu = Gpu().window().lost()
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is DEGRADED
    absent = {"driver_state": int(DriverState.ABSENT), "missing_gpus": (GPU,)}
    gpu.window(boot=2, health=LOST, host=absent, condition=False)  # the driver is not up yet
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is DEGRADED
    gpu.lost()
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is IMPAIRED
    gpu.window()
    assert gpu.only(IncidentKind.GPU_LOST).end_ms == gpu.at_ms


def test_a_gpu_that_a_restart_brought_back_was_degraded():
    gpu = Gpu().window(xid(79, NOW)).lost().window(boot=2)
    assert gpu.open() == {}
    assert {record.severity for record in gpu.state.records} == {DEGRADED}


def test_xid_79_that_survives_a_restart_is_impaired_and_so_is_the_third_in_a_month():
    gpu = Gpu().window(xid(79, NOW)).lost().lost(boot=2)
    assert gpu.open()[XID, 79].severity is IMPAIRED
    gpu = Gpu()
    for boot in (2, 3, 4):
        gpu.window(xid(79, gpu.at_ms + 1))
        severity = gpu.open()[XID, 79].severity
        gpu.window(boot=boot)
    assert severity is IMPAIRED


def test_xid_79_told_again_of_a_gpu_that_did_not_come_back_is_no_milder():
    again = {**LOST, "events": (xid(79, NOW + 900_000),)}
    gpu = Gpu().window(xid(79, NOW)).lost().lost(boot=2)
    gpu.window(health=again, host={"missing_gpus": (GPU,)}, condition=False)
    assert (gpu.only(XID, 79).severity, gpu.only(XID, 79).count) == (IMPAIRED, 2)
    assert gpu.window(boot=3).open() == {}


def test_the_third_79_in_a_month_stays_though_the_gpu_came_back():
    gpu = Gpu()
    for boot in (2, 3, 4):
        gpu.window(xid(79, gpu.at_ms + 1)).window(boot=boot)
    assert gpu.window().open()[XID, 79].severity is IMPAIRED


def test_what_came_with_a_restart_is_not_what_survived_it():
    gpu = Gpu().window(xid(48, NOW + 100), event(EventKind.GPU_RESET, NOW + 100))
    assert gpu.open() == {}
    assert gpu.only(XID, 48).severity is DEGRADED


def test_a_reset_is_no_restart_of_the_host():
    gpu = (
        Gpu()
        .window(xid(79, NOW))
        .lost()
        .window(
            event(EventKind.DRIVER_RELOADED, NOW + 900_000),
            health={**LOST, "events": (event(EventKind.DRIVER_RELOADED, NOW + 900_000),)},
            host={"missing_gpus": (GPU,)},
        )
    )
    gpu.lost()
    assert {record.severity for record in gpu.state.open} == {DEGRADED}


def test_a_loss_of_a_day_is_impaired_and_maintenance_that_came_later_is_no_excuse():
    gpu = Gpu().window().lost()
    for _ in range(3):
        gpu.paused(after_ms=HOUR_MS)
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is DEGRADED
    gpu.paused(after_ms=21 * HOUR_MS)
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is IMPAIRED


def test_a_paused_host_or_a_silent_driver_loses_no_gpu():
    gpu = Gpu().window().paused()
    for state in (DriverState.ABSENT, DriverState.UNRESPONSIVE):
        gpu.window(health=LOST, host={"driver_state": int(state), "missing_gpus": (GPU,)})
    assert gpu.state.records == ()


def test_a_gpu_that_was_passed_through_is_not_lost_and_no_longer_lost():
    passed = {
        **dict.fromkeys(HEALTH, Reason.PASSED_THROUGH),
        "polls": 0,
        "events": (),
        "tenancy": int(Tenancy.PASSED_THROUGH),
    }
    there = {"missing_gpus": (GPU,), "hidden_gpus": ("0000:3b:00.0",)}
    gpu = Gpu().window().window(health=passed, host=there, condition=False)
    assert gpu.state.records == ()
    gpu = Gpu().window().lost().window(health=passed, host=there, condition=False)
    assert gpu.open() == {}


def test_a_gpu_on_the_bus_that_the_driver_does_not_show_is_hidden():
    hidden = {"hidden_gpus": ("0000:3b:00.0",), "missing_gpus": (GPU,)}
    gpu = Gpu().window().window(health=LOST, host=hidden, condition=False, identity=False)
    assert gpu.open()[IncidentKind.HIDDEN, 0].severity is DEGRADED
    gpu.window(health=LOST, host=hidden, condition=False, identity=False, boot=2)
    assert gpu.open()[IncidentKind.HIDDEN, 0].severity is IMPAIRED
    assert gpu.window().open() == {}
    other = Gpu().window().window(host={"hidden_gpus": ("0000:5e:00.0",)})
    assert other.state.records == ()
    told_so = Gpu().window().window(event(EventKind.GPU_HIDDEN, NOW + 400_000))
    assert told_so.open().keys() == {(IncidentKind.HIDDEN, 0)}


def test_a_gpu_that_the_driver_shows_and_the_bus_does_not_is_a_phantom():
    gpu = Gpu().window().window(host={"phantom_gpus": ("0000:3b:00.0",)})
    assert gpu.open()[IncidentKind.PHANTOM, 0].severity is DEGRADED
    nobody_looked = gpu.window(host={"phantom_gpus": Reason.NOT_SAMPLED})
    assert nobody_looked.open().keys() == {(IncidentKind.PHANTOM, 0)}
    assert gpu.window().open() == {}
    other = Gpu().window().window(host={"phantom_gpus": ("0000:5e:00.0",)})
    assert other.state.records == ()


def test_addresses_are_compared_as_sysfs_writes_them_domain_and_all():
    away = Gpu().window().window(host={"hidden_gpus": ("10000:3b:00.0", "no address")})
    assert away.state.records == ()
    here = Gpu().window().window(host={"hidden_gpus": ("00000000:3B:00.0",)})
    assert here.open().keys() == {(IncidentKind.HIDDEN, 0)}


ACTIONS = [  # action, whether a reset is what it asks for
    (1, True),
    (2, False),
    (3, False),
    (4, True),
    (5, False),
    (6, True),
    (7, False),
    (42, False),
]


@pytest.mark.parametrize(("action", "by_reset"), ACTIONS)
def test_a_recovery_action_that_stands_after_it_was_done_is_impaired(action, by_reset):
    reset = event(EventKind.GPU_RESET, NOW + 400_000)
    gpu = Gpu().window(recovery_action=action).window(reset)
    assert gpu.open()[IncidentKind.RECOVERY_ACTION, action].severity is DEGRADED
    gpu.window()
    assert gpu.open()[IncidentKind.RECOVERY_ACTION, action].severity is (
        IMPAIRED if by_reset else DEGRADED
    )
    gpu.window(boot=2)
    assert gpu.open()[IncidentKind.RECOVERY_ACTION, action].severity is IMPAIRED


def test_the_drivers_own_verdict_leads_what_is_as_bad():
    gpu = Gpu().window(xid(48, NOW), remap_pending=1).window(recovery_action=1)
    assert told(gpu.state)[0].kind is IncidentKind.RECOVERY_ACTION
    gpu.window(remap_failed=1)
    assert [one.severity for one in told(gpu.state)][:2] == [IMPAIRED, DEGRADED]


def test_a_recovery_action_that_was_done_is_over_and_another_one_is_another_incident():
    gpu = Gpu().window(recovery_action=1).window(event(EventKind.GPU_RESET, NOW + 400_000))
    gpu.window(recovery_action=2)
    assert gpu.open().keys() == {(IncidentKind.RECOVERY_ACTION, 2)}
    assert gpu.only(IncidentKind.RECOVERY_ACTION, 1).severity is DEGRADED
    assert gpu.window(recovery_action=0, boot=2).open() == {}


# ------------------------------------------------------------------------- keeping and bounds


def test_a_window_that_was_followed_already_changes_nothing():
    gpu = Gpu().window(xid(48, NOW))
    same = gpu.seen(xid(48, NOW), after_ms=0)
    assert follow(gpu.state, same) is gpu.state
    ordered = [
        observe(
            None,
            Content(GPU, Group.HEALTH, {**HEALTH, "events": (xid(48, NOW + order),)}),
            None,
            at_ms=NOW + HOUR_MS - order,  # a clock that runs backwards
            boot_id=b"1" * 16,
            order=order,
        )
        for order in (4, 5)
    ]
    state = follow(follow(START, ordered[0]), ordered[1])
    assert state.records[0].count == 2
    assert follow(follow(state, ordered[1]), ordered[0]) is state


def test_a_flood_of_made_up_xids_is_bounded_and_hides_nothing_that_is_known():
    gpu = Gpu()
    for base in range(0, 100_000, 10_000):
        gpu.window(*(xid(100_000 + base + n, gpu.at_ms) for n in range(256)))
    gpu.window(xid(64, gpu.at_ms), xid(48, gpu.at_ms), remap_failed=1).lost()
    assert len(gpu.state.open) == OPEN_MAX
    kept = gpu.open().keys()
    known = {(XID, 64), (XID, 48), (IncidentKind.REMAP_FAILED, 0), (IncidentKind.GPU_LOST, 0)}
    assert known <= kept
    gpu.window(boot=2)
    assert len(told(gpu.state)) <= 128
    for _ in range(3):
        gpu.window(*(xid(300_000 + gpu.at_ms % 99_991 + n, gpu.at_ms) for n in range(256)))
        gpu.window(boot=gpu.boot + 1)
    gpu.window()
    assert len([one for one in gpu.state.records if not one.open]) == CLOSED_MAX
    assert len(pack(gpu.state)) < 16 * 1024


def test_the_worst_of_what_ended_is_remembered_for_thirty_days():
    gpu = Gpu().window(xid(119, NOW)).window(boot=2)
    for day in range(20):
        gpu.window(*(xid(200 + 2 * day + n, gpu.at_ms) for n in range(2)))
        gpu.window(boot=gpu.boot + 1, after_ms=DAY_MS)
    assert gpu.only(XID, 119)
    gpu.window(after_ms=60 * DAY_MS).window()
    assert gpu.state.records == ()


def test_a_state_reads_back_and_garbage_says_so():
    gpu = Gpu().window(xid(48, NOW), remap_pending=1, pcie_replays=counter(2**64 - 1))
    gpu.window(nvlink_crc_errors=(2**64 - 1,) * 18)
    assert unpack(pack(gpu.state)) == gpu.state
    for bad in (b"", b"\x00", pack(gpu.state)[:-1], pack(gpu.state) + b"\x00", b"\x97" * 7):
        with pytest.raises(ServiceError, match="start anew"):
            unpack(bad)


def test_counts_do_not_outgrow_what_a_window_holds():
    gpu = Gpu()
    for _ in range(3):
        gpu.window(xid(31, gpu.at_ms, gpu.at_ms, 2**32 - 1))
    assert gpu.only(XID, 31).count == 2**32 - 1
    assert pack(gpu.state)


def test_events_are_at_times_that_can_be():
    gpu = Gpu().window(xid(48, 2**45, 2**46), xid(119, -5))
    assert gpu.only(XID, 48).begin_ms == gpu.at_ms
    assert gpu.only(XID, 119).begin_ms == 0


def test_a_policys_times_are_kept_to():
    policy = HealthPolicy(
        xid_quiet_s=60, xid_recurrence_s=120, lost_impaired_after_s=60, rate_quiet_s=60
    )
    gpu = Gpu(policy).window(xid(119, NOW)).window()
    assert gpu.open() == {}
    gpu.window(xid(119, NOW + 3 * 300_000)).lost().lost()
    assert gpu.open()[XID, 119].severity is DEGRADED
    assert gpu.open()[IncidentKind.GPU_LOST, 0].severity is IMPAIRED


def test_a_gpu_that_no_leaf_names_is_followed_by_the_hosts_word():
    gpu = Gpu().window()
    host = {"driver_state": 1, "missing_gpus": (GPU,), "hidden_gpus": (), "events": ()}
    seen = observe(
        Content(b"", Group.HOST, host),
        None,
        None,
        at_ms=NOW + HOUR_MS,
        boot_id=b"\x01" * 16,
        subject=GPU,
    )
    assert [one.kind for one in follow(gpu.state, seen).open] == [IncidentKind.GPU_LOST]


# ------------------------------------------------------------------------- what the host tells


def said(kind: IncidentKind, code: int, begin_ms: int, end_ms: int | None, count: int = 1):
    return Incident(kind, code, IMPAIRED, begin_ms, end_ms or begin_ms, end_ms, count)


def test_what_the_host_tells_adds_what_our_windows_lost_and_our_rules_judge_it():
    gpu = Gpu().window().window(after_ms=DAY_MS)
    gap = (
        said(XID, 48, NOW + HOUR_MS, NOW + 2 * HOUR_MS),
        said(XID, 31, NOW + HOUR_MS, None),
        said(XID, 154, NOW + HOUR_MS, None),
    )
    merged = merge_told(gpu.state, gap)
    assert {(one.code, one.severity, one.open) for one in merged.records} == {
        (48, DEGRADED, False),
        (31, USER_ERROR, True),
    }
    assert merge_told(merged, gap) is merged
    gpu.state = merged
    gpu.window(xid(48, gpu.at_ms))
    assert gpu.open()[XID, 48].severity is IMPAIRED


def test_what_the_host_tells_only_adds():
    gpu = Gpu().window(xid(119, NOW, NOW, 7), remap_pending=1).window(xid(48, NOW + 9))
    before = gpu.open()
    lies = (
        said(XID, 119, NOW + 5, NOW + 6),
        said(IncidentKind.REMAP_PENDING, 0, NOW, NOW + 1),
        said(IncidentKind.REMAP_FAILED, 0, NOW, None),
        said(XID, 48, NOW - HOUR_MS, None, 9),
    )
    after = merge_told(gpu.state, lies)
    kept = {(one.kind, one.code): one for one in after.open}
    assert kept.keys() == before.keys()
    assert (kept[XID, 119].count, kept[XID, 119].open) == (7, True)
    assert (kept[XID, 48].begin_ms, kept[XID, 48].count) == (NOW - HOUR_MS, 9)
    assert all(kept[key].severity >= before[key].severity for key in before)


def test_what_the_host_tells_of_a_state_we_see_for_ourselves_is_not_opened():
    gpu = Gpu().window()
    told_so = (
        said(IncidentKind.GPU_LOST, 0, NOW, None),
        said(IncidentKind.PCIE_REPLAYS, 0, NOW, None),
    )
    assert merge_told(gpu.state, told_so) is gpu.state
    ended = (said(IncidentKind.GPU_LOST, 0, NOW - DAY_MS, NOW - HOUR_MS),)
    assert [one.open for one in merge_told(gpu.state, ended).records] == [False]


def test_a_name_that_could_not_be_read_says_nothing_of_the_links():
    """A link that was never seen up is missed by the model alone: no name must not excuse it."""
    gpu = Gpu().window(nvlink_states=(1,) * 17 + (0,))
    assert gpu.open().keys() == {(IncidentKind.NVLINK_DOWN, 0)}
    seen = gpu.seen()
    unnamed = Content(GPU, Group.IDENTITY, {**IDENTITY, "name": Reason.ASLEEP})
    told_so = observe(None, None, None, at_ms=1, boot_id=b"", identity=unnamed).told
    state = follow(gpu.state, replace(seen, told=told_so))
    assert [one.kind for one in state.open] == [IncidentKind.NVLINK_DOWN]
    assert state.place.links == 18


def test_what_a_window_costs_does_not_grow_with_restarts_times_events():
    """Counted in calls, which no machine's speed changes: a host could stop everyone's valuation."""
    reloads = tuple(
        Event(EventKind.DRIVER_RELOADED, n, NOW + 2 * n, NOW + 2 * n + 1, 2) for n in range(256)
    )
    flood = tuple(xid(1_000 + n, NOW + n, NOW + 1_000 + n, 5) for n in range(256))
    gpu = Gpu()
    seen = gpu.seen(*flood, host={"events": reloads})
    counted = cProfile.Profile()
    counted.enable()
    state = follow(gpu.state, seen)
    counted.disable()
    assert len(seen.restarts) == 512 and len(state.open) == OPEN_MAX
    assert sum(entry.callcount for entry in counted.getstats()) < 60_000


def test_a_thousand_incidents_told_are_bounded():
    gpu = Gpu().window()
    many = tuple(said(XID, 1_000 + n, NOW, None) for n in range(1_000))
    assert len(merge_told(gpu.state, many).records) == OPEN_MAX


def test_the_identity_is_remembered_over_windows_that_do_not_repeat_it():
    gpu = Gpu().window()
    assert gpu.state.place.address == "0000:3b:00.0"
    assert gpu.window(identity=False, pcie_width=4).open().keys() == {
        (IncidentKind.PCIE_DEGRADED, 0)
    }
    assert IDENTITY["name"]
