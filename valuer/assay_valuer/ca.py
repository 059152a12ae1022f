"""The certificate authority: the valuer's own, or the operator's by file.

P-256 throughout: every TLS library verifies it. The authority signs two kinds of certificate and
no other authorities (path length 0): for the valuer's listeners, and, short-lived, for enrolled
hosts, whose SPIFFE ID is the certificate's only name. What a request says of its subject is
ignored; only its key is taken, and only with proof of possession.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from assay_core.errors import AssayError, FileError
from assay_core.instants import DAY_MS

AUTHORITY_LIFE_MS: Final = 3_650 * DAY_MS
SERVER_LIFE_MS: Final = 7 * DAY_MS
BACKDATE_MS: Final = 5 * 60_000
"""Certificates are valid from a little earlier, for clocks that are a little behind."""
CSR_BYTES_MAX: Final = 4_096

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class BadRequest(AssayError):
    """A certificate request that cannot be signed; says why."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate: PEM, leaf first, its serial number in hex, and when it expires."""

    chain_pem: bytes
    serial: str
    issued_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True)
class ServerKey:
    """A listener's private key and certificate, PEM."""

    key_pem: bytes
    certificate: Issued


class Authority:
    """Holds the authority's key in memory and shows its certificate only."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @property
    def certificate_pem(self) -> bytes:
        """What hosts are told to trust."""
        return self._certificate.public_bytes(Encoding.PEM)

    @property
    def expires_ms(self) -> int:
        """When the authority itself expires."""
        return _ms(self._certificate.not_valid_after_utc)

    @property
    def issued_ms(self) -> int:
        """When the authority was made."""
        return _ms(self._certificate.not_valid_before_utc)

    def issue_host(self, csr_der: bytes, spiffe_id: str, now_ms: int, life_ms: int) -> Issued:
        """A client certificate for the request's key, named by the SPIFFE ID alone.

        Raises BadRequest.
        """
        name = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(spiffe_id)])
        return self._issue(
            _requested_key(csr_der), name, ExtendedKeyUsageOID.CLIENT_AUTH, now_ms, life_ms
        )

    def issue_server(self, names: Sequence[str], now_ms: int) -> ServerKey:
        """A fresh key and certificate for a listener reached by these names or addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        issued = self._issue(
            key.public_key(),
            x509.SubjectAlternativeName([_general_name(name) for name in names]),
            ExtendedKeyUsageOID.SERVER_AUTH,
            now_ms,
            SERVER_LIFE_MS,
        )
        return ServerKey(_key_pem(key), issued)

    def _issue(
        self,
        public_key: ec.EllipticCurvePublicKey,
        name: x509.SubjectAlternativeName,
        usage: x509.ObjectIdentifier,
        now_ms: int,
        life_ms: int,
    ) -> Issued:
        expires_ms = min(now_ms + life_ms, self.expires_ms)
        if expires_ms <= now_ms:
            raise AssayError("the certificate authority has expired; make a new one")
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._certificate.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_moment(now_ms - BACKDATE_MS))
            .not_valid_after(_moment(expires_ms))
            .add_extension(name, critical=True)  # RFC 5280 4.2.1.6: critical, the subject is empty
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return Issued(
            certificate.public_bytes(Encoding.PEM),
            f"{certificate.serial_number:x}",
            now_ms,
            expires_ms,
        )


def create_authority(name: str, now_ms: int) -> tuple[bytes, bytes]:
    """A new authority: its certificate and its private key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(now_ms - BACKDATE_MS))
        .not_valid_after(_moment(now_ms + AUTHORITY_LIFE_MS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(Encoding.PEM), _key_pem(key)


def load_authority(certificate: Path, key: Path) -> Authority:
    """The authority in two PEM files. Raises FileError, with what is wrong with which."""
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except (OSError, ValueError) as error:
        raise FileError(f"{certificate}: not a certificate in PEM: {error}") from error
    try:
        private = load_pem_private_key(key.read_bytes(), password=None)
    except OSError as error:
        raise FileError(f"{key}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise FileError(f"{key}: not an unencrypted private key in PEM") from error
    if key.stat().st_mode & 0o077:
        raise FileError(f"{key}: others may read this key; chmod 600 it")
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise FileError(f"{key}: the authority's key must be on an elliptic curve, P-256")
    if private.public_key() != found.public_key():
        raise FileError(f"{key}: not the key of {certificate}")
    try:
        constraints = found.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound as error:
        raise FileError(f"{certificate}: not a certificate authority") from error
    if not constraints.ca:
        raise FileError(f"{certificate}: not a certificate authority")
    return Authority(found, private)


def write_secret(path: Path, data: bytes) -> None:
    """Writes a file that only its owner may read. Raises AssayError if there is one already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise AssayError(f"{path}: cannot be written: {error.strerror}") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def spiffe_id(certificate_pem: bytes) -> tuple[str, str, int]:
    """The SPIFFE ID, serial number (hex) and expiry of a client certificate.

    Raises BadRequest unless it has exactly one name, and that is a SPIFFE ID.
    """
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as error:
        raise BadRequest("the client certificate names no host") from error
    found = [str(name.value) for name in names]
    if len(found) != 1 or not found[0].startswith("spiffe://"):
        raise BadRequest("the client certificate is not one of a host")
    return found[0], f"{certificate.serial_number:x}", _ms(certificate.not_valid_after_utc)


def _requested_key(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    if len(csr_der) > CSR_BYTES_MAX:
        raise BadRequest(f"the certificate request is over {CSR_BYTES_MAX} bytes")
    try:
        request = x509.load_der_x509_csr(csr_der)
        key = request.public_key()
        proven = request.is_signature_valid
    except (ValueError, InvalidSignature, TypeError) as error:
        raise BadRequest("the certificate request is not PKCS#10 in DER") from error
    if not proven:
        raise BadRequest("the certificate request is not signed by its own key")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise BadRequest("the TLS key must be on P-256 or P-384")
    return key


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _moment(instant_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=instant_ms)


def _ms(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(milliseconds=1)


_CURVES: Final = ("secp256r1", "secp384r1")
