"""A simulated host as a function of its scenario and the time since it started. No clock, no I/O.

Everything is worked out afresh from the scenario at each call, so a poll missed, repeated or taken
at another moment changes nothing, and two runs of one scenario say the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_agent.fields import read_names
from assay_agent.telemetry import simulated_fields
from assay_agent.telemetry.models import MODELS, Model
from assay_agent.telemetry.reading import Depth, GpuReading, Sample
from assay_agent.telemetry.scenario import (
    DramRetirement,
    DriverHang,
    FallOffBus,
    Fault,
    GpuFault,
    Hidden,
    Load,
    Mig,
    NvlinkDown,
    PassedThrough,
    Poison,
    RecoveryAction,
    RemapFailed,
    RemapPending,
    Reset,
    Return,
    Scenario,
    Unavailable,
    Xid,
    at_s,
)
from assay_core.leaves import HOST, EventKind, Group, Reason, Tenancy

_XID_OFF_BUS: Final = 79
_XID_REMAPPED: Final = 63
_XID_REMAP_FAILED: Final = 64
_XID_NVLINK: Final = 74
_NAMES: Final = tuple(
    name
    for group in (Group.IDENTITY, Group.HEALTH, Group.USE, Group.CONDITION)
    for name in read_names(group)
    if name != "tenancy"
)
_TICK_NAMES: Final = ("temperature_mc", "power_mw", "energy_mj")
"""Enough, between windows, to say why a GPU cannot be read."""


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """One GPU of a scenario; who it is depends on the seed and its place alone."""

    place: int
    model: Model
    load: Load
    mig: int
    subject: bytes
    identity: Mapping[str, Sample]
    load_seed: int

    @property
    def serial(self) -> str:
        """The serial by which a loan may name it before it is seen."""
        return str(self.identity["serial"])


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Something that happens so long after the start, milliseconds."""

    after_ms: int
    subject: bytes
    kind: EventKind
    code: int = 0


@dataclass(frozen=True, slots=True)
class _Presence:
    """Since when it is up, when it was last reset (milliseconds after the start), and who has it."""

    since_ms: int
    reset_ms: int
    tenancy: Tenancy
    why: Reason | None


def gpus_of(scenario: Scenario) -> tuple[SimulatedGpu, ...]:
    """The host's GPUs, by place."""
    kinds = [
        (MODELS[fleet.profile], fleet.load, fleet.mig)
        for fleet in scenario.fleets
        for _ in range(fleet.count)
    ]
    return tuple(
        _gpu(scenario.seed, place, model, load, mig)
        for place, (model, load, mig) in enumerate(kinds)
    )


def occurrences_of(scenario: Scenario) -> tuple[Occurrence, ...]:
    """All that happens, in order of time."""
    subjects = [gpu.subject for gpu in gpus_of(scenario)]
    found: list[Occurrence] = []
    for fault in scenario.faults:
        if isinstance(fault, DriverHang):
            found.extend(
                _while(
                    fault.at_s,
                    fault.for_s,
                    HOST,
                    EventKind.DRIVER_UNRESPONSIVE,
                    EventKind.DRIVER_RECOVERED,
                )
            )
        else:
            found.extend(_occurrences(fault, subjects[fault.gpu]))
    return tuple(sorted(found, key=lambda occurrence: occurrence.after_ms))


def hangs(scenario: Scenario, after_ms: int) -> bool:
    """Whether the driver hangs so long after the start."""
    return any(
        fault.at_s * 1_000 <= after_ms < (fault.at_s + fault.for_s) * 1_000
        for fault in scenario.faults
        if isinstance(fault, DriverHang)
    )


