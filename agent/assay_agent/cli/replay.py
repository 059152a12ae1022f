"""`assay-agent replay`: makes a trace's windows again, and compares them leaf by leaf."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from assay_agent.recording import LeafKey, Replayed, digests, replay
from assay_agent.telemetry import trace
from assay_agent.telemetry.fields import uuid_of
from assay_core.errors import FileError
from assay_core.instants import format_instant
from assay_core.leaves import HOST


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "replay",
        help="make a recorded trace's windows again, byte for byte",
        description="Reads the polls of a trace and makes each window again that the recorder "
        "closed. Every leaf must come out byte for byte (its salt aside); exit status 1 where one "
        "does not. With --json every leaf has its hash.",
        epilog="example: assay-agent replay trace.jsonl --json",
    )
    parser.add_argument("trace", type=Path, metavar="FILE", help="what `record` wrote")
    parser.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Replays, and says what came out."""
    windows = list(replay(args.trace))
    if not windows:
        raise FileError(f"{args.trace}: no window was closed in it: nothing to compare")
    if args.json:
        print(json.dumps(_document(args.trace, windows), indent=2))
    else:
        _print_table(windows)
    return 1 if any(window.differing for window in windows) else 0


def _document(path: Path, windows: Sequence[Replayed]) -> dict[str, object]:
    recording = trace.read_recording(path)
    return {
        "source": recording.source.name.lower(),
        "agent_version": recording.agent_version,
        "windows": [
            {
                "begin": format_instant(window.draft.period.begin_utc_ms),
                "end": format_instant(window.draft.period.end_utc_ms),
                "close_reason": window.recorded.close_reason.name.lower(),
                "polls": window.polls,
                "leaves": [
                    {
                        "subject": _subject(subject),
                        "group": group.value,
                        "sha256": None if digest is None else digest.hex(),
                        "same": (subject, group) not in window.differing,
                    }
                    for (subject, group), digest in _leaves(window).items()
                ],
            }
            for window in windows
        ],
    }


def _print_table(windows: Sequence[Replayed]) -> None:
    from rich.console import Console  # noqa: PLC0415 - the service never needs it
    from rich.table import Table  # noqa: PLC0415

    console = Console()
    table = Table("window", "closed", "because", "polls", "leaves", "same")
    for number, window in enumerate(windows):
        table.add_row(
            str(number),
            format_instant(window.draft.period.end_utc_ms),
            window.recorded.close_reason.name.lower(),
            str(window.polls),
            str(len(_leaves(window))),
            f"[bold red]{len(window.differing)} DIFFER" if window.differing else "yes",
        )
    console.print(table)
    for number, window in enumerate(windows):
        for subject, group in window.differing:
            console.print(f"window {number} differs: {_subject(subject)}, {group.value}")
    leaves = sum(len(_leaves(window)) for window in windows)
    wrong = sum(len(window.differing) for window in windows)
    console.print(
        f"{len(windows)} windows, {leaves} leaves: "
        + ("every one byte for byte" if not wrong else f"[bold red]{wrong} differ")
    )


def _leaves(window: Replayed) -> dict[LeafKey, bytes | None]:
    """Every leaf that was recorded or made, with the hash of the one that was made."""
    made = digests(window.draft)
    return {key: made.get(key) for key in (*made, *window.differing)}


def _subject(subject: bytes) -> str:
    return "host" if subject == HOST else uuid_of(subject)
