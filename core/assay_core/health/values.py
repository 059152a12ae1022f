"""Reading the fields of a leaf where no value is None, whatever the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from assay_core.leaves import Content, Counter, Event, Gauge, Reason, Value
from assay_core.printable import printable

TEXT_MAX: Final = 64
"""Characters of a name or a version; none that there is has more."""


def whole(leaf: Content | None, name: str) -> int | None:
    """An integer, or a counter's total; None without a value, or without the leaf."""
    if leaf is None:
        return None
    value = leaf.values.get(name)
    if value.__class__ is int:  # most are, and this is quick
        return value
    if isinstance(value, Counter):
        return value.total
    return None if isinstance(value, Reason) or not isinstance(value, int) else value


def events(values: Mapping[str, Value]) -> tuple[Event, ...]:
    """The events of a leaf; none where they could not be read."""
    events = values.get("events")
    if not events or not isinstance(events, tuple):
        return ()
    return tuple(one for one in events if isinstance(one, Event))


def gauge(values: Mapping[str, Value], name: str) -> Gauge | None:
    """A gauge; None without a value."""
    value = values.get(name)
    return value if isinstance(value, Gauge) else None


def counter(values: Mapping[str, Value], name: str) -> Counter | None:
    """A counter; None without a value."""
    value = values.get(name)
    return value if isinstance(value, Counter) else None


def number(values: Mapping[str, Value], name: str) -> int | None:
    """An integer; None without a value."""
    value = values.get(name)
    return value if isinstance(value, int) and not isinstance(value, Reason) else None


def text(values: Mapping[str, Value], name: str) -> str | None:
    """A text as it may be shown; None without a value."""
    value = values.get(name)
    return printable(value, TEXT_MAX) if isinstance(value, str) else None
