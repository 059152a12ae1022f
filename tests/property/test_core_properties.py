"""Invariants of the core: trees, seals and the strictness of the door."""

from __future__ import annotations

import contextlib
import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core import codec, disclosure, merkle, seal, verify
from assay_core.errors import Refused
from assay_core.leaves import (
    HOST,
    OF_HOST,
    SUBJECT_BYTES,
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
)
from assay_core.money import Usd
from assay_core.units import ratio_bps_down, ratio_bps_up
from assay_core.verify import HostTrust
from tests.golden import make
from tests.unit.test_core_verify import EMPTY, NOW, TRUST, window

U32, U63 = 2**32 - 1, 2**63 - 1
entries = st.lists(st.binary(max_size=40), min_size=1, max_size=70)


def rfc6962(items):
    if len(items) == 1:
        return hashlib.sha256(b"\x00" + items[0]).digest()
    k = 1
    while k * 2 < len(items):
        k *= 2
    return hashlib.sha256(b"\x01" + rfc6962(items[:k]) + rfc6962(items[k:])).digest()


@given(entries)
def test_the_root_is_rfc_6962s(items):
    assert merkle.root([merkle.leaf_hash(item) for item in items]) == rfc6962(items)


def test_every_path_of_every_small_tree_leads_to_its_root_and_no_other_does():
    for size in range(1, 34):
        hashes = [merkle.leaf_hash(bytes([n])) for n in range(size)]
        root = merkle.root(hashes)
        for index in range(size):
            path = merkle.audit_path(hashes, index)
            assert merkle.root_from_path(hashes[index], index, size, path) == root
            assert merkle.root_from_path(hashes[index], index, size, (*path, root)) != root
            assert merkle.root_from_path(hashes[index], size, size, path) is None
            if path:
                assert merkle.root_from_path(hashes[index], index, size, path[:-1]) != root
                assert merkle.root_from_path(hashes[index - 1], index, size, path) != root


TIMES = st.integers(0, 2**44)
EVENTS = st.builds(
    lambda kind, code, first, length, count: Event(kind, code, first, first + length, count),
    st.sampled_from(EventKind),
    st.integers(0, U32),
    TIMES,
    st.integers(0, 2**40),
    st.integers(1, U32),
)
INCIDENTS = st.builds(
    lambda kind, code, severity, begin, length, end, count: Incident(
        kind, code, severity, begin, begin + length, end, count
    ),
    st.sampled_from(IncidentKind),
    st.integers(0, U32),
    st.sampled_from(Severity),
    TIMES,
    st.integers(0, 2**40),
    st.integers(1, 2**44) | st.none(),
    st.integers(1, U32),
)
INSTANCES = st.builds(
    MigInstance,
    st.integers(0, U32),
    st.integers(0, U32),
    st.tuples(*[st.integers(0, U32)] * 5) | st.sampled_from(Reason),
)
LISTS = {
    "Event": st.lists(EVENTS, max_size=3),
    "Incident": st.lists(INCIDENTS, max_size=3, unique_by=lambda i: (i.kind, i.code, i.begin_ms)),
    "MigInstance": st.lists(INSTANCES, max_size=3, unique_by=lambda i: i.gpu_instance_id).map(
        lambda found: sorted(found, key=lambda i: i.gpu_instance_id)
    ),
}
RANGES = {"driver_state": (1, 5), "tenancy": (1, 4)}


def items_of(field):
    if field.message_type is not None:
        return LISTS[field.message_type.name]
    if field.type == field.TYPE_BYTES:
        return st.lists(st.binary(min_size=16, max_size=16), max_size=3)
    if field.type == field.TYPE_STRING:
        return st.lists(st.text(max_size=60), max_size=3)
    return st.lists(st.integers(0, 2**64 - 1), max_size=20)


