"""What Prometheus sees of the book: every GPU, host, loan and feed, from the newest book.

What is unknown has no sample: a value that is absent is not zero. Above 10,000 series for single
GPUs, GPUs are shown by host alone. Money is in dollars and ratios are from 0 to 1, as Prometheus'
conventions have it; both are for watching, and nothing is ever worked out from them.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from assay_core.leaves import Severity
from assay_core.money import MICROS_PER_USD, Usd
from assay_core.units import BPS
from assay_valuer import watch_trust
from assay_valuer.book import Book, Line
from assay_valuer.feeds import Feed
from assay_valuer.standing.notes import CODES
from assay_valuer.valuation.value import Range, Values
from assay_valuer.watch_covenant import covenant_metrics
from assay_valuer.watch_labels import GPU, HOST, family, flag, gpu_labels, host_labels
from assay_valuer.watch_market import MarketView, market_metrics
from assay_valuer.watch_trust import LEVEL_HELP, custody_of, level_of
from assay_valuer.watch_value import value_metrics

GPU_SERIES_MAX: Final = 10_000
"""Series of single GPUs; beyond it there are none, and hosts stand for them. What holds of few GPUs,
a freeze for instance, is shown longest: it is what a person must look at."""
SERIES_PER_GPU: Final = 13
"""value × 3, counted, presence, observed, incidents × 3, assurance, custody, cap, device's proof."""

_LOAN: Final = ("loan", "simulated")
_FEED: Final = ("feed", "loan", "simulated")


@dataclass(frozen=True, slots=True)
class _View:
    book: Book | None = None
    duration_ms: int = 0
    lag: int = 0
    feeds: Mapping[str, Feed] | None = None
    outbox: Mapping[str, int] | None = None
    market: MarketView | None = None


class BookCollector(Collector):
    """Register it once; show it each new book. Safe to scrape from another thread."""

    def __init__(self) -> None:
        self._view = _View()

    def show(self, book: Book, *, duration_ms: int, lag: int) -> None:
        """The newest book, how long it took, and how many ledger entries it lacks."""
        self._view = replace(self._view, book=book, duration_ms=duration_ms, lag=lag)

    def show_feeds(self, feeds: Mapping[str, Feed], outbox: Mapping[str, int]) -> None:
        """Each loan's feed, and the number of posts in each state."""
        self._view = replace(self._view, feeds=feeds, outbox=outbox)

    def show_market(self, market: MarketView) -> None:
        """Where prices come from, as the store has it."""
        self._view = replace(self._view, market=market)

    def collect(self) -> Iterable[Metric]:
        """The families, from one book throughout."""
        view = self._view
        if view.book is not None:
            yield from _gpus(view.book)
            yield from _hosts(view.book)
            yield from watch_trust.hosts(view.book)
            yield from watch_trust.evidence(view.book)
            yield _findings(view.book)
            yield from _loans(view.book)
            yield from covenant_metrics(view.book)
            yield from value_metrics(view.book)
            yield from _service(view.book, view.duration_ms, view.lag)
        if view.market is not None:
            yield from market_metrics(view.market)
        if view.feeds is not None:
            yield from _feeds(view.feeds)
        if view.outbox is not None:
            posts = family("outbox_reports", "Reports in the outbox.", "state")
            for state, count in view.outbox.items():
                posts.add_metric([state], count)
            yield posts


def _usd(amount: Usd) -> float:
    return amount.micros / MICROS_PER_USD


def _bounds(into: GaugeMetricFamily, labels: list[str], amounts: Range) -> None:
    for bound, amount in (("low", amounts.low), ("mid", amounts.mid), ("high", amounts.high)):
        into.add_metric([*labels, bound], _usd(amount))


# ---------------------------------------------------------------------------- GPUs and hosts


def _gpus(book: Book) -> Iterator[Metric]:
    few = watch_trust.few_gpus(book)
    taken = sum(len(one.samples) for one in few)
    if taken <= GPU_SERIES_MAX:
        yield from few
    if taken + len(book.lines) * SERIES_PER_GPU <= GPU_SERIES_MAX:
        yield from _every_gpu(book)
        yield from watch_trust.every_gpu(book)


