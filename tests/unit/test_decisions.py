"""The fold of what people decided: what each kind of event does to host and GPU, and what it does not."""

from __future__ import annotations

import dataclasses
import uuid

import pytest
from msgspec.structs import replace

from assay_core.asset_events import TRANSITIONS, AssetEvent, Inspection, Kind
from assay_core.instants import HOUR_MS
from assay_core.signatories import Role
from assay_valuer.assets import Assets, Registry
from assay_valuer.decisions import take_decision
from assay_valuer.events import DecidedEvent, State
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.trust import (
    KEPT_MAX,
    AssetTrust,
    Claim,
    Custody,
    Freeze,
    FreezeCode,
    Verdict,
)
from tests.fakes.collateral import NOW, asset, host
from tests.fakes.proofs import device, tpm

A, B = 1, 2
HOSTS = {key: host(key, site="lab" if key < 3 else "barn") for key in (1, 2, 3)}
UUID_AT_B = bytes([9]) * 16
WINDOW = {"begin_ms": NOW, "until_ms": NOW + HOUR_MS}


def freeze(code):
    return Freeze(code=code, detail="why", since_ms=NOW, position=1)


FORK, CLONE, IDENTITY = map(freeze, (FreezeCode.FORK, FreezeCode.CLONE, FreezeCode.IDENTITY))
INSPECTED = Custody(event_id=7, custodian="kurt", until_ms=NOW + HOUR_MS, document_sha256="d")


def claim(host_key=B, verdict=Verdict.DISPUTED, held_uuid=UUID_AT_B):
    return Claim(
        host_key=host_key,
        host_id=f"host-{host_key}",
        strength=0,
        since_ms=NOW,
        last_ms=NOW,
        uuid=held_uuid.hex(),
        verdict=verdict,
    )


def known(trust=None, *, proofs=None, **changed):
    """GPU 1 with this trust and GPU 2, both on host A."""
    one = dataclasses.replace(asset(1), identity="id1", trust=trust or AssetTrust(), **changed)
    return Assets([one, asset(2)], Registry(HOSTS, proofs or {A: tpm()}), ValuerPolicy())


def decided(kind, *ids, state=State.ACCEPTED, event_id=1, replaced_by=None, hosts=(), **fields):
    event = AssetEvent(kind=Kind(kind), nonce=str(uuid.uuid4()), why="a test", **fields)
    named = {HOSTS[key].host_id: key for key in hosts}
    return DecidedEvent(
        id=event_id,
        state=state,
        event=event,
        decided_ms=NOW + 5,
        asset_ids=ids,
        replaced_by=replaced_by or {},
        host_keys=named,
        signers=(("kurt", Role.CUSTODIAN), ("lena", Role.LENDER)),
    )


def host_id(key):
    return HOSTS[key].host_id


# ---------------------------------------------------------------------------- transitions


def test_every_kind_with_a_window_makes_a_transition():
    for kind in sorted(TRANSITIONS):
        assets = known()
        take_decision(assets, decided(kind, 1, **WINDOW))
        (one,) = assets[1].trust.transitions
        assert (one.kind, one.begin_ms, one.until_ms) == (kind.value, NOW, NOW + HOUR_MS)
        assert assets[2].trust.transitions == ()


@pytest.mark.parametrize("state", [State.REFUSED, State.WITHDRAWN])
@pytest.mark.parametrize("kind", [*sorted(TRANSITIONS), Kind.CUSTODY, Kind.RE_ENROL])
def test_what_was_refused_or_withdrawn_changes_nothing(kind, state):
    assets = known(AssetTrust(freezes=(CLONE,)), proofs={A: tpm(freezes=(FORK,))})
    before = assets[1], assets.proofs_of(A)
    fields = WINDOW if kind in TRANSITIONS else {}
    take_decision(assets, decided(kind, 1, state=state, hosts=(A,), host=host_id(A), **fields))
    assert (assets[1], assets.proofs_of(A)) == before
    assert not assets.taken()


