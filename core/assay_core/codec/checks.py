"""Whether bytes are leaves of this schema: what the door asks of every window, and so at speed.

The schema is data: a group's fields are read off the descriptors, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from assay_core.codec.strict import (
    TEXT_BYTES_MAX,
    Malformed,
    check_times,
    enumerated,
    expect,
    strict,
)
from assay_core.leaves import (
    HOST,
    OF_HOST,
    SALT_BYTES,
    SUBJECT_BYTES,
    DriverState,
    EventKind,
    Group,
    IncidentKind,
    Reason,
    Severity,
    Tenancy,
)
from assay_proto.v1 import window_pb2 as pb

EVENTS_MAX: Final = 256
"""Most events, and most incidents, in one leaf."""
ITEMS_MAX: Final = 128
"""Most items of any other list in a leaf: links, instances, GPUs."""
TOLD_MAX: Final = 4_096
"""How many reasons with their fields a group remembers to have read."""


def _message_type(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise TypeError(f"{field.name} is not a message")
    return field.message_type


_ABSENT: Final = "absent"
FIELDS: Final[Mapping[Group, Mapping[str, FieldDescriptor]]] = MappingProxyType(
    {
        Group(body.name): MappingProxyType(
            {field.name: field for field in _message_type(body).fields if field.name != _ABSENT}
        )
        for body in pb.Leaf.DESCRIPTOR.oneofs_by_name["body"].fields
    }
)


def check_leaves(leaves: Sequence[bytes]) -> list[tuple[bytes, Group]]:
    """Checks that each of `leaves` is a leaf of this schema; returns their subjects and groups.

    Raises Malformed, naming the leaf. This is all that the door needs: the values are decoded
    when they are used. The leaves are parsed in one go, as the repeated field they travel in.
    """
    try:
        messages = strict(pb.Leaves, wire(leaves)).leaves
        return [check_leaf(message) for message in messages]
    except Malformed:
        for index, leaf in enumerate(leaves):  # slowly now: which one is it?
            try:
                check_leaf(strict(pb.Leaf, leaf))
            except Malformed as error:
                raise Malformed(f"leaf {index}: {error}") from error
        raise


def check_leaf(message: pb.Leaf) -> tuple[bytes, Group]:
    """Checks a leaf that `strict` has parsed; returns its subject and group. Raises Malformed."""
    case = message.WhichOneof("body")
    if case is None:
        raise Malformed("the leaf has no body")
    table = _TABLES[case]
    subject = message.subject
    if len(message.salt) != SALT_BYTES:
        raise Malformed("the salt is not 16 bytes")
    if len(subject) != table.subject_bytes:
        raise Malformed(f"the subject of a {case} leaf is not {table.subject_bytes} bytes")
    body: Message = getattr(message, case)
    missing = _check_absent(body, table)
    # One call in C says which fields have values, a byte for each; asking from Python for one after
    # the other took a fifth of all that the door does. Each must be here or there, and not both.
    present = int.from_bytes(bytes(map(body.HasField, table.singular)), "little")
    if missing >> table.lists_at:
        _check_no_lists(body, table, missing)
    if present ^ missing & table.required != table.required:
        raise _neither_or_both(table, present, missing)
    for name in table.texts:
        if len(getattr(body, name).encode()) > TEXT_BYTES_MAX:
            raise Malformed(f"{name} is too long")
    for name, check in table.lists:
        items = getattr(body, name)
        if items:
            check(items)
    if table.also is not None:
        table.also(body)
    return subject, table.group


def wire(leaves: Sequence[bytes]) -> bytes:
    """The leaves as the repeated field 1 of a message: a tag and a length before each."""
    parts: list[bytes] = []
    for leaf in leaves:
        size = len(leaf)
        if size < 0x80:
            parts += (bytes((10, size)), leaf)
        elif size < 0x4000:
            parts += (bytes((10, size & 0x7F | 0x80, size >> 7)), leaf)
        else:
            parts += (b"\x0a" + _varint(size), leaf)
    return b"".join(parts)


def _varint(number: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, low bits first."""
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _check_absent(body: Message, table: _Table) -> int:
    """Checks the reasons; returns the fields they are given for, as the table has sets."""
    absent: Sequence[pb.Absent] = body.absent  # type: ignore[attr-defined]  # every body has it
    missing = last_reason = 0
    told = table.told
    for entry in absent:
        data = entry.SerializeToString()
        reason, places = told.get(data) or _read_reason(entry, data, table)
        if reason <= last_reason:
            raise Malformed("the reasons are not in order")
        if missing & places:
            raise Malformed("two reasons are given for a field")
        last_reason = reason
        missing |= places
    return missing


