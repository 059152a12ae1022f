"""Which GPUs share a case, and what stands in it: read off loans, hosts and what people signed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import msgspec
import pytest

from assay_core.covenant import Premise
from assay_core.instants import DAY_MS
from assay_core.leaves import Severity
from assay_core.money import Usd
from assay_valuer.book import Loan, appraise, methodology
from assay_valuer.cases import day_of
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.policy import DEFAULT
from assay_valuer.results import stored_line
from assay_valuer.valuation.case import Appraisal, Board, Override, from_json, to_json
from tests.fakes.collateral import (
    NOW,
    asset,
    book,
    host,
    loan_file,
    loan_text,
    prices,
    record,
    snapshot,
)
from tests.fakes.valuing import H100

TODAY = day_of(NOW)
SHA = "ab" * 32


def subjects(made):
    """The subject of each asset's case, by the asset's number."""
    return {one: made.cases[line.valuation.case_sha256].subject for one, line in made.lines.items()}


def test_a_day_is_the_utc_day():
    assert day_of(0) == date(1970, 1, 1).toordinal()
    assert day_of(NOW) == date(2026, 11, 18).toordinal()
    assert day_of(NOW - NOW % DAY_MS) == day_of(NOW)
    assert day_of(NOW - NOW % DAY_MS - 1) == day_of(NOW) - 1


def test_gpus_that_are_alike_share_one_case_and_one_valuation():
    made = book([asset(n) for n in range(1, 9)])
    assert len(made.cases) == 1
    assert len({id(line.valuation) for line in made.lines.values()}) == 1
    (case,) = made.cases.values()
    assert (case.subject.name, case.subject.lot, case.subject.board) == (H100, 8, Board.WHOLE)
    assert (case.day, case.policy_sha256, case.prices_sha256) == (
        TODAY, DEFAULT.sha256, prices().sha256,
    )  # fmt: skip
    (row,) = case.table
    assert (row.condition, row.mid_micros, row.day) == (
        "used", 22_000_500_000, date(2026, 11, 1).toordinal(),
    )  # fmt: skip
    assert from_json(to_json(case)) == case


@pytest.mark.parametrize(
    ("gpus", "board"),
    [(1, "partial"), (3, "partial"), (4, "whole"), (7, "partial"), (8, "whole"), (9, "partial")],
)
def test_a_baseboard_is_whole_where_all_of_it_is_pledged(gpus, board):
    """HGX boards of H100s have 4 or 8."""
    made = book([asset(n) for n in range(1, gpus + 1)])
    assert {one.board.value for one in subjects(made).values()} == {board}


def test_what_needs_no_baseboard_has_none():
    made = book([asset(1, name="NVIDIA L40S"), asset(2, name="NVIDIA H999"), asset(3, seen=False)])
    assert {one.board for one in subjects(made).values()} == {Board.NONE}


def held(assets, *loans, hosts=None):
    """A book of loans with the assets of each."""
    base = snapshot(assets, hosts=hosts)
    made = tuple(
        Loan(loan_file([one.serial for one in mine], loan_id=f"loan-{n}", token_id=n),
             n.to_bytes(32, "big"), tuple(one.id for one in mine))
        for n, mine in enumerate(loans)
    )  # fmt: skip
    return appraise(replace(base, loans=made), DEFAULT, NOW)


def test_a_board_shared_between_two_loans_is_whole_for_neither():
    gpus = [asset(n) for n in range(1, 9)]
    made = held(gpus, gpus[:4], gpus[4:])
    assert {one.board for one in subjects(made).values()} == {Board.PARTIAL}
    assert {one.lot for one in subjects(made).values()} == {4}


def test_a_board_of_which_some_are_pledged_to_nobody_is_not_whole():
    gpus = [asset(n) for n in range(1, 9)]
    made = held(gpus, gpus[:4])
    assert {one.board for one in subjects(made).values()} == {Board.PARTIAL}
    assert [one.lot for one in subjects(made).values()] == [4] * 4 + [1] * 4


def test_one_that_its_host_says_is_gone_takes_nothing_from_the_others():
    gpus = [*(asset(n) for n in range(1, 9)), asset(9, missing_since_ms=NOW - DAY_MS)]
    made = held(gpus, gpus[:8])
    assert subjects(made)[1].board is Board.WHOLE


def test_boards_are_of_one_host_and_lots_of_a_loan():
    gpus = [asset(n, host_key=1 + n // 6) for n in range(1, 9)]  # five here, three there
    made = held(gpus, gpus, hosts=[host(1), host(2)])
    assert {one.board for one in subjects(made).values()} == {Board.PARTIAL}
    assert {one.lot for one in subjects(made).values()} == {8}


def test_a_degraded_one_has_a_case_of_its_own():
    made = book([asset(1), *(asset(n, incidents=(record(Severity.DEGRADED),)) for n in (2, 3, 4))])
    assert [one.degraded for one in subjects(made).values()] == [False, True, True, True]
    assert len(made.cases) == 2


CONTRACTS = """\
contracts:
  - counterparty: Big Lab
    usd_per_gpu_hour: "2.25"
    until: "2028-01-31"
    default_bps_per_year: 150
    document_sha256: "{sha}"{gpus}
