"""One feed's round that cannot be made, or must wait, holds up that feed alone."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from assay_core.header import Source
from assay_core.instants import format_instant
from assay_core.money import ZERO
from assay_valuer.book import Book
from assay_valuer.oracle.deploy import register_feed
from assay_valuer.oracle.outbox import PostState
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.report import FeedKey
from assay_valuer.publish import Oracle
from assay_valuer.valuation.value import Range
from tests.fakes import chain
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES
from tests.fakes.host import FakeHost
from tests.fakes.oracle import ADMIN, FEED, HubUnderTest, deploy, pause
from tests.integration.test_pipeline import serials
from tests.integration.test_publish import POLICY, WINDOW_MS, oracle_of

ONE, TWO = "loan-1", "loan-2"
FEEDS = {ONE: FEED, TWO: FeedKey(FEED.chain_id, FEED.collateral_token, 8)}


class World:
    """A hub with two feeds, a host whose four GPUs secure two loans, and an oracle."""

    def __init__(self, evm, folder) -> None:
        self.hub: HubUnderTest = deploy(evm.rpc())
        register_feed(self.hub.hub, ADMIN, FEEDS[TWO], pause=pause)
        self.books = FakeBooks(folder, POLICY)
        now_ms = int(time.time() * 1000) - 60_000
        self.host = FakeHost(
            gpu_count=4, now_ms=now_ms, window_ms=WINDOW_MS, source=Source.SIMULATED
        )
        self.books.enrol(self.host)
        self.books.serve(now_ms - DAY_MS, now_ms + DAY_MS)
        today = format_instant(now_ms - DAY_MS)[:10]
        self.books.prices(PRICES.replace("2026-11-01", today), now_ms)
        gpus = serials(self.host)
        began = format_instant(now_ms - 10 * DAY_MS)
        self.books.loan(gpus[:2], now_ms, loan_id=ONE, token_id=7, originated_at=began)
        self.books.loan(gpus[2:], now_ms, loan_id=TWO, token_id=8, originated_at=began)
        self.oracle: Oracle = oracle_of(self.hub.hub, self.hub, self.books)

    def book(self) -> Book:
        """The book after one more window."""
        self.host.now_ms += WINDOW_MS
        self.books.take(self.host, self.host.seal())
        return self.books.tick(self.host.now_ms)

    def step(self, book: Book) -> None:
        for _ in range(3):
            self.oracle.step(book, book.at_ms)

    def round_of(self, loan_id: str) -> int:
        return self.hub.hub.round_of(FEEDS[loan_id].feed_id)

    def newest(self, loan_id: str):
        outbox = SqlOutbox(self.books.database)
        return outbox.newest(self.hub.hub.domain, FEEDS[loan_id].feed_id)


@pytest.fixture(scope="module")
def evm(tmp_path_factory):
    with chain.devchain(tmp_path_factory.mktemp("held-chain")) as running:
        yield running


@pytest.fixture
def world(evm, tmp_path):
    made = World(evm, tmp_path)
    yield made
    made.books.close()


def changed(book: Book, loan_id: str, **members) -> Book:
    """The book with another position of one loan."""
    position = replace(book.positions[loan_id], **members)
    return replace(book, positions={**book.positions, loan_id: position})


def worthless(book: Book, loan_id: str) -> Book:
    """Something counts and is worth nothing: the hub refuses it, and so do we before signing."""
    nothing = Range(ZERO, ZERO, ZERO)
    values = book.positions[loan_id].values
    assert values is not None
    return changed(book, loan_id, values=replace(values, olv=nothing, nolv=nothing))


def test_a_round_that_cannot_be_made_is_said_and_stops_no_other_feed(world):
    book = world.book()
    with capture_logs() as logs:
        world.step(worthless(book, ONE))
    assert world.round_of(TWO) == 1  # planned, signed and carried
    assert world.newest(ONE) is None
    feed = world.oracle.feeds[ONE]
    assert (feed.published, feed.fault) == (False, True)
    assert "a value of zero although something is counted" in feed.why
    said = [line for line in logs if line["log_level"] == "error"]
    assert [line["loan"] for line in said] == [ONE]  # once, not at every step
    world.step(book)
    assert world.round_of(ONE) == 1
    assert not world.oracle.feeds[ONE].fault


def test_rounds_under_way_move_on_while_another_feed_cannot_be_made(world):
    book = world.book()
    world.step(book)
    book = changed(world.book(), TWO, assurance=1)
    world.oracle.step(worthless(book, ONE), book.at_ms)
    assert world.newest(TWO).state in (PostState.INCLUDED, PostState.FINAL)
    assert world.round_of(TWO) == 2


def test_older_evidence_than_the_published_rounds_waits_and_nothing_fails(world):
    """A GPU that comes back by an old window: what counts rests on older evidence than before."""
    book = world.book()
    world.step(book)
    published = world.newest(ONE)
    older_ms = book.positions[ONE].observed_ms - 5_000
    late = changed(world.book(), ONE, observed_ms=older_ms, assurance=1)
    world.step(late)
    assert world.newest(ONE).report == published.report
    assert world.newest(ONE).state is PostState.FINAL
    assert "waits for evidence" in world.oracle.feeds[ONE].why
    world.step(changed(world.book(), ONE, assurance=1))
    assert world.round_of(ONE) == 2
