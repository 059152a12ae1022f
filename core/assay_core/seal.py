"""Sealing: a header over leaves, signed as a DSSE envelope over the header's exact bytes.

DSSE protocol v1: github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from assay_core import codec, merkle
from assay_core.header import CloseReason, GapRecord, Header, Period, Source, header_hash
from assay_core.leaves import SALT_BYTES, Content, Leaf

WINDOW_TYPE: Final = "application/vnd.assay.window.v1+protobuf"
GAP_TYPE: Final = "application/vnd.assay.gap.v1+protobuf"
ENROLL_TYPE: Final = "application/vnd.assay.enroll.v1+protobuf"
RENEW_TYPE: Final = "application/vnd.assay.renew.v1+protobuf"
ROTATE_TYPE: Final = "application/vnd.assay.rotate.v1+protobuf"
EVIDENCE_TYPE: Final = "application/vnd.assay.evidence.v1+protobuf"
ENTRY_TYPE: Final = "application/vnd.assay.entry.v1+json"
ASSET_EVENT_TYPE: Final = "application/vnd.assay.asset-event.v1+json"
ASSET_DECISION_TYPE: Final = "application/vnd.assay.asset-decision.v1+json"
"""A party's word that an asset event is refused or withdrawn."""
COVENANT_TYPE: Final = "application/vnd.assay.covenant.v1+json"
APPRAISAL_TYPE: Final = "application/vnd.assay.appraisal.v1+json"

ED25519: Final = "ed25519"
ECDSA_P256: Final = "ecdsa-p256"
"""A TPM's key: TPMs know no Ed25519."""
ALGORITHMS: Final = (ED25519, ECDSA_P256)
P256_SIGNATURE_BYTES: Final = 64
SECRET_BYTES: Final = 32
_P256_POINT_BYTES: Final = 65

_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(encoded)
    for encoded in (
        "00" * 31,
        "01" + "00" * 30,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03",
        *(first + "ff" * 30 for first in ("ec", "ed", "ee")),
    )
)
"""Ed25519 points of order 1 to 8, in every encoding, less the last byte, which has the sign: no
secret goes with them, and anybody can sign for them. Whoever enrols one could disown it all."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A verification key as enrolled: the algorithm belongs to the key, never to a message.

    `algorithm` is "ed25519" and `data` the 32 bytes of RFC 8032; or "ecdsa-p256" (SHA-256), `data`
    the 65 bytes of the uncompressed point (SEC 1 §2.3.3) and a signature r || s, 64 bytes.
    """

    algorithm: str
    data: bytes

    @property
    def fingerprint(self) -> str:
        """SHA-256 over algorithm and key, hex: the key's name in logs, files and keyid."""
        return hashlib.sha256(self.algorithm.encode() + b"\x00" + self.data).hexdigest()

    def verifies(self, signature: bytes, payload_type: str, payload: bytes) -> bool:
        """Whether `signature` is this key's over the payload, and could be nobody else's."""
        try:
            if self.algorithm == ED25519:
                return self._verify_ed25519(signature, pae(payload_type, payload))
            if self.algorithm == ECDSA_P256:
                return self._verify_p256(signature, pae(payload_type, payload))
        except (InvalidSignature, ValueError):
            return False
        return False

    def _verify_ed25519(self, signature: bytes, message: bytes) -> bool:
        if self.data[:-1] in _SMALL_ORDER:
            return False
        Ed25519PublicKey.from_public_bytes(self.data).verify(signature, message)
        return True

    def _verify_p256(self, signature: bytes, message: bytes) -> bool:
        if len(signature) != P256_SIGNATURE_BYTES or len(self.data) != _P256_POINT_BYTES:
            return False
        half = P256_SIGNATURE_BYTES // 2
        r, s = (int.from_bytes(part, "big") for part in (signature[:half], signature[half:]))
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.data)
        key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        return True


class Signer(Protocol):
    """Whoever holds a sealing key: a file, a credential, a TPM."""

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` makes."""
        ...

    def sign(self, message: bytes) -> bytes:
        """The signature over `message`."""
        ...


class Ed25519Signer:
    """A signer that holds an Ed25519 key (RFC 8032) in memory."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self._public = PublicKey(ED25519, key.public_key().public_bytes_raw())

    @property
    def public_key(self) -> PublicKey:
        """The key that verifies what `sign` makes."""
        return self._public

    def sign(self, message: bytes) -> bytes:
        """64 bytes, R || S."""
        return self._key.sign(message)


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature and the hint which key made it; the hint is not authenticated."""

    sig: bytes
    keyid: str


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope: exact bytes, their type, and signatures over both."""

    payload: bytes
    payload_type: str
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed window as it travels: the signed header and the leaves' exact bytes."""

    envelope: Envelope
    leaves: tuple[bytes, ...]

    @property
    def hash(self) -> bytes:
        """The header's hash, by which the next header names it."""
        return header_hash(self.envelope.payload)


@dataclass(frozen=True, slots=True)
class Link:
    """Where a window stands: its host's identity and its place in the chain."""

    host_id: str
    incarnation: int
    boot_id: bytes
    sequence: int
    previous_header_hash: bytes
    answered_challenge: bytes = b""
    witnessed_log_root: bytes = b""
    witnessed_log_size: int = 0


def pae(payload_type: str, payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding: what is signed."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(payload_type: str, payload: bytes, signer: Signer) -> Envelope:
    """The payload in an envelope with one signature."""
    signature = Signature(signer.sign(pae(payload_type, payload)), signer.public_key.fingerprint)
    return Envelope(payload, payload_type, (signature,))


def salt(secret: bytes, index: int) -> bytes:
    """The salt of leaf `index`: HMAC-SHA-256(secret, index as 4 bytes big-endian), cut to 16.

    128 bits, as RFC 9901 section 9.3 asks of salts; cutting an HMAC is RFC 2104 section 5.
    """
    return hmac.digest(secret, index.to_bytes(4, "big"), "sha256")[:SALT_BYTES]


def seal_window(
    contents: Sequence[Content],
    *,
    link: Link,
    period: Period,
    source: Source,
    close_reason: CloseReason,
    agent_version: str,
    secret: bytes,
    signer: Signer,
) -> Sealed:
    """Seals the contents, in their order, as the window that `link` places.

    `secret` is 32 fresh random bytes; who learns it can guess every undisclosed leaf.
    """
    leaves = tuple(
        codec.encode_leaf(Leaf(salt(secret, index), content))
        for index, content in enumerate(contents)
    )
    header = Header(
        host_id=link.host_id,
        incarnation=link.incarnation,
        boot_id=link.boot_id,
        sequence=link.sequence,
        previous_header_hash=link.previous_header_hash,
        period=period,
        source=source,
        close_reason=close_reason,
        agent_version=agent_version,
        leaf_count=len(leaves),
        merkle_root=merkle.root([merkle.leaf_hash(leaf) for leaf in leaves]),
        answered_challenge=link.answered_challenge,
        witnessed_log_root=link.witnessed_log_root,
        witnessed_log_size=link.witnessed_log_size,
    )
    return Sealed(sign_envelope(WINDOW_TYPE, codec.encode_header(header), signer), leaves)


def seal_gap(gap: GapRecord, signer: Signer) -> Envelope:
    """The gap record, signed."""
    return sign_envelope(GAP_TYPE, codec.encode_gap(gap), signer)
