"""What a TPM 2.0 says, checked without a TSS: keys, their attributes, and what they sign.

Source: TCG's Trusted Platform Module Library, revision 1.59: part 1 §24 (credential protection) and
§11.4.10 (KDFa), part 2 §10 to §13 (structures). All integers are big-endian.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.decrepit.ciphers.modes import CFB  # a TPM speaks no other
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

SHA256: Final = 0x000B
RSA: Final = 0x0001
ECC: Final = 0x0023
NULL: Final = 0x0010
AES: Final = 0x0006

RSASSA: Final = 0x0014
ECDSA: Final = 0x0018
P256: Final = 0x0003
_GENERATED: Final = 0xFF544347
"""TPM_GENERATED_VALUE: what a TPM puts before what it attests, and never signs for anyone else."""
_QUOTE: Final = 0x8018
_CERTIFY: Final = 0x8017
_DIGEST_BYTES: Final = 32
_BLOB_BYTES_MAX: Final = 4096
_RSA_BITS: Final = frozenset({2048, 3072, 4096})
"""From NIST SP 800-131A's least to the most that a TPM has: longer ones only cost time to check."""
_EXPONENT_DEFAULT: Final = 65_537


class BadTpm(ValueError):
    """Not what a TPM writes, or not signed by the key it should be."""


class Attribute(enum.IntFlag):
    """TPMA_OBJECT: what a key may do, and where it may live."""

    FIXED_TPM = 1 << 1
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


ATTESTATION_KEY: Final = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.RESTRICTED
    | Attribute.SIGN
)
"""A key that lives in one TPM, was made there, and signs nothing but what the TPM says."""
SIGNING_KEY: Final = (
    Attribute.FIXED_TPM | Attribute.FIXED_PARENT | Attribute.SENSITIVE_DATA_ORIGIN | Attribute.SIGN
)
"""A key that lives in one TPM and was made there, and signs what it is given."""
_KINDS: Final = Attribute.RESTRICTED | Attribute.DECRYPT | Attribute.SIGN


class _Reader:
    def __init__(self, data: bytes) -> None:
        if len(data) > _BLOB_BYTES_MAX:
            raise BadTpm(f"{len(data)} bytes; {_BLOB_BYTES_MAX} at most")
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise BadTpm(f"byte {self._at}: cut short")
        self._at += count
        return taken

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def sized(self) -> bytes:
        """A TPM2B: two bytes of length, then so many."""
        return self.take(self.number(2))

    def end(self) -> None:
        if self._at != len(self._data):
            raise BadTpm(f"byte {self._at}: more than there should be")


@dataclass(frozen=True, slots=True)
class Public:
    """A key's public area: its name binds key, attributes and policy together."""

    name: bytes
    attributes: Attribute
    policy: bytes
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    def expect(self, kind: Attribute, what: str) -> None:
        """Raises BadTpm unless the key is of this kind, and of no other."""
        if self.attributes & kind != kind or (self.attributes ^ kind) & _KINDS:
            raise BadTpm(f"{what}: its attributes are {int(self.attributes):#010x}")


@dataclass(frozen=True, slots=True)
class Clock:
    """TPMS_CLOCK_INFO: milliseconds the TPM was powered, and how often it was reset or resumed."""

    clock_ms: int
    reset_count: int
    restart_count: int
    safe: bool


@dataclass(frozen=True, slots=True)
class Attested:
    """What a TPM attests. `extra` is what the asker gave."""

    extra: bytes
    clock: Clock
    firmware: int
    selection: frozenset[int]
    """PCRs of the SHA-256 bank that a quote covers; empty for a certificate of a key."""
    digest: bytes
    """A quote's digest over those PCRs; empty for a certificate."""
    name: bytes
    """The name of the key certified; empty for a quote."""


def public(blob: bytes) -> Public:
    """The key in a TPM2B_PUBLIC. Raises BadTpm; RSA of 2048 to 4096 bits, and P-256, are taken."""
    outer = _Reader(blob)
    area = outer.sized()
    outer.end()
    reader = _Reader(area)
    kind, name_algorithm = reader.number(2), reader.number(2)
    if name_algorithm != SHA256:
        raise BadTpm("the key's name is not by SHA-256")
    attributes = Attribute(reader.number(4))
    policy = reader.sized()
    if reader.number(2) == AES:  # a decryption key's own cipher: bits and mode
        reader.take(4)
    key = _rsa(reader) if kind == RSA else _ecc(reader) if kind == ECC else None
    reader.end()
    if key is None:
        raise BadTpm("the key is neither RSA nor on a curve")
    name = SHA256.to_bytes(2, "big") + hashlib.sha256(area).digest()
    return Public(name, attributes, policy, key)


def _scheme(reader: _Reader) -> None:
    if reader.number(2) != NULL:
        reader.take(2)  # the scheme's hash


def _rsa(reader: _Reader) -> rsa.RSAPublicKey:
    _scheme(reader)
    bits = reader.number(2)
    exponent = reader.number(4) or _EXPONENT_DEFAULT
    modulus = int.from_bytes(reader.sized(), "big")
    if bits not in _RSA_BITS or modulus.bit_length() != bits:
        raise BadTpm("the RSA key is not one of 2048, 3072 or 4096 bits, or not as long as it says")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError as error:
        raise BadTpm("the RSA key is none") from error


