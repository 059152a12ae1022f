"""A value explains each of its factors, and what is unknown is never zero."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_core.instants import DAY_MS
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.silence import merge
from assay_valuer.standing.stand import scene, stand
from assay_valuer.valuation.value import value
from tests.fakes.collateral import NOW, asset, host, prices

POLICY = ValuerPolicy()


def standing(name="NVIDIA H100 80GB HBM3", severity=None):
    one = stand(asset(name=name), scene({1: host()}, merge([]), POLICY, NOW))
    return replace(one, severity=severity)


def codes(valuation):
    return [finding.code for finding in valuation.findings]


def test_a_healthy_gpu_is_worth_its_row_premise_by_premise():
    valued = value(standing(), prices(), POLICY, NOW)
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(22_000_500_000)
    assert valued.values.olv.mid == Usd(18_700_425_000)  # × 0.85
    assert valued.values.nolv.mid == Usd(13_090_297_500)  # × 0.70
    assert valued.values.flv.mid == Usd(14_025_318_750)  # × 0.75
    assert codes(valued) == ["price.row", "premise.olv", "sale.cost"]
    assert "made up for tests" in valued.findings[0].detail


def test_a_degraded_gpu_is_worth_less_and_says_so():
    valued = value(standing(severity=Severity.DEGRADED), prices(), POLICY, NOW)
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(18_700_425_000)
    assert ("health.degraded", 8_500) in [(one.code, one.effect_bps) for one in valued.findings]
    spared = value(standing(severity=Severity.USER_ERROR), prices(), POLICY, NOW)
    assert spared.values == value(standing(), prices(), POLICY, NOW).values


def test_without_a_used_price_the_new_one_is_cut_and_the_cut_is_named():
    valued = value(standing("NVIDIA B200"), prices(), POLICY, NOW)
    assert valued.values is not None
    assert valued.values.fmv.mid == Usd(27_300_000_000)  # 42,000 × 0.65
    assert "condition.used" in codes(valued)


@pytest.mark.parametrize(
    ("name", "table", "now_ms", "code"),
    [
        (None, prices(), NOW, "product.unread"),
        ("NVIDIA H999", prices(), NOW, "product.unknown"),
        ("NVIDIA H200", prices(), NOW, "price.missing"),
        ("NVIDIA L40S", prices(), NOW, "price.old"),
        ("NVIDIA H100 80GB HBM3", prices(), NOW + 200 * DAY_MS, "price.old"),
        ("NVIDIA H100 80GB HBM3", prices(), NOW - 60 * DAY_MS, "price.ahead"),
        ("NVIDIA H100 80GB HBM3", None, NOW, "price.none"),
    ],
)
def test_what_cannot_be_known_is_unknown_and_says_why(name, table, now_ms, code):
    valued = value(standing(name), table, POLICY, now_ms)
    assert valued.values is None
    assert codes(valued) == [code]


def test_a_price_that_rounds_to_nothing_is_unknown_and_never_zero():
    speck = prices(
        "model,form_factor,condition,low_usd,mid_usd,high_usd,as_of,source\n"
        "H100,SXM5,used,0.000001,1,2,2026-11-01,a broken source"
    )
    valued = value(standing(), speck, POLICY, NOW)
    assert valued.values is None
    assert codes(valued) == ["price.vanishes"]
