"""The driver, read through NVIDIA's binding. Runs in a process of its own: any call may hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from assay_agent.telemetry import binding
from assay_agent.telemetry.binding import NvmlError, address_of, code_of
from assay_agent.telemetry.fields import (
    CALLS,
    DRIVER_NOT_LOADED,
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    GPU_NOT_FOUND,
    INVALID_ARGUMENT,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY_NOT_FOUND,
    NOT_FOUND,
    UNINITIALIZED,
    Call,
    Period,
    Sample,
    admit,
    admit_text,
    reason_of,
    subject_of,
)
from assay_agent.telemetry.nvml_events import Events
from assay_agent.telemetry.wire import Cell, Look, cell
from assay_core.leaves import Reason

_GONE: Final = (UNINITIALIZED, DRIVER_NOT_LOADED)
"""The driver was unloaded under us: every handle is worth nothing."""
_STALE: Final = (INVALID_ARGUMENT, NOT_FOUND, GPU_NOT_FOUND)
"""Perhaps the handle's GPU is gone; perhaps only this call does not know its argument."""
_FINAL: Final = (LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH)
"""The dynamic loader remembers which folders had no library, and keeps the one it has loaded:
only a new process can find another."""

REINIT_S: Final = (60.0, 900.0)
"""A lost GPU may come back only for a client that starts anew: how soon, and how seldom, to."""


class _Gone(Exception):
    """The driver went away in the middle of a look."""


class _Lost(Exception):
    """The GPU fell off its bus."""


@dataclass(slots=True)
class _Device:
    handle: object
    uuid: str
    identity: list[Cell] = field(default_factory=list)


