"""Keeps a stream to the valuer open: when to try again, when to wait for a person."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
from grpc import aio

from assay_agent.answering import Asked, Told
from assay_agent.keys import Host, KeyStore
from assay_agent.metrics import AgentMetrics, UplinkState
from assay_agent.spool import Forked, Spool, SpoolDamaged
from assay_agent.uplink import channel as channels
from assay_agent.uplink.channel import Denied
from assay_agent.uplink.session import (
    ProposalAnswer,
    RefusedByValuer,
    Session,
    Welcome,
    first_of,
)
from assay_core.errors import AssayError, Refusal, ServiceError
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import Head
from assay_core.instants import SECOND_MS
from assay_core.seal import Envelope

CLOCK_OFFSET_WARN_MS: Final = 5 * SECOND_MS


@dataclass(frozen=True, slots=True)
class Pace:
    """How long to wait, seconds. Judgement: a valuer's restart takes seconds, a person's work
    minutes.
    """

    least_s: float = 1.0
    most_s: float = 60.0
    person_s: float = 900.0
    """Where trying the same again cannot help until someone acted."""

    def after(self, failures: int, draw: Callable[[], float]) -> float:
        """Exponential backoff with full jitter: 0 to `least_s` × 2^(failures − 1), at most `most_s`.

        `draw` gives a number of 0 to 1.
        """
        exponent = min(max(failures - 1, 0), 32)
        return draw() * min(self.most_s, self.least_s * (1 << exponent))

    def jittered(self, failures: int) -> float:
        """`after`, drawn from the system's randomness."""
        return self.after(failures, random.SystemRandom().random)


@dataclass(slots=True)
class Control:
    """What the valuer last asked for; the service takes it up when it next seals."""

    challenge: bytes = b""
    window_ms: int = 0


