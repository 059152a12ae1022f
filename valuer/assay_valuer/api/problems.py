"""What the API answers where it does not do what was asked: RFC 9457, and whose fault it is."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

MEDIA_TYPE: Final = "application/problem+json"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})


class Fault(enum.StrEnum):
    """Whose: the same request may be right later where it is ours, and never where it is yours."""

    YOURS = "yours"
    OURS = "ours"


class Code(enum.Enum):
    """Every problem: its name, its status, and what it is in words."""

    BAD_REQUEST = ("bad_request", 400, "the request is not one")
    BAD_JSON = ("bad_json", 400, "the body is not JSON that can be read in one way")
    UNAUTHORISED = ("unauthorised", 401, "no token that holds was shown")
    FORBIDDEN = ("forbidden", 403, "the token is not for this")
    NOT_FOUND = ("not_found", 404, "there is no such thing")
    NOT_ALLOWED = ("method_not_allowed", 405, "this cannot be done with it")
    TOO_SLOW = ("too_slow", 408, "the body did not come in time")
    CONFLICT = ("conflict", 409, "it contradicts what is there")
    STALE = ("stale", 412, "it has changed since it was read")
    TOO_LARGE = ("too_large", 413, "the body is larger than is taken")
    NOT_JSON = ("unsupported_media_type", 415, "the body must be application/json")
    REFUSED = ("refused", 422, "what the body says is refused")
    UNCONDITIONAL = ("precondition_required", 428, "it must say which version it is to replace")
    TOO_MANY = ("too_many_requests", 429, "more requests than are answered")
    BROKEN = ("broken", 500, "a mistake of the valuer's own")
    UNAVAILABLE = ("unavailable", 503, "the valuer cannot answer now")

    def __init__(self, name: str, status: int, title: str) -> None:
        self.label: Final = name
        self.status: Final = status
        self.title: Final = title

    @property
    def fault(self) -> Fault:
        """Whose it is."""
        return Fault.OURS if self.status >= 500 else Fault.YOURS


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer's JSON. `detail` says what is wrong here, and what to do."""

    type: str
    title: str
    status: int
    detail: str
    fault: Fault


class Problem(Exception):
    """Ends a request with this answer."""

    def __init__(self, code: Code, detail: str, headers: Mapping[str, str] = _NONE) -> None:
        super().__init__(detail)
        self.code: Final = code
        self.detail: Final = detail
        self.headers: Final = headers

    def body(self) -> bytes:
        """The answer's bytes."""
        code = self.code
        return msgspec.json.encode(
            ProblemBody(
                type=f"urn:assay:problem:{code.label}",
                title=code.title,
                status=code.status,
                detail=self.detail,
                fault=code.fault,
            )
        )
