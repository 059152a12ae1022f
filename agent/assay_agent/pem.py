"""The agent's private keys and certificates as PEM."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from assay_core.errors import HostError
from assay_core.seal import Ed25519Signer


def new_sealing_key() -> bytes:
    """A fresh Ed25519 key, PKCS#8 PEM."""
    return to_pem(Ed25519PrivateKey.generate())


def new_tls_key() -> bytes:
    """A fresh P-256 key, PKCS#8 PEM."""
    return to_pem(ec.generate_private_key(ec.SECP256R1()))


def signing_request(key_pem: bytes) -> bytes:
    """A PKCS#10 request for the key, DER. The valuer ignores its subject."""
    key = serialization.load_pem_private_key(key_pem, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the TLS key is not an elliptic-curve key")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "assay-agent")])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.DER)


def join_tls(key_pem: bytes, chain_pem: bytes, authority_pem: bytes) -> bytes:
    """What tls.pem holds, after checking that the certificate is one for this key."""
    try:
        leaf = x509.load_pem_x509_certificates(chain_pem)[0]
        x509.load_pem_x509_certificates(authority_pem)
        key = serialization.load_pem_private_key(key_pem, None)
    except (ValueError, IndexError) as error:
        raise HostError("the valuer sent certificates that cannot be read") from error
    if leaf.public_key() != key.public_key():
        raise HostError("the valuer sent a certificate for another key")
    return key_pem.rstrip() + b"\n" + chain_pem


def to_pem(key: object) -> bytes:
    """One of the agent's private keys, PKCS#8 PEM. Raises TypeError for any other."""
    if not isinstance(key, Ed25519PrivateKey | ec.EllipticCurvePrivateKey):
        raise TypeError("not one of the agent's keys")
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def sealing_signer(pem: bytes, path: Path) -> Ed25519Signer:
    """The signer with the key of `path`. Raises HostError where it is none."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise HostError(f"{path} is not a private key in PEM") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise HostError(f"{path} is not an Ed25519 key")
    return Ed25519Signer(key)
