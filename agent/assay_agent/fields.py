"""What a field's samples come to over a period: statistics, counter deltas, last values, events."""

from __future__ import annotations

from typing import Final, Protocol

from google.protobuf.descriptor import FieldDescriptor

from assay_agent.telemetry.reading import Sample
from assay_core import codec
from assay_core.leaves import Counter, Event, EventKind, Gauge, Reason, Value
from assay_core.units import mean_half_up

U32_MAX: Final = 2**32 - 1
_U64_MAX: Final = 2**64 - 1


class Events:
    """Events by kind and code. What one leaf cannot hold waits for the next."""

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


class Field(Protocol):
    """One field over the period."""

    def add(self, sample: Sample) -> None:
        """Takes a sample, or why there was none."""
        ...

    def value(self) -> Value:
        """What the samples come to, or why there is nothing."""
        ...

    def restart(self) -> None:
        """Begins the next period."""
        ...


class _GaugeField:
    __slots__ = ("_count", "_high", "_low", "_reason", "_total")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._count = self._total = self._low = self._high = 0
        self._reason = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> None:
        if sample.__class__ is not int or not 0 <= sample <= _U64_MAX:
            self._reason = _reason(sample)
            return
        number = int(sample)
        if not self._count or number < self._low:
            self._low = number
        self._high = max(self._high, number)
        self._count += 1
        self._total += number

    def value(self) -> Value:
        if not self._count:
            return self._reason
        return Gauge(self._low, mean_half_up(self._total, self._count), self._high)


class _CounterField:
    __slots__ = ("_delta", "_reason", "_seen", "_total")

    def __init__(self) -> None:
        self._total: int | None = None
        self.restart()

    def restart(self) -> None:
        self._delta = 0
        self._seen = False
        self._reason = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> None:
        if sample.__class__ is not int or not 0 <= sample <= _U64_MAX:
            self._reason = _reason(sample)
            return
        number = int(sample)
        if self._total is not None and number > self._total:
            self._delta += number - self._total
        self._total = number
        self._seen = True

    def value(self) -> Value:
        if not self._seen or self._total is None:
            return self._reason
        return Counter(min(self._delta, _U64_MAX), self._total)


class _LastField:
    """A number or a text as last read."""

    __slots__ = ("_max", "_value")

    def __init__(self, most: int | None) -> None:
        self._max = most
        self.restart()

    def restart(self) -> None:
        self._value: Sample = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> None:
        clean = _text(sample) if self._max is None else integer(sample, self._max)
        if clean.__class__ is not Reason or self._value.__class__ is Reason:
            self._value = clean

    def value(self) -> Value:
        return self._value


class _BitsField:
    """Every bit that was ever set."""

    __slots__ = ("_bits",)

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._bits: int | Reason = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> None:
        clean = integer(sample, _U64_MAX)
        if self._bits.__class__ is Reason:
            self._bits = clean
        elif clean.__class__ is not Reason:
            self._bits |= clean

    def value(self) -> Value:
        return self._bits


def field_of(field: FieldDescriptor) -> Field:
    """The accumulator for a field of the schema."""
    if field.message_type is not None:
        return _GaugeField() if field.message_type.name == "Gauge" else _CounterField()
    if field.name == "clocks_event_reasons":
        return _BitsField()
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _LastField(None)
    return _LastField(U32_MAX if field.cpp_type == FieldDescriptor.CPPTYPE_UINT32 else _U64_MAX)


def _reason(sample: Sample) -> Reason:
    """The reason a sample is, or that it is none of its field's values."""
    return sample if isinstance(sample, Reason) else Reason.INVALID_VALUE


def integer(sample: Sample, most: int) -> int | Reason:
    """The sample where it is a number of 0 to `most`; else the reason why not."""
    if sample.__class__ is int and 0 <= sample <= most:
        return int(sample)
    return _reason(sample)


def _text(sample: Sample) -> str | Reason:
    if isinstance(sample, str) and len(sample.encode(errors="replace")) <= codec.TEXT_BYTES_MAX:
        return sample
    return _reason(sample)
