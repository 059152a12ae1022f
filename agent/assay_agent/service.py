"""The running agent: polls, closes windows, seals them, and keeps the uplink fed."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from dataclasses import dataclass
from typing import Final

import structlog

from assay_agent import VERSION, control, enroll, host, rotation
from assay_agent.answering import Answerer
from assay_agent.config import AgentConfig
from assay_agent.cutting import WINDOW_MS_LEAST, WINDOW_MS_MOST, Cutter, Plan
from assay_agent.evidence.collectors import make_collectors
from assay_agent.host import Clock
from assay_agent.keys import KeyStore
from assay_agent.metrics import AgentMetrics
from assay_agent.spool import Spool, SpoolFull
from assay_agent.telemetry.reading import Depth, GpuSource, Happening, Poll
from assay_agent.tpm.errors import TpmBusy, TpmError
from assay_agent.uplink.session import first_of
from assay_agent.uplink.uplink import Pace, Uplink
from assay_agent.window import Aggregator
from assay_core import asset_events
from assay_core.errors import AssayError, HostError, ServiceError
from assay_core.header import CloseReason
from assay_core.instants import HOUR_MS, SECOND_MS, format_duration, format_instant
from assay_core.leaves import HOST, DriverState, EventKind
from assay_core.seal import ASSET_EVENT_TYPE, sign_envelope

PAUSE_MS_MOST: Final = 24 * HOUR_MS
"""The longest maintenance that a valuer counts as announced."""
STORM_BREATH_S: Final = 0.2
PAUSE_SEAL_S: Final = 30.0
FLUSH_S: Final = 2.0
LAST_LOOK_S: Final = 2.0
RENEWAL_PACE: Final = Pace(least_s=30.0, most_s=900.0)
RENEWAL_LOOK_S: Final = 60.0


@dataclass(slots=True)
class _Pause:
    """The operator's pause, as far as it got."""

    until_ms: int | None = None
    unsealed: bool = False


