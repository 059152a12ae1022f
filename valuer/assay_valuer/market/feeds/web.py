"""What may be asked of a server and taken from it: bounds, hosts, waits and packing. No network here."""

from __future__ import annotations

import email.utils
import os
import re
import stat
import zlib
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from assay_valuer.config import is_safe_url
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Format,
)
from assay_valuer.market.feeds.file import SUFFIXES, open_now

VALIDATOR_MAX: Final = 256
"""Characters of an ETag or a Last-Modified that is kept, and sent back."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]{1,4096}=*")
"""RFC 6750; anything else could break out of its header."""
_TOKEN_BYTES_MAX: Final = 8_192
_TYPES: Final[Mapping[str, Format]] = {
    "text/csv": Format.CSV,
    "application/csv": Format.CSV,
    "application/json": Format.JSON,
    "text/json": Format.JSON,
    "application/vnd.apache.parquet": Format.PARQUET,
    "application/x-parquet": Format.PARQUET,
}
_ANY_TYPE: Final = ("", "text/plain", "application/octet-stream", "binary/octet-stream")
"""What servers say of files that they know nothing of: then the name decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one fetch. Seconds, bytes, counts."""

    connect_s: float = 10.0
    read_s: float = 20.0
    """Between two parts of an answer."""
    total_s: float = 120.0
    """Of everything: attempts, waits between them, and hops."""
    bytes_max: int = BYTES_MAX
    """Of a body, packed and unpacked."""
    attempts: int = 4
    backoff_s: float = 1.0
    """Before the second attempt; twice that before each further one, less up to half at random."""
    wait_max_s: float = 30.0
    """A server that asks for a longer wait is left alone until the feed is next due."""
    redirects_max: int = 3


def place(url: httpx.URL) -> str:
    """Host, and the port where it is not its scheme's own: as allow-lists write it."""
    host = url.raw_host.decode("ascii", "replace").lower()
    host = f"[{host}]" if ":" in host else host
    return host if url.port is None else f"{host}:{url.port}"


def origin(url: httpx.URL) -> str:
    """What a secret is bound to: scheme, host and port."""
    return f"{url.scheme}://{place(url)}"


def allowed(url: httpx.URL, hosts: frozenset[str]) -> bool:
    """Whether a URL may be asked: TLS or this machine, a host on the list, and no name in it."""
    try:
        safe = is_safe_url(str(url))
    except ValueError:
        return False  # the standard library reads it otherwise than the one that would ask it
    return safe and place(url) in hosts and not url.userinfo


def follow(url: httpx.URL, location: str | None, hosts: frozenset[str]) -> httpx.URL:
    """Where a redirect leads. Raises FeedUnavailable where it may not be followed."""
    try:
        to = url.join(location or "")
    except (httpx.InvalidURL, ValueError, UnicodeError):
        to = url
    if to == url:
        raise FeedUnavailable(Fault.REDIRECT, f"{place(url)}: sends on to nowhere")
    if url.scheme == "https" and to.scheme != "https":
        raise FeedUnavailable(Fault.REDIRECT, f"{place(url)}: sends on to where there is no TLS")
    if not allowed(to, hosts):
        shown = ascii(place(to)[:80])
        raise FeedUnavailable(
            Fault.REDIRECT, f"{place(url)}: sends on to {shown}, which is not in market.hosts"
        )
    return to


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """How long a server asks to be left alone; by its own clock where it names an instant."""
    text = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
        now = email.utils.parsedate_to_datetime(headers.get("date", ""))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return None


def validator(text: str | None) -> str | None:
    """An ETag or Last-Modified that can be sent back; None for one that nobody should."""
    good = text and len(text) <= VALIDATOR_MAX and text.isascii() and text.isprintable()
    return text if good else None


def format_of(content_type: str, url: httpx.URL) -> Format | None:
    """How an answer is written, by what it is called."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind in _ANY_TYPE:
        return SUFFIXES.get(Path(url.path).suffix.lower())
    return Format.JSON if kind.endswith("+json") else _TYPES.get(kind)


class Bearer(httpx.Auth):
    """A bearer token, put into one request. It shows itself nowhere: tracebacks print what is local."""

    def __init__(self, token: str) -> None:
        self._token: Final = token

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """As httpx asks for it."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        yield request

    def __repr__(self) -> str:
        return "Bearer(…)"


def read_bearer(path: Path) -> Bearer:
    """The token in a file that only the valuer can read. It blocks. Raises FeedUnavailable."""
    try:
        mode, bearer = _bearer_in(path)
    except OSError as error:
        raise FeedUnavailable(
            Fault.TOKEN, f"{path}: cannot read the token: {error.strerror}"
        ) from error
    # A systemd credential may be read by its group too.
    if mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
        raise FeedUnavailable(Fault.TOKEN, f"{path}: others may read this token; chmod 600 it")
    if bearer is None:
        raise FeedUnavailable(Fault.TOKEN, f"{path}: one line is expected, a bearer token")
    return bearer


def _bearer_in(path: Path) -> tuple[int, Bearer | None]:
    """The file's mode, and its token if it has one. It raises nothing once it holds a secret."""
    with open_now(path) as file:
        mode = os.fstat(file.fileno()).st_mode
        data = file.read(_TOKEN_BYTES_MAX) if stat.S_ISREG(mode) else b""
    token = data.decode("ascii", "replace").strip()
    return mode, Bearer(token) if _TOKEN.fullmatch(token) else None


class Unpacking:
    """A body as it comes, unpacked, never more of it in memory than the bound. Stateful."""

    def __init__(self, encoding: str, bytes_max: int, name: str) -> None:
        """Raises FeedMalformed for a packing that was not asked for."""
        kind = encoding.strip().lower()
        if kind not in ("", "identity", "gzip", "x-gzip"):
            raise FeedMalformed(
                Fault.ENCODING, f"{name}: packed as {kind[:40]!a}; gzip alone is taken"
            )
        self._gzip = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS) if "gzip" in kind else None
        self._bytes_max, self._name = bytes_max, name
        self._packed = 0
        self._data = bytearray()

    def feed(self, part: bytes) -> None:
        """Takes the next part. Raises FeedMalformed."""
        self._packed += len(part)
        if self._packed > self._bytes_max:
            raise self._too_large()
        if self._gzip is None:
            self._data += part
            return
        if self._gzip.eof:
            raise self._broken("goes on after its end")
        try:
            self._data += self._gzip.decompress(part, self._bytes_max + 1 - len(self._data))
        except zlib.error:
            raise self._broken("is not gzip, though it says so") from None
        if len(self._data) > self._bytes_max:
            raise self._too_large()
        if self._gzip.unused_data:
            raise self._broken("goes on after its end")

    def whole(self) -> bytes:
        """All of it. Raises FeedMalformed where its end is missing."""
        if self._gzip is not None and not self._gzip.eof:
            raise self._broken("ends before its end")
        return bytes(self._data)

    def _too_large(self) -> FeedMalformed:
        return FeedMalformed(Fault.TOO_LARGE, f"{self._name}: more than {self._bytes_max} bytes")

    def _broken(self, how: str) -> FeedMalformed:
        return FeedMalformed(Fault.ENCODING, f"{self._name}: what it gave {how}")
