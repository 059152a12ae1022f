"""A simulated host as a function of its scenario and the time since it started. No clock, no I/O.

Everything is worked out afresh from the scenario at each call, so a poll missed, repeated or taken
at another moment changes nothing, and two runs of one scenario say the same.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.fields import FIELDS
from assay_agent.telemetry.models import MIB, MODELS, Model
from assay_agent.telemetry.reading import GpuReading, Sample
from assay_agent.telemetry.scenario import (
    DriverHang,
    Ecc,
    FallOffBus,
    Fault,
    Load,
    RemapFailed,
    Return,
    Scenario,
    Thermal,
    Xid,
    at_s,
)
from assay_core.leaves import HOST, EventKind, Reason

_IDLE_REASON: Final = 0x1  # nvmlClocksEventReasonGpuIdle
_THERMAL_REASONS: Final = 0x60  # software and hardware thermal slowdown
_XID_OFF_BUS: Final = 79
_XID_REMAP_FAILED: Final = 64
_PERIODS_S: Final = MappingProxyType({"diurnal": 86_400, "burst": 300, "training": 600})
_DUTIES_PCT: Final = MappingProxyType({"burst": 50, "training": 95})
_JITTER_BPS: Final = 100


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """One GPU of a scenario; who it is depends on the seed and its place alone."""

    place: int
    model: Model
    load: Load
    subject: bytes
    identity: Mapping[str, Sample]

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


def gpus_of(scenario: Scenario) -> tuple[SimulatedGpu, ...]:
    """The host's GPUs, by place."""
    kinds = [
        (MODELS[fleet.profile], fleet.load) for fleet in scenario.fleets for _ in range(fleet.count)
    ]
    return tuple(
        _gpu(scenario.seed, place, model, load) for place, (model, load) in enumerate(kinds)
    )


def occurrences_of(scenario: Scenario) -> tuple[Occurrence, ...]:
    """All that happens, in order of time."""
    subjects = [gpu.subject for gpu in gpus_of(scenario)]
    found: list[Occurrence] = []
    for fault in scenario.faults:
        at_ms = fault.at_s * 1_000
        if isinstance(fault, DriverHang):
            found.append(Occurrence(at_ms, HOST, EventKind.DRIVER_UNRESPONSIVE))
            end_ms = at_ms + fault.for_s * 1_000
            found.append(Occurrence(end_ms, HOST, EventKind.DRIVER_RECOVERED))
            continue
        subject = subjects[fault.gpu]
        if isinstance(fault, FallOffBus):
            found.append(Occurrence(at_ms, subject, EventKind.XID, _XID_OFF_BUS))
            found.append(Occurrence(at_ms, subject, EventKind.GPU_LOST))
        elif isinstance(fault, Return):
            found.append(Occurrence(at_ms, subject, EventKind.GPU_RETURNED))
        elif isinstance(fault, Xid):
            found.append(Occurrence(at_ms, subject, EventKind.XID, fault.code))
        elif isinstance(fault, RemapFailed):
            found.append(Occurrence(at_ms, subject, EventKind.XID, _XID_REMAP_FAILED))
    return tuple(sorted(found, key=lambda occurrence: occurrence.after_ms))


def hangs(scenario: Scenario, after_ms: int) -> bool:
    """Whether the driver hangs so long after the start."""
    return any(
        fault.at_s * 1_000 <= after_ms < (fault.at_s + fault.for_s) * 1_000
        for fault in scenario.faults
        if isinstance(fault, DriverHang)
    )


def read(scenario: Scenario, gpu: SimulatedGpu, after_ms: int) -> GpuReading:
    """The GPU so long after the start."""
    faults = tuple(
        fault
        for fault in sorted(scenario.faults, key=at_s)
        if not isinstance(fault, DriverHang)
        and fault.gpu == gpu.place
        and fault.at_s * 1_000 <= after_ms
    )
    since_ms, lost = _presence(faults)
    if lost:
        return GpuReading(gpu.subject, dict.fromkeys(FIELDS, Reason.GPU_LOST))
    return GpuReading(
        gpu.subject,
        dict(gpu.identity)
        | _health(gpu, faults, since_ms, after_ms)
        | _use(scenario.seed, gpu, faults, since_ms, after_ms),
    )


def _presence(faults: tuple[Fault, ...]) -> tuple[int, bool]:
    """When the GPU last came up, milliseconds after the start, and whether it is lost now."""
    since_ms, lost = 0, False
    for fault in faults:
        if isinstance(fault, FallOffBus):
            lost = True
        elif isinstance(fault, Return):
            since_ms, lost = fault.at_s * 1_000, False
    return since_ms, lost


def _health(
    gpu: SimulatedGpu, faults: tuple[Fault, ...], since_ms: int, after_ms: int
) -> dict[str, Sample]:
    ecc = [fault for fault in faults if isinstance(fault, Ecc)]
    volatile = [fault for fault in ecc if fault.at_s * 1_000 >= since_ms]
    failed = sum(isinstance(fault, RemapFailed) for fault in faults)
    hot = _thermal(faults, after_ms)
    share = _share(gpu.load, after_ms)
    idle, loaded = gpu.model.idle, gpu.model.loaded
    memory_mc: Sample = Reason.NOT_SUPPORTED
    if idle.memory_temperature_c is not None and loaded.memory_temperature_c is not None:
        memory_mc = _between(
            idle.memory_temperature_c * 1_000, loaded.memory_temperature_c * 1_000, share
        )
    return {
        "temperature_mc": hot * 1_000
        if hot is not None
        else _between(idle.temperature_c * 1_000, loaded.temperature_c * 1_000, share),
        "memory_temperature_mc": memory_mc,
        "ecc_enabled": 1,
        "ecc_corrected_volatile": sum(fault.corrected for fault in volatile),
        "ecc_uncorrected_volatile": sum(fault.uncorrected for fault in volatile),
        "ecc_corrected_aggregate": sum(fault.corrected for fault in ecc),
        "ecc_uncorrected_aggregate": sum(fault.uncorrected for fault in ecc),
        "remapped_rows_corrected": 0,
        "remapped_rows_uncorrected": failed,
        "remap_pending": 0,
        "remap_failed": min(failed, 1),
        "recovery_action": 0,
    }


