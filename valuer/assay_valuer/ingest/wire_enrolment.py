"""Between the enrolment service's messages and the valuer's types; as strict as wire."""

from __future__ import annotations

from typing import Final

from assay_core.evidence import tpm
from assay_core.header import SCHEMA
from assay_core.seal import PublicKey
from assay_proto.v1 import enrollment_pb2 as pb
from assay_valuer.denial import Denial, Denied
from assay_valuer.enrolment import (
    AGENT_VERSION_MAX,
    Enrolled,
    EnrollStatement,
    Proof,
    RenewStatement,
    Secrets,
)
from assay_valuer.ingest.wire import strict
from assay_valuer.rotation import RotateStatement, Rotation
from assay_valuer.tpms import Binding

ENROLL_BYTES_MAX: Final = 64 * 1024
"""A statement with a TPM's certificates has up to 50 KiB."""
ENROLLMENT: Final = "assay.v1.Enrollment"
_KEY_BYTES_MAX: Final = 1_024


def parse_enroll(data: bytes) -> tuple[EnrollStatement, Proof, Secrets]:
    """An EnrollRequest's statement, the proof over it, and what was secret. Raises Denied."""
    request = strict(pb.EnrollRequest, data)
    message = None if request is None else strict(pb.EnrollStatement, request.statement)
    if request is None or message is None:
        raise Denied(Denial.MALFORMED, "not an EnrollRequest as its schema writes it")
    if len(message.agent_version) > AGENT_VERSION_MAX:
        raise Denied(Denial.MALFORMED, "agent_version is too long")
    statement = EnrollStatement(
        token_id=message.token_id,
        tls_csr=message.tls_csr,
        sealing_key=_key(message.sealing_algorithm, message.sealing_public_key),
        agent_version=message.agent_version,
        tpm=_binding(message.tpm) if message.HasField("tpm") else None,
    )
    proof = Proof(request.statement, request.signature)
    return statement, proof, Secrets(request.token_secret, request.activation)


def parse_renew(data: bytes) -> tuple[RenewStatement, Proof]:
    """A RenewRequest's statement and the proof over it. Raises Denied."""
    request = strict(pb.RenewRequest, data)
    message = None if request is None else strict(pb.RenewStatement, request.statement)
    if request is None or message is None:
        raise Denied(Denial.MALFORMED, "not a RenewRequest as its schema writes it")
    statement = RenewStatement(message.host_id, message.incarnation, message.tls_csr)
    return statement, Proof(request.statement, request.signature)


def parse_activate(data: bytes) -> tuple[tuple[bytes, ...], bytes]:
    """An ActivateRequest's certificates of the EK, and the AK. Raises Denied."""
    request = strict(pb.ActivateRequest, data)
    if request is None:
        raise Denied(Denial.MALFORMED, "not an ActivateRequest as its schema writes it")
    return tuple(request.ek_certificates), request.ak_public


def parse_rotate(data: bytes) -> Rotation:
    """A RotateRequest. Raises Denied."""
    request = strict(pb.RotateRequest, data)
    message = None if request is None else strict(pb.RotateStatement, request.statement)
    if request is None or message is None:
        raise Denied(Denial.MALFORMED, "not a RotateRequest as its schema writes it")
    statement = RotateStatement(
        host_id=message.host_id,
        incarnation=message.incarnation,
        sealing_key=_key(message.sealing_algorithm, message.sealing_public_key),
        tpm=_binding(message.tpm) if message.HasField("tpm") else None,
        tls_csr=message.tls_csr,
    )
    proof = Proof(request.statement, request.signature)
    return Rotation(statement, proof, request.new_signature, request.activation)


def certificates(enrolled: Enrolled, authority_pem: bytes, endpoint: str) -> bytes:
    """What an enrolled host is told."""
    return pb.Certificates(
        host_id=enrolled.host_id,
        incarnation=enrolled.incarnation,
        previous_head_hash=enrolled.first_previous_hash,
        certificate_chain_pem=enrolled.certificate.chain_pem,
        authority_pem=authority_pem,
        attestation_endpoint=endpoint,
        schema_max=SCHEMA,
    ).SerializeToString()


def credential(made: tpm.Credential) -> bytes:
    """What only one TPM opens."""
    return pb.Credential(blob=made.blob, secret=made.secret).SerializeToString()


def _key(algorithm: str, data: bytes) -> PublicKey:
    if len(data) > _KEY_BYTES_MAX:
        raise Denied(Denial.MALFORMED, "sealing_public_key is too long")
    return PublicKey(algorithm, data)


def _binding(message: pb.TpmBinding) -> Binding:
    return Binding(
        ek_certificates=tuple(message.ek_certificates),
        ak_public=message.ak_public,
        key_public=message.key_public,
        certify_attest=message.certify_attest,
        certify_signature=message.certify_signature,
    )
