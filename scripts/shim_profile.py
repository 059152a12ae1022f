"""Turn what `nvidia-smi -q` says of real GPUs into a scenario of the test driver library.

    python scripts/shim_profile.py capture.txt > scenario.ini
    python scripts/shim_profile.py capture.txt --state load

Reads the plain output of `nvidia-smi -q`, or a capture of nvidia_gpu_exporter (its
internal/captures), which holds it twice, idle and under load, among other output: there the number
of NVLinks and the compute capability are read too. What a capture masks (a serial or UUID of
zeros) is left to the library, which makes its own; what it does not tell stays unsupported.
tests/nvml_shim/README.md has the keys.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

UNSUPPORTED: Final = "unsupported"
FLAGS: Final = {
    "Yes": 1, "Enabled": 1, "Active": 1, "No": 0, "Disabled": 0, "Not Active": 0, "None": 0,
}  # fmt: skip
ARCHITECTURES: Final = {
    "Kepler": 2, "Maxwell": 3, "Pascal": 4, "Volta": 5, "Turing": 6, "Ampere": 7,
    "Ada Lovelace": 8, "Hopper": 9, "Blackwell": 10,
}  # fmt: skip
FIRST_WITH_GPM: Final = ARCHITECTURES["Hopper"]
RECOVERY_ACTIONS: Final = {
    "None": 0, "Reset": 1, "GPU Reset": 1, "Reboot": 2, "Drain P2P": 3, "Drain and Reset": 4,
}  # fmt: skip
FABRIC_STATES: Final = {"Not Supported": 0, "Not Started": 1, "In Progress": 2, "Completed": 3}
REASONS: Final = {
    ("Idle",): 0x1, ("Applications Clocks Setting",): 0x2, ("SW Power Cap",): 0x4,
    ("HW Slowdown",): 0x8, ("Sync Boost",): 0x10, ("SW Thermal Slowdown",): 0x20,
    ("HW Slowdown", "HW Thermal Slowdown"): 0x40,
    ("HW Slowdown", "HW Power Brake Slowdown"): 0x80, ("Display Clock Setting",): 0x100,
}  # fmt: skip
"""Bits of NVML's clocks event reasons, by nvidia-smi's names under "Clocks Event Reasons"."""

Path_ = tuple[str, ...]


class NotUnderstood(Exception):
    """The file is not what nvidia-smi says; the message names the file or line."""


@dataclass(slots=True)
class Gpu:
    """One GPU's output: each line's place among the headings, and its value."""

    values: dict[Path_, str] = field(default_factory=dict)
    instances: list[dict[Path_, str]] = field(default_factory=list)
    processes: int = 0

    def value(self, *path: str) -> str | None:
        """None: not in the output. A heading that is N/A makes all below it N/A."""
        for length in range(1, len(path)):
            if self.values.get(path[:length]) == "N/A":
                return "N/A"
        return self.values.get(path)


def _number(scale: int = 1) -> Callable[[str], int]:
    """The number a value begins with, unit and all behind it left off, times `scale`."""

    def read(text: str) -> int:
        found = re.match(r"(-?)(0x[0-9A-Fa-f]+|\d+(?:\.\d+)?)", text)
        if not found:
            raise NotUnderstood(f"'{text}' does not begin with a number")
        digits = found[2]
        if digits.startswith("0x"):
            return int(digits, 16)
        whole, _, fraction = digits.partition(".")
        thousandths = int(whole) * 1_000 + int((fraction + "000")[:3])
        return (-1 if found[1] else 1) * thousandths * scale // 1_000

    return read


def _choice(choices: Mapping[str, int]) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text not in choices:
            raise NotUnderstood(f"'{text}' is none of {', '.join(choices)}")
        return choices[text]

    return read


_plain, _milli, _micro = _number(), _number(1_000), _number(1_000)
_flag = _choice(FLAGS)
_POWER: Final = "GPU Power Readings"
_ECC: Final = "ECC Errors"
_SOURCES: Final = "Aggregate Uncorrectable SRAM Sources"
_HISTOGRAM: Final = ("Remapped Rows", "Bank Remap Availability Histogram")

TEXTS: Final[Mapping[Path_, str]] = {
    ("Product Name",): "name",
    ("Serial Number",): "serial",
    ("GPU UUID",): "uuid",
    ("VBIOS Version",): "vbios_version",
    ("Board Part Number",): "board_part_number",
    ("Inforom Version", "Image Version"): "inforom_image_version",
    ("Inforom Version", "OEM Object"): "inforom_oem_version",
    ("Inforom Version", "ECC Object"): "inforom_ecc_version",
    ("PCI", "Bus Id"): "pci_bus_id",
    ("Platform Info", "Chassis Serial Number"): "chassis_serial",
    ("Fabric", "ClusterUUID"): "fabric_cluster_uuid",
}

NUMBERS: Final[Mapping[Path_, tuple[str, Callable[[str], int]]]] = {
    ("Product Architecture",): ("architecture", _choice(ARCHITECTURES)),
    ("Persistence Mode",): ("persistence_mode", _flag),
    ("MIG Mode", "Current"): ("mig_mode", _flag),
    ("GPU PDI",): ("pdi", _plain),
    ("Minor Number",): ("minor_number", _plain),
    ("Board ID",): ("board_id", _plain),
    ("Platform Info", "Module Id"): ("module_id", _plain),
    ("Platform Info", "Slot Number"): ("platform_slot_number", _plain),
    ("Platform Info", "Tray Index"): ("platform_tray_index", _plain),
    ("Platform Info", "Host ID"): ("platform_host_id", _plain),
    ("GPU Recovery Action",): ("recovery_action", _choice(RECOVERY_ACTIONS)),
    ("PCI", "Device Id"): ("pci_device_id", _plain),
    ("PCI", "Sub System Id"): ("pci_subsystem_id", _plain),
    ("PCI", "GPU Link Info", "PCIe Generation", "Max"): ("pcie_gen_max", _plain),
    ("PCI", "GPU Link Info", "PCIe Generation", "Current"): ("pcie_gen", _plain),
    ("PCI", "GPU Link Info", "Link Width", "Max"): ("pcie_width_max", _plain),
    ("PCI", "GPU Link Info", "Link Width", "Current"): ("pcie_width", _plain),
    ("PCI", "Replays Since Reset"): ("pcie_replay_count", _plain),
    ("PCI", "Replay Number Rollovers"): ("pcie_replay_rollover_count", _plain),
    ("PCI", "Tx Throughput"): ("pcie_tx_kibps", _plain),
    ("PCI", "Rx Throughput"): ("pcie_rx_kibps", _plain),
    ("Fan Speed",): ("fan_speed_pct", _plain),
    ("Performance State",): ("performance_state", lambda text: _plain(text.removeprefix("P"))),
    ("Clocks Event Reasons Counters", "SW Power Capping"): ("slowdown_sw_power_ns", _micro),
    ("Clocks Event Reasons Counters", "Sync Boost"): ("slowdown_sync_boost_ns", _micro),
    ("Clocks Event Reasons Counters", "SW Thermal Slowdown"): ("slowdown_sw_thermal_ns", _micro),
    ("Clocks Event Reasons Counters", "HW Thermal Slowdown"): ("slowdown_hw_thermal_ns", _micro),
    ("Clocks Event Reasons Counters", "HW Power Braking"): ("slowdown_hw_power_brake_ns", _micro),
    ("FB Memory Usage", "Total"): ("memory_total_mib", _plain),
    ("FB Memory Usage", "Reserved"): ("memory_reserved_mib", _plain),
    ("FB Memory Usage", "Used"): ("memory_used_mib", _plain),
    ("BAR1 Memory Usage", "Total"): ("bar1_total_mib", _plain),
    ("BAR1 Memory Usage", "Used"): ("bar1_used_mib", _plain),
    ("Utilization", "GPU"): ("utilization_gpu_pct", _plain),
    ("Utilization", "Memory"): ("utilization_memory_pct", _plain),
    ("Utilization", "Encoder"): ("utilization_encoder_pct", _plain),
    ("Utilization", "Decoder"): ("utilization_decoder_pct", _plain),
    ("Utilization", "JPEG"): ("utilization_jpeg_pct", _plain),
    ("Utilization", "OFA"): ("utilization_ofa_pct", _plain),
    ("ECC Mode", "Current"): ("ecc_mode", _flag),
    ("ECC Mode", "Pending"): ("ecc_mode_pending", _flag),
    (_ECC, "Volatile", "SRAM Correctable"): ("ecc_sram_corrected_volatile", _plain),
    (_ECC, "Volatile", "SRAM Uncorrectable Parity"): ("ecc_sram_parity_volatile", _plain),
    (_ECC, "Volatile", "SRAM Uncorrectable SEC-DED"): ("ecc_sram_secded_volatile", _plain),
    (_ECC, "Volatile", "DRAM Correctable"): ("ecc_dram_corrected_volatile", _plain),
    (_ECC, "Volatile", "DRAM Uncorrectable"): ("ecc_dram_uncorrected_volatile", _plain),
    (_ECC, "Aggregate", "SRAM Correctable"): ("ecc_sram_corrected_aggregate", _plain),
    (_ECC, "Aggregate", "SRAM Uncorrectable Parity"): ("ecc_sram_parity_aggregate", _plain),
    (_ECC, "Aggregate", "SRAM Uncorrectable SEC-DED"): ("ecc_sram_secded_aggregate", _plain),
    (_ECC, "Aggregate", "DRAM Correctable"): ("ecc_dram_corrected_aggregate", _plain),
    (_ECC, "Aggregate", "DRAM Uncorrectable"): ("ecc_dram_uncorrected_aggregate", _plain),
    (_ECC, "Aggregate", "SRAM Threshold Exceeded"): ("ecc_sram_threshold_exceeded", _flag),
    (_ECC, _SOURCES, "SRAM L2"): ("ecc_sram_source_l2", _plain),
    (_ECC, _SOURCES, "SRAM SM"): ("ecc_sram_source_sm", _plain),
    (_ECC, _SOURCES, "SRAM Microcontroller"): ("ecc_sram_source_mcu", _plain),
    (_ECC, _SOURCES, "SRAM PCIE"): ("ecc_sram_source_pcie", _plain),
    (_ECC, _SOURCES, "SRAM Other"): ("ecc_sram_source_other", _plain),
    (_ECC, "Channel Repair Pending"): ("repair_channel_pending", _flag),
    (_ECC, "TPC Repair Pending"): ("repair_tpc_pending", _flag),
    (_ECC, "Unrepairable Memory"): ("unrepairable_memory", _flag),
    ("Retired Pages", "Single Bit ECC"): ("retired_pages_sbe", _plain),
    ("Retired Pages", "Double Bit ECC"): ("retired_pages_dbe", _plain),
    ("Retired Pages", "Pending Page Blacklist"): ("retired_pages_pending", _flag),
    ("Remapped Rows", "Correctable Error"): ("remapped_rows_corrected", _plain),
    ("Remapped Rows", "Inactive Correctable Error"): ("remapped_rows_corrected_inactive", _plain),
    ("Remapped Rows", "Uncorrectable Error"): ("remapped_rows_uncorrected", _plain),
    ("Remapped Rows", "Inactive Uncorrectable Error"): (
        "remapped_rows_uncorrected_inactive",
        _plain,
    ),
    ("Remapped Rows", "Pending"): ("remapped_rows_pending", _flag),
    ("Remapped Rows", "Remapping Failure Occurred"): ("remapped_rows_failed", _flag),
    (*_HISTOGRAM, "Max"): ("remap_banks_max", _plain),
    (*_HISTOGRAM, "High"): ("remap_banks_high", _plain),
    (*_HISTOGRAM, "Partial"): ("remap_banks_partial", _plain),
    (*_HISTOGRAM, "Low"): ("remap_banks_low", _plain),
    (*_HISTOGRAM, "None"): ("remap_banks_none", _plain),
    ("Temperature", "GPU Current Temp"): ("temperature_gpu_c", _plain),
    ("Temperature", "GPU T.Limit Temp"): ("temperature_margin_c", _plain),
    ("Temperature", "GPU Shutdown T.Limit Temp"): ("tlimit_shutdown_c", _plain),
    ("Temperature", "GPU Slowdown T.Limit Temp"): ("tlimit_slowdown_c", _plain),
    ("Temperature", "GPU Max Operating T.Limit Temp"): ("tlimit_gpu_max_c", _plain),
    ("Temperature", "Memory Max Operating T.Limit Temp"): ("tlimit_memory_max_c", _plain),
    ("Temperature", "Memory Current Temp"): ("temperature_memory_c", _plain),
    (_POWER, "Average Power Draw"): ("power_usage_mw", _milli),
    (_POWER, "Instantaneous Power Draw"): ("power_instant_mw", _milli),
    (_POWER, "Current Power Limit"): ("power_limit_mw", _milli),
    (_POWER, "Default Power Limit"): ("power_default_limit_mw", _milli),
    (_POWER, "Min Power Limit"): ("power_min_limit_mw", _milli),
    (_POWER, "Max Power Limit"): ("power_max_limit_mw", _milli),
    ("GPU Memory Power Readings", "Average Power Draw"): ("power_memory_mw", _milli),
    ("EDPp Multiplier",): ("edpp_multiplier_pct", _plain),
    ("Clocks", "Graphics"): ("clock_graphics_mhz", _plain),
    ("Clocks", "SM"): ("clock_sm_mhz", _plain),
    ("Clocks", "Memory"): ("clock_memory_mhz", _plain),
    ("Clocks", "Video"): ("clock_video_mhz", _plain),
    ("Max Clocks", "Graphics"): ("clock_max_graphics_mhz", _plain),
    ("Max Clocks", "SM"): ("clock_max_sm_mhz", _plain),
    ("Max Clocks", "Memory"): ("clock_max_memory_mhz", _plain),
    ("Max Clocks", "Video"): ("clock_max_video_mhz", _plain),
    ("Fabric", "State"): ("fabric_state", _choice(FABRIC_STATES)),
    ("Fabric", "CliqueId"): ("fabric_clique_id", _plain),
}

HIDDEN_BY_MIG: Final = ("Utilization", "Remapped Rows")
"""Headings that are N/A only because the GPU is cut up: the library hides them by itself."""
NEVER_UNSUPPORTED: Final = re.compile(
    r"ecc_(dram|sram)_|memory_(reserved|used)|bar1_used|pcie_[tr]x_kibps|platform_|module_id|"
    r"fabric_clique"
)
"""Keys that the library adds up or answers in any case; N/A leaves them at their default."""


def sections(text: str) -> dict[str, list[str]]:
    """A capture's sections by title; the whole file under "" where it has none."""
    found: dict[str, list[str]] = {"": []}
    title = ""
    for line in text.splitlines():
        heading = re.fullmatch(r"# ((?:idle|load|capabilities) :: .*)", line)
        if heading:
            title = heading[1]
            found[title] = []
        else:
            found[title].append(line)
    return found


