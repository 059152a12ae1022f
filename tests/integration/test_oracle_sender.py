"""The lane on real chains: each round lands once, whatever is lost, dropped, killed or reorganised."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from assay_core.money import Usd
from assay_valuer.oracle.deploy import register_feed, transact
from assay_valuer.oracle.hub import (
    Hub,
    HubError,
    pause_data,
    rotate_signers_data,
    submit_data,
    unpause_data,
)
from assay_valuer.oracle.outbox import Post, PostState, RoundTaken
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.publisher import Publisher, Terms
from assay_valuer.oracle.report import Domain, FeedKey, Flag, ReportError
from assay_valuer.oracle.rpc import ChainUnreachable, JsonRpc
from assay_valuer.oracle.sender import Lane, LaneLimits
from assay_valuer.oracle.signer import LocalSigner, SignerError
from assay_valuer.oracle.transaction import GWEI, fees_of, hash_of, nonce_of
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from tests.fakes import chain
from tests.fakes.oracle import (
    ADMIN,
    FEED,
    GUARDIAN,
    OUTSIDER,
    SENDER,
    SIGNERS,
    HubUnderTest,
    changed,
    deploy,
    pause,
    posted_rounds,
)

T0_MS = int(time.time()) * 1000
RESEND_MS, BUMP_MS = 15_000, 60_000
LIMITS = LaneLimits(resend_ms=RESEND_MS, bump_ms=BUMP_MS, attempts_max=4)
WAIT_MAX_S = 60


@dataclass(frozen=True, slots=True)
class Desk:
    """A valuer's side of one hub: its outbox, its quorum, its lane."""

    url: str
    world: HubUnderTest
    outbox: SqlOutbox
    publisher: Publisher
    lane: Lane

    def publish(self, round_: int | None = None) -> Post:
        terms = self.publisher.terms(self.world.feed_id)
        report = self.world.report(terms.round if round_ is None else round_)
        return self.publisher.publish(report, T0_MS)

    def post(self, post: Post) -> Post:
        """The post as the outbox now has it."""
        found = self.outbox.newest(post.domain, post.report.feed_id)
        if found is not None and found.id == post.id:
            return found
        (same,) = [
            one
            for one in self.outbox.with_nonce(
                post.domain.chain_id, SENDER.address, 0 if post.nonce is None else post.nonce
            )
            if one.id == post.id
        ]
        return same

    def until(self, post: Post, state: PostState, now_ms: int = T0_MS) -> Post:
        """Steps at one instant until the post is in the state; mining may take a moment."""
        deadline = time.monotonic() + WAIT_MAX_S
        while True:
            self.lane.step(now_ms)
            now = self.post(post)
            if now.state is state:
                return now
            assert time.monotonic() < deadline, now
            time.sleep(0.02)


def open_desk(
    world: HubUnderTest, database: Database, limits: LaneLimits = LIMITS, *, url: str = ""
) -> Desk:
    outbox = SqlOutbox(database)
    return Desk(
        url,
        world,
        outbox,
        Publisher(world.hub, outbox, world.signers),
        Lane(world.hub, SENDER, outbox, limits),
    )


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    store = Database(sqlite_url(str(tmp_path / "store.db")))
    migrate(store)
    yield store
    store.close()


@pytest.fixture(scope="module")
def chains(tmp_path_factory) -> Iterator[chain.Chains]:
    started = chain.Chains(tmp_path_factory.mktemp("chains"))
    yield started
    started.close()


@pytest.fixture(params=["devchain", "anvil"])
def desk(request, chains, requires_tool, database) -> Desk:
    if request.param == "devchain":
        running = chains.devchain()
    else:
        running = chains.anvil(requires_tool("anvil"))
    return open_desk(deploy(running.rpc()), database, url=running.url)


@pytest.fixture
def own_anvil(requires_tool, tmp_path) -> Iterator[HubUnderTest]:
    """A hub on an anvil of this test's own, for those that stop it from mining or rewind it."""
    with chain.anvil(requires_tool("anvil"), tmp_path) as running:
        yield deploy(running.rpc())


