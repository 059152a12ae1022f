"""A valuer's door in this process, and a client that speaks the wire to it, over real mTLS."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client import CollectorRegistry

from assay_core.seal import (
    ENROLL_TYPE,
    RENEW_TYPE,
    Ed25519Signer,
    Envelope,
    Sealed,
    Signer,
    pae,
)
from assay_core.verify import VerifiedWindow
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import attestation_pb2_grpc, enrollment_pb2_grpc
from assay_proto.v1 import enrollment_pb2 as enroll_pb
from assay_valuer.ca import Authority, create_authority, load_authority, write_secret
from assay_valuer.config import IngestConfig, ListenerConfig, ValuerConfig
from assay_valuer.enrolment import Registrar
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ingest.proposer import Propose
from assay_valuer.ingest.server import Door, Endpoints
from assay_valuer.ledger.check import check_ledger
from assay_valuer.policy import ValuerPolicy
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.tokens import PREFIX, Terms, create_token
from assay_valuer.tpms import Tpms
from tests.fakes.host import FakeHost

HOUR_MS = 3_600_000


class FakeClock:
    """The valuer's clock, moved by the test. It starts at the real one, which TLS goes by."""

    def __init__(self) -> None:
        self.now_ms = int(time.time() * 1000)

    def __call__(self) -> int:
        return self.now_ms


@dataclass
class FakeValuer:
    """A real door over a real store in a folder; `check` holds the ledger to its invariants."""

    folder: Path
    ingest: IngestConfig = field(default_factory=lambda: IngestConfig(linger_ms=1))
    sources: tuple[str, ...] = ("nvml",)
    clock: FakeClock = field(default_factory=FakeClock)
    life_ms: int = 24 * HOUR_MS
    committed: list[tuple[int, VerifiedWindow]] = field(default_factory=list)
    policy: ValuerPolicy = field(default_factory=ValuerPolicy)
    tpms: Tpms = field(default_factory=Tpms)
    propose: Propose | None = None

    def __post_init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = IngestMetrics(self.registry)
        self.signer = Ed25519Signer(Ed25519PrivateKey.generate())
        # Certificates are judged by the real clock: gRPC looks at no other.
        self.authority = new_authority(self.folder)
        self.database = Database(sqlite_url(str(self.folder / "valuer.db")))
        migrate(self.database)
        self.config = ValuerConfig(
            trust_domain="assay.test",
            enrolment=ListenerConfig(listen="localhost:0"),
            attestation=ListenerConfig(listen="127.0.0.1:0"),
            ingest=self.ingest,
            policy=self.policy,
            sources=self.sources,  # type: ignore[arg-type]  # tests name them as text
        )
        self.registrar = Registrar(
            self.authority, self.signer, "assay.test", self.life_ms, self.tpms
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoints]:
        door = Door(
            self.config,
            self.database,
            self.registrar,
            self.metrics,
            on_commit=self.committed.extend,
            now_ms=self.clock,
            propose=self.propose,
        )
        self.door = door
        self.endpoints = await door.start()
        running = asyncio.create_task(door.run())
        try:
            yield self.endpoints
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running

    def token(self, *, hosts: int = 1, life_ms: int = HOUR_MS, host_id: str | None = None) -> str:
        return self.database.write(
            lambda c: create_token(
                c,
                Terms("lab", hosts, self.clock() + life_ms, host_id),
                endpoint=self.endpoints.enrolment,
                authority_pem=self.authority.certificate_pem,
                signer=self.signer,
                now_ms=self.clock(),
            )
        )

    def check(self) -> int:
        return self.database.read(lambda c: check_ledger(c, (self.signer.public_key,)))

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    def close(self) -> None:
        self.database.close()


def new_authority(folder: Path, name: str = "ca") -> Authority:
    certificate, key = create_authority("test authority", int(time.time() * 1000))
    write_secret(folder / f"{name}.pem", certificate)
    write_secret(folder / f"{name}.key", key)
    return load_authority(folder / f"{name}.pem", folder / f"{name}.key")


