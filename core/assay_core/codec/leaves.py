"""Leaves, to bytes and back. The schema is data: a group's fields are read off the descriptors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Final, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from assay_core.codec import checks
from assay_core.codec.checks import FIELDS
from assay_core.codec.strict import Malformed, strict
from assay_core.leaves import (
    Content,
    Counter,
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
    Value,
)
from assay_proto.v1 import window_pb2 as pb


def fields_of(group: Group) -> Mapping[str, FieldDescriptor]:
    """The fields of a group by name, in the order of their numbers, without `absent`."""
    return FIELDS[group]


def encode_leaf(leaf: Leaf) -> bytes:
    """The leaf's bytes. Every field of its group must be in its content: a value or a reason."""
    content = leaf.content
    message = pb.Leaf(salt=leaf.salt, subject=content.subject)
    body: Message = getattr(message, content.group.value)
    body.SetInParent()
    absent: dict[Reason, list[int]] = {}
    unknown = content.values.keys() - FIELDS[content.group].keys()
    if unknown:
        raise Malformed(f"{content.group.value} has no field {min(unknown)}")
    for name, field in FIELDS[content.group].items():
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


def decode_leaf(data: bytes) -> Leaf:
    """The leaf in `data`, every field a value or a reason. Raises Malformed."""
    message = strict(pb.Leaf, data)
    _, group = checks.check_leaf(message)
    body: Message = getattr(message, group.value)
    absent = {
        number: Reason(entry.reason)
        for entry in body.absent  # type: ignore[attr-defined]  # every body has it
        for number in entry.fields
    }
    values: dict[str, Value] = {
        name: absent[field.number] if field.number in absent else _get(body, field)
        for name, field in FIELDS[group].items()
    }
    content = Content(message.subject, group, MappingProxyType(values))
    return Leaf(message.salt, content)


def pick(leaves: Sequence[bytes], wanted: Mapping[Group, Sequence[str]]) -> list[Content]:
    """Of leaves that went through the door: the wanted groups, each with the wanted fields alone.

    Nothing is checked again, which makes it several times faster than `decode_leaf`: it is for
    following many windows. Raises Malformed where the bytes are no leaves at all.
    """
    try:
        messages = pb.Leaves.FromString(checks.wire(leaves)).leaves
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
        absent: dict[int, Value] = {}
        for entry in body.absent:  # type: ignore[attr-defined]  # every body has it
            absent |= dict.fromkeys(entry.fields, Reason(entry.reason))
        values: dict[str, Value] = {
            name: absent[number] if number in absent else read(getattr(body, name))
            for name, number, read in _plan(group, tuple(names))
        }
        found.append(Content(message.subject, group, values))
    return found


@lru_cache(maxsize=64)
def _plan(
    group: Group, names: tuple[str, ...]
) -> tuple[tuple[str, int, Callable[[object], Value]], ...]:
    """Each field's name, its number and how its value is read: asked of descriptors only once."""
    fields = FIELDS[group]
    return tuple((name, fields[name].number, _reader(fields[name])) for name in names)


def _reader(field: FieldDescriptor) -> Callable[[object], Value]:
    if field.is_repeated:
        return cast("Callable[[object], Value]", _list)
    kind = None if field.message_type is None else field.message_type.name
    readers = {None: _plain, "Gauge": _gauge, "Counter": _counter}
    return cast("Callable[[object], Value]", readers[kind])


def _plain(value: int | str) -> Value:
    return value


def _gauge(value: pb.Gauge) -> Gauge:
    mean = value.min + value.mean_above_min
    return Gauge(value.min, mean, mean + value.max_above_mean)


def _counter(value: pb.Counter) -> Counter:
    return Counter(value.delta, value.total)


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
        return _gauge(value)
    if isinstance(value, pb.Counter):
        return _counter(value)
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
    activity = Reason(instance.reason) if instance.reason else checks.activity(instance)
    return MigInstance(instance.gpu_instance_id, instance.memory_mib, activity)


_GROUPS: Final = {group.value: group for group in Group}
