"""Proposals as the store keeps them: the exact signed bytes, and who signed them so far."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, func, insert, select, update

from assay_core import asset_events
from assay_core.asset_events import AssetEvent
from assay_core.errors import AssayError
from assay_core.instants import DAY_MS
from assay_core.seal import ASSET_EVENT_TYPE, Envelope, Signature
from assay_core.signatories import Role
from assay_valuer.pledges import ACCEPTED
from assay_valuer.store.schema import ASSET_EVENT

OPEN_OF_ONE_MAX: Final = 64
"""Open proposals of one proposer, host or party."""
OPEN_MAX: Final = 4_096
DAY_OF_HOST_MAX: Final = 64
"""Proposals that one host may bring in a day, whatever became of them."""


class EventError(AssayError):
    """An asset event cannot be taken, signed or decided as asked; says whose fault, and what to do."""


class State(enum.StrEnum):
    """What became of a proposal."""

    PROPOSED = "proposed"
    ACCEPTED = ACCEPTED
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One signature: who made it, in what capacity, and when it came in."""

    who: str
    role: Role
    fingerprint: str
    sig: bytes
    """Base64 in JSON."""
    signed_ms: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposal. `lacking`: roles that nobody has signed for yet; `new`: it came in just now.

    `detail` says in words how it ended, or what it waits for.
    """

    id: int
    state: State
    event: AssetEvent
    payload: bytes
    signed: tuple[Signed, ...]
    proposed_ms: int
    decided_ms: int | None
    detail: str
    lacking: tuple[Role, ...] = ()
    new: bool = False

    @property
    def sha256(self) -> str:
        """Of the signed bytes, hex: by which a decision names the event."""
        return hashlib.sha256(self.payload).hexdigest()

    @property
    def envelope(self) -> Envelope:
        """The event as it was signed, by all who did."""
        signatures = tuple(Signature(one.sig, one.fingerprint) for one in self.signed)
        return Envelope(self.payload, ASSET_EVENT_TYPE, signatures)

    def lapsed(self, now_ms: int) -> bool:
        """Whether it waits for a signature that can no longer come: its window is over."""
        until_ms = self.event.until_ms
        return self.state is State.PROPOSED and until_ms is not None and until_ms <= now_ms


def proposal(connection: Connection, number: int) -> Proposal:
    """The proposal of this number. Raises EventError."""
    where = ASSET_EVENT.c.id == number
    row = connection.execute(select(ASSET_EVENT).where(where)).one_or_none()
    if row is None:
        raise EventError(f"there is no asset event {number}; see `assay-valuer asset events`")
    return _proposal(row)


def proposal_of(connection: Connection, payload: bytes) -> Proposal | None:
    """The proposal with these signed bytes."""
    where = ASSET_EVENT.c.payload_sha256 == hashlib.sha256(payload).digest()
    row = connection.execute(select(ASSET_EVENT).where(where)).one_or_none()
    return None if row is None else _proposal(row)


def list_proposals(connection: Connection, *, limit: int, open_only: bool) -> list[Proposal]:
    """The newest proposals, the newest first."""
    statement = select(ASSET_EVENT).order_by(ASSET_EVENT.c.id.desc()).limit(limit)
    if open_only:
        statement = statement.where(ASSET_EVENT.c.state == State.PROPOSED.value)
    return [_proposal(row) for row in connection.execute(statement)]


def keep(
    connection: Connection,
    event: AssetEvent,
    payload: bytes,
    signed: tuple[Signed, ...],
    now_ms: int,
) -> Proposal:
    """Keeps a new proposal."""
    made = connection.execute(
        insert(ASSET_EVENT).values(
            kind=event.kind.value,
            state=State.PROPOSED.value,
            payload=payload,
            payload_sha256=hashlib.sha256(payload).digest(),
            signatures=_dump(signed),
            proposed_ms=now_ms,
            detail="",
            proposer=signed[0].who,
            until_ms=event.until_ms,
        )
    ).inserted_primary_key
    if made is None:
        raise EventError("the store gave the event no number; try again")
    return Proposal(
        int(made[0]), State.PROPOSED, event, payload, signed, now_ms, None, "", new=True
    )


def save(connection: Connection, one: Proposal) -> None:
    """Writes what changed of a proposal: its state, its signatures, its words."""
    connection.execute(
        update(ASSET_EVENT)
        .where(ASSET_EVENT.c.id == one.id)
        .values(
            state=one.state.value,
            signatures=_dump(one.signed),
            decided_ms=one.decided_ms,
            detail=one.detail,
        )
    )


def check_room(connection: Connection, proposer: str, *, host: bool, now_ms: int) -> None:
    """That one more proposal of this proposer is taken. Raises EventError.

    None is read: what hosts ever proposed may be much.
    """
    table = ASSET_EVENT.c
    is_open = (table.state == State.PROPOSED.value) & (
        table.until_ms.is_(None) | (table.until_ms > now_ms)
    )
    mine = _count(connection, is_open & (table.proposer == proposer))
    if mine >= OPEN_OF_ONE_MAX:
        raise EventError(
            f"{proposer} has {mine} open proposals: have the lender decide them, or withdraw some"
        )
    today = (table.proposer == proposer) & (table.proposed_ms > now_ms - DAY_MS)
    if host and (made := _count(connection, today)) >= DAY_OF_HOST_MAX:
        raise EventError(f"{proposer} made {made} proposals within a day: try again tomorrow")
    if (live := _count(connection, is_open)) >= OPEN_MAX:
        raise EventError(f"{live} proposals are open: the lender must decide some first")


def _count(connection: Connection, where: ColumnElement[bool]) -> int:
    counted = select(func.count()).select_from(ASSET_EVENT).where(where)
    return connection.execute(counted).scalar() or 0


def _dump(signed: tuple[Signed, ...]) -> str:
    return msgspec.json.encode(signed).decode()


def _proposal(row: Row[tuple[object, ...]]) -> Proposal:
    found = row._mapping
    payload: bytes = found["payload"]
    return Proposal(
        id=found["id"],
        state=State(found["state"]),
        event=asset_events.decode(payload),
        payload=payload,
        signed=msgspec.json.decode(found["signatures"], type=tuple[Signed, ...]),
        proposed_ms=found["proposed_ms"],
        decided_ms=found["decided_ms"],
        detail=found["detail"],
    )
