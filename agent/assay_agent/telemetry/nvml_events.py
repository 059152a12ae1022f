"""Events of the driver, waited for in a thread beside the one that reads."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry import binding
from assay_agent.telemetry.ask import Memory
from assay_agent.telemetry.binding import NvmlError, address_of, function
from assay_agent.telemetry.calls import (
    DRIVER_NOT_LOADED,
    INVALID_ARGUMENT,
    TIMEOUT,
    UINT32_MAX,
    UNINITIALIZED,
)
from assay_core.leaves import EventKind

_XID: Final = 0x8  # nvmlEventTypeXidCriticalError
_KINDS: Final = MappingProxyType(
    {
        0x400: (EventKind.DRAM_RETIREMENT, 0),
        0x800: (EventKind.DRAM_RETIREMENT, 1),
        0x1000: (EventKind.POISON, 0),
        0x2000: (EventKind.POISON, 1),
        0x4000: (EventKind.UNAVAILABLE, 0),
        0x8000: (EventKind.RECOVERY_ACTION, 0),
    }
)
"""The other types of event that are of use, and what they are; NVML gives them no data."""
_TYPES: Final = _XID | sum(_KINDS)
_EVENT_WAIT_MS: Final = 1_000
_EVENT: Final = struct.Struct("<QQQII")  # nvmlEventData_t: device, type, data, two instances
_OVER: Final = (UNINITIALIZED, DRIVER_NOT_LOADED, INVALID_ARGUMENT)
"""The set, or the driver, is gone: its owner will notice, and wait with a new set."""

# nvmlSystemEvent*: versions, types and the sizes of the requests.
_SET_V1: Final = 0x1000010
_REGISTER_V1: Final = 0x1000018
_WAIT_V1: Final = 0x1000020
_BIND_AND_UNBIND: Final = 0x3
_SYSTEM_EVENTS_MAX: Final = 8
_SYSTEM_EVENT_BYTES: Final = 16


class _Comings:
    """GPUs that the driver is bound to or unbound from, where the library tells of it."""

    def __init__(self) -> None:
        self._set = 0
        request = Memory(16)
        struct.pack_into("<IxxxxQ", request.bytes, 0, _SET_V1, 0)
        if function("nvmlSystemEventSetCreate")(request.pointer()) != 0:
            return
        (created,) = struct.unpack_from("<8xQ", request.bytes)
        register = Memory(24)
        struct.pack_into("<IxxxxQQ", register.bytes, 0, _REGISTER_V1, _BIND_AND_UNBIND, created)
        self._set = created
        if function("nvmlSystemRegisterEvents")(register.pointer()) != 0:
            self.free()
            return
        self._data = Memory(_SYSTEM_EVENT_BYTES * _SYSTEM_EVENTS_MAX)
        self._request = Memory(32)
        self._wait = function("nvmlSystemEventSetWait")

    @property
    def listens(self) -> bool:
        """Whether the library tells of them."""
        return self._set != 0

    def seen(self) -> bool:
        """Whether any came or went since this was last asked. Does not wait."""
        if not self._set:
            return False
        data = self._data.address
        struct.pack_into(
            "<IIQQII",
            self._request.bytes,
            0,
            _WAIT_V1,
            0,
            self._set,
            data,
            _SYSTEM_EVENTS_MAX,
            0,
        )
        code = self._wait(self._request.pointer())
        number: int = struct.unpack_from("<28xI", self._request.bytes)[0]
        return code == 0 and number > 0

    def free(self) -> None:
        """Gives the set back."""
        request = Memory(16)
        struct.pack_into("<IxxxxQ", request.bytes, 0, _SET_V1, self._set)
        if self._set:
            function("nvmlSystemEventSetFree")(request.pointer())
        self._set = 0


class Events:
    """Waits for events in a thread: ctypes lets go of the interpreter while NVML waits."""

    def __init__(
        self, devices: list[tuple[object, str]], happened: Callable[[str, int, int], None]
    ) -> None:
        self._happened = happened
        self._stopping = threading.Event()
        self._uuids = {address_of(handle): uuid for handle, uuid in devices}
        self._thread: threading.Thread | None = None
        try:
            self._set = binding.event_set_create()
        except NvmlError:
            return  # no events from this driver: polls still see everything but Xids
        self._comings = _Comings()
        registered = [uuid for handle, uuid in devices if self._register(handle)]
        if registered or self._comings.listens:
            self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Returns when no call of this set is in the driver any more."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None
            self._comings.free()
            try:
                binding.event_set_free(self._set)
            except NvmlError:
                return  # freed with the driver

    def _register(self, handle: object) -> bool:
        try:
            types = binding.event_types(handle) & _TYPES
            if types:
                binding.register_events(handle, types, self._set)
        except NvmlError:
            return False
        return bool(types)

    def _run(self) -> None:
        """Once a second where nothing happens, and without the cost of an exception for it."""
        event = Memory(_EVENT.size)
        wait = function("nvmlEventSetWait_v2")
        where = event.pointer()
        while not self._stopping.is_set():
            code = wait(self._set, where, _EVENT_WAIT_MS)
            if code in _OVER:
                return
            if code == 0:
                device, kind, data, _, _ = _EVENT.unpack_from(event.bytes)
                self._tell(self._uuids.get(device, ""), kind, data)
            elif code != TIMEOUT:  # a lost GPU makes every wait fail at once
                self._stopping.wait(_EVENT_WAIT_MS / 1000)
            if self._comings.seen():
                self._happened("", 0, 0)

    def _tell(self, uuid: str, types: int, data: int) -> None:
        if types & _XID:
            self._happened(uuid, int(EventKind.XID), min(data, UINT32_MAX))
        for bit, (kind, code) in _KINDS.items():
            if types & bit:
                self._happened(uuid, int(kind), code)
