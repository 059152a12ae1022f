"""What an event is about, in this store, now; and who speaks for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Row, select

from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.signatories import Role, Signatory
from assay_valuer.events.kept import EventError
from assay_valuer.hosts import find_host
from assay_valuer.parties import party_with_key
from assay_valuer.pledges import Pledge, find_asset, pledge_of, pledges_of
from assay_valuer.store.schema import ASSET, HOST, PLEDGE, SEALING_KEY

HOST_KINDS: Final = frozenset(
    {
        Kind.MAINTENANCE,
        Kind.GPU_REPLACEMENT,
        Kind.BOARD_SWAP,
        Kind.HOST_SWAP,
        Kind.MOVE,
        Kind.REINSTALL,
    }
)
"""What a host's own key may sign, as the operator's, of itself and its GPUs."""


@dataclass(frozen=True, slots=True)
class Place:
    """An enrolled host."""

    key: int
    host_id: str
    site: str
    revoked: bool


@dataclass(frozen=True, slots=True)
class Target:
    """An asset that an event is about, its host where it was ever seen, and its pledge."""

    id: int
    serial: str | None
    board_part_number: str | None
    host: Place | None
    pledge: Pledge | None

    @property
    def name(self) -> str:
        """As people call it."""
        return self.serial or f"asset-{self.id}"


@dataclass(frozen=True, slots=True)
class Scope:
    """All that an event is about. `targets` are in the order of its `assets` where it names any.

    `sites`: where they stand, or are reserved to; None: nobody knows.
    """

    event: AssetEvent
    targets: tuple[Target, ...]
    host: Place | None
    to_host: Place | None
    holder: Place | None
    sites: frozenset[str | None]


def scope_of(connection: Connection, event: AssetEvent) -> Scope:
    """What the event is about. Raises EventError where the store knows of no such thing."""
    host = _place(connection, event.host, "host")
    to_host = _place(connection, event.to_host, "to_host")
    if to_host is not None and to_host.revoked:
        raise EventError(f"to_host: {to_host.host_id} was revoked; enrol another host first")
    holder = _place(connection, event.holder, "holder")
    if event.assets:
        targets = tuple(_named(connection, one) for one in event.assets)
    elif host is not None:
        targets = _all_of(connection, host)
    else:
        pledged = pledges_of(connection, event.loan or "")
        targets = tuple(_target(connection, one.asset_id) for one in pledged)
    sites = {_site(connection, one) for one in targets} | ({host.site} if host else set())
    return Scope(event, targets, host, to_host, holder, frozenset(sites))


def signatory(connection: Connection, fingerprint: str, scope: Scope) -> Signatory:
    """Who this key signs as, of this event. Raises EventError where it counts for nothing."""
    party = party_with_key(connection, fingerprint)
    if party is None:
        return _host_signatory(connection, fingerprint, scope)
    if party.ended_ms is not None:
        raise EventError(f"{party.name} is no party any more: its signature counts for nothing")
    if party.role is not Role.LENDER:
        for site in scope.sites:
            if not party.speaks_for(site):
                raise EventError(
                    f"{party.name} speaks for {', '.join(party.sites)}, and this is of "
                    f"{'a GPU that is at no known site' if site is None else site}: have its own "
                    f"{party.role} sign"
                )
    return party.signatory


def _host_signatory(connection: Connection, fingerprint: str, scope: Scope) -> Signatory:
    event = scope.event
    key = connection.execute(
        select(SEALING_KEY.c.host_key, HOST.c.host_id)
        .join(HOST, HOST.c.key == SEALING_KEY.c.host_key)
        .where(SEALING_KEY.c.fingerprint == fingerprint)
    ).one_or_none()
    host = None if key is None else find_host(connection, key.host_id)
    if host is None:
        raise EventError(
            f"the key {fingerprint[:16]}… is no party's: add it with `assay-valuer party add`"
        )
    host_id = host.trust.host_id
    own = next((one for one in host.trust.keys if one.fingerprint == fingerprint), None)
    if own is None or host.trust.revoked:
        raise EventError(
            f"{host_id}: its key was revoked, or is one of before it was enrolled anew"
        )
    if event.kind not in HOST_KINDS:
        raise EventError(f"a host proposes no {event.kind}: its operator signs as a party")
    if event.host not in (None, host_id):
        raise EventError(f"{host_id} speaks for itself alone, not for {event.host}")
    for one in scope.targets:
        if not _is_of(one, host.key, host_id):
            raise EventError(f"{one.name} is not of {host_id}: its own host or operator signs")
    return Signatory(host_id, Role.OPERATOR, own)


def _is_of(target: Target, host_key: int, host_id: str) -> bool:
    """Whether an asset is the host's: it shows it, or nobody does and it is reserved to it."""
    if target.host is not None:
        return target.host.key == host_key
    return target.pledge is not None and target.pledge.host_id == host_id


def _place(connection: Connection, host_id: str | None, field: str) -> Place | None:
    if host_id is None:
        return None
    row = connection.execute(select(HOST).where(HOST.c.host_id == host_id)).one_or_none()
    if row is None:
        raise EventError(f"{field}: there is no host {host_id}; see `assay-valuer host list`")
    return _place_of(row)


def _place_of(row: Row[tuple[object, ...]]) -> Place:
    found = row._mapping
    return Place(found["key"], found["host_id"], found["site"], found["revoked_ms"] is not None)


def _named(connection: Connection, subject: Subject) -> Target:
    asset_id = find_asset(connection, subject)
    if asset_id is None:
        raise EventError(
            f"assets: no GPU {subject} is known: pledge it first, or let its host show it; "
            "see `assay-valuer asset list`"
        )
    return _target(connection, asset_id)


def _all_of(connection: Connection, host: Place) -> tuple[Target, ...]:
    """All that a host shows, and what is reserved to it and was never seen."""
    shown = connection.execute(select(ASSET.c.id).where(ASSET.c.host_key == host.key)).scalars()
    reserved = connection.execute(
        select(ASSET.c.id)
        .join(PLEDGE, PLEDGE.c.asset_id == ASSET.c.id)
        .where(ASSET.c.host_key.is_(None), PLEDGE.c.host_id == host.host_id)
    ).scalars()
    return tuple(_target(connection, one) for one in sorted({*shown, *reserved}))


def _target(connection: Connection, asset_id: int) -> Target:
    asset = connection.execute(
        select(ASSET.c.serial, ASSET.c.board_part_number, ASSET.c.host_key).where(
            ASSET.c.id == asset_id
        )
    ).one()
    host = None
    if asset.host_key is not None:
        host = _place_of(connection.execute(select(HOST).where(HOST.c.key == asset.host_key)).one())
    return Target(
        asset_id, asset.serial, asset.board_part_number, host, pledge_of(connection, asset_id)
    )


def _site(connection: Connection, target: Target) -> str | None:
    """Where it stands; or, never seen, where it is reserved to."""
    if target.host is not None:
        return target.host.site
    if target.pledge is None or target.pledge.host_id is None:
        return None if target.pledge is None else target.pledge.site
    where = HOST.c.host_id == target.pledge.host_id
    return connection.execute(select(HOST.c.site).where(where)).scalar()
