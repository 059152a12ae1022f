"""Asset events that hosts' operators propose on their streams: bounded, and handed on by name."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from sqlalchemy import Connection

from assay_core.errors import HostError, ServiceError
from assay_core.seal import ASSET_EVENT_TYPE, Envelope
from assay_valuer.hosts import Host
from assay_valuer.ingest import wire
from assay_valuer.ingest.limits import RateLimiter
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

PROPOSAL_BYTES_MAX: Final = 64 * 1024
PER_MINUTE_OF_HOST: Final = 10
PER_MINUTE: Final = 60
"""Proposals looked at: one of hundreds of GPUs takes the store's one writer a tenth of a second."""
_CLOSING_S: Final = 3.0


class Propose(Protocol):
    """Whoever keeps proposals for the other party to decide."""

    def __call__(
        self, connection: Connection, envelope: Envelope, host: Host, *, now_ms: int
    ) -> str:
        """Its number, and what it waits for. Raises HostError, with what to do, where it is not kept."""
        ...


class Proposing(Protocol):
    """Whose proposals they are: a stream, as the proposer sees it."""

    @property
    def host(self) -> Host:
        """Who it is, with the keys that may sign."""
        ...

    def keys_changed(self) -> bool:
        """Looks the host's keys up anew; whether there are others now. Raises Refused."""
        ...

    def send(self, message: bytes, *, answers: int = 0) -> None:
        """Queues a message that answers so many of the host's."""

    def strike(self) -> None:
        """Counts a refusal: after too many the stream ends."""


@dataclass(slots=True)
class Proposer:
    """Takes proposals of every host, one of each at a time. Used from one event loop."""

    database: Database
    propose: Propose | None
    now_ms: Callable[[], int]
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)  # by host
    _limiter: RateLimiter = field(
        default_factory=lambda: RateLimiter(
            per_minute=PER_MINUTE, per_minute_of_peer=PER_MINUTE_OF_HOST
        )
    )

    async def close(self) -> None:
        """Lets what is being kept be kept, but not for long."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=_CLOSING_S)
            for task in late:
                task.cancel()

    def take(self, who: Proposing, envelope: Envelope) -> None:
        """Takes one proposal; whatever becomes of it, the host will be told. Raises Refused."""
        why = self._why_not(who, envelope)
        if why is not None or self.propose is None:
            self._answer(who, envelope, why or "this valuer takes no proposals", kept=False)
            return
        host_key = who.host.key
        task = asyncio.create_task(self._keep(self.propose, who, envelope))
        self._tasks[host_key] = task
        task.add_done_callback(lambda _: self._tasks.pop(host_key, None))

    def _why_not(self, who: Proposing, envelope: Envelope) -> str | None:
        if len(envelope.payload) > PROPOSAL_BYTES_MAX:
            return f"it has {len(envelope.payload)} bytes; at most {PROPOSAL_BYTES_MAX} are taken"
        if envelope.payload_type != ASSET_EVENT_TYPE or len(envelope.signatures) != 1:
            return f"it is not one signature over {ASSET_EVENT_TYPE}"
        if not _signed(envelope, who.host) and not (
            who.keys_changed() and _signed(envelope, who.host)
        ):
            return "no key that may seal for this host signed it"
        if who.host.key in self._tasks:
            return "another proposal of this host is being looked at; send it again"
        if not self._limiter.allows(str(who.host.key), self.now_ms()):
            return "too many proposals within a minute; send it again later"
        return None

    async def _keep(self, propose: Propose, who: Proposing, envelope: Envelope) -> None:
        host, now_ms = who.host, self.now_ms()
        try:
            words = await asyncio.to_thread(
                self.database.write, lambda c: propose(c, envelope, host, now_ms=now_ms)
            )
        except (HostError, ServiceError) as error:
            self._answer(who, envelope, str(error), kept=False)
        except Exception as error:  # noqa: BLE001 - nobody awaits this: log and host are told
            _log.exception("proposal_failed", host=host.trust.host_id)
            words = f"the valuer could not keep it: {type(error).__name__}"
            self._answer(who, envelope, words, kept=False)
        else:
            self._answer(who, envelope, words, kept=True)

    def _answer(self, who: Proposing, envelope: Envelope, words: str, *, kept: bool) -> None:
        host_id = who.host.trust.host_id
        if kept:
            _log.info("proposal_kept", host=host_id, detail=words)
        else:
            _log.warning("proposal_not_kept", host=host_id, detail=words)
            who.strike()
        digest = hashlib.sha256(envelope.payload).digest()
        who.send(wire.proposal_answer(digest, words, kept=kept), answers=1)


def _signed(envelope: Envelope, host: Host) -> bool:
    signature = envelope.signatures[0].sig
    return any(
        key.verifies(signature, envelope.payload_type, envelope.payload) for key in host.trust.keys
    )
