"""Loan files, schedules, debt and positions."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import date

import pytest

from assay_core.errors import FileError
from assay_core.instants import DAY_MS, HOUR_MS, format_instant, parse_instant
from assay_core.money import ZERO, Usd
from assay_valuer.book import appraise
from assay_valuer.credit.loan import LoanStatus, from_json, to_json
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.position import Pledge, State, position
from assay_valuer.credit.schedule import arrears, debt_at, due_dates, interest_wad, schedule
from assay_valuer.policy import Assurance, ValuerPolicy
from assay_valuer.standing.trust import AssetTrust, Transition, Verdict
from assay_valuer.standing.types import Cause, Condition
from tests.fakes.collateral import (
    NOW,
    PART,
    asset,
    book,
    claimed,
    host,
    loan_file,
    loan_text,
    snapshot,
)

SERIALS = ["S0001", "S0002", "S0003", "S0004"]
GPUS = [asset(number) for number in range(1, 5)]
WIRED = '{at: "2026-11-12T00:00:00Z", amount: 1, reference: wire-7}'
CONTRACT = (
    '{counterparty: Initech, usd_per_gpu_hour: "2.10", until: "2027-06-30", '
    f'default_bps_per_year: 250, document_sha256: "{"ab" * 32}"}}'
)
PAID = '[{at: "2026-11-15T05:00:00Z", amount: 2000000000}]'


# ---------------------------------------------------------------------------- the file


def test_a_loan_reads_back_from_what_is_stored_even_with_wide_numbers():
    loan = loan_file(SERIALS, token_id=2**255)
    assert from_json(to_json(loan)) == loan


@pytest.mark.parametrize(
    ("old", "new", "line", "field"),
    [
        ("id: loan-1", "id: loan 1", 1, "id"),
        ("chain_id: 42161", "chain: 42161", 2, "chain"),
        ("chain_id: 42161\n", "", 1, "chain_id"),
        ("[7]", "[7, 8]", 4, "collateral_token_ids"),
        ("[7]", "[-1]", 4, "collateral_token_ids"),
        ("decimals: 6", "decimals: 19", 5, "currency.decimals"),
        ("day: 15", "day: 32", 6, "repayment.day"),
        ("1095", "4001", 6, "total_duration_days"),
        ("    amount: 100000000000", "    amount: 0", 9, "tranches.0.amount"),
        ("    rate: 3805175038", "    rate: 0", 10, "tranches.0.rate"),
        ("    rate: 3805175038", "    rate: 0.12", 10, "rate"),
        ("2026-11-10T00:00:00Z", "2026-11-10", 11, "originated_at"),
        (
            "payments: []",
            'payments: [{at: "2026-11-09T00:00:00Z", amount: 1}]',
            12,
            "payments.0.at",
        ),
        ("payments: []", 'payments: [{at: "soon", amount: 1}]', 12, "payments.0.at"),
        ("payments: []", f"payments: [{WIRED}, {WIRED}]", 12, "payments.1.reference"),
        ("payments: []", f"payments: [{WIRED.replace('wire-7', 'wire 7')}]", 12, "reference"),
        ("payments: []", "payments: []\nstatus: late", 13, "status"),
        ('"S0002"', '"S0001"', 15, "pledge.1.serial"),
        ('"S0002"', '""', 15, "serial"),
        ("payments: []", "payments: []\npayments: []", 13, "payments"),
        ("payments: []", "sellers: [acme, '---']", 12, "sellers.1"),
        ("payments: []", f"contracts: [{CONTRACT.replace('2.10', '0')}]", 12, "usd_per_gpu_hour"),
        ("payments: []", f"contracts: [{CONTRACT.replace('2.10', '2.1234567')}]", 12, "2.1234567"),
        ("payments: []", f"contracts: [{CONTRACT.replace('2.10', '1000.01')}]", 12, "1000.01"),
        ("payments: []", f"contracts: [{CONTRACT.replace('2027', '2026')}]", 12, "until"),
        ("payments: []", f"contracts: [{CONTRACT.replace('06-30', '06-31')}]", 12, "06-31"),
        ("payments: []", f"contracts: [{CONTRACT.replace('250', '10001')}]", 12, "default_bps"),
        ("payments: []", f"contracts: [{CONTRACT.replace('ab', 'AB', 1)}]", 12, "document_sha256"),
        ("payments: []", f"contracts: [{CONTRACT}, {CONTRACT}]", 12, "contracts.1"),
        ("payments: []", f"contracts: [{CONTRACT[:-1]}, gpus: [S0009]}}]", 12, "S0009"),
        (
            "payments: []",
            f"contracts: [{CONTRACT.replace(chr(34) + '2.10' + chr(34), '2.10')}]",
            12,
            "usd_per",
        ),
        ("payments: []", 'reserves: [{usd: "-1", reason: landlord}]', 12, "reserves.0.usd"),
        ("payments: []", 'reserves: [{usd: "1", reason: ""}]', 12, "reserves.0.reason"),
        (
            f'"S0002", board_part_number: "{PART}"',
            f'"S0002", board_part_number: "{PART}", warranty_until: "2027-02-30"',
            15,
            "warranty_until",
        ),
        (
            f'"S0002", board_part_number: "{PART}"',
            f'"S0002", board_part_number: "{PART}", warranty_until: "soon"',
            15,
            "warranty_until",
        ),
    ],
)
def test_a_wrong_loan_file_is_refused_with_its_line_and_field(old, new, line, field):
    text = loan_text(SERIALS)
    assert old in text
    with pytest.raises(FileError) as caught:
        read_loan(text.replace(old, new, 1), "loan.yaml")
    assert f"loan.yaml:{line}:" in str(caught.value)
    assert field in str(caught.value)


def test_what_the_borrower_says_beside_the_terms_is_read_in_whole_numbers():
    extra = (
        "sellers: [Acme Cloud, acme.ai]\n"
        f"contracts: [{CONTRACT[:-1]}, gpus: [S0001, S0003]}}]\n"
        'reserves: [{usd: "1200.50", reason: landlord}, {usd: "3", reason: carrier}]\n'
    )
    text = loan_text(SERIALS, extra=extra).replace(
        f'"S0002", board_part_number: "{PART}"',
        f'"S0002", board_part_number: "{PART}", warranty_until: "2028-02-29"',
    )
    loan = read_loan(text, "loan.yaml")
    assert loan.sellers == ("Acme Cloud", "acme.ai")
    (contract,) = loan.contracts
    assert (contract.micros_per_hour, contract.default_bps_per_year) == (2_100_000, 250)
    assert contract.until_day == date(2027, 6, 30).toordinal()
    assert loan.contracts_by_serial() == dict.fromkeys(("S0001", "S0003"), contract)
    assert loan.reserved == Usd(1_203_500_000)
    assert [one.warranty_day for one in loan.pledge[:2]] == [None, date(2028, 2, 29).toordinal()]
    assert from_json(to_json(loan)) == loan


def test_a_contract_that_names_no_gpus_is_of_all_of_them():
    loan = loan_file(SERIALS, extra=f"contracts: [{CONTRACT}]\n")
    assert set(loan.contracts_by_serial()) == set(SERIALS)


def test_a_loan_that_an_older_version_stored_reads_back():
    stored = json.loads(to_json(loan_file(SERIALS)))
    for name in ("sellers", "contracts", "reserves", "schedule", "router"):
        del stored[name]
    for gpu in stored["pledge"]:
        del gpu["warranty_until"]
    assert from_json(json.dumps(stored)) == loan_file(SERIALS)


# ---------------------------------------------------------------------------- schedule and debt


def test_due_dates_follow_the_loans_own_day_and_offset():
    stub, dates = due_dates(loan_file(SERIALS))
    assert stub
    assert format_instant(dates[0]) == "2026-11-15T05:00:00.000Z"  # midnight at UTC-5
    assert format_instant(dates[-1]) == "2029-11-15T05:00:00.000Z"
    assert len(dates) == 37


def test_a_day_that_a_month_does_not_have_is_its_last():
    text = loan_text(SERIALS, originated_at="2027-01-31T12:00:00Z").replace("day: 15", "day: 31")
    stub, dates = due_dates(read_loan(text, "loan.yaml"))
    assert not stub
    assert [format_instant(one)[:10] for one in dates[:3]] == [
        "2027-02-28",
        "2027-03-31",
        "2027-04-30",
    ]


def test_the_schedule_is_level_after_an_interest_only_stub_and_clears_the_balance():
    dues = schedule(loan_file(SERIALS))
    assert dues[0].principal_wad == 0
    assert dues[-1].balance_after_wad == 0
    assert sum(one.principal_wad for one in dues) == 100_000 * 10**18
    payments = [one.principal_wad + one.interest_wad for one in dues[1:-1]]
    assert max(payments) == min(payments)
    # 100,000 at 1% a month for 36 months is 3,321.43; ours is by the second, on 365 days a year.
    assert 3_320 * 10**18 < payments[0] < 3_325 * 10**18
    assert abs(dues[-1].principal_wad + dues[-1].interest_wad - payments[0]) < 60 * 10**18


def test_interest_accrues_by_the_second_and_is_rounded_up():
    loan = loan_file(SERIALS)
    begin = parse_instant("2026-11-10T00:00:00Z")
    assert debt_at(loan, begin).owed == Usd.parse("100000")
    assert debt_at(loan, begin - DAY_MS).owed == Usd.parse("100000")
    # 100,000 × 3805175038e-18 × 3,600 s = 1.36986301368, rounded up to a micro-dollar
    assert debt_at(loan, begin + HOUR_MS).owed == Usd(100_001_369_864)
    year = debt_at(loan, begin + 365 * DAY_MS).owed
    assert Usd.parse("111999.99") < year < Usd.parse("112000.01")
    assert interest_wad(loan, 1, 1) == 1


def test_a_payment_pays_interest_first_and_one_that_is_still_to_come_pays_nothing():
    loan = loan_file(SERIALS, payments=PAID)
    paid_ms = parse_instant("2026-11-15T05:00:00Z")
    before, after = debt_at(loan, paid_ms - 1), debt_at(loan, paid_ms)
    assert before.balance_wad == 100_000 * 10**18
    assert after.interest_wad == 0
    full = loan_file(SERIALS)
    assert after.owed == debt_at(full, paid_ms).owed - Usd.parse("2000")


def test_more_than_is_owed_leaves_nothing_owed():
    text = '[{at: "2026-11-15T05:00:00Z", amount: 200000000000}]'
    assert debt_at(loan_file(SERIALS, payments=text), NOW).owed == ZERO


def test_arrears_are_what_the_schedule_foresaw_and_nobody_paid():
    loan = loan_file(SERIALS)
    due_ms = parse_instant("2026-11-15T05:00:00Z")
    assert arrears(loan, due_ms - 1) == ZERO
    assert Usd.parse("171") < arrears(loan, due_ms) < Usd.parse("172")
    assert arrears(loan_file(SERIALS, payments=PAID), due_ms) == ZERO


def test_a_repaid_loan_owes_nothing():
    loan = loan_file(SERIALS, extra="status: repaid\n")
    assert loan.status is LoanStatus.REPAID
    assert debt_at(loan, NOW).owed == ZERO


# ---------------------------------------------------------------------------- positions


def of(assets, policy=None, **changed):
    held = book(assets, policy, **changed)
    (one,) = held.positions.values()
    return one


def test_a_loan_is_measured_against_what_counts_gross_and_net():
    position = of(GPUS)
    # OLV 4 × 18,700.425; NOLV 4 × 13,090.2975; debt 100,000 and 8.4 days' interest
    assert position.values is not None
    assert position.values.olv.mid == Usd(74_801_700_000)
    assert position.ltv_gross_bps == -(-position.debt.micros * 10_000 // 74_801_700_000)
    assert position.ltv_net_bps == -(-position.debt.micros * 10_000 // 52_361_190_000)
    # L0: a tenth of what is lent on, which is at most 18,000 × 85% × 70% × 70% of each
    (lending,) = {line.valuation.lending for line in book(GPUS).lines.values()}
    assert ZERO < lending <= Usd(7_497_000_000)
    assert position.lendable == Usd(lending.micros // 10 * 4)
    assert (position.coverage_bps, position.counted, position.assurance) == (10_000, 4, 0)
    assert position.observed_ms == NOW
    assert {"watch.ltv", "watch.arrears", "covenant.none"} <= {f.code for f in position.findings}
    assert position.state is State.WATCH


def test_a_small_paid_up_debt_is_current():
    loan = loan_file(SERIALS, amount=20_000_000_000, payments=PAID)
    position = of(GPUS, loan=loan)
    assert position.state is State.CURRENT
    assert [finding.code for finding in position.findings] == [
        *(f"haircut.{step}" for step in STEPS if step in taken_off(position)),
        "lendable.short",
        "covenant.none",
        "concentration.model",
        "concentration.site",
    ]


STEPS = ("uncertainty", "sale", "market", "together", "disagreement", "assurance", "reserves")


def taken_off(position):
    """What each named step has taken (given back: negative) and of what, in dollars and cents."""
    found = {}
    for one in position.findings:
        if one.code.startswith("haircut.") and one.code != "haircut.lot":
            amounts = re.findall(r"\$([\d,]+\.\d\d)", one.detail)
            taken, of_what = (float(amount.replace(",", "")) for amount in amounts[:2])
            found[one.code[8:]] = (-taken if "given back" in one.detail else taken, of_what)
    return found


def test_each_haircut_on_the_way_from_olv_to_what_is_lendable_is_named_with_its_amount():
    extra = 'reserves: [{usd: "100.00", reason: the landlord}]\n'
    position = of(GPUS, loan=loan_file(SERIALS, payments=PAID, extra=extra))
    steps = taken_off(position)
    assert set(steps) <= set(STEPS)
    assert {"uncertainty", "sale", "market", "together", "assurance", "reserves"} <= set(steps)
    # 4 × 18,000 × 85% is one in ten's OLV, 30% goes for the sale, and 30% for a fall until then
    assert steps["uncertainty"] == (13_601.70, 74_801.70)
    assert steps["sale"] == (18_360.00, 61_200.00)
    assert steps["market"] == (12_852.00, 42_840.00)
    # an error of 0.25 makes 0.320 with 0.357 for the fall: 0.677 together, and 0.480 by their squares
    back, of_what = steps["together"]
    assert of_what == 29_988.00
    assert abs(-back / of_what - 0.218) < 0.01
    left = 74_801.70
    for name in STEPS:
        if name in steps:
            taken, of_what = steps[name]
            assert abs(of_what - left) < 0.1, name
            left -= taken
    assert abs(left - position.lendable.micros / 1e6) < 0.1
    found = {one.code: one for one in position.findings}
    assert found["haircut.assurance"].effect_bps in (999, 1_000)
    assert "the landlord" in found["haircut.reserves"].detail
    assert "lendable.short" in found


def test_what_is_lendable_covers_a_small_debt_and_is_never_below_nothing():
    small = of(GPUS, loan=loan_file(SERIALS, amount=2_100_000_000, payments=PAID))
    assert "lendable.short" not in {one.code for one in small.findings}
    extra = 'reserves: [{usd: "900000", reason: a prior lien}]\n'
    assert of(GPUS, loan=loan_file(SERIALS, extra=extra)).lendable == ZERO


def test_where_it_is_not_known_what_to_lend_on_nothing_is():
    pledges = [
        Pledge(one.asset.label, one.standing, replace(one.valuation, lending=lending))
        for one, lending in zip(
            book(GPUS).lines.values(), (None, None, *([Usd(10**9)] * 2)), strict=True
        )
    ]
    found = position(loan_file(SERIALS), pledges, ValuerPolicy(), NOW)
    assert found.lendable == Usd(2 * 10**8)
    assert found.counted == 4
    assert "lendable.unknown" in {one.code for one in found.findings}


def test_no_more_than_the_cap_of_nolv_is_lent_whatever_a_valuation_says():
    pledges = [
        Pledge(one.asset.label, one.standing, replace(one.valuation, lending=Usd(10**15)))
        for one in book(GPUS).lines.values()
    ]
    found = position(loan_file(SERIALS), pledges, ValuerPolicy(), NOW)
    assert found.values is not None
    assert found.lendable == found.values.nolv.mid.times_down(1_000, 10_000)


def test_a_gpu_that_fell_silent_is_in_no_number_but_the_memory_and_the_loan_is_stale():
    lost = Condition(boot_id="aa", lost=True)
    gone = replace(
        GPUS[0], track=replace(GPUS[0].track, missing_since_ms=NOW - HOUR_MS, condition=lost)
    )
    whole = book(GPUS)

    after = appraise(
        replace(snapshot([gone, *GPUS[1:]]), remembered=whole.remembered), ValuerPolicy(), NOW
    )
    position = after.positions["loan-1"]
    assert position.values is not None
    assert position.values.olv.mid == Usd(3 * 18_700_425_000)
    assert (position.coverage_bps, position.counted) == (7_500, 3)
    assert (position.state, position.causes, position.stale) == (State.STALE, (Cause.GPU,), True)
    assert position.uncounted_olv == Usd(18_700_425_000)


def test_where_nothing_counts_the_ltv_is_unknown_and_not_zero():
    position = of([asset(1, seen=False)], loan=loan_file(["S0001"]))
    assert position.values is None
    assert (position.ltv_gross_bps, position.ltv_net_bps) == (None, None)
    assert (position.coverage_bps, position.lendable) == (0, ZERO)
    assert "watch.unknown" in {finding.code for finding in position.findings}


def test_a_gpu_of_unknown_value_is_not_counted():
    position = of([*GPUS[:3], asset(4, name="NVIDIA H999")])
    assert (position.counted, position.coverage_bps) == (3, 7_500)
    assert {"value.unknown", "watch.coverage"} <= {f.code for f in position.findings}


def test_a_disputed_gpu_makes_a_disputed_loan_and_still_counts():
    position = of([claimed(GPUS[0], Verdict.DISPUTED), *GPUS[1:]])
    assert (position.state, position.counted) == (State.DISPUTED, 4)


def test_a_host_within_its_grace_counts_and_ages_the_evidence():
    old = HOUR_MS
    hosts = [host(), host(2, age_ms=old)]
    position = of([*GPUS[:3], asset(4, host_key=2, age_ms=old)], hosts=hosts)
    assert (position.counted, position.observed_ms) == (4, NOW - old)
    assert not position.stale


def test_one_counted_of_very_many_is_still_some_coverage():
    many = [asset(1), *(asset(n, seen=False) for n in range(2, 20_002))]
    assert of(many, loan=loan_file(["S0001"])).coverage_bps == 1


def test_assurance_caps_are_as_the_design_has_them():
    cap = Assurance().cap_bps
    assert [cap(level) for level in range(5)] == [1_000, 2_500, 6_000, 7_000, 8_000]
    assert [cap(level | 128) for level in range(5)] == [2_500, 4_000, 7_500, 8_500, 9_500]


def in_transition(one, until_ms=NOW + 14 * DAY_MS):
    under_way = Transition(
        event_id=1,
        kind="gpu_replacement",
        begin_ms=NOW - DAY_MS,
        until_ms=until_ms,
        why="RMA",
        other_asset=99,
    )
    return replace(one, trust=AssetTrust(transitions=(under_way,)))


def test_a_gpu_in_transition_counts_and_makes_the_rest_no_older():
    gone = asset(4, age_ms=5 * DAY_MS, missing_since_ms=NOW - 5 * DAY_MS)
    position = of([*GPUS[:3], in_transition(gone)])
    assert (position.counted, position.observed_ms) == (4, NOW)


def test_where_everything_is_in_transition_the_evidence_is_as_old_as_it_is():
    gone = [in_transition(asset(n, age_ms=n * DAY_MS)) for n in (1, 2, 3, 4)]
    assert of(gone).observed_ms == NOW - 4 * DAY_MS
