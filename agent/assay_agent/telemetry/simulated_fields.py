"""What a simulated GPU says, field by field: a function of its model, its load and its faults.

Where a capture of the model says something (models.py), that is what it says; the rest is made up
so that it hangs together: energy is the integral of power, traffic that of the load, clocks slow
down while it is too hot, and what waits for a reset waits until one comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from assay_agent.telemetry import shapes
from assay_agent.telemetry.models import MIB, Model
from assay_agent.telemetry.reading import Sample
from assay_agent.telemetry.scenario import (
    Ecc,
    GpuFault,
    InforomCorrupted,
    Load,
    Mig,
    NvlinkDown,
    PcieReplays,
    PowerBrake,
    RecoveryAction,
    RemapFailed,
    RemapPending,
    SramThreshold,
    Thermal,
    UnrepairableMemory,
)
from assay_core.leaves import MigInstance, Reason, Tenancy

_IDLE_REASON: Final = 0x1  # nvmlClocksEventReasonGpuIdle
_THERMAL_REASONS: Final = 0x60  # software and hardware thermal slowdown
_BRAKE_REASON: Final = 0x80  # hardware power brake slowdown
_JITTER_BPS: Final = 100
_DEDICATED: Final = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_GPM_LOADED_PCT: Final = {
    "graphics_activity_pct": 100,
    "sm_activity_pct": 97,
    "sm_occupancy_pct": 45,
    "tensor_activity_pct": 55,
    "dram_activity_pct": 40,
    "fp64_activity_pct": 0,
    "fp32_activity_pct": 12,
    "fp16_activity_pct": 3,
    "pcie_tx_mibps": 600,
    "pcie_rx_mibps": 900,
    "nvlink_tx_mibps": 90_000,
    "nvlink_rx_mibps": 90_000,
}
"""At full load; made up."""
_TRAFFIC: Final = {"pcie_tx_bytes": "pcie_tx_mibps", "pcie_rx_bytes": "pcie_rx_mibps"}
_PCIE_ZERO: Final = (
    "pcie_replay_rollovers",
    "pcie_l0_to_recovery",
    "pcie_correctable_errors",
    "pcie_naks_received",
    "pcie_receiver_errors",
    "pcie_bad_tlps",
    "pcie_naks_sent",
    "pcie_bad_dllps",
    "pcie_non_fatal_errors",
    "pcie_fatal_errors",
    "pcie_unsupported_requests",
    "pcie_lcrc_errors",
    "pcie_lane_errors",
)
_NVLINK_ZERO: Final = ("nvlink_replay_errors", "nvlink_recovery_errors", "nvlink_crc_errors")
_NVLINK5_ZERO: Final = (
    "nvlink5_malformed_packets",
    "nvlink5_buffer_overruns",
    "nvlink5_receive_errors",
    "nvlink5_receive_remote_errors",
    "nvlink5_receive_general_errors",
    "nvlink5_integrity_errors",
    "nvlink5_discards",
    "nvlink5_recoveries_successful",
    "nvlink5_recoveries_failed",
    "nvlink5_recoveries",
    "nvlink5_effective_errors",
    "nvlink5_symbol_errors",
    "nvlink5_raw_ber_lane0",
    "nvlink5_raw_ber_lane1",
    "nvlink5_raw_ber",
    "nvlink5_effective_ber",
    "nvlink5_symbol_ber",
)
_NOT_ON_CAPTURES: Final = (
    "attestation_certificate_sha256",
    "chassis_serial",
    "slot_number",
    "tray_index",
    "platform_host_id",
    "platform_module_id",
)


@dataclass(frozen=True, slots=True)
class Moment:
    """One GPU so long after the start."""

    model: Model
    load: Load
    seed: int
    """The GPU's own."""
    place: int
    mig: int
    """Instances it was cut into from the start."""
    faults: tuple[GpuFault, ...]
    """Those that began, in order."""
    since_ms: int
    """When its driver loaded, after the start."""
    reset_ms: int
    """When it was last reset, by that or otherwise."""
    after_ms: int
    jitter: int
    """64 bits that change from second to second."""

    @property
    def share(self) -> float:
        """Of full load."""
        return shapes.share(self.load, self.seed, self.after_ms)

    @property
    def busy_s(self) -> float:
        """Seconds of full load since the driver loaded."""
        whole = shapes.busy_s(self.load, self.seed, self.after_ms)
        return whole - shapes.busy_s(self.load, self.seed, self.since_ms)

    @property
    def up_s(self) -> float:
        """Seconds since the driver loaded."""
        return (self.after_ms - self.since_ms) / 1_000

    @property
    def instances(self) -> int:
        """Into how many it is cut now."""
        cut = [fault.instances for fault in self.faults if isinstance(fault, Mig)]
        return cut[-1] if cut else self.mig

    def since_reset(self, fault: GpuFault) -> bool:
        """Whether nothing has undone it yet."""
        return fault.at_s * 1_000 >= self.reset_ms


