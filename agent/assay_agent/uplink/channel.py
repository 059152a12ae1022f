"""Channels to a valuer, and what their failures mean to an operator."""

from __future__ import annotations

from typing import Final

import grpc
from grpc import aio

from assay_agent.keys import TlsIdentity
from assay_core.errors import AssayError, HostError, ServiceError
from assay_core.printable import printable

MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
_DETAIL_MAX: Final = 512
_KEEPALIVE_MS: Final = 60_000
_KEEPALIVE_TIMEOUT_MS: Final = 20_000


class Denied(HostError):
    """The valuer knows this host's certificate and does not let it in, or does not know it."""


def open_server_tls(endpoint: str, authority_pem: bytes, proxy: str | None) -> aio.Channel:
    """A channel to the enrolment listener, checked against the pinned authority alone."""
    credentials = grpc.ssl_channel_credentials(root_certificates=authority_pem)
    return aio.secure_channel(endpoint, credentials, options=_options(proxy))


def open_mutual_tls(endpoint: str, identity: TlsIdentity, proxy: str | None) -> aio.Channel:
    """A channel to the attestation listener."""
    credentials = grpc.ssl_channel_credentials(
        root_certificates=identity.authority_pem,
        private_key=identity.key_pem,
        certificate_chain=identity.chain_pem,
    )
    return aio.secure_channel(endpoint, credentials, options=_options(proxy))


def explain(error: aio.AioRpcError, endpoint: str) -> AssayError:
    """The failure as the agent tells it: whose doing, and what to do next."""
    code, detail = error.code(), printable(error.details() or "no detail", _DETAIL_MAX)
    if code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return Denied(
            f"the valuer at {endpoint} does not let this host in: {detail}. If it was revoked, ask "
            "the lender; else enrol it with a new token"
        )
    if code in (
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ALREADY_EXISTS,
    ):
        return HostError(f"the valuer at {endpoint} refused: {detail}")
    return ServiceError(f"the valuer at {endpoint} cannot be reached ({code.name}): {detail}")


def _options(proxy: str | None) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        # A dead path is noticed within a minute and a half, not when TCP gives up.
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.enable_retries", 0),  # the uplink does its own, with a resume point
        # Each channel dials anew: a rebuilt one must show the new certificate, and subchannels
        # shared in the process would keep the old connection.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if proxy is not None:  # otherwise gRPC follows https_proxy and no_proxy itself
        options.append(("grpc.http_proxy", proxy))
    return options
