"""Where prices come from, as Prometheus sees it: feeds, their ages, and the rows that do not count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric
from sqlalchemy import Connection

from assay_valuer.market_store import FeedState, StoredSnapshot, load_feeds, newest_snapshot
from assay_valuer.watch_labels import family


@dataclass(frozen=True, slots=True)
class MarketView:
    """What the store says of feeds and of the newest snapshot."""

    feeds: Mapping[str, FeedState]
    snapshot: StoredSnapshot | None


def load_view(connection: Connection) -> MarketView:
    """Two small reads."""
    return MarketView(load_feeds(connection), newest_snapshot(connection))


def market_metrics(view: MarketView) -> Iterator[Metric]:
    """The families."""
    asked = family("market_feed_asked_timestamp_seconds", "When a feed was last asked.", "feed")
    answered = family(
        "market_feed_answered_timestamp_seconds", "When it last gave what could be read.", "feed"
    )
    changed = family(
        "market_feed_changed_timestamp_seconds", "When what it gave was last new.", "feed"
    )
    failing = family("market_feed_failing", "Whether its newest answer was none.", "feed")
    for name, feed in view.feeds.items():
        asked.add_metric([name], feed.asked_ms / 1000)
        if feed.answered_ms is not None:
            answered.add_metric([name], feed.answered_ms / 1000)
        if feed.changed_ms is not None:
            changed.add_metric([name], feed.changed_ms / 1000)
        failing.add_metric([name], int(feed.error is not None))
    yield from (asked, answered, changed, failing)
    if view.snapshot is not None:
        yield from _snapshot(view.snapshot)


def _snapshot(snapshot: StoredSnapshot) -> Iterator[Metric]:
    summary = snapshot.summary
    made = family("market_snapshot_timestamp_seconds", "When the newest snapshot was made.")
    made.add_metric([], snapshot.made_ms / 1000)
    rows = family("market_rows", "Rows of the newest snapshot that count.", "feed")
    for name, count in summary.counted.items():
        rows.add_metric([name], count)
    rejected = family("market_rejected_rows", "Rows that it left out.", "feed", "reason")
    for name, reasons in summary.rejected.items():
        for reason, count in reasons.items():
            rejected.add_metric([name, reason], count)
    failing = family("market_fit_failing", "Whether nothing could be fitted to it.")
    failing.add_metric([], int(summary.fit_error is not None))
    yield from (made, rows, rejected, failing)
