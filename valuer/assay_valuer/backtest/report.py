"""What a backtest says: JSON for machines, tables for people, and the aims it held or missed.

The aims are those a release is judged by. Where one is missed, the report says so and by how much.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Final

from assay_valuer.backtest.nowcast import MODELS as NOWCASTS
from assay_valuer.backtest.nowcast import Guess
from assay_valuer.backtest.run import Backtest
from assay_valuer.backtest.scores import ALL, MODELS, Row, Summary
from assay_valuer.backtest.significance import Comparison
from assay_valuer.market.observations import Market

SALES_MIN: Final = 30
"""Realised sales that a class of hardware needs before a claim is made about it."""
OUTCOMES_MIN: Final = 30
"""Outcomes that a class of rentals needs."""
EX_ANTE: Final = ("no_change", "trend_180d", "half_trend", "dep_15", "dep_25")
RULES: Final = (
    "origin: a series' first row in a calendar month",
    "outcome: the row nearest to the horizon within 10% of it, the earlier of two",
    "known at an origin: its own rows up to it, and outcomes before the first day of its month",
    "scored: outcomes dated on or after score_from; nowcasts of months from it on",
    "interval_score: of the 80% interval, in log price; coverage is a share",
    "all but assay and conformal_no_change: normal intervals by the series' own past variance",
    "conformal_no_change: quantiles of all earlier absolute errors of the class and horizon",
    "assay: docs/valuation.md",
)


@dataclass(frozen=True, slots=True)
class Nowcast:
    """Of one accelerator, or all, and one model."""

    accelerator: str
    model: str
    n: int
    median_ape_pct: float


@dataclass(frozen=True, slots=True)
class Source:
    """A file that was read: its SHA-256, what counts of it, and why the rest does not."""

    file: str
    sha256: str
    rows: int
    series: int
    first_day: str | None
    last_day: str | None
    rejected: dict[str, int]


@dataclass(frozen=True, slots=True)
class Aim:
    """What is aimed at, whether it was held, and the figures; None where nothing can be said."""

    aim: str
    held: bool | None
    figures: str


@dataclass(frozen=True, slots=True)
class Report:
    """The JSON, key by key. `rows` and `nowcast` are what a scorer reads."""

    rows: tuple[Row, ...]
    nowcast: tuple[Nowcast, ...]
    nowcast_all: tuple[Nowcast, ...]
    summaries: tuple[Summary, ...]
    significance: tuple[Comparison, ...]
    aims: tuple[Aim, ...]
    unvalidated: tuple[str, ...]
    sales: dict[str, int]
    score_from: str | None
    rules: tuple[str, ...]
    sources: tuple[Source, ...]


def build_report(
    done: Backtest, sources: Sequence[Source], sales: dict[str, int], score_from: date | None
) -> Report:
    """Everything that is printed, from the scores; `sales` are realised sales by class."""
    nowcast = tuple(_nowcasts(done.guesses))
    everything = tuple(_of(ALL, done.guesses)) if done.guesses else ()
    unvalidated = tuple(_unvalidated(done.summaries, sales))
    return Report(
        rows=done.rows,
        nowcast=nowcast,
        nowcast_all=everything,
        summaries=done.summaries,
        significance=done.comparisons,
        aims=(
            *_point_aims(done.summaries),
            *_interval_aims(done.summaries, unvalidated),
            *_nowcast_aim(everything),
            *_significance_aim(done.comparisons),
        ),
        unvalidated=unvalidated,
        sales=sales,
        score_from=None if score_from is None else score_from.isoformat(),
        rules=RULES,
        sources=tuple(sources),
    )


def _nowcasts(guesses: Iterable[Guess]) -> Iterable[Nowcast]:
    by_model: dict[str, list[Guess]] = {}
    for guess in guesses:
        by_model.setdefault(guess.accelerator, []).append(guess)
    for accelerator in sorted(by_model):
        yield from _of(accelerator, by_model[accelerator])


def _of(accelerator: str, guesses: Sequence[Guess]) -> Iterable[Nowcast]:
    for model in NOWCASTS:
        median = statistics.median(guess.error(model) for guess in guesses)
        yield Nowcast(accelerator, model, len(guesses), median)


def _unvalidated(found: Iterable[Summary], sales: dict[str, int]) -> Iterable[str]:
    """`kind class` of every class about which no claim is made."""
    outcomes: dict[tuple[str, str], int] = {}
    for one in found:
        if one.asset_class != ALL:
            key = (one.kind, one.asset_class)
            outcomes[key] = max(outcomes.get(key, 0), one.n)
    for (kind, asset_class), most in sorted(outcomes.items()):
        rental = kind == Market.RENTAL.value
        if (rental and most < OUTCOMES_MIN) or (
            not rental and sales.get(asset_class, 0) < SALES_MIN
        ):
            yield f"{kind} {asset_class}"


def table(found: Iterable[Summary]) -> dict[tuple[str, str, int], dict[str, Summary]]:
    """(kind, class, horizon) → model → scores."""
    cells: dict[tuple[str, str, int], dict[str, Summary]] = {}
    for one in found:
        cells.setdefault((one.kind, one.asset_class, one.horizon_days), {})[one.model] = one
    return cells


def gain(ours: float, theirs: float) -> float | None:
    """How much smaller a loss is than another, as a share of that; None where that is nothing."""
    return None if theirs < 1e-9 else 1 - ours / theirs


def _point_aims(found: Sequence[Summary]) -> Iterable[Aim]:
    for (kind, asset_class, horizon), models in table(found).items():
        if asset_class != ALL:
            continue
        ours, still = models["assay"].mape_pct, models["no_change"].mape_pct
        if kind == Market.RENTAL.value:
            figures = f"{ours:.2f}% against {still:.2f}%"
            yield Aim(
                f"rental {horizon} d: MAPE no worse than no change", ours <= still + 1e-9, figures
            )
        elif horizon >= 90:
            best = min(EX_ANTE, key=lambda name: models[name].mape_pct)
            theirs = models[best].mape_pct
            better = gain(ours, theirs)
            figures = f"{ours:.2f}% against {theirs:.2f}% of {best}: {_share(better)}"
            aim = f"hardware {horizon} d: MAPE 10% better than the best baseline"
            yield Aim(aim, None if better is None else better >= 0.10, figures)


def _interval_aims(found: Sequence[Summary], unvalidated: Sequence[str]) -> Iterable[Aim]:
    for (kind, asset_class, horizon), models in table(found).items():
        ours, theirs = models["assay"], models["conformal_no_change"]
        name = f"{kind} {asset_class} {horizon} d"
        if asset_class == ALL:
            figures = (
                f"{ours.coverage80:.1%}; conformal no change {theirs.coverage80:.1%}; "
                f"unmoved {1 - ours.moved:.1%}"
            )
            held = 0.75 <= ours.coverage80 <= 0.88
            yield Aim(f"{kind} {horizon} d: 80% interval holds 75 to 88%", held, figures)
            continue
        better = gain(ours.interval_score, theirs.interval_score)
        figures = f"{ours.interval_score:.4f} against {theirs.interval_score:.4f}: {_share(better)}"
        small = f"{kind} {asset_class}" in unvalidated
        held_here = None if better is None or ours.n < OUTCOMES_MIN else better >= 0.15
        yield Aim(
            f"{name}: interval score 15% better than conformal no change"
            + (" (unvalidated)" if small else ""),
            held_here,
            figures,
        )


def _nowcast_aim(found: Sequence[Nowcast]) -> Iterable[Aim]:
    errors = {one.model: one.median_ape_pct for one in found}
    if errors:
        better = gain(errors["assay"], errors["cross_provider_median"])
        figures = (
            f"{errors['assay']:.1f}% against {errors['cross_provider_median']:.1f}%: "
            f"{_share(better)}"
        )
        aim = "leaving one provider out: error 25% below the cross-provider median's"
        yield Aim(aim, None if better is None else better >= 0.25, figures)


def _significance_aim(found: Sequence[Comparison]) -> Iterable[Aim]:
    for one in found:
        rental_point = one.kind == Market.RENTAL.value and one.measure == "mape"
        if one.against == "no_change" or rental_point:
            continue  # rental points are no change, by choice: there is nothing to tell apart
        horizon = "" if one.horizon_days is None else f" {one.horizon_days} d"
        p = "too few blocks" if one.p is None else f"p = {one.p:.4f}"
        yield Aim(
            f"{one.kind}{horizon}: {one.measure} better than {one.against} by more than luck",
            None if one.p is None else one.p < 0.05,
            f"{p} ({one.blocks} blocks of 180 d)",
        )


def _share(better: float | None) -> str:
    """In words: how much better, or that nothing was lost by the other."""
    if better is None:
        return "the other lost nothing"
    return f"{better:.1%} better" if better >= 0 else f"{-better:.1%} worse"


def point_cells(report: Report, kind: str) -> list[tuple[str, ...]]:
    """MAPE in percent of every model, a line per class and horizon of a market."""
    lines: list[tuple[str, ...]] = []
    for (market, asset_class, horizon), models in table(report.summaries).items():
        if market == kind:
            names = [model for model in MODELS if model != "conformal_no_change"]
            errors = [_percent(models[model].mape_pct) for model in names]
            n = models["assay"].n
            lines.append((_name(report, kind, asset_class), str(horizon), str(n), *errors))
    return lines


def interval_cells(report: Report, kind: str) -> list[tuple[str, ...]]:
    """Coverage and interval score in percent, Assay's and conformal no change's."""
    lines: list[tuple[str, ...]] = []
    for (market, asset_class, horizon), models in table(report.summaries).items():
        if market != kind:
            continue
        ours, rival = models["assay"], models["conformal_no_change"]
        moved = ours.coverage80_moved
        lines.append(
            (
                _name(report, kind, asset_class),
                str(horizon),
                f"{100 * ours.coverage80:.0f}",
                f"{100 * ours.coverage95:.0f}",
                "" if moved is None else f"{100 * moved:.0f}",
                f"{100 * ours.interval_score:.1f}",
                f"{100 * rival.coverage80:.0f}",
                f"{100 * rival.interval_score:.1f}",
                _better(gain(ours.interval_score, rival.interval_score)),
            )
        )
    return lines


def nowcast_cells(report: Report) -> list[tuple[str, ...]]:
    """Median error in percent of a left-out provider's quotes, a line per accelerator, then all."""
    errors: dict[str, dict[str, Nowcast]] = {}
    for one in (*report.nowcast, *report.nowcast_all):
        errors.setdefault(one.accelerator, {})[one.model] = one
    lines: list[tuple[str, ...]] = []
    for accelerator, models in errors.items():
        ours, theirs = models["assay"], models["cross_provider_median"]
        better = _better(gain(ours.median_ape_pct, theirs.median_ape_pct))
        pair = (f"{ours.median_ape_pct:.1f}", f"{theirs.median_ape_pct:.1f}")
        lines.append((accelerator, str(ours.n), *pair, better))
    return lines


def significance_cells(report: Report) -> list[tuple[str, ...]]:
    """p of every comparison."""
    return [
        (
            one.kind + ("" if one.horizon_days is None else f" {one.horizon_days} d"),
            one.against.removesuffix("_no_change").removesuffix("_provider_median"),
            one.measure.removesuffix("_score"),
            str(one.blocks),
            f"{one.difference:+.4f}",
            "too few" if one.p is None else f"{one.p:.4f}",
        )
        for one in report.significance
    ]


def _percent(error: float) -> str:
    """A trend through two rows of one week can be off by more than a table is wide."""
    return f"{error:.2f}" if error < 10_000 else f"{error:.0e}"


def _better(share: float | None) -> str:
    return "" if share is None else f"{max(100 * share, -999):.0f}%"


def _name(report: Report, kind: str, asset_class: str) -> str:
    return asset_class + ("*" if f"{kind} {asset_class}" in report.unvalidated else "")
