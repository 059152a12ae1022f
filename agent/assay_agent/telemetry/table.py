"""What is asked of the driver, as data: each call and field id, its unit, bounds and depth."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Final

from assay_agent.telemetry.calls import (
    CORRUPTED_INFOROM,
    COUNT_MAX,
    UINT32_MAX,
    UINT64_MAX,
    Call,
    Entry,
    Field,
    LinkEntry,
)
from assay_agent.telemetry.reading import Depth
from assay_core.leaves import Group, Reason

CELSIUS_MAX: Final = 200
MEMORY_BYTES_MAX: Final = 2**50
POWER_MW_MAX: Final = 10_000_000
CLOCK_MHZ_MAX: Final = 20_000
NVLINKS_MAX: Final = 36
MIG_INSTANCES_MAX: Final = 16

_CORRECTED: Final = 0  # NVML_MEMORY_ERROR_TYPE_CORRECTED
_UNCORRECTED: Final = 1
_VOLATILE: Final = 0  # NVML_VOLATILE_ECC
_AGGREGATE: Final = 1
_DRAM: Final = 2  # NVML_MEMORY_LOCATION_DRAM
_MEMORY_V2: Final = 0x2000028  # the answer that tells reserved memory from used, as nvidia-smi does
_UNREPAIRABLE_V1: Final = 0x1000008
_UNTOUCHED: Final = 0xFFFFFFFF
_CERTIFICATE_BYTES_MAX: Final = 0x1400  # NVML_GPU_ATTESTATION_CERT_CHAIN_SIZE


def _unrepairable(words: Sequence[object]) -> Sequence[object]:
    """The flag, whichever of two layouts the library has.

    nvml.h declares the flag alone; NVIDIA's binding passes a version before it. Where the first
    word is no longer the version, it is the flag.
    """
    first, second = words
    return (second if first == _UNREPAIRABLE_V1 else first,)


def _flush_ms(values: Sequence[object]) -> Sequence[object]:
    """UTC milliseconds, from a time since 1970 whose unit no document gives.

    Judgement: the unit is the one in which it lies between 2000 and 2100; there is only one.
    """
    (value,) = values
    if isinstance(value, int):
        for unit in (1_000_000_000, 1_000_000, 1_000, 1):  # in a second
            if 946_684_800 <= value // unit < 4_102_444_800:
                return (value * 1_000 // unit,)
    return (Reason.INVALID_VALUE,)


def _certificate(values: Sequence[object]) -> Sequence[object]:
    """The SHA-256 of the chain, hexadecimal."""
    length, chain = values
    if not isinstance(length, int) or not isinstance(chain, bytes) or not 0 < length <= len(chain):
        return (Reason.INVALID_VALUE,)
    # hashlib would bring OpenSSL into the driver's process: four MiB on every host.
    sha256 = import_module("_sha2" if sys.version_info >= (3, 12) else "_sha256").sha256
    return (sha256(chain[:length]).hexdigest(),)


def _platform(values: Sequence[object]) -> Sequence[object]:
    """A GPU that is in no rack of NVIDIA's names no chassis: an empty text is no value."""
    chassis, *rest = values
    named = isinstance(chassis, bytes) and chassis.strip(b"\0 ")
    return (chassis if named else Reason.NOT_SUPPORTED, *rest)


def _fabric(values: Sequence[object]) -> Sequence[object]:
    """The cluster's UUID in hexadecimal; no health summary in an answer that has none."""
    cluster, *rest = values
    name = cluster.hex() if isinstance(cluster, bytes) else Reason.INVALID_VALUE
    return (name, *rest, Reason.SYMBOL_MISSING)[:6]


def _texts(group: Group, depth: Depth, *asked: tuple[str, str, int]) -> tuple[Call, ...]:
    return tuple(
        Call(group, function, (Field(name),), f"{size}s", depth, after=(size,))
        for name, function, size in asked
    )


def _number(group: Group, depth: Depth, function: str, field: Field) -> Call:
    return Call(group, function, (field,), depth=depth)


