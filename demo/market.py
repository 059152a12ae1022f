"""A made-up market for the demo: price rows that feeds might write, up to today, from one seed.

Nothing here is a price of anything. Sellers, prices and their moves are invented, so that the three
approaches have something to say about each product of the demo.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

RENTAL_COLUMNS: Final = (
    "date,provider,accelerator,variant,gpu_count,usd_per_gpu_hour,kind,region,n_obs,"
    "source_repo,source_commit_or_path"
)
RESALE_COLUMNS: Final = (
    "date,accelerator,price_usd,price_type,condition,market,n_obs,source_repo,source_commit_or_path"
)
DAYS: Final = 420
EVERY_DAYS: Final = 14
_SOURCE: Final = "made up for the demo,demo/market.py"


@dataclass(frozen=True, slots=True)
class Model:
    """A product of the demo: names that feeds give it, and where its prices stand today."""

    accelerator: str
    variant: str
    count: int
    resale_name: str
    rental_usd: float
    new_usd: float
    used_usd: float
    yearly: float
    """Log change of its prices a year."""


MODELS: Final = (
    Model("H100", "SXM", 8, "H100 80GB SXM5", 2.4, 27_500, 21_500, -0.18),
    Model("B200", "SXM", 8, "B200 SXM6", 4.4, 46_000, 41_000, -0.12),
    Model(
        "RTX PRO 6000", "SE", 1, "RTX PRO 6000 Blackwell Server Edition", 1.2, 9_300, 7_900, -0.10
    ),
    Model("A100", "SXM 80GB", 8, "A100 80GB SXM4", 1.35, 11_500, 8_000, -0.25),
)
SELLERS: Final = ("acorn cloud", "basalt", "cobalt", "dune", "ember", "fjord")
MARKETS: Final = ("harbour auctions", "ridge brokers", "stone resellers")


def rental_csv(today: date) -> str:
    """A rental feed: six sellers, each with list prices that move twice a year, and one spot market."""
    return "\n".join((RENTAL_COLUMNS, *_rentals(today))) + "\n"


def resale_csv(today: date) -> str:
    """A resale feed: asking prices, new and used, and what was sold."""
    return "\n".join((RESALE_COLUMNS, *_resales(today))) + "\n"


def _rentals(today: date) -> Iterator[str]:
    for model in MODELS:
        for seller in SELLERS:
            luck = random.Random(f"{model.accelerator}{seller}")  # noqa: S311 - made up, on purpose
            own = math.exp(luck.gauss(0, 0.12))
            spot = seller == SELLERS[-1]
            step = 1.0
            for day, ago_years in _days(today, luck.randrange(7)):
                if spot or luck.random() < 0.08:
                    step = math.exp(-model.yearly * ago_years + luck.gauss(0, 0.03))
                usd = model.rental_usd * own * step * (0.6 if spot else 1.0)
                kind = "spot" if spot else "on_demand"
                where = f"{seller},{model.accelerator},{model.variant},{model.count}"
                yield f"{day},{where},{usd:.3f},{kind},eu,1,{_SOURCE}"
    # A row as broken feeds write them: a node's total in the place of one GPU's price.
    yield f"{today},basalt,H100,SXM,8,{8 * MODELS[0].rental_usd:.3f},on_demand,us,1,{_SOURCE}"


def _resales(today: date) -> Iterator[str]:
    for model in MODELS:
        for market in MARKETS:
            luck = random.Random(f"{model.resale_name}{market}")  # noqa: S311 - made up, on purpose
            own = math.exp(luck.gauss(0, 0.05))
            for day, ago_years in _days(today, luck.randrange(7)):
                move = math.exp(-model.yearly * ago_years + luck.gauss(0, 0.02)) * own
                for price, kind, condition in (
                    (model.new_usd, "asking_median", "new"),
                    (model.used_usd * 1.15, "asking_median", "used"),
                    (model.used_usd, "sold_median", "used"),
                ):
                    usd = price * move
                    yield f"{day},{model.resale_name},{usd:.2f},{kind},{condition},{market},3,{_SOURCE}"


def _days(today: date, offset: int) -> Iterator[tuple[date, float]]:
    """Every fourteen days up to today or the days before it, and how many years ago each is."""
    for ago in range(DAYS - offset, -1, -EVERY_DAYS):
        day = today - timedelta(days=ago)
        yield day, ago / 365
