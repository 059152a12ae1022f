"""How the spool's file holds windows, gap records and what is known of GPUs, in MessagePack."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from assay_agent.known import Energy, Known, Told
from assay_core import health
from assay_core.leaves import Group
from assay_core.seal import Envelope, Sealed, Signature


class _EnvelopeData(msgspec.Struct, frozen=True, array_like=True):
    payload: bytes
    payload_type: str
    signatures: list[tuple[bytes, str]]


class _WindowData(msgspec.Struct, frozen=True, array_like=True):
    envelope: _EnvelopeData
    leaves: list[bytes]


class _KnownData(msgspec.Struct, frozen=True, array_like=True):
    last_seen_ms: int
    energy_mj: tuple[int, int] | None
    health: bytes


def _envelope_data(envelope: Envelope) -> _EnvelopeData:
    signatures = [(item.sig, item.keyid) for item in envelope.signatures]
    return _EnvelopeData(envelope.payload, envelope.payload_type, signatures)


def _envelope(data: _EnvelopeData) -> Envelope:
    signatures = tuple(Signature(sig, keyid) for sig, keyid in data.signatures)
    return Envelope(data.payload, data.payload_type, signatures)


def pack_window(sealed: Sealed) -> bytes:
    """A sealed window, its signed bytes and leaves as they are."""
    data = _WindowData(_envelope_data(sealed.envelope), list(sealed.leaves))
    return msgspec.msgpack.encode(data)


def unpack_window(data: bytes) -> Sealed:
    """What `pack_window` made."""
    window = msgspec.msgpack.decode(data, type=_WindowData)
    return Sealed(_envelope(window.envelope), tuple(window.leaves))


def pack_envelope(envelope: Envelope) -> bytes:
    """A gap record's envelope, its signed bytes as they are."""
    return msgspec.msgpack.encode(_envelope_data(envelope))


def unpack_envelope(data: bytes) -> Envelope:
    """What `pack_envelope` made."""
    return _envelope(msgspec.msgpack.decode(data, type=_EnvelopeData))


def pack_known(known: Known) -> bytes:
    """What is known of a GPU, without what was told of it: that stands in its leaves."""
    energy = known.energy
    data = _KnownData(
        known.last_seen_ms,
        None if energy is None else (energy.total_mj, energy.lifetime_mj),
        health.pack(known.health),
    )
    return msgspec.msgpack.encode(data)


def unpack_known(
    subject: bytes, data: bytes, told: Mapping[Group, Told], *, same_boot: bool
) -> Known:
    """What `pack_known` made, with what was told in this boot."""
    known = msgspec.msgpack.decode(data, type=_KnownData)
    energy = None if known.energy_mj is None else Energy(*known.energy_mj, same_boot=same_boot)
    return Known(subject, known.last_seen_ms, told, energy, health.unpack(known.health))
