"""From the configuration to the source it names."""

from __future__ import annotations

from pathlib import Path

from assay_agent.config import SourceConfig
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import GpuSource
from assay_agent.telemetry.replay import ReplaySource
from assay_agent.telemetry.scenario import load
from assay_agent.telemetry.simulated import SimulatedSource
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
        return ReplaySource(Path(config.file))
    return SimulatedSource(load(Path(config.file)))
