"""Answers about revocation: what an issuer says of its certificate now, and nobody else's word."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp as library
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from assay_core.evidence import ocsp
from tests.fakes import ocsp as fake
from tests.fakes.endorsing import Issuer, authority_marks, subordinate, usage
from tests.fakes.nvidia import Maker

NOW_MS = time.time_ns() // 1_000_000_000 * 1000 + 45 * 60_000
"""Answers are dated by the clock when they are signed, which may be long after this was read."""
"""The library dates an answer by this machine's clock, so these are judged by it too."""
NONCE = bytes(range(32))
DAY_MS = 86_400_000
FRESH = ocsp.Freshness(age_max_ms=DAY_MS, skew_ms=60_000)


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture(scope="module")
def device(maker):
    return maker.device(1)


@pytest.fixture(scope="module")
def provisioner(maker):
    return Issuer(maker.provisioner.key, maker.provisioner.certificate)


@pytest.fixture(scope="module")
def good(device, provisioner):
    """The provisioner's delegate answers that the identity key's certificate is good."""
    signer = fake.delegate(provisioner)
    return fake.Answerer(
        device.ik.certificate, provisioner.certificate, signer, NOW_MS, nonce=NONCE
    )


@pytest.fixture(scope="module")
def answer(good):
    return good.answer()


def judge(answer, good, nonce=NONCE, now_ms=NOW_MS, freshness=FRESH):
    return ocsp.judge(
        answer, good.certificate, good.issuer, nonce=nonce, now_ms=now_ms, freshness=freshness
    )


def refused(answer, good, why, **asked):
    with pytest.raises(ocsp.BadOcsp, match=why):
        judge(answer, good, **asked)


def test_it_is_asked_of_the_identity_key_and_all_above_it(device):
    chain = device.chain
    assert ocsp.questions(chain) == (
        (chain[1], chain[2]), (chain[2], chain[3]), (chain[3], chain[4]),
    )  # fmt: skip


def test_a_request_names_its_certificate_by_sha384_and_holds_the_nonce(device, provisioner):
    der = ocsp.request(device.ik.certificate, provisioner.certificate, NONCE)
    asked = library.load_der_ocsp_request(der)
    assert isinstance(asked.hash_algorithm, hashes.SHA384)
    assert asked.serial_number == device.ik.certificate.serial_number
    assert asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == NONCE
    for nonce in (b"", bytes(15), bytes(129)):
        with pytest.raises(ValueError, match="16 to 128"):
            ocsp.request(device.ik.certificate, provisioner.certificate, nonce)


def test_a_good_answer_says_so_and_how_long(good):
    status = judge(good.answer(), good)
    assert status.answer is ocsp.Answer.GOOD
    assert status.this_update_ms == NOW_MS - good.age_ms
    assert status.next_update_ms == NOW_MS - good.age_ms + DAY_MS
    assert (status.revoked_ms, status.reason) == (None, None)


def test_a_revoked_certificate_is_told_with_time_and_reason(good):
    answer = replace(good, status=fake.REVOKED, reason=x509.ReasonFlags.key_compromise).answer()
    status = judge(answer, good)
    assert status.answer is ocsp.Answer.REVOKED
    assert status.revoked_ms == NOW_MS - 3_600_000
    assert status.reason == "keyCompromise"
    assert judge(replace(good, status=fake.UNKNOWN).answer(), good).answer is ocsp.Answer.UNKNOWN


def test_the_issuer_may_answer_itself_and_a_responder_may_be_named_either_way(good, provisioner):
    for signer in (good.signer, provisioner):
        for by_name in (False, True):
            answer = replace(good, signer=signer, by_name=by_name).answer()
            assert judge(answer, good).answer is ocsp.Answer.GOOD
    alone = replace(good, signer=provisioner, sends_certificate=False).answer()
    assert judge(alone, good).answer is ocsp.Answer.GOOD


def test_nobody_else_may_answer(good, provisioner, maker):
    stranger = Maker()
    root = Issuer(maker.root.key, maker.root.certificate)
    for signer, why in (
        (fake.delegate(Issuer(stranger.root.key, stranger.root.certificate)), "not issued by"),
        (Issuer(stranger.root.key, stranger.root.certificate), "not issued by"),
        (fake.delegate(root), "not issued by"),
        (fake.delegate(provisioner, (usage(sign=True),)), "not certified to answer"),
        (
            fake.delegate(
                provisioner,
                (
                    usage(sign=True),
                    (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),
                ),
            ),
            "not certified to answer",
        ),
        (fake.delegate(provisioner, until=dt.datetime(2021, 1, 1, tzinfo=dt.UTC)), "not valid"),
        (subordinate(provisioner, "Test OCSP Responder", authority_marks()), "not certified"),
    ):
        refused(replace(good, signer=signer).answer(), good, why)
    without = replace(good, sends_certificate=False).answer()
    refused(without, good, "neither the issuer nor anyone")


