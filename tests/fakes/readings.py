"""Polls of a host as a source would yield them, without one."""

from __future__ import annotations

from collections.abc import Mapping

from assay_agent.fields import read_names
from assay_agent.telemetry.reading import GpuReading, Happening, Poll, Sample
from assay_core import codec
from assay_core.leaves import DriverState, EventKind, Group, MigInstance, Reason

WELL = (
    "remap_pending",
    "remap_failed",
    "recovery_action",
    "unrepairable",
    "repair_",
    "inforom_valid",
    "ecc_sram_threshold",
    "retired_pages_pending",
    "fabric_health",
    "remap_banks_none",
)
"""Flags that a GPU in good health does not raise."""
START_MS = 1_790_000_000_000
BOOT_MS = 5_000_000


def uuid(number: int) -> bytes:
    return number.to_bytes(16, "big")


GROUPS = (Group.IDENTITY, Group.HEALTH, Group.USE, Group.CONDITION)


def samples(**changed: Sample) -> dict[str, Sample]:
    """Every field of a GPU with a plausible sample; `changed` replaces some."""
    found = {name: _plausible(group, name) for group in GROUPS for name in read_names(group)}
    unknown = changed.keys() - found.keys()
    if unknown:
        raise TypeError(f"no such fields: {unknown}")
    return found | changed


def _plausible(group: Group, name: str) -> Sample:
    field = codec.fields_of(group)[name]
    if name == "mig_instances":
        return (MigInstance(1, 20_000, (7, 7, 7, 7, 7)), MigInstance(2, 20_000, (7, 7, 7, 7, 7)))
    if name == "tenancy" or name.startswith(WELL):
        return int(name in {"inforom_valid", "tenancy"})
    if name == "nvlink_states":
        return (1, 1)
    if field.is_repeated:
        return (7, 7)
    text = field.message_type is None and field.cpp_type == field.CPPTYPE_STRING
    return f"{name} of a GPU" if text else 7


def reading(number: int, **changed: Sample) -> GpuReading:
    return GpuReading(uuid(number), samples(serial=f"S{number:03d}") | changed)


def partial(number: int, **due: Sample) -> GpuReading:
    """A reading of which only these fields were due."""
    return GpuReading(uuid(number), due)


def lost(number: int, reason: Reason = Reason.GPU_LOST) -> GpuReading:
    return GpuReading(uuid(number), dict.fromkeys(samples(), reason))


def happening(number: int | None, kind: EventKind, code: int = 0, after_ms: int = 0) -> Happening:
    subject = b"" if number is None else uuid(number)
    return Happening(subject, kind, code, START_MS + after_ms)


def poll(
    *gpus: GpuReading,
    after_ms: int = 0,
    driver: DriverState = DriverState.RUNNING,
    events: tuple[Happening, ...] = (),
    host: Mapping[str, Sample] | None = None,
    abandoned: int = 0,
) -> Poll:
    return Poll(
        at_utc_ms=START_MS + after_ms,
        at_boottime_ms=BOOT_MS + after_ms,
        driver=driver,
        host=host
        if host is not None
        else {"driver_version": "570.1", "nvml_version": "12.1", "gpu_count": len(gpus)},
        abandoned_processes=abandoned,
        gpus=gpus,
        events=events,
    )
