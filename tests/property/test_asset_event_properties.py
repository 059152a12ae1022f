"""Bytes that somebody calls an event are one, in one form, or are refused by name."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from assay_core import asset_events
from assay_core.asset_events import AssetEvent
from assay_core.errors import FileError
from assay_core.seal import ASSET_EVENT_TYPE
from assay_core.signatories import decode_decision
from tests.golden import make_event

GOLDEN = make_event.signed().payload
FIELDS = sorted(AssetEvent.__struct_fields__)
SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=20)
TREES = st.recursive(
    SCALARS | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4)
    ),
    max_leaves=8,
)


def read(payload: bytes) -> AssetEvent | None:
    """What is taken; anything but FileError goes through."""
    with contextlib.suppress(FileError):
        return asset_events.decode(payload)
    return None


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_by_name(data):
    assert read(data) is None
    with contextlib.suppress(FileError):
        decode_decision(data)


@given(st.dictionaries(st.sampled_from(FIELDS), TREES, max_size=8))
def test_whatever_is_taken_has_one_form(tree):
    merged = json.loads(GOLDEN) | tree
    payload = json.dumps(merged, sort_keys=True, separators=(",", ":")).encode()
    event = read(payload)
    if event is not None:
        assert asset_events.encode(event) == payload


@given(st.integers(0, len(GOLDEN) - 1), st.integers(1, 255))
def test_no_changed_byte_keeps_a_signature(at, change):
    payload = bytearray(GOLDEN)
    payload[at] ^= change
    for signature in make_event.signed().signatures:
        for key in (make_event.OPERATOR, make_event.LENDER):
            assert not key.public_key.verifies(signature.sig, ASSET_EVENT_TYPE, bytes(payload))
    read(bytes(payload))


@given(st.integers(0, len(GOLDEN)), st.binary(min_size=1, max_size=4))
def test_what_is_cut_off_or_added_is_no_event(at, added):
    if at < len(GOLDEN):
        assert read(GOLDEN[:at]) is None
    assert read(GOLDEN + added) is None
