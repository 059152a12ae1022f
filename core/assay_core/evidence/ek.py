"""A TPM's endorsement key (EK): who made the chip that holds it, by its certificate.

Rules, in order; each raises and nothing half-succeeds:

1. The certificates are few, short and can be read.
2. The first is an EK's: no authority, may have keys encrypted to it, an RSA key, and it names the
   TPM's manufacturer, model and version.
3. A listed root, or one that the caller's policy names, is its last or issued its last. If none is,
   the key may be as good as any, but nobody we know says so: UntrustedTpm.
4. The path to that root holds as of now (path.py). What has expired is refused.

Source: TCG EK Credential Profile for TPM Family 2.0, version 2.5, §3.2. Intermediate certificates
come with the EK's: nothing is fetched. A genuine EK says that a chip of this maker holds the key,
not where the chip is; that the host can use it is shown by tpm.make_credential.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from assay_core.errors import FileError
from assay_core.evidence import path
from assay_core.evidence.tpm import BadTpm
from assay_core.printable import printable

TPM_ROOTS_VERSION: Final = 1
"""Which list of makers' roots this release believes: tpm_roots_v1.pem, beside this file."""
CERTIFICATES_MAX: Final = 6
CERTIFICATE_BYTES_MAX: Final = 8 * 1024
RSA_BITS: Final = range(2048, 4096 + 1)
_EK_CERTIFICATE: Final = x509.ObjectIdentifier("2.23.133.8.1")
_MANUFACTURER: Final = x509.ObjectIdentifier("2.23.133.2.1")
_MODEL: Final = x509.ObjectIdentifier("2.23.133.2.2")
_VERSION: Final = x509.ObjectIdentifier("2.23.133.2.3")
_SEEN_TO: Final = frozenset(
    {
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.EXTENDED_KEY_USAGE,
        # No policy is asked for, and so any will do (RFC 5280 §6.1.1); makers mark theirs critical.
        ExtensionOID.CERTIFICATE_POLICIES,
    }
)
_TEXT_MAX: Final = 128
_VIRTUAL_MAKERS: Final = frozenset({"GOOG", "AMZN", "MSFT", "VMW", "QEMU", "IBM", "id:00001014"})
"""Manufacturers of TPMs that are software: clouds, hypervisors, and swtpm, which says it is IBM."""
_VIRTUAL_WORDS: Final = (
    "swtpm",
    "virtual",
    "vtpm",
    "google",
    "amazon",
    "azure",
    "alibaba",
    "vmware",
)
_LISTED: Final = re.compile(
    r"# ([^|\n]+) \| ([^\n]+)\n# sha256 ([0-9a-f]{64})\n"
    r"(-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n)"
)


class UntrustedTpm(BadTpm):
    """The EK's certificate reads well and leads to no root we know: the host stays at L0.

    What it carries is claimed and proved by nobody; it serves to say why, and to know the key again.
    """

    def __init__(self, why: str, *, spki_sha256: str, issuer: str, virtual: bool) -> None:
        super().__init__(why)
        self.spki_sha256 = spki_sha256
        self.issuer = issuer
        self.virtual = virtual


@dataclass(frozen=True, slots=True)
class Root:
    """A certificate authority that endorses TPMs; `virtual` where they are software."""

    certificate: x509.Certificate
    manufacturer: str
    name: str
    sha256: str
    virtual: bool = False


@dataclass(frozen=True, slots=True)
class Endorsement:
    """A key in a TPM, and who says so.

    `spki_sha256` is of the key's SubjectPublicKeyInfo in DER, hexadecimal: pin it to the host.
    `manufacturer` is TCG's vendor id, such as IFX. `virtual`: the TPM is software, as far as its
    names or its root tell.
    """

    spki_sha256: str
    key: rsa.RSAPublicKey
    manufacturer: str
    model: str
    version: str
    issuer: str
    root_sha256: str
    root_name: str
    virtual: bool


def read_list(text: str) -> Mapping[str, Root]:
    """Roots out of a list like tpm_roots_v1.pem, by SHA-256. Raises FileError where it is damaged."""
    found: dict[str, Root] = {}
    for maker, what, sha256, pem in _LISTED.findall(text):
        certificate = x509.load_pem_x509_certificate(pem.encode())
        if hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest() == sha256:
            found[sha256] = Root(certificate, maker, what, sha256)
    if not found or len(found) != text.count("-----BEGIN CERTIFICATE-----"):
        raise FileError("the list of TPM makers' roots is damaged; install this release again")
    return MappingProxyType(found)


TPM_ROOTS: Final = read_list(
    resources.files("assay_core.evidence")
    .joinpath(f"tpm_roots_v{TPM_ROOTS_VERSION}.pem")
    .read_text("ascii")
)
"""The makers' roots that this release believes, by the SHA-256 of their certificates."""