def _every_gpu(book: Book) -> Iterator[Metric]:
    value = family("gpu_value_usd", "Orderly liquidation value of a GPU.", *GPU, "bound")
    counted = family("gpu_counted", "Whether a GPU counts and its value is known.", *GPU)
    presence = family(
        "gpu_presence", "Where a GPU is; 1 for what holds.", *GPU, "presence", "cause"
    )
    observed = family(
        "gpu_observed_timestamp_seconds", "When a GPU was last seen, by its evidence.", *GPU
    )
    incidents = family("gpu_incidents", "Open incidents of a GPU.", *GPU, "class")
    for line in book.lines.values():
        labels = gpu_labels(line, book)
        if line.valuation.values is not None:
            _bounds(value, labels, line.valuation.values.olv)
        counted.add_metric(labels, int(line.counted))
        standing = line.standing
        presence.add_metric([*labels, standing.presence.value, standing.cause.value], 1)
        if standing.observed_ms is not None:
            observed.add_metric(labels, standing.observed_ms / 1000)
        classes = Counter(incident.severity for incident in standing.incidents)
        for severity in Severity:
            incidents.add_metric([*labels, severity.label], classes[severity])
    yield from (value, counted, presence, observed, incidents)


def _hosts(book: Book) -> Iterator[Metric]:
    gpus = family("host_gpus", "GPUs of a host by presence.", *HOST, "presence")
    counted = family("host_counted_gpus", "GPUs of a host that count.", *HOST)
    value = family("host_value_usd", "OLV of a host's GPUs that count.", *HOST, "bound")
    incidents = family("host_incidents", "Open incidents of a host's GPUs.", *HOST, "class")
    observed = family("host_observed_timestamp_seconds", "A host's newest evidence.", *HOST)
    lines: dict[int, list[Line]] = defaultdict(list)
    for line in book.lines.values():
        if line.asset.host_key is not None:
            lines[line.asset.host_key].append(line)
    for key, host in book.hosts.items():
        mine = lines[key]
        labels = host_labels(host, mine)
        for presence, count in Counter(line.standing.presence for line in mine).items():
            gpus.add_metric([*labels, presence.value], count)
        values = [line.valuation.values for line in mine if line.counted]
        counted.add_metric(labels, len(values))
        known = [one.olv for one in values if one is not None]
        if known:
            _bounds(value, labels, sum(known[1:], known[0]))
        classes = Counter(one.severity for line in mine for one in line.standing.incidents)
        for severity in Severity:
            incidents.add_metric([*labels, severity.label], classes[severity])
        if host.observed_ms is not None:
            observed.add_metric(labels, host.observed_ms / 1000)
    yield from (gpus, counted, value, incidents, observed)


def _findings(book: Book) -> Metric:
    """By code alone: there are as many as rules, however many GPUs and whatever hosts say."""
    counts = family(
        "findings_gpus",
        "GPUs of which a finding of plausibility or reconciliation is kept; it moves no value.",
        "code",
    )
    counted = Counter(note.code for line in book.lines.values() for note in line.standing.notes)
    for code in CODES:
        counts.add_metric([code], counted[code])
    return counts


# ---------------------------------------------------------------------------- loans and feeds