def read_query(lines: list[str]) -> tuple[dict[Path_, str], list[Gpu]]:
    """The output of `nvidia-smi -q`: what it says of the host, and of each GPU."""
    host: dict[Path_, str] = {}
    gpus: list[Gpu] = []
    place: list[str] = []
    values = host
    for line in lines:
        if not line.strip() or line.startswith(("=", "#")):
            continue
        depth = (len(line) - len(line.lstrip())) // 4
        name, colon, value = (part.strip() for part in line.partition(" : "))
        if depth == 0 and re.match(r"GPU [0-9A-Fa-f]{4,8}:", line):
            gpus.append(Gpu())
            place, values = [], gpus[-1].values
            continue
        inner = depth - 1 if gpus else depth
        place = [*place[: max(inner, 0)], name]
        if gpus and inner == 0:
            values = gpus[-1].values
            if name == "MIG Device":
                gpus[-1].instances.append({})
                values = gpus[-1].instances[-1]
        if gpus and name == "Process ID":
            gpus[-1].processes += 1
        if colon:
            values[tuple(place)] = value
    return host, gpus


def _instances(gpu: Gpu) -> str | None:
    """The instances in the library's words; None where there are none."""
    lines = []
    for one in gpu.instances:
        inside = {path[1:]: value for path, value in one.items()}
        number = inside[("GPU Instance ID",)]
        shared = ("Device Attributes", "Shared", "Multiprocessor count")
        total = _plain(inside[("Shared FB Memory Usage", "Total")])
        used = _plain(inside[("Shared FB Memory Usage", "Used")])
        lines.append(f"{number}:{total}:{inside[shared]}:{used}")
    return " ".join(lines) or None


