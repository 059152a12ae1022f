"""Reconciliation over a gap: honest GPUs are never impossible, thieves of energy or wear always are."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_core.header import Period
from assay_core.health.reconcile import (
    EXCEEDED_PCT,
    IDLE_PCT,
    SPARE_MS,
    Totals,
    Verdict,
    elapsed_ms,
    reconcile,
    totals,
)
from assay_core.leaves import Content, Counter, Group, Reason

HOUR = 3_600_000
LIMIT = 700_000
U64 = st.integers(0, 2**64 - 1)
MAYBE = st.none() | U64
START = Totals(
    at_ms=10**12,
    boot="aa",
    boottime_ms=10**9,
    energy_mj=10**9,
    energy_lifetime_mj=5 * 10**9,
    odometer_s=10**7,
    odometer_age_ms=HOUR,
    remapped_corrected=3,
    remapped_uncorrected=1,
    ecc_corrected=100,
    ecc_uncorrected=2,
)
LASTING = ("odometer_s", "remapped_corrected", "remapped_uncorrected", "ecc_corrected")


def later(gap_ms, **changed):
    return msgspec.structs.replace(
        START, at_ms=START.at_ms + gap_ms, boottime_ms=START.boottime_ms + gap_ms, **changed
    )


def judge(after, gap_ms, *, restarted=False, limit=LIMIT, before=START):
    return reconcile(before, after, elapsed_ms=gap_ms, restarted=restarted, power_limit_mw=limit)


def used(mean_mw, gap_ms):
    return mean_mw * gap_ms // 1_000


@given(gap_ms=st.integers(0, 10**10), power_mw=st.integers(0, LIMIT), reload=st.booleans())
def test_an_honest_gpu_is_never_impossible(gap_ms, power_mw, reload):
    spent = used(power_mw, gap_ms)
    after = later(
        gap_ms,
        energy_mj=spent if reload else START.energy_mj + spent,
        energy_lifetime_mj=START.energy_lifetime_mj + spent,
        odometer_s=START.odometer_s + (HOUR + gap_ms) // 1_000,
    )
    found = judge(after, gap_ms, restarted=reload)
    assert found.verdict is not Verdict.IMPOSSIBLE
    assert found.energy_mj == spent
    assert found.at_least is reload
    assert found.full_load_ms <= gap_ms
    if not reload and gap_ms > 1_000_000:
        idle = power_mw * 100 < LIMIT * IDLE_PCT
        expected = Verdict.IDLE if idle else Verdict.USED
        if abs(power_mw * 100 - LIMIT * IDLE_PCT) > 100:
            assert found.verdict is expected


@given(gap_ms=st.integers(0, 10**10), over_mj=st.integers(2, 10**15), reload=st.booleans())
def test_more_energy_than_the_limit_allows_is_impossible(gap_ms, over_mj, reload):
    spent = LIMIT * (gap_ms + SPARE_MS) * EXCEEDED_PCT // 100_000 + over_mj
    before = msgspec.structs.replace(START, energy_mj=10**17)
    after = later(gap_ms, energy_mj=spent if reload else before.energy_mj + spent)
    for limit, impossible in ((LIMIT, True), (None, False)):
        found = judge(after, gap_ms, restarted=reload, limit=limit, before=before)
        assert (found.verdict is Verdict.IMPOSSIBLE) is impossible


@given(st.sampled_from(LASTING), st.integers(0, 10**9), st.data())
def test_what_lasts_as_the_board_does_never_falls(name, gap_ms, data):
    fallen = data.draw(st.integers(0, getattr(START, name) - 1))
    found = judge(later(gap_ms, **{name: fallen}), gap_ms, restarted=True)
    assert found.verdict is Verdict.IMPOSSIBLE
    assert str(fallen) in found.detail


@given(gap_ms=st.integers(0, 10**10), ahead_s=st.integers(1, 10**9))
def test_an_odometer_is_no_faster_than_time(gap_ms, ahead_s):
    most_s = (START.odometer_age_ms + gap_ms + SPARE_MS) // 1_000
    within = later(gap_ms, odometer_s=START.odometer_s + most_s)
    assert judge(within, gap_ms).verdict is not Verdict.IMPOSSIBLE
    beyond = later(gap_ms, odometer_s=START.odometer_s + most_s + ahead_s)
    assert judge(beyond, gap_ms).verdict is Verdict.IMPOSSIBLE


@given(
    st.builds(
        Totals,
        at_ms=U64,
        boot=st.sampled_from(["aa", "bb"]),
        boottime_ms=U64,
        energy_mj=MAYBE,
        energy_lifetime_mj=MAYBE,
        odometer_s=MAYBE,
        odometer_age_ms=U64,
        remapped_corrected=MAYBE,
        remapped_uncorrected=MAYBE,
        ecc_corrected=MAYBE,
        ecc_uncorrected=MAYBE,
    ),
    U64,
    st.booleans(),
    st.none() | st.integers(0, 2**40),
)
def test_nothing_that_is_told_breaks_it(after, gap_ms, restarted, limit):
    found = judge(after, gap_ms, restarted=restarted, limit=limit)
    assert found.detail.endswith(".")
    if found.verdict in (Verdict.IDLE, Verdict.USED, Verdict.RESET):
        assert found.energy_mj is not None
        assert found.energy_mj >= 0
    if after.energy_mj is None and after.energy_lifetime_mj is None:
        assert found.verdict in (Verdict.UNKNOWN, Verdict.IMPOSSIBLE)


@given(st.integers(0, LIMIT), st.integers(0, LIMIT), st.integers(10**6, 10**10))
def test_more_energy_never_makes_a_gpu_less_used(one_mw, other_mw, gap_ms):
    low, high = sorted((one_mw, other_mw))
    rank = [Verdict.IDLE, Verdict.USED]
    verdicts = [
        judge(later(gap_ms, energy_mj=START.energy_mj + used(power, gap_ms),
                    energy_lifetime_mj=None), gap_ms).verdict
        for power in (low, high)
    ]  # fmt: skip
    assert rank.index(verdicts[0]) <= rank.index(verdicts[1])


@given(gap_ms=st.integers(0, 10**9), power_mw=st.integers(0, LIMIT))
def test_a_restart_that_kept_its_counter_is_not_impossible(gap_ms, power_mw):
    after = later(gap_ms, energy_mj=START.energy_mj + used(power_mw, gap_ms))
    assert judge(after, gap_ms, restarted=True).verdict is not Verdict.IMPOSSIBLE


# ------------------------------------------------------------------------- by example


def test_each_verdict_with_its_words():
    day = 24 * HOUR
    lifetime = START.energy_lifetime_mj
    idle = judge(later(day, energy_mj=START.energy_mj + used(75_000, day)), day)
    assert (idle.verdict, idle.detail) == (
        Verdict.IDLE,
        "After 1.0 d unseen: idle, 1.800 kWh, 2.6 hours of full load.",
    )
    half = used(350_000, day)
    busy = judge(later(day, energy_mj=START.energy_mj + half, energy_lifetime_mj=None), day)
    assert busy.detail == "After 1.0 d unseen: used, 8.400 kWh, 12.0 hours of full load."
    again = judge(later(day, energy_mj=10, energy_lifetime_mj=lifetime + 10), day, restarted=True)
    assert again.verdict is Verdict.RESET
    assert "began anew; at least 0.000 kWh" in again.detail
    since = judge(later(day, energy_mj=half), day, restarted=True)
    assert (since.verdict, since.at_least) == (Verdict.USED, True)
    nothing = later(day, energy_mj=None, energy_lifetime_mj=None)
    assert judge(nothing, day).verdict is Verdict.UNKNOWN


def test_a_counter_that_fell_without_a_word_of_a_reload_began_anew():
    found = judge(later(HOUR, energy_mj=5, energy_lifetime_mj=None), HOUR)
    assert (found.verdict, found.at_least, found.energy_mj) == (Verdict.RESET, True, 5)


def content(group, **values):
    return Content(b"x" * 16, group, values)


def period(begin, end, boot=10**6):
    return Period(begin, end, begin + boot, end + boot)


def test_totals_keep_what_a_window_does_not_tell():
    zero, two = Counter(0, 0), Counter(2, 2)
    first = totals(
        None,
        "aa",
        period(0, 300_000),
        health=content(
            Group.HEALTH,
            remapped_rows_corrected=zero,
            remapped_rows_uncorrected=zero,
            ecc_corrected_aggregate=two,
            ecc_uncorrected_aggregate=Reason.NOT_SUPPORTED,
        ),
        use=content(Group.USE, energy_mj=Counter(5, 50), energy_lifetime_mj=7),
        condition=content(Group.CONDITION, odometer_s=9),
    )
    assert (first.energy_mj, first.energy_lifetime_mj, first.odometer_s) == (50, 7, 9)
    assert (first.remapped_corrected, first.ecc_corrected, first.ecc_uncorrected) == (0, 2, None)
    assert (first.odometer_age_ms, first.at_ms, first.boot) == (300_000, 300_000, "aa")
    later_ = totals(first, "aa", period(300_000, 600_000), health=None, use=None, condition=None)
    assert later_ == msgspec.structs.replace(
        first, at_ms=600_000, boottime_ms=1_600_000, odometer_age_ms=600_000
    )
    again = totals(
        later_,
        "aa",
        period(600_000, 900_000),
        health=None,
        use=content(Group.USE, energy_mj=Reason.ASLEEP),
        condition=content(Group.CONDITION, odometer_s=10),
    )
    assert (again.odometer_s, again.odometer_age_ms, again.energy_mj) == (10, 300_000, 50)
    assert msgspec.json.decode(msgspec.json.encode(again), type=Totals) == again


def test_clocks_that_cannot_be_leave_numbers_that_can_be_kept():
    most = 2**64 - 1
    kept = None
    for boot in ("aa", "bb", "cc", "aa"):
        ends = Period(0, 2**63 - 1, 0, most)
        kept = totals(kept, boot, ends, health=None, use=None, condition=None)
    assert kept.odometer_age_ms <= 2**53
    assert msgspec.json.decode(msgspec.json.encode(kept), type=Totals) == kept


@pytest.mark.parametrize(
    ("boot", "utc_ms", "boottime_ms", "elapsed"),
    [
        ("aa", -7_200_000, 60_000, 60_000),  # the wall clock was set back
        ("aa", 7_200_000, 60_000, 60_000),
        ("aa", 60_000, -5, 0),
        ("bb", 60_000, -(10**9) + 40_000, 60_000),
        ("bb", -7_200_000, -(10**9) + 40_000, 40_000),  # at least since it booted
    ],
)
def test_elapsed_time_is_by_the_clock_that_nobody_steps(boot, utc_ms, boottime_ms, elapsed):
    ends = Period(0, START.at_ms + utc_ms, 0, START.boottime_ms + boottime_ms)
    assert elapsed_ms(START, boot, ends) == elapsed
    assert elapsed_ms(START, boot, replace(ends, begin_utc_ms=5)) == elapsed
