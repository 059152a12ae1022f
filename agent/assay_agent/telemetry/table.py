"""What is asked of the driver, as data: each call and field id, its unit, bounds and depth.

Here is what moves from second to second, and what is asked of the host; the rest is brought in.
"""

from __future__ import annotations

from typing import Final

from assay_agent.telemetry import table_condition, table_identity
from assay_agent.telemetry.calls import (
    COUNT_MAX,
    UINT32_MAX,
    UINT64_MAX,
    Call,
    Entry,
    Field,
    entries,
    number,
    texts,
)
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.table_condition import LINKS, NVLINK_SPEED, NVLINK_STATE, NVLINK_UP
from assay_agent.telemetry.table_identity import (
    CELSIUS_MAX,
    MEMORY_BYTES_MAX,
    MEMORY_V2,
    NVLINKS_MAX,
    POWER_MW_MAX,
)
from assay_core.leaves import Group

__all__ = [
    "CALLS",
    "ENTRIES",
    "GPM",
    "HOST_CALLS",
    "HOST_NAMES",
    "LINKS",
    "MIG_INSTANCES",
    "MIG_INSTANCES_MAX",
    "MIG_METRICS",
    "MIG_MODE",
    "NVLINKS_MAX",
    "NVLINK_SPEED",
    "NVLINK_STATE",
    "NVLINK_UP",
    "PLATFORM_NAMES",
]

CLOCK_MHZ_MAX: Final = 20_000
MIG_INSTANCES_MAX: Final = 16

_CORRECTED: Final = 0  # NVML_MEMORY_ERROR_TYPE_CORRECTED
_UNCORRECTED: Final = 1
_VOLATILE: Final = 0  # NVML_VOLATILE_ECC
_AGGREGATE: Final = 1


def _health() -> tuple[Call, ...]:
    group, tick = Group.HEALTH, Depth.TICK
    celsius = Field("temperature_mc", CELSIUS_MAX, scale=1_000)
    return (
        Call(
            group,
            "nvmlDeviceGetTemperatureV",
            (celsius,),
            "8xi",
            preset=(0x100000C,),
            otherwise=Call(group, "nvmlDeviceGetTemperature", (), "i", given=(0,)),
        ),
        Call(
            group,
            "nvmlDeviceGetMarginTemperature",
            (Field("temperature_margin_min_mc", CELSIUS_MAX, -CELSIUS_MAX, 1_000),),
            "4xi",
            preset=(0x1000008,),
        ),
        number(group, tick, "nvmlDeviceGetCurrPcieLinkGeneration", Field("pcie_generation", 15, 1)),
        number(group, tick, "nvmlDeviceGetCurrPcieLinkWidth", Field("pcie_width", 64, 1)),
    )


def _use() -> tuple[Call, ...]:
    group, tick = Group.USE, Depth.TICK
    count = Field("compute_process_count", 1_000_000)
    clock = "nvmlDeviceGetClockInfo"
    return (
        Call(
            group,
            "nvmlDeviceGetUtilizationRates",
            (
                Field("gpu_utilisation_bps", 100, scale=100),
                Field("memory_utilisation_bps", 100, scale=100),
            ),
            "II",
            hidden_by_mig=True,
        ),
        Call(
            group,
            "nvmlDeviceGetMemoryInfo_v2",
            (Field("memory_used_bytes", MEMORY_BYTES_MAX),),
            "32xQ",
            preset=(MEMORY_V2,),
            otherwise=Call(group, "nvmlDeviceGetMemoryInfo", (), "16xQ"),
        ),
        number(group, tick, "nvmlDeviceGetPowerUsage", Field("power_mw", POWER_MW_MAX)),
        Call(group, clock, (Field("sm_clock_mhz", CLOCK_MHZ_MAX),), given=(1,)),
        Call(group, clock, (Field("memory_clock_mhz", CLOCK_MHZ_MAX),), given=(2,)),
        Call(
            group,
            "nvmlDeviceGetCurrentClocksEventReasons",
            (Field("clocks_event_reasons", UINT64_MAX - 1),),
            "Q",
            otherwise=Call(group, "nvmlDeviceGetCurrentClocksThrottleReasons", (), "Q"),
        ),
        number(group, tick, "nvmlDeviceGetPerformanceState", Field("performance_state", 15)),
        Call(  # how many, with no room for who: no process id ever enters our memory
            group,
            "nvmlDeviceGetComputeRunningProcesses_v3",
            (count,),
            depth=Depth.WINDOW,
            after=(None,),
            sizes=True,
            otherwise=Call(
                group, "nvmlDeviceGetComputeRunningProcesses_v2", (), after=(None,), sizes=True
            ),
        ),
    )


CALLS: Final[tuple[Call, ...]] = (
    *table_identity.CALLS,
    *_health(),
    *_use(),
    *table_condition.CALLS,
)


def _ecc(field_id: int, name: str, kind: int, counter: int) -> Entry:
    older = Call(Group.HEALTH, "nvmlDeviceGetTotalEccErrors", (), "Q", given=(kind, counter))
    return Entry(Group.HEALTH, field_id, Field(name, COUNT_MAX), otherwise=older)


_REMAPPED: Final = Call(
    Group.HEALTH, "nvmlDeviceGetRemappedRows", (), "IIII", pointers=(0, 4, 8, 12)
)


