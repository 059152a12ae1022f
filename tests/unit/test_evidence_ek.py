"""Whose TPM an endorsement key lives in: a listed maker's, a simulation's, or nobody's we know."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from assay_core.errors import FileError
from assay_core.evidence import ek, path, tpm
from tests.fakes.endorsing import (
    EK_MARKS,
    NOW_MS,
    TPM,
    Issuer,
    Maker,
    authority_marks,
    common,
    der,
    subordinate,
    tpm_name,
    usage,
)

SWTPM = json.loads((Path(__file__).parents[1] / "golden" / "ek_swtpm.json").read_text())
LATER_MS = NOW_MS + 86_400_000 * 365


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(65_537, 2048)


def check(certificates, maker, now_ms=NOW_MS):
    return ek.verify(certificates, now_ms, roots=maker.roots)


def refused(certificates, maker, why, now_ms=NOW_MS):
    """Refused as what does not hold, which is another thing than a maker nobody knows."""
    with pytest.raises(tpm.BadTpm, match=why) as caught:
        check(certificates, maker, now_ms)
    assert not isinstance(caught.value, ek.UntrustedTpm)


def test_a_good_certificate_names_the_tpm_its_key_and_its_root(maker, key):
    found = check(maker.endorse(key), maker)
    assert (found.manufacturer, found.model, found.version) == ("IFX", "SLB9670", "id:0D0D")
    assert (found.root_sha256, found.root_name) == (maker.sha256, "Test TPM Root CA")
    assert found.issuer == "CN=Test TPM Manufacturing CA 001"
    assert found.key.public_numbers() == key.public_key().public_numbers()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found.spki_sha256 == hashlib.sha256(spki).hexdigest()
    assert not found.virtual


def test_the_root_may_come_along_or_be_left_out(maker, key):
    sent = maker.endorse(key)
    assert check([*sent, der(maker.root.certificate)], maker) == check(sent, maker)
    assert check(maker.endorse(key, by=maker.root)[:1], maker).root_sha256 == maker.sha256


def test_a_subject_or_none_and_an_alternative_name_critical_or_not(maker, key):
    for critical in (True, False):
        marks = (*EK_MARKS[:-1], (TPM, critical))
        assert check(maker.endorse(key, marks), maker).manufacturer == "IFX"
        named = maker.endorse(key, marks, subject=common("unknown"))
        assert check(named, maker).manufacturer == "IFX"


def test_a_purpose_may_be_left_out_and_an_id_that_is_no_letters_stays(maker, key):
    odd = tpm_name("id:00000001", "m", "v")
    marks = (EK_MARKS[0], EK_MARKS[1], (odd, True))
    assert check(maker.endorse(key, marks), maker).manufacturer == "id:00000001"


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
OTHER = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
CA_FALSE, ENCIPHERS, FOR_EKS, NAMED = EK_MARKS
TWICE = x509.SubjectAlternativeName(
    [x509.DirectoryName(next(iter(TPM)).value), x509.DirectoryName(next(iter(TPM)).value)]
)
LEAVES = {
    "is an authority": ((*authority_marks(), FOR_EKS, NAMED), "encrypted to"),
    "may sign certificates": (
        (CA_FALSE, usage(encipher=True, sign_certificates=True), FOR_EKS, NAMED),
        "encrypted to",
    ),
    "may have nothing encrypted to it": ((CA_FALSE, usage(sign=True), FOR_EKS, NAMED), "encrypted"),
    "does not say what it may do": ((CA_FALSE, FOR_EKS, NAMED), "encrypted to"),
    "is for something else": ((CA_FALSE, ENCIPHERS, (OTHER, False), NAMED), "something else"),
    "names no TPM": ((CA_FALSE, ENCIPHERS, FOR_EKS), "malformed"),
    "names its TPM twice": ((CA_FALSE, ENCIPHERS, FOR_EKS, (TWICE, True)), "once"),
    "names a host": (
        (CA_FALSE, ENCIPHERS, (x509.SubjectAlternativeName([x509.DNSName("a")]), True)),
        "once",
    ),
    "has an unknown critical extension": ((*EK_MARKS, (UNKNOWN, True)), "1.2.3.4"),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_certificate_is_refused_that(name, maker, key):
    marks, why = LEAVES[name]
    refused(maker.endorse(key, marks), maker, why)


def test_a_certificate_that_nobody_could_have_made_is_refused_by_name(maker):
    """Nobody signed it yet when it is read: whatever the library raises over it has to be known."""
    own = ec.generate_private_key(ec.SECP256R1())
    sent = maker.endorse(own)
    for old, new in (
        ("06082a8648ce3d030107", "06082a8648ce3d03017f"),  # a curve that is none
        ("0603551d0f", "0603551d13"),  # an extension twice
        ("a003020102", "a003020107"),  # version 8
        ("3044a442", "3044a342"),  # an X.400 address in place of a directory name
    ):
        changed = sent[0].replace(bytes.fromhex(old), bytes.fromhex(new))
        assert changed != sent[0]
        refused([changed, sent[1]], maker, "malformed")


def test_an_unknown_extension_that_is_not_critical_is_left_aside(maker, key):
    assert check(maker.endorse(key, (*EK_MARKS, (UNKNOWN, False))), maker).manufacturer == "IFX"


def test_only_rsa_keys_of_a_tpms_size_are_taken(maker):
    for bad in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65_537, 1024)):
        refused(maker.endorse(bad), maker, "2048 to 4096")


def test_a_certificate_is_judged_as_of_now_and_its_issuers_too(maker, key):
    soon = dt.datetime.fromtimestamp(NOW_MS / 1000 + 60, dt.UTC)
    expiring = maker.manufacturing.issue(common("ek"), key, EK_MARKS, until=soon)
    sent = [der(expiring), der(maker.manufacturing.certificate)]
    assert check(sent, maker).manufacturer == "IFX"
    refused(sent, maker, "not valid", LATER_MS)
    refused(sent, maker, "not valid", 0)
    own = ec.generate_private_key(ec.SECP256R1())
    brief = Issuer(own, maker.root.issue(common("brief"), own, authority_marks(), until=soon))
    sent = maker.endorse(key, by=brief)
    assert check(sent, maker).manufacturer == "IFX"
    refused(sent, maker, "brief: not valid", LATER_MS)


def test_signatures_are_by_sha2_and_nothing_else(maker, key):
    rsa_key = rsa.generate_private_key(65_537, 2048)
    issuer = Issuer(rsa_key, maker.root.issue(common("rsa"), rsa_key, authority_marks()))
    for algorithm in (hashes.SHA256(), hashes.SHA384(), hashes.SHA512()):
        made = issuer.issue(common("ek"), key, EK_MARKS, algorithm=algorithm)
        assert check([der(made), der(issuer.certificate)], maker).manufacturer == "IFX"
    for algorithm in (hashes.SHA224(), hashes.SHA3_256()):
        made = issuer.issue(common("ek"), key, EK_MARKS, algorithm=algorithm)
        refused([der(made), der(issuer.certificate)], maker, "not taken here")


def test_issuers_must_be_able_to_issue_and_no_deeper_than_they_may(maker, key):
    leaf_marks = ((x509.BasicConstraints(ca=False, path_length=None), True), usage(sign=True))
    for marks in (leaf_marks, authority_marks()[:1], authority_marks()[1:]):
        other = subordinate(maker.root, "other", marks)
        refused(maker.endorse(key, by=other), maker, "may not sign certificates")
    shallow = subordinate(maker.root, "shallow", authority_marks(path_length=0))
    assert check(maker.endorse(key, by=shallow), maker).manufacturer == "IFX"
    deeper = subordinate(shallow, "deeper")
    sent = [*maker.endorse(key, by=deeper), der(shallow.certificate)]
    refused(sent, maker, "shallow: may not have so many")
    odd = subordinate(maker.root, "odd", (*authority_marks(), (UNKNOWN, True)))
    refused(maker.endorse(key, by=odd), maker, "1.2.3.4")


def test_certificates_that_do_not_lead_to_one_another_are_refused(maker, key):
    sent, stranger = maker.endorse(key), Maker()
    refused([sent[0], der(maker.root.certificate)], maker, "not issued by")
    refused([stranger.endorse(key)[0], sent[1]], maker, "not issued by")
    refused([sent[0], sent[0], sent[1]], maker, "may not sign certificates")


def test_few_short_certificates_are_taken_and_nothing_else(maker, key):
    sent = maker.endorse(key)
    refused([], maker, "0 certificates")
    refused([sent[0]] * 7, maker, "7 certificates")
    refused([sent[0] + bytes(ek.CERTIFICATE_BYTES_MAX), sent[1]], maker, "more than")
    for junk in (b"", b"\x30\x00", sent[0][:-1], sent[0] + b"\0", b"-----BEGIN CERTIFICATE-----"):
        refused([junk, sent[1]], maker, "malformed")


def test_a_maker_nobody_listed_is_told_apart_from_a_certificate_that_does_not_hold(maker, key):
    sent = Maker().endorse(key)
    with pytest.raises(ek.UntrustedTpm, match="no listed root") as caught:
        check(sent, maker)
    assert caught.value.issuer == "CN=Test TPM Manufacturing CA 001"
    assert caught.value.spki_sha256 == check(maker.endorse(key), maker).spki_sha256
    assert not caught.value.virtual


def test_a_root_of_the_same_name_is_another_root(maker, key):
    """Its own key signs: the name of a listed root is not enough."""
    false = Maker()
    assert false.root.certificate.subject == maker.root.certificate.subject
    for sent in (
        false.endorse(key),
        [*false.endorse(key), der(false.root.certificate)],
        false.endorse(key, by=false.root)[:1],
    ):
        with pytest.raises(ek.UntrustedTpm):
            check(sent, maker)


def test_of_two_listed_roots_of_one_name_the_one_that_signed_counts(maker, key):
    twin = Maker()
    roots = twin.roots | maker.roots
    for one in (maker, twin):
        found = ek.verify(one.endorse(key), NOW_MS, roots=roots)
        assert found.root_sha256 == one.sha256


def sent_by_swtpm(name="ek_rsa", *more):
    return [bytes.fromhex(SWTPM[one]) for one in (name, "issuer", *more)]


SWTPM_NOW_MS = int(dt.datetime(2027, 6, 1, tzinfo=dt.UTC).timestamp() * 1000)


def test_a_software_tpm_is_nobodys_that_is_listed_and_is_seen_to_be_one():
    for more in ((), ("root",)):
        with pytest.raises(ek.UntrustedTpm, match="as software's") as caught:
            ek.verify(sent_by_swtpm("ek_rsa", *more), SWTPM_NOW_MS)
        assert caught.value.virtual


def test_a_policy_may_name_the_root_of_a_software_tpm_which_stays_virtual():
    root = hashlib.sha256(bytes.fromhex(SWTPM["root"])).hexdigest()
    found = ek.verify(sent_by_swtpm("ek_rsa", "root"), SWTPM_NOW_MS, simulated={root})
    assert found.virtual
    assert (found.model, found.root_name) == ("swtpm", "swtpm-localca-rootca")
    assert found.root_sha256 == root
    with pytest.raises(ek.UntrustedTpm):
        ek.verify(sent_by_swtpm(), SWTPM_NOW_MS, simulated={root})
    with pytest.raises(tpm.BadTpm, match="encrypted to"):
        ek.verify(sent_by_swtpm("ek_ecc", "root"), SWTPM_NOW_MS, simulated={root})


def test_a_named_root_makes_any_tpm_virtual(maker, key):
    sent = [*maker.endorse(key), der(maker.root.certificate)]
    assert ek.verify(sent, NOW_MS, roots={}, simulated={maker.sha256}).virtual


@pytest.mark.parametrize(
    ("manufacturer", "model", "issuer"),
    [
        ("id:474F4F47", "vTPM", "EK/AK CA Intermediate"),  # GOOG
        ("id:414D5A4E", "NitroTPM", "Amazon"),  # AMZN
        ("id:4D534654", "model", "Azure Virtual TPM CA"),  # MSFT
        ("id:564D5700", "VMware TPM2", "VMware"),  # VMW
        ("id:00001014", "swtpm", "swtpm-localca"),
        ("id:474F4F47", "model", "issuer"),
        ("id:414D5A4E", "model", "issuer"),
        ("id:49424D00", "model", "issuer"),  # IBM, as libtpms says it is
        ("id:49465800", "SLB9670", "Google Cloud EK"),
        ("id:49465800", "Virtual TPM", "issuer"),
    ],
)
def test_clouds_and_hypervisors_are_seen_by_their_names(manufacturer, model, issuer, maker, key):
    by = subordinate(maker.root, issuer)
    marks = (*EK_MARKS[:-1], (tpm_name(manufacturer, model, "v"), True))
    assert check(maker.endorse(key, marks, by=by), maker).virtual


def test_text_in_a_certificate_cannot_steer_a_terminal(maker, key):
    marks = (*EK_MARKS[:-1], (tpm_name("\x1b[2J", "a\nb", "v" * 60), True))
    found = check(maker.endorse(key, marks, by=subordinate(maker.root, "\x1b[2J\n")), maker)
    for text in (found.manufacturer, found.model, found.issuer):
        assert text.isprintable()


def test_the_list_is_of_roots_that_sign_themselves_and_are_what_they_are_listed_as():
    assert ek.TPM_ROOTS_VERSION == 1
    assert len(ek.TPM_ROOTS) == 16
    for sha256, root in ek.TPM_ROOTS.items():
        certificate = root.certificate
        assert sha256 == hashlib.sha256(der(certificate)).hexdigest() == root.sha256
        certificate.verify_directly_issued_by(certificate)
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        assert certificate.not_valid_after_utc > dt.datetime(2035, 1, 1, tzinfo=dt.UTC)
        assert not root.virtual
    makers = {root.manufacturer for root in ek.TPM_ROOTS.values()}
    assert makers == {"AMD", "Infineon", "NSING", "Nuvoton", "STMicroelectronics"}


def test_a_damaged_list_is_no_list():
    text = (Path(ek.__file__).parent / f"tpm_roots_v{ek.TPM_ROOTS_VERSION}.pem").read_text()
    assert set(ek.read_list(text)) == set(ek.TPM_ROOTS)
    first = next(iter(ek.TPM_ROOTS))
    for damaged in (
        text.replace(first, "0" * 64),
        text.replace(f"# sha256 {first}\n", ""),
        text.replace("# AMD | AMDTPM\n", ""),
        "",
    ):
        assert damaged != text
        with pytest.raises(FileError, match="damaged"):
            ek.read_list(damaged)


PUBLISHED = {
    "Infineon OPTIGA(TM) RSA Root CA": "ec5a33da342059e79586ab977be057dab0af2d8d",
    "Infineon OPTIGA(TM) ECC Root CA": "166fbf09216b897faad1e37dfbb6389eb39ea8b2",
    "GlobalSign Trusted Platform Module Root CA": "e75f25c5185a3ad607b9142ead7fd802cc9bc4f9",
    "NPCTxxx ECC521 RootCA": "7c7b3c8a465e67d28f4db0f35ce120c4bb4aaccc",
    "NuvotonTPMRootCA1210": "86a99e10f6b11e41bd19d8ef79dbc95af4d3c3ed",
    "NuvotonTPMRootCA2210": "4ad6ddbd52522c521cbf9299c446263f3481a67a",
    "NuvotonTPMRootCA2211": "5e748790694f6a7f6eabaf701526863cddfe6dac",
}
"""SHA-1 fingerprints as their makers give them; Nuvoton's are in its document on EK certificate
chains, revision 2.2."""


def test_the_listed_roots_have_the_fingerprints_that_were_published():
    found = {
        root.name: root.certificate.fingerprint(hashes.SHA1()).hex()
        for root in ek.TPM_ROOTS.values()
        if root.name in PUBLISHED
    }
    assert found == PUBLISHED


@given(st.data())
def test_no_changed_certificate_is_believed_as_another(maker, sent, data):
    """A change outside what is signed may still read; what it says is what was signed."""
    good = check(sent, maker)
    which = data.draw(st.integers(0, 1))
    at = data.draw(st.integers(0, len(sent[which]) - 1))
    cut = data.draw(st.integers(0, 4))
    changed = list(sent)
    changed[which] = sent[which][:at] + data.draw(st.binary(max_size=4)) + sent[which][at + cut :]
    try:
        found = check(changed, maker)
    except tpm.BadTpm:
        return
    assert found == good


@pytest.fixture(scope="module")
def sent(maker, key):
    return maker.endorse(key)


@given(st.lists(st.binary(max_size=300), max_size=4))
def test_any_bytes_are_certificates_or_are_refused(blobs):
    with pytest.raises(tpm.BadTpm):
        ek.verify(blobs, NOW_MS)


def test_the_makers_own_authorities_lead_to_the_listed_roots():
    """Real ones, as far down as makers publish: no endorsement key's own certificate is among them."""
    text = (Path(__file__).parents[1] / "golden" / "tpm_intermediates.pem").read_bytes()
    infineon, stm, stm_root = x509.load_pem_x509_certificates(text)
    for path_, root in (
        ((infineon,), "Infineon OPTIGA(TM) ECC Root CA"),
        ((stm, stm_root), "GlobalSign Trusted Platform Module Root CA"),
    ):
        found = ek._anchor(path_[-1], ek.TPM_ROOTS, ())
        assert found is not None
        assert found.name == root
        path.verify((*path_, found.certificate), NOW_MS, known=ek._SEEN_TO)


def test_policies_bind_nobody_here_and_constraints_of_them_are_refused(maker, key):
    """STMicroelectronics marks its policies critical; with no policy asked for, all will do."""
    policies = x509.CertificatePolicies(
        [x509.PolicyInformation(x509.ObjectIdentifier("2.5.29.32.0"), None)]
    )
    by = subordinate(maker.root, "stm", (*authority_marks(), (policies, True)))
    assert check(maker.endorse(key, by=by), maker).manufacturer == "IFX"
    constraints = x509.PolicyConstraints(require_explicit_policy=0, inhibit_policy_mapping=None)
    by = subordinate(maker.root, "strict", (*authority_marks(), (constraints, True)))
    refused(maker.endorse(key, by=by), maker, r"2\.5\.29\.36 is not known")