def _identity() -> tuple[Call, ...]:
    group, day = Group.IDENTITY, Depth.DAY
    return (
        *_texts(
            group,
            day,
            ("name", "nvmlDeviceGetName", 96),
            ("serial", "nvmlDeviceGetSerial", 30),
            ("board_part_number", "nvmlDeviceGetBoardPartNumber", 80),
            ("vbios_version", "nvmlDeviceGetVbiosVersion", 32),
            ("inforom_image_version", "nvmlDeviceGetInforomImageVersion", 16),
        ),
        Call(
            group,
            "nvmlDeviceGetPdi",
            (Field("pdi", UINT64_MAX - 1, 1),),
            "8xQ",
            day,
            preset=(0x1000010,),
        ),
        Call(
            group,
            "nvmlDeviceGetPciInfo_v3",
            (
                Field("pci_device_id", UINT32_MAX - 1, 1),
                Field("pci_subsystem_id", UINT32_MAX - 1),
                Field("pci_bus_id"),
            ),
            "28xII32s",
            day,
        ),
        Call(
            group,
            "nvmlDeviceGetMemoryInfo_v2",
            (Field("memory_total_bytes", MEMORY_BYTES_MAX, 1),),
            "8xQ24x",
            day,
            preset=(_MEMORY_V2,),
            otherwise=Call(group, "nvmlDeviceGetMemoryInfo", (), "Q16x"),
        ),
        *(
            _number(group, day, function, Field(name, high, low))
            for name, function, high, low in (
                (
                    "power_limit_default_mw",
                    "nvmlDeviceGetPowerManagementDefaultLimit",
                    POWER_MW_MAX,
                    1,
                ),
                ("architecture", "nvmlDeviceGetArchitecture", 1_000, 1),
                ("board_id", "nvmlDeviceGetBoardId", UINT32_MAX - 1, 0),
                ("module_id", "nvmlDeviceGetModuleId", 65_535, 0),
                ("minor_number", "nvmlDeviceGetMinorNumber", 2**20, 0),
                ("index", "nvmlDeviceGetIndex", 65_535, 0),
                ("pcie_generation_max", "nvmlDeviceGetMaxPcieLinkGeneration", 15, 1),
                ("pcie_width_max", "nvmlDeviceGetMaxPcieLinkWidth", 64, 1),
            )
        ),
        Call(
            group,
            "nvmlDeviceGetConfComputeGpuCertificate",
            (Field("attestation_certificate_sha256"),),
            f"4xI{0x1000}x{_CERTIFICATE_BYTES_MAX}s",
            day,
            decode=_certificate,
        ),
        Call(
            group,
            "nvmlDeviceGetPlatformInfo",
            (
                Field("chassis_serial"),
                Field("slot_number", 255),
                Field("tray_index", 255),
                Field("platform_host_id", 255),
                Field("platform_module_id", 255),
            ),
            "20x16sBBBxB3x",
            day,
            preset=(0x200002C,),
            decode=_platform,
        ),
    )


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
        _number(
            group, tick, "nvmlDeviceGetCurrPcieLinkGeneration", Field("pcie_generation", 15, 1)
        ),
        _number(group, tick, "nvmlDeviceGetCurrPcieLinkWidth", Field("pcie_width", 64, 1)),
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
            preset=(_MEMORY_V2,),
            otherwise=Call(group, "nvmlDeviceGetMemoryInfo", (), "16xQ"),
        ),
        _number(group, tick, "nvmlDeviceGetPowerUsage", Field("power_mw", POWER_MW_MAX)),
        Call(group, clock, (Field("sm_clock_mhz", CLOCK_MHZ_MAX),), given=(1,)),
        Call(group, clock, (Field("memory_clock_mhz", CLOCK_MHZ_MAX),), given=(2,)),
        Call(
            group,
            "nvmlDeviceGetCurrentClocksEventReasons",
            (Field("clocks_event_reasons", UINT64_MAX - 1),),
            "Q",
            otherwise=Call(group, "nvmlDeviceGetCurrentClocksThrottleReasons", (), "Q"),
        ),
        _number(group, tick, "nvmlDeviceGetPerformanceState", Field("performance_state", 15)),
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


