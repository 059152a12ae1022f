"""Plausibility: each lie that is planted in an honest window is told of, and nothing honest is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_core import codec
from assay_core.header import Period
from assay_core.health import plausibility
from assay_core.health.plausibility import CODES, GPU_RULES, HOST_RULES, NEEDED, examine
from assay_core.health.plausibility_gpu import DAILY_MS
from assay_core.health.plausibility_view import (
    RESTARTS_MAX,
    WINDOW_MAX_MS,
    Known,
    learn,
    remember,
)
from assay_core.health.reconcile import Totals, totals
from assay_core.leaves import Content, Counter, DriverState, Event, EventKind, Gauge, Group, Reason
from tests.fakes.host import START_MS, WINDOW_MS, FakeHost
from tests.golden import make

BOOT = "aa"
PERIOD = Period(START_MS, START_MS + WINDOW_MS, 10**9, 10**9 + WINDOW_MS)
W = 1_000


def flat(value):
    return Gauge(value, value, value)


def window(gpu_count=3):
    """An honest window of busy GPUs, all leaves travelling."""
    return list(FakeHost(gpu_count=gpu_count).contents(identity=True))


def lie(group, contents=None, every=False, **values):
    """The window with fields of one group of the first GPU (or of every one) put otherwise."""
    contents = window() if contents is None else contents
    told, done = [], False
    for one in contents:
        if one.group is group and (every or not done):
            assert values.keys() <= one.values.keys()
            one, done = Content(one.subject, group, {**one.values, **values}), True
        told.append(one)
    assert done
    return told


def codes(contents, period=PERIOD, known=None):
    return {one.code.removeprefix("plausibility.") for one in judge(contents, period, known)}


def judge(contents, period=PERIOD, known=None):
    return examine(contents, BOOT, period, known or {})


def odometer(before_s, now_s, elapsed_ms):
    """A GPU whose odometer was told, and is told again so much later."""
    contents = lie(Group.CONDITION, window(1), odometer_s=before_s)
    parts = {one.group: one for one in contents}
    subject = parts[Group.HEALTH].subject
    kept = totals(
        None,
        BOOT,
        PERIOD,
        health=parts[Group.HEALTH],
        use=parts[Group.USE],
        condition=parts[Group.CONDITION],
    )
    begin = PERIOD.end_boottime_ms + elapsed_ms - WINDOW_MS
    later = Period(START_MS, START_MS + WINDOW_MS, begin, begin + WINDOW_MS)
    return codes(
        lie(Group.CONDITION, contents, odometer_s=now_s), later, {subject: Known(totals=kept)}
    )


def test_honest_windows_have_no_findings():
    for seed in range(50):
        host = FakeHost(seed=seed)
        assert judge(host.contents(identity=True)) == ()


MEMORY = 85_520_809_984
LIES = {
    "energy_and_power": lambda: lie(Group.USE, energy_mj=Counter(20_000 * 300, 10**12)),
    "energy_and_limit": lambda: lie(Group.USE, energy_mj=Counter(1_000_000 * 300, 10**12)),
    "power_and_limit": lambda: lie(Group.USE, power_mw=flat(920 * W)),
    "busy_and_power": lambda: lie(
        Group.USE, gpu_utilisation_bps=flat(9_900), power_mw=Gauge(70 * W, 71 * W, 75 * W)
    ),
    "busy_and_clocks": lambda: lie(
        Group.USE,
        gpu_utilisation_bps=flat(10_000),
        sm_clock_mhz=flat(345),
        clocks_event_reasons=1,
    ),
    "idle_and_power": lambda: lie(
        Group.USE,
        gpu_utilisation_bps=flat(0),
        sm_activity_pct=0,
        power_mw=Gauge(600 * W, 640 * W, 690 * W),
    ),
    "activity_and_utilisation": lambda: lie(
        Group.USE, gpu_utilisation_bps=Gauge(0, 1_000, 2_000), sm_activity_pct=95
    ),
    "tensor_and_activity": lambda: lie(Group.USE, sm_activity_pct=20, tensor_activity_pct=90),
    "shares": lambda: lie(Group.USE, gpu_utilisation_bps=Gauge(9_000, 9_900, 10_001)),
    "memory_and_total": lambda: lie(Group.USE, memory_used_bytes=flat(MEMORY + 1)),
    "memory_and_traffic": lambda: lie(Group.USE, memory_used_bytes=flat(0)),
    "temperature": lambda: lie(Group.HEALTH, temperature_mc=Gauge(2_000, 3_000, 40_000)),
    "temperature_stands": lambda: lie(
        Group.HEALTH,
        lie(
            Group.USE,
            power_mw=Gauge(70 * W, 385 * W, 700 * W),
            energy_mj=Counter(385 * W * 300, 10**12),
        ),
        temperature_mc=flat(60_000),
    ),
    "model": lambda: lie(Group.USE, sm_clock_mhz=flat(2_520)),
    "counter_fell": lambda: lie(
        Group.HEALTH, events=(Event(EventKind.COUNTER_FELL, 4_007, START_MS, START_MS, 1),)
    ),
    "polls": lambda: lie(Group.HEALTH, polls=61),
    "host_polls": lambda: lie(Group.HOST, polls=300_000 // 50 + 257),
    "versions": lambda: lie(Group.PLATFORM, kernel_module_version="535.1"),
}


@pytest.mark.parametrize("code", LIES)
def test_a_planted_lie_is_found(code):
    contents = LIES[code]()
    assert codes(contents) >= {code}
    found = [one for one in judge(contents) if one.code == f"plausibility.{code}"]
    first = next(one for one in contents if one.group is Group.HEALTH)
    assert {one.subject for one in found} <= {first.subject, b""}
    assert all(one.detail.endswith(".") for one in found)


def test_every_rule_has_a_lie_that_it_finds_and_says_why():
    elsewhere = {"odometer", "identical", "clock_lengths", "bus", "withheld", "restarts"}
    elsewhere |= {"unread", "renamed"}
    assert {code.removeprefix("plausibility.") for code in CODES} == LIES.keys() | elsewhere
    assert len(set(CODES)) == len(CODES)
    assert all(rule.why for rule in (*GPU_RULES, *HOST_RULES))


def test_one_series_shown_as_several_gpus_is_found_and_an_idle_fleet_is_not():
    contents = window()
    health = next(one for one in contents if one.group is Group.HEALTH).values
    use = next(one for one in contents if one.group is Group.USE).values
    parts = {Group.HEALTH: health, Group.USE: use}
    cloned = [replace(one, values=parts.get(one.group, one.values)) for one in contents]
    found = judge(cloned)
    assert {one.code for one in found} == {"plausibility.identical"}
    assert len({one.subject for one in found}) == 3
    assert "identical" not in codes(
        lie(Group.HEALTH, lie(Group.USE, cloned, every=True, power_mw=flat(70 * W)), every=True)
    )
    nearly = lie(Group.USE, cloned, energy_mj=Counter(use["energy_mj"].delta + 1, 10**13))
    assert len({one.subject for one in judge(nearly)}) == 2


def test_hidden_and_phantom_gpus_are_the_hosts():
    for name in ("hidden_gpus", "phantom_gpus"):
        (found,) = judge(lie(Group.HOST, **{name: ("0000:18:00.0",)}))
        assert (found.code, found.subject) == ("plausibility.bus", b"")
        assert found.detail.startswith("1 GPU ")
        assert found.detail.endswith(": 0000:18:00.0.")
        (found,) = judge(lie(Group.HOST, **{name: ("0000:18:00.0",) * 6}))
        assert found.detail.startswith("6 GPUs ")
        assert found.detail.endswith(" and 2 more.")


def test_what_a_host_calls_things_steers_no_terminal():
    evil = "\x1b[2J" * 30
    told = lie(Group.PLATFORM, kernel_module_version=evil)
    told = lie(Group.HOST, told, hidden_gpus=(evil,) * 9, driver_version=evil + "x")
    for found in judge(told):
        assert found.detail.isprintable()
        assert len(found.detail) < 300


@pytest.mark.parametrize(
    ("utc_ms", "told_ms", "found"),
    [
        (WINDOW_MS + 2_000, 0, False),
        (WINDOW_MS + 3_000, 0, True),
        (WINDOW_MS - 3_000, 0, True),
        (WINDOW_MS + 7_200_000, 7_200_000, False),
        (WINDOW_MS - 7_200_000, -7_200_000, False),
        (WINDOW_MS, 60_000, True),
    ],
)
def test_the_window_is_as_long_on_both_clocks_or_the_step_is_told(utc_ms, told_ms, found):
    period = replace(PERIOD, end_utc_ms=START_MS + utc_ms)
    contents = lie(Group.HOST, clock_step_ms=told_ms)
    assert ("clock_lengths" in codes(contents, period)) is found


def test_an_odometer_counts_time_and_nothing_else():
    day_s, day_ms = 86_400, 86_400_000
    assert odometer(10**6, 10**6 + day_s, day_ms) == set()
    assert odometer(10**6, 10**6, day_ms) == set()
    assert odometer(10**6, 10**6 + day_s + 600, day_ms) == set()
    assert odometer(10**6, 10**6 + 2 * day_s, day_ms) == {"odometer"}
    assert odometer(10**6, 10**6 - 1, day_ms) == {"odometer"}


def test_a_window_that_something_interrupted_is_not_held_to_its_means():
    off = lie(Group.USE, energy_mj=Counter(0, 10**12))
    assert codes(off) == {"energy_and_power"}
    lost = Event(EventKind.GPU_LOST, 0, START_MS, START_MS, 1)
    assert codes(lie(Group.HEALTH, off, events=(lost,))) == set()
    assert codes(lie(Group.HOST, off, driver_state=int(DriverState.RELOADED))) == set()
    assert codes(lie(Group.HEALTH, off, polls=20)) == set()
    short = replace(PERIOD, end_utc_ms=START_MS + 9_000, end_boottime_ms=10**9 + 9_000)
    assert "energy_and_power" not in codes(off, short)


def test_after_a_gap_a_counters_rise_is_held_against_the_whole_gap():
    hour = 300_000 * 12
    (subject,) = {one.subject for one in window(1) if one.group is Group.HEALTH}
    rose = lie(Group.USE, window(1), energy_mj=Counter(600_000 * 3_900, 10**12))
    assert "energy_and_limit" in codes(rose)
    before = Totals(at_ms=0, boot=BOOT, boottime_ms=PERIOD.begin_boottime_ms - hour)
    assert codes(rose, known={subject: Known(totals=before)}) == set()
    much = lie(Group.USE, window(1), energy_mj=Counter(1_200_000 * 3_900, 10**12))
    assert codes(much, known={subject: Known(totals=before)}) == {"energy_and_limit"}


def test_a_gpu_at_its_thermal_limit_may_stand_at_one_temperature():
    told = LIES["temperature_stands"]()
    assert "temperature_stands" not in codes(lie(Group.USE, told, clocks_event_reasons=0x40))
    slowed = lie(Group.HEALTH, told, slowdown_thermal_ns=Counter(1, 1))
    assert "temperature_stands" not in codes(slowed)


def test_clocks_that_somebody_holds_down_contradict_nothing():
    told = LIES["busy_and_clocks"]()
    assert "busy_and_clocks" not in codes(lie(Group.USE, told, clocks_event_reasons=0x2))


@pytest.mark.parametrize(
    ("name", "mib", "found"),
    [
        ("NVIDIA A100-SXM4-40GB", 40_536, False),
        ("NVIDIA A100-SXM4-80GB", 40_536, True),
        ("NVIDIA H100 80GB HBM3", 81_559, False),
        ("NVIDIA H200", 81_559, True),
        ("NVIDIA GH200 480GB", 97_871, False),
        ("NVIDIA B200", 183_359, False),
        ("Tesla V100-SXM2-16GB", 16_384, False),
    ],
)
def test_a_product_has_the_memory_that_it_has(name, mib, found):
    told = lie(Group.IDENTITY, name=name, memory_total_bytes=mib * 2**20)
    told = lie(Group.USE, told, memory_used_bytes=flat(2**30), memory_clock_mhz=flat(2_000))
    assert ("model" in codes(lie(Group.USE, told, sm_clock_mhz=flat(1_000)))) is found


def test_what_travels_on_change_is_remembered():
    contents = window(1)
    identity = next(one for one in contents if one.group is Group.IDENTITY)
    known = learn(Known(), identity)
    assert (known.name, known.memory_total_bytes) == ("NVIDIA H100 80GB HBM3", MEMORY)
    later = [one for one in contents if one.group in (Group.HOST, Group.HEALTH, Group.USE)]
    over = lie(Group.USE, later, memory_used_bytes=flat(MEMORY + 1))
    assert codes(over) == set()
    assert codes(over, known={identity.subject: known}) == {"memory_and_total"}
    unread = Content(
        identity.subject, Group.IDENTITY, dict.fromkeys(identity.values, Reason.ASLEEP)
    )
    assert learn(known, unread) == known


def test_polls_that_read_nothing_reached_nothing():
    contents = [
        Content(
            one.subject,
            one.group,
            dict.fromkeys(one.values, Reason.NOT_SUPPORTED)
            | ({"polls": 60, "events": (), "tenancy": 1} if one.group is Group.HEALTH else {}),
        )
        if one.group in (Group.HEALTH, Group.USE)
        else one
        for one in window(1)
    ]
    assert codes(contents) == {"unread"}
    assert codes(lie(Group.USE, contents, memory_used_bytes=flat(2**30))) == set()


def test_a_board_that_is_called_otherwise_is_found_once():
    (subject,) = {one.subject for one in window(1) if one.group is Group.HEALTH}
    before = Known(name="NVIDIA H100 PCIe")
    (found,) = judge(window(1), known={subject: before})
    assert found.code == "plausibility.renamed"
    assert found.detail == "It was NVIDIA H100 PCIe, and is called NVIDIA H100 80GB HBM3 now."
    unnamed = lie(Group.IDENTITY, window(1), name=Reason.ASLEEP)
    assert codes(unnamed, known={subject: before}) == set()


DAILY = (Group.IDENTITY, Group.CONDITION, Group.PLATFORM)
ALL_TOLD = dict.fromkeys(DAILY, True)


@pytest.mark.parametrize("kept_back", DAILY)
def test_a_leaf_that_stops_coming_is_missed_after_two_days(kept_back):
    """One good condition, once, must not stand for a GPU for ever."""
    told = ALL_TOLD | {kept_back: False}
    known, at_ms = remember(Known(), 0, None, ALL_TOLD, restarted=False), 0
    contents = [one for one in window(1) if one.group is not kept_back]
    (subject,) = {one.subject for one in contents if one.group is Group.HEALTH}
    while at_ms < DAILY_MS:
        assert codes(contents, known={subject: known}) == set()
        known = remember(known, at_ms + WINDOW_MS, at_ms, told, restarted=False)
        at_ms += WINDOW_MS
    known = remember(known, at_ms + WINDOW_MS, at_ms, told, restarted=False)
    assert codes(contents, known={subject: known}) == {"withheld"}
    assert codes(window(1), known={subject: known}) == set(), "it came after all"
    assert remember(known, at_ms, at_ms, ALL_TOLD, restarted=False) == Known()


def test_time_in_which_nobody_saw_the_gpu_keeps_no_leaf_back():
    nothing = dict.fromkeys(DAILY, False)
    known = remember(Known(), 30 * DAILY_MS, 0, nothing, restarted=False)
    assert known.condition_untold_ms == WINDOW_MAX_MS
    assert remember(known, 0, 30 * DAILY_MS, nothing, restarted=False) == known


def test_a_window_without_usage_keeps_it_back():
    contents = [one for one in window(1) if one.group is not Group.USE]
    assert codes(contents) == {"withheld"}


@pytest.mark.parametrize(
    "told",
    [
        lambda: lie(Group.HOST, window(1), driver_state=int(DriverState.RELOADED)),
        lambda: lie(
            Group.HOST,
            window(1),
            events=(Event(EventKind.DRIVER_RELOADED, 0, START_MS, START_MS, 1),),
        ),
        lambda: lie(
            Group.HEALTH,
            window(1),
            events=(Event(EventKind.GPU_RESET, 0, START_MS, START_MS, 1),),
        ),
    ],
)
def test_who_tells_of_restarts_all_the_time_is_found(told):
    contents = told()
    (subject,) = {one.subject for one in contents if one.group is Group.HEALTH}
    known, end_ms = Known(), PERIOD.end_utc_ms
    for back in range(RESTARTS_MAX, 0, -1):
        assert codes(contents, known={subject: known}) == set()
        at_ms = end_ms - back * WINDOW_MS
        known = remember(known, at_ms, None, ALL_TOLD, restarted=True)
    assert codes(contents, known={subject: known}) == {"restarts"}
    assert codes(window(1), known={subject: known}) == set(), "none was told of"
    later = replace(
        PERIOD, end_utc_ms=end_ms + DAILY_MS, begin_utc_ms=PERIOD.begin_utc_ms + DAILY_MS
    )
    assert codes(contents, later, {subject: known}) == set(), "days apart"
    more = remember(known, end_ms, None, ALL_TOLD, restarted=True)
    assert len(more.restarts) == RESTARTS_MAX


def test_a_boot_is_a_restart_too():
    contents = window(1)
    (subject,) = {one.subject for one in contents if one.group is Group.HEALTH}
    times = tuple(PERIOD.end_utc_ms - n * WINDOW_MS for n in range(RESTARTS_MAX, 0, -1))
    known = Known(restarts=times, totals=Totals(at_ms=0, boot="bb", boottime_ms=0))
    assert codes(contents, known={subject: known}) == {"restarts"}


def test_fields_that_are_not_there_make_rules_silent():
    contents = window()
    unread = [
        Content(one.subject, one.group, dict.fromkeys(one.values, Reason.NOT_SUPPORTED))
        if one.group is not Group.HOST
        else one
        for one in contents
    ]
    assert judge(unread) == ()
    assert judge([Content(one.subject, one.group, {}) for one in contents]) == ()
    assert judge([]) == ()


def test_the_golden_window_hangs_together_but_for_the_gpu_it_hides():
    sealed = make.sealed()
    header = codec.decode_header(sealed.envelope.payload)
    contents = [codec.decode_leaf(leaf).content for leaf in sealed.leaves]
    found = examine(contents, header.boot_id.hex(), header.period, {})
    assert [one.code for one in found] == ["plausibility.bus"]


def test_the_fields_needed_are_fields_and_suffice():
    for group, names in NEEDED.items():
        assert set(names) <= codec.fields_of(group).keys()
    assert set(NEEDED) == set(Group)
    for code, told in LIES.items():
        picked = [
            Content(one.subject, one.group, {n: one.values[n] for n in NEEDED[one.group]})
            for one in told()
        ]
        assert code in codes(picked)


def test_numbers_that_no_gpu_has_break_nothing():
    most = 2**64 - 1
    for contents in (
        lie(Group.USE, energy_mj=Counter(most, most), power_mw=Gauge(0, most, 2 * most)),
        lie(Group.HEALTH, polls=2**32 - 1, temperature_mc=flat(most)),
        lie(Group.IDENTITY, memory_total_bytes=0, power_limit_max_mw=0, power_limit_default_mw=0),
        lie(Group.USE, power_limit_mw=flat(0)),
    ):
        assert isinstance(judge(contents), tuple)
    assert isinstance(judge(window(), Period(0, 0, 0, 0)), tuple)
    assert isinstance(judge(window(), Period(9, 0, 9, 0)), tuple)
    known = {b"x" * 16: Known(totals=Totals(at_ms=0, boot="", boottime_ms=0))}
    assert judge(window(), known=known) == ()
    assert plausibility.CODES
