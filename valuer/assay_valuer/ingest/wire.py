"""Between the services' messages and the valuer's types.

Parsing is strict, as the codec's is: bytes that the schema's own writer would not have made
(unknown, duplicate or reordered fields, truncation) are refused and not guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from assay_core.errors import Refusal, Refused
from assay_core.header import SCHEMA, Head
from assay_core.seal import Envelope, PublicKey, Sealed, Signature
from assay_core.verify import WINDOW_BYTES_MAX
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import enrollment_pb2 as enroll_pb
from assay_valuer.enrolment import (
    AGENT_VERSION_MAX,
    Denial,
    Denied,
    Enrolled,
    EnrollStatement,
    Proof,
    RenewStatement,
)

MESSAGE_BYTES_MAX: Final = WINDOW_BYTES_MAX + 64 * 1024
"""Largest message an agent may send; what is larger is refused by name."""
TRANSPORT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest that the transport reads at all."""
ENROLL_BYTES_MAX: Final = 16 * 1024
DETAIL_MAX: Final = 500
ENROLLMENT: Final = "assay.v1.Enrollment"
ATTESTATION: Final = "assay.v1.Attestation"

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says first; see Hello in attestation.proto."""

    schema_max: int
    agent_version: str
    incarnation: int


def parse_agent_message(data: bytes) -> Hello | Sealed | Envelope:
    """What an agent sent: its Hello, a sealed window, or a sealed gap record. Raises Refused."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"{len(data)} bytes; at most {MESSAGE_BYTES_MAX}")
    message = _strict(pb.AgentMessage, data)
    if message is None:
        raise Refused(
            Refusal.MALFORMED_ENVELOPE,
            "not an AgentMessage as its schema writes it: truncated, or unknown or duplicate fields",
        )
    case = message.WhichOneof("message")
    if case == "window":
        return Sealed(_envelope(message.window.envelope), tuple(message.window.leaves))
    if case == "gap":
        return _envelope(message.gap)
    if case == "hello":
        hello = message.hello
        return Hello(hello.schema_max, hello.agent_version[:AGENT_VERSION_MAX], hello.incarnation)
    raise Refused(Refusal.MALFORMED_ENVELOPE, "an empty message")


def welcome(head: Head | None, *, in_flight_max: int, now_ms: int) -> bytes:
    """The answer to Hello."""
    return pb.ValuerMessage(
        welcome=pb.Welcome(
            schema_max=SCHEMA,
            has_head=head is not None,
            head_sequence=0 if head is None else head.sequence,
            head_hash=b"" if head is None else head.hash,
            in_flight_max=in_flight_max,
            message_max_bytes=MESSAGE_BYTES_MAX,
            now_ms=now_ms,
        )
    ).SerializeToString()


def acknowledgements(pairs: Iterable[tuple[int, int]]) -> bytes:
    """Sequences and the ledger positions that they are durable at."""
    message = pb.ValuerMessage()
    add = message.acknowledgements.acknowledgements.add
    for sequence, position in pairs:
        add(sequence=sequence, position=position)
    return message.SerializeToString()


def refusal(refused: Refused, retry_after_ms: int) -> bytes:
    """Why something was not stored."""
    return pb.ValuerMessage(
        refusal=pb.Refusal(
            sequence=refused.sequence or 0,
            reason=refused.reason.value,
            detail=refused.detail[:DETAIL_MAX],
            retry_after_ms=retry_after_ms,
        )
    ).SerializeToString()


def challenge(nonce: bytes, deadline_ms: int) -> bytes:
    """A nonce to answer."""
    return pb.ValuerMessage(
        challenge=pb.Challenge(nonce=nonce, deadline_ms=deadline_ms)
    ).SerializeToString()


def hint(window_ms: int) -> bytes:
    """A wished length of window."""
    return pb.ValuerMessage(hint=pb.Hint(window_ms=window_ms)).SerializeToString()


def parse_enroll(data: bytes) -> tuple[EnrollStatement, Proof, bytes]:
    """An EnrollRequest's statement, the proof over it, and the token's secret. Raises Denied."""
    request = _strict(enroll_pb.EnrollRequest, data)
    message = None if request is None else _strict(enroll_pb.EnrollStatement, request.statement)
    if request is None or message is None:
        raise Denied(Denial.MALFORMED, "not an EnrollRequest as its schema writes it")
    if len(message.agent_version) > AGENT_VERSION_MAX or len(message.sealing_public_key) > 1024:
        raise Denied(Denial.MALFORMED, "agent_version or sealing_public_key is too long")
    statement = EnrollStatement(
        token_id=message.token_id,
        tls_csr=message.tls_csr,
        sealing_key=PublicKey(message.sealing_algorithm, message.sealing_public_key),
        agent_version=message.agent_version,
    )
    return statement, Proof(request.statement, request.signature), request.token_secret


def parse_renew(data: bytes) -> tuple[RenewStatement, Proof]:
    """A RenewRequest's statement and the proof over it. Raises Denied."""
    request = _strict(enroll_pb.RenewRequest, data)
    message = None if request is None else _strict(enroll_pb.RenewStatement, request.statement)
    if request is None or message is None:
        raise Denied(Denial.MALFORMED, "not a RenewRequest as its schema writes it")
    statement = RenewStatement(message.host_id, message.incarnation, message.tls_csr)
    return statement, Proof(request.statement, request.signature)


def certificates(enrolled: Enrolled, authority_pem: bytes, endpoint: str) -> bytes:
    """What an enrolled host is told."""
    return enroll_pb.Certificates(
        host_id=enrolled.host_id,
        incarnation=enrolled.incarnation,
        previous_head_hash=enrolled.first_previous_hash,
        certificate_chain_pem=enrolled.certificate.chain_pem,
        authority_pem=authority_pem,
        attestation_endpoint=endpoint,
        schema_max=SCHEMA,
    ).SerializeToString()


def _envelope(message: pb.Envelope) -> Envelope:
    return Envelope(
        message.payload,
        message.payload_type,
        tuple(Signature(item.sig, item.keyid) for item in message.signatures),
    )


def _strict(type_: type[_M], data: bytes) -> _M | None:
    """The message, or None for bytes that the schema's own writer would not have made."""
    message = type_()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    message.DiscardUnknownFields()
    return message if message.SerializeToString(deterministic=True) == data else None
