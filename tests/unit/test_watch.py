"""The book as Prometheus sees it: base units, bounded labels, and nothing for what is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from assay_core.instants import DAY_MS, HOUR_MS
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_valuer.feeds import Feed, Round
from assay_valuer.standing.notes import CODES, Note, Notes
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.trust import AssetTrust, Freeze, FreezeCode
from assay_valuer.watch import GPU_SERIES_MAX, SERIES_PER_GPU, BookCollector
from tests.fakes.collateral import NOW, asset, book, host, loan_file, record
from tests.fakes.covenant import Measured
from tests.fakes.proofs import device

LOAN = {"loan": "loan-1", "simulated": "false"}


def scraped(held, feeds=None, outbox=None):
    registry, collector = CollectorRegistry(), BookCollector()
    registry.register(collector)
    collector.show(held, duration_ms=12, lag=3)
    if feeds is not None:
        collector.show_feeds(feeds, outbox or {})
    return registry


def gpu(number, **more):
    return {
        "gpu": f"S{number:04d}",
        "host": "spiffe://assay.test/site/lab/host/1",
        "loan": "loan-1",
        "model": "H100 SXM5",
        "simulated": "false",
        **more,
    }


def test_values_are_dollars_and_ratios_are_from_nought_to_one():
    registry = scraped(book([asset(1), asset(2)], loan=loan_file(["S0001"])))
    value = registry.get_sample_value
    # Two SXM modules on a host are no whole baseboard: 22,000.50 × 85% × 85%.
    assert value("assay_gpu_value_usd", gpu(1, bound="mid")) == pytest.approx(15_895.36125)
    assert value("assay_gpu_counted", gpu(1)) == 1
    assert value("assay_gpu_presence", gpu(1, presence="present", cause="")) == 1
    assert value("assay_gpu_observed_timestamp_seconds", gpu(1)) == NOW / 1000
    olv = {**LOAN, "premise": "olv", "bound": "mid"}
    assert value("assay_loan_value_usd", olv) == pytest.approx(31_790.7225)
    # 100,000 lent and its interest ÷ 31,790.72.
    assert 3.14 < (value("assay_loan_ltv_ratio", {**LOAN, "kind": "gross"}) or 0) < 3.17
    assert value("assay_loan_coverage_ratio", LOAN) == 1.0
    assert value("assay_loan_ltv_threshold_ratio", {**LOAN, "threshold": "0.75"}) == 0.75
    assert value("assay_loan_state", {**LOAN, "state": "WATCH"}) == 1
    assert value("assay_book_duration_seconds") == 0.012
    assert value("assay_projection_lag_entries") == 3
    assert value("assay_price_rows") == 3


def test_a_covenant_is_seen_apart_from_the_risk_and_only_where_there_is_one():
    loan = Measured()
    loan.appraise()
    value = scraped(loan.appraise()).get_sample_value
    assert value("assay_loan_covenant_state", {**LOAN, "state": "CURRENT"}) == 1
    assert value("assay_loan_state", {**LOAN, "state": "WATCH"}) == 1
    assert value("assay_loan_covenant_ltv_ratio", {**LOAN, "premise": "OLV"}) == 0.8
    assert value("assay_loan_covenant_mark", {**LOAN, "mark": "reporting_notice"}) == 0
    silent = loan.appraise(NOW + 30 * DAY_MS, uptime=merge([Span(NOW, NOW + 30 * DAY_MS)]))
    value = scraped(silent).get_sample_value
    for mark in ("stale", "reporting_notice"):
        assert value("assay_loan_covenant_mark", {**LOAN, "mark": mark}) == 1
    without = generate_latest(scraped(loan.appraise(covenants={}))).decode()
    assert "assay_loan_covenant_state{" not in without


def test_what_is_unknown_has_no_sample():
    held = book([asset(1, seen=False)], loan=loan_file(["S0001"]))
    text = generate_latest(scraped(held)).decode()
    for absent in ("assay_gpu_value_usd{", "assay_loan_ltv_ratio{", "assay_loan_value_usd{"):
        assert absent not in text
    assert "assay_gpu_observed_timestamp_seconds{" not in text
    assert 'presence="expected"' in text


def test_open_incidents_are_counted_by_class():
    sick = record(Severity.DEGRADED)
    over = record(Severity.USER_ERROR, code=31, end_ms=NOW)
    registry = scraped(book([asset(1, incidents=(sick, over))], loan=loan_file(["S0001"])))
    value = registry.get_sample_value
    assert value("assay_gpu_incidents", gpu(1, **{"class": "degraded"})) == 1
    assert value("assay_gpu_incidents", gpu(1, **{"class": "user_error"})) == 0


def test_findings_are_counted_by_code_alone_and_every_code_is_there():
    code = "plausibility.identical"
    note = Note(code=code, detail="As one.", first_ms=NOW, last_ms=NOW, count=2)
    assets = [asset(number, notes=Notes(findings=(note,))) for number in (1, 2)]
    registry = scraped(book([*assets, asset(3)], loan=loan_file(["S0001"])))
    counted = {
        one: registry.get_sample_value("assay_findings_gpus", {"code": one}) for one in CODES
    }
    assert counted.pop(code) == 2
    assert set(counted.values()) == {0}


def test_single_gpus_are_shown_up_to_the_bound_and_hosts_beyond_it():
    most = GPU_SERIES_MAX // SERIES_PER_GPU
    proved = AssetTrust(proof=device())
    for count in (most, most + 1):
        assets = [replace(asset(number), trust=proved) for number in range(1, count + 1)]
        registry = scraped(book(assets, loan=loan_file(["S0001"])))
        samples = [one for family in registry.collect() for one in family.samples]
        singles = [one for one in samples if one.name.startswith("assay_gpu_")]
        assert len(singles) == (count * SERIES_PER_GPU if count == most else 0)
        assert len(singles) <= GPU_SERIES_MAX
        labels = {"host": host().host_id, "site": "lab", "simulated": "false"}
        assert registry.get_sample_value("assay_host_counted_gpus", labels) == count


def test_what_a_person_must_look_at_is_shown_by_gpu_beyond_the_bound_too():
    most = GPU_SERIES_MAX // SERIES_PER_GPU
    freeze = Freeze(code=FreezeCode.REVOKED, detail="revoked", since_ms=NOW, position=1)
    frozen = replace(asset(1), trust=AssetTrust(freezes=(freeze,)))
    registry = scraped(
        book([frozen, *(asset(number) for number in range(2, most + 2))], loan=loan_file(["S0001"]))
    )
    samples = [one for family in registry.collect() for one in family.samples]
    singles = [one.name for one in samples if one.name.startswith("assay_gpu_")]
    assert singles == ["assay_gpu_frozen"]


def test_what_a_person_must_look_at_is_within_the_bound_too():
    """The most GPUs that are shown singly, and one series more than the bound has room for."""
    most, room = divmod(GPU_SERIES_MAX, SERIES_PER_GPU)
    codes = list(FreezeCode)[: room + 1]
    freezes = tuple(Freeze(code=one, detail="", since_ms=NOW, position=1) for one in codes)
    proved = [
        replace(asset(number), trust=AssetTrust(proof=device())) for number in range(2, most + 1)
    ]
    for kept in (freezes[:room], freezes):
        frozen = replace(asset(1), trust=AssetTrust(proof=device(), freezes=kept))
        registry = scraped(book([frozen, *proved], loan=loan_file(["S0001"])))
        samples = [one for family in registry.collect() for one in family.samples]
        singles = [one for one in samples if one.name.startswith("assay_gpu_")]
        assert len(singles) == (GPU_SERIES_MAX if len(kept) == room else room + 1)


def test_a_feed_shows_its_newest_round_and_one_without_shows_none():
    shown = Round(
        number=4,
        state="final",
        olv=Usd.parse("1000.50"),
        nolv=Usd.parse("700"),
        ltv_gross_bps=7_123,
        ltv_net_bps=10_170,
        coverage_bps=9_900,
        planned_ms=NOW,
        observed_ms=NOW - 1_000,
        valid_until_ms=NOW + HOUR_MS,
    )
    feeds = {
        "loan-1": Feed("loan-1", b"\x01" * 32, True, shown, True, "deviation"),
        "loan-2": Feed("loan-2", b"\x02" * 32, False, None, False, "a broken report", fault=True),
    }
    registry = scraped(
        book([asset(1)], loan=loan_file(["S0001"])), feeds, {"final": 4, "failed": 0}
    )
    value = registry.get_sample_value
    labels = {"feed": "0x" + "01" * 32, "loan": "loan-1", "simulated": "true"}
    assert value("assay_feed_round", labels) == 4
    assert value("assay_feed_fault", labels) == 0
    other = {"feed": "0x" + "02" * 32, "loan": "loan-2", "simulated": "false"}
    assert value("assay_feed_fault", other) == 1
    assert value("assay_feed_published_value_usd", {**labels, "premise": "olv"}) == 1000.5
    assert value("assay_feed_published_ltv_ratio", {**labels, "kind": "net"}) == 1.017
    assert value("assay_feed_valid_until_timestamp_seconds", labels) == (NOW + HOUR_MS) / 1000
    assert value("assay_outbox_reports", {"state": "failed"}) == 0
    assert value("assay_feed_round", other) is None


def test_before_the_first_book_there_is_nothing_to_see():
    registry = CollectorRegistry()
    registry.register(BookCollector())
    assert generate_latest(registry) == b""
