"""`assay-valuer gpu list` and `gpu show`."""

from __future__ import annotations

import argparse
from collections import Counter

import msgspec
from sqlalchemy import Connection

from assay_core.instants import format_duration, format_instant
from assay_core.leaves import Severity
from assay_core.printable import printable
from assay_valuer.asset_rows import asset_rows
from assay_valuer.cli import trust
from assay_valuer.cli.common import (
    FALSE,
    OK,
    Commands,
    add_command,
    now_ms,
    opened,
    print_json,
    print_table,
    say,
)
from assay_valuer.policy import ValuerPolicy
from assay_valuer.results import StoredLine
from assay_valuer.rows import GpuRow, IncidentRow, gpu_rows
from assay_valuer.standing.notes import Note


def add_parser(commands: Commands) -> None:
    """Registers the commands."""
    group = commands.add_parser("gpu", help="GPUs as assets").add_subparsers(required=True)
    listing = add_command(
        group, "list", "list every GPU, seen or expected", "assay-valuer gpu list --json"
    )
    listing.add_argument("--json", action="store_true", help="for machines")
    listing.set_defaults(run=run_list)
    showing = add_command(
        group,
        "show",
        "show one GPU: how far it is trusted and why, the evidence for and against it, its incidents, "
        "what did not hang together, its lifetime counters",
        "assay-valuer gpu show 1652222012345",
    )
    showing.add_argument("gpu", help="its serial, or its name in `gpu list`")
    showing.add_argument("--json", action="store_true", help="for machines")
    showing.set_defaults(run=run_show)


def run_list(args: argparse.Namespace) -> int:
    """A table, or JSON."""
    with opened(args) as state:
        gpus = state.database.read(gpu_rows)
    if args.json:
        print_json({"gpus": gpus})
        return OK
    now = now_ms()
    print_table(
        (
            "GPU",
            "product",
            "host",
            "loan",
            "presence",
            "counts",
            "seen",
            "assurance",
            "incidents",
            "findings",
        ),
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
        "" if result is None else assurance_of(result.assurance) + _held(result),
        _classes(gpu),
        str(sum(note.amiss for note in gpu.findings) or ""),
    )


def _held(result: StoredLine) -> str:
    return (", FROZEN" if result.frozen else "") + (", DISPUTED" if result.disputed else "")


def _classes(gpu: GpuRow) -> str:
    """Open incidents by class, the worst first: "1 impaired, 2 degraded"."""
    standing = Counter(one.severity for one in gpu.incidents if one.end_ms is None)
    worst_first = [severity.label for severity in sorted(Severity, reverse=True)]
    return ", ".join(f"{standing[name]} {name}" for name in worst_first if standing[name])


def run_show(args: argparse.Namespace) -> int:
    """One GPU, whole; 1 where there is none of this name."""
    wanted: str = args.gpu
    now = now_ms()
    with opened(args) as state:
        found = state.database.read(lambda c: _shown(c, wanted, state.config.policy, now))
    if not found:
        say(f"there is no GPU {printable(wanted, 64)}; see `assay-valuer gpu list`")
        return FALSE
    if args.json:
        print_json({"gpus": found})
        return OK
    for gpu in found:
        print_table(("", "GPU"), _facts(gpu, now), prose="GPU")
        trust.print_trust(gpu.explained)
        if gpu.incidents:
            print_table(_INCIDENT, [_incident(one) for one in gpu.incidents], prose="meaning")
        if gpu.findings:
            print_table(_FINDING, [_finding(note) for note in gpu.findings], prose="finding")
        say("incidents are judged by our rules from the windows; findings never move a value")
    return OK


class _Shown(GpuRow, frozen=True, kw_only=True):
    """A GPU, with trust in it now in words."""

    explained: trust.Explained


def _shown(connection: Connection, wanted: str, policy: ValuerPolicy, now: int) -> list[_Shown]:
    found = [
        gpu for gpu in gpu_rows(connection) if wanted in (gpu.serial, f"asset-{gpu.id}", gpu.uuid)
    ]
    assets = {row.id: row for row in asset_rows(connection)} if found else {}
    told = trust.explained(connection, [assets[gpu.id] for gpu in found], policy, now)
    return [
        _Shown(**msgspec.structs.asdict(gpu), explained=one)
        for gpu, one in zip(found, told, strict=True)
    ]


_INCIDENT = ("incident", "class", "began", "last seen", "ended", "times", "meaning")
_FINDING = ("code", "first", "last", "times", "finding")


def _facts(gpu: GpuRow, now: int) -> list[tuple[str, str]]:
    names = ("GPU", "product", "host", "loan", "presence", "counts", "seen")
    facts = [*zip(names, _row(gpu, now), strict=False)]
    totals = gpu.totals
    if totals is not None:
        facts += [
            (name.replace("_", " "), str(value))
            for name, value in msgspec.structs.asdict(totals).items()
            if value is not None and name not in ("at_ms", "boot", "boottime_ms", "odometer_age_ms")
        ]
    return facts


def _incident(one: IncidentRow) -> tuple[str, ...]:
    return (
        one.name,
        one.severity,
        format_instant(one.begin_ms),
        format_instant(one.last_ms),
        "no, open" if one.end_ms is None else format_instant(one.end_ms),
        str(one.count),
        f"{one.meaning}: {one.action} ({one.source})",
    )


def _finding(note: Note) -> tuple[str, ...]:
    return (
        note.code,
        format_instant(note.first_ms),
        format_instant(note.last_ms),
        str(note.count),
        note.detail,
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
