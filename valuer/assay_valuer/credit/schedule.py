"""What is due when, and what is owed now: integers with 18 decimals, as on chain.

Due dates follow the rules of USD.AI's loan router V2: a day of each month, moved to the month's last
day where it is shorter, at midnight of the loan's own offset from UTC; the first after origination,
the last at or after the loan's duration; a first period that does not begin on a due day is a stub
that pays interest only. Payments after it are level, unless the parties wrote a schedule of their own.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

from msgspec.structs import replace

from assay_core.instants import SECOND_MS
from assay_core.money import Usd
from assay_valuer.credit.loan import WAD, LoanFile, LoanStatus

REMEMBERED_MAX: Final = 4_096
"""Schedules that are remembered: a book's loans."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """One payment of the schedule. Amounts have 18 decimals; interest is rounded up."""

    at_ms: int
    principal_wad: int
    interest_wad: int
    balance_after_wad: int


@dataclass(frozen=True, slots=True)
class Debt:
    """What is owed at an instant: balance plus accrued interest, 18 decimals."""

    balance_wad: int
    interest_wad: int

    @property
    def owed(self) -> Usd:
        """Both together, rounded up to a micro-dollar."""
        return Usd.from_wad_up(self.balance_wad + self.interest_wad)


def due_dates(loan: LoanFile) -> tuple[bool, tuple[int, ...]]:
    """Whether the first period is a stub, and every due date, UTC ms."""
    offset = timedelta(seconds=loan.repayment.timezone_offset_seconds)
    local = _EPOCH + timedelta(milliseconds=loan.originated_ms) + offset
    year, month = local.year, local.month
    anchor = _anchor_day(loan, year, month)
    stub = local.day != anchor
    if local.day >= anchor:
        year, month = _next_month(year, month)
    dates = [_anchor_ms(loan, year, month)]
    while dates[-1] < loan.matures_floor_ms:
        year, month = _next_month(year, month)
        dates.append(_anchor_ms(loan, year, month))
    return stub, tuple(dates)


def due_days(loan: LoanFile) -> tuple[str, ...]:
    """The due dates as days of the loan's own offset, ISO 8601."""
    offset = timedelta(seconds=loan.repayment.timezone_offset_seconds)
    _, dates = due_dates(loan)
    return tuple(
        (_EPOCH + timedelta(milliseconds=at_ms) + offset).date().isoformat() for at_ms in dates
    )


def schedule(loan: LoanFile) -> tuple[Due, ...]:
    """What is due when: as the parties wrote it, or else as the terms foresee."""
    # Remembered by the terms alone: hashing a long pledge would cost more than it saves.
    terms = replace(loan, pledge=loan.pledge[:1], payments=(), sellers=(), contracts=())
    return _schedule(terms)


@lru_cache(maxsize=REMEMBERED_MAX)
def _schedule(loan: LoanFile) -> tuple[Due, ...]:
    return _written(loan) if loan.schedule else level_schedule(loan)


def level_schedule(loan: LoanFile) -> tuple[Due, ...]:
    """The level payments that the terms foresee, the last of which clears the balance.

    The level payment is worked out for periods of equal length (the mean of the actual ones);
    interest is by the actual seconds of each period, so that a payment is level to within the
    difference of the months' lengths.
    """
    stub, dates = due_dates(loan)
    amortising = dates[1:] if stub and len(dates) > 1 else dates
    begin_ms = dates[0] if len(amortising) < len(dates) else loan.originated_ms
    period_s = (amortising[-1] - begin_ms) // SECOND_MS // len(amortising)
    level = _level_wad(loan, period_s, len(amortising))
    balance, last_ms, dues = loan.principal_wad, loan.originated_ms, []
    for at_ms in dates:
        interest = interest_wad(loan, balance, at_ms - last_ms)
        if at_ms == dates[-1]:
            principal = balance
        elif at_ms < amortising[0]:
            principal = 0
        else:
            principal = min(balance, max(0, level - interest))
        balance -= principal
        dues.append(Due(at_ms, principal, interest, balance))
        last_ms = at_ms
    return tuple(dues)


