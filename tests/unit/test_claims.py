"""What comes of two hosts' showing one GPU: every verdict, and the near miss that must not be one.

Host A has it. Windows are a second long, one after another.
"""

from __future__ import annotations

import dataclasses

import pytest
from msgspec.structs import replace

from assay_core.instants import DAY_MS
from assay_valuer.assets import Registry
from assay_valuer.proving import FreezeCode
from assay_valuer.standing import holding
from assay_valuer.standing.holding import Hold, Shown
from assay_valuer.standing.trust import (
    CLAIMS_MAX,
    NO_TRUST,
    Reservation,
    Transition,
    Verdict,
)
from tests.fakes.collateral import NOW, asset
from tests.fakes.proofs import tpm
from tests.unit.test_fleet import U1, U2, A, B, Story, verdicts

KEEP_MS = 30 * DAY_MS

HOUR_MS = 3_600_000
C = 3


def story(*, proofs=None, reserved=None):
    """A shows serial S0001, which is asset 1: it is pledged, and was never seen before."""
    assets = (asset(1, seen=False),)
    registry = Registry(proofs=proofs or {}, reserved={} if reserved is None else {1: reserved})
    made = Story(registry, assets=assets)
    made.window(A, {U1: "S0001"})
    return made


def both(made, *more):
    """Both go on showing it."""
    made.window(B, {U2: "S0001"})
    made.window(A, {U1: None})
    made.window(B, {U2: None})
    return made.by_serial("S0001")


def freezes_of(made, host_key):
    return [one.code for one in made.fleet.known.proofs_of(host_key).freezes]


# ---------------------------------------------------------------------------- verdicts


def test_a_claim_that_is_weaker_freezes_who_makes_it_and_nothing_else():
    made = story(proofs={A: tpm()})
    one = both(made)
    assert verdicts(one) == {B: Verdict.FALSE}
    assert freezes_of(made, B) == [FreezeCode.FALSE_CLAIM]
    assert (freezes_of(made, A), one.trust.freezes, one.host_key) == ([], (), A)
    assert one.track.position == 3  # A's windows go on counting
    (label, freeze) = made.fleet.taken().frozen[0]
    assert (label, "S0001" in freeze.detail) == ("host-2", True)
    assert "its word alone" in freeze.detail
    assert "a host bound to its TPM" in freeze.detail


@pytest.mark.parametrize("by", [Reservation(host_id="host-1"), Reservation(site="site-1")])
def test_of_equals_the_one_that_the_pledge_names_is_believed(by):
    made = story(reserved=by)
    assert verdicts(both(made)) == {B: Verdict.FALSE}
    assert freezes_of(made, B) == [FreezeCode.FALSE_CLAIM]


def test_equals_are_disputed_and_nobody_is_frozen():
    for proofs in ({}, {A: tpm(), B: tpm()}):
        made = story(proofs=proofs)
        one = both(made)
        assert verdicts(one) == {B: Verdict.DISPUTED}
        assert freezes_of(made, A) == freezes_of(made, B) == []
        assert one.trust.freezes == ()


def test_a_stronger_claim_disputes_and_freezes_nobody():
    made = story(proofs={B: tpm()})
    assert verdicts(both(made)) == {B: Verdict.DISPUTED}
    assert freezes_of(made, A) == freezes_of(made, B) == []


STRENGTHS = [(strength, reserved) for strength in range(3) for reserved in (False, True)]


@pytest.mark.parametrize("holder", STRENGTHS)
@pytest.mark.parametrize("claimant", STRENGTHS)
def test_the_whole_table_of_verdicts(holder, claimant):
    found = holding.judge(Hold("a", *holder), Hold("b", *claimant))
    if holder[0] == claimant[0] == 2:
        expected = Verdict.CLONE  # the device itself answers on both, whoever the pledge names
    elif claimant < holder:
        expected = Verdict.FALSE
    else:
        expected = Verdict.DISPUTED
    assert found is expected


# ---------------------------------------------------------------------------- one after the other


