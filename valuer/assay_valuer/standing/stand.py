"""From a GPU's track to what we believe of it now, and whether it counts.

Silence never makes a value and never unmakes one: it takes a GPU out of the count, by cause and
after its grace; so does a freeze, at once. A dispute does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from assay_core.health import Record, rule_for
from assay_core.instants import format_duration, format_instant
from assay_core.leaves import Incident, IncidentKind, Severity
from assay_valuer.findings import Finding
from assay_valuer.policy import ValuerPolicy, ms
from assay_valuer.standing.assurance import (
    CUSTODY,
    L2,
    Assurance,
    Known,
    Machine,
    OcspState,
    Revocation,
    assure,
    machine,
    ocsp_state,
    vouched,
)
from assay_valuer.standing.notes import Note
from assay_valuer.standing.silence import HostVoice, Uptime, Voice, voices
from assay_valuer.standing.trust import (
    MAINTENANCE,
    NO_PROOFS,
    Claim,
    HostProofs,
    Transition,
    Verdict,
    current,
)
from assay_valuer.standing.types import (
    DRIVER_SILENT,
    Asset,
    Cause,
    Host,
    Presence,
    Standing,
)

INCIDENTS_SAID_MAX: Final = 8
"""Open incidents that are findings by themselves; a record of many GPUs must stay readable."""
_SIMULATED: Final = Finding("assurance.simulated", "Simulated or replayed: no real hardware.")


_Proved = tuple[int | None] | tuple[int | None, str | None, int, int, str, bool, bool, bool]
"""A host's key, and what else decides the assurance of a GPU there that was seen lately: nothing, if
its device has never answered."""


@dataclass(frozen=True, slots=True)
class _Shared:
    """What GPUs of one host have in common; `_assurance` and `stand` alone touch it.

    `standings` are by the assurance they have, which is kept beside each so that its id stays its own.
    """

    machines: dict[int | None, Machine] = field(default_factory=dict)
    assurances: dict[_Proved, Assurance] = field(default_factory=dict)
    standings: dict[tuple[int, str | None, int | None], tuple[Assurance, Standing]] = field(
        default_factory=dict
    )


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything around the GPUs at one instant: hosts, voices and proofs by the host's key, answers
    about certificates by their SHA-256, and the certificates whose answer is good now.
    """

    hosts: Mapping[int, Host]
    voices: Mapping[int, HostVoice]
    uptime: Uptime
    policy: ValuerPolicy
    now_ms: int
    proofs: Mapping[int, HostProofs] = field(default_factory=dict)
    revocations: Mapping[str, Revocation] = field(default_factory=dict)
    good: frozenset[str] = frozenset()
    shared: _Shared = field(default_factory=_Shared, init=False, compare=False)


def scene(
    hosts: Mapping[int, Host],
    uptime: Uptime,
    policy: ValuerPolicy,
    now_ms: int,
    *,
    proofs: Mapping[int, HostProofs] = MappingProxyType({}),
    revocations: Mapping[str, Revocation] = MappingProxyType({}),
) -> Scene:
    """The scene, with each host's silence attributed."""
    heard = voices(hosts, uptime, policy.silence, now_ms)
    good = frozenset(
        name
        for name, answer in revocations.items()
        if ocsp_state(answer, policy, now_ms) is OcspState.GOOD
    )
    return Scene(hosts, heard, uptime, policy, now_ms, proofs, revocations, good)


@dataclass(frozen=True, slots=True)
class _Where:
    presence: Presence
    cause: Cause = Cause.NONE
    counts: bool = True
    finding: Finding | None = None


def stand(asset: Asset, around: Scene) -> Standing:
    """The standing of one asset. Those of a host that are present, with nothing else to be said of
    them, have one and the same.
    """
    proofs = NO_PROOFS if asset.host_key is None else around.proofs.get(asset.host_key, NO_PROOFS)
    where = _where(asset, around)
    assurance = _assurance(asset, proofs, around)
    if where is not _PRESENT or _remarkable(asset):
        return _stand(asset, proofs, where, assurance, around)
    key = (id(assurance), asset.name, asset.track.seen_ms)
    known = around.shared.standings.get(key)
    if known is None:
        standing = _stand(asset, proofs, where, assurance, around)
        known = around.shared.standings[key] = assurance, standing
    return known[1]


def _remarkable(asset: Asset) -> bool:
    """Whether its standing may rest on more than its host, its name, when it was seen and how far it can
    be trusted.
    """
    track, trust = asset.track, asset.trust
    if asset.simulated or track.health.records or track.notes.findings:
        return True
    return bool(trust.claims or trust.freezes or trust.transitions)


