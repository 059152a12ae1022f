"""What values rest on as Prometheus sees it: by product, in dollars, and nothing for what is unknown."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from assay_core.instants import DAY_MS
from assay_valuer.book import appraise
from assay_valuer.market_store import FeedState, StoredSnapshot, Summary
from assay_valuer.policy import ValuerPolicy
from assay_valuer.valuation.parameters import Outlook, Parameters
from assay_valuer.watch import BookCollector
from assay_valuer.watch_market import MarketView
from tests.fakes import valuing
from tests.fakes.collateral import NOW, asset, book, host, snapshot

FITTED = Parameters(
    made_day=valuing.DAY,
    snapshot_sha256="0" * 64,
    previous_sha256=None,
    code="made up",
    products=(
        valuing.parameters(
            rental=valuing.level("2.20"),
            used_ask=valuing.level("30000", sellers=3, row_days=5),
            hardware_outlook=(
                Outlook(
                    horizon_days=90,
                    q025_e6=-400_000,
                    q10_e6=-223_144,  # ln 0.8
                    q50_e6=0,
                    q90_e6=100_000,
                    q975_e6=200_000,
                ),
            ),
        ),
    ),
    classes=(valuing.learned(),),
)
EIGHT = [asset(number) for number in range(1, 9)]


def scraped(held=None, market=None):
    registry, collector = CollectorRegistry(), BookCollector()
    registry.register(collector)
    if held is not None:
        collector.show(held, duration_ms=1, lag=0)
    if market is not None:
        collector.show_market(market)
    return registry


def fitted():
    return appraise(replace(snapshot(EIGHT), parameters=FITTED), ValuerPolicy(), NOW)


def test_each_approach_is_shown_with_its_weight_and_the_weights_are_a_whole():
    held = fitted()
    value = scraped(held).get_sample_value
    (valuation,) = {id(line.valuation): line.valuation for line in held.lines.values()}.values()
    assert {"market", "income"} <= {one.approach for one in valuation.indications}
    weights = 0.0
    for one in valuation.indications:
        labels = {"product": "H100 SXM5", "approach": one.approach}
        mid = value("assay_product_approach_usd", {**labels, "bound": "mid"})
        assert mid == pytest.approx(one.range.mid.micros / 1e6)
        weights += value("assay_product_approach_weight_ratio", labels)
    assert weights == pytest.approx(1.0, abs=0.001)
    for premise in ("fmv", "olv", "nolv", "flv"):
        labels = {"product": "H100 SXM5", "premise": premise}
        bounds = [
            value("assay_product_value_usd", {**labels, "bound": bound})
            for bound in ("low", "mid", "high")
        ]
        assert bounds == sorted(bounds)
        assert bounds[0] > 0
    lending = value("assay_product_lending_usd", {"product": "H100 SXM5"})
    net = {"product": "H100 SXM5", "premise": "nolv", "bound": "mid"}
    assert 0 < lending < value("assay_product_value_usd", net)


def test_levels_and_outlooks_are_those_that_were_fitted():
    value = scraped(fitted()).get_sample_value
    rental = {"product": "H100 SXM5", "level": "rental"}
    used = {"product": "H100 SXM5", "level": "used_ask"}
    assert value("assay_product_level_usd", rental) == pytest.approx(2.20, rel=1e-5)
    assert value("assay_product_level_sellers", used) == 3
    day_s = DAY_MS / 1000
    midnight_s = NOW / 1000 // day_s * day_s
    assert value("assay_product_level_newest_timestamp_seconds", used) == midnight_s - 5 * day_s
    assert value("assay_market_fit_timestamp_seconds") == midnight_s
    outlook = {"product": "H100 SXM5", "quantity": "hardware", "horizon_days": "90"}
    low = value("assay_product_outlook_ratio", {**outlook, "quantile": "0.1"})
    assert math.isclose(low, 0.8, rel_tol=1e-5)
    # No rental outlook, no new price: no sample, and no zero.
    rental_outlook = {**outlook, "quantity": "rental", "quantile": "0.1"}
    assert value("assay_product_outlook_ratio", rental_outlook) is None
    assert value("assay_product_level_usd", {**rental, "level": "new_ask"}) is None


def test_a_product_is_shown_by_what_most_of_its_gpus_are_worth():
    alone = [asset(number, host_key=2) for number in (11, 12)]
    held = book([*EIGHT, *alone], hosts=[host(), host(key=2)])
    whole, partial = (held.lines[one].valuation.values.fmv.mid for one in (1, 11))
    assert whole > partial  # two modules are no baseboard
    mid = {"product": "H100 SXM5", "premise": "fmv", "bound": "mid"}
    value = scraped(held).get_sample_value("assay_product_value_usd", mid)
    assert value == whole.micros / 1e6


def test_what_is_unknown_has_no_sample():
    registry = scraped(book([asset(1, name="NVIDIA H999")]))
    names = {sample.name for metric in registry.collect() for sample in metric.samples}
    assert "assay_product_value_usd" not in names
    assert "assay_product_approach_usd" not in names
    codes = {"code": "product.unknown"}
    assert registry.get_sample_value("assay_valuation_findings_gpus", codes) == 1


def test_feeds_show_their_ages_and_rejected_rows_their_reasons():
    feeds = {
        "good": FeedState(name="good", asked_ms=NOW, answered_ms=NOW, changed_ms=NOW - DAY_MS),
        "down": FeedState(name="down", asked_ms=NOW, error="no answer"),
    }
    summary = Summary(
        day=valuing.DAY,
        counted={"good": 40},
        rejected={"good": {"node_total": 2, "jump": 1}},
        fit_error="nothing to fit",
    )
    snapshot = StoredSnapshot(sha256="0" * 64, made_ms=NOW, last_row=43, summary=summary)
    value = scraped(market=MarketView(feeds, snapshot)).get_sample_value
    assert value("assay_market_feed_failing", {"feed": "down"}) == 1
    assert value("assay_market_feed_failing", {"feed": "good"}) == 0
    assert value("assay_market_feed_answered_timestamp_seconds", {"feed": "down"}) is None
    changed = value("assay_market_feed_changed_timestamp_seconds", {"feed": "good"})
    assert changed == (NOW - DAY_MS) / 1000
    assert value("assay_market_rows", {"feed": "good"}) == 40
    reasons = {"feed": "good", "reason": "node_total"}
    assert value("assay_market_rejected_rows", reasons) == 2
    assert value("assay_market_fit_failing") == 1