class Service:
    """One agent, from start to SIGTERM."""

    def __init__(
        self,
        config: AgentConfig,
        keys: KeyStore,
        source: GpuSource,
        spool: Spool,
        metrics: AgentMetrics,
        *,
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._config = config
        self._keys = keys
        self._source = source
        self._spool = spool
        self._metrics = metrics
        self._clock = clock
        self._uplink = Uplink(
            keys, spool, metrics, proxy=config.proxy, clock=clock.utc_ms, pace=pace
        )
        self._answerer = Answerer(
            keys,
            make_collectors(config.evidence, source),
            source.kind,
            self._uplink,
            clock.utc_ms,
        )
        self._uplink.on_asked = self._answerer.ask
        known = spool.known()
        metrics.know(known)
        self._aggregator = Aggregator(
            known,
            begin_utc_ms=clock.utc_ms(),
            begin_boottime_ms=clock.boottime_ms(),
            boot_id=spool.boot_id,
        )
        self._stopping = asyncio.Event()
        self._sealed = asyncio.Event()
        self._pause = _Pause()
        self._rotation = asyncio.Lock()
        self._cutter = Cutter()
        self._turned_ms = clock.boottime_ms()
        self._dropped = 0
        self._gaps = 0
        self._stuck = 0
        self._log = structlog.get_logger("agent")

    def stop(self) -> None:
        """Asks for an end in good order."""
        self._stopping.set()

    async def run(self) -> None:
        """Runs until `stop` or SIGTERM. Raises AssayError for what a person must act on."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        server = await control.serve(self._keys.state_dir, self._control)
        try:
            await self._run()
        except BaseExceptionGroup as group:
            ours = [error for error in group.exceptions if isinstance(error, AssayError)]
            raise (ours[0] if ours else group) from group
        finally:
            server.close()
            await self._source.close()

    async def _run(self) -> None:
        await self._take_up_pause()
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._uplink.run()),
                group.create_task(self._answerer.run()),
                group.create_task(self._renew()),
                group.create_task(self._watch()),
            ]
            host.notify(f"READY=1\nSTATUS=next window {self._spool.next_sequence}")
            self._log.info(
                "started",
                version=VERSION,
                source=self._source.kind.name.lower(),
                next_sequence=self._spool.next_sequence,
            )
            await first_of(self._sample(), self._stopped())
            host.notify("STOPPING=1")
            await self._last_look()
            if self._aggregator.polls:
                self._seal(CloseReason.SHUTDOWN)
            await self._flush()
            for task in tasks:
                task.cancel()

    async def _last_look(self) -> None:
        """The last window holds what windows are read for, where the driver gives it soon."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                self._take(await self._source.poll(0, Depth.WINDOW))

    async def _stopped(self) -> None:
        await self._stopping.wait()

    async def _sample(self) -> None:
        while True:
            plan = self._plan()
            poll = await self._source.poll(plan.wait_ms, plan.depth)
            self._cutter.polled(poll, plan.depth)
            self._take(poll)
            await self._end_pause_when_due()
            reason = self._close_reason()
            if reason is not None:
                self._seal(reason)
            if self._aggregator.has_events:
                await asyncio.sleep(STORM_BREATH_S)

    def _take(self, poll: Poll) -> None:
        self._aggregator.add(poll)
        self._stuck = poll.abandoned_processes
        self._turned_ms = self._clock.boottime_ms()
        self._metrics.take(poll)
        if isinstance(self._aggregator.missing, tuple):
            self._metrics.missing_gpus.set(len(self._aggregator.missing))
        if poll.driver is DriverState.PAUSED and self._pause.unsealed:
            self._pause.unsealed = not self._seal(CloseReason.MAINTENANCE)

    @property
    def _window_ms(self) -> int:
        """The period's length: the valuer's wish within our bounds, else as configured."""
        wished = self._uplink.control.window_ms
        if not wished:
            return self._config.window_ms
        return min(max(wished, WINDOW_MS_LEAST), WINDOW_MS_MOST)

    def _plan(self) -> Plan:
        """How long the next poll may wait for events, and how deep it looks."""
        plan = self._cutter.plan(
            self._clock.boottime_ms(),
            begin_ms=self._aggregator.begin_boottime_ms,
            window_ms=self._window_ms,
            poll_ms=self._config.poll_ms,
            has_events=self._aggregator.has_events,
        )
        if self._pause.until_ms is None:
            return plan
        left_ms = max(self._pause.until_ms - self._clock.utc_ms(), 0)
        return Plan(min(plan.wait_ms, left_ms), plan.depth)

    def _close_reason(self) -> CloseReason | None:
        return self._cutter.reason(
            self._clock.boottime_ms(),
            begin_ms=self._aggregator.begin_boottime_ms,
            window_ms=self._window_ms,
            polls=self._aggregator.polls,
            has_events=self._aggregator.has_events,
            paused=self._pause.until_ms is not None,
        )

    def _seal(self, reason: CloseReason) -> bool:
        """Seals the period; False where spool or TPM did not do it, and then the period goes on."""
        now_ms = self._clock.utc_ms()
        if self._gaps != self._spool.gaps:
            self._gaps = self._spool.gaps
            self._aggregator.tell_again()
        draft = self._aggregator.draft(
            at_utc_ms=now_ms,
            at_boottime_ms=self._clock.boottime_ms(),
            close_reason=reason,
            maintenance_until_ms=self._pause.until_ms,
        )
        polls = self._aggregator.polls
        try:
            sealed = self._spool.append(
                draft,
                source=self._source.kind,
                answered_challenge=self._uplink.control.challenge,
                now_ms=now_ms,
            )
        except (SpoolFull, TpmError, TpmBusy) as error:
            self._cutter.failed(self._clock.boottime_ms())
            self._metrics.seal_failures.inc()
            self._log.error("not sealed", detail=str(error), polls=polls)
            return False
        self._aggregator.restart(draft)
        self._uplink.control.challenge = b""
        self._cutter.closed(draft.period.end_boottime_ms)
        self._uplink.wake()
        self._sealed.set()
        self._sealed = asyncio.Event()
        sequence = self._spool.next_sequence - 1
        self._log.info(
            "sealed",
            sequence=sequence,
            hash=sealed.hash.hex(),
            close_reason=reason.name.lower(),
            begin=format_instant(draft.period.begin_utc_ms),
            end=format_instant(draft.period.end_utc_ms),
            polls=polls,
            leaves=len(sealed.leaves),
        )
        self._show(reason, now_ms)
        self._metrics.sealed_window(draft)  # last: its file tells all of the above
        return True

    def _show(self, reason: CloseReason, now_ms: int) -> None:
        metrics, spool = self._metrics, self._spool
        metrics.sealed.labels(reason.name.lower()).inc()
        metrics.last_sealed.set(now_ms / SECOND_MS)
        metrics.spool_bytes.set(spool.used_bytes)
        waiting = spool.unacknowledged
        metrics.unacknowledged.set(waiting)
        dropped = spool.dropped_windows - self._dropped
        if dropped:
            self._dropped += dropped
            metrics.dropped.inc(dropped)
            self._log.error(
                "dropped",
                windows=dropped,
                detail="the spool is at its bound or its disk is full, and the valuer does not take "
                "windows; the next connection declares the gap",
            )
        link = "connected" if self._uplink.connected else "not connected"
        host.notify(f"STATUS=window {spool.next_sequence - 1} sealed, {waiting} to send, {link}")

    async def _control(self, request: control.Request) -> str:
        if request.proposal is not None:
            return await self._propose(request.proposal.encode())
        if request.pause_ms is not None:
            return await self._pause_for(request.pause_ms)
        if request.rotate_to is not None:
            to = None if request.rotate_to == "default" else request.rotate_to
            return await self._rotate(to, anew=request.anew)
        if request.uplink:
            return self._uplink.said
        raise HostError("the request asks for nothing; are command and agent of one version?")

    async def _propose(self, payload: bytes) -> str:
        """Signs what the operator proposes, and returns what the valuer made of it."""
        event = asset_events.decode(payload)
        envelope = sign_envelope(ASSET_EVENT_TYPE, payload, self._keys.signer())
        answer = await self._uplink.propose(envelope)
        self._log.info("proposed", kind=event.kind.value, kept=answer.kept, detail=answer.detail)
        if not answer.kept:
            raise HostError(f"the valuer did not keep the proposal: {answer.detail}")
        return answer.detail

    async def _rotate(self, to: rotation.Target | None, *, anew: bool) -> str:
        """Goes over to a new sealing key; it seals the next window."""
        if self._rotation.locked():
            raise ServiceError("a rotation is under way already; wait for it")
        async with self._rotation:
            to = await rotation.ask(self._keys, self._config.proxy, to, anew=anew)
            rotation.complete(self._keys)
            signer = self._keys.signer()
            self._spool.go_over(signer)
        self._uplink.reconnect()
        detail = rotation.told(to, signer)
        self._log.info("rotated", detail=detail, first=self._spool.next_sequence)
        return detail

    async def _pause_for(self, pause_ms: int) -> str:
        if pause_ms == 0:
            if self._pause.until_ms is None:
                return "the agent is not paused"
            await self._resume()
            return "the agent reads the GPUs again"
        if not 0 < pause_ms <= PAUSE_MS_MOST:
            raise HostError(f"a pause may last up to {format_duration(PAUSE_MS_MOST)}")
        until_ms = self._clock.utc_ms() + pause_ms
        self._spool.set_paused_until(until_ms)
        was_paused = self._pause.until_ms is not None
        self._pause.until_ms = until_ms
        self._pause.unsealed = True
        if was_paused:
            return f"the pause now lasts until {format_instant(until_ms)}"
        self._happen(EventKind.PAUSED)
        sealed = self._sealed
        await self._source.pause()
        try:
            async with asyncio.timeout(PAUSE_SEAL_S):
                await sealed.wait()
        except TimeoutError as error:
            raise HostError(
                "every device handle is closed, but the maintenance window is not sealed yet: see "
                "the agent's log"
            ) from error
        held = (
            f", but those of {self._stuck} that hang in a call, which only the driver can end"
            if self._stuck
            else ""
        )
        return (
            f"every device handle is closed until {format_instant(until_ms)}{held}; maintenance "
            f"window {self._spool.next_sequence - 1} is sealed"
        )

    async def _take_up_pause(self) -> None:
        """A pause outlives a restart of the agent: nobody said that it is over."""
        until_ms = self._spool.paused_until_ms()
        if until_ms is None:
            return
        self._pause.until_ms = until_ms
        if until_ms > self._clock.utc_ms():
            self._pause.unsealed = True
            await self._source.pause()
        else:
            await self._resume()

    async def _end_pause_when_due(self) -> None:
        if self._pause.until_ms is not None and self._clock.utc_ms() >= self._pause.until_ms:
            await self._resume()

    async def _resume(self) -> None:
        self._pause = _Pause()
        self._spool.set_paused_until(None)
        self._happen(EventKind.RESUMED)
        await self._source.resume()

    def _happen(self, kind: EventKind) -> None:
        self._aggregator.happen(Happening(HOST, kind, 0, self._clock.utc_ms()))

    async def _renew(self) -> None:
        """Renews the client certificate at half its life, and after it expired."""
        failures = 0
        while True:
            identity = self._keys.tls()
            self._metrics.certificate_expiry.set(identity.not_after_ms / SECOND_MS)
            left_s = (identity.renew_at_ms - self._clock.utc_ms()) / SECOND_MS
            if left_s > 0:  # in steps, for the wall clock may
                await asyncio.sleep(min(left_s, RENEWAL_LOOK_S))
                continue
            try:
                await enroll.renew(self._keys, self._config.proxy)
            except AssayError as error:
                failures += 1
                self._metrics.renewal_failures.inc()
                wait_s = RENEWAL_PACE.jittered(failures)
                self._log.error("renewal", detail=str(error), retry_in_s=round(wait_s, 1))
                await asyncio.sleep(wait_s)
            else:
                failures = 0
                self._log.info("renewal", detail="the client certificate was renewed")
                self._uplink.reconnect()
                # Not at once again where this host's clock is so wrong that every certificate is old.
                await asyncio.sleep(RENEWAL_LOOK_S)

    async def _watch(self) -> None:
        """Tells systemd's watchdog that polls still come and go, and not only that we exist."""
        every_s = host.watchdog_s()
        allowed_ms = self._config.poll_ms + 4 * self._config.source.timeout_ms + 30 * SECOND_MS
        while every_s is not None:
            if self._clock.boottime_ms() - self._turned_ms <= allowed_ms:
                host.notify("WATCHDOG=1")
            await asyncio.sleep(every_s)

    async def _flush(self) -> None:
        """Gives the uplink a moment to send what was sealed last."""
        until_s = asyncio.get_running_loop().time() + FLUSH_S
        while self._uplink.connected and asyncio.get_running_loop().time() < until_s:
            if self._spool.unacknowledged == 0:
                return
            await asyncio.sleep(0.02)
