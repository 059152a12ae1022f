"""What `assay-agent read` prints for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from assay_agent import humane
from assay_agent.cli.read import GROUPS, HOST_GROUPS, WINDOWS
from assay_agent.metrics.words import WORDS
from assay_agent.telemetry.fields import uuid_of
from assay_agent.telemetry.reading import GpuReading, Poll, Sample
from assay_core import codec
from assay_core.header import Source
from assay_core.leaves import Group, Reason

if TYPE_CHECKING:
    from rich.console import JustifyMethod as Justify

_COLUMNS: Final = {
    "name": "model",
    "serial": "serial",
    "temperature_mc": "°C",
    "gpu_utilisation_bps": "busy %",
    "memory_used_bytes": "GiB",
    "power_mw": "W",
    "ecc_uncorrected_aggregate": "ECC",
    "remap_failed": "remap",
    "recovery_action": "action",
}
"""What one line a GPU shows on a terminal of 80 columns."""
_MORE: Final = {
    "memory_temperature_mc": "mem °C",
    "sm_activity_pct": "SM %",
    "tensor_activity_pct": "tensor %",
    "sm_clock_mhz": "MHz",
    "pcie_width": "PCIe",
    "nvlink_states": "NVLink",
    "odometer_s": "hours",
}
"""And on one that is wide enough, as many as fit."""
_SHOWN_IN: Final = {
    "temperature_mc": (1_000, 0),
    "memory_temperature_mc": (1_000, 0),
    "gpu_utilisation_bps": (100, 0),
    "memory_used_bytes": (1024**3, 1),
    "power_mw": (1_000, 0),
    "odometer_s": (3_600, 0),
}
"""What a value is divided by, and its decimal places."""
_ALWAYS: Final = ("name", "serial")
_MAKER: Final = "NVIDIA "
_MODEL_WIDTH_MIN: Final = 8
_MODEL_WIDTH_MAX: Final = 24
_WIDTH_MAX: Final = 10_000
_MEANING_WIDTH_MIN: Final = 110
"""The terminal's width from which on the meaning of each field is shown."""
_TELLING: Final = frozenset({Reason.NO_PERMISSION, Reason.DRIVER_ERROR, Reason.INVALID_VALUE})
"""Reasons that a person can do something about, or should know of: their fields are named."""


def show(kind: Source, poll: Poll, *, whole: bool) -> None:
    """One line a GPU; with `whole`, every field of each."""
    console = Console(highlight=False)
    label = "" if kind is Source.NVML else f"{kind.name} READINGS. "
    count = "" if whole or not poll.driver.answers else f"{_count(poll)}, "
    console.print(f"{label}{count}driver {_driver(poll)}", soft_wrap=True)
    if whole:
        _show_whole(console, poll)
    elif poll.gpus:
        _show_lines(console, poll)


def _driver(poll: Poll) -> str:
    version = poll.host["driver_version"]
    return (
        f"version not known: {version.label.replace('_', ' ')}"
        if isinstance(version, Reason)
        else str(version)
    )


def _count(poll: Poll) -> str:
    count = poll.host["gpu_count"]
    of = "" if isinstance(count, Reason) or count == len(poll.gpus) else f" of {count}"
    on_bus = poll.host.get("pci_gpu_count", Reason.NOT_SAMPLED)
    # A virtual machine's, or hidden: assay-agent check says which.
    more = f" ({on_bus} on the PCI bus)" if _exceeds(on_bus, count) else ""
    return f"{len(poll.gpus)}{of} GPUs{more}"


def _exceeds(one: Sample, other: Sample) -> bool:
    """Whether both are numbers, and the first is the greater."""
    known = not isinstance(one, Reason) and not isinstance(other, Reason)
    return known and isinstance(one, int) and isinstance(other, int) and one > other


def _width(console: Console, table: Table) -> int:
    """How wide it would like to be, whatever the terminal's width."""
    return console.measure(table, options=console.options.update(max_width=_WIDTH_MAX)).maximum


def _show_lines(console: Console, poll: Poll) -> None:
    """What gives way on a narrow terminal is the model's name first, then columns from the right."""
    columns = _that_fit(console, poll)
    room = console.width - _width(console, _table(poll, columns, 0))
    table = _table(poll, columns, max(room, _MODEL_WIDTH_MIN))
    console.print(table)
    for line in (*_absences(poll, columns), *_others(poll, columns)):
        console.print(line, soft_wrap=True)
    hidden = [heading for name, heading in _COLUMNS.items() if name not in columns]
    if hidden:
        console.print(f"no room here for: {', '.join(hidden)}", soft_wrap=True)
    example = place(poll.gpus[0])
    console.print(f"every field of one: assay-agent read --gpu {example}", soft_wrap=True)


