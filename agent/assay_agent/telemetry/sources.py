"""From the configuration to the source it names."""

from __future__ import annotations

from pathlib import Path

from assay_agent.config import SourceConfig
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import GpuSource
from assay_core.errors import FileError


def make_source(config: SourceConfig) -> GpuSource:
    """The source of a configuration. Raises FileError for a scenario or trace that does not hold.

    Called inside the event loop that will poll it.
    """
    if config.kind == "nvml":
        return NvmlSource(config.timeout_ms)
    if config.file is None:
        raise FileError(f"source.file: {config.kind} needs a file")
    if config.kind == "replay":
        from assay_agent.telemetry.replay import ReplaySource  # noqa: PLC0415 - memory, as below

        return ReplaySource(Path(config.file))
    # A real host carries nothing of the simulation.
    from assay_agent.telemetry.scenario import load  # noqa: PLC0415
    from assay_agent.telemetry.simulated import SimulatedSource  # noqa: PLC0415

    return SimulatedSource(load(Path(config.file)))
