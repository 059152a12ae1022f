"""`assay-agent show-outgoing`: exactly what the next window would carry off this host."""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from collections.abc import Iterable
from pathlib import Path

from assay_agent import config, host, spool, spool_file
from assay_agent.config import AgentConfig
from assay_agent.host import Clock
from assay_agent.telemetry.sources import make_source
from assay_agent.window import Aggregator, Draft
from assay_core.header import CloseReason, Source
from assay_core.leaves import HOST, Content, Counter, DriverState, Event, Gauge, Reason, Value

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
        known = spool.known_gpus(
            Path(settings.state_dir) / spool_file.FILE, host.boot_id(source.kind)
        )
        aggregator = Aggregator(
            known, begin_utc_ms=clock.utc_ms(), begin_boottime_ms=clock.boottime_ms()
        )
        aggregator.add(await source.poll(0))
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
        return [_event(item) if isinstance(item, Event) else _uuid(item) for item in value]
    if name == "driver_state" and isinstance(value, int):
        return DriverState(value).name.lower()
    return value


def _event(event: Event) -> Json:
    return {
        "kind": event.kind.name.lower(),
        "code": event.code,
        "first_ms": event.first_ms,
        "last_ms": event.last_ms,
        "count": event.count,
    }


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
