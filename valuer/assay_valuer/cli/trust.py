"""Trust in one GPU, for people: what it rests on, what is held against it, and where to look it up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from sqlalchemy import Connection

from assay_core.instants import format_duration, format_instant
from assay_valuer.asset_rows import AssetRow
from assay_valuer.book_store import load_revocations
from assay_valuer.cli.common import print_sentences, print_table
from assay_valuer.explain import Trust, explain
from assay_valuer.held import CLAIMED, Held
from assay_valuer.ledger.append import EVIDENCE, FORK, WINDOW
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.trust import Freeze
from assay_valuer.trust_rows import Place, newest_windows, places


class LookUp(msgspec.Struct, frozen=True, kw_only=True):
    """What can be looked up, and the command that writes its signed bytes to a file."""

    what: str
    command: str


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """Trust in one GPU, and where the signed bytes are that it comes from."""

    trust: Trust
    look_up: tuple[LookUp, ...]


def explained(
    connection: Connection, rows: Sequence[AssetRow], policy: ValuerPolicy, now_ms: int
) -> list[Explained]:
    """Trust in each of these assets, few as a person names them."""
    return [
        Explained(trust=trust, look_up=tuple(_lookups(connection, row, trust)))
        for row, trust in zip(rows, trusts(connection, rows, policy, now_ms), strict=True)
    ]


def trusts(
    connection: Connection, rows: Sequence[AssetRow], policy: ValuerPolicy, now_ms: int
) -> list[Trust]:
    """Trust in each of these assets, however many."""
    revocations = load_revocations(connection)
    return [explain(row, revocations, policy, now_ms) for row in rows]


def _lookups(connection: Connection, row: AssetRow, trust: Trust) -> Iterable[LookUp]:
    wanted: dict[int, list[str]] = {}
    for factor in trust.factors:
        if factor.position is not None:
            wanted.setdefault(factor.position, []).append(factor.name)
    for held in trust.held:
        for position in held.positions:
            wanted.setdefault(position, []).append(f"{held.what} {held.code}")
    found = places(connection, wanted)
    for position, names in wanted.items():
        if position in found:
            words = f"{', '.join(names)}: ledger position {position}"
            yield LookUp(what=words, command=_command(found[position]))
    claimants = [one.host for one in trust.held if one.what == CLAIMED and one.host is not None]
    sides = [*claimants, row.host] if claimants and row.host is not None else claimants
    for place in newest_windows(connection, sides):
        yield LookUp(what=f"newest window of {place.host}", command=_command(place))
    for one in trust.held:
        if one.event_id is not None:
            command = f"assay-valuer asset events --id {one.event_id}"
            yield LookUp(what=f"{one.code} {one.event_id}, as it was signed", command=command)


def _command(place: Place) -> str:
    if place.kind == EVIDENCE:
        return (
            f"assay-valuer export evidence --host {place.host} --position {place.position} "
            "--out evidence.json"
        )
    if place.kind in (WINDOW, FORK):  # of a fork, the one that was taken
        incarnation = f" --incarnation {place.incarnation}" if place.incarnation else ""
        return (
            f"assay-valuer export window --host {place.host}{incarnation} --sequence "
            f"{place.sequence} --out window.json"
        )
    return f"the valuer's own record, of the kind {place.kind}"


def print_trust(one: Explained) -> None:
    """What trust rests on, what is held against it, and where to look that up."""
    trust = one.trust
    rows = [(factor.name, factor.words) for factor in trust.factors]
    print_table(("trust", "in words"), rows, prose="in words")
    for held in trust.held:
        print_sentences(held.title, _evidence(held))
    if one.look_up:
        print("to look it up:")
    for found in one.look_up:
        print(f"  {found.what}\n    {found.command}")  # never wrapped: it is there to be copied


def _evidence(one: Held) -> list[str]:
    against = [f"Against it: {' '.join(one.against)}"] if one.against else []
    favour = [f"In its favour: {' '.join(one.in_favour)}"] if one.in_favour else []
    return [*against, *favour, *([one.means] if one.means else [])]


def freezes_of(freezes: Sequence[Freeze]) -> str:
    """Freezes, a line each."""
    return "\n".join(
        f"FROZEN {one.code} since {format_instant(one.since_ms)}: {one.detail}." for one in freezes
    )


def ago(at_ms: int | None, now_ms: int) -> str:
    """How long ago, or never."""
    return "never" if at_ms is None else f"{format_duration(max(0, now_ms - at_ms))} ago"
