"""The attestation service: who is on each stream, which streams there are, and how they end."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Final

import grpc
import grpc.aio
import structlog
from sqlalchemy import Connection

from assay_core.errors import Refusal, Refused, ServiceError
from assay_core.header import SCHEMAS_ACCEPTED
from assay_core.verify import Policy
from assay_valuer import ca
from assay_valuer.config import ValuerConfig, accepted_sources
from assay_valuer.hosts import Host, certificate_known, find_host, standing_changes
from assay_valuer.ingest import wire
from assay_valuer.ingest.committer import Committer
from assay_valuer.ingest.examination import Examination
from assay_valuer.ingest.examiner import Examiner
from assay_valuer.ingest.forks import ForkKeeper
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ingest.proposer import Propose, Proposer
from assay_valuer.ingest.session import RETRY_MS, Challenges, Door, Session
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

HELLO_WAIT_S: Final = 10.0
SWEEP_S: Final = 1.0
"""How often open streams are held against the registry; a revocation acts within 5 s."""
FULL_RETRY_MS: Final = 10_000
OPENING_OF_HOST_MAX: Final = 4
"""Streams of one host that may be opening at once: one that says no Hello keeps out nobody else."""
_LAST_WORDS_S: Final = 1.0

Context = grpc.aio.ServicerContext[object, bytes]

_STATUS: Final = {
    Refusal.UNKNOWN_HOST: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.REVOKED_HOST: grpc.StatusCode.PERMISSION_DENIED,
    Refusal.OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Refusal.UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
}


class Attestation:
    """Serves assay.v1.Attestation. One event loop; at most one stream for each host."""

    def __init__(
        self,
        config: ValuerConfig,
        database: Database,
        committer: Committer,
        metrics: IngestMetrics,
        *,
        now_ms: Callable[[], int],
        propose: Propose | None = None,
    ) -> None:
        self._config = config
        self._database = database
        self._committer = committer
        self._metrics = metrics
        self._now_ms = now_ms
        sources = accepted_sources(config)
        self._examiner = Examiner(
            database, committer, metrics, config.policy.evidence, sources, now_ms
        )
        self._proposer = Proposer(database, propose, now_ms)
        self._forks = ForkKeeper(database, committer, metrics, now_ms)
        self._door = Door(
            database,
            committer,
            metrics,
            Policy(sources),
            config.ingest.in_flight_max,
            now_ms,
            self._examiner,
            self._proposer,
            self._forks,
        )
        self._sessions: dict[int, Session] = {}
        self._challenges: dict[int, Challenges] = {}
        self._examinations: dict[int, tuple[int, Examination]] = {}  # with the incarnation
        self._opening: Counter[str] = Counter()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service as gRPC registers it. Messages stay bytes: parsing them is our business."""
        stream: grpc.RpcMethodHandler[object, bytes] = grpc.stream_stream_rpc_method_handler(
            self.stream
        )
        return grpc.method_handlers_generic_handler(wire.ATTESTATION, {"Stream": stream})

    async def stream(self, _requests: object, context: Context) -> None:
        """One stream, from Hello to its end."""
        try:
            session = await self._open(context)
        except Refused as refused:
            self._metrics.refused[refused.reason].inc()
            _log.warning("stream_refused", peer=context.peer(), reason=refused.reason.value)
            await context.write(wire.refusal(refused, refused.retry_after_ms))
            await _abort(context, refused)
            return
        self._metrics.streams.set(len(self._sessions))
        _log.info("stream_open", host=session.host.trust.host_id, peer=context.peer())
        try:
            await self._serve(session, context)
        finally:
            if self._sessions.get(session.host_key) is session:
                del self._sessions[session.host_key]
            self._metrics.streams.set(len(self._sessions))
            _log.info(
                "stream_closed",
                host=session.host.trust.host_id,
                accepted=session.accepted,
                refused=session.refused,
                why=None if session.why is None else session.why.reason.value,
            )
        if session.why is not None:
            await _abort(context, session.why)

    async def watch(self) -> None:
        """Ends the streams of hosts that were revoked, enrolled anew, or whose certificate expired;
        asks the others for evidence when it is time. Runs until cancelled.
        """
        while True:
            await asyncio.sleep(SWEEP_S)
            if self._sessions:
                keys = list(self._sessions)
                try:
                    found = await asyncio.to_thread(
                        self._database.read, lambda c, keys=keys: standing_changes(c, keys)
                    )
                except ServiceError as error:
                    _log.warning("sweep_failed", error=str(error))
                    continue
                self._sweep(found)
                self._examine()

    def close(self) -> None:
        """Ends every stream; the valuer is stopping."""
        stopping = Refused(Refusal.UNAVAILABLE, "the valuer is stopping", retry_after_ms=RETRY_MS)
        for session in list(self._sessions.values()):
            session.close(stopping)

    async def settle(self) -> None:
        """Lets the answers, proposals and forks that were taken come to their end."""
        await self._examiner.close()
        await self._proposer.close()
        await self._forks.close()

    def _examine(self) -> None:
        for session in self._sessions.values():
            if session.why is None:
                self._examiner.examine(session, session.examination)

    def _sweep(self, found: dict[int, tuple[bool, int]]) -> None:
        now_ms = self._now_ms()
        for key, session in list(self._sessions.items()):
            if session.why is not None:
                continue  # it is ending already, and was counted
            revoked, incarnation = found.get(key, (False, session.host.trust.incarnation))
            if revoked:
                self._metrics.refused[Refusal.REVOKED_HOST].inc()
                session.close(Refused(Refusal.REVOKED_HOST, "the host was revoked; ask the lender"))
            elif incarnation != session.host.trust.incarnation:
                session.close(
                    Refused(Refusal.WRONG_INCARNATION, "the host was enrolled anew elsewhere")
                )
            elif session.certificate_expires_ms <= now_ms:
                session.close(
                    Refused(
                        Refusal.UNAVAILABLE,
                        "the stream's client certificate expired; connect with the renewed one",
                        retry_after_ms=RETRY_MS,
                    )
                )

    async def _open(self, context: Context) -> Session:
        """The session of a stream whose host may speak. Raises Refused."""
        streams_max = self._config.ingest.streams_max
        full = Refused(
            Refusal.OVERLOADED, "too many streams; try again later", retry_after_ms=FULL_RETRY_MS
        )
        host_id, serial, expires_ms = _identity(context)
        if self._opening.total() >= streams_max or self._opening[host_id] >= OPENING_OF_HOST_MAX:
            raise full
        self._opening[host_id] += 1
        try:
            hello = await _hello(context)
            if len(self._sessions) >= streams_max:
                raise full
            session = await self._replace(host_id, serial, hello, expires_ms)
        finally:
            self._opening[host_id] -= 1
            if not self._opening[host_id]:
                del self._opening[host_id]
        now_ms = self._now_ms()
        limit = self._config.ingest.in_flight_max
        session.send(wire.welcome(session.head, in_flight_max=limit, now_ms=now_ms))
        session.challenge(now_ms)
        if self._config.window_ms:
            session.send(wire.hint(self._config.window_ms))
        for asked in session.examination.opened(now_ms):
            session.send(wire.evidence_challenge(asked))
        return session

    async def _replace(
        self, host_id: str, serial: str, hello: wire.Hello, expires_ms: int
    ) -> Session:
        """Ends the host's older stream, if any, and starts where the store then stands."""
        while True:
            # What an earlier stream of this host left in the queue moves its head yet.
            await self._committer.settled()
            host = await self._load(host_id, serial, hello)
            older = self._sessions.pop(host.key, None)
            if older is None:
                break
            older.close(
                Refused(Refusal.UNAVAILABLE, "a newer stream of this host replaced this one")
            )
        challenges = self._challenges.setdefault(host.key, {})
        session = Session(self._door, host, challenges, self._examination(host), expires_ms)
        self._sessions[host.key] = session
        return session

    def _examination(self, host: Host) -> Examination:
        """What the host is asked; one that people enrolled anew begins anew."""
        known = self._examinations.get(host.key)
        if known is None or known[0] != host.trust.incarnation:
            known = host.trust.incarnation, Examination(self._config.policy.evidence)
            self._examinations[host.key] = known
        return known[1]

    async def _load(self, host_id: str, serial: str, hello: wire.Hello) -> Host:
        def load(connection: Connection) -> tuple[Host | None, bool]:
            host = find_host(connection, host_id)
            known = host is not None and certificate_known(connection, host, serial)
            return host, known

        try:
            host, known = await asyncio.to_thread(self._database.read, load)
        except ServiceError as error:
            raise Refused(Refusal.UNAVAILABLE, str(error), retry_after_ms=RETRY_MS) from error
        if host is None:
            raise Refused(Refusal.UNKNOWN_HOST, "the host is not enrolled; enrol it with a token")
        if host.trust.revoked:
            raise Refused(Refusal.REVOKED_HOST, "the host was revoked; ask the lender")
        if hello.incarnation != host.trust.incarnation or not known:
            raise Refused(
                Refusal.WRONG_INCARNATION,
                f"this host is at incarnation {host.trust.incarnation}, and this certificate or "
                "agent is of an earlier one, or of a key that was retired; enrol it again",
            )
        return host

    async def _serve(self, session: Session, context: Context) -> None:
        reader = asyncio.create_task(_read(session, context))
        writer = asyncio.create_task(_write(session, context))
        closing = asyncio.create_task(session.closing.wait())
        try:
            await asyncio.wait({reader, writer, closing}, return_when=asyncio.FIRST_COMPLETED)
            # What was taken is still committed and acknowledged, but not waited for long.
            session.finish()
            await asyncio.wait({writer}, timeout=_LAST_WORDS_S)
            # A host that is told why hangs up itself; to end the call while it still sends would
            # hide the reason behind an error of its transport. What it sends now is not taken.
            await asyncio.wait({reader}, timeout=_LAST_WORDS_S)
        finally:
            for task in (reader, writer, closing):
                task.cancel()
            await asyncio.gather(reader, writer, closing, return_exceptions=True)


