"""An appraisal has one form, says each thing once, and is its appraiser's alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core.appraisal import (
    ASSETS_MAX,
    PAYLOAD_BYTES_MAX,
    AppraisalRefusal,
    AppraisalRefused,
    check_date,
    check_signed,
    decode,
    encode,
)
from assay_core.errors import FileError
from assay_core.seal import COVENANT_TYPE, Ed25519Signer, Envelope
from assay_core.signatories import Role, Signatory
from assay_valuer.appraisal_draft import read_appraisal
from assay_valuer.covenant_draft import read_statement
from tests.fakes.appraisal import DAY, appraisal_of, gpu_at, raw, signed
from tests.fakes.collateral import PART

DORA, EVE, BOB = (Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32))
                  for n in (1, 2, 3))  # fmt: skip
KNOWN = (
    Signatory("dora", Role.APPRAISER, DORA.public_key),
    Signatory("eve", Role.APPRAISER, EVE.public_key),
    Signatory("bob", Role.OPERATOR, BOB.public_key),
)
ONE = appraisal_of("S0001", "S0002")
GPU = {"serial": "S0001", "board_part_number": PART, "usd_micros": 1}


def refused(reason, call, *words):
    with pytest.raises(AppraisalRefused) as caught:
        call()
    assert caught.value.reason is reason
    for word in words:
        assert word in str(caught.value)


def test_it_reads_back_from_the_bytes_that_are_signed():
    assert decode(encode(ONE)) == ONE
    assert encode(ONE) == raw(ONE)


def test_other_bytes_of_the_same_appraisal_are_refused():
    payload = encode(ONE)
    twice = payload[:-1] + b',"premise":"OLV"}'
    for other in (payload + b" ", payload.replace(b":", b": ", 1), twice):
        refused(AppraisalRefusal.MALFORMED, lambda other=other: decode(other), "canonical")
    long = b" " * (PAYLOAD_BYTES_MAX + 1)
    refused(AppraisalRefusal.MALFORMED, lambda: decode(long), str(PAYLOAD_BYTES_MAX))
    refused(AppraisalRefusal.MALFORMED, lambda: decode(b"\xff"), "cannot be read")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"appraiser": "not a name"}, "appraiser"),
        ({"premise": "FLV"}, "premise"),
        ({"premise": "olv"}, "premise"),
        ({"effective_on": "2026-02-30"}, "effective_on"),
        ({"effective_on": 20_000}, "effective_on"),
        ({"effective_on": "2026-11-18T00:00:00Z"}, "effective_on"),
        ({"document_sha256": "AA" * 32}, "document_sha256"),
        ({"document_sha256": "aa" * 31}, "document_sha256"),
        ({"assets": []}, "assets"),
        ({"assets": [GPU | {"usd_micros": 0}]}, "usd_micros"),
        ({"assets": [GPU | {"usd_micros": -1}]}, "usd_micros"),
        ({"assets": [GPU | {"usd_micros": 10**15 + 1}]}, "usd_micros"),
        ({"assets": [GPU | {"usd_micros": 18_000.5}]}, "usd_micros"),
        ({"assets": [GPU | {"usd_micros": "18000"}]}, "usd_micros"),
        ({"assets": [GPU | {"serial": ""}]}, "serial"),
        ({"assets": [GPU | {"serial": "S\n1"}]}, "serial"),
        ({"assets": [GPU | {"extra": 1}]}, "extra"),
        ({"assets": [{"serial": "S0001", "usd_micros": 1}]}, "board_part_number"),
        *(({name: None}, name) for name in ONE.__struct_fields__),
    ],
)
def test_whatever_is_wrong_is_named(changed, field):
    refused(AppraisalRefusal.MALFORMED, lambda: decode(raw(ONE, **changed)), field)


def test_gpus_are_in_order_none_twice_and_no_more_than_there_is_room_for():
    for assets in (("S0002", "S0001"), ("S0001", "S0001")):
        payload = encode(appraisal_of(*assets))
        refused(AppraisalRefusal.MALFORMED, lambda p=payload: decode(p), "assets")
    most = appraisal_of(*(f"S{number:063d}" for number in range(ASSETS_MAX)))
    widest = msgspec.structs.replace(
        most,
        assets=tuple(
            msgspec.structs.replace(one, board_part_number="P" * 64, usd_micros=10**15)
            for one in most.assets
        ),
    )
    assert decode(encode(widest)) == widest
    more = appraisal_of(*(f"S{number:05d}" for number in range(ASSETS_MAX + 1)))
    refused(AppraisalRefusal.MALFORMED, lambda: decode(encode(more)), "assets")


# ---------------------------------------------------------------------------- when


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (-1, AppraisalRefusal.FROM_THE_FUTURE),
        (0, None),
        (365, None),
        (366, AppraisalRefusal.TOO_OLD),
    ],
)
def test_it_is_of_a_day_that_was_and_not_long_ago(days, reason):
    def call():
        check_date(ONE, DAY + timedelta(days=days), age_max_days=365)

    if reason is None:
        call()
    else:
        refused(reason, call, "effective_on", "2026-11-18")


# ---------------------------------------------------------------------------- signatures


def check(envelope, known=KNOWN):
    return lambda: check_signed(envelope, known)


def test_its_appraiser_signs_it():
    assert check_signed(signed(ONE, DORA), KNOWN) == ONE


def test_a_signature_of_anybody_else_is_refused_even_beside_the_right_one():
    refused(AppraisalRefusal.UNSIGNED, check(signed(ONE)), "dora")
    for keys in ((EVE,), (BOB,), (DORA, EVE), (DORA, DORA)):
        refused(AppraisalRefusal.BAD_SIGNATURE, check(signed(ONE, *keys)))
    other = signed(appraisal_of("S0001"), DORA)
    moved = Envelope(encode(ONE), other.payload_type, other.signatures)
    refused(AppraisalRefusal.BAD_SIGNATURE, check(moved), "sign it anew")
    whole = signed(ONE, DORA)
    (good,) = whole.signatures
    broken = replace(good, sig=good.sig[:-1] + bytes([good.sig[-1] ^ 1]))
    refused(
        AppraisalRefusal.BAD_SIGNATURE,
        check(Envelope(whole.payload, whole.payload_type, (broken,))),
    )


def test_whoever_is_no_appraiser_is_named():
    """A borrower's operator who says what its collateral is worth, above all."""
    own = appraisal_of("S0001", appraiser="bob")
    refused(AppraisalRefusal.UNKNOWN_PARTY, check(signed(own, BOB)), "no appraiser bob")
    refused(
        AppraisalRefusal.UNKNOWN_PARTY, check(signed(ONE, DORA), KNOWN[1:]), "no appraiser dora"
    )