def _texts(gpu: Gpu) -> Iterator[tuple[str, str]]:
    for path, key in TEXTS.items():
        value = gpu.value(*path)
        masked = value is not None and set(value) <= set("0-GPU")
        if value in {None, "N/A"} and key not in {"serial", "uuid", "pci_bus_id"}:
            yield key, UNSUPPORTED
        elif value is not None and not masked:
            yield key, UNSUPPORTED if value == "N/A" else value


def _numbers(gpu: Gpu) -> Iterator[tuple[str, str]]:
    cut = gpu.value("MIG Mode", "Current") == "Enabled"
    for path, (key, read) in NUMBERS.items():
        value = gpu.value(*path)
        if value is None or (value == "N/A" and NEVER_UNSUPPORTED.match(key)):
            continue
        if value != "N/A":
            try:
                yield key, str(read(value))
            except NotUnderstood as error:
                raise NotUnderstood(f"{' / '.join(path)}: {error}") from error
        elif not (cut and path[0] in HIDDEN_BY_MIG):
            yield key, UNSUPPORTED


def settings_of(gpu: Gpu) -> dict[str, str]:
    """One GPU's keys and values for a [gpu] section."""
    settings = {"profile": "bare", **dict(_texts(gpu)), **dict(_numbers(gpu))}
    reasons = [
        bit for path, bit in REASONS.items()
        if gpu.value("Clocks Event Reasons", *path) == "Active"
    ]  # fmt: skip
    settings["clocks_event_reasons"] = str(sum(reasons))
    settings["compute_processes"] = str(gpu.processes)
    instances = _instances(gpu)
    if instances:
        settings["mig_instances"] = instances
    if int(settings.get("architecture", "0")) >= FIRST_WITH_GPM:
        settings["gpm_supported"] = "1"
    return settings


