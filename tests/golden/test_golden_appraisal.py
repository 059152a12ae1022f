"""The golden appraisal holds by an implementation that shares no code with the product."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from assay_core import envelope_json
from assay_core.appraisal import check_signed
from assay_core.seal import ED25519, PublicKey
from assay_core.signatories import Role, Signatory
from tests.golden import make_appraisal

GOLDEN = json.loads((Path(__file__).parent / make_appraisal.FILE).read_text(encoding="utf-8"))
TYPE = b"application/vnd.assay.appraisal.v1+json"


def test_the_appraiser_signed_the_exact_bytes():
    envelope = GOLDEN["appraisal"]
    assert envelope["payloadType"].encode() == TYPE
    payload = base64.b64decode(envelope["payload"])
    message = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE, len(payload), payload)
    (signature,) = envelope["signatures"]
    raw = bytes.fromhex(GOLDEN["parties"]["appraiser"])
    assert signature["keyid"] == hashlib.sha256(b"ed25519\x00" + raw).hexdigest()
    key, sig = Ed25519PublicKey.from_public_bytes(raw), base64.b64decode(signature["sig"])
    key.verify(sig, message)
    with pytest.raises(InvalidSignature):
        key.verify(sig, message.replace(b"18700425001", b"28700425001", 1))


def test_the_payload_is_json_with_sorted_keys_and_no_spaces():
    payload = base64.b64decode(GOLDEN["appraisal"]["payload"])
    tree = json.loads(payload)
    assert payload == json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()
    part = "692-2G520-0200-000"
    assert tree == {
        "appraiser": "appraiser",
        "premise": "OLV",
        "effective_on": "2026-11-18",
        "document_sha256": "a5" * 32,
        "assets": [
            {"serial": "1650924000001", "board_part_number": part, "usd_micros": 18_700_425_000},
            {"serial": "1650924000777", "board_part_number": part, "usd_micros": 18_700_425_001},
        ],
    }


def test_the_same_is_made_and_read_today():
    assert make_appraisal.text() == (make_appraisal.HERE / make_appraisal.FILE).read_text("utf-8")
    envelope = envelope_json.load(json.dumps(GOLDEN["appraisal"]), "appraisal")
    known = [
        Signatory(name, Role(name), PublicKey(ED25519, bytes.fromhex(raw)))
        for name, raw in GOLDEN["parties"].items()
    ]
    assert check_signed(envelope, known) == make_appraisal.appraisal()
