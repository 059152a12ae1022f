"""Reading the ledger: entries by position, windows by their place in a chain, and what follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, RowMapping, bindparam, select

from assay_core import codec
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import Header
from assay_core.leaves import Leaf
from assay_core.seal import Sealed
from assay_valuer.ledger.append import EVIDENCE, FORK, GAP, WINDOW
from assay_valuer.ledger.body import Body, decode
from assay_valuer.store.schema import HOST, LEDGER_ENTRY

FOLLOW_MAX: Final = 1_000
"""Most entries that one read takes into memory."""
RECORDS_FOLLOWED: Final = ("enrolment", "rotation", "revocation", "asset_event", "ocsp")
"""The valuer's own records that a projection of hosts and assets follows."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry as it stands; `body` holds the exact signed bytes.

    `hash` is a window's header hash, otherwise SHA-256 of the signed payload. `host_key`,
    `incarnation` and `sequence` are None but for entries of a host's chain.
    """

    position: int
    kind: str
    received_ms: int
    host_key: int | None
    incarnation: int | None
    sequence: int | None
    hash: bytes
    body: Body


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A window that verify() once let in, read back with what it found then."""

    position: int
    host_key: int
    header: Header
    hash: bytes
    sealed: Sealed
    received_ms: int
    observed_ms: int
    clock_behind: bool

    def leaves(self) -> tuple[Leaf, ...]:
        """The leaves, decoded anew at each call."""
        return tuple(codec.decode_leaf(data) for data in self.sealed.leaves)


@dataclass(frozen=True, slots=True)
class StoredEvidence:
    """An answer to a challenge that was sent at `asked_ms`, as it was kept."""

    position: int
    host_key: int
    incarnation: int
    sealed: SealedEvidence
    asked_ms: int
    received_ms: int


@dataclass(frozen=True, slots=True)
class StoredFork:
    """That a second window or gap record of one sequence was kept: one key, two histories."""

    position: int
    host_key: int
    incarnation: int
    sequence: int
    received_ms: int


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """One of the valuer's own acts; `payload` is the JSON that its ledger key signed."""

    position: int
    kind: str
    payload: bytes
    received_ms: int


Followed = StoredWindow | StoredEvidence | StoredFork | StoredRecord


def entry(connection: Connection, position: int) -> Entry | None:
    """The entry at a position; None where there is none."""
    statement = _ENTRIES.where(LEDGER_ENTRY.c.position == position)
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _entry(row)


def entries_from(
    connection: Connection, position: int, *, kind: str | None = None, limit: int = FOLLOW_MAX
) -> list[Entry]:
    """Up to `limit` entries from a position on, in order; of one kind, or of all."""
    statement = _ENTRIES.where(LEDGER_ENTRY.c.position >= position)
    if kind is not None:
        statement = statement.where(LEDGER_ENTRY.c.kind == kind)
    ordered = statement.order_by(LEDGER_ENTRY.c.position).limit(limit)
    return [_entry(row) for row in connection.execute(ordered).mappings()]


def windows_from(
    connection: Connection, position: int, *, limit: int = FOLLOW_MAX
) -> list[StoredWindow]:
    """Up to `limit` windows from a position on, in the ledger's order.

    How a projection catches up after a restart: from the position after the last it took.
    """
    return [
        _stored(found) for found in entries_from(connection, position, kind=WINDOW, limit=limit)
    ]


def followed_from(connection: Connection, position: int, limit: int = FOLLOW_MAX) -> list[Followed]:
    """Up to `limit` entries that a projection follows, from a position on, in the ledger's order.

    Windows, evidence, forks, and records of RECORDS_FOLLOWED; gap records and others are left out.
    """
    statement = (
        _ENTRIES.where(LEDGER_ENTRY.c.position >= position, LEDGER_ENTRY.c.kind.in_(_FOLLOWED))
        .order_by(LEDGER_ENTRY.c.position)
        .limit(limit)
    )
    return [_followed(_entry(row)) for row in connection.execute(statement).mappings()]


def evidence_of(
    connection: Connection, host_id: str, position: int | None = None
) -> StoredEvidence | None:
    """A host's newest evidence, or what it gave at a position; None where there is none."""
    statement = _ENTRIES.join(HOST, HOST.c.key == LEDGER_ENTRY.c.host_key).where(
        HOST.c.host_id == host_id, LEDGER_ENTRY.c.kind == EVIDENCE
    )
    if position is not None:
        statement = statement.where(LEDGER_ENTRY.c.position == position)
    newest = statement.order_by(LEDGER_ENTRY.c.position.desc()).limit(1)
    row = connection.execute(newest).mappings().one_or_none()
    return None if row is None else _evidence(_entry(row))


