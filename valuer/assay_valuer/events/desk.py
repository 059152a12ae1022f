"""Taking proposals and signatures: what is signed by all who must takes effect in that transaction.

Each function is one transaction's work, inside the caller's. Nothing of it is kept where it raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec
from sqlalchemy import Connection

from assay_core import asset_events
from assay_core.errors import AssayError, HostError, ServiceError
from assay_core.seal import ASSET_DECISION_TYPE, ASSET_EVENT_TYPE, Envelope, Signature, Signer
from assay_core.signatories import (
    SIGNATURES_MAX,
    Role,
    Signatory,
    Verdict,
    decode_decision,
    lacking,
    needed,
    signed_by,
)
from assay_valuer.events import effects
from assay_valuer.events.kept import (
    EventError,
    Proposal,
    Signed,
    State,
    check_room,
    keep,
    proposal,
    proposal_of,
    save,
)
from assay_valuer.events.record import (
    RECORD,
    RecordedDecision,
    in_effect,
    record_of,
    to_record,
)
from assay_valuer.events.scope import Scope, scope_of, signatory
from assay_valuer.hosts import Host
from assay_valuer.ledger.append import append_record
from assay_valuer.overrides import keep_override
from assay_valuer.policy import ValuerPolicy, ms


def propose(
    connection: Connection,
    envelope: Envelope,
    *,
    policy: ValuerPolicy,
    signer: Signer,
    now_ms: int,
) -> Proposal:
    """Keeps a signed event until all have signed; of one that is known, takes the new signatures.

    Raises EventError, FileError.
    """
    # (1) It is an event, in its one form, bounded, and signed.
    if envelope.payload_type != ASSET_EVENT_TYPE:
        raise EventError(f"not an asset event: its payload type must be {ASSET_EVENT_TYPE}")
    if not 0 < len(envelope.signatures) <= SIGNATURES_MAX:
        raise EventError(f"an event bears 1 to {SIGNATURES_MAX} signatures")
    event = asset_events.decode(envelope.payload)
    # (2) One that is known is not kept twice.
    known = proposal_of(connection, envelope.payload)
    if known is not None and known.state is not State.PROPOSED:
        return known
    # (3) It was told of in time, and is of things that are.
    if known is None:
        asset_events.check_proposed(event, now_ms)
    scope = scope_of(connection, event)
    effects.check(connection, scope)
    # (4) Whoever signed may, and did.
    held = () if known is None else known.signed
    signed = _signed(connection, envelope, scope, held, now_ms)
    # (5) There is room.
    if known is None:
        first = signed[0]
        check_room(connection, first.who, host=first.who.startswith("spiffe:"), now_ms=now_ms)
        known = keep(connection, event, envelope.payload, signed, now_ms)
    known = replace(known, signed=signed)
    return _settle(connection, known, scope, policy=policy, signer=signer, now_ms=now_ms)


def propose_from_host(
    connection: Connection,
    envelope: Envelope,
    host: Host,
    *,
    policy: ValuerPolicy,
    signer: Signer,
    now_ms: int,
) -> Proposal:
    """Keeps what a host's operator proposes on the host's own stream, signed by its sealing key.

    Raises HostError with what to do, and ServiceError.
    """
    own = {key.fingerprint for key in host.trust.keys}
    if [signature.keyid in own for signature in envelope.signatures] != [True]:
        raise HostError("a proposal on a stream bears one signature, by that host's sealing key")
    try:
        return propose(connection, envelope, policy=policy, signer=signer, now_ms=now_ms)
    except ServiceError:
        raise
    except AssayError as error:
        raise HostError(str(error)) from error


@dataclass(frozen=True, slots=True)
class HostDesk:
    """Where proposals go that come on hosts' streams: under this policy, into this key's ledger."""

    policy: ValuerPolicy
    signer: Signer

    def __call__(
        self, connection: Connection, envelope: Envelope, host: Host, *, now_ms: int
    ) -> str:
        """Its number, and what it waits for. Raises HostError, with what to do, where it is not kept."""
        kept = propose_from_host(
            connection, envelope, host, policy=self.policy, signer=self.signer, now_ms=now_ms
        )
        return f"kept as event {kept.id}: {kept.detail}"


def sign(
    connection: Connection,
    number: int,
    signature: Signature,
    *,
    policy: ValuerPolicy,
    signer: Signer,
    now_ms: int,
) -> Proposal:
    """Adds a party's signature over an open proposal's bytes. Raises EventError, FileError."""
    one = _open(connection, number)
    envelope = Envelope(one.payload, ASSET_EVENT_TYPE, (signature,))
    return propose(connection, envelope, policy=policy, signer=signer, now_ms=now_ms)


def refuse(
    connection: Connection, number: int, envelope: Envelope, *, signer: Signer, now_ms: int
) -> Proposal:
    """Ends a proposal by the word of one whose signature it needs. Raises EventError, FileError."""
    one = _open(connection, number)
    # What it needed of maintenance is the operator alone, but a lender may refuse that too.
    roles = set(needed(one.event, accept_maintenance_ms=0))
    return _end(
        connection,
        one,
        envelope,
        verdict=Verdict.REFUSED,
        roles=roles,
        signer=signer,
        now_ms=now_ms,
    )


def withdraw(
    connection: Connection, number: int, envelope: Envelope, *, signer: Signer, now_ms: int
) -> Proposal:
    """Ends a proposal by the word of one of the side that proposed it. Raises EventError, FileError."""
    one = _open(connection, number)
    return _end(
        connection,
        one,
        envelope,
        verdict=Verdict.WITHDRAWN,
        roles={one.signed[0].role},
        signer=signer,
        now_ms=now_ms,
    )


def _open(connection: Connection, number: int) -> Proposal:
    one = proposal(connection, number)
    if one.state is not State.PROPOSED:
        raise EventError(f"asset event {number} is decided: {one.state}, {one.detail}")
    return one


def _signed(
    connection: Connection, envelope: Envelope, scope: Scope, held: tuple[Signed, ...], now_ms: int
) -> tuple[Signed, ...]:
    """What was signed before, and now. Raises EventError at a signature that counts for nothing."""
    signed = list(held)
    roles = set(needed(scope.event, accept_maintenance_ms=0))
    for signature in envelope.signatures:
        one = Envelope(envelope.payload, envelope.payload_type, (signature,))
        said = _said(connection, one, scope, roles, now_ms)
        if any(before.fingerprint == said.fingerprint for before in signed):
            continue
        if len(signed) >= SIGNATURES_MAX:
            raise EventError(f"an event bears at most {SIGNATURES_MAX} signatures")
        signed.append(said)
    return tuple(signed)


def _said(
    connection: Connection,
    envelope: Envelope,
    scope: Scope,
    roles: set[Role],
    now_ms: int,
    *,
    act: str = "sign",
) -> Signed:
    """The envelope's one signature, by somebody whose word it is to `act`. Raises EventError."""
    (signature,) = envelope.signatures
    who = signatory(connection, signature.keyid, scope)
    if not signed_by(envelope, [who]):
        raise EventError(f"the signature is not {who.who}'s over these bytes: sign them anew")
    if who.role not in roles:
        raise EventError(
            f"{who.who} is {who.role}; this {scope.event.kind} is for {' and '.join(sorted(roles))} "
            f"to {act}"
        )
    return Signed(
        who=who.who,
        role=who.role,
        fingerprint=signature.keyid,
        sig=signature.sig,
        signed_ms=now_ms,
    )


