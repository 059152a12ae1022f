"""What a price row becomes: a quote that counts, or a row that does not, with the reason why."""

from __future__ import annotations

import enum
import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from assay_valuer.market.labels import rental_feed, seller


class Market(enum.StrEnum):
    """What a price is for: an hour's use, or the thing itself."""

    RENTAL = "rental"
    RESALE = "resale"


@dataclass(frozen=True, slots=True)
class Quote:
    """One accepted row: names in the order of its market's series name, the day as an ordinal."""

    names: tuple[str, ...]
    day: int
    usd: float
    line: int
    """Where it stands in its file, or its number in the store."""
    source: str = ""
    """Which feed gave it, and where that has it from, as far as they say."""

    @property
    def series(self) -> str:
        """provider|accelerator|variant|gpu_count|kind|region, or market|accelerator|type|condition."""
        return "|".join(self.names)

    @property
    def accelerator(self) -> str:
        """The model, as the feed writes it."""
        return self.names[1]

    @property
    def seller(self) -> str:
        """Who asks or was paid the price: one name for one seller, however a feed writes it."""
        return seller(self.names[0])


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that does not count: where it stands, why (a code), and in words."""

    line: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Observations:
    """What was said of a market: rows that count, in order of series and day, and rows that do not."""

    market: Market
    quotes: tuple[Quote, ...]
    rejected: tuple[Rejected, ...]

    def reasons(self) -> dict[str, int]:
        """How many rows were rejected for each reason, the most frequent first."""
        return dict(Counter(one.reason for one in self.rejected).most_common())


_PLAIN: Final = re.compile(
    r"(?<![a-z0-9])(nvidia|amd|intel|tesla|instinct|geforce|radeon|hgx|gpu|tensor core|hbm\d?e?"
    r"|sxm ?\d?|pcie|nvl|oam|superchip|\d{1,3} ?gb?|\d+/\d+ mixed)(?![a-z0-9])"
)
"""Words of a name that tell a maker, a form or an amount of memory, and no model."""


@lru_cache(maxsize=65_536)
def model_key(accelerator: str) -> str:
    """The bare model, such as h100 or rtx3080ti: what sellers' prices are compared by.

    All forms and memories of a model are one: they differ by less than what the gate looks for.
    """
    text = accelerator.lower().replace("_", " ").replace("-", " ")
    return re.sub(r"[^a-z0-9]", "", _PLAIN.sub(" ", text))


@lru_cache(maxsize=65_536)
def comparable(names: tuple[str, ...], market: Market) -> tuple[str, str]:
    """What a series' prices are compared by with other sellers' of the same: model, and kind."""
    kind = rental_feed(names[4]) if market is Market.RENTAL else ""
    return model_key(names[1]), kind