def _stand(
    asset: Asset, proofs: HostProofs, where: _Where, assurance: Assurance, around: Scene
) -> Standing:
    policy = around.policy
    under_way = _under_way(asset, proofs, around)
    where = _in_transition(where, under_way)
    findings: list[Finding] = [] if where.finding is None else [where.finding]
    incidents: tuple[Incident, ...] = ()
    severity: Severity | None = None
    if asset.track.health.records:
        records = asset.track.health.open
        incidents = tuple(record.incident() for record in records)
        severity = _weigh(asset, records, around, findings, away=under_way is not None)
    counts = where.counts
    # What is being replaced is broken, as a rule: the lender agreed to wait for the other.
    replaced = under_way is not None and under_way.other_asset is not None
    if severity is Severity.IMPAIRED and not replaced:
        counts = False
        findings.append(Finding("count.impaired", "Impaired: not eligible, and not counted."))
    frozen = bool(proofs.freezes or asset.trust.freezes)
    if where.presence is not Presence.EXPECTED:
        findings += assurance.findings
    proof = asset.trust.proof
    # Its readings may be real and its proof not: what rests on that is no less simulated.
    proved = assurance.code & ~CUSTODY >= L2 and proof is not None and proof.simulated
    simulated = asset.simulated or proved
    if simulated:
        findings.append(_SIMULATED)
        if not policy.credit_simulated:
            counts = False
            findings.append(
                Finding("count.simulated", "Policy gives simulated GPUs no credit: not counted.")
            )
    notes = asset.track.notes.findings
    if notes:
        notes = _standing_notes(notes, policy, around.now_ms)
        findings += [_said(note) for note in notes]
    if asset.trust.claims:
        findings += _claims(asset, around)
    return Standing(
        presence=where.presence,
        cause=where.cause,
        observed_ms=asset.track.seen_ms,
        assurance=assurance.code,
        cap_bps=assurance.cap_bps,
        severity=severity,
        counts=counts and not frozen,
        simulated=simulated,
        disputed=any(claim.verdict is Verdict.DISPUTED for claim in asset.trust.claims),
        frozen=frozen,
        name=asset.name,
        incidents=incidents,
        notes=notes,
        findings=tuple(findings),
        transition=under_way,
    )


def _under_way(asset: Asset, proofs: HostProofs, around: Scene) -> Transition | None:
    """The event that both parties said the asset is in the midst of.

    An asset that was never seen is in none: nobody has shown that it exists. On a revoked host, which
    never comes back, it is in none that would end there. And maintenance, which the operator may
    announce alone and again, excuses no longer silence than what a host announces in its windows.
    """
    seen_ms = asset.track.seen_ms
    if seen_ms is None:
        return None
    if not (proofs.transitions or asset.trust.transitions):
        return None
    told = (*proofs.transitions, *asset.trust.transitions)
    host = around.hosts.get(asset.host_key) if asset.host_key is not None else None
    if host is None or host.revoked:
        told = tuple(one for one in told if one.away)
    longest_ms = ms(around.policy.silence.maintenance_max_s)
    if told and around.uptime.served_ms(seen_ms, around.now_ms) > longest_ms:
        told = tuple(one for one in told if one.kind != MAINTENANCE)
    return current(told, around.now_ms)


def _in_transition(where: _Where, under_way: Transition | None) -> _Where:
    """Where it is, unless it is in transition: then it counts, seen or not."""
    if under_way is None:
        return where
    detail = (
        f"{under_way.kind.replace('_', ' ').capitalize()} under way until "
        f"{format_instant(under_way.until_ms)} (event {under_way.event_id}): {under_way.why}"
    )
    finding = Finding("presence.in_transition", detail)
    return _Where(Presence.IN_TRANSITION, where.cause, True, finding)


def _assurance(asset: Asset, proofs: HostProofs, around: Scene) -> Assurance:
    """How far it can be trusted. What its host's TPM is worth is worked out once for all of it, and so
    is everything for GPUs that have proved the same, or nothing, and are in nobody's custody.
    """
    policy, now_ms, seen_ms = around.policy, around.now_ms, asset.track.seen_ms
    trust, shared, key = asset.trust, around.shared, asset.host_key
    proved: _Proved | None = None
    if not (trust.custody or trust.freezes) and vouched(seen_ms, policy, now_ms):
        proved = _proved(asset, around)
        found = shared.assurances.get(proved)
        if found is not None:
            return found
    host = shared.machines.get(key)
    if host is None:
        host = shared.machines[key] = machine(proofs, policy, now_ms)
    known = Known(trust, proofs, key, seen_ms, around.revocations, asset.name)
    found = assure(known, policy, now_ms, host)
    if proved is not None:
        shared.assurances[proved] = found
    return found


