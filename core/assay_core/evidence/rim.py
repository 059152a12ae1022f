"""A reference integrity manifest (RIM): the measurements that NVIDIA published for a firmware.

Rules, in order; each raises and nothing half-succeeds:

1. The text is short UTF-8 XML without a document type, so without entities.
2. It is one SoftwareIdentity with one signature in it, by ECDSA over SHA-384, which covers it whole.
3. The signature's certificates lead to NVIDIA's pinned root, as of the evidence (path.py).
4. What is read is what was signed, and each measurement stands there once.

A manifest that holds may still be another firmware's: ask `mismatches`, or `matches` first.

Needs the extra `rim`: signxml for XML signatures, lxml beneath it. Source: TCG's RIM information
model over ISO/IEC 19770-2 tags, signed by XML-DSig. The signer's certificates expire, so a manifest
is judged at the time of the evidence and kept beside it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import SignatureAlgorithmOID
from lxml import etree
from signxml.algorithms import DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.verifier import SignatureConfiguration, XMLVerifier

from assay_core.evidence import path
from assay_core.evidence.nvidia import BadEvidence, Proof
from assay_core.evidence.spdm import DIGEST_BYTES, Report

RIM_ROOTS: Final = frozenset({"12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"})
"""NVIDIA CoRIM signing Root CA, by the SHA-256 of its certificate."""
RIM_BYTES_MAX: Final = 1024 * 1024
CERTIFICATES_MAX: Final = 8
ALTERNATIVES_MAX: Final = 64
_TAG: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_IDENTITY: Final = f"{_TAG}SoftwareIdentity"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_SIGNATURES: Final = frozenset({SignatureAlgorithmOID.ECDSA_WITH_SHA384})
_SIGNATURE: Final = "{http://www.w3.org/2000/09/xmldsig#}"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a firmware should measure: for each active index the digests that will do."""

    product: str
    version: str
    sha256: str
    measurements: Mapping[int, tuple[bytes, ...]]


def read(xml: bytes, *, at_ms: int, roots: Collection[str] = RIM_ROOTS) -> Manifest:
    """The manifest in `xml`, its signature and signer checked as of `at_ms`. Raises BadEvidence."""
    if len(xml) > RIM_BYTES_MAX:
        raise BadEvidence(f"{len(xml)} bytes; a manifest has at most {RIM_BYTES_MAX}")
    try:
        document = _document(xml)
        signer = _signer(document, at_ms, roots)
        signed = XMLVerifier().verify(document, x509_cert=signer, expect_config=_expected(at_ms))
    except BadEvidence:
        raise
    except path.BadPath as error:
        raise BadEvidence(f"the manifest's certificates: {error}") from error
    except (etree.LxmlError, SignXMLException, *path.UNREADABLE) as error:
        raise BadEvidence(f"the manifest's signature does not hold: {error}") from error
    tree = signed.signed_xml if not isinstance(signed, list) else None
    if tree is None or tree.tag != _IDENTITY:
        raise BadEvidence("the manifest's signature does not cover it whole")
    return _manifest(tree, xml)


def _document(xml: bytes) -> etree._Element:
    """The text as XML; never in another encoding, in which a document type might hide."""
    if b"<!DOCTYPE" in xml:
        raise BadEvidence("a manifest has no document type")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False
    )
    document = etree.fromstring(xml, parser)
    if document.getroottree().docinfo.internalDTD is not None:
        raise BadEvidence("a manifest has no document type")
    if document.tag != _IDENTITY:
        raise BadEvidence("a manifest is one SoftwareIdentity")
    if [one.get("URI") for one in document.iter(f"{_SIGNATURE}Reference")] != [""]:
        raise BadEvidence("the manifest's signature does not cover it whole")
    return document


def _expected(at_ms: int) -> SignatureConfiguration:
    return SignatureConfiguration(
        require_x509=True,
        location="./",
        expect_references=1,
        signature_methods=frozenset({SignatureMethod.ECDSA_SHA384}),
        digest_algorithms=frozenset({DigestAlgorithm.SHA384}),
        verification_time=datetime.fromtimestamp(at_ms / 1000, UTC),
    )


def mismatches(manifest: Manifest, report: Report) -> tuple[int, ...]:
    """Indices of the manifest at which the report measured something else, or nothing.

    A manifest counts from 0 and a report from 1.
    """
    return tuple(
        index
        for index, digests in sorted(manifest.measurements.items())
        if report.measurements.get(index + 1) not in digests
    )


def matches(manifest: Manifest, proof: Proof) -> bool:
    """Whether the manifest is of the firmware that the proof names, before any measurement.

    A manifest is of one VBIOS or of one driver, and says its version as the report does.
    """
    return manifest.product == proof.device.chip and manifest.version in (
        proof.vbios,
        proof.driver,
    )


def _signer(document: etree._Element, at_ms: int, roots: Collection[str]) -> x509.Certificate:
    """The first certificate of the signature, if its issuers lead to a pinned root."""
    texts = [item.text or "" for item in document.iter(f"{_SIGNATURE}X509Certificate")]
    if not 2 <= len(texts) <= CERTIFICATES_MAX:
        raise BadEvidence(f"{len(texts)} certificates sign the manifest")
    chain = [
        x509.load_pem_x509_certificate(
            f"-----BEGIN CERTIFICATE-----\n{text.strip()}\n-----END CERTIFICATE-----\n".encode()
        )
        for text in texts
    ]
    if sha256(chain[-1].public_bytes(Encoding.DER)).hexdigest() not in roots:
        raise BadEvidence("the manifest's certificates do not end at a pinned root")
    path.verify(chain, at_ms, algorithms=_SIGNATURES)
    usage = path.key_usage(chain[0])
    if path.is_authority(chain[0]) or usage is None or not usage.digital_signature:
        raise BadEvidence("the manifest's signer may not sign it")
    return chain[0]


def _manifest(tree: etree._Element, xml: bytes) -> Manifest:
    meta = tree.find(f"{_TAG}Meta")
    payload = tree.find(f"{_TAG}Payload")
    if meta is None or payload is None:
        raise BadEvidence("the manifest has no measurements")
    found: dict[int, tuple[bytes, ...]] = {}
    for item in payload.findall(f"{_TAG}Resource"):
        if item.get("type") != "Measurement" or item.get("active") != "True":
            continue
        try:
            index = int(item.get("index", ""))
            count = int(item.get("alternatives", ""))
            if count > ALTERNATIVES_MAX:
                raise BadEvidence(f"measurement {index} of the manifest has {count} alternatives")
            digests = tuple(bytes.fromhex(item.get(f"{_HASH}{n}", "")) for n in range(count))
        except BadEvidence:
            raise
        except ValueError as error:
            raise BadEvidence("a measurement of the manifest is malformed") from error
        if index in found or not digests or any(len(one) != DIGEST_BYTES for one in digests):
            raise BadEvidence(f"measurement {index} of the manifest is there twice, or no digest")
        found[index] = digests
    if not found:
        raise BadEvidence("the manifest has no measurements")
    return Manifest(
        product=meta.get("product", ""),
        version=meta.get("colloquialVersion", ""),
        sha256=sha256(xml).hexdigest(),
        measurements=MappingProxyType(found),
    )