def test_an_event_of_a_host_is_the_hosts_and_a_swap_is_of_what_is_in_it():
    for kind, of_host in (("maintenance", True), ("reinstall", True), ("host_swap", False)):
        assets = known()
        more = {"to_host": host_id(B)} if kind == "host_swap" else {}
        take_decision(assets, decided(kind, hosts=(A, B), host=host_id(A), **WINDOW, **more))
        assert bool(assets.proofs_of(A).transitions) == of_host
        assert [bool(assets[n].trust.transitions) for n in (1, 2)] == [not of_host] * 2
        assert assets.proofs_of(B).transitions == ()


def test_a_transition_leads_to_the_host_or_the_site_that_it_names():
    assets = known()
    take_decision(assets, decided("move", 1, to_host=host_id(B), hosts=(B,), **WINDOW))
    take_decision(assets, decided("move", 2, to_site="barn", event_id=2, **WINDOW))
    (by_host,), (by_site,) = (assets[n].trust.transitions for n in (1, 2))
    assert by_host.leads_to(host_id(B), "anywhere")
    assert not by_host.leads_to(host_id(3), "lab")
    assert by_site.leads_to(host_id(3), "barn")
    assert not by_site.leads_to(host_id(3), "lab")
    assert not replace(by_site, to_site="").leads_to(host_id(3), "")


def test_a_replacement_names_what_takes_each_place():
    assets = known()
    take_decision(assets, decided("gpu_replacement", 1, 2, replaced_by={1: 8, 2: 9}, **WINDOW))
    assert [assets[n].trust.transitions[0].other_asset for n in (1, 2)] == [8, 9]


def test_of_many_transitions_those_that_ended_longest_ago_go_first():
    assets = known()
    for number in range(KEPT_MAX + 3):
        until_ms = NOW + (number + 1) * HOUR_MS
        one = decided("maintenance", 1, event_id=number, begin_ms=NOW, until_ms=until_ms)
        take_decision(assets, one)
        take_decision(assets, one)  # the same again is the same
    kept = [one.event_id for one in assets[1].trust.transitions]
    assert kept == list(range(3, KEPT_MAX + 3))


# ---------------------------------------------------------------------------- custody


def inspection(until_ms=NOW + HOUR_MS):
    return Inspection(
        inspector="Kurt", inspected_ms=NOW, document_sha256="ab" * 32, valid_until_ms=until_ms
    )


def test_an_inspection_is_kept_with_its_custodian_alone():
    assets = known()
    take_decision(assets, decided("custody", 1, inspection=inspection()))
    (one,) = assets[1].trust.custody
    assert (one.custodian, one.until_ms, one.document_sha256) == (
        "kurt",
        NOW + HOUR_MS,
        "ab" * 32,
    )
    assert assets[2].trust.custody == ()
    for number in range(KEPT_MAX + 5):
        take_decision(assets, decided("custody", 1, event_id=number, inspection=inspection()))
    assert len(assets[1].trust.custody) == KEPT_MAX


def test_an_inspection_holds_where_it_was_made():
    for kind, more, kept in (
        ("move", {"to_site": "barn"}, ()),
        ("move", {"to_host": host_id(B), "hosts": (B,)}, (INSPECTED,)),
        ("maintenance", {}, (INSPECTED,)),
    ):
        assets = known(AssetTrust(custody=(INSPECTED,)))
        take_decision(assets, decided(kind, 1, **WINDOW, **more))
        assert assets[1].trust.custody == kept


# ---------------------------------------------------------------------------- enrolled again


def re_enrol(*ids, holder=A, lifts=(), of_host=None):
    fields = {"lifts": lifts}
    if ids:
        fields["holder"] = host_id(holder)
    if of_host is not None:
        fields["host"] = host_id(of_host)
    return decided("re_enrol", *ids, hosts=(1, 2, 3), **fields)


def test_all_freezes_are_lifted_or_those_that_are_named():
    for lifts, left in (((), []), (("clone",), ["identity_changed"]), (("chain_fork",), None)):
        assets = known(AssetTrust(freezes=(CLONE, IDENTITY)))
        take_decision(assets, re_enrol(1, lifts=lifts))
        found = [one.code.value for one in assets[1].trust.freezes]
        assert found == (["clone", "identity_changed"] if left is None else left)


