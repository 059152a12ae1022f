"""What is asked of the driver about the shape a GPU is in: once a window, or once a day."""

from __future__ import annotations

from collections.abc import Sequence
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
    entries,
    number,
)
from assay_agent.telemetry.reading import Depth
from assay_core.leaves import Group, Reason

_CORRECTED: Final = 0  # NVML_MEMORY_ERROR_TYPE_CORRECTED
_UNCORRECTED: Final = 1
_AGGREGATE: Final = 1  # NVML_AGGREGATE_ECC
_DRAM: Final = 2  # NVML_MEMORY_LOCATION_DRAM
_UNREPAIRABLE_V1: Final = 0x1000008
_UNTOUCHED: Final = 0xFFFFFFFF


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


def _fabric(values: Sequence[object]) -> Sequence[object]:
    """The cluster's UUID in hexadecimal; no health summary in an answer that has none."""
    cluster, *rest = values
    name = cluster.hex() if isinstance(cluster, bytes) else Reason.INVALID_VALUE
    return (name, *rest, Reason.SYMBOL_MISSING)[:6]


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
        number(
            group,
            day,
            "nvmlDeviceGetInforomConfigurationChecksum",
            Field("inforom_checksum", UINT32_MAX),
        ),
        number(group, day, "nvmlDeviceGetBBXTimeData_v1", Field("odometer_s", UINT32_MAX - 1)),
        Call(
            group,
            "nvmlDeviceGetLastBBXFlushTime",
            (Field("bbx_flush_utc_ms", 4_102_444_800_000, 1),),  # to 2100, as it is decoded
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
        number(group, window, "nvmlDeviceGetPersistenceMode", Field("persistence_mode", 1)),
    )


def _dram(field_id: int, name: str, kind: int) -> Entry:
    older = Call(
        Group.CONDITION,
        "nvmlDeviceGetMemoryErrorCounter",
        (),
        "Q",
        given=(kind, _AGGREGATE, _DRAM),
    )
    return Entry(Group.CONDITION, field_id, Field(name, COUNT_MAX), Depth.WINDOW, older)


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


def _condition_entries() -> tuple[Entry, ...]:
    group, window = Group.CONDITION, Depth.WINDOW
    aer = (
        "correctable_errors naks_received receiver_errors bad_tlps naks_sent bad_dllps"
        " non_fatal_errors fatal_errors unsupported_requests lcrc_errors lane_errors"
    )
    return (
        _dram(22, "ecc_dram_corrected", _CORRECTED),
        _dram(23, "ecc_dram_uncorrected", _UNCORRECTED),
        *entries(
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
        *entries(group, window, 100, (258, "power_smoothing_lifetime_pct")),
        *entries(
            group,
            window,
            COUNT_MAX,
            (95, "pcie_replay_rollovers"),
            (169, "pcie_l0_to_recovery"),
            *((field_id, f"pcie_{name}") for field_id, name in enumerate(aer.split(), 173)),
        ),
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

CALLS: Final = _condition()
ENTRIES: Final = _condition_entries()
