"""The book in the store: what a pipeline loads when it starts, and what it writes at each step."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from assay_core.health import START, pack, unpack
from assay_core.money import Usd
from assay_valuer.assets import Changes
from assay_valuer.book import Loan
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.position import Remembered
from assay_valuer.fleet import Fleet
from assay_valuer.market import prices as price_table
from assay_valuer.market.prices import PriceSnapshot
from assay_valuer.results import StoredLine, StoredPosition
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.notes import NOTHING, Notes
from assay_valuer.standing.silence import Span
from assay_valuer.standing.trust import NO_TRUST, AssetTrust, HostProofs, Reservation
from assay_valuer.standing.types import (
    Asset,
    Condition,
    Host,
    Track,
)
from assay_valuer.store.schema import (
    APPRAISAL,
    APPRAISED,
    ASSET,
    ASSET_EVENT,
    COVENANT,
    HOST,
    HOST_TRUST,
    LEDGER_ENTRY,
    LOAN,
    LOAN_POSITION,
    MARKET_PARAMETERS,
    OCSP,
    PLEDGE,
    PRICE_SNAPSHOT,
    PROJECTION,
    UPTIME,
    VALUATION,
    VALUE_OVERRIDE,
)

NAME: Final = "standing"
"""The projection's row."""
POLICY: Final = "policy"
"""The row that says where the newest record of the policy is."""
SPANS_MAX: Final = 1_000
"""Spans of our own uptime that are looked at; what is before them is no longer anybody's grace."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the store holds of the fleet."""

    assets: tuple[Asset, ...]
    hashes: dict[int, bytes]
    next_position: int


def load_fleet(connection: Connection) -> Loaded:
    """Every asset with its track, and how far the ledger has been followed."""
    assets, hashes = [], {}
    joined = select(ASSET, LEDGER_ENTRY.c.hash.label("window_hash")).outerjoin(
        LEDGER_ENTRY, LEDGER_ENTRY.c.position == ASSET.c.position
    )
    for row in connection.execute(joined).mappings():
        condition: str | None = row["condition"]
        health: bytes | None = row["health"]
        notes: str | None = row["notes"]
        track = Track(
            first_seen_ms=row["first_seen_ms"],
            seen_ms=row["seen_ms"],
            missing_since_ms=row["missing_since_ms"],
            position=row["position"],
            condition=Condition()
            if condition is None
            else msgspec.json.decode(condition, type=Condition),
            health=START if health is None else unpack(health),
            notes=NOTHING if notes is None else msgspec.json.decode(notes, type=Notes),
        )
        assets.append(
            Asset(
                id=row["id"],
                serial=row["serial"],
                board_part_number=row["board_part_number"],
                uuid=row["uuid"],
                name=row["name"],
                host_key=row["host_key"],
                simulated=bool(row["simulated"]),
                track=track,
                pdi=None if row["pdi"] is None else int(row["pdi"]),
                identity=row["identity"],
                trust=NO_TRUST
                if row["trust"] is None
                else msgspec.json.decode(row["trust"], type=AssetTrust),
            )
        )
        if row["window_hash"] is not None:
            hashes[row["id"]] = row["window_hash"]
    return Loaded(tuple(assets), hashes, _position_of(connection, NAME) or 0)


def save_fleet(
    connection: Connection, fleet: Fleet, changes: Changes, from_position: int, to_position: int
) -> bool:
    """Writes what changed and moves the projection, or writes nothing and returns False.

    False where the projection is not at `from_position`: another process followed the ledger too.
    """
    if not _move(connection, from_position, to_position):
        return False
    rows = [_asset_row(fleet.assets[one]) for one in sorted(changes.assets)]
    made = [row for row in rows if row["id"] in changes.made]
    changed = [row for row in rows if row["id"] not in changes.made]
    if changes.bound:
        # A device may pass from one row to another: it is let go before it is taken.
        connection.execute(_LET_GO, [{"taken": one.identity} for one in changes.bound])
    if changed:
        keyed = [{"of_id": row["id"], **_without_id(row)} for row in changed]
        connection.execute(_UPDATE_ASSET, keyed)
    if made:
        connection.execute(insert(ASSET), made)
    for host_key in sorted(changes.hosts):
        text = msgspec.json.encode(fleet.known.proofs_of(host_key)).decode()
        connection.execute(delete(HOST_TRUST).where(HOST_TRUST.c.host_key == host_key))
        connection.execute(insert(HOST_TRUST).values(host_key=host_key, trust=text))
    return True


