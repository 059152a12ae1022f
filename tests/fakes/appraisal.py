"""Appraisals, signed or not."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec

from assay_core.appraisal import Appraisal, Appraised, encode
from assay_core.covenant import Premise
from assay_core.seal import APPRAISAL_TYPE, Ed25519Signer, Envelope, sign_envelope
from tests.fakes.collateral import PART

DAY = date(2026, 11, 18)
"""Of `collateral.NOW`, UTC."""
MICROS = 18_000_000_000


def gpu_at(serial: str, usd_micros: int = MICROS) -> Appraised:
    return Appraised(serial=serial, board_part_number=PART, usd_micros=usd_micros)


def appraisal_of(*serials: str, **changed: object) -> Appraisal:
    """Dora's, of today, OLV, 18,000 dollars each, unless told."""
    plain: dict[str, Any] = {
        "appraiser": "dora",
        "premise": Premise.OLV,
        "effective_on": DAY,
        "document_sha256": "d0" * 32,
        "assets": tuple(gpu_at(serial) for serial in serials),
    }
    return Appraisal(**{**plain, **changed})


def signed(appraisal: Appraisal, *keys: Ed25519Signer) -> Envelope:
    payload = encode(appraisal)
    signatures = [sign_envelope(APPRAISAL_TYPE, payload, key).signatures[0] for key in keys]
    return Envelope(payload, APPRAISAL_TYPE, tuple(signatures))


def raw(appraisal: Appraisal, **changed: object) -> bytes:
    """The canonical bytes with other members, whatever they are; None takes one out."""
    members = {**msgspec.to_builtins(appraisal), **changed}
    kept = {name: value for name, value in members.items() if value is not None}
    return msgspec.json.encode(kept, order="sorted")
