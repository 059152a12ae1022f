"""What hosts answer to challenges: judged off the event loop, kept in the ledger, answered by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection

from assay_core.errors import Refused, ServiceError
from assay_core.evidence import bundle, chain
from assay_core.evidence.bundle import Asked, EvidenceRefused, Outcome
from assay_core.evidence.sealed import SealedEvidence
from assay_core.evidence.statement import Statement
from assay_core.header import Head, Source
from assay_valuer.hosts import Host, standing_changes
from assay_valuer.ingest import wire
from assay_valuer.ingest.committer import Committer
from assay_valuer.ingest.examination import Examination
from assay_valuer.ingest.metrics import UNANSWERED, IngestMetrics
from assay_valuer.ledger.append import append_evidence
from assay_valuer.policy import Evidence
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

PROVING_AT_ONCE: Final = 2
"""Answers of all hosts that are judged at once: a baseboard's take some 20 ms of one core."""
_FAILED_SHOWN: Final = 3
_CLOSING_S: Final = 3.0


class Examinee(Protocol):
    """Whose answers they are: a stream, as the examiner sees it."""

    @property
    def host(self) -> Host:
        """Who it is, with the keys that may sign."""
        ...

    @property
    def committed(self) -> Head | None:
        """The end of its chain in the store."""
        ...

    @property
    def failed(self) -> bool:
        """Whether a commit failed: what was verified may not have been stored."""
        ...

    def window_at(self, sequence: int) -> bytes | None:
        """The hash of the window at a sequence. Raises Refused."""
        ...

    def keys_changed(self) -> bool:
        """Looks the host's keys up anew; whether there are others now. Raises Refused."""
        ...

    def send(self, message: bytes, *, answers: int = 0) -> None:
        """Queues a message that answers so many of the host's."""

    def strike(self) -> None:
        """Counts a refusal: after too many the stream ends."""


