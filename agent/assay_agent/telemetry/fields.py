"""Every field that is read from a GPU: its order on the wire, its unit, and what it may be.

A test holds this against the schema, so that no field of it is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.calls import Field
from assay_agent.telemetry.reading import Depth, Sample
from assay_agent.telemetry.table import CALLS, ENTRIES, GPM, LINKS, MIG_INSTANCES
from assay_core.leaves import SUBJECT_BYTES, MigInstance, Reason

TEXT_BYTES_MAX: Final = 256


def at(depth: Depth) -> tuple[Field, ...]:
    """The fields of a GPU that are first read at this depth, in their order on the wire."""
    return (
        *(entry.field for entry in ENTRIES if entry.depth is depth),
        *(field for call in CALLS if call.depth is depth for field in call.fields),
        *(link.field for link in LINKS if link.depth is depth),
        *((field for _, field in GPM) if depth is Depth.TICK else ()),
        *((MIG_INSTANCES,) if depth is Depth.WINDOW else ()),
    )


FIELDS: Final[Mapping[str, Field]] = MappingProxyType(
    {field.name: field for depth in Depth for field in at(depth)}
)
"""Every field of a GPU by its name; no two groups share one."""


def names(depth: Depth) -> tuple[str, ...]:
    """The fields of a GPU that are read at this depth, in their order on the wire."""
    return _NAMES[depth]


_NAMES: Final = {
    depth: tuple(field.name for lower in Depth if lower <= depth for field in at(lower))
    for depth in Depth
}


def admit(field: Field, raw: object) -> Sample:
    """What NVML answered, in the schema's unit; INVALID_VALUE for what cannot be."""
    if isinstance(raw, Reason):
        return raw
    if field.high == 0:
        return admit_text(raw)
    if not isinstance(raw, int) or not field.low <= raw <= field.high:
        return Reason.INVALID_VALUE
    return raw * field.scale


def in_bounds(field: Field, sample: Sample) -> bool:
    """Whether `sample`, in the schema's unit, is one that `admit` could have made."""
    if isinstance(sample, Reason):
        return True
    if isinstance(sample, tuple):
        return field.listed and all(_item_in_bounds(field, item) for item in sample)
    if isinstance(sample, str):
        return field.high == 0 and admit_text(sample) == sample
    return not field.listed and _item_in_bounds(field, sample)


def _item_in_bounds(field: Field, item: int | str | MigInstance) -> bool:
    if isinstance(item, MigInstance):
        activity = () if isinstance(item.activity, Reason) else item.activity
        return field is MIG_INSTANCES and all(0 <= share <= 100 for share in activity)
    if isinstance(item, str) or field is MIG_INSTANCES:
        return False
    return field.high > 0 and field.low * field.scale <= item <= field.high * field.scale


def admit_text(raw: object) -> Sample:
    """A text that is UTF-8, printable, not empty and not too long; else INVALID_VALUE."""
    try:
        text = raw.partition(b"\0")[0].decode() if isinstance(raw, bytes) else raw
    except UnicodeDecodeError:
        return Reason.INVALID_VALUE
    if not isinstance(text, str) or not text.isprintable() or not text.strip():
        return Reason.INVALID_VALUE
    return text if len(text.encode()) <= TEXT_BYTES_MAX else Reason.INVALID_VALUE


def subject_of(uuid: str) -> bytes | None:
    """NVML's "GPU-4404041a-04cf-1ccf-9e70-f139a9b1e23c" to 16 bytes; None for anything else."""
    try:
        subject = bytes.fromhex(uuid.removeprefix("GPU-").replace("-", ""))
    except ValueError:
        return None
    return subject if len(subject) == SUBJECT_BYTES and any(subject) else None


def uuid_of(subject: bytes) -> str:
    """16 bytes to NVML's way of writing a UUID."""
    digits = subject.hex()
    return "GPU-" + "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
