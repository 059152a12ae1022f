"""Presence, silence and incidents: what counts, whose silence it is, and what moves a value."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_core.leaves import DriverState, Event, EventKind
from assay_valuer.policy import Incidents, Persistence, ValuerPolicy
from assay_valuer.standing.rules import RULES as RULES_OF_XIDS
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.stand import INCIDENTS_SAID_MAX, scene, stand
from assay_valuer.standing.track import CLOSED_KEPT_MAX, OPEN_MAX, observe
from assay_valuer.standing.types import Cause, Condition, Kind, Presence, Severity, Track
from tests.fakes.collateral import NOW, asset, host, sight

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


def test_a_claim_by_another_host_disputes_and_still_counts():
    claimed = Condition(boot_id="aa", claimed_by="spiffe://assay.test/site/x/host/9")
    one = judge(asset(condition=claimed), [host()])
    assert (one.disputed, one.counts) == (True, True)


# ---------------------------------------------------------------------------- incidents

RULES = Incidents()
T0 = NOW - 10 * DAY_MS


def follow(*sights, policy=RULES):
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
    (incident,) = track.incidents
    assert (incident.open, incident.windows) == (True, 1)
    track = observe(track, sight(T0 + 2000, 5, remap_pending=0), RULES)
    assert track.incidents[0].end_ms == T0 + 2000


def test_the_drivers_own_verdict_confirms_at_once():
    track = follow((0, {"events": (xid(119),), "recovery_action": 1}))
    assert severity_of(track, now_ms=T0) is Severity.DEGRADED


def test_the_same_xid_again_is_one_incident_that_grows():
    track = follow(
        (0, {"events": (xid(31, count=3),)}), (1000, {"events": (xid(31, T0 + 900, 2),)})
    )
    (incident,) = track.incidents
    assert (incident.count, incident.windows, incident.severity) == (5, 2, Severity.USER_ERROR)


def test_windows_that_did_not_see_the_gpu_confirm_nothing():
    paused = {"seen": False, "driver": DriverState.PAUSED, "maintenance_until_ms": NOW}
    track = follow((0, {"events": (xid(48),)}), (1000, paused), (2000, paused))
    assert [one.windows for one in track.incidents] == [1]


def test_a_reset_ends_a_degraded_xid_and_its_return_within_a_month_is_impaired():
    track = follow(
        (0, {"events": (xid(48),)}),
        (1000, {"reset": True}),
        (2000, {"events": (xid(48, T0 + 2000),)}),
    )
    first, again = track.incidents
    assert (first.open, first.severity) == (False, Severity.DEGRADED)
    assert (again.open, again.severity) == (True, Severity.IMPAIRED)


def test_a_reset_does_not_end_an_impaired_xid():
    track = follow((0, {"events": (xid(64),)}), (1000, {"reset": True}), (2 * DAY_MS, {}))
    assert [one.open for one in track.incidents] == [True]


def test_a_quiet_day_ends_an_xid_and_an_unknown_xid_is_degraded():
    track = follow((0, {"events": (xid(999),)}))
    assert track.incidents[0].severity is Severity.DEGRADED
    track = observe(track, sight(T0 + DAY_MS - 1, 8), RULES)
    assert track.incidents[0].open
    track = observe(track, sight(T0 + DAY_MS, 9), RULES)
    assert not track.incidents[0].open


def test_a_flood_of_made_up_xids_is_bounded_and_hides_nothing_that_is_known():
    flood = [
        (at_ms, {"events": tuple(xid(10_000 + at_ms + n, T0 + at_ms) for n in range(256))})
        for at_ms in range(0, 1_000, 256)
    ]
    known = {code for rule in RULES_OF_XIDS for code in rule.codes}
    real = {"events": tuple(xid(code, T0 + 2_000) for code in known), "remap_failed": 1}
    track = follow(*flood, (2_000, real), (3_000, {"seen": False, "lost": True}))
    assert len(track.incidents) == OPEN_MAX
    followed = {(one.kind, one.code) for one in track.incidents}
    assert {code for kind, code in followed if kind is Kind.XID} >= known
    assert {(Kind.REMAP_FAILED, 0), (Kind.GPU_LOST, 0)} <= followed
    ended = follow(*flood, (2_000, real), (9_000, {"boot_id": "bb"}))
    assert len(ended.incidents) <= OPEN_MAX + CLOSED_KEPT_MAX


def test_of_many_incidents_the_worst_are_said_and_the_others_counted():
    many = tuple(xid(10_000 + n) for n in range(60))
    track = follow((0, {"events": many}), (1_000, {"events": many, "remap_failed": 1}))
    one = replace(asset(), track=replace(track, seen_ms=NOW))
    standing = judge(one, [host()])
    said = [one for one in standing.findings if one.code.startswith("incident.")]
    assert said[0].code == "incident.impaired"
    assert len(said) == INCIDENTS_SAID_MAX + 1
    assert said[-1].detail == "53 more open incidents, none of them worse."
    assert len(standing.incidents) == 61


def test_xid_154_is_only_a_pointer():
    assert follow((0, {"events": (xid(154),)})).incidents == ()


def test_a_lost_gpu_is_missing_at_once_degraded_and_impaired_after_a_day_or_a_restart():
    lost = {"seen": False, "lost": True}
    track = follow((0, {}), (1000, lost))
    assert (track.missing_since_ms, track.seen_ms) == (T0 + 1000, T0)
    assert track.incidents[0].kind is Kind.GPU_LOST
    now = T0 + 2000
    assert severity_of(track, now_ms=now) is Severity.DEGRADED
    assert severity_of(track, now_ms=T0 + 1000 + DAY_MS) is Severity.IMPAIRED
    restarted = observe(track, sight(now, 9, boot_id="bb", **lost), RULES)
    assert severity_of(restarted, now_ms=now) is Severity.IMPAIRED
    back = observe(restarted, sight(now + 1, 10, boot_id="bb"), RULES)
    assert back.missing_since_ms is None
    assert not any(one.open for one in back.incidents)


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
    late = observe(track, sight(T0 + 1000, 9, events=(xid(48, T0 + 1000),)), RULES)
    assert late.seen_ms == T0 + 2000
    assert len(late.incidents) == 1


def test_a_condition_reads_back_from_json():
    condition = follow((0, {"temperature_mc": 55_000})).condition
    assert msgspec.json.decode(msgspec.json.encode(condition), type=Condition) == condition
