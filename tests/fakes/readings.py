"""Polls of a host as a source would yield them, without one."""

from __future__ import annotations

from collections.abc import Mapping

from assay_agent.telemetry.reading import GpuReading, Happening, Poll, Sample
from assay_core import codec
from assay_core.leaves import DriverState, EventKind, Group, Reason

START_MS = 1_790_000_000_000
BOOT_MS = 5_000_000


def uuid(number: int) -> bytes:
    return number.to_bytes(16, "big")


def samples(**changed: Sample) -> dict[str, Sample]:
    """Every field of a GPU with a plausible sample; `changed` replaces some."""
    found: dict[str, Sample] = {}
    for group in (Group.IDENTITY, Group.HEALTH, Group.USE):
        for name, field in codec.fields_of(group).items():
            if name not in ("polls", "events"):
                text = field.message_type is None and field.cpp_type == field.CPPTYPE_STRING
                found[name] = f"{name} of a GPU" if text else 7
    unknown = changed.keys() - found.keys()
    if unknown:
        raise TypeError(f"no such fields: {unknown}")
    return found | changed


def reading(number: int, **changed: Sample) -> GpuReading:
    return GpuReading(uuid(number), samples(serial=f"S{number:03d}") | changed)


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
