"""What one seller can do to a value, from its rows to what is lent: through the gate, the snapshot, the fit."""

from __future__ import annotations

import os
from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from assay_valuer.forecast.fit import fit
from assay_valuer.market.models import PRODUCTS
from assay_valuer.valuation.case import Case, Subject
from assay_valuer.valuation.parameters import Parameters
from assay_valuer.valuation.value import Valuation, value_case
from tests.fakes.lying import Lie, lies, told
from tests.fakes.quoted_market import DAY, Rows, rows, snapshot
from tests.fakes.valuing import case

EXAMPLES = int(os.environ.get("ONE_SELLER_EXAMPLES", "25"))
"""More of them: ONE_SELLER_EXAMPLES=2000."""
MOST_BPS = 500
NAMES = {str(product): name for name, product in PRODUCTS.items()}
DEAR = 1.6
"""Times which the hyperscaler is five times as dear as the others: where the gate holds a whole seller
against the median of the rest, and one of these can turn it."""
# The market stands still; all of its prices move in the last days; its dearest stands on the gate's edge.
STATES = ((1.0, 1.0), (0.7, 1.0), (1.5, 1.0), (1.0, DEAR), (0.7, DEAR))


@cache
def market(moved: float, dear: float) -> Rows:
    found = rows(factor=moved, since=DAY - 13)
    return told(found, Lie("gcp", factor=dear)) if dear != 1.0 else found


@cache
def before(dear: float) -> Parameters:
    """The fit of the day before, of prices that had not moved."""
    return fit(snapshot(market(1.0, dear), DAY - 1), None, DAY - 1)


@cache
def honest(moved: float, dear: float) -> dict[str, Valuation]:
    return values(fit(snapshot(market(moved, dear)), before(dear), DAY))


def values(fitted: Parameters) -> dict[str, Valuation]:
    found = {}
    for product in fitted.products:
        one: Case = replace(
            case(),
            day=DAY,
            subject=Subject(name=NAMES[product.product], lot=200),
            product=product,
            asset_class=fitted.of_class(product.asset_class),
        )
        found[product.product] = value_case(one)
    return found


def amounts(one: Valuation) -> list[int] | None:
    if one.values is None:
        assert one.lending is None
        return None
    assert one.lending is not None
    spans = (one.values.fmv, one.values.olv, one.values.nolv)
    found = [amount.micros for span in spans for amount in (span.low, span.mid, span.high)]
    return [*found, one.lending.micros]


def check(state: tuple[float, float], lie: Lie) -> None:
    moved, dear = state
    lied = values(fit(snapshot(told(market(moved, dear), lie)), before(dear), DAY))
    for product, without in honest(moved, dear).items():
        was, now = amounts(without), amounts(lied[product])
        assert (was is None) == (now is None), (product, without, lied[product])
        for one, other in zip(was or (), now or (), strict=True):
            far = abs(one - other) * 10_000
            assert far <= MOST_BPS * one + 20_000, (product, one, other, far // one)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.sampled_from(STATES), lies())
def test_whatever_one_seller_writes_no_value_moves_by_more_than_5_percent(state, lie):
    check(state, lie)
