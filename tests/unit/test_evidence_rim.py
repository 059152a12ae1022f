"""Reference manifests: signed by who may, as of the evidence, and held against its measurements."""

from __future__ import annotations

import datetime as dt
import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml import DigestAlgorithm, SignatureMethod, XMLSigner

from assay_core.evidence import forms, nvidia, rim, spdm
from assay_core.instants import parse_instant
from tests.fakes.nvidia import NOW_MS, Authority, Maker, authority, issue, request, response

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


@pytest.mark.parametrize(
    "element", ["SignatureValue", "DigestValue", "SignedInfo", "SignatureMethod", "X509Certificate"]
)
def test_a_signature_that_is_no_signature_is_refused_by_name(element, publisher):
    """Found by fuzzing: what is not even of the schema has an error of its own."""
    signed = publisher.sign(GOOD).decode()
    for old, new in (
        (f"ds:{element}", "ds:Other"),
        (f"<ds:{element}>", f"<ds:{element}/><ds:{element}>"),
    ):
        changed = signed.replace(old, new)
        assert changed != signed or element == "SignatureMethod"
        if changed != signed:
            with pytest.raises(nvidia.BadEvidence):
                publisher.read(changed.encode())


def test_what_stands_outside_the_signature_is_not_read(publisher):
    """The signed document is wrapped in another that says otherwise."""
    signed = publisher.sign(GOOD).decode()
    wrapped = GOOD.replace("</SoftwareIdentity>", f"{signed}</SoftwareIdentity>")
    with pytest.raises(nvidia.BadEvidence):
        publisher.read(wrapped.encode())


def test_there_is_one_signature_and_it_is_the_documents_own(publisher):
    """Signature wrapping: what was signed is moved, doubled, or joined by what nobody signed."""
    signed = publisher.sign(GOOD).decode()
    start, end = signed.index("<ds:Signature"), signed.index("</ds:Signature>") + 15
    signature, without = signed[start:end], signed[:start] + signed[end:]
    assert publisher.read(signed.encode()).version == "96.00.9F.00.01"
    false = GOOD.replace("96.00.9F", "96.00.00").replace(digest(2), "33" * 48)
    for changed in (
        without,
        signed[:end] + signature + signed[end:],
        without.replace("<Payload>", f"<Payload>{signature}"),
        false.replace("</SoftwareIdentity>", f"<Object>{signed}</Object></SoftwareIdentity>"),
        false.replace("</SoftwareIdentity>", f"{signature}</SoftwareIdentity>"),
        f"<Wrap>{signed}</Wrap>",
        f'<SoftwareIdentity xmlns="{TAG}">{signed}</SoftwareIdentity>',
    ):
        with pytest.raises(nvidia.BadEvidence):
            publisher.read(changed.encode())


def test_a_signature_over_a_part_is_no_signature_over_the_manifest(publisher):
    """The signer signed an element of the manifest's name that lies deeper; the rest is ours."""
    inner = etree.fromstring(GOOD.encode())
    inner.set("Id", "inner")
    outer = etree.fromstring(GOOD.replace("96.00.9F", "96.00.00").encode())
    outer.append(inner)
    signer = XMLSigner(
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm=C14N,
    )
    pem = "".join(
        one.public_bytes(Encoding.PEM).decode()
        for one in (publisher.signer.certificate, publisher.root.certificate)
    )
    signed = signer.sign(outer, key=publisher.signer.key, cert=pem, reference_uri="#inner")
    with pytest.raises(nvidia.BadEvidence, match="does not cover it whole"):
        publisher.read(etree.tostring(signed))


def laughs(depth):
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, depth))
    return f'<!DOCTYPE s [<!ENTITY l0 "ha">{entities}]>'


ENTITIES = {
    "a billion laughs": (laughs(10), "<s>&l9;</s>"),
    "laughs in an attribute": (laughs(10), '<s a="&l9;"/>'),
    "a local file": ('<!DOCTYPE s [<!ENTITY e SYSTEM "file:///etc/passwd">]>', "<s>&e;</s>"),
    "a parameter entity": ('<!DOCTYPE s [<!ENTITY % p SYSTEM "file:///x"> %p;]>', "<s/>"),
    "a document type elsewhere": ('<!DOCTYPE s SYSTEM "http://127.0.0.1:1/s.dtd">', "<s/>"),
}


@pytest.mark.parametrize("name", ENTITIES)
def test_entities_are_refused_before_they_are_read(name, publisher):
    kind, body = ENTITIES[name]
    for text in (kind + body, f'<?xml version="1.0"?>{kind}{body}'):
        with pytest.raises(nvidia.BadEvidence, match="no document type"):
            publisher.read(text.encode())
    good = publisher.sign(GOOD).decode()
    with pytest.raises(nvidia.BadEvidence, match="no document type"):
        publisher.read((kind + good).encode())


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-7", "cp037"])
def test_a_document_type_cannot_hide_in_another_encoding(encoding, publisher):
    kind, _ = ENTITIES["a billion laughs"]
    good = publisher.sign(GOOD).decode()
    assert publisher.read(f'<?xml version="1.0" encoding="utf-8"?>{good}'.encode()).product
    for text in (kind + good, good):
        declared = f'<?xml version="1.0" encoding="{encoding}"?>{text}'
        with pytest.raises(nvidia.BadEvidence):
            publisher.read(declared.encode(encoding))
    if encoding == "utf-7":  # the declaration stays in ASCII, and so a parser would follow it
        hidden = kind.replace("<!", "+ADwAIQ-")
        declared = f'<?xml version="1.0" encoding="UTF-7"?>{hidden}{good}'
        with pytest.raises(nvidia.BadEvidence):
            publisher.read(declared.encode())


