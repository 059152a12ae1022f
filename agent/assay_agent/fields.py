"""What a field's samples come to over a period, as data: each field of the schema has its kind.

Rules:

1. A field that was read at least once in the period has a value; otherwise the reason that came
   last says why not. A field that was not due brings neither.
2. What is read less often than once a window is kept over windows until it is read again. A
   failure that passes does not replace it; that it cannot be read any more does.
3. A counter's increases are counted from the last reading before the period, so that how time is
   cut into windows never loses one. A counter that went down starts anew from its new total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from assay_agent.admission import U32_MAX, U64_MAX, Admit, admitted, instances, reason_of
from assay_agent.telemetry.reading import Sample
from assay_core import codec
from assay_core.leaves import ON_CHANGE, Counter, Gauge, Group, MigInstance, Reason, Value
from assay_core.units import mean_half_up

PASSING: Final = frozenset(
    {
        Reason.GPU_LOST,
        Reason.DRIVER_UNRESPONSIVE,
        Reason.DRIVER_ABSENT,
        Reason.IN_MAINTENANCE,
        Reason.NOT_SAMPLED,
        Reason.DRIVER_ERROR,
        Reason.ASLEEP,
        Reason.PASSED_THROUGH,
    }
)
"""Reasons that say nothing of what a GPU is or has: they do not make what was read untrue."""

_COUNTED: Final = frozenset({"polls", "events", "incidents", "energy_lifetime_mj"})
"""What no source reads: the window counts it."""

LIFETIME: Final = frozenset(
    {
        "ecc_corrected_aggregate",
        "ecc_uncorrected_aggregate",
        "remapped_rows_corrected",
        "remapped_rows_uncorrected",
        "ecc_sram_corrected",
        "ecc_sram_uncorrected_parity",
        "ecc_sram_uncorrected_secded",
        "ecc_dram_corrected",
        "ecc_dram_uncorrected",
        "retired_pages_single_bit",
        "retired_pages_double_bit",
        "odometer_s",
    }
)
"""Totals over the life of the board: no reload, reset or reboot excuses their going down."""


class Field(Protocol):
    """One field over the period."""

    def add(self, sample: Sample) -> bool:
        """Takes a sample, or why there was none. True: a counter ran backwards, unexcused."""
        ...

    def value(self) -> Value:
        """What the samples come to, or why there is nothing."""
        ...

    def restart(self) -> None:
        """Begins the next period."""
        ...

    def anew(self) -> None:
        """The driver was reloaded, or may have been: a counter may start from 0 again."""
        ...


class _Base:
    """What most fields do: a sample that cannot be is a reason, and a reload is none of theirs."""

    __slots__ = ("_reason",)

    _reason: Reason

    def anew(self) -> None:
        return

    def _refuse(self, sample: Sample) -> bool:
        self._reason = reason_of(sample)
        return False


class _GaugeField(_Base):
    __slots__ = ("_count", "_high", "_low", "_total")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._count = self._total = self._low = self._high = 0
        self._reason = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> bool:
        if sample.__class__ is not int or not 0 <= sample <= U64_MAX:
            return self._refuse(sample)
        number: int = sample
        if not self._count:
            self._low = self._high = number
        elif number < self._low:
            self._low = number
        elif number > self._high:
            self._high = number
        self._count += 1
        self._total += number
        return False

    def value(self) -> Value:
        if not self._count:
            return self._reason
        return Gauge(self._low, mean_half_up(self._total, self._count), self._high)


class _MeanField(_GaugeField):
    """The mean alone."""

    __slots__ = ()

    def value(self) -> Value:
        if not self._count:
            return self._reason
        return min(mean_half_up(self._total, self._count), U32_MAX)


class _CounterField(_Base):
    __slots__ = ("_anew", "_delta", "_lifetime", "_seen", "_total")

    def __init__(self, *, lifetime: bool = False) -> None:
        self._total: int | None = None
        self._lifetime = lifetime
        self._anew = False
        self.restart()

    def restart(self) -> None:
        self._delta = 0
        self._seen = False
        self._reason = Reason.NOT_SAMPLED

    def anew(self) -> None:
        self._anew = not self._lifetime

    def add(self, sample: Sample) -> bool:
        if sample.__class__ is not int or not 0 <= sample <= U64_MAX:
            return self._refuse(sample)
        number: int = sample
        before, self._total, self._seen = self._total, number, True
        if before is None or number == before:
            self._anew = False
            return False
        if number > before:
            self._delta += number - before
            self._anew = False
            return False
        fell, self._anew = not self._anew, False
        return fell

    def value(self) -> Value:
        if not self._seen or self._total is None:
            return self._reason
        return Counter(min(self._delta, U64_MAX), self._total)


class _IncreaseField(_CounterField):
    """A driver's total of which only the increase is told; such totals wrap, and may."""

    __slots__ = ()

    def add(self, sample: Sample) -> bool:
        super().add(sample)
        return False

    def value(self) -> Value:
        return min(self._delta, U64_MAX) if self._seen else self._reason


class _LastField(_Base):
    """A value as last read within the period."""

    __slots__ = ("_admit", "_value")

    def __init__(self, admit: Admit) -> None:
        self._admit = admit
        self.restart()

    def restart(self) -> None:
        self._value: Sample = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> bool:
        clean = self._admit(sample)
        if clean.__class__ is not Reason or self._value.__class__ is Reason:
            self._value = clean
        return False

    def value(self) -> Value:
        return self._value


