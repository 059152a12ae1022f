"""How the spool's file holds windows, gap records and identities: exact bytes, in MessagePack."""

from __future__ import annotations

import msgspec

from assay_agent.window import Identity
from assay_core.leaves import Reason, Value
from assay_core.seal import Envelope, Sealed, Signature


class _EnvelopeData(msgspec.Struct, frozen=True, array_like=True):
    payload: bytes
    payload_type: str
    signatures: list[tuple[bytes, str]]


class _WindowData(msgspec.Struct, frozen=True, array_like=True):
    envelope: _EnvelopeData
    leaves: list[bytes]


class _Absent(msgspec.Struct, frozen=True):
    reason: int


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


def pack_identity(identity: Identity) -> bytes:
    """The identity a GPU was last sealed with, as JSON."""
    values = {
        name: _Absent(int(value)) if isinstance(value, Reason) else value
        for name, value in identity.items()
    }
    return msgspec.json.encode(values)


def unpack_identity(data: bytes) -> Identity:
    """What `pack_identity` made."""
    values = msgspec.json.decode(data, type=dict[str, int | str | _Absent])
    found: dict[str, Value] = {
        name: Reason(value.reason) if isinstance(value, _Absent) else value
        for name, value in values.items()
    }
    return found
