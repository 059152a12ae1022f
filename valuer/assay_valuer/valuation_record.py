"""What the ledger says of a case: the case whole, and what it came to."""

from __future__ import annotations

import msgspec

from assay_valuer.results import StoredValuation
from assay_valuer.valuation.case import Case


class CaseRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The payload of a ledger entry of the kind `case`; `sha256` is the case's name."""

    at_ms: int
    sha256: str
    case: Case
    valuation: StoredValuation
