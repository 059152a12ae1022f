"""Device evidence: what is believed, and every way in which it is not."""

from __future__ import annotations

import base64
import datetime as dt
import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core.evidence import chain, forms, nvidia, spdm
from tests.fakes.nvidia import (
    NOW_MS,
    Authority,
    Maker,
    authority,
    baseboard,
    composite_device_id,
    issue,
    request,
    response,
    tcb_info,
)

NONCE = bytes(range(100, 132))
P384 = ec.SECP384R1()
TCB = x509.ObjectIdentifier("2.23.133.5.4.1.1")
CDI = x509.ObjectIdentifier("2.23.133.5.4.1")


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture(scope="module")
def gpu(maker):
    return maker.device(0x0123_4567_89AB_CDEF)


def check(evidence, maker, nonce=NONCE):
    return nvidia.verify(evidence, nonce=nonce, now_ms=NOW_MS, roots=maker.roots)


def refused(evidence, maker, why, nonce=NONCE):
    with pytest.raises(nvidia.BadEvidence, match=why):
        check(evidence, maker, nonce)


def test_a_good_report_names_its_device(maker, gpu):
    proof = check(gpu.answer(NONCE), maker)
    assert proof.device.kind == "gpu"
    assert proof.device.chip == "GH100"
    assert proof.device.pdi == 0x0123_4567_89AB_CDEF
    assert (proof.driver, proof.vbios, proof.nonce) == ("590.48.01", "96.00.9F.00.01", NONCE)
    assert proof.firmware_bound


def test_the_identity_stays_when_firmware_changes(maker):
    card = maker.device(7)
    before = check(card.answer(NONCE), maker)
    card.update(bytes(48))
    after = check(card.answer(NONCE), maker)
    assert before.device.identity == after.device.identity
    assert before.device.fwids != after.device.fwids


def test_a_root_that_is_not_pinned_is_not_believed(maker, gpu):
    evidence = gpu.answer(NONCE)
    with pytest.raises(nvidia.BadEvidence, match="pinned"):
        nvidia.verify(evidence, nonce=NONCE, now_ms=NOW_MS)
    refused(Maker().device(1).answer(NONCE), maker, "pinned")


def test_a_root_of_the_same_name_is_another_root(maker):
    """The sent root is swapped for the pinned one: then nothing under it was issued by it."""
    stranger = Maker().device(1)
    evidence = stranger.answer(NONCE)
    swapped = (*evidence.chain[:-1], maker.root.certificate)
    refused(nvidia.Evidence(evidence.report, swapped), maker, "not issued by")


def test_another_nonce_is_refused_and_an_unknown_one_is_not_asked(maker, gpu):
    refused(gpu.answer(bytes(32)), maker, "another nonce")
    assert check(gpu.answer(bytes(32)), maker, nonce=None).nonce == bytes(32)


def test_a_report_of_other_firmware_is_refused(maker, gpu):
    refused(gpu.answer(NONCE, {20: bytes(48)}), maker, "other firmware")


def test_the_twin_of_a_signature_verifies_too_so_reports_are_not_known_by_their_hash(maker, gpu):
    evidence = gpu.answer(NONCE)
    order = int(
        "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf"
        "581a0db248b0a77aecec196accc52973",
        16,
    )
    s = order - int.from_bytes(evidence.report[-48:], "big")
    twin = nvidia.Evidence(evidence.report[:-48] + s.to_bytes(48, "big"), evidence.chain)
    assert check(twin, maker).device == check(evidence, maker).device


def test_another_device_cannot_lend_its_certificate(maker, gpu):
    other = maker.device(9)
    refused(nvidia.Evidence(gpu.answer(NONCE).report, other.chain), maker, "not signed by")


def with_leaf(gpu, leaf, key=None):
    """The GPU's report signed again, under a leaf of our choice."""
    message = request(NONCE) + response({20: gpu.fwid})
    if key is not None:
        mended = type(gpu).sign
        own, gpu.key = gpu.key, key
        try:
            report = mended(gpu, message)
        finally:
            gpu.key = own
    else:
        report = gpu.sign(message)
    return nvidia.Evidence(report, (leaf, *gpu.chain[1:]))


