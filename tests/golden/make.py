"""Makes the golden files: python -m tests.golden.make. Run it only when a schema is added.

Everything that goes in is fixed here, Ed25519 is deterministic, and so the files are too. The
tests check them with an implementation of their own, and that sealing still gives these bytes.
"""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import codec, disclosure, seal
from assay_core.header import CloseReason, GapCause, GapRecord, Period, Source
from assay_core.leaves import (
    HOST,
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Gauge,
    Group,
    Incident,
    IncidentKind,
    MigInstance,
    Reason,
    Severity,
    Tenancy,
)
from assay_core.verify import HostTrust

HERE = Path(__file__).parent
HOST_ID = "spiffe://example.test/site/golden/host/0011223344556677"
SIGNER = seal.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
SECRET = bytes(range(32, 64))
BOOT = bytes(range(64, 80))
GPU = bytes.fromhex("0a1b2c3d4e5f60718293a4b5c6d7e8f9")
BEGIN_MS = 1_795_000_000_000


def contents() -> list[Content]:
    """A host and one GPU: every group, values and reasons, events, real zeros, negative numbers."""
    identity = Content(
        GPU,
        Group.IDENTITY,
        {
            "name": "NVIDIA H100 80GB HBM3",
            "serial": "1650924000001",
            "board_part_number": "692-2G520-0200-000",
            "pdi": 0xFEDC_BA98_7654_3210,
            "vbios_version": "96.00.A5.00.01",
            "inforom_image_version": "G520.0200.00.05",
            "pci_bus_id": "00000000:18:00.0",
            "pci_device_id": 0x2330_10DE,
            "pci_subsystem_id": 0x16C1_10DE,
            "memory_total_bytes": 85_520_809_984,
            "power_limit_default_mw": 700_000,
            "architecture": 9,
            "board_id": 0x1800,
            "module_id": 1,
            "minor_number": 0,
            "index": 0,
            "power_limit_min_mw": 200_000,
            "power_limit_max_mw": 700_000,
            "pcie_generation_max": 5,
            "pcie_width_max": 16,
            "tlimit_shutdown_mc": -8_000,
            "tlimit_slowdown_mc": -2_000,
            "tlimit_memory_max_mc": 0,
            "tlimit_gpu_max_mc": 0,
            "nvlink_count": 18,
            "attestation_certificate_sha256": Reason.NOT_SUPPORTED,
            "chassis_serial": Reason.NOT_SUPPORTED,
            "slot_number": Reason.NOT_SUPPORTED,
            "tray_index": Reason.NOT_SUPPORTED,
            "platform_host_id": Reason.NOT_SUPPORTED,
            "platform_module_id": Reason.NOT_SUPPORTED,
        },
    )
    condition = Content(
        GPU,
        Group.CONDITION,
        dict.fromkeys(
            (name for name in codec.fields_of(Group.CONDITION) if name.startswith("nvlink5_")),
            Reason.NOT_SUPPORTED,
        )
        | dict.fromkeys(
            (
                "ecc_sram_corrected",
                "ecc_sram_uncorrected_parity",
                "ecc_sram_uncorrected_secded",
                "ecc_sram_l2",
                "ecc_sram_sm",
                "ecc_sram_microcontroller",
                "ecc_sram_pcie",
                "ecc_sram_other",
                "ecc_sram_threshold_exceeded",
            ),
            Reason.NO_PERMISSION,
        )
        | dict.fromkeys(
            (name for name in codec.fields_of(Group.CONDITION) if name.startswith("pcie_")), 0
        )
        | {
            "ecc_dram_corrected": 17,
            "ecc_dram_uncorrected": 0,
            "remap_banks_max": 3_071,
            "remap_banks_high": 1,
            "remap_banks_partial": 0,
            "remap_banks_low": 0,
            "remap_banks_none": 0,
            "remapped_rows_corrected_inactive": Reason.SYMBOL_MISSING,
            "remapped_rows_uncorrected_inactive": Reason.SYMBOL_MISSING,
            "unrepairable_memory": 0,
            "repair_channel_pending": 0,
            "repair_tpc_pending": 0,
            "retired_pages_single_bit": Reason.NOT_SUPPORTED,
            "retired_pages_double_bit": Reason.NOT_SUPPORTED,
            "retired_pages_pending": Reason.NOT_SUPPORTED,
            "inforom_valid": 1,
            "inforom_checksum": 0xDEAD_BEEF,
            "odometer_s": 31_536_000,
            "bbx_flush_utc_ms": BEGIN_MS - 86_400_000,
            "power_smoothing_lifetime_pct": Reason.NOT_SUPPORTED,
            "pcie_replay_rollovers": 1,
            "nvlink_states": (1,) * 17 + (0,),
            "nvlink_speeds_mbps": (26_562,) * 17 + (0,),
            "nvlink_replay_errors": (0,) * 18,
            "nvlink_recovery_errors": (0,) * 17 + (3,),
            "nvlink_crc_errors": (0,) * 17 + (1 << 33,),
            "fabric_cluster_uuid": "00112233445566778899aabbccddeeff",
            "fabric_clique_id": 1,
            "fabric_state": 3,
            "fabric_status": 0,
            "fabric_health_mask": 0,
            "fabric_health_summary": Reason.NOT_SUPPORTED,
            "mig_mode": 1,
            "persistence_mode": 1,
        },
    )
    health = Content(
        GPU,
        Group.HEALTH,
        {
            "polls": 60,
            "temperature_mc": Gauge(30_000, 31_250, 33_000),
            "memory_temperature_mc": Reason.NOT_SUPPORTED,
            "ecc_enabled": 1,
            "ecc_corrected_volatile": Counter(0, 0),
            "ecc_uncorrected_volatile": Counter(0, 0),
            "ecc_corrected_aggregate": Counter(2, 17),
            "ecc_uncorrected_aggregate": Counter(0, 0),
            "remapped_rows_corrected": Counter(0, 0),
            "remapped_rows_uncorrected": Counter(0, 0),
            "remap_pending": 0,
            "remap_failed": 0,
            "recovery_action": Reason.SYMBOL_MISSING,
            "events": (Event(EventKind.XID, 94, BEGIN_MS + 100, BEGIN_MS + 900, 2),),
            "temperature_margin_min_mc": -1_000,
            "slowdown_power_ns": Counter(1_000_000, 5_000_000_000),
            "slowdown_thermal_ns": Counter(0, 0),
            "slowdown_software_thermal_ns": Counter(0, 0),
            "slowdown_hardware_thermal_ns": Counter(0, 0),
            "slowdown_power_brake_ns": Reason.NOT_SUPPORTED,
            "pcie_replays": Counter(0, 2),
            "pcie_generation": 5,
            "pcie_width": 16,
            "tenancy": Tenancy.HOST,
            "incidents": (
                Incident(
                    IncidentKind.XID,
                    94,
                    Severity.USER_ERROR,
                    BEGIN_MS + 100,
                    BEGIN_MS + 900,
                    None,
                    2,
                ),
                Incident(
                    IncidentKind.REMAP_PENDING,
                    0,
                    Severity.DEGRADED,
                    BEGIN_MS - 900_000,
                    BEGIN_MS - 300_000,
                    BEGIN_MS + 300_000,
                    3,
                ),
            ),
        },
    )
    use = Content(
        GPU,
        Group.USE,
        {
            "gpu_utilisation_bps": Gauge(0, 5_025, 10_000),
            "memory_utilisation_bps": Gauge(0, 0, 0),
            "memory_used_bytes": Gauge(1 << 30, 3 << 30, 5 << 30),
            "power_mw": Gauge(70_100, 310_000, 699_900),
            "power_limit_mw": Gauge(700_000, 700_000, 700_000),
            "energy_mj": Counter(93_000_000, 1 << 40),
            "sm_clock_mhz": Gauge(345, 1_500, 1_980),
            "memory_clock_mhz": Gauge(2_619, 2_619, 2_619),
            "clocks_event_reasons": 0,
            "performance_state": Reason.NO_PERMISSION,
            "power_instant_max_mw": 712_000,
            "energy_lifetime_mj": 1 << 44,
            "compute_process_count": 2,
            "pcie_tx_bytes": 1 << 35,
            "pcie_rx_bytes": 0,
            "graphics_activity_pct": 51,
            "sm_activity_pct": 48,
            "sm_occupancy_pct": 30,
            "tensor_activity_pct": 25,
            "dram_activity_pct": 20,
            "fp64_activity_pct": 0,
            "fp32_activity_pct": 5,
            "fp16_activity_pct": 12,
            "pcie_tx_mibps": 120,
            "pcie_rx_mibps": 9,
            "nvlink_tx_mibps": 100_000,
            "nvlink_rx_mibps": 99_000,
            "mig_instances": (
                MigInstance(1, 40_448, (90, 80, 40, 60, 30)),
                MigInstance(2, 40_448, Reason.NOT_SAMPLED),
            ),
        },
    )
    host = Content(
        HOST,
        Group.HOST,
        {
            "driver_state": DriverState.RUNNING,
            "driver_version": "590.48.01",
            "nvml_version": "13.590.48.01",
            "gpu_count": 1,
            "polls": 60,
            "abandoned_processes": 0,
            "maintenance_until_ms": Reason.NOT_SAMPLED,
            "missing_gpus": (bytes(range(80, 96)),),
            "events": (),
            "pci_gpu_count": 3,
            "hidden_gpus": ("0000:19:00.0",),
            "phantom_gpus": (),
            "clock_step_ms": -1_500,
        },
    )
    platform = Content(
        HOST,
        Group.PLATFORM,
        {
            "kernel_module_version": "590.48.01",
            "library_path": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.590.48.01",
            "library_inode": 1_234_567,
            "library_sha256": "ab" * 32,
            "library_package": "libnvidia-compute-590 590.48.01-1",
            "cc_feature": 0,
            "cc_environment": 0,
            "cc_devtools": 0,
            "cc_multi_gpu_mode": 0,
            "cc_gpus_ready": Reason.NOT_SUPPORTED,
            "cuda_driver_version": 13_010,
            "health_rules": "0011223344556677",
            "kernel_log": "journal",
        },
    )
    return [host, platform, identity, condition, health, use]


