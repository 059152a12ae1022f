"""A schedule that the parties wrote: taken where it adds up, refused by line, field and both numbers."""

from __future__ import annotations

import json
from datetime import date

import pytest

from assay_core.errors import FileError
from assay_core.instants import parse_instant
from assay_core.money import Usd
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.schedule import arrears, due_days, level_schedule, schedule
from tests.fakes.collateral import loan_file, loan_text

LENT = 100_000_000_000
RATE = 3_805_175_038  # per second, 18 decimals


def days() -> list[str]:
    """The 15th of each month, the first after 10 November 2026, the last after 1,095 days."""
    found = []
    for month in range(10, 10 + 37):
        found.append(date(2026 + month // 12, month % 12 + 1, 15).isoformat())
    return found


def straight(last_more: int = 0) -> list[dict[str, object]]:
    """A stub, then 36 equal principals, the last of them what is left; interest by hand."""
    rows: list[dict[str, object]] = []
    balance, before = LENT, parse_instant("2026-11-10T00:00:00Z")
    for index, day in enumerate(days()):
        at_ms = parse_instant(f"{day}T00:00:00-05:00")
        interest = -(-balance * RATE * ((at_ms - before) // 1000) // 10**18)
        principal = 0 if index == 0 else LENT // 36 if index < 36 else balance + last_more
        rows.append({"due": day, "principal": principal, "interest": interest})
        balance -= principal
        before = at_ms
    return rows


def text(rows: list[dict[str, object]]) -> str:
    lines = "".join(f"  - {json.dumps(row)}\n" for row in rows)
    return loan_text(["S0001"], extra=f"schedule:\n{lines}")


def read(rows: list[dict[str, object]]) -> LoanFile:
    return read_loan(text(rows), "loan.yaml")


def test_the_days_are_those_of_the_terms():
    assert list(due_days(loan_file(["S0001"]))) == days()


def test_a_schedule_that_adds_up_is_the_loans_schedule_though_it_is_not_level():
    loan = read(straight())
    dues = schedule(loan)
    assert [one.at_ms for one in dues] == [one.at_ms for one in level_schedule(loan)]
    assert dues[1].principal_wad == LENT // 36 * 10**12
    assert dues[1].principal_wad != level_schedule(loan)[1].principal_wad
    assert dues[-1].balance_after_wad == 0
    due = sum(int(str(row["principal"])) + int(str(row["interest"])) for row in straight()[:2])
    assert arrears(loan, parse_instant("2026-12-16T00:00:00Z")) == Usd(due)


def test_the_level_schedule_written_out_is_taken():
    loan = loan_file(["S0001"])
    rows: list[dict[str, object]] = []
    left = LENT
    for day, due in zip(days(), level_schedule(loan), strict=True):
        principal = min(left, due.principal_wad // 10**12) if day != days()[-1] else left
        rows.append({"due": day, "principal": principal, "interest": due.interest_wad // 10**12})
        left -= principal
    assert len(read(rows).schedule) == 37


def test_a_cent_of_rounding_is_nobodys_mistake_and_two_are():
    rows = straight()
    rows[5]["interest"] = int(str(rows[5]["interest"])) + 10_000
    read(rows)
    rows[5]["interest"] = int(str(rows[5]["interest"])) + 10_000
    with pytest.raises(FileError, match=r"schedule\.5\.interest"):
        read(rows)


@pytest.mark.parametrize(
    ("row", "changed", "field", "numbers"),
    [
        (3, {"due": "2027-02-16"}, "due", ("2027-02-16", "2027-02-15")),
        (3, {"due": "2027-02-31"}, "due", ("2027-02-31",)),
        (4, {"interest": 1}, "interest", ("1,", "by hand")),
        (4, {"interest": -1}, "interest", ("-1",)),
        (4, {"principal": -1}, "principal", ("-1",)),
        (36, {"principal": 1}, "principal", (str(LENT // 36 * 35 + 1), str(LENT))),
    ],
)
def test_one_that_does_not_add_up_is_refused_with_line_field_and_both_numbers(
    row, changed, field, numbers
):
    rows = straight()
    by_hand = str(rows[row]["interest"])
    rows[row] |= changed
    content = text(rows)
    (line,) = (
        number for number, one in enumerate(content.splitlines(), 1) if json.dumps(rows[row]) in one
    )
    with pytest.raises(FileError) as caught:
        read_loan(content, "loan.yaml")
    assert str(caught.value).startswith(f"loan.yaml:{line}: schedule.{row}.{field}: ")
    for number in numbers:
        assert number.replace("by hand", by_hand) in str(caught.value)


def test_one_that_pays_back_more_than_was_lent_is_refused():
    with pytest.raises(FileError, match=rf"schedule\.36\.principal: .*{LENT + 5}.*{LENT} was lent"):
        read(straight(last_more=5))


def test_one_payment_too_few_or_too_many_is_refused_with_both_numbers():
    with pytest.raises(FileError, match=r"schedule\.35\.due: ends after 36 .* 37"):
        read(straight()[:-1])
    more = [*straight(), {"due": "2029-12-15", "principal": 0, "interest": 0}]
    with pytest.raises(FileError, match=r"schedule\.37\.due: has 38 .* 37"):
        read(more)
