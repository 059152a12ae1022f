"""A feed over HTTP: TLS always checked, hosts from a list, and every wait, size and hop bounded.

Rules: (1) only hosts on the list are asked, by TLS or on this machine, also after a redirect; (2) a
token goes to its own origin alone; (3) no proxy but the configured one, nothing from the environment;
(4) one deadline over everything; (5) what is temporary is tried again, within that deadline.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from assay_core.errors import FileError
from assay_valuer.config import is_loopback
from assay_valuer.market.feeds import web
from assay_valuer.market.feeds.feed import (
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Fetched,
    Format,
    Known,
    Unchanged,
)
from assay_valuer.market.feeds.file import read_table
from assay_valuer.market.observations import Market

_OK: Final = 200
_NOT_MODIFIED: Final = 304
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_TOO_MANY_REQUESTS: Final = 429
_SERVER_ERRORS: Final = 500


class _Again(Exception):
    """An attempt failed in a way that another may not."""

    def __init__(self, fault: Fault, detail: str, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.fault = fault
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class _Reply:
    data: bytes
    format: Format
    etag: str | None
    last_modified: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpFeed:
    """Rows from a URL.

    `hosts`: whom it may be led to, as name or name:port. `format`: None takes the server's word for
    it. `own_ca`: certificates that alone are trusted, PEM; None trusts the public ones.
    """

    name: str
    market: Market
    url: str
    hosts: frozenset[str]
    format: Format | None = None
    token_file: Path | None = None
    own_ca: Path | None = None
    proxy: str | None = None
    limits: web.Limits = field(default_factory=web.Limits)
    random: Callable[[], float] = field(default=secrets.SystemRandom().random)
    """From 0 to 1; spreads the valuers that wait for one server."""

    def __post_init__(self) -> None:
        """Raises FileError for a URL that may not be asked."""
        try:
            good = web.allowed(httpx.URL(self.url), self.hosts)
        except (httpx.InvalidURL, ValueError, UnicodeError):
            good = False
        if not good:
            raise FileError(
                f"feed {self.name}: url: an https:// URL is needed whose host is in market.hosts"
            )

    async def fetch(self, known: Known) -> Fetched | Unchanged:
        """What the server gives, unless that is known. Raises FeedUnavailable, FeedMalformed."""
        where = web.place(httpx.URL(self.url))
        try:
            async with asyncio.timeout(self.limits.total_s):
                reply = await self._ask(known, where)
        except TimeoutError:
            raise FeedUnavailable(
                Fault.TIMEOUT, f"{where}: no whole answer in {self.limits.total_s:g} s"
            ) from None
        if isinstance(reply, Unchanged):
            return reply
        sha256 = hashlib.sha256(reply.data).hexdigest()
        if sha256 == known.content_sha256:
            return Unchanged(reply.etag, reply.last_modified)
        table = await read_table(reply.data, reply.format, self.market, where)
        return Fetched(table.rows, table.unread, sha256, reply.etag, reply.last_modified)

    async def _ask(self, known: Known, where: str) -> _Reply | Unchanged:
        """Asks until there is an answer, or no hope of one."""
        bearer = None
        if self.token_file is not None:
            bearer = await asyncio.to_thread(web.read_bearer, self.token_file)
        context = await asyncio.to_thread(self._context)
        for attempt in range(1, self.limits.attempts + 1):
            try:
                async with self._client(context) as client:
                    return await self._attempt(client, known, bearer)
            except httpx.HTTPError as error:
                again = _failed(error, where)
            except _Again as error:
                again = error
            wait_s = self._wait_s(attempt, again.wait_s)
            if attempt == self.limits.attempts or wait_s is None:
                asked = "once" if attempt == 1 else f"{attempt} times"
                raise FeedUnavailable(again.fault, f"{again}; asked {asked}")
            await asyncio.sleep(wait_s)
        raise FeedUnavailable(Fault.INTERNAL, f"{where}: limits.attempts must be positive")

    def _wait_s(self, attempt: int, asked_s: float | None) -> float | None:
        """How long to wait after an attempt; None: longer than anybody should."""
        if asked_s is not None and asked_s > self.limits.wait_max_s:
            return None
        most_s = min(self.limits.backoff_s * float(2 ** (attempt - 1)), self.limits.wait_max_s)
        spread_s = most_s * (1 - self.random() / 2)
        return max(spread_s, asked_s or 0.0)

    async def _attempt(
        self, client: httpx.AsyncClient, known: Known, bearer: web.Bearer | None
    ) -> _Reply | Unchanged:
        """One attempt, with the hops that it takes."""
        own = url = httpx.URL(self.url)
        headers = {"Accept-Encoding": "gzip", "User-Agent": "assay-valuer"}
        if known.etag is not None:
            headers["If-None-Match"] = known.etag
        if known.last_modified is not None:
            headers["If-Modified-Since"] = known.last_modified
        for _ in range(self.limits.redirects_max + 1):
            auth = bearer if web.origin(url) == web.origin(own) else None
            async with client.stream("GET", url, headers=headers, auth=auth) as reply:
                if reply.status_code in _REDIRECTS:
                    url = web.follow(url, reply.headers.get("location"), self.hosts)
                    continue
                return await self._answer(reply, known)
        raise FeedUnavailable(
            Fault.REDIRECT, f"{web.place(own)}: sent on more than {self.limits.redirects_max} times"
        )

    async def _answer(self, reply: httpx.Response, known: Known) -> _Reply | Unchanged:
        """What an answer holds that is no redirect."""
        where, status = web.place(reply.url), reply.status_code
        etag = web.validator(reply.headers.get("etag"))
        last_modified = web.validator(reply.headers.get("last-modified"))
        if status == _NOT_MODIFIED and (known.etag or known.last_modified):
            return Unchanged(etag or known.etag, last_modified or known.last_modified)
        if status == _TOO_MANY_REQUESTS or status >= _SERVER_ERRORS:
            wait_s = web.retry_after_s(reply.headers)
            asks = "" if wait_s is None else f", asks to wait {wait_s:g} s"
            raise _Again(Fault.STATUS, f"{where}: HTTP status {status}{asks}", wait_s)
        if status != _OK:
            raise FeedUnavailable(Fault.STATUS, f"{where}: HTTP status {status}")
        kind = reply.headers.get("content-type", "")
        format_ = self.format or web.format_of(kind, reply.url)
        if format_ is None:
            raise FeedMalformed(
                Fault.FORMAT, f"{where}: {kind[:80]!a} is neither CSV, JSON nor Parquet"
            )
        body = web.Unpacking(
            reply.headers.get("content-encoding", ""), self.limits.bytes_max, where
        )
        async for part in reply.aiter_raw():
            body.feed(part)
        return _Reply(body.whole(), format_, etag, last_modified)

    def _context(self) -> ssl.SSLContext:
        """Who is believed to be whom. It blocks. Raises FeedUnavailable."""
        if self.own_ca is None:
            return httpx.create_ssl_context(trust_env=False)
        try:
            return ssl.create_default_context(cafile=self.own_ca)
        except (OSError, ssl.SSLError) as error:
            raise FeedUnavailable(
                Fault.TLS, f"{self.own_ca}: no certificates to trust ({type(error).__name__})"
            ) from error

    def _client(self, context: ssl.SSLContext) -> httpx.AsyncClient:
        here = is_loopback(httpx.URL(self.url).host)
        return httpx.AsyncClient(
            verify=context,
            trust_env=False,
            follow_redirects=False,
            proxy=None if here else self.proxy,
            timeout=httpx.Timeout(self.limits.read_s, connect=self.limits.connect_s),
        )


def _failed(error: httpx.HTTPError, where: str) -> _Again:
    """What a failed attempt is called. Raises FeedUnavailable where another would fail as well.

    The library's own text stays out: it may be about a header that holds a secret.
    """
    if isinstance(error, httpx.TimeoutException):
        return _Again(Fault.TIMEOUT, f"{where}: no answer in time ({type(error).__name__})")
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            detail = f"{where}: its certificate does not hold: {cause.verify_message}"
            raise FeedUnavailable(Fault.TLS, detail) from None
        if isinstance(cause, ssl.SSLError):
            return _Again(Fault.TLS, f"{where}: no TLS ({cause.reason or type(cause).__name__})")
        cause = cause.__cause__ or cause.__context__
    return _Again(Fault.UNREACHABLE, f"{where}: no answer ({type(error).__name__})")
