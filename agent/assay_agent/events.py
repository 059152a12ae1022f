"""Events of one window, each kind and code once, and no more than a leaf holds."""

from __future__ import annotations

from assay_agent.admission import U32_MAX
from assay_core import codec
from assay_core.leaves import Event, EventKind


class Events:
    """Events by kind and code. What one leaf cannot hold waits for the next."""

    __slots__ = ("_events",)

    def __init__(self) -> None:
        self._events: dict[tuple[EventKind, int], Event] = {}

    def __bool__(self) -> bool:
        return bool(self._events)

    def add(self, kind: EventKind, code: int, at_ms: int) -> None:
        """Counts one occurrence, UTC milliseconds."""
        code = min(max(code, 0), U32_MAX)
        old = self._events.get((kind, code))
        if old is None:
            self._events[kind, code] = Event(kind, code, at_ms, at_ms, 1)
        else:
            self._events[kind, code] = Event(
                kind,
                code,
                min(old.first_ms, at_ms),
                max(old.last_ms, at_ms),
                min(old.count + 1, U32_MAX),
            )

    def value(self) -> tuple[Event, ...]:
        """As many as one leaf holds, in the order in which they first came."""
        return tuple(self._events.values())[: codec.EVENTS_MAX]

    def restart(self) -> None:
        """Forgets those that `value` gave."""
        for event in self.value():
            del self._events[event.kind, event.code]