def _memory_health() -> tuple[Call, ...]:
    group, window = Group.CONDITION, Depth.WINDOW
    sram = "uncorrected_parity uncorrected_secded corrected l2 sm pcie microcontroller other"
    banks = "max high partial low none"
    return (
        Call(
            group,
            "nvmlDeviceGetSramEccErrorStatus",
            (
                *(Field(f"ecc_sram_{name}", COUNT_MAX) for name in sram.split()),
                Field("ecc_sram_threshold_exceeded", 1),
            ),
            "8xQQQ24xQQQQQI4x",
            window,
            preset=(0x1000068,),
        ),
        Call(
            group,
            "nvmlDeviceGetRowRemapperHistogram",
            tuple(Field(f"remap_banks_{name}", 1_000_000) for name in banks.split()),
            "IIIII",
            window,
            hidden_by_mig=True,
        ),
        Call(
            group,
            "nvmlDeviceGetUnrepairableMemoryFlag_v1",
            (Field("unrepairable_memory", 1),),
            "II",
            window,
            preset=(_UNREPAIRABLE_V1, _UNTOUCHED),
            decode=_unrepairable,
        ),
        Call(
            group,
            "nvmlDeviceGetRepairStatus",
            (Field("repair_channel_pending", 1), Field("repair_tpc_pending", 1)),
            "4xII",
            window,
            preset=(0x100000C,),
        ),
    )


def _condition() -> tuple[Call, ...]:
    group, window, day = Group.CONDITION, Depth.WINDOW, Depth.DAY
    return (
        *_memory_health(),
        Call(
            group,
            "nvmlDeviceValidateInforom",
            (Field("inforom_valid", 1),),
            "",
            day,
            pointers=(),
            says=MappingProxyType({0: 1, CORRUPTED_INFOROM: 0}),
        ),
        _number(
            group,
            day,
            "nvmlDeviceGetInforomConfigurationChecksum",
            Field("inforom_checksum", UINT32_MAX),
        ),
        _number(group, day, "nvmlDeviceGetBBXTimeData_v1", Field("odometer_s", UINT32_MAX - 1)),
        Call(
            group,
            "nvmlDeviceGetLastBBXFlushTime",
            (Field("bbx_flush_utc_ms", COUNT_MAX, 1),),
            "Q8x",
            day,
            pointers=(0, 8),
            decode=_flush_ms,
        ),
        Call(
            group,
            "nvmlDeviceGetGpuFabricInfoV",
            (
                Field("fabric_cluster_uuid"),
                Field("fabric_status", UINT32_MAX - 1),
                Field("fabric_clique_id", UINT32_MAX),
                Field("fabric_state", 255),
                Field("fabric_health_mask", UINT32_MAX),
                Field("fabric_health_summary", 255),
            ),
            "4x16sIIIIB3x",
            window,
            preset=(0x3000028,),
            decode=_fabric,
            otherwise=Call(
                group,
                "nvmlDeviceGetGpuFabricInfoV",
                (),
                "4x16sIIII",
                preset=(0x2000024,),
                decode=_fabric,
            ),
        ),
        Call(
            group,
            "nvmlDeviceGetMigMode",
            (Field("mig_mode", 1),),
            "I4x",
            window,
            pointers=(0, 4),
        ),
        _number(group, window, "nvmlDeviceGetPersistenceMode", Field("persistence_mode", 1)),
    )


CALLS: Final[tuple[Call, ...]] = (*_identity(), *_health(), *_use(), *_condition())


def _entries(
    group: Group, depth: Depth, high: int, *asked: tuple[int, str], mig: bool = False
) -> tuple[Entry, ...]:
    return tuple(
        Entry(group, field_id, Field(name, high), depth, hidden_by_mig=mig)
        for field_id, name in asked
    )


def _ecc(field_id: int, name: str, *given: int) -> Entry:
    group = Group.HEALTH if len(given) == 2 else Group.CONDITION
    depth = Depth.TICK if group is Group.HEALTH else Depth.WINDOW
    older = (
        "nvmlDeviceGetTotalEccErrors"
        if group is Group.HEALTH
        else "nvmlDeviceGetMemoryErrorCounter"
    )
    otherwise = Call(group, older, (), "Q", given=given)
    return Entry(group, field_id, Field(name, COUNT_MAX), depth, otherwise)


_REMAPPED: Final = Call(
    Group.HEALTH, "nvmlDeviceGetRemappedRows", (), "IIII", pointers=(0, 4, 8, 12)
)
_LIMITS: Final = Call(
    Group.IDENTITY,
    "nvmlDeviceGetPowerManagementLimitConstraints",
    (),
    "II",
    pointers=(0, 4),
)


def _retired(field_id: int, name: str, cause: int) -> Entry:
    """Of retired pages only how many: their addresses are nobody's business."""
    older = Call(
        Group.CONDITION,
        "nvmlDeviceGetRetiredPages",
        (),
        given=(cause,),
        after=(None,),
        sizes=True,
    )
    return Entry(Group.CONDITION, field_id, Field(name, 100_000), Depth.WINDOW, older)


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
        *_entries(
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
        *_entries(group, Depth.TICK, COUNT_MAX, (197, "pcie_tx_bytes"), (198, "pcie_rx_bytes")),
    )


