"""Serving the API: its listener, TLS, and the clock that nobody outlasts who sends nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from assay_core.errors import FileError, ServiceError
from assay_valuer.api.app import application
from assay_valuer.api.desk import Desk
from assay_valuer.api.guard import HEAD_BYTES_MAX
from assay_valuer.api.tokens import FILE, TokenFile
from assay_valuer.config import ApiConfig, split_endpoint
from assay_valuer.service import ServiceContext

_log = structlog.get_logger(__name__)

_IDLE_S: Final = 10
_GRACE_S: Final = 5
"""For what runs when the service ends."""
RELOAD_S: Final = 60.0


def _ignore(_port: int) -> None:
    """Of a running service nobody waits for the port."""


async def serve(
    context: ServiceContext,
    on_listening: Callable[[int], None] = _ignore,
    *,
    reload_s: float = RELOAD_S,
) -> None:
    """Serves until it is cancelled; tells the port once. Raises FileError, ServiceError.

    `reload_s`: how often it looks whether the certificate was renewed.
    """
    config = context.state.config.api
    tls = _tls(config)
    listener = _listen(config)
    desk = Desk(context)
    folder = context.state.paths.state_dir
    tokens = TokenFile(folder / FILE if config.tokens_file is None else Path(config.tokens_file))
    server = _Server(_settings(config, desk, tokens))
    server.config.load()
    server.config.ssl = tls
    running = asyncio.create_task(server.serve([listener]))
    renewing = asyncio.create_task(_renew(tls, config, reload_s))
    on_listening(listener.getsockname()[1])
    _log.info("api_listening", listen=config.listen, tls=tls is not None)
    try:
        await asyncio.shield(running)
    finally:
        renewing.cancel()
        server.should_exit = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2 * _GRACE_S):
                await running
        await asyncio.to_thread(desk.close)


class _Server(uvicorn.Server):
    """Uvicorn's, which leaves signals to the service that it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Captures none."""
        yield


class _Protocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which by itself waits for ever for the rest of a head."""

    head_within_s = 10
    """From the connection, or the last answer's end, to a request's whole head."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a head."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Goes on waiting only where no request runs."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._disarm()
        elif self._deadline is None:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._disarm()
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._deadline = self.loop.call_later(self.head_within_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        self.transport.abort()


def _protocol(within_s: int) -> type[_Protocol]:
    class Configured(_Protocol):
        """With the configuration's own patience."""

        head_within_s = within_s

    return Configured


def _settings(config: ApiConfig, desk: Desk, tokens: TokenFile) -> uvicorn.Config:
    return uvicorn.Config(
        application(desk, tokens, config),
        http=_protocol(config.head_within_s),
        ws="none",
        lifespan="off",
        interface="asgi3",
        # Whoever speaks no HTTP gets its 400 and no line in the log; what is ours is logged by us.
        log_config=None,
        log_level=logging.CRITICAL,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connections_max,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=_GRACE_S,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
    )


def _listen(config: ApiConfig) -> socket.socket:
    address, port = split_endpoint(config.listen or "", "api.listen")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        return socket.create_server((address, port), family=family, backlog=128)
    except OSError as error:
        raise ServiceError(
            f"api.listen: {config.listen} cannot be listened on: {error.strerror}"
        ) from error


def _tls(config: ApiConfig) -> ssl.SSLContext | None:
    """TLS 1.2 and up, HTTP/1.1 alone; None on loopback without a certificate. Raises FileError."""
    if config.certificate is None:
        return None
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_alpn_protocols(["http/1.1"])
    _load(made, config)
    return made


def _load(tls: ssl.SSLContext, config: ApiConfig) -> None:
    if config.certificate is None:
        return
    try:
        if config.key is not None and Path(config.key).stat().st_mode & 0o077:
            raise FileError(f"api.key: {config.key}: others may read it; chmod 600 it")
        # An empty passphrase: one that is asked for at a terminal would stop the service.
        tls.load_cert_chain(config.certificate, config.key, password="")
    except (OSError, ssl.SSLError) as error:
        raise FileError(f"api.certificate, api.key: cannot be used: {error}") from error


async def _renew(tls: ssl.SSLContext | None, config: ApiConfig, every_s: float) -> None:
    """Takes a renewed certificate for the handshakes to come."""
    seen = await asyncio.to_thread(_stamp, config)
    while tls is not None:
        await asyncio.sleep(every_s)
        stamp = await asyncio.to_thread(_stamp, config)
        if stamp == seen:
            continue
        try:
            await asyncio.to_thread(_load, tls, config)
            seen = stamp
            _log.info("api_certificate_renewed")
        except FileError as error:
            _log.error("api_certificate_not_renewed", error=str(error))


def _stamp(config: ApiConfig) -> tuple[int, ...]:
    """What changes when either file does; empty while one of them is not there."""
    files = [Path(one) for one in (config.certificate, config.key) if one is not None]
    try:
        return tuple(one.stat().st_mtime_ns for one in files)
    except OSError:
        return ()
