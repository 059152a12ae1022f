"""Text that somebody else chose, made fit for a log, an error or a terminal."""

from __future__ import annotations


def printable(text: str, length_max: int) -> str:
    """The text in at most so many characters, whatever does not print written as its escape.

    A terminal obeys some characters rather than show them, and others turn a line around.
    """
    cut = text if len(text) <= length_max else text[: length_max - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in cut)[:length_max]
