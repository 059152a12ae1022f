"""What is to be posted, what was sent, and what became of it: durable before it is acted on."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final, Protocol

from assay_valuer.oracle.report import Domain, Report
from assay_valuer.oracle.signer import Signature


class PostState(enum.StrEnum):
    """Planned and signed; sent, perhaps; in a block; final. Or overtaken; or given up."""

    PLANNED = "planned"
    QUORUM_SIGNED = "quorum_signed"
    BROADCAST = "broadcast"
    INCLUDED = "included"
    FINAL = "final"
    SUPERSEDED = "superseded"
    FAILED = "failed"


OPEN_STATES: Final = (
    PostState.PLANNED,
    PostState.QUORUM_SIGNED,
    PostState.BROADCAST,
    PostState.INCLUDED,
)
"""States that something still has to be done about."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Post:
    """One round of one feed on its way to one hub.

    `raw_transactions` are the signed bytes handed to the network, newest last; `nonce` of `sender`
    is what the newest spends. However many there are, the hub takes a round once.
    """

    id: int
    domain: Domain
    report: Report
    state: PostState
    signatures: tuple[Signature, ...] = ()
    sender: str | None = None
    nonce: int | None = None
    raw_transactions: tuple[bytes, ...] = ()
    block_hash: bytes | None = None
    created_ms: int
    updated_ms: int
    detail: str = ""


class Outbox(Protocol):
    """The store of posts. Every method that writes is durable when it returns."""

    def add(self, domain: Domain, report: Report, now_ms: int) -> Post:
        """A new PLANNED post. Raises RoundTaken if the feed's round is in the outbox already."""
        ...

    def save(self, post: Post) -> None:
        """Replaces the post of that id."""
        ...

    def open_posts(self, domain: Domain) -> tuple[Post, ...]:
        """Posts in one of OPEN_STATES, oldest first."""
        ...

    def newest(self, domain: Domain, feed_id: bytes) -> Post | None:
        """The post with the feed's highest round, whatever its state."""
        ...

    def with_nonce(self, chain_id: int, sender: str, nonce: int) -> tuple[Post, ...]:
        """Posts that spent, or tried to spend, this nonce, whatever their state."""
        ...


class RoundTaken(Exception):
    """The round is in the outbox already: somebody else planned it, or the plan was not reread."""
