"""Loans' states read from a router on a real development chain, and what the book makes of them."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from assay_valuer.config import OracleConfig, ValuerConfig, paths
from assay_valuer.credit.chain_state import ChainState, ChainView, RouterStatus
from assay_valuer.credit.loan import Router
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.position import Position, State
from assay_valuer.ledger.read import entries_from
from assay_valuer.loan_states import (
    Reading,
    ReadsRouters,
    load_views,
    read_loan_states,
    reads_counter,
)
from assay_valuer.oracle.loan_router import RouterReader, RouterUnknown
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.registry import import_loan
from assay_valuer.service import ServiceContext
from assay_valuer.state import State as Opened
from tests.fakes import chain
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES, loan_text
from tests.fakes.door import FakeClock, new_authority
from tests.fakes.host import START_MS, FakeHost
from tests.fakes.router import LENT_WAD, TERMS, FakeRouter

CENT_WAD = 10**16


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[chain.RunningChain]:
    with chain.devchain(tmp_path_factory.mktemp("devchain")) as started:
        yield started


@pytest.fixture(scope="module")
def another(tmp_path_factory) -> Iterator[chain.RunningChain]:
    """A chain with the same id and another history."""
    with chain.devchain(tmp_path_factory.mktemp("another")) as started:
        yield started


@pytest.fixture
def router(running) -> Iterator[FakeRouter]:
    rpc = running.rpc()
    yield FakeRouter.deployed(rpc)
    rpc.close()


@pytest.fixture
def nobody() -> Iterator[JsonRpc]:
    """An endpoint that nobody answers at."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        client = JsonRpc(f"http://127.0.0.1:{held.getsockname()[1]}", timeout_s=2.0)
        yield client
        client.close()


# ---------------------------------------------------------------------------- reading


@pytest.mark.parametrize("status", list(RouterStatus))
def test_what_the_router_says_is_read_to_the_last_digit(router, status):
    router.says(status=status.value, count=7, originated_s=1_786_000_001, balance_wad=2**256 - 1)
    head = router.rpc.block("latest")
    state = router.reader().read(router.named)
    assert state == ChainState(
        router=router.address,
        loan_terms_hash=TERMS,
        chain_id=router.rpc.chain_id(),
        block_number=head.number,
        block_ms=head.timestamp_s * 1000,
        status=status,
        repayment_count=7,
        originated_ms=1_786_000_001_000,
        balance_wad=str(2**256 - 1),
        endpoints=1,
    )


def test_a_loan_that_the_router_does_not_know_is_uninitialized(router):
    other = Router(address=router.address, loan_terms_hash="0x" + "00" * 32)
    assert router.reader().read(other).status is RouterStatus.UNINITIALIZED


def test_two_endpoints_that_agree_are_believed_and_one_of_two_is_not(router, running, nobody):
    router.says()
    second = running.rpc()
    assert router.reader([second]).read(router.named).endpoints == 2
    with pytest.raises(RouterUnknown, match=r"1 of 2 endpoints answer"):
        router.reader([nobody]).read(router.named)
    assert router.reader([second, nobody]).read(router.named).endpoints == 2
    second.close()


def test_endpoints_of_different_histories_are_agreed_on_nothing(router, another):
    elsewhere = another.rpc()
    twin = FakeRouter.deployed(elsewhere)
    router.says()
    twin.says()
    while elsewhere.head_number() < router.rpc.head_number():
        elsewhere.request("evm_mine")
    with pytest.raises(RouterUnknown, match=r"nothing is agreed .*1 of 2 endpoints say the same"):
        router.reader([elsewhere]).read(router.named)
    elsewhere.close()


def test_an_endpoint_of_another_chain_counts_for_nothing(router):
    reader = RouterReader((router.rpc,), router.rpc.chain_id() + 1)
    with pytest.raises(RouterUnknown, match=r"0 of 1 endpoints answer; .* is of chain"):
        reader.read(router.named)


def test_an_address_with_no_router_at_it_is_unknown(router):
    nowhere = Router(address="0x" + "42" * 20, loan_terms_hash=TERMS)
    with pytest.raises(RouterUnknown, match="is no loan router V2"):
        router.reader().read(nowhere)


# ---------------------------------------------------------------------------- the book


class World:
    """A pledged host, a loan that names its router, and who reads that."""

    def __init__(self, folder, router: FakeRouter) -> None:
        self.router = router
        self.books = FakeBooks(folder)
        self.books.serve(START_MS - 90 * DAY_MS, START_MS + 90 * DAY_MS)
        self.books.prices(PRICES.replace("2026-11-01", "2026-09-01"))
        self.host = FakeHost(gpu_count=2)
        self.books.enrol(self.host)
        self.chain_id = router.rpc.chain_id()
        self.reads = reads_counter(CollectorRegistry())
        self.imports = 0
        self.loan()
        self.books.take(self.host, self.host.seal())

    def loan(self, payments: str = "[]") -> None:
        named = f'router: {{address: "{self.router.address}", loan_terms_hash: "{TERMS}"}}\n'
        text = loan_text(
            [gpu.serial for gpu in self.host.gpus],
            originated_at="2026-08-01T00:00:00Z",
            payments=payments,
            extra=named,
        ).replace("chain_id: 42161", f"chain_id: {self.chain_id}")
        loan = read_loan(text, "loan.yaml")
        self.imports += 1
        at_ms = self.host.now_ms + self.imports
        self.books.database.write(
            lambda c: import_loan(c, loan, "loan.yaml", self.books.key, at_ms)
        )

    def look(self, reader: ReadsRouters | None = None, *, chain_id: int | None = None) -> ChainView:
        asked = reader or self.router.reader()
        reading = Reading(
            self.books.database, asked, chain_id or self.chain_id, self.books.key, self.reads
        )
        return reading.look(self.host.now_ms)["loan-1"]

    def position(self) -> Position:
        return self.books.tick(self.host.now_ms).positions["loan-1"]

    def told(self) -> dict[str, str]:
        return {one.code: one.detail for one in self.position().findings}

    def records(self) -> list[dict[str, object]]:
        entries = self.books.database.read(lambda c: list(entries_from(c, 0)))
        return [
            json.loads(one.body.envelope.payload) for one in entries if one.kind == "loan_state"
        ]


