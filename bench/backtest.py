"""How long a full backtest of the price files takes, every model and the left-out sellers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from assay_valuer.backtest.run import Watch, run
from assay_valuer.market.observations import Market, read_observations
from assay_valuer.market.series import Series, build_series
from bench.market import FILES, LAST, PRICES
from bench.row import Context, Measurement, MeasurementFailed, Row
from tests.fakes.price_files import rental_file, rentals, resale_file, resales

TARGET_S: Final = 600
MADE_UP: Final = (7_000, 9_000)
"""Days of made-up rentals and hardware that come to about as many rows as the files at hand."""


def measure(context: Context) -> Sequence[Row]:
    """Reads, forecasts from every origin and scores."""
    texts, of = _texts()
    began_s = time.monotonic()
    context.say("reading the files")
    rental, resale = (
        _series(text, name, market) for text, name, market in zip(texts, FILES, Market, strict=True)
    )
    context.say("forecasting from every origin")
    done = run(rental, resale, 0, Watch())
    took_s = time.monotonic() - began_s
    if not done.rows or not done.guesses:
        raise MeasurementFailed("the backtest scored hardly anything: not what was to be timed")
    lines = sum(text.count("\n") - 1 for text in texts)
    cases = sum(len(one.cases) for one in done.tested)
    return [
        Row(
            name="backtest_s",
            value=took_s,
            unit="s",
            bound=None,
            bound_is="no bound; the ratio is to the target",
            ratio=took_s / TARGET_S,
            target=TARGET_S,
            judged="value",
            better="lower",
            note=f"{lines:,} rows of {of}, {cases:,} forecasts, {len(done.guesses):,} left-out quotes",
        )
    ]


def _series(text: str, name: str, market: Market) -> tuple[Series, ...]:
    """A file's series."""
    return build_series(read_observations(text, name, market, LAST))


def _texts() -> tuple[list[str], str]:
    """The files at hand, else made-up ones of about their size; and which."""
    paths = [PRICES / name for name in FILES]
    if all(path.is_file() for path in paths):
        return [path.read_text(encoding="utf-8") for path in paths], "the files at hand"
    days, of_hardware = MADE_UP
    made_up = [rental_file(rentals(days)), resale_file(resales(of_hardware))]
    return made_up, "a made-up market"


FULL: Final = Measurement(
    ("backtest_s",), "a full backtest of the price files: every origin, every model", measure
)
