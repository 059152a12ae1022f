"""`assay-agent read`: what this host's GPUs say now."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from assay_agent import config
from assay_agent.config import SourceConfig
from assay_agent.telemetry.fields import FIELDS, uuid_of
from assay_agent.telemetry.reading import GpuReading, Poll, Sample
from assay_agent.telemetry.sources import make_source
from assay_core.header import Source
from assay_core.leaves import DriverState, Reason

if TYPE_CHECKING:
    from rich.console import JustifyMethod as Justify
    from rich.table import Table

Json = int | str | dict[str, "Json"] | list["Json"]

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
_SHOWN_IN: Final = {
    "temperature_mc": (1_000, 0),
    "gpu_utilisation_bps": (100, 0),
    "memory_used_bytes": (1024**3, 1),
    "power_mw": (1_000, 0),
}
"""What a value is divided by, and its decimal places."""
_MAKER: Final = "NVIDIA "
_MODEL_WIDTH_MIN: Final = 8


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "read",
        help="read the GPUs once and show what they say",
        description="Reads every GPU once. Needs no enrolment and no configuration. In JSON a field "
        'is its value or {"reason": "..."}, never null. A GPU is named by its place on the PCI bus: '
        "the driver's numbers change. Exit status 1: the driver did not answer, or not for each GPU.",
        epilog="example: assay-agent read --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines; every field")


def run(args: argparse.Namespace) -> int:
    """Reads and prints."""
    kind, poll = asyncio.run(_read(config.load(args.config).source))
    if args.json:
        print(json.dumps(document(kind, poll), indent=2))
    else:
        _print_table(kind, poll)
    problem = _problem(poll)
    if problem is None:
        return 0
    print(f"assay-agent: {problem}; assay-agent check says what to do", file=sys.stderr)
    return 1


def _problem(poll: Poll) -> str | None:
    """What keeps this from being the whole host; None where nothing does."""
    if poll.driver is not DriverState.RUNNING:
        reasons = {sample for sample in poll.host.values() if isinstance(sample, Reason)}
        if Reason.NO_PERMISSION in reasons:
            return "this user may not use the GPUs' driver (no_permission)"
        labels = ", ".join(sorted(reason.label for reason in reasons)) or "reason unknown"
        return f"the driver is {poll.driver.name.lower()} ({labels})"
    count = poll.host["gpu_count"]
    if not isinstance(count, Reason) and int(count) > len(poll.gpus):
        return (
            f"{int(count) - len(poll.gpus)} of {count} GPUs answer nothing, not even who they are"
        )
    return None


def document(kind: Source, poll: Poll) -> dict[str, Json]:
    """The poll for machines: {"source": ..., "host": {...}, "gpus": [{...}, ...]}."""
    host: dict[str, Json] = {name: _json(sample) for name, sample in poll.host.items()}
    gpus: list[Json] = [
        {"uuid": uuid_of(gpu.subject), **{name: _json(gpu.values[name]) for name in FIELDS}}
        for gpu in poll.gpus
    ]
    return {
        "source": kind.name.lower(),
        "host": {"driver_state": poll.driver.name.lower(), **host},
        "gpus": gpus,
    }


async def _read(settings: SourceConfig) -> tuple[Source, Poll]:
    source = make_source(settings)
    try:
        return source.kind, await source.poll(0)
    finally:
        await source.close()


def _json(sample: Sample) -> Json:
    return {"reason": sample.label} if isinstance(sample, Reason) else sample


def _print_table(kind: Source, poll: Poll) -> None:
    """One line a GPU whatever the width: what gives way is the model's name, never a serial."""
    from rich.console import Console  # noqa: PLC0415 - JSON does without it

    console = Console(highlight=False)
    others = console.measure(_table(poll, 0)).maximum
    label = "" if kind is Source.NVML else f"{kind.name} READINGS. "
    version = poll.host["driver_version"]
    driver = f"none: {version.label}" if isinstance(version, Reason) else version
    count = poll.host["gpu_count"]
    of = "" if isinstance(count, Reason) or count == len(poll.gpus) else f" of {count}"
    console.print(f"{label}{len(poll.gpus)}{of} GPUs, driver {driver}", soft_wrap=True)
    if not poll.gpus:
        return
    table = _table(poll, max(console.width - others, _MODEL_WIDTH_MIN))
    # A terminal that is narrower still breaks the lines itself, and cuts nothing.
    console.print(table, width=max(console.width, console.measure(table).maximum), soft_wrap=True)
    for line in _absences(poll):
        console.print(line, soft_wrap=True)


def _table(poll: Poll, model_width: int) -> Table:
    from rich import box  # noqa: PLC0415 - JSON does without it
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("PCI", no_wrap=True)
    for name, heading in _COLUMNS.items():
        shown = heading[:model_width] if name == "name" else heading
        justify: Justify = "left" if name in ("name", "serial") else "right"
        table.add_column(shown, justify=justify, no_wrap=True)
    for gpu in poll.gpus:
        cells = {name: _text(name, gpu.values[name]) for name in _COLUMNS}
        cells["name"] = _shortened(cells["name"], model_width)
        table.add_row(_place(gpu), *cells.values())
    return table


def _shortened(model: str, width: int) -> str:
    model = model.removeprefix(_MAKER)
    return model if len(model) <= width else model[: max(width - 1, 0)] + "…" * min(width, 1)


def _text(name: str, sample: Sample) -> str:
    if isinstance(sample, Reason):
        return "none"
    if isinstance(sample, int) and name in _SHOWN_IN:
        divisor, places = _SHOWN_IN[name]
        return f"{sample / divisor:.{places}f}"
    return str(sample)


def _absences(poll: Poll) -> Iterator[str]:
    """Why each "none" of the table is one: "serial: none, no_permission (GPU 1B:00)"."""
    for name, heading in _COLUMNS.items():
        found: dict[str, list[str]] = {}
        for gpu in poll.gpus:
            sample = gpu.values[name]
            if isinstance(sample, Reason):
                found.setdefault(sample.label, []).append(_place(gpu))
        for label, places in found.items():
            every = len(places) == len(poll.gpus)
            which = "every GPU" if every else f"GPU {', '.join(places)}"
            yield f"{heading}: none, {label} ({which})"


def _place(gpu: GpuReading) -> str:
    """Where it sits: the PCI address, less a domain and a function of zero; else its UUID's head."""
    address = gpu.values["pci_bus_id"]
    if not isinstance(address, str):
        return uuid_of(gpu.subject)[:12]
    domain, _, rest = address.partition(":")
    return (address if domain.strip("0") else rest).removesuffix(".0")
