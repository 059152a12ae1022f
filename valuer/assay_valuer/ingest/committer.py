"""Grouped commits: windows of all hosts, verified and waiting, in one transaction at a time.

A window is acknowledged after its transaction is on the disk and not before. While one batch is
being flushed the next gathers, so a busy valuer flushes for hundreds of windows at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from assay_core.errors import ServiceError
from assay_core.header import Head
from assay_core.verify import VerifiedGap, VerifiedWindow
from assay_valuer.config import IngestConfig
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ledger.append import Run, append_runs
from assay_valuer.store.database import Database, StoreError

_log = structlog.get_logger(__name__)

Arrival = VerifiedWindow | VerifiedGap
OnCommit = Callable[[Sequence[tuple[int, VerifiedWindow]]], None]


class Origin(Protocol):
    """Whose windows they are: a stream, as the committer sees it."""

    @property
    def host_key(self) -> int:
        """The host in the store."""
        ...

    @property
    def committed(self) -> Head | None:
        """The end of the host's chain in the store."""
        ...

    @property
    def failed(self) -> bool:
        """Whether a commit failed before: what still waits must not be stored."""
        ...

    def on_committed(self, stored: Sequence[tuple[Arrival, int]]) -> None:
        """These are durable at these positions."""

    def on_failed(self, error: ServiceError) -> None:
        """What waits for a commit was not stored."""


@dataclass(slots=True)
class _Batch:
    """One host's share of a batch."""

    origin: Origin
    items: list[Arrival]

    def run(self) -> Run:
        return Run(self.origin.host_key, self.origin.committed, self.items)


class Committer:
    """Owns the queue between verification and the store. Used from one event loop."""

    def __init__(
        self,
        database: Database,
        config: IngestConfig,
        metrics: IngestMetrics,
        on_commit: OnCommit,
    ) -> None:
        self._database = database
        self._config = config
        self._metrics = metrics
        self._on_commit = on_commit
        self._queue: list[tuple[Origin, Arrival]] = []
        self._wake = asyncio.Event()
        self._taken = 0  # arrivals ever put
        self._done = 0  # arrivals whose batch is over, stored or not
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")

    @property
    def full(self) -> bool:
        """Whether the queue takes no more for now."""
        return len(self._queue) >= self._config.queue_max

    def put(self, origin: Origin, item: Arrival) -> None:
        """Queues what `verify` let in; `origin` hears how it ended."""
        self._queue.append((origin, item))
        self._taken += 1
        self._wake.set()

    async def settled(self) -> None:
        """Returns once everything queued until now is stored, or known not to be."""
        if self._done < self._taken:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append((self._taken, waiter))
            await waiter

    async def run(self) -> None:
        """Commits until cancelled; what is queued at that moment is never acknowledged."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                if self._config.linger_ms and len(self._queue) < self._config.batch_max:
                    await asyncio.sleep(self._config.linger_ms / 1000)
                taken = self._queue[: self._config.batch_max]
                del self._queue[: self._config.batch_max]
                if not self._queue:
                    self._wake.clear()
                self._metrics.queue.set(len(self._queue))
                batches = _by_origin(taken)
                started = time.perf_counter()
                outcomes = await loop.run_in_executor(self._thread, self._store, batches)
                self._metrics.commit_seconds.observe(time.perf_counter() - started)
                self._metrics.batch_windows.observe(len(taken))
                self._settle(batches, outcomes)
                self._release(len(taken))
        finally:
            self._thread.shutdown(wait=True)

    def _store(self, batches: Sequence[_Batch]) -> list[list[int] | ServiceError]:
        """In the commit thread: all in one transaction, or, where one cannot be, each alone."""
        runs = [batch.run() for batch in batches]
        try:
            return list(self._database.write(lambda c: append_runs(c, runs))) if runs else []
        except StoreError as error:
            return [error] * len(runs)
        except Exception as error:  # noqa: BLE001 - the others must not suffer one host's run
            _log.warning("batch_taken_apart", error=repr(error))
        return [self._store_alone(run) for run in runs]

    def _store_alone(self, run: Run) -> list[int] | ServiceError:
        try:
            return self._database.write(lambda c: append_runs(c, [run]))[0]
        except ServiceError as error:
            return error
        except Exception as error:  # noqa: BLE001 - this host is told, and the log
            _log.exception("run_not_stored", host_key=run.host_key)
            return ServiceError(f"the valuer could not store it: {type(error).__name__}")

    def _settle(
        self, batches: Sequence[_Batch], outcomes: Sequence[list[int] | ServiceError]
    ) -> None:
        announced: list[tuple[int, VerifiedWindow]] = []
        for batch, outcome in zip(batches, outcomes, strict=True):
            if isinstance(outcome, ServiceError):
                _log.warning("commit_failed", host_key=batch.origin.host_key, error=str(outcome))
                batch.origin.on_failed(outcome)
                continue
            batch.origin.on_committed(list(zip(batch.items, outcome, strict=True)))
            for item, position in zip(batch.items, outcome, strict=True):
                if isinstance(item, VerifiedWindow):
                    announced.append((position, item))
            self._metrics.position.set(outcome[-1] + 1)
        if announced:
            self._metrics.accepted.inc(len(announced))
            self._on_commit(announced)

    def _release(self, count: int) -> None:
        self._done += count
        waiting, self._waiters = self._waiters, []
        for until, waiter in waiting:
            if self._done < until:
                self._waiters.append((until, waiter))
            elif not waiter.done():
                waiter.set_result(None)


def _by_origin(taken: Sequence[tuple[Origin, Arrival]]) -> list[_Batch]:
    batches: dict[int, _Batch] = {}
    for origin, item in taken:
        if origin.failed:
            continue
        batch = batches.get(id(origin))
        if batch is None:
            batches[id(origin)] = _Batch(origin, [item])
        else:
            batch.items.append(item)
    return list(batches.values())
