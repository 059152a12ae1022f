"""What an event that all have signed does to the registry, and what keeps it from being done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from sqlalchemy import Connection, select, update

from assay_core.asset_events import Kind, Subject
from assay_valuer.events.kept import EventError
from assay_valuer.events.scope import Scope, Target
from assay_valuer.pledges import (
    expect,
    find_asset,
    pledge_of,
    redeem,
    release,
    reserve,
    successor_of,
    take_place,
)
from assay_valuer.store.schema import ASSET, HOST, LOAN


def check(connection: Connection, scope: Scope) -> None:
    """That the event could take effect now. Raises EventError."""
    event = scope.event
    if event.loan is not None and not _exists(connection, event.loan):
        raise EventError(f"loan: there is no loan {event.loan}; see `assay-valuer value`")
    if event.kind is Kind.RELEASE:
        for target in scope.targets:
            _check_release(connection, target, event.loan)
    for target, new in zip(scope.targets, event.replacements, strict=False):
        _check_replacement(connection, target, new)
    if event.kind is Kind.CUSTODY:
        for target in scope.targets:
            _check_placed(target)
    if event.kind is Kind.VALUE_OVERRIDE:
        for target in scope.targets:
            _check_newest(connection, target)
    if event.to_site is not None and scope.sites == {event.to_site}:
        raise EventError(f"to_site: it is at {event.to_site} already")


def apply(connection: Connection, scope: Scope) -> dict[int, int]:
    """Does it; returns which new asset takes the place of which. Raises EventError, with nothing done."""
    check(connection, scope)
    effect = _EFFECTS.get(scope.event.kind)
    return {} if effect is None else effect(connection, scope)


def _replace(connection: Connection, scope: Scope) -> dict[int, int]:
    replaced = {}
    for target, subject in zip(scope.targets, scope.event.replacements, strict=False):
        new = expect(connection, subject)
        if target.pledge is not None:
            take_place(connection, target.pledge, new)
        replaced[target.id] = new
    return replaced


def _release(connection: Connection, scope: Scope) -> dict[int, int]:
    release(connection, [target.id for target in scope.targets])
    return {}


def _redeem(connection: Connection, scope: Scope) -> dict[int, int]:
    if scope.event.loan is not None:
        redeem(connection, scope.event.loan)
    return {}


def _move(connection: Connection, scope: Scope) -> dict[int, int]:
    ids = [target.id for target in scope.targets]
    place = scope.to_host or scope.holder
    if place is not None:
        reserve(connection, ids, site=place.site, host_id=place.host_id)
    elif scope.event.to_site is not None:
        # A host that moves as a whole keeps what is reserved to it.
        host_id = None if scope.host is None else scope.host.host_id
        reserve(connection, ids, site=scope.event.to_site, host_id=host_id)
        if scope.host is not None:
            where = HOST.c.key == scope.host.key
            connection.execute(update(HOST).where(where).values(site=scope.event.to_site))
    return {}


_EFFECTS: Final[Mapping[Kind, Callable[[Connection, Scope], dict[int, int]]]] = {
    Kind.GPU_REPLACEMENT: _replace,
    Kind.BOARD_SWAP: _replace,
    Kind.RELEASE: _release,
    Kind.REDEMPTION: _redeem,
    Kind.MOVE: _move,
    Kind.HOST_SWAP: _move,
    Kind.RE_ENROL: _move,
}
"""Of the others only what follows the ledger takes note."""


def _check_release(connection: Connection, target: Target, loan_id: str | None) -> None:
    if target.pledge is None or target.pledge.loan_id != loan_id:
        held = "nothing" if target.pledge is None else f"loan {target.pledge.loan_id}"
        raise EventError(f"assets: {target.name} secures {held}, not loan {loan_id}")
    _check_newest(connection, target)


def _check_replacement(connection: Connection, target: Target, new: Subject) -> None:
    _check_newest(connection, target)
    known = find_asset(connection, new)
    if known is None:
        return
    held = pledge_of(connection, known)
    if held is not None:
        raise EventError(
            f"replacements: {new} is pledged to loan {held.loan_id} already; a GPU secures one loan "
            "at a time: release it there first, or name another"
        )


def _check_placed(target: Target) -> None:
    """An inspection holds where it was made: of a GPU that may turn up anywhere it would go along."""
    reserved = target.pledge is not None and (target.pledge.site or target.pledge.host_id)
    if target.host is None and not reserved:
        raise EventError(
            f"assets: nobody has shown {target.name}, and its loan reserves it for no site: let its "
            "host show it first, or reserve it"
        )


def _check_newest(connection: Connection, target: Target) -> None:
    newer = successor_of(connection, target.id)
    if newer is not None:
        serial = connection.execute(select(ASSET.c.serial).where(ASSET.c.id == newer)).scalar()
        raise EventError(f"assets: {serial} has taken the place of {target.name}: name that one")


def _exists(connection: Connection, loan_id: str) -> bool:
    return connection.execute(select(LOAN.c.id).where(LOAN.c.id == loan_id)).scalar() is not None