def _loans(book: Book) -> Iterator[Metric]:
    debt = family("loan_debt_usd", "Balance and accrued interest.", *_LOAN)
    value = family("loan_value_usd", "Value of what counts.", *_LOAN, "premise", "bound")
    lendable = family("loan_lendable_usd", "Most that is lent on what counts.", *_LOAN)
    ltv = family("loan_ltv_ratio", "Debt over OLV (gross) or NOLV (net).", *_LOAN, "kind")
    threshold = family("loan_ltv_threshold_ratio", "Gross LTV watched.", *_LOAN, "threshold")
    coverage = family("loan_coverage_ratio", "Share of the pledge that counts.", *_LOAN)
    assurance = family("loan_assurance_level", f"Least of what counts: {LEVEL_HELP}", *_LOAN)
    custody = family("loan_custody", "Whether all that counts is in custody.", *_LOAN)
    state = family("loan_state", "State of the risk position; 1 for what holds.", *_LOAN, "state")
    gpus = family("loan_gpus", "Pledged GPUs by presence.", *_LOAN, "presence")
    observed = family("loan_observed_timestamp_seconds", "Oldest evidence of what counts.", *_LOAN)
    for loan_id, position in book.positions.items():
        labels = [loan_id, flag(position.simulated)]
        debt.add_metric(labels, _usd(position.debt))
        if position.values is not None:
            for premise, amounts in _premises(position.values):
                _bounds(value, [*labels, premise], amounts)
        lendable.add_metric(labels, _usd(position.lendable))
        for kind, bps in (("gross", position.ltv_gross_bps), ("net", position.ltv_net_bps)):
            if bps is not None:
                ltv.add_metric([*labels, kind], bps / BPS)
        for bps in book.policy.ltv_thresholds_bps:
            threshold.add_metric([*labels, f"{bps / BPS:.2f}"], bps / BPS)
        coverage.add_metric(labels, position.coverage_bps / BPS)
        if position.counted:
            assurance.add_metric(labels, level_of(position.assurance))
            custody.add_metric(labels, custody_of(position.assurance))
        state.add_metric([*labels, position.state.value], 1)
        members = (book.lines[one].standing.presence for one in book.loans[loan_id].asset_ids)
        for presence, count in Counter(members).items():
            gpus.add_metric([*labels, presence.value], count)
        if position.observed_ms is not None:
            observed.add_metric(labels, position.observed_ms / 1000)
    yield from (debt, value, lendable, ltv, threshold, coverage, assurance, custody)
    yield from (state, gpus, observed)


def _premises(values: Values) -> tuple[tuple[str, Range], ...]:
    return (
        ("fmv", values.fmv),
        ("olv", values.olv),
        ("nolv", values.nolv),
        ("flv", values.flv),
    )


def _feeds(feeds: Mapping[str, Feed]) -> Iterator[Metric]:
    round_ = family("feed_round", "Newest round in the outbox.", *_FEED)
    value = family("feed_published_value_usd", "Value in the newest round.", *_FEED, "premise")
    ltv = family("feed_published_ltv_ratio", "LTV in the newest round.", *_FEED, "kind")
    coverage = family("feed_published_coverage_ratio", "Coverage in the newest round.", *_FEED)
    signed = family("feed_published_timestamp_seconds", "When the round was planned.", *_FEED)
    observed = family("feed_observed_timestamp_seconds", "The round's oldest evidence.", *_FEED)
    valid = family("feed_valid_until_timestamp_seconds", "Last second it may be used.", *_FEED)
    fault = family("feed_fault", "A round is due and cannot be made; see the log.", *_FEED)
    for feed in feeds.values():
        labels = [f"0x{feed.feed_id.hex()}", feed.loan_id, flag(feed.simulated)]
        fault.add_metric(labels, int(feed.fault))
        report = feed.round
        if report is None:
            continue
        round_.add_metric(labels, report.number)
        value.add_metric([*labels, "olv"], _usd(report.olv))
        value.add_metric([*labels, "nolv"], _usd(report.nolv))
        ltv.add_metric([*labels, "gross"], report.ltv_gross_bps / BPS)
        ltv.add_metric([*labels, "net"], report.ltv_net_bps / BPS)
        coverage.add_metric(labels, report.coverage_bps / BPS)
        signed.add_metric(labels, report.planned_ms / 1000)
        observed.add_metric(labels, report.observed_ms / 1000)
        valid.add_metric(labels, report.valid_until_ms / 1000)
    yield from (round_, value, ltv, coverage, signed, observed, valid, fault)


def _service(book: Book, duration_ms: int, lag: int) -> Iterator[Metric]:
    for name, help_, number in (
        ("book_timestamp_seconds", "When the newest book was made.", book.at_ms / 1000),
        ("book_duration_seconds", "How long the newest book took.", duration_ms / 1000),
        ("projection_lag_entries", "Ledger entries the book lacks.", lag),
    ):
        yield GaugeMetricFamily(f"assay_{name}", help_, value=number)
    if book.prices is not None:
        yield GaugeMetricFamily(
            "assay_prices_as_of_timestamp_seconds",
            "Day of the newest price in use.",
            value=book.prices.as_of_ms / 1000,
        )
        yield GaugeMetricFamily(
            "assay_price_rows", "Rows of the price table in use.", value=len(book.prices.rows)
        )
