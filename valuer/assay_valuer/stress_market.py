"""The shocks that a market's own history has: its worst falls, by class of asset and horizon. Pure.

A fall of rental is passed on to the value in full. That is a judgement, and a hard one: no data pair
rentals with what the same GPUs then sold for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date
from typing import Final

from assay_valuer.book import Book, Line
from assay_valuer.forecast.falls import HORIZONS_DAYS, Fall, of_kind, worst_fall, worst_slide
from assay_valuer.market.models import SPECS
from assay_valuer.market.series import Series
from assay_valuer.stress import Shock, fall

H100: Final = "h100-2024-25"
_FROM, _TO = date(2024, 1, 1).toordinal(), date(2025, 12, 31).toordinal()
_RENTAL: Final = ("list",)
_HARDWARE: Final = ("asking", "sold")
_PASSED_ON: Final = " Passed on to the value in full, a judgement."


def market_shocks(
    book: Book, rental: Sequence[Series], resale: Sequence[Series], snapshot_sha256: str
) -> tuple[Shock, ...]:
    """The worst falls of each class that the book has pledged, then H100 rental of 2024 and 2025."""
    found: list[Shock] = []
    for asset_class in classes(book):
        for kind, series, feeds in (
            ("rental", rental, _RENTAL),
            ("hardware", resale, _HARDWARE),
        ):
            chosen = of_kind(series, asset_class, feeds)
            for days in HORIZONS_DAYS:
                worst = worst_fall(chosen, days)
                if worst is not None:
                    name = f"{asset_class}-{kind}-{days}d"
                    found.append(_shock(name, kind, worst, asset_class, snapshot_sha256))
    listed = [one for one in rental if _is_h100(one) and one.feed in _RENTAL]
    slide = worst_slide(listed, _FROM, _TO)
    if slide is not None and "data_centre" in classes(book):
        found.append(_shock(H100, "rental", slide, "data_centre", snapshot_sha256))
    return tuple(found)


def judged_shocks(falls_bps: Iterable[int]) -> tuple[Shock, ...]:
    """Falls of everything by so much: what there is where the market has no history."""
    return tuple(
        Shock(
            f"judged-{bps // 100}",
            f"Every price falls by {_percent(bps)}.",
            "judgement: the policy's `stress.falls_bps`, for no history of what is pledged is at hand",
            fall(bps, None, class_of),
        )
        for bps in falls_bps
    )


def classes(book: Book) -> tuple[str, ...]:
    """The classes of what is pledged, by name."""
    found = {class_of(line) for line in book.lines.values() if line.loan_id}
    return tuple(sorted(one for one in found if one is not None))


def class_of(line: Line) -> str | None:
    """A GPU's class; None of a product that nobody knows."""
    product = line.valuation.product
    specs = None if product is None else SPECS.get(product)
    return None if specs is None else specs.asset_class


def _shock(name: str, kind: str, worst: Fall, asset_class: str, snapshot_sha256: str) -> Shock:
    begin, end = (date.fromordinal(day).isoformat() for day in (worst.begin_day, worst.end_day))
    what = (
        f"{asset_class.replace('_', ' ').capitalize()}: {kind} prices fall by {_percent(worst.bps)}, as one "
        f"series did.{_PASSED_ON if kind == 'rental' else ''}"
    )
    source = (
        f"{worst.series}, {begin} to {end}; the worst of {worst.others} series; market snapshot "
        f"{snapshot_sha256[:16]}"
    )
    change = fall(worst.bps, asset_class, class_of)
    return Shock(name, what, source, change, judgement=False, of=asset_class)


def _is_h100(one: Series) -> bool:
    return one.accelerator.upper().split()[:1] == ["H100"]


def _percent(bps: int) -> str:
    return f"{bps // 100}.{bps % 100:02d}%"