def _use(
    seed: int, gpu: SimulatedGpu, faults: tuple[Fault, ...], since_ms: int, after_ms: int
) -> dict[str, Sample]:
    share = _share(gpu.load, after_ms)
    model, idle, loaded = gpu.model, gpu.model.idle, gpu.model.loaded
    busy_s = _busy_s(gpu.load, after_ms) - _busy_s(gpu.load, since_ms)
    energy_mj = idle.power_mw * (after_ms - since_ms) / 1_000
    energy_mj += (loaded.power_mw - idle.power_mw) * busy_s
    power_mw = _between(idle.power_mw, loaded.power_mw, share)
    jitter_bps = _draw(seed, gpu.place, "power", after_ms // 1_000) % (2 * _JITTER_BPS + 1)
    power_mw += power_mw * (jitter_bps - _JITTER_BPS) // 10_000
    sm_clock_mhz = loaded.sm_clock_mhz if share > 0 else idle.sm_clock_mhz
    reasons = 0 if share > 0 else _IDLE_REASON
    if _thermal(faults, after_ms) is not None:
        sm_clock_mhz //= 2
        reasons |= _THERMAL_REASONS
    return {
        "gpu_utilisation_bps": _between(0, 100, share) * 100,
        "memory_utilisation_bps": _between(0, loaded.memory_utilisation_pct, share) * 100,
        "memory_used_bytes": _between(0, loaded.memory_used_mib, share) * MIB,
        "power_mw": min(power_mw, model.power_limit_mw),
        "power_limit_mw": model.power_limit_mw,
        "energy_mj": round(energy_mj),
        "sm_clock_mhz": sm_clock_mhz,
        "memory_clock_mhz": loaded.memory_clock_mhz if share > 0 else idle.memory_clock_mhz,
        "clocks_event_reasons": reasons,
        "performance_state": 0 if share > 0 or idle.memory_clock_mhz > 1_000 else 8,
    }


def _thermal(faults: tuple[Fault, ...], after_ms: int) -> int | None:
    """How hot a thermal fault makes it now, degrees Celsius."""
    hot = [
        fault.celsius
        for fault in faults
        if isinstance(fault, Thermal) and after_ms < (fault.at_s + fault.for_s) * 1_000
    ]
    return max(hot, default=None)


def _share(load: Load, after_ms: int) -> float:
    """The share of full load now, 0 to 1."""
    level = load.level_pct / 100
    if load.shape in ("idle", "steady"):
        return level if load.shape == "steady" else 0.0
    period_s = load.period_s or _PERIODS_S[load.shape]
    within = (after_ms / 1_000 % period_s) / period_s
    if load.shape == "diurnal":
        return level * (1 - math.cos(2 * math.pi * within)) / 2
    return level if within < _duty(load) else level * _between_bursts(load)


def _busy_s(load: Load, after_ms: int) -> float:
    """The integral of `_share` from the start, seconds of full load."""
    level, after_s = load.level_pct / 100, after_ms / 1_000
    if load.shape in ("idle", "steady"):
        return level * after_s if load.shape == "steady" else 0.0
    period_s = load.period_s or _PERIODS_S[load.shape]
    if load.shape == "diurnal":
        turn = 2 * math.pi * after_s / period_s
        return level / 2 * (after_s - math.sin(turn) * period_s / (2 * math.pi))
    periods, rest_s = divmod(after_s, period_s)
    duty, low = _duty(load), _between_bursts(load)
    high_s = periods * duty * period_s + min(rest_s, duty * period_s)
    return level * (high_s + low * (after_s - high_s))


def _duty(load: Load) -> float:
    return (_DUTIES_PCT[load.shape] if load.duty_pct is None else load.duty_pct) / 100


def _between_bursts(load: Load) -> float:
    return 0.1 if load.shape == "training" else 0.0


def _between(idle: int, loaded: int, share: float) -> int:
    return idle + round((loaded - idle) * share)


def _gpu(seed: int, place: int, model: Model, load: Load) -> SimulatedGpu:
    subject = _digest(seed, place, "uuid")[:16]
    identity: dict[str, Sample] = {
        "name": model.name,
        "serial": f"SIM{_draw(seed, place, 'serial') % 10**10:010d}",
        "board_part_number": model.board_part_number,
        "pdi": _draw(seed, place, "pdi") % (2**64 - 2) + 1,
        "vbios_version": model.vbios_version,
        "inforom_image_version": model.inforom_image_version,
        "pci_bus_id": f"00000000:{0x10 + place:02X}:00.0",
        "pci_device_id": model.pci_device_id,
        "pci_subsystem_id": model.pci_subsystem_id,
        "memory_total_bytes": model.memory_total_mib * MIB,
        "power_limit_default_mw": model.power_limit_mw,
        "architecture": model.architecture,
    }
    return SimulatedGpu(place, model, load, subject, MappingProxyType(identity))


def _digest(seed: int, place: int, what: str, moment: int = 0) -> bytes:
    return hashlib.sha256(f"assay simulation {seed} {place} {what} {moment}".encode()).digest()


def _draw(seed: int, place: int, what: str, moment: int = 0) -> int:
    """64 bits, the same for the same arguments everywhere."""
    return int.from_bytes(_digest(seed, place, what, moment)[:8], "big")
