"""Appending to the ledger: the only writes it knows, each inside the caller's transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, bindparam, func, insert, select, update

from assay_core.errors import ServiceError
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import Head
from assay_core.seal import ENTRY_TYPE, Envelope, Sealed, Signer, sign_envelope
from assay_core.verify import VerifiedGap, VerifiedWindow
from assay_valuer.ledger.body import Body, encode
from assay_valuer.store.schema import HOST, LEDGER_ENTRY, SEALING_KEY

WINDOW: Final = "window"
GAP: Final = "gap"
FORK: Final = "fork"
EVIDENCE: Final = "evidence"
"""A host's answer to a challenge, with its reports; `sequence` is of the window that it names."""
FORKS_MAX: Final = 64
"""Forked windows kept as evidence for each host and incarnation; more are counted, not kept."""

_Json = None | bool | int | str | list["_Json"] | dict[str, "_Json"]


class HeadMoved(ServiceError):
    """A host's chain is not where it was when its windows were verified. Nothing was written."""

    def __init__(self) -> None:
        super().__init__("a host's chain moved meanwhile; connect again")


@dataclass(frozen=True, slots=True)
class Run:
    """Windows and gap records of one host that follow each other, from the head they follow."""

    host_key: int
    after: Head | None
    items: Sequence[VerifiedWindow | VerifiedGap]


def append_runs(connection: Connection, runs: Sequence[Run]) -> list[list[int]]:
    """Appends each run, moves its host's head and retires the keys that a newer one took over from;
    returns the positions, run by run.

    Raises HeadMoved, and then nothing may be kept of this transaction, where a head is not the
    one the run follows: another process moved it, or the host was revoked or enrolled anew.
    """
    position = next_position(connection)
    rows: list[Mapping[str, object]] = []
    moves: list[Mapping[str, object]] = []
    retired: list[Mapping[str, object]] = []
    positions: list[list[int]] = []
    for run in runs:
        positions.append(list(range(position, position + len(run.items))))
        for item in run.items:
            rows.append(
                _window_row(position, run.host_key, item)
                if isinstance(item, VerifiedWindow)
                else _gap_row(position, run.host_key, item)
            )
            position += 1
            retired += _retired(item)
        moves.append(_move(run, positions[-1]))
    connection.execute(_INSERT, rows)
    for move in moves:
        if connection.execute(_MOVE_SEEN if "to_observed" in move else _MOVE, move).rowcount != 1:
            raise HeadMoved
    if retired:
        connection.execute(_RETIRE, retired)
    return positions


def append_fork(
    connection: Connection,
    sealed: Sealed,
    *,
    host_key: int,
    incarnation: int,
    sequence: int,
    now_ms: int,
) -> int | None:
    """Keeps the second of two windows that one key sealed at one sequence; its position.

    None where these very bytes are kept already, or FORKS_MAX others are.
    """
    kept = connection.execute(
        select(LEDGER_ENTRY.c.sequence, LEDGER_ENTRY.c.hash).where(
            LEDGER_ENTRY.c.host_key == host_key,
            LEDGER_ENTRY.c.incarnation == incarnation,
            LEDGER_ENTRY.c.kind == FORK,
        )
    ).all()
    digest = sealed.hash
    if len(kept) >= FORKS_MAX or any(row.hash == digest for row in kept):
        return None
    position = next_position(connection)
    row = {
        "position": position,
        "kind": FORK,
        "received_ms": now_ms,
        "host_key": host_key,
        "incarnation": incarnation,
        "sequence": sequence,
        "hash": digest,
        "body": encode(Body(sealed.envelope, sealed.leaves)),
    }
    connection.execute(_INSERT, [row])
    return position


def append_evidence(
    connection: Connection,
    sealed: SealedEvidence,
    *,
    host_key: int,
    incarnation: int,
    sequence: int,
    asked_ms: int,
    now_ms: int,
) -> int:
    """Keeps an answer to a challenge that was sent at `asked_ms`; returns the position.

    `sequence` is of the window that the statement names.
    """
    position = next_position(connection)
    row = {
        "position": position,
        "kind": EVIDENCE,
        "received_ms": now_ms,
        "host_key": host_key,
        "incarnation": incarnation,
        "sequence": sequence,
        "hash": hashlib.sha256(sealed.envelope.payload).digest(),
        "body": encode(Body(sealed.envelope, sealed.blobs, asked_ms)),
    }
    connection.execute(_INSERT, [row])
    return position


