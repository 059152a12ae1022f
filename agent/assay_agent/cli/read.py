"""`assay-agent read`: what this host's GPUs say now."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from typing import Final

from assay_agent import config
from assay_agent.config import SourceConfig
from assay_agent.telemetry.fields import FIELDS, uuid_of
from assay_agent.telemetry.reading import Poll, Sample
from assay_agent.telemetry.sources import make_source
from assay_core.header import Source
from assay_core.leaves import DriverState, Reason

Json = int | str | dict[str, "Json"] | list["Json"]

_COLUMNS: Final = {
    "name": "model",
    "serial": "serial",
    "temperature_mc": "°C",
    "gpu_utilisation_bps": "busy %",
    "memory_used_bytes": "memory GiB",
    "power_mw": "W",
    "ecc_uncorrected_aggregate": "ECC uncorr.",
    "remap_failed": "remap failed",
    "recovery_action": "recovery",
}
_DIVISORS: Final = {
    "temperature_mc": 1_000,
    "gpu_utilisation_bps": 100,
    "memory_used_bytes": 1024**3,
    "power_mw": 1_000,
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "read",
        help="read the GPUs once and show what they say",
        description="Reads every GPU once. Needs no enrolment and no configuration. In JSON a field "
        'is its value or {"reason": "..."}, never null. Exit status 1: no driver answered.',
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
    if poll.driver is DriverState.RUNNING:
        return 0
    print(
        f"assay-agent: the driver is {poll.driver.name.lower()} "
        f"({_reasons(poll)}); assay-agent check says what to do",
        file=sys.stderr,
    )
    return 1


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
    from rich.console import Console  # noqa: PLC0415 - JSON does without it
    from rich.table import Table  # noqa: PLC0415

    label = "" if kind is Source.NVML else f"{kind.name} READINGS. "
    version = poll.host["driver_version"]
    driver = f"none: {version.label}" if isinstance(version, Reason) else version
    table = Table(
        title=f"{label}{len(poll.gpus)} GPUs, driver {driver}",
        title_justify="left",
    )
    for name, heading in _COLUMNS.items():
        table.add_column(heading, justify="left" if name in ("name", "serial") else "right")
    for gpu in poll.gpus:
        table.add_row(*(_text(name, gpu.values[name]) for name in _COLUMNS))
    Console().print(table)


def _text(name: str, sample: Sample) -> str:
    if isinstance(sample, Reason):
        return f"none: {sample.label}"
    if isinstance(sample, int) and name in _DIVISORS:
        return f"{sample / _DIVISORS[name]:.1f}"
    return str(sample)


def _reasons(poll: Poll) -> str:
    found = {sample.label for sample in poll.host.values() if isinstance(sample, Reason)}
    return ", ".join(sorted(found)) or "reason unknown"