def _move(connection: Connection, from_position: int, to_position: int) -> bool:
    held = _position_of(connection, NAME)
    if (0 if held is None else held) != from_position:
        return False
    _set_position(connection, NAME, to_position)
    return True


def policy_position(connection: Connection) -> int | None:
    """Where in the ledger the policy was recorded last."""
    return _position_of(connection, POLICY)


def save_policy_position(connection: Connection, position: int) -> None:
    """Notes where it was."""
    _set_position(connection, POLICY, position)


def _position_of(connection: Connection, name: str) -> int | None:
    where = PROJECTION.c.name == name
    held = connection.execute(select(PROJECTION.c.next_position).where(where)).scalar()
    return None if held is None else int(held)


def _set_position(connection: Connection, name: str, position: int) -> None:
    where = PROJECTION.c.name == name
    moved = connection.execute(update(PROJECTION).where(where).values(next_position=position))
    if moved.rowcount == 0:
        connection.execute(insert(PROJECTION).values(name=name, next_position=position))


def _asset_row(asset: Asset) -> dict[str, object]:
    track = asset.track
    return {
        "id": asset.id,
        "serial": asset.serial,
        "board_part_number": asset.board_part_number,
        "pdi": None if asset.pdi is None else str(asset.pdi),
        "uuid": asset.uuid,
        "name": asset.name,
        "host_key": asset.host_key,
        "first_seen_ms": track.first_seen_ms,
        "seen_ms": track.seen_ms,
        "position": track.position,
        "simulated": asset.simulated,
        "condition": msgspec.json.encode(track.condition).decode(),
        "health": pack(track.health),
        "notes": msgspec.json.encode(track.notes).decode(),
        "missing_since_ms": track.missing_since_ms,
        "identity": asset.identity,
        "trust": None if asset.trust == NO_TRUST else msgspec.json.encode(asset.trust).decode(),
    }


def _without_id(row: Mapping[str, object]) -> dict[str, object]:
    return {f"new_{name}": value for name, value in row.items() if name != "id"}


_CHANGING: Final = (
    "serial",
    "board_part_number",
    "pdi",
    "uuid",
    "name",
    "host_key",
    "first_seen_ms",
    "seen_ms",
    "position",
    "simulated",
    "condition",
    "health",
    "notes",
    "missing_since_ms",
    "identity",
    "trust",
)
_UPDATE_ASSET: Final = (
    update(ASSET)
    .where(ASSET.c.id == bindparam("of_id"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGING})
)


_LET_GO: Final = update(ASSET).where(ASSET.c.identity == bindparam("taken")).values(identity=None)


# ---------------------------------------------------------------------------- the registry


def load_hosts(connection: Connection) -> dict[int, Host]:
    """Every host by its key."""
    return {
        row["key"]: Host(
            key=row["key"],
            host_id=row["host_id"],
            site=row["site"],
            observed_ms=row["observed_ms"],
            revoked=row["revoked_ms"] is not None,
        )
        for row in connection.execute(select(HOST)).mappings()
    }


def load_loans(connection: Connection) -> tuple[Loan, ...]:
    """Every loan with its pledge, by id."""
    pledged: dict[str, list[int]] = defaultdict(list)
    successor_of: dict[str, dict[int, int]] = defaultdict(dict)
    for row in connection.execute(select(PLEDGE).order_by(PLEDGE.c.asset_id)):
        pledged[row.loan_id].append(row.asset_id)
        if row.successor_of is not None:
            successor_of[row.loan_id][row.asset_id] = row.successor_of
    rows = connection.execute(select(LOAN).order_by(LOAN.c.id)).mappings()
    return tuple(
        Loan(
            loan_file.from_json(row["terms"]),
            row["feed_id"],
            tuple(pledged[row["id"]]),
            successor_of[row["id"]],
        )
        for row in rows
    )


def load_proofs(connection: Connection) -> dict[int, HostProofs]:
    """What hosts have proved, by their keys."""
    return {
        row.host_key: msgspec.json.decode(row.trust, type=HostProofs)
        for row in connection.execute(select(HOST_TRUST))
    }


def load_reserved(connection: Connection) -> dict[int, Reservation]:
    """Who alone may show each pledged asset, where its loan says so."""
    return {
        row.asset_id: Reservation(site=row.site, host_id=row.host_id)
        for row in connection.execute(select(PLEDGE))
        if row.site is not None or row.host_id is not None
    }


