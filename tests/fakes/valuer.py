"""A small valuer for the agent to talk to: real TLS, real gRPC, core's own door, a list for a ledger."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import grpc
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from grpc import aio

from assay_core import codec, verify
from assay_core.errors import Refused
from assay_core.header import Head, Source
from assay_core.seal import (
    ASSET_EVENT_TYPE,
    ENROLL_TYPE,
    RENEW_TYPE,
    Envelope,
    PublicKey,
    Sealed,
    Signature,
    pae,
)
from assay_proto.v1 import (
    attestation_pb2,
    attestation_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
)
from assay_valuer.ca import create_authority, load_authority

HOST_ID = "spiffe://assay.test/site/lab/host/1"
DAY_MS = 86_400_000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass
class Kept:
    """One record of the chain as it was taken."""

    head: Head
    sealed: Sealed | None
    first_sequence: int


@dataclass
class FakeValuer:
    """Set what it should do wrong before the agent comes; look at what it has afterwards."""

    folder: Path
    name: str = "localhost"
    # The enrolment desk.
    token_id: str = "T1"
    token_secret: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    incarnation: int = 0
    previous_head_hash: bytes = b""
    certificate_life_ms: int = DAY_MS
    certificate_age_ms: int = 0
    lose_enroll_replies: int = 0
    statements: list[bytes] = field(default_factory=list)
    renewals: int = 0
    sealing_key: PublicKey | None = None
    # The attestation desk.
    chain: list[Kept] = field(default_factory=list)
    in_flight_max: int = 8
    schema_max: int = 1
    message_max_bytes: int = 1 << 20
    lose_acknowledgements: int = 0
    positions_from: int = 1_000
    refusals: list[attestation_pb2.Refusal] = field(default_factory=list)
    refused: int = 0
    challenge: bytes = b""
    hint_ms: int = 0
    proposals: list[Envelope] = field(default_factory=list)
    refuse_proposals: str = ""
    lose_proposal_answers: bool = False
    head: Head | None = None
    """Claimed instead of the chain's own end."""
    deny: grpc.StatusCode | None = None
    hold: asyncio.Event | None = None
    """Windows are taken, but acknowledged only once this is set."""
    hellos: int = 0
    received: int = 0
    most_unacknowledged: int = 0
    clients: list[str] = field(default_factory=list)
    moved: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def __aenter__(self) -> Self:
        certificate, key = create_authority("fake", now_ms())
        files = self.folder / "authority.pem", self.folder / "authority.key"
        for path, data in zip(files, (certificate, key), strict=True):
            path.write_bytes(data)
            path.chmod(0o600)
        self.authority = load_authority(*files)
        self.listener_key = self.authority.issue_server([self.name], now_ms())
        self._servers: list[aio.Server] = []
        desk = aio.server()
        enrollment_pb2_grpc.add_EnrollmentServicer_to_server(_Enrollment(self), desk)
        self.enrollment_port = await self._start(desk, mutual=False, port=0)
        self.attestation_port = 0
        await self.start_attestation()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.hold is not None:
            self.hold.set()
        for server in self._servers:
            await server.stop(0)

    async def start_attestation(self) -> None:
        self._door = aio.server()
        attestation_pb2_grpc.add_AttestationServicer_to_server(_Attestation(self), self._door)
        self.attestation_port = await self._start(
            self._door, mutual=True, port=self.attestation_port
        )

    async def stop_attestation(self) -> None:
        await self._door.stop(0)
        self._servers.remove(self._door)

    async def _start(self, server: aio.Server, *, mutual: bool, port: int) -> int:
        credentials = grpc.ssl_server_credentials(
            [(self.listener_key.key_pem, self.listener_key.certificate.chain_pem)],
            root_certificates=self.authority.certificate_pem if mutual else None,
            require_client_auth=mutual,
        )
        bound = server.add_secure_port(f"127.0.0.1:{port}", credentials)
        await server.start()
        self._servers.append(server)
        return bound

    @property
    def token(self) -> str:
        document = {
            "id": self.token_id,
            "secret": _base64url(self.token_secret),
            "endpoint": f"{self.name}:{self.enrollment_port}",
            "authority_pem": self.authority.certificate_pem.decode(),
        }
        return "assay-token-1." + _base64url(json.dumps(document).encode())

    @property
    def trust(self) -> verify.HostTrust:
        if self.sealing_key is None:
            raise AssertionError("no host has enrolled")
        return verify.HostTrust(
            HOST_ID, self.incarnation, (self.sealing_key,), self.previous_head_hash
        )

    @property
    def sequences(self) -> list[int]:
        return [kept.head.sequence for kept in self.chain]

    def header(self, index: int):
        sealed = self.chain[index].sealed
        if sealed is None:
            raise AssertionError("a gap has no header")
        return codec.decode_header(sealed.envelope.payload)

    async def until(self, holds) -> None:
        """Waits until something that the agent did makes `holds()` true."""
        async with self.moved:
            await asyncio.wait_for(self.moved.wait_for(holds), 60)

    async def note(self) -> None:
        async with self.moved:
            self.moved.notify_all()

    def take(self, message: attestation_pb2.AgentMessage) -> int:
        """The door. Returns the sequence that is now kept; raises Refused."""
        if message.WhichOneof("message") == "gap":
            return self.take_gap(_envelope(message.gap))
        window = message.window
        return self.take_sealed(Sealed(_envelope(window.envelope), tuple(window.leaves)))

    def take_gap(self, envelope: Envelope) -> int:
        try:
            gap = verify.verify_gap(
                envelope, trust=self.trust, chain=self._chain(), now_ms=now_ms()
            ).gap
        except verify.AlreadyStored as stored:
            return stored.sequence
        head = Head(gap.last_sequence, gap.last_dropped_hash)
        self.chain.append(Kept(head, None, gap.first_sequence))
        return head.sequence

    def take_sealed(self, sealed: Sealed) -> int:
        try:
            verified = verify.verify(
                sealed,
                trust=self.trust,
                chain=self._chain(),
                policy=verify.Policy(frozenset(Source)),
                challenges={},
                now_ms=now_ms(),
            )
        except verify.AlreadyStored as stored:
            return stored.sequence
        sequence = verified.header.sequence
        self.chain.append(Kept(Head(sequence, verified.hash), sealed, sequence))
        return sequence

    def take_proposal(self, envelope: Envelope) -> attestation_pb2.ValuerMessage:
        (signature,) = envelope.signatures
        key = self.trust.keys[0]
        assert signature.keyid == key.fingerprint
        assert key.verifies(signature.sig, ASSET_EVENT_TYPE, envelope.payload)
        self.proposals.append(envelope)
        answer = attestation_pb2.ProposalAnswer(
            payload_sha256=hashlib.sha256(envelope.payload).digest(),
            kept=not self.refuse_proposals,
            detail=self.refuse_proposals or f"proposal {len(self.proposals)} is kept",
        )
        return attestation_pb2.ValuerMessage(proposal_answer=answer)

    def _chain(self) -> verify.Chain:
        hashes = {kept.head.sequence: kept.head.hash for kept in self.chain}
        return verify.Chain(self.chain[-1].head if self.chain else None, hashes.get)

    def now_ms(self) -> int:
        return now_ms()


