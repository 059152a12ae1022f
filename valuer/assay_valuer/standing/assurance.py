"""How far evidence of one GPU can be trusted now: the least of the proofs valid now, decaying.

    L0   a software key said so
    L1   a host bound to its TPM: a quote, by a key whose endorsement leads to a listed maker
    L2   L1, and the device's own report, bound to that TPM, its certificates not revoked
    L2+  L2, and a whole baseboard: every GPU and switch of it names the others
    +C   a third party holds it, by an inspection that it and the lender signed

L3, a measured agent, is not reached: nothing here proves what code read the driver. A proof counts in
full for some intervals, falls in a line, and is then worth the level below. One more proof, or a newer
one of the same, never lowers what may be lent (a property). Caps and times are the policy's, and judgement.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from assay_core.evidence.ek import TPM_ROOTS
from assay_core.instants import format_duration
from assay_core.units import BPS
from assay_valuer.findings import Finding
from assay_valuer.market.models import may_be
from assay_valuer.policy import ValuerPolicy, ms
from assay_valuer.standing.trust import AssetTrust, DeviceProof, Freeze, HostProofs

L0: Final = 0
L1: Final = 1
L2: Final = 2
L2_PLUS: Final = 3
CUSTODY: Final = 128
NAMES: Final = ("L0", "L1", "L2", "L2+", "L3")


@dataclass(frozen=True, slots=True)
class Revocation:
    """The newest answer about one certificate: whether it is good, and how long that may be said."""

    good: bool
    this_update_ms: int
    next_update_ms: int


class TpmState(enum.StrEnum):
    """What a host's TPM is to us. The value is also the metric's label."""

    NONE = "none"  # its key is software
    UNKNOWN = "unknown"  # its certificates lead to no maker that is listed
    SIMULATED = "simulated"  # a program's, whose root the policy names
    BELIEVED = "believed"  # made by a listed maker


class OcspState(enum.StrEnum):
    """What the newest answer about a certificate is worth. The value is also the metric's label."""

    GOOD = "good"
    UNANSWERED = "unanswered"
    NOT_GOOD = "not_good"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class Assurance:
    """`code` is 0 to 4, with 128 for custody, as reports carry it. `cap_bps`: most that is lent on
    net value, decay included. `findings` say why it is no higher.
    """

    code: int
    cap_bps: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What there is to judge one GPU by. `seen_ms` is its newest evidence, None if never seen; `name`
    is the product's, by its driver's word.
    """

    asset: AssetTrust
    host: HostProofs
    host_key: int | None
    seen_ms: int | None
    revocations: Mapping[str, Revocation]
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the proof of a host's TPM is worth now, to every GPU of it: BPS in full."""

    worth_bps: int
    findings: tuple[Finding, ...]


