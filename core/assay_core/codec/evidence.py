"""Evidence statements: what is signed, to bytes and back."""

from __future__ import annotations

from typing import Final

from assay_core.codec.strict import TEXT_BYTES_MAX, check_times, enumerated, expect, strict
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import (
    CHALLENGE_BYTES,
    DEVICES_MAX,
    SCHEMA,
    Device,
    Quote,
    Statement,
)
from assay_core.header import Source
from assay_core.merkle import HASH_BYTES
from assay_proto.v1 import evidence_pb2 as pb
from assay_proto.v1 import window_pb2

ABSENT_BYTES_MAX: Final = 1_024
PCR_MAX: Final = 23
_TPM_BYTES_MAX: Final = 1_024


def encode_evidence(statement: Statement) -> bytes:
    """The statement's bytes: what is signed."""
    quote = statement.quote
    message = pb.EvidenceStatement(
        schema=statement.schema,
        host_id=statement.host_id,
        incarnation=statement.incarnation,
        challenge=statement.challenge,
        sequence=statement.sequence,
        header_hash=statement.header_hash,
        collected_utc_ms=statement.collected_ms,
        source=window_pb2.Source.ValueType(statement.source),
        devices=[
            pb.DeviceEvidence(
                origin=pb.Origin.ValueType(device.origin),
                report_sha256=device.report_sha256,
                chain_sha256=device.chain_sha256,
            )
            for device in statement.devices
        ],
        devices_absent=statement.devices_absent,
    )
    if quote is not None:
        pcrs = [pb.Pcr(number=number, sha256=quote.pcrs[number]) for number in sorted(quote.pcrs)]
        message.quote.CopyFrom(
            pb.TpmQuote(attest=quote.attest, signature=quote.signature, pcrs=pcrs)
        )
    return message.SerializeToString(deterministic=True)


def decode_evidence(data: bytes) -> Statement:
    """The statement in `data`. Raises Malformed."""
    message = strict(pb.EvidenceStatement, data)
    expect(message.schema == SCHEMA, f"schema {message.schema} is not {SCHEMA}")
    expect(0 < len(message.host_id) <= TEXT_BYTES_MAX, "host_id is missing or too long")
    expect(len(message.challenge) == CHALLENGE_BYTES, "challenge is not 32 bytes")
    expect(len(message.header_hash) == HASH_BYTES, "header_hash is not 32 bytes")
    expect(len(message.devices) <= DEVICES_MAX, f"more than {DEVICES_MAX} devices")
    expect(
        len(message.devices_absent.encode()) <= ABSENT_BYTES_MAX,
        f"devices_absent is over {ABSENT_BYTES_MAX} bytes",
    )
    check_times(message.collected_utc_ms)
    return Statement(
        schema=message.schema,
        host_id=message.host_id,
        incarnation=message.incarnation,
        challenge=message.challenge,
        sequence=message.sequence,
        header_hash=message.header_hash,
        collected_ms=message.collected_utc_ms,
        source=enumerated(Source, message.source, "source"),
        devices=tuple(_device(device) for device in message.devices),
        devices_absent=message.devices_absent,
        quote=_quote(message.quote) if message.HasField("quote") else None,
    )


def _device(message: pb.DeviceEvidence) -> Device:
    for name in ("report_sha256", "chain_sha256"):
        expect(len(getattr(message, name)) == HASH_BYTES, f"{name} is not 32 bytes")
    origin = enumerated(Origin, message.origin, "origin")
    return Device(origin, message.report_sha256, message.chain_sha256)


def _quote(message: pb.TpmQuote) -> Quote:
    for name in ("attest", "signature"):
        expect(0 < len(getattr(message, name)) <= _TPM_BYTES_MAX, f"{name} is missing or too long")
    numbers = [pcr.number for pcr in message.pcrs]
    expect(numbers == sorted(set(numbers)), "PCRs are not ascending, each once")
    expect(all(number <= PCR_MAX for number in numbers), f"a PCR above {PCR_MAX}")
    expect(all(len(pcr.sha256) == HASH_BYTES for pcr in message.pcrs), "a PCR is not 32 bytes")
    return Quote(
        message.attest, message.signature, {pcr.number: pcr.sha256 for pcr in message.pcrs}
    )
