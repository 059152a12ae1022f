"""A host's word against itself: the second of two windows that one key sealed is kept as evidence.

Kept by a task of its own: whoever hangs up the moment it is found out changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from assay_core.errors import ServiceError
from assay_core.seal import Sealed
from assay_valuer.hosts import Host
from assay_valuer.ingest.committer import Committer
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ledger.append import append_fork
from assay_valuer.store.database import Database

_log = structlog.get_logger(__name__)

_CLOSING_S: Final = 3.0


@dataclass(slots=True)
class ForkKeeper:
    """Keeps forks of every host. Used from one event loop; `close` before the loop ends."""

    database: Database
    committer: Committer
    metrics: IngestMetrics
    now_ms: Callable[[], int]
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def keep(self, host: Host, fork: Sealed, sequence: int) -> None:
        """Keeps what the host sealed at this sequence beside what stands there."""
        task = asyncio.create_task(self._keep(host, fork, sequence))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Lets what is being kept be kept, but does not wait for long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSING_S)

    async def _keep(self, host: Host, fork: Sealed, sequence: int) -> None:
        host_id = host.trust.host_id
        await self.committer.settled()  # what it stands against may have waited for its commit
        try:
            kept = await asyncio.to_thread(
                self.database.write,
                lambda c: append_fork(
                    c,
                    fork,
                    host_key=host.key,
                    incarnation=host.trust.incarnation,
                    sequence=sequence,
                    now_ms=self.now_ms(),
                ),
            )
        except ServiceError as error:
            _log.error("fork_not_kept", host=host_id, error=str(error))
            return
        if kept is not None:
            self.metrics.forks.inc()
            _log.error("fork_kept", host=host_id, position=kept)
