"""Whatever bytes a host sends: each parser takes them or refuses them by an error that it names.

The same targets are fuzzed with coverage to lead it: `make fuzz`.
"""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, feed

# A signature that nobody else could make: what is behind it is reached by another target.
UNSIGNED = {"tpm_signature"}


@functools.cache
def seeds(name: str) -> tuple[bytes, ...]:
    return tuple(TARGETS[name].seeds())


@st.composite
def changed(draw: st.DrawFn, name: str) -> bytes:
    """A seed with a few of its bytes changed, gone, doubled, or taken from another."""
    data = draw(st.sampled_from(seeds(name)))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.sampled_from((0, 0, 1, 2, 4, len(data))))
        other = draw(st.sampled_from(seeds(name)))
        begin = draw(st.integers(0, len(other)))
        put = draw(st.one_of(st.binary(max_size=8), st.just(other[begin : begin + 64])))
        data = data[:at] + put + data[at + cut :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_likes_what_it_is_started_from(name):
    """Else it would be refused at the door, and nothing behind it be tried."""
    assert any(feed(name, seed) for seed in seeds(name)) is (name not in UNSIGNED)


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.data())
@settings(max_examples=60)
def test_bytes_near_to_good_ones_are_taken_or_refused_by_name(name, data):
    feed(name, data.draw(changed(name)))


@pytest.mark.parametrize("name", TARGETS)
@given(data=st.binary(max_size=600))
@settings(max_examples=60)
def test_any_bytes_are_taken_or_refused_by_name(name, data):
    feed(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_and_far_too_much_are_taken_or_refused_by_name(name):
    for data in (b"", b"\0", b"[" * 200_000, b"\xff" * 200_000, bytes(200_000)):
        feed(name, data)
