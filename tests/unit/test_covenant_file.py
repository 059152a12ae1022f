"""A covenant file has one form, says each thing once, and is signed by two: whatever is not is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core.covenant import (
    PAYLOAD_BYTES_MAX,
    Basis,
    CovenantRefusal,
    CovenantRefused,
    Parties,
    Premise,
    Thresholds,
    check_signed,
    decode,
    encode,
    validate,
)
from assay_core.errors import FileError
from assay_core.seal import ASSET_EVENT_TYPE, Ed25519Signer, Envelope
from assay_core.signatories import Role, Signatory
from assay_valuer.covenant_draft import read_covenant
from tests.fakes.covenant import covenant_file, raw, signed

ALICE, BOB, EVE = (Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32))
                   for n in (1, 2, 3))  # fmt: skip
KNOWN = (
    Signatory("alice", Role.LENDER, ALICE.public_key),
    Signatory("bob", Role.OPERATOR, BOB.public_key),
    Signatory("eve", Role.OPERATOR, EVE.public_key),
)
FILE = covenant_file()


def refused(reason, call, *words):
    with pytest.raises(CovenantRefused) as caught:
        call()
    assert caught.value.reason is reason
    for word in words:
        assert word in str(caught.value)


# ---------------------------------------------------------------------------- the form


def test_it_reads_back_from_the_bytes_that_are_signed():
    assert decode(encode(FILE)) == FILE
    assert encode(FILE) == raw(FILE)


def test_other_bytes_of_the_same_file_are_refused():
    payload = encode(FILE)
    for other in (payload + b" ", payload.replace(b":", b": ", 1), payload[:-1] + b',"version":1}'):
        refused(CovenantRefusal.MALFORMED, lambda other=other: decode(other), "canonical")
    long = b" " * (PAYLOAD_BYTES_MAX + 1)
    refused(CovenantRefusal.MALFORMED, lambda: decode(long), str(PAYLOAD_BYTES_MAX))
    refused(CovenantRefusal.MALFORMED, lambda: decode(b"\xff"), "cannot be read")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"extra": 1}, "extra"),
        ({"loan": "loan 1"}, "loan"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"effective_from_ms": -1}, "effective_from_ms"),
        ({"parties": {"lender": "alice", "borrower": ""}}, "parties.borrower"),
        ({"value_source": "appraisal"}, "value_source"),
        ({"premise": "FLV"}, "premise"),
        ({"ltv_basis": "both"}, "ltv_basis"),
        ({"thresholds": {"watch_bps": 0, "call_bps": 2, "default_bps": 3}}, "thresholds.watch_bps"),
        ({"thresholds": {"watch_bps": 1, "call_bps": 2, "default_bps": 60_001}}, "default_bps"),
        ({"thresholds": {"watch_bps": 1, "call_bps": 2}}, "thresholds"),
        ({"thresholds": {"watch_bps": 0.8, "call_bps": 2, "default_bps": 3}}, "watch_bps"),
        ({"hysteresis_bps": 5_001}, "hysteresis_bps"),
        ({"call_valuations": 0}, "call_valuations"),
        ({"call_valuations": 31}, "call_valuations"),
        ({"call_apart_hours": 24 * 367}, "call_apart_hours"),
        ({"value_cure_hours": 0}, "value_cure_hours"),
        ({"reporting_cure_hours": 0}, "reporting_cure_hours"),
        *(({name: None}, name) for name in FILE.__struct_fields__),
    ],
)
def test_whatever_is_wrong_is_named(changed, field):
    refused(CovenantRefusal.MALFORMED, lambda: decode(raw(FILE, **changed)), field)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"thresholds": Thresholds(watch_bps=85, call_bps=85, default_bps=95)}, "thresholds"),
        ({"thresholds": Thresholds(watch_bps=80, call_bps=95, default_bps=95)}, "thresholds"),
        (
            {"thresholds": Thresholds(watch_bps=100, call_bps=200, default_bps=300)},
            "hysteresis_bps",
        ),
        ({"premise": Premise.NOLV}, "ltv_basis"),
        ({"ltv_basis": Basis.NET}, "ltv_basis"),
        ({"call_apart_hours": 0}, "call_apart_hours"),
    ],
)
def test_what_does_not_fit_together_is_named(changed, field):
    refused(CovenantRefusal.MALFORMED, lambda: validate(covenant_file(**changed)), field)


def test_what_fits_together_is_taken():
    validate(covenant_file(premise=Premise.NOLV, ltv_basis=Basis.NET))
    validate(covenant_file(premise=Premise.FMV))
    validate(covenant_file(call_valuations=1, call_apart_hours=0))


def test_one_written_by_hand_is_read_with_line_and_field():
    text = raw(FILE).decode().replace(",", ",\n")
    assert read_covenant(text, "c.yaml").payload == encode(FILE)
    with pytest.raises(FileError, match=r"^c\.yaml:\d+: hysteresis_bps: "):
        read_covenant(text.replace('"hysteresis_bps":100', '"hysteresis_bps":-1'), "c.yaml")


# ---------------------------------------------------------------------------- signatures


def check(envelope, known=KNOWN):
    return lambda: check_signed(envelope, known)


def test_lender_and_borrower_sign_it_in_either_order():
    assert check_signed(signed(FILE, ALICE, BOB), KNOWN) == FILE
    assert check_signed(signed(FILE, BOB, ALICE), KNOWN) == FILE


def test_one_of_them_alone_is_refused_and_so_is_nobody():
    refused(CovenantRefusal.UNSIGNED, check(signed(FILE, ALICE)), "operator")
    refused(CovenantRefusal.UNSIGNED, check(signed(FILE, BOB)), "lender")
    refused(CovenantRefusal.UNSIGNED, check(signed(FILE)), "lender and the operator")


def test_a_signature_that_does_not_hold_is_refused_even_beside_two_that_do():
    whole = signed(FILE, ALICE, BOB)
    good, other = whole.signatures
    broken = replace(other, sig=other.sig[:-1] + bytes([other.sig[-1] ^ 1]))
    refused(
        CovenantRefusal.BAD_SIGNATURE,
        check(Envelope(*_of(whole), (good, broken))),
        "sign them anew",
    )
    of_another = signed(covenant_file(version=2), ALICE, BOB).signatures
    refused(CovenantRefusal.BAD_SIGNATURE, check(Envelope(*_of(whole), of_another)))
    refused(CovenantRefusal.BAD_SIGNATURE, check(signed(FILE, ALICE, BOB, EVE)))
    refused(CovenantRefusal.BAD_SIGNATURE, check(signed(FILE, ALICE, EVE)))


def _of(envelope):
    return envelope.payload, envelope.payload_type


def test_one_party_twice_is_refused_by_name_and_by_key():
    same = covenant_file(parties=Parties(lender="alice", borrower="alice"))
    refused(CovenantRefusal.SAME_PARTY, check(signed(same, ALICE)), "takes two")
    both = (
        Signatory("alice", Role.LENDER, ALICE.public_key),
        Signatory("bob", Role.OPERATOR, ALICE.public_key),
    )
    refused(CovenantRefusal.SAME_PARTY, check(signed(FILE, ALICE), both), "one key")
    refused(CovenantRefusal.UNSIGNED, check(signed(FILE, ALICE, ALICE)), "operator")


def test_whoever_is_not_registered_in_that_capacity_is_named():
    refused(CovenantRefusal.UNKNOWN_PARTY, check(signed(FILE, ALICE, BOB), KNOWN[:1]), "bob")
    refused(CovenantRefusal.UNKNOWN_PARTY, check(signed(FILE, ALICE, BOB), KNOWN[1:]), "alice")
    turned = covenant_file(parties=Parties(lender="bob", borrower="alice"))
    refused(CovenantRefusal.UNKNOWN_PARTY, check(signed(turned, ALICE, BOB)), "lender bob")


def test_an_envelope_of_another_type_is_refused():
    whole = signed(FILE, ALICE, BOB)
    other = Envelope(whole.payload, ASSET_EVENT_TYPE, whole.signatures)
    refused(CovenantRefusal.WRONG_TYPE, check(other), "vnd.assay.covenant.v1")
