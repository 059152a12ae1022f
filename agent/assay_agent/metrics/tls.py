"""TLS for the metrics port, over a connection that asyncio knows as a plain one.

asyncio's own TLS would have `ssl` loaded in every agent; this loads it where it is asked for.
"""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import Final, Protocol

from assay_agent.config import TlsConfig
from assay_core.errors import FileError

_RECORD_BYTES: Final = 16 * 1024


class Plain(Protocol):
    """The connection below."""

    async def read(self) -> bytes:
        """What came; empty at its end."""
        ...

    async def write(self, data: bytes) -> None:
        """Sends."""
        ...


class Tls:
    """A certificate and its key, loaded anew when the files change."""

    def __init__(self, settings: TlsConfig) -> None:
        self._settings = settings
        self._written = self._stamp()
        self._context = self._load()

    def _stamp(self) -> tuple[int, ...]:
        names = (self._settings.certificate, self._settings.key, self._settings.client_ca)
        try:
            return tuple(Path(name).stat().st_mtime_ns for name in names if name is not None)
        except OSError as error:
            raise FileError(f"metrics.tls: {error}") from error

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_cert_chain(self._settings.certificate, self._settings.key)
            if self._settings.client_ca is not None:
                context.load_verify_locations(self._settings.client_ca)
                context.verify_mode = ssl.CERT_REQUIRED
        except (OSError, ssl.SSLError) as error:
            raise FileError(
                f"metrics.tls: {error}: certificate, key and client_ca are PEM files, the key the "
                "certificate's own and without a passphrase"
            ) from error
        return context

    async def accept(self, plain: Plain) -> TlsStream:
        """The connection after its handshake. Raises OSError where there is none."""
        try:
            written = self._stamp()
            if written != self._written:
                self._context, self._written = self._load(), written
        except FileError:
            pass  # a renewal half done: the one loaded last goes on
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = self._context.wrap_bio(incoming, outgoing, server_side=True)
        stream = TlsStream(plain, session, incoming, outgoing)
        await stream.shake_hands()
        return stream


class TlsStream:
    """TLS over a plain connection; ssl.SSLError is an OSError."""

    def __init__(
        self, plain: Plain, session: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        self._plain, self._session = plain, session
        self._incoming, self._outgoing = incoming, outgoing

    async def shake_hands(self) -> None:
        """Raises OSError where the other side is not one to talk to."""
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    raise ConnectionResetError("closed within the handshake") from None
            except ssl.SSLError:
                await self._flush()  # the alert that says why
                raise
            else:
                await self._flush()
                return

    async def read(self) -> bytes:
        """What came; empty at its end."""
        while True:
            try:
                return self._session.read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._feed():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def write(self, data: bytes) -> None:
        """Sends, and waits while the other side is slow."""
        for start in range(0, len(data), _RECORD_BYTES):
            self._session.write(data[start : start + _RECORD_BYTES])
            await self._flush()

    async def close(self) -> None:
        """Says goodbye, so that an answer cut short is known for one."""
        with contextlib.suppress(ssl.SSLWantReadError):  # their goodbye is not waited for
            self._session.unwrap()
        await self._flush()

    async def _feed(self) -> bool:
        data = await self._plain.read()
        if data:
            self._incoming.write(data)
        return bool(data)

    async def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            await self._plain.write(data)
