"""Results as they are kept: in the store, in the ledger's records, and printed as JSON.

Amounts are micro-dollars, ratios basis points, times UTC milliseconds. None is unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from assay_valuer.book import Book, Line
from assay_valuer.credit.covenant import Inputs
from assay_valuer.credit.covenant_position import CovenantPosition
from assay_valuer.credit.position import Position, Remembered
from assay_valuer.credit.tranches import TrancheCover
from assay_valuer.findings import Finding
from assay_valuer.valuation.worth import Indication, Range, Valuation, Values


class StoredFinding(msgspec.Struct, frozen=True, kw_only=True):
    """A finding as kept and printed."""

    code: str
    detail: str
    effect_bps: int | None = None


class StoredRange(msgspec.Struct, frozen=True, kw_only=True):
    """Low, mid and high, micro-dollars."""

    low_micros: int
    mid_micros: int
    high_micros: int


class StoredValues(msgspec.Struct, frozen=True, kw_only=True):
    """Values under each premise."""

    fmv: StoredRange
    olv: StoredRange
    nolv: StoredRange
    flv: StoredRange


class StoredIndication(msgspec.Struct, frozen=True, kw_only=True):
    """What one approach said; see valuation's Indication. A line leaves the findings to its case."""

    approach: str
    range: StoredRange
    error_e6: int
    weight_bps: int
    findings: tuple[StoredFinding, ...] = ()


class StoredValuation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a case came to: everything that a replay must come to again."""

    product: str | None
    values: StoredValues | None
    lending_micros: int | None
    indications: tuple[StoredIndication, ...]
    findings: tuple[StoredFinding, ...]


class StoredMemory(msgspec.Struct, frozen=True, kw_only=True):
    """What it was worth when it was last heard and weighed; see credit's Remembered."""

    olv_micros: int
    nolv_micros: int
    at_ms: int
    fmv_micros: int | None = None


