"""What a market's fit takes of the processor: from a whole file, and for a day more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from assay_valuer.forecast.fit import fit
from assay_valuer.market.observations import Market, Observations, read_observations
from assay_valuer.market.snapshot import MarketSnapshot, snapshot_of
from bench.row import Context, Measurement, MeasurementFailed, Row
from tests.fakes.price_files import rental_file, resale_file
from tests.fakes.quoted_market import DAY, rows

PRICES: Final = Path(__file__).resolve().parents[2] / "shared" / "data" / "prices"
"""Real feeds' rows, where they lie beside the checkout."""
FILES: Final = ("rental_prices.csv", "resale_or_purchase_prices.csv")
FIT_S: Final = 30
DAY_S: Final = 1
ROUNDS: Final = 3
LAST: Final = 3_652_059
"""The last day there is: what the files hold has all been."""
MADE_UP_DAYS: Final = 6_000


def measure(context: Context) -> Sequence[Row]:
    """Fits everything up to a day without a previous fit, and then a day later with one."""
    context.say("reading the files")
    whole, of = _snapshot()
    day = max(quote.day for found in (whole.rental, whole.resale) for quote in found.quotes)
    # Outlooks learn in a month's first fit: a day's rows mostly come on another one.
    before = _until(whole, day - 1)
    context.say("fitting the whole file")
    began_s = time.process_time()
    first = fit(before, None, day - 1)
    fit_s = time.process_time() - began_s
    if not any(one.rental and one.rental.basis == "quotes" for one in first.products):
        raise MeasurementFailed("the fit has no level: not what was to be timed")
    took_s = []
    for number in range(ROUNDS):
        context.say(f"a day more, {number + 1} of {ROUNDS}")
        began_s = time.process_time()
        fit(whole, first, day)
        took_s.append(time.process_time() - began_s)
    count = len(whole.rental.quotes) + len(whole.resale.quotes)
    return [
        _row(
            "market_fit_s",
            fit_s,
            FIT_S,
            f"{count:,} rows of {of}, read and named before; CPU of all threads",
        ),
        _row(
            "market_day_s", min(took_s), DAY_S, f"best of {ROUNDS}; the same rows and a day's more"
        ),
    ]


def _row(name: str, value: float, target: int, note: str) -> Row:
    return Row(
        name=name,
        value=value,
        unit="s",
        bound=None,
        bound_is="no bound; the ratio is to the target",
        ratio=value / target,
        target=target,
        judged="value",
        better="lower",
        note=note,
    )


def _snapshot() -> tuple[MarketSnapshot, str]:
    """The files at hand, else made-up ones of about their size; and which."""
    paths = [PRICES / name for name in FILES]
    if all(path.is_file() for path in paths):
        texts, of = [path.read_text(encoding="utf-8") for path in paths], "the files at hand"
    else:
        found = rows(days=MADE_UP_DAYS)
        texts = [rental_file(row for _, row in found.rental),
                 resale_file(row for _, row in found.resale)]  # fmt: skip
        of = f"a made-up market up to day {DAY}"
    rental, resale = (
        read_observations(text, name, market, LAST)
        for text, name, market in zip(texts, FILES, Market, strict=True)
    )
    return _named(snapshot_of(rental, resale, LAST)), of


def _until(whole: MarketSnapshot, day: int) -> MarketSnapshot:
    def earlier(found: Observations) -> Observations:
        return replace(found, quotes=tuple(quote for quote in found.quotes if quote.day <= day))

    return _named(snapshot_of(earlier(whole.rental), earlier(whole.resale), day))


def _named(snapshot: MarketSnapshot) -> MarketSnapshot:
    """Its hash is worked out when it is taken, and not by a fit."""
    if not snapshot.sha256:
        raise MeasurementFailed("a snapshot without a name")
    return snapshot


FIT: Final = Measurement(
    ("market_fit_s", "market_day_s"), "fitting a market from a whole file, and a day more", measure
)
