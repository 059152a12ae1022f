"""From polls to the contents of a window: statistics, counter deltas, reasons, events, incidents.

Rules (those of single fields stand in fields.py):

1. Leaves of the groups in ON_CHANGE travel when they say something else than the last one that
   was sealed in this boot, at each boot, once a day and after a gap; the others in every window.
2. A GPU that was ever seen by this installation stays in the window: present, or the reason why
   not. One that the driver no longer enumerates is lost.
3. Looking is not closing: `draft` changes nothing, and `restart` begins the next period once the
   draft is sealed and durable. Until then the period goes on.
4. Incidents are followed from window to window by the rules in core, from what the window says
   and from nothing else: whoever has the windows comes to the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from assay_agent.admission import U32_MAX, integer
from assay_agent.events import Events
from assay_agent.fields import field_of, read_names, values_of
from assay_agent.known import Known, Told, travels
from assay_agent.telemetry.reading import Happening, Poll
from assay_agent.window_gpu import GpuPeriod
from assay_core import health
from assay_core.codec import ITEMS_MAX
from assay_core.header import CloseReason, Period
from assay_core.leaves import (
    HOST,
    SUBJECT_BYTES,
    Content,
    DriverState,
    EventKind,
    Group,
    Reason,
)

GPUS_MAX: Final = 64
"""Most GPUs in one window: four leaves each and the host's two are the most a valuer takes."""
KNOWN_MAX: Final = 256
"""GPUs remembered; beyond it the one not seen for longest is forgotten. A host holds 16."""
CLOCK_STEP_MS: Final = 1_000
"""Between two polls the wall clock and the boot clock differ by no more, unless one is stepped."""

_HOST_COUNTED: Final = frozenset(
    {
        "driver_state",
        "gpu_count",
        "abandoned_processes",
        "maintenance_until_ms",
        "missing_gpus",
        "clock_step_ms",
    }
)
"""Fields of the host leaf that the window works out of whole polls."""
_UNWATCHED: Final = frozenset(
    {EventKind.GPU_LOST, EventKind.GPU_RETURNED, EventKind.GPU_RESET, EventKind.MIG_CHANGED}
)
"""What may have come with a reset: a counter of the GPU may start anew."""


@dataclass(frozen=True, slots=True)
class Draft:
    """What a window would say, not yet sealed; what to remember once it is, and what not to."""

    contents: tuple[Content, ...]
    period: Period
    close_reason: CloseReason
    known: tuple[Known, ...]
    forgotten: tuple[bytes, ...] = ()


