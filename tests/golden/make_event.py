"""Makes the golden asset event: python -m tests.golden.make_event. Run it only for a new version.

A replacement that an operator and a lender signed, with the parties' public keys beside it; and that
the lender refused another. Everything is fixed, Ed25519 is deterministic, and so the file is too.
"""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import asset_events, envelope_json
from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.seal import (
    ASSET_DECISION_TYPE,
    ASSET_EVENT_TYPE,
    Ed25519Signer,
    Envelope,
    sign_envelope,
)
from assay_core.signatories import Decision, Verdict, encode_decision

HERE = Path(__file__).parent
FILE = "asset_event_v1.json"
BEGIN_MS = 1_795_000_000_000
OPERATOR = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(100, 132))))
LENDER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(132, 164))))
PART = "692-2G520-0200-000"


def event() -> AssetEvent:
    """A failed GPU and the one that takes its place; words that JSON must escape, or need not."""
    return AssetEvent(
        kind=Kind.GPU_REPLACEMENT,
        nonce="0e0d0c0b-0a09-4807-8605-040302010099",
        why='RMA 1234: "double-bit" ECC, Größe & Ähnliches',
        assets=(Subject(serial="1650924000001", board_part_number=PART),),
        replacements=(Subject(serial="1650924000777", board_part_number=PART),),
        begin_ms=BEGIN_MS,
        until_ms=BEGIN_MS + 14 * 86_400_000,
    )


def signed() -> Envelope:
    """The event with both signatures."""
    payload = asset_events.encode(event())
    signatures = [
        sign_envelope(ASSET_EVENT_TYPE, payload, key).signatures[0] for key in (OPERATOR, LENDER)
    ]
    return Envelope(payload, ASSET_EVENT_TYPE, tuple(signatures))


def refused() -> Envelope:
    """The lender's word that another event, which it names by its hash, is refused."""
    decision = Decision(event_sha256="5a" * 32, verdict=Verdict.REFUSED, why="no invoice")
    return sign_envelope(ASSET_DECISION_TYPE, encode_decision(decision), LENDER)


def text() -> str:
    """The golden file."""
    keys = {"operator": OPERATOR, "lender": LENDER}
    content = {
        "parties": {name: key.public_key.data.hex() for name, key in keys.items()},
        "event": json.loads(envelope_json.dump(signed())),
        "refusal": json.loads(envelope_json.dump(refused())),
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    (HERE / FILE).write_text(text(), encoding="utf-8")
