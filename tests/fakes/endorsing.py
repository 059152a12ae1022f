"""A maker of TPMs: certificates of endorsement keys, as the makers' real ones are, or not quite."""

from __future__ import annotations

import datetime as dt
import hashlib
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from assay_core.evidence.ek import Root

NOW_MS = 1_795_000_000_000
EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
Extension = tuple[x509.ExtensionType, bool]


def common(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def tpm_name(manufacturer: str, model: str, version: str) -> x509.SubjectAlternativeName:
    """The alternative name that the profile asks for: one directory name of three attributes."""
    pairs = ((1, manufacturer), (2, model), (3, version))
    attributes = [
        x509.NameAttribute(x509.ObjectIdentifier(f"2.23.133.2.{number}"), value)
        for number, value in pairs
    ]
    return x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(attributes))])


TPM = tpm_name("id:49465800", "SLB9670", "id:0D0D")
PURPOSE = x509.ExtendedKeyUsage([EK_CERTIFICATE])


def usage(
    *, encipher: bool = False, sign_certificates: bool = False, sign: bool = False
) -> Extension:
    return (
        x509.KeyUsage(
            digital_signature=sign,
            content_commitment=False,
            key_encipherment=encipher,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=sign_certificates,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        ),
        True,
    )


def authority_marks(path_length: int | None = None) -> tuple[Extension, ...]:
    return (
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        usage(sign_certificates=True),
    )


EK_MARKS: tuple[Extension, ...] = (
    (x509.BasicConstraints(ca=False, path_length=None), True),
    usage(encipher=True),
    (PURPOSE, False),
    (TPM, True),
)


@dataclass
class Issuer:
    """An authority: its name, key and certificate."""

    key: Key
    certificate: x509.Certificate

    def issue(
        self,
        subject: x509.Name,
        key: Key,
        extensions: tuple[Extension, ...],
        *,
        until: dt.datetime = dt.datetime(9999, 12, 31, tzinfo=dt.UTC),
        algorithm: hashes.HashAlgorithm | None = None,
    ) -> x509.Certificate:
        return certify(
            (subject, key), (self.certificate.subject, self.key), extensions, until, algorithm
        )


def certify(
    subject: tuple[x509.Name, Key],
    issuer: tuple[x509.Name, Key],
    extensions: tuple[Extension, ...],
    until: dt.datetime = dt.datetime(9999, 12, 31, tzinfo=dt.UTC),
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject[0])
        .issuer_name(issuer[0])
        .public_key(subject[1].public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime(2020, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(until)
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical)
    return builder.sign(issuer[1], algorithm or hashes.SHA256())  # type: ignore[arg-type]


def root(name: str) -> Issuer:
    key = ec.generate_private_key(ec.SECP384R1())
    return Issuer(key, certify((common(name), key), (common(name), key), authority_marks()))


def subordinate(parent: Issuer, name: str, marks: tuple[Extension, ...] | None = None) -> Issuer:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = parent.issue(common(name), key, marks or authority_marks())
    return Issuer(key, certificate)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


@dataclass
class Maker:
    """A root, an intermediate authority under it, and the list that has the root."""

    root: Issuer = field(default_factory=lambda: root("Test TPM Root CA"))

    def __post_init__(self) -> None:
        self.manufacturing = subordinate(self.root, "Test TPM Manufacturing CA 001")
        self.sha256 = hashlib.sha256(der(self.root.certificate)).hexdigest()
        listed = Root(self.root.certificate, "Test", "Test TPM Root CA", self.sha256)
        self.roots = {self.sha256: listed}

    def endorse(
        self,
        key: Key,
        marks: tuple[Extension, ...] = EK_MARKS,
        *,
        by: Issuer | None = None,
        subject: x509.Name | None = None,
    ) -> list[bytes]:
        """An EK's certificate and the intermediate that issued it; the root is left out."""
        issuer = by or self.manufacturing
        ek = issuer.issue(x509.Name([]) if subject is None else subject, key, marks)
        return [der(ek), der(issuer.certificate)]