@pytest.fixture
def world(tmp_path, router) -> Iterator[World]:
    made = World(tmp_path, router)
    yield made
    made.books.check()
    made.books.close()


def test_before_anybody_asked_the_state_is_unknown_and_says_so(world):
    assert "has not been read" in world.told()["chain.unknown"]
    assert world.position().state is not State.DISPUTED


def test_file_and_router_agree(world):
    world.router.says()
    world.look()
    assert "$100,000.00" in world.told()["chain.agrees"]
    assert world.position().state is not State.DISPUTED


@pytest.mark.parametrize("more_wad", [CENT_WAD, -CENT_WAD])
def test_a_balance_beyond_rounding_makes_the_loan_disputed_and_names_both(world, more_wad):
    world.router.says(balance_wad=LENT_WAD + more_wad)
    world.look()
    position = world.position()
    assert position.state is State.DISPUTED
    (detail,) = (one.detail for one in position.findings if one.code == "chain.differs")
    assert "$100,000.00" in detail
    assert ("$100,000.01" if more_wad > 0 else "$99,999.99") in detail


def test_a_unit_of_rounding_disputes_nothing(world):
    world.router.says(balance_wad=LENT_WAD - 10**12)
    world.look()
    assert world.position().state is not State.DISPUTED


def test_another_status_makes_the_loan_disputed_and_names_both(world):
    world.router.says(status="breached")
    world.look()
    assert world.position().state is State.DISPUTED
    assert "active" in world.told()["chain.differs"]
    assert "breached" in world.told()["chain.differs"]


def test_a_newer_file_or_a_newer_reading_settles_it(world):
    world.router.says(balance_wad=LENT_WAD - 5_000 * 10**18, count=1)
    world.look()
    assert world.position().state is State.DISPUTED
    # The stub of 14 days and 5 hours bears interest of $467.12; the rest pays principal.
    world.loan('[{at: "2026-08-15T04:00:00Z", amount: 5467123288}]')
    assert world.position().state is not State.DISPUTED
    world.router.says(balance_wad=LENT_WAD)
    world.look()
    assert world.position().state is State.DISPUTED
    world.loan()
    assert world.position().state is not State.DISPUTED


def test_endpoints_that_fail_are_unknown_and_never_a_dispute(world, nobody):
    view = world.look(RouterReader((nobody,), world.chain_id))
    assert (view.state, world.position().state is State.DISPUTED) == (None, False)
    assert "no answer" in world.told()["chain.unknown"]
    world.router.says()
    world.look()
    world.look(RouterReader((nobody,), world.chain_id))
    assert {"chain.unknown", "chain.agrees"} <= set(world.told())
    assert world.position().state is not State.DISPUTED


def test_a_dispute_is_not_settled_by_an_endpoint_that_fails(world, nobody):
    world.router.says(status="liquidated")
    world.look()
    world.look(RouterReader((nobody,), world.chain_id))
    assert world.position().state is State.DISPUTED
    assert {"chain.unknown", "chain.differs"} <= set(world.told())


def test_a_loan_of_another_chain_is_not_asked_about(world):
    view = world.look(chain_id=42_161)
    assert view.error is not None
    assert "42161" in view.error
    assert world.position().state is not State.DISPUTED


def test_only_what_the_router_says_anew_is_recorded(world, nobody):
    world.router.says()
    for _ in range(3):
        world.look()
    world.look(RouterReader((nobody,), world.chain_id))
    world.look()
    world.router.says(count=1, balance_wad=LENT_WAD - 10**18)
    world.look()
    states = [msgspec.convert(one["state"], ChainState) for one in world.records()]
    assert [int(one.balance_wad) for one in states] == [LENT_WAD, LENT_WAD - 10**18]
    results = {
        sample.labels["result"]: sample.value
        for metric in world.reads.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert results == {"read": 5, "unknown": 1}


@pytest.mark.parametrize("every_s", [1, 0])
def test_the_service_reads_where_it_is_told_to(world, running, every_s):
    """The task of the service, by the real clock, until it is stopped."""
    world.router.says()
    oracle = OracleConfig(rpc_urls=(running.url,), chain_id=world.chain_id, loan_state_s=every_s)
    config = ValuerConfig(oracle=oracle)
    books = world.books
    authority = new_authority(books.folder)
    state = Opened(config, paths(config), books.database, books.key, authority)
    context = ServiceContext(state, CollectorRegistry(), FakeClock())

    async def story() -> None:
        task = asyncio.create_task(read_loan_states(context))
        if every_s:
            while not books.database.read(load_views):  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(0.05)
            task.cancel()
        await asyncio.wait({task})

    asyncio.run(asyncio.wait_for(story(), 60))
    views = books.database.read(load_views)
    assert bool(views) is bool(every_s)
    if every_s:
        assert views["loan-1"].state.balance_wad == str(LENT_WAD)
