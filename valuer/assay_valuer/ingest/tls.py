"""TLS of the two listeners. Their certificates are made here, short-lived, and renewed in place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, cast

import grpc
import structlog

from assay_core.errors import AssayError
from assay_valuer.ca import SERVER_LIFE_MS, Authority, ServerKey

_log = structlog.get_logger(__name__)

_RETRY_MS: Final = 60_000


class ListenerCertificate:
    """A listener's key and certificate, made anew at half its life.

    gRPC asks at each handshake, on threads of its own; hosts that are connected notice nothing.
    """

    def __init__(
        self, authority: Authority, names: Sequence[str], now_ms: Callable[[], int]
    ) -> None:
        self._authority = authority
        self._names = tuple(dict.fromkeys(names))
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._current = authority.issue_server(self._names, now_ms())
        self._renew_ms = now_ms() + SERVER_LIFE_MS // 2

    @property
    def expires_ms(self) -> int:
        """When the certificate now in use expires."""
        return self._current.certificate.expires_ms

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """Credentials for a port; `mutual` demands a client certificate of the same authority."""

        def configuration(key: ServerKey) -> grpc.ServerCertificateConfiguration:
            return grpc.ssl_server_certificate_configuration(
                [(key.key_pem, key.certificate.chain_pem)],
                root_certificates=self._authority.certificate_pem if mutual else None,
            )

        def renewed() -> grpc.ServerCertificateConfiguration | None:
            fresh = self._renewed()
            return None if fresh is None else configuration(fresh)

        return grpc.dynamic_ssl_server_credentials(
            configuration(self._current),
            # gRPC takes None for "as before", which its type stubs leave out.
            cast("Callable[[], grpc.ServerCertificateConfiguration]", renewed),
            require_client_authentication=mutual,
        )

    def _renewed(self) -> ServerKey | None:
        """A new key once half of the old one's life is over; None until then."""
        with self._lock:
            now_ms = self._now_ms()
            if now_ms < self._renew_ms:
                return None
            try:
                self._current = self._authority.issue_server(self._names, now_ms)
            except AssayError as error:
                # The old certificate serves on for half its life; each minute is tried again.
                _log.error("listener_certificate_not_renewed", error=str(error))
                self._renew_ms = now_ms + _RETRY_MS
                return None
            self._renew_ms = now_ms + SERVER_LIFE_MS // 2
            return self._current
