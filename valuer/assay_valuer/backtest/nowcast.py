"""Leaving one seller out: what the others' prices say of its own.

On the first day of each month, each series' latest row of the last 45 days is its quote. All quotes of
a seller, under every name it goes by, are left out together and predicted from the rest: by the
hedonic model, and by the median over the other sellers of their median quote of the same accelerator
and kind. A quote that no other seller has a counterpart of is not scored, for either.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

import numpy as np

from assay_valuer.forecast.hedonic import Priced, fit
from assay_valuer.forecast.intervals import Progress
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

QUOTE_AGE_MAX: Final = 45
"""Days."""
MODELS: Final = ("assay", "cross_provider_median")


@dataclass(frozen=True, slots=True)
class Guess:
    """One left-out quote: what it was, and what each model says, in logs of US dollars."""

    accelerator: str
    seller: str
    day: int
    truth: float
    assay: float
    cross_provider_median: float

    def error(self, model: str) -> float:
        """Absolute percentage error of a model."""
        said = self.assay if model == "assay" else self.cross_provider_median
        return 100 * abs(math.exp(said - self.truth) - 1)


def leave_one_out(
    series: Sequence[Series], score_from: int, progress: Progress | None = None
) -> tuple[Guess, ...]:
    """Every left-out quote of every month that starts on or after a day."""
    rentals = [one for one in series if one.market is Market.RENTAL]
    months = [day for day in _months(rentals) if day >= score_from]
    found: list[Guess] = []
    for done, day in enumerate(months, 1):
        quotes = _quotes(rentals, day)
        for seller in sorted({quote.seller for quote in quotes}):
            found += _without(quotes, seller, day)
        if progress is not None:
            progress(done, len(months))
    return tuple(found)


def _months(series: Sequence[Series]) -> list[int]:
    """The first day of each month from the first row to 45 days after the last."""
    if not series:
        return []
    first = min(int(one.days[0]) for one in series)
    last = max(int(one.days[-1]) for one in series)
    day, found = date.fromordinal(first).replace(day=1), []
    while day.toordinal() <= last + QUOTE_AGE_MAX:
        if day.toordinal() >= first:
            found.append(day.toordinal())
        day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
    return found


def _quotes(series: Iterable[Series], day: int) -> list[Priced]:
    """Each series' latest row on or before a day, if it is recent."""
    quotes = []
    for one in series:
        at = int(np.searchsorted(one.days, day, side="right")) - 1
        if at >= 0 and day - int(one.days[at]) <= QUOTE_AGE_MAX:
            names = tuple(one.name.split("|"))
            quotes.append(Priced(names, int(one.days[at]), float(one.logs[at])))
    return quotes


def _without(quotes: Sequence[Priced], seller: str, day: int) -> list[Guess]:
    """The quotes of one seller, from the others'."""
    others = [quote for quote in quotes if quote.seller != seller]
    prices: dict[tuple[str, str], dict[str, list[float]]] = {}
    for quote in others:
        kinds = prices.setdefault((quote.names[1], quote.names[4]), {})
        kinds.setdefault(quote.seller, []).append(math.exp(quote.log))
    left_out = [
        quote
        for quote in quotes
        if quote.seller == seller and (quote.names[1], quote.names[4]) in prices
    ]
    model = fit(others, day)
    if model is None or not left_out:
        return []
    logs = model.predict([quote.names for quote in left_out])
    guesses = []
    for quote, log in zip(left_out, logs.tolist(), strict=True):
        sellers = prices[quote.names[1], quote.names[4]].values()
        middle = statistics.median(statistics.median(one) for one in sellers)
        guesses.append(Guess(quote.names[1], seller, quote.day, quote.log, log, math.log(middle)))
    return guesses