class Driver:
    """Looks at every GPU; enumerates anew when they, or the driver, came or went."""

    def __init__(
        self,
        beat: Callable[[], None],
        happened: Callable[[str, int], None],
        reinit_s: tuple[float, float] = REINIT_S,
    ) -> None:
        self._beat = beat
        self._happened = happened
        self._devices: dict[str, _Device] = {}
        self._unreadable: tuple[int, ...] = ()
        self._events: Events | None = None
        self._started = False
        self._was_gone = False
        self._generation = 0
        self._lost = False
        self._suspect = False
        self._reinit_s = reinit_s
        self._reinit_wait_s = reinit_s[0]
        self._reinit_at_s = 0.0
        self._host: tuple[Cell, Cell] = ("", "")

    def look(self, held_generation: int) -> Look:
        """Everything, now. Says so when there is no driver; raises nothing for what it does."""
        for _attempt in range(2):
            try:
                self._start()
                return self._look(held_generation)
            except _Gone:
                self._abandon_handles()
                self._was_gone = True
            except NvmlError as error:
                return Look(
                    code=code_of(error),
                    final=code_of(error) in _FINAL,
                    host=_absent(code_of(error)),
                )
        return Look(code=DRIVER_NOT_LOADED, host=_absent(DRIVER_NOT_LOADED))

    def close(self) -> None:
        """Lets go of every handle."""
        self._stop_events()
        if self._started:
            self._started = False
            try:
                binding.shutdown()
            except NvmlError:
                return  # it is gone already, which is what was asked

    def _start(self) -> None:
        if self._started:
            return
        binding.init()
        self._started = True
        self._beat()
        self._host = (
            _ask_host(binding.driver_version),
            _ask_host(binding.nvml_version),
        )
        self._enumerate()

    def _look(self, held_generation: int) -> Look:
        count = _or_gone(binding.count)
        if count != len(self._devices) + len(self._unreadable) or self._unreadable:
            self._enumerate()
        self._suspect = False
        readings = self._read_all()
        if self._suspect and self._stale():
            self._enumerate()
            readings = self._read_all()
        self._watch_for_return()
        reloaded, self._was_gone = self._was_gone, False
        return Look(
            reloaded=reloaded,
            generation=self._generation,
            host=(*self._host, count),
            identities=None
            if held_generation == self._generation
            else {uuid: device.identity for uuid, device in self._devices.items()},
            gpus=readings,
            unreadable=self._unreadable,
        )

    def _enumerate(self) -> None:
        """Finds every GPU by its UUID: indexes and handles do not outlive a change."""
        found: dict[str, _Device] = {}
        unreadable: list[int] = []
        for index in range(_or_gone(binding.count)):
            self._beat()
            try:
                handle = binding.handle_by_index(index)
                subject = subject_of(binding.uuid(handle))
            except NvmlError as error:
                if code_of(error) in _GONE:
                    raise _Gone from error
                unreadable.append(int(reason_of(code_of(error))))
                continue
            except UnicodeDecodeError:
                subject = None
            if subject is None or subject.hex() in found:
                unreadable.append(int(Reason.INVALID_VALUE))
            else:
                found[subject.hex()] = _Device(handle, subject.hex())
        self._unreadable = tuple(unreadable)
        if _handles(found) != _handles(self._devices):
            self._adopt(found)

    def _adopt(self, found: dict[str, _Device]) -> None:
        self._stop_events()
        for device in tuple(found.values()):
            try:
                device.identity = self._read(device, Period.START)
            except _Lost:  # between its UUID and its name: enumerated anew at the next look
                del found[device.uuid]
                self._unreadable += (int(Reason.GPU_LOST),)
        self._devices = found
        self._generation += 1
        self._events = Events(
            [(device.handle, device.uuid) for device in found.values()], self._happened
        )

    def _read_all(self) -> dict[str, list[Cell]]:
        readings = {}
        self._lost = False
        for uuid, device in self._devices.items():
            self._beat()
            try:
                readings[uuid] = self._read(device, Period.TICK)
            except _Lost:
                self._lost = True
        return readings

    def _read(self, device: _Device, period: Period) -> list[Cell]:
        cells: list[Cell] = []
        for call, function in _FUNCTIONS[period]:
            try:
                answer = function(device.handle, *call.arguments)
            except NvmlError as error:
                answer = self._failed(device, call, code_of(error))
            except UnicodeDecodeError:
                answer = Reason.INVALID_VALUE
            if isinstance(answer, Reason):
                cells.extend([cell(answer)] * len(call.fields))
            else:
                cells.extend(cell(admit(item, item.take(answer))) for item in call.fields)
        return cells

    def _failed(self, device: _Device, call: Call, code: int) -> object:
        """Why the call has no answer, or the answer of the older function."""
        if code in _GONE:
            raise _Gone
        if code == GPU_IS_LOST:
            raise _Lost
        if code in _STALE:
            self._suspect = True
        if code == FUNCTION_NOT_FOUND and call.otherwise is not None:
            try:
                return binding.function(call.otherwise)(device.handle, *call.arguments)
            except NvmlError as error:
                code = code_of(error)
        reason = reason_of(code)
        if reason is Reason.NOT_SUPPORTED and call.hidden_by_mig and _in_mig_mode(device.handle):
            return Reason.HIDDEN_BY_MIG
        return reason

    def _stale(self) -> bool:
        """Whether any handle has stopped naming its GPU."""
        for device in self._devices.values():
            try:
                binding.uuid(device.handle)
            except NvmlError as error:
                if code_of(error) in _GONE:
                    raise _Gone from error
                if code_of(error) in _STALE:
                    return True
        return False

    def _watch_for_return(self) -> None:
        if not self._lost and not self._unreadable:
            self._reinit_wait_s, self._reinit_at_s = self._reinit_s[0], 0.0
            return
        now_s = time.monotonic()
        if self._reinit_at_s == 0.0:
            self._reinit_at_s = now_s + self._reinit_wait_s
        elif now_s >= self._reinit_at_s:
            self._reinit_wait_s = min(self._reinit_wait_s * 2, self._reinit_s[1])
            self._reinit_at_s = now_s + self._reinit_wait_s
            self.close()
            self._abandon_handles()

    def _abandon_handles(self) -> None:
        self.close()
        self._devices = {}
        self._unreadable = ()

    def _stop_events(self) -> None:
        if self._events is not None:
            self._events.stop()
            self._events = None


_FUNCTIONS: Final = {
    period: tuple(
        (call, binding.function(call.function)) for call in CALLS if call.period is period
    )
    for period in Period
}


def _or_gone(function: Callable[[], int]) -> int:
    try:
        return function()
    except NvmlError as error:
        if code_of(error) in _GONE:
            raise _Gone from error
        raise


def _ask_host(function: Callable[[], object]) -> Cell:
    """A version text of the host's driver, bounded as every text is."""
    try:
        return cell(admit_text(function()))
    except NvmlError as error:
        return cell(reason_of(code_of(error)))
    except UnicodeDecodeError:
        return cell(Reason.INVALID_VALUE)


def _absent(code: int) -> tuple[Cell, Cell, Cell]:
    reason: Sample = reason_of(code)
    return (cell(reason), cell(reason), cell(reason))


def _in_mig_mode(handle: object) -> bool:
    try:
        return bool(binding.mig_mode(handle)[0])
    except NvmlError:
        return False


def _handles(devices: dict[str, _Device]) -> dict[str, int | None]:
    return {uuid: address_of(device.handle) for uuid, device in devices.items()}
