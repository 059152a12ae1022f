"""From polls to the contents of a window: statistics, counter deltas, reasons and events.

Rules:

1. A field that was read at least once in the period has a value; otherwise the reason that came
   last says why not. Nothing is carried over from an earlier period but a counter's baseline.
2. A counter's increases are counted from the last reading before the period, so that how time is
   cut into windows never loses one. A counter that went down was reset: it starts anew.
3. A GPU that was ever seen by this installation stays in the window: present, or the reason why
   not. One that the driver no longer enumerates is lost.
4. Looking is not closing: `draft` changes nothing, and `restart` begins the next period once the
   draft is sealed and durable. Until then the period goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_agent.fields import U32_MAX, Events, Field, field_of, integer
from assay_agent.telemetry.reading import GpuReading, Happening, Poll
from assay_core import codec
from assay_core.header import CloseReason, Period
from assay_core.leaves import (
    HOST,
    SUBJECT_BYTES,
    Content,
    DriverState,
    Group,
    Reason,
    Value,
)

GPUS_MAX: Final = 64
"""Most GPUs in one window: three leaves each and the host's are the most a valuer takes."""

_PASSING: Final = frozenset(
    {
        Reason.GPU_LOST,
        Reason.DRIVER_UNRESPONSIVE,
        Reason.DRIVER_ABSENT,
        Reason.IN_MAINTENANCE,
        Reason.NOT_SAMPLED,
        Reason.DRIVER_ERROR,
        Reason.ASLEEP,
    }
)
"""Reasons that say nothing of who a GPU is: they alone do not make an identity a changed one."""

_DRIVER_REASONS: Final = MappingProxyType(
    {
        DriverState.UNRESPONSIVE: Reason.DRIVER_UNRESPONSIVE,
        DriverState.ABSENT: Reason.DRIVER_ABSENT,
        DriverState.PAUSED: Reason.IN_MAINTENANCE,
    }
)
"""Why no GPU could be read, by the driver's state; a driver that answers has lost the GPU."""

Identity = Mapping[str, Value]
"""The values of an identity leaf: integers, texts and reasons."""


@dataclass(frozen=True, slots=True)
class KnownGpu:
    """A GPU this installation has seen. `identity` is as last sealed in this boot, or None."""

    subject: bytes
    last_seen_ms: int
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """What a window would say, not yet sealed; `known` is what to remember once it is."""

    contents: tuple[Content, ...]
    period: Period
    close_reason: CloseReason
    known: tuple[KnownGpu, ...]


class Aggregator:
    """Gathers polls until a window is closed. No I/O, no clock."""

    def __init__(
        self, known: Iterable[KnownGpu], *, begin_utc_ms: int, begin_boottime_ms: int
    ) -> None:
        self._gpus = {gpu.subject: _Gpu(gpu) for gpu in known}
        self._host = {
            name: field_of(field)
            for name, field in codec.fields_of(Group.HOST).items()
            if name in ("driver_version", "nvml_version")
        }
        self._host_events = Events()
        self._begin_utc_ms = begin_utc_ms
        self._begin_boottime_ms = begin_boottime_ms
        self._polls = 0
        self._driver = DriverState.RUNNING
        self._last: Poll | None = None
        self._missing: tuple[bytes, ...] | Reason = Reason.NOT_SAMPLED

    @property
    def polls(self) -> int:
        """Number of polls in the period so far."""
        return self._polls

    @property
    def begin_boottime_ms(self) -> int:
        """When the period began, milliseconds since boot."""
        return self._begin_boottime_ms

    @property
    def has_events(self) -> bool:
        """Whether something happened that no sealed window tells yet."""
        return bool(self._host_events) or any(gpu.events for gpu in self._gpus.values())

    @property
    def missing(self) -> tuple[bytes, ...] | Reason:
        """GPUs once seen and not seen at the last poll; or why that cannot be said."""
        return self._missing

    def add(self, poll: Poll) -> None:
        """Takes one poll into the period."""
        self._polls += 1
        self._driver = max(self._driver, poll.driver)
        self._last = poll
        for name, field in self._host.items():
            field.add(poll.host.get(name, Reason.NOT_SAMPLED))
        unread = _DRIVER_REASONS.get(poll.driver)
        lost = {
            reading.subject
            for reading in poll.gpus
            if self._gpu(reading.subject).add(reading, poll.at_utc_ms) is Reason.GPU_LOST
        }
        listed = {reading.subject for reading in poll.gpus}
        for subject, gpu in self._gpus.items():
            if subject not in listed:
                gpu.miss(unread or Reason.GPU_LOST)
        self._missing = unread or tuple(sorted(lost | (self._gpus.keys() - listed)))
        for happening in poll.events:
            self.happen(happening)

    def happen(self, happening: Happening) -> None:
        """Takes an event into the period."""
        if happening.subject == HOST:
            events = self._host_events
        else:
            events = self._gpu(happening.subject).events
        events.add(happening.kind, happening.code, happening.at_ms)

    def draft(
        self,
        *,
        at_utc_ms: int,
        at_boottime_ms: int,
        close_reason: CloseReason,
        maintenance_until_ms: int | None = None,
    ) -> Draft:
        """What a window closed now would say: the host first, then each GPU by its subject.

        Raises ValueError when the period holds no poll: there is nothing to say.
        """
        if self._last is None or self._polls == 0:
            raise ValueError("a window needs at least one poll")
        latest = sorted(self._gpus.values(), key=lambda gpu: (-gpu.last_seen_ms, gpu.subject))
        shown = sorted(latest[:GPUS_MAX], key=lambda gpu: gpu.subject)
        contents = [self._host_content(self._last, maintenance_until_ms)]
        for gpu in shown:
            contents.extend(gpu.contents())
        period = Period(
            self._begin_utc_ms,
            at_utc_ms,
            self._begin_boottime_ms,
            max(at_boottime_ms, self._begin_boottime_ms),
        )
        travelling = {c.subject: c.values for c in contents if c.group is Group.IDENTITY}
        known = tuple(
            KnownGpu(gpu.subject, gpu.last_seen_ms, travelling.get(gpu.subject, gpu.identity))
            for gpu in self._gpus.values()
        )
        return Draft(tuple(contents), period, close_reason, known)

    def restart(self, draft: Draft) -> None:
        """Begins the next period where `draft`, now sealed, ended."""
        self._begin_utc_ms = draft.period.end_utc_ms
        self._begin_boottime_ms = draft.period.end_boottime_ms
        self._polls = 0
        self._driver = DriverState.RUNNING
        told = {c.subject for c in draft.contents}
        identities = {gpu.subject: gpu.identity for gpu in draft.known}
        for field in self._host.values():
            field.restart()
        self._host_events.restart()
        for subject, gpu in self._gpus.items():
            gpu.restart(identities.get(subject), told=subject in told)

    def _gpu(self, subject: bytes) -> _Gpu:
        if len(subject) != SUBJECT_BYTES:
            raise ValueError("a GPU's subject is the 16 bytes of its UUID")
        gpu = self._gpus.get(subject)
        if gpu is None:  # not setdefault: that would build a GPU's fields at every poll
            gpu = self._gpus[subject] = _Gpu(KnownGpu(subject, 0))
        return gpu

    def _host_content(self, last: Poll, maintenance_until_ms: int | None) -> Content:
        values: dict[str, Value] = {name: field.value() for name, field in self._host.items()}
        values["driver_state"] = int(self._driver)
        values["gpu_count"] = integer(last.host.get("gpu_count", Reason.NOT_SAMPLED), U32_MAX)
        values["polls"] = min(self._polls, U32_MAX)
        values["abandoned_processes"] = integer(last.abandoned_processes, U32_MAX)
        values["maintenance_until_ms"] = (
            Reason.NOT_SAMPLED if maintenance_until_ms is None else maintenance_until_ms
        )
        values["missing_gpus"] = self._missing
        values["events"] = self._host_events.value()
        return Content(HOST, Group.HOST, values)


