"""A loan's covenant position: debt against what the covenant file says it is measured by. Pure.

What counts is taken at its value, and what fell silent at the value that it had when it left the
count. What was heard and does not count (impaired, frozen) is worth nothing here too. What was never
seen or has no price has no known value; then the LTV is a ceiling.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from assay_core.covenant import Basis, Covenant, Premise
from assay_core.instants import HOUR_MS, format_duration
from assay_core.money import ZERO, Usd, total
from assay_valuer.credit.chain_state import DIFFERS
from assay_valuer.credit.covenant import CovenantState, Inputs, Level, Transition, sha256_of, step
from assay_valuer.credit.loan import LoanFile
from assay_valuer.credit.position import Pledge, Position, State, percent
from assay_valuer.credit.schedule import debt_at
from assay_valuer.credit.tranches import TrancheCover, ltv_bps, tranche_covers
from assay_valuer.findings import Finding
from assay_valuer.standing.silence import Uptime
from assay_valuer.standing.types import Presence


@dataclass(frozen=True, slots=True)
class CovenantPosition:
    """One loan at one instant, by its covenant. `transitions` are those of this very step.

    `ltv_gross_bps` and `ltv_net_bps` are what the oracle publishes: the covenant's own LTV on its own
    basis, and on the other the same collateral's against OLV or NOLV. `coverage_bps`, `assurance`
    and `observed_ms` are of what counts, silent GPUs not among it.
    """

    covenant: Covenant
    state: CovenantState
    inputs: Inputs
    transitions: tuple[Transition, ...]
    ltv_gross_bps: int | None
    ltv_net_bps: int | None
    coverage_bps: int
    assurance: int
    observed_ms: int | None
    tranches: tuple[TrancheCover, ...]
    findings: tuple[Finding, ...]


def covenant_position(
    loan: LoanFile,
    pledges: Sequence[Pledge],
    risk: Position,
    covenant: Covenant,
    *,
    state: CovenantState | None,
    uptime: Uptime,
    now_ms: int,
) -> CovenantPosition:
    """The loan's next covenant state and what it rests on. The order of the pledges changes nothing."""
    held = state if state is not None and state.covenant_sha256 == sha256_of(covenant) else None
    value = _total(pledges, covenant.premise)
    inputs = Inputs(
        debt_micros=risk.debt.micros,
        value_micros=None if value is None else value.micros,
        silent_micros=_silent(pledges, covenant.premise).micros,
        ltv_bps=ltv_bps(risk.debt, value),
        complete=all(_worth(one, covenant.premise) is not None for one in pledges),
        counted=risk.counted,
        silent=sum(one.fell_silent for one in pledges),
        pledged=risk.pledged,
        assurance=risk.assurance,
        observed_ms=risk.observed_ms,
        stale=risk.stale,
        disputed=risk.state is State.DISPUTED,
        called_served_ms=0
        if held is None or held.called_ms is None
        else uptime.served_ms(held.called_ms, now_ms),
        silent_served_ms=_silent_served_ms(pledges, held, uptime, now_ms),
        chain_differs=any(finding.code == DIFFERS for finding in risk.findings),
    )
    after, transitions = step(state, inputs, covenant, now_ms)
    own, gross = inputs.ltv_bps, covenant.ltv_basis is Basis.GROSS
    return CovenantPosition(
        covenant=covenant,
        state=after,
        inputs=inputs,
        transitions=transitions,
        ltv_gross_bps=own if gross else ltv_bps(risk.debt, _total(pledges, Premise.OLV)),
        ltv_net_bps=ltv_bps(risk.debt, _total(pledges, Premise.NOLV)) if gross else own,
        coverage_bps=risk.coverage_bps,
        assurance=risk.assurance,
        observed_ms=risk.observed_ms,
        tranches=tranche_covers(loan, debt_at(loan, now_ms), value),
        findings=_findings(after, inputs, covenant),
    )


def _worth(one: Pledge, premise: Premise) -> Usd | None:
    """What one GPU is worth here; None where nobody knows."""
    if one.standing.frozen:
        return ZERO
    if one.standing.counts:
        values = one.valuation.values
        if values is None:
            return None
        of = {Premise.FMV: values.fmv, Premise.OLV: values.olv, Premise.NOLV: values.nolv}
        return of[premise].mid
    if one.fell_silent:
        kept = one.remembered
        if kept is None:
            return None
        return {Premise.FMV: kept.fmv, Premise.OLV: kept.olv, Premise.NOLV: kept.nolv}[premise]
    return None if one.standing.presence is Presence.EXPECTED else ZERO


def _total(pledges: Sequence[Pledge], premise: Premise) -> Usd | None:
    """Of what is known; None where nothing is."""
    known = [worth for one in pledges if (worth := _worth(one, premise)) is not None]
    return total(known) if known else None


def _silent(pledges: Sequence[Pledge], premise: Premise) -> Usd:
    """What silent GPUs have in the total."""
    return total([_worth(one, premise) or ZERO for one in pledges if one.fell_silent])


def _silent_served_ms(
    pledges: Sequence[Pledge], held: CovenantState | None, uptime: Uptime, now_ms: int
) -> int:
    """The longest that a pledged GPU has not been heard since the file took effect, in time served.

    One that was never seen has not been heard since then.
    """
    if held is None:
        return 0
    longest = 0
    for one in pledges:
        if one.fell_silent or one.standing.presence is Presence.EXPECTED:
            kept = held.began_ms if one.remembered is None else one.remembered.at_ms
            longest = max(longest, uptime.served_ms(max(kept, held.began_ms), now_ms))
    return longest


_ON: Final = {Premise.FMV: "fair market value", Premise.OLV: "OLV", Premise.NOLV: "NOLV"}


def _findings(state: CovenantState, inputs: Inputs, covenant: Covenant) -> tuple[Finding, ...]:
    steps = covenant.thresholds
    ltv = "unknown" if inputs.ltv_bps is None else percent(inputs.ltv_bps)
    found = [
        Finding(
            "covenant.ltv",
            f"LTV is {ltv} of {_ON[covenant.premise]}; watched from {percent(steps.watch_bps)}, "
            f"called from {percent(steps.call_bps)}, in default from {percent(steps.default_bps)}.",
        )
    ]
    if inputs.silent:
        detail = (
            f"{inputs.silent} of {inputs.pledged} are silent, and go on at {Usd(inputs.silent_micros)}, "
            "what they were worth when they left the count."
        )
        found.append(Finding("covenant.silent", detail))
    if not inputs.complete:
        detail = "Not every pledged GPU has a known value: the LTV is a ceiling, and calls nothing."
        found.append(Finding("covenant.ceiling", detail))
    if state.notice:
        silent = format_duration(inputs.silent_served_ms)
        detail = (
            f"Notice: a pledged GPU is silent for {silent}, a breach of reporting, not of value."
        )
        found.append(Finding("covenant.reporting", detail))
    if state.level is Level.CALL:
        left_ms = max(0, covenant.value_cure_hours * HOUR_MS - inputs.called_served_ms)
        detail = f"Called: {format_duration(left_ms)} are left to cure it, while we serve."
        found.append(Finding("covenant.called", detail))
    if state.level is Level.DEFAULT:
        detail = "In default until the parties sign another covenant file."
        found.append(Finding("covenant.default", detail))
    return tuple(found)
