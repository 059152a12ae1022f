"""How far evidence of one GPU can be trusted: levels, caps, decay and reasons.

Expected numbers are decision 8's, worked out by hand: L0 10%, L1 25%, L2 60%, L2+ 70%, custody +15
points up to 95%; in full for two intervals (2 h of a TPM, 12 h of a device), in a line to the level
below at three, nothing after seven days of silence.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from assay_core.instants import DAY_MS, HOUR_MS
from assay_valuer.policy import Assurance, Evidence, ValuerPolicy
from assay_valuer.standing.assurance import (
    CUSTODY,
    L0,
    L1,
    L2,
    L2_PLUS,
    Known,
    Revocation,
    assure,
    strength_of,
    worth_bps,
)
from assay_valuer.standing.trust import (
    AssetTrust,
    Custody,
    Freeze,
    FreezeCode,
    HostProofs,
)
from tests.fakes.collateral import NOW
from tests.fakes.proofs import HOST, LISTED, OTHER, answers, device, tpm

POLICY = ValuerPolicy()


def of(host=None, proof=None, *, policy=POLICY, ocsp=None, seen_ms=NOW, name=None, **asset):
    known = Known(
        AssetTrust(proof=proof, **asset),
        host or HostProofs(),
        HOST,
        seen_ms,
        answers() if ocsp is None else ocsp,
        name,
    )
    return assure(known, policy, NOW)


def codes(one):
    return [finding.code for finding in one.findings]


INSPECTED = Custody(event_id=1, custodian="kurt", until_ms=NOW, document_sha256="d")
REASON = Freeze(code=FreezeCode.FORK, detail="two histories", since_ms=NOW, position=3)


# ---------------------------------------------------------------------------- levels


@pytest.mark.parametrize(
    ("host", "proof", "level", "cap_bps"),
    [
        (None, None, L0, 1_000),
        (tpm(), None, L1, 2_500),
        (tpm(), device(), L2, 6_000),
        (tpm(), device(whole=True), L2_PLUS, 7_000),
        (None, device(), L0, 1_000),  # the least of the proofs: no TPM, nothing
        (tpm(root=None), device(), L0, 1_000),
        (tpm(tpm=None), device(), L0, 1_000),
        (tpm(ak_name="another"), None, L0, 1_000),  # the quote is of a key of before
    ],
)
def test_the_level_is_the_least_of_the_proofs(host, proof, level, cap_bps):
    found = of(host, proof)
    assert (found.code, found.cap_bps) == (level, cap_bps)
    assert found.findings[0].effect_bps == cap_bps  # and it says so first


@pytest.mark.parametrize(
    ("host_ms", "device_ms", "level", "cap_bps"),
    [
        (2 * HOUR_MS, None, L1, 2_500),  # in full for two intervals
        (5 * HOUR_MS // 2, None, L1, 1_750),  # half way down to L0: 1,000 + 1,500 / 2
        (3 * HOUR_MS - 36_000, None, L1, 1_015),  # 1% of the way is left: 1,000 + 15
        (3 * HOUR_MS, None, L0, 1_000),
        (0, 12 * HOUR_MS, L2, 6_000),
        (0, 15 * HOUR_MS, L2, 4_250),  # half way down to L1: 2,500 + 3,500 / 2
        (0, 18 * HOUR_MS, L1, 2_500),
        (5 * HOUR_MS // 2, 0, L2, 3_500),  # half way down to L0: 1,000 + 5,000 / 2
        (5 * HOUR_MS // 2, 15 * HOUR_MS, L2, 3_500),  # the lesser of 3,500 and 4,250
        (5 * HOUR_MS // 2, 18 * HOUR_MS, L1, 1_750),
        (3 * HOUR_MS, 0, L0, 1_000),
        (30 * DAY_MS, 0, L0, 1_000),
    ],
)
def test_a_proof_decays_in_a_line_to_the_level_below(host_ms, device_ms, level, cap_bps):
    found = of(tpm(host_ms), None if device_ms is None else device(device_ms))
    assert (found.code, found.cap_bps) == (level, cap_bps)


def test_a_whole_board_decays_to_l1_too():
    found = of(tpm(), device(15 * HOUR_MS, whole=True))
    assert (found.code, found.cap_bps) == (L2_PLUS, 4_750)  # 2,500 + 4,500 / 2


def test_a_proof_that_decays_is_said():
    assert "assurance.tpm_old" not in codes(of(tpm(2 * HOUR_MS)))
    assert "assurance.tpm_old" in codes(of(tpm(2 * HOUR_MS + 7_200)))
    assert "assurance.device_old" in codes(of(tpm(), device(13 * HOUR_MS)))


def test_the_decay_is_the_policys():
    slow = ValuerPolicy(evidence=Evidence(full_intervals=2, decayed_intervals=4))
    worth = [worth_bps(age * HOUR_MS, 3_600, slow) for age in (0, 2, 3, 4, 5)]
    assert worth == [10_000, 10_000, 5_000, 0, 0]
    assert worth_bps(2 * HOUR_MS + 1, 3_600, slow) < 10_000


def test_a_clock_that_was_set_back_makes_no_proof_older_than_new():
    assert of(tpm(-HOUR_MS), device(-HOUR_MS)).cap_bps == 6_000


def test_seven_days_of_silence_are_worth_nothing():
    assert of(seen_ms=NOW - 7 * DAY_MS + 1).cap_bps == 1_000
    silent = of(tpm(), device(), seen_ms=NOW - 7 * DAY_MS, custody=(INSPECTED,))
    assert (silent.code, silent.cap_bps, codes(silent)) == (L0, 0, ["assurance.silent"])
    assert of(tpm(), seen_ms=None).cap_bps == 0


# ---------------------------------------------------------------------------- TPMs


def test_a_root_that_nobody_listed_counts_for_nothing_and_says_why():
    found = of(tpm(root=None, ek_detail="no listed root endorsed the TPM; swtpm-localca issued it"))
    assert found.code == L0
    (told,) = [one.detail for one in found.findings if one.code == "assurance.tpm_unknown"]
    assert "swtpm-localca" in told
    assert of(tpm(root="ab" * 32)).code == L0


def test_a_simulated_tpm_counts_only_where_policy_names_its_root_and_is_said():
    simulated = tpm(root="ab" * 32, virtual=True)
    assert of(simulated).code == L0
    named = ValuerPolicy(evidence=Evidence(simulated_tpm_roots=("ab" * 32,)))
    found = of(simulated, policy=named)
    assert (found.code, found.cap_bps) == (L1, 2_500)
    assert "assurance.simulated_tpm" in codes(found)
    assert "assurance.simulated_tpm" not in codes(of(tpm(), policy=named))


def test_a_virtual_tpm_under_a_listed_root_is_still_virtual():
    assert of(tpm(virtual=True)).code == L0
    named = ValuerPolicy(evidence=Evidence(simulated_tpm_roots=(LISTED,)))
    assert of(tpm(virtual=True), policy=named).code == L1


# ---------------------------------------------------------------------------- devices


def test_without_a_device_its_absence_has_the_hosts_own_words():
    found = of(tpm(devices_absent="confidential computing is off"))
    (told,) = [one.detail for one in found.findings if one.code == "assurance.no_device"]
    assert "confidential computing is off" in told


def test_a_device_that_answered_on_another_host_is_no_proof_of_this_one():
    found = of(tpm(), device(host_key=OTHER))
    assert (found.code, found.cap_bps) == (L1, 2_500)
    assert "assurance.elsewhere" in codes(found)


@pytest.mark.parametrize(
    ("name", "chip", "level"),
    [
        ("NVIDIA H100 80GB HBM3", "GH100", L2),
        ("NVIDIA H200", "GH100", L2),
        ("NVIDIA B200", "GB100", L2),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "GB202", L2),
        ("NVIDIA of the year 2030", "GX900", L2),  # has no price, and is worth nothing known
        ("NVIDIA B300 SXM6 AC", "GH100", L1),
        ("NVIDIA H200", "GB100", L1),
        ("NVIDIA A100-SXM4-80GB", "GH100", L1),  # its own die signs nothing
        ("NVIDIA H100 80GB HBM3", "", L1),
    ],
)
def test_a_device_vouches_for_no_product_that_has_another_die(name, chip, level):
    found = of(tpm(), device(chip=chip), name=name)
    assert found.code == level
    assert ("assurance.other_chip" in codes(found)) is (level == L1)


def test_a_simulated_device_is_said():
    assert "assurance.simulated_device" in codes(of(tpm(), device(simulated=True)))
    assert "assurance.simulated_device" not in codes(of(tpm(), device()))


@pytest.mark.parametrize(
    ("ocsp", "level"),
    [
        (answers(), L2),
        (answers(age_ms=DAY_MS), L2),
        (answers(age_ms=DAY_MS + 1), L1),  # older than any answer may be, whatever it says
        (answers(left_ms=0), L2),
        (answers(left_ms=-1), L1),  # its next update was due
        (answers(good=False), L1),  # revoked or unknown
        (answers("ik", "ica"), L1),  # one certificate was not answered for
        ({}, L1),
        ({**answers(), "ik": Revocation(False, NOW, NOW + DAY_MS)}, L1),
    ],
)
def test_l2_needs_a_fresh_good_answer_for_each_certificate(ocsp, level):
    found = of(tpm(), device(), ocsp=ocsp)
    assert found.code == level
    assert ("assurance.ocsp" in codes(found)) == (level == L1)


def test_where_policy_waives_the_question_every_gpu_says_so():
    waived = ValuerPolicy(evidence=Evidence(ocsp="waived"))
    found = of(tpm(), device(), ocsp={}, policy=waived)
    assert found.code == L2
    assert "assurance.ocsp_waived" in codes(found)
    assert "assurance.ocsp_waived" not in codes(of(tpm(), device()))


# ---------------------------------------------------------------------------- custody, freezes


@pytest.mark.parametrize(
    ("host", "proof", "code", "cap_bps"),
    [
        (None, None, L0, 1_000),  # only from L1 on
        (tpm(), None, L1 | CUSTODY, 4_000),
        (tpm(), device(), L2 | CUSTODY, 7_500),
        (tpm(), device(whole=True), L2_PLUS | CUSTODY, 8_500),
        (tpm(5 * HOUR_MS // 2), None, L1 | CUSTODY, 3_250),  # 1,750 + 1,500
    ],
)
def test_custody_adds_fifteen_points_from_l1_on(host, proof, code, cap_bps):
    found = of(host, proof, custody=(INSPECTED,))
    assert (found.code, found.cap_bps) == (code, cap_bps)
    assert ("assurance.custody" in codes(found)) == bool(code)


def test_custody_never_lends_beyond_the_most():
    dear = ValuerPolicy(assurance=Assurance(l2_plus_bps=9_000, l3_bps=9_000))
    assert of(tpm(), device(whole=True), policy=dear, custody=(INSPECTED,)).cap_bps == 9_500


def test_an_inspection_ends():
    over = replace(INSPECTED, until_ms=NOW - 1)
    assert of(tpm(), custody=(over,)).code == L1
    assert of(tpm(), custody=(over, INSPECTED)).code == L1 | CUSTODY


@pytest.mark.parametrize("code", FreezeCode)
def test_what_is_frozen_is_worth_nothing_and_says_why(code):
    reason = replace(REASON, code=code)
    whole = (tpm(freezes=(reason,)), device(whole=True))
    found = of(*whole, custody=(INSPECTED,))
    assert (found.code, found.cap_bps, codes(found)) == (L0, 0, [f"frozen.{code.value}"])
    assert of(tpm(), device(), freezes=(reason,)).cap_bps == 0


def test_host_and_gpu_may_be_frozen_for_several_reasons_and_each_is_said():
    found = of(tpm(freezes=(REASON,)), freezes=(replace(REASON, code=FreezeCode.CLONE),))
    assert codes(found) == ["frozen.chain_fork", "frozen.clone"]
    assert "two histories" in found.findings[0].detail


# ---------------------------------------------------------------------------- how well a host has it


@pytest.mark.parametrize(
    ("host", "device_age_ms", "strength"),
    [
        (HostProofs(), None, 0),
        (tpm(root=None), None, 0),
        (tpm(3 * HOUR_MS), None, 0),
        (tpm(2 * HOUR_MS), None, 1),
        (tpm(), 18 * HOUR_MS, 1),
        (tpm(), 17 * HOUR_MS, 2),
        (HostProofs(), 0, 2),  # nobody else can have asked it: its nonce names the host's key
    ],
)
def test_how_well_a_host_is_proved_to_have_a_gpu(host, device_age_ms, strength):
    proved_ms = None if device_age_ms is None else NOW - device_age_ms
    assert strength_of(host, proved_ms, POLICY, NOW) == strength
