"""Makes the golden appraisal: python -m tests.golden.make_appraisal. Run it only for a new version.

What an appraiser signed that two GPUs are worth, with its public key beside it. Everything is fixed,
Ed25519 is deterministic, and so the file is too.
"""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import envelope_json
from assay_core.appraisal import Appraisal, Appraised, encode
from assay_core.covenant import Premise
from assay_core.seal import APPRAISAL_TYPE, Ed25519Signer, sign_envelope
from tests.golden.make_event import PART

HERE = Path(__file__).parent
FILE = "appraisal_v1.json"
APPRAISER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(164, 196))))


def appraisal() -> Appraisal:
    """An orderly liquidation value, to the cent and beyond."""
    return Appraisal(
        appraiser="appraiser",
        premise=Premise.OLV,
        effective_on=date(2026, 11, 18),
        document_sha256="a5" * 32,
        assets=(
            Appraised(serial="1650924000001", board_part_number=PART, usd_micros=18_700_425_000),
            Appraised(serial="1650924000777", board_part_number=PART, usd_micros=18_700_425_001),
        ),
    )


def text() -> str:
    """The golden file."""
    envelope = sign_envelope(APPRAISAL_TYPE, encode(appraisal()), APPRAISER)
    content = {
        "parties": {"appraiser": APPRAISER.public_key.data.hex()},
        "appraisal": json.loads(envelope_json.dump(envelope)),
    }
    return json.dumps(content, indent=1) + "\n"


if __name__ == "__main__":
    (HERE / FILE).write_text(text(), encoding="utf-8")
