"""`assay-agent read --json` answers every row of the telemetry table, with a value or a reason."""

from __future__ import annotations

import json
from typing import Final

import pytest

from assay_core.leaves import Reason
from tests.fakes.shim import ShimScenario
from tests.integration.test_agent_read import BARE_ENV, agent

ROWS: Final = {
    # What a GPU monitor can read of a data-centre GPU, row by row: the call or field id, and the
    # fields that answer it.
    "GetUUID, GetSerial, GetBoardPartNumber, GetName, GetVbiosVersion, GetInforomImageVersion, PCI": (
        "uuid serial board_part_number name vbios_version inforom_image_version pci_bus_id"
        " pci_device_id pci_subsystem_id memory_total_bytes architecture"
    ),
    "GetPdi": "pdi",
    "GetBoardId, GetModuleId, GetMinorNumber, GetIndex": "board_id module_id minor_number index",
    "GetConfComputeGpuCertificate": "attestation_certificate_sha256",
    "GetUtilizationRates, GetMemoryInfo": (
        "gpu_utilisation_bps memory_utilisation_bps memory_used_bytes"
    ),
    "GPM 1, 2, 3, 5, 10, 11-13, 20, 21, 60, 61": (
        "graphics_activity_pct sm_activity_pct sm_occupancy_pct tensor_activity_pct"
        " dram_activity_pct fp64_activity_pct fp32_activity_pct fp16_activity_pct pcie_tx_mibps"
        " pcie_rx_mibps nvlink_tx_mibps nvlink_rx_mibps"
    ),
    "GpmMigSampleGet": "mig_instances",
    "GetComputeRunningProcesses, counts only": "compute_process_count",
    "GetTotalEnergyConsumption, FI 83": "energy_mj",
    "FI 186, GetPowerUsage, limits FI 187-190": (
        "power_mw power_instant_max_mw power_limit_mw power_limit_min_mw power_limit_max_mw"
        " power_limit_default_mw"
    ),
    "GetBBXTimeData_v1": "odometer_s",
    "GetLastBBXFlushTime": "bbx_flush_utc_ms",
    "GetRemappedRows, FI 142-145, 301, 302": (
        "remapped_rows_corrected remapped_rows_uncorrected remap_pending remap_failed"
        " remapped_rows_corrected_inactive remapped_rows_uncorrected_inactive"
    ),
    "GetRowRemapperHistogram": (
        "remap_banks_max remap_banks_high remap_banks_partial remap_banks_low remap_banks_none"
    ),
    "GetUnrepairableMemoryFlag_v1, GetRepairStatus": (
        "unrepairable_memory repair_channel_pending repair_tpc_pending"
    ),
    "GetTotalEccErrors, GetMemoryErrorCounter, GetSramEccErrorStatus": (
        "ecc_enabled ecc_corrected_volatile ecc_uncorrected_volatile ecc_corrected_aggregate"
        " ecc_uncorrected_aggregate ecc_dram_corrected ecc_dram_uncorrected ecc_sram_corrected"
        " ecc_sram_uncorrected_parity ecc_sram_uncorrected_secded ecc_sram_l2 ecc_sram_sm"
        " ecc_sram_microcontroller ecc_sram_pcie ecc_sram_other ecc_sram_threshold_exceeded"
    ),
    "GetRetiredPages, FI 29-31": (
        "retired_pages_single_bit retired_pages_double_bit retired_pages_pending"
    ),
    "ValidateInforom, GetInforomConfigurationChecksum": "inforom_valid inforom_checksum",
    "FI 258": "power_smoothing_lifetime_pct",
    "GetTemperatureV, FI 82, GetMarginTemperature, T.Limit FI 193-196": (
        "temperature_mc memory_temperature_mc temperature_margin_min_mc tlimit_shutdown_mc"
        " tlimit_slowdown_mc tlimit_memory_max_mc tlimit_gpu_max_mc"
    ),
    "GetCurrentClocksEventReasons, FI 74, 75, 269-271": (
        "clocks_event_reasons slowdown_power_ns slowdown_thermal_ns slowdown_software_thermal_ns"
        " slowdown_hardware_thermal_ns slowdown_power_brake_ns sm_clock_mhz memory_clock_mhz"
        " performance_state"
    ),
    "NVLink FI 91, 161-165, 206-222": (
        "nvlink_count nvlink_states nvlink_speeds_mbps nvlink_replay_errors"
        " nvlink_recovery_errors nvlink_crc_errors nvlink5_malformed_packets"
        " nvlink5_buffer_overruns nvlink5_receive_errors nvlink5_receive_remote_errors"
        " nvlink5_receive_general_errors nvlink5_integrity_errors nvlink5_discards"
        " nvlink5_recoveries_successful nvlink5_recoveries_failed nvlink5_recoveries"
        " nvlink5_effective_errors nvlink5_symbol_errors nvlink5_raw_ber_lane0"
        " nvlink5_raw_ber_lane1 nvlink5_raw_ber nvlink5_effective_ber nvlink5_symbol_ber"
    ),
    "PCIe FI 94, 95, 169, 173-183, generation and width, FI 197, 198": (
        "pcie_replays pcie_replay_rollovers pcie_l0_to_recovery pcie_correctable_errors"
        " pcie_naks_received pcie_receiver_errors pcie_bad_tlps pcie_naks_sent pcie_bad_dllps"
        " pcie_non_fatal_errors pcie_fatal_errors pcie_unsupported_requests pcie_lcrc_errors"
        " pcie_lane_errors pcie_generation pcie_generation_max pcie_width pcie_width_max"
        " pcie_tx_bytes pcie_rx_bytes"
    ),
    "GetGpuFabricInfoV": (
        "fabric_cluster_uuid fabric_clique_id fabric_state fabric_status fabric_health_mask"
        " fabric_health_summary"
    ),
    "GetPlatformInfo": (
        "chassis_serial slot_number tray_index platform_host_id platform_module_id"
    ),
    "EventSetWait_v2 and the kernel's log": "events incidents",
    "SystemRegisterEvents": "host.events",
    "FI 230": "recovery_action",
    "GetMigMode, GetPersistenceMode, SystemGetConfComputeState": (
        "mig_mode persistence_mode platform.cc_feature platform.cc_environment platform.cc_devtools"
        " platform.cc_multi_gpu_mode platform.cc_gpus_ready"
    ),
    "the library that answers, and the bus": (
        "tenancy platform.library_path platform.library_inode platform.library_sha256"
        " platform.library_package platform.kernel_module_version host.driver_version"
        " host.nvml_version host.pci_gpu_count host.hidden_gpus host.phantom_gpus"
    ),
}
OF_WINDOWS: Final = {"events", "incidents", "host.events"}
"""What happens between looks: a single one has none to tell."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict:
    shim = ShimScenario(tmp_path_factory.mktemp("shim"), profile="h100").set_every(load="loaded")
    done = agent(shim.env(BARE_ENV), "read", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def answers(said: dict, gpu: dict) -> dict[str, object]:
    flat: dict[str, object] = {"uuid": gpu["uuid"]}
    for group in ("identity", "health", "condition", "use"):
        flat |= gpu[group]
    for part in ("host", "platform"):
        flat |= {f"{part}.{name}": answer for name, answer in said[part].items()}
    return flat


@pytest.mark.parametrize("row", ROWS)
def test_every_field_of_the_row_has_a_value_or_a_reason(said: dict, row: str) -> None:
    for gpu in said["gpus"]:
        flat = answers(said, gpu)
        for name in ROWS[row].split():
            answer = flat[name]
            if isinstance(answer, dict):
                reason = Reason[answer["reason"].upper()]
                # What was not asked for would say so by this reason: nothing may.
                assert (reason is Reason.NOT_SAMPLED) is (name in OF_WINDOWS), name
            else:
                assert answer is not None
                assert name not in OF_WINDOWS


def test_a_hopper_answers_most_rows_with_values(said: dict) -> None:
    """What the profile of an H100 lacks, so that a reading that is lost is noticed."""
    flat = answers(said, said["gpus"][0])
    without = {
        name
        for fields in ROWS.values()
        for name in fields.split()
        if isinstance(flat[name], dict) and name not in OF_WINDOWS
    }
    fifth = {name for name in flat if name.startswith("nvlink5_")}
    assert without - fifth == {
        "attestation_certificate_sha256",  # confidential computing is off
        "odometer_s",  # R610
        "bbx_flush_utc_ms",
        "remapped_rows_corrected_inactive",
        "remapped_rows_uncorrected_inactive",
        "retired_pages_single_bit",  # before Ampere
        "retired_pages_double_bit",
        "retired_pages_pending",
        "power_smoothing_lifetime_pct",  # Blackwell
        "chassis_serial",
        "platform.kernel_module_version",  # no kernel module in a test
    }


def test_the_rows_are_all_that_is_read(said: dict) -> None:
    """A new field gets a row, or is the agent's own sum."""
    named = {name for fields in ROWS.values() for name in fields.split()}
    every = set(answers(said, said["gpus"][0]))
    own = {
        "polls",
        "energy_lifetime_mj",
        "host.driver_state",
        "host.gpu_count",
        "host.polls",
        "host.abandoned_processes",
        "host.maintenance_until_ms",
        "host.missing_gpus",
        "host.clock_step_ms",
        "platform.cuda_driver_version",
        "platform.health_rules",
        "platform.kernel_log",
    }
    assert every - named == own