def tick(of: Moment) -> dict[str, Sample]:
    """What moves from second to second."""
    share, model, idle, loaded = of.share, of.model, of.model.idle, of.model.loaded
    hot, braked = _thermal(of), _running(of, PowerBrake)
    temperature_mc = (
        hot * 1_000
        if hot is not None
        else _between(idle.temperature_c * 1_000, loaded.temperature_c * 1_000, share)
    )
    memory_mc: Sample = Reason.NOT_SUPPORTED
    if idle.memory_temperature_c is not None and loaded.memory_temperature_c is not None:
        memory_mc = _between(
            idle.memory_temperature_c * 1_000, loaded.memory_temperature_c * 1_000, share
        )
    power_mw = _between(idle.power_mw, loaded.power_mw, share)
    power_mw += power_mw * (of.jitter % (2 * _JITTER_BPS + 1) - _JITTER_BPS) // 10_000
    power_mw = min(power_mw, model.power_limit_mw)
    energy_mj = idle.power_mw * of.up_s + (loaded.power_mw - idle.power_mw) * of.busy_s
    works = share > 0
    slow = hot is not None or braked
    return {
        "temperature_mc": temperature_mc,
        "memory_temperature_mc": memory_mc,
        "temperature_margin_min_mc": model.throttle_c * 1_000 - temperature_mc,
        "slowdown_power_ns": 0,
        "slowdown_thermal_ns": _lasted_ns(of, Thermal),
        "slowdown_software_thermal_ns": _lasted_ns(of, Thermal),
        "slowdown_hardware_thermal_ns": _lasted_ns(of, Thermal),
        "slowdown_power_brake_ns": _lasted_ns(of, PowerBrake),
        "power_mw": power_mw,
        "power_instant_max_mw": min(power_mw + power_mw // 200, model.power_limit_mw),
        "power_limit_mw": model.power_limit_mw,
        "energy_mj": round(energy_mj),
        "memory_used_bytes": _between(0, loaded.memory_used_mib, share) * MIB,
        "sm_clock_mhz": (loaded if works else idle).sm_clock_mhz // (2 if slow else 1),
        "memory_clock_mhz": (loaded if works else idle).memory_clock_mhz,
        "clocks_event_reasons": (0 if works else _IDLE_REASON)
        | (_THERMAL_REASONS if hot is not None else 0)
        | (_BRAKE_REASON if braked else 0),
        "performance_state": 0 if works or idle.memory_clock_mhz > 1_000 else 8,
        **_work(of, share),
    }


def window(of: Moment) -> dict[str, Sample]:
    """What is worth one look a window."""
    return {**_memory(of), **_links(of), "tenancy": int(Tenancy.HOST)}


def day(of: Moment, identity: Mapping[str, Sample]) -> dict[str, Sample]:
    """What is costly or constant."""
    return {
        **identity,
        "inforom_valid": 0 if _any(of, InforomCorrupted) else 1,
        "inforom_checksum": 0x5EED_0000 + of.place,
        "odometer_s": (of.place + 1) * 1_000_000 + of.after_ms // 1_000,
        "bbx_flush_utc_ms": Reason.NOT_SUPPORTED,
        "power_smoothing_lifetime_pct": 100 if of.model.has_nvlink5 else Reason.NOT_SUPPORTED,
        "persistence_mode": 1,
    }


def constant(model: Model, place: int) -> dict[str, Sample]:
    """What a model's captures, or its maker, say of each card of it."""
    hopper = model.has_gpm
    return {
        "name": model.name,
        "board_part_number": model.board_part_number,
        "vbios_version": model.vbios_version,
        "inforom_image_version": model.inforom_image_version,
        "pci_bus_id": f"00000000:{0x10 + place:02X}:00.0",
        "pci_device_id": model.pci_device_id,
        "pci_subsystem_id": model.pci_subsystem_id,
        "memory_total_bytes": model.memory_total_mib * MIB,
        "power_limit_default_mw": model.power_limit_mw,
        "architecture": model.architecture,
        "board_id": (0x10 + place) << 8,
        "module_id": place % 8 + 1,
        "minor_number": place,
        "index": place,
        "power_limit_min_mw": model.power_limit_min_mw,
        "power_limit_max_mw": model.power_limit_mw,
        "pcie_generation_max": model.pcie_generation,
        "pcie_width_max": 16,
        "tlimit_shutdown_mc": model.tlimit_shutdown_mc,
        "tlimit_slowdown_mc": -2_000,
        "tlimit_memory_max_mc": 0 if hopper and model.nvlinks else Reason.NOT_SUPPORTED,
        "tlimit_gpu_max_mc": 0,
        "nvlink_count": model.nvlinks or Reason.NOT_SUPPORTED,
        **dict.fromkeys(_NOT_ON_CAPTURES, Reason.NOT_SUPPORTED),
    }


def _work(of: Moment, share: float) -> dict[str, Sample]:
    """Utilisation and traffic; a GPU that is cut up tells them by its instances."""
    cut = of.instances
    gpm: dict[str, Sample]
    if not of.model.has_gpm:
        gpm = dict.fromkeys(_GPM_LOADED_PCT, Reason.NOT_SUPPORTED)
    elif cut:
        gpm = dict.fromkeys(_GPM_LOADED_PCT, Reason.HIDDEN_BY_MIG)
    else:
        gpm = {name: round(most * share) for name, most in _GPM_LOADED_PCT.items()}
        if not of.model.nvlinks:
            gpm |= dict.fromkeys(("nvlink_tx_mibps", "nvlink_rx_mibps"), Reason.NOT_SUPPORTED)
    return {
        "gpu_utilisation_bps": Reason.HIDDEN_BY_MIG if cut else _between(0, 100, share) * 100,
        "memory_utilisation_bps": Reason.HIDDEN_BY_MIG
        if cut
        else _between(0, of.model.loaded.memory_utilisation_pct, share) * 100,
        "compute_process_count": int(share > 0),
        **{name: round(_GPM_LOADED_PCT[rate] * MIB * of.busy_s) for name, rate in _TRAFFIC.items()},
        **gpm,
        "mig_instances": tuple(_instance(of, number, cut, share) for number in range(cut)),
    }


def _instance(of: Moment, number: int, cut: int, share: float) -> MigInstance:
    shares = [round(most * share) for most in list(_GPM_LOADED_PCT.values())[:5]]
    graphics, sm, occupancy, tensor, dram = shares
    activity = (graphics, sm, occupancy, tensor, dram)
    return MigInstance(
        number,
        of.model.memory_total_mib // max(cut, 1),
        activity if of.model.has_gpm else Reason.NOT_SUPPORTED,
    )


def _memory(of: Moment) -> dict[str, Sample]:
    """ECC, remapped rows, and the verdicts on them."""
    ecc = [fault for fault in of.faults if isinstance(fault, Ecc)]
    volatile = [fault for fault in ecc if of.since_reset(fault)]
    corrected, uncorrected = _sum(ecc)
    failed = _any(of, RemapFailed)
    rows = [fault for fault in of.faults if isinstance(fault, RemapPending)]
    remapped = sum(fault.rows for fault in rows) + failed
    # A new row a bank, as they come.
    touched = min(remapped, of.model.banks)
    pending = any(of.since_reset(fault) for fault in rows)
    sram = int(_any(of, SramThreshold) > 0)
    actions = [
        fault.action
        for fault in of.faults
        if isinstance(fault, RecoveryAction) and of.since_reset(fault)
    ]
    counters = {
        "ecc_enabled": 1,
        "ecc_corrected_volatile": _sum(volatile)[0],
        "ecc_uncorrected_volatile": _sum(volatile)[1],
        "ecc_corrected_aggregate": corrected,
        "ecc_uncorrected_aggregate": uncorrected + 8 * sram,
        "recovery_action": actions[-1] if actions else 0,
        "ecc_sram_corrected": 0,
        "ecc_sram_uncorrected_parity": 0,
        "ecc_sram_uncorrected_secded": 8 * sram,
        "ecc_sram_l2": 8 * sram,
        "ecc_sram_sm": 0,
        "ecc_sram_microcontroller": 0,
        "ecc_sram_pcie": 0,
        "ecc_sram_other": 0,
        "ecc_sram_threshold_exceeded": sram,
        "ecc_dram_corrected": corrected,
        "ecc_dram_uncorrected": uncorrected,
        "unrepairable_memory": int(_any(of, UnrepairableMemory) > 0),
        "repair_channel_pending": 0,
        "repair_tpc_pending": 0,
        "mig_mode": int(of.instances > 0),
    }
    remaps = {
        "remapped_rows_corrected": 0,
        "remapped_rows_uncorrected": remapped,
        "remap_pending": int(pending),
        "remap_failed": min(failed, 1),
        "remap_banks_max": of.model.banks - touched,
        "remap_banks_high": touched - min(failed, touched),
        "remap_banks_partial": 0,
        "remap_banks_low": 0,
        "remap_banks_none": min(failed, touched),
        "remapped_rows_corrected_inactive": 0,
        "remapped_rows_uncorrected_inactive": 0,
    }
    hidden: dict[str, Sample] = dict.fromkeys(remaps, Reason.HIDDEN_BY_MIG)
    retired = ("retired_pages_single_bit", "retired_pages_double_bit", "retired_pages_pending")
    return {
        **counters,
        **(hidden if of.instances else remaps),
        **dict.fromkeys(retired, Reason.NOT_SUPPORTED),  # Ampere and newer remap rows instead
    }


def _links(of: Moment) -> dict[str, Sample]:
    """PCIe, NVLink and the fabric."""
    model, links = of.model, of.model.nvlinks
    down = {
        fault.link
        for fault in of.faults
        if isinstance(fault, NvlinkDown) and of.since_reset(fault) and _lasts(fault, of.after_ms)
    }
    replays = sum(
        fault.count
        for fault in of.faults
        if isinstance(fault, PcieReplays) and of.since_reset(fault)
    )
    nothing: Sample = Reason.NOT_SUPPORTED
    zeros: Sample = (0,) * links if links else nothing
    states = tuple(int(link not in down) for link in range(links))
    return {
        "pcie_replays": replays,
        "pcie_generation": model.pcie_generation,
        "pcie_width": 16,
        **dict.fromkeys(_PCIE_ZERO, 0),
        "nvlink_states": states if links else nothing,
        "nvlink_speeds_mbps": tuple(model.nvlink_mbps * up for up in states) if links else nothing,
        **dict.fromkeys(_NVLINK_ZERO, nothing if model.has_nvlink5 else zeros),
        **dict.fromkeys(_NVLINK5_ZERO, zeros if model.has_nvlink5 else nothing),
        "fabric_cluster_uuid": "0" * 32 if links else nothing,
        "fabric_clique_id": 0 if links else nothing,
        "fabric_state": _DEDICATED if links else nothing,
        "fabric_status": 0 if links else nothing,
        "fabric_health_mask": nothing,
        "fabric_health_summary": nothing,
    }


def _sum(faults: Iterable[Ecc]) -> tuple[int, int]:
    """Errors corrected and not."""
    found = tuple(faults)
    return sum(one.corrected for one in found), sum(one.uncorrected for one in found)


def _any(of: Moment, kind: type[GpuFault]) -> int:
    """How many faults of a kind have begun."""
    return sum(isinstance(fault, kind) for fault in of.faults)


def _thermal(of: Moment) -> int | None:
    """How hot a thermal fault makes it now, degrees Celsius."""
    hot = [
        fault.celsius
        for fault in of.faults
        if isinstance(fault, Thermal) and _lasts(fault, of.after_ms)
    ]
    return max(hot, default=None)


def _running(of: Moment, kind: type[PowerBrake]) -> bool:
    return any(isinstance(fault, kind) and _lasts(fault, of.after_ms) for fault in of.faults)


def _lasts(fault: Thermal | PowerBrake | NvlinkDown, after_ms: int) -> bool:
    return fault.for_s is None or after_ms < (fault.at_s + fault.for_s) * 1_000


def _lasted_ns(of: Moment, kind: type[Thermal | PowerBrake]) -> int:
    """For how long faults of a kind held the clocks down since the driver loaded, nanoseconds."""
    spans = sorted(
        (max(fault.at_s * 1_000, of.since_ms), (fault.at_s + fault.for_s) * 1_000)
        for fault in of.faults
        if isinstance(fault, kind)
    )
    total_ms = reached_ms = 0
    for begin_ms, end_ms in spans:
        first, last = max(begin_ms, reached_ms), min(end_ms, of.after_ms)
        total_ms += max(0, last - first)
        reached_ms = max(reached_ms, last)
    return total_ms * 1_000_000


def _between(idle: int, loaded: int, share: float) -> int:
    return idle + round((loaded - idle) * share)
