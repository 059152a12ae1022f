"""What an entry's body holds: a signed envelope's exact bytes, and what was noted at its receipt.

Format 1: one byte 1, then a Zstandard frame of this MessagePack array:

    [payload, payload_type, [[sig, keyid], ...], [leaf, ...], observed_ms, clock_behind]

A window's leaves are in tree order; observed_ms is null but for windows. The frame is compressed
with the dictionary beside this file (trained by scripts/train_dictionary.py), which is as much part
of the format as this text: once released it may never change, a better one makes a format 2.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import zstandard

from assay_core.errors import AssayError
from assay_core.seal import Envelope, Sealed, Signature

FORMAT: Final = 1
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
"""Largest body once decompressed; beyond it the store is damaged or hostile."""

_LEVEL: Final = 3
_DICTIONARY_SHA256: Final = "ca0baa9962d4d4512228d2d55fc7d9e2e5e6e1e8a6203fadfc5adac0176a41f1"


class BodyError(AssayError):
    """A stored body cannot be read: the store is damaged. Restore it from a backup."""


@dataclass(frozen=True, slots=True)
class Body:
    """An entry's signed bytes, and what `verify` found when they came."""

    envelope: Envelope
    leaves: tuple[bytes, ...] = ()
    observed_ms: int | None = None
    clock_behind: bool = False

    @property
    def sealed(self) -> Sealed:
        """The window as it came."""
        return Sealed(self.envelope, self.leaves)


def _dictionary() -> zstandard.ZstdCompressionDict:
    data = Path(__file__).with_name("body_v1.zdict").read_bytes()
    if hashlib.sha256(data).hexdigest() != _DICTIONARY_SHA256:
        raise BodyError("ledger/body_v1.zdict is not the file that bodies were written with")
    dictionary = zstandard.ZstdCompressionDict(data)
    dictionary.precompute_compress(level=_LEVEL)
    return dictionary


class _Codecs(threading.local):
    """Zstandard contexts are for one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=_LEVEL, dict_data=_DICTIONARY, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_DICTIONARY)
        self.encoder = msgspec.msgpack.Encoder()


_DICTIONARY: Final = _dictionary()
_CODECS: Final = _Codecs()
_Record = tuple[bytes, str, list[tuple[bytes, str]], list[bytes], int | None, bool]
_DECODER: Final = msgspec.msgpack.Decoder(_Record)


def encode(body: Body) -> bytes:
    """The body as it is stored."""
    envelope = body.envelope
    plain = _CODECS.encoder.encode(
        (
            envelope.payload,
            envelope.payload_type,
            [(signature.sig, signature.keyid) for signature in envelope.signatures],
            body.leaves,
            body.observed_ms,
            body.clock_behind,
        )
    )
    return b"\x01" + _CODECS.compressor.compress(plain)


def decode(data: bytes) -> Body:
    """The body that `encode` stored. Raises BodyError."""
    if data[:1] != bytes([FORMAT]):
        raise BodyError(f"a stored body has format {data[:1].hex()}; this version reads {FORMAT}")
    try:
        plain = _CODECS.decompressor.decompress(data[1:], max_output_size=BODY_BYTES_MAX)
        payload, kind, signatures, leaves, observed_ms, behind = _DECODER.decode(plain)
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise BodyError(f"a stored body is damaged: {error}; restore a backup") from error
    return Body(
        Envelope(payload, kind, tuple(Signature(sig, keyid) for sig, keyid in signatures)),
        tuple(leaves),
        observed_ms,
        behind,
    )
