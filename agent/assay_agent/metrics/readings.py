"""The GPUs' readings as metrics, made at scrape time from what the last polls read.

What is shown of a field is derived from its name in the schema: the unit is its last word, and the
metric is in Prometheus' base unit. A field without a value has no series; why, says
assay_gpu_field_absent. A GPU that could not be read at the last poll has no readings at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from assay_agent.metrics import dcgm
from assay_agent.metrics.table import (
    CLOCKS_EVENT_REASONS,
    GPU_INFO,
    MIG_ACTIVITIES,
    PLATFORM_INFO,
    READINGS,
    Reading,
)
from assay_agent.metrics.text import Family, Kind, Row, labels
from assay_agent.telemetry.fields import uuid_of
from assay_core.instants import SECOND_MS
from assay_core.leaves import (
    HOST,
    Content,
    Group,
    Incident,
    MigInstance,
    Reason,
    Tenancy,
)

if TYPE_CHECKING:
    from assay_agent.known import Known
    from assay_agent.telemetry.reading import GpuReading, Poll, Sample

GPUS_MAX: Final = 128
"""Most GPUs shown; the schema's bound on lists."""
INCIDENTS_MAX: Final = 32
"""Most open incidents shown of one GPU, the worst first."""
_MIB: Final = 1024 * 1024

_NOT_THE_GPU: Final = frozenset({*GPU_INFO, "pci_bus_id", "tenancy"})
"""Fields that may have a value while the GPU itself says nothing."""

_UP: Final = Family("assay_gpu_up", Kind.GAUGE, "1 if the last poll read the GPU, else 0")
_UNREAD: Final = Family("assay_gpu_unread", Kind.GAUGE, "Always 1: why the last poll read nothing")
_READ_AT: Final = Family(
    "assay_gpu_read_timestamp_seconds",
    Kind.GAUGE,
    "When the GPU was last read, seconds since 1970",
    "seconds",
)
_ABSENT: Final = Family(
    "assay_gpu_field_absent",
    Kind.GAUGE,
    "Always 1: why a field of a GPU that was read has no value",
)
_INFO: Final = Family(
    "assay_gpu_info", Kind.GAUGE, "Always 1; the labels say who and what the GPU is"
)
_PLATFORM: Final = Family(
    "assay_platform_info", Kind.GAUGE, "Always 1; the labels say which driver software is in use"
)
_TENANCY: Final = Family(
    "assay_gpu_tenancy", Kind.GAUGE, "1 for who has the GPU by the PCI bus, else 0"
)
_REASONS: Final = Family(
    "assay_gpu_clocks_event_reason",
    Kind.GAUGE,
    "1 for each reason why the clocks are not higher now, else 0",
)
_INCIDENT: Final = Family(
    "assay_gpu_incident", Kind.GAUGE, "Always 1: an incident of the GPU that is open"
)
_INCIDENT_BEGIN: Final = Family(
    "assay_gpu_incident_begin_timestamp_seconds",
    Kind.GAUGE,
    "When an open incident began, seconds since 1970",
    "seconds",
)
_INCIDENT_COUNT: Final = Family(
    "assay_gpu_incident_occurrences", Kind.GAUGE, "How often an open incident was seen"
)
_LIFETIME: Final = Family(
    "assay_gpu_energy_lifetime_joules",
    Kind.COUNTER,
    "Energy since this installation first saw the GPU, over reloads of the driver",
    "joules",
)
_MIG_MEMORY: Final = Family(
    "assay_gpu_mig_instance_memory_bytes", Kind.GAUGE, "Memory of a MIG instance", "bytes"
)
_MIG_ACTIVITY: Final = tuple(
    Family(
        f"assay_gpu_mig_instance_{name}_ratio", Kind.GAUGE, f"{words} of a MIG instance", "ratio"
    )
    for name, words in MIG_ACTIVITIES
)

Found = tuple[Family, list[Row]]


class Draft(Protocol):
    """A window's contents; window.Draft is one."""

    @property
    def contents(self) -> tuple[Content, ...]:
        """What it says of the host and of each GPU."""
        ...


@dataclass(slots=True)
class Shown:
    """One GPU as last seen. `unread`: why the last poll read nothing of it; None where it did."""

    uuid: str
    values: dict[str, Sample] = field(default_factory=dict)
    unread: Reason | None = Reason.NOT_SAMPLED
    read_ms: int = 0
    incidents: tuple[Incident, ...] = ()
    energy_lifetime_mj: int | None = None
    labels: str = ""

    def text(self, name: str) -> str:
        """A field for a label; empty where it has no value."""
        sample = self.values.get(name)
        return "" if sample is None or isinstance(sample, Reason) else str(sample)


