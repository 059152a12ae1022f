"""What hangs on one generation, one site, one offtaker; and lots that a market could not take."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from assay_valuer.credit.concentration import Holding, concentrations, generation_of
from assay_valuer.credit.position import State
from assay_valuer.market.models import SPECS
from assay_valuer.policy import Concentration
from tests.fakes.collateral import asset, book, host, loan_file

LIMITS = Concentration()


def holding(micros, product="H100 SXM5", site="lab", offtaker=None, count=1):
    return Holding(micros, count, product, site, offtaker)


def told(found, loan="a"):
    return {one.code: one for one in found[loan]}


def test_a_share_at_its_limit_is_none_and_above_it_is_told_to_those_who_have_a_part_in_it():
    book_ = {
        "a": [holding(50, site="x")],
        "b": [holding(25, "B200 SXM6", "y"), holding(25, "L40S PCIe", "z")],
    }
    assert told(concentrations(book_, LIMITS, {})).keys() == {"concentration.site"}
    assert told(concentrations(book_, LIMITS, {}), "b") == {}
    book_["a"] = [holding(51, site="x")]
    found = told(concentrations(book_, LIMITS, {}))
    assert found["concentration.model"].effect_bps == 5_049  # 51 of 101
    assert "Hopper is 50.49%" in found["concentration.model"].detail
    assert "above 50.00%" in found["concentration.model"].detail


def test_an_offtaker_counts_over_all_loans():
    book_ = {
        "a": [holding(20, offtaker="Initrode"), holding(60)],
        "b": [holding(20, offtaker="Initrode")],
    }
    for loan in ("a", "b"):
        assert (
            "Initrode is 40.00%"
            in told(concentrations(book_, LIMITS, {}), loan)["concentration.offtaker"].detail
        )


def test_a_lot_is_held_against_what_its_market_is_seen_to_sell_and_unknown_sales_say_nothing():
    book_ = {"a": [holding(1, count=6), holding(1, site="b", count=5)]}
    assert "concentration.lot" not in told(concentrations(book_, LIMITS, {}))
    assert "concentration.lot" not in told(concentrations(book_, LIMITS, {"H100 SXM5": 110}))
    found = told(concentrations(book_, LIMITS, {"H100 SXM5": 109}))
    assert "11 H100 SXM5 are more than 10.00% of the 109" in found["concentration.lot"].detail


def test_an_empty_book_and_one_of_unknown_products_say_nothing_of_generations():
    assert concentrations({}, LIMITS, {}) == {}
    assert concentrations({"a": []}, LIMITS, {}) == {"a": ()}
    assert told(concentrations({"a": [holding(9, None, None)]}, LIMITS, {})) == {}


def test_every_data_centre_product_has_a_generation():
    own = {
        str(product) for product, specs in SPECS.items()
        if specs.asset_class == "data_centre" and generation_of(str(product)) == str(product)
    }  # fmt: skip
    assert own == set()
    assert generation_of("H100 NVL PCIe") == generation_of("GH200 96GB Superchip") == "Hopper"
    assert generation_of("RTX PRO 6000 PCIe") == generation_of("B200 SXM6") == "Blackwell"
    assert generation_of("RTX 6000 Ada PCIe") == generation_of("L4 PCIe") == "Ada"


@given(
    st.lists(st.tuples(st.integers(0, 1_000), st.sampled_from("abc"), st.sampled_from("xyz"))),
    st.randoms(use_true_random=False),
)
def test_the_order_changes_nothing(rows, shuffled: random.Random):
    some = [holding(micros, site=site, offtaker=of) for micros, site, of in rows]
    mixed = [*some]
    shuffled.shuffle(mixed)
    assert concentrations({"a": some}, LIMITS, {}) == concentrations({"a": mixed}, LIMITS, {})


def test_the_book_tells_it_and_nothing_moves_by_it():
    gpus = [asset(number, host_key=number) for number in (1, 2, 3, 4)]
    hosts = [host(1, "a"), host(2, "b"), host(3, "c"), host(4, "c")]
    extra = (
        'contracts: [{counterparty: Initrode, usd_per_gpu_hour: "2.10", until: "2027-06-30", '
        f'default_bps_per_year: 250, document_sha256: "{"ab" * 32}", gpus: [S0001, S0002]}}]\n'
    )
    loan = loan_file([one.serial for one in gpus], extra=extra, amount=20_000_000_000,
                     payments='[{at: "2026-11-15T05:00:00Z", amount: 2000000000}]')  # fmt: skip
    (one,) = book(gpus, hosts=hosts, loan=loan).positions.values()
    found = [each for each in one.findings if each.code.startswith("concentration.")]
    assert [each.code.partition(".")[2] for each in found] == ["model", "site", "offtaker"]
    # Two of four, and the other two are let for less than the market: a little more than half.
    assert found[1].detail.startswith("c is 5")
    assert "Initrode is" in found[2].detail
    assert one.state is State.CURRENT
