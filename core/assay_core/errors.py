"""Errors say whose fault it is, and what to do next."""

from __future__ import annotations

import enum


class AssayError(Exception):
    """Something went wrong; the message is for the person who must act on it."""


class HostError(AssayError):
    """The host's doing: its evidence does not hold, and its collateral may lose value."""


class ServiceError(AssayError):
    """Ours or the network's doing: try again; the host is never penalised for it."""


class FileError(AssayError):
    """A file someone wrote is wrong; the message names the line and the field."""


class Refusal(enum.StrEnum):
    """Why a window was not taken. The value is the wire name and the metric's label."""

    TOO_LARGE = "too_large"
    MALFORMED_ENVELOPE = "malformed_envelope"
    UNSUPPORTED_SCHEMA = "unsupported_schema"
    UNKNOWN_HOST = "unknown_host"
    REVOKED_HOST = "revoked_host"
    BAD_SIGNATURE = "bad_signature"
    MALFORMED_HEADER = "malformed_header"
    WRONG_HOST = "wrong_host"
    WRONG_INCARNATION = "wrong_incarnation"
    SOURCE_NOT_ALLOWED = "source_not_allowed"
    LEAF_COUNT = "leaf_count"
    LEAF_MISMATCH = "leaf_mismatch"
    MALFORMED_LEAF = "malformed_leaf"
    AHEAD_OF_TIME = "ahead_of_time"
    SEQUENCE_GAP = "sequence_gap"
    WRONG_PREVIOUS = "wrong_previous"
    FORK = "fork"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"

    @property
    def retryable(self) -> bool:
        """Whether the same bytes may be taken later."""
        return self in (Refusal.AHEAD_OF_TIME, Refusal.OVERLOADED, Refusal.UNAVAILABLE)


class Refused(HostError):
    """A window, or a file of one, that does not hold. Nothing of it was accepted.

    `sequence` is set once the signature holds, and so can be believed to be the host's own word.
    """

    def __init__(
        self, reason: Refusal, detail: str, *, sequence: int | None = None, retry_after_ms: int = 0
    ) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.sequence = sequence
        self.retry_after_ms = retry_after_ms
