"""A GPU's attestation report, byte by byte: an SPDM 1.1 GET_MEASUREMENTS exchange.

Source: DMTF DSP0274 1.1 §10.11, and NVIDIA's opaque data as its nvtrust repository reads it. The
report is the request and the response, one after the other; the signature covers both. Parsing
proves nothing by itself: see nvidia.py.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

NONCE_BYTES: Final = 32
SIGNATURE_BYTES: Final = 96
DIGEST_BYTES: Final = 48
REPORT_BYTES_MAX: Final = 0x2000
"""What NVML's buffer holds (NVML_CC_GPU_ATTESTATION_REPORT_SIZE)."""
_SPDM_1_1: Final = 0x11
_GET_MEASUREMENTS: Final = 0xE0
_MEASUREMENTS: Final = 0x60
_SIGNATURE_REQUESTED: Final = 0x01
_DMTF: Final = 0x01
_BLOCK: Final = struct.Struct(f"<BBHBH{DIGEST_BYTES}s")
"""A measurement: index, specification, size, type, length, digest."""
_RAW: Final = 0x80
"""Set in a measurement's type when it is a raw value and not a digest."""


class MalformedReport(ValueError):
    """The bytes are not an attestation report; says where."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a report says. Nothing in it is true before its signature was checked.

    `measurements` are SHA-384 digests by their index, from 1; `opaque` NVIDIA's fields by type.
    """

    nonce: bytes
    slot: int
    measurements: Mapping[int, bytes]
    responder_nonce: bytes
    opaque: Mapping[int, bytes]
    signed: bytes
    signature: bytes


class _Reader:
    """Takes bytes from the front; refuses to run over the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, count: int, what: str) -> bytes:
        end = self.at + count
        if end > len(self._data):
            raise MalformedReport(f"byte {self.at}: {what} is cut short")
        taken = self._data[self.at : end]
        self.at = end
        return taken

    def number(self, count: int, what: str) -> int:
        """An unsigned integer, little-endian."""
        return int.from_bytes(self.take(count, what), "little")

    def expect(self, count: int, value: int, what: str) -> None:
        at = self.at
        if (found := self.number(count, what)) != value:
            raise MalformedReport(f"byte {at}: {what} is {found:#x}, not {value:#x}")

    @property
    def left(self) -> int:
        return len(self._data) - self.at


def parse(data: bytes) -> Report:
    """The report in `data`, every byte of it accounted for. Raises MalformedReport."""
    if len(data) > REPORT_BYTES_MAX:
        raise MalformedReport(f"{len(data)} bytes; a report has at most {REPORT_BYTES_MAX}")
    reader = _Reader(data)
    reader.expect(1, _SPDM_1_1, "the request's SPDM version")
    reader.expect(1, _GET_MEASUREMENTS, "the request's code")
    if not reader.number(1, "the request's attributes") & _SIGNATURE_REQUESTED:
        raise MalformedReport("byte 2: no signature was asked for")
    reader.take(1, "the request's operation")
    nonce = reader.take(NONCE_BYTES, "the nonce")
    slot = reader.number(1, "the slot")
    reader.expect(1, _SPDM_1_1, "the response's SPDM version")
    reader.expect(1, _MEASUREMENTS, "the response's code")
    reader.take(2, "the response's parameters")
    measurements = _measurements(reader)
    responder_nonce = reader.take(NONCE_BYTES, "the responder's nonce")
    opaque = _opaque(reader.take(reader.number(2, "the opaque length"), "the opaque data"))
    signed = data[: reader.at]
    signature = reader.take(SIGNATURE_BYTES, "the signature")
    if reader.left:
        raise MalformedReport(f"byte {reader.at}: {reader.left} bytes after the signature")
    return Report(nonce, slot, measurements, responder_nonce, opaque, signed, signature)


def _measurements(reader: _Reader) -> Mapping[int, bytes]:
    count = reader.number(1, "the number of measurements")
    length = reader.number(3, "the length of the measurements")
    if length != count * _BLOCK.size:
        raise MalformedReport(f"{count} measurements do not take {length} bytes")
    found: dict[int, bytes] = {}
    blocks = _BLOCK.iter_unpack(reader.take(length, "the measurements"))
    for index, specification, size, kind, digest_length, digest in blocks:
        if index == 0 or index in found:
            raise MalformedReport(f"measurement {index} is there twice, or cannot be")
        if (specification, size, digest_length) != (_DMTF, 3 + DIGEST_BYTES, DIGEST_BYTES):
            raise MalformedReport(f"measurement {index} is not a digest as DSP0274 writes it")
        if kind & _RAW:
            raise MalformedReport(f"measurement {index} is a raw value and no digest")
        found[index] = digest
    return MappingProxyType(found)


def _opaque(data: bytes) -> Mapping[int, bytes]:
    reader = _Reader(data)
    found: dict[int, bytes] = {}
    while reader.left:
        kind = reader.number(2, "an opaque field's type")
        if kind in found:
            raise MalformedReport(f"opaque field {kind} is there twice")
        found[kind] = reader.take(reader.number(2, "an opaque field's length"), "an opaque field")
    return MappingProxyType(found)
