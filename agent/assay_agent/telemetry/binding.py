"""NVIDIA's binding (nvidia-ml-py, the module pynvml) with types: the calls that are not data."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Final, Protocol, cast

from assay_agent import lean
from assay_agent.telemetry.calls import FUNCTION_NOT_FOUND


def _find_library(name: str) -> object:
    find: Callable[[str], object] = import_module("ctypes.util").find_library
    return find(name)


_util = ModuleType("ctypes.util")
vars(_util)["find_library"] = _find_library
# The binding takes find_library from there and never calls it. The module itself would bring
# subprocess, shutil and tempfile: 1.4 MiB in the driver's process.
with lean.instead("ctypes.util", _util):
    import pynvml


class Function(Protocol):
    """A function of the library itself, which returns NVML's code and raises nothing."""

    def __call__(self, *arguments: object) -> int:
        """NVML's return code."""
        ...


class _Coded(Protocol):
    value: int


class Certificate(Protocol):
    """c_nvmlConfComputeGpuCertificate_t, as far as it is read."""

    attestationCertChainSize: int  # noqa: N815 - NVML's names
    attestationCertChain: Sequence[int]  # noqa: N815


class Report(Protocol):
    """c_nvmlConfComputeGpuAttestationReport_t, as far as it is read."""

    attestationReportSize: int  # noqa: N815 - NVML's names
    attestationReport: Sequence[int]  # noqa: N815


class GoneError(Exception):
    """The driver was unloaded in the middle of a look."""


class LostError(Exception):
    """The GPU fell off its bus."""


NvmlError: Final = pynvml.NVMLError
"""What the binding's own functions raise for every code but 0."""

init: Callable[[], object] = pynvml.nvmlInit
shutdown: Callable[[], object] = pynvml.nvmlShutdown
count: Callable[[], int] = pynvml.nvmlDeviceGetCount
handle_by_index: Callable[[int], object] = pynvml.nvmlDeviceGetHandleByIndex
uuid: Callable[[object], str] = pynvml.nvmlDeviceGetUUID
event_set_create: Callable[[], object] = pynvml.nvmlEventSetCreate
event_set_free: Callable[[object], object] = pynvml.nvmlEventSetFree
event_types: Callable[[object], int] = pynvml.nvmlDeviceGetSupportedEventTypes
register_events: Callable[[object, int, object], object] = pynvml.nvmlDeviceRegisterEvents

certificate: Callable[[object], Certificate] = pynvml.nvmlDeviceGetConfComputeGpuCertificate
attestation_report: Callable[[object, bytes], Report] = (
    pynvml.nvmlDeviceGetConfComputeGpuAttestationReport
)

_pointer: Callable[[str], Function] = pynvml._nvmlGetFunctionPointer
"""As each function of the binding finds its own."""


def _missing(*_arguments: object) -> int:
    return FUNCTION_NOT_FOUND


def function(name: str) -> Function:
    """A function of the library; where it has none of this name, one that says so."""
    try:
        return _pointer(name)
    except NvmlError:
        return _missing


def code_of(error: Exception) -> int:
    """NVML's return code, from the error that the binding made of it."""
    return cast("_Coded", error).value


def address_of(handle: object) -> int | None:
    """The pointer itself: NVML hands the same one to whoever asks for the same GPU."""
    return ctypes.cast(handle, ctypes.c_void_p).value  # type: ignore[arg-type]  # it is a pointer
