"""Asks feeds what they have, and keeps it: each for itself, so that none is lost with another."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from sqlalchemy import Connection

from assay_core.errors import ServiceError
from assay_valuer.market.feeds.feed import (
    Cells,
    Fault,
    Feed,
    FeedMalformed,
    FeedUnavailable,
    Fetched,
    Known,
    Unchanged,
)
from assay_valuer.market_store import FeedState, add_rows, load_feeds, note_feed, unread_cells
from assay_valuer.store.database import Database

AT_ONCE_MAX: Final = 4
FETCH_MAX_S: Final = 300.0
"""Of one feed, whatever its own bounds are: a file may be on a disk that does not answer."""
NEW: Final = "new"
UNCHANGED: Final = "unchanged"
ANSWERS: Final = (NEW, UNCHANGED, *(fault.value for fault in Fault))
"""What a feed may come to: the metric's labels."""
_ROWS_AT_ONCE: Final = 2_000
"""Rows in one transaction: windows that come meanwhile do not wait for a whole table."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What asking a feed came to. `answer` is one of ANSWERS; `rows` were never given before."""

    feed: str
    answer: str
    rows: int
    state: FeedState

    @property
    def failed(self) -> bool:
        """Whether it gave nothing that could be read and kept."""
        return self.answer not in (NEW, UNCHANGED)


async def poll(
    feeds: Sequence[Feed], database: Database, now_ms: int, *, anew: bool = False
) -> tuple[Outcome, ...]:
    """Asks each feed, a few at a time, and keeps what is new; what each came to, in their order.

    `anew`: as if nothing was known of them. A feed's failure is its outcome and nobody else's. Raises
    StoreError where it cannot be read what is known.
    """
    states = await asyncio.to_thread(database.read, load_feeds)
    turn = asyncio.Semaphore(AT_ONCE_MAX)

    async def one(feed: Feed) -> Outcome:
        before = states.get(feed.name) or FeedState(name=feed.name, asked_ms=now_ms)
        async with turn:
            return await _one(feed, database, dataclasses.replace(before, asked_ms=now_ms), anew)

    return tuple(await asyncio.gather(*map(one, feeds)))


async def _one(feed: Feed, database: Database, before: FeedState, anew: bool) -> Outcome:
    """One feed, asked and kept. `before` is its state, asked now. It raises nothing."""
    try:
        async with asyncio.timeout(FETCH_MAX_S):
            known = Known() if anew else _known(before)
            found = await feed.fetch(known)
        return await asyncio.to_thread(_keep, feed, database, before, found)
    except (FeedUnavailable, FeedMalformed) as error:
        fault, why = error.fault, str(error)
    except TimeoutError:
        fault, why = Fault.TIMEOUT, f"no answer in {FETCH_MAX_S:.0f} s"
    except ServiceError as error:
        fault, why = Fault.STORE, str(error)
    except Exception as error:  # noqa: BLE001 - a fault of ours in one feed is not the others'
        fault, why = Fault.INTERNAL, f"our fault, please report it: {type(error).__name__}"
    state = dataclasses.replace(before, error=f"{fault.value}: {why}")
    try:
        await asyncio.to_thread(database.write, lambda c: note_feed(c, state))
    except ServiceError:
        fault = Fault.STORE  # whoever looks at the outcome hears of it; it is asked again in time
    return Outcome(feed.name, fault.value, 0, state)


def _known(state: FeedState) -> Known:
    return Known(state.etag, state.last_modified, state.content_sha256)


def _keep(feed: Feed, database: Database, before: FeedState, found: Fetched | Unchanged) -> Outcome:
    """Keeps the rows, and then that they are kept: cut short, it is all asked for again.

    Raises StoreError, FeedFull.
    """
    now_ms = before.asked_ms
    state = dataclasses.replace(before, answered_ms=now_ms, error=None)
    rows = 0
    if isinstance(found, Fetched):
        for batch in _batches(found):
            rows += database.write(partial(_add, feed, batch, now_ms))
        state = dataclasses.replace(
            state,
            etag=found.etag,
            last_modified=found.last_modified,
            content_sha256=found.content_sha256,
            changed_ms=now_ms if rows else before.changed_ms,
        )
    else:
        state = dataclasses.replace(
            state,
            etag=found.etag or before.etag,
            last_modified=found.last_modified or before.last_modified,
        )
    database.write(lambda c: note_feed(c, state))
    return Outcome(feed.name, NEW if rows else UNCHANGED, rows, state)


def _add(feed: Feed, batch: Sequence[Cells], now_ms: int, connection: Connection) -> int:
    return add_rows(connection, feed.name, feed.market, batch, now_ms)


def _batches(found: Fetched) -> Iterator[list[Cells]]:
    rows = itertools.chain(found.rows, map(unread_cells, found.unread))
    while batch := list(itertools.islice(rows, _ROWS_AT_ONCE)):
        yield batch
