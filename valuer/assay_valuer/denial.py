"""Why a host gets no certificate."""

from __future__ import annotations

import enum

from assay_core.errors import HostError


class Denial(enum.StrEnum):
    """Why a host got no certificate. The value is the wire name and the metric's label."""

    MALFORMED = "malformed"
    RATE_LIMITED = "rate_limited"
    BAD_PROOF = "bad_proof"
    BAD_CSR = "bad_csr"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105 - a name, not a secret
    EXPIRED_TOKEN = "expired_token"  # noqa: S105
    SPENT_TOKEN = "spent_token"  # noqa: S105
    KEY_ENROLLED = "key_enrolled"
    BAD_TPM = "bad_tpm"
    BAD_ACTIVATION = "bad_activation"
    EK_ENROLLED = "ek_enrolled"
    OTHER_EK = "other_ek"
    TPM_NEEDED = "tpm_needed"
    ROTATION_OPEN = "rotation_open"
    UNKNOWN_HOST = "unknown_host"
    REVOKED_HOST = "revoked_host"
    WRONG_INCARNATION = "wrong_incarnation"
    TOO_LATE = "too_late"
    UNAVAILABLE = "unavailable"


class Denied(HostError):
    """No certificate was issued and nothing was changed; says what to do next."""

    def __init__(self, reason: Denial, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
