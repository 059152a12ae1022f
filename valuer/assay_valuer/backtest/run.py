"""One backtest: every case forecast by every model, the left-out quotes, and the scores of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from assay_valuer.backtest.nowcast import Guess, leave_one_out
from assay_valuer.backtest.scores import MODELS, Row, Scored, Summary, rows, score, summaries
from assay_valuer.backtest.significance import Comparison, block_p
from assay_valuer.forecast.cases import HORIZONS, Bools, Cases, Floats, build_cases
from assay_valuer.forecast.centres import baselines, medians, points
from assay_valuer.forecast.intervals import Progress, Walk, conformal, random_walk
from assay_valuer.market.observations import Market
from assay_valuer.market.series import Series

RIVALS = ("no_change", "conformal_no_change")


@dataclass(frozen=True, slots=True)
class Tested:
    """One market: its cases, which of them are scored, and each model's edges and errors."""

    cases: Cases
    counted: Bools
    edges: Floats
    """Assay's: low80, high80, low95, high95, as log changes."""
    scored: dict[str, Scored]


@dataclass(frozen=True, slots=True)
class Backtest:
    """Everything that a report says."""

    tested: tuple[Tested, ...]
    guesses: tuple[Guess, ...]
    rows: tuple[Row, ...]
    summaries: tuple[Summary, ...]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class Watch:
    """Whom to tell how far it is: one callback per stage."""

    rental: Progress | None = None
    resale: Progress | None = None
    nowcast: Progress | None = None


def run(
    rental: Sequence[Series], resale: Sequence[Series], score_from: int, watch: Watch
) -> Backtest:
    """Forecasts from every origin with what was known then.

    Scored are the cases whose outcome is dated on or after `score_from`, and the quotes of months that
    start on or after it. Whatever is earlier is learned from and not scored.
    """
    tested = (
        _test(rental, Market.RENTAL, score_from, watch.rental),
        _test(resale, Market.RESALE, score_from, watch.resale),
    )
    guesses = leave_one_out(rental, score_from, watch.nowcast)
    return Backtest(
        tested,
        guesses,
        tuple(row for one in tested for row in rows(one.cases, one.counted, one.scored)),
        tuple(row for one in tested for row in summaries(one.cases, one.counted, one.scored)),
        (*(c for one in tested for c in _compare(one)), *_compare_guesses(guesses)),
    )


def _test(
    series: Sequence[Series], market: Market, score_from: int, progress: Progress | None
) -> Tested:
    cases = build_cases(series, market)
    edges = Walk(cases, medians(cases)).run(progress)
    scored = {"assay": score(cases, points(cases), edges)}
    for name, point in baselines(cases).items():
        plain = name != "conformal_no_change"
        band = random_walk(cases, point) if plain else conformal(cases, point)
        scored[name] = score(cases, point, band)
    ordered = {name: scored[name] for name in MODELS}
    return Tested(cases, cases.outcome >= score_from, edges, ordered)


def _compare(one: Tested) -> list[Comparison]:
    found = []
    for horizon in HORIZONS:
        mine = one.counted & (one.cases.horizon == horizon)
        days = one.cases.origin[mine]
        for against in RIVALS:
            for measure in ("mape", "interval_score"):
                ours, theirs = one.scored["assay"], one.scored[against]
                gap = (
                    ours.ape[mine] - theirs.ape[mine]
                    if measure == "mape"
                    else ours.interval[mine, 0] - theirs.interval[mine, 0]
                )
                if len(gap):
                    blocks, p = block_p(gap, days)
                    found.append(
                        Comparison(
                            one.cases.market.value,
                            horizon,
                            against,
                            measure,
                            len(gap),
                            blocks,
                            float(gap.mean()),
                            p,
                        )
                    )
    return found


def _compare_guesses(guesses: Sequence[Guess]) -> list[Comparison]:
    if not guesses:
        return []
    # Errors of tens of times come from rows that are wrong: at most 200% each, or they decide alone.
    gap = np.array(
        [
            min(g.error("assay"), 200.0) - min(g.error("cross_provider_median"), 200.0)
            for g in guesses
        ]
    )
    blocks, p = block_p(gap, np.array([guess.day for guess in guesses], dtype=np.int64))
    mean = float(gap.mean())
    return [
        Comparison(
            "nowcast", None, "cross_provider_median", "ape_to_200", len(gap), blocks, mean, p
        )
    ]
