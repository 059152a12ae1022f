"""A responder that answers, truly or falsely, whether certificates were revoked."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from assay_core.evidence.der import SEQUENCE, items, only
from tests.fakes.endorsing import Extension, Issuer, common, usage
from tests.fakes.nvidia import der

GOOD = ocsp.OCSPCertStatus.GOOD
REVOKED = ocsp.OCSPCertStatus.REVOKED
UNKNOWN = ocsp.OCSPCertStatus.UNKNOWN
MAY_ANSWER: tuple[Extension, ...] = (
    usage(sign=True),
    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False),
    (x509.OCSPNoCheck(), False),
)


def instant(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)


@dataclass
class Delegate:
    """Who answers in an issuer's place."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate


def delegate(
    issuer: Issuer,
    marks: tuple[Extension, ...] = MAY_ANSWER,
    until: dt.datetime = dt.datetime(9999, 12, 31, tzinfo=dt.UTC),
) -> Delegate:
    key = ec.generate_private_key(ec.SECP384R1())
    certificate = issuer.issue(common("Test OCSP Responder"), key, marks, until=until)
    return Delegate(key, certificate)


@dataclass
class Answerer:
    """Makes one answer; each field can be set to what is not so."""

    certificate: x509.Certificate
    issuer: x509.Certificate
    signer: Delegate | Issuer
    now_ms: int
    status: ocsp.OCSPCertStatus = GOOD
    nonce: bytes | None = None
    age_ms: int = 60_000
    lasts_ms: int | None = 86_400_000
    by_name: bool = False
    sends_certificate: bool = True
    shown: x509.Certificate | None = None
    """The certificate that comes along, where it is not the signer's own."""
    cert_id: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    signature: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)
    reason: x509.ReasonFlags | None = None
    extra: Extension | None = None

    def answer(self) -> bytes:
        revoked = self.status is REVOKED
        builder = ocsp.OCSPResponseBuilder().add_response(
            cert=self.certificate,
            issuer=self.issuer,
            algorithm=self.cert_id,
            cert_status=self.status,
            this_update=instant(self.now_ms - self.age_ms),
            next_update=(
                None
                if self.lasts_ms is None
                else instant(self.now_ms - self.age_ms + self.lasts_ms)
            ),
            revocation_time=instant(self.now_ms - 3_600_000) if revoked else None,
            revocation_reason=self.reason,
        )
        encoding = (
            ocsp.OCSPResponderEncoding.NAME if self.by_name else ocsp.OCSPResponderEncoding.HASH
        )
        builder = builder.responder_id(encoding, self.signer.certificate)
        if self.sends_certificate:
            builder = builder.certificates([self.shown or self.signer.certificate])
        if self.nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(self.nonce), critical=False)
        if self.extra is not None:
            builder = builder.add_extension(*self.extra)
        signed = builder.sign(self.signer.key, self.signature)  # type: ignore[arg-type]
        return signed.public_bytes(Encoding.DER)


def saying(answer: bytes, signer: Delegate, times: int) -> bytes:
    """The same answer, said so many times in one response, and signed anew. RFC 6960 §4.2.1."""
    response = ocsp.load_der_ocsp_response(answer)
    parts = [
        der(item.tag, item.contents * times if item.tag == SEQUENCE else item.contents)
        for item in items(only(response.tbs_response_bytes, SEQUENCE))
    ]
    said = der(SEQUENCE, b"".join(parts))
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")  # ECDSA with SHA-384
    signature = signer.key.sign(said, ec.ECDSA(hashes.SHA384()))
    certificate = signer.certificate.public_bytes(Encoding.DER)
    basic = said + algorithm + der(0x03, b"\0" + signature) + der(0xA0, der(SEQUENCE, certificate))
    kind = bytes.fromhex("06092b0601050507300101")  # id-pkix-ocsp-basic
    whole = der(SEQUENCE, kind + der(0x04, der(SEQUENCE, basic)))
    return der(SEQUENCE, b"\x0a\x01\x00" + der(0xA0, whole))
