"""One host's stream: what it sends goes through `verify`, then to the committer, then is answered.

Two ends of the chain are kept. `committed` is what the store holds; `head` is where verification
has got to, ahead of it by what waits for its commit. If a commit fails the two have parted, so the
stream ends, and the next one starts from the store again.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

import structlog

from assay_core.errors import Refusal, Refused, ServiceError
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import Head
from assay_core.instants import MINUTE_MS
from assay_core.seal import Envelope, Sealed
from assay_core.verify import (
    AlreadyStored,
    Chain,
    HostTrust,
    Policy,
    VerifiedWindow,
    verify,
    verify_gap,
)
from assay_valuer.hosts import Host, find_host
from assay_valuer.ingest import wire
from assay_valuer.ingest.committer import Arrival, Committer
from assay_valuer.ingest.examination import Examination
from assay_valuer.ingest.examiner import Examiner
from assay_valuer.ingest.forks import ForkKeeper
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ingest.proposer import Proposer
from assay_valuer.ledger.append import head_after
from assay_valuer.ledger.read import chain_entries
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

CHALLENGE_LIFE_MS: Final = 30 * MINUTE_MS
CHALLENGES_MAX: Final = 8
RETRY_MS: Final = 1_000
SEQUENCE_MAX: Final = 2**53
"""Largest sequence taken: far beyond any chain, and exact wherever numbers go."""
REFUSALS_MAX: Final = 64
"""Refusals that nothing will change, after which the stream ends."""
_LOGGED_MAX: Final = 3
_T = TypeVar("_T")

Challenges = dict[bytes, int]
"""Nonces sent to a host, oldest first, and when each was sent."""


@dataclass(frozen=True, slots=True)
class Door:
    """What every stream needs and none may change."""

    database: Database
    committer: Committer
    metrics: IngestMetrics
    policy: Policy
    in_flight_max: int
    now_ms: Callable[[], int]
    examiner: Examiner
    proposer: Proposer
    forks: ForkKeeper


@dataclass(slots=True)
class _Waiting:
    """A window or gap record that waits for its commit, and how often it came meanwhile."""

    item: Arrival
    acknowledgements: int = 1


@dataclass(slots=True)
class Session:
    """The state of one stream. Used from one event loop; nothing in it is the only copy."""

    door: Door
    host: Host
    challenges: Challenges
    examination: Examination
    certificate_expires_ms: int
    failed: bool = False
    committed: Head | None = None
    head: Head | None = None
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    why: Refused | None = None
    accepted: int = 0
    refused: int = 0
    _waiting: dict[int, _Waiting] = field(default_factory=dict)
    _acks: list[tuple[int, int]] = field(default_factory=list)
    # Each with the number of the host's messages that it answers.
    _messages: deque[tuple[bytes, int]] = field(default_factory=deque)
    _finishing: bool = False
    _ready: asyncio.Event = field(default_factory=asyncio.Event)
    _in_flight: int = 0
    _room: asyncio.Event = field(default_factory=asyncio.Event)
    _held: Refused | None = None
    _found: int = 0
    _gaps: int = 0
    _unanswered: bytes = b""
    _superseded: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.committed = self.head = self.host.head
        self._room.set()

    @property
    def host_key(self) -> int:
        """The host in the store."""
        return self.host.key

    # What the stream's reader does.

    async def room(self) -> None:
        """Returns once the host may have one more message in flight."""
        await self._room.wait()

    def take(self, data: bytes) -> None:
        """Takes one message; whatever becomes of it, the host will be told."""
        if self.closing.is_set():
            return
        self._count(1)
        now_ms = self.door.now_ms()
        try:
            message = wire.parse_agent_message(data)
            if isinstance(message, Sealed):
                self._take_window(message, now_ms)
            elif isinstance(message, Envelope):
                self._take_gap(message, now_ms)
            elif isinstance(message, SealedEvidence):
                self.door.examiner.take(self, self.examination, message)
            elif isinstance(message, wire.Proposal):
                self.door.proposer.take(self, message.envelope)
            else:
                raise Refused(Refusal.MALFORMED_ENVELOPE, "Hello comes first and once")
        except AlreadyStored as stored:
            self._again(stored.sequence)
        except Refused as refused:
            self._refuse(refused)

    def challenge(self, now_ms: int) -> None:
        """Asks the host to answer a fresh nonce in its next header."""
        nonce = secrets.token_bytes(32)
        self.challenges[nonce] = now_ms
        while len(self.challenges) > CHALLENGES_MAX:
            del self.challenges[next(iter(self.challenges))]
        self._unanswered = nonce
        self.send(wire.challenge(nonce, now_ms + CHALLENGE_LIFE_MS))

    def _take_window(self, sealed: Sealed, now_ms: int) -> None:
        try:
            window = self._by_its_keys(
                lambda trust: verify(
                    sealed,
                    trust=trust,
                    chain=Chain(self.head, self.window_at),
                    policy=self.door.policy,
                    challenges=self.challenges,
                    now_ms=now_ms,
                )
            )
        except Refused as refused:
            if refused.reason is Refusal.FORK:
                self.door.forks.keep(self.host, sealed, refused.sequence or 0)
            raise
        self._queue(window, window.header.sequence)
        if window.clock_behind:
            self.door.metrics.clock_behind.inc()
        if window.header.answered_challenge == self._unanswered and self._unanswered:
            self.challenge(now_ms)

    def _take_gap(self, envelope: Envelope, now_ms: int) -> None:
        try:
            gap = self._by_its_keys(
                lambda trust: verify_gap(
                    envelope,
                    trust=trust,
                    chain=Chain(self.head, self._dropped_at),
                    now_ms=now_ms,
                )
            )
        except Refused as refused:
            if refused.reason is Refusal.FORK:
                self.door.forks.keep(self.host, Sealed(envelope, ()), refused.sequence or 0)
            raise
        if gap.gap.last_sequence > SEQUENCE_MAX:
            raise Refused(
                Refusal.MALFORMED_HEADER,
                f"a gap up to {gap.gap.last_sequence}; no chain is that long",
            )
        self._queue(gap, gap.gap.last_sequence)
        self.door.metrics.gaps.inc()
        self._gaps += 1
        if self._gaps <= _LOGGED_MAX:
            # Whose it is: a host may drop the very window that showed a fault; a person must ask.
            _log.warning(
                "gap",
                host=gap.gap.host_id,
                first=gap.gap.first_sequence,
                last=gap.gap.last_sequence,
                cause=gap.gap.cause.name.lower(),
            )

    def _by_its_keys(self, check: Callable[[HostTrust], _T]) -> _T:
        """What `check` finds; by the host's keys as they are now, where it went over to another."""
        try:
            return check(self.host.trust)
        except Refused as refused:
            if refused.reason is not Refusal.BAD_SIGNATURE or not self.keys_changed():
                raise
        return check(self.host.trust)

    def keys_changed(self) -> bool:
        """Looks the host's keys up anew; whether there are others now. Raises Refused."""
        trust = self.host.trust
        try:
            found = self.door.database.read(lambda c: find_host(c, trust.host_id))
        except ServiceError as error:
            raise Refused(Refusal.UNAVAILABLE, str(error), retry_after_ms=RETRY_MS) from error
        if found is None or found.trust.incarnation != trust.incarnation:
            return False  # the sweep ends this stream
        # A key that this stream saw the end of may still be there: its last commit is on its way.
        fresh = [key for key in found.sealing if key.public.fingerprint not in self._superseded]
        if [key.public for key in fresh] == list(trust.keys) and not found.trust.revoked:
            return False
        keys = tuple(key.public for key in fresh)
        self.host = replace(found, trust=replace(found.trust, keys=keys), sealing=tuple(fresh))
        return True

    def _went_over(self, item: Arrival) -> None:
        """The host's older keys seal no more, from this item on."""
        self._superseded.update(key.fingerprint for key in item.superseded)
        left = tuple(
            key for key in self.host.sealing if key.public.fingerprint not in self._superseded
        )
        trust = replace(self.host.trust, keys=tuple(key.public for key in left))
        self.host = replace(self.host, trust=trust, sealing=left)
        _log.info("key_changed", host=trust.host_id, key=item.key.fingerprint)

    def _queue(self, item: Arrival, sequence: int) -> None:
        if self.door.committer.full:
            raise Refused(
                Refusal.OVERLOADED,
                "too many windows wait for the disk; send it again",
                sequence=sequence,
                retry_after_ms=RETRY_MS,
            )
        self._held = None
        if item.superseded:
            self._went_over(item)
        self.head = head_after(item)
        self._waiting[sequence] = _Waiting(item)
        self.door.committer.put(self, item)

    def _again(self, sequence: int) -> None:
        self.door.metrics.duplicates.inc()
        waiting = self._waiting.get(sequence)
        if waiting is not None:
            waiting.acknowledgements += 1
        else:
            self._acks.append((sequence, self._found))
            self._ready.set()

    def window_at(self, sequence: int) -> bytes | None:
        """The hash of the window at a sequence; None where there is none. Raises Refused."""
        if self.head is None or sequence > self.head.sequence:
            return None
        waiting = self._waiting.get(sequence)
        if waiting is not None:
            return waiting.item.hash if isinstance(waiting.item, VerifiedWindow) else None
        return self._stored_at(sequence)[0]

    def _dropped_at(self, sequence: int) -> bytes | None:
        waiting = self._waiting.get(sequence)
        if waiting is not None:
            return head_after(waiting.item).hash
        window, dropped = self._stored_at(sequence)
        return window or dropped

    def _stored_at(self, sequence: int) -> tuple[bytes | None, bytes | None]:
        """The hash of the window stored there, or else the last that a gap ending there dropped."""
        key, incarnation = self.host.key, self.host.trust.incarnation
        try:
            found = self.door.database.read(
                lambda c: list(chain_entries(c, key, incarnation, sequence))
            )
        except ServiceError as error:
            raise Refused(
                Refusal.UNAVAILABLE, str(error), sequence=sequence, retry_after_ms=RETRY_MS
            ) from error
        for position, _, digest, dropped in found:
            self._found = position
            return (digest, None) if dropped is None else (None, dropped)
        return None, None

    # What the committer tells.

    def on_committed(self, stored: Sequence[tuple[Arrival, int]]) -> None:
        """Queues the acknowledgements: these are durable."""
        for item, position in stored:
            sequence = (
                item.header.sequence if isinstance(item, VerifiedWindow) else item.gap.last_sequence
            )
            waiting = self._waiting.pop(sequence)
            self._acks.extend([(sequence, position)] * waiting.acknowledgements)
        self.accepted += len(stored)
        self.committed = head_after(stored[-1][0])
        self._ready.set()

    def on_failed(self, error: ServiceError) -> None:
        """Ends the stream: what waited was not stored, and will be sent again on the next."""
        self.failed = True
        self.close(Refused(Refusal.UNAVAILABLE, str(error), retry_after_ms=RETRY_MS))

    # What goes out.

    def close(self, why: Refused, *, told: bool = False) -> None:
        """Ends the stream; the host is told why, unless it has been `told` already."""
        if self.why is None:
            self.why = why
            self.closing.set()
            if not told:
                self.send(wire.refusal(why, why.retry_after_ms))

    def send(self, message: bytes, *, answers: int = 0) -> None:
        """Queues a message that answers so many of the host's."""
        self._messages.append((message, answers))
        self._ready.set()

    def finish(self) -> None:
        """Nothing more comes in: `outgoing` ends once everything has been answered."""
        self._finishing = True
        self._ready.set()

    async def outgoing(self) -> bytes | None:
        """The next message down, when there is one; None at the end. Acknowledgements go together."""
        while True:
            if self._messages:
                message, answers = self._messages.popleft()
                self._count(-answers)
                return message
            if self._acks:
                acks, self._acks = self._acks, []
                self._count(-len(acks))
                return wire.acknowledgements(acks)
            if self._finishing and (self.failed or not self._waiting):
                return None
            self._ready.clear()
            await self._ready.wait()

    def _refuse(self, refused: Refused) -> None:
        if refused.reason is Refusal.SEQUENCE_GAP and self._held is not None:
            # It follows one that was told to wait, so it waits too.
            refused = Refused(
                self._held.reason,
                f"window {self._held.sequence} comes first, and was told to wait",
                sequence=refused.sequence,
                retry_after_ms=self._held.retry_after_ms,
            )
        elif refused.reason.retryable:
            self._held = refused
        self.door.metrics.refused[refused.reason].inc()
        self.refused += 1
        if self.refused <= _LOGGED_MAX:
            _log.warning(
                "refused",
                host=self.host.trust.host_id,
                sequence=refused.sequence,
                reason=refused.reason.value,
                detail=refused.detail,
            )
        self.send(wire.refusal(refused, refused.retry_after_ms), answers=1)
        if refused.reason is Refusal.FORK:
            self.close(refused, told=True)
        elif not refused.reason.retryable:
            self._end_after_too_many()

    def strike(self) -> None:
        """Counts a refusal that the host was told of; after too many the stream ends."""
        self.refused += 1
        self._end_after_too_many()

    def _end_after_too_many(self) -> None:
        if self.refused >= REFUSALS_MAX:
            self.close(
                Refused(Refusal.OVERLOADED, f"{self.refused} refusals on one stream; start again")
            )

    def _count(self, change: int) -> None:
        self._in_flight += change
        if self._in_flight < self.door.in_flight_max:
            self._room.set()
        else:
            self._room.clear()
