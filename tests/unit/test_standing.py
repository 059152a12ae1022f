"""Presence, silence and incidents: what counts, whose silence it is, and what moves a value."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from assay_core.health.state import CLOSED_MAX, OPEN_MAX
from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.leaves import (
    Counter,
    DriverState,
    Event,
    EventKind,
    Incident,
    IncidentKind,
    Severity,
)
from assay_valuer.policy import Findings, Persistence, Silence, ValuerPolicy
from assay_valuer.standing.notes import CODES, Found, Note, noted
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.stand import INCIDENTS_SAID_MAX, scene, stand
from assay_valuer.standing.track import observe
from assay_valuer.standing.trust import AssetTrust, Verdict
from assay_valuer.standing.types import Cause, Condition, Presence, Track
from tests.fakes.collateral import NOW, asset, claimed, host, record, sight
from tests.fakes.proofs import answers, device, tpm

POLICY = ValuerPolicy()
ALWAYS = merge([Span(NOW - 90 * DAY_MS, NOW + DAY_MS)])


def judge(one, hosts, policy=POLICY, uptime=ALWAYS, now_ms=NOW):
    return stand(one, scene({h.key: h for h in hosts}, uptime, policy, now_ms))


def codes(standing):
    return {finding.code for finding in standing.findings}


# ---------------------------------------------------------------------------- presence


def test_a_gpu_that_was_just_seen_is_present_and_counts_at_l0():
    seen = judge(asset(), [host()])
    assert (seen.presence, seen.counts, seen.assurance) == (Presence.PRESENT, True, 0)


def test_a_gpu_never_seen_is_expected_and_does_not_count():
    unseen = judge(asset(seen=False), [host()])
    assert (unseen.presence, unseen.counts, unseen.observed_ms) == (Presence.EXPECTED, False, None)


@pytest.mark.parametrize(
    ("age_ms", "presence", "counts"),
    [
        (15 * MINUTE_MS, Presence.PRESENT, True),
        (15 * MINUTE_MS + 1, Presence.SILENT, True),
        (6 * HOUR_MS, Presence.SILENT, True),
        (6 * HOUR_MS + 1, Presence.SILENT, False),
    ],
)
def test_a_silent_host_counts_within_its_grace_and_not_after(age_ms, presence, counts):
    one = judge(asset(age_ms=age_ms), [host(age_ms=age_ms), host(2)])
    assert (one.presence, one.counts) == (presence, counts)
    assert one.cause is (Cause.HOST if presence is Presence.SILENT else Cause.NONE)


def test_a_silence_of_every_host_of_a_site_is_the_sites():
    away = 7 * HOUR_MS
    hosts = [host(1, age_ms=away), host(2, age_ms=away), host(3, site="other")]
    assert judge(asset(age_ms=away), hosts).cause is Cause.SITE
    assert judge(asset(age_ms=away), [host(1, age_ms=away), host(2)]).cause is Cause.HOST
    assert judge(asset(age_ms=away), [host(1, age_ms=away)]).cause is Cause.HOST


def test_clocks_stop_while_we_were_down():
    age_ms = 9 * HOUR_MS
    down = merge([Span(NOW - 90 * DAY_MS, NOW - age_ms + MINUTE_MS), Span(NOW - MINUTE_MS, NOW)])
    one = judge(asset(age_ms=age_ms), [host(age_ms=age_ms)], uptime=down)
    assert (one.presence, one.cause, one.counts) == (Presence.SILENT, Cause.OURS, True)
    later = NOW + 7 * HOUR_MS
    up = merge([*down.spans, Span(NOW, later)])
    after = judge(asset(age_ms=age_ms), [host(age_ms=age_ms)], uptime=up, now_ms=later)
    assert (after.cause, after.counts) == (Cause.HOST, False)


def test_a_gpu_that_its_host_calls_missing_counts_for_its_own_grace_alone():
    lost = Condition(boot_id="aa", lost=True)
    for age_ms, counts in ((15 * MINUTE_MS, True), (15 * MINUTE_MS + 1, False)):
        gone = asset(age_ms=age_ms, missing_since_ms=NOW - age_ms, condition=lost)
        one = judge(gone, [host()])
        assert (one.presence, one.cause, one.counts) == (Presence.MISSING, Cause.GPU, counts)


def test_a_gpu_that_its_host_does_not_mention_is_silent_by_itself():
    quiet = asset(age_ms=20 * MINUTE_MS, missing_since_ms=NOW - 16 * MINUTE_MS)
    one = judge(quiet, [host()])
    assert (one.presence, one.cause, one.counts) == (Presence.SILENT, Cause.GPU, False)


def test_a_driver_that_does_not_answer_is_the_hosts_silence():
    hung = Condition(boot_id="aa", driver=int(DriverState.UNRESPONSIVE))
    one = judge(
        asset(age_ms=2 * HOUR_MS, missing_since_ms=NOW - 2 * HOUR_MS, condition=hung), [host()]
    )
    assert (one.presence, one.cause, one.counts) == (Presence.SILENT, Cause.HOST, True)


def test_announced_maintenance_counts_up_to_a_day_after_it_was_seen():
    def paused(age_ms, until_ms):
        condition = Condition(boot_id="aa", driver=5, maintenance_until_ms=until_ms)
        one = asset(age_ms=age_ms, condition=condition)
        return judge(one, [host(age_ms=age_ms)])

    within = paused(20 * HOUR_MS, NOW + HOUR_MS)
    assert (within.presence, within.counts) == (Presence.MAINTENANCE, True)
    overdue = paused(20 * HOUR_MS, NOW - 1)
    assert (overdue.presence, overdue.counts) == (Presence.SILENT, False)
    endless = paused(25 * HOUR_MS, NOW + 900 * HOUR_MS)
    assert (endless.presence, endless.counts) == (Presence.SILENT, False)


def test_a_host_that_stays_paused_does_not_keep_its_gpus_counted():
    for until_ms in (NOW - 1, NOW + 900 * HOUR_MS):
        condition = Condition(boot_id="aa", driver=5, maintenance_until_ms=until_ms)
        one = judge(asset(age_ms=25 * HOUR_MS, condition=condition), [host()])
        assert (one.presence, one.cause, one.counts) == (Presence.SILENT, Cause.HOST, False)
    back = Condition(boot_id="aa", driver=5, maintenance_until_ms=NOW - 1)
    assert judge(asset(condition=back), [host()]).presence is Presence.PRESENT


def test_a_revoked_host_speaks_for_nobody():
    one = judge(asset(), [host(revoked=True)])
    assert (one.presence, one.counts) == (Presence.UNKNOWN, False)


def test_simulated_gpus_count_only_where_policy_says_so():
    assert not judge(asset(simulated=True), [host()]).counts
    credit = ValuerPolicy(credit_simulated=True)
    one = judge(asset(simulated=True), [host()], credit)
    assert one.counts
    assert one.simulated
    assert "assurance.simulated" in codes(one)


@pytest.mark.parametrize(("made_up", "counts"), [(False, True), (True, False)])
def test_what_a_made_up_device_proved_is_simulated_as_readings_are(made_up, counts):
    real = asset()
    proved = replace(real, trust=AssetTrust(proof=device(simulated=made_up)))
    around = scene({1: host()}, ALWAYS, POLICY, NOW, proofs={1: tpm()}, revocations=answers())
    one = stand(proved, around)
    assert (one.assurance, one.simulated, one.counts) == (2, made_up, counts)
    alone = stand(proved, replace(around, proofs={}))  # it is believed for nothing: L0
    assert (alone.assurance, alone.simulated, alone.counts) == (0, False, True)


def test_a_claim_by_another_host_disputes_and_still_counts():
    one = judge(claimed(asset(), Verdict.DISPUTED), [host()])
    assert (one.disputed, one.frozen, one.counts) == (True, False, True)


def test_a_claim_that_may_be_a_move_asks_and_changes_nothing():
    one = judge(claimed(asset(), Verdict.OPEN), [host()])
    assert (one.disputed, one.frozen, one.counts) == (False, False, True)
    assert "identity.claimed" in codes(one)


def test_a_false_claim_of_another_leaves_it_as_it_was():
    one = judge(claimed(asset(), Verdict.FALSE), [host()])
    assert (one.disputed, one.frozen, one.counts) == (False, False, True)


# ---------------------------------------------------------------------------- incidents

T0 = NOW - 10 * DAY_MS


def follow(*sights, policy=POLICY):
    track = Track()
    for position, (offset_ms, changed) in enumerate(sights):
        track = observe(track, sight(T0 + offset_ms, position, **changed), policy)
    return track


def xid(code, at_ms=T0, count=1):
    return Event(EventKind.XID, code, at_ms, at_ms, count)


def severity_of(track, policy=POLICY, now_ms=NOW):
    one = replace(asset(), track=replace(track, seen_ms=now_ms, missing_since_ms=None))
    return judge(one, [replace(host(), observed_ms=now_ms)], policy, now_ms=now_ms).severity


def test_a_failed_remap_is_impaired_from_the_second_window_on():
    once = follow((0, {"remap_failed": 1}))
    assert severity_of(once, now_ms=T0) is None
    assert severity_of(once, ValuerPolicy(persistence=Persistence(enabled=False)), T0) is (
        Severity.IMPAIRED
    )
    twice = follow((0, {"remap_failed": 1}), (1000, {"remap_failed": 1}))
    assert severity_of(twice, now_ms=T0) is Severity.IMPAIRED
    assert not judge(replace(asset(), track=replace(twice, seen_ms=NOW)), [host()]).counts


def test_a_condition_that_clears_ends_and_one_without_a_value_neither_stands_nor_ends():
    track = follow((0, {"remap_pending": 1}), (1000, {"remap_pending": None}))
    (incident,) = track.health.records
    assert (incident.open, incident.windows) == (True, 1)
    track = observe(track, sight(T0 + 2000, 5, remap_pending=0), POLICY)
    assert track.health.records[0].end_ms == T0 + 2000


def test_the_drivers_own_verdict_confirms_at_once():
    track = follow((0, {"events": (xid(119),), "recovery_action": 1}))
    assert severity_of(track, now_ms=T0) is Severity.DEGRADED


def test_the_same_xid_again_is_one_incident_that_grows():
    track = follow(
        (0, {"events": (xid(31, count=3),)}), (1000, {"events": (xid(31, T0 + 900, 2),)})
    )
    (incident,) = track.health.records
    assert (incident.count, incident.windows, incident.severity) == (5, 2, Severity.USER_ERROR)


def test_windows_that_did_not_see_the_gpu_confirm_nothing():
    paused = {"seen": False, "driver": DriverState.PAUSED, "maintenance_until_ms": NOW}
    track = follow((0, {"events": (xid(48),)}), (1000, paused), (2000, paused))
    assert [one.windows for one in track.health.records] == [1]


def test_a_reset_ends_a_degraded_xid_and_its_return_within_a_month_is_impaired():
    track = follow(
        (0, {"events": (xid(48),)}),
        (1000, {"reset": True}),
        (2000, {"events": (xid(48, T0 + 2000),)}),
    )
    again, first = track.health.records
    assert (first.open, first.severity) == (False, Severity.DEGRADED)
    assert (again.open, again.severity) == (True, Severity.IMPAIRED)


def test_a_reset_does_not_end_an_impaired_xid():
    track = follow((0, {"events": (xid(64),)}), (1000, {"reset": True}), (2 * DAY_MS, {}))
    assert [one.open for one in track.health.records] == [True]


def test_a_quiet_day_ends_an_xid_and_an_unknown_xid_is_degraded():
    track = follow((0, {"events": (xid(999),)}))
    assert track.health.records[0].severity is Severity.DEGRADED
    track = observe(track, sight(T0 + DAY_MS - 1, 8), POLICY)
    assert track.health.records[0].open
    track = observe(track, sight(T0 + DAY_MS, 9), POLICY)
    assert not track.health.records[0].open


def test_a_flood_of_made_up_xids_is_bounded_and_hides_nothing_that_is_known():
    flood = [
        (at_ms, {"events": tuple(xid(10_000 + at_ms + n, T0 + at_ms) for n in range(256))})
        for at_ms in range(0, 1_000, 256)
    ]
    grave = (64, 157, 165, 168)
    real = {"events": tuple(xid(code, T0 + 2_000) for code in grave), "remap_failed": 1}
    track = follow(*flood, (2_000, real), (3_000, {"seen": False, "lost": True}))
    assert len(track.health.open) == OPEN_MAX
    followed = {(one.kind, one.code) for one in track.health.open}
    assert {(IncidentKind.XID, code) for code in grave} <= followed
    assert {(IncidentKind.REMAP_FAILED, 0), (IncidentKind.GPU_LOST, 0)} <= followed
    ended = follow(*flood, (2_000, real), (9_000, {"boot_id": "bb"}), (10_000, {"boot_id": "bb"}))
    assert len(ended.health.records) <= OPEN_MAX + CLOSED_MAX


def test_of_many_incidents_the_worst_are_said_and_the_others_counted():
    many = tuple(xid(10_000 + n) for n in range(60))
    track = follow((0, {"events": many}), (1_000, {"events": many, "remap_failed": 1}))
    one = replace(asset(), track=replace(track, seen_ms=NOW))
    standing = judge(one, [host()])
    said = [one for one in standing.findings if one.code.startswith("incident.")]
    assert said[0].code == "incident.impaired"
    assert len(said) == INCIDENTS_SAID_MAX + 1
    assert (
        said[0].detail
        == "remap failed, impaired: a memory row could not be remapped, not yet confirmed."
    )
    assert said[-1].detail == "53 more open incidents, none of them worse."
    assert len(standing.incidents) == 61


def test_xid_154_is_only_a_pointer():
    assert follow((0, {"events": (xid(154),)})).health.records == ()


def test_a_lost_gpu_is_missing_at_once_degraded_and_impaired_after_a_day_or_a_restart():
    lost = {"seen": False, "lost": True}
    track = follow((0, {}), (1000, lost))
    assert (track.missing_since_ms, track.seen_ms) == (T0 + 1000, T0)
    assert track.health.records[0].kind is IncidentKind.GPU_LOST
    now = T0 + 2000
    assert severity_of(track, now_ms=now) is Severity.DEGRADED
    assert severity_of(track, now_ms=T0 + 1000 + DAY_MS) is Severity.IMPAIRED
    restarted = observe(track, sight(now, 9, boot_id="bb", **lost), POLICY)
    assert severity_of(restarted, now_ms=now) is Severity.IMPAIRED
    back = observe(restarted, sight(now + 1, 10, boot_id="bb"), POLICY)
    assert back.missing_since_ms is None
    assert not back.health.open


def test_maintenance_says_nothing_of_a_gpu():
    paused = {"seen": False, "driver": DriverState.PAUSED, "maintenance_until_ms": T0 + HOUR_MS}
    track = follow((0, {}), (1000, paused))
    assert (track.missing_since_ms, track.seen_ms) == (None, T0)
    assert track.condition.maintenance_until_ms == T0 + HOUR_MS


@pytest.mark.parametrize("lost", [True, False])
@pytest.mark.parametrize(
    "pause",
    [
        {"driver": DriverState.PAUSED, "maintenance_until_ms": T0 + 20 * HOUR_MS},
        {"driver": DriverState.UNRESPONSIVE},
        {"driver": DriverState.ABSENT},
    ],
    ids=lambda pause: pause["driver"].name,
)
def test_no_excuse_afterwards_brings_a_missing_gpu_back_into_the_count(pause, lost):
    pause = {"seen": False, **pause}
    gone = (MINUTE_MS, {"seen": False, "lost": lost})
    later_ms = T0 + HOUR_MS
    for story, counts in (
        ([(0, {}), gone, (30 * MINUTE_MS, pause), (60 * MINUTE_MS, pause)], False),
        ([(0, {}), (MINUTE_MS, pause), (60 * MINUTE_MS, pause)], True),
    ):
        one = replace(asset(), track=follow(*story))
        here = [replace(host(), observed_ms=later_ms)]
        assert judge(one, here, now_ms=later_ms).counts is counts


def test_a_driver_that_hung_may_be_mended_in_announced_maintenance():
    hung = {"seen": False, "driver": DriverState.UNRESPONSIVE}
    pause = {
        "seen": False,
        "driver": DriverState.PAUSED,
        "maintenance_until_ms": T0 + 20 * HOUR_MS,
    }
    track = follow((0, {}), (MINUTE_MS, hung), (2 * MINUTE_MS, pause), (3 * MINUTE_MS, pause))
    later_ms = T0 + 8 * HOUR_MS
    one = replace(asset(), track=track)
    mended = judge(one, [replace(host(), observed_ms=later_ms)], now_ms=later_ms)
    assert (mended.presence, mended.counts) == (Presence.MAINTENANCE, True)


def test_history_restores_incidents_and_not_presence():
    track = follow((0, {}), (2000, {"seen": True}))
    assert track.seen_ms == T0 + 2000
    late = observe(track, sight(T0 + 1000, 9, events=(xid(48, T0 + 1000),)), POLICY)
    assert late.seen_ms == T0 + 2000
    assert len(late.health.records) == 1


def test_a_condition_reads_back_from_json():
    condition = follow((0, {"temperature_mc": 55_000})).condition
    assert msgspec.json.decode(msgspec.json.encode(condition), type=Condition) == condition


# ---------------------------------------------------------------------------- passed through


def passed(*offsets_ms):
    return [(at_ms, {"seen": False, "passed": True}) for at_ms in offsets_ms]


def test_a_gpu_that_a_virtual_machine_has_is_never_missing_and_counts_for_its_own_grace():
    track = follow((0, {}), *passed(MINUTE_MS, HOUR_MS))
    assert (track.missing_since_ms, track.health.records) == (None, ())
    one = replace(asset(), track=track)
    for age_ms, counts in ((2 * HOUR_MS, True), (24 * HOUR_MS, True), (24 * HOUR_MS + 1, False)):
        now_ms = T0 + age_ms
        here = [replace(host(), observed_ms=now_ms)]
        standing = judge(one, here, now_ms=now_ms)
        assert (standing.presence, standing.cause) == (Presence.PASSED_THROUGH, Cause.TENANT)
        assert (standing.counts, standing.severity) == (counts, None)
    short = ValuerPolicy(silence=Silence(passed_through_grace_s=60))
    here = [replace(host(), observed_ms=T0 + 2 * MINUTE_MS)]
    assert not judge(one, here, short, now_ms=T0 + 2 * MINUTE_MS).counts


def test_a_gpu_comes_back_from_a_virtual_machine_or_is_gone_after_all():
    away = follow((0, {}), *passed(1000))
    back = observe(away, sight(T0 + 2000, 7), POLICY)
    assert (back.condition.passed_through, back.missing_since_ms) == (False, None)
    gone = observe(away, sight(T0 + 2000, 7, seen=False, lost=True), POLICY)
    assert (gone.condition.passed_through, gone.missing_since_ms) == (False, T0 + 2000)
    lost_first = follow((0, {}), (1000, {"seen": False, "lost": True}), *passed(2000))
    assert (lost_first.missing_since_ms, lost_first.health.open) == (None, ())


def test_a_driver_that_hangs_meanwhile_does_not_take_it_from_the_virtual_machine():
    away = follow((0, {}), *passed(1000), (2000, {"seen": False, "driver": DriverState.ABSENT}))
    assert (away.condition.passed_through, away.missing_since_ms) == (True, None)


def test_a_host_that_is_silent_speaks_for_no_virtual_machine():
    track = follow((0, {}), *passed(1000))
    one = replace(asset(), track=track)
    standing = judge(one, [replace(host(), observed_ms=T0)], now_ms=T0 + 7 * HOUR_MS)
    assert (standing.presence, standing.counts) == (Presence.SILENT, False)


# ---------------------------------------------------------------------------- what its host says


def told(code, begin_ms, last_ms, end_ms=None, severity=Severity.USER_ERROR):
    return Incident(IncidentKind.XID, code, severity, begin_ms, last_ms, end_ms, 4)


def test_what_its_host_says_only_adds_and_our_rules_say_how_bad_it_is():
    track = follow((0, {}), (HOUR_MS, {"told": (told(64, T0 + 1, T0 + 2),)}))
    (added,) = track.health.open
    assert (added.code, added.severity, added.begin_ms) == (64, Severity.IMPAIRED, T0 + 1)
    ours = follow((0, {"events": (xid(64),)}), (1000, {"told": (told(64, T0, T0, T0 + 1),)}))
    assert [(one.severity, one.open) for one in ours.health.records] == [(Severity.IMPAIRED, True)]
    reading = Incident(IncidentKind.REMAP_FAILED, 0, Severity.IMPAIRED, T0, T0, None, 1)
    assert follow((0, {"told": (reading,)})).health.records == ()
    assert follow((0, {"told": (told(154, T0, T0),)})).health.records == ()


# ---------------------------------------------------------------------------- findings and gaps


def used(energy_mj, **more):
    return {"use": {"energy_mj": Counter(0, energy_mj)}, **more}


def codes_of(track):
    return [note.code for note in track.notes.findings]


def test_leaves_that_do_not_come_and_restarts_that_are_told_are_remembered():
    known = follow((0, {"condition": {"odometer_s": 1}}), (1_000, used(20))).notes.known
    assert (known.condition_untold_ms, known.identity_untold_ms) == (1_000, 1_000)
    known = follow((0, {}), (1_000, {"condition": {"odometer_s": 1}})).notes.known
    assert (known.condition_untold_ms, known.platform_untold_ms) == (0, 1_000)
    assert known.restarts == ()
    boot = follow((0, {}), (1_000, {"reset": True}), (2_000, {"boot_id": "bb"}))
    assert boot.notes.known.restarts == (T0 + 1_000, T0 + 2_000)
    unseen = follow((0, {}), (1_000, {"seen": False, "lost": True}))
    assert unseen.notes.known.identity_untold_ms == 0


def test_windows_that_follow_on_each_other_are_no_gap():
    track = follow((1_000, used(10)), (2_000, used(20)), (3_000, used(30)))
    assert track.notes.findings == ()
    assert track.notes.known.totals.energy_mj == 30


@pytest.mark.parametrize(
    ("story", "verdict"),
    [
        ([(HOUR_MS, used(10**9, reset=True))], "used"),
        ([(HOUR_MS, used(5, boot_id="bb"))], "reset"),
        ([(HOUR_MS, used(1_000_010))], "idle"),
        ([(HOUR_MS, used(10**9))], "used"),
        ([(1_000, {"seen": False, "lost": True}), (2_000, used(20))], "idle"),
        ([(1_000, {"seen": False, "passed": True}), (2_000, used(20))], "idle"),
        ([(HOUR_MS, {})], "unknown"),
        ([(HOUR_MS, used(30, rows_uncorrected=0))], "impossible"),
    ],
)
def test_after_any_gap_lifetime_counters_are_reconciled(story, verdict):
    first = {} if verdict == "unknown" else used(10, rows_uncorrected=3)
    if verdict != "impossible":
        first |= {"rows_uncorrected": 0}
    track = follow((0, first), *story)
    assert codes_of(track) == [f"reconciliation.{verdict}"]
    one = replace(asset(), track=replace(track, seen_ms=NOW, missing_since_ms=None))
    standing = judge(one, [host()])
    assert standing.counts
    assert standing.severity is None
    assert f"reconciliation.{verdict}" in codes(standing)


def test_a_gap_is_said_once_and_the_newest_verdict_stands():
    day = DAY_MS
    track = follow(
        (0, used(10)), (day, used(20)), (day + 1000, used(21)), (2 * day, used(3 * 10**10))
    )
    assert codes_of(track) == ["reconciliation.used"]
    bad = follow(
        (0, used(10, rows_uncorrected=3)),
        (day, used(20, rows_uncorrected=1)),
        (2 * day, used(30, rows_uncorrected=1)),
    )
    assert sorted(codes_of(bad)) == ["reconciliation.idle", "reconciliation.impossible"]


def test_findings_are_kept_once_for_each_code_counted_and_in_time_forgotten():
    one, other = CODES[:2]
    notes = noted((), [Found(one, "First."), Found(other, "Other.")], 5, 100)
    notes = noted(notes, [Found(one, "Again.")], 50, 100)
    assert notes == (
        Note(code=one, detail="Again.", first_ms=5, last_ms=50, count=2),
        Note(code=other, detail="Other.", first_ms=5, last_ms=5, count=1),
    )
    assert [note.code for note in noted(notes, [], 106, 100)] == [one]
    many = noted((), [Found(code, ".") for code in CODES for _ in range(9)], 1, 10)
    assert len(many) <= len(CODES)


def test_a_finding_is_said_with_its_times_and_moves_no_value():
    track = follow((0, {}))
    found = replace(sight(T0 + 1000, 9), found=(Found(CODES[0], "Off by much."),))
    again = replace(sight(T0 + 2000, 10), found=(Found(CODES[0], "Off by more."),))
    noticed = observe(observe(track, found, POLICY), again, POLICY)
    one = replace(asset(), track=replace(noticed, seen_ms=NOW))
    standing = judge(one, [host()])
    (said,) = [finding for finding in standing.findings if finding.code == CODES[0]]
    assert said.detail.startswith("Off by more. Found 2 times since 20")
    assert said.detail.endswith("It moves no value.")
    assert (standing.counts, standing.severity, said.effect_bps) == (True, None, None)
    forgetful = ValuerPolicy(findings=Findings(keep_s=60))
    assert CODES[0] not in codes(judge(one, [host()], forgetful))


def test_an_incident_of_the_past_is_not_shown_as_open():
    one = asset(incidents=(record(Severity.IMPAIRED, end_ms=NOW), record(Severity.USER_ERROR)))
    standing = judge(one, [host()])
    assert (standing.severity, len(standing.incidents)) == (Severity.USER_ERROR, 1)
