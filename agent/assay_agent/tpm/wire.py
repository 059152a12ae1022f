"""Commands to a TPM 2.0 and its answers, as bytes.

Source: TCG's Trusted Platform Module Library, revision 1.59: part 1 §18 (the shape of commands and
authorisations), part 2 §6.5 (command codes). All integers are big-endian.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay_agent.tpm.errors import TpmError, refused

HEADER_BYTES: Final = 10
"""Tag, size, and command or response code."""
BYTES_MAX: Final = 4096
"""A command or an answer, at most: what Linux takes and gives."""
_NO_SESSIONS: Final = 0x8001
_SESSIONS: Final = 0x8002
_OLD_FAMILY: Final = 0x00C4
"""The tag with which a TPM 1.2 refuses."""
_PASSWORD: Final = 0x40000009


class Command(enum.IntEnum):
    """The commands the agent gives."""

    CREATE_PRIMARY = 0x131
    ACTIVATE_CREDENTIAL = 0x147
    CERTIFY = 0x148
    NV_READ = 0x14E
    POLICY_SECRET = 0x151
    CREATE = 0x153
    LOAD = 0x157
    QUOTE = 0x158
    SIGN = 0x15D
    FLUSH_CONTEXT = 0x165
    NV_READ_PUBLIC = 0x169
    READ_PUBLIC = 0x173
    START_AUTH_SESSION = 0x176
    PCR_READ = 0x17E


def u16(number: int) -> bytes:
    """Two bytes."""
    return number.to_bytes(2, "big")


def u32(number: int) -> bytes:
    """Four bytes."""
    return number.to_bytes(4, "big")


def sized(data: bytes) -> bytes:
    """A TPM2B: two bytes of length, then so many."""
    return u16(len(data)) + data


def authorisation(session: int, nonce: bytes) -> bytes:
    """One by a policy session that needs no HMAC, and ends with the command."""
    return u32(session) + sized(nonce) + b"\0" + sized(b"")


NO_PASSWORD: Final = u32(_PASSWORD) + sized(b"") + b"\0" + sized(b"")
"""The authorisation of what has an empty password."""


class Reader:
    """What a TPM answered, taken from front to back. Raises TpmError where it is cut short."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        """So many bytes."""
        taken = self._data[self._at : self._at + count]
        if len(taken) != count:
            raise TpmError(
                "the TPM's answer is cut short: this is no TPM 2.0, or its driver is broken"
            )
        self._at += count
        return taken

    def number(self, count: int) -> int:
        """An integer of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def sized(self) -> bytes:
        """What a TPM2B holds."""
        return self.take(self.number(2))

    def whole(self) -> bytes:
        """A TPM2B, its length included."""
        return sized(self.sized())

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)


@dataclass(frozen=True, slots=True)
class Answer:
    """A success: the handle, where the command makes one, and the parameters."""

    handle: int
    parameters: Reader


def command(
    code: int, handles: Sequence[int], authorisations: Sequence[bytes], parameters: bytes
) -> bytes:
    """A command. Its first handles are authorised, in their order."""
    body = b"".join(map(u32, handles))
    if authorisations:
        given = b"".join(authorisations)
        body += u32(len(given)) + given
    body += parameters
    tag = _SESSIONS if authorisations else _NO_SESSIONS
    return u16(tag) + u32(HEADER_BYTES + len(body)) + u32(code) + body


def length(data: bytes) -> int:
    """How long the answer is that begins like this. Raises TpmError where none is that long."""
    size = int.from_bytes(data[2:6], "big")
    if not HEADER_BYTES <= size <= BYTES_MAX:
        raise TpmError(f"the TPM's answer says it has {size} bytes: this is no TPM 2.0")
    return size


def code(data: bytes) -> int:
    """The response code of a whole answer; 0 is success."""
    return int.from_bytes(data[6:HEADER_BYTES], "big")


def answer(data: bytes, name: str, *, handle: bool, authorised: bool) -> Answer:
    """What the TPM answered to the command of this name. Raises TpmError for anything but success.

    `handle` tells whether the command makes one, `authorised` whether it had authorisations.
    """
    if len(data) < HEADER_BYTES or length(data) != len(data):
        raise TpmError(f"the TPM's answer to {name} is not as long as it says")
    tag = int.from_bytes(data[:2], "big")
    if tag == _OLD_FAMILY:
        raise TpmError("this is a TPM 1.2; the agent needs a TPM 2.0")
    if code(data):
        raise refused(name, code(data))
    if tag != (_SESSIONS if authorised else _NO_SESSIONS):
        raise TpmError(f"the TPM's answer to {name} has the tag {tag:#06x}: this is no TPM 2.0")
    reader = Reader(data[HEADER_BYTES:])
    made = reader.number(4) if handle else 0
    # What stands after the parameters says that the sessions are over, and ours end by themselves.
    return Answer(made, Reader(reader.take(reader.number(4)) if authorised else reader.rest()))
