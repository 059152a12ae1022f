"""One key's lane of transactions to one hub: from a signed report to a final block.

How it stays right whatever fails:

1. The signed bytes are in the outbox before they are sent, so a crash never sends what is not
   known. The same bytes may be sent again: their hash is the same, the hub takes a round once.
2. An unknown outcome is resolved by reading the chain, never by the answer to a sending. A round
   on the chain as high as ours is success, whoever carried it there.
3. One transaction is in flight per key. A stuck one is replaced at a higher fee, within a cap and a
   number of attempts, by the newest report of its feed.
4. What was included is read back and compared; a difference is for a person (FAILED). It is
   watched until its block is final; if that block goes away, the same bytes are sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from assay_valuer.oracle.hub import Hub, HubError, HubRefused, explain, submit_data
from assay_valuer.oracle.outbox import Outbox, Post, PostState
from assay_valuer.oracle.rpc import CallReverted, ChainRejected, ChainUnreachable, Receipt
from assay_valuer.oracle.signer import DigestSigner
from assay_valuer.oracle.transaction import (
    GWEI,
    FeeAboveCap,
    Fees,
    Unsigned,
    fees_of,
    gas_of,
    hash_of,
    market_fees,
    nonce_of,
    sign,
    with_margin,
)

_PASSING: Final = frozenset({"HubPaused", "ObservedInFuture"})
"""Reasons of the hub that go away by themselves or by a person's hand: wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneLimits:
    """What the operator allows a lane."""

    fee_cap_wei: int = 200 * GWEI
    """Most per gas. Above it reports wait, and expire in time."""
    attempts_max: int = 8
    """Transactions signed for one post, replacements included."""
    resend_ms: int = 15_000
    """The same bytes again, in case a node dropped them."""
    bump_ms: int = 60_000
    """A replacement at a higher fee."""
    confirm_depth: int | None = None
    """None: final when the chain's `finalized` block says so. Else this many blocks, the including
    one counted: for development chains, where nobody finalises."""