def assure(
    known: Known, policy: ValuerPolicy, now_ms: int, shared: Machine | None = None
) -> Assurance:
    """The assurance of one GPU at `now_ms`. `shared`: its host's, where that is worked out already."""
    freezes = (*known.host.freezes, *known.asset.freezes)
    if freezes:
        return Assurance(L0, 0, tuple(_frozen(one) for one in freezes))
    caps = policy.assurance
    if not vouched(known.seen_ms, policy, now_ms):
        return Assurance(
            L0, 0, (Finding("assurance.silent", "Nothing has vouched for it lately."),)
        )
    host = shared or machine(known.host, policy, now_ms)
    said, machine_bps = [*host.findings], host.worth_bps
    level, device_bps = L0, 0
    if machine_bps:
        level = L1
        device_bps = _device_bps(known, policy, now_ms, said)
    if device_bps and known.asset.proof is not None:
        level = L2_PLUS if known.asset.proof.whole else L2
    least, bound, full = caps.cap_bps(L0), caps.cap_bps(L1), caps.cap_bps(level)
    cap_bps = least + (full - least) * machine_bps // BPS
    if level >= L2:
        cap_bps = min(cap_bps, bound + (full - bound) * device_bps // BPS)
    held = [one for one in known.asset.custody if now_ms <= one.until_ms]
    custody = CUSTODY if held and level >= L1 else 0
    if custody:
        cap_bps = min(cap_bps + caps.custody_bps, caps.max_bps)
        names = ", ".join(sorted({one.custodian for one in held}))
        said.append(Finding("assurance.custody", f"In the custody of {names}, by inspection."))
    detail = f"{NAMES[level]}{'+C' if custody else ''}: {_WHAT[level]}"
    said.insert(0, Finding(f"assurance.{_CODES[level]}", detail, cap_bps))
    return Assurance(level | custody, cap_bps, tuple(said))


_WHAT: Final = (
    "signed by a software key alone.",
    "signed and quoted by the TPM of its host.",
    "its device answered, bound to the TPM of its host.",
    "its whole baseboard answered, bound to the TPM of its host.",
)
_CODES: Final = ("l0", "l1", "l2", "l2_plus")


def _frozen(one: Freeze) -> Finding:
    return Finding(f"frozen.{one.code.value}", f"Frozen: {one.detail}")


def vouched(seen_ms: int | None, policy: ValuerPolicy, now_ms: int) -> bool:
    """Whether anything has vouched for a GPU lately that was last seen at `seen_ms`."""
    return seen_ms is not None and now_ms - seen_ms < ms(policy.evidence.silence_zero_s)


def strength_of(host: HostProofs, proved_ms: int | None, policy: ValuerPolicy, now_ms: int) -> int:
    """How well a host is proved to have a GPU: 0 its word, 1 its TPM's, 2 the device's own report.

    `proved_ms` is when the device last answered there, if it ever did: bound to the host's key, with
    or without a TPM, nobody else can have asked it.
    """
    if proved_ms is not None:
        age_ms = max(0, now_ms - proved_ms)
        if worth_bps(age_ms, policy.evidence.device_interval_s, policy):
            return 2
    return 1 if machine(host, policy, now_ms).worth_bps else 0


def tpm_state(host: HostProofs, policy: ValuerPolicy) -> TpmState:
    """What its TPM is, whether it was quoted or not."""
    root = host.root_sha256
    if not host.ak_name:
        return TpmState.NONE
    if root in policy.evidence.simulated_tpm_roots:
        return TpmState.SIMULATED
    return TpmState.BELIEVED if root in TPM_ROOTS and not host.virtual else TpmState.UNKNOWN


def ocsp_state(answer: Revocation | None, policy: ValuerPolicy, now_ms: int) -> OcspState:
    """Whether an answer, if there is one, says now that its certificate is good."""
    if answer is None:
        return OcspState.UNANSWERED
    if not answer.good:
        return OcspState.NOT_GOOD
    age_ms = now_ms - answer.this_update_ms
    old = now_ms > answer.next_update_ms or age_ms > ms(policy.evidence.ocsp_age_max_s)
    return OcspState.OLD if old else OcspState.GOOD


def worth_bps(age_ms: int, interval_s: int, policy: ValuerPolicy) -> int:
    """What a proof of this age is worth: BPS in full, 0 for nothing."""
    evidence = policy.evidence
    full_ms = evidence.full_intervals * ms(interval_s)
    end_ms = evidence.decayed_intervals * ms(interval_s)
    if age_ms <= full_ms:
        return BPS
    return max(0, (end_ms - age_ms) * BPS // (end_ms - full_ms))


def machine(host: HostProofs, policy: ValuerPolicy, now_ms: int) -> Machine:
    """What the proof of a host's TPM is worth now; says what it is, or why there is none."""
    state = tpm_state(host, policy)
    if state is TpmState.NONE:
        return Machine(0, ())
    if state is TpmState.UNKNOWN:
        why = host.ek_detail or "its certificates lead to no maker that is listed"
        detail = f"Its host's TPM counts for nothing: {why}."
        return Machine(0, (Finding("assurance.tpm_unknown", detail),))
    said: list[Finding] = []
    if state is TpmState.SIMULATED:
        detail = "A simulated TPM, which this policy names: no proof of real hardware."
        said.append(Finding("assurance.simulated_tpm", detail))
    proof = host.tpm
    if proof is None or proof.ak_name != host.ak_name:
        said.append(Finding("assurance.no_quote", "Its host's TPM has not been quoted yet."))
        return Machine(0, tuple(said))
    age_ms = max(0, now_ms - proof.at_ms)
    worth = worth_bps(age_ms, policy.evidence.tpm_interval_s, policy)
    if worth < BPS:
        said.append(_aged("assurance.tpm_old", "Its host's TPM was quoted", age_ms, worth))
    return Machine(worth, tuple(said))


def _device_bps(known: Known, policy: ValuerPolicy, now_ms: int, said: list[Finding]) -> int:
    """What its device's own proof is worth now; says why there is none."""
    proof = known.asset.proof
    if proof is None:
        why = known.host.devices_absent or "no report of it has come"
        said.append(Finding("assurance.no_device", f"Its device has not answered: {why}."))
        return 0
    if proof.host_key != known.host_key:
        detail = "Its device answered on another host, and not on this one."
        said.append(Finding("assurance.elsewhere", detail))
        return 0
    if not may_be(known.name, proof.chip):
        detail = f"Its device is a {proof.chip}, which no {known.name} has."
        said.append(Finding("assurance.other_chip", detail))
        return 0
    age_ms = max(0, now_ms - proof.at_ms)
    worth = worth_bps(age_ms, policy.evidence.device_interval_s, policy)
    if worth < BPS:
        said.append(_aged("assurance.device_old", "Its device answered", age_ms, worth))
    if proof.simulated:
        detail = "A simulated device, whose root this policy names: no proof of real hardware."
        said.append(Finding("assurance.simulated_device", detail))
    return worth if _unrevoked(known, proof, policy, now_ms, said) else 0


def _unrevoked(
    known: Known,
    proof: DeviceProof,
    policy: ValuerPolicy,
    now_ms: int,
    said: list[Finding],
) -> bool:
    """Whether every certificate has a fresh answer that it is good, or policy waives them."""
    if policy.evidence.ocsp == "waived":
        detail = "Policy waives the question whether its certificates were revoked."
        said.append(Finding("assurance.ocsp_waived", detail))
        return True
    for name in proof.certificates:
        if ocsp_state(known.revocations.get(name), policy, now_ms) is not OcspState.GOOD:
            detail = "No fresh answer says that its certificates are not revoked."
            said.append(Finding("assurance.ocsp", detail))
            return False
    return True


def _aged(code: str, what: str, age_ms: int, worth: int) -> Finding:
    detail = f"{what} {format_duration(age_ms)} ago: {'it decays' if worth else 'too long ago'}."
    return Finding(code, detail, worth)
