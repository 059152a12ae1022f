"""How a loan's tranches attach: what is owed before each, and through each, against the value. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from assay_core.money import Usd
from assay_core.units import BPS, LTV_BPS_MAX, ratio_bps_down, ratio_bps_up
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.schedule import Debt


@dataclass(frozen=True, slots=True)
class TrancheCover:
    """One tranche, senior first. Ratios are None where the value is unknown.

    `attaches_bps` is what is owed before it ÷ value, `detaches_bps` what is owed up to and with it ÷
    value, both rounded up; `covered_bps` the share of it that the value covers after those before
    it, rounded down. Principal is shared as it was lent, interest as it accrues.
    """

    lender: str
    owed: Usd
    attaches_bps: int | None
    detaches_bps: int | None
    covered_bps: int | None


def tranche_covers(loan: LoanFile, debt: Debt, value: Usd | None) -> tuple[TrancheCover, ...]:
    """Each tranche of the loan against one value. What they are owed sums up to the debt exactly."""
    lent = interest = 0
    before = Usd(0)
    found = []
    for tranche in loan.tranches:
        lent += tranche.amount
        interest += tranche.amount * tranche.rate
        wad = debt.balance_wad * lent * loan.scale // loan.principal_wad
        wad += debt.interest_wad * interest // loan.weighted_rate
        through = Usd.from_wad_up(wad)
        owed = through - before
        found.append(
            TrancheCover(
                lender=tranche.lender,
                owed=owed,
                attaches_bps=ltv_bps(before, value),
                detaches_bps=ltv_bps(through, value),
                covered_bps=_covered_bps(owed, before, value),
            )
        )
        before = through
    return tuple(found)


def ltv_bps(debt: Usd, value: Usd | None) -> int | None:
    """Debt ÷ value, rounded up, at most what a report can carry; None where the value is unknown."""
    if value is None:
        return None
    if debt.micros <= 0:
        return 0
    if value.micros <= 0:
        return LTV_BPS_MAX
    return min(ratio_bps_up(debt.micros, value.micros), LTV_BPS_MAX)


def _covered_bps(owed: Usd, before: Usd, value: Usd | None) -> int | None:
    if value is None:
        return None
    if owed.micros <= 0:
        return BPS
    left = max(0, value.micros - before.micros)
    return min(ratio_bps_down(left, owed.micros), BPS)