def mine(world: HubUnderTest, blocks: int = 1) -> None:
    for _ in range(blocks):
        world.rpc.request("evm_mine")


def stop_mining(world: HubUnderTest) -> None:
    world.rpc.request("evm_setAutomine", [False])


# -------------------------------------------------------------------- the ordinary way


def test_rounds_become_final_one_after_another(desk):
    for round_ in (1, 2, 3):
        post = desk.publish()
        assert post.report.round == round_
        assert post.state is PostState.QUORUM_SIGNED
        assert len(post.signatures) == 3
        if is_anvil(desk):
            # The hub may show a round a moment before its receipt can be had.
            while desk.until(post, PostState.INCLUDED).block_hash is None:
                time.sleep(0.02)
            mine(desk.world, 2)
        final = desk.until(post, PostState.FINAL)
        assert len(final.raw_transactions) == 1
        assert desk.world.hub.latest(desk.world.feed_id).shows(post.report)
    assert posted_rounds(desk.world) == [1, 2, 3]
    assert desk.lane.step(T0_MS) == ()


def is_anvil(desk: Desk) -> bool:
    return desk.world.hub.domain.chain_id == 31337


def test_depth_confirms_where_nobody_finalises(own_anvil, database):
    desk = open_desk(own_anvil, database, LaneLimits(confirm_depth=3))
    post = desk.until(desk.publish(), PostState.INCLUDED)
    mine(own_anvil)
    desk.lane.step(T0_MS)
    assert desk.post(post).state is PostState.INCLUDED
    mine(own_anvil)
    desk.until(post, PostState.FINAL)


def test_one_feed_does_not_wait_for_anothers_refusal(desk):
    other = FeedKey(42161, FEED.collateral_token, 8)
    register_feed(desk.world.hub, ADMIN, other, pause=pause)
    bad = desk.publisher.publish(changed(desk.world.report(1), config_version=9), T0_MS)
    good = desk.publisher.publish(changed(desk.world.report(1), feed_id=other.feed_id), T0_MS)
    states = {post.id: post.state for post in desk.lane.step(T0_MS)}
    assert states[bad.id] is PostState.FAILED
    desk.until(good, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)
    assert desk.world.hub.round_of(other.feed_id) == 1
    assert desk.world.hub.round_of(desk.world.feed_id) == 0


def test_an_older_round_makes_way_before_it_is_tried(desk):
    older, newer = desk.publish(), desk.publish()
    states = {post.id: post.state for post in desk.lane.step(T0_MS)}
    assert states[older.id] is PostState.SUPERSEDED
    desk.until(newer, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)
    assert posted_rounds(desk.world) == [2]


# -------------------------------------------------------------------- killed

