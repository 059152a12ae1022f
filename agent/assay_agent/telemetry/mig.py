"""The instances of a GPU that is cut up, and what each of them does."""

from __future__ import annotations

import ctypes
from typing import Final

from assay_agent.telemetry import gpm
from assay_agent.telemetry.ask import ask, refused, why
from assay_agent.telemetry.binding import function
from assay_agent.telemetry.calls import NOT_FOUND, NOT_SUPPORTED, UINT32_MAX, Call
from assay_agent.telemetry.table import MIG_INSTANCES_MAX, MIG_MODE
from assay_core.leaves import Group, MigInstance, Reason

_ID: Final = Call(Group.USE, "nvmlDeviceGetGpuInstanceId", ())
_MEMORY: Final = Call(
    Group.USE,
    "nvmlDeviceGetAttributes_v2",
    (),
    "32xQ",
    otherwise=Call(
        Group.USE, "nvmlDeviceGetMemoryInfo", (), "Q16x", decode=lambda v: (_mib(v[0]),)
    ),
)
_COUNT: Final = Call(Group.USE, "nvmlDeviceGetMaxMigDeviceCount", ())


class Mig:
    """Whether a GPU is cut up, into what, and the samples of each instance."""

    def __init__(self, handle: object) -> None:
        self._handle = handle
        self._never = False
        self._failed = 0
        self._samplers: dict[int, gpm.Sampler] = {}
        self.on = False
        """In MIG mode, as last read."""
        self.shape: tuple[tuple[int, int], ...] | None = None
        """Number and memory of each instance, as last read; None before, or where unreadable."""

    def read_mode(self) -> bool:
        """Asks for the mode anew, unless this GPU has none. Raises GoneError and LostError."""
        if not self._never:
            answer = ask(MIG_MODE, self._handle)
            self._never = answer == NOT_SUPPORTED
            self._failed = answer if isinstance(answer, int) and not self._never else 0
            self.on = not isinstance(answer, int) and answer[0] == 1
        return self.on

    def read(self, metrics: gpm.Metrics) -> tuple[MigInstance, ...] | Reason:
        """Each instance, by its number. Raises GoneError and LostError."""
        found: dict[int, int] | Reason = self._instances() if self.read_mode() else {}
        if self._failed:
            found = why(self._failed, False)
        if isinstance(found, Reason):
            self.shape = None
            return found
        for number in tuple(self._samplers):
            if number not in found:
                self._samplers.pop(number).free()
        self.shape = tuple(sorted(found.items()))
        return tuple(
            MigInstance(number, memory_mib, self._activity(number, metrics))
            for number, memory_mib in self.shape
        )

    def wait_s(self) -> float:
        """How long until another sample of every instance makes sense."""
        return max((sampler.wait_s() for sampler in self._samplers.values()), default=0.0)

    def prime(self) -> None:
        """A first sample of each instance, so that the next read can tell what it does."""
        found = self._instances() if self.read_mode() else {}
        for number in found if isinstance(found, dict) else ():
            self._sampler(number).take()

    def free(self) -> None:
        """Gives every sample back."""
        for sampler in self._samplers.values():
            sampler.free()
        self._samplers = {}

    def _sampler(self, number: int) -> gpm.Sampler:
        if number not in self._samplers:
            self._samplers[number] = gpm.Sampler(self._handle, number)
        return self._samplers[number]

    def _activity(
        self, number: int, metrics: gpm.Metrics
    ) -> tuple[int, int, int, int, int] | Reason:
        sampler = self._sampler(number)
        if sampler.wait_s() > 0:
            return Reason.NOT_SAMPLED
        answer = sampler.measure(metrics)
        if answer is None:
            return Reason.NOT_SAMPLED
        if isinstance(answer, int):
            return why(answer, False)
        shares: list[int] = []
        for code, value in zip(*answer, strict=True):
            share = why(code, False) if code != 0 else gpm.rounded(value, 100)
            if isinstance(share, Reason):
                return share
            shares.append(share)
        graphics, sm, occupancy, tensor, dram = shares
        return graphics, sm, occupancy, tensor, dram

    def _instances(self) -> dict[int, int] | Reason:
        """Memory of each GPU instance, MiB, by its number; seen through what runs in it."""
        count = ask(_COUNT, self._handle)
        if isinstance(count, int):
            return why(count, False)
        most = count[0]
        if not isinstance(most, int) or most > MIG_INSTANCES_MAX:
            return Reason.INVALID_VALUE
        found: dict[int, int] = {}
        for place in range(most):
            handle = ctypes.c_void_p()
            code = function("nvmlDeviceGetMigDeviceHandleByIndex")(
                self._handle, place, ctypes.byref(handle)
            )
            if refused(code) == NOT_FOUND:
                continue
            number, memory = (0, 0) if code != 0 else (ask(_ID, handle), ask(_MEMORY, handle))
            for answer in (code, number, memory):
                if isinstance(answer, int) and answer != 0:
                    return why(answer, False)
            instance = _instance(number, memory)
            if instance is None:
                return Reason.INVALID_VALUE
            found[instance[0]] = instance[1]
        return found


def _instance(number: object, memory: object) -> tuple[int, int] | None:
    """The two numbers, where they can be."""
    if isinstance(number, tuple | list) and isinstance(memory, tuple | list):
        first, second = number[0], memory[0]
        if isinstance(first, int) and isinstance(second, int):
            return (first, second) if first < UINT32_MAX and 0 < second < UINT32_MAX else None
    return None


def _mib(size: object) -> int:
    return size // 2**20 if isinstance(size, int) else 0
