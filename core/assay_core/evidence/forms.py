"""Evidence in the forms people have it: a report in hex or binary with a PEM chain, or NVIDIA's JSON.

The JSON form is a list of devices, each with `evidence` (the report) and `certificate` (the PEM
chain), both in base64, and the `nonce` in hex that they say was asked for.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.evidence import chain as chains
from assay_core.evidence.nvidia import BadEvidence, Evidence
from assay_core.evidence.spdm import NONCE_BYTES, REPORT_BYTES_MAX

DEVICES_MAX: Final = 64
FILE_BYTES_MAX: Final = DEVICES_MAX * 64 * 1024
_SPDM_START: Final = b"\x11\xe0"


class _Device(msgspec.Struct, frozen=True):
    """One device; what else stands there is somebody's word and is not read."""

    evidence: str
    certificate: str
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class Named:
    """Evidence, and the nonce that its file says was asked for: a claim, not a check."""

    evidence: Evidence
    claimed_nonce: bytes | None


def read(data: bytes, chain_pem: bytes | None) -> tuple[Named, ...]:
    """The evidence in a file, one for each device. Raises BadEvidence."""
    if data.lstrip()[:1] == b"[":
        if chain_pem is not None:
            raise BadEvidence("the JSON form brings its own chains; leave the chain out")
        return _json(data)
    if chain_pem is None:
        raise BadEvidence("a report alone: its certificate chain is needed too")
    return (Named(_evidence(report_bytes(data), chain_pem), None),)


def report_bytes(data: bytes) -> bytes:
    """A report as it is, or out of its hex. Raises BadEvidence."""
    if data[:2] == _SPDM_START:
        return data
    if len(data) > 4 * REPORT_BYTES_MAX:
        raise BadEvidence("too long for a report")
    try:
        return bytes.fromhex(data.decode("ascii"))
    except (UnicodeDecodeError, ValueError) as error:
        raise BadEvidence("neither a binary report nor one in hexadecimal") from error


def nonce_bytes(text: str) -> bytes:
    """A nonce out of its hex. Raises BadEvidence."""
    try:
        nonce = bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise BadEvidence("the nonce is not hexadecimal") from error
    if len(nonce) != NONCE_BYTES:
        raise BadEvidence(f"the nonce has {len(nonce)} bytes; a report's has {NONCE_BYTES}")
    return nonce


def _json(data: bytes) -> tuple[Named, ...]:
    if len(data) > FILE_BYTES_MAX:
        raise BadEvidence("too long for a list of devices")
    try:
        devices = msgspec.json.decode(data, type=list[_Device])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadEvidence(f"not a list of devices as NVIDIA writes it: {error}") from error
    if not 1 <= len(devices) <= DEVICES_MAX:
        raise BadEvidence(f"{len(devices)} devices; 1 to {DEVICES_MAX} are taken")
    return tuple(_named(device) for device in devices)


def _named(device: _Device) -> Named:
    try:
        report = base64.b64decode(device.evidence, validate=True)
        pem = base64.b64decode(device.certificate, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadEvidence("a device's evidence or certificate is not base64") from error
    claimed = None if device.nonce is None else nonce_bytes(device.nonce)
    return Named(_evidence(report, pem), claimed)


def _evidence(report: bytes, chain_pem: bytes) -> Evidence:
    try:
        return Evidence(report, chains.read(chain_pem))
    except chains.UntrustedChain as error:
        raise BadEvidence(str(error)) from error
