"""Xids in the kernel's log: what a line must look like to be believed.

The driver writes them itself, so only records of the kernel's own facility count, and only from
their first character on: what a user may put into the middle of one (the name of a process, of a
USB device) is never at its beginning with an address and a number after it. What comes behind the
number is not looked at: a tenant must not be able to hide an Xid by the name of a process.

Formats: `portDbgPrintf` of kernel_rc.c and `nv_printf` of nv.c and osinit.c in NVIDIA's open
kernel modules.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.pci import pci_address

KERNEL: Final = 0
"""The facility of the kernel's own messages: a user's write to /dev/kmsg never has it."""
MARK: Final = b"NVRM: "
"""What every line of the driver begins with."""
FALLEN: Final = 79
"""The Xid of a GPU that has fallen off the bus."""
TEXT_CHARACTERS_MAX: Final = 1024

_PLACE: Final = r"([0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}(?:\.[0-7])?)"
_XID: Final = re.compile(
    rf"NVRM: Xid \((?:PCI:)?{_PLACE}(?: GPU-I:\d{{1,4}})?(?: GPU-CI:\d{{1,4}})?\): "
    r"([1-9]\d{0,3})(?:,|$)",
    re.ASCII,
)
_GAP: Final = r"(?:\s|\\x0a)*(?:NVRM: )?"  # a line's end; /dev/kmsg writes it out
_FALLEN: Final = (
    re.compile(rf"NVRM: GPU (?:at )?(?:PCI:)?{_PLACE}:? (?:GPU )?has fallen off the bus", re.ASCII),
    re.compile(
        rf"NVRM: The NVIDIA GPU {_PLACE}{_GAP}(?:\(PCI ID: [0-9a-f]{{4}}:[0-9a-f]{{4}}\){_GAP})?"
        rf"installed in this{_GAP}system has{_GAP}fallen off the bus",
        re.ASCII,
    ),
)
_RECORD: Final = re.compile(rb"(\d{1,6}),(\d{1,20}),(\d{1,20}),[^;\n]{0,256};([^\n]*)")
_TIME_US_MAX: Final = 2**53


@dataclass(frozen=True, slots=True)
class Mention:
    """An Xid that a line tells of: the GPU's place on the bus, as sysfs writes it, and the code.

    `fallen`: the line has no number, and says in words what Xid 79 says. The driver often writes
    both.
    """

    address: str
    code: int
    fallen: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """One record of /dev/kmsg; time in microseconds since boot."""

    facility: int
    sequence: int
    at_us: int
    text: str


class Entry(msgspec.Struct, frozen=True):
    """One line of `journalctl --output=json`, as much as is used of it."""

    cursor: str = msgspec.field(name="__CURSOR")
    realtime_us: str = msgspec.field(name="__REALTIME_TIMESTAMP")
    transport: str = msgspec.field(name="_TRANSPORT")
    facility: str = msgspec.field(name="SYSLOG_FACILITY", default="")
    message: str | list[int] | None = msgspec.field(name="MESSAGE", default=None)

    @property
    def text(self) -> str:
        """The message; the journal writes one that is not UTF-8 as a list of its bytes."""
        if isinstance(self.message, list):
            values = self.message[: 4 * TEXT_CHARACTERS_MAX]
            if not all(0 <= value <= 255 for value in values):
                return ""
            return bytes(values).decode(errors="replace")
        return self.message or ""

    @property
    def of_kernel(self) -> bool:
        """Whether the kernel wrote it: what users write to /dev/kmsg has the same transport."""
        return self.transport == "kernel" and self.facility == str(KERNEL)

    @property
    def at_ms(self) -> int | None:
        """UTC milliseconds; None for what is no time."""
        if not (self.realtime_us.isascii() and self.realtime_us.isdigit()):
            return None
        at_us = int(self.realtime_us[:20])
        return at_us // 1_000 if at_us < _TIME_US_MAX else None


def mention(text: str) -> Mention | None:
    """The Xid that a message of the kernel's tells of; None for every other message."""
    text = text[:TEXT_CHARACTERS_MAX]
    found = _XID.match(text)
    if found is not None:
        address = pci_address(found[1])
        return None if address is None else Mention(address, int(found[2]))
    for pattern in _FALLEN:
        found = pattern.match(text)
        if found is not None:
            address = pci_address(found[1])
            return None if address is None else Mention(address, FALLEN, fallen=True)
    return None


def record(line: bytes) -> Record | None:
    """A line of /dev/kmsg: "PRIORITY,SEQUENCE,MICROSECONDS,FLAGS;TEXT"; None for what is none."""
    found = _RECORD.match(line)
    if found is None:
        return None
    priority, sequence, at_us, text = found.groups()
    if int(at_us) >= _TIME_US_MAX or int(sequence) >= 2**64:
        return None
    return Record(
        facility=int(priority) >> 3,
        sequence=int(sequence),
        at_us=int(at_us),
        text=text[: 4 * TEXT_CHARACTERS_MAX].decode(errors="replace"),
    )
