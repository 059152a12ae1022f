"""What makes bytes a leaf: each check refuses what it is there for, and says so."""

from __future__ import annotations

import pytest

from assay_core import codec
from assay_core.codec import checks
from assay_core.leaves import Group, Reason
from assay_proto.v1 import window_pb2 as pb
from tests.fakes.host import FakeHost

LEAVES = FakeHost(gpu_count=1).seal().leaves
BY_GROUP = {
    group: leaf for (_, group), leaf in zip(codec.check_leaves(LEAVES), LEAVES, strict=True)
}
NOW = 1_790_000_000_000


def body_of(message: pb.Leaf):
    return getattr(message, message.WhichOneof("body"))


def changed(group: Group, change) -> bytes:
    """The leaf of this group after a change of its body, as a host's own writer writes it."""
    message = pb.Leaf.FromString(BY_GROUP[group])
    change(body_of(message))
    return message.SerializeToString(deterministic=True)


def refused(leaf: bytes, *, match: str) -> None:
    with pytest.raises(codec.Malformed, match=match):
        codec.check_leaves((LEAVES[0], leaf))
    with pytest.raises(codec.Malformed, match=match):
        codec.decode_leaf(leaf)


def taken(group: Group, change) -> None:
    leaf = changed(group, change)
    assert codec.check_leaves((leaf,))[0][1] is group
    codec.decode_leaf(leaf)


def tell_absent(body, number: int, reason: Reason = Reason.DRIVER_ERROR) -> None:
    """Lists a field with one more reason, in order."""
    entries = {entry.reason: set(entry.fields) for entry in body.absent}
    entries.setdefault(int(reason), set()).add(number)
    write_absent(body, entries)


def write_absent(body, entries) -> None:
    del body.absent[:]
    for reason in sorted(entries):
        body.absent.add(reason=reason, fields=sorted(entries[reason]))


def test_every_singular_field_is_a_value_or_a_reason_and_never_neither_or_both():
    checked = 0
    for group, fields in checks.FIELDS.items():
        for name, field in fields.items():
            if field.is_repeated:
                continue

            def drop(body, name=name, number=field.number):
                """Neither: no value, and no reason either."""
                body.ClearField(name)
                entries = {entry.reason: set(entry.fields) - {number} for entry in body.absent}
                write_absent(body, {reason: left for reason, left in entries.items() if left})

            def double(body, name=name, number=field.number, field=field, drop=drop):
                """Both: a value (a zero will do), and a reason."""
                drop(body, name, number)
                if field.message_type is not None:
                    getattr(body, name).SetInParent()
                elif name == "driver_state":
                    body.driver_state = 1
                else:
                    setattr(body, name, "" if field.type == field.TYPE_STRING else 0)
                tell_absent(body, number)

            refused(changed(group, drop), match=f"{name} has neither|driver_state has no value 0")
            refused(changed(group, double), match=f"{name} has both")
            checked += 1
    assert checked == sum(not f.is_repeated for g in checks.FIELDS.values() for f in g.values())


def test_every_list_is_empty_or_has_items_or_a_reason_and_never_both():
    for group, fields in checks.FIELDS.items():
        for name, field in fields.items():
            if not field.is_repeated:
                continue

            def reason_alone(body, name=name, number=field.number):
                body.ClearField(name)
                entries = {entry.reason: set(entry.fields) - {number} for entry in body.absent}
                write_absent(body, {reason: left for reason, left in entries.items() if left})
                tell_absent(body, number)

            def both(body, name=name, number=field.number, field=field):
                reason_alone(body, name, number)
                fill(body, name, field)

            taken(group, reason_alone)
            refused(changed(group, both), match=f"{name} has both")


def fill(body, name, field) -> None:
    """One item that is well in itself."""
    items = getattr(body, name)
    if field.message_type is None:
        item = {field.TYPE_STRING: "00000000:18:00.0", field.TYPE_BYTES: bytes(16)}
        items.append(item.get(field.type, 1))
    elif field.message_type.name == "Event":
        items.add(kind=1, code=79, first_ms=NOW, last_ms=NOW, count=1)
    elif field.message_type.name == "Incident":
        items.add(kind=1, code=79, severity=2, begin_ms=NOW, last_ms=NOW, count=1)
    else:
        items.add(gpu_instance_id=1)


