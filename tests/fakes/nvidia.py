"""GPUs and switches that sign attestation reports as NVIDIA's do, under a root of our own."""

from __future__ import annotations

import datetime as dt
import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from assay_core.evidence.nvidia import Evidence

NOW_MS = 1_795_000_000_000
FWID = bytes(range(48))
_P384 = ec.SECP384R1()
_SHA384_OID = bytes.fromhex("0609608648016503040202")


def der(tag: int, contents: bytes) -> bytes:
    length = len(contents)
    head = bytes([length]) if length < 0x80 else b"\x82" + length.to_bytes(2, "big")
    if 0x80 <= length < 0x100:
        head = b"\x81" + bytes([length])
    return bytes([tag]) + head + contents


def composite_device_id(fwid: bytes) -> bytes:
    """The leaf's extension as Hopper writes it; its second part, the device key, is left empty."""
    firmware = der(0x30, _SHA384_OID + der(0x04, fwid))
    return der(0x30, der(0x02, b"\x01") + der(0x30, b"") + firmware)


def tcb_info(*fwids: bytes) -> bytes:
    """The same as Blackwell writes it."""
    listed = b"".join(der(0x30, _SHA384_OID + der(0x04, fwid)) for fwid in fwids)
    return der(0x30, der(0x80, b"NVIDIA") + der(0xA6, listed))


@dataclass
class Authority:
    """A certificate authority and its key."""

    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def issue(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority | None,
    *,
    ca: bool = True,
    cert_sign: bool | None = None,
    serial: int | None = None,
    extensions: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    until: dt.datetime = dt.datetime(9999, 12, 31, tzinfo=dt.UTC),
) -> x509.Certificate:
    signs = ca if cert_sign is None else cert_sign
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number() if serial is None else serial)
        .not_valid_before(dt.datetime(2022, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(until)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=signs,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    signer = key if issuer is None else issuer.key
    return builder.sign(signer, algorithm or hashes.SHA384())


def authority(name: str, issuer: Authority | None = None) -> Authority:
    key = ec.generate_private_key(_P384)
    return Authority(name, key, issue(name, key, issuer))


@dataclass
class Maker:
    """NVIDIA's part: a root, a chip's identity and a provisioner, each with its key."""

    root: Authority = field(default_factory=lambda: authority("Test Device Identity CA"))

    def __post_init__(self) -> None:
        self.identity = authority("TEST GH100 Identity", self.root)
        self.provisioner = authority("TEST GH100 Provisioner ICA 1", self.identity)

    @property
    def roots(self) -> frozenset[str]:
        return frozenset({self.root.sha256})

    def device(self, pdi: int, *, prefix: int = 0x41) -> Device:
        key = ec.generate_private_key(_P384)
        serial = prefix << 64 | pdi
        certificate = issue("GH100 A01 GSP BROM", key, self.provisioner, serial=serial)
        return Device(self, pdi, Authority("GH100 A01 GSP BROM", key, certificate))


@dataclass
class Device:
    """A GPU or a switch: its identity key for ever, an attestation key for each firmware."""

    maker: Maker
    pdi: int
    ik: Authority

    def __post_init__(self) -> None:
        self.update(FWID)

    def update(self, fwid: bytes) -> None:
        """Other firmware: a new attestation key under the same identity."""
        self.key = ec.generate_private_key(_P384)
        oid = x509.ObjectIdentifier("2.23.133.5.4.1")
        extension = x509.UnrecognizedExtension(oid, composite_device_id(fwid))
        self.leaf = issue(
            "GH100 A01 GSP FMC LF", self.key, self.ik, ca=False, extensions=((extension, False),)
        )
        self.fwid = fwid

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        maker = self.maker
        return (
            self.leaf,
            self.ik.certificate,
            maker.provisioner.certificate,
            maker.identity.certificate,
            maker.root.certificate,
        )

    def answer(self, nonce: bytes, opaque: Mapping[int, bytes] | None = None) -> Evidence:
        """A report over the nonce; `opaque` adds to, or replaces, what it says."""
        fields = {
            6: bytes.fromhex("009f009601000000"),
            3: b"590.48.01\0",
            20: self.fwid,
        } | dict(opaque or {})
        return Evidence(self.sign(request(nonce) + response(fields)), self.chain)

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA384())))
        return message + r.to_bytes(48, "big") + s.to_bytes(48, "big")


def request(nonce: bytes) -> bytes:
    return b"\x11\xe0\x01\xff" + nonce + b"\x00"


def response(fields: Mapping[int, bytes], measurements: int = 4) -> bytes:
    blocks = b"".join(
        struct.pack("<BBHBH", index, 1, 51, 1, 48) + bytes([index]) * 48
        for index in range(1, measurements + 1)
    )
    opaque = b"".join(struct.pack("<HH", kind, len(v)) + v for kind, v in fields.items())
    return (
        b"\x11\x60\x00\x00"
        + bytes([measurements])
        + len(blocks).to_bytes(3, "little")
        + blocks
        + bytes(32)
        + len(opaque).to_bytes(2, "little")
        + opaque
    )


def baseboard(maker: Maker, nonce: bytes, gpus: int = 8, switches: int = 4) -> list[Evidence]:
    """An HGX board that answers one nonce, everybody naming everybody."""
    cards = [maker.device(0x1000 + n) for n in range(gpus)]
    fabric = [maker.device(0x2000 + n, prefix=0x50) for n in range(switches)]
    ports = b"".join(one.pdi.to_bytes(8, "little") for one in fabric for _ in range(4))
    linked = b"".join(one.pdi.to_bytes(8, "big") for one in cards) + bytes(64)
    return [
        *(card.answer(nonce, {22: ports.ljust(144, b"\0")}) for card in cards),
        *(
            one.answer(nonce, {22: one.pdi.to_bytes(8, "big"), 26: linked, 6: b"96.10.73.00.01"})
            for one in fabric
        ),
    ]
