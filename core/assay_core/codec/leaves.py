"""Leaves, to bytes and back. The schema is data: a group's fields are read off the descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

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
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Gauge,
    Group,
    Incident,
    IncidentKind,
    Leaf,
    MigInstance,
    Reason,
    Severity,
    Tenancy,
    Value,
)
from assay_proto.v1 import window_pb2 as pb

EVENTS_MAX: Final = 256
"""Most events, and most incidents, in one leaf."""
ITEMS_MAX: Final = 128
"""Most items of any other list in a leaf: links, instances, GPUs."""
FIELD_NUMBER_MAX: Final = 1_000
"""No body has a field beyond it."""


def fields_of(group: Group) -> Mapping[str, FieldDescriptor]:
    """The fields of a group by name, in the order of their numbers, without `absent`."""
    return _FIELDS[group]


def encode_leaf(leaf: Leaf) -> bytes:
    """The leaf's bytes. Every field of its group must be in its content: a value or a reason."""
    content = leaf.content
    message = pb.Leaf(salt=leaf.salt, subject=content.subject)
    body: Message = getattr(message, content.group.value)
    body.SetInParent()
    absent: dict[Reason, list[int]] = {}
    unknown = content.values.keys() - _FIELDS[content.group].keys()
    if unknown:
        raise Malformed(f"{content.group.value} has no field {min(unknown)}")
    for name, field in _FIELDS[content.group].items():
        if name not in content.values:
            raise Malformed(f"{content.group.value}.{name} has neither value nor reason")
        value = content.values[name]
        if isinstance(value, Reason):
            absent.setdefault(value, []).append(field.number)
        else:
            _put(body, name, value)
    for reason in sorted(absent):
        body.absent.add(reason=reason, fields=absent[reason])  # type: ignore[attr-defined]  # every body has it
    return message.SerializeToString(deterministic=True)


def check_leaves(leaves: Sequence[bytes]) -> list[tuple[bytes, Group]]:
    """Checks that each of `leaves` is a leaf of this schema; returns their subjects and groups.

    Raises Malformed, naming the leaf. This is all that the door needs: the values are decoded
    when they are used. The leaves are parsed in one go, as the repeated field they travel in.
    """
    wire = b"".join([b"\x0a" + _varint(len(leaf)) + leaf for leaf in leaves])
    try:
        messages = strict(pb.Leaves, wire).leaves
        return [_check_leaf(message) for message in messages]
    except Malformed:
        for index, leaf in enumerate(leaves):  # slowly now: which one is it?
            try:
                _check_leaf(strict(pb.Leaf, leaf))
            except Malformed as error:
                raise Malformed(f"leaf {index}: {error}") from error
        raise


def decode_leaf(data: bytes) -> Leaf:
    """The leaf in `data`, every field a value or a reason. Raises Malformed."""
    message = strict(pb.Leaf, data)
    _, group = _check_leaf(message)
    body: Message = getattr(message, group.value)
    absent = {
        number: Reason(entry.reason)
        for entry in body.absent  # type: ignore[attr-defined]  # every body has it
        for number in entry.fields
    }
    values: dict[str, Value] = {
        name: absent[field.number] if field.number in absent else _get(body, field)
        for name, field in _FIELDS[group].items()
    }
    content = Content(message.subject, group, MappingProxyType(values))
    return Leaf(message.salt, content)


def pick(leaves: Sequence[bytes], wanted: Mapping[Group, Sequence[str]]) -> list[Content]:
    """Of leaves that went through the door: the wanted groups, each with the wanted fields alone.

    Nothing is checked again, which makes it several times faster than `decode_leaf`: it is for
    following many windows. Raises Malformed where the bytes are no leaves at all.
    """
    wire = b"".join([b"\x0a" + _varint(len(leaf)) + leaf for leaf in leaves])
    try:
        messages = pb.Leaves.FromString(wire).leaves
    except DecodeError as error:
        raise Malformed("not leaves: truncated or damaged") from error
    found: list[Content] = []
    for message in messages:
        case = message.WhichOneof("body")
        group = _GROUPS.get(case or "")
        names = None if group is None else wanted.get(group)
        if group is None or names is None or case is None:
            continue
        body: Message = getattr(message, case)
        fields = _FIELDS[group]
        absent = {
            number: Reason(entry.reason)
            for entry in body.absent  # type: ignore[attr-defined]  # every body has it
            for number in entry.fields
        }
        values: dict[str, Value] = {}
        for name in names:
            reason = absent.get(fields[name].number) if absent else None
            values[name] = _get(body, fields[name]) if reason is None else reason
        found.append(Content(message.subject, group, values))
    return found


