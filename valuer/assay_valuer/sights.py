"""From a stored window to what it says of each GPU, in standing's words."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from assay_core import codec
from assay_core.header import Period, Source
from assay_core.health import Observation, observe
from assay_core.health.plausibility import NEEDED
from assay_core.health.values import counter, gauge, number
from assay_core.leaves import (
    Content,
    DriverState,
    EventKind,
    Group,
    Incident,
)
from assay_valuer.ledger.read import StoredWindow
from assay_valuer.standing.types import NO_LEAVES, Leaves, Sight

_STANDING: Final = {
    Group.HOST: (
        "driver_state",
        "maintenance_until_ms",
        "missing_gpus",
        "events",
        "hidden_gpus",
        "phantom_gpus",
    ),
    Group.IDENTITY: (
        "name",
        "serial",
        "board_part_number",
        "pdi",
        "pci_bus_id",
        "pcie_width_max",
    ),
    Group.HEALTH: (
        "polls",
        "temperature_mc",
        "ecc_corrected_aggregate",
        "ecc_uncorrected_aggregate",
        "remapped_rows_corrected",
        "remapped_rows_uncorrected",
        "remap_pending",
        "remap_failed",
        "recovery_action",
        "events",
        "slowdown_thermal_ns",
        "slowdown_software_thermal_ns",
        "slowdown_hardware_thermal_ns",
        "slowdown_power_brake_ns",
        "pcie_replays",
        "pcie_generation",
        "pcie_width",
        "tenancy",
        "incidents",
    ),
    Group.USE: ("energy_mj", "energy_lifetime_mj"),
    Group.CONDITION: tuple(codec.fields_of(Group.CONDITION)),
    Group.PLATFORM: (),
}
WANTED: Final = {
    group: tuple(dict.fromkeys((*names, *NEEDED[group]))) for group, names in _STANDING.items()
}
"""The fields that standing, plausibility and reconciliation need. Of usage: what is held against
what; a condition travels seldom, and is taken whole."""
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


@dataclass(frozen=True, slots=True)
class Told:
    """A window as it was told: the boot by its name in JSON, the period, and the leaves picked."""

    boot: str
    period: Period
    contents: tuple[Content, ...]


@dataclass(frozen=True)
class WindowSights:
    """One window: its GPUs by NVML UUID, and what holds for GPUs of the host it does not name."""

    host_key: int
    position: int
    hash: bytes
    simulated: bool
    gpus: dict[bytes, tuple[Identified | None, Sight]] = field(default_factory=dict)
    unnamed: Sight | None = None
    host: Content | None = None
    told: Told | None = None

    @cached_property
    def missing(self) -> frozenset[bytes]:
        """GPUs that the host says it had and has not."""
        gone = None if self.host is None else self.host.values["missing_gpus"]
        return (
            frozenset(one for one in gone if isinstance(one, bytes))
            if isinstance(gone, tuple)
            else frozenset()
        )

    def of_unnamed(self, uuid: bytes | None) -> Sight | None:
        """What the window says of a GPU of its host that has no leaf in it."""
        if self.unnamed is None or uuid not in self.missing:
            return self.unnamed
        lost = _observed(self.unnamed, self.host, NO_LEAVES, uuid)
        return replace(self.unnamed, health=lost)


def sights(window: StoredWindow) -> WindowSights:
    """What the window says, GPU by GPU."""
    host: Content | None = None
    leaves: dict[bytes, dict[str, Content]] = {}
    contents = codec.pick(window.sealed.leaves, WANTED)
    for content in contents:
        if content.group is Group.HOST:
            host = content
        elif content.group is not Group.PLATFORM:
            leaves.setdefault(content.subject, {})[content.group.value] = content
    platform = any(content.group is Group.PLATFORM for content in contents)
    around = replace(_around(window, host), platform=platform)
    return WindowSights(
        host_key=window.host_key,
        position=window.position,
        hash=window.hash,
        simulated=window.header.source is not Source.NVML,
        gpus={uuid: _gpu(around, host, uuid, Leaves(**found)) for uuid, found in leaves.items()},
        unnamed=around,
        host=host,
        told=Told(around.boot, around.period, tuple(contents)),
    )


def _around(window: StoredWindow, host: Content | None) -> Sight:
    """What holds for every GPU of the host: unseen, until its health leaf says otherwise."""
    state = DriverState.RUNNING
    until_ms: int | None = None
    reset = False
    if host is not None:
        state = DriverState(number(host.values, "driver_state") or DriverState.RUNNING)
        announced = number(host.values, "maintenance_until_ms")
        if state is DriverState.PAUSED and announced is not None:
            until_ms = _between(0, announced, _LATEST_MS)
        reset = state is DriverState.RELOADED or any(
            event.kind is EventKind.DRIVER_RELOADED for event in host.events()
        )
    observed_ms = _between(0, window.observed_ms, _LATEST_MS)
    boot_id = window.header.boot_id
    # Only a challenge shows that it was later than the host's clock says.
    behind_ms = max(0, observed_ms - window.header.period.end_utc_ms)
    return Sight(
        observed_ms=observed_ms,
        position=window.position,
        driver=state,
        period=window.header.period,
        health=observe(
            host,
            None,
            None,
            at_ms=observed_ms,
            boot_id=boot_id,
            order=window.position,
            behind_ms=behind_ms,
        ),
        behind_ms=behind_ms,
        reset=reset,
        maintenance_until_ms=until_ms,
    )


def _observed(
    around: Sight, host: Content | None, leaves: Leaves, uuid: bytes | None
) -> Observation:
    return observe(
        host,
        leaves.health,
        leaves.condition,
        at_ms=around.observed_ms,
        boot_id=around.health.boot_id,
        identity=leaves.identity,
        order=around.position,
        subject=uuid,
        behind_ms=around.behind_ms,
    )


def _gpu(
    around: Sight, host: Content | None, uuid: bytes, leaves: Leaves
) -> tuple[Identified | None, Sight]:
    health = leaves.health
    identity = None if leaves.identity is None else _identity(leaves.identity)
    if health is None:
        seen = replace(around, health=_observed(around, host, leaves, uuid), leaves=leaves)
        return identity, seen
    errors = counter(health.values, "ecc_uncorrected_aggregate")
    temperature = gauge(health.values, "temperature_mc")
    return identity, Sight(
        observed_ms=around.observed_ms,
        position=around.position,
        driver=around.driver,
        period=around.period,
        health=_observed(around, host, leaves, uuid),
        reset=around.reset,
        maintenance_until_ms=around.maintenance_until_ms,
        recovery_action=number(health.values, "recovery_action"),
        temperature_mc=temperature.max if temperature else None,
        ecc_uncorrected=errors.total if errors else None,
        leaves=leaves,
        platform=around.platform,
        behind_ms=around.behind_ms,
        told=tuple(_dated(one, around.behind_ms) for one in health.incidents()),
    )


def _dated(incident: Incident, behind_ms: int) -> Incident:
    """The incident by our clock."""
    if not behind_ms:
        return incident
    end_ms = None if incident.end_ms is None else incident.end_ms + behind_ms
    begin_ms, last_ms = incident.begin_ms + behind_ms, incident.last_ms + behind_ms
    return replace(incident, begin_ms=begin_ms, last_ms=last_ms, end_ms=end_ms)


def _between(least: int, number: int, most: int) -> int:
    return max(least, min(number, most))


def _identity(content: Content) -> Identified:
    def text(name: str) -> str | None:
        value = content.text(name)
        told = value.strip() if isinstance(value, str) else ""
        return told if 0 < len(told) <= _LENGTHS[name] and told.isprintable() else None

    return Identified(
        text("name"), text("serial"), text("board_part_number"), number(content.values, "pdi")
    )
