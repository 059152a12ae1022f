"""Readings for people: a field's sample with its unit, by the last word of the field's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from assay_agent.metrics.table import CLOCKS_EVENT_REASONS
from assay_core.instants import format_instant
from assay_core.leaves import MigInstance, Reason, Tenancy

if TYPE_CHECKING:
    from assay_agent.telemetry.reading import Sample

_KIB: Final = 1024
_KWH_MJ: Final = 3_600_000_000
_HOUR_S: Final = 3_600
_LINKS_NAMED_MAX: Final = 4

FLAGS: Final = frozenset(
    {
        "ecc_enabled",
        "remap_pending",
        "remap_failed",
        "ecc_sram_threshold_exceeded",
        "unrepairable_memory",
        "repair_channel_pending",
        "repair_tpc_pending",
        "retired_pages_pending",
        "inforom_valid",
        "mig_mode",
        "persistence_mode",
        "cc_devtools",
        "cc_gpus_ready",
    }
)
_HEX: Final = frozenset(
    {
        "pdi",
        "pci_device_id",
        "pci_subsystem_id",
        "board_id",
        "inforom_checksum",
        "fabric_health_mask",
    }
)
_NAMES: Final[Mapping[str, Mapping[int, str]]] = {
    "architecture": {
        2: "Kepler",
        3: "Maxwell",
        4: "Pascal",
        5: "Volta",
        6: "Turing",
        7: "Ampere",
        8: "Ada",
        9: "Hopper",
        10: "Blackwell",
    },
    "recovery_action": {
        0: "none",
        1: "reset the GPU",
        2: "reboot the host",
        3: "drain P2P",
        4: "drain and reset",
        5: "recover the IMEX domain",
        6: "reset the bus",
        7: "reboot the system",
    },
    "tenancy": {each.value: each.name.lower().replace("_", " ") for each in Tenancy},
    "fabric_state": {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"},
    "fabric_health_summary": {
        0: "not supported",
        1: "healthy",
        2: "unhealthy",
        3: "limited capacity",
    },
}
"""nvmlDeviceArchitecture, field 230, NVML_GPU_FABRIC_STATE_* and _HEALTH_SUMMARY_* of nvml.h."""
_LINK_STATES: Final = {0: "down", 1: "up"}


def text(name: str, sample: Sample) -> str:
    """A field for a person: "41 °C", "79.6 GiB", "yes", "none: not supported"."""
    if isinstance(sample, Reason):
        return f"none: {sample.label.replace('_', ' ')}"
    if isinstance(sample, str):
        return sample
    if isinstance(sample, int):
        return _number(name, sample)
    return _list(name, sample)


def _number(name: str, number: int) -> str:
    if name in FLAGS and number in (0, 1):
        return "yes" if number else "no"
    if name in _HEX:
        return f"{number:#x}"
    if name in _NAMES:
        known = _NAMES[name].get(number)
        return str(number) if known is None else f"{known} ({number})"
    if name == "clocks_event_reasons":
        return _reasons(number)
    if name == "cuda_driver_version":
        return f"{number // 1_000}.{number % 1_000 // 10}"
    if name == "library_inode":
        return str(number)
    write = _UNITS.get(name.rpartition("_")[2])
    return f"{number:,}" if write is None else write(number)


def _reasons(mask: int) -> str:
    names = [words.replace("_", " ") for bit, words in CLOCKS_EVENT_REASONS if mask & bit]
    others = mask & ~sum(bit for bit, _ in CLOCKS_EVENT_REASONS)
    return ", ".join([*names, *([f"{others:#x}"] if others else [])]) or "none"


def _list(name: str, items: Sequence[int | str | MigInstance]) -> str:
    if not items:
        return "none"
    instances = [item for item in items if isinstance(item, MigInstance)]
    if instances:
        return "; ".join(map(_instance, instances))
    numbers = [item for item in items if isinstance(item, int)]
    if len(numbers) != len(items):
        return ", ".join(map(str, items))
    if name == "nvlink_states":
        states = {state: numbers.count(state) for state in sorted(set(numbers), reverse=True)}
        said = [f"{many} {_LINK_STATES.get(state, state)}" for state, many in states.items()]
        return f"{', '.join(said)} of {len(numbers)}"
    return _by_link(name, numbers)


def _by_link(name: str, numbers: list[int]) -> str:
    """What most links say, and which say another thing: "0 on each of 18 links"."""
    usual = max(set(numbers), key=numbers.count)
    odd = [f"link {link}: {_number(name, n)}" for link, n in enumerate(numbers) if n != usual]
    each = f"{_number(name, usual)} on each of {len(numbers)} links"
    if not odd:
        return each
    more = len(odd) - _LINKS_NAMED_MAX
    shown = [*odd[:_LINKS_NAMED_MAX], *([f"{more} more"] if more > 0 else [])]
    return f"{_number(name, usual)} on most of {len(numbers)} links; {', '.join(shown)}"


def _instance(instance: MigInstance) -> str:
    named = f"instance {instance.gpu_instance_id}: {_size(instance.memory_mib * _KIB * _KIB)}"
    if isinstance(instance.activity, Reason):
        return f"{named}, activity {text('', instance.activity)}"
    return f"{named}, SM {instance.activity[1]} %"


def _size(count: int) -> str:
    amount, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= _KIB and len(units) > 1:
        amount /= _KIB
        units.pop(0)
    return f"{amount:,.0f} {units[0]}" if units[0] == "B" else f"{amount:,.1f} {units[0]}"


def _energy(millijoules: int) -> str:
    if millijoules >= _KWH_MJ:
        return f"{millijoules / _KWH_MJ:,.1f} kWh"
    return f"{millijoules / 1_000:,.0f} J"


def _time(seconds: float) -> str:
    if seconds >= 2 * _HOUR_S:
        return f"{seconds / _HOUR_S:,.1f} h"
    return f"{seconds:,.1f} s" if seconds else "0 s"


def _moment(instant_ms: int) -> str:
    try:
        return format_instant(instant_ms)
    except OverflowError:  # the driver's number is past the year 9999
        return f"{instant_ms:,} ms"


def _bit_errors(packed: int) -> str:
    """A rate as NVML packs it: mantissa in bits 8 to 11, the exponent of 1/10 in bits 0 to 7."""
    mantissa = (packed >> 8) & 0xF
    return f"{mantissa}e-{packed & 0xFF}" if mantissa else "0"


_UNITS: Final[Mapping[str, Callable[[int], str]]] = {
    "mc": lambda n: f"{n / 1_000:g} °C",
    "mw": lambda n: f"{n / 1_000:,.0f} W",
    "mj": _energy,
    "bps": lambda n: f"{n / 100:g} %",
    "pct": lambda n: f"{n} %",
    "mhz": lambda n: f"{n:,} MHz",
    "mbps": lambda n: f"{n:,} MB/s",
    "mibps": lambda n: f"{_size(n * _KIB * _KIB)}/s",
    "bytes": _size,
    "ns": lambda n: _time(n / 1_000_000_000),
    "s": _time,
    "ms": _moment,
    "ber": _bit_errors,
    "lane0": _bit_errors,
    "lane1": _bit_errors,
}
"""By the last word of a field's name."""
