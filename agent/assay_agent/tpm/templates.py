"""The keys that are asked of a TPM: their kinds, attributes and parameters, as TPM2B_PUBLIC holds them.

Sources: TCG EK Credential Profile 2.5, template L-1; TCG TPM v2.0 Provisioning Guidance 1.0, §7.5
(the storage primary key); TPM library, revision 1.59, part 2 §12.2.
"""

from __future__ import annotations

from typing import Final

from assay_agent.tpm.wire import sized, u16, u32
from assay_core.evidence.tpm import AES, ECC, ECDSA, NULL, P256, RSA, SHA256, Attribute

_CFB: Final = 0x0043
_AES_128_CFB: Final = u16(AES) + u16(128) + u16(_CFB)
_EK_POLICY: Final = bytes.fromhex(
    "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
)
"""PolicySecret(TPM_RH_ENDORSEMENT): whoever may use the endorsement hierarchy may use the key."""
_NO_LOCKOUT: Final = 1 << 10
"""noDA: a lock-out that somebody else's wrong passwords caused does not silence the host."""
_HERE: Final = (
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.USER_WITH_AUTH
    | _NO_LOCKOUT
)


def _public(kind: int, attributes: int, policy: bytes, parameters: bytes, unique: bytes) -> bytes:
    return u16(kind) + u16(SHA256) + u32(attributes) + sized(policy) + parameters + unique


def _signing(attributes: int) -> bytes:
    parameters = u16(NULL) + u16(ECDSA) + u16(SHA256) + u16(P256) + u16(NULL)
    return _public(ECC, attributes, b"", parameters, sized(b"") + sized(b""))


ENDORSEMENT_KEY: Final = _public(
    RSA,
    Attribute.FIXED_TPM
    | Attribute.FIXED_PARENT
    | Attribute.SENSITIVE_DATA_ORIGIN
    | Attribute.ADMIN_WITH_POLICY
    | Attribute.RESTRICTED
    | Attribute.DECRYPT,
    _EK_POLICY,
    _AES_128_CFB + u16(NULL) + u16(2048) + u32(0),
    sized(bytes(256)),
)
"""The same key each time, from the TPM's own endorsement seed: the one its maker certified."""

STORAGE_KEY: Final = _public(
    ECC,
    _HERE | Attribute.RESTRICTED | Attribute.DECRYPT,
    b"",
    _AES_128_CFB + u16(NULL) + u16(P256) + u16(NULL),
    sized(bytes(32)) + sized(bytes(32)),
)
"""The parent of the agent's keys: the same each time, until the TPM is cleared. On a curve, since an
RSA key would take seconds. It is made in the endorsement hierarchy, not the owner's: what a key of
the owner's attests has the TPM's resets and firmware obfuscated (part 2, TPMS_ATTEST)."""

ATTESTATION_KEY: Final = _signing(_HERE | Attribute.RESTRICTED | Attribute.SIGN)
"""Signs what the TPM says, and nothing else."""

SIGNING_KEY: Final = _signing(_HERE | Attribute.SIGN)
"""Signs what it is given: the windows."""
