"""As much of DER (X.690) as evidence needs: reading, strictly, without building anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SEQUENCE: Final = 0x30
OBJECT_IDENTIFIER: Final = 0x06
OCTET_STRING: Final = 0x04
_LONG: Final = 0x80
_LENGTH_BYTES_MAX: Final = 3
_TAG_NUMBER: Final = 0x1F


class MalformedDer(ValueError):
    """Not DER, or not of the shape that was expected."""


@dataclass(frozen=True, slots=True)
class Item:
    """One value: its identifier octet and its contents."""

    tag: int
    contents: bytes


def items(data: bytes) -> Iterator[Item]:
    """The values in `data`, one after the other, to its end. Raises MalformedDer."""
    at = 0
    while at < len(data):
        tag = data[at]
        if tag & _TAG_NUMBER == _TAG_NUMBER or at + 1 >= len(data):
            raise MalformedDer(f"byte {at}: no value that evidence has")
        length, at = _length(data, at + 1)
        if at + length > len(data):
            raise MalformedDer(f"byte {at}: cut short")
        yield Item(tag, data[at : at + length])
        at += length


def only(data: bytes, tag: int) -> bytes:
    """The contents of the one value that `data` is. Raises MalformedDer for anything else."""
    found = list(items(data))
    if len(found) != 1 or found[0].tag != tag:
        raise MalformedDer(f"not one value of type {tag:#x}")
    return found[0].contents


def _length(data: bytes, at: int) -> tuple[int, int]:
    first = data[at]
    at += 1
    if first < _LONG:
        return first, at
    count = first - _LONG
    octets = data[at : at + count]
    if not 1 <= count <= _LENGTH_BYTES_MAX or len(octets) != count:
        raise MalformedDer(f"byte {at}: a length that evidence does not have")
    length = int.from_bytes(octets, "big")
    if octets[0] == 0 or length < _LONG:
        raise MalformedDer(f"byte {at}: a length longer than it need be")
    return length, at + count
