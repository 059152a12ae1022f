"""A window as the plausibility rules look at it: its GPUs, and what earlier windows told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import msgspec

from assay_core.header import Period
from assay_core.health.reconcile import Totals, elapsed_ms
from assay_core.health.values import counter, events, gauge, number, text
from assay_core.instants import MINUTE_MS
from assay_core.leaves import (
    Content,
    Counter,
    DriverState,
    EventKind,
    Gauge,
    Group,
    Value,
)

POLLS_MIN: Final = 12
LENGTH_MIN_MS: Final = 30_000
"""With fewer polls, or in less time, a mean says little of an integral."""
HOLE_MAX_MS: Final = 1_000
"""Windows that follow on each other leave no more between them."""
WINDOW_MAX_MS: Final = 15 * MINUTE_MS
"""No window is longer: what two windows lie further apart was a gap, and no leaf was kept back."""
RESTARTS_MAX: Final = 12
_INTERRUPTED: Final = frozenset(
    {
        EventKind.GPU_LOST,
        EventKind.GPU_RETURNED,
        EventKind.DRIVER_RELOADED,
        EventKind.DRIVER_UNRESPONSIVE,
        EventKind.GPU_RESET,
        EventKind.PAUSED,
        EventKind.RESUMED,
    }
)

_RESTARTS: Final = (EventKind.DRIVER_RELOADED, EventKind.GPU_RESET)
_NOTHING: Final[Mapping[str, Value]] = MappingProxyType({})


class Known(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What earlier windows told of a GPU, some in leaves that travel on change alone. None: not told."""

    name: str | None = None
    memory_total_bytes: int | None = None
    board_limit_mw: int | None = None
    """The largest power limit that the board may have."""
    totals: Totals | None = None
    identity_untold_ms: int = 0
    condition_untold_ms: int = 0
    platform_untold_ms: int = 0
    """For how long windows showed the GPU and the leaf did not travel."""
    restarts: tuple[int, ...] = ()
    """When windows ended that told of a restart, the newest RESTARTS_MAX, UTC ms."""


UNKNOWN: Final = Known()


def learn(known: Known, identity: Content | None) -> Known:
    """What is known after a window that told this identity; None where it told none."""
    if identity is None:
        return known
    values = identity.values
    limits = [number(values, f"power_limit_{which}_mw") for which in ("default", "max")]
    name = text(values, "name")
    board_mw = max((one for one in limits if one is not None), default=None)
    total = number(values, "memory_total_bytes")
    return msgspec.structs.replace(
        known,
        name=known.name if name is None else name,
        memory_total_bytes=known.memory_total_bytes if total is None else total,
        board_limit_mw=known.board_limit_mw if board_mw is None else board_mw,
    )


def remember(
    known: Known, at_ms: int, before_ms: int | None, told: Mapping[Group, bool], *, restarted: bool
) -> Known:
    """What is known after a window that ended at `at_ms` and showed the GPU.

    `before_ms`: the end of the last one that did. `told`: whether these groups' leaves travelled.
    """
    since_ms = 0 if before_ms is None else max(0, min(at_ms - before_ms, WINDOW_MAX_MS))
    return msgspec.structs.replace(
        known,
        identity_untold_ms=0 if told[Group.IDENTITY] else known.identity_untold_ms + since_ms,
        condition_untold_ms=0 if told[Group.CONDITION] else known.condition_untold_ms + since_ms,
        platform_untold_ms=0 if told[Group.PLATFORM] else known.platform_untold_ms + since_ms,
        restarts=(*known.restarts, at_ms)[-RESTARTS_MAX:] if restarted else known.restarts,
    )


