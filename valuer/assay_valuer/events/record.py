"""The ledger's record of a decided event: the exact signed bytes, who signed, and what it came to.

A proposal is not logged while it waits; its end is, whatever it is. Asset and host numbers are this
store's own, so that a projection that follows the ledger needs no look-up of how things stood then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core import asset_events
from assay_core.asset_events import AssetEvent
from assay_core.errors import ServiceError
from assay_core.seal import ASSET_DECISION_TYPE, ASSET_EVENT_TYPE
from assay_core.signatories import Role
from assay_valuer.events.kept import Proposal, Signed, State
from assay_valuer.events.scope import Scope

RECORD: Final = "asset_event"


class RecordedAsset(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An asset that the event was about; `replaced_by`: the one that takes its place."""

    id: int
    serial: str | None
    board_part_number: str | None
    replaced_by: int | None


class RecordedDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The signed word by which a proposal was refused or withdrawn. Bytes are base64 in JSON."""

    payload_type: str = ASSET_DECISION_TYPE
    payload: bytes
    signed: Signed


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The record. `hosts`: each host that the event names, and its key in this store.

    `policy`: SHA-256 of the policy that accepted it in the lender's stead; empty: none did.
    """

    id: int
    state: State
    payload_type: str
    payload: bytes
    signatures: tuple[Signed, ...]
    proposed_ms: int
    decided_ms: int
    assets: tuple[RecordedAsset, ...]
    hosts: dict[str, int]
    policy: str = ""
    decision: RecordedDecision | None = None


@dataclass(frozen=True, slots=True)
class DecidedEvent:
    """A decided event, as a projection follows it. Only where `accepted` did it take effect.

    `asset_ids` are all assets it is about; `replaced_by` has the new asset for each that was
    replaced; `host_keys` the key of each host it names; `signers` who signed, and as what.
    """

    id: int
    state: State
    event: AssetEvent
    decided_ms: int
    asset_ids: tuple[int, ...]
    replaced_by: Mapping[int, int]
    host_keys: Mapping[str, int]
    signers: tuple[tuple[str, Role], ...]

    @property
    def accepted(self) -> bool:
        """Whether it took effect."""
        return self.state is State.ACCEPTED


def record_of(one: Proposal) -> Recorded:
    """The record of a proposal that is decided, without what taking effect or a refusal adds."""
    return Recorded(
        id=one.id,
        state=one.state,
        payload_type=ASSET_EVENT_TYPE,
        payload=one.payload,
        signatures=one.signed,
        proposed_ms=one.proposed_ms,
        decided_ms=one.decided_ms or 0,
        assets=(),
        hosts={},
    )


def in_effect(record: Recorded, scope: Scope, replaced_by: Mapping[int, int]) -> Recorded:
    """The record with what the event did to."""
    places = (scope.host, scope.to_host, scope.holder)
    return msgspec.structs.replace(
        record,
        assets=tuple(
            RecordedAsset(
                id=target.id,
                serial=target.serial,
                board_part_number=target.board_part_number,
                replaced_by=replaced_by.get(target.id),
            )
            for target in scope.targets
        ),
        hosts={place.host_id: place.key for place in places if place is not None},
    )


def to_record(record: Recorded) -> bytes:
    """The ledger record's payload, canonical JSON."""
    return msgspec.json.encode(record, order="sorted")


def read_record(payload: bytes) -> Recorded:
    """What `to_record` wrote. Raises ServiceError."""
    try:
        return msgspec.json.decode(payload, type=Recorded)
    except msgspec.MsgspecError as error:
        raise ServiceError(f"a record of an asset event does not read back: {error}") from error


def from_record(payload: bytes) -> DecidedEvent:
    """The decided event in a ledger record's payload. Raises ServiceError, FileError."""
    record = read_record(payload)
    return DecidedEvent(
        id=record.id,
        state=record.state,
        event=asset_events.decode(record.payload),
        decided_ms=record.decided_ms,
        asset_ids=tuple(one.id for one in record.assets),
        replaced_by={
            one.id: one.replaced_by for one in record.assets if one.replaced_by is not None
        },
        host_keys=record.hosts,
        signers=tuple((one.who, one.role) for one in record.signatures),
    )
