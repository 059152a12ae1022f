"""The agent's simulated hosts, polled and gathered as the agent does, without waiting for a clock."""

from __future__ import annotations

from typing import Final

from assay_agent.telemetry import scenario, simulation
from assay_agent.telemetry.reading import Depth, Poll, Sample
from assay_agent.window import Aggregator, Draft
from assay_core.header import CloseReason
from assay_core.instants import DAY_MS
from assay_core.leaves import DriverState

WINDOW_MS: Final = 300_000
_PLATFORM: Final[dict[str, Sample]] = {
    "kernel_module_version": "590.48.01",
    "library_path": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01",
    "library_inode": 1_234_567,
    "library_sha256": "5a" * 32,
    "library_package": "libnvidia-compute-590 590.48.01-0ubuntu1",
    "cc_feature": 0,
    "cc_environment": 0,
    "cc_devtools": 0,
    "cc_multi_gpu_mode": 0,
    "cc_gpus_ready": 0,
    "cuda_driver_version": 13_010,
    "kernel_log": "journal",
}


class SimulatedHost:
    """One host's windows of 5 minutes, in order, from a scenario."""

    def __init__(self, text: str, *, start_ms: int, boottime_ms: int, poll_ms: int) -> None:
        self._scene = scenario.parse(text, "made-up scenario")
        self._gpus = simulation.gpus_of(self._scene)
        self._start_ms, self._boottime_ms, self._poll_ms = start_ms, boottime_ms, poll_ms
        self._gather = Aggregator((), begin_utc_ms=start_ms, begin_boottime_ms=boottime_ms)
        self._after_ms = 0

    def window(self) -> Draft:
        """The next window. Its last poll reads deeper, as deep as a day once a day."""
        end_ms = self._after_ms + WINDOW_MS
        if self._after_ms == 0:
            self._gather.add(self._poll(0, Depth.DAY))
        for after_ms in range(self._after_ms + self._poll_ms, end_ms + 1, self._poll_ms):
            last = after_ms + self._poll_ms > end_ms
            daily = Depth.DAY if end_ms % DAY_MS == 0 else Depth.WINDOW
            self._gather.add(self._poll(after_ms, daily if last else Depth.TICK))
        draft = self._gather.draft(
            at_utc_ms=self._start_ms + end_ms,
            at_boottime_ms=self._boottime_ms + end_ms,
            close_reason=CloseReason.PERIOD,
        )
        self._gather.restart(draft)
        self._after_ms = end_ms
        return draft

    def _poll(self, after_ms: int, depth: Depth) -> Poll:
        host: dict[str, Sample] = {
            "driver_version": "590.48.01",
            "nvml_version": "13.590.48.01",
            "gpu_count": len(self._gpus),
        }
        if depth >= Depth.WINDOW:
            host |= {"pci_gpu_count": len(self._gpus), "hidden_gpus": (), "phantom_gpus": ()}
        if depth >= Depth.DAY:
            host |= _PLATFORM
        return Poll(
            at_utc_ms=self._start_ms + after_ms,
            at_boottime_ms=self._boottime_ms + after_ms,
            driver=DriverState.RUNNING,
            host=host,
            abandoned_processes=0,
            gpus=tuple(simulation.read(self._scene, gpu, after_ms, depth) for gpu in self._gpus),
            events=(),
        )