def test_a_responder_of_the_right_name_with_another_key_did_not_sign(good, provisioner):
    """The delegate's certificate is true; the key that signs is somebody else's."""
    thief = replace(good, signer=fake.delegate(provisioner), by_name=True)
    refused(replace(thief, shown=good.signer.certificate).answer(), good, "not signed by its")


def test_an_answer_is_about_the_certificate_that_was_asked(good, maker, provisioner):
    other = maker.device(2).ik.certificate
    refused(replace(good, certificate=other).answer(), good, "another certificate")
    twin = subordinate(
        Issuer(maker.identity.key, maker.identity.certificate), "TEST GH100 Provisioner ICA 1"
    )
    refused(replace(good, issuer=twin.certificate).answer(), good, "another certificate")
    refused(replace(good, cert_id=hashes.SHA256()).answer(), good, "another hash")


def test_an_answer_is_to_the_question_that_was_asked(good):
    for nonce in (None, bytes(32), NONCE[:-1]):
        refused(replace(good, nonce=nonce).answer(), good, "another question")
    assert judge(replace(good, nonce=None).answer(), good, nonce=None).answer is ocsp.Answer.GOOD


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"age_ms": -61_000 - 1}, "future"),
        ({"age_ms": 10_000, "lasts_ms": -60_000}, "out of date"),
        ({"age_ms": DAY_MS + 1_000, "lasts_ms": 10 * DAY_MS}, "at most"),
        ({"age_ms": DAY_MS + 1_000, "lasts_ms": None}, "at most"),
    ],
)
def test_an_answer_is_fresh_or_refused(good, change, why):
    # The library makes no answer that ends before it begins: its end is set by judging it later.
    later_ms = 0
    if change.get("lasts_ms", 1) is not None and change.get("lasts_ms", 1) < 0:
        change, later_ms = {"age_ms": 10_000, "lasts_ms": 20_000}, 10_000 + 61_000
    refused(replace(good, **change).answer(), good, why, now_ms=NOW_MS + later_ms)


def test_an_answer_made_after_now_is_from_the_future_however_old_what_it_says(good):
    refused(replace(good, age_ms=DAY_MS).answer(), good, "future", now_ms=NOW_MS - 3_600_000)


def test_clocks_may_differ_a_little(good):
    ahead = replace(good, age_ms=-59_000).answer()
    assert judge(ahead, good, freshness=FRESH).answer is ocsp.Answer.GOOD
    with pytest.raises(ocsp.BadOcsp, match="future"):
        judge(ahead, good, freshness=replace(FRESH, skew_ms=1_000))


def test_no_answer_is_no_answer(good):
    for status in (
        library.OCSPResponseStatus.TRY_LATER,
        library.OCSPResponseStatus.UNAUTHORIZED,
        library.OCSPResponseStatus.MALFORMED_REQUEST,
    ):
        unsuccessful = library.OCSPResponseBuilder.build_unsuccessful(status)
        der = unsuccessful.public_bytes(fake.Encoding.DER)
        refused(der, good, f"does not answer: {status.name}")


def test_one_question_has_one_answer(good, answer):
    assert judge(fake.saying(answer, good.signer, 1), good) == judge(answer, good)
    for times in (0, 2):
        refused(fake.saying(answer, good.signer, times), good, f"{times} answers")


def test_weak_signatures_and_critical_extensions_that_nobody_knows_are_refused(good):
    refused(replace(good, signature=hashes.SHA224()).answer(), good, "not taken here")
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    refused(replace(good, extra=(unknown, True)).answer(), good, "1.2.3.4 is not known")
    assert judge(replace(good, extra=(unknown, False)).answer(), good).answer is ocsp.Answer.GOOD


def test_junk_and_too_much_are_refused_by_name(good):
    answer = good.answer()
    for junk in (b"", b"\x30\x03\x0a\x01\x00", answer[:-1], answer + b"\0", b"\xff" * 100):
        refused(junk, good, "malformed|does not")
    refused(answer + bytes(ocsp.RESPONSE_BYTES_MAX), good, "at most")


@given(st.data())
def test_no_changed_answer_is_believed(good, answer, data):
    at = data.draw(st.integers(0, len(answer) - 1))
    changed = bytearray(answer)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        status = judge(bytes(changed), good)
    except ocsp.BadOcsp:
        return
    # Beside what is signed there are only the certificates that came along: another encoding of
    # one that the answer does not need may be read, and nothing of what is said has changed.
    assert status == judge(answer, good)