REASONS = {
    "there is no reason 99": [(99, [1])],
    "there is no reason 0": [(0, [1])],
    "the reasons are not in order": [(2, [1]), (1, [2])],
    "reasons are not in order": [(2, [1]), (2, [2])],
    "for a field that there is not": [(2, [15])],
    "a field that there is not": [(2, [1, 500])],
    "fields of a reason are not in order": [(2, [2, 1])],
    "or given twice": [(2, [1, 1])],
    "for no field": [(2, [])],
    "two reasons": [(1, [2]), (2, [2])],
}


@pytest.mark.parametrize("match", REASONS)
def test_reasons_are_known_in_order_and_of_fields_that_there_are(match):
    def change(body):
        del body.absent[:]
        for reason, numbers in REASONS[match]:
            body.absent.add(reason=reason, fields=numbers)

    refused(changed(Group.USE, change), match=match)
    refused(changed(Group.USE, change), match=match)  # what was read is not now believed


def test_what_is_remembered_of_reasons_is_bounded():
    table = checks._TABLES[Group.USE.value]
    numbers = sorted(table.places)
    for index in range(checks.TOLD_MAX + 50):
        chosen = [number for bit, number in enumerate(numbers) if (index + 1) >> bit & 1]
        entry = pb.Absent(reason=1, fields=chosen)
        assert checks._read_reason(entry, entry.SerializeToString(), table)[0] == 1
    assert len(table.told) <= checks.TOLD_MAX


def incidents(*changes):
    """A health leaf with incidents, the first good but for its changes."""

    def change(body):
        del body.incidents[:]
        for more in changes:
            good = {
                "kind": 1,
                "code": 79,
                "severity": 2,
                "begin_ms": NOW,
                "last_ms": NOW,
                "count": 1,
            }
            body.incidents.add(**(good | more))

    return change


def test_incidents_are_known_kinds_that_happened_at_times_and_are_told_once():
    taken(Group.HEALTH, incidents({}))
    taken(Group.HEALTH, incidents({}, {"begin_ms": NOW - 1}, {"code": 48}, {"kind": 2}))
    for match, changes in (
        ("an incident is told twice", ({}, {})),
        ("an incident is told twice", ({}, {"severity": 3, "count": 2, "last_ms": NOW + 1})),
        ("kind has no value 0", ({"kind": 0},)),
        ("kind has no value 99", ({"kind": 99},)),
        ("severity has no value 0", ({"severity": 0},)),
        ("severity has no value 4", ({"severity": 4},)),
        ("seen no times", ({"count": 0},)),
        ("ends before it begins", ({"last_ms": NOW - 1},)),
        ("no clock shows", ({"begin_ms": -1},)),
        ("no clock shows", ({"last_ms": 2**46},)),
        ("no clock shows", ({"end_ms": -1},)),
    ):
        refused(changed(Group.HEALTH, incidents(*changes)), match=match)


def events(*changes):
    def change(body):
        del body.events[:]
        for more in changes:
            good = {"kind": 1, "code": 79, "first_ms": NOW, "last_ms": NOW, "count": 1}
            body.events.add(**(good | more))

    return change


def test_events_are_known_kinds_that_happened_at_times():
    taken(Group.HEALTH, events({}, {}))
    for match, change in (
        ("kind has no value 0", {"kind": 0}),
        ("kind has no value 99", {"kind": 99}),
        ("no times", {"count": 0}),
        ("ends before it begins", {"last_ms": NOW - 1}),
        ("no clock shows", {"first_ms": -1}),
    ):
        refused(changed(Group.HEALTH, events(change)), match=match)
        refused(changed(Group.HOST, events(change)), match=match)


def instances(*changes):
    def change(body):
        del body.mig_instances[:]
        for more in changes:
            body.mig_instances.add(**({"memory_mib": 9_856} | more))

    return change


def test_instances_are_in_order_each_once_with_a_performance_or_a_reason():
    one, two = {"gpu_instance_id": 1, "sm_activity_pct": 7}, {"gpu_instance_id": 2, "reason": 1}
    taken(Group.USE, instances(one, two))
    taken(Group.USE, instances({"gpu_instance_id": 0}))
    for match, changes in (
        ("not in order", (two, one)),
        ("or one is there twice", (one, one)),
        ("there is no reason 99", ({"reason": 99},)),
        ("there is no reason 14", ({"reason": 14},)),
        *(
            ("both a value and a reason", ({"reason": 1, name: 1},))
            for name in (
                "graphics_activity_pct",
                "sm_activity_pct",
                "sm_occupancy_pct",
                "tensor_activity_pct",
                "dram_activity_pct",
            )
        ),
    ):
        refused(changed(Group.USE, instances(*changes)), match=match)


