"""From a stored window to what it says of each GPU, in standing's words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from assay_core import codec
from assay_core.header import Source
from assay_core.leaves import Content, Counter, DriverState, Event, EventKind, Gauge, Group, Reason
from assay_valuer.ledger.read import StoredWindow
from assay_valuer.standing.types import Sight

_WANTED: Final = {
    Group.HOST: ("driver_state", "maintenance_until_ms", "missing_gpus", "events"),
    Group.IDENTITY: ("name", "serial", "board_part_number", "pdi"),
    Group.HEALTH: (
        "polls",
        "temperature_mc",
        "ecc_uncorrected_aggregate",
        "remapped_rows_uncorrected",
        "remap_pending",
        "remap_failed",
        "recovery_action",
        "events",
    ),
}
"""The fields that standing needs; usage is not among them."""
_LENGTHS: Final = {"name": 128, "serial": 64, "board_part_number": 64}
"""Characters that an identifier may have, as in the store. What is longer, or steers a terminal
rather than print, no board carries: there is none then."""
_LATEST_MS: Final = 2**45 - 1
"""The last instant that a host may name, as in a header: what is shown must be a date."""


@dataclass(frozen=True, slots=True)
class Identified:
    """The identifiers in an identity leaf; None where the host could not read one."""

    name: str | None
    serial: str | None
    board_part_number: str | None
    pdi: int | None


@dataclass(slots=True)
class _Gpu:
    identity: Identified | None = None
    health: Content | None = None


@dataclass(frozen=True, slots=True)
class WindowSights:
    """One window: its GPUs by NVML UUID, and what holds for GPUs of the host it does not name."""

    host_key: int
    position: int
    hash: bytes
    simulated: bool
    gpus: dict[bytes, tuple[Identified | None, Sight]] = field(default_factory=dict)
    unnamed: Sight | None = None
    missing: frozenset[bytes] = frozenset()

    def of_unnamed(self, uuid: bytes | None) -> Sight | None:
        """What the window says of a GPU of its host that has no leaf in it."""
        if self.unnamed is None or uuid not in self.missing:
            return self.unnamed
        return _lost(self.unnamed)


def sights(window: StoredWindow) -> WindowSights:
    """What the window says, GPU by GPU."""
    gpus: dict[bytes, _Gpu] = {}
    host: Content | None = None
    for content in codec.pick(window.sealed.leaves, _WANTED):
        if content.group is Group.HOST:
            host = content
        elif content.group is Group.IDENTITY:
            gpus.setdefault(content.subject, _Gpu()).identity = _identity(content)
        elif content.group is Group.HEALTH:
            gpus.setdefault(content.subject, _Gpu()).health = content
    around = _around(window, host)
    missing = _missing(host)
    return WindowSights(
        host_key=window.host_key,
        position=window.position,
        hash=window.hash,
        simulated=window.header.source is not Source.NVML,
        gpus={
            uuid: (gpu.identity, _sight(around, gpu.health, lost=uuid in missing))
            for uuid, gpu in gpus.items()
        },
        unnamed=around,
        missing=missing,
    )


def _around(window: StoredWindow, host: Content | None) -> Sight:
    """What holds for every GPU of the host: unseen, until its health leaf says otherwise."""
    state = DriverState.RUNNING
    until_ms: int | None = None
    reset = False
    if host is not None:
        state = DriverState(_integer(host, "driver_state") or DriverState.RUNNING)
        announced = _integer(host, "maintenance_until_ms")
        if state is DriverState.PAUSED and announced is not None:
            until_ms = _between(0, announced, _LATEST_MS)
        reset = state is DriverState.RELOADED or any(
            event.kind is EventKind.DRIVER_RELOADED for event in host.events()
        )
    return Sight(
        observed_ms=_between(0, window.observed_ms, _LATEST_MS),
        position=window.position,
        boot_id=window.header.boot_id.hex(),
        driver=state,
        seen=False,
        lost=False,
        reset=reset,
        maintenance_until_ms=until_ms,
    )


def _sight(around: Sight, health: Content | None, *, lost: bool) -> Sight:
    if health is None:
        return _lost(around) if lost else around
    events = health.events()
    polls = _integer(health, "polls") or 0
    rows = _counter(health, "remapped_rows_uncorrected")
    errors = _counter(health, "ecc_uncorrected_aggregate")
    temperature = health.values["temperature_mc"]
    return Sight(
        observed_ms=around.observed_ms,
        position=around.position,
        boot_id=around.boot_id,
        driver=around.driver,
        seen=polls > 0,
        lost=lost or _lost_at_end(events),
        reset=around.reset,
        maintenance_until_ms=around.maintenance_until_ms,
        events=tuple(_told_by(event, around.observed_ms) for event in events),
        remap_failed=_integer(health, "remap_failed"),
        remap_pending=_integer(health, "remap_pending"),
        recovery_action=_integer(health, "recovery_action"),
        rows_uncorrected=rows.total if rows else None,
        temperature_mc=temperature.max if isinstance(temperature, Gauge) else None,
        ecc_uncorrected=errors.total if errors else None,
    )


def _lost(around: Sight) -> Sight:
    return Sight(
        observed_ms=around.observed_ms,
        position=around.position,
        boot_id=around.boot_id,
        driver=around.driver,
        seen=False,
        lost=True,
        reset=around.reset,
        maintenance_until_ms=around.maintenance_until_ms,
    )


def _told_by(event: Event, at_ms: int) -> Event:
    """The event at times that can be: the host's word for when, but not after it was heard."""
    return replace(
        event,
        first_ms=_between(0, event.first_ms, at_ms),
        last_ms=_between(0, event.last_ms, at_ms),
    )


def _between(least: int, number: int, most: int) -> int:
    return max(least, min(number, most))


def _lost_at_end(events: tuple[Event, ...]) -> bool:
    """Whether the last the window heard of the GPU was its loss."""
    lost = max((one.last_ms for one in events if one.kind is EventKind.GPU_LOST), default=None)
    back = max((one.last_ms for one in events if one.kind is EventKind.GPU_RETURNED), default=None)
    return lost is not None and (back is None or back < lost)


def _missing(host: Content | None) -> frozenset[bytes]:
    if host is None:
        return frozenset()
    gone = host.values["missing_gpus"]
    return (
        frozenset(one for one in gone if isinstance(one, bytes))
        if isinstance(gone, tuple)
        else frozenset()
    )


def _identity(content: Content) -> Identified:
    def text(name: str) -> str | None:
        value = content.text(name)
        told = value.strip() if isinstance(value, str) else ""
        return told if 0 < len(told) <= _LENGTHS[name] and told.isprintable() else None

    return Identified(
        text("name"), text("serial"), text("board_part_number"), _integer(content, "pdi")
    )


def _integer(content: Content, name: str) -> int | None:
    value = content.values[name]
    return None if isinstance(value, Reason) or not isinstance(value, int) else value


def _counter(content: Content, name: str) -> Counter | None:
    value = content.values[name]
    return value if isinstance(value, Counter) else None