def _check_leaf(message: pb.Leaf) -> tuple[bytes, Group]:
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
    missing = _check_absent(body)
    seen = _check_present(body, table)
    if seen & missing:
        raise Malformed("a field has both a value and a reason")
    if (seen | missing) & table.required != table.required:
        raise Malformed("a field has neither a value nor a reason")
    if missing & ~table.known:
        raise Malformed("a reason is given for a field that there is not")
    for name, bit in table.repeated:
        if missing & bit and getattr(body, name):
            raise Malformed(f"{name} has both a value and a reason")
    return subject, table.group


def _varint(number: int) -> bytes:
    """A length as protobuf writes it: 7 bits a byte, low bits first."""
    if number < 0x80:
        return bytes((number,))
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _check_absent(body: Message) -> int:
    """Checks the reasons; returns the fields they are given for, a bit for each number."""
    absent: Sequence[pb.Absent] = body.absent  # type: ignore[attr-defined]  # every body has it
    missing = last_reason = 0
    if not absent:
        return missing
    for entry in absent:
        reason = entry.reason
        if reason not in _REASONS:
            raise Malformed(f"there is no reason {reason}")
        if reason <= last_reason:
            raise Malformed("the reasons are not in order")
        last_reason = reason
        last_number = 0
        for number in entry.fields:
            if not last_number < number <= FIELD_NUMBER_MAX or missing >> number & 1:
                raise Malformed("the fields of a reason are not in order, or given twice")
            last_number = number
            missing |= 1 << number
        if last_number == 0:
            raise Malformed("a reason is given for no field")
    return missing


def _check_present(body: Message, table: _Table) -> int:
    """Checks the fields that have values; returns the singular ones, a bit for each number."""
    for name in table.texts:
        if len(getattr(body, name).encode()) > TEXT_BYTES_MAX:
            raise Malformed(f"{name} is too long")
    for name, _ in table.repeated:
        items = getattr(body, name)
        if items:
            _check_list(items)
    if isinstance(body, pb.HostState):
        enumerated(DriverState, body.driver_state, "driver_state")
        check_times(body.maintenance_until_ms)
    elif isinstance(body, pb.Health) and body.HasField("tenancy"):
        enumerated(Tenancy, body.tenancy, "tenancy")
    elif isinstance(body, pb.Condition):
        check_times(body.bbx_flush_utc_ms)
    has = body.HasField
    seen = 0
    for name, bit in table.singular:
        if has(name):
            seen |= bit
    return seen


def _check_list(items: Sequence[object]) -> None:
    if isinstance(items[0], pb.Event):
        _check_events(cast("Sequence[pb.Event]", items))
    elif isinstance(items[0], pb.Incident):
        _check_incidents(cast("Sequence[pb.Incident]", items))
    elif isinstance(items[0], pb.MigInstance):
        _check_instances(cast("Sequence[pb.MigInstance]", items))
    else:
        _check_scalars(cast("Sequence[int | str | bytes]", items))


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
            expect(not any(_activity(one)), "an instance has both a value and a reason")


def _check_scalars(items: Sequence[int | str | bytes]) -> None:
    expect(len(items) <= ITEMS_MAX, "a list is too long")
    for item in items:
        if isinstance(item, bytes):
            expect(len(item) == SUBJECT_BYTES, "a list of GPUs holds what is not a UUID")
        elif isinstance(item, str):
            expect(len(item.encode()) <= TEXT_BYTES_MAX, "a text is too long")


def _activity(instance: pb.MigInstance) -> tuple[int, int, int, int, int]:
    return (
        instance.graphics_activity_pct,
        instance.sm_activity_pct,
        instance.sm_occupancy_pct,
        instance.tensor_activity_pct,
        instance.dram_activity_pct,
    )


def _put(body: Message, name: str, value: Value) -> None:
    if isinstance(value, Gauge):
        if not 0 <= value.min <= value.mean <= value.max:
            raise Malformed(f"{name}: the mean is out of range")
        gauge = getattr(body, name)
        gauge.SetInParent()
        gauge.min = value.min
        gauge.mean_above_min = value.mean - value.min
        gauge.max_above_mean = value.max - value.mean
    elif isinstance(value, Counter):
        counter = getattr(body, name)
        counter.SetInParent()
        counter.delta, counter.total = value.delta, value.total
    elif isinstance(value, tuple):
        getattr(body, name).extend([_item(item) for item in value])
    else:
        setattr(body, name, value)


