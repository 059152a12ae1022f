"""The valuer as a service: everything that runs at once, started and stopped in good order.

The only place that reads the clock. What values and publishes is handed in as tasks; they follow
the ledger, and hear of each commit, through the context they are given.
"""

from __future__ import annotations

import asyncio
import fcntl
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, disable_created_metrics, start_http_server
from sqlalchemy import Connection, insert, update

from assay_core.errors import ServiceError
from assay_core.verify import VerifiedWindow
from assay_valuer.config import ValuerConfig, split_endpoint
from assay_valuer.events import HostDesk
from assay_valuer.ingest.metrics import IngestMetrics
from assay_valuer.ingest.server import Door
from assay_valuer.ledger.append import next_position
from assay_valuer.notify import notify, watchdog_interval_s
from assay_valuer.state import State
from assay_valuer.store.schema import UPTIME

_log = structlog.get_logger(__name__)

UPTIME_S: Final = 5.0
"""How often the valuer notes that it is up: silence of hosts is ours but for this."""

Stored = Sequence[tuple[int, VerifiedWindow]]
"""Windows just committed, each with its ledger position, in the ledger's order."""


class Commits:
    """Tells whoever asks about each commit, on the event loop, after it is durable.

    A hint, not a queue: whoever must miss nothing follows the ledger by position
    (`ledger.read.windows_from`) and takes this as the sign to look.
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[[Stored], None]] = []

    def subscribe(self, listener: Callable[[Stored], None]) -> None:
        """Calls `listener` for each commit. It must not block and must not raise."""
        self._listeners.append(listener)

    def publish(self, stored: Stored) -> None:
        """Tells every listener."""
        for listener in self._listeners:
            listener(stored)


@dataclass(frozen=True, slots=True)
class ServiceContext:
    """What a task of the service is given."""

    state: State
    registry: CollectorRegistry
    now_ms: Callable[[], int]
    commits: Commits = field(default_factory=Commits)


Task = Callable[[ServiceContext], Awaitable[None]]
"""Runs until it is cancelled; if it raises, the whole service stops."""


def wall_clock_ms() -> int:
    """UTC milliseconds, by this machine."""
    return time.time_ns() // 1_000_000


def run(state: State, tasks: Sequence[Task] = ()) -> None:
    """Serves until SIGTERM or SIGINT. Raises AssayError where it cannot start or go on."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client leaves it out
    with _alone(state):
        context = ServiceContext(state, CollectorRegistry(), wall_clock_ms)
        asyncio.run(serve(context, tasks))


@contextmanager
def _alone(state: State) -> Iterator[None]:
    """Holds the state folder's lock: one process serves and values on one store."""
    path = state.paths.state_dir / "run.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ServiceError(f"another valuer runs on {state.paths.state_dir}") from error
        yield


async def serve(context: ServiceContext, tasks: Sequence[Task] = ()) -> None:
    """Serves until a signal, or until it is cancelled."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    state = context.state
    metrics = IngestMetrics(context.registry)
    metrics.position.set(state.database.read(next_position))
    door = Door(
        state.config,
        state.database,
        state.registrar,
        metrics,
        on_commit=context.commits.publish,
        now_ms=context.now_ms,
        propose=HostDesk(state.config.policy, state.ledger_key),
    )
    stop_metrics = _serve_metrics(state.config, context.registry)
    try:
        await door.start()
        notify("READY=1")
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(door.run()),
                group.create_task(_record_uptime(context)),
                group.create_task(_watchdog()),
                *(group.create_task(_started(task, context)) for task in tasks),
            ]
            await stopping.wait()
            notify("STOPPING=1")
            for task in running:
                task.cancel()
    except BaseExceptionGroup as group_error:
        _log.error("stopped_by_failure", error=repr(group_error.exceptions[0]))
        raise group_error.exceptions[0] from group_error
    finally:
        stop_metrics()


async def _started(task: Task, context: ServiceContext) -> None:
    await task(context)


async def _record_uptime(context: ServiceContext) -> None:
    """Notes, every few seconds, that the valuer is up."""
    begin_ms = context.now_ms()
    database = context.state.database

    def begin(connection: Connection) -> None:
        connection.execute(insert(UPTIME).values(begin_ms=begin_ms, end_ms=begin_ms))

    def extend(connection: Connection) -> None:
        connection.execute(
            update(UPTIME).where(UPTIME.c.begin_ms == begin_ms).values(end_ms=context.now_ms())
        )

    await asyncio.to_thread(database.write, begin)
    while True:
        await asyncio.sleep(UPTIME_S)
        try:
            await asyncio.to_thread(database.write, extend)
        except ServiceError as error:
            # A valuer that cannot write does not serve either: the span rightly ends here.
            _log.error("uptime_not_recorded", error=str(error))


async def _watchdog() -> None:
    """Tells systemd that the event loop still turns."""
    interval_s = watchdog_interval_s()
    while interval_s is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)


def _serve_metrics(config: ValuerConfig, registry: CollectorRegistry) -> Callable[[], None]:
    """Serves metrics on a thread of its own; returns what stops it."""
    if config.metrics.listen is None:
        return lambda: None
    address, port = split_endpoint(config.metrics.listen, "metrics.listen")
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        raise ServiceError(
            f"metrics.listen: {config.metrics.listen} cannot be listened on: {error.strerror}"
        ) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(timeout=5)

    return stop