def _extension(oid=CDI, value=None, fwid=bytes(range(48))):
    return x509.UnrecognizedExtension(oid, composite_device_id(fwid) if value is None else value)


def leaf(gpu, **changed):
    options = {"ca": False, "extensions": ((_extension(), False),)} | changed
    return issue("GH100 A01 GSP FMC LF", gpu.key, gpu.ik, **options)


LEAVES = {
    "signs certificates": ({"cert_sign": True}, "sign reports alone"),
    "is an authority": ({"ca": True}, "sign reports alone"),
    "is out of date": (
        {"until": dt.datetime(2023, 1, 1, tzinfo=dt.UTC)},
        "not valid at that time",
    ),
    "is signed with SHA-256": ({"algorithm": hashes.SHA256()}, "not taken here"),
    "has an unknown critical extension": (
        {
            "extensions": (
                (_extension(), False),
                (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
            )
        },
        "critical extension",
    ),
    "names no firmware": ({"extensions": ()}, "what firmware"),
    "names firmware twice": (
        {"extensions": ((_extension(), False), (_extension(TCB, tcb_info(bytes(48))), False))},
        "what firmware",
    ),
    "names malformed firmware": (
        {"extensions": ((_extension(value=b"\x30\x05\x02\x01"), False),)},
        "malformed",
    ),
    "names firmware by a short digest": (
        {"extensions": ((_extension(fwid=bytes(32)), False),)},
        "malformed",
    ),
}


@pytest.mark.parametrize("name", LEAVES)
def test_a_leaf_is_refused_that(name, maker, gpu):
    changed, why = LEAVES[name]
    refused(with_leaf(gpu, leaf(gpu, **changed)), maker, why)


def test_blackwells_way_to_name_firmware_is_read(maker, gpu):
    extension = _extension(TCB, tcb_info(bytes(range(48)), bytes(48)))
    evidence = with_leaf(gpu, leaf(gpu, extensions=((extension, False),)))
    assert check(evidence, maker).device.fwids == (bytes(range(48)), bytes(48))


def test_a_leaf_on_another_curve_is_refused(maker, gpu):
    key = ec.generate_private_key(ec.SECP256R1())
    other = issue(
        "GH100 A01 GSP FMC LF", key, gpu.ik, ca=False, extensions=((_extension(), False),)
    )
    refused(with_leaf(gpu, other), maker, "P-384")


def test_a_chain_is_five_long_in_its_order_and_without_detours(maker, gpu):
    evidence = gpu.answer(NONCE)
    leaf_, ik, *rest = evidence.chain
    for other in (
        (leaf_, ik),
        (leaf_, *rest),
        (leaf_, ik, *rest, rest[-1]),
        (ik, leaf_, *rest),
        (leaf_, ik, rest[1], rest[0], rest[2]),
        (),
    ):
        refused(nvidia.Evidence(evidence.report, other), maker, "certificates|issued by")


def test_an_identity_key_cannot_make_another_identity(maker, gpu):
    """The device's own key signs a second "device" below itself: one certificate too many."""
    key = ec.generate_private_key(P384)
    false = Authority("false", key, issue("GH100 A01 GSP BROM", key, gpu.ik, serial=0x41 << 64 | 5))
    own = ec.generate_private_key(P384)
    end = issue("GH100 A01 GSP FMC LF", own, false, ca=False, extensions=((_extension(), False),))
    evidence = with_leaf(gpu, end, own)
    longer = (end, false.certificate, *gpu.chain[1:])
    refused(nvidia.Evidence(evidence.report, longer), maker, "6 certificates")
    refused(nvidia.Evidence(evidence.report, longer[:4] + longer[-1:]), maker, "not issued by")


def test_an_identity_that_is_no_device_is_refused(maker):
    refused(maker.device(5, prefix=0x42).answer(NONCE), maker, "names no device")
    refused(maker.device(1, prefix=0).answer(NONCE), maker, "names no device")


def test_an_authority_that_may_not_sign_is_refused():
    root = authority("Test Device Identity CA")
    maker = Maker(root)
    key = maker.provisioner.key
    maker.provisioner = Authority(
        "weak", key, issue("weak", key, maker.identity, ca=False, cert_sign=False)
    )
    refused(maker.device(1).answer(NONCE), maker, "may not sign certificates")


def test_an_authority_on_another_curve_is_refused():
    maker = Maker()
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue("TEST GH100 Provisioner ICA 1", key, maker.identity)
    maker.provisioner = Authority("TEST GH100 Provisioner ICA 1", key, certificate)
    refused(maker.device(1).answer(NONCE), maker, "Provisioner ICA 1: the key is not on P-384")


def test_an_authority_may_not_have_more_below_it_than_it_may():
    root = authority("Test Device Identity CA")
    maker = Maker(root)
    shallow = x509.BasicConstraints(ca=True, path_length=0)
    key = maker.identity.key
    certificate = issue(
        "TEST GH100 Identity", key, root, ca=False, cert_sign=True, extensions=((shallow, True),)
    )
    maker.identity = Authority("TEST GH100 Identity", key, certificate)
    refused(maker.device(1).answer(NONCE), maker, "so many authorities")


def test_certificates_that_a_host_made_up_under_a_real_root_are_refused_by_name(maker, gpu):
    """What is no key, no name or no version is not looked at before its issuer's signature holds."""
    evidence = gpu.answer(NONCE)
    good = evidence.chain[1].public_bytes(Encoding.DER)
    p384 = bytes.fromhex("06052b81040022")
    for old, new in (
        (p384, bytes.fromhex("06052b8104007f")),  # a curve that is none
        (b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01", b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x7f"),
        (b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"),  # version 8
        (b"\x55\x1d\x0f", b"\x55\x1d\x13"),  # an extension twice
        (b"\x55\x04\x03", b"\x55\x04\x7f"),  # a name of no known kind
    ):
        assert old in good
        text = base64.encodebytes(good.replace(old, new)).decode()
        own = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n".encode()
        try:
            (made_up,) = chain.read(own)
        except chain.UntrustedChain:
            continue
        for place in (0, 1, 2, 3):
            false = [*evidence.chain]
            false[place] = made_up
            refused(
                nvidia.Evidence(evidence.report, tuple(false)), maker, "not issued by|malformed"
            )


REPORTS = {
    "an empty file": (lambda r: b"", "cut short"),
    "its last byte gone": (lambda r: r[:-1], "cut short"),
    "a byte more": (lambda r: r + b"\0", "after the signature"),
    "another SPDM version": (lambda r: b"\x12" + r[1:], "SPDM version"),
    "another request": (lambda r: r[:1] + b"\xe1" + r[2:], "request's code"),
    "no signature asked for": (lambda r: r[:2] + b"\x00" + r[3:], "no signature"),
    "another response": (lambda r: r[:38] + b"\x61" + r[39:], "response's code"),
    "a measurement more than counted": (lambda r: r[:41] + b"\x05" + r[42:], "do not take"),
    "a measurement twice": (lambda r: r[:100] + r[45:46] + r[101:], "twice"),
    "a raw measurement": (lambda r: r[:49] + b"\x81" + r[50:], "no digest"),
    "a measurement of another size": (lambda r: r[:47] + b"\x34" + r[48:], "not a digest"),
    "too much": (lambda r: r + bytes(0x2000), "at most"),
}


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_refused_with(name, maker, gpu):
    change, why = REPORTS[name]
    evidence = gpu.answer(NONCE)
    refused(nvidia.Evidence(change(evidence.report), evidence.chain), maker, why)


def test_an_opaque_field_twice_or_cut_short_is_refused(maker, gpu):
    fields = {6: bytes(8), 3: b"1\0"}
    message = request(NONCE) + response(fields)
    twice = message.replace(b"\x03\x00\x02\x001\0", b"\x06\x00\x02\x001\0")
    for changed, why in (
        (twice, "twice"),
        (message.replace(b"\x03\0\x02\0", b"\x03\0\x09\0"), "cut"),
    ):
        assert changed != message
        refused(nvidia.Evidence(gpu.sign(changed), gpu.chain), maker, why)


def test_a_feature_flag_as_long_as_a_report_is_refused_by_name(maker, gpu):
    """Its number would have more digits than Python writes."""
    assert check(gpu.answer(NONCE, {36: b"\x02\0"}), maker).feature == "protected_pcie"
    assert check(gpu.answer(NONCE, {36: b"\x09"}), maker).feature == "unknown (9)"
    refused(gpu.answer(NONCE, {36: b"\xff" * 3000}), maker, "feature flag has 3000 bytes")


def test_text_from_a_device_cannot_steer_a_terminal(maker, gpu):
    proof = check(gpu.answer(NONCE, {3: b"\x1b[2J590\0"}), maker)
    assert proof.driver is not None
    assert proof.driver.isprintable()


def test_a_baseboard_is_whole_when_everybody_names_everybody(maker):
    proofs = [check(one, maker) for one in baseboard(maker, NONCE)]
    board = nvidia.topology(proofs)
    assert board.whole, board.why
    assert (len(board.gpus), len(board.switches)) == (8, 4)


def test_a_baseboard_is_not_whole_with(maker):
    parts = baseboard(maker, NONCE)
    proofs = [check(one, maker) for one in parts]
    stranger = check(maker.device(0x1000).answer(NONCE), maker)
    late = check(maker.device(0x1000).answer(bytes(32)), maker, nonce=None)
    for changed, why in (
        (proofs[1:], "other GPUs"),
        (proofs[:-1], "other switches"),
        ([stranger, *proofs[1:]], "other switches"),
        ([late, *proofs[1:]], "different nonces"),
        ([*proofs, proofs[0]], "twice"),
        (proofs[:8], "both needed"),
        (proofs[8:], "both needed"),
    ):
        board = nvidia.topology(changed)
        assert not board.whole
        assert why in board.why


def pem(certificates):
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def test_a_report_is_read_from_hex_binary_and_json(maker, gpu):
    evidence = gpu.answer(NONCE)
    chain_pem = pem(evidence.chain)
    entry = {
        "evidence": base64.b64encode(evidence.report).decode(),
        "certificate": base64.b64encode(chain_pem).decode(),
        "nonce": NONCE.hex(),
        "arch": "HOPPER",
    }
    for data, chain_ in (
        (evidence.report, chain_pem),
        (evidence.report.hex().encode() + b"\n", chain_pem),
        (json.dumps([entry]).encode(), None),
    ):
        (named,) = forms.read(data, chain_)
        assert named.evidence == evidence
        assert named.claimed_nonce in (None, NONCE)


@pytest.mark.parametrize(
    ("data", "chain_pem", "why"),
    [
        (b"[]", None, "0 devices"),
        (b"[1]", None, "not a list of devices"),
        (b"[", None, "not a list of devices"),
        (b'[{"x": ' + b"[" * 100_000, None, "not a list of devices"),
        (b'[{"evidence": "??", "certificate": ""}]', None, "not base64"),
        (b'[{"evidence": "", "certificate": "", "nonce": "00"}]', None, "the nonce has 1 bytes"),
        (b'[{"evidence": "", "certificate": "AAAA"}]', None, "not a PEM"),
        (b"[]", b"", "brings its own chains"),
        (b"zz", b"", "hexadecimal"),
        (b"\xff" * 40_000, b"", "too long"),
        (b"11e0", None, "chain is needed"),
        (b"11e0", b"x" * 40_000, "40000 bytes of certificates"),
    ],
)
def test_a_file_is_refused(data, chain_pem, why):
    with pytest.raises(nvidia.BadEvidence, match=why):
        forms.read(data, chain_pem)


def test_the_nonce_is_32_bytes_of_hex():
    assert forms.nonce_bytes("0x" + "ab" * 32) == b"\xab" * 32
    for bad in ("", "ab", "zz" * 32):
        with pytest.raises(nvidia.BadEvidence):
            forms.nonce_bytes(bad)


def test_a_chain_that_is_no_chain_is_refused_by_name():
    with pytest.raises(chain.UntrustedChain):
        chain.read(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(spdm.MalformedReport):
        spdm.parse(b"\x11")
