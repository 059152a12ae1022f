"""GET /metrics and nothing else: a request, its answer, and the connection is closed.

Loopback needs no TLS. Any other address does: the readings tell what a tenant does. Everything is
bounded: the request, the time it may take, and how many are answered at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, Protocol

from assay_agent.config import MetricsConfig
from assay_core.errors import FileError, ServiceError

if TYPE_CHECKING:
    from assay_agent.metrics.tls import Tls

REQUEST_BYTES_MAX: Final = 8 * 1024
REQUEST_S: Final = 5.0
ANSWER_S: Final = 30.0
CLOSE_S: Final = 5.0
"""For the rest of an answer to leave; who does not take it is hung up on, for a closed connection
that nobody reads would keep its descriptor for ever."""
SPACING_S: Final = 0.05
"""Between the beginnings of two pages: any user of the host may ask on loopback, in a loop, and a
page costs some milliseconds."""
CONNECTIONS_MAX: Final = 16
PORT_MAX: Final = 65_535

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Pages(Protocol):
    """What is served: pieces of text in one of two formats."""

    def __call__(self, *, openmetrics: bool) -> Iterator[str]:
        """The pieces, made as they are asked for."""
        ...


class Stream(Protocol):
    """One connection, with TLS or without."""

    async def read(self) -> bytes:
        """What came; empty at its end."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends, and waits while the other side is slow."""
        ...

    async def close(self) -> None:
        """Says that nothing more comes."""
        ...


class Server:
    """The port. Raises FileError where the configuration does not hold."""

    def __init__(
        self,
        settings: MetricsConfig,
        pages: Pages,
        *,
        answer_s: float = ANSWER_S,
        close_s: float = CLOSE_S,
    ) -> None:
        self._pages = pages
        self._answer_s, self._close_s = answer_s, close_s
        self._next_page_s = 0.0
        self._address, self._port = _place(settings)
        self._open = 0
        self._tls: Tls | None = None
        if settings.tls is not None:
            from assay_agent.metrics.tls import Tls  # noqa: PLC0415 - memory: only who asks for it

            self._tls = Tls(settings.tls)

    async def start(self) -> asyncio.Server:
        """Listens. Raises ServiceError where the port cannot be had."""
        try:
            return await asyncio.start_server(
                self._connected, self._address, self._port, limit=REQUEST_BYTES_MAX
            )
        except OSError as error:
            where = f"{self._address}:{self._port}"
            raise ServiceError(f"metrics.listen: {where} cannot be used: {error}") from error

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MAX:
                await self._converse(_Plain(reader, writer))
        except (OSError, TimeoutError):
            writer.transport.abort()  # gone, or too slow: that is theirs to know
        finally:
            try:
                writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(self._close_s):
                        await writer.wait_closed()
            finally:
                writer.transport.abort()
                self._open -= 1

    async def _converse(self, plain: _Plain) -> None:
        async with asyncio.timeout(REQUEST_S):
            stream: Stream = plain
            if self._tls is not None:
                stream = await self._tls.accept(plain)
            head = await _head(stream)
        async with asyncio.timeout(self._answer_s):
            await self._answer(stream, head)
            await stream.close()

    async def _answer(self, stream: Stream, head: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        words = line.split(b" ")
        if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
            await stream.write(_refusal("400 Bad Request", "not an HTTP/1.1 request"))
        elif words[0] not in (b"GET", b"HEAD"):
            await stream.write(_refusal("405 Method Not Allowed", "GET only", "Allow: GET, HEAD"))
        elif words[1].partition(b"?")[0] != b"/metrics":
            await stream.write(_refusal("404 Not Found", "there is only /metrics"))
        else:
            openmetrics = b"application/openmetrics-text" in rest.lower()
            await self._send(stream, words, openmetrics=openmetrics)

    async def _send(self, stream: Stream, words: list[bytes], *, openmetrics: bool) -> None:
        """In chunks, so that an answer that was cut short is known for one, and none is large."""
        chunked = words[2] == b"HTTP/1.1"
        head = [
            "HTTP/1.1 200 OK",
            f"Content-Type: {_OPENMETRICS if openmetrics else _TEXT}",
            *(["Transfer-Encoding: chunked"] if chunked else []),
            "Connection: close",
        ]
        await stream.write("\r\n".join([*head, "", ""]).encode())
        if words[0] == b"HEAD":
            return
        await self._turn()
        for page in self._pages(openmetrics=openmetrics):
            data = page.encode()
            if data:
                await stream.write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
        if chunked:
            await stream.write(b"0\r\n\r\n")

    async def _turn(self) -> None:
        """Waits until a page may be made."""
        now_s = asyncio.get_running_loop().time()
        wait_s = max(0.0, self._next_page_s - now_s)
        self._next_page_s = now_s + wait_s + SPACING_S
        await asyncio.sleep(wait_s)


class _Plain:
    """A connection as it is."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> bytes:
        return await self._reader.read(REQUEST_BYTES_MAX)

    async def write(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def close(self) -> None:
        """The connection is closed by who opened it."""


async def _head(stream: Stream) -> bytes:
    """The request up to its empty line; what is longer than it may be is cut, and so refused."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await stream.read()
        if not data or len(head) + len(data) > REQUEST_BYTES_MAX:
            return b""
        head += data
    return head.partition(b"\r\n\r\n")[0]


def _refusal(status: str, why: str, *headers: str) -> bytes:
    body = f"{why}\n"
    head = [
        f"HTTP/1.1 {status}",
        "Content-Type: text/plain; charset=utf-8",
        f"Content-Length: {len(body)}",
        *headers,
        "Connection: close",
    ]
    return "\r\n".join([*head, "", body]).encode()


def _place(settings: MetricsConfig) -> tuple[str, int]:
    listen = settings.listen or ""
    host, _, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not int(port) <= PORT_MAX:
        raise FileError(f"metrics.listen: {listen!r} is not address:port")
    if settings.tls is None and not _is_loopback(host):
        raise FileError(
            f"metrics.listen: {listen} is not a loopback address, and the readings tell what a "
            "tenant does: name a certificate and key under metrics.tls, or listen on 127.0.0.1"
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