class _KeptField(_LastField):
    """A value as last read, in whatever period that was."""

    __slots__ = ("_kept",)

    def __init__(self, admit: Admit) -> None:
        self._kept = False
        super().__init__(admit)

    def restart(self) -> None:
        if not self._kept:
            super().restart()

    def add(self, sample: Sample) -> bool:
        clean = self._admit(sample)
        if clean.__class__ is not Reason or clean not in PASSING:
            self._value, self._kept = clean, True
        elif not self._kept:
            self._value = clean
        return False


class _TotalField(_KeptField):
    """A total over the life of the board, as last read."""

    __slots__ = ()

    def add(self, sample: Sample) -> bool:
        before = self._value
        super().add(sample)
        now = self._value
        return before.__class__ is int and now.__class__ is int and now < before


class _ExtremeField(_LastField):
    """The largest sample of the period, or the least."""

    __slots__ = ("_least",)

    def __init__(self, admit: Admit, *, least: bool) -> None:
        self._least = least
        super().__init__(admit)

    def add(self, sample: Sample) -> bool:
        clean = self._admit(sample)
        now = self._value
        if now.__class__ is not int or (clean.__class__ is int and (clean < now) is self._least):
            self._value = clean
        return False


class _BitsField(_LastField):
    """Every bit that was ever set."""

    __slots__ = ()

    def add(self, sample: Sample) -> bool:
        clean = self._admit(sample)
        if self._value.__class__ is not int:
            self._value = clean
        elif clean.__class__ is int:
            self._value |= clean
        return False


class _Instance:
    """One instance over the period."""

    __slots__ = ("count", "memory_mib", "reason", "sums")

    def __init__(self, memory_mib: int) -> None:
        self.memory_mib = memory_mib
        self.sums = [0, 0, 0, 0, 0]
        self.count = 0
        self.reason = Reason.NOT_SAMPLED


class _InstancesField(_Base):
    """The instances at the last look, each with the means of its samples."""

    __slots__ = ("_instances", "_latest")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._instances: dict[int, _Instance] = {}
        self._latest: tuple[int, ...] | None = None
        self._reason = Reason.NOT_SAMPLED

    def add(self, sample: Sample) -> bool:
        admitted = instances(sample)
        if isinstance(admitted, Reason):
            return self._refuse(admitted)
        self._latest = tuple(sorted(one.gpu_instance_id for one in admitted))
        for one in admitted:
            kept = self._instances.get(one.gpu_instance_id)
            if kept is None or kept.memory_mib != one.memory_mib:  # cut anew under an old number
                kept = self._instances[one.gpu_instance_id] = _Instance(one.memory_mib)
            if isinstance(one.activity, Reason):
                kept.reason = one.activity
                continue
            kept.count += 1
            for index, share in enumerate(one.activity):
                kept.sums[index] += share
        return False

    def value(self) -> Value:
        if self._latest is None:
            return self._reason
        return tuple(self._instance(number) for number in self._latest)

    def _instance(self, number: int) -> MigInstance:
        one = self._instances[number]
        if not one.count:
            return MigInstance(number, one.memory_mib, one.reason)
        a, b, c, d, e = (mean_half_up(total, one.count) for total in one.sums)
        return MigInstance(number, one.memory_mib, (a, b, c, d, e))


_MEANS: Final = ("_activity_pct", "_occupancy_pct", "_mibps")
_SPECIAL: Final[Mapping[str, Callable[[Admit], Field]]] = MappingProxyType(
    {
        "clocks_event_reasons": _BitsField,
        "power_instant_max_mw": lambda admit: _ExtremeField(admit, least=False),
        "pcie_generation": lambda admit: _ExtremeField(admit, least=False),
        "pcie_width": lambda admit: _ExtremeField(admit, least=True),
        "temperature_margin_min_mc": lambda admit: _ExtremeField(admit, least=True),
        "pcie_tx_bytes": lambda _: _IncreaseField(),
        "pcie_rx_bytes": lambda _: _IncreaseField(),
        "mig_instances": lambda _: _InstancesField(),
    }
)
"""Fields that come to something else than their type says."""
_AT_LAST_LOOK: Final = frozenset({"pci_gpu_count", "hidden_gpus", "phantom_gpus"})
"""Fields of the host that are kept until the next look."""


def read_names(group: Group) -> tuple[str, ...]:
    """The fields of a group that a source reads, in the schema's order."""
    return tuple(name for name in codec.fields_of(group) if name not in _COUNTED)


def field_of(group: Group, name: str) -> Field:
    """The accumulator for a field of the schema."""
    field = codec.fields_of(group)[name]
    admit = admitted(field)
    if name in _SPECIAL:
        return _SPECIAL[name](admit)
    if field.message_type is not None and not field.is_repeated:
        if field.message_type.name == "Gauge":
            return _GaugeField()
        return _CounterField(lifetime=name in LIFETIME)
    if group is Group.USE and name.endswith(_MEANS):
        return _MeanField()
    if group in ON_CHANGE or name in _AT_LAST_LOOK:
        return _TotalField(admit) if name in LIFETIME else _KeptField(admit)
    return _LastField(admit)


def counter_code(group: Group, name: str) -> int:
    """How an event names a counter: 1000 times its leaf's body and its field, by their numbers."""
    field = codec.fields_of(group)[name]
    body = field.containing_type
    if body is None:
        raise TypeError(f"{name} is not in a body")
    leaf = body.file.message_types_by_name["Leaf"]
    return 1_000 * int(leaf.fields_by_name[group.value].number) + int(field.number)


def values_of(fields: Mapping[str, Field]) -> dict[str, Value]:
    """What each of the fields comes to, by name."""
    return {name: field.value() for name, field in fields.items()}
