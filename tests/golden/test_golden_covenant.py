"""The golden covenant holds by an implementation that shares no code with the product."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assay_core import envelope_json
from assay_core.covenant import check_signed
from assay_core.seal import ED25519, PublicKey
from assay_core.signatories import Role, Signatory
from tests.golden import make_covenant

GOLDEN = json.loads((Path(__file__).parent / make_covenant.FILE).read_text(encoding="utf-8"))
TYPE = b"application/vnd.assay.covenant.v1+json"


def test_each_party_signed_the_exact_bytes():
    envelope = GOLDEN["covenant"]
    assert envelope["payloadType"].encode() == TYPE
    payload = base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE, len(payload), payload)
    for party, signature in zip(("lender", "operator"), envelope["signatures"], strict=True):
        raw = bytes.fromhex(GOLDEN["parties"][party])
        assert signature["keyid"] == hashlib.sha256(b"ed25519\x00" + raw).hexdigest()
        key, sig = Ed25519PublicKey.from_public_bytes(raw), base64.b64decode(signature["sig"])
        key.verify(sig, message)
        with pytest.raises(InvalidSignature):
            key.verify(sig, message.replace(b"10000", b"90000", 1))


def test_the_payload_is_json_with_sorted_keys_and_no_spaces():
    payload = base64.b64decode(GOLDEN["covenant"]["payload"])
    tree = json.loads(payload)
    assert payload == json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    assert tree == {
        "loan": "loan-1",
        "version": 2,
        "effective_from_ms": 1_795_000_000_000,
        "parties": {"lender": "lender", "borrower": "operator"},
        "value_source": "automated",
        "premise": "NOLV",
        "ltv_basis": "net",
        "thresholds": {"watch_bps": 9_000, "call_bps": 10_000, "default_bps": 12_000},
        "hysteresis_bps": 200,
        "call_valuations": 2,
        "call_apart_hours": 24,
        "value_cure_hours": 240,
        "reporting_cure_hours": 72,
    }


def test_the_same_is_made_and_read_today():
    assert make_covenant.text() == (make_covenant.HERE / make_covenant.FILE).read_text("utf-8")
    envelope = envelope_json.load(json.dumps(GOLDEN["covenant"]), "covenant")
    known = [
        Signatory(name, Role(name), PublicKey(ED25519, bytes.fromhex(raw)))
        for name, raw in GOLDEN["parties"].items()
    ]
    assert check_signed(envelope, known) == make_covenant.covenant()
