"""The gate loses no row, depends on no order, and never looks ahead, whatever feeds write."""

from __future__ import annotations

import random
from datetime import date, timedelta

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from assay_valuer.market.gate import judge
from assay_valuer.market.gradual import Gradual
from assay_valuer.market.observations import Market, Quote, Rejected, read_row
from assay_valuer.market.snapshot import snapshot_of

START = date(2025, 1, 1)
LAST = date(2026, 5, 1).toordinal()
MODELS = {"H100": 2.5, "GH200": 3.0, "H200": 3.5, "L4": 0.6}


@st.composite
def markets(draw) -> list[dict[str, str]]:
    """Sellers of a few models over a year and a half; some lie, repeat themselves or stand still."""
    luck = random.Random(draw(st.integers(0, 2**32)))
    sellers = draw(st.integers(1, 9))
    liars = draw(st.sets(st.integers(0, sellers - 1), max_size=3))
    still = draw(st.booleans())
    rows = []
    for day in range(0, draw(st.integers(10, 500)), draw(st.sampled_from((5, 20, 45)))):
        for seller in range(sellers):
            for model, level in MODELS.items():
                if luck.random() < 0.3:
                    continue
                usd = level * (1 + seller / 10) * (1.0 if still else luck.uniform(0.8, 1.2))
                if seller in liars and luck.random() < 0.6:
                    usd *= luck.choice([8, 1000, 1 / 8, 1 / 1000, -1, 30])
                rows.append(_row(luck, day, f"seller{seller}", model, usd))
    return rows


def _row(luck: random.Random, day: int, seller: str, model: str, usd: float) -> dict[str, str]:
    return {
        "date": (START + timedelta(days=day)).isoformat(),
        "provider": seller,
        "accelerator": model,
        "variant": luck.choice(["", "SXM", "141GB"]),
        "gpu_count": luck.choice(["1", "8"]),
        "usd_per_gpu_hour": f"{usd:.3g}",
        "kind": luck.choice(["on_demand", "spot"]),
        "region": "eu",
        "source_repo": luck.choice(["a", "b"]),
    }


def judged(rows, interested=()):
    """What becomes of rows that are numbered."""
    read = [read_row(cells, at, Market.RENTAL, LAST) for at, cells in rows]
    return judge(
        Market.RENTAL,
        [one for one in read if isinstance(one, Quote)],
        [one for one in read if isinstance(one, Rejected)],
        frozenset(interested),
    )


def content(found):
    """What counts, without where it stood."""
    return [(quote.names, quote.day, quote.usd) for quote in found.quotes]


slow = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@slow
@given(rows=markets())
def test_every_row_counts_or_is_rejected_once(rows):
    found = judged(list(enumerate(rows)), ["seller1"])
    lines = [quote.line for quote in found.quotes] + [one.line for one in found.rejected]
    assert sorted(lines) == list(range(len(rows)))
    assert all(one.reason and one.detail for one in found.rejected)
    assert all(quote.seller != "seller1" for quote in found.quotes)


@slow
@given(rows=markets(), seed=st.integers(0, 1000))
def test_the_order_of_rows_changes_nothing(rows, seed):
    numbered = list(enumerate(rows))
    mixed = random.Random(seed).sample(numbered, len(numbered))
    # Numbered as they were: the same rows are rejected, for the same reasons.
    assert judged(mixed) == judged(numbered)
    # Numbered as they come: the same prices count, and the snapshot has the same name.
    anew = judged([(at, cells) for at, (_, cells) in enumerate(mixed)])
    assert content(anew) == content(judged(numbered))
    empty = judge(Market.RESALE, ())
    names = {snapshot_of(one, empty, LAST).sha256 for one in (anew, judged(numbered))}
    assert len(names) == 1


@slow
@given(rows=markets(), cut=st.integers(0, 500))
def test_rows_that_come_later_change_no_earlier_verdict(rows, cut):
    until = (START + timedelta(days=cut)).isoformat()
    numbered = list(enumerate(rows))
    early = [one for one in numbered if one[1]["date"] <= until]
    lines = {at for at, _ in early}
    then, now = judged(early), judged(numbered)
    assert [one for one in now.rejected if one.line in lines] == list(then.rejected)
    assert [one for one in now.quotes if one.line in lines] == list(then.quotes)


@slow
@given(rows=markets())
def test_an_interested_seller_is_as_if_it_said_nothing(rows):
    numbered = list(enumerate(rows))
    without = [one for one in numbered if one[1]["provider"] != "seller0"]
    assert judged(numbered, ["Seller0"]).quotes == judged(without).quotes


@slow
@given(rows=markets(), seed=st.integers(0, 1000), late=st.booleans())
def test_rows_that_come_little_by_little_are_judged_as_all_at_once(rows, seed, late):
    luck = random.Random(seed)
    ordered = sorted(enumerate(rows), key=lambda one: (one[1]["date"], one[0]))
    if late and ordered:
        ordered.append(ordered.pop(luck.randrange(len(ordered))))
    gradual, rejected, at = Gradual(Market.RENTAL, frozenset({"seller2"})), [], 0
    found = gradual.judged(rejected)
    while at < len(ordered):
        size = luck.choice([1, 3, 40])
        for number, cells in ordered[at : at + size]:
            read = read_row(cells, number, Market.RENTAL, LAST)
            if isinstance(read, Quote):
                gradual.add(read)
            else:
                rejected.append(read)
        found = gradual.judged(rejected)
        at += size
        assert found == judged(ordered[:at], ["seller2"])