def _proved(asset: Asset, around: Scene) -> _Proved:
    proof = asset.trust.proof
    if proof is None:
        return (asset.host_key,)
    good = around.good.issuperset(proof.certificates)
    return (
        asset.host_key,
        asset.name,
        proof.at_ms,
        proof.host_key,
        proof.chip,
        proof.whole,
        proof.simulated,
        good,
    )


def _claims(asset: Asset, around: Scene) -> list[Finding]:
    """What others' claims to it mean, but for those that are history."""
    trust, keep_ms = asset.trust, ms(around.policy.findings.keep_s)
    return [_claimed(one) for one in trust.claims if not trust.past(one, around.now_ms, keep_ms)]


def _claimed(claim: Claim) -> Finding:
    """What another host's claim to it means."""
    if claim.verdict is Verdict.OPEN:
        detail = (
            f"{claim.host_id} has shown it since {format_instant(claim.since_ms)}. "
            f"{DECIDE[claim.verdict]}"
        )
        return Finding("identity.claimed", detail)
    return Finding(f"identity.{claim.verdict.value}", f"{claim.why}. {DECIDE[claim.verdict]}")


DECIDE: Final = {
    Verdict.OPEN: "If it was moved, propose that; if not, ask both operators.",
    Verdict.FALSE: "The weaker claim is frozen; this asset is not touched.",
    Verdict.CLONE: "Frozen: one device cannot be in two places.",
    Verdict.DISPUTED: "A person must decide; until then it counts.",
}
"""What each verdict means for who reads it."""


def _where(asset: Asset, around: Scene) -> _Where:
    track, silence, now_ms = asset.track, around.policy.silence, around.now_ms
    host = around.hosts.get(asset.host_key) if asset.host_key is not None else None
    voice = around.voices.get(host.key) if host is not None else None
    if track.seen_ms is None:
        detail = "Pledged, and not seen yet: not counted."
        return _Where(Presence.EXPECTED, counts=False, finding=Finding("presence.expected", detail))
    if host is None or voice is None or host.revoked:
        detail = "Its host is revoked or unknown: nobody speaks for it."
        return _Where(Presence.UNKNOWN, counts=False, finding=Finding("presence.unknown", detail))
    until_ms = track.condition.maintenance_until_ms
    reads = track.missing_since_ms is None and not track.condition.passed_through
    if until_ms is None and reads and voice.voice is Voice.SPEAKS:
        return _PRESENT
    unseen_ms = around.uptime.served_ms(track.seen_ms, now_ms)
    grace_ms = ms(silence.host_grace_s)
    if until_ms is not None:
        if now_ms <= until_ms and unseen_ms <= ms(silence.maintenance_max_s):
            detail = f"In announced maintenance until {format_instant(until_ms)}."
            return _Where(Presence.MAINTENANCE, finding=Finding("presence.maintenance", detail))
        if unseen_ms > ms(silence.quiet_after_s):  # announced for too long, or over and not back
            return _silent(Cause.HOST, "host, paused beyond its maintenance,", unseen_ms, grace_ms)
    elif track.missing_since_ms is not None:
        if track.condition.driver in DRIVER_SILENT and not track.condition.alone:
            return _silent(Cause.HOST, "driver", unseen_ms, grace_ms)
        return _gone(track.condition.lost, track.missing_since_ms, around)
    if voice.voice is Voice.SILENT:
        return _silent(voice.cause, voice.cause.value, unseen_ms, grace_ms)
    if track.condition.passed_through:
        return _passed_through(unseen_ms, ms(silence.passed_through_grace_s))
    if voice.voice is Voice.WAITED_FOR:
        detail = "We were down ourselves; clocks stopped, and its host is waited for."
        return _Where(Presence.SILENT, Cause.OURS, finding=Finding("presence.silent_ours", detail))
    return _PRESENT


_PRESENT: Final = _Where(Presence.PRESENT)


