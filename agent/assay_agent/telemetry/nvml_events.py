"""Xid events of the driver, waited for in a thread beside the one that reads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from assay_agent.telemetry import binding
from assay_agent.telemetry.binding import NvmlError, address_of, code_of
from assay_agent.telemetry.fields import (
    DRIVER_NOT_LOADED,
    INVALID_ARGUMENT,
    TIMEOUT,
    UINT32_MAX,
    UNINITIALIZED,
)

_XID_EVENTS: Final = 0x8  # nvmlEventTypeXidCriticalError
_EVENT_WAIT_MS: Final = 1_000
_OVER: Final = (UNINITIALIZED, DRIVER_NOT_LOADED, INVALID_ARGUMENT)
"""The set, or the driver, is gone: its owner will notice, and wait with a new set."""


class Events:
    """Waits for Xid events in a thread: ctypes lets go of the interpreter while NVML waits."""

    def __init__(
        self, devices: list[tuple[object, str]], happened: Callable[[str, int], None]
    ) -> None:
        self._happened = happened
        self._stopping = threading.Event()
        self._uuids = {address_of(handle): uuid for handle, uuid in devices}
        self._thread: threading.Thread | None = None
        try:
            self._set = binding.event_set_create()
        except NvmlError:
            return  # no events from this driver: polls still see everything but Xids
        if [uuid for handle, uuid in devices if self._register(handle)]:
            self._thread = threading.Thread(target=self._run, name="nvml-events", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Returns when no call of this set is in the driver any more."""
        if self._thread is not None:
            self._stopping.set()
            self._thread.join()
            self._thread = None
            try:
                binding.event_set_free(self._set)
            except NvmlError:
                return  # freed with the driver

    def _register(self, handle: object) -> bool:
        try:
            types = binding.event_types(handle) & _XID_EVENTS
            if types:
                binding.register_events(handle, types, self._set)
        except NvmlError:
            return False
        return bool(types)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                event = binding.event_set_wait(self._set, _EVENT_WAIT_MS)
            except NvmlError as error:
                if code_of(error) in _OVER:
                    return
                if code_of(error) != TIMEOUT:  # a lost GPU makes every wait fail at once
                    self._stopping.wait(_EVENT_WAIT_MS / 1000)
                continue
            if event.eventType & _XID_EVENTS:
                uuid = self._uuids.get(address_of(event.device), "")
                self._happened(uuid, min(event.eventData, UINT32_MAX))
