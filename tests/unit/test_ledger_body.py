"""A stored body gives back the very bytes, whatever they are, and says when it is damaged."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_core.seal import Envelope, Signature
from assay_valuer.ledger.body import Body, BodyError, decode, encode
from tests.fakes.host import FakeHost

HOST = FakeHost(gpu_count=3)
FIRST, NEXT = HOST.seal(), HOST.seal()

heads = st.sampled_from([b"", b"\x0a\x10", b"\x0a\x10" + bytes(16), b"\x12\x10", b"\x32\x20"])
pieces = st.lists(st.one_of(heads, st.binary(max_size=40)), max_size=4).map(b"".join)
signatures = st.builds(
    Signature,
    st.binary(max_size=80),
    st.one_of(
        st.text(max_size=70), st.text("0123456789abcdefA g", min_size=64, max_size=64), st.just("")
    ),
)


@given(
    payload=pieces,
    kind=st.text(max_size=20),
    signed=st.lists(signatures, max_size=4),
    leaves=st.lists(pieces, max_size=6),
    observed_ms=st.none() | st.integers(0, 2**45),
    behind=st.booleans(),
)
def test_any_bytes_come_back(*, payload, kind, signed, leaves, observed_ms, behind):
    body = Body(Envelope(payload, kind, tuple(signed)), tuple(leaves), observed_ms, behind)
    assert decode(encode(body)) == body


@pytest.mark.parametrize("sealed", [FIRST, NEXT])
def test_windows_come_back_and_a_change_of_any_byte_is_noticed_or_changes_what_was_signed(sealed):
    body = Body(sealed.envelope, sealed.leaves, 5)
    data = encode(body)
    assert decode(data) == body
    assert len(data) < 0.8 * sum(map(len, sealed.leaves))
    for at in range(0, len(data), 7):
        damaged = data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :]
        try:
            assert decode(damaged) != body
        except BodyError as error:
            assert "stored body" in str(error)


def test_more_gpus_than_have_numbers_come_back():
    leaf = next(leaf for leaf in FIRST.leaves if leaf[18:20] == b"\x12\x10")
    leaves = tuple(leaf[:20] + number.to_bytes(16, "big") + leaf[36:] for number in range(300))
    body = Body(FIRST.envelope, leaves)
    assert decode(encode(body)) == body


def test_a_body_that_is_cut_off_or_goes_on_is_damaged():
    data = encode(Body(NEXT.envelope, NEXT.leaves))
    random = int.from_bytes(data[1:4], "big")
    for size in (random - 1, random + 1, 0, 2**24 - 1):
        with pytest.raises(BodyError, match="damaged"):
            decode(data[:1] + size.to_bytes(3, "big") + data[4:])
    for cut in (1, 2, 4, 4 + random, len(data) - 1):
        with pytest.raises(BodyError):
            decode(data[:cut])
    longer = data[:1] + (random + 4).to_bytes(3, "big") + data[4 : 4 + random] + b"more"
    with pytest.raises(BodyError, match="more than it says"):
        decode(longer + data[4 + random :])


def test_what_is_random_beyond_two_bytes_of_length_comes_back():
    many = tuple(Signature(bytes(60_000), "") for _ in range(3))
    body = Body(dataclasses.replace(FIRST.envelope, signatures=many), FIRST.leaves)
    assert decode(encode(body)) == body
