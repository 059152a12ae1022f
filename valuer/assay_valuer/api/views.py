"""What the API shows: read in one transaction each, as the store has it.

Amounts are micro-dollars, ratios basis points, times UTC milliseconds; what a loan's file says is as
it is there, in the token's own units. None is unknown, never zero.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated

import msgspec
from sqlalchemy import Connection, RowMapping, select

from assay_core.covenant import Covenant
from assay_core.errors import ServiceError
from assay_core.seal import PublicKey
from assay_valuer.api.problems import Code, Problem
from assay_valuer.appraisals import load_appraisals
from assay_valuer.covenants import load_covenants, step_positions, steps_at
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.covenant import Record
from assay_valuer.credit.covenant import sha256_of as covenant_sha256
from assay_valuer.credit.schedule import debt_at
from assay_valuer.explain_rows import file_of
from assay_valuer.ledger.append import next_position
from assay_valuer.market_store import (
    Summary,
    count_rejected,
    load_feeds,
    newest_parameters,
    newest_snapshot,
)
from assay_valuer.overrides import load_overrides
from assay_valuer.policy import ValuerPolicy
from assay_valuer.replay import CaseFile
from assay_valuer.rows import GpuRow, LoanRow, gpu_rows, loan_rows
from assay_valuer.store.schema import ASSET, COVENANT_STEP, LOAN, PLEDGE, VALUATION
from assay_valuer.valuation import case
from assay_valuer.valuation.parameters import ProductParameters
from assay_valuer.valuation_store import kept_case


class DebtView(msgspec.Struct, frozen=True, kw_only=True):
    """What is owed at an instant: balance plus interest, rounded up."""

    at_ms: int
    owed_micros: int


class LoanSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One loan in the list. `sha256`: of its file's canonical JSON, by which PUT names what it replaces."""

    id: str
    feed_id: str
    sha256: str
    imported_ms: int
    debt: DebtView
    level: str | None
    """By its covenant; None where none is in force."""
    risk: str | None
    ltv_gross_bps: int | None
    ltv_net_bps: int | None


class LoanList(msgspec.Struct, frozen=True, kw_only=True):
    """Loans by id. `next`: what to ask for `after` to go on; None at the end."""

    loans: tuple[LoanSummary, ...]
    next: str | None


class PledgedView(msgspec.Struct, frozen=True, kw_only=True):
    """A pledged GPU, and where in the ledger its newest valuation stands; None: not valued yet."""

    serial: str | None
    board_part_number: str | None
    valued_ms: int | None
    position: int | None


class LedgerView(msgspec.Struct, frozen=True, kw_only=True):
    """Where in the ledger things stand. `next_position`: how long it was when this was read."""

    next_position: int
    covenant_step: int | None
    """Of the newest change of the loan's covenant state."""


class LoanView(msgspec.Struct, frozen=True, kw_only=True):
    """One loan: its file, what is owed now, both positions with their tranches and findings, hashes."""

    sha256: str
    imported_ms: int
    file: Annotated[
        object, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/LoanFile"})
    ]
    """As it was imported; numbers may be wider than 64 bits."""
    debt: DebtView
    now: LoanRow
    """Its feed and its newest positions, apart: `position` is the house's risk view, which only
    advises, `covenant` is by the loan's own file."""
    covenant_sha256: str | None
    """Of the newest covenant file that was taken."""
    policy_sha256: str
    pledged: tuple[PledgedView, ...]
    ledger: LedgerView


class HistoryView(msgspec.Struct, frozen=True, kw_only=True):
    """Changes of a loan's covenant state, oldest first, each with what it rested on."""

    loan: str
    steps: tuple[Record, ...]
    next: int | None
    """What to ask for `after` to go on; None at the end."""


