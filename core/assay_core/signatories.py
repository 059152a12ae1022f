"""Who must sign an asset event before it takes effect, and whose signatures an envelope bears.

Nobody decides alone of what another has lent on: an event takes two parties, and one person is never
two of them, by whatever names and keys.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.asset_events import PAYLOAD_BYTES_MAX, AssetEvent, Kind, Sha256, Why
from assay_core.errors import FileError
from assay_core.seal import Envelope, PublicKey

SIGNATURES_MAX: Final = 8
"""On one event: several times what any kind needs."""


class Role(enum.StrEnum):
    """In what capacity somebody signs."""

    LENDER = "lender"
    OPERATOR = "operator"
    CUSTODIAN = "custodian"
    APPRAISER = "appraiser"
    """Signs what collateral is worth, and no event."""


class Verdict(enum.StrEnum):
    """How a proposal ends without taking effect."""

    REFUSED = "refused"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True, slots=True)
class Signatory:
    """Somebody who may sign: a party by name, or a host by id, with its key."""

    who: str
    role: Role
    key: PublicKey


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A party's signed word that a proposal is refused or withdrawn."""

    event_sha256: Sha256
    """Of the event's signed bytes."""
    verdict: Verdict
    why: Why


_NEEDED: Final[Mapping[Kind, tuple[Role, ...]]] = {
    Kind.MAINTENANCE: (Role.OPERATOR, Role.LENDER),
    Kind.GPU_REPLACEMENT: (Role.OPERATOR, Role.LENDER),
    Kind.BOARD_SWAP: (Role.OPERATOR, Role.LENDER),
    Kind.HOST_SWAP: (Role.OPERATOR, Role.LENDER),
    Kind.MOVE: (Role.OPERATOR, Role.LENDER),
    Kind.REINSTALL: (Role.OPERATOR, Role.LENDER),
    Kind.RELEASE: (Role.OPERATOR, Role.LENDER),
    Kind.REDEMPTION: (Role.LENDER,),
    Kind.RE_ENROL: (Role.LENDER, Role.LENDER),
    Kind.VALUE_OVERRIDE: (Role.LENDER, Role.LENDER),
    Kind.CUSTODY: (Role.CUSTODIAN, Role.LENDER),
}


def needed(event: AssetEvent, *, accept_maintenance_ms: int) -> tuple[Role, ...]:
    """The roles whose signatures make the event effective; one named twice takes two people.

    Maintenance of up to `accept_maintenance_ms` is accepted by policy in the lender's stead.
    """
    roles = _NEEDED[event.kind]
    if event.kind is Kind.MAINTENANCE and event.begin_ms is not None and event.until_ms is not None:
        short = event.until_ms - event.begin_ms <= accept_maintenance_ms
        return (Role.OPERATOR,) if short else roles
    return roles


def lacking(roles: Sequence[Role], signed: Iterable[Signatory]) -> tuple[Role, ...]:
    """The roles that nobody has signed for yet. Empty: the event takes effect.

    Signatures that share a name or a key are one person's, and one person fills one role.
    """
    people = sorted(sorted(person) for person in _people(signed))
    return _unfilled(tuple(roles), people)


def signed_by(envelope: Envelope, known: Collection[Signatory]) -> tuple[Signatory, ...]:
    """Those of `known` whose signature over these very bytes the envelope bears.

    A signature's keyid says only which key to try.
    """
    keyed = {one.key.fingerprint: one for one in known}
    found = []
    for signature in envelope.signatures[:SIGNATURES_MAX]:
        one = keyed.get(signature.keyid)
        if one is not None and one.key.verifies(
            signature.sig, envelope.payload_type, envelope.payload
        ):
            found.append(one)
    return tuple(found)


def encode_decision(decision: Decision) -> bytes:
    """The canonical JSON that is signed."""
    return msgspec.json.encode(decision, order="sorted")


def decode_decision(payload: bytes) -> Decision:
    """The decision in signed bytes. Raises FileError."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise FileError(f"the decision: more than {PAYLOAD_BYTES_MAX} bytes")
    try:
        decision = msgspec.json.decode(payload, type=Decision, strict=True)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise FileError(f"the decision cannot be read: {error}") from error
    if encode_decision(decision) != payload:
        raise FileError("the decision: not in its canonical form (keys sorted, no spaces)")
    return decision


def _people(signed: Iterable[Signatory]) -> list[set[Role]]:
    """The roles of each person: whoever shares a name or a key is the same."""
    people: list[tuple[set[str], set[Role]]] = []
    for one in signed:
        names, roles = {f"name {one.who}", f"key {one.key.fingerprint}"}, {one.role}
        for person in [person for person in people if person[0] & names]:
            people.remove(person)
            names |= person[0]
            roles |= person[1]
        people.append((names, roles))
    return [roles for _, roles in people]


def _unfilled(roles: tuple[Role, ...], people: list[list[Role]]) -> tuple[Role, ...]:
    """The fewest roles that stay open, however the people are given to them."""
    if not roles:
        return ()
    best = (roles[0], *_unfilled(roles[1:], people))
    for at, person in enumerate(people):
        if roles[0] in person:
            others = _unfilled(roles[1:], people[:at] + people[at + 1 :])
            if len(others) < len(best):
                best = others
    return best
