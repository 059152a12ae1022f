"""What is in a request's address and headers, each bounded, each refused by name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from assay_valuer.api.problems import Code, Problem

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
_LOAN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_SERIAL: Final = re.compile(r"[!-~]([ -~]{0,62}[!-~])?", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_POSITION: Final = re.compile(r"[0-9]{1,15}", re.ASCII)
_ETAG: Final = re.compile(r'"([0-9a-f]{64})"', re.ASCII)
_ETAGS_MAX: Final = 8


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is asked for; `after` is empty at its beginning."""

    after: str
    limit: int


def loan_id(request: Request) -> str:
    """The loan in the address. Raises Problem."""
    return _part(request, "loan", _LOAN, "no loan has such a name")


def serial_of(request: Request) -> str:
    """The serial number in the address. Raises Problem."""
    page(request, none=True)
    return _part(request, "serial", _SERIAL, "no GPU has such a serial number")


def case_of(request: Request) -> str:
    """The case in the address, by its SHA-256. Raises Problem."""
    page(request, none=True)
    return _part(request, "case", _SHA256, "a case is named by its SHA-256, 64 hexadecimal digits")


def page(request: Request, *, text: bool = False, none: bool = False) -> Page:
    """The part of a list that the query asks for; `none`: a query is not taken. Raises Problem.

    `text`: whether the list goes by names, or by positions in the ledger.
    """
    given = request.query_params.multi_items()
    known = () if none else ("after", "limit")
    for name, _ in given:
        if name not in known:
            raise Problem(Code.BAD_REQUEST, f"{name[:64]!r} is no parameter of this")
    found = dict(given)
    if len(found) < len(given):
        raise Problem(Code.BAD_REQUEST, "a parameter is given twice")
    limit = found.get("limit", str(LIMIT_DEFAULT))
    if _POSITION.fullmatch(limit) is None or not 1 <= int(limit) <= LIMIT_MAX:
        raise Problem(Code.BAD_REQUEST, f"limit: a whole number from 1 to {LIMIT_MAX}")
    after = found.get("after", "")
    if after and (_LOAN if text else _POSITION).fullmatch(after) is None:
        raise Problem(Code.BAD_REQUEST, "after: take it from `next` of the page before")
    return Page(after, int(limit))


def header(request: Request, name: str, pattern: str) -> str:
    """A header that must be there, once. Raises Problem."""
    given = request.headers.getlist(name)
    if len(given) != 1 or re.fullmatch(pattern, given[0], re.ASCII) is None:
        raise Problem(Code.BAD_REQUEST, f"{name}: is needed, once, as {pattern}")
    return given[0]


def hash_of(request: Request, name: str) -> tuple[str, ...]:
    """The hashes in a header of ETags; of none, none. Raises Problem."""
    given = ",".join(request.headers.getlist(name))
    if not given.strip():
        return ()
    tags = [_ETAG.fullmatch(one.strip()) for one in given.split(",", _ETAGS_MAX)]
    found = tuple(tag[1] for tag in tags if tag is not None)
    if len(found) < len(tags):
        raise Problem(Code.BAD_REQUEST, f'{name}: ETags as they were answered, such as "5f70…"')
    return found


def one_of_header(request: Request, name: str, only: str) -> bool:
    """Whether a header is there, which can say one thing alone. Raises Problem."""
    given = request.headers.getlist(name)
    if given and given != [only]:
        raise Problem(Code.BAD_REQUEST, f"{name}: {only} is all that it can be here")
    return bool(given)


def _part(request: Request, name: str, pattern: re.Pattern[str], otherwise: str) -> str:
    text = str(request.path_params[name])
    if pattern.fullmatch(text) is None:
        raise Problem(Code.NOT_FOUND, otherwise)
    return text
