"""How a call of NVML is described as data: its C signature, what it answers, and its bounds.

Nothing here touches a driver, and nothing heavy is imported: the driver's own process uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.reading import Depth
from assay_core.leaves import Group, Reason

UINT32_MAX: Final = 2**32 - 1
UINT64_MAX: Final = 2**64 - 1
COUNT_MAX: Final = 2**63 - 1
"""NVML says "not known" with all bits set; no true count comes near."""

# NVML's return codes, as nvml.h numbers them.
UNINITIALIZED: Final = 1
INVALID_ARGUMENT: Final = 2
NOT_SUPPORTED: Final = 3
NOT_FOUND: Final = 6
INSUFFICIENT_SIZE: Final = 7
DRIVER_NOT_LOADED: Final = 9
TIMEOUT: Final = 10
LIBRARY_NOT_FOUND: Final = 12
FUNCTION_NOT_FOUND: Final = 13
CORRUPTED_INFOROM: Final = 14
GPU_IS_LOST: Final = 15
RESET_REQUIRED: Final = 16
LIB_RM_VERSION_MISMATCH: Final = 18
ARGUMENT_VERSION_MISMATCH: Final = 25
GPU_NOT_FOUND: Final = 28

UNLOADED: Final = (UNINITIALIZED, DRIVER_NOT_LOADED, LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH)
"""The driver is out, or another one is in: when it answers again, it was loaded anew."""
GONE: Final = frozenset({UNINITIALIZED, DRIVER_NOT_LOADED})
"""The driver was unloaded under us: every handle is worth nothing."""
STALE: Final = frozenset({INVALID_ARGUMENT, NOT_FOUND, GPU_NOT_FOUND})
"""Perhaps the handle's GPU is gone; perhaps only this call does not know its argument."""
TOO_OLD: Final = frozenset({FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH})
"""The library may know the same under an older name."""
UNKNOWN_ID: Final = frozenset({INVALID_ARGUMENT, NOT_SUPPORTED, FUNCTION_NOT_FOUND})
"""The driver may answer by a call what it does not answer by a field id."""

_REASONS: Final[Mapping[int, Reason]] = MappingProxyType(
    {
        NOT_SUPPORTED: Reason.NOT_SUPPORTED,
        4: Reason.NO_PERMISSION,
        UNINITIALIZED: Reason.DRIVER_ABSENT,
        DRIVER_NOT_LOADED: Reason.DRIVER_ABSENT,
        LIBRARY_NOT_FOUND: Reason.DRIVER_ABSENT,
        FUNCTION_NOT_FOUND: Reason.SYMBOL_MISSING,
        GPU_IS_LOST: Reason.GPU_LOST,
    }
)


def reason_of(code: int) -> Reason:
    """Why a field has no value, from the code NVML returned for it."""
    return _REASONS.get(code, Reason.DRIVER_ERROR)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the schema.

    What NVML answers, times `scale`, is in the schema's unit. A number below `low` or above
    `high`, both before scaling, cannot be; `high` 0 stands for a text. Of a list (`listed`) the
    bounds hold for each item.
    """

    name: str
    high: int = 0
    low: int = 0
    scale: int = 1
    listed: bool = False


Decode = Callable[[Sequence[object]], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Call:
    """One function of NVML, by its name in the library, and the fields that it answers.

    It is called with the GPU's handle, `given` by value, one pointer for each of `pointers` (an
    offset into one piece of memory), and `after` by value (None: a null pointer). `layout` is that
    memory in struct's language: each of its values is one field's, unless `decode` makes them.
    """

    group: Group
    function: str
    fields: tuple[Field, ...]
    layout: str = "I"
    depth: Depth = Depth.TICK
    given: tuple[int, ...] = ()
    pointers: tuple[int, ...] = (0,)
    after: tuple[int | None, ...] = ()
    preset: tuple[int, ...] = ()
    """32-bit words that the memory begins with: a version, and what is asked for."""
    says: Mapping[int, int] | None = None
    """Where the return code is itself the answer: the value for each such code."""
    sizes: bool = False
    """It is asked how much there is, with no room for it: "insufficient size" is an answer."""
    decode: Decode | None = None
    otherwise: Call | None = None
    """The older function with the same answer, for libraries that have only it."""
    hidden_by_mig: bool = False
    """NOT_SUPPORTED may only mean that the GPU is in MIG mode."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One field id of nvmlDeviceGetFieldValues, and the call to ask where it is not known."""

    group: Group
    field_id: int
    field: Field
    depth: Depth = Depth.TICK
    otherwise: Call | None = None
    item: int = 0
    """Which of that call's values."""
    hidden_by_mig: bool = False


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """One field id that is asked of each NVLink, its scope."""

    field_id: int
    field: Field
    depth: Depth = Depth.WINDOW


def texts(group: Group, depth: Depth, *asked: tuple[str, str, int]) -> tuple[Call, ...]:
    """Calls that each write one text: its field, the function, and the bytes it has room for."""
    return tuple(
        Call(group, function, (Field(name),), f"{size}s", depth, after=(size,))
        for name, function, size in asked
    )


def number(group: Group, depth: Depth, function: str, field: Field) -> Call:
    """A call that writes one 32-bit number."""
    return Call(group, function, (field,), depth=depth)


def entries(
    group: Group, depth: Depth, high: int, *asked: tuple[int, str], mig: bool = False
) -> tuple[Entry, ...]:
    """Field ids that share their bounds."""
    return tuple(
        Entry(group, field_id, Field(name, high), depth, hidden_by_mig=mig)
        for field_id, name in asked
    )