class _Enrollment(enrollment_pb2_grpc.EnrollmentServicer):
    def __init__(self, valuer: FakeValuer) -> None:
        self._valuer = valuer

    async def Enroll(self, request, context):
        valuer = self._valuer
        statement = enrollment_pb2.EnrollStatement.FromString(request.statement)
        if request.token_secret != valuer.token_secret or statement.token_id != valuer.token_id:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "unknown or expired token")
        if valuer.statements and valuer.statements[-1] != request.statement:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "the token was used")
        key = Ed25519PublicKey.from_public_bytes(statement.sealing_public_key)
        key.verify(request.signature, pae(ENROLL_TYPE, request.statement))
        valuer.statements.append(request.statement)
        valuer.sealing_key = PublicKey(statement.sealing_algorithm, statement.sealing_public_key)
        if valuer.lose_enroll_replies:
            valuer.lose_enroll_replies -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the reply was lost")
        return self._certificates(statement.tls_csr)

    async def Renew(self, request, context):
        statement = enrollment_pb2.RenewStatement.FromString(request.statement)
        trust = self._valuer.trust
        if not trust.keys[0].verifies(request.signature, RENEW_TYPE, request.statement):
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not the enrolled key")
        self._valuer.renewals += 1
        self._valuer.certificate_age_ms = 0
        self._valuer.certificate_life_ms = DAY_MS
        reply = self._certificates(statement.tls_csr)
        await self._valuer.note()
        return reply

    async def Activate(self, request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only the real door knows TPMs")

    async def Rotate(self, request, context):
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "only the real door knows two keys")

    def _certificates(self, csr: bytes) -> enrollment_pb2.Certificates:
        valuer = self._valuer
        issued = valuer.authority.issue_host(
            csr, HOST_ID, now_ms() - valuer.certificate_age_ms, valuer.certificate_life_ms
        )
        return enrollment_pb2.Certificates(
            host_id=HOST_ID,
            incarnation=valuer.incarnation,
            previous_head_hash=valuer.previous_head_hash,
            certificate_chain_pem=issued.chain_pem,
            authority_pem=valuer.authority.certificate_pem,
            attestation_endpoint=f"{valuer.name}:{valuer.attestation_port}",
            schema_max=1,
        )


