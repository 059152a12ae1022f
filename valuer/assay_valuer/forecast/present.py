"""What is asked for each product on a day: seller by seller, and in the cross-section.

A seller's own price of a product is the mean of its present series' logs, as it writes them: nothing of
it hangs on what others write, and whatever sets its terms apart from others' stays as it is and moves
no level. The cross-section is where all of them are compared: the hedonic model for rentals, the
specification model for hardware.

Rentals: list prices of the last 45 days. Hardware is quoted seldom: a market's last rows count for
three years, brought to the day by the ageing that the forecasts take, and ever less sure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from assay_valuer.forecast import hedonic, rents
from assay_valuer.forecast.centres import DECAY_YEARLY, YEAR_DAYS
from assay_valuer.forecast.rounding import E6, e6
from assay_valuer.forecast.specs import Guess, Kind, Point, regress
from assay_valuer.forecast.steps import Offer, Seen
from assay_valuer.market import labels
from assay_valuer.market.models import SPECS, Product
from assay_valuer.market.names import candidates
from assay_valuer.market.series import Series

RENTAL_AGE_MAX: Final = 45
"""Days, as in the backtest of left-out sellers."""
RENTAL_HALF_LIFE: Final = hedonic.HALF_LIFE_DAYS
HARDWARE_AGE_MAX: Final = 1_096
HARDWARE_HALF_LIFE: Final = 180.0
TOGETHER_DAYS: Final = 90
"""Of one market's series of a product those count that are not older than its newest by more."""
SMOOTH_DAYS: Final = 60
"""A market's present price is the median of so many days up to its last row."""
AGEING: Final = MappingProxyType(
    {kind: math.log(1 - DECAY_YEARLY["sold" if kind == "sold" else "asking"]) / YEAR_DAYS
     for kind in ("new_ask", "used_ask", "sold")} | {"rental": 0.0}
)  # fmt: skip
"""Log per day, by kind of level: the forecasts' own constants, so that nothing here hangs on rows."""
UNKNOWN_YEARLY: Final = 0.25
"""Deviation of what a year without rows may have done to hardware's price, beyond ageing. Judgement."""
RENTAL_UNKNOWN_DAILY: Final = 0.006
RENTAL, NEW, USED, SOLD = "rental", "new_ask", "used_ask", "sold"
KINDS: Final = {NEW: Kind(0.0, 0.3), USED: Kind(-0.35, 0.2), SOLD: Kind(-0.45, 0.2)}
"""Judgement: used is asked at 70% of new, and sold at 64%; the data say how far that is off."""
ONLY: Final = {RENTAL: Kind(0.0, 0.0)}
MARKET_ERROR: Final = {NEW: 0.20, USED: 0.20, SOLD: 0.15}
"""How far one market's price lies off the others', as a deviation. Judgement."""
_NOWHERE: Final = "nowhere in particular"


@dataclass(frozen=True, slots=True)
class Quoted:
    """A series as it stands on a day: of which products it may be, what kind, at which price."""

    products: tuple[Product, ...]
    """One where its words say which; several where they leave it open."""
    kind: str
    seller: str
    names: tuple[str, ...]
    log: float
    """Aged to the day."""
    newest: int
    rows: int


def rental_quotes(series: Iterable[Series], day: int) -> tuple[Quoted, ...]:
    """Every rental series that is present on a day, of whatever kind, by name."""
    found = []
    for one in series:
        at = int(np.searchsorted(one.days, day, side="right")) - 1
        if at < 0 or day - int(one.days[at]) > RENTAL_AGE_MAX:
            continue
        names = tuple(one.name.split("|"))
        products = candidates(names[1], names[2])
        kind = RENTAL if one.feed == "list" else one.feed
        log = float(one.logs[at])
        found.append(Quoted(products, kind, one.seller, names, log, int(one.days[at]), 1))
    return tuple(found)


def hardware_quotes(series: Iterable[Series], day: int) -> tuple[Quoted, ...]:
    """Every hardware series of a known product whose last row is not too old, by name."""
    found = []
    for one in series:
        end = int(np.searchsorted(one.days, day, side="right"))
        names = tuple(one.name.split("|"))
        kind = hardware_kind(one.feed, names[3])
        products = candidates(names[1])
        if end == 0 or kind is None or len(products) != 1:
            continue
        newest = int(one.days[end - 1])
        if day - newest > HARDWARE_AGE_MAX:
            continue
        start = int(np.searchsorted(one.days, newest - SMOOTH_DAYS))
        log = float(np.median(one.logs[start:end])) + AGEING[kind] * (day - newest)
        found.append(Quoted(products, kind, one.seller, names, log, newest, end - start))
    return tuple(found)


