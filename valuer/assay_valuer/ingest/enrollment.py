"""The enrolment service: rate-limited calls in, certificates or a named denial out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
import structlog

from assay_core.errors import ServiceError
from assay_valuer.config import IngestConfig
from assay_valuer.enrolment import Denial, Denied, Enrolled, Registrar, check_proof, enroll, renew
from assay_valuer.ingest import wire
from assay_valuer.ingest.limits import RateLimiter
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

DENIAL_KEY: Final = "assay-denial"
"""Trailing metadata that carries the denial's name, for machines."""

Context = grpc.aio.ServicerContext[bytes, bytes]

_STATUS: Final = {
    Denial.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Denial.BAD_CSR: grpc.StatusCode.INVALID_ARGUMENT,
    Denial.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Denial.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class Enrollment:
    """Serves assay.v1.Enrollment."""

    def __init__(
        self,
        registrar: Registrar,
        database: Database,
        limits: IngestConfig,
        metrics: IngestMetrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._registrar = registrar
        self._database = database
        self._metrics = metrics
        self._now_ms = now_ms
        self._endpoint = ""
        self._limiter = RateLimiter(
            per_minute=limits.enrolments_per_minute,
            per_minute_of_peer=limits.enrolments_per_minute_of_peer,
        )

    def announce(self, endpoint: str) -> None:
        """Sets where hosts are told that attestation is: "name:port"."""
        self._endpoint = endpoint

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as gRPC registers it; messages stay bytes."""
        enroll_: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self.enroll
        )
        renew_: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(
            self.renew
        )
        return grpc.method_handlers_generic_handler(
            wire.ENROLLMENT, {"Enroll": enroll_, "Renew": renew_}
        )

    async def enroll(self, request: bytes, context: Context) -> bytes:
        """A token and a proof, for certificates."""

        def work() -> Enrolled:
            statement, proof, secret = wire.parse_enroll(request)
            check_proof(statement.sealing_key, proof)
            return self._database.write(
                lambda c: enroll(c, self._registrar, statement, secret, self._now_ms())
            )

        return await self._answer("enroll", work, context)

    async def renew(self, request: bytes, context: Context) -> bytes:
        """A proof of the enrolled key, for a new certificate."""

        def work() -> Enrolled:
            statement, proof = wire.parse_renew(request)
            return self._database.write(
                lambda c: renew(c, self._registrar, statement, proof, self._now_ms())
            )

        return await self._answer("renew", work, context)

    async def _answer(self, call: str, work: Callable[[], Enrolled], context: Context) -> bytes:
        try:
            if not self._limiter.allows(context.peer(), self._now_ms()):
                raise Denied(Denial.RATE_LIMITED, "too many calls; try again in a minute")
            enrolled = await asyncio.to_thread(work)
        except Denied as denied:
            return await self._deny(call, denied, context)
        except ServiceError as error:
            return await self._deny(call, Denied(Denial.UNAVAILABLE, str(error)), context)
        self._metrics.enrolments[call, "ok"].inc()
        _log.info(call, host=enrolled.host_id, incarnation=enrolled.incarnation)
        return wire.certificates(
            enrolled, self._registrar.authority.certificate_pem, self._endpoint
        )

    async def _deny(self, call: str, denied: Denied, context: Context) -> bytes:
        self._metrics.enrolments[call, denied.reason.value].inc()
        _log.warning("denied", call=call, peer=context.peer(), reason=denied.reason.value)
        await context.abort(
            _STATUS.get(denied.reason, grpc.StatusCode.PERMISSION_DENIED),
            str(denied),
            ((DENIAL_KEY, denied.reason.value),),
        )
