"""A made-up market of GPUs that the product table knows: sellers of rentals, and two shops and an
auction of hardware. No row of a real feed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date

from assay_valuer.market.observations import Market, Observations, Quote, read_observations
from assay_valuer.market.snapshot import MarketSnapshot, snapshot_of
from tests.fakes.price_files import rental_file, rental_row, resale_file, resale_row

DAY = date(2025, 6, 12).toordinal()
"""The last day that rows are of."""
SELLERS = ("acme", "brook", "cedar", "delta", "gcp")
MARKETS = ("shop", "bazaar")
_LEVELS = {
    "H100|SXM": (2.5, 26_000),
    "H100|PCIe": (2.1, 21_000),
    "A100|SXM 80GB": (1.6, 11_000),
    "A100|PCIe 80GB": (1.4, 10_000),
    "L40S|": (0.9, 7_500),
    "T4|": (0.3, 900),
    "RTX A6000|": (0.7, 3_500),
    "RTX 3090|": (0.4, 800),
    "RTX 4090|": (0.6, 1_700),
}
"""US dollars an hour, and for the card new."""


@dataclass(frozen=True)
class Rows:
    """CSV rows of both markets, with who wrote each."""

    rental: tuple[tuple[str, str], ...]
    resale: tuple[tuple[str, str], ...]

    def without(self, seller: str) -> Rows:
        """All but one seller's."""
        return Rows(
            tuple(row for row in self.rental if row[0] != seller),
            tuple(row for row in self.resale if row[0] != seller),
        )

    def plus(self, seller: str, rental: Iterable[str] = (), resale: Iterable[str] = ()) -> Rows:
        """And some of a seller's."""
        return Rows(
            (*self.rental, *((seller, row) for row in rental)),
            (*self.resale, *((seller, row) for row in resale)),
        )


def rows(days: int = 400, factor: float = 1.0, since: int = DAY + 1) -> Rows:
    """Rows of each seller every three to four weeks up to about `DAY`; all prices times `factor` from a day."""
    rental, resale = [], []
    for number, seller in enumerate(SELLERS):
        for series, (hourly, _) in _LEVELS.items():
            model, variant = series.split("|")
            luck = random.Random(f"{seller}{series}")
            if luck.random() < 0.25:
                continue
            price = hourly * (0.85 + 0.1 * number) * (2.5 if seller == "gcp" else 1)
            for day in range(DAY - days, DAY + 1, 21):
                price *= 2.718 ** luck.gauss(0, 0.02)
                usd = round(price * (factor if day >= since else 1), 4)
                for kind, share in (("on_demand", 1.0), ("reserved_1y", 0.65))[: 1 + (number == 4)]:
                    name = f"{seller}|{model}|{variant}|8|{kind}|eu"
                    rental.append((seller, rental_row(_iso(day), round(usd * share, 4), name)))
    for number, market in enumerate(MARKETS):
        for series, (_, new) in _LEVELS.items():
            model, variant = series.split("|")
            luck = random.Random(f"{market}{series}")
            for day in range(DAY - days, DAY + 1, 30):
                for kind, condition, share in (
                    ("asking_median", "new", 1.0),
                    ("asking_median", "used", 0.7),
                    ("sold_monthly_avg", "used", 0.55),
                ):
                    if kind.startswith("sold") and not model.startswith("RTX"):
                        continue
                    usd = new * share * (1 + 0.1 * number) * 2.718 ** luck.gauss(0, 0.03)
                    usd *= factor if day >= since else 1
                    name = f"{market}|{model} {variant}|{kind}|{condition}"
                    resale.append((market, resale_row(_iso(day), round(usd, 2), name)))
    return Rows(tuple(rental), tuple(resale))


def snapshot(found: Rows, day: int = DAY) -> MarketSnapshot:
    """As the files of it are read."""
    rental = rental_file(row for _, row in found.rental)
    resale = resale_file(row for _, row in found.resale)
    return snapshot_of(
        read_observations(rental, "rental.csv", Market.RENTAL, day),
        read_observations(resale, "resale.csv", Market.RESALE, day),
        day,
    )


def shuffled(found: MarketSnapshot, seed: int) -> MarketSnapshot:
    """The same rows in another order."""
    luck = random.Random(seed)

    def mixed(observations: Observations) -> Observations:
        quotes: list[Quote] = list(observations.quotes)
        luck.shuffle(quotes)
        return replace(observations, quotes=tuple(quotes))

    return snapshot_of(mixed(found.rental), mixed(found.resale), found.day)


def _iso(day: int) -> str:
    return date.fromordinal(day).isoformat()