class GpuView(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU: its newest recorded value with how it came about, and what people signed of it."""

    gpu: GpuRow
    appraisals: tuple[case.Appraisal, ...]
    override: case.Override | None


class GpuList(msgspec.Struct, frozen=True, kw_only=True):
    """Every GPU of a serial number: makers' numbers may meet."""

    gpus: tuple[GpuView, ...]


class FeedView(msgspec.Struct, frozen=True, kw_only=True):
    """A source of prices as it was last found."""

    name: str
    asked_ms: int
    answered_ms: int | None
    changed_ms: int | None
    error: str | None


class SnapshotView(msgspec.Struct, frozen=True, kw_only=True):
    """What counted when prices were last looked at."""

    sha256: str
    made_ms: int
    summary: Summary


class MarketView(msgspec.Struct, frozen=True, kw_only=True):
    """Feeds, the newest snapshot, the levels fitted to it, and how many rows were rejected, by reason."""

    feeds: tuple[FeedView, ...]
    snapshot: SnapshotView | None
    parameters_sha256: str | None
    products: tuple[ProductParameters, ...]
    rejected: Mapping[str, int]


class Alive(msgspec.Struct, frozen=True, kw_only=True):
    """That the store answers."""

    status: str


def sha256_of(terms: str) -> str:
    """The name of a loan's file as the store has it."""
    return hashlib.sha256(terms.encode()).hexdigest()


def loans(connection: Connection, *, after: str, limit: int, now_ms: int) -> LoanList:
    """Up to `limit` loans whose id comes after `after`."""
    rows = {row.id: row for row in loan_rows(connection)}
    statement = select(LOAN).where(LOAN.c.id > after).order_by(LOAN.c.id).limit(limit + 1)
    found = list(connection.execute(statement).mappings())
    shown = tuple(_summary(row, rows[row["id"]], now_ms) for row in found[:limit])
    return LoanList(loans=shown, next=shown[-1].id if len(found) > limit else None)


def loan(connection: Connection, loan_id: str, *, policy_sha256: str, now_ms: int) -> LoanView:
    """One loan. Raises Problem."""
    row = _loan(connection, loan_id)
    covenants = load_covenants(connection).get(loan_id, ())
    steps = select(COVENANT_STEP.c.position).where(COVENANT_STEP.c.loan_id == loan_id)
    newest = steps.order_by(COVENANT_STEP.c.position.desc()).limit(1)
    now = next(one for one in loan_rows(connection) if one.id == loan_id)
    return LoanView(
        sha256=sha256_of(row["terms"]),
        imported_ms=row["imported_ms"],
        file=json.loads(row["terms"]),
        debt=_debt(row["terms"], now_ms),
        now=now,
        covenant_sha256=_covenant_sha256(covenants),
        policy_sha256=policy_sha256,
        pledged=_pledged(connection, loan_id),
        ledger=LedgerView(
            next_position=next_position(connection),
            covenant_step=connection.execute(newest).scalar(),
        ),
    )


def steps(connection: Connection, loan_id: str, *, after: int, limit: int) -> HistoryView:
    """Up to `limit` changes of a loan's covenant state beyond the ledger's `after`. Raises Problem."""
    _loan(connection, loan_id)
    positions = step_positions(connection, loan_id, after=after, limit=limit + 1)
    shown = positions[:limit]
    return HistoryView(
        loan=loan_id,
        steps=steps_at(connection, shown),
        next=shown[-1] if len(positions) > limit else None,
    )


def gpus(connection: Connection, serial: str, *, now_ms: int) -> GpuList:
    """Every GPU of this serial number. Raises Problem where there is none."""
    rows = gpu_rows(connection, serial)
    if not rows:
        raise Problem(Code.NOT_FOUND, f"no GPU {serial} is known")
    appraised, overridden = load_appraisals(connection), load_overrides(connection, now_ms)
    return GpuList(
        gpus=tuple(
            GpuView(
                gpu=row,
                appraisals=appraised.get(row.id, ()),
                override=overridden.get(row.id),
            )
            for row in rows
        )
    )


def market(connection: Connection) -> MarketView:
    """What values rest on."""
    snapshot = newest_snapshot(connection)
    try:
        parameters = newest_parameters(connection)
    except msgspec.ValidationError as error:
        raise ServiceError(f"the fit in use was written by another version: {error}") from error
    return MarketView(
        feeds=tuple(
            FeedView(
                name=one.name,
                asked_ms=one.asked_ms,
                answered_ms=one.answered_ms,
                changed_ms=one.changed_ms,
                error=one.error,
            )
            for one in load_feeds(connection).values()
        ),
        snapshot=None
        if snapshot is None
        else SnapshotView(
            sha256=snapshot.sha256, made_ms=snapshot.made_ms, summary=snapshot.summary
        ),
        parameters_sha256=None if parameters is None else parameters.sha256,
        products=() if parameters is None else parameters.products,
        rejected=count_rejected(connection),
    )


def valuation(
    connection: Connection, sha256: str, policy: ValuerPolicy, key: PublicKey
) -> CaseFile:
    """All that a recorded value rests on, as `assay-valuer replay --file` takes it. Raises Problem."""
    kept = kept_case(connection, sha256)
    if kept is None:
        raise Problem(Code.NOT_FOUND, f"no value rests on a case {sha256}")
    return file_of(connection, kept, policy, key)


def health(connection: Connection) -> Alive:
    """That the store answers. Raises ServiceError where it does not."""
    next_position(connection)
    return Alive(status="ok")


def _loan(connection: Connection, loan_id: str) -> RowMapping:
    row = connection.execute(select(LOAN).where(LOAN.c.id == loan_id)).mappings().one_or_none()
    if row is None:
        raise Problem(Code.NOT_FOUND, f"no loan {loan_id} is registered")
    return row


def _summary(row: RowMapping, now: LoanRow, now_ms: int) -> LoanSummary:
    return LoanSummary(
        id=row["id"],
        feed_id=now.feed_id,
        sha256=sha256_of(row["terms"]),
        imported_ms=row["imported_ms"],
        debt=_debt(row["terms"], now_ms),
        level=None if now.covenant is None else now.covenant.level,
        risk=None if now.position is None else now.position.state,
        ltv_gross_bps=None if now.position is None else now.position.ltv_gross_bps,
        ltv_net_bps=None if now.position is None else now.position.ltv_net_bps,
    )


def _debt(terms: str, now_ms: int) -> DebtView:
    owed = debt_at(loan_file.from_json(terms), now_ms).owed
    return DebtView(at_ms=now_ms, owed_micros=owed.micros)


def _covenant_sha256(covenants: tuple[Covenant, ...]) -> str | None:
    return covenant_sha256(covenants[-1]) if covenants else None


def _pledged(connection: Connection, loan_id: str) -> tuple[PledgedView, ...]:
    rows = connection.execute(
        select(
            ASSET.c.serial,
            ASSET.c.board_part_number,
            VALUATION.c.at_ms.label("valued_ms"),
            VALUATION.c.position,
        )
        .join(PLEDGE, PLEDGE.c.asset_id == ASSET.c.id)
        .outerjoin(VALUATION, VALUATION.c.asset_id == ASSET.c.id)
        .where(PLEDGE.c.loan_id == loan_id)
        .order_by(ASSET.c.serial, ASSET.c.id)
    )
    return tuple(PledgedView(**row) for row in rows.mappings())
