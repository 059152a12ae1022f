"""What must hold of every covenant and every life: more debt, silence, flapping, order, replay."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from assay_core.covenant import Covenant, Thresholds, decode, encode, validate
from assay_core.instants import DAY_MS, HOUR_MS
from assay_core.leaves import Severity
from assay_core.units import LTV_BPS_MAX
from assay_valuer.credit.covenant import (
    CovenantState,
    Inputs,
    Level,
    Record,
    replay,
    sha256_of,
    step,
)
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.types import Condition
from tests.fakes.collateral import NOW, asset, host, record
from tests.fakes.covenant import Measured, covenant_file

SERVED = merge([Span(NOW - 30 * DAY_MS, NOW + 4_000 * DAY_MS)])
WORSE = {Level.CALL, Level.DEFAULT}


@st.composite
def covenants(draw: st.DrawFn) -> Covenant:
    watch, call, default = sorted(draw(st.sets(st.integers(1_000, 20_000), min_size=3, max_size=3)))
    found = covenant_file(
        thresholds=Thresholds(watch_bps=watch, call_bps=call, default_bps=default),
        hysteresis_bps=draw(st.integers(0, 999)),
        call_valuations=draw(st.integers(1, 4)),
        call_apart_hours=draw(st.integers(1, 72)),
        value_cure_hours=draw(st.integers(1, 300)),
        reporting_cure_hours=draw(st.integers(1, 100)),
    )
    validate(found)
    return found


ltvs = st.one_of(
    st.none(), st.integers(0, 22_000), st.integers(0, LTV_BPS_MAX), st.sampled_from([7_900, 8_600])
)


@st.composite
def seen(draw: st.DrawFn) -> Inputs:
    silent = draw(st.integers(0, 3))
    return Inputs(
        debt_micros=1,
        value_micros=1,
        silent_micros=0,
        ltv_bps=draw(ltvs),
        complete=draw(st.booleans()) or draw(st.booleans()),
        counted=3 - silent,
        silent=silent,
        pledged=3,
        assurance=0,
        observed_ms=None,
        stale=bool(silent),
        disputed=draw(st.booleans()),
        called_served_ms=0,
        silent_served_ms=draw(st.integers(0, 150)) * HOUR_MS if silent else 0,
    )


lives = st.lists(st.tuples(st.integers(1, 60), seen()), max_size=25)


def lived(covenant, life):
    """Each step with the state before it, its inputs, the state after it, and what changed."""
    state: CovenantState | None = None
    now_ms = NOW
    for hours, inputs in life:
        now_ms += hours * HOUR_MS
        called_ms = None if state is None else state.called_ms
        clock_ms = 0 if called_ms is None else now_ms - called_ms
        taken = replace_struct(inputs, called_served_ms=clock_ms)
        before = state
        state, transitions = step(state, taken, covenant, now_ms)
        yield before, taken, state, transitions, now_ms


@given(covenants())
def test_any_file_reads_back(covenant):
    assert decode(encode(covenant)) == covenant


@given(covenants(), lives, st.data())
def test_more_debt_never_improves_the_state(covenant, life, data):
    heavier = [
        (
            hours,
            inputs
            if inputs.ltv_bps is None
            else replace_struct(
                inputs, ltv_bps=inputs.ltv_bps + data.draw(st.sampled_from([0, 1, 150, 9_000]))
            ),
        )
        for hours, inputs in life
    ]
    pairs = zip(lived(covenant, life), lived(covenant, heavier), strict=True)
    for (_, _, light, _, _), (_, _, heavy, _, _) in pairs:
        assert heavy.level.rank >= light.level.rank


@given(covenants(), lives)
def test_nothing_changes_without_a_reason_and_its_inputs(covenant, life):
    for before, _, after, transitions, _ in lived(covenant, life):
        assert (before != after) == bool(transitions)
        if not transitions:
            continue
        assert all(one.code and one.detail for one in transitions)
        assert transitions[-1].level_after is after.level
        for one, following in pairwise(transitions):
            assert one.level_after is following.level_before


@given(covenants(), lives)
def test_each_level_is_reached_only_for_what_the_file_says(covenant, life):
    steps = covenant.thresholds
    marks: list[int] = []  # when the LTV was surely at or above the call, since it was last under
    for before, inputs, after, _, now_ms in lived(covenant, life):
        ltv = inputs.ltv_bps
        if ltv is not None and ltv < steps.call_bps - covenant.hysteresis_bps:
            marks = []
        elif ltv is not None and ltv >= steps.call_bps and inputs.complete:
            marks.append(now_ms)
        reached = Level.CURRENT if before is None else before.level
        if after.level is Level.CALL and reached is not Level.CALL:
            apart = covenant.call_apart_hours * HOUR_MS
            assert marks[-1] - marks[0] >= (covenant.call_valuations - 1) * apart
            assert len(marks) >= covenant.call_valuations
        if after.level is Level.DEFAULT and reached is not Level.DEFAULT:
            assert len(marks) >= covenant.call_valuations
        if reached is Level.DEFAULT:
            assert after.level is Level.DEFAULT


@given(covenants(), lives, st.data())
def test_flapping_inside_the_band_changes_no_level(covenant, life, data):
    """Between a threshold and the hysteresis below it, whatever was so goes on."""
    steps = covenant.thresholds
    *_, last = [*lived(covenant, [*life, (1, calm(steps.watch_bps))])]
    _, _, state, _, now_ms = last
    if state.level not in (Level.CURRENT, Level.WATCH):
        return
    low = steps.watch_bps - covenant.hysteresis_bps
    high = steps.call_bps - covenant.hysteresis_bps - 1
    if state.level is Level.CURRENT:
        high = min(high, steps.watch_bps - 1)
    if low > high:
        return
    for _ in range(10):
        now_ms += data.draw(st.integers(1, 100)) * HOUR_MS
        after, _ = step(state, calm(data.draw(st.integers(low, high))), covenant, now_ms)
        assert after.level is state.level
        state = after


@given(covenants(), st.data())
def test_a_called_loan_that_flaps_inside_its_band_stays_called(covenant, data):
    steps = covenant.thresholds
    state = CovenantState(
        covenant_sha256=sha256_of(covenant),
        began_ms=NOW,
        since_ms=NOW,
        level=Level.CALL,
        called_ms=NOW,
        call_counted_ms=tuple(NOW + n for n in range(covenant.call_valuations)),
    )
    for hours in range(1, 8):
        ltv = data.draw(
            st.integers(steps.call_bps - covenant.hysteresis_bps, steps.default_bps - 1)
        )
        ltv = min(ltv, steps.default_bps - covenant.hysteresis_bps - 1)
        if ltv < steps.call_bps - covenant.hysteresis_bps:
            return
        after, transitions = step(state, calm(ltv), covenant, NOW + hours * HOUR_MS)
        assert (after, transitions) == (state, ())


def calm(ltv_bps):
    return Inputs(
        debt_micros=1,
        value_micros=1,
        silent_micros=0,
        ltv_bps=ltv_bps,
        complete=True,
        counted=1,
        silent=0,
        pledged=1,
        assurance=0,
        observed_ms=NOW,
        stale=False,
        disputed=False,
        called_served_ms=0,
        silent_served_ms=0,
    )


@given(covenants(), lives)
def test_the_records_alone_give_the_same_states(covenant, life):
    """Only steps that changed something are recorded, and they are enough."""
    records = []
    state = None
    for _, inputs, state, transitions, now_ms in lived(covenant, life):
        if transitions:
            records.append(
                Record(
                    loan="loan-1",
                    covenant_sha256=state.covenant_sha256,
                    methodology="",
                    at_ms=now_ms,
                    inputs=inputs,
                    state=state,
                    transitions=transitions,
                )
            )
    assert replay({sha256_of(covenant): covenant}, records) == state


# ---------------------------------------------------------------------------- through the book


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 400), st.sets(st.integers(1, 4))), min_size=1, max_size=6))
def test_silence_alone_never_reaches_call_or_default(life):
    """Whoever falls silent for however long, and comes back: the level is that of those who speak."""
    loan = Measured()
    now_ms = NOW
    loan.position(now_ms)
    away_since: dict[int, int] = {}
    for hours, away in life:
        begun_ms = now_ms
        now_ms += hours * HOUR_MS
        away_since = {one: away_since.get(one, begun_ms) for one in away}
        assets = {
            one.id: replace(
                one,
                track=replace(
                    one.track,
                    seen_ms=away_since.get(one.id, now_ms),
                    missing_since_ms=away_since.get(one.id),
                    condition=Condition(boot_id="aa", lost=one.id in away),
                ),
            )
            for one in loan.gpus
        }
        quiet = len(away) == len(loan.gpus)
        hosts = {1: replace(host(), observed_ms=min(away_since.values()) if quiet else now_ms)}
        position = loan.position(now_ms, assets=assets, hosts=hosts, uptime=SERVED)
        assert position.state.level is Level.CURRENT
        assert position.inputs.ltv_bps == 8_000
        gone_h = max(((now_ms - since) // HOUR_MS for since in away_since.values()), default=0)
        if gone_h >= 72 + 24:  # beyond its grace and the reporting cure period, whatever the grace
            assert position.state.notice


@settings(max_examples=40, deadline=None)
@given(st.permutations(range(1, 7)), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6)))
def test_the_order_of_pledges_changes_nothing(order, bad, unseen):
    loan = Measured()
    gpus = {
        n: asset(
            n,
            seen=n not in unseen,
            name="NVIDIA B200" if n % 2 else "NVIDIA H100 80GB HBM3",
            incidents=(record(Severity.IMPAIRED),) if n in bad else (),
        )
        for n in range(1, 7)
    }
    held = replace(loan.known.loans[0], asset_ids=tuple(sorted(gpus)))
    straight = Measured().position(assets=gpus, loans=(held,))
    turned = Measured().position(assets=gpus, loans=(replace(held, asset_ids=tuple(order)),))
    assert straight == turned
