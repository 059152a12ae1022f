"""NVIDIA's binding (nvidia-ml-py, the module pynvml) with types: the calls that are not data."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast

from assay_agent import lean


def _find_library(name: str) -> object:
    find: Callable[[str], object] = import_module("ctypes.util").find_library
    return find(name)


_util = ModuleType("ctypes.util")
vars(_util)["find_library"] = _find_library
# The binding takes find_library from there and never calls it. The module itself would bring
# subprocess, shutil and tempfile: 1.4 MiB in the driver's process.
with lean.instead("ctypes.util", _util):
    import pynvml


class _Coded(Protocol):
    value: int


class Event(Protocol):
    """c_nvmlEventData_t."""

    device: object
    eventType: int  # noqa: N815  # NVML's names
    eventData: int  # noqa: N815


class Getter(Protocol):
    """A call about one GPU."""

    def __call__(self, handle: object, /, *arguments: object) -> object:
        """What NVML answered. Raises NvmlError, or UnicodeDecodeError for a text."""
        ...


NvmlError: Final = pynvml.NVMLError
"""What every call raises for every code but 0."""

init: Callable[[], object] = pynvml.nvmlInit
shutdown: Callable[[], object] = pynvml.nvmlShutdown
driver_version: Callable[[], object] = pynvml.nvmlSystemGetDriverVersion
nvml_version: Callable[[], object] = pynvml.nvmlSystemGetNVMLVersion
count: Callable[[], int] = pynvml.nvmlDeviceGetCount
handle_by_index: Callable[[int], object] = pynvml.nvmlDeviceGetHandleByIndex
uuid: Callable[[object], str] = pynvml.nvmlDeviceGetUUID
mig_mode: Callable[[object], Sequence[int]] = pynvml.nvmlDeviceGetMigMode
event_set_create: Callable[[], object] = pynvml.nvmlEventSetCreate
event_set_free: Callable[[object], object] = pynvml.nvmlEventSetFree
event_set_wait: Callable[[object, int], Event] = pynvml.nvmlEventSetWait_v2
event_types: Callable[[object], int] = pynvml.nvmlDeviceGetSupportedEventTypes
register_events: Callable[[object, int, object], object] = pynvml.nvmlDeviceRegisterEvents


def function(name: str) -> Getter:
    """A getter of the table in fields.py, by pynvml's name."""
    return cast("Getter", getattr(pynvml, name))


def code_of(error: Exception) -> int:
    """NVML's return code, from the error that the binding made of it."""
    return cast("_Coded", error).value


def address_of(handle: object) -> int | None:
    """The pointer itself: NVML hands the same one to whoever asks for the same GPU."""
    return ctypes.cast(handle, ctypes.c_void_p).value  # type: ignore[arg-type]  # it is a pointer
