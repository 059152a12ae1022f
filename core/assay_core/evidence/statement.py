"""What a host states about evidence that its hardware signed, and what binds the pieces together.

A device's report answers a nonce that names the valuer's challenge, the TPM's attestation key and
the newest sealed window; the TPM's quote names the same challenge and window, and the digests of the
reports. So evidence of one host's devices cannot be shown by another host's TPM, nor an old one be
shown anew. It binds; it does not prove that TPM and devices share a chassis.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from assay_core.evidence.origin import Origin
from assay_core.header import Source

SCHEMA: Final = 1
CHALLENGE_BYTES: Final = 32
DEVICES_MAX: Final = 32
"""GPUs and switches of one host: a board of 8 and 4 has 12."""
_DEVICE_DOMAIN: Final = b"assay/device-nonce/v1\0"
_QUOTE_DOMAIN: Final = b"assay/quote/v1\0"


@dataclass(frozen=True, slots=True)
class Device:
    """One device's report and certificate chain by the SHA-256 of their exact bytes."""

    origin: Origin
    report_sha256: bytes
    chain_sha256: bytes


@dataclass(frozen=True, slots=True)
class Quote:
    """A TPM's quote: TPMS_ATTEST, TPMT_SIGNATURE, and the PCR values it is over, by number."""

    attest: bytes
    signature: bytes
    pcrs: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a host signs; see EvidenceStatement in evidence.proto for each field."""

    host_id: str
    incarnation: int
    challenge: bytes
    sequence: int
    header_hash: bytes
    collected_ms: int
    source: Source
    devices: tuple[Device, ...]
    devices_absent: str
    quote: Quote | None
    schema: int = SCHEMA


def device_nonce(challenge: bytes, key_name: bytes, header_hash: bytes) -> bytes:
    """The 32-byte nonce that a device is asked.

    `key_name` is the TPM's name of the attestation key, or the SHA-256 fingerprint of the sealing
    key on a host without a TPM.
    """
    parts = _DEVICE_DOMAIN + challenge + bytes([len(key_name)]) + key_name + header_hash
    return hashlib.sha256(parts).digest()


def quote_extra(challenge: bytes, header_hash: bytes, devices: Sequence[Device]) -> bytes:
    """The 32 bytes of qualifying data that a TPM is asked to quote."""
    listed = hashlib.sha256()
    for device in devices:
        listed.update(bytes([device.origin]) + device.report_sha256 + device.chain_sha256)
    return hashlib.sha256(_QUOTE_DOMAIN + challenge + header_hash + listed.digest()).digest()
