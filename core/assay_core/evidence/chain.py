"""From a device's leaf certificate to NVIDIA's pinned root.

The path is the one that was sent, leaf first; nothing is searched for. A GPU's is five certificates
long: the attestation key (AK, which firmware issues anew), the identity key (IK, burnt into the
device), a provisioner, the chip's identity and the root. The root that was sent is never believed:
it is the pinned one by the SHA-256 of its bytes, or the chain is refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import SignatureAlgorithmOID

from assay_core.evidence import der, path
from assay_core.evidence.spdm import DIGEST_BYTES

DEVICE_ROOTS: Final = frozenset(
    {"102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48"}
)
"""NVIDIA Device Identity CA, the root of GPUs and NVSwitches alike; it expires in 9999."""
CHAIN_LENGTH: Final = 5
CHAIN_BYTES_MAX: Final = 32 * 1024
PDI_BYTES: Final = 8

_SIGNATURES: Final = frozenset({SignatureAlgorithmOID.ECDSA_WITH_SHA384})
_PREFIXES: Final = {0x41: "gpu", 0x50: "nvswitch"}
"""The first byte of an IK's serial number; the other eight are the device's PDI."""
_COMPOSITE_DEVICE_ID: Final = x509.ObjectIdentifier("2.23.133.5.4.1")
"""What firmware the AK belongs to, as Hopper and its switches say it: the third of a sequence of
version, device key and firmware id."""
_TCB_INFO: Final = x509.ObjectIdentifier("2.23.133.5.4.1.1")
"""The same as Blackwell says it: DiceTcbInfo of TCG's DICE attestation architecture, §6.1.1."""
_FWIDS: Final = 0xA6
_SHA384: Final = bytes.fromhex("608648016503040202")
"""2.16.840.1.101.3.4.2.2"""


class UntrustedChain(ValueError):
    """The certificates do not lead from a device to the pinned root; says which does not."""


@dataclass(frozen=True, slots=True)
class Device:
    """Who a chain speaks for.

    `identity` is the SHA-256 of the IK's SubjectPublicKeyInfo in DER: it stays when firmware
    changes, unlike the leaf's serial number. `pdi` is the per-die identifier as NVML gives it.
    `fwids` are the digests of the firmware that the AK belongs to.
    """

    kind: str
    chip: str
    identity: str
    pdi: int
    fwids: tuple[bytes, ...]
    attestation_key: ec.EllipticCurvePublicKey


def read(pem: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM text, in their order. Raises UntrustedChain."""
    if len(pem) > CHAIN_BYTES_MAX:
        raise UntrustedChain(f"{len(pem)} bytes of certificates; {CHAIN_BYTES_MAX} at most")
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except path.UNREADABLE as error:
        raise UntrustedChain("the chain is not a PEM text of certificates") from error


def verify(
    chain: Sequence[x509.Certificate], now_ms: int, roots: Collection[str] = DEVICE_ROOTS
) -> Device:
    """The device that `chain` speaks for, from leaf to root. Raises UntrustedChain.

    `roots` are the SHA-256 of the roots that are believed, hexadecimal.
    """
    if len(chain) != CHAIN_LENGTH:
        raise UntrustedChain(f"{len(chain)} certificates; a device's chain has {CHAIN_LENGTH}")
    root = chain[-1]
    if hashlib.sha256(root.public_bytes(Encoding.DER)).hexdigest() not in roots:
        raise UntrustedChain("the chain does not end at a pinned device root")
    try:
        path.verify(chain, now_ms, algorithms=_SIGNATURES)
        for certificate in chain:
            p384_key(certificate)
        _check_leaf(chain[0])
        return _device(chain[0], chain[1])
    except UntrustedChain:
        raise
    except path.BadPath as error:
        raise UntrustedChain(str(error)) from error
    except path.UNREADABLE as error:
        raise UntrustedChain(f"a certificate is malformed: {error}") from error


def p384_key(certificate: x509.Certificate) -> ec.EllipticCurvePublicKey:
    """The certificate's key, which must be on P-384. Raises UntrustedChain."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise UntrustedChain(f"{path.name(certificate)}: the key is not on P-384")
    return key


def _check_leaf(leaf: x509.Certificate) -> None:
    usage = path.key_usage(leaf)
    if path.is_authority(leaf) or usage is None or not usage.digital_signature:
        raise UntrustedChain(f"{path.name(leaf)}: not a leaf that may sign reports alone")


def _device(leaf: x509.Certificate, ik: x509.Certificate) -> Device:
    serial = ik.serial_number.to_bytes((ik.serial_number.bit_length() + 7) // 8, "big")
    if len(serial) != 1 + PDI_BYTES or serial[0] not in _PREFIXES:
        raise UntrustedChain(f"{path.name(ik)}: its serial number names no device")
    spki = p384_key(ik).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return Device(
        kind=_PREFIXES[serial[0]],
        chip=path.name(ik).split(" ", 1)[0],
        identity=hashlib.sha256(spki).hexdigest(),
        pdi=int.from_bytes(serial[1:], "big"),
        fwids=_fwids(leaf),
        attestation_key=p384_key(leaf),
    )


def _fwids(leaf: x509.Certificate) -> tuple[bytes, ...]:
    found = [e for e in leaf.extensions if e.oid in (_COMPOSITE_DEVICE_ID, _TCB_INFO)]
    if len(found) != 1 or not isinstance(found[0].value, x509.UnrecognizedExtension):
        raise UntrustedChain(f"{path.name(leaf)}: does not say what firmware it belongs to")
    try:
        parts = list(der.items(der.only(found[0].value.value, der.SEQUENCE)))
        if found[0].oid == _TCB_INFO:
            (listed,) = [part.contents for part in parts if part.tag == _FWIDS]
            ids = list(der.items(listed))
        else:
            ids = parts[2:]
        return tuple(_fwid(item) for item in ids)
    except ValueError as error:
        raise UntrustedChain(f"{path.name(leaf)}: its firmware id is malformed") from error


def _fwid(item: der.Item) -> bytes:
    """FWID ::= SEQUENCE { hashAlg OBJECT IDENTIFIER, digest OCTET STRING }, of SHA-384."""
    algorithm, digest = der.items(item.contents)
    if (item.tag, algorithm.tag, digest.tag) != (
        der.SEQUENCE,
        der.OBJECT_IDENTIFIER,
        der.OCTET_STRING,
    ):
        raise der.MalformedDer("not a firmware id")
    if algorithm.contents != _SHA384 or len(digest.contents) != DIGEST_BYTES:
        raise der.MalformedDer("not a SHA-384 digest")
    return digest.contents