class StoredLine(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU's newest recorded result."""

    gpu: str
    product: str | None
    presence: str
    cause: str
    counts: bool
    severity: str | None
    assurance: int
    simulated: bool
    disputed: bool
    observed_ms: int | None
    values: StoredValues | None
    remembered: StoredMemory | None
    findings: tuple[StoredFinding, ...]
    cap_bps: int = 0
    """Most that is lent on its net value, when this was recorded."""
    frozen: bool = False
    case_sha256: str | None = None
    """The case that its value follows from; None where it is no product that is known."""
    lending_micros: int | None = None
    """What the house would lend on before assurance."""
    indications: tuple[StoredIndication, ...] = ()


class StoredTranche(msgspec.Struct, frozen=True, kw_only=True):
    """One tranche against its position's value; see credit's TrancheCover."""

    lender: str
    owed_micros: int
    attaches_bps: int | None
    detaches_bps: int | None
    covered_bps: int | None


class StoredCovenant(msgspec.Struct, frozen=True, kw_only=True):
    """One loan's newest covenant position: the only one that reaches CALL or DEFAULT."""

    version: int
    sha256: str
    premise: str
    ltv_basis: str
    level: str
    since_ms: int
    stale: bool
    disputed: bool
    notice: bool
    called_ms: int | None
    ltv_gross_bps: int | None
    ltv_net_bps: int | None
    coverage_bps: int
    inputs: Inputs
    tranches: tuple[StoredTranche, ...]
    findings: tuple[StoredFinding, ...]


class StoredPosition(msgspec.Struct, frozen=True, kw_only=True):
    """One loan's newest recorded position. A ratio of None is unknown."""

    state: str
    debt_micros: int
    values: StoredValues | None
    lendable_micros: int
    ltv_gross_bps: int | None
    ltv_net_bps: int | None
    coverage_bps: int
    counted: int
    pledged: int
    assurance: int
    observed_ms: int | None
    simulated: bool
    stale: bool
    causes: tuple[str, ...]
    uncounted_olv_micros: int
    policy: str
    methodology: str
    findings: tuple[StoredFinding, ...]
    tranches: tuple[StoredTranche, ...] = ()
    """Against OLV."""


def stored_line(line: Line, remembered: Remembered | None) -> StoredLine:
    """A line as it is kept."""
    standing, valuation = line.standing, line.valuation
    memory = None
    if remembered is not None:
        memory = StoredMemory(
            olv_micros=remembered.olv.micros,
            nolv_micros=remembered.nolv.micros,
            at_ms=remembered.at_ms,
            fmv_micros=None if remembered.fmv is None else remembered.fmv.micros,
        )
    return StoredLine(
        gpu=line.asset.label,
        product=None if valuation.product is None else str(valuation.product),
        presence=standing.presence.value,
        cause=standing.cause.value,
        counts=standing.counts,
        severity=None if standing.severity is None else standing.severity.label,
        assurance=standing.assurance,
        cap_bps=standing.cap_bps,
        simulated=standing.simulated,
        disputed=standing.disputed,
        frozen=standing.frozen,
        observed_ms=standing.observed_ms,
        values=_values(valuation.values),
        remembered=memory,
        findings=_findings((*valuation.findings, *standing.findings)),
        case_sha256=None if valuation.product is None else valuation.case_sha256,
        lending_micros=None if valuation.lending is None else valuation.lending.micros,
        indications=tuple(_indication(one, ()) for one in valuation.indications),
    )


def stored_valuation(valuation: Valuation) -> StoredValuation:
    """What a case came to, as it is kept."""
    return StoredValuation(
        product=None if valuation.product is None else str(valuation.product),
        values=_values(valuation.values),
        lending_micros=None if valuation.lending is None else valuation.lending.micros,
        indications=tuple(_indication(one, one.findings) for one in valuation.indications),
        findings=_findings(valuation.findings),
    )


def stored_position(position: Position, book: Book) -> StoredPosition:
    """A position as it is kept."""
    return StoredPosition(
        state=position.state.value,
        debt_micros=position.debt.micros,
        values=_values(position.values),
        lendable_micros=position.lendable.micros,
        ltv_gross_bps=position.ltv_gross_bps,
        ltv_net_bps=position.ltv_net_bps,
        coverage_bps=position.coverage_bps,
        counted=position.counted,
        pledged=position.pledged,
        assurance=position.assurance,
        observed_ms=position.observed_ms,
        simulated=position.simulated,
        stale=position.stale,
        causes=tuple(cause.value for cause in position.causes),
        uncounted_olv_micros=position.uncounted_olv.micros,
        policy=book.policy.name,
        methodology=book.methodology.hex(),
        findings=_findings(position.findings),
        tranches=_tranches(position.tranches),
    )


def stored_covenant(position: CovenantPosition) -> StoredCovenant:
    """A covenant position as it is kept."""
    state = position.state
    return StoredCovenant(
        version=position.covenant.version,
        sha256=state.covenant_sha256,
        premise=position.covenant.premise.value,
        ltv_basis=position.covenant.ltv_basis.value,
        level=state.level.value,
        since_ms=state.since_ms,
        stale=state.stale,
        disputed=state.disputed,
        notice=state.notice,
        called_ms=state.called_ms,
        ltv_gross_bps=position.ltv_gross_bps,
        ltv_net_bps=position.ltv_net_bps,
        coverage_bps=position.coverage_bps,
        inputs=position.inputs,
        tranches=_tranches(position.tranches),
        findings=_findings(position.findings),
    )


def _tranches(covers: Iterable[TrancheCover]) -> tuple[StoredTranche, ...]:
    return tuple(
        StoredTranche(
            lender=one.lender,
            owed_micros=one.owed.micros,
            attaches_bps=one.attaches_bps,
            detaches_bps=one.detaches_bps,
            covered_bps=one.covered_bps,
        )
        for one in covers
    )


def _indication(one: Indication, findings: Iterable[Finding]) -> StoredIndication:
    return StoredIndication(
        approach=one.approach,
        range=_range(one.range),
        error_e6=one.error_e6,
        weight_bps=one.weight_bps,
        findings=_findings(findings),
    )


def _values(values: Values | None) -> StoredValues | None:
    if values is None:
        return None
    return StoredValues(
        fmv=_range(values.fmv),
        olv=_range(values.olv),
        nolv=_range(values.nolv),
        flv=_range(values.flv),
    )


def _range(amounts: Range) -> StoredRange:
    return StoredRange(
        low_micros=amounts.low.micros,
        mid_micros=amounts.mid.micros,
        high_micros=amounts.high.micros,
    )


def _findings(findings: Iterable[Finding]) -> tuple[StoredFinding, ...]:
    return tuple(
        StoredFinding(code=one.code, detail=one.detail, effect_bps=one.effect_bps)
        for one in findings
    )
