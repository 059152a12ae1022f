"""What a TPM may answer instead of what it was asked for, and what to do about it.

Source: TCG's Trusted Platform Module Library, revision 1.59, part 2 §6.6.
"""

from __future__ import annotations

import enum
from typing import Final

from assay_core.errors import HostError, ServiceError


class Code(enum.IntEnum):
    """Response codes that have words of their own, less the place of what they are about."""

    ATTRIBUTES = 0x082
    VALUE = 0x084
    HIERARCHY = 0x085
    HANDLE = 0x08B
    AUTH_FAIL = 0x08E
    SIZE = 0x095
    INTEGRITY = 0x09F
    BAD_AUTH = 0x0A2
    INITIALIZE = 0x100
    FAILURE = 0x101
    COMMAND_CODE = 0x143
    OBJECT_MEMORY = 0x902
    SESSION_MEMORY = 0x903
    YIELDED = 0x908
    TESTING = 0x90A
    NV_RATE = 0x920
    LOCKOUT = 0x921
    RETRY = 0x922


AGAIN: Final = frozenset({Code.YIELDED, Code.TESTING, Code.NV_RATE, Code.RETRY})
"""The TPM did nothing, and will do it when it is asked again."""

_OWNED: Final = (
    "the owner or endorsement hierarchy of this TPM has a password, and the agent has none: clear it "
    "with `tpm2_changeauth -c owner` and `-c endorsement`"
)
_CROWDED: Final = (
    "it holds too many keys or sessions: give the agent /dev/tpmrm0, which shares it out"
)
_WORDS: Final = {
    Code.HIERARCHY: "this hierarchy is switched off: enable the TPM's storage and endorsement "
    "hierarchies in the machine's firmware",
    Code.HANDLE: "it has nothing of that name",
    Code.AUTH_FAIL: _OWNED,
    Code.BAD_AUTH: _OWNED,
    Code.INTEGRITY: "what it was given was not made for it: it belongs to another TPM or another key, "
    "or this TPM was cleared since. Enrol this host anew",
    Code.INITIALIZE: "nobody started it: a simulated TPM needs TPM2_Startup, a real one a reboot",
    Code.FAILURE: "its self-test failed: reboot, and if it says so again, replace the board",
    Code.COMMAND_CODE: "it does not know this command: the agent needs a TPM 2.0 with P-256",
    Code.OBJECT_MEMORY: _CROWDED,
    Code.SESSION_MEMORY: _CROWDED,
    Code.LOCKOUT: "it is locked after wrong passwords of others: wait, or run "
    "`tpm2_dictionarylockout --clear-lockout`",
}


class TpmError(HostError):
    """The host's TPM cannot be used, or does not do what it is asked."""

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        """The TPM's answer less its position, where there was one."""


class TpmBusy(ServiceError):
    """The TPM did not answer in time, or put us off too often. The same again may work."""


def kind(response: int) -> int:
    """A response code less the layer it comes from and the parameter it is about."""
    code = response & 0xFFFF
    return code & 0x0BF if code & 0x080 else code & 0xFFF


def refused(command: str, response: int) -> TpmError:
    """The error that says what the TPM said."""
    code = kind(response)
    words = _WORDS.get(Code(code)) if code in set(Code) else None
    name = (
        Code(code).name.lower() if code in set(Code) else "an error of part 2 §6.6 of its library"
    )
    detail = f": {words}" if words else ""
    return TpmError(f"the TPM refused {command}, {name} ({response:#x}){detail}", code)