def load_revocations(connection: Connection) -> dict[str, Revocation]:
    """The newest answer about each certificate, by its SHA-256."""
    return {
        row.certificate_sha256: Revocation(
            row.status == "good", row.this_update_ms, row.next_update_ms
        )
        for row in connection.execute(select(OCSP))
    }


def load_prices(connection: Connection) -> PriceSnapshot | None:
    """The price table imported last."""
    newest = (
        select(PRICE_SNAPSHOT.c.rows)
        .order_by(PRICE_SNAPSHOT.c.imported_ms.desc(), PRICE_SNAPSHOT.c.sha256)
        .limit(1)
    )
    text = connection.execute(newest).scalar()
    return None if text is None else price_table.from_json(text)


def registry_version(connection: Connection) -> tuple[object, ...]:
    """Changes whenever somebody else registers a loan, a covenant, a pledge, a price table, a fit, an
    appraisal or an override, or decides an event: two of one millisecond are two.
    """
    return (
        connection.execute(select(func.count(), func.max(ASSET.c.id)).select_from(ASSET)).one(),
        connection.execute(
            select(
                func.count(), func.sum(PLEDGE.c.asset_id), func.sum(PLEDGE.c.successor_of)
            ).select_from(PLEDGE)
        ).one(),
        connection.execute(
            select(func.count(ASSET_EVENT.c.decided_ms), func.sum(ASSET_EVENT.c.decided_ms))
        ).one(),
        connection.execute(
            select(func.count(), func.sum(LOAN.c.imported_ms)).select_from(LOAN)
        ).one(),
        connection.execute(select(func.count()).select_from(COVENANT)).one(),
        connection.execute(
            select(func.count(), func.sum(PRICE_SNAPSHOT.c.imported_ms)).select_from(PRICE_SNAPSHOT)
        ).one(),
        connection.execute(
            select(func.count(), func.sum(MARKET_PARAMETERS.c.made_ms)).select_from(
                MARKET_PARAMETERS
            )
        ).one(),
        connection.execute(
            select(func.count(), func.sum(APPRAISAL.c.position)).select_from(APPRAISAL)
        ).one(),
        connection.execute(select(func.count()).select_from(APPRAISED)).one(),
        connection.execute(
            select(func.count(), func.sum(VALUE_OVERRIDE.c.position)).select_from(VALUE_OVERRIDE)
        ).one(),
    )


def load_uptime(connection: Connection) -> list[Span]:
    """The newest spans in which the valuer served, ascending."""
    newest = select(UPTIME).order_by(UPTIME.c.begin_ms.desc()).limit(SPANS_MAX)
    rows = connection.execute(newest).all()
    return [Span(begin_ms, end_ms) for begin_ms, end_ms in reversed(rows)]


# ---------------------------------------------------------------------------- results


def load_remembered(connection: Connection) -> dict[int, Remembered]:
    """What each asset was worth when it last counted."""
    found = {}
    for asset_id, text in connection.execute(select(VALUATION.c.asset_id, VALUATION.c.result)):
        memory = msgspec.json.decode(text, type=StoredLine).remembered
        if memory is not None:
            found[asset_id] = Remembered(
                Usd(memory.olv_micros),
                Usd(memory.nolv_micros),
                memory.at_ms,
                None if memory.fmv_micros is None else Usd(memory.fmv_micros),
            )
    return found


def save_lines(
    connection: Connection, lines: Mapping[int, StoredLine], at_ms: int, position: int
) -> None:
    """Replaces the newest result of each asset. `position` is of the ledger entry that has them."""
    ids = sorted(lines)
    connection.execute(
        delete(VALUATION).where(VALUATION.c.asset_id == bindparam("gone")),
        [{"gone": one} for one in ids],
    )
    connection.execute(
        insert(VALUATION),
        [
            {
                "asset_id": one,
                "at_ms": at_ms,
                "position": position,
                "result": msgspec.json.encode(lines[one]).decode(),
            }
            for one in ids
        ],
    )


def save_positions(
    connection: Connection, positions: Mapping[str, StoredPosition], at_ms: int
) -> None:
    """Replaces the newest position of each loan."""
    for loan_id, position in positions.items():
        connection.execute(delete(LOAN_POSITION).where(LOAN_POSITION.c.loan_id == loan_id))
        connection.execute(
            insert(LOAN_POSITION).values(
                loan_id=loan_id, at_ms=at_ms, result=msgspec.json.encode(position).decode()
            )
        )