def _identity(context: Context) -> tuple[str, str, int]:
    """Who the client certificate says it is. The transport has checked that it is one of ours."""
    pem = next(iter(context.auth_context().get("x509_pem_cert", ())), b"")
    try:
        return ca.spiffe_id(pem)
    except ca.BadRequest as error:
        raise Refused(Refusal.UNKNOWN_HOST, f"{error}; enrol with a token") from error


async def _hello(context: Context) -> wire.Hello:
    try:
        async with asyncio.timeout(HELLO_WAIT_S):
            data = await context.read()
    except TimeoutError as error:
        raise Refused(Refusal.MALFORMED_ENVELOPE, "no Hello came") from error
    if not isinstance(data, bytes):
        raise Refused(Refusal.MALFORMED_ENVELOPE, "the stream ended before Hello")
    message = wire.parse_agent_message(data)
    if not isinstance(message, wire.Hello):
        raise Refused(Refusal.MALFORMED_ENVELOPE, "Hello comes first")
    if message.schema_max < min(SCHEMAS_ACCEPTED):
        raise Refused(
            Refusal.UNSUPPORTED_SCHEMA,
            f"the agent seals up to schema {message.schema_max}, this valuer takes "
            f"{min(SCHEMAS_ACCEPTED)} and higher; "
            "update the agent",
        )
    return message


async def _read(session: Session, context: Context) -> None:
    while True:
        data = await context.read()
        if not isinstance(data, bytes):  # grpc.aio.EOF: the host has said all it wanted to
            return
        session.take(data)
        await session.room()


async def _write(session: Session, context: Context) -> None:
    while True:
        message = await session.outgoing()
        if message is None:
            return
        await context.write(message)


async def _abort(context: Context, refused: Refused) -> None:
    code = _STATUS.get(refused.reason, grpc.StatusCode.FAILED_PRECONDITION)
    await context.abort(code, f"{refused.reason.value}: {refused.detail}")
