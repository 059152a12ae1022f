"""The enrolment service: rate-limited calls in, certificates or a named denial out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, NoReturn, TypeVar, cast

import grpc
import grpc.aio
import structlog

from assay_core.errors import ServiceError
from assay_valuer.config import IngestConfig
from assay_valuer.denial import Denial, Denied
from assay_valuer.enrolment import Enrolled, Registrar, check_proof, enroll, renew
from assay_valuer.ingest import wire_enrolment as wire
from assay_valuer.ingest.limits import RateLimiter
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.rotation import rotate
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

DENIAL_KEY: Final = "assay-denial"
"""Trailing metadata that carries the denial's name, for machines."""

Context = grpc.aio.ServicerContext[bytes, bytes]
_T = TypeVar("_T")

_STATUS: Final = {
    Denial.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Denial.BAD_CSR: grpc.StatusCode.INVALID_ARGUMENT,
    # Of a host that is let in: its agent advises nobody to enrol it anew.
    Denial.ROTATION_OPEN: grpc.StatusCode.FAILED_PRECONDITION,
    Denial.TPM_NEEDED: grpc.StatusCode.FAILED_PRECONDITION,
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
        calls: dict[str, Callable[[bytes, Context], Awaitable[bytes]]] = {
            "Enroll": self.enroll,
            "Renew": self.renew,
            "Activate": self.activate,
            "Rotate": self.rotate,
        }
        return grpc.method_handlers_generic_handler(
            wire.ENROLLMENT, {name: _unary(call) for name, call in calls.items()}
        )

    async def enroll(self, request: bytes, context: Context) -> bytes:
        """A token and a proof, for certificates."""

        def work() -> Enrolled:
            statement, proof, secrets = wire.parse_enroll(request)
            check_proof(statement.sealing_key, proof)
            return self._database.write(
                lambda c: enroll(c, self._registrar, statement, secrets, self._now_ms())
            )

        return await self._certify("enroll", work, context)

    async def renew(self, request: bytes, context: Context) -> bytes:
        """A proof of the enrolled key, for a new certificate."""

        def work() -> Enrolled:
            statement, proof = wire.parse_renew(request)
            return self._database.write(
                lambda c: renew(c, self._registrar, statement, proof, self._now_ms())
            )

        return await self._certify("renew", work, context)

    async def activate(self, request: bytes, context: Context) -> bytes:
        """A TPM's keys, for a credential that only it opens."""

        def work() -> bytes:
            certificates, ak_public = wire.parse_activate(request)
            return wire.credential(
                self._registrar.tpms.activate(certificates, ak_public, self._now_ms())
            )

        answer = await self._answer("activate", work, context)
        _log.info("activate", peer=context.peer())
        return answer

    async def rotate(self, request: bytes, context: Context) -> bytes:
        """Proofs of the old key and of the new one, for the new one's place beside it."""

        def work() -> Enrolled:
            rotation = wire.parse_rotate(request)
            return self._database.write(
                lambda c: rotate(c, self._registrar, rotation, self._now_ms())
            )

        return await self._certify("rotate", work, context)

    async def _certify(self, call: str, work: Callable[[], Enrolled], context: Context) -> bytes:
        enrolled = await self._answer(call, work, context)
        _log.info(call, host=enrolled.host_id, incarnation=enrolled.incarnation)
        return wire.certificates(
            enrolled, self._registrar.authority.certificate_pem, self._endpoint
        )

    async def _answer(self, call: str, work: Callable[[], _T], context: Context) -> _T:
        try:
            if not self._limiter.allows(context.peer(), self._now_ms()):
                raise Denied(Denial.RATE_LIMITED, "too many calls; try again in a minute")
            answer = await asyncio.to_thread(work)
        except Denied as denied:
            await self._deny(call, denied, context)
        except ServiceError as error:
            await self._deny(call, Denied(Denial.UNAVAILABLE, str(error)), context)
        self._metrics.enrolments[call, "ok"].inc()
        return answer

    async def _deny(self, call: str, denied: Denied, context: Context) -> NoReturn:
        self._metrics.enrolments[call, denied.reason.value].inc()
        _log.warning(
            "denied",
            call=call,
            peer=context.peer(),
            reason=denied.reason.value,
            detail=denied.detail,
        )
        await context.abort(
            _STATUS.get(denied.reason, grpc.StatusCode.PERMISSION_DENIED),
            str(denied),
            ((DENIAL_KEY, denied.reason.value),),
        )


def _unary(
    call: Callable[[bytes, Context], Awaitable[bytes]],
) -> grpc.RpcMethodHandler[bytes, bytes]:
    # The stubs know the blocking server's behaviours only.
    return grpc.unary_unary_rpc_method_handler(
        cast("Callable[[bytes, grpc.ServicerContext], bytes]", call)
    )
