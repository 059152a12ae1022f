"""The two calls by which a host gets its certificates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from grpc import aio

from assay_agent import VERSION
from assay_agent.uplink import channel
from assay_core.seal import ENROLL_TYPE, RENEW_TYPE, Signer, pae
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


def enroll_statement(token_id: str, tls_csr: bytes, signer: Signer) -> bytes:
    """The exact bytes of a new enrolment statement."""
    return pb.EnrollStatement(
        token_id=token_id,
        tls_csr=tls_csr,
        sealing_algorithm=signer.public_key.algorithm,
        sealing_public_key=signer.public_key.data,
        agent_version=VERSION,
    ).SerializeToString(deterministic=True)


async def enroll(
    endpoint: str,
    authority_pem: bytes,
    proxy: str | None,
    *,
    statement: bytes,
    token_secret: bytes,
    signer: Signer,
) -> Certificates:
    """Sends the statement with proof of the sealing key. Raises HostError or ServiceError."""
    request = pb.EnrollRequest(
        statement=statement,
        signature=signer.sign(pae(ENROLL_TYPE, statement)),
        token_secret=token_secret,
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
