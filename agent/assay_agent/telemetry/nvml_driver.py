"""The driver, read through NVIDIA's binding. Runs in a process of its own: any call may hang."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from assay_agent.machine import sleep
from assay_agent.telemetry import binding
from assay_agent.telemetry.ask import samples
from assay_agent.telemetry.binding import (
    GoneError,
    LostError,
    NvmlError,
    address_of,
    code_of,
)
from assay_agent.telemetry.calls import (
    DRIVER_NOT_LOADED,
    GONE,
    LIB_RM_VERSION_MISMATCH,
    LIBRARY_NOT_FOUND,
    STALE,
    reason_of,
)
from assay_agent.telemetry.device import Device, Questions
from assay_agent.telemetry.fields import subject_of
from assay_agent.telemetry.nvml_events import Events
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.table import HOST_CALLS
from assay_agent.telemetry.wire import HostCell, Look, Reading, host_cell
from assay_core.leaves import EventKind, Reason

_FINAL: Final = (LIBRARY_NOT_FOUND, LIB_RM_VERSION_MISMATCH)
"""The dynamic loader remembers which folders had no library, and keeps the one it has loaded:
only a new process can find another."""

REINIT_S: Final = (60.0, 900.0)
"""A lost GPU may come back only for a client that starts anew: how soon, and how seldom, to."""

_LOST: Final = int(Reason.GPU_LOST)
_ASLEEP: Final = int(Reason.ASLEEP)

_GPUS_MAX: Final = 64
"""More than this no host holds: a library that says so is not believed."""

Change = tuple[int, int, int]


class Driver:
    """Looks at every GPU; enumerates anew when they, or the driver, came or went."""

    def __init__(
        self,
        beat: Callable[[], None],
        happened: Callable[[str, int, int], None],
        reinit_s: tuple[float, float] = REINIT_S,
        host_root: str = "/",
    ) -> None:
        self._beat = beat
        self._happened = happened
        self._host_root = host_root
        self._devices: dict[str, Device] = {}
        self._unreadable: tuple[int, ...] = ()
        self._questions: Questions | None = None
        self._events: Events | None = None
        self._started = False
        self._was_gone = False
        self._generation = 0
        self._lost: set[str] = set()
        self._returned = False
        self._changes: list[Change] = []
        self._reinit_s = reinit_s
        self._reinit_wait_s = reinit_s[0]
        self._reinit_at_s = 0.0
        self._host: list[HostCell] = []
        self._platform: list[HostCell] = []

    def look(self, held_generation: int, depth: Depth = Depth.TICK) -> Look:
        """Everything, now. Says so when there is no driver; raises nothing for what it does."""
        for _attempt in range(2):
            try:
                if not self._started and sleep.any_asleep(self._host_root):
                    return Look(asleep=True)
                self._start()
                return self._look(held_generation, depth)
            except GoneError:
                self._abandon_handles()
                self._was_gone = True
            except NvmlError as error:
                code = code_of(error)
                return Look(code=code, final=code in _FINAL)
        return Look(code=DRIVER_NOT_LOADED)

    def close(self) -> None:
        """Lets go of every handle."""
        self._stop_events()
        if self._started:
            self._free()
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
        self._questions = self._questions or Questions()
        self._host = _ask_host(Depth.TICK)
        self._enumerate()

    def _look(self, held_generation: int, depth: Depth) -> Look:
        if depth > Depth.TICK:
            for device in self._devices.values():
                device.watch_sleep(self._host_root)
        sleeping = self._sleeping()
        count = len(self._devices) if sleeping else self._counted()
        depth = self._depth(held_generation, depth)
        readings = self._read_all(depth, sleeping)
        if not sleeping and self._stale():
            self._enumerate()
            depth = self._depth(held_generation, depth)
            readings = self._read_all(depth, sleeping)
        deeper = self._deeper(depth)
        if deeper > depth:
            depth = deeper
            readings = self._read_all(depth, sleeping)
        if depth >= Depth.DAY:
            self._platform = _ask_host(Depth.DAY)
        self._watch_for_return()
        reloaded, self._was_gone = self._was_gone, False
        changes, self._changes = self._changes, []
        return Look(
            reloaded=reloaded,
            generation=self._generation,
            depth=int(depth),
            host=[
                *self._host,
                count if count <= _GPUS_MAX else (int(Reason.INVALID_VALUE),),
                *(self._platform if depth >= Depth.DAY else ()),
            ],
            uuids=None if held_generation == self._generation else [*self._devices],
            gpus=readings,
            unreadable=self._unreadable,
            changes=changes,
        )

    def _deeper(self, depth: Depth) -> Depth:
        """How deep to look again, for what the look has found."""
        if self._returned:
            self._returned = False
            self._generation += 1
            return Depth.DAY
        if any(device.mig_flipped for device in self._devices.values()):
            return max(depth, Depth.WINDOW)
        return depth

    def _depth(self, held_generation: int, asked: Depth) -> Depth:
        """Of GPUs that the agent does not know yet, everything is told."""
        return asked if held_generation == self._generation else Depth.DAY

    def _sleeping(self) -> frozenset[str]:
        """GPUs that must not be woken; where no power is managed, no file is read."""
        return frozenset(
            uuid
            for uuid, device in self._devices.items()
            if device.may_sleep and sleep.asleep(self._host_root, device.bus_id)
        )

    def _counted(self) -> int:
        """How many GPUs there are; enumerates anew when that is not what is known."""
        count = _or_gone(binding.count)
        if min(count, _GPUS_MAX) != len(self._devices) + len(self._unreadable) or self._unreadable:
            self._enumerate()
        return count

    def _enumerate(self) -> None:
        """Finds every GPU by its UUID: indexes and handles do not outlive a change."""
        found: dict[str, object] = {}
        unreadable: list[int] = []
        for index in range(min(_or_gone(binding.count), _GPUS_MAX)):
            self._beat()
            try:
                handle = binding.handle_by_index(index)
                subject = subject_of(binding.uuid(handle))
            except NvmlError as error:
                if code_of(error) in GONE:
                    raise GoneError from error
                unreadable.append(int(reason_of(code_of(error))))
                continue
            except UnicodeDecodeError:
                subject = None
            if subject is None or subject.hex() in found:
                unreadable.append(int(Reason.INVALID_VALUE))
            else:
                found[subject.hex()] = handle
        self._unreadable = tuple(unreadable)
        before = {uuid: address_of(device.handle) for uuid, device in self._devices.items()}
        now = {uuid: address_of(handle) for uuid, handle in found.items()}
        if now != before or self._events is None:
            self._adopt(found)

    def _adopt(self, found: dict[str, object]) -> None:
        if self._questions is None:
            return
        self._stop_events()
        before, lost = self._devices, self._lost
        self._free()
        self._devices = {}
        for uuid, handle in found.items():
            device = Device(handle, uuid, self._questions, self._beat)
            self._beat()
            try:
                device.prime()
            except LostError:  # between its UUID and its name: enumerated anew at the next look
                self._unreadable += (_LOST,)
                continue
            device.watch_sleep(self._host_root)
            known = before.get(uuid)
            if known is not None:
                device.mig.shape = known.mig.shape
                if uuid not in lost and address_of(known.handle) != address_of(handle):
                    self._changes.append((len(self._devices), int(EventKind.GPU_RESET), 0))
            self._devices[uuid] = device
        self._lost = set()
        self._generation += 1
        self._events = Events(
            [(device.handle, uuid) for uuid, device in self._devices.items()], self._happened
        )
        time.sleep(max((device.wait_s() for device in self._devices.values()), default=0.0))

    def _read_all(self, depth: Depth, sleeping: frozenset[str]) -> list[Reading | int]:
        readings: list[Reading | int] = []
        lost: set[str] = set()
        for place, (uuid, device) in enumerate(self._devices.items()):
            if uuid in sleeping:
                readings.append(_ASLEEP)
                continue
            self._beat()
            shape = device.mig.shape
            try:
                readings.append(device.read(depth))
            except LostError:
                lost.add(uuid)
                readings.append(_LOST)
                continue
            self._returned = self._returned or uuid in self._lost
            if device.was_reset:
                self._changes.append((place, int(EventKind.GPU_RESET), 0))
            if device.mig.shape != shape and None not in (device.mig.shape, shape):
                count = len(device.mig.shape or ())
                self._changes.append((place, int(EventKind.MIG_CHANGED), count))
        self._lost = lost
        return readings

    def _stale(self) -> bool:
        """Whether any handle has stopped naming its GPU, where a call was answered so."""
        if not any(device.tick.suspect for device in self._devices.values()):
            return False
        for device in self._devices.values():
            try:
                binding.uuid(device.handle)
            except NvmlError as error:
                if code_of(error) in GONE:
                    raise GoneError from error
                if code_of(error) in STALE:
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
        self._stop_events()
        self._devices = {}  # what the library held for them went with the driver
        self._generation += 1
        self.close()
        self._unreadable = ()

    def _free(self) -> None:
        for device in self._devices.values():
            device.free()

    def _stop_events(self) -> None:
        if self._events is not None:
            self._events.stop()
            self._events = None


def _or_gone(function: Callable[[], int]) -> int:
    try:
        return function()
    except NvmlError as error:
        if code_of(error) in GONE:
            raise GoneError from error
        raise


def _ask_host(depth: Depth) -> list[HostCell]:
    """What the library says of the host."""
    cells: list[HostCell] = []
    for call in HOST_CALLS:
        if call.depth is depth:
            try:
                cells += map(host_cell, samples(call, None, False))
            except LostError:  # said of the host, of which it cannot be true
                cells += [host_cell(Reason.DRIVER_ERROR)] * len(call.fields)
    return cells