def _settle(
    connection: Connection,
    one: Proposal,
    scope: Scope,
    *,
    policy: ValuerPolicy,
    signer: Signer,
    now_ms: int,
) -> Proposal:
    """Lets the event take effect where all have signed; otherwise keeps the signatures so far."""
    counting = _counting(connection, one, scope)
    accept_ms = ms(policy.lifecycle.accept_maintenance_s)
    roles = needed(one.event, accept_maintenance_ms=accept_ms)
    missing = lacking(roles, counting)
    if missing:
        waits = f"waits for the signature of {' and '.join(missing)}"
        one = replace(one, lacking=missing, detail=waits)
        save(connection, one)
        return one
    asset_events.check_times(one.event, now_ms)
    replaced_by = effects.apply(connection, scope)
    by_policy = roles != needed(one.event, accept_maintenance_ms=0) and Role.LENDER not in {
        who.role for who in counting
    }
    by = " and ".join([f"{who.who} ({who.role})" for who in counting] + ["the policy"] * by_policy)
    one = replace(one, state=State.ACCEPTED, decided_ms=now_ms, detail=f"accepted by {by}")
    save(connection, one)
    record = in_effect(record_of(_of(one, counting)), scope, replaced_by)
    if by_policy:
        record = msgspec.structs.replace(record, policy=policy.sha256)
    at = append_record(connection, RECORD, to_record(record), signer, now_ms)
    keep_override(
        connection,
        one.event,
        [target.id for target in scope.targets],
        [who.who for who in counting],
        at,
    )
    return one


def _counting(connection: Connection, one: Proposal, scope: Scope) -> list[Signatory]:
    """Whose signatures count now: a party may have ended, or a host been revoked, since it signed."""
    found = []
    for held in one.signed:
        try:
            found.append(signatory(connection, held.fingerprint, scope))
        except EventError:  # it stays on record, and counts for nothing
            continue
    return found


def _of(one: Proposal, counting: list[Signatory]) -> Proposal:
    """The proposal by those whose signatures count: nobody else decided it."""
    keys = {who.key.fingerprint for who in counting}
    return replace(one, signed=tuple(held for held in one.signed if held.fingerprint in keys))


def _end(
    connection: Connection,
    one: Proposal,
    envelope: Envelope,
    *,
    verdict: Verdict,
    roles: set[Role],
    signer: Signer,
    now_ms: int,
) -> Proposal:
    """Ends a proposal without effect, by a signed decision."""
    if envelope.payload_type != ASSET_DECISION_TYPE or len(envelope.signatures) != 1:
        raise EventError(f"a decision is one party's, of type {ASSET_DECISION_TYPE}")
    decision = decode_decision(envelope.payload)
    if decision.event_sha256 != one.sha256 or decision.verdict is not verdict:
        raise EventError(f"the decision is of another event than {one.id}, or another verdict")
    act = "refuse" if verdict is Verdict.REFUSED else "withdraw"
    said = _said(connection, envelope, scope_of(connection, one.event), roles, now_ms, act=act)
    state = State(verdict.value)
    detail = f"{state} by {said.who} ({said.role}): {decision.why}"
    one = replace(one, state=state, decided_ms=now_ms, detail=detail)
    save(connection, one)
    record = msgspec.structs.replace(
        record_of(one), decision=RecordedDecision(payload=envelope.payload, signed=said)
    )
    append_record(connection, RECORD, to_record(record), signer, now_ms)
    return one
