"""What a host signs: the header of a window, and the record of a gap."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

SCHEMA: Final = 1
"""The schema this version of the software writes."""

SCHEMAS_ACCEPTED: Final = (1,)
"""The current schema and the two before it, as far as there are any."""


class Source(enum.IntEnum):
    """Where readings came from. Numbers as on the wire."""

    NVML = 1
    REPLAY = 2
    SIMULATED = 3


class CloseReason(enum.IntEnum):
    """Why a window was closed. Numbers as on the wire."""

    PERIOD = 1
    EVENT = 2
    MAINTENANCE = 3
    SHUTDOWN = 4


class GapCause(enum.IntEnum):
    """Why windows were dropped. Numbers as on the wire."""

    SPOOL_FULL = 1
    DISK_FULL = 2


@dataclass(frozen=True, slots=True)
class Period:
    """A span of a host's time: UTC and CLOCK_BOOTTIME, milliseconds, begin inclusive."""

    begin_utc_ms: int
    end_utc_ms: int
    begin_boottime_ms: int
    end_boottime_ms: int


@dataclass(frozen=True, slots=True)
class Header:
    """A window's signed header; see Header in window.proto for each field."""

    host_id: str
    incarnation: int
    boot_id: bytes
    sequence: int
    previous_header_hash: bytes
    period: Period
    source: Source
    close_reason: CloseReason
    agent_version: str
    leaf_count: int
    merkle_root: bytes
    answered_challenge: bytes = b""
    witnessed_log_root: bytes = b""
    witnessed_log_size: int = 0
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class GapRecord:
    """The signed declaration of dropped windows; see GapRecord in window.proto."""

    host_id: str
    incarnation: int
    boot_id: bytes
    first_sequence: int
    last_sequence: int
    previous_header_hash: bytes
    last_dropped_hash: bytes
    begin_utc_ms: int
    end_utc_ms: int
    cause: GapCause
    schema: int = SCHEMA


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a host's chain: a sequence and the hash that the next header must name."""

    sequence: int
    hash: bytes


def header_hash(payload: bytes) -> bytes:
    """The hash by which the next header names this one: SHA-256 of its exact bytes."""
    return hashlib.sha256(payload).digest()