class _Token(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    secret: str
    endpoint: str
    authority_pem: str


def read_token(text: str) -> _Token:
    encoded = text.removeprefix(PREFIX)
    data = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    return msgspec.convert(json.loads(data), _Token)


@dataclass
class HostClient:
    """A host's end of the wire."""

    host: FakeHost
    tls_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    certificates: enroll_pb.Certificates | None = None

    def csr(self) -> bytes:
        builder = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whoever I like")])
        )
        return builder.sign(self.tls_key, hashes.SHA256()).public_bytes(Encoding.DER)

    def enroll_request(
        self, token: str, *, csr: bytes | None = None, signer: Signer | None = None
    ) -> enroll_pb.EnrollRequest:
        parsed = read_token(token)
        key = self.host.signer.public_key
        statement = enroll_pb.EnrollStatement(
            token_id=parsed.id,
            tls_csr=self.csr() if csr is None else csr,
            sealing_algorithm=key.algorithm,
            sealing_public_key=key.data,
            agent_version="0.1.0",
        ).SerializeToString()
        return enroll_pb.EnrollRequest(
            statement=statement,
            signature=(signer or self.host.signer).sign(pae(ENROLL_TYPE, statement)),
            token_secret=base64.urlsafe_b64decode(parsed.secret + "="),
        )

    async def enroll(
        self, token: str, request: enroll_pb.EnrollRequest | None = None
    ) -> enroll_pb.Certificates:
        parsed = read_token(token)
        trust = grpc.ssl_channel_credentials(parsed.authority_pem.encode())
        async with grpc.aio.secure_channel(parsed.endpoint, trust) as channel:
            stub = enrollment_pb2_grpc.EnrollmentStub(channel)
            reply = await stub.Enroll(request or self.enroll_request(token), timeout=10)
        self._take(reply)
        return reply

    async def renew(self, valuer: FakeValuer, *, signer: Signer | None = None) -> None:
        statement = enroll_pb.RenewStatement(
            host_id=self.host.host_id, incarnation=self.host.incarnation, tls_csr=self.csr()
        ).SerializeToString()
        request = enroll_pb.RenewRequest(
            statement=statement,
            signature=(signer or self.host.signer).sign(pae(RENEW_TYPE, statement)),
        )
        trust = grpc.ssl_channel_credentials(valuer.authority.certificate_pem)
        async with grpc.aio.secure_channel(valuer.endpoints.enrolment, trust) as channel:
            stub = enrollment_pb2_grpc.EnrollmentStub(channel)
            self._take(await stub.Renew(request, timeout=10))

    def credentials(self) -> grpc.ChannelCredentials:
        assert self.certificates is not None
        key = self.tls_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return grpc.ssl_channel_credentials(
            self.certificates.authority_pem, key, self.certificates.certificate_chain_pem
        )

    @contextlib.asynccontextmanager
    async def stream(self, *, hello: bool = True, endpoint: str = "") -> AsyncIterator[HostStream]:
        assert self.certificates is not None
        target = endpoint or self.certificates.attestation_endpoint
        async with grpc.aio.secure_channel(target, self.credentials()) as channel:
            call = attestation_pb2_grpc.AttestationStub(channel).Stream(timeout=20)
            stream = HostStream(call)
            if hello:
                await stream.hello(self.host.incarnation)
            yield stream
            call.cancel()

    def _take(self, reply: enroll_pb.Certificates) -> None:
        if self.certificates is None or reply.incarnation != self.host.incarnation:
            self.host.incarnation = reply.incarnation
            self.host.previous = reply.previous_head_hash
        self.host.host_id = reply.host_id
        self.certificates = reply


class HostStream:
    """An open stream: what is sent, and what came back by kind."""

    def __init__(self, call: grpc.aio.StreamStreamCall[pb.AgentMessage, pb.ValuerMessage]) -> None:
        self.call = call
        self.welcome: pb.Welcome | None = None
        self.challenge: bytes = b""
        self.acks: dict[int, list[int]] = {}

    async def send_hello(self, incarnation: int = 0, schema_max: int = 1) -> None:
        hello = pb.Hello(schema_max=schema_max, agent_version="0.1.0", incarnation=incarnation)
        await self.send(pb.AgentMessage(hello=hello))

    async def hello(self, incarnation: int = 0) -> pb.Welcome:
        await self.send_hello(incarnation)
        message = await self.read()
        assert message.WhichOneof("message") == "welcome", message
        self.welcome = message.welcome
        challenge = await self.read()
        self.challenge = challenge.challenge.nonce
        return message.welcome

    async def send(self, message: pb.AgentMessage) -> None:
        await self.call.write(message)

    async def until(self, kind: str) -> pb.ValuerMessage:
        """The next message of a kind, past whatever else comes before it."""
        while True:
            message = await self.read()
            if message.WhichOneof("message") == kind:
                return message

    async def window(self, sealed: Sealed) -> None:
        await self.send(window_message(sealed))

    async def gap(self, envelope: Envelope) -> None:
        await self.send(pb.AgentMessage(gap=to_wire(envelope)))

    async def read(self) -> pb.ValuerMessage:
        message = await self.call.read()
        if not isinstance(message, pb.ValuerMessage):  # grpc.aio.EOF
            raise Ended(await self.call.code(), await self.call.details())
        return message

    async def acknowledged(self, count: int = 1) -> list[tuple[int, int]]:
        """The next `count` acknowledgements. Raises Answered for a refusal."""
        found: list[tuple[int, int]] = []
        while len(found) < count:
            message = await self.read()
            kind = message.WhichOneof("message")
            if kind == "acknowledgements":
                found += [
                    (a.sequence, a.position) for a in message.acknowledgements.acknowledgements
                ]
            elif kind == "challenge":
                self.challenge = message.challenge.nonce
            elif kind == "refusal":
                raise Answered(message.refusal)
        return found

    async def refused(self) -> pb.Refusal:
        """The next refusal, past whatever else comes before it."""
        while True:
            message = await self.read()
            if message.WhichOneof("message") == "refusal":
                return message.refusal
            if message.WhichOneof("message") == "challenge":
                self.challenge = message.challenge.nonce

    async def ended(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended, once it has."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.call.read() is not grpc.aio.EOF:
                pass
        return await self.call.code(), await self.call.details() or ""


class Ended(TypeError):
    """The stream ended where a message was expected."""


class Answered(AssertionError):
    """A refusal came where an acknowledgement was expected."""


def window_message(sealed: Sealed) -> pb.AgentMessage:
    return pb.AgentMessage(
        window=pb.SealedWindow(envelope=to_wire(sealed.envelope), leaves=sealed.leaves)
    )


def to_wire(envelope: Envelope) -> pb.Envelope:
    return pb.Envelope(
        payload=envelope.payload,
        payload_type=envelope.payload_type,
        signatures=[pb.Signature(sig=s.sig, keyid=s.keyid) for s in envelope.signatures],
    )