def _gone(lost: bool, since_ms: int, around: Scene) -> _Where:
    """Its host speaks, and it does not."""
    age_ms = around.uptime.served_ms(since_ms, around.now_ms)
    grace_ms = ms(around.policy.silence.gpu_grace_s)
    if not lost:
        return _silent(Cause.GPU, "GPU", age_ms, grace_ms)
    counts = age_ms <= grace_ms
    detail = f"Gone from its host since {format_instant(since_ms)}: {_count(counts, grace_ms)}."
    return _Where(Presence.MISSING, Cause.GPU, counts, Finding("presence.missing", detail))


def _passed_through(unseen_ms: int, grace_ms: int) -> _Where:
    """A virtual machine has it: it is there, by the bus, and nothing more is known."""
    counts = unseen_ms <= grace_ms
    detail = (
        f"A virtual machine has it, and nobody has read it for {format_duration(unseen_ms)}: "
        f"{_count(counts, grace_ms)}."
    )
    finding = Finding("presence.passed_through", detail)
    return _Where(Presence.PASSED_THROUGH, Cause.TENANT, counts, finding)


def _silent(cause: Cause, whose: str, age_ms: int, grace_ms: int) -> _Where:
    counts = age_ms <= grace_ms
    detail = (
        f"The {whose} has been silent for {format_duration(age_ms)}: {_count(counts, grace_ms)}."
    )
    return _Where(Presence.SILENT, cause, counts, Finding(f"presence.silent_{cause.value}", detail))


def _count(counts: bool, grace_ms: int) -> str:
    grace = format_duration(grace_ms)
    return f"still counted, within its grace of {grace}" if counts else f"not counted after {grace}"


def _weigh(
    asset: Asset,
    records: tuple[Record, ...],
    around: Scene,
    findings: list[Finding],
    *,
    away: bool,
) -> Severity | None:
    """The worst severity that may move the value; says the worst open incidents in `findings`.

    `away`: it is in transition, and that it is gone for long says no more than that.
    """
    policy = around.policy
    worst: Severity | None = None
    said: list[tuple[int, Finding]] = []
    action = asset.track.condition.recovery_action
    for record in records:
        severity = _severity_now(record, policy, around.now_ms)
        if away and record.kind is IncidentKind.GPU_LOST:
            severity = min(severity, Severity.DEGRADED)
        holds = (
            not policy.persistence.enabled
            or record.windows >= policy.persistence.windows
            or record.kind is IncidentKind.GPU_LOST  # the driver itself no longer enumerates it
            or bool(action)
        )
        rule = rule_for(record.kind, record.code)
        waits = "" if holds else ", not yet confirmed"
        name = name_of(record.kind, record.code).replace("_", " ")
        bad = severity.label.replace("_", " ")
        # What to do, and by whose word: `gpu show`.
        detail = f"{name}, {bad}: {rule.meaning}{waits}."
        said.append((severity, Finding(f"incident.{severity.label}", detail)))
        if holds and (worst is None or severity > worst):
            worst = severity
    said.sort(key=lambda one: -one[0])
    findings += [finding for _, finding in said[:INCIDENTS_SAID_MAX]]
    if len(said) > INCIDENTS_SAID_MAX:
        more = len(said) - INCIDENTS_SAID_MAX
        findings.append(
            Finding("incident.more", f"{more} more open incidents, none of them worse.")
        )
    return worst


def name_of(kind: IncidentKind, code: int) -> str:
    """What an incident is called: "Xid 48", "nvlink_down", "recovery_action 2"."""
    if kind is IncidentKind.XID:
        return f"Xid {code}"
    return kind.name.lower() + (f" {code}" if code else "")


def _severity_now(record: Record, policy: ValuerPolicy, now_ms: int) -> Severity:
    old_ms = ms(policy.incidents.lost_impaired_after_s)
    if record.kind is IncidentKind.GPU_LOST and now_ms - record.begin_ms >= old_ms:
        return Severity.IMPAIRED
    return record.severity


def _standing_notes(notes: tuple[Note, ...], policy: ValuerPolicy, now_ms: int) -> tuple[Note, ...]:
    """Findings of plausibility and reconciliation that are not forgotten yet, the newest first."""
    keep_ms = ms(policy.findings.keep_s)
    kept = [note for note in notes if now_ms - note.last_ms <= keep_ms]
    return tuple(sorted(kept, key=lambda note: (-note.last_ms, note.code)))


def _said(note: Note) -> Finding:
    times = "" if note.count == 1 else f" Found {note.count} times"
    since = f"{' since' if times else ' Found'} {format_instant(note.first_ms)}"
    return Finding(note.code, f"{note.detail}{times}{since}. It moves no value.")
