"""`assay-valuer gpu list`."""

from __future__ import annotations

import argparse

from assay_core.instants import format_duration
from assay_valuer.cli.common import (
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    say,
)
from assay_valuer.reading import GpuRow, gpu_rows


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser("gpu", help="GPUs as assets").add_subparsers(required=True)
    listing = add_command(
        group, "list", "list every GPU, seen or expected", "assay-valuer gpu list --json"
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON."""
    with opened(args) as state:
        gpus = state.database.read(gpu_rows)
    if args.json:
        print_json({"gpus": gpus})
        return OK
    now = now_ms()
    print_table(
        ("GPU", "product", "host", "loan", "presence", "counts", "seen", "assurance"),
        [_row(gpu, now) for gpu in gpus],
    )
    if not gpus:
        say("no GPU yet: import a loan that pledges some, or let a host enrol")
    return OK


def _row(gpu: GpuRow, now: int) -> tuple[str, ...]:
    result = gpu.result
    return (
        gpu.serial or f"asset-{gpu.id}",
        gpu.name or "not seen yet",
        gpu.host or "",
        gpu.loan or "",
        "not valued yet" if result is None else presence_of(gpu),
        "" if result is None else ("yes" if result.counts else "no"),
        "never" if gpu.seen_ms is None else f"{format_duration(max(0, now - gpu.seen_ms))} ago",
        "" if result is None else assurance_of(result.assurance),
    )


def presence_of(gpu: GpuRow) -> str:
    """Presence and whose silence it is, and that it is simulated where it is."""
    if gpu.result is None:
        return ""
    cause = f" ({gpu.result.cause})" if gpu.result.cause else ""
    return f"{gpu.result.presence}{cause}" + (", SIMULATED" if gpu.result.simulated else "")


def assurance_of(level: int) -> str:
    """0 to 4 and custody as the design names them."""
    names = ("L0", "L1", "L2", "L2+", "L3")
    return names[min(level & 127, 4)] + ("+C" if level & 128 else "")
