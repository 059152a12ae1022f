"""Readings by the names of NVIDIA's dcgm-exporter, for dashboards that know no others.

Off by default. Names, units and labels are those of its default counters (etc/default-counters.csv
and etc/dcp-metrics-included.csv). Its label Hostname is left out: the scrape's own `instance` says
where a series comes from. What we do not read in its unit is not imitated.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, Protocol

from assay_agent.metrics.text import Family, Kind, Row, labels
from assay_core.leaves import Incident, IncidentKind, Reason

if TYPE_CHECKING:
    from assay_agent.telemetry.reading import Sample

_MIB: Final = 1024 * 1024


class Gpu(Protocol):
    """What is known of a GPU."""

    @property
    def uuid(self) -> str:
        """As NVML writes it."""
        ...

    @property
    def values(self) -> Mapping[str, Sample]:
        """Its fields."""
        ...

    @property
    def incidents(self) -> tuple[Incident, ...]:
        """Its open incidents."""
        ...

    def text(self, name: str) -> str:
        """A field for a label; empty where it has no value."""
        ...


def _gauge(name: str, words: str, source: str, divisor: float = 1) -> tuple[Family, str, float]:
    return Family(name, Kind.GAUGE, words), source, divisor


_TABLE: Final = (
    _gauge("DCGM_FI_DEV_SM_CLOCK", "SM clock, MHz", "sm_clock_mhz"),
    _gauge("DCGM_FI_DEV_MEM_CLOCK", "Memory clock, MHz", "memory_clock_mhz"),
    _gauge("DCGM_FI_DEV_GPU_TEMP", "GPU temperature, degrees Celsius", "temperature_mc", 1_000),
    _gauge(
        "DCGM_FI_DEV_MEMORY_TEMP",
        "Memory temperature, degrees Celsius",
        "memory_temperature_mc",
        1_000,
    ),
    _gauge("DCGM_FI_DEV_POWER_USAGE", "Power draw, W", "power_mw", 1_000),
    _gauge("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since driver load, mJ", "energy_mj"),
    _gauge("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "PCIe packets sent again", "pcie_replays"),
    _gauge("DCGM_FI_DEV_GPU_UTIL", "GPU utilisation, percent", "gpu_utilisation_bps", 100),
    _gauge(
        "DCGM_FI_DEV_MEM_COPY_UTIL", "Memory utilisation, percent", "memory_utilisation_bps", 100
    ),
    _gauge("DCGM_FI_DEV_FB_USED", "Memory in use, MiB", "memory_used_bytes", _MIB),
    _gauge("DCGM_FI_DEV_FB_TOTAL", "Memory, MiB", "memory_total_bytes", _MIB),
    _gauge("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", "Corrected, volatile", "ecc_corrected_volatile"),
    _gauge("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "Uncorrected, volatile", "ecc_uncorrected_volatile"),
    _gauge("DCGM_FI_DEV_ECC_SBE_AGG_TOTAL", "Corrected, aggregate", "ecc_corrected_aggregate"),
    _gauge("DCGM_FI_DEV_ECC_DBE_AGG_TOTAL", "Uncorrected, aggregate", "ecc_uncorrected_aggregate"),
    _gauge("DCGM_FI_DEV_RETIRED_SBE", "Pages retired, single bit", "retired_pages_single_bit"),
    _gauge("DCGM_FI_DEV_RETIRED_DBE", "Pages retired, double bit", "retired_pages_double_bit"),
    _gauge("DCGM_FI_DEV_RETIRED_PENDING", "1 if a page waits", "retired_pages_pending"),
    _gauge(
        "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS",
        "Rows remapped after uncorrected errors",
        "remapped_rows_uncorrected",
    ),
    _gauge(
        "DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS",
        "Rows remapped after corrected errors",
        "remapped_rows_corrected",
    ),
    _gauge("DCGM_FI_DEV_ROW_REMAP_FAILURE", "1 if a row remap failed", "remap_failed"),
    _gauge("DCGM_FI_DEV_ROW_REMAP_PENDING", "1 if a row remap waits", "remap_pending"),
    _gauge("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "Graphics engine", "graphics_activity_pct", 100),
    _gauge("DCGM_FI_PROF_SM_ACTIVE", "SMs with a warp", "sm_activity_pct", 100),
    _gauge("DCGM_FI_PROF_SM_OCCUPANCY", "Warps resident on SMs", "sm_occupancy_pct", 100),
    _gauge("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "Tensor pipe", "tensor_activity_pct", 100),
    _gauge("DCGM_FI_PROF_DRAM_ACTIVE", "Memory interface", "dram_activity_pct", 100),
    _gauge("DCGM_FI_PROF_PIPE_FP64_ACTIVE", "FP64 pipes", "fp64_activity_pct", 100),
    _gauge("DCGM_FI_PROF_PIPE_FP32_ACTIVE", "FP32 pipes", "fp32_activity_pct", 100),
    _gauge("DCGM_FI_PROF_PIPE_FP16_ACTIVE", "FP16 pipes", "fp16_activity_pct", 100),
    _gauge("DCGM_FI_PROF_PCIE_TX_BYTES", "PCIe sent, bytes per second", "pcie_tx_mibps", 1 / _MIB),
    _gauge(
        "DCGM_FI_PROF_PCIE_RX_BYTES", "PCIe received, bytes per second", "pcie_rx_mibps", 1 / _MIB
    ),
)
"""Family, our field, and what the field is divided by. Its counters, too, are gauges here: the names
of counters end in _total and these do not. PromQL's rate() takes either."""

_XID: Final = Family(
    "DCGM_FI_DEV_XID_ERRORS",
    Kind.GAUGE,
    "Code of the latest Xid whose incident is open; no series where none is",
)


def families(read: Iterable[Gpu]) -> Iterator[tuple[Family, list[Row]]]:
    """Every family that we read, of the GPUs that were read."""
    named = [(gpu, _labels(gpu)) for gpu in read]
    for family, source, divisor in _TABLE:
        rows: list[Row] = []
        for gpu, marks in named:
            sample = gpu.values.get(source)
            if isinstance(sample, int) and not isinstance(sample, Reason):
                rows.append((marks, sample / divisor))
        yield family, rows
    xids = [
        (marks, max(found, key=lambda one: one.last_ms).code)
        for gpu, marks in named
        if (found := [one for one in gpu.incidents if one.kind is IncidentKind.XID])
    ]
    yield _XID, list(xids)


def _labels(gpu: Gpu) -> str:
    minor = gpu.text("minor_number")
    return labels(
        {
            "gpu": gpu.text("index"),
            "UUID": gpu.uuid,
            "pci_bus_id": gpu.text("pci_bus_id"),
            "device": f"nvidia{minor}" if minor else "",
            "modelName": gpu.text("name"),
        }
    )