def _read_reason(entry: pb.Absent, data: bytes, table: _Table) -> tuple[int, int]:
    """One reason and the fields it is given for.

    What was read is remembered by its exact bytes: a fleet says the same few over and over.
    """
    if entry.reason not in _REASONS:
        raise Malformed(f"there is no reason {entry.reason}")
    missing = last_number = 0
    for number in entry.fields:
        if number <= last_number:
            raise Malformed("the fields of a reason are not in order, or given twice")
        if number not in table.places:
            raise Malformed("a reason is given for a field that there is not")
        last_number = number
        missing |= table.places[number]
    if last_number == 0:
        raise Malformed("a reason is given for no field")
    if len(table.told) >= TOLD_MAX:  # no honest fleet comes near
        table.told.clear()
    table.told[data] = entry.reason, missing
    return entry.reason, missing


def _check_no_lists(body: Message, table: _Table, missing: int) -> None:
    """Checks that a list that has a reason has no items."""
    for place, (name, _) in enumerate(table.lists):
        if missing >> table.lists_at + 8 * place & 1 and getattr(body, name):
            raise Malformed(f"{name} has both a value and a reason")


def _neither_or_both(table: _Table, present: int, missing: int) -> Malformed:
    """Which field it is that has neither value nor reason, or both."""
    for place, name in enumerate(table.singular):
        bit = 1 << 8 * place
        if present & missing & bit:
            return Malformed(f"{name} has both a value and a reason")
        if not (present | missing) & bit:
            return Malformed(f"{name} has neither a value nor a reason")
    raise TypeError("each field is there once")


def _check_host(body: pb.HostState) -> None:
    enumerated(DriverState, body.driver_state, "driver_state")
    check_times(body.maintenance_until_ms)


def _check_health(body: pb.Health) -> None:
    if body.tenancy not in _TENANCIES and body.HasField("tenancy"):
        raise Malformed(f"tenancy has no value {body.tenancy}")


def _check_condition(body: pb.Condition) -> None:
    check_times(body.bbx_flush_utc_ms)


def _check_events(events: Sequence[pb.Event]) -> None:
    expect(len(events) <= EVENTS_MAX, "too many events")
    for event in events:
        enumerated(EventKind, event.kind, "kind")
        expect(event.count >= 1, "an event happened no times")
        expect(event.first_ms <= event.last_ms, "an event ends before it begins")
        check_times(event.first_ms, event.last_ms)


def _check_incidents(incidents: Sequence[pb.Incident]) -> None:
    expect(len(incidents) <= EVENTS_MAX, "too many incidents")
    for incident in incidents:
        enumerated(IncidentKind, incident.kind, "kind")
        enumerated(Severity, incident.severity, "severity")
        expect(incident.count >= 1, "an incident was seen no times")
        expect(incident.begin_ms <= incident.last_ms, "an incident ends before it begins")
        check_times(incident.begin_ms, incident.last_ms, incident.end_ms)
    expect(
        len({(one.kind, one.code, one.begin_ms) for one in incidents}) == len(incidents),
        "an incident is told twice",
    )