"""


def contracted(assets, gpus=""):
    text = loan_text([one.serial for one in assets], extra=CONTRACTS.format(sha=SHA, gpus=gpus))
    return book(assets, loan=read_loan(text, "loan.yaml"))


def test_a_contract_is_of_the_gpus_that_it_names():
    gpus = [asset(n) for n in range(1, 5)]
    contracts = [
        one.contract for one in subjects(contracted(gpus, '\n    gpus: ["S0002"]')).values()
    ]
    assert [one is None for one in contracts] == [True, False, True, True]
    found = contracts[1]
    assert (found.counterparty, found.micros_per_hour) == ("Big Lab", 2_250_000)
    assert (found.until, found.default_bps_per_year, found.document_sha256) == (
        date(2028, 1, 31).toordinal(), 150, SHA,
    )  # fmt: skip


def test_a_contract_that_names_none_is_of_all_and_they_share_a_case():
    made = contracted([asset(n) for n in range(1, 5)])
    assert len(made.cases) == 1
    assert all(one.contract is not None for one in subjects(made).values())


def test_a_warranty_is_of_the_gpu_that_the_loans_file_says_it_of():
    gpus = [asset(n) for n in range(1, 5)]
    loan = loan_file([one.serial for one in gpus])
    pledge = tuple(
        msgspec.structs.replace(one, warranty_until="2028-06-30" if one.serial == "S0003" else None)
        for one in loan.pledge
    )
    made = book(gpus, loan=msgspec.structs.replace(loan, pledge=pledge))
    until = date(2028, 6, 30).toordinal()
    assert [one.warranty_until for one in subjects(made).values()] == [None, None, until, None]


def test_what_people_signed_of_one_gpu_is_in_its_case_alone():
    base = snapshot([asset(n) for n in range(1, 5)])
    one = Appraisal(
        appraiser="dora",
        premise=Premise.FMV,
        micros=20_000_000_000,
        day=TODAY - 9,
        document_sha256=SHA,
    )
    two = msgspec.structs.replace(one, appraiser="carl")
    override = Override(
        micros=17_500_000_000, reason="a flood", until=TODAY, signed_by=("lena", "luis"), position=9
    )
    made = appraise(
        replace(base, appraisals={1: (one, two), 99: (one,)}, overrides={2: override}), DEFAULT, NOW
    )
    cases = {n: made.cases[line.valuation.case_sha256] for n, line in made.lines.items()}
    assert cases[1].appraisals == (two, one)  # by day, then by name
    assert cases[2].override == override
    assert cases[3] == cases[4]
    assert (cases[3].appraisals, cases[3].override) == ((), None)
    assert made.lines[2].valuation.values.fmv.mid == Usd(17_500_000_000)
    other_way = appraise(replace(base, appraisals={1: (two, one)}), DEFAULT, NOW)
    assert other_way.lines[1].valuation.case_sha256 == made.lines[1].valuation.case_sha256


def test_the_methodology_names_method_policy_prices_and_fit():
    from assay_valuer.forecast.fit import fit
    from tests.fakes.quoted_market import DAY, rows
    from tests.fakes.quoted_market import snapshot as market

    fitted = fit(market(rows(days=60)), None, DAY)
    policy = msgspec.structs.replace(DEFAULT, name="other")
    hashes = {
        methodology(DEFAULT, None),
        methodology(policy, None),
        methodology(DEFAULT, prices()),
        methodology(DEFAULT, prices(), fitted),
    }
    assert len(hashes) == 4


def test_a_line_of_no_known_product_names_no_case():
    made = book([asset(1, name="NVIDIA H999"), asset(2, seen=False), asset(3, name="NVIDIA H200")])
    lines = {n: stored_line(line, None) for n, line in made.lines.items()}
    assert [lines[n].case_sha256 is None for n in (1, 2, 3)] == [True, True, False]
    assert lines[3].values is None  # it says why, and that can be replayed


def test_the_instant_changes_no_value_and_the_day_names_another_case():
    base = snapshot([asset(n) for n in range(1, 5)])
    dawn, dusk, next_day = (appraise(base, DEFAULT, NOW + ms) for ms in (0, 3_600_000, DAY_MS))
    assert set(dawn.cases) == set(dusk.cases)
    assert set(dawn.cases) != set(next_day.cases)
    first, second = dawn.lines[1], dusk.lines[1]
    assert first.valuation is second.valuation
