"""A TPM 2.0 in software, of the parts that a valuer judges: keys, certificates, quotes, credentials.

Written from TCG's library, revision 1.59 (part 1 §11.4.10, §24; part 2 §10 to §13), and not from the
product's reading of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from assay_core.seal import PublicKey
from tests.fakes.endorsing import Maker

AK_ATTRIBUTES = (
    0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign, restricted
)
SIGNING_ATTRIBUTES = 0x00040072  # the same, unrestricted
PCRS = 24


def u16(number: int) -> bytes:
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    return number.to_bytes(4, "big")


def sized(data: bytes) -> bytes:
    return u16(len(data)) + data


@dataclass
class TpmKey:
    """A P-256 signing key with its public area."""

    attributes: int
    private: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )

    @property
    def area(self) -> bytes:
        point = self.private.public_key().public_numbers()
        parameters = u16(0x10) + u16(0x18) + u16(0x0B) + u16(3) + u16(0x10)  # ECDSA, SHA-256, P-256
        unique = sized(point.x.to_bytes(32, "big")) + sized(point.y.to_bytes(32, "big"))
        return u16(0x23) + u16(0x0B) + u32(self.attributes) + sized(b"") + parameters + unique

    @property
    def public(self) -> bytes:
        """TPM2B_PUBLIC."""
        return sized(self.area)

    @property
    def name(self) -> bytes:
        return u16(0x0B) + hashlib.sha256(self.area).digest()

    def raw(self, message: bytes) -> tuple[bytes, bytes]:
        signature = self.private.sign(message, ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(signature)
        return r.to_bytes(32, "big"), s.to_bytes(32, "big")


class TpmSigner:
    """Seals with a key that lives in the TPM."""

    def __init__(self, key: TpmKey) -> None:
        self.key = key
        point = key.private.public_key().public_numbers()
        data = b"\x04" + point.x.to_bytes(32, "big") + point.y.to_bytes(32, "big")
        self._public = PublicKey("ecdsa-p256", data)

    @property
    def public_key(self) -> PublicKey:
        return self._public

    def sign(self, message: bytes) -> bytes:
        return b"".join(self.key.raw(message))


@dataclass
class FakeTpm:
    """One chip, endorsed by `maker`; it counts the milliseconds and resets that it is told."""

    maker: Maker
    ak_attributes: int = AK_ATTRIBUTES
    clock_ms: int = 1_000_000
    resets: int = 3
    pcrs: dict[int, bytes] = field(
        default_factory=lambda: {n: hashlib.sha256(bytes([n])).digest() for n in range(PCRS)}
    )

    def __post_init__(self) -> None:
        self.ek = rsa.generate_private_key(65_537, 2048)
        self.certificates = self.maker.endorse(self.ek)
        self.ak = TpmKey(self.ak_attributes)

    def signing_key(self, attributes: int = SIGNING_ATTRIBUTES) -> TpmKey:
        return TpmKey(attributes)

    def open(self, blob: bytes, secret: bytes) -> bytes:
        """TPM2_ActivateCredential; raises where the TPM would refuse."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        seed = self.ek.decrypt(secret[2:], oaep)
        inside = blob[2:]
        size = int.from_bytes(inside[:2], "big")
        mac, identity = inside[2 : 2 + size], inside[2 + size :]
        key = _kdfa(seed, b"INTEGRITY", b"", 256)
        if hmac.new(key, identity + self.ak.name, hashlib.sha256).digest() != mac:
            raise ValueError("TPM_RC_INTEGRITY")
        cipher = Cipher(algorithms.AES(_kdfa(seed, b"STORAGE", self.ak.name, 128)), CFB(bytes(16)))
        decryptor = cipher.decryptor()
        plain = decryptor.update(identity) + decryptor.finalize()
        return plain[2 : 2 + int.from_bytes(plain[:2], "big")]

    def certify(self, key: TpmKey, *, by: TpmKey | None = None) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE: `key` lives in this TPM."""
        attested = sized(key.name) + sized(key.name)  # the qualified name is not looked at
        return self._attest(0x8017, b"", attested, by or self.ak)

    def quote(
        self, extra: bytes, pcrs: tuple[int, ...], *, by: TpmKey | None = None
    ) -> tuple[bytes, bytes]:
        """TPMS_ATTEST and TPMT_SIGNATURE over the SHA-256 bank's `pcrs`."""
        bits = sum(1 << number for number in pcrs)
        selection = u32(1) + u16(0x0B) + b"\x03" + bits.to_bytes(3, "little")
        digest = hashlib.sha256(b"".join(self.pcrs[number] for number in sorted(pcrs))).digest()
        return self._attest(0x8018, extra, selection + sized(digest), by or self.ak)

    def values(self, pcrs: tuple[int, ...]) -> Mapping[int, bytes]:
        return {number: self.pcrs[number] for number in pcrs}

    def _attest(self, kind: int, extra: bytes, attested: bytes, by: TpmKey) -> tuple[bytes, bytes]:
        self.clock_ms += 1_000
        clock = self.clock_ms.to_bytes(8, "big") + u32(self.resets) + u32(0) + b"\x01"
        said = u32(0xFF544347) + u16(kind) + sized(by.name) + sized(extra) + clock
        said += (0x0001_0002_0003_0004).to_bytes(8, "big") + attested
        r, s = by.raw(said)
        return said, u16(0x18) + u16(0x0B) + sized(r) + sized(s)


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    text = u32(1) + label + b"\0" + context + u32(bits)
    return hmac.new(key, text, hashlib.sha256).digest()[: bits // 8]