def test_one_after_the_other_is_a_move_and_asks():
    made = story(proofs={A: tpm()})
    for _ in range(5):
        made.window(B, {U2: "S0001"})
    made.window(A, {})  # A speaks, and no longer has it
    one = made.by_serial("S0001")
    assert verdicts(one) == {B: Verdict.OPEN}
    assert (one.host_key, freezes_of(made, B)) == (A, [])


def test_to_another_host_and_back_is_not_both_at_once():
    made = story(proofs={A: tpm()})
    made.window(B, {U2: "S0001"})
    made.window(B, {U2: None})
    for _ in range(5):
        made.window(A, {U1: None})
    assert verdicts(made.by_serial("S0001")) == {B: Verdict.OPEN}
    assert freezes_of(made, B) == []


def test_windows_of_the_holder_from_before_that_come_late_are_not_both_at_once():
    """A was cut off; the GPU went to B; A's windows of before come in after B's."""
    made = story(proofs={A: tpm()})
    late = made.position + 10
    made.position = late
    for _ in range(3):
        made.window(B, {U2: "S0001"})
    back = made.position
    made.position = late - 6
    for _ in range(3):
        made.window(A, {U1: None})
    made.position = back
    made.window(B, {U2: None})
    assert verdicts(made.by_serial("S0001")) == {B: Verdict.OPEN}
    assert freezes_of(made, B) == []


def test_what_a_host_showed_before_it_was_moved_is_history():
    made = story()
    made.window(B, {U2: "S0001"})
    moved = move_to("host-2", begin_ms=NOW)
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(moved,)))
    made.window(B, {U2: "S0001"})
    held_since = made.by_serial("S0001").trust.held_since_ms
    back = made.position
    made.position = 1
    made.window(A, {U1: None})  # told late, of before the move
    made.position = back
    one = made.by_serial("S0001")
    assert (one.host_key, held_since) == (B, NOW + 3_000)
    late = [one.trust.past(claim, NOW, KEEP_MS) for claim in one.trust.claims]
    assert late == [True] * len(one.trust.claims)
    made.window(B, {U2: None})
    made.window(A, {U1: "S0001"})  # and this one is of after it
    (claim,) = made.by_serial("S0001").trust.claims
    assert not made.by_serial("S0001").trust.past(claim, NOW, KEEP_MS)


def test_a_claim_that_its_holder_has_outlasted_is_history_and_a_decided_one_never_is():
    made = story()
    made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    (claim,) = one.trust.claims
    later = NOW + DAY_MS + KEEP_MS
    assert not one.trust.past(claim, later, KEEP_MS)  # nobody has shown it since: it may have moved
    made.window(A, {U1: None})
    one = made.by_serial("S0001")
    (claim,) = one.trust.claims
    assert one.trust.past(claim, later, KEEP_MS)
    assert not one.trust.past(claim, NOW + DAY_MS, KEEP_MS)
    decided = replace(claim, verdict=Verdict.DISPUTED)
    assert not one.trust.past(decided, later, KEEP_MS)


def replace_trust(one, **changed):
    return dataclasses.replace(one, trust=replace(one.trust, **changed))


def move_to(host_id, *, begin_ms=NOW, until_ms=NOW + HOUR_MS):
    return Transition(
        event_id=1, kind="move", begin_ms=begin_ms, until_ms=until_ms, why="", to_host=host_id
    )


def test_a_host_that_only_remembers_a_gpu_claims_nothing():
    """Its card was pulled; it goes on to name it, and the card is seen elsewhere."""
    made = story(proofs={A: tpm()})
    for _ in range(4):
        made.window(B, {U2: "S0001"}, seen=False)
        made.window(B, {U2: None}, seen=False)
        made.window(A, {U1: None})
    one = made.by_serial("S0001")
    assert (one.trust.claims, freezes_of(made, B)) == ((), [])
    made.fleet.known.put(replace_trust(one, transitions=(move_to("host-2"),)))
    made.window(B, {U2: "S0001"}, seen=False)
    assert made.by_serial("S0001").host_key == A  # nor is it moved to who does not see it


