"""A snapshot of the market: what counted on a day, named by a hash that any one price leads back to.

Its name is the root of an RFC 6962 Merkle tree over the canonical lines of the rows that count, in
ascending order of their bytes. The order in which rows came changes nothing, and whoever has a line
and its proof can check that the price in it stood in the snapshot, with SHA-256 alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Final

import msgspec

from assay_core import merkle
from assay_core.price_proof import Proof
from assay_valuer.market.observations import Market, Observations, Quote

_ENCODER: Final = msgspec.json.Encoder()


@dataclass(frozen=True)
class MarketSnapshot:
    """What counts, as of a day (an ordinal). Made by `snapshot_of`; not to be written."""

    rental: Observations
    resale: Observations
    day: int

    @cached_property
    def lines(self) -> tuple[bytes, ...]:
        """The canonical line of each row that counts, ascending: the leaves of the tree."""
        return tuple(
            sorted(
                canonical(found.market, quote)
                for found in (self.rental, self.resale)
                for quote in found.quotes
            )
        )

    @cached_property
    def sha256(self) -> str:
        """Its name, hex: the root of the tree over `lines`."""
        return merkle.root([merkle.leaf_hash(line) for line in self.lines]).hex()


def snapshot_of(rental: Observations, resale: Observations, day: int) -> MarketSnapshot:
    """The snapshot of what counts. Raises ValueError where the two are not of their markets."""
    if (rental.market, resale.market) != (Market.RENTAL, Market.RESALE):
        raise ValueError("a snapshot has the rental market first, then the resale market")
    return MarketSnapshot(rental, resale, day)


def canonical(market: Market, quote: Quote) -> bytes:
    """One row as JSON without spaces: market, day, US dollars, and the names in series order.

    Where the row stood in its file is no part of it: the same price in another place is the same.
    """
    day = date.fromordinal(quote.day).isoformat()
    return _ENCODER.encode([market.value, day, quote.usd, *quote.names])


def prove(snapshot: MarketSnapshot, line: bytes) -> Proof | None:
    """The proof of a canonical line; None where the snapshot does not have it."""
    lines = snapshot.lines
    try:
        index = lines.index(line)
    except ValueError:
        return None
    path = merkle.audit_path([merkle.leaf_hash(one) for one in lines], index)
    return Proof(
        snapshot_sha256=snapshot.sha256,
        line=line.decode(),
        index=index,
        size=len(lines),
        path=tuple(one.hex() for one in path),
    )
