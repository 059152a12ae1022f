"""Trust as Prometheus sees it: what holds, how old each proof is, and nothing for what is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_struct
from prometheus_client import CollectorRegistry, generate_latest

from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_valuer.book import appraise
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.standing.assurance import OcspState, Revocation
from assay_valuer.standing.trust import (
    AssetTrust,
    Custody,
    Freeze,
    FreezeCode,
    HostProofs,
    Transition,
    Verdict,
)
from assay_valuer.watch import BookCollector
from tests.fakes.collateral import NOW, asset, claimed, host, loan_file, snapshot
from tests.fakes.proofs import answers, device, tpm

H1 = {"host": "spiffe://assay.test/site/lab/host/1", "site": "lab", "simulated": "false"}
LOAN = {"loan": "loan-1", "simulated": "false"}
INSPECTED = Custody(event_id=1, custodian="kurt", until_ms=NOW + DAY_MS, document_sha256="d")


def gpu(number, **more):
    return {
        "gpu": f"S{number:04d}",
        "host": H1["host"],
        "loan": "loan-1",
        "model": "H100 SXM5",
        "simulated": "false",
        **more,
    }


def seen(*assets, proofs=None, ocsp=None, policy=None, hosts=None):
    """The registry over a book of these assets; with nothing else said, host 1 has a TPM."""
    held = snapshot(
        list(assets), loan=loan_file([one.serial for one in assets]), hosts=hosts or [host()]
    )
    held = replace(
        held,
        proofs={1: tpm()} if proofs is None else proofs,
        revocations=answers() if ocsp is None else ocsp,
    )
    collector, registry = BookCollector(), CollectorRegistry()
    registry.register(collector)
    collector.show(appraise(held, policy or ValuerPolicy(), NOW), duration_ms=1, lag=0)
    return registry


def with_trust(number=1, age_ms=0, **trust):
    return replace(asset(number, age_ms=age_ms), trust=AssetTrust(**trust))


def freeze(code):
    return Freeze(code=code, detail="why", since_ms=NOW, position=7)


def transition(**more):
    return Transition(
        **{
            "event_id": 1,
            "kind": "gpu_replacement",
            "begin_ms": NOW - HOUR_MS,
            "until_ms": NOW + HOUR_MS,
            "why": "RMA",
            **more,
        }
    )


def samples(registry, name):
    return [
        (one.labels, one.value)
        for family in registry.collect()
        for one in family.samples
        if one.name == name
    ]


# ------------------------------------------------------------------------------- level and cap


def test_level_and_custody_are_told_apart_and_the_cap_is_a_ratio():
    registry = seen(
        with_trust(1, proof=device(), custody=(INSPECTED,)),
        with_trust(2, proof=device(whole=True), custody=(INSPECTED,)),
    )
    value = registry.get_sample_value
    assert value("assay_gpu_assurance_level", gpu(1)) == 2
    assert value("assay_gpu_custody", gpu(1)) == 1
    assert value("assay_gpu_lendable_cap_ratio", gpu(1)) == 0.75  # 60% and 15 points
    assert value("assay_gpu_assurance_level", gpu(2)) == 3
    assert value("assay_loan_assurance_level", LOAN) == 2
    assert value("assay_loan_custody", LOAN) == 1
    assert value("assay_host_assurance_gpus", {**H1, "level": "L2"}) == 1
    assert value("assay_host_assurance_gpus", {**H1, "level": "L0"}) == 0


def test_a_loan_is_in_custody_only_where_all_of_it_is_and_nothing_counted_has_no_level():
    registry = seen(with_trust(1, proof=device(), custody=(INSPECTED,)), with_trust(2))
    assert registry.get_sample_value("assay_loan_assurance_level", LOAN) == 1
    assert registry.get_sample_value("assay_loan_custody", LOAN) == 0
    registry = seen(with_trust(1, freezes=(freeze(FreezeCode.CLONE),)))
    assert registry.get_sample_value("assay_loan_assurance_level", LOAN) is None


# --------------------------------------------------------------------------------- proofs' ages


def test_a_proof_that_there_is_not_has_no_age():
    registry = seen(
        with_trust(1, proof=device(2 * HOUR_MS)), with_trust(2), proofs={1: tpm(MINUTE_MS)}
    )
    value = registry.get_sample_value
    assert value("assay_gpu_device_proof_timestamp_seconds", gpu(1)) == NOW / 1000 - 7200
    assert value("assay_gpu_device_proof_timestamp_seconds", gpu(2)) is None
    assert value("assay_host_tpm_quote_timestamp_seconds", H1) == NOW / 1000 - 60
    registry = seen(with_trust(1), proofs={})
    assert registry.get_sample_value("assay_host_tpm_quote_timestamp_seconds", H1) is None


def test_a_device_that_answered_on_another_host_proves_nothing_here():
    registry = seen(with_trust(1, proof=replace_struct(device(), host_key=9)))
    assert registry.get_sample_value("assay_gpu_device_proof_timestamp_seconds", gpu(1)) is None


@pytest.mark.parametrize(
    ("proofs", "policy", "state"),
    [
        ({1: tpm()}, ValuerPolicy(), "believed"),
        ({1: tpm(root=None)}, ValuerPolicy(), "unknown"),
        ({1: tpm(virtual=True)}, ValuerPolicy(), "unknown"),
        (
            {1: tpm(root="ab" * 32, virtual=True)},
            ValuerPolicy(evidence=Evidence(simulated_tpm_roots=("ab" * 32,))),
            "simulated",
        ),
        ({1: HostProofs()}, ValuerPolicy(), "none"),
        ({}, ValuerPolicy(), "none"),
    ],
)
def test_what_a_hosts_tpm_is(proofs, policy, state):
    registry = seen(with_trust(1), proofs=proofs, policy=policy)
    assert samples(registry, "assay_host_tpm") == [({**H1, "state": state}, 1)]


# ------------------------------------------------------------------ freezes, claims, transitions


def test_a_freeze_is_told_by_code_of_gpu_and_host():
    proofs = {1: replace_struct(tpm(), freezes=(freeze(FreezeCode.FORK),))}
    registry = seen(
        with_trust(1, freezes=(freeze(FreezeCode.CLONE),)), with_trust(2), proofs=proofs
    )
    assert samples(registry, "assay_gpu_frozen") == [(gpu(1, code="clone"), 1)]
    assert samples(registry, "assay_host_frozen") == [({**H1, "code": "chain_fork"}, 1)]
    assert registry.get_sample_value("assay_host_frozen_gpus", H1) == 1
    quiet = generate_latest(seen(with_trust(1))).decode()
    assert "assay_gpu_frozen{" not in quiet
    assert "assay_host_frozen{" not in quiet


def test_claims_are_counted_by_what_came_of_them():
    registry = seen(claimed(asset(1), Verdict.DISPUTED), claimed(asset(2), Verdict.OPEN), asset(3))
    assert samples(registry, "assay_gpu_claims") == [
        (gpu(1, verdict="disputed"), 1),
        (gpu(2, verdict="open"), 1),
    ]
    told = {one: registry.get_sample_value("assay_host_claims", {**H1, "verdict": one})
            for one in ("open", "false", "clone", "disputed")}  # fmt: skip
    assert told == {"open": 1, "false": 0, "clone": 0, "disputed": 1}


def test_a_claim_that_is_history_is_none():
    one = claimed(asset(1), Verdict.OPEN)
    past = replace(one, trust=replace_struct(one.trust, held_since_ms=NOW + 1))
    assert samples(seen(past), "assay_gpu_claims") == []


@pytest.mark.parametrize(
    ("more", "successor_seen", "age_ms", "awaits"),
    [
        ({"other_asset": 2}, False, 0, "successor"),
        ({"other_asset": 2}, True, 0, "nothing"),
        ({"kind": "move", "to_site": "elsewhere"}, True, 0, "arrival"),
        ({"kind": "move", "to_site": "lab"}, True, 0, "nothing"),
        ({"kind": "host_swap", "to_host": "spiffe://x"}, True, 0, "arrival"),
        ({"kind": "reinstall"}, True, HOUR_MS, "return"),
        ({"kind": "reinstall"}, True, 0, "nothing"),
    ],
)
def test_a_transition_says_when_it_ends_and_what_it_waits_for(more, successor_seen, age_ms, awaits):
    one = transition(**more)
    registry = seen(
        with_trust(1, age_ms, transitions=(one,)), asset(2, seen=successor_seen), proofs={}
    )
    ((labels, ends),) = samples(registry, "assay_gpu_transition_end_timestamp_seconds")
    assert labels == gpu(1, kind=one.kind, awaits=awaits)
    assert ends == NOW / 1000 + 3600


def test_a_transition_that_is_over_is_none():
    over = transition(until_ms=NOW - 1)
    name = "assay_gpu_transition_end_timestamp_seconds"
    assert samples(seen(with_trust(1, transitions=(over,))), name) == []


# ---------------------------------------------------------------------- certificates and policy


def ocsp(registry):
    return {
        labels["state"]: count for labels, count in samples(registry, "assay_ocsp_certificates")
    }


def test_certificates_that_proofs_rest_on_are_counted_by_what_their_answers_are_worth():
    names = ("a", "b", "c", "d", "e")
    day_s = DAY_MS // 1000
    known = {
        "a": Revocation(True, NOW - HOUR_MS, NOW + DAY_MS),
        "b": Revocation(True, NOW - day_s * 1000 - 1, NOW + DAY_MS),  # older than a day
        "c": Revocation(True, NOW - HOUR_MS, NOW - 1),  # past its next update
        "d": Revocation(False, NOW - HOUR_MS, NOW + DAY_MS),
        "unasked": Revocation(True, NOW - 9 * DAY_MS, NOW),
    }
    proof = replace_struct(device(), certificates=names)
    registry = seen(with_trust(1, proof=proof), ocsp=known)
    assert ocsp(registry) == {"good": 1, "old": 2, "not_good": 1, "unanswered": 1}
    oldest = registry.get_sample_value("assay_ocsp_oldest_answer_timestamp_seconds")
    assert oldest == pytest.approx(NOW / 1000 - day_s - 0.001)


def test_nobody_asks_about_proofs_that_are_worth_nothing_any_more_or_where_policy_waives_it():
    proved = with_trust(1, proof=device(18 * HOUR_MS))  # three intervals of six hours
    assert set(ocsp(seen(proved, ocsp={})).values()) == {0}
    assert set(ocsp(seen(proved, ocsp={}))) == {one.value for one in OcspState}
    waived = ValuerPolicy(evidence=Evidence(ocsp="waived"))
    assert ocsp(seen(with_trust(1, proof=device()), policy=waived)) == {}
    assert seen(proved).get_sample_value("assay_ocsp_oldest_answer_timestamp_seconds") is None


def test_how_often_hardware_is_asked_is_the_policys():
    policy = ValuerPolicy(evidence=Evidence(tpm_interval_s=60, device_interval_s=120))
    registry = seen(asset(1), policy=policy)
    told = {
        labels["proof"]: value
        for labels, value in samples(registry, "assay_proof_interval_seconds")
    }
    assert told == {"tpm": 60, "device": 120}


def test_no_label_is_a_hosts_own_word():
    """What is beside the GPU, host and loan is of an enumeration of ours."""
    proofs = {1: replace_struct(tpm(), freezes=tuple(freeze(one) for one in FreezeCode))}
    one = with_trust(1, freezes=tuple(freeze(one) for one in FreezeCode), proof=device())
    registry = seen(replace(one, trust=replace_struct(one.trust, transitions=(transition(),))),
                    claimed(asset(2), Verdict.FALSE), proofs=proofs)  # fmt: skip
    names = {
        family.name: set(family.samples[0].labels) - {*gpu(1), *H1}
        for family in registry.collect()
        if family.samples
    }
    trust = ("frozen", "claims", "transition", "tpm", "assurance", "custody", "proof", "ocsp")
    assert {
        name: labels for name, labels in names.items() if any(one in name for one in trust)
    } == {
        "assay_gpu_frozen": {"code"},
        "assay_gpu_claims": {"verdict"},
        "assay_gpu_transition_end_timestamp_seconds": {"kind", "awaits"},
        "assay_gpu_assurance_level": set(),
        "assay_gpu_custody": set(),
        "assay_gpu_device_proof_timestamp_seconds": set(),
        "assay_host_assurance_gpus": {"level"},
        "assay_host_tpm": {"state"},
        "assay_host_tpm_quote_timestamp_seconds": set(),
        "assay_host_frozen": {"code"},
        "assay_host_frozen_gpus": set(),
        "assay_host_claims": {"verdict"},
        "assay_proof_interval_seconds": {"proof"},
        "assay_ocsp_certificates": {"state"},
        "assay_ocsp_oldest_answer_timestamp_seconds": set(),
    }
    assert len(samples(registry, "assay_gpu_frozen")) == len(FreezeCode)