def _identity_entries() -> tuple[Entry, ...]:
    group, day = Group.IDENTITY, Depth.DAY
    tlimits = "tlimit_shutdown_mc tlimit_slowdown_mc tlimit_memory_max_mc tlimit_gpu_max_mc"
    return (
        *(
            Entry(group, field_id, Field(name, POWER_MW_MAX), day, _LIMITS, item)
            for item, (field_id, name) in enumerate(
                ((187, "power_limit_min_mw"), (188, "power_limit_max_mw"))
            )
        ),
        *(
            Entry(group, field_id, Field(name, CELSIUS_MAX, -CELSIUS_MAX, 1_000), day)
            for field_id, name in enumerate(tlimits.split(), 193)
        ),
        *_entries(group, day, NVLINKS_MAX, (91, "nvlink_count")),
    )


def _condition_entries() -> tuple[Entry, ...]:
    group, window = Group.CONDITION, Depth.WINDOW
    aer = (
        "correctable_errors naks_received receiver_errors bad_tlps naks_sent bad_dllps"
        " non_fatal_errors fatal_errors unsupported_requests lcrc_errors lane_errors"
    )
    return (
        _ecc(22, "ecc_dram_corrected", _CORRECTED, _AGGREGATE, _DRAM),
        _ecc(23, "ecc_dram_uncorrected", _UNCORRECTED, _AGGREGATE, _DRAM),
        *_entries(
            group,
            window,
            UINT32_MAX - 1,
            (301, "remapped_rows_corrected_inactive"),
            (302, "remapped_rows_uncorrected_inactive"),
            mig=True,
        ),
        _retired(29, "retired_pages_single_bit", 0),
        _retired(30, "retired_pages_double_bit", 1),
        Entry(
            group,
            31,
            Field("retired_pages_pending", 1),
            window,
            Call(group, "nvmlDeviceGetRetiredPagesPendingStatus", ()),
        ),
        *_entries(group, window, 100, (258, "power_smoothing_lifetime_pct")),
        *_entries(
            group,
            window,
            COUNT_MAX,
            (95, "pcie_replay_rollovers"),
            (169, "pcie_l0_to_recovery"),
            *((field_id, f"pcie_{name}") for field_id, name in enumerate(aer.split(), 173)),
        ),
    )


ENTRIES: Final[tuple[Entry, ...]] = (
    *_health_entries(),
    *_use_entries(),
    *_identity_entries(),
    *_condition_entries(),
)


NVLINK_SPEED: Final = 164
NVLINK_STATE: Final = 165
NVLINK_UP: Final = MappingProxyType({0: 0, 1: 1, 2: 1, 3: 0})
"""By state: inactive, active, asleep to save power, and with its traffic disabled."""


def _link_entries() -> tuple[LinkEntry, ...]:
    """The errors and the state of each link.

    What drifts on a healthy link (bit error rates, symbol errors) is looked at once a day: it
    would make every window's condition leaf a new one.
    """
    fifth = (
        "malformed_packets buffer_overruns receive_errors receive_remote_errors"
        " receive_general_errors integrity_errors discards recoveries_successful recoveries_failed"
        " recoveries raw_ber_lane0 raw_ber_lane1 raw_ber effective_errors effective_ber"
        " symbol_errors symbol_ber"
    )
    return (
        LinkEntry(NVLINK_STATE, Field("nvlink_states", 1, listed=True)),
        LinkEntry(NVLINK_SPEED, Field("nvlink_speeds_mbps", UINT32_MAX - 1, listed=True)),
        *(
            LinkEntry(field_id, Field(f"nvlink_{name}_errors", COUNT_MAX, listed=True))
            for field_id, name in ((161, "replay"), (162, "recovery"), (163, "crc"))
        ),
        *(
            LinkEntry(
                field_id,
                Field(f"nvlink5_{name}", UINT64_MAX - 1, listed=True),
                Depth.DAY if "_ber" in name or name == "symbol_errors" else Depth.WINDOW,
            )
            for field_id, name in enumerate(fifth.split(), 206)
        ),
    )


LINKS: Final[tuple[LinkEntry, ...]] = _link_entries()

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

_HOST_CALLS: Final[tuple[Call, ...]] = _texts(
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
    _number(
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