def sealed() -> seal.Sealed:
    """The golden window."""
    return seal.seal_window(
        contents(),
        link=seal.Link(HOST_ID, 2, BOOT, 7, bytes([0xAB]) * 32, bytes([0xCD]) * 32),
        period=Period(BEGIN_MS, BEGIN_MS + 300_000, 1_000, 301_000),
        source=Source.NVML,
        close_reason=CloseReason.EVENT,
        agent_version="0.1.0",
        secret=SECRET,
        signer=SIGNER,
    )


def gap() -> seal.Envelope:
    """The golden gap record."""
    return seal.seal_gap(
        GapRecord(
            host_id=HOST_ID,
            incarnation=2,
            boot_id=BOOT,
            first_sequence=8,
            last_sequence=11,
            previous_header_hash=sealed().hash,
            last_dropped_hash=bytes([0xEF]) * 32,
            begin_utc_ms=BEGIN_MS + 300_000,
            end_utc_ms=BEGIN_MS + 1_500_000,
            cause=GapCause.SPOOL_FULL,
        ),
        SIGNER,
    )


def files() -> dict[str, str]:
    """Every golden file by name."""
    window = sealed()
    return {
        "window_v1.json": disclosure.dump(disclosure.disclose(window)),
        "window_v1_health_only.json": disclosure.dump(disclosure.disclose(window, [4])),
        "gap_v1.json": disclosure.dump(disclosure.Disclosure(gap(), ())),
        "trust.json": disclosure.dump_trust([HostTrust(HOST_ID, 2, (SIGNER.public_key,))]),
    }


if __name__ == "__main__":
    for name, text in files().items():
        (HERE / name).write_text(text, encoding="utf-8")
