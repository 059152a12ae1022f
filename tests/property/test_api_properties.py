"""However often payments are sent, under whatever keys: each changes the debt once."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.instants import DAY_MS, format_instant
from assay_valuer.api.changes import Caller, PaymentBody, post_payment
from assay_valuer.api.problems import Code, Problem
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.schedule import debt_at
from assay_valuer.registry import import_loan
from tests.fakes.collateral import loan_text
from tests.fakes.events import NOW
from tests.fakes.ledger import FakeLedger

BEGAN = NOW - 400 * DAY_MS
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def ledger():
    with tempfile.TemporaryDirectory() as folder:
        made = FakeLedger(Path(folder))
        yield made
        made.close()


payments = st.lists(
    st.tuples(
        st.integers(0, 300),  # day
        st.integers(1, 3_000_000_000),  # token units
        st.integers(1, 3),  # how often it is sent
    ),
    max_size=6,
    unique_by=lambda one: one[:2],
)


@settings(max_examples=60, deadline=None)
@given(sent=payments, again=st.randoms(use_true_random=False))
def test_a_payment_changes_the_debt_once_however_often_and_in_whatever_order_it_is_sent_again(
    ledger, sent, again
):
    number = next(NUMBERS)
    name = f"loan-{number}"
    began = format_instant(BEGAN)
    text = loan_text([f"S{number}"], loan_id=name, token_id=number, originated_at=began)
    ledger.database.write(
        lambda c: import_loan(c, read_loan(text, "loan"), "loan", ledger.signer, NOW)
    )
    caller = Caller("books", "00", ledger.signer, NOW)

    def post(index):
        day, amount, _ = ordered[index]
        body = PaymentBody(at=format_instant(BEGAN + day * DAY_MS), amount=amount)
        return ledger.database.write(lambda c: post_payment(c, name, f"wire-{index}", body, caller))

    ordered = sorted(sent)
    paid = [post(index) for index in range(len(ordered))]
    assert all(one.new for one in paid)
    repeated = [index for index, one in enumerate(ordered) for _ in range(one[2] - 1)]
    again.shuffle(repeated)
    answers = [post(index) for index in repeated]
    assert not any(one.new for one in answers)

    written = ", ".join(
        f'{{at: "{format_instant(BEGAN + day * DAY_MS)}", amount: {amount}}}'
        for day, amount, _ in ordered
    )
    once = loan_text(["S"], loan_id=name, token_id=1, originated_at=began, payments=f"[{written}]")
    owed = debt_at(read_loan(once, "loan"), NOW).owed.micros
    assert all(one.debt.owed_micros == owed for one in answers)
    assert not paid or paid[-1].debt.owed_micros == owed


@settings(max_examples=30, deadline=None)
@given(
    first=st.tuples(st.integers(0, 300), st.integers(1, 10**9)),
    second=st.tuples(st.integers(0, 300), st.integers(1, 10**9)),
)
def test_one_key_never_names_two_payments(ledger, first, second):
    number = next(NUMBERS)
    name = f"loan-{number}"
    text = loan_text(
        [f"S{number}"], loan_id=name, token_id=number, originated_at=format_instant(BEGAN)
    )
    ledger.database.write(
        lambda c: import_loan(c, read_loan(text, "loan"), "loan", ledger.signer, NOW)
    )
    caller = Caller("books", "00", ledger.signer, NOW)

    def post(day, amount):
        body = PaymentBody(at=format_instant(BEGAN + day * DAY_MS), amount=amount)
        return ledger.database.write(lambda c: post_payment(c, name, "wire", body, caller))

    debt = post(*first).debt
    if first == second:
        assert post(*second).debt == debt
    else:
        with pytest.raises(Problem) as caught:
            post(*second)
        assert caught.value.code is Code.CONFLICT
    assert post(*first).debt == debt
