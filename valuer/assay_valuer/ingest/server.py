"""The door as a whole: the two gRPC servers, with health and reflection, around what they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from assay_core.errors import ServiceError
from assay_proto.v1 import attestation_pb2, enrollment_pb2
from assay_valuer.config import ListenerConfig, ValuerConfig, split_endpoint
from assay_valuer.enrolment import Registrar
from assay_valuer.ingest import wire, wire_enrolment
from assay_valuer.ingest.attestation import Attestation
from assay_valuer.ingest.committer import Committer, OnCommit
from assay_valuer.ingest.enrollment import Enrollment
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ingest.proposer import Propose
from assay_valuer.ingest.share import FairShare
from assay_valuer.ingest.tls import ListenerCertificate
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

STOP_GRACE_S: Final = 3.0
ENROLMENTS_AT_ONCE: Final = 64
"""Calls of the enrolment listener that run at once; more are refused by the transport."""
_OPTIONS: Final = (
    ("grpc.max_concurrent_streams", 16),  # of one connection; a host needs one
    # A host's network may vanish without a word: find out within a minute.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),  # a port that is taken is an error, not something to share
)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the listeners are, as hosts are told: "name:port"."""

    enrolment: str
    attestation: str


class Door:
    """Ingest, from its start to its end. Used from one event loop."""

    def __init__(
        self,
        config: ValuerConfig,
        database: Database,
        registrar: Registrar,
        metrics: IngestMetrics,
        *,
        on_commit: OnCommit,
        now_ms: Callable[[], int],
        propose: Propose | None = None,
    ) -> None:
        """`propose` keeps what hosts' operators propose; without it every proposal is refused."""
        self._config = config
        self._committer = Committer(database, config.ingest, metrics, on_commit)
        self._attestation = Attestation(
            config, database, self._committer, metrics, now_ms=now_ms, propose=propose
        )
        self._enrollment = Enrollment(registrar, database, config.ingest, metrics, now_ms)
        self._certificates = {
            listener: ListenerCertificate(registrar.authority, _names(listener), now_ms)
            for listener in (config.enrolment, config.attestation)
        }
        self._health = health.aio.HealthServicer()
        self._servers: list[grpc.aio.Server] = []

    async def start(self) -> Endpoints:
        """Binds both listeners and serves. Raises ServiceError where a port cannot be had."""
        attestation = await self._listen(
            self._config.attestation,
            self._attestation.handler(),
            name=wire.ATTESTATION,
            message_max=wire.TRANSPORT_BYTES_MAX,
        )
        self._enrollment.announce(attestation)
        enrolment = await self._listen(
            self._config.enrolment,
            self._enrollment.handler(),
            name=wire_enrolment.ENROLLMENT,
            message_max=wire_enrolment.ENROLL_BYTES_MAX,
        )
        for name in ("", wire.ATTESTATION, wire_enrolment.ENROLLMENT):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        _log.info("listening", enrolment=enrolment, attestation=attestation)
        return Endpoints(enrolment, attestation)

    async def run(self) -> None:
        """Commits and watches the streams until cancelled; then ends them in good order."""
        watch = asyncio.create_task(self._attestation.watch())
        commit = asyncio.create_task(self._committer.run())
        try:
            # Either ends only by failing: without both there is no door.
            done, _ = await asyncio.wait({watch, commit}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            try:
                await self.stop()
            finally:
                await self._attestation.settle()
                watch.cancel()
                commit.cancel()
                await asyncio.gather(watch, commit, return_exceptions=True)

    async def stop(self) -> None:
        """Stops serving; windows already taken are committed and acknowledged first."""
        await self._health.enter_graceful_shutdown()
        self._attestation.close()
        await asyncio.gather(*(server.stop(STOP_GRACE_S) for server in self._servers))
        self._servers.clear()

    async def _listen(
        self,
        listener: ListenerConfig,
        handler: grpc.GenericRpcHandler,
        *,
        name: str,
        message_max: int,
    ) -> str:
        mutual = name == wire.ATTESTATION
        server = grpc.aio.server(
            options=(*_OPTIONS, ("grpc.max_receive_message_length", message_max)),
            maximum_concurrent_rpcs=None if mutual else ENROLMENTS_AT_ONCE,
            interceptors=None if mutual else (FairShare(),),
        )
        server.add_generic_rpc_handlers((handler,))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection(
            (name, health.SERVICE_NAME, reflection.SERVICE_NAME), server
        )
        try:
            port = server.add_secure_port(
                listener.listen, self._certificates[listener].credentials(mutual=mutual)
            )
        except RuntimeError as error:
            raise ServiceError(
                f"{listener.listen} cannot be listened on: is another valuer running?"
            ) from error
        await server.start()
        self._servers.append(server)
        if listener.public is not None:
            return listener.public
        return f"{listener.listen.rpartition(':')[0]}:{port}"


SERVICES: Final = (attestation_pb2.DESCRIPTOR, enrollment_pb2.DESCRIPTOR)
"""Descriptors that reflection shows; importing them registers them."""


def _names(listener: ListenerConfig) -> tuple[str, ...]:
    """What a listener's certificate is for: every name it may be reached by."""
    public = listener.public or listener.listen
    name, _ = split_endpoint(public, "public")
    local = ("localhost", "127.0.0.1") if name in ("127.0.0.1", "localhost", "::1") else ()
    return (name, *local)
