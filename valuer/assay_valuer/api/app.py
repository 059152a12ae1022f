"""The application: addresses and methods to operations, and the description of them all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from assay_valuer.api import openapi
from assay_valuer.api.desk import PATH, Desk
from assay_valuer.api.guard import Guard
from assay_valuer.api.operations import OPERATIONS, Operation
from assay_valuer.api.problems import Code, Problem
from assay_valuer.api.tokens import TokenFile
from assay_valuer.config import ApiConfig


def application(desk: Desk, tokens: TokenFile, config: ApiConfig) -> ASGIApp:
    """Everything, behind its guard."""
    return Guard(
        Router(routes(desk), redirect_slashes=False, default=_nothing), desk, tokens, config
    )


def routes(desk: Desk) -> list[Route]:
    """One for each address."""
    by_path: dict[str, dict[str, Operation]] = defaultdict(dict)
    for one in OPERATIONS:
        by_path[one.path][one.method] = one
    made = [Route(path, _Address(desk, methods)) for path, methods in by_path.items()]
    return [*made, Route(openapi.PATH, _Description())]


class _Address:
    """What can be asked of one address."""

    def __init__(self, desk: Desk, methods: Mapping[str, Operation]) -> None:
        self._desk = desk
        self._methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        method: str = scope["method"]
        one = self._methods.get("GET" if method == "HEAD" else method)
        scope[PATH] = next(iter(self._methods.values())).path
        if one is None:
            allowed = ", ".join(sorted(self._methods))
            raise Problem(Code.NOT_ALLOWED, f"it takes {allowed}", {"allow": allowed})
        response = await one.handler(self._desk, Request(scope, receive))
        await response(scope, receive, send)


class _Description:
    """The description, which never changes while this runs."""

    def __init__(self) -> None:
        self._response: Final = Response(
            openapi.document(OPERATIONS), media_type="application/json"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[PATH] = openapi.PATH
        if scope["method"] not in ("GET", "HEAD"):
            raise Problem(Code.NOT_ALLOWED, "it takes GET", {"allow": "GET"})
        await self._response(scope, receive, send)


async def _nothing(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise Problem(Code.NOT_FOUND, f"nothing is here: {openapi.PATH} says what there is")
