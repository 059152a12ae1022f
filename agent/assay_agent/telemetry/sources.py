"""From the configuration to the source it names."""

from __future__ import annotations

from pathlib import Path

from assay_agent.config import SourceConfig
from assay_agent.host import Clock
from assay_agent.telemetry.nvml import NvmlSource
from assay_agent.telemetry.reading import GpuSource
from assay_agent.telemetry.surroundings import Surroundings
from assay_core.errors import FileError


def make_source(config: SourceConfig, state_dir: Path | None = None) -> GpuSource:
    """The source of a configuration. Raises FileError for a scenario or trace that does not hold.

    With a state directory the source keeps in it how far it has read the kernel's log, and goes on
    from there. Called inside the event loop that will poll it.
    """
    if config.kind == "nvml":
        return Surroundings(
            NvmlSource(config.timeout_ms, host_root=config.host_root),
            utc_ms=Clock().utc_ms,
            root=Path(config.host_root),
            kernel_log=config.kernel_log,
            state_dir=state_dir,
        )
    if config.file is None:
        raise FileError(f"source.file: {config.kind} needs a file")
    if config.kind == "replay":
        from assay_agent.telemetry.replay import ReplaySource  # noqa: PLC0415 - memory, as below

        return ReplaySource(Path(config.file))
    # A real host carries nothing of the simulation.
    from assay_agent.telemetry.scenario import load  # noqa: PLC0415
    from assay_agent.telemetry.simulated import SimulatedSource  # noqa: PLC0415

    return SimulatedSource(load(Path(config.file)))
