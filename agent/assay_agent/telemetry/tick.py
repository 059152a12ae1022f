"""What is read of one GPU at every poll, at little more than the cost of the driver's calls.

All calls of a GPU write into one piece of memory that is kept, and one struct reads all of it. As
long as each call returns the code it returned the last time, nothing else is looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from assay_agent.telemetry.ask import (
    ENTRY_BYTES,
    ENTRY_HEAD,
    VALUE_LAYOUTS,
    Memory,
    arguments,
    ask,
    field_values,
    preset,
    refused,
    why,
)
from assay_agent.telemetry.binding import Function, function
from assay_agent.telemetry.calls import (
    RESET_REQUIRED,
    STALE,
    TOO_OLD,
    UNKNOWN_ID,
    Call,
)
from assay_agent.telemetry.fields import admit
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.table import CALLS, ENTRIES
from assay_core.leaves import Reason

_ENTRIES: Final = tuple(entry for entry in ENTRIES if entry.depth is Depth.TICK)
_CALLS: Final = tuple(call for call in CALLS if call.depth is Depth.TICK)
_FIELDS: Final = (
    *(entry.field for entry in _ENTRIES),
    *(field for call in _CALLS for field in call.fields),
)
_LIMITS: Final = tuple((field.low, field.high, field.scale) for field in _FIELDS)
_LAYOUT: Final = "".join(call.layout for call in _CALLS)
_IDS: Final = len(_ENTRIES)
_INVALID: Final = int(Reason.INVALID_VALUE)

CELLS: Final = len(_FIELDS)
"""How many fields a reading has."""

Absent = list[int]
"""Place and Reason, in turn, of each cell that has no value."""


class Tick:
    """The fields of one GPU that are read at every poll, but for those of GPM."""

    def __init__(self, handle: object, in_mig_mode: Callable[[], bool]) -> None:
        self._handle = handle
        self._in_mig_mode = in_mig_mode
        self._memory = Memory(ENTRY_BYTES * _IDS + struct.calcsize("<" + _LAYOUT))
        self._calls: list[tuple[Function, list[object]]] = [
            (field_values(), [handle, _IDS, self._memory.pointer()])
        ]
        for place, entry in enumerate(_ENTRIES):
            ENTRY_HEAD.pack_into(self._memory.bytes, ENTRY_BYTES * place, entry.field_id, 0)
        offset = ENTRY_BYTES * _IDS
        for call in _CALLS:
            preset(call, self._memory, offset)
            self._calls.append(
                (function(call.function), arguments(call, handle, self._memory, offset))
            )
            offset += struct.calcsize("<" + call.layout)
        self._known: object = None
        self._unpack = _reader((3,) * _IDS)
        self._absent: Absent = []
        self._otherwise: list[tuple[int, Call, int]] = []
        self.suspect = False
        """Something was answered as if the handle named no GPU any more."""
        self.reset_required = False
        """The driver wants this GPU to be reset."""

    def read(self) -> tuple[list[int], Absent]:
        """Each field's value or 0, and which have none. Raises GoneError and LostError."""
        codes = [call(*given) for call, given in self._calls]
        flat = self._unpack(self._memory.bytes)
        heads = 3 * _IDS
        known = (codes, flat[0:heads:3], flat[1:heads:3])
        if known != self._known:
            self._settle(codes, flat[0:heads:3], flat[1:heads:3])
            flat = self._unpack(self._memory.bytes)
            self._known = known
        cells = [
            raw * scale if low <= raw <= high else None
            for raw, (low, high, scale) in zip(flat[2:heads:3] + flat[heads:], _LIMITS, strict=True)
        ]
        if not self._absent and not self._otherwise and None not in cells:
            return cells, self._absent  # type: ignore[return-value]  # none of them is None
        return self._completed(cells)

    def forget(self) -> None:
        """What hides fields has changed: the reasons are found anew."""
        self._known = None

    def _completed(self, cells: list[int | None]) -> tuple[list[int], Absent]:
        """The rarer way: some fields have no value, or are asked for by an older call."""
        absent = self._absent.copy()
        for place in absent[::2]:
            cells[place] = 0
        for place, call, item in self._otherwise:
            raws = ask(call, self._handle)
            sample = (
                why(raws, False) if isinstance(raws, int) else admit(_FIELDS[place], raws[item])
            )
            if isinstance(sample, Reason):
                cells[place] = 0
                absent += (place, int(sample))
            elif isinstance(sample, int):
                cells[place] = sample
        for place, cell in enumerate(cells):
            if cell is None:
                absent += (place, _INVALID)
        return [cell or 0 for cell in cells], absent

    def _settle(self, codes: Sequence[int], kinds: Sequence[int], returns: Sequence[int]) -> None:
        """Something is answered otherwise than the last time: what has no value now, and why."""
        for code in (*codes, *(returns if codes[0] == 0 else ())):
            refused(code)
        if codes[0] != 0:
            returns = [codes[0]] * _IDS
        self._absent, self._otherwise = [], []
        for place, (entry, kind, code) in enumerate(zip(_ENTRIES, kinds, returns, strict=True)):
            if code in UNKNOWN_ID and entry.otherwise is not None:
                raws = ask(entry.otherwise, self._handle)
                if not isinstance(raws, int):
                    self._otherwise.append((place, entry.otherwise, entry.item))
                    continue
                code = raws
            if code != 0:
                self._leave_out(place, code, entry.hidden_by_mig)
            elif kind not in VALUE_LAYOUTS:
                self._absent += (place, _INVALID)
        place = _IDS
        for call, code in zip(_CALLS, codes[1:], strict=True):
            if code in TOO_OLD and call.otherwise is not None:
                self._otherwise += [
                    (place + item, call.otherwise, item) for item in range(len(call.fields))
                ]
            elif code != 0:
                for item in range(len(call.fields)):
                    self._leave_out(place + item, code, call.hidden_by_mig)
            place += len(call.fields)
        self._unpack = _reader(tuple(kinds))
        self.suspect = not STALE.isdisjoint(codes)
        self.reset_required = RESET_REQUIRED in codes

    def _leave_out(self, place: int, code: int, hidden_by_mig: bool) -> None:
        reason = why(code, False)
        if reason is Reason.NOT_SUPPORTED and hidden_by_mig and self._in_mig_mode():
            reason = Reason.HIDDEN_BY_MIG
        self._absent += (place, int(reason))


def _reader(kinds: tuple[int, ...]) -> Callable[[bytearray], tuple[int, ...]]:
    """Reads type, return code and value of each field id, then what the calls wrote."""
    layouts = [f"24xII{VALUE_LAYOUTS.get(kind, 'Q')}" for kind in kinds]
    return struct.Struct("<" + "".join(layouts) + _LAYOUT).unpack
