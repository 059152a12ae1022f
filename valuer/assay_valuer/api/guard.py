"""What stands before every operation: limits, tokens, the headers of every answer, one line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay_core.errors import AssayError
from assay_valuer.api.desk import PATH, TOKEN_STATE, Desk
from assay_valuer.api.problems import MEDIA_TYPE, Code, Problem
from assay_valuer.api.tokens import ApiToken, TokenFile
from assay_valuer.api.tokens import Scope as TokenScope
from assay_valuer.config import ApiConfig
from assay_valuer.ingest.limits import RateLimiter

_log = structlog.get_logger(__name__)

OPEN: Final = frozenset({"/healthz", "/v1/openapi.json"})
"""What anybody may ask."""
HEAD_BYTES_MAX: Final = 16 * 1024
_ALL_PER_MINUTE: Final = 60_000
_ASKS: Final = {"www-authenticate": 'Bearer realm="assay"'}
_LATER: Final = {"retry-after": "60"}
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""On every answer. None lets a page of another origin read it: callers are machines."""
_HSTS: Final = ("strict-transport-security", "max-age=31536000")


class Guard:
    """Lets a request through to `app`, or answers in its stead. Never raises but when cancelled."""

    def __init__(self, app: ASGIApp, desk: Desk, tokens: TokenFile, config: ApiConfig) -> None:
        self._app = app
        self._desk = desk
        self._tokens = tokens
        self._peers = RateLimiter(
            per_minute=_ALL_PER_MINUTE, per_minute_of_peer=config.requests_per_minute_of_peer
        )
        self._bearers = RateLimiter(
            per_minute=_ALL_PER_MINUTE, per_minute_of_peer=config.requests_per_minute_of_token
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI's own entry."""
        if scope["type"] != "http":
            return
        loop = asyncio.get_running_loop()
        begin, told = loop.time(), _Told(send, tls=scope["scheme"] == "https")
        try:
            await self._admit(scope)
            await self._app(scope, receive, told)
        except Problem as problem:
            await told.problem(problem)
        except Exception as error:  # noqa: BLE001 - the caller is answered, and the log has it
            _log.error("api_broken", path=scope.get(PATH, "unknown"), error=repr(error))
            await told.problem(Problem(Code.BROKEN, "it is in the valuer's log: tell its operator"))
        finally:
            token: ApiToken | None = scope.get(TOKEN_STATE)
            _log.info(
                "api",
                method=scope["method"],
                # The pattern where there is one: what somebody made up stays out of the log.
                path=scope.get(PATH, "unknown"),
                status=told.status,
                token=None if token is None else token.name,
                peer=_address(scope),
                ms=round((loop.time() - begin) * 1000),
            )

    async def _admit(self, scope: Scope) -> None:
        """Raises Problem where the request ends here."""
        now_ms = self._desk.now_ms()
        if not self._peers.allows(_peer(scope), now_ms):
            raise Problem(Code.TOO_MANY, "of this address: wait a minute", _LATER)
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if size + len(scope["raw_path"]) + len(scope["query_string"]) > HEAD_BYTES_MAX:
            raise Problem(Code.BAD_REQUEST, f"its head is larger than {HEAD_BYTES_MAX} bytes")
        if scope["path"] in OPEN:
            return
        token = await self._bearer(scope, now_ms)
        scope[TOKEN_STATE] = token
        if not self._bearers.allows(f"token:{token.id}:0", now_ms):
            raise Problem(Code.TOO_MANY, "of this token: wait a minute", _LATER)
        reads = scope["method"] in ("GET", "HEAD")
        wanted = TokenScope.READ if reads else TokenScope.WRITE
        if not token.scope.covers(wanted):
            detail = f"the token {token.name} is to {token.scope}; this needs {wanted}"
            raise Problem(Code.FORBIDDEN, detail)

    async def _bearer(self, scope: Scope, now_ms: int) -> ApiToken:
        given = Headers(scope=scope).getlist("authorization")
        kind, _, text = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        token = None
        if kind.lower() == "bearer":
            token = await self._desk.work(lambda: _find(self._tokens, text.strip(), now_ms))
        if token is None:
            detail = "authorization: Bearer and a token of `assay-valuer api-token create`"
            raise Problem(Code.UNAUTHORISED, detail, _ASKS)
        return token


class _Told:
    """Sends an answer on, with every answer's headers, and remembers its status."""

    def __init__(self, send: Send, *, tls: bool) -> None:
        self._send = send
        self._tls = tls
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers.update(HEADERS)
            if self._tls:
                headers[_HSTS[0]] = _HSTS[1]
            message = {**message, "headers": headers.raw}
        await self._send(message)

    async def problem(self, problem: Problem) -> None:
        """Answers so, unless an answer has begun."""
        if self.status is not None:
            return
        body = problem.body()
        headers = MutableHeaders(
            {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
        )
        status = problem.code.status
        await self({"type": "http.response.start", "status": status, "headers": headers.raw})
        await self({"type": "http.response.body", "body": body})


def _find(tokens: TokenFile, text: str, now_ms: int) -> ApiToken | None:
    try:
        return tokens.find(text, now_ms)
    except AssayError as error:
        # Our own file, whatever is wrong with it: its path is our operator's business alone.
        _log.error("api_tokens_unreadable", error=str(error))
        raise Problem(Code.UNAVAILABLE, "tokens cannot be looked at now") from error


def _peer(scope: Scope) -> str:
    """The caller's address as the limits name it."""
    host, port = scope["client"] or ("", 0)
    return f"{'ipv6' if ':' in host else 'ipv4'}:{host}:{port}"


def _address(scope: Scope) -> str:
    return str((scope["client"] or ("", 0))[0])