def evidence_at(connection: Connection, position: int) -> StoredEvidence | None:
    """The evidence at a position; None where something else stands, or nothing."""
    found = entry(connection, position)
    return None if found is None or found.kind != EVIDENCE else _evidence(found)


def window(
    connection: Connection, host_id: str, incarnation: int, sequence: int
) -> StoredWindow | None:
    """The window at a place in a host's chain; None where there is none, or a gap covers it."""
    statement = _ENTRIES.join(HOST, HOST.c.key == LEDGER_ENTRY.c.host_key).where(
        HOST.c.host_id == host_id,
        LEDGER_ENTRY.c.incarnation == incarnation,
        LEDGER_ENTRY.c.sequence == sequence,
        LEDGER_ENTRY.c.kind == WINDOW,
    )
    row = connection.execute(statement).mappings().one_or_none()
    return None if row is None else _stored(_entry(row))


def chain_entries(
    connection: Connection, host_key: int, incarnation: int, sequence: int
) -> Iterator[tuple[int, str, bytes, bytes | None]]:
    """Position, kind, hash and, of a gap record, last dropped hash: what stands at a sequence."""
    parameters = {"host_key": host_key, "incarnation": incarnation, "sequence": sequence}
    for row in connection.execute(_AT, parameters):
        dropped = None
        if row.kind == GAP:
            dropped = codec.decode_gap(decode(row.body).envelope.payload).last_dropped_hash
        yield row.position, row.kind, row.hash, dropped


def newest_position(connection: Connection) -> int | None:
    """The position of the newest entry; None for an empty ledger."""
    newest = select(LEDGER_ENTRY.c.position).order_by(LEDGER_ENTRY.c.position.desc()).limit(1)
    found = connection.execute(newest).scalar()
    return None if found is None else int(found)


def _entry(row: RowMapping) -> Entry:
    return Entry(
        position=row["position"],
        kind=row["kind"],
        received_ms=row["received_ms"],
        host_key=row["host_key"],
        incarnation=row["incarnation"],
        sequence=row["sequence"],
        hash=row["hash"],
        body=decode(row["body"]),
    )


def _stored(found: Entry) -> StoredWindow:
    body = found.body
    if found.host_key is None or body.observed_ms is None:
        raise TypeError("an entry of kind window has a host and an observed_ms")
    return StoredWindow(
        position=found.position,
        host_key=found.host_key,
        header=codec.decode_header(body.envelope.payload),
        hash=found.hash,
        sealed=body.sealed,
        received_ms=found.received_ms,
        observed_ms=body.observed_ms,
        clock_behind=body.clock_behind,
    )


def _evidence(found: Entry) -> StoredEvidence:
    body = found.body
    if found.host_key is None or found.incarnation is None or body.observed_ms is None:
        raise TypeError("an entry of kind evidence has a host, an incarnation and an observed_ms")
    return StoredEvidence(
        position=found.position,
        host_key=found.host_key,
        incarnation=found.incarnation,
        sealed=SealedEvidence(body.envelope, body.leaves),
        asked_ms=body.observed_ms,
        received_ms=found.received_ms,
    )


def _fork(found: Entry) -> StoredFork:
    if found.host_key is None or found.incarnation is None or found.sequence is None:
        raise TypeError("an entry of kind fork has a host, an incarnation and a sequence")
    return StoredFork(
        found.position, found.host_key, found.incarnation, found.sequence, found.received_ms
    )


def _followed(found: Entry) -> Followed:
    if found.kind == WINDOW:
        return _stored(found)
    if found.kind == EVIDENCE:
        return _evidence(found)
    if found.kind == FORK:
        return _fork(found)
    return StoredRecord(found.position, found.kind, found.body.envelope.payload, found.received_ms)


_FOLLOWED: Final = (WINDOW, EVIDENCE, FORK, *RECORDS_FOLLOWED)
_ENTRIES: Final = select(LEDGER_ENTRY)
_AT: Final = select(
    LEDGER_ENTRY.c.position, LEDGER_ENTRY.c.kind, LEDGER_ENTRY.c.hash, LEDGER_ENTRY.c.body
).where(
    LEDGER_ENTRY.c.host_key == bindparam("host_key"),
    LEDGER_ENTRY.c.incarnation == bindparam("incarnation"),
    LEDGER_ENTRY.c.sequence == bindparam("sequence"),
    LEDGER_ENTRY.c.kind.in_((WINDOW, GAP)),
)
