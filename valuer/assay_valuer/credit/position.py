"""A loan's position in the house's view: debt against the value of what counts.

This is the risk position, which only advises. The covenant position, which alone may call a loan,
needs that loan's own signed covenant file and stands beside it (`covenant_position`).
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.leaves import Severity
from assay_core.money import ZERO, Usd, total
from assay_core.units import ratio_bps_down, ratio_bps_up
from assay_valuer.credit.chain_state import DIFFERS, ChainView, compare
from assay_valuer.credit.lendable import Group, haircuts, lendable_of
from assay_valuer.credit.loan import LoanFile, LoanStatus
from assay_valuer.credit.schedule import arrears, debt_at
from assay_valuer.credit.tranches import TrancheCover, tranche_covers
from assay_valuer.findings import Finding
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.assurance import CUSTODY
from assay_valuer.standing.types import Cause, Presence, Standing
from assay_valuer.valuation.value import Valuation, Values
from assay_valuer.valuation.worth import together

_ADVISES: Final = Finding(
    "covenant.none", "No covenant file: this is the house's risk view, and can call no loan."
)
_BESIDE: Final = Finding(
    "covenant.apart", "The house's risk view, which only advises: the covenant stands beside it."
)


class State(enum.StrEnum):
    """Of a risk position, worst first."""

    DISPUTED = "DISPUTED"
    STALE = "STALE"
    WATCH = "WATCH"
    CURRENT = "CURRENT"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What a GPU was worth when it was last heard and weighed: nothing, if it did not count then.

    For covenants, never for the value that is published. `fmv` is None in what older versions kept.
    """

    olv: Usd
    nolv: Usd
    at_ms: int
    fmv: Usd | None = None


class Pledge(msgspec.Struct, frozen=True, gc=False):
    """One pledged GPU with what we believe of it and what it is worth. A struct, as the book's lines."""

    label: str
    standing: Standing
    valuation: Valuation
    remembered: Remembered | None = None

    @property
    def counted(self) -> Values | None:
        """Its values if it counts and they are known."""
        return self.valuation.values if self.standing.counts else None

    @property
    def fell_silent(self) -> bool:
        """Whether it was seen once and silence took it out of the count."""
        return _fell_silent(self.standing)


AWAY: Final = frozenset(
    {Presence.SILENT, Presence.MISSING, Presence.PASSED_THROUGH, Presence.UNKNOWN}
)
"""Where nobody hears of a GPU."""


@dataclass(frozen=True, slots=True)
class Position:
    """One loan at one instant. LTVs are None where nothing counts: then they are unknown.

    `observed_ms` is the oldest evidence counted, but for GPUs in transition. `uncounted_olv` is what silent GPUs were worth
    when they left the count; it is in no other number here.
    """

    loan_id: str
    state: State
    debt: Usd
    values: Values | None
    lendable: Usd
    ltv_gross_bps: int | None
    ltv_net_bps: int | None
    coverage_bps: int
    counted: int
    pledged: int
    assurance: int
    observed_ms: int | None
    simulated: bool
    stale: bool
    causes: tuple[Cause, ...]
    uncounted_olv: Usd
    findings: tuple[Finding, ...]
    tranches: tuple[TrancheCover, ...] = ()
    """Against OLV."""


def position(
    loan: LoanFile,
    pledges: Sequence[Pledge],
    policy: ValuerPolicy,
    now_ms: int,
    *,
    covenanted: bool = False,
    chain: ChainView | None = None,
) -> Position:
    """The loan's position. The order of the pledges changes nothing.

    `covenanted`: a covenant file is in force, and its position stands beside this one. `chain`: what
    the loan's router says of it, where the file names one.
    """
    counted = [(one, values) for one in pledges if (values := one.counted) is not None]
    # Many pledges share a standing: what is asked of any or of the least is asked of each once.
    standings = _apart([one.standing for one in pledges])
    believed = _apart([one.standing for one, _ in counted])
    groups = _groups(counted)
    values = together([(one.values, one.count) for one in groups]) if groups else None
    owing = debt_at(loan, now_ms)
    debt = owing.owed
    away = any(_fell_silent(one) for one in standings)
    silent = [one for one in pledges if one.fell_silent] if away else []
    causes = tuple(sorted({one.standing.cause for one in silent if one.standing.cause}))
    gross = None if values is None else ratio_bps_up(debt.micros, values.olv.mid.micros)
    net = None if values is None else ratio_bps_up(debt.micros, values.nolv.mid.micros)
    findings = [
        *_loan_findings(loan, debt, now_ms),
        *compare(loan, chain, now_ms).findings,
        *_cover_findings(pledges, gross, policy, uncounted=len(pledges) - len(counted)),
        *haircuts(groups, loan, debt),
        _BESIDE if covenanted else _ADVISES,
    ]
    return Position(
        loan_id=loan.id,
        state=_state(standings, bool(silent), findings),
        debt=debt,
        values=values,
        lendable=lendable_of(groups, loan),
        ltv_gross_bps=gross,
        ltv_net_bps=net,
        coverage_bps=_coverage_bps(len(counted), len(pledges)),
        counted=len(counted),
        pledged=len(pledges),
        assurance=_weakest([one.assurance for one in believed]),
        observed_ms=_observed_ms(believed),
        simulated=any(one.simulated for one in standings),
        stale=bool(silent),
        causes=causes,
        uncounted_olv=total([one.remembered.olv for one in silent if one.remembered]),
        findings=tuple(findings),
        tranches=tranche_covers(loan, owing, None if values is None else values.olv.mid),
    )