def verify(
    certificates_der: Sequence[bytes],
    now_ms: int,
    *,
    roots: Mapping[str, Root] = TPM_ROOTS,
    simulated: Collection[str] = (),
) -> Endorsement:
    """Who endorsed the key, its certificate first and the intermediates after it.

    The root may be left out where it is one of `roots`. `simulated` are roots of software TPMs that a
    policy names, by the SHA-256 of their certificates, which then have to be the last sent. Raises
    UntrustedTpm where none of them endorsed it, BadTpm where something does not hold.
    """
    try:
        chain = _read(certificates_der)
        key = _ek_key(chain[0])
        maker, model, version = _tpm(chain[0])
        issuer = printable(chain[0].issuer.rfc4514_string(), _TEXT_MAX)
        root = _anchor(chain[-1], roots, simulated)
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        spki_sha256 = hashlib.sha256(spki).hexdigest()
        virtual = _looks_virtual(maker, model, issuer)
        if root is None:
            raise UntrustedTpm(
                f"no listed root endorsed the TPM; {issuer} issued its certificate"
                + (", as software's" if virtual else ""),
                spki_sha256=spki_sha256,
                issuer=issuer,
                virtual=virtual,
            )
        whole = chain if chain[-1] == root.certificate else (*chain, root.certificate)
        path.verify(whole, now_ms, known=_SEEN_TO)
    except BadTpm:
        raise
    except path.BadPath as error:
        raise BadTpm(f"the EK's certificates: {error}") from error
    except path.UNREADABLE as error:
        raise BadTpm(f"a certificate of the EK is malformed: {error}") from error
    return Endorsement(
        spki_sha256=spki_sha256,
        key=key,
        manufacturer=maker,
        model=model,
        version=version,
        issuer=issuer,
        root_sha256=root.sha256,
        root_name=root.name,
        virtual=virtual or root.virtual,
    )


def _read(certificates_der: Sequence[bytes]) -> tuple[x509.Certificate, ...]:
    if not 1 <= len(certificates_der) <= CERTIFICATES_MAX:
        count = len(certificates_der)
        raise BadTpm(f"{count} certificates of the EK; 1 to {CERTIFICATES_MAX} are taken")
    if any(len(one) > CERTIFICATE_BYTES_MAX for one in certificates_der):
        raise BadTpm(f"a certificate of the EK has more than {CERTIFICATE_BYTES_MAX} bytes")
    return tuple(x509.load_der_x509_certificate(one) for one in certificates_der)


def _ek_key(leaf: x509.Certificate) -> rsa.RSAPublicKey:
    """The EK, of a certificate that is an EK's."""
    usage = path.key_usage(leaf)
    if path.is_authority(leaf) or usage is None or not usage.key_encipherment:
        raise BadTpm("the EK's certificate is not of a key that keys are encrypted to")
    for extension in leaf.extensions:
        if isinstance(extension.value, x509.ExtendedKeyUsage) and not {
            _EK_CERTIFICATE,
            ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        }.intersection(extension.value):
            raise BadTpm("the EK's certificate is for something else")
    key = leaf.public_key()
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size not in RSA_BITS:
        raise BadTpm("the EK is not an RSA key of 2048 to 4096 bits")
    return key


def _tpm(leaf: x509.Certificate) -> tuple[str, str, str]:
    """Manufacturer, model and version, which the profile puts into the alternative name."""
    alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    found: list[str] = []
    for oid in (_MANUFACTURER, _MODEL, _VERSION):
        values = [
            str(attribute.value)
            for directory in alternative.get_values_for_type(x509.DirectoryName)
            for attribute in directory.get_attributes_for_oid(oid)
        ]
        if len(values) != 1:
            raise BadTpm("the EK's certificate does not name its TPM once")
        found.append(printable(values[0], _TEXT_MAX))
    return _vendor(found[0]), found[1], found[2]


def _vendor(text: str) -> str:
    """id:49465800 is IFX; what is not four letters stays as it was written."""
    written = re.fullmatch(r"id:([0-9A-Fa-f]{8})", text)
    letters = bytes.fromhex(written[1]).rstrip(b"\0 ").decode("latin-1") if written else ""
    return letters if letters.isascii() and letters.isalnum() else text


def _looks_virtual(maker: str, model: str, issuer: str) -> bool:
    names = f"{model} {issuer}".lower()
    return maker in _VIRTUAL_MAKERS or any(word in names for word in _VIRTUAL_WORDS)


def _anchor(
    last: x509.Certificate, roots: Mapping[str, Root], simulated: Collection[str]
) -> Root | None:
    """The root that `last` is, or that issued it; makers have several of one name."""
    sha256 = hashlib.sha256(last.public_bytes(Encoding.DER)).hexdigest()
    if sha256 in simulated:
        return Root(last, "simulated", path.name(last), sha256, virtual=True)
    if sha256 in roots:
        return roots[sha256]
    for root in roots.values():
        if last.issuer == root.certificate.subject:
            try:
                last.verify_directly_issued_by(root.certificate)
            except path.VERIFY_FAILED:
                continue
            return root
    return None
