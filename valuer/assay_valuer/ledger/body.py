"""What an entry's body holds: a signed envelope's exact bytes, and what was noted at its receipt.

Format 1: one byte 1, three bytes n (big-endian), n random bytes, and a Zstandard frame of this
MessagePack array:

    [payload, offsets, payload_type, [[size, keyid], ...], leaves, cuts, observed_ms, clock_behind]

What looks random would only be in the compressor's way, so it stands before the frame, as it is, in
this order: 32 bytes for each of `offsets`, to be put back into the payload there, from the first;
for each signature its `size` bytes and, where its keyid is null here, the 32 bytes that it is the
lower-case hexadecimal of; the subjects, 16 bytes each; the salts, 16 bytes each. `cuts` has
a byte for each leaf: 0, it is whole; 1, its salt is cut out; k + 2, so are salt and subject, and the
subject is number k. A window's leaves are in tree order; observed_ms is null but for windows.

The frame is compressed with the dictionary beside this file (trained by
scripts/train_dictionary.py), which is as much part of the format as this text: once released it may
never change, a better one makes a format 2.
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

LEVEL: Final = 5
"""Of Zstandard: 4% smaller than its default, for 10 us a window."""
_DICTIONARY_SHA256: Final = "f9125ab6da1256dcd1b008f2a962a85c8804a5d2e8af75ec6ccb7c7a60c9cf39"


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
    dictionary.precompute_compress(level=LEVEL)
    return dictionary


class _Codecs(threading.local):
    """Zstandard contexts are for one thread at a time."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=_DICTIONARY, write_dict_id=False
        )
        self.decompressor = zstandard.ZstdDecompressor(dict_data=_DICTIONARY)
        self.encoder = msgspec.msgpack.Encoder()


_DICTIONARY: Final = _dictionary()
_CODECS: Final = _Codecs()
_Record = tuple[
    bytes, list[int], str, list[tuple[int, str | None]], list[bytes], bytes, int | None, bool
]
_DECODER: Final = msgspec.msgpack.Decoder(_Record)
_HASH: Final = 32
_SALT_HEAD: Final = b"\x0a\x10"
"""Tag and length before a leaf's salt, 16 bytes; the subject's follow at once."""
_SUBJECT_HEAD: Final = b"\x12\x10"
_PREVIOUS_HEAD: Final = b"\x32\x20"
"""Tag and length before a header's hash of the one before."""
_SUBJECTS_MAX: Final = 250


def plain(body: Body) -> tuple[bytes, bytes]:
    """The random bytes and the array, as the format has them, before compression."""
    envelope = body.envelope
    salts: list[bytes] = []
    subjects: dict[bytes, int] = {}
    rests: list[bytes] = []
    cuts = bytearray()
    for leaf in body.leaves:
        if leaf[:2] != _SALT_HEAD or len(leaf) < 18:
            cuts.append(0)
            rests.append(leaf)
            continue
        salts.append(leaf[2:18])
        if leaf[18:20] == _SUBJECT_HEAD and len(leaf) >= 36 and len(subjects) < _SUBJECTS_MAX:
            cuts.append(subjects.setdefault(leaf[20:36], len(subjects)) + 2)
            rests.append(leaf[36:])
        else:
            cuts.append(1)
            rests.append(leaf[18:])
    payload, offsets, hashes = _without_hashes(envelope.payload, windows=bool(body.leaves))
    signed: list[bytes] = []
    signatures: list[tuple[int, str | None]] = []
    for one in envelope.signatures:
        key = _key(one.keyid)
        signed += (one.sig, key)
        signatures.append((len(one.sig), None if key else one.keyid))
    random = b"".join([*hashes, *signed, *subjects, *salts])
    array = _CODECS.encoder.encode(
        (
            payload,
            offsets,
            envelope.payload_type,
            signatures,
            rests,
            bytes(cuts),
            body.observed_ms,
            body.clock_behind,
        )
    )
    return random, array


def encode(body: Body) -> bytes:
    """The body as it is stored."""
    random, array = plain(body)
    return b"\x01" + len(random).to_bytes(3, "big") + random + _CODECS.compressor.compress(array)


def decode(data: bytes) -> Body:
    """The body that `encode` stored. Raises BodyError."""
    if data[:1] != bytes([FORMAT]):
        raise BodyError(f"a stored body has format {data[:1].hex()}; this version reads {FORMAT}")
    frame_at = 4 + int.from_bytes(data[1:4], "big")
    random = _Random(data[4:frame_at])
    try:
        array = _CODECS.decompressor.decompress(data[frame_at:], max_output_size=BODY_BYTES_MAX)
        payload, offsets, kind, sizes, rests, cuts, observed_ms, behind = _DECODER.decode(array)
    except (zstandard.ZstdError, msgspec.DecodeError) as error:
        raise BodyError(f"a stored body is damaged: {error}; restore a backup") from error
    for offset in offsets:
        payload = payload[:offset] + random.take(_HASH) + payload[offset:]
    signatures = tuple(
        Signature(random.take(size), random.take(_HASH).hex() if keyid is None else keyid)
        for size, keyid in sizes
    )
    subjects = [random.take(16) for _ in range(max((*cuts, 1)) - 1)]
    if len(cuts) != len(rests):
        raise BodyError("a stored body is damaged: leaves are missing; restore a backup")
    leaves: list[bytes] = []
    for cut, rest in zip(cuts, rests, strict=True):
        if cut == 0:
            leaves.append(rest)
            continue
        subject = _SUBJECT_HEAD + subjects[cut - 2] if cut > 1 else b""
        leaves.append(b"".join((_SALT_HEAD, random.take(16), subject, rest)))
    random.end()
    return Body(Envelope(payload, kind, signatures), tuple(leaves), observed_ms, behind)


def _key(keyid: str) -> bytes:
    """The 32 bytes that a key id is the hexadecimal of; empty where it is something else."""
    if len(keyid) != 2 * _HASH:
        return b""
    try:
        key = bytes.fromhex(keyid)
    except ValueError:
        return b""
    return key if key.hex() == keyid else b""


class _Random:
    """The random bytes, taken from the first on."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        """The next bytes. Raises BodyError."""
        begin, self._at = self._at, self._at + size
        if size < 0 or self._at > len(self._data):
            raise BodyError("a stored body is damaged: it is cut off; restore a backup")
        return self._data[begin : self._at]

    def end(self) -> None:
        """Raises BodyError unless all were taken."""
        if self._at != len(self._data):
            raise BodyError("a stored body is damaged: it has more than it says; restore a backup")


def _without_hashes(payload: bytes, *, windows: bool) -> tuple[bytes, list[int], list[bytes]]:
    """A window's header without the hash of the one before and the root at its end.

    Where each is to be put back, in this order, follows, and what they are.
    """
    offsets: list[int] = []
    hashes: list[bytes] = []
    if not windows or len(payload) < 2 * _HASH:
        return payload, offsets, hashes
    found = payload.find(_PREVIOUS_HEAD) + len(_PREVIOUS_HEAD)
    rest, root = payload[:-_HASH], payload[-_HASH:]
    if found >= len(_PREVIOUS_HEAD) and found + _HASH <= len(rest):
        offsets.append(found)
        hashes.append(rest[found : found + _HASH])
        rest = rest[:found] + rest[found + _HASH :]
    return rest, [*offsets, len(rest) + _HASH * len(offsets)], [*hashes, root]
