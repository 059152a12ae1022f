"""Trust in one GPU in words: each factor of its assurance, and whatever is held against it.

For a lender, who must be able to tell what holds, since when, and where in the ledger to look it up.
Nothing is judged here: standing does, and this says what it came to. Pure. Instants are UTC ms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from assay_core.instants import format_duration, format_instant
from assay_core.units import BPS
from assay_valuer.asset_rows import AssetRow
from assay_valuer.credit.position import percent
from assay_valuer.held import Held, held_against, sentence
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.assurance import (
    CUSTODY,
    NAMES,
    Known,
    Revocation,
    TpmState,
    assure,
    tpm_state,
    worth_bps,
)
from assay_valuer.standing.trust import DeviceProof, HostProofs


class Factor(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that assurance rests on, or lacks. `position` is the ledger's entry of its proof."""

    name: str
    words: str
    proved_ms: int | None = None
    position: int | None = None


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """How far one GPU can be trusted now. `code` is the assurance as reports carry it."""

    assurance: str
    code: int
    cap_bps: int
    factors: tuple[Factor, ...]
    held: tuple[Held, ...]


@dataclass(frozen=True, slots=True)
class _Case:
    row: AssetRow
    policy: ValuerPolicy
    now_ms: int
    said: Mapping[str, str]
    """What standing says of its assurance, by the findings' codes."""


def explain(
    row: AssetRow, revocations: Mapping[str, Revocation], policy: ValuerPolicy, now_ms: int
) -> Trust:
    """Trust in one asset at `now_ms`, from what the store has of it and of its host."""
    known = Known(row.trust, row.proofs, row.host_key, row.seen_ms, revocations, row.name)
    found = assure(known, policy, now_ms)
    case = _Case(row, policy, now_ms, {one.code: one.detail for one in found.findings})
    name = NAMES[found.code & ~CUSTODY] + ("+C" if found.code & CUSTODY else "")
    return Trust(
        assurance=name,
        code=found.code,
        cap_bps=found.cap_bps,
        factors=(_summary(case, name, found.cap_bps), *_factors(case)),
        held=held_against(row, policy, now_ms),
    )


# -------------------------------------------------------------------------------------- factors


def _summary(case: _Case, name: str, cap_bps: int) -> Factor:
    if not cap_bps:  # frozen, or silent for long
        why = case.said.get("assurance.silent", "It is frozen.")
        return Factor(name="assurance", words=f"{name}: nothing is lent on it. {why}")
    words = f"{name}: at most {percent(cap_bps)} of its net value is lent."
    return Factor(name="assurance", words=words)


def _factors(case: _Case) -> tuple[Factor, ...]:
    row = case.row
    if row.host_key is None:
        return (Factor(name="host", words="No host has shown it yet."),)
    proof = row.trust.proof
    here = proof is not None and proof.host_key == row.host_key
    found = [_tpm(case), _device(case, proof if here else None)]
    if proof is not None and here:
        found += [_certificates(case, proof), _board(proof)]
    return (*found, _custody(case))


def _tpm(case: _Case) -> Factor:
    proofs = case.row.proofs
    state = tpm_state(proofs, case.policy)
    if state is TpmState.NONE:
        words = "None: a software key signs for it, and whoever copies the file can, too."
        return Factor(name="host's TPM", words=words)
    if state is TpmState.UNKNOWN:
        return Factor(name="host's TPM", words=_unknown(proofs))
    maker = sentence(proofs.ek_detail) or "Of a maker that is listed."
    if state is TpmState.SIMULATED:
        maker += " SIMULATED: the policy names it, and it proves no real hardware."
    quote = proofs.tpm
    if quote is None or quote.ak_name != proofs.ak_name:
        return Factor(name="host's TPM", words=f"{maker} It has not been quoted yet.")
    age = _age(case, quote.at_ms, case.policy.evidence.tpm_interval_s)
    return Factor(
        name="host's TPM",
        words=f"{maker} Quoted {age}",
        proved_ms=quote.at_ms,
        position=quote.position,
    )


def _unknown(proofs: HostProofs) -> str:
    detail = proofs.ek_detail or "its certificates lead to no maker that is listed"
    return f"It counts for nothing: {sentence(detail)}"


def _device(case: _Case, proof: DeviceProof | None) -> Factor:
    if proof is None:
        why = case.row.proofs.devices_absent
        words = sentence(f"no report: {why}" if why else "no report of it has come")
        if case.row.trust.proof is not None:
            words = "It answered on another host, and not on this one."
        return Factor(name="its device", words=words)
    told = [
        f"{proof.chip} answered {_age(case, proof.at_ms, case.policy.evidence.device_interval_s)}"
    ]
    versions = [("driver", proof.driver), ("VBIOS", proof.vbios)]
    if named := ", ".join(f"{name} {version}" for name, version in versions if version):
        told.append(f"By its own word {named}; asked {proof.origin.replace('_', ' ')}.")
    if proof.simulated:
        told.append("SIMULATED: its root is one that the policy names.")
    if "assurance.other_chip" in case.said:
        told.append(case.said["assurance.other_chip"])
    if "assurance.l0" in case.said:
        told.append("Without its host's TPM it counts for nothing.")
    return Factor(
        name="its device", words=" ".join(told), proved_ms=proof.at_ms, position=proof.position
    )


def _certificates(case: _Case, proof: DeviceProof) -> Factor:
    name = "its certificates"
    for code in ("assurance.ocsp", "assurance.ocsp_waived"):
        if code in case.said:
            return Factor(name=name, words=case.said[code])
    if "assurance.l2" not in case.said and "assurance.l2_plus" not in case.said:
        return Factor(name=name, words=f"{len(proof.certificates)}; nothing rests on them now.")
    words = f"{len(proof.certificates)}, each with a fresh answer that it is not revoked."
    return Factor(name=name, words=words)


def _board(proof: DeviceProof) -> Factor:
    words = (
        "Every GPU and switch of it named the others." if proof.whole else "Not shown to be whole."
    )
    return Factor(name="its baseboard", words=words)


def _custody(case: _Case) -> Factor:
    held = [one for one in case.row.trust.custody if case.now_ms <= one.until_ms]
    words = " ".join(
        f"{one.custodian} looked at it, good until {format_instant(one.until_ms)} (event "
        f"{one.event_id}, document {one.document_sha256[:16]}…)."
        for one in held
    )
    return Factor(name="custody", words=words or "Nobody but its operator says that it has it.")


def _age(case: _Case, at_ms: int, interval_s: int) -> str:
    """How old a proof is, and what that leaves of it."""
    age_ms = max(0, case.now_ms - at_ms)
    worth = worth_bps(age_ms, interval_s, case.policy)
    counts = {0: "too long ago to count", BPS: "and counts in full"}
    ago = f"{format_duration(age_ms)} ago"
    return f"{ago}, {counts.get(worth, f'and decays: {percent(worth)} of it is left')}."
