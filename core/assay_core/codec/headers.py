"""Headers and gap records: what is signed, to bytes and back."""

from __future__ import annotations

from assay_core.codec.strict import (
    TEXT_BYTES_MAX,
    check_times,
    enumerated,
    expect,
    strict,
)
from assay_core.header import CloseReason, GapCause, GapRecord, Header, Period, Source
from assay_core.merkle import HASH_BYTES
from assay_proto.v1 import window_pb2 as pb


def encode_header(header: Header) -> bytes:
    """The header's bytes; what is signed and what the next header hashes."""
    period = header.period
    return pb.Header(
        schema=header.schema,
        host_id=header.host_id,
        incarnation=header.incarnation,
        boot_id=header.boot_id,
        sequence=header.sequence,
        previous_header_hash=header.previous_header_hash,
        begin_utc_ms=period.begin_utc_ms,
        end_utc_ms=period.end_utc_ms,
        begin_boottime_ms=period.begin_boottime_ms,
        end_boottime_ms=period.end_boottime_ms,
        source=pb.Source.ValueType(header.source),
        close_reason=pb.CloseReason.ValueType(header.close_reason),
        agent_version=header.agent_version,
        answered_challenge=header.answered_challenge,
        witnessed_log_root=header.witnessed_log_root,
        witnessed_log_size=header.witnessed_log_size,
        leaf_count=header.leaf_count,
        merkle_root=header.merkle_root,
    ).SerializeToString(deterministic=True)


def decode_header(data: bytes) -> Header:
    """The header in `data`. Raises Malformed."""
    message = strict(pb.Header, data)
    expect(len(message.boot_id) == 16, "boot_id is not 16 bytes")
    expect(len(message.merkle_root) == HASH_BYTES, "merkle_root is not 32 bytes")
    for name in ("previous_header_hash", "answered_challenge", "witnessed_log_root"):
        expect(len(getattr(message, name)) in (0, HASH_BYTES), f"{name} is not 32 bytes")
    expect(0 < len(message.agent_version) <= TEXT_BYTES_MAX, "agent_version is missing")
    expect(message.leaf_count >= 1, "leaf_count is 0")
    period = Period(
        message.begin_utc_ms,
        message.end_utc_ms,
        message.begin_boottime_ms,
        message.end_boottime_ms,
    )
    check_times(period.begin_utc_ms, period.end_utc_ms)
    expect(period.begin_boottime_ms <= period.end_boottime_ms, "the period ends before it begins")
    return Header(
        schema=message.schema,
        host_id=message.host_id,
        incarnation=message.incarnation,
        boot_id=message.boot_id,
        sequence=message.sequence,
        previous_header_hash=message.previous_header_hash,
        period=period,
        source=enumerated(Source, message.source, "source"),
        close_reason=enumerated(CloseReason, message.close_reason, "close_reason"),
        agent_version=message.agent_version,
        answered_challenge=message.answered_challenge,
        witnessed_log_root=message.witnessed_log_root,
        witnessed_log_size=message.witnessed_log_size,
        leaf_count=message.leaf_count,
        merkle_root=message.merkle_root,
    )


def encode_gap(gap: GapRecord) -> bytes:
    """The gap record's bytes; what is signed."""
    return pb.GapRecord(
        schema=gap.schema,
        host_id=gap.host_id,
        incarnation=gap.incarnation,
        boot_id=gap.boot_id,
        first_sequence=gap.first_sequence,
        last_sequence=gap.last_sequence,
        previous_header_hash=gap.previous_header_hash,
        last_dropped_hash=gap.last_dropped_hash,
        begin_utc_ms=gap.begin_utc_ms,
        end_utc_ms=gap.end_utc_ms,
        cause=pb.GapCause.ValueType(gap.cause),
    ).SerializeToString(deterministic=True)


def decode_gap(data: bytes) -> GapRecord:
    """The gap record in `data`. Raises Malformed."""
    message = strict(pb.GapRecord, data)
    expect(len(message.boot_id) == 16, "boot_id is not 16 bytes")
    expect(len(message.last_dropped_hash) == HASH_BYTES, "last_dropped_hash is not 32 bytes")
    expect(
        len(message.previous_header_hash) in (0, HASH_BYTES),
        "previous_header_hash is not 32 bytes",
    )
    expect(message.first_sequence <= message.last_sequence, "the gap ends before it begins")
    check_times(message.begin_utc_ms, message.end_utc_ms)
    return GapRecord(
        schema=message.schema,
        host_id=message.host_id,
        incarnation=message.incarnation,
        boot_id=message.boot_id,
        first_sequence=message.first_sequence,
        last_sequence=message.last_sequence,
        previous_header_hash=message.previous_header_hash,
        last_dropped_hash=message.last_dropped_hash,
        begin_utc_ms=message.begin_utc_ms,
        end_utc_ms=message.end_utc_ms,
        cause=enumerated(GapCause, message.cause, "cause"),
    )