def _links(lines: list[str]) -> dict[str, str]:
    """NVLinks of a capture with one GPU, from `nvidia-smi nvlink -s`; none where it has none."""
    speeds = [found[1] for line in lines if (found := re.search(r"Link \d+: ([\d.]+) GB/s", line))]
    if not speeds:
        return {}
    return {"nvlink_count": str(len(speeds)), "nvlink_speed_mbps": str(_milli(speeds[0]))}


def convert(text: str, state: str) -> str:
    """A scenario of what the output says. `state`: which half of a capture, idle or load."""
    found = sections(text)
    title = f"{state} :: query (-q)"
    if len(found) > 1 and title not in found:
        raise NotUnderstood(f"the capture has no section '{title}'")
    host, gpus = read_query(found[title if len(found) > 1 else ""])
    if not gpus:
        raise NotUnderstood("no GPU in it: this is not what `nvidia-smi -q` says")
    lines = ["[host]", f"gpus = {len(gpus)}"]
    if ("Driver Version",) in host:
        lines.append(f"driver_version = {host[('Driver Version',)]}")
    links = _links(found.get("capabilities :: nvlink -s", []))
    for slot, gpu in enumerate(gpus):
        settings = settings_of(gpu)
        if len(gpus) == 1:
            settings.update(links)
        lines += ["", f"[gpu {slot}]", *(f"{key} = {value}" for key, value in settings.items())]
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """0: printed. 2: not understood, and why on stderr."""
    parser = argparse.ArgumentParser(
        description="What `nvidia-smi -q` says, as a scenario of the test driver library.",
        epilog="example: python scripts/shim_profile.py capture.txt --state load > scenario.ini",
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--state", choices=("idle", "load"), default="idle")
    options = parser.parse_args(arguments)
    try:
        scenario = convert(options.file.read_text(), options.state)
    except (NotUnderstood, OSError, UnicodeDecodeError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 2
    print(f"# From {options.file.name}, {options.state}.\n{scenario}", end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
