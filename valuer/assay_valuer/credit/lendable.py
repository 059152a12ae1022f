"""What the house would lend on what a loan's pledges are worth, each haircut by its name. Pure.

From the median OLV: to the low quantile, to what a sale leaves, through a fall of prices until then,
back for what these two seldom do together, to the approach that says least, through how far the evidence can be trusted, and past what comes
before the loan. Only the house's view: no covenant is measured by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from assay_core.money import ZERO, Usd, total
from assay_core.units import BPS, ratio_bps_down
from assay_valuer.credit.loan import LoanFile
from assay_valuer.findings import Finding
from assay_valuer.valuation.worth import Valuation, Values

_MARKET: Final = "lending.market"
_TOGETHER: Final = "lending.together"
_LOT: Final = "lot"


@dataclass(frozen=True, slots=True)
class Group:
    """GPUs that share a valuation and a cap: most of a fleet does."""

    valuation: Valuation
    values: Values
    cap_bps: int
    count: int

    @property
    def basis(self) -> Usd:
        """What is lent on for one of them before assurance: nothing where that is unknown, and never
        more than the median NOLV.
        """
        lending = self.valuation.lending
        return ZERO if lending is None else max(ZERO, min(lending, self.values.nolv.mid))

    @property
    def lent(self) -> Usd:
        """What is lent on all of them."""
        return Usd(self.basis.micros * self.cap_bps // BPS * self.count)

    def effect_bps(self, code: str) -> int | None:
        """What is left after a step that the valuation names; None where it names none."""
        for one in self.valuation.findings:
            if one.code == code:
                return one.effect_bps
        return None


_DISAGREEMENT: Final = {
    False: "because an approach says less, or says nothing",
    True: "approaches that lie apart widen a value, and here the lowest bounds it instead",
}
_Of: TypeAlias = Callable[[Group], Usd]


def lendable_of(groups: Sequence[Group], loan: LoanFile) -> Usd:
    """What the house would lend on them: at most cap × NOLV, less what comes before the loan."""
    return max(ZERO, total([one.lent for one in groups]) - loan.reserved)


def haircuts(groups: Sequence[Group], loan: LoanFile, debt: Usd) -> list[Finding]:
    """The steps from OLV to `lendable_of`, each with its amount; those that change nothing left out,
    but for the sale and the evidence, which are always told.
    """
    if not groups:
        return []
    olv = _sum(groups, lambda one: one.values.olv.mid)
    low = _sum(groups, lambda one: one.values.olv.low)
    net = _sum(groups, lambda one: one.values.nolv.low)
    fallen = _sum(groups, _after_fall)
    joint = _sum(groups, _after_both)
    basis = _sum(groups, lambda one: one.basis)
    lent = total([one.lent for one in groups])
    lendable = lendable_of(groups, loan)
    steps = (
        ("haircut.uncertainty", olv, low, "for how uncertain the value is: one in ten is lower"),
        ("haircut.sale", low, net, "for the cost of a sale"),
        ("haircut.market", net, fallen, "for a fall of prices until the sale"),
        ("haircut.together", fallen, joint, "for a low value and a fall seldom come together"),
        ("haircut.disagreement", joint, basis, _DISAGREEMENT[joint < basis]),
        ("haircut.assurance", basis, lent, "for how far the evidence can be trusted"),
        ("haircut.reserves", lent, lendable, _why(loan)),
    )
    found = [
        Finding(
            code,
            _told(before, after, why),
            ratio_bps_down(max(after.micros, 0), max(before.micros, 1)),
        )
        for code, before, after, why in steps
        if before != after or code in ("haircut.sale", "haircut.assurance")
    ]
    found += _lot(groups)
    unknown = sum(one.count for one in groups if one.valuation.lending is None)
    if unknown:
        detail = f"What can be lent on {unknown} is unknown: nothing is."
        found.append(Finding("lendable.unknown", detail))
    if debt > lendable:
        detail = f"{debt} is owed, {debt - lendable} more than the house would lend on this."
        found.append(Finding("lendable.short", detail))
    return found


def _after_fall(one: Group) -> Usd:
    effect = one.effect_bps(_MARKET)
    return one.values.nolv.low if effect is None else one.values.nolv.low.times_down(effect, BPS)


def _after_both(one: Group) -> Usd:
    effect = one.effect_bps(_TOGETHER)
    fallen = _after_fall(one)
    return fallen if effect is None else fallen.times_down(effect, BPS)


def _told(before: Usd, after: Usd, why: str) -> str:
    if after > before:
        return f"{after - before} is given back to {before}: {why}."
    return f"{before - after} of {before} is taken off {why}."


def _lot(groups: Iterable[Group]) -> list[Finding]:
    """What the size of the lot has taken off OLV already."""
    taken = ZERO
    for one in groups:
        effect = one.effect_bps(_LOT)
        if effect:
            alone = one.values.olv.mid.times_down(BPS, effect)
            taken += (alone - one.values.olv.mid).times_down(one.count, 1)
    if taken <= ZERO:
        return []
    return [Finding("haircut.lot", f"The OLV is {taken} less for so many being sold at once.")]


def _why(loan: LoanFile) -> str:
    return "for what comes before the loan: " + "; ".join(one.reason for one in loan.reserves)


def _sum(groups: Iterable[Group], of: _Of) -> Usd:
    return Usd(sum([of(one).micros * one.count for one in groups]))