def _that_fit(console: Console, poll: Poll) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name, heading in (*_COLUMNS.items(), *_MORE.items()):
        wider = {**columns, name: heading}
        model_width = _MODEL_WIDTH_MIN if name in _COLUMNS else _MODEL_WIDTH_MAX
        fits = _width(console, _table(poll, wider, model_width)) <= console.width
        if not fits and name not in _ALWAYS:
            break
        columns = wider
    return columns


def _table(poll: Poll, columns: Mapping[str, str], model_width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("PCI", no_wrap=True)
    for name, heading in columns.items():
        shown = heading[:model_width] if name == "name" else heading
        justify: Justify = "left" if name in ("name", "serial") else "right"
        table.add_column(shown, justify=justify, no_wrap=True)
    for gpu in poll.gpus:
        cells = {name: _cell(name, _sample(gpu, name)) for name in columns}
        cells["name"] = _shortened(cells["name"], model_width)
        table.add_row(place(gpu), *(Text(cell) for cell in cells.values()))
    return table


def _shortened(model: str, width: int) -> str:
    model = model.removeprefix(_MAKER)
    return model if len(model) <= width else model[: max(width - 1, 0)] + "…" * min(width, 1)


def _cell(name: str, sample: Sample) -> str:
    if isinstance(sample, Reason):
        return "none"
    if isinstance(sample, tuple):
        up = sum(1 for item in sample if item == 1)
        return f"{up}/{len(sample)}"
    if isinstance(sample, int) and name in _SHOWN_IN:
        divisor, places = _SHOWN_IN[name]
        return f"{sample / divisor:.{places}f}"
    return f"x{sample}" if name == "pcie_width" else str(sample)


def _sample(gpu: GpuReading, name: str) -> Sample:
    return gpu.values.get(name, Reason.NOT_SAMPLED)


def _absences(poll: Poll, columns: Mapping[str, str]) -> Iterator[str]:
    """Why each "none" of the table is one: "serial: none, no_permission (GPU 1B:00)"."""
    for name, heading in columns.items():
        found: dict[str, list[str]] = {}
        for gpu in poll.gpus:
            sample = _sample(gpu, name)
            if isinstance(sample, Reason):
                found.setdefault(sample.label, []).append(place(gpu))
        for label, places in found.items():
            every = len(places) == len(poll.gpus)
            which = "every GPU" if every else f"GPU {', '.join(places)}"
            yield f"{heading}: none, {label} ({which})"


def _others(poll: Poll, columns: Mapping[str, str]) -> Iterator[str]:
    """Of the fields that the table does not show: those without a value that a person should know."""
    found: dict[Reason, set[str]] = {}
    for gpu in poll.gpus:
        for name, sample in gpu.values.items():
            if isinstance(sample, Reason) and sample in _TELLING and name not in columns:
                found.setdefault(sample, set()).add(name)
    for reason, names in sorted(found.items()):
        yield f"also without a value, {reason.label}: {', '.join(sorted(names))}"


def _show_whole(console: Console, poll: Poll) -> None:
    meaning = console.width >= _MEANING_WIDTH_MIN
    host = {**poll.host, "abandoned_processes": poll.abandoned_processes}
    for group in HOST_GROUPS:
        console.print(_fields(group, host, meaning=meaning))
    for gpu in poll.gpus:
        console.print(f"\nGPU {place(gpu)}, {uuid_of(gpu.subject)}", style="bold", soft_wrap=True)
        for group in GROUPS:
            console.print(_fields(group, gpu.values, meaning=meaning))


def _fields(group: Group, values: Mapping[str, Sample], *, meaning: bool) -> Table:
    """Every field of a group that a look can know: its name, value and, with room, its meaning."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(group.value, no_wrap=True, min_width=34)
    table.add_column("", overflow="fold", min_width=24)
    if meaning:
        table.add_column("", overflow="fold", style="dim")
    for name in codec.fields_of(group):
        if name in WINDOWS or name == "driver_state":  # the headline says it
            continue
        sample = values.get(name, Reason.NOT_SAMPLED)
        style = "yellow" if isinstance(sample, Reason) and sample in _TELLING else ""
        cells = [Text(name), Text(humane.text(name, sample), style=style)]
        table.add_row(*cells, *([Text(WORDS[name])] if meaning else []))
    return table


def place(gpu: GpuReading) -> str:
    """Where it sits: the PCI address, less a domain and a function of zero; else its UUID's head."""
    address = gpu.values.get("pci_bus_id")
    if not isinstance(address, str):
        return uuid_of(gpu.subject)[:12]
    domain, _, rest = address.partition(":")
    return (address if domain.strip("0") else rest).removesuffix(".0")
