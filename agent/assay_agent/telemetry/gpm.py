"""GPU performance monitoring: what lies between two samples of one GPU, or of one MIG instance.

Never in parallel: the library has crashed where it was. Samples are kept from poll to poll, and
freed with the GPU they are of.
"""

from __future__ import annotations

import ctypes
import struct
import time
from collections.abc import Sequence
from typing import Final

from assay_agent.telemetry.ask import Memory, refused
from assay_agent.telemetry.binding import function
from assay_core.leaves import Reason

APART_S: Final = 0.105
"""Samples closer than 0.1 s give no metrics."""
_VERSION: Final = 1
_HEAD: Final = struct.Struct("<IIQQ")  # nvmlGpmMetricsGet_t: version, number, two samples
_METRIC_BYTES: Final = 40
_METRICS_MAX: Final = 477
"""As many as the structure of the binding holds. The library is shown all of it."""


class Metrics:
    """A question for some metrics, asked again and again."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._number = len(ids)
        self._memory = Memory(_HEAD.size + _METRIC_BYTES * _METRICS_MAX)
        for place, metric in enumerate(ids):
            offset = _HEAD.size + _METRIC_BYTES * place
            struct.pack_into("<I", self._memory.bytes, offset, metric)
        self._get = function("nvmlGpmMetricsGet")
        self._pointer = self._memory.pointer()
        self._unpack = struct.Struct("<" + "4xid24x" * self._number).unpack_from

    def between(self, first: int, second: int) -> tuple[Sequence[int], Sequence[float]]:
        """Each metric's return code and value. Raises GoneError and LostError."""
        _HEAD.pack_into(self._memory.bytes, 0, _VERSION, self._number, first, second)
        code = refused(self._get(self._pointer))
        if code != 0:
            return (code,) * self._number, (0.0,) * self._number
        flat = self._unpack(self._memory.bytes, _HEAD.size)
        return flat[0::2], flat[1::2]


class Sampler:
    """Two samples of one GPU, or of one of its instances, taken in turn."""

    def __init__(self, handle: object, instance: int | None = None) -> None:
        self._get = function("nvmlGpmSampleGet" if instance is None else "nvmlGpmMigSampleGet")
        self._about = (handle,) if instance is None else (handle, instance)
        self._first, self._second = _allocated(), _allocated()
        self._taken_s: float | None = None

    def wait_s(self) -> float:
        """How long until another sample makes sense."""
        if self._taken_s is None:
            return 0.0
        return max(0.0, self._taken_s + APART_S - time.monotonic())

    def take(self) -> int:
        """Takes a sample; NVML's code. Raises GoneError and LostError."""
        if not self._first or not self._second:
            return refused(function("nvmlGpmSampleAlloc")(ctypes.byref(ctypes.c_void_p())))
        self._first, self._second = self._second, self._first
        code = refused(self._get(*self._about, ctypes.c_void_p(self._second)))
        self._taken_s = time.monotonic() if code == 0 else None
        return code

    def measure(self, metrics: Metrics) -> tuple[Sequence[int], Sequence[float]] | int | None:
        """Metrics since the last sample; None where there is none, or a code that says why not."""
        had_one = self._taken_s is not None
        code = self.take()
        if code != 0:
            return code
        return metrics.between(self._first, self._second) if had_one else None

    def free(self) -> None:
        """Gives both samples back."""
        for sample in (self._first, self._second):
            if sample:
                function("nvmlGpmSampleFree")(ctypes.c_void_p(sample))
        self._first = self._second = 0


def supported(handle: object) -> bool | int:
    """Whether a GPU has it, or NVML's code. Raises GoneError and LostError."""
    memory = Memory(8)
    struct.pack_into("<I", memory.bytes, 0, _VERSION)
    code = refused(function("nvmlGpmQueryDeviceSupport")(handle, memory.pointer()))
    return code if code != 0 else struct.unpack_from("<4xI", memory.bytes)[0] == 1


def rounded(value: float, high: int) -> int | Reason:
    """Half up to a whole number; INVALID_VALUE for what cannot be, and for what is no number."""
    return int(value + 0.5) if 0 <= value < high + 0.5 else Reason.INVALID_VALUE


def _allocated() -> int:
    sample = ctypes.c_void_p()
    code = refused(function("nvmlGpmSampleAlloc")(ctypes.byref(sample)))
    return sample.value or 0 if code == 0 else 0