@dataclass(slots=True)
class Examiner:
    """Judges answers of every host. Used from one event loop; `close` before the loop ends."""

    database: Database
    committer: Committer
    metrics: IngestMetrics
    policy: Evidence
    sources: frozenset[Source]
    now_ms: Callable[[], int]
    _pool: ThreadPoolExecutor = field(init=False)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # by host

    def __post_init__(self) -> None:
        self._pool = ThreadPoolExecutor(PROVING_AT_ONCE, thread_name_prefix="prove")

    async def close(self) -> None:
        """Lets what is being judged end, but not for long, and takes no more."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=_CLOSING_S)
            for task in late:
                task.cancel()
        self._pool.shutdown(wait=True)

    def examine(self, who: Examinee, examination: Examination) -> None:
        """Asks what is due, and notes what was not answered in time. Called every second or so."""
        now_ms = self.now_ms()
        for asked in examination.missed(now_ms):
            self.metrics.evidence[UNANSWERED].inc()
            _log.warning(
                "evidence_unanswered",
                host=who.host.trust.host_id,
                devices=asked.devices,
                quote=bool(asked.pcrs),
            )
        if who.committed is None:
            return
        due = examination.ask(now_ms, who.committed.sequence, has_tpm=who.host.has_tpm)
        if due is not None:
            who.send(wire.evidence_challenge(due))

    def take(self, who: Examinee, examination: Examination, sealed: SealedEvidence) -> None:
        """Takes one answer; whatever becomes of it, the host will be told."""
        nonce = b""
        try:
            statement = self._read(who, sealed)
            nonce = statement.challenge
            if who.host.key in self._tasks:
                raise EvidenceRefused(
                    Outcome.UNAVAILABLE, "another answer is being judged; send this one again"
                )
            asked = bundle.admit(
                statement,
                examination.find(nonce),
                who.window_at(statement.sequence),
                self.sources,
                self.now_ms(),
            )
        except EvidenceRefused as refused:
            self._tell(who, nonce, refused)
            return
        except Refused as refused:  # our store's fault, or a revocation
            self._tell(who, nonce, EvidenceRefused(Outcome.UNAVAILABLE, refused.detail))
            return
        examination.used(asked)
        judging = self._judge(who, examination, sealed, asked)
        self._start(who.host.key, judging)

    def _read(self, who: Examinee, sealed: SealedEvidence) -> Statement:
        try:
            return bundle.read(sealed, who.host.evidence_keys)[0]
        except EvidenceRefused as refused:
            # A key that the host went over to since the stream began.
            if refused.outcome is not Outcome.BAD_SIGNATURE or not who.keys_changed():
                raise
        return bundle.read(sealed, who.host.evidence_keys)[0]

    def _start(self, host_key: int, judging: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(judging)
        self._tasks[host_key] = task
        task.add_done_callback(lambda _: self._tasks.pop(host_key, None))

    async def _judge(
        self, who: Examinee, examination: Examination, sealed: SealedEvidence, asked: Asked
    ) -> None:
        host, now_ms = who.host, self.now_ms()
        loop = asyncio.get_running_loop()
        roots = chain.DEVICE_ROOTS | frozenset(self.policy.device_roots)

        def prove() -> bundle.Proven:
            return bundle.prove(sealed, host.evidence_keys, now_ms=now_ms, roots=roots)

        try:
            proven = await loop.run_in_executor(self._pool, prove)
            # The window that it names stands before it in the ledger.
            await self.committer.settled()
            if who.failed:
                raise ServiceError("the window that it names was not stored; send it all again")
            position = await asyncio.to_thread(
                self.database.write,
                lambda c: _keep(c, host, sealed, proven, asked_ms=asked.sent_ms, now_ms=now_ms),
            )
        except EvidenceRefused as refused:
            self._tell(who, asked.nonce, refused)
        except ServiceError as error:
            examination.unused(asked)
            self._tell(who, asked.nonce, EvidenceRefused(Outcome.UNAVAILABLE, str(error)))
        except Exception as error:  # noqa: BLE001 - nobody awaits this: log and host are told
            _log.exception("evidence_not_judged", host=host.trust.host_id)
            examination.unused(asked)
            words = f"the valuer could not judge it: {type(error).__name__}"
            self._tell(who, asked.nonce, EvidenceRefused(Outcome.UNAVAILABLE, words))
        else:
            examination.proven(asked)
            self._accepted(who, asked, proven, position)

    def _accepted(self, who: Examinee, asked: Asked, proven: bundle.Proven, position: int) -> None:
        self.metrics.evidence[Outcome.ACCEPTED.value].inc()
        self.metrics.position.set(position + 1)
        _log.info(
            "evidence",
            host=who.host.trust.host_id,
            position=position,
            quote=proven.quoted is not None,
            devices=len(proven.devices),
            failed=proven.failed[:_FAILED_SHOWN],
            absent=proven.absent,
        )
        words = f"{len(proven.devices)} devices proved themselves"
        if proven.failed:
            words += f", {len(proven.failed)} did not: {'; '.join(proven.failed[:_FAILED_SHOWN])}"
        message = wire.evidence_outcome(asked.nonce, Outcome.ACCEPTED.value, words, position)
        who.send(message, answers=1)

    def _tell(self, who: Examinee, nonce: bytes, refused: EvidenceRefused) -> None:
        self.metrics.evidence[refused.outcome.value].inc()
        _log.warning(
            "evidence_refused",
            host=who.host.trust.host_id,
            outcome=refused.outcome.value,
            detail=refused.detail,
        )
        who.send(wire.evidence_outcome(nonce, refused.outcome.value, refused.detail), answers=1)
        who.strike()


def _keep(
    connection: Connection,
    host: Host,
    sealed: SealedEvidence,
    proven: bundle.Proven,
    *,
    asked_ms: int,
    now_ms: int,
) -> int:
    """Appends it, unless the host was revoked or enrolled anew meanwhile."""
    found = standing_changes(connection, [host.key])
    if found.get(host.key) != (False, host.trust.incarnation):
        raise EvidenceRefused(Outcome.WRONG_HOST, "the host was revoked or enrolled anew")
    return append_evidence(
        connection,
        sealed,
        host_key=host.key,
        incarnation=host.trust.incarnation,
        sequence=proven.statement.sequence,
        asked_ms=asked_ms,
        now_ms=now_ms,
    )