def hardware_kind(feed: str, condition: str) -> str | None:
    """new_ask, used_ask or sold; None of what is broken."""
    words = condition.strip().lower()
    if "part" in words.replace("3p", "") or "broken" in words or "defect" in words:
        return None
    if feed == "sold":
        return SOLD
    return NEW if words.startswith("new") else USED


def _by_product(quotes: Iterable[Quoted]) -> dict[Product, list[Quoted]]:
    """The present quotes that are of one product for certain, by product."""
    found: dict[Product, list[Quoted]] = {}
    for quote in quotes:
        if len(quote.products) == 1:
            found.setdefault(quote.products[0], []).append(quote)
    return found


def sellers(quotes: Sequence[Quoted], half_life: float, day: int) -> tuple[Offer, ...]:
    """What each seller of one product asks, by name: the mean over its series."""
    by_seller: dict[str, list[Quoted]] = {}
    for quote in quotes:
        by_seller.setdefault(quote.seller, []).append(quote)
    found = []
    for seller, mine in sorted(by_seller.items()):
        newest = max(one.newest for one in mine)
        together = [one.log for one in mine if one.newest >= newest - TOGETHER_DAYS]
        weight = 2.0 ** (-(day - newest) / half_life)
        # fsum: the order of rows is no fact about prices.
        found.append(Offer(seller, e6(math.fsum(together) / len(together)), round(weight * E6)))
    return tuple(found)


def apart(found: Sequence[Offer]) -> float:
    """Leaving one seller out: how far each lies off the others' median, ÷ √n_eff; 0 of one."""
    if len(found) < 2:
        return 0.0
    logs = np.array([one.log_e6 for one in found]) / E6
    weight = np.array([max(one.weight_e6, 1) for one in found], dtype=np.float64)
    misses = [abs(logs[at] - np.median(np.delete(logs, at))) for at in range(len(logs))]
    effective = weight.sum() ** 2 / (weight**2).sum()
    return float(1.4826 * np.median(misses) / math.sqrt(effective))


def rentals(
    quotes: Sequence[Quoted], asset_class: str, products: Sequence[Product], day: int
) -> dict[Product, Seen]:
    """Each product's rental level as one class's quotes show it; empty where it has none.

    Hyperscalers' prices tell the models apart, and are no seller's that a level counts.
    """
    mine = [quote for quote in quotes if labels.asset_class(quote.names[1]) == asset_class]
    fitted = hedonic.fit([hedonic.Priced(_canonical(q), q.newest, q.log) for q in mine], day)
    if fitted is None:
        return {}
    named = {_canonical(quote)[1] for quote in mine}
    known = [product for product in products if family(product) in named]
    exact = _by_product(
        quote
        for quote in mine
        if quote.kind == RENTAL and labels.tier(quote.names[0]) != "hyperscaler"
    )
    votes = {product: _votes(own, product, fitted, day) for product, own in exact.items()}
    points = [
        Point(product, RENTAL, one.log, max(one.error, 0.05))
        for product, one in _centres(fitted, known, votes).items()
    ]
    others = [(product, RENTAL) for product in products if product not in known]
    guesses = dict(zip(others, regress(points, others, ONLY), strict=True)) if points else {}
    guesses |= {(one.product, RENTAL): Guess(one.log, one.error) for one in points}
    newest = max(quote.newest for quote in mine)
    found = {}
    for (product, _), guess in guesses.items():
        own = exact.get(product, [])
        last = max((one.newest for one in own), default=newest)
        asked = sellers(own, RENTAL_HALF_LIFE, day)
        stale = RENTAL_UNKNOWN_DAILY * math.sqrt(day - last)
        error = math.hypot(max(guess.error, apart(asked)), stale)
        found[product] = Seen(asked, len(own), last, e6(guess.log), e6(error))
    return found


def _votes(
    quotes: Sequence[Quoted], product: Product, fitted: hedonic.Fit, day: int
) -> list[rents.Vote]:
    """What each seller asks for one product, were it for the neutral number of GPUs and place.

    A row that leaves the number open stays as it is: it is no row for one GPU.
    """
    written = [_canonical(quote) for quote in quotes]
    neutral = [(*names[:3], names[3] and _count(product), names[4], _NOWHERE) for names in written]
    logs = fitted.predict([*written, *neutral])
    by_seller: dict[str, list[tuple[float, int, str]]] = {}
    for at, quote in enumerate(quotes):
        log = quote.log - float(logs[at] - logs[at + len(quotes)])
        tier = labels.tier(quote.names[0])
        by_seller.setdefault(quote.seller, []).append((log, quote.newest, tier))
    return [
        rents.Vote(
            seller,
            own[0][2],
            math.fsum(log for log, _, _ in own) / len(own),
            2.0 ** ((max(newest for _, newest, _ in own) - day) / RENTAL_HALF_LIFE),
        )
        for seller, own in sorted(by_seller.items())
    ]


