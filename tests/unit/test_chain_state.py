"""A loan's file held against what its router says: what is rounding, and what is a dispute."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as replace_struct

from assay_core.errors import FileError
from assay_core.instants import DAY_MS, format_instant, parse_instant
from assay_valuer.credit.chain_state import AGE_MAX_MS, ChainState, ChainView, RouterStatus, compare
from assay_valuer.credit.covenant import Level, Record, replay, sha256_of
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.position import State
from assay_valuer.credit.schedule import interest_wad, level_schedule
from tests.fakes.collateral import NOW, loan_text
from tests.fakes.covenant import Measured

ROUTER = "0x1C2ED170de32846316784c4fd58A5e3C7563E12f"
TERMS = "0x" + "5a" * 32
NAMED = f'router: {{address: "{ROUTER}", loan_terms_hash: "{TERMS}"}}\n'
LENT_WAD = 100_000 * 10**18
UNIT_WAD = 10**12
LATE_MS = parse_instant("2027-06-01T00:00:00Z")


def loan(payments: str = "[]", extra: str = ""):
    return read_loan(loan_text(["S0001"], payments=payments, extra=NAMED + extra), "loan.yaml")


def said(balance_wad: int = LENT_WAD, at_ms: int = LATE_MS, **changed: object) -> ChainView:
    plain = {
        "router": ROUTER,
        "loan_terms_hash": TERMS,
        "chain_id": 42_161,
        "block_number": 5,
        "block_ms": at_ms,
        "status": RouterStatus.ACTIVE,
        "repayment_count": 0,
        "originated_ms": 0,
        "balance_wad": str(balance_wad),
        "endpoints": 2,
    }
    return ChainView(asked_ms=at_ms, state=ChainState(**{**plain, **changed}))  # type: ignore[arg-type]  # test data


def codes(file, view, now_ms: int = LATE_MS) -> list[str]:
    return [one.code for one in compare(file, view, now_ms).findings]


def paid(file, count: int, early_ms: int = 0, more: int = 0) -> tuple[str, int]:
    """The first payments as the router's model asks for them, each so early; and what it then has."""
    balance, last_ms, rows = LENT_WAD, file.originated_ms, []
    for due in level_schedule(file)[:count]:
        interest = interest_wad(file, balance, due.at_ms - last_ms)
        units = -(-(due.principal_wad + interest) // UNIT_WAD) + more
        balance -= units * UNIT_WAD - interest
        last_ms = due.at_ms
        rows.append(f'{{at: "{format_instant(due.at_ms - early_ms)}", amount: {units}}}')
    return f"[{', '.join(rows)}]", balance


@pytest.mark.parametrize(
    ("old", "new"),
    [(ROUTER, "0x12"), (TERMS, "0x5a"), (TERMS, TERMS[2:]), (f'address: "{ROUTER}", ', "")],
)
def test_a_router_that_no_chain_could_have_is_refused_with_its_line(old, new):
    text = loan_text(["S0001"], extra=NAMED.replace(old, new))
    with pytest.raises(FileError, match=r"loan\.yaml:13: router"):
        read_loan(text, "loan.yaml")


def test_a_loan_that_names_no_router_is_compared_with_nothing():
    file = read_loan(loan_text(["S0001"]), "loan.yaml")
    assert compare(file, said(1), LATE_MS).findings == ()


def test_who_pays_early_pays_the_same_and_is_no_liar():
    """The router asks for the whole period's interest however early a payment comes."""
    text, balance = paid(loan(), 6, early_ms=5 * DAY_MS)
    assert codes(loan(text), said(balance)) == ["chain.agrees"]


@given(
    count=st.integers(0, 7),
    early_ms=st.integers(0, 5 * DAY_MS),
    more=st.integers(0, 2_000_000_000),
    off=st.integers(-(10**6), 10**6).filter(lambda one: abs(one) > 10_000),
)
def test_the_routers_own_balance_never_disputes_and_another_does(count, early_ms, more, off):
    text, balance = paid(loan(), count, early_ms, more)
    file = loan(text)
    assert not compare(file, said(balance), LATE_MS).disputed
    if early_ms == 0:  # then the file can mean but one balance
        assert compare(file, said(balance + off * UNIT_WAD), LATE_MS).disputed


def test_a_payment_after_the_block_has_not_been_made_there():
    text, _ = paid(loan(), 3)
    assert codes(loan(text), said(LENT_WAD, at_ms=NOW - DAY_MS * 5)) == [
        "chain.unknown",  # so old a block says so
        "chain.agrees",
    ]


@pytest.mark.parametrize(
    "other", [{"router": "0x" + "11" * 20}, {"loan_terms_hash": "0x" + "11" * 32}, {"chain_id": 1}]
)
def test_a_reading_of_other_terms_than_the_file_names_is_none(other):
    assert codes(loan(), said(1, **other)) == ["chain.unknown"]


def test_how_an_address_is_written_makes_no_difference():
    view = said(router=ROUTER.lower(), loan_terms_hash=TERMS.upper().replace("X", "x"))
    assert codes(loan(), view) == ["chain.agrees"]


def test_an_old_reading_says_that_it_is_old():
    assert codes(loan(), said(), LATE_MS + AGE_MAX_MS) == ["chain.agrees"]
    assert codes(loan(), said(), LATE_MS + AGE_MAX_MS + 1) == ["chain.unknown", "chain.agrees"]


def test_a_repaid_loan_is_repaid_in_both():
    file = loan(extra="status: repaid\n")
    assert codes(file, said(0, status=RouterStatus.REPAID)) == ["chain.agrees"]
    assert codes(file, said(0)) == ["chain.differs"]
    assert codes(file, said(UNIT_WAD * 3, status=RouterStatus.REPAID)) == ["chain.differs"]


def test_the_covenant_is_disputed_too_moves_nothing_and_its_record_says_why():
    measured = Measured()
    named = replace_struct(measured.loan, router=loan().router)
    loans = tuple(replace(one, file=named) for one in measured.known.loans)
    measured.position(loans=loans)
    book = measured.appraise(NOW + 1, chain={"loan-1": said(1, at_ms=NOW)})
    one = book.covenants["loan-1"]
    assert book.positions["loan-1"].state is State.DISPUTED
    assert (one.state.disputed, one.state.level) == (True, Level.CURRENT)
    (told,) = one.transitions
    assert told.code == "disputed.begun"
    assert "router" in told.detail
    before = measured.appraise(NOW).covenants["loan-1"]
    assert before.state.disputed
    wad = measured.loan.principal_wad
    agreed = measured.position(NOW + 2, chain={"loan-1": said(wad, at_ms=NOW)})
    assert [each.code for each in agreed.transitions] == ["disputed.ended"]


def test_a_record_of_an_older_version_is_taken_again_as_it_was():
    measured = Measured()
    one = measured.position()
    record = Record(
        loan="loan-1",
        covenant_sha256=one.state.covenant_sha256,
        methodology="00",
        at_ms=NOW,
        inputs=one.inputs,
        state=one.state,
        transitions=one.transitions,
    )
    assert replay({sha256_of(measured.covenant): measured.covenant}, [record]) == one.state
