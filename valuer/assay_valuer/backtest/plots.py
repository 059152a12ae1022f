"""The report's plots. matplotlib is imported here and nowhere else, and only when plots are asked for."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path
from typing import Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from assay_valuer.backtest.report import Report, table
from assay_valuer.backtest.run import Backtest, Tested
from assay_valuer.backtest.scores import ALL, MODELS
from assay_valuer.forecast.cases import HORIZONS, Floats, Ints

SERIES_SHOWN: Final = 4
HORIZON_SHOWN: Final = 90
DPI: Final = 120
EPOCH: Final = date(1970, 1, 1).toordinal()


def draw(done: Backtest, report: Report, folder: Path) -> tuple[Path, ...]:
    """Writes PNG files into a folder, which is made; returns them. Raises OSError."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "errors.png": _errors(report),
        "coverage.png": _coverage(report),
        "nowcast.png": _nowcast(done),
    }
    for one in done.tested:
        figures[f"forecasts_{one.cases.market.value}.png"] = _forecasts(one)
    written = []
    for name, figure in figures.items():
        if figure is not None:
            path = folder / name
            figure.savefig(path, dpi=DPI)
            written.append(path)
    return tuple(written)


def _errors(report: Report) -> Figure | None:
    """MAPE by model, a group of bars per market and horizon."""
    groups = {key: models for key, models in table(report.summaries).items() if key[1] == ALL}
    if not groups:
        return None
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axes = figure.add_subplot()
    names = [model for model in MODELS if model != "conformal_no_change"]
    width = 0.8 / len(names)
    for at, model in enumerate(names):
        heights = [models[model].mape_pct for models in groups.values()]
        axes.bar(np.arange(len(groups)) + (at - len(names) / 2 + 0.5) * width, heights, width,
                 label=model)  # fmt: skip
    axes.set_xticks(range(len(groups)), [f"{kind} {horizon} d" for kind, _, horizon in groups])
    axes.set_ylabel("mean absolute percentage error")
    axes.set_title("Point forecasts, by market and horizon")
    axes.legend(ncols=3, fontsize="small")
    return figure


def _coverage(report: Report) -> Figure | None:
    """How often 80% intervals held the outcome."""
    groups = {key: models for key, models in table(report.summaries).items() if key[1] == ALL}
    if not groups:
        return None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.axhspan(0.75, 0.88, alpha=0.15, color="tab:green", label="aim: 75 to 88%")
    for model in ("assay", "conformal_no_change", "no_change"):
        axes.plot([models[model].coverage80 for models in groups.values()], "o-", label=model)
    unmoved = [1 - models["assay"].moved for models in groups.values()]
    axes.plot(unmoved, "k_", markersize=14, label="price did not move")
    axes.set_xticks(range(len(groups)), [f"{kind} {horizon} d" for kind, _, horizon in groups])
    axes.set_ylim(0, 1)
    axes.set_title("Share of outcomes inside the 80% interval")
    axes.legend(fontsize="small")
    return figure


def _nowcast(done: Backtest) -> Figure | None:
    """Each left-out quote against what the others' prices said."""
    if not done.guesses:
        return None
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    truth = [math.exp(guess.truth) for guess in done.guesses]
    for at, model in enumerate(("assay", "cross_provider_median"), 1):
        axes = figure.add_subplot(1, 2, at)
        said = [math.exp(g.assay if at == 1 else g.cross_provider_median) for g in done.guesses]
        axes.loglog(truth, said, ".", alpha=0.3, markersize=4)
        ends = [min(truth), max(truth)]
        axes.loglog(ends, ends, "k-", linewidth=0.8)
        axes.set_title(model)
        axes.set_xlabel("left-out quote, USD per GPU-hour")
        axes.set_ylabel("predicted from the others")
    return figure


def _forecasts(one: Tested) -> Figure | None:
    """The series with most scored cases that moved most: price, and each origin's 80% interval."""
    cases = one.cases
    shown = one.counted & (cases.horizon == min(HORIZON_SHOWN, max(HORIZONS)))
    if not shown.any():
        return None
    spread = np.bincount(cases.index[shown], weights=np.abs(cases.change[shown]))
    order = np.argsort(-spread, kind="stable")
    chosen = [n for n in order.tolist() if (cases.index[shown] == n).any()][:SERIES_SHOWN]
    figure = Figure(figsize=(11, 2.6 * len(chosen)), layout="constrained")
    for at, number in enumerate(chosen, 1):
        _forecast(figure.add_subplot(len(chosen), 1, at), one, number)
    return figure


def _forecast(axes: Axes, one: Tested, number: int) -> None:
    cases, series = one.cases, one.cases.series[number]
    axes.step(_dates(series.days), np.exp(series.logs), where="post", color="black", linewidth=1)
    mine = np.flatnonzero(one.counted & (cases.index == number) & (cases.horizon == HORIZON_SHOWN))
    at = _dates(cases.outcome[mine])
    low, high = (np.exp(cases.last[mine] + one.edges[mine, side]) for side in (0, 1))
    axes.vlines(at, low, high, color="tab:blue", alpha=0.6, linewidth=3)
    axes.set_title(f"{series.name}: 80% interval from {HORIZON_SHOWN} days before", fontsize=9)
    axes.xaxis_date()
    axes.set_ylabel("USD")


def _dates(days: Ints) -> Floats:
    """Ordinals as matplotlib counts days."""
    return days.astype(np.float64) - EPOCH
