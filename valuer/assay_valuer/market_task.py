"""The service's task that follows the market: it asks the feeds that are due, and has the rest done.

Whatever fails here is ours, the network's or a publisher's, and no borrower's: the rows that were
there stay, the last fit stays in use, and both grow old, which widens what is said of values.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from assay_core.errors import AssayError, ServiceError
from assay_core.instants import DAY_MS
from assay_valuer.config import MarketConfig
from assay_valuer.market.feeds.feed import Feed
from assay_valuer.market.feeds.open import open_feeds
from assay_valuer.market.feeds.poll import ANSWERS, Outcome, poll
from assay_valuer.market_desk import MarketDesk
from assay_valuer.service import ServiceContext
from assay_valuer.store.database import Database

_log: Final = structlog.get_logger(__name__)

LOOK_S: Final = 30.0
"""How often it is looked for feeds that are due, and for rows, loans or days that are new."""
RETRY_S: Final = 600
"""A feed that failed is asked again after so long, where it would be due later."""


@dataclass(slots=True)
class Polling:
    """Asks feeds when they are due. A feed is asked anew once a process: it may be configured anew."""

    config: MarketConfig
    database: Database
    registry: CollectorRegistry
    feeds: Sequence[Feed] = field(init=False)
    _due_ms: dict[str, int] = field(default_factory=dict)
    _answers: Counter = field(init=False)
    _stale: Gauge = field(init=False)

    def __post_init__(self) -> None:
        """Raises FileError for a feed that cannot be."""
        self.feeds = open_feeds(self.config)
        self._answers = Counter(
            "assay_market_feed_answers",
            "Times that a price feed was asked, by what came of it.",
            ["feed", "answer"],
            registry=self.registry,
        )
        self._stale = Gauge(
            "assay_market_feed_stale",
            "Whether a price feed gave no new row for market.stale_after_days.",
            ["feed"],
            registry=self.registry,
        )
        for feed in self.feeds:
            for answer in ANSWERS:
                self._answers.labels(feed.name, answer)

    async def look(self, now_ms: int) -> tuple[Outcome, ...]:
        """Asks what is due now. Raises StoreError."""
        due = [one for one in self.feeds if self._due_ms.get(one.name, 0) <= now_ms]
        first = [one for one in due if one.name not in self._due_ms]
        again = [one for one in due if one.name in self._due_ms]
        outcomes = [
            *await poll(first, self.database, now_ms, anew=True),
            *await poll(again, self.database, now_ms),
        ]
        every_s = {one.name: one.every_s for one in self.config.feeds}
        for outcome in outcomes:
            wait_s = every_s[outcome.feed]
            wait_s = min(wait_s, RETRY_S) if outcome.failed else wait_s
            self._due_ms[outcome.feed] = now_ms + wait_s * 1_000
            self._tell(outcome, now_ms)
        return tuple(outcomes)

    def _tell(self, outcome: Outcome, now_ms: int) -> None:
        self._answers.labels(outcome.feed, outcome.answer).inc()
        changed_ms = outcome.state.changed_ms or 0
        stale = now_ms - changed_ms > self.config.stale_after_days * DAY_MS
        self._stale.labels(outcome.feed).set(stale)
        if outcome.failed:
            _log.warning(
                "feed_failed", feed=outcome.feed, code=outcome.answer, error=outcome.state.error
            )
        elif outcome.rows:
            _log.info("feed_new_rows", feed=outcome.feed, rows=outcome.rows)
        if stale and not outcome.failed:
            _log.warning("feed_stale", feed=outcome.feed, days=self.config.stale_after_days)


async def follow_the_market(context: ServiceContext) -> None:
    """Polls and refreshes until it is cancelled. A task of the service."""
    state = context.state
    polling = Polling(state.config.market, state.database, context.registry)
    desk = MarketDesk(state.database, state.ledger_key)
    await follow(polling, desk.refresh, context.now_ms)


async def follow(
    polling: Polling,
    refresh: Callable[[int], object],
    now_ms: Callable[[], int],
    look_s: float = LOOK_S,
) -> None:
    """Looks until it is cancelled. `refresh` blocks, and does nothing where nothing is new."""
    while True:
        try:
            await polling.look(now_ms())
        except ServiceError as error:
            _log.warning("market_not_polled", error=str(error))
        try:
            await asyncio.to_thread(refresh, now_ms())
        except AssayError as error:
            _log.error("market_not_refreshed", error=str(error))
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end the door that hosts speak to
            _log.error("market_not_refreshed", error=f"our fault, please report it: {error!r}")
        await asyncio.sleep(look_s)
