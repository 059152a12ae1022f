"""What values rest on, as Prometheus sees it: approaches, levels and outlooks, by product.

A product is shown by the valuation that most of its GPUs share: there are as many series as products
in the book, however many GPUs. What is unknown has no sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric

from assay_core.money import MICROS_PER_USD, Usd
from assay_core.units import BPS
from assay_valuer.book import Book
from assay_valuer.cases import day_start_ms
from assay_valuer.valuation.fixed import E6, exp_e6, usd_of_log
from assay_valuer.valuation.parameters import Level, Outlook, ProductParameters
from assay_valuer.valuation.value import Range, Valuation
from assay_valuer.watch_labels import family

PRODUCTS_MAX: Final = 64
"""Products that have series of their own, those with most GPUs first."""


def value_metrics(book: Book) -> Iterator[Metric]:
    """The families, from one book."""
    shown = _shown(book)
    yield from _values(shown)
    yield from _approaches(shown)
    yield _findings(book)
    if book.parameters is None:
        return
    made = family("market_fit_timestamp_seconds", "Day of the fit that values rest on.")
    made.add_metric([], day_start_ms(book.parameters.made_day) / 1000)
    yield made
    fitted = {one.product: one for one in book.parameters.products}
    mine = {product: fitted[product] for product in shown if product in fitted}
    yield from _levels(mine)
    yield _outlooks(mine)


def _shown(book: Book) -> dict[str, Valuation]:
    """Of each product, the valuation that most of its GPUs have."""
    counts: Counter[int] = Counter()
    of: dict[int, Valuation] = {}
    for line in book.lines.values():
        if line.valuation.product is not None:
            counts[id(line.valuation)] += 1
            of[id(line.valuation)] = line.valuation
    shown: dict[str, Valuation] = {}
    for which, _ in counts.most_common():
        shown.setdefault(str(of[which].product), of[which])
        if len(shown) == PRODUCTS_MAX:
            break
    return shown


def _values(shown: dict[str, Valuation]) -> Iterator[Metric]:
    value = family(
        "product_value_usd",
        "Value of one GPU, as most of its product.",
        "product",
        "premise",
        "bound",
    )
    lending = family(
        "product_lending_usd",
        "What the house lends on of one GPU, before assurance cuts it.",
        "product",
    )
    for product, one in shown.items():
        if one.values is not None:
            for premise in ("fmv", "olv", "nolv", "flv"):
                _bounds(value, [product, premise], getattr(one.values, premise))
        if one.lending is not None:
            lending.add_metric([product], _usd(one.lending))
    yield from (value, lending)


def _approaches(shown: dict[str, Valuation]) -> Iterator[Metric]:
    said = family(
        "product_approach_usd",
        "FMV of one GPU in good health by each approach.",
        *("product", "approach", "bound"),
    )
    weight = family(
        "product_approach_weight_ratio",
        "Share of each approach in the value.",
        "product",
        "approach",
    )
    for product, one in shown.items():
        for indication in one.indications:
            labels = [product, indication.approach]
            _bounds(said, labels, indication.range)
            weight.add_metric(labels, indication.weight_bps / BPS)
    yield from (said, weight)


def _findings(book: Book) -> Metric:
    """By code alone: there are as many as rules."""
    counts = family("valuation_findings_gpus", "GPUs whose value has a finding.", "code")
    shared: Counter[int] = Counter(id(line.valuation) for line in book.lines.values())
    of = {id(line.valuation): line.valuation for line in book.lines.values()}
    codes: Counter[str] = Counter()
    for which, count in shared.items():
        for code in {finding.code for finding in of[which].findings}:
            codes[code] += count
    for code, count in sorted(codes.items()):
        counts.add_metric([code], count)
    return counts


def _levels(fitted: dict[str, ProductParameters]) -> Iterator[Metric]:
    labels = ("product", "level")
    usd = family("product_level_usd", "Fitted price: of a GPU, or rental of a GPU-hour.", *labels)
    error = family("product_level_error_ratio", "Standard error of its logarithm.", *labels)
    sellers = family("product_level_sellers", "Independent sellers behind it.", *labels)
    newest = family("product_level_newest_timestamp_seconds", "Day of its newest row.", *labels)
    for product, one in fitted.items():
        for name, level in _named(one):
            usd.add_metric([product, name], _usd(usd_of_log(level.log_e6)))
            error.add_metric([product, name], level.error_e6 / E6)
            sellers.add_metric([product, name], level.sellers)
            newest.add_metric([product, name], day_start_ms(level.newest_day) / 1000)
    yield from (usd, error, sellers, newest)


def _named(one: ProductParameters) -> Iterator[tuple[str, Level]]:
    for name, level in (
        ("rental", one.rental),
        ("new_ask", one.new_ask),
        ("used_ask", one.used_ask),
        ("sold", one.sold),
    ):
        if level is not None:
            yield name, level


def _outlooks(fitted: dict[str, ProductParameters]) -> Metric:
    ratio = family(
        "product_outlook_ratio",
        "Forecast price ÷ today's, by quantile.",
        *("product", "quantity", "horizon_days", "quantile"),
    )
    for product, one in fitted.items():
        for quantity, outlooks in (
            ("rental", one.rental_outlook),
            ("hardware", one.hardware_outlook),
        ):
            for outlook in outlooks:
                for quantile, log_e6 in _quantiles(outlook):
                    labels = [product, quantity, str(outlook.horizon_days), quantile]
                    ratio.add_metric(labels, exp_e6(log_e6) / E6)
    return ratio


def _quantiles(outlook: Outlook) -> tuple[tuple[str, int], ...]:
    return (("0.1", outlook.q10_e6), ("0.5", outlook.q50_e6), ("0.9", outlook.q90_e6))


def _bounds(into: GaugeMetricFamily, labels: list[str], amounts: Range) -> None:
    for bound, amount in (("low", amounts.low), ("mid", amounts.mid), ("high", amounts.high)):
        into.add_metric([*labels, bound], _usd(amount))


def _usd(amount: Usd) -> float:
    return amount.micros / MICROS_PER_USD
