"""Cases in the store: each kept once, as a signed record in the ledger of what it came to.

The record has the case whole and the values that followed from it, so that whoever has that one entry
can work them out again. Where it stands is in the table `valuation_case`, by the case's name. A fleet
adds as many a day as it has kinds of GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, insert, select

from assay_core.errors import ServiceError
from assay_core.seal import Envelope, Signer
from assay_valuer.cases import valued
from assay_valuer.ledger.append import append_record
from assay_valuer.ledger.body import decode
from assay_valuer.ledger.read import entry
from assay_valuer.results import StoredLine, stored_valuation
from assay_valuer.store.schema import LEDGER_ENTRY, VALUATION, VALUATION_CASE
from assay_valuer.valuation.case import Case
from assay_valuer.valuation_record import CaseRecord

CASE: Final = "case"
"""The kind of its record."""
FOUND_MAX: Final = 2
RECORDS_MAX: Final = 1_000
"""Most records of one kind that are looked through for one of them."""


@dataclass(frozen=True, slots=True)
class KeptCase:
    """A case's record and where it stands; `envelope` is as the ledger's key signed it."""

    position: int
    envelope: Envelope
    record: CaseRecord


def keep_cases(connection: Connection, cases: Sequence[Case], signer: Signer, now_ms: int) -> int:
    """Keeps those that are not kept yet; how many those are."""
    named = {case.sha256: case for case in cases}
    held = connection.execute(
        select(VALUATION_CASE.c.sha256).where(VALUATION_CASE.c.sha256.in_(named))
    ).scalars()
    for sha256 in held:
        del named[sha256]
    for sha256, case in sorted(named.items()):
        record = CaseRecord(
            at_ms=now_ms, sha256=sha256, case=case, valuation=stored_valuation(valued(case))
        )
        payload = msgspec.json.encode(record, order="sorted")
        position = append_record(connection, CASE, payload, signer, now_ms)
        connection.execute(
            insert(VALUATION_CASE).values(sha256=sha256, made_ms=now_ms, position=position)
        )
    return len(named)


def find_cases(connection: Connection, prefix: str) -> list[str]:
    """Names of up to two cases that begin with a prefix of hexadecimal digits, ascending."""
    low, high = prefix.ljust(64, "0"), prefix.ljust(64, "f")
    statement = (
        select(VALUATION_CASE.c.sha256)
        .where(VALUATION_CASE.c.sha256 >= low, VALUATION_CASE.c.sha256 <= high)
        .order_by(VALUATION_CASE.c.sha256)
        .limit(FOUND_MAX)
    )
    return list(connection.execute(statement).scalars())


def kept_case(connection: Connection, sha256: str) -> KeptCase | None:
    """A case by its name; None where it was never kept. Raises ServiceError of a damaged one."""
    where = VALUATION_CASE.c.sha256 == sha256
    position = connection.execute(select(VALUATION_CASE.c.position).where(where)).scalar()
    found = None if position is None else entry(connection, position)
    if found is None:
        return None
    envelope = found.body.envelope
    return KeptCase(found.position, envelope, read_record(envelope.payload, found.position))


def read_record(payload: bytes, position: int) -> CaseRecord:
    """A case's record in a ledger entry. Raises ServiceError."""
    try:
        return msgspec.json.decode(payload, type=CaseRecord)
    except msgspec.MsgspecError as error:
        raise ServiceError(
            f"ledger entry {position} is no case that this version reads: {error}; use the version "
            "that wrote it, or restore a backup"
        ) from error


def recorded_at(connection: Connection, kind: str, sha256: str) -> int | None:
    """Where the newest of the valuer's own records of a kind stands that is of this name; None where
    none of the newest `RECORDS_MAX` is.
    """
    statement = (
        select(LEDGER_ENTRY.c.position, LEDGER_ENTRY.c.body)
        .where(LEDGER_ENTRY.c.kind == kind, LEDGER_ENTRY.c.host_key.is_(None))
        .order_by(LEDGER_ENTRY.c.position.desc())
        .limit(RECORDS_MAX)
    )
    for row in connection.execute(statement):
        if _name(decode(row.body).envelope.payload) == sha256:
            return int(row.position)
    return None


def _name(payload: bytes) -> str | None:
    try:
        return msgspec.json.decode(payload, type=_Named).sha256
    except msgspec.MsgspecError:
        return None


class _Named(msgspec.Struct, frozen=True, kw_only=True):
    """What records of files, fits and policies have in common."""

    sha256: str


def line_record(connection: Connection, asset_id: int) -> tuple[int, str] | None:
    """Where in the ledger the newest result of an asset stands, and that record's SHA-256."""
    where = VALUATION.c.asset_id == asset_id
    position = connection.execute(select(VALUATION.c.position).where(where)).scalar()
    found = None if position is None else entry(connection, position)
    return None if found is None else (found.position, found.hash.hex())


def lines_at(connection: Connection, position: int) -> dict[int, StoredLine] | None:
    """The results in a ledger entry, by asset id; None where something else stands there, or nothing."""
    found = entry(connection, position)
    if found is None or found.kind != "valuation":
        return None
    told = msgspec.json.decode(found.body.envelope.payload, type=_Lines)
    return {int(one): line for one, line in told.results.items()}


class _Lines(msgspec.Struct, frozen=True, kw_only=True):
    results: dict[str, StoredLine]
