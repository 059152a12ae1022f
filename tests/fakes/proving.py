"""A host's side of trust on the wire: its TPM's binding, rotations, and answers to challenges."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Sequence

import grpc
import grpc.aio
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core.evidence import sealed as sealing
from assay_core.evidence.nvidia import Evidence
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import Quote, Statement, device_nonce, quote_extra
from assay_core.header import Source
from assay_core.seal import ENROLL_TYPE, ROTATE_TYPE, Signer, pae
from assay_proto.v1 import attestation_pb2 as stream_pb
from assay_proto.v1 import enrollment_pb2 as pb
from assay_proto.v1 import enrollment_pb2_grpc
from tests.fakes.door import FakeValuer, HostClient, HostStream, to_wire
from tests.fakes.host import FakeHost
from tests.fakes.nvidia import Device
from tests.fakes.tpm import FakeTpm, TpmKey, TpmSigner

SOON_MS = 31_000
"""The longest until a host that has proved nothing is asked."""


def binding(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    attest, signature = tpm.certify(key)
    return pb.TpmBinding(
        ek_certificates=tpm.certificates,
        ak_public=tpm.ak.public,
        key_public=key.public,
        certify_attest=attest,
        certify_signature=signature,
    )


@contextlib.asynccontextmanager
async def enrolment(valuer: FakeValuer) -> AsyncIterator[enrollment_pb2_grpc.EnrollmentAsyncStub]:
    trust = grpc.ssl_channel_credentials(valuer.authority.certificate_pem)
    async with grpc.aio.secure_channel(valuer.endpoints.enrolment, trust) as channel:
        yield enrollment_pb2_grpc.EnrollmentStub(channel)


async def activate(valuer: FakeValuer, tpm: FakeTpm) -> bytes:
    request = pb.ActivateRequest(ek_certificates=tpm.certificates, ak_public=tpm.ak.public)
    async with enrolment(valuer) as stub:
        reply = await stub.Activate(request, timeout=10)
    return tpm.open(reply.blob, reply.secret)


def enroll_request(
    client: HostClient, token: str, bound: pb.TpmBinding | None, activation: bytes
) -> pb.EnrollRequest:
    request = client.enroll_request(token)
    statement = pb.EnrollStatement.FromString(request.statement)
    if bound is not None:
        statement.tpm.CopyFrom(bound)
    raw = statement.SerializeToString()
    return pb.EnrollRequest(
        statement=raw,
        signature=client.host.signer.sign(pae(ENROLL_TYPE, raw)),
        token_secret=request.token_secret,
        activation=activation,
    )


async def enroll(
    valuer: FakeValuer, client: HostClient, tpm: FakeTpm, token: str | None = None
) -> pb.Certificates:
    """Enrols the host with a new sealing key of its TPM."""
    key = tpm.signing_key()
    client.host.signer = TpmSigner(key)
    text = token or valuer.token()
    activation = await activate(valuer, tpm)
    return await client.enroll(text, enroll_request(client, text, binding(tpm, key), activation))


def rotate_request(
    client: HostClient,
    new: Signer,
    *,
    bound: pb.TpmBinding | None = None,
    activation: bytes = b"",
    old: Signer | None = None,
    also: Signer | None = None,
) -> pb.RotateRequest:
    """The host's wish to go over to `new`; `old` and `also` sign in its keys' places."""
    statement = pb.RotateStatement(
        host_id=client.host.host_id,
        incarnation=client.host.incarnation,
        sealing_algorithm=new.public_key.algorithm,
        sealing_public_key=new.public_key.data,
        tls_csr=client.csr(),
    )
    if bound is not None:
        statement.tpm.CopyFrom(bound)
    raw = statement.SerializeToString()
    message = pae(ROTATE_TYPE, raw)
    return pb.RotateRequest(
        statement=raw,
        signature=(old or client.host.signer).sign(message),
        new_signature=(also or new).sign(message),
        activation=activation,
    )


async def rotate(
    valuer: FakeValuer, client: HostClient, request: pb.RotateRequest
) -> pb.Certificates:
    async with enrolment(valuer) as stub:
        reply = await stub.Rotate(request, timeout=10)
    client.certificates = reply
    return reply


async def asked(valuer: FakeValuer, stream: HostStream) -> stream_pb.EvidenceChallenge:
    """Lets the time until the next challenge pass, and takes it."""
    valuer.clock.now_ms += SOON_MS
    return (await stream.until("evidence_challenge")).evidence_challenge


def answer(
    host: FakeHost,
    challenge: stream_pb.EvidenceChallenge,
    *,
    tpm: FakeTpm | None = None,
    devices: Sequence[Device] = (),
    evidence: Sequence[Evidence] | None = None,
    pcrs: tuple[int, ...] | None = None,
    quote_by: TpmKey | None = None,
    signer: Signer | None = None,
    sequence: int | None = None,
    source: Source = Source.NVML,
    nonce: bytes | None = None,
    absent: str = "there are none",
) -> sealing.SealedEvidence:
    """An honest answer, but for what is changed."""
    challenged = challenge.nonce if nonce is None else nonce
    key = signer or host.signer
    name = tpm.ak.name if tpm is not None else bytes.fromhex(key.public_key.fingerprint)
    if evidence is None:
        wanted = device_nonce(challenged, name, host.previous)
        evidence = [device.answer(wanted) for device in devices]
    blobs = [blob for one in evidence for blob in (one.report, pem(one))]
    listed = tuple(
        sealing.device(Origin.IN_BAND_NVML, *blobs[2 * at : 2 * at + 2])
        for at in range(len(evidence))
    )
    quote = None
    if tpm is not None and challenge.pcrs:
        chosen = tuple(challenge.pcrs) if pcrs is None else pcrs
        extra = quote_extra(challenged, host.previous, listed)
        attest, signature = tpm.quote(extra, chosen, by=quote_by)
        quote = Quote(attest, signature, tpm.values(chosen))
    statement = Statement(
        host_id=host.host_id,
        incarnation=host.incarnation,
        challenge=challenged,
        sequence=host.sequence - 1 if sequence is None else sequence,
        header_hash=host.previous,
        collected_ms=host.now_ms,
        source=source,
        devices=listed,
        devices_absent="" if listed else absent,
        quote=quote,
    )
    return sealing.seal(statement, blobs, key)


def pem(evidence: Evidence) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in evidence.chain)


async def send(stream: HostStream, sealed: sealing.SealedEvidence) -> stream_pb.EvidenceOutcome:
    """Sends an answer; what became of it."""
    message = stream_pb.SealedEvidence(envelope=to_wire(sealed.envelope), blobs=sealed.blobs)
    await stream.send(stream_pb.AgentMessage(evidence=message))
    return (await stream.until("evidence_outcome")).evidence_outcome


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
