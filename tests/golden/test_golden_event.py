"""The golden asset event holds by an implementation that shares no code with the product."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assay_core import asset_events, envelope_json
from assay_core.seal import ED25519, PublicKey
from assay_core.signatories import Role, Signatory, lacking, needed, signed_by
from tests.golden import make_event

GOLDEN = json.loads((Path(__file__).parent / make_event.FILE).read_text(encoding="utf-8"))
TYPES = {
    "event": b"application/vnd.assay.asset-event.v1+json",
    "refusal": b"application/vnd.assay.asset-decision.v1+json",
}


def parts(name):
    envelope = GOLDEN[name]
    assert envelope["payloadType"].encode() == TYPES[name]
    payload = base64.b64decode(envelope["payload"])
    kind = TYPES[name]
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    return payload, message, envelope["signatures"]


@pytest.mark.parametrize(("name", "who"), [
    ("event", ["operator", "lender"]), ("refusal", ["lender"])])  # fmt: skip
def test_each_party_signed_the_exact_bytes(name, who):
    _, message, signatures = parts(name)
    for party, signature in zip(who, signatures, strict=True):
        raw = bytes.fromhex(GOLDEN["parties"][party])
        assert signature["keyid"] == hashlib.sha256(b"ed25519\x00" + raw).hexdigest()
        key, sig = Ed25519PublicKey.from_public_bytes(raw), base64.b64decode(signature["sig"])
        key.verify(sig, message)
        with pytest.raises(InvalidSignature):
            key.verify(sig, message.replace(b"asset", b"assat", 1))


def test_the_payload_is_json_with_sorted_keys_and_no_spaces():
    payload, _, _ = parts("event")
    tree = json.loads(payload)
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert payload == canonical.encode()
    assert tree == {
        "kind": "gpu_replacement",
        "nonce": "0e0d0c0b-0a09-4807-8605-040302010099",
        "why": 'RMA 1234: "double-bit" ECC, Größe & Ähnliches',
        "assets": [{"serial": "1650924000001", "board_part_number": "692-2G520-0200-000"}],
        "replacements": [{"serial": "1650924000777", "board_part_number": "692-2G520-0200-000"}],
        "begin_ms": 1_795_000_000_000,
        "until_ms": 1_796_209_600_000,
    }


def test_the_same_is_made_and_read_today():
    assert make_event.text() == (make_event.HERE / make_event.FILE).read_text(encoding="utf-8")
    envelope = envelope_json.load(json.dumps(GOLDEN["event"]), "event")
    event = asset_events.decode(envelope.payload)
    assert event == make_event.event()
    known = [
        Signatory(name, Role(name), PublicKey(ED25519, bytes.fromhex(raw)))
        for name, raw in GOLDEN["parties"].items()
    ]
    roles = needed(event, accept_maintenance_ms=0)
    assert lacking(roles, signed_by(envelope, known)) == ()
    assert lacking(roles, signed_by(envelope, known[:1])) == (Role.LENDER,)