def _check_instances(instances: Sequence[pb.MigInstance]) -> None:
    expect(len(instances) <= ITEMS_MAX, "too many instances")
    last = -1
    for one in instances:
        expect(one.gpu_instance_id > last, "the instances are not in order, or one is there twice")
        last = one.gpu_instance_id
        if one.reason:
            expect(one.reason in _REASONS, f"there is no reason {one.reason}")
            expect(not any(activity(one)), "an instance has both a value and a reason")


def _check_integers(items: Sequence[int]) -> None:
    expect(len(items) <= ITEMS_MAX, "a list is too long")


def _check_texts(items: Sequence[str]) -> None:
    expect(len(items) <= ITEMS_MAX, "a list is too long")
    for item in items:
        expect(len(item.encode()) <= TEXT_BYTES_MAX, "a text is too long")


def activity(instance: pb.MigInstance) -> tuple[int, int, int, int, int]:
    """Percent of what an instance does, in the order of MigInstance.activity."""
    return (
        instance.graphics_activity_pct,
        instance.sm_activity_pct,
        instance.sm_occupancy_pct,
        instance.tensor_activity_pct,
        instance.dram_activity_pct,
    )


def _check_uuids(items: Sequence[bytes]) -> None:
    expect(len(items) <= ITEMS_MAX, "a list is too long")
    for item in items:
        expect(len(item) == SUBJECT_BYTES, "a list of GPUs holds what is not a UUID")


_Check = Callable[[Sequence[Message]], None]


@dataclass(frozen=True, slots=True)
class _Table:
    """What the door needs to know of a group: asking descriptors each time costs five times more.

    Sets of fields are integers with a byte for each field, 1 or 0: first the singular ones in the
    order of `singular`, then from bit `lists_at` on the lists in the order of `lists`.
    """

    group: Group
    subject_bytes: int
    singular: tuple[str, ...]
    texts: tuple[str, ...]
    lists: tuple[tuple[str, _Check], ...]
    lists_at: int
    required: int
    places: Mapping[int, int]  # by field number
    also: Callable[[Message], None] | None  # what else must be true of a body
    told: dict[bytes, tuple[int, int]]  # reasons read before, see _read_reason


def _table(group: Group, fields: Mapping[str, FieldDescriptor]) -> _Table:
    singular = [field for field in fields.values() if not field.is_repeated]
    lists = [field for field in fields.values() if field.is_repeated]
    return _Table(
        group=group,
        subject_bytes=len(HOST) if group in OF_HOST else SUBJECT_BYTES,
        singular=tuple(field.name for field in singular),
        texts=tuple(f.name for f in singular if f.type == FieldDescriptor.TYPE_STRING),
        lists=tuple((field.name, _list_check(field)) for field in lists),
        lists_at=8 * len(singular),
        required=sum(1 << 8 * place for place in range(len(singular))),
        places={field.number: 1 << 8 * place for place, field in enumerate([*singular, *lists])},
        also=_ALSO.get(group),
        told={},
    )


def _list_check(field: FieldDescriptor) -> _Check:
    kind = field.type if field.message_type is None else field.message_type.name
    return cast("_Check", _LISTS.get(kind, _check_integers))  # each takes what its list holds


_ALSO: Final = {
    Group.HOST: cast("Callable[[Message], None]", _check_host),
    Group.HEALTH: cast("Callable[[Message], None]", _check_health),
    Group.CONDITION: cast("Callable[[Message], None]", _check_condition),
}
_LISTS: Final[Mapping[str | int, object]] = {
    "Event": _check_events,
    "Incident": _check_incidents,
    "MigInstance": _check_instances,
    FieldDescriptor.TYPE_STRING: _check_texts,
    FieldDescriptor.TYPE_BYTES: _check_uuids,
}
_TENANCIES: Final = frozenset(int(tenancy) for tenancy in Tenancy)
_REASONS: Final = frozenset(int(reason) for reason in Reason)
_TABLES: Final = {group.value: _table(group, fields) for group, fields in FIELDS.items()}
