"""What the rest of the valuer knows of publishing; it needs nothing that chains need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from assay_core.money import Usd
from assay_valuer.book import Book


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """The newest round of a feed in the outbox. Times in UTC ms."""

    number: int
    state: str
    olv: Usd
    nolv: Usd
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    planned_ms: int
    observed_ms: int
    valid_until_ms: int


@dataclass(frozen=True, slots=True)
class Feed:
    """A loan's feed as of the newest step: its newest round, and why there is or is no other.

    `fault`: a round was due and could not be made; a person must look at `why`.
    """

    loan_id: str
    feed_id: bytes
    simulated: bool
    round: Round | None
    published: bool
    why: str
    fault: bool = False


@dataclass(frozen=True, slots=True)
class PostNews:
    """A post that changed; one that failed needs a person."""

    feed_id: bytes
    round: int
    state: str
    failed: bool
    detail: str


class Publishes(Protocol):
    """Whoever offers a book to the chain. It may block on the network; one thread steps it."""

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """Each loan's feed as of the newest step."""
        ...

    def step(self, book: Book, now_ms: int) -> tuple[PostNews, ...]:
        """Publishes what is due and moves what is under way; returns what changed.

        Raises AssayError where it did not go through: nothing is lost, step again.
        """
        ...

    def counts(self) -> Mapping[str, int]:
        """Posts in the outbox by state; every state is there."""
        ...
