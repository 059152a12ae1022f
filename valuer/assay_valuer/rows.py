"""What the store says now of GPUs, loans and feeds, for the commands and for whoever asks in JSON."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, RowMapping, func, select

from assay_core.health import Record, rule_for, unpack
from assay_core.health.reconcile import Totals
from assay_core.money import Usd
from assay_valuer.results import StoredCovenant, StoredLine, StoredPosition
from assay_valuer.standing.notes import NOTHING, Note, Notes
from assay_valuer.standing.stand import name_of
from assay_valuer.store.schema import (
    ASSET,
    COVENANT_STATE,
    HOST,
    LOAN,
    LOAN_POSITION,
    OUTBOX,
    PLEDGE,
    VALUATION,
)


class IncidentRow(msgspec.Struct, frozen=True, kw_only=True):
    """One incident, open or ended, with what our rules say of it."""

    name: str
    severity: str
    begin_ms: int
    last_ms: int
    end_ms: int | None
    count: int
    meaning: str
    action: str
    source: str


class GpuRow(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU: who it is, where, its newest recorded result (None: not valued yet), its incidents,
    the open ones first, what did not hang together, and its lifetime counters as last told.
    """

    id: int
    serial: str | None
    board_part_number: str | None
    uuid: str | None
    name: str | None
    host: str | None
    loan: str | None
    first_seen_ms: int | None
    seen_ms: int | None
    valued_ms: int | None
    result: StoredLine | None
    incidents: tuple[IncidentRow, ...]
    findings: tuple[Note, ...]
    totals: Totals | None


class RoundRow(msgspec.Struct, frozen=True, kw_only=True):
    """The newest round of a feed in the outbox."""

    chain_id: int
    hub: str
    round: int
    state: str
    updated_ms: int
    detail: str


class LoanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One loan: its feed, its newest two positions apart, and the newest round of each hub.

    `position` is the house's risk view; `covenant` is by the loan's own file, None where none is in
    force.
    """

    id: str
    feed_id: str
    at_ms: int | None
    position: StoredPosition | None
    covenant: StoredCovenant | None
    rounds: tuple[RoundRow, ...]


def gpu_rows(connection: Connection, serial: str | None = None) -> list[GpuRow]:
    """Every GPU, or every one of a serial number, by loan, host and serial."""
    statement = (
        select(
            ASSET,
            HOST.c.host_id,
            PLEDGE.c.loan_id,
            VALUATION.c.at_ms.label("valued_ms"),
            VALUATION.c.result,
        )
        .outerjoin(HOST, HOST.c.key == ASSET.c.host_key)
        .outerjoin(PLEDGE, PLEDGE.c.asset_id == ASSET.c.id)
        .outerjoin(VALUATION, VALUATION.c.asset_id == ASSET.c.id)
        .order_by(PLEDGE.c.loan_id, HOST.c.host_id, ASSET.c.serial, ASSET.c.id)
    )
    if serial is not None:
        statement = statement.where(ASSET.c.serial == serial)
    return [_gpu_row(row) for row in connection.execute(statement).mappings()]


def _gpu_row(row: RowMapping) -> GpuRow:
    notes = NOTHING if row["notes"] is None else msgspec.json.decode(row["notes"], type=Notes)
    records = () if row["health"] is None else unpack(row["health"]).records
    return GpuRow(
        id=row["id"],
        serial=row["serial"],
        board_part_number=row["board_part_number"],
        uuid=None if row["uuid"] is None else row["uuid"].hex(),
        name=row["name"],
        host=row["host_id"],
        loan=row["loan_id"],
        first_seen_ms=row["first_seen_ms"],
        seen_ms=row["seen_ms"],
        valued_ms=row["valued_ms"],
        result=None
        if row["result"] is None
        else msgspec.json.decode(row["result"], type=StoredLine),
        incidents=tuple(_incident_row(record) for record in records),
        findings=notes.findings,
        totals=notes.known.totals,
    )


def _incident_row(record: Record) -> IncidentRow:
    rule = rule_for(record.kind, record.code)
    return IncidentRow(
        name=name_of(record.kind, record.code),
        severity=record.severity.label,
        begin_ms=record.begin_ms,
        last_ms=record.last_ms,
        end_ms=record.end_ms,
        count=record.count,
        meaning=rule.meaning,
        action=rule.action,
        source=rule.source,
    )


def loan_rows(connection: Connection) -> list[LoanRow]:
    """Every loan, by id."""
    statement = (
        select(
            LOAN,
            LOAN_POSITION.c.at_ms,
            LOAN_POSITION.c.result,
            COVENANT_STATE.c.result.label("covenant"),
        )
        .outerjoin(LOAN_POSITION, LOAN_POSITION.c.loan_id == LOAN.c.id)
        .outerjoin(COVENANT_STATE, COVENANT_STATE.c.loan_id == LOAN.c.id)
        .order_by(LOAN.c.id)
    )
    rounds = _rounds(connection)
    return [
        LoanRow(
            id=row["id"],
            feed_id=f"0x{row['feed_id'].hex()}",
            at_ms=row["at_ms"],
            position=None
            if row["result"] is None
            else msgspec.json.decode(row["result"], type=StoredPosition),
            covenant=None
            if row["covenant"] is None
            else msgspec.json.decode(row["covenant"], type=StoredCovenant),
            rounds=rounds.get(row["feed_id"], ()),
        )
        for row in connection.execute(statement).mappings()
    ]


def _rounds(connection: Connection) -> dict[bytes, tuple[RoundRow, ...]]:
    newest = (
        select(
            OUTBOX.c.chain_id,
            OUTBOX.c.hub,
            OUTBOX.c.feed_id,
            func.max(OUTBOX.c.round).label("round"),
        )
        .group_by(OUTBOX.c.chain_id, OUTBOX.c.hub, OUTBOX.c.feed_id)
        .subquery()
    )
    joined = select(OUTBOX).join(
        newest,
        (OUTBOX.c.chain_id == newest.c.chain_id)
        & (OUTBOX.c.hub == newest.c.hub)
        & (OUTBOX.c.feed_id == newest.c.feed_id)
        & (OUTBOX.c.round == newest.c.round),
    )
    found: dict[bytes, tuple[RoundRow, ...]] = {}
    for row in connection.execute(joined).mappings():
        line = RoundRow(
            chain_id=row["chain_id"],
            hub=row["hub"],
            round=row["round"],
            state=row["state"],
            updated_ms=row["updated_ms"],
            detail=row["detail"] or "",
        )
        found[row["feed_id"]] = (*found.get(row["feed_id"], ()), line)
    return found


def usd(micros: int) -> str:
    """Micro-dollars as people read them."""
    return str(Usd(micros))
