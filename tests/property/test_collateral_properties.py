"""What must hold of every book: more debt, worse health or less proof never look better."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import replace

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.health import HealthState
from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.leaves import Severity
from assay_core.money import ZERO, Usd
from assay_valuer.book import appraise
from assay_valuer.credit.position import Pledge, Position, position
from assay_valuer.credit.schedule import debt_at
from assay_valuer.oracle.policy import Content, Published, Trigger, decide
from assay_valuer.policy import Publishing, ValuerPolicy
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.types import Condition
from assay_valuer.valuation.value import Range, Values
from assay_valuer.valuation.worth import together
from tests.fakes.collateral import NOW, asset, book, host, loan_file, prices, record, snapshot

POLICY = ValuerPolicy(credit_simulated=True)
SEVERITIES = [None, Severity.USER_ERROR, Severity.DEGRADED, Severity.IMPAIRED]
NAMES = ["NVIDIA H100 80GB HBM3", "NVIDIA B200", "NVIDIA L40S", "NVIDIA H999", None]


def incident(severity):
    return record(severity)


@st.composite
def gpus(draw, least=1):
    count = draw(st.integers(least, 8))
    return [draw(gpu(number)) for number in range(1, count + 1)]


@st.composite
def gpu(draw, number):
    severity = draw(st.sampled_from(SEVERITIES))
    age_ms = draw(st.sampled_from([0, 10 * MINUTE_MS, 2 * HOUR_MS, 7 * HOUR_MS, 100 * HOUR_MS]))
    gone = draw(st.booleans())
    return asset(
        number,
        name=draw(st.sampled_from(NAMES)),
        seen=draw(st.booleans()) or draw(st.booleans()),
        age_ms=age_ms,
        host_key=draw(st.sampled_from([1, 2, 3])),
        simulated=draw(st.booleans()),
        missing_since_ms=NOW - age_ms if gone else None,
        condition=Condition(boot_id="aa", lost=gone),
        incidents=() if severity is None else (incident(severity),),
    )


HOSTS = [host(1), host(2, age_ms=7 * HOUR_MS), host(3, "other", age_ms=HOUR_MS)]


def appraised(assets, **changed):
    loan = changed.pop("loan", loan_file([f"S{n:04d}" for n in range(1, 9)]))
    return book(assets, POLICY, hosts=HOSTS, loan=loan, **changed)


def only(held) -> Position:
    (one,) = held.positions.values()
    return one


def pledges(held) -> list[Pledge]:
    return [Pledge(line.asset.label, line.standing, line.valuation) for line in held.lines.values()]


@given(gpus(), st.integers(1, 10**13), st.integers(0, 10**13))
def test_more_debt_never_lowers_ltv(assets, amount, more):
    serials = ["S0001"]
    small = only(appraised(assets, loan=loan_file(serials, amount=amount)))
    large = only(appraised(assets, loan=loan_file(serials, amount=amount + more)))
    assert large.debt >= small.debt
    assert large.lendable == small.lendable
    for before, after in (
        (small.ltv_gross_bps, large.ltv_gross_bps),
        (small.ltv_net_bps, large.ltv_net_bps),
    ):
        assert (before is None) == (after is None)
        assert before is None or after is None or before <= after


@given(gpus(), st.integers(0, 7), st.sampled_from(SEVERITIES))
def test_worse_health_never_raises_what_is_lent_or_valued(assets, index, severity):
    index %= len(assets)
    one = assets[index]
    worst = max(
        [*(i.severity for i in one.track.health.records), *([severity] if severity else [])],
        default=None,
    )
    health = HealthState(records=() if worst is None else (incident(worst),))
    worse = [*assets]
    worse[index] = replace(one, track=replace(one.track, health=health))
    before, after = only(appraised(assets)), only(appraised(worse))
    assert after.lendable <= before.lendable
    assert after.coverage_bps <= before.coverage_bps
    olv = [ZERO if p.values is None else p.values.olv.mid for p in (before, after)]
    assert olv[1] <= olv[0]


@given(gpus(), st.integers(0, 4), st.integers(0, 4), st.booleans())
def test_less_assurance_never_raises_what_is_lent_and_never_moves_value(assets, a, b, custody):
    held = appraised(assets)
    low, high = sorted((a, b))
    lent = []
    for level in (low, high | (128 if custody else 0)):
        cap_bps = POLICY.assurance.cap_bps(level)
        proved = [
            msgspec.structs.replace(
                one, standing=replace(one.standing, assurance=level, cap_bps=cap_bps)
            )
            for one in pledges(held)
        ]
        lent.append(position(loan_file(["S0001"]), proved, POLICY, NOW))
    assert lent[0].lendable <= lent[1].lendable
    assert lent[0].values == lent[1].values


@given(gpus(least=2), st.randoms(use_true_random=False))
def test_the_order_of_gpus_changes_nothing(assets, shuffled: random.Random):
    mixed = [*assets]
    shuffled.shuffle(mixed)
    straight, other = appraised(assets), appraised(mixed)
    assert only(straight) == only(other)
    assert straight.evidence_root("loan-1") == other.evidence_root("loan-1")


@given(gpus(), st.integers(0, 400 * HOUR_MS))
def test_silence_only_takes_away_and_never_makes_a_value(assets, later_ms):
    fresh = appraised(assets)
    later = appraise(
        replace(
            snapshot(assets, hosts=HOSTS, loan=loan_file(["S0001"])),
            uptime=merge([Span(0, NOW + later_ms)]),
            remembered=fresh.remembered,
        ),
        POLICY,
        NOW + later_ms,
    )
    for asset_id, line in later.lines.items():
        before = fresh.lines[asset_id]
        if line.counted:
            assert before.counted
        if line.valuation.values is not None:
            assert line.valuation.values == before.valuation.values
            assert line.valuation.values.olv.low > ZERO
    before, after = only(fresh), only(later)
    assert after.coverage_bps <= before.coverage_bps
    assert after.lendable <= before.lendable
    assert (after.values is None) == (after.counted == 0)
    if after.values is not None:
        assert after.values.olv.low > ZERO


@given(gpus())
def test_a_book_holds_and_every_value_lies_within_its_range(assets):
    held = appraised(assets)
    one = only(held)
    counted = [line for line in held.lines.values() if line.counted]
    assert one.counted == len(counted)
    assert one.pledged == len(assets)
    for line in counted:
        values = line.valuation.values
        assert values is not None
        for amounts in (values.fmv, values.olv, values.nolv, values.flv):
            assert ZERO < amounts.low <= amounts.mid <= amounts.high
        assert values.nolv.mid <= values.olv.mid <= values.fmv.mid
    if one.values is not None:
        assert one.lendable <= one.values.nolv.mid
    assert_no_floats(one)


@given(gpus())
def test_the_same_inputs_give_the_same_book(assets):
    assert appraised(assets) == appraised(assets)


def assert_no_floats(thing):
    if dataclasses.is_dataclass(thing):
        for field in dataclasses.fields(thing):
            assert_no_floats(getattr(thing, field.name))
    elif isinstance(thing, tuple | list):
        for item in thing:
            assert_no_floats(item)
    else:
        assert not isinstance(thing, float)


@given(st.integers(0, 4_000 * 24 * HOUR_MS), st.integers(0, 24 * HOUR_MS))
def test_debt_never_shrinks_without_a_payment(since_ms, more_ms):
    loan = loan_file(["S0001"])
    begin = loan.originated_ms
    assert debt_at(loan, begin + since_ms).owed <= debt_at(loan, begin + since_ms + more_ms).owed


@given(st.integers(1, 10**12), st.integers(1, 10**12), st.integers(1, 10**4))
def test_ranges_add_and_scale_without_ever_rounding_up(low, more, factor):
    small = Range(Usd(low), Usd(low + more), Usd(low + 2 * more))
    both = (small + small).times_down(factor)
    assert both.mid.micros * 10_000 <= small.mid.micros * 2 * factor
    values = Values(small, small, small, small)
    assert together([(values, 1), (values, 2)]).flv.high == Usd(3 * (low + 2 * more))


amounts = st.integers(1, 10**9).map(Usd)


@st.composite
def contents(draw):
    olv = draw(amounts)
    observed_s = NOW // 1000 - draw(st.integers(0, 3_600))
    return Content(
        olv=olv,
        nolv=olv,
        p10=olv,
        p90=olv,
        ltv_gross_bps=draw(st.integers(0, 65_535)),
        ltv_net_bps=0,
        coverage_bps=draw(st.integers(1, 10_000)),
        assurance=draw(st.integers(0, 4)),
        flags=draw(st.sampled_from([0, 8, 16])),
        observed_at_s=observed_s,
        valid_until_s=observed_s + 48 * 3_600,
    )


@given(contents(), st.integers(0, 23 * HOUR_MS))
def test_the_same_content_again_is_never_published_before_its_heartbeat(content, later_ms):
    decision = decide(Published(1, content, NOW), content, (7_000,), Publishing(), NOW + later_ms)
    assert not decision.publish


@given(contents(), contents())
def test_a_round_that_is_held_back_names_no_immediate_trigger(before, after):
    decision = decide(Published(1, before, NOW), after, (7_000, 8_000), Publishing(), NOW)
    if not decision.publish:
        assert not any(one.immediate for one in decision.triggers)
    else:
        assert decision.triggers
        assert Trigger.FIRST not in decision.triggers


@settings(max_examples=30)
@given(st.sampled_from(NAMES), st.booleans())
def test_without_prices_nothing_has_a_value(name, priced):
    held = appraise(
        replace(snapshot([asset(name=name)]), prices=prices() if priced else None), POLICY, NOW
    )
    known = held.lines[1].valuation.values is not None
    assert known == (priced and name in ("NVIDIA H100 80GB HBM3", "NVIDIA B200"))
