"""One seller of a made-up market who writes whatever it likes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from hypothesis import strategies as st

from tests.fakes.price_files import rental_row, resale_row
from tests.fakes.quoted_market import DAY, MARKETS, SELLERS, Rows

FACTORS = (0.001, 0.1, 0.125, 0.3, 0.9, 1.01, 1.3, 2.6, 8.0, 1_000.0)
MODELS = ("H100|SXM", "H200|", "B200|", "A100|SXM 80GB", "L40S|", "T4|", "RTX 3090|", "RTX A6000|")
TERMS = ("on_demand", "reserved_1y", "reserved_3y", "spot")
KINDS = ("asking|new", "asking|used", "sold_monthly_avg|used", "sold_monthly_avg|new")
STOOD_DAYS = 200


@dataclass(frozen=True)
class Lie:
    """What one seller's rows become. Nothing of it but the seller: they are gone."""

    seller: str
    factor: float | None = None
    """All of its prices times this; None: none of its own are left."""
    since: int = 0
    """From this day on; before it they stay as they were."""
    made_up: tuple[tuple[int, float, str, int], ...] = ()
    """Age, price, model, and which of `TERMS` or `KINDS`."""
    still: int = 0
    """So many models that never change, week by week: to make a feed look dead."""


prices = st.one_of(
    st.floats(0.001, 3_000_000), st.sampled_from([0.005, 0.3, 1, 8, 20, 1_000, 25_000, 2_000_000])
)
made_up = st.lists(
    st.tuples(st.integers(0, 500), prices, st.sampled_from(MODELS), st.integers(0, 3)), max_size=25
).map(tuple)


def lies() -> st.SearchStrategy[Lie]:
    """Any seller: silent, all of its models at once, from a day on, standing still, at random."""
    return st.builds(
        Lie,
        st.sampled_from([*SELLERS, *MARKETS, "newcomer", "new shop"]),
        factor=st.none() | st.sampled_from(FACTORS),
        since=st.sampled_from([0, DAY - 120, DAY - 30, DAY - 13, DAY]),
        made_up=made_up,
        still=st.sampled_from([0, 0, 0, 30, 600]),
    )


def told(market: Rows, lie: Lie) -> Rows:
    """The market with its seller's rows as the lie has them."""
    rental = [_times(row, 5, lie) for who, row in market.rental if who == lie.seller]
    resale = [_times(row, 2, lie) for who, row in market.resale if who == lie.seller]
    if lie.factor is None:
        rental, resale = [], []
    shop = lie.seller in MARKETS or lie.seller == "new shop"
    for age, usd, model, which in lie.made_up:
        day = date.fromordinal(DAY - age).isoformat()
        if shop:
            what = f"{lie.seller}|{model.replace('|', ' ')}|{KINDS[which]}"
            resale.append(resale_row(day, usd, what))
        else:
            rental.append(rental_row(day, usd, f"{lie.seller}|{model}|8|{TERMS[which]}|eu"))
    for number in range(lie.still):
        for at in range(DAY - STOOD_DAYS, DAY + 1, 25):
            name = f"{lie.seller}|X{number}||8|on_demand|eu"
            rental.append(rental_row(date.fromordinal(at).isoformat(), 1.0, name))
    return market.without(lie.seller).plus(lie.seller, rental, resale)


def _times(row: str, column: int, lie: Lie) -> str:
    cells = row.split(",")
    if date.fromisoformat(cells[0]).toordinal() >= lie.since:
        cells[column] = repr(float(cells[column]) * (lie.factor or 0.0))
    return ",".join(cells)
