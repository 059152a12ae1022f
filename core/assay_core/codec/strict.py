"""Parsing as strict as the schema's own writer: what it would not have written is refused."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError, Message

from assay_core.evidence.origin import Origin
from assay_core.header import CloseReason, GapCause, Source
from assay_core.leaves import DriverState, EventKind, IncidentKind, Severity, Tenancy

_M = TypeVar("_M", bound=Message)
_E = TypeVar(
    "_E",
    Source,
    CloseReason,
    GapCause,
    DriverState,
    EventKind,
    IncidentKind,
    Severity,
    Tenancy,
    Origin,
)

TEXT_BYTES_MAX: Final = 256
"""Longest text field of a leaf, bytes."""
TIME_MS_MAX: Final = 2**45
"""No clock shows a later time: the year 3084. And none shows one before 1970."""


class Malformed(ValueError):
    """Bytes that do not hold what they should; says which field."""


def strict(type_: type[_M], data: bytes) -> _M:
    """The message in `data`, if it writes as these very bytes again. Raises Malformed."""
    message = type_()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise Malformed(f"not a {type_.__name__}: truncated or damaged") from error
    message.DiscardUnknownFields()
    if message.SerializeToString(deterministic=True) != data:
        raise Malformed(
            f"not a {type_.__name__} as its schema writes it: unknown, duplicate or reordered fields"
        )
    return message


def enumerated(type_: type[_E], number: int, name: str) -> _E:
    """The member of an enumeration with this number. Raises Malformed."""
    try:
        return type_(number)
    except ValueError as error:
        raise Malformed(f"{name} has no value {number}") from error


def expect(holds: bool, otherwise: str) -> None:
    """Raises Malformed, saying `otherwise`, unless it holds."""
    if not holds:
        raise Malformed(otherwise)


def check_times(*times_ms: int) -> None:
    """Raises Malformed for UTC milliseconds that no clock shows."""
    for time_ms in times_ms:
        if not 0 <= time_ms <= TIME_MS_MAX:
            raise Malformed(f"{time_ms} ms is a time that no clock shows")