def read(
    scenario: Scenario, gpu: SimulatedGpu, after_ms: int, depth: Depth = Depth.DAY
) -> GpuReading:
    """The GPU so long after the start; at DAY, every field."""
    faults = _begun(scenario, gpu, after_ms)
    there = _presence(faults, after_ms)
    if there.why is not None:
        names = _TICK_NAMES if depth is Depth.TICK else _NAMES
        values: dict[str, Sample] = dict.fromkeys(names, there.why)
        values["tenancy"] = int(there.tenancy)
        return GpuReading(gpu.subject, values)
    moment = simulated_fields.Moment(
        gpu.model,
        gpu.load,
        gpu.load_seed,
        gpu.place,
        gpu.mig,
        faults,
        there.since_ms,
        there.reset_ms,
        after_ms,
        _draw(scenario.seed, gpu.place, "power", after_ms // 1_000),
    )
    values = simulated_fields.tick(moment)
    if depth >= Depth.WINDOW:
        values |= simulated_fields.window(moment)
    if depth >= Depth.DAY:
        values |= simulated_fields.day(moment, gpu.identity)
    return GpuReading(gpu.subject, values)


def tenancy(scenario: Scenario, gpu: SimulatedGpu, after_ms: int) -> Tenancy:
    """Who has the GPU so long after the start, as the bus would show it."""
    return _presence(_begun(scenario, gpu, after_ms), after_ms).tenancy


def is_hidden(scenario: Scenario, gpu: SimulatedGpu, after_ms: int) -> bool:
    """Whether it is on the bus with the driver, which does not show it."""
    there = _presence(_begun(scenario, gpu, after_ms), after_ms)
    return there.why is Reason.GPU_LOST and there.tenancy is Tenancy.HOST


def _begun(scenario: Scenario, gpu: SimulatedGpu, after_ms: int) -> tuple[GpuFault, ...]:
    if not scenario.faults:
        return ()
    return tuple(
        fault
        for fault in sorted(scenario.faults, key=at_s)
        if not isinstance(fault, DriverHang)
        and fault.gpu == gpu.place
        and fault.at_s * 1_000 <= after_ms
    )


def _presence(faults: tuple[Fault, ...], after_ms: int) -> _Presence:
    since_ms = reset_ms = 0
    lost = False
    aside: tuple[Tenancy, Reason] | None = None
    for fault in faults:
        at_ms = fault.at_s * 1_000
        if isinstance(fault, FallOffBus):
            lost = True
        elif isinstance(fault, Return):
            since_ms, reset_ms, lost = at_ms, at_ms, False
        elif isinstance(fault, Reset):
            reset_ms = max(reset_ms, at_ms)
        elif isinstance(fault, Hidden | PassedThrough):
            end_ms = (fault.at_s + fault.for_s) * 1_000
            if after_ms >= end_ms:
                since_ms, reset_ms = max(since_ms, end_ms), max(reset_ms, end_ms)
            elif isinstance(fault, PassedThrough):
                aside = (Tenancy.PASSED_THROUGH, Reason.PASSED_THROUGH)
            else:
                aside = (Tenancy.HOST, Reason.GPU_LOST)
    if lost:
        return _Presence(since_ms, reset_ms, Tenancy.GONE, Reason.GPU_LOST)
    if aside is not None:
        return _Presence(since_ms, reset_ms, *aside)
    return _Presence(since_ms, reset_ms, Tenancy.HOST, None)


def _occurrences(fault: GpuFault, subject: bytes) -> list[Occurrence]:
    at_ms = fault.at_s * 1_000
    if isinstance(fault, Hidden):
        hidden = Occurrence(at_ms, subject, EventKind.GPU_HIDDEN)
        lost = _while(fault.at_s, fault.for_s, subject, EventKind.GPU_LOST, EventKind.GPU_RETURNED)
        return [hidden, *lost]
    if isinstance(fault, PassedThrough):
        end_ms = (fault.at_s + fault.for_s) * 1_000
        return [Occurrence(end_ms, subject, EventKind.GPU_RETURNED)]
    return [Occurrence(at_ms, subject, kind, code) for kind, code in _at_once(fault)]


def _at_once(fault: GpuFault) -> tuple[tuple[EventKind, int], ...]:
    """What a fault brings when it begins: kinds and codes."""
    match fault:
        case FallOffBus():
            return (EventKind.XID, _XID_OFF_BUS), (EventKind.GPU_LOST, 0)
        case Return():
            return ((EventKind.GPU_RETURNED, 0),)
        case Xid():
            return ((EventKind.XID, fault.code),)
        case RemapFailed():
            return ((EventKind.XID, _XID_REMAP_FAILED),)
        case RemapPending():
            return ((EventKind.XID, _XID_REMAPPED),)
        case NvlinkDown():
            return ((EventKind.XID, _XID_NVLINK),)
        case RecoveryAction():
            return ((EventKind.RECOVERY_ACTION, fault.action),)
        case Reset():
            return ((EventKind.GPU_RESET, 0),)
        case Poison():
            return ((EventKind.POISON, int(fault.fatal)),)
        case DramRetirement():
            return ((EventKind.DRAM_RETIREMENT, int(fault.failed)),)
        case Unavailable():
            return ((EventKind.UNAVAILABLE, 0),)
        case Mig():
            return ((EventKind.MIG_CHANGED, fault.instances),)
        case _:
            return ()


def _while(
    at_s: int, for_s: int, subject: bytes, begins: EventKind, ends: EventKind
) -> list[Occurrence]:
    return [
        Occurrence(at_s * 1_000, subject, begins),
        Occurrence((at_s + for_s) * 1_000, subject, ends),
    ]


def _gpu(seed: int, place: int, model: Model, load: Load, mig: int) -> SimulatedGpu:
    subject = _digest(seed, place, "uuid")[:16]
    identity = simulated_fields.constant(model, place) | {
        "serial": f"SIM{_draw(seed, place, 'serial') % 10**10:010d}",
        "pdi": _draw(seed, place, "pdi") % (2**64 - 2) + 1,
    }
    return SimulatedGpu(
        place,
        model,
        load,
        mig,
        subject,
        MappingProxyType(identity),
        _draw(seed, place, "load"),
    )


def _digest(seed: int, place: int, what: str, moment: int = 0) -> bytes:
    return hashlib.sha256(f"assay simulation {seed} {place} {what} {moment}".encode()).digest()


def _draw(seed: int, place: int, what: str, moment: int = 0) -> int:
    """64 bits, the same for the same arguments everywhere."""
    return int.from_bytes(_digest(seed, place, what, moment)[:8], "big")