class Lane:
    """Carries one hub's posts with one key. Not thread-safe: one thread steps it."""

    def __init__(self, hub: Hub, key: DigestSigner, outbox: Outbox, limits: LaneLimits) -> None:
        self._hub: Final = hub
        self._rpc: Final = hub.rpc
        self._key: Final = key
        self._outbox: Final = outbox
        self._limits: Final = limits
        # When each open post's bytes were last sent by this process. Lost with it, on purpose:
        # after a start everything in flight is sent again at once.
        self._sent_ms: dict[int, int] = {}

    def step(self, now_ms: int) -> tuple[Post, ...]:
        """Moves every open post as far as the chain allows now; returns those that changed.

        A FAILED one among them needs a person: its detail says why. Raises ChainError where the
        endpoint is of no use: nothing is lost, step again later.
        """
        changed: list[Post] = []
        for post in self._in_state(PostState.INCLUDED):
            self._note(post, self._confirm(post), now_ms, changed)
        in_flight = 0
        for post in self._in_state(PostState.BROADCAST):
            after = self._note(post, self._watch(post, now_ms), now_ms, changed)
            in_flight += after.state is PostState.BROADCAST
        if in_flight:
            return tuple(changed)
        for post in self._in_state(PostState.QUORUM_SIGNED):
            sent = self._note(post, self._send(post, now_ms), now_ms, changed)
            if sent.state is not PostState.BROADCAST:
                continue
            after = self._note(sent, self._watch(sent, now_ms), now_ms, changed)
            if after.state is PostState.BROADCAST:
                break
        return tuple(changed)

    def _in_state(self, state: PostState) -> tuple[Post, ...]:
        posts = self._outbox.open_posts(self._hub.domain)
        return tuple(post for post in posts if post.state is state)

    def _note(self, before: Post, after: Post, now_ms: int, changed: list[Post]) -> Post:
        """Keeps what became of a post; whatever sends has kept it already."""
        if after != before:
            if after.updated_ms == before.updated_ms and after.state is not before.state:
                after = replace(after, updated_ms=now_ms)
            self._outbox.save(after)
            changed.append(after)
        return after

    # ------------------------------------------------------------ signed: send

    def _send(self, post: Post, now_ms: int) -> Post:
        landed = self._landed(post)
        if landed is not None:
            return landed
        overtaken = self._overtaken(post, now_ms)
        if overtaken is not None:
            return overtaken
        if len(post.raw_transactions) >= self._limits.attempts_max:
            return _failed(post, f"not taken after {len(post.raw_transactions)} transactions")
        data = submit_data(post.report, post.signatures)
        try:
            gas = self._rpc.estimate_gas(self._hub.domain.hub, data, sender=self._key.address)
        except CallReverted as error:
            return self._refused(post, explain(error.data))
        nonce = self._rpc.nonce(self._key.address)
        try:
            fees = self._fees(nonce)
        except FeeAboveCap as error:
            return replace(post, detail=str(error))
        return self._sign_and_send(
            post, nonce=nonce, data=data, gas=with_margin(gas), fees=fees, now_ms=now_ms
        )

    def _refused(self, post: Post, reason: HubRefused) -> Post:
        if reason.name == "RoundNotNewer":
            # Carried between our look and the node's run; or by a transaction still waiting, which
            # a node that runs on its pending block sees already.
            landed = self._landed(post)
            return landed or replace(post, detail="waiting: the round is on its way already")
        if reason.name in _PASSING:
            return replace(post, detail=f"waiting: {reason}")
        return _failed(post, str(reason))

    def _fees(self, nonce: int) -> Fees:
        """Market fees, and enough to replace whatever was sent with this nonce before.

        Never above the cap: a node that still holds the earlier one may then refuse ours, and one
        that has dropped it takes ours.
        """
        cap_wei = self._limits.fee_cap_wei
        fees = market_fees(self._rpc, cap_wei)
        chain_id, sender = self._hub.domain.chain_id, self._key.address
        for post in self._outbox.with_nonce(chain_id, sender, nonce):
            for raw in post.raw_transactions:
                if nonce_of(raw) == nonce:
                    fees = fees.at_least(fees_of(raw).bumped())
        return Fees(min(fees.max_fee_wei, cap_wei), min(fees.priority_fee_wei, cap_wei))

    def _sign_and_send(
        self, post: Post, *, nonce: int, data: bytes, gas: int, fees: Fees, now_ms: int
    ) -> Post:
        raw = sign(
            Unsigned(
                chain_id=self._hub.domain.chain_id,
                nonce=nonce,
                to=self._hub.domain.hub,
                data=data,
                gas=gas,
                fees=fees,
            ),
            self._key,
        )
        kept = replace(
            post,
            state=PostState.BROADCAST,
            sender=self._key.address,
            nonce=nonce,
            raw_transactions=(*post.raw_transactions, raw),
            updated_ms=now_ms,
            detail="",
        )
        self._outbox.save(kept)  # before the first byte leaves
        return self._broadcast(kept, now_ms)

    def _broadcast(self, post: Post, now_ms: int) -> Post:
        """Sends the newest bytes. The answer is advice: what counts is what the chain shows."""
        self._sent_ms[post.id] = now_ms
        try:
            self._rpc.send_raw(post.raw_transactions[-1])
        except ChainRejected as error:
            return replace(post, detail=f"the node: {error.message}")
        except (CallReverted, ChainUnreachable) as error:
            return replace(post, detail=str(error))
        return post

    # ------------------------------------------------------------ sent: watch

    def _watch(self, post: Post, now_ms: int) -> Post:
        if post.sender is None or post.nonce is None:
            return replace(post, state=PostState.QUORUM_SIGNED)
        # Asked first: a nonce spent before we look for receipts cannot have been spent since.
        spent = self._rpc.nonce(post.sender) > post.nonce
        receipt = self._receipt(post)
        if receipt is not None and receipt.succeeded:
            return self._included(post, receipt)
        landed = self._landed(post)
        if landed is not None:
            return landed
        if spent or receipt is not None:
            return replace(
                post, state=PostState.QUORUM_SIGNED, detail="its nonce was spent without it"
            )
        if post.sender != self._key.address:
            return replace(post, state=PostState.QUORUM_SIGNED, detail="taken over by another key")
        waited_ms = now_ms - post.updated_ms
        if waited_ms >= self._limits.bump_ms:
            return self._bump(post, now_ms)
        sent_ms = self._sent_ms.get(post.id)
        if sent_ms is None or now_ms - sent_ms >= self._limits.resend_ms:
            return self._broadcast(post, now_ms)
        return post

    def _bump(self, post: Post, now_ms: int) -> Post:
        """Makes way for a newer report; else replaces the waiting transaction at a higher fee."""
        overtaken = self._overtaken(post, now_ms)
        if overtaken is not None:
            return overtaken
        attempts = len(post.raw_transactions)
        if post.nonce is None or attempts >= self._limits.attempts_max:
            self._broadcast(post, now_ms)
            return replace(post, detail=f"not mined after {attempts} transactions")
        try:
            fees = self._fees(post.nonce)
        except FeeAboveCap as error:
            self._broadcast(post, now_ms)
            return replace(post, detail=str(error))
        # Not estimated again: on its pending block the node has run the one that waits.
        return self._sign_and_send(
            post,
            nonce=post.nonce,
            data=submit_data(post.report, post.signatures),
            gas=gas_of(post.raw_transactions[-1]),
            fees=fees,
            now_ms=now_ms,
        )

    # ------------------------------------------------------------ included: read back, confirm

    def _included(self, post: Post, receipt: Receipt) -> Post:
        try:
            reading = self._hub.latest(post.report.feed_id, at=receipt.block_number)
        except ChainRejected:  # the node no longer keeps that block's state
            reading = self._hub.latest(post.report.feed_id)
        if reading.round == post.report.round and not reading.shows(post.report):
            return _failed(post, "read back: the hub shows another value for this round")
        return replace(post, state=PostState.INCLUDED, block_hash=receipt.block_hash, detail="")

    def _confirm(self, post: Post) -> Post:
        receipt = self._receipt(post)
        if receipt is None or not receipt.succeeded:
            return self._confirm_foreign(post)
        if receipt.block_hash != post.block_hash:
            return self._included(post, receipt)
        if receipt.block_number <= self._final_number():
            return replace(post, state=PostState.FINAL)
        return post

    def _confirm_foreign(self, post: Post) -> Post:
        """No transaction of ours holds the round: another's does, or a block went away."""
        if self._landed(post) is None:
            self._sent_ms.pop(post.id, None)
            waiting = PostState.BROADCAST if post.raw_transactions else PostState.QUORUM_SIGNED
            return replace(
                post, state=waiting, block_hash=None, detail="its block was reorganised away"
            )
        final_number = self._final_number()
        try:
            reading = self._hub.latest(post.report.feed_id, at=max(final_number, 0))
        except (HubError, HubRefused, ChainRejected):
            return post  # no report, or no hub, in the newest final block yet
        if reading.round < post.report.round:
            return post
        return self._settled(post, reading.shows(post.report), reading.round, PostState.FINAL)

    def _landed(self, post: Post) -> Post | None:
        """The post as the chain settles it, if the chain's round is as high as ours."""
        if self._hub.round_of(post.report.feed_id) < post.report.round:
            return None
        reading = self._hub.latest(post.report.feed_id)
        return self._settled(post, reading.shows(post.report), reading.round, PostState.INCLUDED)

    def _settled(self, post: Post, same: bool, round_: int, state: PostState) -> Post:
        if round_ > post.report.round:
            detail = f"the hub is at round {round_}"
            return replace(post, state=PostState.SUPERSEDED, detail=detail)
        if not same:
            return _failed(post, "read back: the hub shows another value for this round")
        return replace(post, state=state, detail="")

    def _receipt(self, post: Post) -> Receipt | None:
        """A receipt that succeeded, of any attempt; else one of the newest nonce that reverted."""
        reverted: Receipt | None = None
        for raw in reversed(post.raw_transactions):
            receipt = self._rpc.receipt(hash_of(raw))
            if receipt is None:
                continue
            if receipt.succeeded:
                return receipt
            if nonce_of(raw) == post.nonce:
                reverted = receipt
        return reverted

    def _final_number(self) -> int:
        """Number of the newest block that will not go away."""
        depth = self._limits.confirm_depth
        if depth is not None:
            return self._rpc.head_number() - depth + 1
        block = self._rpc.block("finalized")
        return -1 if block is None else block.number

    # ------------------------------------------------------------ giving up

    def _overtaken(self, post: Post, now_ms: int) -> Post | None:
        """The post closed, if a newer report of its feed waits or its own time is over."""
        newer = [
            other.report.round
            for other in self._in_state(PostState.QUORUM_SIGNED)
            if other.report.feed_id == post.report.feed_id
            and other.report.round > post.report.round
        ]
        if newer:
            detail = f"round {max(newer)} is newer"
            return replace(post, state=PostState.SUPERSEDED, detail=detail)
        if post.report.valid_until_s * 1000 <= now_ms:
            return _failed(post, "expired before it was mined")
        return None


def _failed(post: Post, detail: str) -> Post:
    return replace(post, state=PostState.FAILED, detail=detail)
