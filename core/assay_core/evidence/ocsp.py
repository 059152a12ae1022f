"""Whether a certificate was revoked, by its issuer's own word (OCSP): what to ask, and what to believe.

Nothing is sent here: `request` makes the bytes to post, `judge` reads the answer's. An answer that
does not hold is the responder's fault or the network's, never the host's: BadOcsp says why, and what
was asked stays unknown.

Rules, in order; each raises and nothing half-succeeds:

1. The answer is short, can be read, and is an answer.
2. It is about this certificate and no other.
3. The certificate's issuer signed it, or a delegate whom that issuer certified for OCSP, valid now.
4. It holds the nonce that was sent.
5. It was made by now, is not past its next update, and is not older than the caller will take.

Source: RFC 6960 §3.2, §4.2.2.2; RFC 9654 on nonces. NVIDIA's responder is asked from the identity
key upwards: the leaf is the device's own and nobody keeps its status. A delegate's own revocation is
not looked up: its certificate is short-lived or says that there is no need (§4.2.2.2.1).
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from assay_core.evidence import path

RESPONSE_BYTES_MAX: Final = 64 * 1024
NONCE_LENGTHS: Final = range(16, 128 + 1)
"""How long a nonce may be, in bytes: RFC 9654 allows up to 128, and fewer than 16 can be guessed."""
_CERT_ID_HASH: Final = hashes.SHA384
_SEEN_TO: Final = frozenset({ExtensionOID.EXTENDED_KEY_USAGE, ExtensionOID.OCSP_NO_CHECK})
_EXTENSIONS: Final = frozenset({"1.3.6.1.5.5.7.48.1.2"})
"""What an answer may hold and call critical: its nonce."""


class BadOcsp(ValueError):
    """The answer proves nothing; says why. Never the host's fault."""


class Answer(enum.StrEnum):
    """What the issuer says of a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old an answer may be since its `thisUpdate`, and how far clocks may differ."""

    age_max_ms: int
    skew_ms: int = 300_000


@dataclass(frozen=True, slots=True)
class Status:
    """An answer that holds. `revoked_ms` and `reason` say since when and why, where it is revoked.

    Times are UTC milliseconds. `next_update_ms` is None where the issuer promises none.
    """

    answer: Answer
    revoked_ms: int | None
    reason: str | None
    produced_ms: int
    this_update_ms: int
    next_update_ms: int | None


def questions(
    chain: Sequence[x509.Certificate],
) -> tuple[tuple[x509.Certificate, x509.Certificate], ...]:
    """Whom to ask about in a device's chain, each with its issuer: the identity key and upwards."""
    return tuple(itertools.pairwise(chain[1:]))


def request(certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes) -> bytes:
    """An OCSP request in DER, to be posted as application/ocsp-request.

    `nonce` is random, of 16 to 128 bytes. Raises ValueError for other lengths.
    """
    if len(nonce) not in NONCE_LENGTHS:
        raise ValueError(f"a nonce of {len(nonce)} bytes: 16 to 128 are needed")
    return _question(certificate, issuer, nonce).public_bytes(Encoding.DER)


def judge(
    response_der: bytes,
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    *,
    nonce: bytes | None,
    now_ms: int,
    freshness: Freshness,
) -> Status:
    """What the answer says of `certificate`, whose issuer is `issuer`. Raises BadOcsp.

    `nonce` is the one in the request; None for an answer that was stapled or kept, whose age alone
    then tells that it is no replay.
    """
    try:
        response, single = _read(response_der)
        _check_subject(single, certificate, issuer)
        _check_signature(response, issuer, now_ms)
        _check_nonce(response, nonce)
        status = _status(response, single)
    except BadOcsp:
        raise
    except path.BadPath as error:
        raise BadOcsp(f"the responder's certificate: {error}") from error
    except path.UNREADABLE as error:
        raise BadOcsp(f"the answer is malformed: {error}") from error
    _check_times(status, now_ms, freshness)
    return status


def _question(
    certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes | None
) -> ocsp.OCSPRequest:
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, _CERT_ID_HASH())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build()