class _Gpu:
    """One GPU over the period."""

    def __init__(self, known: KnownGpu) -> None:
        self.subject = known.subject
        self.last_seen_ms = known.last_seen_ms
        self.identity = known.identity
        self.events = Events()
        self._polls = 0
        self._reason: Reason = Reason.NOT_SAMPLED
        self._groups: dict[Group, dict[str, Field]] = {
            group: {
                name: field_of(field)
                for name, field in codec.fields_of(group).items()
                if name not in ("polls", "events")
            }
            for group in (Group.IDENTITY, Group.HEALTH, Group.USE)
        }
        self._fields = [item for fields in self._groups.values() for item in fields.items()]
        self._read = (*self._groups[Group.HEALTH], *self._groups[Group.USE])

    def add(self, reading: GpuReading, at_utc_ms: int) -> Reason | None:
        """Takes one reading; None where it reached the GPU, else why it did not."""
        values = reading.values
        for name, field in self._fields:
            field.add(values.get(name, Reason.NOT_SAMPLED))
        for name in self._read:
            sample = values.get(name, Reason.NOT_SAMPLED)
            if not isinstance(sample, Reason):
                self._polls += 1
                self.last_seen_ms = max(self.last_seen_ms, at_utc_ms)
                return None
            self._reason = sample
        return self._reason

    def miss(self, reason: Reason) -> None:
        """Takes a poll that did not reach the GPU."""
        self._reason = reason
        for _, field in self._fields:
            field.add(reason)

    def contents(self) -> list[Content]:
        """Its leaves: identity where it travels, health, use."""
        leaves: list[Content] = []
        if self._polls:
            identity = self._values(Group.IDENTITY)
            if _changed(self.identity, identity):
                leaves.append(Content(self.subject, Group.IDENTITY, identity))
        health = self._values(Group.HEALTH)
        health["polls"] = min(self._polls, U32_MAX)
        # Where nothing was seen of a GPU, "no event" is not known either.
        health["events"] = self.events.value() if self._polls or self.events else self._reason
        leaves.append(Content(self.subject, Group.HEALTH, health))
        leaves.append(Content(self.subject, Group.USE, self._values(Group.USE)))
        return leaves

    def restart(self, identity: Identity | None, *, told: bool) -> None:
        self.identity = identity
        self._polls = 0
        self._reason = Reason.NOT_SAMPLED
        for _, field in self._fields:
            field.restart()
        if told:
            self.events.restart()

    def _values(self, group: Group) -> dict[str, Value]:
        return {name: field.value() for name, field in self._groups[group].items()}


def _changed(sealed: Identity | None, now: Identity) -> bool:
    """Whether an identity must travel: it is another one, or was not yet told in this boot."""
    return sealed is None or any(
        # A Reason is an integer too: 1 and NOT_SUPPORTED are not the same.
        (sealed.get(name).__class__, sealed.get(name)) != (value.__class__, value)
        for name, value in now.items()
        if not (isinstance(value, Reason) and value in _PASSING)
    )
