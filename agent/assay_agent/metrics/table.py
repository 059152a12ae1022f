"""Which metric each field of the schema is: derived from the field's name, exceptions listed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from assay_agent.metrics.text import Family, Kind
from assay_agent.metrics.words import WORDS
from assay_core import codec
from assay_core.leaves import Group

GPU_INFO: Final = (
    "name",
    "serial",
    "board_part_number",
    "pdi",
    "vbios_version",
    "inforom_image_version",
    "inforom_checksum",
    "pci_device_id",
    "pci_subsystem_id",
    "architecture",
    "board_id",
    "module_id",
    "minor_number",
    "index",
    "attestation_certificate_sha256",
    "chassis_serial",
    "slot_number",
    "tray_index",
    "platform_host_id",
    "platform_module_id",
    "fabric_cluster_uuid",
    "fabric_clique_id",
)
"""Names and numbers that are names: labels of assay_gpu_info, empty where there is no value."""
PLATFORM_INFO: Final = ("driver_version", "nvml_version", *codec.fields_of(Group.PLATFORM))
"""Labels of assay_platform_info."""
ELSEWHERE: Final = frozenset(
    {
        "pci_bus_id",  # a label of every series
        "polls",
        "events",
        "incidents",
        "tenancy",
        "clocks_event_reasons",
        "energy_lifetime_mj",
        "mig_instances",
    }
)
"""Fields with a way of their own into metrics, or, polls and events, with none: a window's."""
CLOCKS_EVENT_REASONS: Final = (
    (0x1, "gpu_idle"),
    (0x2, "applications_clocks_setting"),
    (0x4, "software_power_cap"),
    (0x8, "hardware_slowdown"),
    (0x10, "sync_boost"),
    (0x20, "software_thermal_slowdown"),
    (0x40, "hardware_thermal_slowdown"),
    (0x80, "hardware_power_brake_slowdown"),
    (0x100, "display_clock_setting"),
)
"""nvmlClocksEventReason* of nvml.h."""
MIG_ACTIVITIES: Final = (
    ("graphics_activity", "Share of time the graphics engine worked, GPM,"),
    ("sm_activity", "Share of SM time with a warp, GPM,"),
    ("sm_occupancy", "Warps resident, of the most there can be, GPM,"),
    ("tensor_activity", "Share of time the tensor cores worked, GPM,"),
    ("dram_activity", "Memory bandwidth in use, of the most there is, GPM,"),
)
"""In the order of MigInstance.activity."""

_UNITS: Final = {
    "mc": ("celsius", (1, 1_000)),
    "mw": ("watts", (1, 1_000)),
    "mj": ("joules", (1, 1_000)),
    "bps": ("ratio", (1, 10_000)),
    "pct": ("ratio", (1, 100)),
    "mhz": ("hertz", (1_000_000, 1)),
    "ns": ("seconds", (1, 1_000_000_000)),
    "s": ("seconds", (1, 1)),
    "bytes": ("bytes", (1, 1)),
    "mibps": ("bytes_per_second", (1024 * 1024, 1)),
    "mbps": ("bytes_per_second", (1_000_000, 1)),
    "ber": ("ratio", (1, 1)),
}
"""By the last word of a field's name: Prometheus' base unit, and what makes one of the other."""
_NAMES: Final = {
    # A poll reads the moment; the window keeps the most or the least of it.
    "power_instant_max_mw": "power_instant_mw",
    "temperature_margin_min_mc": "temperature_margin_mc",
    # One series a link.
    "nvlink_states": "nvlink_state",
    "nvlink_speeds_mbps": "nvlink_speed_mbps",
    "bbx_flush_utc_ms": "bbx_flush_timestamp_s",
    "nvlink5_raw_ber_lane0": "nvlink5_raw_lane0_ber",
    "nvlink5_raw_ber_lane1": "nvlink5_raw_lane1_ber",
    # The prefix says already whose it is; and a name in _count is a histogram's.
    "gpu_utilisation_bps": "utilisation_bps",
    "nvlink_count": "nvlinks",
    "fabric_health_summary": "fabric_health",  # nor is it a summary
    "compute_process_count": "compute_processes",
}
_SCALES: Final = {"bbx_flush_utc_ms": (1, 1_000)}
_COUNTERS: Final = frozenset(
    {
        "ecc_sram_corrected",
        "ecc_sram_uncorrected_parity",
        "ecc_sram_uncorrected_secded",
        "ecc_sram_l2",
        "ecc_sram_sm",
        "ecc_sram_microcontroller",
        "ecc_sram_pcie",
        "ecc_sram_other",
        "ecc_dram_corrected",
        "ecc_dram_uncorrected",
        "odometer_s",
        "pcie_replay_rollovers",
        "pcie_l0_to_recovery",
        "pcie_naks_received",
        "pcie_naks_sent",
        "pcie_bad_tlps",
        "pcie_bad_dllps",
        "pcie_unsupported_requests",
        "pcie_tx_bytes",
        "pcie_rx_bytes",
        "nvlink5_malformed_packets",
        "nvlink5_buffer_overruns",
        "nvlink5_discards",
        "nvlink5_recoveries_successful",
        "nvlink5_recoveries_failed",
        "nvlink5_recoveries",
    }
)
"""Totals that the schema tells as plain integers and that only rise; with every ..._errors."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A field and its metric."""

    field: str
    family: Family
    scale: tuple[int, int]
    """What the sample is multiplied and divided by."""
    packed: bool
    """Whether NVML packs a mantissa and an exponent into it."""

    def convert(self, sample: int) -> int | float:
        """The sample in the metric's unit."""
        if self.packed:
            # NVML_NVLINK_BER_MANTISSA_SHIFT 8 and _WIDTH 0xf, NVML_NVLINK_BER_EXP_WIDTH 0xff.
            return float(f"{(sample >> 8) & 0xF}e-{sample & 0xFF}")
        times, by = self.scale
        return sample * times if by == 1 else sample * times / by


def _reading(name: str, *, counter: bool) -> Reading:
    shown = _NAMES.get(name, name)
    stem, _, last = shown.rpartition("_")
    unit, scale = _UNITS.get(last, ("", (1, 1)))
    packed = last == "ber"
    stem = shown if packed else stem
    metric = f"assay_gpu_{stem}_{unit}" if unit else f"assay_gpu_{shown}"
    kind = Kind.COUNTER if counter else Kind.GAUGE
    family = Family(metric, kind, WORDS[name], unit)
    return Reading(name, family, _SCALES.get(name, scale), packed)


def _readings() -> tuple[Reading, ...]:
    found: list[Reading] = []
    for group in (Group.IDENTITY, Group.HEALTH, Group.CONDITION, Group.USE):
        for name, field in codec.fields_of(group).items():
            if name in ELSEWHERE or name in GPU_INFO:
                continue
            told = field.message_type is not None and field.message_type.name == "Counter"
            found.append(
                _reading(name, counter=told or name in _COUNTERS or name.endswith("_errors"))
            )
    return tuple(found)


READINGS: Final = _readings()
"""Every field that is a number of its own, in the schema's order."""