class Aggregator:
    """Gathers polls until a window is closed. No I/O, no clock."""

    def __init__(
        self,
        known: Iterable[Known],
        *,
        begin_utc_ms: int,
        begin_boottime_ms: int,
        boot_id: bytes = bytes(16),
    ) -> None:
        remembered = {one.subject: one for one in known}
        self._told = dict(remembered.pop(HOST, Known(HOST, 0)).told)
        self._gpus = {subject: GpuPeriod(one) for subject, one in remembered.items()}
        self._host = {
            name: field_of(Group.HOST, name)
            for name in read_names(Group.HOST)
            if name not in _HOST_COUNTED
        }
        self._platform = {
            name: field_of(Group.PLATFORM, name) for name in read_names(Group.PLATFORM)
        }
        self._platform["health_rules"].add(health.RULES_SHA256_8)
        self._add_host = {name: field.add for name, field in (self._host | self._platform).items()}
        self._host_events = Events()
        self._boot_id = boot_id
        self._begin_utc_ms = begin_utc_ms
        self._begin_boottime_ms = begin_boottime_ms
        self._polls = 0
        self._driver = DriverState.RUNNING
        self._last: Poll | None = None
        self._clock_offset_ms: int | None = None
        self._clock_step_ms = 0
        self._missing: tuple[bytes, ...] | Reason = Reason.NOT_SAMPLED
        self._forgotten: list[bytes] = []

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
        self._check_clock(poll)
        for name, sample in poll.host.items():
            add = self._add_host.get(name)
            if add is not None:
                add(sample)
        if poll.events or poll.driver is DriverState.RELOADED:
            self._expect_resets(poll)
        unread = poll.unread
        seen: set[bytes] = set()
        lost: set[bytes] = set()
        for reading in poll.gpus:
            seen.add(reading.subject)
            if self._gpu(reading.subject).add(reading, poll.at_utc_ms) is Reason.GPU_LOST:
                lost.add(reading.subject)
        if len(seen) < len(self._gpus):
            for subject, gpu in self._gpus.items():
                if subject not in seen:
                    gpu.miss(unread or Reason.GPU_LOST)
                    lost.add(subject)
        self._missing = unread or tuple(sorted(lost))[:ITEMS_MAX]
        for happening in poll.events:
            self.happen(happening)

    def happen(self, happening: Happening) -> None:
        """Takes an event into the period."""
        if happening.subject == HOST:
            events = self._host_events
        else:
            events = self._gpu(happening.subject).events
        events.add(happening.kind, happening.code, happening.at_ms)

    def tell_again(self) -> None:
        """What travels on change travels next, changed or not: it was in a window that is lost."""
        self._told.clear()
        for gpu in self._gpus.values():
            gpu.tell_again()

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
        at_boottime_ms = max(at_boottime_ms, self._begin_boottime_ms)
        latest = sorted(self._gpus.values(), key=lambda gpu: (-gpu.last_seen_ms, gpu.subject))
        shown = sorted(latest[:GPUS_MAX], key=lambda gpu: gpu.subject)
        host = self._host_content(self._last, maintenance_until_ms)
        contents = [host]
        told = dict(self._told)
        platform = values_of(self._platform)
        if travels(told.get(Group.PLATFORM), platform, at_boottime_ms):
            contents.append(Content(HOST, Group.PLATFORM, platform))
            told[Group.PLATFORM] = Told(platform, at_boottime_ms)
        known = {HOST: Known(HOST, at_utc_ms, told)}
        known |= {gpu.subject: gpu.known() for gpu in latest[GPUS_MAX:]}
        for gpu in shown:
            leaves, known[gpu.subject] = gpu.draft(
                host, at_utc_ms=at_utc_ms, at_boottime_ms=at_boottime_ms, boot_id=self._boot_id
            )
            contents.extend(leaves)
        period = Period(self._begin_utc_ms, at_utc_ms, self._begin_boottime_ms, at_boottime_ms)
        forgotten = tuple(subject for subject in self._forgotten if subject not in known)
        return Draft(tuple(contents), period, close_reason, tuple(known.values()), forgotten)

    def restart(self, draft: Draft) -> None:
        """Begins the next period where `draft`, now sealed, ended."""
        self._begin_utc_ms = draft.period.end_utc_ms
        self._begin_boottime_ms = draft.period.end_boottime_ms
        self._polls = 0
        self._driver = DriverState.RUNNING
        self._clock_step_ms = 0
        for field in (*self._host.values(), *self._platform.values()):
            field.restart()
        self._host_events.restart()
        self._forgotten.clear()
        told = {content.subject for content in draft.contents}
        for one in draft.known:
            if one.subject == HOST:
                self._told = dict(one.told)
            else:
                self._gpus[one.subject].restart(one, told=one.subject in told)

    def _check_clock(self, poll: Poll) -> None:
        """The boot clock never steps: where the two drift apart, the wall clock did."""
        offset_ms = poll.at_utc_ms - poll.at_boottime_ms
        before_ms, self._clock_offset_ms = self._clock_offset_ms, offset_ms
        if before_ms is not None and abs(offset_ms - before_ms) > CLOCK_STEP_MS:
            self._clock_step_ms += offset_ms - before_ms
            self._host_events.add(EventKind.CLOCK_STEPPED, 0, poll.at_utc_ms)

    def _expect_resets(self, poll: Poll) -> None:
        """Counters may start anew where the poll tells of a reload or of a reset."""
        reloaded = poll.driver is DriverState.RELOADED or any(
            happening.kind is EventKind.DRIVER_RELOADED for happening in poll.events
        )
        if reloaded:
            for gpu in self._gpus.values():
                gpu.reloaded()
        for happening in poll.events:
            if happening.kind in _UNWATCHED and happening.subject in self._gpus:
                self._gpus[happening.subject].unwatched()

    def _gpu(self, subject: bytes) -> GpuPeriod:
        gpu = self._gpus.get(subject)
        if gpu is None:  # not setdefault: that would build a GPU's fields at every poll
            if len(subject) != SUBJECT_BYTES:
                raise ValueError("a GPU's subject is the 16 bytes of its UUID")
            if len(self._gpus) >= KNOWN_MAX:
                oldest = min(self._gpus.values(), key=_by_absence)
                del self._gpus[oldest.subject]
                self._forgotten.append(oldest.subject)
            gpu = self._gpus[subject] = GpuPeriod(Known(subject, 0))
        return gpu

    def _host_content(self, last: Poll, maintenance_until_ms: int | None) -> Content:
        values = values_of(self._host)
        values["driver_state"] = int(self._driver)
        values["gpu_count"] = integer(last.host.get("gpu_count", Reason.NOT_SAMPLED), 0, U32_MAX)
        values["polls"] = min(self._polls, U32_MAX)
        values["abandoned_processes"] = integer(last.abandoned_processes, 0, U32_MAX)
        values["maintenance_until_ms"] = (
            Reason.NOT_SAMPLED if maintenance_until_ms is None else maintenance_until_ms
        )
        values["missing_gpus"] = self._missing
        values["clock_step_ms"] = self._clock_step_ms
        values["events"] = self._host_events.value()
        return Content(HOST, Group.HOST, values)


def _by_absence(gpu: GpuPeriod) -> tuple[bool, int, bytes]:
    """The order in which GPUs are forgotten; those not reached yet, last."""
    return gpu.last_seen_ms == 0, gpu.last_seen_ms, gpu.subject