def _item(
    item: int | str | bytes | Event | Incident | MigInstance,
) -> int | str | bytes | Message:
    """An item of a list as the wire has it."""
    if isinstance(item, Event):
        return pb.Event(
            kind=pb.EventKind.ValueType(item.kind),
            code=item.code,
            first_ms=item.first_ms,
            last_ms=item.last_ms,
            count=item.count,
        )
    if isinstance(item, Incident):
        return pb.Incident(
            kind=pb.IncidentKind.ValueType(item.kind),
            code=item.code,
            severity=pb.Severity.ValueType(item.severity),
            begin_ms=item.begin_ms,
            last_ms=item.last_ms,
            end_ms=item.end_ms or 0,
            count=item.count,
        )
    if isinstance(item, MigInstance):
        message = pb.MigInstance(gpu_instance_id=item.gpu_instance_id, memory_mib=item.memory_mib)
        if isinstance(item.activity, Reason):
            message.reason = pb.Reason.ValueType(item.activity)
        else:
            (
                message.graphics_activity_pct,
                message.sm_activity_pct,
                message.sm_occupancy_pct,
                message.tensor_activity_pct,
                message.dram_activity_pct,
            ) = item.activity
        return message
    return item


def _get(body: Message, field: FieldDescriptor) -> Value:
    value = getattr(body, field.name)
    if field.is_repeated:
        return _list(value)
    if isinstance(value, pb.Gauge):
        mean = value.min + value.mean_above_min
        return Gauge(value.min, mean, mean + value.max_above_mean)
    if isinstance(value, pb.Counter):
        return Counter(value.delta, value.total)
    if isinstance(value, int | str):
        return value
    raise Malformed(f"{field.name} is of a type that leaves do not have")


def _event(event: pb.Event) -> Event:
    return Event(EventKind(event.kind), event.code, event.first_ms, event.last_ms, event.count)


def _list(items: Sequence[int | str | bytes | pb.Event | pb.Incident | pb.MigInstance]) -> Value:
    """All items of a list are of one type."""
    if not items or isinstance(items[0], int | str | bytes):
        return cast("tuple[int, ...]", tuple(items))
    return cast(
        "tuple[Event, ...]",
        tuple(
            _event(item)
            if isinstance(item, pb.Event)
            else _incident(item)
            if isinstance(item, pb.Incident)
            else _instance(cast("pb.MigInstance", item))
            for item in items
        ),
    )


def _incident(incident: pb.Incident) -> Incident:
    return Incident(
        IncidentKind(incident.kind),
        incident.code,
        Severity(incident.severity),
        incident.begin_ms,
        incident.last_ms,
        incident.end_ms or None,
        incident.count,
    )


def _instance(instance: pb.MigInstance) -> MigInstance:
    activity = Reason(instance.reason) if instance.reason else _activity(instance)
    return MigInstance(instance.gpu_instance_id, instance.memory_mib, activity)


def _message_type(field: FieldDescriptor) -> Descriptor:
    if field.message_type is None:
        raise TypeError(f"{field.name} is not a message")
    return field.message_type


_ABSENT: Final = "absent"
_FIELDS: Final[Mapping[Group, Mapping[str, FieldDescriptor]]] = MappingProxyType(
    {
        Group(body.name): MappingProxyType(
            {field.name: field for field in _message_type(body).fields if field.name != _ABSENT}
        )
        for body in pb.Leaf.DESCRIPTOR.oneofs_by_name["body"].fields
    }
)
_REASONS: Final = frozenset(int(reason) for reason in Reason)


@dataclass(frozen=True, slots=True)
class _Table:
    """What the door needs to know of a group: asking descriptors each time costs five times more."""

    group: Group
    subject_bytes: int
    # Names with a bit for each number; and the bits of what must be there, and of what may.
    singular: tuple[tuple[str, int], ...]
    repeated: tuple[tuple[str, int], ...]
    texts: tuple[str, ...]
    required: int
    known: int


def _table(group: Group, fields: Mapping[str, FieldDescriptor]) -> _Table:
    singular = tuple((n, 1 << f.number) for n, f in fields.items() if not f.is_repeated)
    return _Table(
        group=group,
        subject_bytes=len(HOST) if group in OF_HOST else SUBJECT_BYTES,
        singular=singular,
        repeated=tuple((n, 1 << f.number) for n, f in fields.items() if f.is_repeated),
        texts=tuple(
            n
            for n, f in fields.items()
            if f.type == FieldDescriptor.TYPE_STRING and not f.is_repeated
        ),
        required=sum(bit for _, bit in singular),
        known=sum(1 << f.number for f in fields.values()),
    )


_TABLES: Final = {group.value: _table(group, fields) for group, fields in _FIELDS.items()}
_GROUPS: Final = {group.value: group for group in Group}