def test_an_envelope_of_another_type_is_refused():
    whole = signed(ONE, DORA)
    other = Envelope(whole.payload, COVENANT_TYPE, whole.signatures)
    refused(AppraisalRefusal.WRONG_TYPE, check(other), "vnd.assay.appraisal.v1")


# ---------------------------------------------------------------------------- by hand

WRITTEN = f"""\
appraiser: dora
premise: OLV
effective_on: "2026-11-18"
document_sha256: "{"d0" * 32}"
assets:
  - {{serial: "S0002", board_part_number: "{PART}", usd: "18000.50"}}
  - {{serial: "S0001", board_part_number: "{PART}", usd: "18000"}}
"""


def test_one_written_by_hand_is_in_dollars_and_in_any_order():
    envelope = read_appraisal(WRITTEN, "a.yaml")
    assert envelope == read_statement(WRITTEN, "a.yaml")
    assert envelope.signatures == ()
    read = decode(envelope.payload)
    assert read.effective_on == date(2026, 11, 18)
    assert read.assets == (gpu_at("S0001", 18_000_000_000), gpu_at("S0002", 18_000_500_000))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('usd: "18000.50"', 'usd: "18.000,50"', r"^a\.yaml:6: assets\.0\.usd: "),
        ('usd: "18000.50"', "usd: 18000.50", r"^a\.yaml:6: assets\.0\.usd: "),
        ('usd: "18000.50"', 'usd: "0"', "usd_micros"),
        ('usd: "18000.50"', 'usd: "18000.1234567"', r"^a\.yaml:6: "),
        ("premise: OLV", "premise: GUESS", r"^a\.yaml:2: premise: "),
        ("S0001", "S0002", "none twice"),
        ("2026-11-18", "yesterday", r"^a\.yaml:3: effective_on: "),
    ],
)
def test_what_is_wrong_in_it_is_named_with_its_line(old, new, message):
    with pytest.raises(FileError, match=message):
        read_appraisal(WRITTEN.replace(old, new), "a.yaml")