def test_a_hosts_freezes_are_lifted_and_its_tpms_clock_begins_anew():
    assets = known(proofs={A: tpm(freezes=(FORK, freeze(FreezeCode.EK)))})
    take_decision(assets, re_enrol(of_host=A, lifts=("chain_fork",)))
    assert [one.code for one in assets.proofs_of(A).freezes] == [FreezeCode.EK]
    assert assets.proofs_of(A).tpm is None


def test_a_host_that_is_enrolled_again_settles_nobodys_dispute():
    trust = AssetTrust(freezes=(CLONE,), claims=(claim(),))
    assets = known(trust, proofs={A: tpm(freezes=(FORK,))})
    take_decision(assets, dataclasses.replace(re_enrol(of_host=A), asset_ids=(1, 2)))
    assert assets.proofs_of(A).freezes == ()
    assert assets[1].trust == trust


def test_a_gpu_of_a_host_that_stays_frozen_stays_frozen():
    assets = known(AssetTrust(freezes=(CLONE,)), proofs={A: tpm(freezes=(FORK,))})
    take_decision(assets, re_enrol(1))
    assert assets[1].trust.freezes == ()
    assert [one.code for one in assets.proofs_of(A).freezes] == [FreezeCode.FORK]


def test_whose_it_is_said_to_be_has_it_and_no_claim_is_left():
    trust = AssetTrust(proof=device(), claims=(claim(), claim(3)), custody=(INSPECTED,))
    assets = known(trust)
    take_decision(assets, re_enrol(1, holder=A))
    assert (assets[1].host_key, assets[1].uuid) == (A, asset(1).uuid)
    assert assets[1].trust == AssetTrust(proof=device(), custody=(INSPECTED,))
    assets = known(trust)
    take_decision(assets, re_enrol(1, holder=B))
    one = assets[1]
    assert (one.host_key, one.uuid, one.trust.claims) == (B, UUID_AT_B, ())
    assert (one.trust.held_since_ms, one.trust.custody) == (NOW + 5, (INSPECTED,))
    assert (assets.of_host(A), assets.of_host(B)) == (frozenset({2}), frozenset({1}))
    assert assets.by_uuid(A, asset(1).uuid) is None
    assert assets.by_uuid(B, UUID_AT_B) == 1
    assert assets.by_identity("id1") == 1
    assets = known(trust)
    take_decision(assets, re_enrol(1, holder=3))  # at another site
    assert assets[1].trust.custody == ()


def test_a_uuid_that_the_holder_shows_another_gpu_by_is_not_taken_from_it():
    trust = AssetTrust(claims=(claim(held_uuid=UUID_AT_B),))
    mine = dataclasses.replace(asset(5, host_key=B), uuid=UUID_AT_B)
    one = dataclasses.replace(asset(1), trust=trust)
    assets = Assets([one, mine], Registry(HOSTS), ValuerPolicy())
    take_decision(assets, re_enrol(1, holder=B))
    assert (assets[1].host_key, assets[1].uuid) == (B, None)
    assert assets.by_uuid(B, UUID_AT_B) == 5


def test_another_device_under_the_serial_may_prove_itself_once_that_is_lifted():
    trust = AssetTrust(proof=device(), freezes=(IDENTITY,))
    assets = known(trust)
    take_decision(assets, re_enrol(1, lifts=("clone",)))
    assert (assets[1].identity, assets[1].trust.proof) == ("id1", device())
    take_decision(assets, re_enrol(1))
    assert (assets[1].identity, assets[1].trust.proof) == (None, None)
    assert assets.by_identity("id1") is None


def test_what_a_host_claimed_falsely_is_judged_anew_after_it_was_lifted():
    held = AssetTrust(claims=(claim(B, Verdict.FALSE), claim(3, Verdict.FALSE)))
    assets = known(held, proofs={B: tpm(freezes=(freeze(FreezeCode.FALSE_CLAIM),))})
    take_decision(assets, re_enrol(of_host=A))  # not that host
    assert assets[1].trust == held
    take_decision(assets, re_enrol(of_host=B, lifts=("chain_fork",)))  # not for that
    assert assets[1].trust == held
    take_decision(assets, re_enrol(of_host=B))
    assert [one.host_key for one in assets[1].trust.claims] == [3]
    assert assets.proofs_of(B).freezes == ()
