"""The calls by which a host gets its certificates, and another key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grpc import aio

from assay_agent import VERSION
from assay_agent.uplink import channel
from assay_core.seal import ENROLL_TYPE, RENEW_TYPE, ROTATE_TYPE, Signer, pae
from assay_proto.v1 import enrollment_pb2 as pb
from assay_proto.v1 import enrollment_pb2_grpc as rpc

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the valuer gives an enrolled host; see Certificates in enrollment.proto."""

    host_id: str
    incarnation: int
    previous_head_hash: bytes
    chain_pem: bytes
    authority_pem: bytes
    attestation_endpoint: str
    schema_max: int


@dataclass(frozen=True, slots=True)
class TpmBinding:
    """A TPM's keys, and what makes them believable; see TpmBinding in enrollment.proto."""

    ek_certificates: tuple[bytes, ...]
    ak_public: bytes
    key_public: bytes
    certify_attest: bytes
    certify_signature: bytes


@dataclass(frozen=True, slots=True)
class Locked:
    """A credential, which one TPM holding one key opens: see Credential in enrollment.proto."""

    blob: bytes
    secret: bytes


def enroll_statement(
    token_id: str, tls_csr: bytes, signer: Signer, tpm: TpmBinding | None = None
) -> bytes:
    """The exact bytes of a new enrolment statement."""
    return pb.EnrollStatement(
        token_id=token_id,
        tls_csr=tls_csr,
        sealing_algorithm=signer.public_key.algorithm,
        sealing_public_key=signer.public_key.data,
        agent_version=VERSION,
        tpm=_binding(tpm),
    ).SerializeToString(deterministic=True)


def rotate_statement(
    host_id: str, incarnation: int, tls_csr: bytes, signer: Signer, tpm: TpmBinding | None
) -> bytes:
    """The exact bytes of a statement that `signer` takes the place of the host's sealing key."""
    return pb.RotateStatement(
        host_id=host_id,
        incarnation=incarnation,
        sealing_algorithm=signer.public_key.algorithm,
        sealing_public_key=signer.public_key.data,
        tpm=_binding(tpm),
        tls_csr=tls_csr,
    ).SerializeToString(deterministic=True)


async def enroll(
    endpoint: str,
    authority_pem: bytes,
    proxy: str | None,
    *,
    statement: bytes,
    token_secret: bytes,
    signer: Signer,
    activation: bytes = b"",
) -> Certificates:
    """Sends the statement with proof of the sealing key. Raises HostError or ServiceError."""
    request = pb.EnrollRequest(
        statement=statement,
        signature=signer.sign(pae(ENROLL_TYPE, statement)),
        token_secret=token_secret,
        activation=activation,
    )
    async with channel.open_server_tls(endpoint, authority_pem, proxy) as opened:
        try:
            reply = await rpc.EnrollmentStub(opened).Enroll(request, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            raise channel.explain(error, endpoint) from error
    return _certificates(reply)


async def renew(
    endpoint: str,
    authority_pem: bytes,
    proxy: str | None,
    *,
    host_id: str,
    incarnation: int,
    tls_csr: bytes,
    signer: Signer,
) -> Certificates:
    """Asks for a new client certificate by proof of the sealing key. Raises as `enroll`."""
    statement = pb.RenewStatement(
        host_id=host_id, incarnation=incarnation, tls_csr=tls_csr
    ).SerializeToString(deterministic=True)
    request = pb.RenewRequest(
        statement=statement, signature=signer.sign(pae(RENEW_TYPE, statement))
    )
    async with channel.open_server_tls(endpoint, authority_pem, proxy) as opened:
        try:
            reply = await rpc.EnrollmentStub(opened).Renew(request, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            raise channel.explain(error, endpoint) from error
    return _certificates(reply)


async def activate(
    endpoint: str,
    authority_pem: bytes,
    proxy: str | None,
    *,
    ek_certificates: Sequence[bytes],
    ak_public: bytes,
) -> Locked:
    """Asks for a credential for this TPM. Raises as `enroll`."""
    request = pb.ActivateRequest(ek_certificates=ek_certificates, ak_public=ak_public)
    async with channel.open_server_tls(endpoint, authority_pem, proxy) as opened:
        try:
            reply = await rpc.EnrollmentStub(opened).Activate(request, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            raise channel.explain(error, endpoint) from error
    return Locked(reply.blob, reply.secret)


async def rotate(
    endpoint: str,
    authority_pem: bytes,
    proxy: str | None,
    *,
    statement: bytes,
    old: Signer,
    new: Signer,
    activation: bytes,
) -> Certificates:
    """Asks that `new` take the place of `old`, by proof of both keys. Raises as `enroll`."""
    message = pae(ROTATE_TYPE, statement)
    request = pb.RotateRequest(
        statement=statement,
        signature=old.sign(message),
        new_signature=new.sign(message),
        activation=activation,
    )
    async with channel.open_server_tls(endpoint, authority_pem, proxy) as opened:
        try:
            reply = await rpc.EnrollmentStub(opened).Rotate(request, timeout=_TIMEOUT_S)
        except aio.AioRpcError as error:
            raise channel.explain(error, endpoint) from error
    return _certificates(reply)


def _binding(tpm: TpmBinding | None) -> pb.TpmBinding | None:
    if tpm is None:
        return None
    return pb.TpmBinding(
        ek_certificates=tpm.ek_certificates,
        ak_public=tpm.ak_public,
        key_public=tpm.key_public,
        certify_attest=tpm.certify_attest,
        certify_signature=tpm.certify_signature,
    )


def _certificates(reply: pb.Certificates) -> Certificates:
    return Certificates(
        host_id=reply.host_id,
        incarnation=reply.incarnation,
        previous_head_hash=reply.previous_head_hash,
        chain_pem=reply.certificate_chain_pem,
        authority_pem=reply.authority_pem,
        attestation_endpoint=reply.attestation_endpoint,
        schema_max=reply.schema_max,
    )
