"""Writes the tables of docs/telemetry.md from the code they describe. `make docs` runs it.

What stands between a "generated" comment and its "end" is written here; all else by people.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from assay_agent.metrics.table import READINGS
from assay_agent.metrics.words import WORDS
from assay_agent.telemetry.calls import Call
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.table import (
    CALLS,
    ENTRIES,
    GPM,
    HOST_CALLS,
    LINKS,
)
from assay_core import codec
from assay_core.health import rules_table
from assay_core.leaves import Group
from scripts.privacy import unit

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "telemetry.md"

_DEPTHS: Final = {Depth.TICK: "tick", Depth.WINDOW: "window", Depth.DAY: "day"}
_BATCH: Final = "field {}"
_SYSFS: Final = "sysfs"
_AGENT: Final = "the agent"

ELSEWHERE: Final[Mapping[str, tuple[str, str]]] = {
    "polls": (_AGENT, "tick"),
    "events": ("NVML events, kernel log, bus", "at once"),
    "incidents": ("the health rules", "window"),
    "tenancy": (_SYSFS, "window"),
    "energy_lifetime_mj": ("sum of field 83", "window"),
    "mig_instances": ("`nvmlDeviceGetGpuInstances`, `nvmlGpmMigSampleGet`", "window"),
    "driver_state": (_AGENT, "tick"),
    "gpu_count": ("`nvmlDeviceGetCount_v2`", "tick"),
    "abandoned_processes": (_AGENT, "tick"),
    "maintenance_until_ms": ("`assay-agent pause`", "window"),
    "missing_gpus": (_AGENT, "tick"),
    "pci_gpu_count": (_SYSFS, "window"),
    "hidden_gpus": (_SYSFS, "window"),
    "phantom_gpus": (_SYSFS, "window"),
    "clock_step_ms": ("the host's clocks", "tick"),
    "kernel_module_version": ("`/proc/driver/nvidia/version`, `/sys/module/nvidia`", "day"),
    "library_path": ("`/proc/PID/maps` of the driver process", "day"),
    "library_inode": ("`/proc/PID/maps`", "day"),
    "library_sha256": ("the mapped file", "day"),
    "library_package": ("dpkg or rpm", "day"),
    "health_rules": ("the health rules", "day"),
    "kernel_log": ("journal or `/dev/kmsg`", "day"),
}
"""What NVML is not asked for by name, or not alone: where from, and how often."""

NOTES: Final[Mapping[str, str]] = {
    "serial": "The key of a pledge; needs an inforom",
    "index": "Changes over reboots: never a key",
    "pdi": "Tells a re-boarded die: another serial, the same PDI",
    "temperature_mc": "The older call goes with CUDA 14",
    "gpu_utilisation_bps": '"A kernel ran", not work: a spin kernel fakes it; see the GPM rows',
    "power_mw": "1 s mean on most products, momentary on GA100 and older",
    "energy_mj": "Starts anew when the driver loads",
    "energy_lifetime_mj": "Sums the increases over reloads, and survives the agent's restarts",
    "slowdown_thermal_ns": "A counter: the mask, looked at now and then, misses what is short",
    "clocks_event_reasons": "Or-ed over the window",
    "odometer_s": "First in R610; a library without it is `symbol_missing`",
    "bbx_flush_utc_ms": "No document gives the unit: the only one that gives a year within 2000 to "
    "2100 is taken (judgement)",
    "unrepairable_memory": "Two layouts are about; both words are read",
    "ecc_sram_threshold_exceeded": "Read by root alone (nvml.h)",
    "inforom_valid": "Reads flash: once a day",
    "recovery_action": "The driver's own verdict; unknown numbers are kept",
    "compute_process_count": "Asked with no room for who: the count alone",
    "pcie_tx_bytes": "`nvmlDeviceGetPcieThroughput` would block 20 ms",
    "graphics_activity_pct": "Two samples over 100 ms apart; Hopper and newer",
    "mig_instances": "GPM of each instance on Hopper and newer",
    "nvlink_states": "Asked for all links in one batch",
    "fabric_health_summary": "Not in version 2 of the answer: then `symbol_missing`",
    "pcie_generation": "An idle link may run slower: the highest of the window",
    "retired_pages_single_bit": "How many, not where",
    "tenancy": "`vfio-pci` is passed through, and not lost",
    "attestation_certificate_sha256": "As given: the agent verifies nothing of it",
    "library_sha256": "NVML can be imitated: this says what answered",
}
"""The trap of a field and how it is met; more stands beside the code."""


def main() -> int:
    """Writes the tables into the page; with --check says whether they are what would be written."""
    now = PAGE.read_text(encoding="utf-8")
    text = filled(now)
    if "--check" in sys.argv[1:]:
        return 0 if text == now else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def filled(page: str) -> str:
    """The page with its tables as they should be."""
    for name, table in (("fields", fields()), ("rules", rules())):
        opened, closed = f"<!-- generated: {name} -->\n", "<!-- end -->"
        if page.count(opened) != 1:
            raise SystemExit(f"{PAGE}: {page.count(opened)} places for the table {name}, not one")
        head, _, rest = page.partition(opened)
        page = head + opened + table + closed + rest.partition(closed)[2]
    return page


def fields() -> str:
    """A table of each group's fields."""
    sources = _sources()
    metrics = {reading.field: f"`{reading.family.series}`" for reading in READINGS}
    parts: list[str] = []
    for group in Group:
        parts += [f"\n### The group {group.value}\n"]
        parts += _table(
            ("Field", "Unit", "What it is", "Read by", "When", "Metric", "Note"),
            (
                (
                    f"`{name}`",
                    unit(name),
                    WORDS[name],
                    *sources.get(name, ELSEWHERE.get(name, ("", ""))),
                    metrics.get(name, ""),
                    NOTES.get(name, ""),
                )
                for name in codec.fields_of(group)
            ),
        )
    return "\n".join([*parts, ""])


def _sources() -> dict[str, tuple[str, str]]:
    """By field: what NVML is asked, and at which depth."""
    found: dict[str, tuple[str, str]] = {}
    for call in (*CALLS, *HOST_CALLS):
        for field in call.fields:
            found[field.name] = (_asked(call), _DEPTHS[call.depth])
    for entry in ENTRIES:
        asked = _BATCH.format(entry.field_id)
        asked += f", else {_asked(entry.otherwise)}" if entry.otherwise else ""
        asked += ", hidden by MIG" if entry.hidden_by_mig else ""
        found[entry.field.name] = (asked, _DEPTHS[entry.depth])
    for link in LINKS:
        asked = f"{_BATCH.format(link.field_id)} of each link"
        found[link.field.name] = (asked, _DEPTHS[link.depth])
    for metric, field in GPM:
        found[field.name] = (f"`nvmlGpmMetricsGet`, metric {metric}", "tick")
    return found


def _asked(call: Call) -> str:
    names = [f"`{call.function}`"]
    if call.otherwise is not None and call.otherwise.function != call.function:
        names.append(f"`{call.otherwise.function}`")
    hidden = ", hidden by MIG" if call.hidden_by_mig else ""
    return ", else ".join(names) + hidden


def rules() -> str:
    """The table of the health rules."""
    lines = _table(
        ("Incident", "Code", "Meaning", "Class", "Action", "How long", "Source"),
        (
            (
                f"`{row.kind}`",
                row.code,
                row.meaning,
                row.severity.replace("_", " "),
                row.action,
                row.persistence,
                row.source,
            )
            for row in rules_table()
        ),
    )
    return "\n".join(["", *lines, "", ""])


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