def _written(loan: LoanFile) -> tuple[Due, ...]:
    offset = timedelta(seconds=loan.repayment.timezone_offset_seconds)
    balance, dues = loan.principal_wad, []
    for one in loan.schedule:
        since = datetime.fromisoformat(one.due).replace(tzinfo=UTC) - offset - _EPOCH
        balance -= one.principal * loan.scale
        at_ms = since // timedelta(milliseconds=1)
        dues.append(Due(at_ms, one.principal * loan.scale, one.interest * loan.scale, balance))
    return tuple(dues)


def interest_wad(loan: LoanFile, balance_wad: int, elapsed_ms: int) -> int:
    """Simple interest on a balance at the tranches' weighted rate, rounded up, 18 decimals."""
    principal = sum(tranche.amount for tranche in loan.tranches)
    numerator = balance_wad * loan.weighted_rate * max(0, elapsed_ms)
    return -(-numerator // (principal * WAD * SECOND_MS))


def debt_at(loan: LoanFile, now_ms: int) -> Debt:
    """What is owed: each recorded payment pays interest first, then principal.

    A payment of more than is owed leaves nothing owed, never less. Payments dated after `now_ms`
    have not been made yet.
    """
    if loan.status in (LoanStatus.REPAID, LoanStatus.COLLATERAL_LIQUIDATED):
        return Debt(0, 0)
    balance, unpaid, last_ms = loan.principal_wad, 0, loan.originated_ms
    for payment in _payments(loan):
        at_ms, amount_wad = payment
        if at_ms > now_ms:
            break
        unpaid += interest_wad(loan, balance, at_ms - last_ms)
        to_interest = min(unpaid, amount_wad)
        unpaid -= to_interest
        balance = max(0, balance - (amount_wad - to_interest))
        last_ms = at_ms
    return Debt(balance, unpaid + interest_wad(loan, balance, now_ms - last_ms))


def router_balance_wad(loan: LoanFile, at_ms: int) -> int:
    """The principal left as the router counts: each payment pays the whole interest of the period that
    it is due for, however early it comes, and principal with the rest. Fees are in no payment.
    """
    dates = (loan.originated_ms, *(due.at_ms for due in schedule(loan)))
    balance = loan.principal_wad
    for index, (paid_ms, amount_wad) in enumerate(_payments(loan)):
        if paid_ms > at_ms:
            break
        begin, end = dates[min(index, len(dates) - 1)], dates[min(index + 1, len(dates) - 1)]
        interest = min(amount_wad, interest_wad(loan, balance, end - begin))
        balance = max(0, balance - (amount_wad - interest))
    return balance


def arrears(loan: LoanFile, now_ms: int) -> Usd:
    """How far recorded payments are behind the schedule, rounded up; never negative."""
    due = sum(one.principal_wad + one.interest_wad for one in schedule(loan) if one.at_ms <= now_ms)
    paid = sum(amount for at_ms, amount in _payments(loan) if at_ms <= now_ms)
    return Usd.from_wad_up(max(0, due - paid))


def _payments(loan: LoanFile) -> list[tuple[int, int]]:
    epoch_ms = [datetime.fromisoformat(payment.at) - _EPOCH for payment in loan.payments]
    return [
        (since // timedelta(milliseconds=1), payment.amount * loan.scale)
        for since, payment in zip(epoch_ms, loan.payments, strict=True)
    ]


def _level_wad(loan: LoanFile, period_s: int, count: int) -> int:
    """The level payment over `count` equal periods, rounded up: B·r / (1 − (1 + r)^−n)."""
    principal = sum(tranche.amount for tranche in loan.tranches)
    rate = loan.weighted_rate * period_s // principal  # per period, 18 decimals
    growth = WAD
    for _ in range(count):
        growth = growth * (WAD + rate) // WAD
    if growth == WAD:
        return -(-loan.principal_wad // count)
    return -(-loan.principal_wad * rate * growth // ((growth - WAD) * WAD))


def _anchor_day(loan: LoanFile, year: int, month: int) -> int:
    return min(loan.repayment.day, calendar.monthrange(year, month)[1])


def _anchor_ms(loan: LoanFile, year: int, month: int) -> int:
    local = datetime(year, month, _anchor_day(loan, year, month), tzinfo=UTC)
    since = local - _EPOCH - timedelta(seconds=loan.repayment.timezone_offset_seconds)
    return since // timedelta(milliseconds=1)


def _next_month(year: int, month: int) -> tuple[int, int]:
    return year + month // 12, month % 12 + 1