def _fell_silent(standing: Standing) -> bool:
    return standing.presence in AWAY and not standing.counts


def _apart(standings: Sequence[Standing]) -> list[Standing]:
    """Each of the standings once."""
    return list({id(one): one for one in standings}.values())


def _groups(counted: Sequence[tuple[Pledge, Values]]) -> list[Group]:
    keys = [(id(one.valuation), one.standing.cap_bps) for one, _ in counted]
    alike = dict(zip(keys, counted, strict=True))
    return [
        Group(alike[key][0].valuation, alike[key][1], key[1], count)
        for key, count in Counter(keys).items()
    ]


def _observed_ms(counted: Sequence[Standing]) -> int | None:
    """The oldest evidence that the count rests on.

    A GPU in transition counts by what both parties signed and not by what was last seen of it: it
    makes the rest no older, unless there is no rest.
    """
    seen = [one for one in counted if one.presence is not Presence.IN_TRANSITION] or counted
    return min((one.observed_ms for one in seen if one.observed_ms is not None), default=None)


def _weakest(levels: Sequence[int]) -> int:
    """The least level of all, in custody only if all are; 0 where nothing counts."""
    if not levels:
        return 0
    custody = all(level & CUSTODY for level in levels)
    return min(level & ~CUSTODY for level in levels) | (CUSTODY if custody else 0)


def _coverage_bps(counted: int, pledged: int) -> int:
    """Share counted, rounded down, but never to nothing while something counts."""
    return max(ratio_bps_down(counted, pledged), 1) if counted else 0


def _state(standings: Sequence[Standing], silent: bool, findings: Sequence[Finding]) -> State:
    differs = any(finding.code == DIFFERS for finding in findings)
    if differs or any(one.disputed or one.frozen for one in standings):
        return State.DISPUTED
    if silent:
        return State.STALE
    watched = any(finding.code.startswith("watch.") for finding in findings)
    return State.WATCH if watched else State.CURRENT


def _loan_findings(loan: LoanFile, debt: Usd, now_ms: int) -> list[Finding]:
    if loan.status is not LoanStatus.ACTIVE:
        return [Finding("watch.status", f"The loan is {loan.status.value}.")]
    behind = arrears(loan, now_ms) if debt > ZERO else ZERO
    if behind > ZERO:
        return [Finding("watch.arrears", f"Recorded payments are {behind} behind the schedule.")]
    return []


def _cover_findings(
    pledges: Sequence[Pledge], gross_bps: int | None, policy: ValuerPolicy, *, uncounted: int
) -> list[Finding]:
    found: list[Finding] = []
    if gross_bps is None:
        found.append(Finding("watch.unknown", "Nothing pledged counts: value and LTV are unknown."))
    else:
        crossed = [one for one in policy.ltv_thresholds_bps if gross_bps >= one]
        if crossed:
            detail = f"Gross LTV is {percent(gross_bps)}, at or above {percent(crossed[-1])}."
            found.append(Finding("watch.ltv", detail))
    standings = [one.standing for one in pledges]
    impaired = [one.severity for one in standings].count(Severity.IMPAIRED)
    if impaired:
        found.append(Finding("watch.impaired", f"{impaired} of {len(pledges)} are impaired."))
    frozen = [one.frozen for one in standings].count(True)
    if frozen:
        found.append(Finding("watch.frozen", f"{frozen} of {len(pledges)} are frozen."))
    if uncounted:
        found.append(
            Finding("watch.coverage", f"{uncounted} of {len(pledges)} pledged do not count.")
        )
    unpriced = uncounted - [one.counts for one in standings].count(False)
    if unpriced:
        found.append(Finding("value.unknown", f"The value of {unpriced} is unknown."))
    return found


def percent(bps: int) -> str:
    """Basis points as people say them: "71.25%"."""
    return f"{bps // 100}.{bps % 100:02d}%"
