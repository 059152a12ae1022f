"""Makes the golden covenant: python -m tests.golden.make_covenant. Run it only for a new version.

A loan's covenant file that its lender and its borrower's operator signed, with their public keys
beside it. Everything is fixed, Ed25519 is deterministic, and so the file is too.
"""

from __future__ import annotations

import json
from pathlib import Path

from assay_core import envelope_json
from assay_core.covenant import Basis, Covenant, Parties, Premise, Thresholds, ValueSource, encode
from assay_core.seal import COVENANT_TYPE, Envelope, sign_envelope
from tests.golden.make_event import BEGIN_MS, LENDER, OPERATOR

HERE = Path(__file__).parent
FILE = "covenant_v1.json"


def covenant() -> Covenant:
    """Measured net: the second version, in force from a moment on."""
    return Covenant(
        loan="loan-1",
        version=2,
        effective_from_ms=BEGIN_MS,
        parties=Parties(lender="lender", borrower="operator"),
        value_source=ValueSource.AUTOMATED,
        premise=Premise.NOLV,
        ltv_basis=Basis.NET,
        thresholds=Thresholds(watch_bps=9_000, call_bps=10_000, default_bps=12_000),
        hysteresis_bps=200,
        call_valuations=2,
        call_apart_hours=24,
        value_cure_hours=240,
        reporting_cure_hours=72,
    )


def text() -> str:
    """The golden file."""
    payload = encode(covenant())
    signatures = [
        sign_envelope(COVENANT_TYPE, payload, key).signatures[0] for key in (LENDER, OPERATOR)
    ]
    envelope = Envelope(payload, COVENANT_TYPE, tuple(signatures))
    keys = {"lender": LENDER, "operator": OPERATOR}
    content = {
        "parties": {name: key.public_key.data.hex() for name, key in keys.items()},
        "covenant": json.loads(envelope_json.dump(envelope)),
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    (HERE / FILE).write_text(text(), encoding="utf-8")