def _read(response_der: bytes) -> tuple[ocsp.OCSPResponse, ocsp.OCSPSingleResponse]:
    if len(response_der) > RESPONSE_BYTES_MAX:
        raise BadOcsp(f"an answer of {len(response_der)} bytes; {RESPONSE_BYTES_MAX} at most")
    response = ocsp.load_der_ocsp_response(response_der)
    if response.response_status != ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise BadOcsp(f"the responder does not answer: {response.response_status.name}")
    singles = list(response.responses)
    if len(singles) != 1:
        raise BadOcsp(f"{len(singles)} answers to one question")
    for extension in (*response.extensions, *response.single_extensions):
        if extension.critical and extension.oid.dotted_string not in _EXTENSIONS:
            raise BadOcsp(f"critical extension {extension.oid.dotted_string} is not known")
    return response, singles[0]


def _check_subject(
    single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate
) -> None:
    if not isinstance(single.hash_algorithm, _CERT_ID_HASH):
        raise BadOcsp("the answer names its certificate by another hash than the question")
    asked = _question(certificate, issuer, None)
    if (single.serial_number, single.issuer_name_hash, single.issuer_key_hash) != (
        asked.serial_number,
        asked.issuer_name_hash,
        asked.issuer_key_hash,
    ):
        raise BadOcsp("the answer is about another certificate")


def _check_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now_ms: int) -> None:
    signer = _signer(response, issuer, now_ms)
    algorithm = response.signature_hash_algorithm
    if response.signature_algorithm_oid not in path.SIGNATURES or algorithm is None:
        oid = response.signature_algorithm_oid.dotted_string
        raise BadOcsp(f"signed by {oid}, which is not taken here")
    key = signer.public_key()
    try:
        if isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(
                response.signature, response.tbs_response_bytes, padding.PKCS1v15(), algorithm
            )
        else:
            raise BadOcsp("the responder's key is neither RSA nor on a curve")
    except InvalidSignature as error:
        raise BadOcsp("the answer was not signed by its responder") from error


def _signer(response: ocsp.OCSPResponse, issuer: x509.Certificate, now_ms: int) -> x509.Certificate:
    """The issuer itself, or whom it certified to answer in its place."""
    if _is_responder(response, issuer):
        return issuer
    for delegate in response.certificates:
        if _is_responder(response, delegate):
            _check_delegate(delegate, issuer, now_ms)
            return delegate
    raise BadOcsp("the responder is neither the issuer nor anyone whose certificate came along")


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    key_bits = x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest
    return response.responder_key_hash == key_bits


def _check_delegate(delegate: x509.Certificate, issuer: x509.Certificate, now_ms: int) -> None:
    path.verify((delegate, issuer), now_ms, known=_SEEN_TO)
    usages = {
        usage
        for extension in delegate.extensions
        if isinstance(extension.value, x509.ExtendedKeyUsage)
        for usage in extension.value
    }
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usages:
        raise BadOcsp(f"{path.name(delegate)} was not certified to answer for its issuer")


def _check_nonce(response: ocsp.OCSPResponse, nonce: bytes | None) -> None:
    if nonce is None:
        return
    found = [e.value.nonce for e in response.extensions if isinstance(e.value, x509.OCSPNonce)]
    if found != [nonce]:
        raise BadOcsp("the answer is to another question: its nonce is not the one sent")


def _status(response: ocsp.OCSPResponse, single: ocsp.OCSPSingleResponse) -> Status:
    revoked = single.revocation_time_utc
    reason = single.revocation_reason
    return Status(
        answer=Answer[single.certificate_status.name],
        revoked_ms=None if revoked is None else _ms(revoked),
        reason=None if reason is None else reason.value,
        produced_ms=_ms(response.produced_at_utc),
        this_update_ms=_ms(single.this_update_utc),
        next_update_ms=None if single.next_update_utc is None else _ms(single.next_update_utc),
    )


def _check_times(status: Status, now_ms: int, freshness: Freshness) -> None:
    latest_ms = now_ms + freshness.skew_ms
    if status.this_update_ms > latest_ms or status.produced_ms > latest_ms:
        raise BadOcsp("the answer is from the future")
    if status.next_update_ms is not None and status.next_update_ms < now_ms - freshness.skew_ms:
        raise BadOcsp("the answer has had its next update: it is out of date")
    age_ms = now_ms - status.this_update_ms
    if age_ms > freshness.age_max_ms:
        raise BadOcsp(
            f"the answer is {age_ms // 1000} s old; {freshness.age_max_ms // 1000} at most"
        )


def _ms(instant: datetime) -> int:
    return int(instant.timestamp()) * 1000