def test_too_long_too_deep_and_too_many_are_refused(publisher):
    good = publisher.sign(GOOD)
    with pytest.raises(nvidia.BadEvidence, match="at most"):
        publisher.read(good + b" " * rim.RIM_BYTES_MAX)
    with pytest.raises(nvidia.BadEvidence, match="does not hold"):
        publisher.read(b"<a>" * 100_000)
    many = resource(0, [digest(1)]).replace('alternatives="1"', 'alternatives="1000000000"')
    with pytest.raises(nvidia.BadEvidence, match="1000000000 alternatives"):
        publisher.read(publisher.sign(manifest(many)))
    crowd = [publisher.signer.certificate, *[publisher.root.certificate] * 8]
    with pytest.raises(nvidia.BadEvidence, match="9 certificates"):
        publisher.read(publisher.sign(GOOD, crowd))


def test_the_signer_may_sign_and_those_above_it_may_certify(publisher):
    def signed_by(*, through_authority, **options):
        key = ec.generate_private_key(ec.SECP384R1())
        above = publisher.root
        chain = [publisher.root.certificate]
        if through_authority is not None:
            own = ec.generate_private_key(ec.SECP384R1())
            above = Authority("mid", own, issue("mid", own, publisher.root, **through_authority))
            chain.insert(0, above.certificate)
        own_signer = Authority("signer", key, issue("signer", key, above, **options))
        other = Publisher.__new__(Publisher)
        other.root, other.signer = publisher.root, own_signer
        return other.sign(GOOD, [own_signer.certificate, *chain])

    assert publisher.read(signed_by(through_authority={}, ca=False)).product
    for options, why in (
        ({"through_authority": None, "ca": True}, "may not sign it"),
        ({"through_authority": None, "ca": False, "cert_sign": True}, "may not sign it"),
        ({"through_authority": {"ca": False}, "ca": False}, "may not sign certificates"),
        (
            {"through_authority": None, "ca": False, "algorithm": hashes.SHA256()},
            "not taken here",
        ),
    ):
        with pytest.raises(nvidia.BadEvidence, match=why):
            publisher.read(signed_by(**options))


def test_a_manifest_whose_signer_has_expired_holds_as_of_its_evidence(publisher):
    until = dt.datetime(2025, 6, 22, tzinfo=dt.UTC)
    key = ec.generate_private_key(ec.SECP384R1())
    other = Publisher.__new__(Publisher)
    certificate = issue("signer", key, publisher.root, ca=False, until=until)
    other.root, other.signer = publisher.root, Authority("signer", key, certificate)
    signed = other.sign(GOOD)
    before_ms = parse_instant("2025-06-21T00:00:00Z")
    assert publisher.read(signed, at_ms=before_ms).product == "GH100"
    with pytest.raises(nvidia.BadEvidence, match="signer: not valid at that time"):
        publisher.read(signed)


def test_a_manifest_of_another_product_or_version_is_not_this_proofs(publisher):
    maker = Maker()
    evidence = maker.device(1).answer(bytes(32))
    proof = nvidia.verify(evidence, nonce=bytes(32), now_ms=NOW_MS, roots=maker.roots)
    found = publisher.read(publisher.sign(GOOD))
    assert (proof.device.chip, proof.vbios, proof.driver) == (
        "GH100", "96.00.9F.00.01", "590.48.01",
    )  # fmt: skip
    assert rim.matches(found, proof)
    of_driver = GOOD.replace("96.00.9F.00.01", "590.48.01")
    assert rim.matches(publisher.read(publisher.sign(of_driver)), proof)
    for other in (
        GOOD.replace('product="GH100"', 'product="GB100"'),
        GOOD.replace("96.00.9F.00.01", "96.00.9F.00.02"),
        GOOD.replace(' product="GH100"', ""),
        GOOD.replace('colloquialVersion="96.00.9F.00.01" ', ""),
    ):
        assert not rim.matches(publisher.read(publisher.sign(other)), proof)
    silent = maker.device(2).answer(bytes(32), {3: b"", 6: bytes(8)})
    proof = nvidia.verify(silent, nonce=bytes(32), now_ms=NOW_MS, roots=maker.roots)
    nameless = GOOD.replace('colloquialVersion="96.00.9F.00.01" ', "")
    assert not rim.matches(publisher.read(publisher.sign(nameless)), proof)


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
        (manifest(), "no measurements"),
        (manifest(resource(0, ["00" * 48], active="False")), "no measurements"),
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
        assert rim.matches(found, proof) is matches
        assert (rim.mismatches(found, proof.report) == ()) is matches
    assert len(found.measurements) == 12
    with pytest.raises(nvidia.BadEvidence, match="not valid"):
        rim.read(xml, at_ms=NOW_MS)