def many(name: str, count: int):
    """A change that leaves a list with so many items, each well in itself."""

    def change(body):
        field = body.DESCRIPTOR.fields_by_name[name]
        body.ClearField(name)
        for index in range(count):
            fill(body, name, field)
            if name == "mig_instances":
                body.mig_instances[-1].gpu_instance_id = index
            elif name == "incidents":
                body.incidents[-1].code = index

    return change


@pytest.mark.parametrize(
    ("group", "name", "most"),
    [
        (Group.HEALTH, "events", codec.EVENTS_MAX),
        (Group.HEALTH, "incidents", codec.EVENTS_MAX),
        (Group.HOST, "events", codec.EVENTS_MAX),
        (Group.USE, "mig_instances", codec.ITEMS_MAX),
        (Group.HOST, "missing_gpus", codec.ITEMS_MAX),
        (Group.HOST, "hidden_gpus", codec.ITEMS_MAX),
        (Group.HOST, "phantom_gpus", codec.ITEMS_MAX),
        (Group.CONDITION, "nvlink_states", codec.ITEMS_MAX),
    ],
)
def test_no_list_is_longer_than_it_may_be(group, name, most):
    taken(group, many(name, most))
    refused(changed(group, many(name, most + 1)), match="too many|too long")


def test_missing_gpus_are_uuids_and_addresses_are_short():
    for uuid in (b"", bytes(15), bytes(17)):
        refused(changed(Group.HOST, lambda b, u=uuid: b.missing_gpus.append(u)), match="not a UUID")
    taken(Group.HOST, lambda body: body.hidden_gpus.append("x" * codec.TEXT_BYTES_MAX))
    refused(
        changed(Group.HOST, lambda body: body.hidden_gpus.append("ü" * 129)),
        match="text is too long",
    )
    refused(
        changed(Group.HOST, lambda body: setattr(body, "driver_version", "ü" * 129)),
        match="driver_version is too long",
    )


def test_numbers_that_stand_for_words_are_known_and_times_are_shown_by_a_clock():
    for tenancy in (0, 5):
        leaf = changed(Group.HEALTH, lambda body, t=tenancy: setattr(body, "tenancy", t))
        refused(leaf, match=f"tenancy has no value {tenancy}")
    refused(
        changed(Group.HOST, lambda body: setattr(body, "driver_state", 6)), match="driver_state has"
    )

    def maintenance(body):
        write_absent(body, {})
        body.maintenance_until_ms = -1

    refused(changed(Group.HOST, maintenance), match="no clock shows")

    def flushed(body):
        entries = {e.reason: set(e.fields) - {29} for e in body.absent}
        write_absent(body, {reason: left for reason, left in entries.items() if left})
        body.bbx_flush_utc_ms = 2**46

    refused(changed(Group.CONDITION, flushed), match="no clock shows")


@pytest.mark.parametrize("size", [0, 1, 0x60, 0x7E, 0x7F, 0x80, 0x3FF0, 0x4000, 0x1_0000])
def test_leaves_travel_as_the_repeated_field_they_came_in(size):
    leaves = [pb.Leaf(salt=bytes(size)), pb.Leaf(), pb.Leaf(salt=bytes(size))]
    assert (
        checks.wire([one.SerializeToString() for one in leaves])
        == pb.Leaves(leaves=leaves).SerializeToString()
    )


def test_a_leaf_has_a_body_a_salt_of_16_bytes_and_a_subject_of_its_kind():
    for group, leaf in BY_GROUP.items():
        for change, match in (
            (lambda m: m.ClearField(m.WhichOneof("body")), "no body"),
            (lambda m: setattr(m, "salt", bytes(15)), "salt is not 16 bytes"),
            (lambda m: setattr(m, "salt", bytes(17)), "salt is not 16 bytes"),
            (lambda m: setattr(m, "subject", m.subject[:15] or b"x"), "the subject of"),
            (lambda m: setattr(m, "subject", bytes(0 if m.subject else 16)), "the subject of"),
        ):
            message = pb.Leaf.FromString(leaf)
            change(message)
            refused(message.SerializeToString(deterministic=True), match=match)
        assert codec.check_leaves((leaf,))[0][1] is group
