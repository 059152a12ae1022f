"""Between the messages of a stream and the valuer's types; enrolment's are in wire_enrolment.

Parsing is strict, as the codec's is: bytes that the schema's own writer would not have made
(unknown, duplicate or reordered fields, truncation) are refused and not guessed at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from assay_core.errors import Refusal, Refused
from assay_core.evidence.bundle import Asked
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import SCHEMA, Head
from assay_core.seal import Envelope, Sealed, Signature
from assay_core.verify import WINDOW_BYTES_MAX
from assay_proto.v1 import attestation_pb2 as pb
from assay_valuer.enrolment import AGENT_VERSION_MAX

MESSAGE_BYTES_MAX: Final = WINDOW_BYTES_MAX + 64 * 1024
"""Largest message an agent may send; what is larger is refused by name."""
TRANSPORT_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest that the transport reads at all."""
DETAIL_MAX: Final = 500
ATTESTATION: Final = "assay.v1.Attestation"

_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Hello:
    """What an agent says first; see Hello in attestation.proto."""

    schema_max: int
    agent_version: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """An asset event that the host's operator proposes, signed by its sealing key."""

    envelope: Envelope


AgentMessage = Hello | Sealed | Envelope | SealedEvidence | Proposal
"""What an agent sends; an Envelope by itself is a sealed gap record."""


def parse_agent_message(data: bytes) -> AgentMessage:
    """What an agent sent. Raises Refused."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise Refused(Refusal.TOO_LARGE, f"{len(data)} bytes; at most {MESSAGE_BYTES_MAX}")
    message = strict(pb.AgentMessage, data)
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
    if case == "evidence":
        evidence = message.evidence
        return SealedEvidence(_envelope(evidence.envelope), tuple(evidence.blobs))
    if case == "proposal":
        return Proposal(_envelope(message.proposal))
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


def evidence_challenge(asked: Asked) -> bytes:
    """What the host's hardware must prove, by when."""
    return pb.ValuerMessage(
        evidence_challenge=pb.EvidenceChallenge(
            nonce=asked.nonce,
            deadline_ms=asked.deadline_ms,
            pcrs=asked.pcrs,
            devices=asked.devices,
        )
    ).SerializeToString()


def evidence_outcome(nonce: bytes, outcome: str, detail: str, position: int = 0) -> bytes:
    """What became of an answer."""
    return pb.ValuerMessage(
        evidence_outcome=pb.EvidenceOutcome(
            nonce=nonce, outcome=outcome, detail=detail[:DETAIL_MAX], position=position
        )
    ).SerializeToString()


def proposal_answer(payload_sha256: bytes, detail: str, *, kept: bool) -> bytes:
    """What became of a proposal."""
    return pb.ValuerMessage(
        proposal_answer=pb.ProposalAnswer(
            payload_sha256=payload_sha256, kept=kept, detail=detail[:DETAIL_MAX]
        )
    ).SerializeToString()


def hint(window_ms: int) -> bytes:
    """A wished length of window."""
    return pb.ValuerMessage(hint=pb.Hint(window_ms=window_ms)).SerializeToString()


def _envelope(message: pb.Envelope) -> Envelope:
    return Envelope(
        message.payload,
        message.payload_type,
        tuple(Signature(item.sig, item.keyid) for item in message.signatures),
    )


def strict(type_: type[_M], data: bytes) -> _M | None:
    """The message, or None for bytes that the schema's own writer would not have made."""
    message = type_()
    try:
        message.ParseFromString(data)
    except DecodeError:
        return None
    message.DiscardUnknownFields()
    return message if message.SerializeToString(deterministic=True) == data else None
