"""`assay-agent show-outgoing`: exactly what the next window would carry off this host."""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from assay_agent import config, host, spool, spool_file
from assay_agent.config import AgentConfig
from assay_agent.host import Clock
from assay_agent.telemetry.reading import Depth
from assay_agent.telemetry.sources import make_source
from assay_agent.window import Aggregator, Draft
from assay_core.header import CloseReason, Source
from assay_core.leaves import (
    HOST,
    Content,
    Counter,
    DriverState,
    Event,
    Gauge,
    Incident,
    MigInstance,
    Reason,
    Tenancy,
    Value,
)

_NAMED: Final[Mapping[str, type[DriverState | Tenancy]]] = MappingProxyType(
    {"driver_state": DriverState, "tenancy": Tenancy}
)
"""Numbers that stand for words."""
_ACTIVITIES: Final = (
    "graphics_activity_pct",
    "sm_activity_pct",
    "sm_occupancy_pct",
    "tensor_activity_pct",
    "dram_activity_pct",
)

Json = int | str | dict[str, "Json"] | list["Json"]


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "show-outgoing",
        help="show every field that the next window would carry",
        description="Polls the GPUs once and shows every leaf and field that a window would carry "
        "if it were closed now. Nothing is sealed and nothing is sent.",
        epilog="example: assay-agent show-outgoing --json",
    )
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Polls once and prints."""
    source, draft = asyncio.run(_draft(config.load(args.config)))
    if args.json:
        print(json.dumps(_document(source, draft), indent=2))
    else:
        _print_table(source, draft)
    return 0


async def _draft(settings: AgentConfig) -> tuple[Source, Draft]:
    clock = Clock()
    source = make_source(settings.source)
    try:
        boot_id = host.boot_id(source.kind)
        aggregator = Aggregator(
            spool.known(Path(settings.state_dir) / spool_file.FILE, boot_id),
            begin_utc_ms=clock.utc_ms(),
            begin_boottime_ms=clock.boottime_ms(),
            boot_id=boot_id,
        )
        aggregator.add(await source.poll(0, Depth.DAY))
        draft = aggregator.draft(
            at_utc_ms=clock.utc_ms(),
            at_boottime_ms=clock.boottime_ms(),
            close_reason=CloseReason.PERIOD,
        )
        return source.kind, draft
    finally:
        await source.close()


def _document(source: Source, draft: Draft) -> dict[str, Json]:
    leaves: list[Json] = [
        {
            "subject": _subject(content),
            "group": content.group.value,
            "fields": {name: _json(name, value) for name, value in content.values.items()},
        }
        for content in draft.contents
    ]
    return {"sealed": False, "source": source.name.lower(), "leaves": leaves}


def _json(name: str, value: Value) -> Json:
    """A field as a machine reads it: its value, or {"reason": ...}."""
    if isinstance(value, Reason):
        return {"reason": value.label}
    if isinstance(value, Gauge):
        return {"min": value.min, "mean": value.mean, "max": value.max}
    if isinstance(value, Counter):
        return {"delta": value.delta, "total": value.total}
    if isinstance(value, tuple):
        return [_item(item) for item in value]
    if name in _NAMED and isinstance(value, int):
        return _NAMED[name](value).name.lower()
    return value


def _item(item: int | str | bytes | Event | Incident | MigInstance) -> Json:
    if isinstance(item, Event):
        return {
            "kind": item.kind.name.lower(),
            "code": item.code,
            "first_ms": item.first_ms,
            "last_ms": item.last_ms,
            "count": item.count,
        }
    if isinstance(item, Incident):
        ended: dict[str, Json] = {} if item.end_ms is None else {"end_ms": item.end_ms}
        return {
            "kind": item.kind.name.lower(),
            "code": item.code,
            "severity": item.severity.label,
            "begin_ms": item.begin_ms,
            "last_ms": item.last_ms,
            **ended,
            "count": item.count,
        }
    if isinstance(item, MigInstance):
        return {
            "gpu_instance_id": item.gpu_instance_id,
            "memory_mib": item.memory_mib,
            "activity": {"reason": item.activity.label}
            if isinstance(item.activity, Reason)
            else dict(zip(_ACTIVITIES, item.activity, strict=True)),
        }
    return _uuid(item) if isinstance(item, bytes) else item


def _print_table(source: Source, draft: Draft) -> None:
    from rich.console import Console  # noqa: PLC0415 - the service never needs it
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    label = "" if source is Source.NVML else f" {source.name} READINGS."
    console.print(
        f"The next window would carry {len(draft.contents)} leaves.{label} "
        "Not sealed, not sent; one poll, so minimum, mean and maximum are the same. Statistics "
        "are over the whole window when it is sealed."
    )
    for content in draft.contents:
        table = Table(title=f"{_subject(content)}: {content.group.value}", title_justify="left")
        table.add_column("field")
        table.add_column("value")
        for name, value in content.values.items():
            table.add_row(name, _text(_json(name, value)))
        console.print(table)


def _text(value: Json) -> str:
    if isinstance(value, dict):
        if "reason" in value:
            return f"none: {value['reason']}"
        return _joined(f"{name} {_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return _joined(_text(item) for item in value) or "none seen"
    return str(value)


def _joined(parts: Iterable[str]) -> str:
    return ", ".join(parts)


def _subject(content: Content) -> str:
    return "host" if content.subject == HOST else _uuid(content.subject)


def _uuid(subject: bytes) -> str:
    return f"GPU-{uuid.UUID(bytes=subject)}"