class Readings:
    """What the last polls and the last window said of each GPU."""

    def __init__(self, *, dcgm_names: bool) -> None:
        self._gpus: dict[bytes, Shown] = {}
        self._platform: dict[str, Sample] = {}
        self._dcgm_names = dcgm_names

    def know(self, known: Iterable[Known]) -> None:
        """Takes the GPUs that were seen before this start, with who they are where that is known."""
        for one in known:
            gpu = None if one.subject == HOST else self._gpu(one.subject)
            if gpu is None:
                continue
            identity = one.told.get(Group.IDENTITY)
            if identity is not None:
                gpu.values |= {
                    name: value
                    for name, value in identity.values.items()
                    if name in _NOT_THE_GPU and isinstance(value, int | str)
                }
            _label(gpu)

    def take(self, poll: Poll) -> None:
        """Takes a poll."""
        self._platform.update(
            (name, sample) for name, sample in poll.host.items() if name in PLATFORM_INFO
        )
        listed: set[bytes] = set()
        for reading in poll.gpus:
            listed.add(reading.subject)
            gpu = self._gpu(reading.subject)
            if gpu is not None:
                _take(gpu, reading, poll.at_utc_ms)
        why = poll.unread or Reason.GPU_LOST
        for subject, gpu in self._gpus.items():
            if subject not in listed:
                _unread(gpu, why)

    def sealed_window(self, draft: Draft) -> None:
        """Takes what only a window knows."""
        for content in draft.contents:
            if content.group not in (Group.HEALTH, Group.USE):
                continue
            gpu = self._gpu(content.subject)
            if gpu is None:
                continue
            if content.group is Group.HEALTH:
                gpu.incidents = _open(content.incidents())
            else:
                energy = content.values["energy_lifetime_mj"]
                known = isinstance(energy, int) and not isinstance(energy, Reason)
                gpu.energy_lifetime_mj = energy if known and isinstance(energy, int) else None

    def _gpu(self, subject: bytes) -> Shown | None:
        gpu = self._gpus.get(subject)
        if gpu is None and len(self._gpus) < GPUS_MAX:
            gpu = self._gpus[subject] = Shown(uuid_of(subject))
            gpu.labels = labels({"gpu": gpu.uuid, "bus_id": ""})
        return gpu

    def families(self) -> Iterator[Found]:
        """Every family with its series, one after the other."""
        if not self._gpus and not self._platform:
            return
        read = [gpu for gpu in self._gpus.values() if gpu.unread is None]
        yield from self._states()
        for reading in READINGS:
            yield reading.family, [row for gpu in read for row in _rows(gpu, reading)]
        yield _REASONS, [row for gpu in read for row in _clocks(gpu)]
        yield from _mig(read)
        if self._dcgm_names:
            yield from dcgm.families(read)

    def _states(self) -> Iterator[Found]:
        every = list(self._gpus.values())
        yield _UP, [(gpu.labels, int(gpu.unread is None)) for gpu in every]
        yield (
            _UNREAD,
            [(f'{gpu.labels},reason="{gpu.unread.label}"', 1) for gpu in every if gpu.unread],
        )
        yield _READ_AT, [(gpu.labels, gpu.read_ms / SECOND_MS) for gpu in every if gpu.read_ms]
        yield (
            _INFO,
            [(_with(gpu, {name: gpu.text(name) for name in GPU_INFO}), 1) for gpu in every],
        )
        platform = {
            name: "" if isinstance(sample, Reason) else str(sample)
            for name, sample in self._platform.items()
        }
        yield _PLATFORM, [(labels(platform), 1)] if platform else []
        yield _TENANCY, [row for gpu in every for row in _tenancy(gpu)]
        yield _ABSENT, [row for gpu in every if gpu.unread is None for row in _absent(gpu)]
        yield _INCIDENT, [(marks, 1) for marks, _ in _incidents(every)]
        yield (
            _INCIDENT_BEGIN,
            [(marks, one.begin_ms / SECOND_MS) for marks, one in _incidents(every)],
        )
        yield _INCIDENT_COUNT, [(marks, one.count) for marks, one in _incidents(every)]
        yield (
            _LIFETIME,
            [
                (gpu.labels, gpu.energy_lifetime_mj / 1_000)
                for gpu in every
                if gpu.energy_lifetime_mj is not None
            ],
        )


