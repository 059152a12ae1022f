"""What a lender reads of one GPU: each factor of its assurance, and the evidence for each side."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, format_instant
from assay_valuer.asset_rows import AssetRow
from assay_valuer.explain import explain
from assay_valuer.held import amiss
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.standing.assurance import CUSTODY, Revocation
from assay_valuer.standing.trust import (
    NO_PROOFS,
    AssetTrust,
    Claim,
    Custody,
    Freeze,
    FreezeCode,
    Transition,
    Verdict,
)
from tests.fakes.collateral import NOW, PART
from tests.fakes.proofs import HOST, answers, device, tpm

HERE, THERE = "spiffe://x/site/lab/host/1", "spiffe://x/site/far/host/2"
SIMULATED = "SIMULATED: the policy names it, and it proves no real hardware."
WAIVED = ValuerPolicy(evidence=Evidence(ocsp="waived"))


def row(trust=None, proofs=None, **more):
    told = {
        "id": 1,
        "serial": "S1",
        "board_part_number": PART,
        "pdi": None,
        "uuid": None,
        "identity": None,
        "name": None,
        "host_key": HOST,
        "host": HERE,
        "site": "lab",
        "loan": "loan-1",
        "reserved_site": None,
        "reserved_host": None,
        "successor_of": None,
        "seen_ms": NOW,
        "result": None,
        "trust": trust or AssetTrust(),
        "proofs": NO_PROOFS if proofs is None else proofs,
    }
    return AssetRow(**(told | more))


def of(trust=None, proofs=None, *, policy=None, ocsp=None, **more):
    known = answers() if ocsp is None else ocsp
    return explain(row(trust, proofs, **more), known, policy or ValuerPolicy(), NOW)


def words(found):
    return {one.name: one.words for one in found.factors}


# -------------------------------------------------------------------------------------- factors


def test_a_software_key_is_said_to_be_one():
    found = of()
    assert (found.assurance, found.code, found.cap_bps) == ("L0", 0, 1_000)
    assert words(found) == {
        "assurance": "L0: at most 10.00% of its net value is lent.",
        "host's TPM": "None: a software key signs for it, and whoever copies the file can, too.",
        "its device": "No report of it has come.",
        "custody": "Nobody but its operator says that it has it.",
    }


def test_every_proof_is_said_with_its_age_and_where_it_is():
    proofs = tpm(150 * MINUTE_MS, ek_detail="TPM of Infineon, endorsed under OPTIGA")
    proof = replace(
        device(HOUR_MS), driver="580.1", vbios="96.00", whole=True, position=41, certificates=("a",)
    )
    custody = Custody(
        event_id=3, custodian="kurt", until_ms=NOW + DAY_MS, document_sha256="ab" * 32
    )
    trust = AssetTrust(proof=proof, custody=(custody,))
    found = of(trust, proofs, ocsp=answers("a"))
    # Half way between two and three intervals: 1,000 + 6,000 / 2, and 15 points for custody.
    assert (found.assurance, found.code, found.cap_bps) == ("L2++C", 3 | CUSTODY, 5_500)
    told = words(found)
    assert told["host's TPM"] == (
        "TPM of Infineon, endorsed under OPTIGA. Quoted 2.5 h ago, and decays: 50.00% of it is left."
    )
    assert told["its device"] == (
        "GH100 answered 1.0 h ago, and counts in full. By its own word driver 580.1, VBIOS 96.00; "
        "asked in band nvml."
    )
    assert told["its certificates"] == "1, each with a fresh answer that it is not revoked."
    assert told["its baseboard"] == "Every GPU and switch of it named the others."
    assert "kurt" in told["custody"]
    assert {one.name: (one.proved_ms, one.position) for one in found.factors if one.position} == {
        "host's TPM": (NOW - 150 * MINUTE_MS, 1),
        "its device": (NOW - HOUR_MS, 41),
    }


@pytest.mark.parametrize(
    ("proofs", "policy", "said"),
    [
        (
            tpm(root=None, ek_detail="made by nobody"),
            None,
            "It counts for nothing: Made by nobody.",
        ),
        (tpm(tpm=None), None, "Of a maker that is listed. It has not been quoted yet."),
        (
            tpm(9 * HOUR_MS),
            None,
            "Of a maker that is listed. Quoted 9.0 h ago, too long ago to count.",
        ),
        (
            tpm(root="ab", virtual=True, ek_detail="swtpm"),
            ValuerPolicy(evidence=Evidence(simulated_tpm_roots=("ab",))),
            f"Swtpm. {SIMULATED} Quoted 0 ms ago, and counts in full.",
        ),
    ],
)
def test_what_is_wrong_with_a_tpm_is_said(proofs, policy, said):
    assert words(of(None, proofs, policy=policy))["host's TPM"] == said


def test_why_there_is_no_device_is_said():
    no_driver = replace(tpm(), devices_absent="CC mode is off")
    assert words(of(None, no_driver))["its device"] == "No report: CC mode is off."
    elsewhere = AssetTrust(proof=replace(device(), host_key=9))
    told = words(of(elsewhere, tpm()))
    assert told["its device"] == "It answered on another host, and not on this one."
    assert "its certificates" not in told
    assert words(of(host_key=None, host=None))["host"] == "No host has shown it yet."


def test_certificates_nobody_answered_for_hold_it_at_l1_and_waived_ones_are_said():
    trust = AssetTrust(proof=device())
    unanswered = of(trust, tpm(), ocsp={})
    assert unanswered.assurance == "L1"
    assert "No fresh answer" in words(unanswered)["its certificates"]
    revoked = dict.fromkeys(device().certificates, Revocation(False, NOW, NOW + DAY_MS))
    assert of(trust, tpm(), ocsp=revoked).assurance == "L1"
    waived = of(trust, tpm(), ocsp={}, policy=WAIVED)
    assert waived.assurance == "L2"
    assert "waives" in words(waived)["its certificates"]


def test_a_device_without_its_hosts_tpm_is_said_to_count_for_nothing():
    told = words(of(AssetTrust(proof=device())))
    assert told["its device"].endswith("Without its host's TPM it counts for nothing.")
    assert told["its certificates"] == "3; nothing rests on them now."


# ------------------------------------------------------------------------------- the two sides


@pytest.mark.parametrize("code", FreezeCode)
def test_a_freeze_has_its_evidence_its_honest_cause_and_its_place(code):
    freeze = Freeze(code=code, detail="what was seen", since_ms=NOW, position=77)
    found = of(AssetTrust(freezes=(freeze,)))
    (held,) = found.held
    assert held.against == ("What was seen.",)
    assert held.in_favour[0]
    assert held.positions == (77,)
    assert held.title == f"FROZEN {code} since {format_instant(NOW)}"
    assert amiss(held)
    assert (found.cap_bps, words(found)["assurance"]) == (
        0, "L0: nothing is lent on it. It is frozen.")  # fmt: skip
    (of_host,) = of(None, replace(tpm(), freezes=(freeze,))).held
    assert (of_host.what, of_host.host) == ("its host FROZEN", HERE)


def claim(**more):
    told = {
        "host_key": 2,
        "host_id": THERE,
        "strength": 0,
        "since_ms": NOW - HOUR_MS,
        "last_ms": NOW,
        "uuid": "",
    }
    return Claim(**(told | more))


def test_a_claim_has_both_sides_with_how_well_each_is_proved():
    trust = AssetTrust(claims=(claim(),), held_since_ms=NOW - DAY_MS)
    (held,) = of(trust, tpm(), reserved_site="lab").held
    assert held.host == THERE
    assert held.against == (
        f"{THERE} has shown it since {format_instant(NOW - HOUR_MS)}, by its word alone.",
        f"{THERE} showed it last at {format_instant(NOW)}.",
    )
    since = format_instant(NOW - DAY_MS)
    favour = f"{HERE} has shown it since {since}, now by a host bound to its TPM"
    assert held.in_favour == (f"{favour}, and the pledge names it.",)
    assert held.means == "If it was moved, propose that; if not, ask both operators."
    (other,) = of(AssetTrust(claims=(claim(),), proof=device()), tpm(), reserved_site="far").held
    assert other.in_favour == (f"{HERE} has shown it, now by the device's own report.",)


def test_what_was_decided_is_said_in_the_words_of_then():
    told = claim(verdict=Verdict.DISPUTED, why="one by this, the other by that", proved_ms=NOW)
    (held,) = of(AssetTrust(claims=(told,))).held
    assert held.against[0] == "One by this, the other by that."
    assert held.against[2] == f"The device answered there at {format_instant(NOW)}."
    assert held.means == "A person must decide; until then it counts."
    assert held.title == f"claimed by another host: disputed since {format_instant(NOW - HOUR_MS)}"
    assert amiss(held)


def test_a_false_claim_and_one_that_is_history_are_nobodys_business_now():
    (false,) = of(AssetTrust(claims=(claim(verdict=Verdict.FALSE, why="both"),))).held
    (past,) = of(AssetTrust(claims=(claim(last_ms=NOW - 1),), held_since_ms=NOW)).held
    assert (amiss(false), amiss(past), past.over) == (False, False, True)
    assert past.means == "Of the past: its holder has shown it since."


def test_a_transition_is_said_while_it_lasts_and_after():
    one = Transition(
        event_id=5, kind="move", begin_ms=NOW - DAY_MS, until_ms=NOW, why="to a new hall",
        to_site="far",
    )  # fmt: skip
    (held,) = of(AssetTrust(transitions=(one,))).held
    assert held.title == f"IN TRANSITION: move until {format_instant(NOW)}"
    assert held.in_favour == ("Agreed: To a new hall. It goes to far.",)
    assert (held.event_id, held.means, amiss(held)) == (
        5, "Until then it counts, seen or not.", True)  # fmt: skip
    replaced = replace(one, kind="gpu_replacement", to_site="", other_asset=9)
    (held,) = of(AssetTrust(transitions=(replaced,))).held
    assert held.in_favour == ("Agreed: To a new hall. asset-9 takes its place.",)
    (over,) = of(AssetTrust(transitions=(replace(one, until_ms=NOW - 1),))).held
    assert (over.over, over.means, amiss(over)) == (True, "", False)