_CHILD = """
import os, signal, sys
from assay_valuer.oracle.hub import Hub
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.publisher import Publisher
from assay_valuer.oracle.report import Domain
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.sender import Lane, LaneLimits
from assay_valuer.store.database import Database, sqlite_url
from tests.fakes.oracle import SENDER

url, store, chain_id, hub, moment, now_ms = sys.argv[1:]

class Killed(JsonRpc):
    def send_raw(self, raw):
        if moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        answer = super().send_raw(raw)
        os.kill(os.getpid(), signal.SIGKILL)
        return answer

hub = Hub(Killed(url), Domain(int(chain_id), hub))
Lane(hub, SENDER, SqlOutbox(Database(sqlite_url(store))), LaneLimits()).step(int(now_ms))
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_killed_around_the_sending_the_round_lands_once(moment, desk, tmp_path, database):
    world, domain = desk.world, desk.world.hub.domain
    post = desk.publish()
    child = subprocess.run(
        [
            sys.executable, "-c", _CHILD, desk.url, str(tmp_path / "store.db"),
            str(domain.chain_id), domain.hub, moment, str(T0_MS),
        ],
        cwd=chain.ROOT, env=os.environ | {"PYTHONPATH": str(chain.ROOT)},
        capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = desk.post(post)
    assert kept.state is PostState.BROADCAST
    (raw,) = kept.raw_transactions
    if moment == "before":
        assert not world.rpc.knows(hash_of(raw))

    after = open_desk(world, database)  # a new process: nothing is remembered but the outbox
    resumed = after.until(post, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)
    assert resumed.raw_transactions == (raw,)
    assert posted_rounds(world) == [1]
    assert world.rpc.nonce(SENDER.address) == nonce_of(raw) + 1


def test_killed_before_signing_the_plan_is_signed_at_the_next_start(desk):
    domain = desk.world.hub.domain
    post = desk.outbox.add(domain, desk.world.report(1), T0_MS)
    assert desk.lane.step(T0_MS) == ()
    (signed,) = desk.publisher.sign_planned(T0_MS)
    assert signed.state is PostState.QUORUM_SIGNED
    desk.until(post, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)


# -------------------------------------------------------------------- lost, dropped, stuck


class Deaf(JsonRpc):
    """An endpoint that takes no transactions: they go out and no answer comes."""

    def send_raw(self, raw: bytes) -> bytes:
        raise ChainUnreachable("the answer was lost")


def test_an_endpoint_that_answers_nothing_loses_nothing(desk):
    world = desk.world
    deaf = Lane(Hub(Deaf(desk.url), world.hub.domain), SENDER, desk.outbox, LIMITS)
    post = desk.publish()
    deaf.step(T0_MS)
    sent = desk.post(post)
    assert sent.state is PostState.BROADCAST
    assert "lost" in sent.detail
    gone = JsonRpc("http://127.0.0.1:9", timeout_s=5)
    with pytest.raises(ChainUnreachable):
        Lane(Hub(gone, world.hub.domain), SENDER, desk.outbox, LIMITS).step(T0_MS)
    final = desk.until(post, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)
    assert final.raw_transactions == sent.raw_transactions
    assert posted_rounds(world) == [1]


def test_a_dropped_transaction_is_sent_again_byte_for_byte(own_anvil, database):
    desk = open_desk(own_anvil, database)
    stop_mining(own_anvil)
    post = desk.publish()
    desk.lane.step(T0_MS)
    (raw,) = desk.post(post).raw_transactions
    transaction_hash = hash_of(raw)
    assert own_anvil.rpc.knows(transaction_hash)
    own_anvil.rpc.request("anvil_dropTransaction", ["0x" + transaction_hash.hex()])
    desk.lane.step(T0_MS + RESEND_MS - 1)
    assert not own_anvil.rpc.knows(transaction_hash)
    desk.lane.step(T0_MS + RESEND_MS)
    assert own_anvil.rpc.knows(transaction_hash)
    mine(own_anvil)
    assert desk.until(post, PostState.INCLUDED).raw_transactions == (raw,)
    assert posted_rounds(own_anvil) == [1]


def test_a_stuck_transaction_is_replaced_at_a_higher_fee_a_bounded_number_of_times(
    own_anvil, database
):
    desk = open_desk(own_anvil, database)
    stop_mining(own_anvil)
    post = desk.publish()
    for i in range(8):
        desk.lane.step(T0_MS + i * BUMP_MS)
    sent = desk.post(post)
    assert sent.state is PostState.BROADCAST
    assert len(sent.raw_transactions) == LIMITS.attempts_max
    assert "not mined after 4 transactions" in sent.detail
    assert len({nonce_of(raw) for raw in sent.raw_transactions}) == 1
    fees = [fees_of(raw) for raw in sent.raw_transactions]
    for lower, higher in itertools.pairwise(fees):
        assert higher.max_fee_wei * 8 >= lower.max_fee_wei * 9
        assert higher.priority_fee_wei * 8 >= lower.priority_fee_wei * 9
    mine(own_anvil)
    desk.until(post, PostState.INCLUDED)
    assert posted_rounds(own_anvil) == [1]


def test_a_newer_report_takes_the_place_of_a_stuck_one(own_anvil, database):
    desk = open_desk(own_anvil, database)
    stop_mining(own_anvil)
    stuck = desk.publish()
    desk.lane.step(T0_MS)
    newer = desk.publish()
    assert newer.report.round == 2
    desk.lane.step(T0_MS + 1)
    assert desk.post(newer).state is PostState.QUORUM_SIGNED
    changes = desk.lane.step(T0_MS + BUMP_MS)
    assert PostState.SUPERSEDED in {post.state for post in changes if post.id == stuck.id}
    sent = desk.post(newer)
    assert sent.state is PostState.BROADCAST
    mine(own_anvil)
    included = desk.until(newer, PostState.INCLUDED)
    assert nonce_of(included.raw_transactions[0]) == own_anvil.rpc.nonce(SENDER.address) - 1
    assert posted_rounds(own_anvil) == [2]


def test_a_nonce_spent_by_something_else_is_noticed(own_anvil, database):
    desk = open_desk(own_anvil, database)
    stop_mining(own_anvil)
    post = desk.publish()
    desk.lane.step(T0_MS)
    (first,) = desk.post(post).raw_transactions
    own_anvil.rpc.request("anvil_dropTransaction", ["0x" + hash_of(first).hex()])
    own_anvil.rpc.request("evm_setAutomine", [True])
    spend(own_anvil)
    included = desk.until(post, PostState.INCLUDED)
    assert [nonce_of(raw) for raw in included.raw_transactions] == [
        nonce_of(first),
        nonce_of(first) + 1,
    ]
    assert posted_rounds(own_anvil) == [1]


def spend(world: HubUnderTest) -> None:
    """The sender's key sends something of its own."""
    transact(world.rpc, SENDER, to=OUTSIDER.address, data=b"", pause=pause)