def append_record(
    connection: Connection, kind: str, payload: bytes, signer: Signer, now_ms: int
) -> int:
    """Appends one of the valuer's own acts, signed by its ledger key; returns the position.

    `payload` is JSON, kept as it is; see `to_json`.
    """
    envelope = sign_envelope(ENTRY_TYPE, payload, signer)
    position = next_position(connection)
    connection.execute(_INSERT, [_record_row(position, kind, envelope, now_ms)])
    return position


def to_json(content: Mapping[str, _Json]) -> bytes:
    """Canonical JSON for a record: keys sorted, no spaces, UTF-8."""
    return msgspec.json.encode(content, order="sorted")


def next_position(connection: Connection) -> int:
    """The position that the next entry of this transaction takes."""
    newest = connection.execute(_NEWEST).scalar()
    return 0 if newest is None else int(newest) + 1


def _retired(item: VerifiedWindow | VerifiedGap) -> list[Mapping[str, object]]:
    first = item.header.sequence if isinstance(item, VerifiedWindow) else item.gap.first_sequence
    return [{"of_key": key.fingerprint, "from_sequence": first} for key in item.superseded]


def _window_row(position: int, host_key: int, window: VerifiedWindow) -> Mapping[str, object]:
    sealed = window.sealed
    body = Body(sealed.envelope, sealed.leaves, window.observed_ms, window.clock_behind)
    return {
        "position": position,
        "kind": WINDOW,
        "received_ms": window.received_ms,
        "host_key": host_key,
        "incarnation": window.header.incarnation,
        "sequence": window.header.sequence,
        "hash": window.hash,
        "body": encode(body),
    }


def _gap_row(position: int, host_key: int, verified: VerifiedGap) -> Mapping[str, object]:
    return {
        "position": position,
        "kind": GAP,
        "received_ms": verified.received_ms,
        "host_key": host_key,
        "incarnation": verified.gap.incarnation,
        "sequence": verified.gap.last_sequence,
        "hash": hashlib.sha256(verified.envelope.payload).digest(),
        "body": encode(Body(verified.envelope)),
    }


def _record_row(position: int, kind: str, envelope: Envelope, now_ms: int) -> Mapping[str, object]:
    return {
        "position": position,
        "kind": kind,
        "received_ms": now_ms,
        "host_key": None,
        "incarnation": None,
        "sequence": None,
        "hash": hashlib.sha256(envelope.payload).digest(),
        "body": encode(Body(envelope)),
    }


def head_after(item: VerifiedWindow | VerifiedGap) -> Head:
    """The head of a chain that ends with `item`."""
    if isinstance(item, VerifiedWindow):
        return Head(item.header.sequence, item.hash)
    return Head(item.gap.last_sequence, item.gap.last_dropped_hash)


def _move(run: Run, positions: Sequence[int]) -> Mapping[str, object]:
    """The parameters of the compare-and-swap that moves a host's head over a run."""
    last = run.items[-1]
    head = head_after(last)
    move: dict[str, object] = {
        "of_host": run.host_key,
        "of_incarnation": (
            last.header.incarnation if isinstance(last, VerifiedWindow) else last.gap.incarnation
        ),
        "from_sequence": None if run.after is None else run.after.sequence,
        "from_hash": None if run.after is None else run.after.hash,
        "to_sequence": head.sequence,
        "to_hash": head.hash,
    }
    for position, item in zip(reversed(positions), reversed(run.items), strict=True):
        if isinstance(item, VerifiedWindow):
            move |= {
                "to_position": position,
                "to_observed": item.observed_ms,
                "to_received": item.received_ms,
                "to_source": int(item.header.source),
                "to_behind": item.clock_behind,
            }
            break
    return move


_RETIRE: Final = (
    update(SEALING_KEY)
    .where(
        SEALING_KEY.c.fingerprint == bindparam("of_key"), SEALING_KEY.c.retired_sequence.is_(None)
    )
    .values(retired_sequence=bindparam("from_sequence"))
)
_NEWEST: Final = select(func.max(LEDGER_ENTRY.c.position))
_INSERT: Final = insert(LEDGER_ENTRY)
_MOVE: Final = (
    update(HOST)
    .where(
        HOST.c.key == bindparam("of_host"),
        HOST.c.incarnation == bindparam("of_incarnation"),
        HOST.c.revoked_ms.is_(None),
        HOST.c.head_sequence.is_not_distinct_from(bindparam("from_sequence")),
        HOST.c.head_hash.is_not_distinct_from(bindparam("from_hash")),
    )
    .values(head_sequence=bindparam("to_sequence"), head_hash=bindparam("to_hash"))
)
_MOVE_SEEN: Final = _MOVE.values(
    head_position=bindparam("to_position"),
    observed_ms=bindparam("to_observed"),
    received_ms=bindparam("to_received"),
    source=bindparam("to_source"),
    clock_behind=bindparam("to_behind"),
)
