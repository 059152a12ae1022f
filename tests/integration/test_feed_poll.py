"""Feeds asked together over a real store: what each comes to, and what is left where one fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from assay_core.errors import AssayError
from assay_core.instants import DAY_MS
from assay_valuer.config import FeedConfig, MarketConfig, OcspConfig, ValuerConfig, paths
from assay_valuer.market.feeds.feed import (
    BYTES_MAX,
    Fault,
    FeedMalformed,
    FeedUnavailable,
    Fetched,
    Format,
    Known,
    Unchanged,
)
from assay_valuer.market.feeds.file import FileFeed, read_regular
from assay_valuer.market.feeds.open import open_feeds
from assay_valuer.market.feeds.poll import ANSWERS, AT_ONCE_MAX, poll
from assay_valuer.market.observations import Market
from assay_valuer.market_desk import MarketDesk
from assay_valuer.market_store import load_feeds, load_rows, newest_snapshot
from assay_valuer.market_task import RETRY_S, Polling, follow, follow_the_market
from assay_valuer.service import ServiceContext
from assay_valuer.state import State
from tests.fakes.door import new_authority
from tests.fakes.feed_server import FeedServer, identity, says, unless_known
from tests.fakes.ledger import FakeLedger
from tests.fakes.price_files import rental_file, rental_row, resale_file, resale_row

NOW = 1_795_200_000_000
RENTAL = rental_file([rental_row("2026-11-18", 2.5), rental_row("2026-11-19", 2.6)])
RESALE = resale_file([resale_row("2026-11-18", 900)])


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[FakeLedger]:
    one = FakeLedger(tmp_path)
    yield one
    one.database.close()


def file_feed(path: Path, text: str | None, name: str = "", market: Market = Market.RENTAL):
    if text is not None:
        path.write_text(text)
    return FileFeed(name or path.stem, market, path, Format.CSV)


@dataclass
class Scripted:
    """A feed that does as a test says, and notes how it was asked."""

    name: str
    answer: Callable[[Known], Fetched | Unchanged]
    market: Market = Market.RENTAL
    known: list[Known] = field(default_factory=list)

    async def fetch(self, known: Known) -> Fetched | Unchanged:
        self.known.append(known)
        return self.answer(known)


def fails(error: Exception) -> Callable[[Known], Fetched]:
    def answer(_: Known) -> Fetched:
        raise error

    return answer


def ask(feeds, ledger: FakeLedger, now_ms: int = NOW, *, anew: bool = False):
    outcomes = asyncio.run(poll(feeds, ledger.database, now_ms, anew=anew))
    assert {one.answer for one in outcomes} <= set(ANSWERS)
    return {one.feed: one for one in outcomes}


def stored(ledger: FakeLedger) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for row in ledger.database.read(load_rows):
        found.setdefault(row.feed, []).append(dict(row.cells))
    return found


def states(ledger: FakeLedger):
    return ledger.database.read(load_feeds)


def test_a_feed_that_fails_takes_no_other_with_it(ledger: FakeLedger, tmp_path: Path):
    feeds = [
        file_feed(tmp_path / "absent.csv", None),
        file_feed(tmp_path / "wrong.csv", "<html></html>"),
        Scripted("late", fails(TimeoutError())),
        Scripted("odd", fails(RuntimeError("a secret"))),
        file_feed(tmp_path / "rent.csv", RENTAL),
        file_feed(tmp_path / "sold.csv", RESALE, market=Market.RESALE),
    ]
    outcomes = ask(feeds, ledger)
    assert {name: one.answer for name, one in outcomes.items()} == {
        "absent": "file",
        "wrong": "columns",
        "late": "timeout",
        "odd": "internal",
        "rent": "new",
        "sold": "new",
    }
    assert {name: len(rows) for name, rows in stored(ledger).items()} == {"rent": 2, "sold": 1}
    found = states(ledger)
    assert {name: state.error is None for name, state in found.items()} == {
        name: not one.failed for name, one in outcomes.items()
    }
    assert found["absent"].error == f"file: {tmp_path}/absent.csv: cannot be read: No such file or directory"  # fmt: skip
    assert found["odd"].error == "internal: our fault, please report it: RuntimeError"
    assert (found["rent"].asked_ms, found["rent"].answered_ms, found["rent"].changed_ms) == (
        NOW,
    ) * 3


def test_rows_come_once_and_what_is_no_row_is_kept(ledger: FakeLedger, tmp_path: Path):
    text = RENTAL + "one field\n"
    one = file_feed(tmp_path / "rent.csv", text)
    assert ask([one], ledger)["rent"].rows == 3
    assert stored(ledger)["rent"][2]["detail"].startswith("1 fields where the first line has 11")
    again = ask([one], ledger, NOW + 1)["rent"]
    assert (again.answer, again.rows) == ("unchanged", 0)
    one.path.write_text(text + rental_row("2026-11-20", 2.7) + "\n")
    assert ask([one], ledger, NOW + 2)["rent"].rows == 1
    # Other bytes, and no row among them that is new.
    one.path.write_text(text + rental_row("2026-11-20", " 2.7 ") + "\n")
    ask([one], ledger, NOW + 3)
    state = states(ledger)["rent"]
    assert (state.answered_ms, state.changed_ms) == (NOW + 3, NOW + 2)
    assert len(stored(ledger)["rent"]) == 4


def test_a_failure_forgets_nothing(ledger: FakeLedger):
    row = dict.fromkeys(("date", "accelerator"), "x")
    one = Scripted("a", lambda _: Fetched((row,), (), "00", '"v1"', "then"))
    ask([one], ledger)
    one.answer = fails(FeedUnavailable(Fault.TLS, "not who it should be"))
    assert ask([one], ledger, NOW + 1)["a"].answer == "tls"
    state = states(ledger)["a"]
    assert (state.error, state.answered_ms) == ("tls: not who it should be", NOW)
    one.answer = lambda _: Unchanged('"v2"', None)
    ask([one], ledger, NOW + 2)
    ask([one], ledger, NOW + 3, anew=True)
    assert one.known == [
        Known(),
        Known('"v1"', "then", "00"),
        Known('"v1"', "then", "00"),
        Known(),
    ]
    state = states(ledger)["a"]
    assert (state.error, state.etag, state.last_modified, state.answered_ms) == (
        None,
        '"v2"',
        "then",
        NOW + 3,
    )


def test_a_store_that_is_full_is_the_feeds_outcome(ledger: FakeLedger, monkeypatch):
    monkeypatch.setattr("assay_valuer.market_store.FEED_ROWS_MAX", 1)
    rows = tuple({"date": str(n)} for n in range(2))
    found = ask([Scripted("a", lambda _: Fetched(rows, (), "00"))], ledger)["a"]
    assert found.answer == "store"
    assert states(ledger)["a"].content_sha256 is None  # it is asked for again


def test_several_are_asked_at_once_and_no_more_than_that(ledger: FakeLedger):
    running, most = 0, 0
    full = asyncio.Event()

    @dataclass
    class Slow:
        name: str
        market: Market = Market.RENTAL

        async def fetch(self, _: Known) -> Unchanged:
            nonlocal running, most
            running += 1
            most = max(most, running)
            if running == AT_ONCE_MAX:
                full.set()
            await full.wait()
            running -= 1
            return Unchanged()

    async def story():
        async with asyncio.timeout(60):
            feeds = [Slow(f"f{n}") for n in range(3 * AT_ONCE_MAX)]
            return await poll(feeds, ledger.database, NOW)

    assert [one.answer for one in asyncio.run(story())] == ["unchanged"] * 3 * AT_ONCE_MAX
    assert most == AT_ONCE_MAX


def test_files_and_servers_from_one_configuration(ledger: FakeLedger, tmp_path: Path):
    shown = identity(tmp_path)
    server = FeedServer(shown)
    try:
        server.answers(unless_known(RENTAL.encode(), '"v1"'))
        (tmp_path / "sold.csv").write_text(RESALE)
        config = MarketConfig(
            feeds=(
                FeedConfig(name="web", market="rental", url=server.url(), own_ca=str(shown.ca)),
                FeedConfig(name="file", market="resale", path=str(tmp_path / "sold.csv")),
            ),
            hosts=(server.place(),),
        )
        feeds = open_feeds(config)
        assert {n: one.answer for n, one in ask(feeds, ledger).items()} == dict.fromkeys(
            ("web", "file"), "new"
        )
        assert states(ledger)["web"].etag == '"v1"'
        again = ask(feeds, ledger, NOW + 1)
        assert {one.answer for one in again.values()} == {"unchanged"}
        assert [asked.headers.get("if-none-match") for asked in server.asked] == [None, '"v1"']
        server.answers(says(404))
        assert ask(feeds, ledger, NOW + 2)["web"].answer == "status"
        assert len(stored(ledger)["web"]) == 2
    finally:
        server.stop()


# ---------------------------------------------------------------------------- files


def refused(path: Path, fault: Fault, words: str) -> None:
    with pytest.raises((FeedUnavailable, FeedMalformed), match=words) as caught:
        read_regular(path)
    assert caught.value.fault is fault


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")  # which nobody will ever write to
    refused(tmp_path / "pipe", Fault.FILE, "is no regular file")
    refused(tmp_path, Fault.FILE, "cannot be read: Is a directory")
    refused(Path("/dev/zero"), Fault.FILE, "is no regular file")
    refused(tmp_path / "none", Fault.FILE, "No such file")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(BYTES_MAX + 1)
    refused(tmp_path / "large", Fault.TOO_LARGE, "more than 16777216 bytes")
    # Of no size, it says, and yet it has something to say.
    refused(Path("/proc/self/status"), Fault.FILE, "written to while it was read")
    (tmp_path / "good").write_bytes(b"x")
    (tmp_path / "link").symlink_to(tmp_path / "good")
    assert read_regular(tmp_path / "link") == b"x"


# ---------------------------------------------------------------------------- the task


def polling(ledger: FakeLedger, *feeds: FeedConfig, **more: object) -> Polling:
    config = MarketConfig(feeds=feeds, **more)
    return Polling(config, ledger.database, CollectorRegistry())


def count(one: Polling, name: str, feed: str, **labels: str) -> float | None:
    return one.registry.get_sample_value(name, {"feed": feed, **labels})


def test_each_is_asked_when_it_is_due_and_one_that_failed_sooner(
    ledger: FakeLedger, tmp_path: Path
):
    (tmp_path / "a.csv").write_text(RENTAL)
    one = polling(
        ledger,
        FeedConfig(name="a", market="rental", path=str(tmp_path / "a.csv"), every_s=3_600),
        FeedConfig(name="b", market="rental", path=str(tmp_path / "b.csv"), every_s=3_600),
        FeedConfig(name="c", market="rental", path=str(tmp_path / "c.csv"), every_s=60),
    )
    asked: dict[int, list[str]] = {}
    for after_s in (0, 30, 60, RETRY_S, 3_600):
        outcomes = asyncio.run(one.look(NOW + after_s * 1_000))
        asked[after_s] = [outcome.feed for outcome in outcomes]
    assert asked == {
        0: ["a", "b", "c"],
        30: [],
        60: ["c"],
        RETRY_S: ["b", "c"],
        3_600: ["a", "b", "c"],
    }
    assert count(one, "assay_market_feed_answers_total", "a", answer="new") == 1
    assert count(one, "assay_market_feed_answers_total", "a", answer="unchanged") == 1
    assert count(one, "assay_market_feed_answers_total", "b", answer="file") == 3
    assert count(one, "assay_market_feed_answers_total", "b", answer="new") == 0


def test_one_that_gives_nothing_new_for_long_is_stale(ledger: FakeLedger, tmp_path: Path):
    (tmp_path / "a.csv").write_text(RENTAL)
    feed = FeedConfig(name="a", market="rental", path=str(tmp_path / "a.csv"))
    one = polling(ledger, feed, stale_after_days=2)
    stale = {}
    for days in (0, 2, 3):
        asyncio.run(one.look(NOW + days * DAY_MS))
        stale[days] = count(one, "assay_market_feed_stale", "a")
    (tmp_path / "a.csv").write_text(RENTAL + rental_row("2026-11-20", 3) + "\n")
    asyncio.run(one.look(NOW + 4 * DAY_MS))
    assert (stale, count(one, "assay_market_feed_stale", "a")) == ({0: 0, 2: 0, 3: 1}, 0)


def test_whatever_fails_it_goes_on(ledger: FakeLedger, tmp_path: Path):
    (tmp_path / "a.csv").write_text(RENTAL)
    feed = FeedConfig(name="a", market="rental", path=str(tmp_path / "a.csv"))
    one = polling(ledger, feed)
    failures = [ValueError("ours"), AssayError("known"), MemoryError()]
    calls: list[int] = []
    done = asyncio.Event()

    async def story() -> None:
        loop = asyncio.get_running_loop()

        def refresh(now_ms: int) -> None:
            calls.append(now_ms)
            if len(calls) <= len(failures):
                raise failures[len(calls) - 1]
            loop.call_soon_threadsafe(done.set)

        task = asyncio.create_task(follow(one, refresh, lambda: NOW, look_s=0.01))
        async with asyncio.timeout(60):
            await done.wait()
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(story())
    assert len(calls) >= 4
    assert len(stored(ledger)["a"]) == 2


def test_the_task_goes_from_a_file_to_a_snapshot(tmp_path: Path):
    ledger = FakeLedger(tmp_path)
    (tmp_path / "a.csv").write_text(RENTAL)
    feed = FeedConfig(name="a", market="rental", path=str(tmp_path / "a.csv"))
    config = ValuerConfig(
        state_dir=str(tmp_path), ocsp=OcspConfig(), market=MarketConfig(feeds=(feed,))
    )
    state = State(config, paths(config), ledger.database, ledger.signer, new_authority(tmp_path))
    context = ServiceContext(state, CollectorRegistry(), lambda: NOW)

    async def story() -> None:
        task = asyncio.create_task(follow_the_market(context))
        while ledger.database.read(newest_snapshot) is None:  # noqa: ASYNC110 - a store has no event
            await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.wait({task})

    asyncio.run(asyncio.wait_for(story(), 120))
    snapshot = ledger.database.read(newest_snapshot)
    assert snapshot is not None
    assert snapshot.summary.counted == {"a": 2}
    assert MarketDesk(ledger.database, ledger.signer).refresh(NOW) is None
    ledger.database.close()
