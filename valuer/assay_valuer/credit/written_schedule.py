"""Whether a schedule that the parties wrote adds up: its days, its principals, each interest. Pure.

How the principal is spread is the parties' business: a schedule need not be level. When it is due,
that it pays back what was lent and no more, and what each period's interest comes to, follow from the
terms.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

from assay_core.files import Path
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.schedule import due_dates, due_days, interest_wad


def schedule_problems(loan: LoanFile) -> Iterable[tuple[Path, str]]:
    """What does not add up: where, and both numbers. Amounts are in the token's own units."""
    if not loan.schedule:
        return
    yield from _days(loan)
    yield from _amounts(loan)


def _days(loan: LoanFile) -> Iterable[tuple[Path, str]]:
    wanted = due_days(loan)
    for index, (one, day) in enumerate(zip_longest(loan.schedule, wanted)):
        if one is None:
            message = f"ends after {index} payments, and the terms have {len(wanted)}"
            yield ("schedule", index - 1, "due"), message
            return
        if day is None:
            message = f"has {len(loan.schedule)} payments, and the terms have {len(wanted)}"
            yield ("schedule", index, "due"), message
            return
        if one.due != day:
            message = f"{one.due}, and by the terms payment {index + 1} is due on {day}"
            yield ("schedule", index, "due"), message


def _amounts(loan: LoanFile) -> Iterable[tuple[Path, str]]:
    lent = sum(tranche.amount for tranche in loan.tranches)
    balance, last_ms = lent, loan.originated_ms
    _, dates = due_dates(loan)
    for index, (one, at_ms) in enumerate(zip(loan.schedule, dates, strict=False)):
        for field, amount in (("principal", one.principal), ("interest", one.interest)):
            if amount < 0:
                yield ("schedule", index, field), f"{amount} is below zero"
        interest = -(-interest_wad(loan, balance * loan.scale, at_ms - last_ms) // loan.scale)
        if abs(one.interest - interest) > rounding_units(loan):
            message = f"{one.interest}, and the terms make it {interest} on a balance of {balance}"
            yield ("schedule", index, "interest"), message
        balance -= one.principal
        if balance < 0:
            message = f"the principals up to here come to {lent - balance}, and {lent} was lent"
            yield ("schedule", index, "principal"), message
        last_ms = at_ms
    if balance != 0:
        message = f"the principals come to {lent - balance}, and {lent} was lent"
        yield ("schedule", len(loan.schedule) - 1, "principal"), message


def rounding_units(loan: LoanFile) -> int:
    """By how much an interest may be off: a cent, or a unit for each tranche and one more."""
    cent = 10 ** max(0, loan.currency.decimals - 2)
    return int(max(cent, len(loan.tranches) + 1))
