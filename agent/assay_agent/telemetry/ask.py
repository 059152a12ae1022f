"""One call of the driver at a time, from its description: what is not read at every tick."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Final

from assay_agent.telemetry.binding import Function, GoneError, LostError, function
from assay_agent.telemetry.calls import (
    GONE,
    GPU_IS_LOST,
    INSUFFICIENT_SIZE,
    NOT_SUPPORTED,
    TOO_OLD,
    UNKNOWN_ID,
    Call,
    Entry,
    reason_of,
)
from assay_agent.telemetry.fields import admit
from assay_agent.telemetry.reading import Sample
from assay_core.leaves import Reason

FIELD_VALUES: Final = "nvmlDeviceGetFieldValues"
ENTRY_BYTES: Final = 40
"""c_nvmlFieldValue_t: id, scope, two times, type, return code, and a union of eight bytes."""
ENTRY_HEAD: Final = struct.Struct("<II")
_ENTRY: Final = struct.Struct("<24xII8s")
VALUE_LAYOUTS: Final = {1: "I4x", 2: "Q", 3: "Q", 4: "q", 5: "i4x", 6: "H6x"}
"""The union's member for each NVML_VALUE_TYPE; no field of ours is a double (0)."""
_VALUES: Final = {kind: struct.Struct("<" + layout) for kind, layout in VALUE_LAYOUTS.items()}


class Memory:
    """A piece of memory that NVML writes into and struct reads from."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(max(size, 8))
        self._view = (ctypes.c_char * len(self.bytes)).from_buffer(self.bytes)

    @property
    def address(self) -> int:
        """Where it is, for a pointer inside a structure."""
        return ctypes.addressof(self._view)

    def pointer(self, offset: int = 0) -> object:
        """A pointer into it, for a function of the library."""
        return ctypes.byref(self._view, offset)


def arguments(call: Call, handle: object | None, memory: Memory, offset: int = 0) -> list[object]:
    """What a function is called with; `handle` None where it is about the host."""
    return [
        *(() if handle is None else (handle,)),
        *call.given,
        *(memory.pointer(offset + pointer) for pointer in call.pointers),
        *call.after,
    ]


def preset(call: Call, memory: Memory, offset: int = 0) -> None:
    """The words that a call's memory begins with."""
    struct.pack_into(f"<{len(call.preset)}I", memory.bytes, offset, *call.preset)


def ask(call: Call, handle: object | None) -> Sequence[object] | int:
    """The raw values of a call, or the code with which NVML refused.

    Raises GoneError and LostError.
    """
    memory = Memory(struct.calcsize("<" + call.layout))
    preset(call, memory)
    code = function(call.function)(*arguments(call, handle, memory))
    if code in TOO_OLD and call.otherwise is not None:
        return ask(call.otherwise, handle)
    if call.says is not None and code in call.says:
        return (call.says[code],)
    if code != 0 and not (call.sizes and code == INSUFFICIENT_SIZE):
        return refused(code)
    values = struct.unpack_from("<" + call.layout, memory.bytes)
    return values if call.decode is None else call.decode(values)


def refused(code: int) -> int:
    """The code again. Raises GoneError or LostError where it is about more than one call."""
    if code in GONE:
        raise GoneError
    if code == GPU_IS_LOST:
        raise LostError
    return code


def samples(call: Call, handle: object | None, in_mig_mode: bool) -> list[Sample]:
    """What a call says of each of its fields. Raises GoneError and LostError."""
    raws = ask(call, handle)
    if isinstance(raws, int):
        return [why(raws, call.hidden_by_mig and in_mig_mode)] * len(call.fields)
    return [admit(field, raw) for field, raw in zip(call.fields, raws, strict=True)]


def why(code: int, hidden_by_mig: bool) -> Reason:
    """Why a field has no value."""
    return Reason.HIDDEN_BY_MIG if hidden_by_mig and code == NOT_SUPPORTED else reason_of(code)


def entries(
    asked: Sequence[Entry], handle: object, in_mig_mode: bool, beat: Callable[[], None]
) -> list[Sample]:
    """What field ids say, each by itself, in one call. Raises GoneError and LostError."""
    result: list[Sample] = []
    answers = batch(handle, [(entry.field_id, 0) for entry in asked])
    for entry, answer in zip(asked, answers, strict=True):
        code, raw = answer
        if code in UNKNOWN_ID and entry.otherwise is not None:
            beat()
            raws = ask(entry.otherwise, handle)
            code, raw = (raws, 0) if isinstance(raws, int) else (0, raws[entry.item])
        if code != 0:
            result.append(why(code, entry.hidden_by_mig and in_mig_mode))
        else:
            result.append(admit(entry.field, raw))
    return result


def batch(handle: object, ids: Sequence[tuple[int, int]]) -> list[tuple[int, object]]:
    """For each field id and scope, in one call: its own return code, and its raw value.

    Raises GoneError and LostError.
    """
    memory = Memory(ENTRY_BYTES * len(ids))
    for place, wanted in enumerate(ids):
        ENTRY_HEAD.pack_into(memory.bytes, ENTRY_BYTES * place, *wanted)
    code = refused(field_values()(handle, len(ids), memory.pointer()))
    if code != 0:
        return [(code, 0)] * len(ids)
    return [
        (refused(code), _value(kind, union))
        for kind, code, union in _ENTRY.iter_unpack(memory.bytes)
    ]


def _value(kind: int, union: bytes) -> object:
    layout = _VALUES.get(kind)
    return Reason.INVALID_VALUE if layout is None else layout.unpack(union)[0]


def field_values() -> Function:
    """The function that answers many field ids at once."""
    return function(FIELD_VALUES)
