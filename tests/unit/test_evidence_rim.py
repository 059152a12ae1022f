"""Reference manifests: signed by who may, as of the evidence, and held against its measurements."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml import DigestAlgorithm, SignatureMethod, XMLSigner

from assay_core.evidence import forms, nvidia, rim, spdm
from assay_core.instants import parse_instant
from tests.fakes.nvidia import NOW_MS, Authority, authority, issue, request, response

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "evidence"
C14N = "http://www.w3.org/2006/12/xml-c14n11"
TAG = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384 = "http://www.w3.org/2001/04/xmlenc#sha384"


def digest(report_index: int) -> str:
    """What `response` measures at this index."""
    return bytes([report_index]).hex() * 48


def resource(index, hashes, active="True"):
    named = " ".join(f'n:Hash{n}="{value}"' for n, value in enumerate(hashes))
    return (
        f'<Resource type="Measurement" index="{index}" active="{active}" '
        f'alternatives="{len(hashes)}" {named}/>'
    )


def manifest(*resources, head=""):
    return (
        f'{head}<SoftwareIdentity xmlns="{TAG}" xmlns:n="{SHA384}" name="GH100">'
        f'<Meta colloquialVersion="96.00.9F.00.01" product="GH100"/>'
        f"<Payload>{''.join(resources)}</Payload></SoftwareIdentity>"
    )


GOOD = manifest(
    resource(0, [digest(1)]),
    resource(1, ["00" * 48, digest(2)]),
    resource(2, ["11" * 48], active="False"),
)


class Publisher:
    """Who signs manifests: a root, and a signer under it."""

    def __init__(self) -> None:
        self.root = authority("Test RIM Root")
        key = ec.generate_private_key(ec.SECP384R1())
        self.signer = Authority("signer", key, issue("signer", key, self.root, ca=False))

    def sign(self, text, chain=None, digests=DigestAlgorithm.SHA384):
        signer = XMLSigner(
            signature_algorithm=SignatureMethod.ECDSA_SHA384,
            digest_algorithm=digests,
            c14n_algorithm=C14N,
        )
        certificates = chain or [self.signer.certificate, self.root.certificate]
        pem = "".join(one.public_bytes(Encoding.PEM).decode() for one in certificates)
        signed = signer.sign(etree.fromstring(text.encode()), key=self.signer.key, cert=pem)
        return etree.tostring(signed)

    def read(self, xml, at_ms=NOW_MS):
        return rim.read(xml, at_ms=at_ms, roots={self.root.sha256})


@pytest.fixture(scope="module")
def publisher():
    return Publisher()


def report():
    return spdm.parse(request(bytes(32)) + response({}) + bytes(96))


def test_a_manifest_says_what_may_be_measured(publisher):
    found = publisher.read(publisher.sign(GOOD))
    assert (found.product, found.version) == ("GH100", "96.00.9F.00.01")
    assert sorted(found.measurements) == [0, 1]
    assert rim.mismatches(found, report()) == ()


def test_what_was_measured_otherwise_or_not_at_all_is_named(publisher):
    other = manifest(resource(0, [digest(1)]), resource(1, ["00" * 48]), resource(9, ["00" * 48]))
    assert rim.mismatches(publisher.read(publisher.sign(other)), report()) == (1, 9)


def test_no_change_of_a_manifest_is_believed(publisher):
    signed = publisher.sign(GOOD)
    for old, new in ((digest(1), "22" * 48), ('index="1"', 'index="7"'), ("GH100", "GB100")):
        changed = signed.replace(old.encode(), new.encode(), 1)
        assert changed != signed
        with pytest.raises(nvidia.BadEvidence, match="does not hold"):
            publisher.read(changed)


def test_what_stands_outside_the_signature_is_not_read(publisher):
    """The signed document is wrapped in another that says otherwise."""
    signed = publisher.sign(GOOD).decode()
    wrapped = GOOD.replace("</SoftwareIdentity>", f"{signed}</SoftwareIdentity>")
    with pytest.raises(nvidia.BadEvidence):
        publisher.read(wrapped.encode())


def test_a_signer_under_no_pinned_root_is_refused(publisher):
    stranger = Publisher()
    with pytest.raises(nvidia.BadEvidence, match="pinned"):
        publisher.read(stranger.sign(GOOD))
    swapped = stranger.sign(GOOD, [stranger.signer.certificate, publisher.root.certificate])
    with pytest.raises(nvidia.BadEvidence, match="not issued by"):
        publisher.read(swapped)


def test_a_manifest_is_judged_at_the_time_of_its_evidence(publisher):
    with pytest.raises(nvidia.BadEvidence, match="not valid at that time"):
        publisher.read(publisher.sign(GOOD), at_ms=parse_instant("2021-01-01T00:00:00Z"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (manifest(resource(0, ["00" * 32])), "no digest"),
        (manifest(resource(0, ["00" * 48]), resource(0, ["00" * 48])), "twice"),
        (manifest(resource("x", ["00" * 48])), "malformed"),
        (manifest(resource(0, [])), "no digest"),
        (f'<SoftwareIdentity xmlns="{TAG}"/>', "no measurements"),
    ],
)
def test_a_manifest_is_refused_that_measures_nonsense(publisher, text, why):
    with pytest.raises(nvidia.BadEvidence, match=why):
        publisher.read(publisher.sign(text))


def test_weaker_digests_document_types_and_junk_are_refused(publisher):
    with pytest.raises(nvidia.BadEvidence):
        publisher.read(publisher.sign(GOOD, digests=DigestAlgorithm.SHA256))
    typed = b'<!DOCTYPE a [<!ENTITY e "x">]>' + publisher.sign(GOOD)
    for junk in (typed, b"", b"<a/>", b"<", b"\xff" * 100, b"<a/>" * (1 << 19)):
        with pytest.raises(nvidia.BadEvidence):
            publisher.read(junk)


def test_nvidias_own_manifest_matches_the_report_it_is_of(leave_out):
    if not SAMPLES.is_dir():
        leave_out("NVIDIA's sample evidence is not beside the project")
    xml = (SAMPLES / "hopper_b.vbios.rim.xml").read_bytes()
    at_ms = parse_instant("2024-06-01T00:00:00Z")
    found = rim.read(xml, at_ms=at_ms)
    assert hashlib.sha256(xml).hexdigest() == found.sha256
    for name, matches in (("hopper_b", True), ("hopper_a", False)):
        (named,) = forms.read(
            (SAMPLES / f"{name}.report.hex").read_bytes(),
            (SAMPLES / f"{name}.chain.pem").read_bytes(),
        )
        proof = nvidia.verify(named.evidence, nonce=None, now_ms=at_ms)
        assert (proof.vbios == found.version) is matches
        assert (rim.mismatches(found, proof.report) == ()) is matches
    assert len(found.measurements) == 12
    with pytest.raises(nvidia.BadEvidence, match="not valid"):
        rim.read(xml, at_ms=NOW_MS)