def _health_entries() -> tuple[Entry, ...]:
    group = Group.HEALTH
    return (
        Entry(group, 82, Field("memory_temperature_mc", CELSIUS_MAX, scale=1_000)),
        Entry(
            group,
            1,
            Field("ecc_enabled", 1),
            otherwise=Call(group, "nvmlDeviceGetEccMode", (), "I4x", pointers=(0, 4)),
        ),
        _ecc(3, "ecc_corrected_volatile", _CORRECTED, _VOLATILE),
        _ecc(4, "ecc_uncorrected_volatile", _UNCORRECTED, _VOLATILE),
        _ecc(5, "ecc_corrected_aggregate", _CORRECTED, _AGGREGATE),
        _ecc(6, "ecc_uncorrected_aggregate", _UNCORRECTED, _AGGREGATE),
        *(
            Entry(
                group,
                field_id,
                Field(name, high),
                otherwise=_REMAPPED,
                item=item,
                hidden_by_mig=True,
            )
            for item, (field_id, name, high) in enumerate(
                (
                    (142, "remapped_rows_corrected", UINT32_MAX - 1),
                    (143, "remapped_rows_uncorrected", UINT32_MAX - 1),
                    (144, "remap_pending", 1),
                    (145, "remap_failed", 1),
                )
            )
        ),
        Entry(group, 230, Field("recovery_action", 255)),
        *entries(
            group,
            Depth.TICK,
            COUNT_MAX,
            (74, "slowdown_power_ns"),
            (75, "slowdown_thermal_ns"),
            (269, "slowdown_software_thermal_ns"),
            (270, "slowdown_hardware_thermal_ns"),
            (271, "slowdown_power_brake_ns"),
        ),
        Entry(
            group,
            94,
            Field("pcie_replays", UINT32_MAX - 1),
            otherwise=Call(group, "nvmlDeviceGetPcieReplayCounter", ()),
        ),
    )


def _use_entries() -> tuple[Entry, ...]:
    group = Group.USE
    return (
        Entry(
            group,
            83,
            Field("energy_mj", COUNT_MAX),
            otherwise=Call(group, "nvmlDeviceGetTotalEnergyConsumption", (), "Q"),
        ),
        Entry(
            group,
            190,
            Field("power_limit_mw", POWER_MW_MAX),
            otherwise=Call(group, "nvmlDeviceGetEnforcedPowerLimit", ()),
        ),
        Entry(
            group,
            186,
            Field("power_instant_max_mw", POWER_MW_MAX),
        ),
        *entries(group, Depth.TICK, COUNT_MAX, (197, "pcie_tx_bytes"), (198, "pcie_rx_bytes")),
    )


ENTRIES: Final[tuple[Entry, ...]] = (
    *_health_entries(),
    *_use_entries(),
    *table_identity.ENTRIES,
    *table_condition.ENTRIES,
)
GPM: Final[tuple[tuple[int, Field], ...]] = tuple(
    (metric, Field(name, 100 if name.endswith("_pct") else 10_000_000))
    for metric, name in (
        (1, "graphics_activity_pct"),
        (2, "sm_activity_pct"),
        (3, "sm_occupancy_pct"),
        (5, "tensor_activity_pct"),
        (10, "dram_activity_pct"),
        (11, "fp64_activity_pct"),
        (12, "fp32_activity_pct"),
        (13, "fp16_activity_pct"),
        (20, "pcie_tx_mibps"),
        (21, "pcie_rx_mibps"),
        (61, "nvlink_tx_mibps"),
        (60, "nvlink_rx_mibps"),
    )
)
"""Metrics of nvmlGpmMetricsGet, read at every tick. Group use."""
MIG_METRICS: Final = (1, 2, 3, 5, 10)
"""Those of an instance, in the order of MigInstance.activity."""
MIG_MODE: Final = next(call for call in CALLS if call.function == "nvmlDeviceGetMigMode")
MIG_INSTANCES: Final = Field("mig_instances", UINT32_MAX, listed=True)

_HOST_CALLS: Final[tuple[Call, ...]] = texts(
    Group.HOST,
    Depth.TICK,
    ("driver_version", "nvmlSystemGetDriverVersion", 80),
    ("nvml_version", "nvmlSystemGetNVMLVersion", 80),
)
_PLATFORM_CALLS: Final[tuple[Call, ...]] = (
    Call(
        Group.PLATFORM,
        "nvmlSystemGetConfComputeState",
        (Field("cc_environment", 255), Field("cc_feature", 255), Field("cc_devtools", 1)),
        "III",
        Depth.DAY,
    ),
    Call(
        Group.PLATFORM,
        "nvmlSystemGetConfComputeSettings",
        (Field("cc_multi_gpu_mode", 255),),
        "16xI",
        Depth.DAY,
        preset=(0x1000014,),
    ),
    number(
        Group.PLATFORM,
        Depth.DAY,
        "nvmlSystemGetConfComputeGpusReadyState",
        Field("cc_gpus_ready", 1),
    ),
    Call(
        Group.PLATFORM,
        "nvmlSystemGetCudaDriverVersion_v2",
        (Field("cuda_driver_version", 1_000_000, 1),),
        depth=Depth.DAY,
        otherwise=Call(Group.PLATFORM, "nvmlSystemGetCudaDriverVersion", ()),
    ),
)
HOST_CALLS: Final = (*_HOST_CALLS, *_PLATFORM_CALLS)
"""What is asked of the library itself; beside it, gpu_count is what it enumerates."""
HOST_NAMES: Final = ("driver_version", "nvml_version", "gpu_count")
PLATFORM_NAMES: Final = tuple(field.name for call in _PLATFORM_CALLS for field in call.fields)
MODES: Final = tuple(call for call in _PLATFORM_CALLS if "GetConfComputeS" in call.function)
"""State and settings: whether the host is in a mode in which its GPUs sign."""
MODE_NAMES: Final = tuple(field.name for call in MODES for field in call.fields)
