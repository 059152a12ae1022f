"""When a feed gets a round, and when it waits."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_core.money import Usd
from assay_valuer.oracle.policy import Content, Published, Trigger, decide
from assay_valuer.policy import Publishing
from tests.fakes.collateral import NOW

HOUR_S = 3_600
NOW_S = NOW // 1000
THRESHOLDS = (7_000, 7_500, 8_000, 8_500)
WAS = Content(
    olv=Usd(100_000_000),
    nolv=Usd(70_000_000),
    p10=Usd(90_000_000),
    p90=Usd(110_000_000),
    ltv_gross_bps=6_900,
    ltv_net_bps=9_900,
    coverage_bps=10_000,
    assurance=0,
    flags=0,
    observed_at_s=NOW_S - HOUR_S,
    valid_until_s=NOW_S + 47 * HOUR_S,
)
IS = replace(WAS, observed_at_s=NOW_S, valid_until_s=NOW_S + 48 * HOUR_S)
LAST = Published(3, WAS, NOW - HOUR_S * 1000)


def decided(candidate, last=LAST, now_ms=NOW):
    return decide(last, candidate, THRESHOLDS, Publishing(), now_ms)


def test_a_feed_without_a_round_gets_its_first():
    assert decided(IS, None).triggers == (Trigger.FIRST,)


def test_a_first_round_waits_for_something_to_count():
    assert not decided(replace(IS, coverage_bps=0, nolv=Usd(0)), None).publish


def test_nothing_new_is_not_published():
    assert not decided(IS).publish


@pytest.mark.parametrize(
    ("changed", "trigger"),
    [
        ({"nolv": Usd(69_300_000)}, Trigger.DEVIATION),
        ({"nolv": Usd(70_700_000)}, Trigger.DEVIATION),
        ({"nolv": Usd(69_300_001)}, None),
        ({"ltv_gross_bps": 7_000}, Trigger.THRESHOLD),
        ({"ltv_gross_bps": 9_999}, Trigger.THRESHOLD),
        ({"ltv_gross_bps": 6_999}, None),
        ({"coverage_bps": 9_800}, Trigger.COVERAGE),
        ({"coverage_bps": 9_801}, None),
        ({"assurance": 1}, Trigger.ASSURANCE),
        ({"flags": 16}, Trigger.FLAGS),
    ],
)
def test_each_trigger_at_its_edge(changed, trigger):
    decision = decided(replace(IS, **changed))
    assert decision.publish is (trigger is not None)
    assert decision.triggers == (() if trigger is None else (trigger,))


def test_a_heartbeat_is_due_after_a_day():
    day_ms = 24 * HOUR_S * 1000
    late = replace(IS, observed_at_s=NOW_S + 23 * HOUR_S, valid_until_s=NOW_S + 71 * HOUR_S)
    assert not decided(late, now_ms=LAST.at_ms + day_ms - 1).publish
    assert decided(late, now_ms=LAST.at_ms + day_ms).triggers == (Trigger.HEARTBEAT,)


def test_a_round_about_to_expire_is_renewed_only_by_newer_evidence():
    old = replace(WAS, valid_until_s=NOW_S + 6 * HOUR_S)
    last = Published(3, old, NOW - 20 * HOUR_S * 1000)
    assert decided(IS, last).triggers == (Trigger.EXPIRY,)
    assert not decided(replace(IS, valid_until_s=old.valid_until_s), last).publish


def test_a_move_waits_for_the_least_interval_and_an_immediate_trigger_does_not():
    fresh = Published(3, WAS, NOW - 14 * 60_000)
    moved = replace(IS, nolv=Usd(60_000_000))
    waiting = decided(moved, fresh)
    assert (waiting.publish, waiting.triggers) == (False, (Trigger.DEVIATION,))
    assert decided(moved, fresh, NOW + 60_000).publish
    assert decided(replace(moved, flags=16), fresh).publish


def test_a_threshold_is_left_only_by_more_than_the_hysteresis():
    above = Published(3, replace(WAS, ltv_gross_bps=7_010), LAST.at_ms)
    assert not decided(replace(IS, ltv_gross_bps=6_975), above).publish
    assert decided(replace(IS, ltv_gross_bps=6_974), above).triggers == (Trigger.THRESHOLD,)


def test_evidence_older_than_the_published_rounds_waits():
    assert not decided(replace(IS, flags=16, observed_at_s=WAS.observed_at_s - 1)).publish
    assert decided(replace(IS, flags=16, observed_at_s=WAS.observed_at_s)).publish


def test_what_has_expired_is_not_published():
    assert not decided(replace(IS, valid_until_s=NOW_S), None).publish


def test_value_from_nothing_and_to_nothing_is_a_move():
    nothing = replace(WAS, nolv=Usd(0), coverage_bps=0)
    assert Trigger.DEVIATION in decided(IS, Published(3, nothing, LAST.at_ms)).triggers
    gone = decided(replace(IS, nolv=Usd(0), coverage_bps=0))
    assert {Trigger.DEVIATION, Trigger.COVERAGE} <= set(gone.triggers)