def _ecc(reader: _Reader) -> ec.EllipticCurvePublicKey:
    _scheme(reader)
    curve = reader.number(2)
    _scheme(reader)  # the key derivation's
    x, y = (int.from_bytes(reader.sized(), "big") for _ in range(2))
    if curve != P256:
        raise BadTpm(f"curve {curve:#06x} is not P-256")
    try:
        return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    except ValueError as error:
        raise BadTpm("the key is not on its curve") from error


def quote(attest: bytes, signature: bytes, key: Public) -> Attested:
    """What a quote (TPMS_ATTEST, TPMT_SIGNATURE) by `key` says. Raises BadTpm."""
    return _attested(attest, signature, key, _QUOTE)


def certificate(attest: bytes, signature: bytes, key: Public) -> Attested:
    """What a TPM2_Certify by `key` says of another key. Raises BadTpm."""
    return _attested(attest, signature, key, _CERTIFY)


def pcr_digest(values: dict[int, bytes]) -> bytes:
    """The digest a quote has over PCR values, by their numbers."""
    return hashlib.sha256(b"".join(values[number] for number in sorted(values))).digest()


def _attested(attest: bytes, signature: bytes, key: Public, kind: int) -> Attested:
    key.expect(ATTESTATION_KEY, "the attestation key")
    _check_signature(key, signature, attest)
    reader = _Reader(attest)
    if reader.number(4) != _GENERATED or reader.number(2) != kind:
        raise BadTpm("not what was asked for")
    reader.sized()  # the signer's qualified name, which only its TPM can check
    extra = reader.sized()
    clock = Clock(reader.number(8), reader.number(4), reader.number(4), reader.number(1) == 1)
    firmware = reader.number(8)
    selection: frozenset[int] = frozenset()
    digest = name = b""
    if kind == _QUOTE:
        selection = _selection(reader)
        digest = reader.sized()
    else:
        name = reader.sized()
        reader.sized()  # the qualified name
    reader.end()
    return Attested(extra, clock, firmware, selection, digest, name)


def _selection(reader: _Reader) -> frozenset[int]:
    """The PCRs quoted: one bank, SHA-256, or nothing is known of what was quoted."""
    if reader.number(4) != 1 or reader.number(2) != SHA256:
        raise BadTpm("the quote is not over the SHA-256 bank alone")
    bits = int.from_bytes(reader.take(reader.number(1)), "little")
    return frozenset(number for number in range(bits.bit_length()) if bits >> number & 1)


def _check_signature(key: Public, signature: bytes, message: bytes) -> None:
    reader = _Reader(signature)
    scheme, digest = reader.number(2), reader.number(2)
    if digest != SHA256:
        raise BadTpm("not signed with SHA-256")
    try:
        if scheme == ECDSA and isinstance(key.key, ec.EllipticCurvePublicKey):
            r, s = (int.from_bytes(reader.sized(), "big") for _ in range(2))
            reader.end()
            key.key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
        elif scheme == RSASSA and isinstance(key.key, rsa.RSAPublicKey):
            given = reader.sized()
            reader.end()
            key.key.verify(given, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise BadTpm("the signature is not of its key's kind")
    except InvalidSignature as error:
        raise BadTpm("not signed by this key") from error


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes: only the TPM with the EK, holding the key, opens it."""

    blob: bytes
    """TPM2B_ID_OBJECT."""
    secret: bytes
    """TPM2B_ENCRYPTED_SECRET."""


def make_credential(ek: rsa.RSAPublicKey, name: bytes, secret: bytes, seed: bytes) -> Credential:
    """Locks `secret` to the TPM whose endorsement key is `ek` and to the key named `name` in it.

    `seed` is 32 random bytes, never used again. Raises ValueError for other lengths, and BadTpm for a
    key that nothing can be encrypted to: its certificate may say any number. Part 1 §24.
    """
    if len(seed) != _DIGEST_BYTES or not 1 <= len(secret) <= _DIGEST_BYTES:
        raise ValueError("a seed of 32 bytes and a secret of at most 32 are needed")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    try:
        encrypted = ek.encrypt(seed, oaep)
    except ValueError as error:
        raise BadTpm("the EK is no RSA key: nothing can be encrypted to it") from error
    cipher = Cipher(algorithms.AES(_kdfa(seed, b"STORAGE", name, 128)), CFB(bytes(16)))
    encryptor = cipher.encryptor()
    identity = encryptor.update(_sized(secret)) + encryptor.finalize()
    mac = hmac.digest(_kdfa(seed, b"INTEGRITY", b"", 256), identity + name, "sha256")
    return Credential(_sized(_sized(mac) + identity), _sized(encrypted))


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _kdfa(key: bytes, label: bytes, context: bytes, bits: int) -> bytes:
    """KDFa with HMAC-SHA-256, up to 256 bits: one block of SP 800-108's counter mode."""
    block = b"\0\0\0\1" + label + b"\0" + context + bits.to_bytes(4, "big")
    return hmac.digest(key, block, "sha256")[: bits // 8]
