"""What the service does besides the door: it values, and it publishes, each on a thread of its own.

Valuing never waits for a chain. A health event closes its window at once, and a window closed so is
valued at once; anything else waits for the next tick.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from prometheus_client import Counter

from assay_core.errors import AssayError
from assay_core.header import CloseReason
from assay_valuer.feeds import PostNews, Publishes
from assay_valuer.pipeline import Pipeline
from assay_valuer.service import ServiceContext, Stored
from assay_valuer.watch import BookCollector
from assay_valuer.watch_market import load_view

SPACING_S: Final = 0.1
"""Least rest between two books, whatever storm of events there is."""

_log: Final = structlog.get_logger(__name__)


async def keep_the_book(context: ServiceContext) -> None:
    """Values and publishes until it is cancelled. A task of the service."""
    desk = Desk(context)
    state = context.state
    oracle = await asyncio.to_thread(_open, context) if state.config.oracle.enabled else None
    context.commits.subscribe(desk.heard)
    async with asyncio.TaskGroup() as group:
        group.create_task(desk.value())
        if oracle is not None:
            group.create_task(desk.publish(oracle))


class Desk:
    """The two loops and what they share: the newest book."""

    def __init__(self, context: ServiceContext) -> None:
        state = context.state
        self._context: Final = context
        self._pipeline: Final = Pipeline(state.database, state.ledger_key, state.config.policy)
        self._collector: Final = BookCollector()
        context.registry.register(self._collector)
        self._errors: Final = Counter(
            "assay_book_errors",
            "Times that valuing or publishing did not go through and is tried again.",
            ("step",),
            registry=context.registry,
        )
        self._event = asyncio.Event()
        self._valued = asyncio.Event()

    def heard(self, stored: Stored) -> None:
        """A commit: wakes the valuer where a window was closed by an event."""
        if any(window.header.close_reason is CloseReason.EVENT for _, window in stored):
            self._event.set()

    async def value(self) -> None:
        """Works the book out anew, tick by tick."""
        while True:
            await self._value_once()
            await asyncio.sleep(SPACING_S)
            try:
                async with asyncio.timeout(self._context.state.config.tick_s):
                    await self._event.wait()
            except TimeoutError:
                continue

    async def _value_once(self) -> None:
        self._event.clear()
        begin_ms = self._context.now_ms()
        try:
            book = await asyncio.to_thread(self._pipeline.tick, begin_ms)
            market = await asyncio.to_thread(self._context.state.database.read, load_view)
        except AssayError as error:  # the door stays open: what hosts say is not lost
            self._errors.labels("value").inc()
            _log.error("not_valued", error=str(error))
            return
        duration_ms = self._context.now_ms() - begin_ms
        self._collector.show(book, duration_ms=duration_ms, lag=self._pipeline.lag)
        self._collector.show_market(market)
        self._valued.set()

    async def publish(self, oracle: Publishes) -> None:
        """Offers each new book to the oracle, and moves what is under way."""
        while True:
            await self._valued.wait()
            self._valued.clear()
            book = self._pipeline.book
            if book is None:
                continue
            try:
                news = await asyncio.to_thread(oracle.step, book, self._context.now_ms())
                counts = await asyncio.to_thread(oracle.counts)
            except AssayError as error:
                self._errors.labels("publish").inc()
                _log.error("not_published", error=str(error))
                continue
            self._collector.show_feeds(oracle.feeds, counts)
            for post in news:
                _tell(post)


def _open(context: ServiceContext) -> Publishes:
    """The configured oracle. Raises AssayError."""
    try:
        from assay_valuer.publish import open_oracle  # noqa: PLC0415 - needs the extra `oracle`
    except ModuleNotFoundError as error:
        raise AssayError(
            f"oracle.enabled needs the extra `oracle` ({error.name} is not installed): "
            "in a clone of this project, pip install '.[valuer,oracle]', or switch it off"
        ) from error
    state = context.state
    return open_oracle(state.config.oracle, state.database, state.config.policy)


def _tell(post: PostNews) -> None:
    """One line for each post that changed; what needs a person is an error."""
    tell = _log.error if post.failed else _log.info
    tell(
        "post",
        feed=f"0x{post.feed_id.hex()}",
        round=post.round,
        state=post.state,
        detail=post.detail,
    )
