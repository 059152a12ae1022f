"""From a sealed window to a fresh reading of the hub, on a real EVM; and back down when a GPU goes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from assay_core.errors import AssayError
from assay_core.header import Source
from assay_core.instants import format_instant
from assay_core.units import LTV_BPS_MAX
from assay_valuer.oracle.hub import Hub
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.publisher import Publisher
from assay_valuer.oracle.report import Flag
from assay_valuer.oracle.rpc import ChainUnreachable, JsonRpc
from assay_valuer.oracle.sender import Lane, LaneLimits
from assay_valuer.policy import Persistence, Publishing, Silence, ValuerPolicy
from assay_valuer.publish import Failover, Oracle
from tests.fakes import chain
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES
from tests.fakes.host import FakeHost
from tests.fakes.oracle import SENDER, HubUnderTest, deploy
from tests.integration.test_pipeline import edited, serials

WINDOW_MS = 1_000
POLICY = ValuerPolicy(
    name="demo",
    credit_simulated=True,
    silence=Silence(quiet_after_s=1, host_grace_s=5, gpu_grace_s=5),
    persistence=Persistence(enabled=False),
    publishing=Publishing(interval_min_s=0),
)


@dataclass
class World:
    """One hub, one valuer's books, one host, one loan for the hub's registered feed."""

    hub: HubUnderTest
    books: FakeBooks
    host: FakeHost
    oracle: Failover

    def step(self, **changes):
        """One window, one tick, one step; the reading of the hub afterwards."""
        self.host.now_ms += WINDOW_MS
        self.books.take(self.host, self.host.seal(contents=edited(self.host, **changes)))
        self.publish(self.host.now_ms)
        return self.hub.hub.latest(self.hub.feed_id)

    def publish(self, now_ms):
        book = self.books.tick(now_ms)
        for _ in range(3):
            self.oracle.step(book, now_ms)


@pytest.fixture(scope="module")
def evm(tmp_path_factory):
    with chain.devchain(tmp_path_factory.mktemp("publish-chain")) as running:
        yield running


@pytest.fixture
def world(evm, tmp_path):
    yield from make(evm, tmp_path, Source.SIMULATED)


def make(evm, folder, source):
    hub = deploy(evm.rpc())
    books = FakeBooks(folder, POLICY)
    # The chain's clock is real; windows end in its recent past.
    now_ms = int(time.time() * 1000) - 60_000
    host = FakeHost(gpu_count=4, now_ms=now_ms, window_ms=WINDOW_MS, source=source)
    books.enrol(host)
    books.serve(now_ms - DAY_MS, now_ms + DAY_MS)
    today = format_instant(now_ms - DAY_MS)[:10]
    books.prices(PRICES.replace("2026-11-01", today), now_ms)
    registered = books.loan(
        serials(host), now_ms, originated_at=format_instant(now_ms - 10 * DAY_MS)
    )
    assert registered.feed_id == hub.feed_id
    yield World(hub, books, host, Failover([oracle_of(hub.hub, hub, books)], books.database))
    books.close()


def oracle_of(hub, world, books, keys=None):
    outbox = SqlOutbox(books.database)
    lane = Lane(hub, SENDER, outbox, LaneLimits(confirm_depth=1))
    publisher = Publisher(hub, outbox, world.signers if keys is None else keys)
    return Oracle(hub, publisher, lane, outbox, POLICY)


def test_a_gpu_that_falls_off_the_bus_lowers_what_the_chain_says(world):
    first = world.step()
    assert (first.round, first.fresh, first.coverage_bps) == (1, True, 10_000)
    assert first.flags is Flag.SIMULATED
    book = world.books.pipeline.book
    (position,) = book.positions.values()
    assert first.olv_wad == position.values.olv.mid.to_wad()
    assert first.ltv_gross_bps == position.ltv_gross_bps
    unchanged = world.step()
    assert unchanged.round == 1  # nothing worth a round
    for _ in range(7):
        fallen = world.step(lost=[2])
    assert fallen.coverage_bps == 7_500
    assert fallen.round > first.round
    assert fallen.olv_wad * 4 == first.olv_wad * 3
    assert fallen.flags == Flag.SIMULATED | Flag.STALE
    assert fallen.ltv_gross_bps > first.ltv_gross_bps
    back = world.step()
    assert (back.coverage_bps, back.olv_wad) == (10_000, first.olv_wad)
    (feed,) = world.oracle.feeds.values()
    assert feed.round is not None
    assert feed.round.number == back.round
    assert world.oracle.counts()["final"] >= 1


def test_where_nothing_counts_the_reading_is_not_fresh_and_no_value_is_given(world):
    world.step()
    world.publish(world.host.now_ms + 10_000)
    reading = world.hub.hub.latest(world.hub.feed_id)
    assert (reading.round, reading.fresh, reading.olv_wad) == (2, False, 0)
    assert (reading.ltv_gross_bps, reading.coverage_bps) == (LTV_BPS_MAX, 0)
    assert Flag.STALE in reading.flags


def test_a_restarted_valuer_publishes_nothing_twice(world):
    first = world.step()
    world.books.restarted()
    world.oracle = Failover(
        [oracle_of(world.hub.hub, world.hub, world.books)], world.books.database
    )
    assert world.step().round == first.round


def test_an_outbox_that_was_lost_goes_on_from_the_chain(world, evm, tmp_path):
    first = world.step()
    (tmp_path / "restored").mkdir()
    again = next(make_on(world, tmp_path / "restored"))
    reading = again.step()
    assert reading.round == first.round  # same content: the chain already says so
    reading = again.step(health={0: {"remap_failed": 1}})
    assert reading.round == first.round + 1
    again.books.close()


def make_on(world, folder):
    """The same host, loan and hub with a store that remembers nothing of the chain."""
    books = FakeBooks(folder, POLICY)
    host = FakeHost(
        gpu_count=4, now_ms=world.host.now_ms, window_ms=WINDOW_MS, source=Source.SIMULATED
    )
    books.enrol(host)
    books.serve(host.now_ms - DAY_MS, host.now_ms + DAY_MS)
    today = format_instant(host.now_ms - DAY_MS)[:10]
    books.prices(PRICES.replace("2026-11-01", today), host.now_ms)
    books.loan(serials(host), host.now_ms, originated_at=format_instant(host.now_ms - 10 * DAY_MS))
    oracle = Failover([oracle_of(world.hub.hub, world.hub, books)], books.database)
    yield World(world.hub, books, host, oracle)


def test_the_next_endpoint_is_asked_where_one_is_down(world):
    down = Hub(JsonRpc("http://127.0.0.1:9", timeout_s=1.0), world.hub.hub.domain)
    world.oracle = Failover(
        [
            oracle_of(down, world.hub, world.books),
            oracle_of(world.hub.hub, world.hub, world.books),
        ],
        world.books.database,
    )
    assert world.step().round == 1
    world.oracle = Failover([oracle_of(down, world.hub, world.books)], world.books.database)
    with pytest.raises(ChainUnreachable):
        world.step()


def test_too_few_of_the_hubs_keys_say_so_and_publish_nothing(world):
    few = oracle_of(world.hub.hub, world.hub, world.books, world.hub.signers[:2])
    world.oracle = Failover([few], world.books.database)
    with pytest.raises(AssayError, match="wants 3"):
        world.step()
    assert world.hub.hub.round_of(world.hub.feed_id) == 0