class Uplink:
    """Runs until it is cancelled. Only a damaged spool ends it."""

    def __init__(
        self,
        keys: KeyStore,
        spool: Spool,
        metrics: AgentMetrics,
        *,
        proxy: str | None,
        clock: Callable[[], int],
        pace: Pace,
    ) -> None:
        self.control = Control()
        self.on_asked: Callable[[Asked], None] = lambda _: None
        """Who answers challenges."""
        self._keys = keys
        self._spool = spool
        self._metrics = metrics
        self._proxy = proxy
        self._clock = clock
        self._pace = pace
        self._draw = random.SystemRandom().random
        self._log = structlog.get_logger("uplink")
        self._session: Session | None = None
        self._again = asyncio.Event()
        self._failures = 0
        self.connected = False
        self.said = f"{UplinkState.CONNECTING.value}: no answer yet"
        """How it stands with the valuer: the state, and why it is not connected."""

    def wake(self) -> None:
        """The spool holds more."""
        if self._session is not None:
            self._session.wake()

    async def propose(self, envelope: Envelope) -> ProposalAnswer:
        """Sends a signed asset event to the valuer. Raises ServiceError where no stream is open."""
        if self._session is None:
            raise ServiceError(
                "the agent has no stream to the valuer now, see its log; propose again once it is "
                "connected"
            )
        return await self._session.propose(envelope)

    @property
    def sent(self) -> Head | None:
        """The newest window that was sent on the open stream; None where there is neither."""
        return None if self._session is None else self._session.sent

    async def answer(self, sealed: SealedEvidence) -> None:
        """Sends evidence to the valuer. Raises ServiceError where no stream is open."""
        if self._session is None:
            raise ServiceError("the stream to the valuer is not open; it will ask again")
        await self._session.answer(sealed)

    def reconnect(self) -> None:
        """Dials anew, with the certificate that is now stored; ends a wait."""
        self._again.set()

    async def run(self) -> None:
        """Connects, and connects again."""
        while True:
            self._again.clear()
            delay_s = await self._attempt()
            self.connected = False
            if delay_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(delay_s):
                        await self._again.wait()

    async def _attempt(self) -> float:
        """One connection, to its end; returns how long to wait before the next, seconds."""
        endpoint = "the valuer"
        try:
            host = self._keys.host()
            endpoint = host.attestation_endpoint
            await self._connect(host)
        except aio.AioRpcError as error:
            if self._again.is_set():  # we ended it ourselves
                return 0.0
            return self._failed(channels.explain(error, endpoint))
        except SpoolDamaged:
            raise
        except AssayError as error:
            return self._failed(error)
        if self._again.is_set():
            return 0.0
        return self._failed(ServiceError("the valuer ended the stream"))

    async def _connect(self, host: Host) -> None:
        session = Session(self._spool, self, incarnation=host.incarnation, clock=self._clock)
        opened = channels.open_mutual_tls(host.attestation_endpoint, self._keys.tls(), self._proxy)
        try:
            self._session = session
            await first_of(session.run(opened), self._dial_anew())
        finally:
            self._session = None
            await opened.close()

    async def _dial_anew(self) -> None:
        await self._again.wait()

    def _failed(self, error: AssayError) -> float:
        """Says what went wrong; returns how long to wait, seconds."""
        self._failures += 1
        delay_s = self._pace.after(self._failures, self._draw)
        state = UplinkState.CONNECTING
        if isinstance(error, RefusedByValuer):
            self._metrics.count_refusal(error.reason)
            if error.retry_after_ms:
                delay_s += min(error.retry_after_ms / SECOND_MS, self._pace.person_s)
            elif error.reason != Refusal.SEQUENCE_GAP:  # that one the next resume point mends
                state, delay_s = UplinkState.REFUSED, self._person()
        elif isinstance(error, Forked):
            state, delay_s = UplinkState.FORKED, self._person()
        elif isinstance(error, Denied):
            state, delay_s = UplinkState.DENIED, self._person()
        self._metrics.set_uplink(state)
        self.said = f"{state.value}: {error}"
        log = self._log.warning if state is UplinkState.CONNECTING else self._log.error
        log("uplink", state=state.value, detail=str(error), retry_in_s=round(delay_s, 1))
        return delay_s

    def _person(self) -> float:
        """A long wait, spread so that a fleet does not come back at one instant."""
        return self._pace.person_s * (0.9 + 0.2 * self._draw())

    def welcomed(self, welcome: Welcome) -> None:
        """The stream is open."""
        self.connected = True
        self._metrics.connections.inc()
        self._metrics.set_uplink(UplinkState.CONNECTED)
        self.said = f"{UplinkState.CONNECTED.value}: windows are taken"
        offset_ms = welcome.now_ms - self._clock()
        self._metrics.clock_offset.set(offset_ms / SECOND_MS)
        head = -1 if welcome.head is None else welcome.head.sequence
        self._log.info("connected", valuer_head=head, next_sequence=self._spool.next_sequence)
        if abs(offset_ms) > CLOCK_OFFSET_WARN_MS:
            self._log.warning(
                "clock",
                detail="this host's clock is not the valuer's; check NTP",
                valuer_ahead_ms=offset_ms,
            )

    def acknowledged(self, count: int) -> None:
        """So many more records are durable at the valuer."""
        self._failures = 0
        self._metrics.acknowledged.inc(count)
        self._metrics.last_acknowledged.set(self._clock() / SECOND_MS)
        self._metrics.unacknowledged.set(self._spool.unacknowledged)

    def challenged(self, nonce: bytes) -> None:
        """The next header answers it."""
        self.control.challenge = nonce

    def hinted(self, window_ms: int) -> None:
        """A wish; the service keeps its own bounds."""
        self.control.window_ms = window_ms

    def asked(self, asked: Asked) -> None:
        """A challenge; whoever answers it takes it from `on_asked`."""
        self.on_asked(asked)

    def told(self, told: Told) -> None:
        """What became of an answer."""
        self._metrics.count_evidence(told.outcome)
        log = self._log.info if told.outcome == "accepted" else self._log.error
        log("evidence", outcome=told.outcome, detail=told.detail)
