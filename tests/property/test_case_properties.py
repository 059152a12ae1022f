"""Whatever the fleet: the order of assets and loans changes nothing, and what is alike is valued alike."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.leaves import Severity
from assay_valuer.book import Loan, appraise
from assay_valuer.policy import DEFAULT
from assay_valuer.results import stored_line
from assay_valuer.valuation.case import from_json, to_json
from assay_valuer.valuation.value import value_case
from tests.fakes.collateral import NOW, asset, host, loan_file, record, snapshot

NAMES = ("NVIDIA H100 80GB HBM3", "NVIDIA B200", "NVIDIA L40S", "NVIDIA H999")
HOSTS = 3
LOANS = 3

gpus = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(1, HOSTS),
        st.one_of(st.none(), st.integers(0, LOANS - 1)),
        st.booleans(),
        st.booleans(),
    ),
    min_size=1,
    max_size=24,
)


def known(told, order=None, loan_order=None):
    """What is known of a fleet; assets and loans in another order."""
    assets = [
        asset(
            number,
            name=name,
            host_key=key,
            incidents=(record(Severity.DEGRADED),) if sick else (),
            missing_since_ms=NOW if gone else None,
        )
        for number, (name, key, _, sick, gone) in enumerate(told, 1)
    ]
    loans = []
    for which in range(LOANS):
        mine = [one for one, (_, _, loan, _, _) in zip(assets, told, strict=True) if loan == which]
        if mine:
            file = loan_file([one.serial for one in mine], loan_id=f"loan-{which}", token_id=which)
            loans.append(Loan(file, which.to_bytes(32, "big"), tuple(one.id for one in mine)))
    base = snapshot(assets, hosts=[host(key) for key in range(1, HOSTS + 1)])
    mixed = assets if order is None else order.sample(assets, len(assets))
    shuffled = loans if loan_order is None else loan_order.sample(loans, len(loans))
    return replace(base, assets={one.id: one for one in mixed}, loans=tuple(shuffled))


@settings(max_examples=60)
@given(gpus, st.randoms(use_true_random=False), st.randoms(use_true_random=False))
def test_the_order_of_assets_and_loans_changes_nothing(told, one, other):
    first = appraise(known(told), DEFAULT, NOW)
    second = appraise(known(told, one, other), DEFAULT, NOW)
    assert first.cases == second.cases
    assert {n: stored_line(line, None) for n, line in first.lines.items()} == {
        n: stored_line(line, None) for n, line in second.lines.items()
    }
    assert first.positions == second.positions
    assert first.methodology == second.methodology


@settings(max_examples=60)
@given(gpus)
def test_every_line_is_what_its_case_comes_to_and_the_case_is_its_own(told):
    """By another way: each GPU's subject is counted out by hand here."""
    book = appraise(known(told), DEFAULT, NOW)
    boards = {NAMES[0]: (4, 8), NAMES[1]: (8,), NAMES[2]: (), NAMES[3]: ()}
    for number, (name, key, loan, sick, _) in enumerate(told, 1):
        valuation = book.lines[number].valuation
        case = book.cases[valuation.case_sha256]
        assert from_json(to_json(case)) == case
        assert value_case(case) == valuation
        assert (case.subject.name, case.subject.degraded) == (name, sick)
        mine = [one for one in told if one[0] == name and one[2] == loan]
        assert case.subject.lot == (1 if loan is None else len(mine))
        together = [one for one in mine if one[1] == key]
        strangers = [
            one
            for one in told
            if one[0] == name and one[1] == key and one[2] != loan and not one[4]
        ]
        whole = any(len(together) % size == 0 for size in boards[name])
        if not boards[name]:
            assert case.subject.board.value == "none"
        else:
            assert (case.subject.board.value == "whole") == (whole and not strangers)
