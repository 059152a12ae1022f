"""What callers send: bodies, bounded in size and in time, and JSON that can be read in one way."""

from __future__ import annotations

import asyncio
import json
from typing import Final, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from assay_valuer.api.problems import Code, Problem
from assay_valuer.nesting import nests_deeper

BODY_BYTES_MAX: Final = 1024 * 1024
"""Room for a loan on 8,000 GPUs. A larger file is imported by command."""
LEVELS_MAX: Final = 32
"""How deep its lists and objects may nest; a loan's file takes four."""
_DRAINED: Final = 8
"""Of what is too large so many times as much is read and dropped: whoever is still sending when its
connection is closed may never see why."""
_CLOSE: Final = {"connection": "close"}

_T = TypeVar("_T")


async def read_body(request: Request, *, within_s: int, most: int = BODY_BYTES_MAX) -> bytes:
    """A request's whole body, of JSON. Raises Problem."""
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise Problem(Code.NOT_JSON, f"content-type: {media[:64]!r}: send application/json", _CLOSE)
    told = request.headers.get("content-length", "0")
    if told.isdecimal() and int(told) > most * _DRAINED:
        raise _too_large(most)
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size > most * _DRAINED:
                    raise _too_large(most)
                if size <= most:
                    body += chunk
    except TimeoutError:
        detail = f"it was not whole after {within_s} s"
        raise Problem(Code.TOO_SLOW, detail, _CLOSE) from None
    except ClientDisconnect:
        raise Problem(Code.BAD_REQUEST, "the caller hung up before its body was whole") from None
    if size > most:
        raise _too_large(most)
    return bytes(body)


def strict_json(body: bytes) -> object:
    """The JSON in a body: UTF-8, no name twice, no NaN. Raises Problem.

    Numbers may be wider than 64 bits: amounts of a token with 18 decimals are.
    """
    try:
        text = body.decode("utf-8")
        if nests_deeper(text, LEVELS_MAX):
            raise Problem(Code.BAD_JSON, "nested too deeply")
        tree: object = json.loads(
            text, object_pairs_hook=_once, parse_constant=_constant, parse_float=_fraction
        )
        # Half of a pair of surrogates can be written in JSON, and nowhere else.
        json.dumps(tree, ensure_ascii=False).encode("utf-8")
    except ValueError as error:
        raise Problem(Code.BAD_JSON, str(error)) from error
    return tree


def parse(body: bytes, type_: type[_T]) -> _T:
    """The body as a `type_`, unknown fields refused. Raises Problem, naming the field."""
    try:
        return msgspec.convert(strict_json(body), type_, strict=True)
    except msgspec.ValidationError as error:
        raise Problem(Code.REFUSED, str(error)) from error


def _too_large(most: int) -> Problem:
    return Problem(Code.TOO_LARGE, f"at most {most} bytes are taken", _CLOSE)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:64]!r} is given twice")
        found[name] = value
    return found


def _constant(name: str) -> object:
    raise ValueError(f"{name} is no number")


def _fraction(text: str) -> object:
    raise ValueError(f"{text[:32]}: no field here is a fraction; amounts are whole numbers or text")