class _Attestation(attestation_pb2_grpc.AttestationServicer):
    def __init__(self, valuer: FakeValuer) -> None:
        self._valuer = valuer

    async def Stream(self, request_iterator, context):
        valuer = self._valuer
        valuer.hellos += 1
        valuer.clients.append(context.auth_context()["x509_pem_cert"][0].decode())
        await valuer.note()
        if valuer.deny is not None:
            await context.abort(valuer.deny, "the host was revoked")
        first = await anext(request_iterator)
        if first.WhichOneof("message") != "hello":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Hello comes first")
        for message in self._greeting():
            yield message
        async for message in self._answers(request_iterator, context):
            yield message

    def _greeting(self) -> list[attestation_pb2.ValuerMessage]:
        valuer = self._valuer
        head = valuer.head or (valuer.chain[-1].head if valuer.chain else None)
        welcome = attestation_pb2.Welcome(
            schema_max=valuer.schema_max,
            has_head=head is not None,
            head_sequence=head.sequence if head else 0,
            head_hash=head.hash if head else b"",
            in_flight_max=valuer.in_flight_max,
            message_max_bytes=valuer.message_max_bytes,
            now_ms=now_ms(),
        )
        messages = [attestation_pb2.ValuerMessage(welcome=welcome)]
        if valuer.challenge:
            challenge = attestation_pb2.Challenge(nonce=valuer.challenge, deadline_ms=now_ms())
            messages.append(attestation_pb2.ValuerMessage(challenge=challenge))
        if valuer.hint_ms:
            hint = attestation_pb2.Hint(window_ms=valuer.hint_ms)
            messages.append(attestation_pb2.ValuerMessage(hint=hint))
        return messages

    async def _answers(self, requests, context) -> AsyncIterator[attestation_pb2.ValuerMessage]:
        valuer = self._valuer
        waiting: list[int] = []
        pending = asyncio.ensure_future(anext(requests, None))
        while (message := await self._next(pending, waiting)) is not None:
            if isinstance(message, list):
                yield _acknowledge(message, valuer.positions_from)
                waiting.clear()
                continue
            pending = asyncio.ensure_future(anext(requests, None))
            valuer.received += 1
            if message.WhichOneof("message") == "proposal":
                answer = valuer.take_proposal(_envelope(message.proposal))
                if valuer.lose_proposal_answers:
                    pending.cancel()
                    return
                yield answer
                continue
            if valuer.refusals:
                valuer.refused += 1
                refusal = valuer.refusals.pop(0)
                await valuer.note()
                yield attestation_pb2.ValuerMessage(refusal=refusal)
                continue
            try:
                sequence = valuer.take(message)
            except Refused as refused:
                refusal = attestation_pb2.Refusal(
                    sequence=refused.sequence or 0,
                    reason=refused.reason.value,
                    detail=refused.detail,
                    retry_after_ms=refused.retry_after_ms,
                )
                valuer.refused += 1
                await valuer.note()
                yield attestation_pb2.ValuerMessage(refusal=refusal)
                continue
            if valuer.lose_acknowledgements:
                valuer.lose_acknowledgements -= 1
                await valuer.note()
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the line was cut")
            waiting.append(sequence)
            valuer.most_unacknowledged = max(valuer.most_unacknowledged, len(waiting))
            await valuer.note()
            if valuer.hold is None or valuer.hold.is_set():
                yield _acknowledge(waiting, valuer.positions_from)
                waiting.clear()

    async def _next(self, pending, waiting: list[int]):
        """The next message; or what may be acknowledged now that the hold is over."""
        hold = self._valuer.hold
        if hold is None or hold.is_set() or not waiting:
            return await pending
        released = asyncio.ensure_future(hold.wait())
        await asyncio.wait({pending, released}, return_when=asyncio.FIRST_COMPLETED)
        if released.done():
            return list(waiting)
        released.cancel()
        return await pending


def _acknowledge(sequences: list[int], first: int) -> attestation_pb2.ValuerMessage:
    items = [attestation_pb2.Acknowledgement(sequence=n, position=n + first) for n in sequences]
    return attestation_pb2.ValuerMessage(
        acknowledgements=attestation_pb2.Acknowledgements(acknowledgements=items)
    )


def _envelope(envelope) -> Envelope:
    signatures = tuple(Signature(item.sig, item.keyid) for item in envelope.signatures)
    return Envelope(envelope.payload, envelope.payload_type, signatures)


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