# ---------------------------------------------------------------------------- moves


def test_a_move_that_was_agreed_goes_over_with_its_first_window():
    made = story(proofs={A: tpm()})
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(move_to("host-2"),)))
    made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    assert (one.host_key, one.uuid, one.trust.claims) == (B, U2, ())
    assert made.fleet.known.of_host(A) == frozenset()


def test_a_move_there_and_one_back_let_no_two_hosts_show_it_in_turns():
    """Both were agreed, and both are under way: the later one stands."""
    made = story(proofs={A: tpm()})
    there, back = move_to("host-2"), replace(move_to("host-1"), event_id=2)
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(there,)))
    made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(there, back)))
    for _ in range(3):
        made.window(A, {U1: "S0001"})
        made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    assert one.host_key == A
    assert verdicts(one) == {B: Verdict.FALSE}


def test_a_move_that_is_agreed_late_goes_over_without_waiting_for_another_identity():
    made = story(proofs={A: tpm()})
    made.window(B, {U2: "S0001"})  # identity travels at boot, and then not for a day
    one = made.by_serial("S0001")
    assert verdicts(one) == {B: Verdict.OPEN}
    made.fleet.known.put(replace_trust(one, transitions=(move_to("host-2"),)))
    made.window(B, {U2: None})
    one = made.by_serial("S0001")
    assert (one.host_key, one.uuid, one.track.position) == (B, U2, made.position)


@pytest.mark.parametrize(
    "transition",
    [
        move_to("host-3"),
        move_to("host-2", begin_ms=NOW + HOUR_MS, until_ms=NOW + 2 * HOUR_MS),
        move_to("host-2", begin_ms=NOW - HOUR_MS, until_ms=NOW),
        replace(move_to(""), kind="maintenance"),
    ],
)
def test_an_event_that_leads_elsewhere_or_is_over_moves_nothing(transition):
    made = story()
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(transition,)))
    made.window(B, {U2: "S0001"})
    assert made.by_serial("S0001").host_key == A


def test_a_freeze_of_its_host_goes_with_a_gpu_that_moves():
    made = story()
    made.fleet.known.freeze_host(A, FreezeCode.FORK, "two histories", (NOW, 1))
    one = made.by_serial("S0001")
    made.fleet.known.put(replace_trust(one, transitions=(move_to("host-2"),)))
    made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    assert one.host_key == B
    assert [freeze.code for freeze in one.trust.freezes] == [FreezeCode.FORK]


# ---------------------------------------------------------------------------- before it was seen


def test_what_is_reserved_for_another_is_claimed_and_not_taken():
    made = Story(
        Registry(reserved={1: Reservation(host_id="host-1")}), assets=(asset(1, seen=False),)
    )
    made.window(B, {U2: "S0001"})
    one = made.by_serial("S0001")
    assert (one.host_key, one.track.seen_ms, verdicts(one)) == (None, None, {B: Verdict.OPEN})
    made.window(A, {U1: "S0001"})
    made.window(B, {U2: None})
    one = made.by_serial("S0001")
    assert (one.host_key, verdicts(one)) == (A, {B: Verdict.FALSE})
    assert freezes_of(made, B) == [FreezeCode.FALSE_CLAIM]


# ---------------------------------------------------------------------------- bounds


def test_more_claims_than_are_kept_push_out_none_that_is_better_proved():
    trust = NO_TRUST
    for number in range(CLAIMS_MAX):
        trust, _ = holding.claimed(trust, shown(10 + number), 0)
    full, made = holding.claimed(trust, shown(50), 0)
    assert (full, made) == (trust, None)
    trust, made = holding.claimed(trust, shown(51), 2, NOW)
    assert made is not None
    assert len(trust.claims) == CLAIMS_MAX
    assert 51 in {one.host_key for one in trust.claims}
    again, _ = holding.claimed(trust, shown(52), 1)
    assert {51, 52} <= {one.host_key for one in again.claims}


def shown(host_key):
    return Shown(host_key, f"host-{host_key}", NOW, NOW + host_key, 1, "aa")
