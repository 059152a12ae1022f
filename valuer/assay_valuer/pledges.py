"""Which GPUs secure which loan, who alone may show them, and which took the place of which.

A loan's file says what is pledged. What two parties signed since then stands over it: a replacement
stays pledged while the file still names what it replaced, a released GPU is not pledged again, and a
move is not undone, until the file itself says something new.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Row, delete, insert, select, update

from assay_core import asset_events
from assay_core.asset_events import Kind, Subject
from assay_core.errors import FileError, ServiceError
from assay_valuer.credit.loan import LoanFile
from assay_valuer.store.schema import ASSET, ASSET_EVENT, PLEDGE

ACCEPTED: Final = "accepted"


@dataclass(frozen=True, slots=True)
class Pledge:
    """One pledged asset: for which loan, who alone may show it, and whose place it takes."""

    asset_id: int
    loan_id: str
    site: str | None
    host_id: str | None
    successor_of: int | None


@dataclass(frozen=True, slots=True)
class Pledging:
    """What became of a file's pledge: how many were never seen, and how many were released."""

    expected: int
    released: int


def pledge_of(connection: Connection, asset_id: int) -> Pledge | None:
    """The pledge of an asset; None where it secures nothing."""
    row = connection.execute(select(PLEDGE).where(PLEDGE.c.asset_id == asset_id)).one_or_none()
    return None if row is None else _pledge(row)


def pledges_of(connection: Connection, loan_id: str) -> list[Pledge]:
    """All that secures a loan, by asset."""
    where = PLEDGE.c.loan_id == loan_id
    rows = connection.execute(select(PLEDGE).where(where).order_by(PLEDGE.c.asset_id))
    return [_pledge(row) for row in rows]


def successor_of(connection: Connection, asset_id: int) -> int | None:
    """The asset that took the place of this one; None where none did."""
    where = PLEDGE.c.successor_of == asset_id
    return connection.execute(select(PLEDGE.c.asset_id).where(where)).scalar()


def find_asset(connection: Connection, subject: Subject) -> int | None:
    """The asset with this serial and board part number."""
    where = (ASSET.c.serial == subject.serial) & (
        ASSET.c.board_part_number == subject.board_part_number
    )
    return connection.execute(select(ASSET.c.id).where(where)).scalar()


def expect(connection: Connection, subject: Subject) -> int:
    """The asset of a GPU: the one there is, or one that is EXPECTED from now on."""
    known = find_asset(connection, subject)
    if known is not None:
        return known
    made = insert(ASSET).values(serial=subject.serial, board_part_number=subject.board_part_number)
    key = connection.execute(made).inserted_primary_key
    if key is None:
        raise ServiceError(f"the store gave the GPU {subject} no number; try again")
    return int(key[0])


def take_place(connection: Connection, old: Pledge, new: int) -> None:
    """Pledges the asset `new` beside `old`, in its place from when it is first seen."""
    connection.execute(
        insert(PLEDGE).values(
            asset_id=new,
            loan_id=old.loan_id,
            site=old.site,
            host_id=old.host_id,
            successor_of=old.asset_id,
        )
    )


def release(connection: Connection, asset_ids: Iterable[int]) -> None:
    """Ends the pledge of these assets, and of those whose place they took."""
    for asset_id in asset_ids:
        at: int | None = asset_id
        while at is not None:
            held = pledge_of(connection, at)
            connection.execute(delete(PLEDGE).where(PLEDGE.c.asset_id == at))
            at = None if held is None else held.successor_of


def redeem(connection: Connection, loan_id: str) -> None:
    """Ends every pledge of a loan."""
    connection.execute(delete(PLEDGE).where(PLEDGE.c.loan_id == loan_id))


def reserve(
    connection: Connection, asset_ids: Iterable[int], *, site: str, host_id: str | None
) -> None:
    """Moves what is reserved for a site or a host to another; what is reserved for nobody stays so.

    `host_id` None: a reservation for a host becomes one for the site.
    """
    for asset_id in asset_ids:
        held = pledge_of(connection, asset_id)
        if held is None or (held.site is None and held.host_id is None):
            continue
        by_host = held.host_id is not None and host_id is not None
        connection.execute(
            update(PLEDGE)
            .where(PLEDGE.c.asset_id == asset_id)
            .values(site=None if by_host else site, host_id=host_id if by_host else None)
        )