@dataclass(slots=True)
class GpuView:
    """One GPU of the window, its fields by short names. None: no value, or not told.

    `since_ms` is the time since the end of the last window that saw it, and no less than this
    window's length: what counters rose by, they rose by in this time. `even`: statistics over the
    window mean something, for it was polled often and nothing interrupted.
    """

    subject: bytes
    known: Known
    identified: bool = False
    renamed_from: str | None = None
    health: Mapping[str, Value] = field(default_factory=lambda: _NOTHING)
    use: Mapping[str, Value] = field(default_factory=lambda: _NOTHING)
    condition: Mapping[str, Value] = field(default_factory=lambda: _NOTHING)
    polls: int = 0
    since_ms: int = 0
    even: bool = False
    board_mw: int | None = None
    limit_mw: int | None = None
    power: Gauge | None = None
    energy: Counter | None = None
    busy: Gauge | None = None
    memory_busy: Gauge | None = None
    used: Gauge | None = None
    sm_clock: Gauge | None = None
    memory_clock: Gauge | None = None
    reasons: int | None = None
    sm_pct: int | None = None
    tensor_pct: int | None = None
    dram_pct: int | None = None
    heat: Gauge | None = None
    memory_heat: Gauge | None = None

    def take(self) -> None:
        """Fills in the fields from the leaves."""
        use, health = self.use, self.health
        self.polls = number(health, "polls") or 0
        limit = gauge(use, "power_limit_mw")
        board_mw = self.known.board_limit_mw
        self.limit_mw = board_mw if limit is None or limit.max == 0 else limit.max
        self.board_mw = board_mw or self.limit_mw
        self.power = gauge(use, "power_mw")
        self.energy = counter(use, "energy_mj")
        self.busy = gauge(use, "gpu_utilisation_bps")
        self.memory_busy = gauge(use, "memory_utilisation_bps")
        self.used = gauge(use, "memory_used_bytes")
        self.sm_clock = gauge(use, "sm_clock_mhz")
        self.memory_clock = gauge(use, "memory_clock_mhz")
        self.reasons = number(use, "clocks_event_reasons")
        self.sm_pct = number(use, "sm_activity_pct")
        self.tensor_pct = number(use, "tensor_activity_pct")
        self.dram_pct = number(use, "dram_activity_pct")
        self.heat = gauge(health, "temperature_mc")
        self.memory_heat = gauge(health, "memory_temperature_mc")


@dataclass(frozen=True, slots=True)
class WindowView:
    """A window: `length_ms` is by the clock that is never stepped."""

    length_ms: int
    period: Period
    boot: str
    host: Mapping[str, Value]
    platform: Mapping[str, Value]
    gpus: tuple[GpuView, ...]


def view(
    contents: Iterable[Content], boot: str, period: Period, known: Mapping[bytes, Known]
) -> WindowView:
    """The window as its contents tell it; `known` is of earlier windows."""
    host = platform = _NOTHING
    gpus: dict[bytes, GpuView] = {}
    identities: dict[bytes, Content] = {}
    for content in contents:
        group, subject = content.group, content.subject
        if group is Group.HOST:
            host = content.values
            continue
        if group is Group.PLATFORM:
            platform = content.values
            continue
        if group is Group.IDENTITY:
            identities[subject] = content
            continue
        gpu = gpus.get(subject)
        if gpu is None:
            gpu = gpus[subject] = GpuView(subject, known.get(subject, UNKNOWN))
        if group is Group.HEALTH:
            gpu.health = content.values
        elif group is Group.USE:
            gpu.use = content.values
        else:
            gpu.condition = content.values
    for subject, content in identities.items():
        if subject in gpus:
            gpu = gpus[subject]
            before_name = gpu.known.name
            gpu.known = learn(gpu.known, content)
            gpu.identified = True
            gpu.renamed_from = before_name if before_name != gpu.known.name else None
    length_ms = period.end_boottime_ms - period.begin_boottime_ms
    smooth = length_ms >= LENGTH_MIN_MS and host.get("driver_state") == DriverState.RUNNING
    polls = number(host, "polls") or 0
    for gpu in gpus.values():
        gpu.take()
        before = gpu.known.totals
        gpu.since_ms = length_ms
        if before is not None:
            gpu.since_ms = max(length_ms, elapsed_ms(before, boot, period))
        often = gpu.polls >= max(POLLS_MIN, polls * 9 // 10)
        gpu.even = (
            smooth
            and often
            and gpu.since_ms - length_ms <= HOLE_MAX_MS
            and not interrupted(gpu.health)
        )
    return WindowView(length_ms, period, boot, host, platform, tuple(gpus.values()))


def interrupted(health: Mapping[str, Value]) -> bool:
    """Whether something happened in the window that cuts its statistics short."""
    return any(event.kind in _INTERRUPTED for event in events(health))


def restarted(gpu: GpuView, window: WindowView) -> bool:
    """Whether the window tells of a restart of the GPU, its driver or its host."""
    before = gpu.known.totals
    return (
        (before is not None and before.boot != window.boot)
        or window.host.get("driver_state") == DriverState.RELOADED
        or any(one.kind in _RESTARTS for one in (*events(gpu.health), *events(window.host)))
    )


def mib(count: int) -> int:
    """Bytes as whole MiB."""
    return count // (1024 * 1024)
