"""From a window's contents to what they say of one GPU's health, in the words of the rules."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from assay_core.health.rules import (
    FABRIC_CONFIGURATION_SHIFT,
    FABRIC_FLAGS,
    FABRIC_PROBED,
    FABRIC_UNHEALTHY,
    NVLINK_MODELS,
    ROWS_UNCORRECTED_MAX,
)
from assay_core.health.values import whole
from assay_core.leaves import (
    Content,
    DriverState,
    Event,
    EventKind,
    IncidentKind,
    Reason,
    Tenancy,
    Value,
)
from assay_core.pci import pci_address

WELL: Final = -1
"""What a condition shows where all is well; else it shows the code the incident has."""
_RESTARTS: Final = (EventKind.DRIVER_RELOADED, EventKind.GPU_RESET)


class Total(enum.IntEnum):
    """The counters that rates are taken from."""

    NVLINK_REPLAYS = 1
    NVLINK_CRC = 2
    NVLINK_FAILED = 3
    PCIE_REPLAYS = 4
    PCIE_FATAL = 5
    SLOWDOWN_THERMAL = 6
    SLOWDOWN_SOFTWARE = 7
    SLOWDOWN_HARDWARE = 8
    POWER_BRAKE = 9


OF_CONDITION: Final = frozenset(
    {
        IncidentKind.UNREPAIRABLE_MEMORY,
        IncidentKind.SRAM_THRESHOLD,
        IncidentKind.REPAIR_PENDING,
        IncidentKind.PAGES_EXHAUSTED,
        IncidentKind.INFOROM_CORRUPTED,
        IncidentKind.NVLINK_DOWN,
        IncidentKind.BANKS_EXHAUSTED,
        IncidentKind.SMOOTHING_WORN,
        IncidentKind.FABRIC,
    }
)
"""Conditions that the condition leaf shows: where it did not travel, they are as they were."""


@dataclass(frozen=True, slots=True)
class Links:
    """The NVLinks at the last look: how many, how many active, and their MB/s where it is known."""

    count: int
    active: int
    speeds_mbps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """What an identity leaf says that the rules need. None: it does not say."""

    address: str | None
    lanes_max: int | None
    links: int | None
    link_mbps: int


@dataclass(frozen=True, slots=True)
class Observation:
    """What one window says of one GPU. Times are the host's, UTC ms.

    `seen`: a poll reached it. `lost`: by its host, gone at the window's end. `passed`: a virtual
    machine has it. `works`: the driver showed what there is. `restarts`: when GPU or driver came
    up anew. `levels`: the conditions that had a value, WELL or the incident's code. `totals`: the
    counters that had one. `condition_read`: there was a condition leaf. `hidden`: addresses on the
    bus that the driver does not show, `phantom`: those it shows that are not on the bus, None if
    nobody looked.
    """

    at_ms: int
    boot_id: bytes
    order: int | None = None
    seen: bool = False
    lost: bool = False
    passed: bool = False
    works: bool = False
    restarts: tuple[int, ...] = ()
    events: tuple[Event, ...] = ()
    levels: Mapping[IncidentKind, int] = field(default_factory=dict)
    totals: Mapping[Total, int] = field(default_factory=dict)
    condition_read: bool = False
    links: Links | None = None
    pages_retired: int | None = None
    pages_double_bit: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    hidden: tuple[str, ...] | None = None
    phantom: tuple[str, ...] | None = None
    told: Told | None = None


def observe(
    host: Content | None,
    health: Content | None,
    condition: Content | None,
    *,
    at_ms: int,
    boot_id: bytes,
    identity: Content | None = None,
    order: int | None = None,
    subject: bytes | None = None,
    behind_ms: int = 0,
) -> Observation:
    """What a window that ended at `at_ms` says of one GPU.

    `host` is the host's leaf, the others the GPU's; None where the window has none. `order` is the
    window's place in its chain or ledger: with it, a window that was followed already is refused.
    `subject` names the GPU where it has no leaf at all. `behind_ms` is how far the host's clock, by
    which its events are dated, is behind the one of `at_ms`.
    """
    driver = _driver(host)
    works = driver is not None and driver.answers
    events = tuple(_clamped(health, at_ms, behind_ms))
    polls = whole(health, "polls") or 0
    passed = whole(health, "tenancy") == Tenancy.PASSED_THROUGH or (
        polls == 0 and _says(health, Reason.PASSED_THROUGH)
    )
    subject = next((leaf.subject for leaf in (health, condition, identity) if leaf), subject)
    lost = not passed and (
        _lost_at_end(events)
        or (works and subject in _tuple(host, "missing_gpus"))
        or (works and polls == 0 and _says(health, Reason.GPU_LOST))
    )
    return Observation(
        at_ms=at_ms,
        boot_id=boot_id,
        order=order,
        seen=polls > 0,
        lost=lost,
        passed=passed,
        works=works or (driver is None and polls > 0),
        restarts=_restarts(events, tuple(_clamped(host, at_ms, behind_ms)), driver, at_ms),
        events=events,
        levels=_levels(health, condition),
        totals=_totals(health, condition),
        condition_read=condition is not None,
        links=_links(condition),
        pages_retired=_pages_retired(condition),
        pages_double_bit=whole(condition, "retired_pages_double_bit"),
        pcie_generation=whole(health, "pcie_generation"),
        pcie_width=whole(health, "pcie_width"),
        hidden=_places(host, "hidden_gpus"),
        phantom=_places(host, "phantom_gpus"),
        told=_told(identity),
    )


_DRIVER_STATES: Final = frozenset(DriverState)


def _driver(host: Content | None) -> DriverState | None:
    state = whole(host, "driver_state")
    return DriverState(state) if state in _DRIVER_STATES else None


def _clamped(leaf: Content | None, at_ms: int, behind_ms: int) -> Iterator[Event]:
    """Events at times that can be: the host's word for when, by our clock, but not after it was
    heard, and what happened once happened at one time.
    """
    for event in _tuple(leaf, "events"):
        if isinstance(event, Event):
            last_ms = max(0, min(event.last_ms + behind_ms, at_ms))
            first_ms = last_ms
            if event.count > 1:
                first_ms = max(0, min(event.first_ms + behind_ms, last_ms))
            yield replace(event, first_ms=first_ms, last_ms=last_ms, count=max(1, event.count))


def _lost_at_end(events: tuple[Event, ...]) -> bool:
    """Whether the last the window heard of the GPU was its loss."""
    lost = max((one.last_ms for one in events if one.kind is EventKind.GPU_LOST), default=None)
    back = max((one.last_ms for one in events if one.kind is EventKind.GPU_RETURNED), default=None)
    return lost is not None and (back is None or back < lost)


def _restarts(
    events: tuple[Event, ...], of_host: tuple[Event, ...], driver: DriverState | None, at_ms: int
) -> tuple[int, ...]:
    times: set[int] = set()
    for event in (*events, *of_host):
        if event.kind in _RESTARTS:
            times |= {event.first_ms, event.last_ms}
    if not times and driver is DriverState.RELOADED:
        times = {at_ms}
    return tuple(sorted(times))


def _levels(health: Content | None, condition: Content | None) -> dict[IncidentKind, int]:
    """The conditions that have a value, of the leaves that are there."""
    shown: dict[IncidentKind, int | None] = {}
    if health is not None:
        rows = whole(health, "remapped_rows_uncorrected")
        action = whole(health, "recovery_action")
        shown = {
            IncidentKind.REMAP_FAILED: _flag(whole(health, "remap_failed")),
            IncidentKind.REMAP_PENDING: _flag(whole(health, "remap_pending")),
            IncidentKind.RECOVERY_ACTION: None if action is None else (action or WELL),
            IncidentKind.ROWS_EXHAUSTED: None
            if rows is None
            else (0 if rows >= ROWS_UNCORRECTED_MAX else WELL),
        }
    if condition is not None:
        shown |= _levels_of_condition(condition)
    return {kind: code for kind, code in shown.items() if code is not None}


_PENDING: Final = ("repair_channel_pending", "repair_tpc_pending", "retired_pages_pending")


def _levels_of_condition(condition: Content) -> dict[IncidentKind, int | None]:
    repairs = [one for name in _PENDING if (one := whole(condition, name)) is not None]
    valid = whole(condition, "inforom_valid")
    life_pct = whole(condition, "power_smoothing_lifetime_pct")
    return {
        IncidentKind.UNREPAIRABLE_MEMORY: _flag(whole(condition, "unrepairable_memory")),
        IncidentKind.SRAM_THRESHOLD: _flag(whole(condition, "ecc_sram_threshold_exceeded")),
        IncidentKind.REPAIR_PENDING: _flag(max(repairs, default=None)),
        IncidentKind.INFOROM_CORRUPTED: _flag(None if valid is None else valid == 0),
        IncidentKind.BANKS_EXHAUSTED: _flag(whole(condition, "remap_banks_none")),
        IncidentKind.SMOOTHING_WORN: _flag(None if life_pct is None else life_pct == 0),
        IncidentKind.FABRIC: _fabric(condition),
    }


def _flag(value: int | None) -> int | None:
    return None if value is None else (0 if value else WELL)


def _fabric(condition: Content | None) -> int | None:
    """By summary, mask and the status of a probe that is over; 0 and "not supported" say nothing."""
    summary = whole(condition, "fabric_health_summary")
    mask = whole(condition, "fabric_health_mask")
    status = whole(condition, "fabric_status")
    wrong = summary in FABRIC_UNHEALTHY
    if mask is not None:
        wrong |= any(mask >> shift & 3 == 1 for shift, _ in FABRIC_FLAGS)
        wrong |= mask >> FABRIC_CONFIGURATION_SHIFT & 15 >= 2
    probed = whole(condition, "fabric_state") == FABRIC_PROBED
    wrong |= probed and bool(status)
    return 0 if wrong else (WELL if summary or mask or probed else None)


_TOTAL_MAX: Final = 2**64 - 1
_COUNTED_IN_HEALTH: Final = (
    (Total.PCIE_REPLAYS, "pcie_replays"),
    (Total.SLOWDOWN_THERMAL, "slowdown_thermal_ns"),
    (Total.SLOWDOWN_SOFTWARE, "slowdown_software_thermal_ns"),
    (Total.SLOWDOWN_HARDWARE, "slowdown_hardware_thermal_ns"),
    (Total.POWER_BRAKE, "slowdown_power_brake_ns"),
)
_COUNTED_IN_CONDITION: Final = (
    (Total.NVLINK_REPLAYS, ("nvlink_replay_errors", "nvlink_recovery_errors")),
    (Total.NVLINK_CRC, ("nvlink_crc_errors",)),
    (Total.NVLINK_FAILED, ("nvlink5_recoveries_failed",)),
    (Total.PCIE_FATAL, ("pcie_fatal_errors",)),
)
TOTALS_OF_CONDITION: Final = frozenset(total for total, _ in _COUNTED_IN_CONDITION)
"""Counters that the condition leaf carries: where it did not travel, they did not move."""


def _totals(health: Content | None, condition: Content | None) -> dict[Total, int]:
    """The counters that have a value, of the leaves that are there."""
    totals: dict[Total, int] = {}
    if health is not None:
        for total, name in _COUNTED_IN_HEALTH:
            value = whole(health, name)
            if value is not None:
                totals[total] = value
    if condition is not None:
        for total, names in _COUNTED_IN_CONDITION:
            known = [value for name in names if (value := _sum(condition, name)) is not None]
            if known:
                totals[total] = min(sum(known), _TOTAL_MAX)
    return totals


def _links(condition: Content | None) -> Links | None:
    """None where nothing is known, and on a GPU that is cut up: instances have no NVLinks."""
    states = _numbers(condition, "nvlink_states")
    if not states or whole(condition, "mig_mode") == 1:
        return None
    speeds = _numbers(condition, "nvlink_speeds_mbps") or ()
    active = [link for link, state in enumerate(states) if state == 1]
    return Links(
        len(states), len(active), tuple(speeds[link] for link in active if link < len(speeds))
    )


def _pages_retired(condition: Content | None) -> int | None:
    single = whole(condition, "retired_pages_single_bit")
    double = whole(condition, "retired_pages_double_bit")
    return None if single is None and double is None else (single or 0) + (double or 0)


def _places(host: Content | None, name: str) -> tuple[str, ...] | None:
    value = None if host is None else host.values.get(name)
    if not isinstance(value, tuple):
        return None
    places = (pci_address(one) for one in value if isinstance(one, str))
    return tuple(one for one in places if one is not None)


def _told(identity: Content | None) -> Told | None:
    if identity is None:
        return None
    address = identity.values.get("pci_bus_id")
    name = identity.values.get("name")
    links, link_mbps = None, 0
    if isinstance(name, str):
        links, link_mbps = next(
            (
                (count, mbps)
                for inside, outside, count, mbps in NVLINK_MODELS
                if inside in name and not (outside and outside in name)
            ),
            (0, 0),
        )
    return Told(
        pci_address(address) if isinstance(address, str) else None,
        whole(identity, "pcie_width_max"),
        links,
        link_mbps,
    )


# ------------------------------------------------------------------- reading a leaf, absence kept


def _value(leaf: Content | None, name: str) -> Value | None:
    return None if leaf is None else leaf.values.get(name)


def _numbers(leaf: Content | None, name: str) -> tuple[int, ...] | None:
    value = _value(leaf, name)
    if not isinstance(value, tuple):
        return None
    return tuple(one for one in value if isinstance(one, int))


def _sum(leaf: Content | None, name: str) -> int | None:
    numbers = _numbers(leaf, name)
    return whole(leaf, name) if numbers is None else (sum(numbers) if numbers else None)


def _tuple(leaf: Content | None, name: str) -> tuple[object, ...]:
    value = _value(leaf, name)
    return value if isinstance(value, tuple) else ()


def _says(leaf: Content | None, reason: Reason) -> bool:
    return leaf is not None and any(value is reason for value in leaf.values.values())