def pledge_file(
    connection: Connection, loan: LoanFile, before: LoanFile | None, name: str
) -> Pledging:
    """Pledges what a loan's file names, `before` being the file as it was imported last.

    Raises FileError where a GPU is pledged to another loan, or took the place of one that is. `name`
    is the file's, for messages.
    """
    held = {one.asset_id: one for one in pledges_of(connection, loan.id)}
    released = _released(connection, loan.id)
    told = _reserved(before)
    connection.execute(delete(PLEDGE).where(PLEDGE.c.loan_id == loan.id))
    wanted: dict[int, Pledge] = {}
    left_out = 0
    for index, gpu in enumerate(loan.pledge):
        subject = Subject(serial=gpu.serial, board_part_number=gpu.board_part_number)
        if released is None or subject in released:
            left_out += 1
            continue
        asset_id = expect(connection, subject)
        other = pledge_of(connection, asset_id)
        if other is not None:
            raise FileError(
                f"{name}: pledge.{index}.serial: {gpu.serial} is pledged to loan {other.loan_id} "
                "already; a GPU secures one loan at a time"
            )
        site, host_id = loan.reserved_for(gpu)
        was = held.get(asset_id)
        if was is not None and told.get(subject) == (site, host_id):
            site, host_id = was.site, was.host_id  # where it was moved to since
        wanted[asset_id] = Pledge(asset_id, loan.id, site, host_id, None)
    rows = _with_successors(wanted, held)
    if rows:
        connection.execute(insert(PLEDGE), [_row(one) for one in rows.values()])
    return Pledging(_unseen(connection, sorted(wanted)), left_out)


def _with_successors(wanted: Mapping[int, Pledge], held: Mapping[int, Pledge]) -> dict[int, Pledge]:
    """What the file names, and all that took the place of what it names."""
    rows = dict(wanted)
    added = True
    while added:
        added = False
        for one in held.values():
            if one.successor_of in rows and one.asset_id not in rows:
                rows[one.asset_id] = one
                added = True
    for asset_id in wanted:
        was = held.get(asset_id)
        if was is not None and was.successor_of in rows:
            one = rows[asset_id]
            rows[asset_id] = Pledge(asset_id, one.loan_id, one.site, one.host_id, was.successor_of)
    return rows


def _released(connection: Connection, loan_id: str) -> set[Subject] | None:
    """GPUs that two parties released from the loan; None: all of them, it was redeemed."""
    kinds = (Kind.RELEASE, Kind.REDEMPTION, Kind.GPU_REPLACEMENT, Kind.BOARD_SWAP)
    rows = connection.execute(
        select(ASSET_EVENT.c.payload)
        .where(
            ASSET_EVENT.c.state == ACCEPTED, ASSET_EVENT.c.kind.in_([one.value for one in kinds])
        )
        .order_by(ASSET_EVENT.c.decided_ms, ASSET_EVENT.c.id)
    )
    replaced: dict[Subject, Subject] = {}
    released: set[Subject] = set()
    for (payload,) in rows:
        event = asset_events.decode(payload)
        if event.replacements:
            replaced |= dict(zip(event.replacements, event.assets, strict=True))
        elif event.loan == loan_id:
            if event.kind is Kind.REDEMPTION:
                return None
            for one in event.assets:
                released |= _chain(one, replaced)
    return released


def _chain(subject: Subject, replaced: Mapping[Subject, Subject]) -> set[Subject]:
    """The GPU and all whose place it took, one after the other."""
    chain = {subject}
    while (before := replaced.get(subject)) is not None and before not in chain:
        chain.add(before)
        subject = before
    return chain


def _reserved(loan: LoanFile | None) -> dict[Subject, tuple[str | None, str | None]]:
    if loan is None:
        return {}
    return {
        Subject(serial=gpu.serial, board_part_number=gpu.board_part_number): loan.reserved_for(gpu)
        for gpu in loan.pledge
    }


def _unseen(connection: Connection, asset_ids: Sequence[int]) -> int:
    wanted = set(asset_ids)
    unseen = connection.execute(select(ASSET.c.id).where(ASSET.c.first_seen_ms.is_(None))).scalars()
    return sum(one in wanted for one in unseen)


def _row(pledge: Pledge) -> dict[str, object]:
    return {
        "asset_id": pledge.asset_id,
        "loan_id": pledge.loan_id,
        "site": pledge.site,
        "host_id": pledge.host_id,
        "successor_of": pledge.successor_of,
    }


def _pledge(row: Row[tuple[object, ...]]) -> Pledge:
    found = row._mapping
    return Pledge(
        found["asset_id"],
        found["loan_id"],
        found["site"],
        found["host_id"],
        found["successor_of"],
    )
