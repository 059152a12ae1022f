"""`assay verify window`: a window file, whole or a partial disclosure, step by step."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, TypeVar

from assay_core import disclosure
from assay_core.errors import FileError
from assay_core.instants import format_instant
from assay_core.leaves import (
    Counter,
    Event,
    Gauge,
    Incident,
    Leaf,
    MigInstance,
    Reason,
    Value,
)

Item = int | str | bytes | Event | Incident | MigInstance
"""What a list of a leaf may hold."""
_T = TypeVar("_T")
HOLDS: Final = 0
DOES_NOT_HOLD: Final = 1

_EPILOG: Final = """\
example:
  assay verify window window.json --trust trust.json

The trust file says which key speaks for which host. Have it from someone other than whoever
gave you the window. What holds is that this key sealed these readings; whether they are fresh,
and whether the host told the truth, no file can say by itself.

exit status: 0 all steps hold, 1 one does not, 2 a file cannot be read
"""


def add(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to `assay verify`."""
    window = things.add_parser(
        "window",
        help="a window file, whole or a partial disclosure",
        description="Checks a window file step by step, offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    window.add_argument("file", type=Path, metavar="FILE", help="the window file")
    window.add_argument(
        "--trust",
        type=Path,
        required=True,
        metavar="FILE",
        help="which key speaks for which host, as `assay-valuer export trust` writes it",
    )
    window.add_argument("--show", action="store_true", help="print every disclosed field too")
    window.add_argument("--json", action="store_true", help="print for machines")
    window.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit status. Raises FileError."""
    window = read_as(disclosure.load, args.file, "window")
    trust = read_as(disclosure.load_trust, args.trust, "trust")
    inspection = disclosure.inspect(window, trust)
    if args.json:
        print(json.dumps(_as_json(inspection), indent=1))
    else:
        _print(inspection, show=args.show)
    return HOLDS if inspection.holds else DOES_NOT_HOLD


def read_as(load: Callable[[str, str], _T], path: Path, what: str) -> _T:
    """A file that `assay-valuer export WHAT` wrote. Raises FileError: two may have been swapped."""
    text = read_text(path)
    try:
        return load(text, str(path))
    except FileError as error:
        raise FileError(f"{error}. Is it what `assay-valuer export {what}` wrote?") from error


def read_text(path: Path) -> str:
    """A file that somebody wrote. Raises FileError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"{path}: cannot be read: {why}") from error


def _print(inspection: disclosure.Inspection, *, show: bool) -> None:
    for number, step in enumerate(inspection.steps, start=1):
        mark = "holds" if step.holds else "FAILS"
        print(f"{number}. {step.name:<10} {mark}  {step.detail}")
    if not inspection.holds:
        print("The file does not hold: do not rely on anything in it.")
        return
    print("All steps hold.")
    for leaf in inspection.leaves if show else ():
        print(f"\n{leaf.content.group.value} {leaf.content.subject.hex()}".rstrip(" "))
        for name, value in leaf.content.values.items():
            print(f"  {name:<28} {_text(value)}")


def _text(value: Value) -> str:
    if isinstance(value, Reason):
        return f"({value.label})"
    if isinstance(value, Gauge):
        return f"{value.mean} (from {value.min} to {value.max})"
    if isinstance(value, Counter):
        return f"+{value.delta} to {value.total}"
    if isinstance(value, tuple):
        return "; ".join(_item(item) for item in value) or "none"
    return str(value)


def _item(item: Item) -> str:
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, MigInstance):
        shares = item.activity
        activity = (
            f"({shares.label})" if isinstance(shares, Reason) else "/".join(map(str, shares)) + " %"
        )
        return f"instance {item.gpu_instance_id} of {item.memory_mib} MiB: {activity}"
    if not isinstance(item, Event | Incident):
        return str(item)
    code = f" {item.code}" if item.code else ""
    said = f"{item.kind.name.lower()}{code} ×{item.count}"
    if isinstance(item, Event):
        return f"{said} at {format_instant(item.first_ms)}"
    end = "open" if item.end_ms is None else f"until {format_instant(item.end_ms)}"
    return f"{said}, {item.severity.label}, from {format_instant(item.begin_ms)}, {end}"


_ACTIVITIES: Final = ("graphics", "sm", "sm_occupancy", "tensor", "dram")
_Json = None | bool | int | str | list["_Json"] | dict[str, "_Json"]


def _as_json(inspection: disclosure.Inspection) -> _Json:
    header = inspection.header
    return {
        "verified": inspection.holds,
        "steps": [
            {"name": step.name, "holds": step.holds, "detail": step.detail}
            for step in inspection.steps
        ],
        "header": {
            "host_id": header.host_id,
            "incarnation": header.incarnation,
            "sequence": header.sequence,
            "begin": format_instant(header.period.begin_utc_ms),
            "end": format_instant(header.period.end_utc_ms),
            "source": header.source.name.lower(),
        }
        if header is not None
        else {},
        "leaves": [_leaf_json(leaf) for leaf in inspection.leaves],
    }


def _leaf_json(leaf: Leaf) -> _Json:
    return {
        "subject": leaf.content.subject.hex(),
        "group": leaf.content.group.value,
        "values": _values_json(leaf.content.values),
    }


def _values_json(values: Mapping[str, Value]) -> _Json:
    return {name: _value_json(value) for name, value in values.items()}


def _value_json(value: Value) -> _Json:
    if isinstance(value, Reason):
        return {"reason": value.label}
    if isinstance(value, Gauge):
        return {"min": value.min, "mean": value.mean, "max": value.max}
    if isinstance(value, Counter):
        return {"delta": value.delta, "total": value.total}
    if isinstance(value, tuple):
        return [_item_json(item) for item in value]
    return value


def _item_json(item: Item) -> _Json:
    if isinstance(item, bytes):
        return item.hex()
    if isinstance(item, MigInstance):
        shares = item.activity
        return {
            "gpu_instance_id": item.gpu_instance_id,
            "memory_mib": item.memory_mib,
            "activity_pct": {"reason": shares.label}
            if isinstance(shares, Reason)
            else dict(zip(_ACTIVITIES, shares, strict=True)),
        }
    if isinstance(item, Event):
        return {
            "kind": item.kind.name.lower(),
            "code": item.code,
            "first": format_instant(item.first_ms),
            "last": format_instant(item.last_ms),
            "count": item.count,
        }
    if isinstance(item, Incident):
        return {
            "kind": item.kind.name.lower(),
            "code": item.code,
            "severity": item.severity.label,
            "begin": format_instant(item.begin_ms),
            "last": format_instant(item.last_ms),
            "end": None if item.end_ms is None else format_instant(item.end_ms),
            "count": item.count,
        }
    return item