def test_fees_above_the_cap_wait_and_do_not_fail(own_anvil, database):
    desk = open_desk(own_anvil, database, LaneLimits(fee_cap_wei=50 * GWEI))
    own_anvil.rpc.request("anvil_setNextBlockBaseFeePerGas", [hex(300 * GWEI)])
    mine(own_anvil)
    post = desk.publish()
    desk.lane.step(T0_MS)
    waiting = desk.post(post)
    assert waiting.state is PostState.QUORUM_SIGNED
    assert "above the cap of 50.00" in waiting.detail
    own_anvil.rpc.request("anvil_setNextBlockBaseFeePerGas", [hex(GWEI)])
    mine(own_anvil)
    desk.until(post, PostState.INCLUDED)


def test_a_sender_without_gas_says_so(desk):
    poor = LocalSigner(b"\x09" * 32)
    lane = Lane(desk.world.hub, poor, desk.outbox, LIMITS)
    post = desk.publish()
    lane.step(T0_MS)
    kept = desk.outbox.newest(post.domain, post.report.feed_id)
    assert kept is not None
    assert kept.state is PostState.BROADCAST
    assert "insufficient funds" in kept.detail.lower()
    # A key with gas takes the post over.
    desk.until(post, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)


# -------------------------------------------------------------------- reorganised, overtaken, wrong


def test_a_reorganised_round_is_sent_again_and_lands_once(own_anvil, database):
    desk = open_desk(own_anvil, database)
    mine(own_anvil, 5)
    post = desk.until(desk.publish(), PostState.INCLUDED)
    own_anvil.rpc.request("anvil_reorg", [1, []])
    assert own_anvil.hub.round_of(own_anvil.feed_id) == 0
    assert own_anvil.rpc.receipt(hash_of(post.raw_transactions[0])) is None
    again = desk.until(post, PostState.BROADCAST)
    assert "reorganised" in again.detail
    included = desk.until(post, PostState.INCLUDED)
    assert included.raw_transactions == post.raw_transactions
    assert included.block_hash != post.block_hash
    mine(own_anvil, 2)
    desk.until(post, PostState.FINAL)
    assert posted_rounds(own_anvil) == [1]


def test_a_round_that_somebody_else_carried_is_a_success_without_a_transaction(desk):
    post = desk.publish()
    desk.world.send(submit_data(post.report, post.signatures), OUTSIDER)
    nonce = desk.world.rpc.nonce(SENDER.address)
    if is_anvil(desk):
        desk.until(post, PostState.INCLUDED)
        mine(desk.world, 2)
    final = desk.until(post, PostState.FINAL)
    assert final.raw_transactions == ()
    assert desk.world.rpc.nonce(SENDER.address) == nonce


