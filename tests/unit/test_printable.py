"""Text that somebody else chose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from assay_core.printable import printable


def test_what_prints_stays_and_what_steers_is_escaped():
    assert printable("NVIDIA H100, für 80 GB", 64) == "NVIDIA H100, für 80 GB"
    assert printable("\x1b[2J", 64) == "\\x1b[2J"
    assert printable("a\nb\u202e", 64) == "a\\nb\\u202e"
    assert printable("abcdef", 4) == "abc…"


@given(st.text(), st.integers(1, 40))
def test_it_always_prints_and_is_never_longer_than_asked(text, most):
    shown = printable(text, most)
    assert shown.isprintable()
    assert len(shown) <= most
