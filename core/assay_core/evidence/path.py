"""From a certificate to one that is believed already: RFC 5280 §6.1, for a path as it was given.

Nothing is searched for and nothing is fetched. A path is checked from the end that is believed, so
that nothing in a certificate counts before its issuer's signature over it holds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from assay_core.printable import printable

SIGNATURES: Final = frozenset(
    {
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
    }
)
"""What may sign a certificate: SHA-256 or better."""
NAME_MAX: Final = 64
UNREADABLE: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
"""What the library raises over certificates that somebody made to annoy it."""


VERIFY_FAILED: Final = (InvalidSignature, *UNREADABLE)
"""What it raises where one certificate did not sign another."""


class BadPath(ValueError):
    """The certificates do not lead to one another as they must; says which does not."""


def verify(
    path: Sequence[x509.Certificate],
    at_ms: int,
    *,
    algorithms: Collection[x509.ObjectIdentifier] = SIGNATURES,
    known: Collection[x509.ObjectIdentifier] = (),
) -> None:
    """Raises BadPath unless each was issued by the next and all were valid at `at_ms`.

    `path` is leaf first, and its last certificate is one that the caller believes. `algorithms` are
    the signatures that will do; `known` are the critical extensions that the caller sees to itself.
    What the leaf may do is the caller's business.
    """
    try:
        for place in reversed(range(len(path))):
            if place + 1 < len(path):
                _check_link(path[place], path[place + 1], algorithms)
            _check_rules(path[place], place, at_ms, known)
    except BadPath:
        raise
    except UNREADABLE as error:
        raise BadPath(f"a certificate is malformed: {error}") from error


def name(certificate: x509.Certificate) -> str:
    """The subject's common name, as it may be shown. Raises what UNREADABLE lists."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return printable(str(names[0].value), NAME_MAX) if names else "a certificate without a name"


def key_usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    """What its key may do, where it says so. Raises what UNREADABLE lists."""
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.KeyUsage):
            return extension.value
    return None


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether it may sign others, or claims that it may. Raises what UNREADABLE lists."""
    usage = key_usage(certificate)
    return (usage is not None and usage.key_cert_sign) or any(
        isinstance(extension.value, x509.BasicConstraints) and extension.value.ca
        for extension in certificate.extensions
    )


def _check_link(
    child: x509.Certificate,
    parent: x509.Certificate,
    algorithms: Collection[x509.ObjectIdentifier],
) -> None:
    if child.signature_algorithm_oid not in algorithms:
        oid = child.signature_algorithm_oid.dotted_string
        raise BadPath(f"{name(child)}: signed by {oid}, which is not taken here")
    try:
        child.verify_directly_issued_by(parent)
    except VERIFY_FAILED as error:
        raise BadPath(f"{name(child)}: not issued by {name(parent)}") from error


def _check_rules(
    certificate: x509.Certificate,
    place: int,
    at_ms: int,
    known: Collection[x509.ObjectIdentifier],
) -> None:
    at = datetime.fromtimestamp(at_ms / 1000, UTC)
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc:
        raise BadPath(f"{name(certificate)}: not valid at that time")
    constraints: x509.BasicConstraints | None = None
    signs = False
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            constraints = extension.value
        elif isinstance(extension.value, x509.KeyUsage):
            signs = extension.value.key_cert_sign
        elif extension.critical and extension.oid not in known:
            oid = extension.oid.dotted_string
            raise BadPath(f"{name(certificate)}: critical extension {oid} is not known")
    if place == 0:
        return
    if constraints is None or not constraints.ca or not signs:
        raise BadPath(f"{name(certificate)}: may not sign certificates")
    if constraints.path_length is not None and constraints.path_length < place - 1:
        raise BadPath(f"{name(certificate)}: may not have so many authorities below it")