def _centres(
    fitted: hedonic.Fit, known: Sequence[Product], votes: Mapping[Product, Sequence[rents.Vote]]
) -> dict[Product, rents.Centre]:
    """Each known product's level: of its sellers, drawn to the class's; of the class's alone."""
    logs, errors = _neutral(fitted, known)
    apart: dict[str, list[float]] = {}
    for product, log in zip(known, logs, strict=True):
        for vote in votes.get(product, ()):
            apart.setdefault(vote.seller, []).append(vote.log - log)
    off, unsure = rents.distance(apart)
    found = {}
    for product, log, error in zip(known, logs, errors, strict=True):
        guess = rents.Centre(log + off, math.hypot(error, unsure), 0.0)
        own = votes.get(product)
        found[product] = rents.drawn(rents.centre(own), guess.log, guess.error) if own else guess
    return found


def hardware(
    quotes: Sequence[Quoted], products: Sequence[Product], day: int
) -> dict[tuple[Product, str], Seen]:
    """Each product's levels as its own class's markets show them; no kind that none of them shows."""
    grouped: dict[tuple[Product, str], list[Quoted]] = {}
    for quote in quotes:
        if quote.products[0] in products:
            grouped.setdefault((quote.products[0], quote.kind), []).append(quote)
    asked = {key: sellers(own, HARDWARE_HALF_LIFE, day) for key, own in grouped.items()}
    points = []
    for (product, kind), found in asked.items():
        last = max(one.newest for one in grouped[product, kind])
        log = float(np.median([one.log_e6 for one in found])) / E6
        stale = UNKNOWN_YEARLY * math.sqrt((day - last) / 365)
        own = max(MARKET_ERROR[kind] / math.sqrt(len(found)), apart(found))
        points.append(Point(product, kind, log, math.hypot(own, stale)))
    shown = sorted({kind for _, kind in grouped})
    wanted = [(product, kind) for product in products for kind in shown]
    newest = max((quote.newest for own in grouped.values() for quote in own), default=0)
    seen = {}
    for key, guess in zip(wanted, regress(points, wanted, KINDS), strict=bool(points)):
        own_quotes = grouped.get(key, [])
        last = max((one.newest for one in own_quotes), default=newest)
        rows = sum(one.rows for one in own_quotes)
        seen[key] = Seen(asked.get(key, ()), rows, last, e6(guess.log), e6(guess.error))
    return seen


def family(product: Product) -> str:
    """What the hedonic model calls its model: without the memory, which is a label of its own."""
    return product.model.removesuffix(f" {SPECS[product].memory_gb}GB")


def _canonical(quote: Quoted) -> tuple[str, ...]:
    """A rental row's names with its model, memory and form as its product has them."""
    provider, accelerator, variant, *rest = quote.names
    if not quote.products:
        return quote.names
    first = quote.products[0]
    accelerator = family(first)
    if len(quote.products) == 1:
        variant = _variant(first)
    else:
        memory = {SPECS[product].memory_gb for product in quote.products}
        variant = f"{memory.pop()}GB" if len(memory) == 1 else labels.form_factor(variant)
    return (provider, accelerator, variant, *rest)


def _variant(product: Product) -> str:
    return f"{SPECS[product].memory_gb}GB {product.form_factor}"


def _count(product: Product) -> str:
    """How many GPUs a neutral node has."""
    return "8" if product.form_factor.startswith("SXM") else "1"


def _neutral(
    fitted: hedonic.Fit, products: Sequence[Product]
) -> tuple[Sequence[float], Sequence[float]]:
    """The level of each product for a seller and a place that stand for all, and its error."""
    if not products:
        return (), ()
    wanted = []
    for product in products:
        names = ("nobody in particular", family(product), _variant(product), _count(product))
        wanted.append((*names, "on_demand", _NOWHERE))
    # That seller and place are new to the model: their own deviation is no error of the market's level.
    new = sum(apart**2 for name, apart in hedonic.EFFECTS if name in ("seller", "region"))
    errors = np.sqrt(np.maximum(fitted.errors(wanted) ** 2 - new, 0.0))
    return fitted.predict(wanted).tolist(), errors.tolist()