def values_of(name, field):
    reason = st.sampled_from(Reason)
    if field.is_repeated:
        return items_of(field).map(tuple) | reason
    if name in RANGES:
        some = st.integers(*RANGES[name])
        return some if name == "driver_state" else some | reason
    if field.message_type is not None and field.message_type.name == "Gauge":
        three = st.lists(st.integers(0, U63), min_size=3, max_size=3).map(sorted)
        return three.map(lambda t: Gauge(*t)) | reason
    if field.message_type is not None:
        return st.builds(Counter, st.integers(0, U63), st.integers(0, U63)) | reason
    if field.type == field.TYPE_STRING:
        return st.text(max_size=60) | reason
    if name in ("maintenance_until_ms", "bbx_flush_utc_ms"):
        return st.integers(0, codec.TIME_MS_MAX) | reason
    least, most = {
        field.TYPE_UINT32: (0, U32),
        field.TYPE_SINT32: (-(2**31), 2**31 - 1),
        field.TYPE_SINT64: (-(2**63), U63),
        field.TYPE_UINT64: (0, 2**64 - 1),
    }[field.type]
    return st.integers(least, most) | reason


@st.composite
def contents(draw):
    group = draw(st.sampled_from(Group))
    subject = HOST if group in OF_HOST else draw(st.binary(min_size=16, max_size=SUBJECT_BYTES))
    values = {name: draw(values_of(name, f)) for name, f in codec.fields_of(group).items()}
    return Content(subject, group, values)


@given(contents(), st.binary(min_size=16, max_size=16))
def test_a_leaf_is_read_as_it_was_written(content, salt):
    data = codec.encode_leaf(Leaf(salt, content))
    leaf = codec.decode_leaf(data)
    assert leaf.salt == salt
    assert leaf.content.subject == content.subject
    assert dict(leaf.content.values) == dict(content.values)
    assert codec.encode_leaf(leaf) == data


@given(st.data())
@settings(max_examples=300)
def test_no_change_of_the_bytes_comes_through_the_door(data):
    """Any edit of payload, leaves or signature is refused by a name, or is no edit."""
    good = window()
    parts = [good.envelope.payload, good.envelope.signatures[0].sig, *good.leaves]
    which = data.draw(st.integers(0, len(parts) - 1))
    at = data.draw(st.integers(0, len(parts[which]) - 1))
    edit = data.draw(st.binary(max_size=3))
    changed = parts[which][:at] + edit + parts[which][at + data.draw(st.integers(0, 3)) :]
    if changed == parts[which]:
        return
    parts[which] = changed
    envelope = seal.Envelope(
        parts[0], good.envelope.payload_type, (seal.Signature(parts[1], "whatever"),)
    )
    try:
        verify.verify(
            seal.Sealed(envelope, tuple(parts[2:])),
            trust=TRUST,
            chain=EMPTY,
            policy=verify.Policy(),
            challenges={},
            now_ms=NOW,
        )
    except Refused:
        return
    raise AssertionError("an altered window came through")


@given(st.binary(max_size=400))
def test_no_bytes_crash_a_parser(data):
    for parser in (codec.decode_header, codec.decode_gap, codec.decode_leaf):
        with contextlib.suppress(codec.Malformed):
            parser(data)


@given(st.sets(st.integers(0, 3)))
def test_any_part_of_a_window_can_be_disclosed(indexes):
    text = disclosure.dump(disclosure.disclose(make.sealed(), indexes))
    trust = (HostTrust(make.HOST_ID, 2, (make.SIGNER.public_key,)),)
    inspection = disclosure.inspect(disclosure.load(text, "file"), trust)
    assert inspection.holds
    shown = [leaf.content.group for leaf in inspection.leaves]
    assert shown == [make.contents()[index].group for index in sorted(indexes)]


@given(st.integers(0, 10**18), st.integers(0, 10**6), st.integers(1, 10**6))
def test_rounding_goes_the_way_its_name_says(micros, numerator, denominator):
    amount = Usd(micros)
    down = amount.times_down(numerator, denominator).micros
    assert down * denominator <= micros * numerator < (down + 1) * denominator
    assert ratio_bps_down(numerator, denominator) <= ratio_bps_up(numerator, denominator)
    assert Usd.from_wad_down(amount.to_wad()) == amount == Usd.from_wad_up(amount.to_wad())