def test_a_newer_round_on_the_chain_closes_ours(desk):
    post = desk.publish()
    desk.world.submit(desk.world.report(2))
    (closed,) = desk.lane.step(T0_MS)
    assert closed.id == post.id
    assert closed.state is PostState.SUPERSEDED


def test_another_value_under_our_round_is_for_a_person(desk):
    post = desk.publish()
    desk.world.submit(changed(desk.world.report(1), olv=Usd(200_000_000_000)))
    (failed,) = desk.lane.step(T0_MS)
    assert failed.id == post.id
    assert failed.state is PostState.FAILED
    assert "read back" in failed.detail


def test_a_rotated_signer_set_fails_the_post_with_the_hubs_reason(desk):
    post = desk.publish()
    newer = [key.address for key in (*SIGNERS[2:5], OUTSIDER, GUARDIAN)]
    desk.world.send(rotate_signers_data(newer, 3), ADMIN)
    (failed,) = desk.lane.step(T0_MS)
    assert failed.id == post.id
    assert failed.state is PostState.FAILED
    assert "WrongConfigVersion(1, 2)" in failed.detail
    assert desk.publisher.terms(desk.world.feed_id) == Terms(2, 2)


def test_a_paused_hub_is_waited_for(desk):
    post = desk.publish()
    desk.world.send(pause_data(), GUARDIAN)
    desk.lane.step(T0_MS)
    waiting = desk.post(post)
    assert waiting.state is PostState.QUORUM_SIGNED
    assert "HubPaused" in waiting.detail
    desk.world.send(unpause_data(), ADMIN)
    desk.until(post, PostState.INCLUDED if is_anvil(desk) else PostState.FINAL)


def test_a_report_that_expired_in_the_outbox_is_not_sent(desk):
    post = desk.publish()
    (failed,) = desk.lane.step(post.report.valid_until_s * 1000)
    assert failed.state is PostState.FAILED
    assert "expired" in failed.detail
    assert failed.raw_transactions == ()


# -------------------------------------------------------------------- the publisher


def test_a_start_without_a_quorum_is_refused(desk):
    desk.publisher.check()
    alone = Publisher(desk.world.hub, desk.outbox, [*desk.world.signers[:2], OUTSIDER])
    with pytest.raises(HubError, match="wants 3 of its 5 signers and 2 of our keys"):
        alone.check()


class Broken:
    """A signer whose key store does not answer."""

    address = SIGNERS[0].address

    def sign_digest(self, digest: bytes) -> bytes:
        raise SignerError("the key store does not answer")


def test_a_quorum_that_falls_short_stays_planned_and_says_why(desk):
    short = Publisher(desk.world.hub, desk.outbox, [Broken(), *desk.world.signers[1:3]])
    post = short.publish(desk.world.report(1), T0_MS)
    assert post.state is PostState.PLANNED
    assert "2 of 3 signatures: the key store does not answer" in post.detail
    assert desk.lane.step(T0_MS) == ()
    (signed,) = desk.publisher.sign_planned(T0_MS)
    assert signed.state is PostState.QUORUM_SIGNED


def test_a_round_is_planned_once(desk):
    desk.publish()
    with pytest.raises(RoundTaken, match="planned already"):
        desk.publish(round_=1)


def test_nothing_simulated_is_signed_for_a_chain_that_is_not_local(desk):
    abroad = Hub(desk.world.rpc, Domain(42161, desk.world.hub.domain.hub))
    publisher = Publisher(abroad, desk.outbox, desk.world.signers)
    with pytest.raises(ReportError, match="never signed for chain 42161"):
        publisher.publish(desk.world.report(1), T0_MS)
    assert desk.outbox.newest(abroad.domain, desk.world.feed_id) is None
    assert Flag.SIMULATED in desk.world.report(1).flags