def _take(gpu: Shown, reading: GpuReading, at_ms: int) -> None:
    first: Reason | None = None
    reached = False
    for name, sample in reading.values.items():
        if name in _NOT_THE_GPU:
            continue
        if not isinstance(sample, Reason):
            reached = True
            break
        first = first or sample
    if reached:
        gpu.unread, gpu.read_ms = None, at_ms
    else:
        _unread(gpu, first or Reason.NOT_SAMPLED)
    for name, sample in reading.values.items():
        # Who it is stays known while it does not answer.
        if reached or (name in _NOT_THE_GPU and not isinstance(sample, Reason)):
            gpu.values[name] = sample
    if "pci_bus_id" in reading.values:
        _label(gpu)


def _label(gpu: Shown) -> None:
    gpu.labels = labels({"gpu": gpu.uuid, "bus_id": gpu.text("pci_bus_id")})


def _unread(gpu: Shown, why: Reason) -> None:
    gpu.unread = why
    for name in [name for name in gpu.values if name not in _NOT_THE_GPU]:
        del gpu.values[name]


def _with(gpu: Shown, more: Mapping[str, str]) -> str:
    return f"{gpu.labels},{labels(more)}"


def _rows(gpu: Shown, reading: Reading) -> Iterator[Row]:
    sample = gpu.values.get(reading.field)
    if sample is None or isinstance(sample, Reason | str):
        return
    if isinstance(sample, int):
        yield gpu.labels, reading.convert(sample)
        return
    for link, item in enumerate(sample):
        if isinstance(item, int):
            yield f'{gpu.labels},link="{link}"', reading.convert(item)


def _absent(gpu: Shown) -> Iterator[Row]:
    for name, sample in gpu.values.items():
        if isinstance(sample, Reason):
            yield f'{gpu.labels},field="{name}",reason="{sample.label}"', 1


def _tenancy(gpu: Shown) -> Iterator[Row]:
    sample = gpu.values.get("tenancy")
    if isinstance(sample, int) and not isinstance(sample, Reason):
        for each in Tenancy:
            yield f'{gpu.labels},tenancy="{each.name.lower()}"', int(each == sample)


def _clocks(gpu: Shown) -> Iterator[Row]:
    mask = gpu.values.get("clocks_event_reasons")
    if isinstance(mask, int) and not isinstance(mask, Reason):
        for bit, name in CLOCKS_EVENT_REASONS:
            yield f'{gpu.labels},reason="{name}"', int(bool(mask & bit))
        others = mask & ~sum(bit for bit, _ in CLOCKS_EVENT_REASONS)
        yield f'{gpu.labels},reason="other"', int(bool(others))


def _mig(read: list[Shown]) -> Iterator[Found]:
    def found(value: Callable[[MigInstance], int | float | None]) -> list[Row]:
        rows: list[Row] = []
        for gpu in read:
            sample = gpu.values.get("mig_instances")
            for item in sample if isinstance(sample, tuple) else ():
                number = value(item) if isinstance(item, MigInstance) else None
                if number is not None and isinstance(item, MigInstance):
                    rows.append((f'{gpu.labels},gpu_instance="{item.gpu_instance_id}"', number))
        return rows

    yield _MIG_MEMORY, found(lambda instance: instance.memory_mib * _MIB)
    for place, family in enumerate(_MIG_ACTIVITY):

        def share(instance: MigInstance, place: int = place) -> float | None:
            activity = instance.activity
            return None if isinstance(activity, Reason) else activity[place] / 100

        yield family, found(share)


def _open(incidents: tuple[Incident, ...]) -> tuple[Incident, ...]:
    """The open ones, worst first; of two with the same name the one that began first."""
    found: dict[tuple[int, int], Incident] = {}
    for incident in sorted(incidents, key=lambda one: (-one.severity, one.begin_ms)):
        if incident.end_ms is None:
            found.setdefault((incident.kind, incident.code), incident)
    return tuple(found.values())[:INCIDENTS_MAX]


def _incidents(gpus: list[Shown]) -> Iterator[tuple[str, Incident]]:
    for gpu in gpus:
        for one in gpu.incidents:
            marks = f'kind="{one.kind.name.lower()}",code="{one.code}"'
            yield f'{gpu.labels},{marks},severity="{one.severity.label}"', one
