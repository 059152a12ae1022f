"""Files of prices as feeds write them, made up from a seed: no row of a real feed."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import date, timedelta

RENTAL_HEAD = (
    "date,provider,accelerator,variant,gpu_count,usd_per_gpu_hour,kind,region,n_obs,"
    "source_repo,source_commit_or_path"
)
RESALE_HEAD = (
    "date,accelerator,price_usd,price_type,condition,market,n_obs,source_repo,source_commit_or_path"
)
FIRST = date(2023, 1, 5)


def rental_row(day: str, usd: float | str, series: str = "acme|H100|SXM|8|on_demand|eu") -> str:
    """One rental row of a series, named as the backtest names it."""
    provider, accelerator, variant, count, kind, region = series.split("|")
    return f"{day},{provider},{accelerator},{variant},{count},{usd},{kind},{region},1,feed,rev"


def resale_row(
    day: str, usd: float | str, series: str = "shop|RTX 3090|sold_monthly_avg|used"
) -> str:
    """One resale row of a series."""
    market, accelerator, price_type, condition = series.split("|")
    return f"{day},{accelerator},{usd},{price_type},{condition},{market},1,feed,rev"


def walk(
    seed: int, days: int, *, every: int, start: float, drift: float, daily: float
) -> list[tuple[str, float]]:
    """(date, price) of a log-normal random walk, by day."""
    luck = random.Random(seed)
    found, price, day = [], start, FIRST
    while day < FIRST + timedelta(days=days):
        found.append((day.isoformat(), round(price, 6)))
        price *= 2.718281828459045 ** (luck.gauss(drift * every, daily * every**0.5))
        day += timedelta(days=every)
    return found


def rentals(days: int = 700, seed: int = 1) -> list[str]:
    """A market of list prices that move twice a year, and of spot prices that wander."""
    rows = []
    for number, provider in enumerate(("acme", "brook", "gcp", "vast", "delta labs")):
        for accelerator, level in (("H100", 3.0), ("L4", 0.6), ("XQ77", 1.2)):
            luck = random.Random(f"{seed}{provider}{accelerator}")
            spot = provider == "vast"
            kind = "spot" if spot else "on_demand"
            series = f"{provider}|{accelerator}|SXM|8|{kind}|eu"
            price = level * (1 + 0.2 * number) * (3 if provider == "gcp" else 1)
            for day in range(0, days, 7):
                if luck.random() < (0.5 if spot else 0.04):
                    price *= 2 ** luck.gauss(-0.02, 0.1)
                when = (FIRST + timedelta(days=day)).isoformat()
                rows.append(rental_row(when, round(price, 4), series))
    return rows


def resales(days: int = 700, seed: int = 1) -> list[str]:
    """Cards sold by auction, and servers' boards only asked for."""
    rows = []
    for number, name in enumerate(("RTX 3090", "RTX 4090", "RX 6800", "GTX 1660")):
        for day, usd in walk(
            seed + number, days, every=14, start=900 + 100 * number, drift=-0.0006, daily=0.012
        ):
            rows.append(resale_row(day, round(usd, 2), f"auction|{name}|sold_monthly_avg|used"))
    for day, usd in walk(seed + 99, days, every=14, start=24_000, drift=-0.0003, daily=0.01):
        rows.append(resale_row(day, round(usd, 2), "shop|H100 80GB PCIe|asking_median|new"))
    return rows


def rental_file(rows: Iterable[str]) -> str:
    """A rental CSV's text."""
    return "\n".join((RENTAL_HEAD, *rows)) + "\n"


def resale_file(rows: Iterable[str]) -> str:
    """A resale CSV's text."""
    return "\n".join((RESALE_HEAD, *rows)) + "\n"
