"""Writes docs/privacy.md, the list of what leaves a host, from the schema. `make docs` runs it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from assay_agent.cli.propose import KINDS
from assay_agent.metrics.words import WORDS
from assay_core.asset_events import fields_of
from assay_core.leaves import ON_CHANGE, Group
from assay_proto.v1 import attestation_pb2, enrollment_pb2, evidence_pb2, window_pb2

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "privacy.md"
PROTO: Final = ROOT / "proto" / "assay_proto" / "v1"
FILES: Final = (window_pb2, attestation_pb2, evidence_pb2, enrollment_pb2)
SENT: Final = (
    attestation_pb2.AgentMessage.DESCRIPTOR,
    window_pb2.Header.DESCRIPTOR,
    window_pb2.GapRecord.DESCRIPTOR,
    window_pb2.Leaf.DESCRIPTOR,
    evidence_pb2.EvidenceStatement.DESCRIPTOR,
    enrollment_pb2.ActivateRequest.DESCRIPTOR,
    enrollment_pb2.EnrollRequest.DESCRIPTOR,
    enrollment_pb2.EnrollStatement.DESCRIPTOR,
    enrollment_pb2.RenewRequest.DESCRIPTOR,
    enrollment_pb2.RenewStatement.DESCRIPTOR,
    enrollment_pb2.RotateRequest.DESCRIPTOR,
    enrollment_pb2.RotateStatement.DESCRIPTOR,
)
"""What an agent sends, with what travels inside bytes fields named beside it."""

UNITS: Final = {
    "mc": "0.001 °C",
    "mw": "mW",
    "mj": "mJ",
    "bps": "0.01 %",
    "pct": "%",
    "mhz": "MHz",
    "ns": "ns",
    "s": "s",
    "bytes": "bytes",
    "mibps": "MiB/s",
    "mbps": "MB/s",
}
"""By the last word of a field's name."""
_INSTANTS: Final = re.compile(r"(_utc|_until|^begin|^end|^first|^last)_ms$")

_OPENING: Final = """\
# What leaves a host

This page is the whole list. It is generated from the schema (`make docs`), a test fails when it is out of
date, and another fails when a window carries a field that is not on it. `assay-agent show-outgoing`
prints, on a host, what the next window would carry, and sends nothing.

## What never leaves

- **Names of processes, pods, jobs, containers, users or files of theirs**, their command lines, their
  environment, process ids. The agent asks the driver how many processes compute, with no room for who:
  the count alone is read, once a window.
- **The host's name**, its addresses, its routes, what else runs on it. A host is called what the valuer
  called it at enrolment. Like every server, the valuer sees the address that a connection comes from.
- **Lines of the kernel's log.** From a line that tells an Xid the agent takes its number, its time and
  the GPU.
- **Anything from a GPU's memory**, and any use finer than a window: least, mean and most of 5 minutes by
  default (1 s at the least). A health event closes a window early.
- **Secret keys.** They are made on the host and stay there.

The metrics port and the textfile are for the operator: they stay on the host unless
`metrics.listen` is set to another address, which needs TLS.

## What leaves, and to whom

Windows go to the one valuer that the host was enrolled with, over TLS that both sides authenticate. A
window is a signed header and *leaves*, one for each GPU and group. Each leaf can be shown to others
without the rest: what a GPU did (`use`) is disclosed apart from how it is (`health`, `condition`). A field
without a value travels as the reason why it has none.
"""
_WHEN: Final = {
    Group.IDENTITY: "Who each GPU is.",
    Group.HEALTH: "How well each GPU is.",
    Group.USE: "What each GPU did: a tenant's usage.",
    Group.HOST: "The host around the GPUs.",
    Group.CONDITION: "What shape each GPU is in.",
    Group.PLATFORM: "The software around the GPUs.",
}


_OWN: Final = {
    "Absent.reason": "The reason, one of a list.",
    "Incident.kind": "What it is of: a Xid, or a condition that readings show.",
    "Incident.severity": "User error, degraded or impaired.",
    "Incident.begin_ms": "When it began.",
    "Incident.last_ms": "When it was last seen.",
    "Incident.end_ms": "When it ended; 0: open.",
    "MigInstance.graphics_activity_pct": WORDS["graphics_activity_pct"],
    "MigInstance.sm_activity_pct": WORDS["sm_activity_pct"],
    "MigInstance.sm_occupancy_pct": WORDS["sm_occupancy_pct"],
    "MigInstance.tensor_activity_pct": WORDS["tensor_activity_pct"],
    "MigInstance.dram_activity_pct": WORDS["dram_activity_pct"],
    "Envelope.payload": "The exact bytes that are signed: a Header, a GapRecord, an "
    "EvidenceStatement or an AssetEvent.",
    "Envelope.payload_type": "Which of them, and the version of the schema.",
    "Envelope.signatures": "The host's own comes first.",
    "SealedWindow.envelope": "The signed Header.",
    "SealedWindow.leaves": "The exact bytes of each Leaf.",
}
"""Where a .proto's comment goes for several fields at once, or the message's own says enough."""
EVENT: Final = {
    "kind": ("What is proposed.", "one of a list"),
    "nonce": ("A random UUID.", "text"),
    "why": ("Why, in the operator's own words.", "text"),
    "assets": ("The GPUs that it is of: serial and board part number.", "list: Subject"),
    "host": ("The host itself, where it is of that.", "text"),
    "begin_ms": ("When it begins.", "number"),
    "until_ms": ("When it is over.", "number"),
    "replacements": ("What takes the place of each GPU.", "list: Subject"),
    "to_host": ("Which host the GPUs go to.", "text"),
    "to_site": ("Which site they, or the host, go to.", "text"),
}
"""The fields of what an operator proposes: JSON, and only by `assay-agent propose`."""


def main() -> int:
    """Writes the page; with --check says whether it is what would be written."""
    text = page()
    if "--check" in sys.argv[1:]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """The page as it should be."""
    comments = read_comments()
    parts = [_OPENING]
    for group in Group:
        parts.append(_group(group))
    parts.append("## What leaves are made of\n")
    parts.extend(_message(one, comments) for one in _pieces())
    parts.append(
        "## Around the leaves\n\nThe header is signed; the rest carries it and the leaves, enrols the "
        "host and renews its certificate.\n"
    )
    parts.extend(_message(one, comments) for one in _carriers())
    parts.append(_event())
    return "\n".join(parts)


def event_fields() -> set[str]:
    """The fields that an event proposed on a host can have."""
    return {field for kind in KINDS for field in fields_of(kind)}


def _event() -> str:
    lines = [
        "## What an operator proposes",
        "",
        "Nothing of this leaves by itself: only what somebody types after `assay-agent propose`.",
        "",
        "### AssetEvent",
        "",
        "| Field | Unit | What it is | As |",
        "|---|---|---|---|",
    ]
    for name, (words, shape) in EVENT.items():
        lines.append(
            f"| `{name}` | {'UTC ms' if name.endswith('_ms') else ''} | {words} | {shape} |"
        )
    return "\n".join([*lines, ""])


def reachable() -> Iterator[Descriptor]:
    """Every message that an agent can send, each once."""
    seen: dict[str, Descriptor] = {}
    waiting = list(SENT)
    while waiting:
        one = waiting.pop(0)
        if one.full_name in seen:
            continue
        seen[one.full_name] = one
        waiting.extend(field.message_type for field in one.fields if field.message_type)
    yield from seen.values()


def _bodies() -> dict[str, Group]:
    fields = window_pb2.Leaf.DESCRIPTOR.oneofs_by_name["body"].fields
    return {_type(field).full_name: Group(field.name) for field in fields}


def _type(field: FieldDescriptor) -> Descriptor:
    """The message that a field is of."""
    if field.message_type is None:
        raise TypeError(f"{field.full_name} is no message")
    return field.message_type


_PIECES: Final = frozenset(
    {"Leaf", "Absent", "Gauge", "Counter", "Event", "Incident", "MigInstance"}
)


def _pieces() -> Iterator[Descriptor]:
    return (one for one in reachable() if one.name in _PIECES)


def _carriers() -> Iterator[Descriptor]:
    bodies = _bodies()
    return (one for one in reachable() if one.name not in _PIECES and one.full_name not in bodies)


def _group(group: Group) -> str:
    message = _type(window_pb2.Leaf.DESCRIPTOR.fields_by_name[group.value])
    when = (
        "Travels when it changes, at each boot, once a day and after a gap."
        if group in ON_CHANGE
        else "Travels in every window."
    )
    lines = [
        f"### {message.name}",
        "",
        f"The group `{group.value}`. {_WHEN[group]} {when}",
        "",
        "| Field | Unit | What it is | As |",
        "|---|---|---|---|",
    ]
    for field in message.fields:
        words = "Fields with no value, and why" if field.name == "absent" else WORDS[field.name]
        lines.append(f"| `{field.name}` | {unit(field.name)} | {words} | {_shape(field)} |")
    return "\n".join([*lines, ""])


def _message(message: Descriptor, comments: Mapping[str, str]) -> str:
    about = comments.get(message.name, "")
    lines = [f"### {message.name}", "", *([about, ""] if about else [])]
    lines += ["| Field | Unit | What it is | As |", "|---|---|---|---|"]
    bodies = _bodies()
    for field in message.fields:
        name = f"{message.name}.{field.name}"
        words = _OWN.get(name) or comments.get(name, "")
        if field.message_type is not None and field.message_type.full_name in bodies:
            words = f"See {field.message_type.name}."
        lines.append(f"| `{field.name}` | {unit(field.name)} | {words} | {_shape(field)} |")
    return "\n".join([*lines, ""])


def unit(name: str) -> str:
    """The unit a field's name ends in, in words; empty where it has none."""
    if _INSTANTS.search(name):
        return "UTC ms"
    last = name.rpartition("_")[2]
    return "ms" if last == "ms" else UNITS.get(last, "") if "_" in name else ""


def _shape(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        name = {"Gauge": "least, mean, most", "Counter": "increase and total"}.get(
            field.message_type.name, field.message_type.name
        )
    elif field.enum_type is not None:
        name = "one of a list"
    else:
        name = {
            FieldDescriptor.CPPTYPE_STRING: "bytes"
            if field.type == FieldDescriptor.TYPE_BYTES
            else "text",
            FieldDescriptor.CPPTYPE_BOOL: "yes or no",
        }.get(field.cpp_type, "number")
    return f"list: {name}" if is_list(field) else name


def is_list(field: FieldDescriptor) -> bool:
    """Whether a field is repeated."""
    return bool(field.is_repeated)


def read_comments() -> dict[str, str]:
    """What the .proto files say: a comment goes for the fields below it until the next one."""
    found: dict[str, str] = {}
    for module in FILES:
        path = PROTO / Path(module.DESCRIPTOR.name).name
        _read(path.read_text(encoding="utf-8"), found)
    return found


def _read(text: str, found: dict[str, str]) -> None:
    message, pending, current = "", [], ""
    for line in text.splitlines():
        bare = line.strip()
        if bare.startswith("//"):
            pending.append(bare.removeprefix("//").strip())
            continue
        opened = re.match(r"(message|enum|service) (\w+) {", bare)
        field = re.match(r"(?:optional |repeated )?[\w.]+ (\w+) = \d+;(?:\s*// (.*))?", bare)
        if opened:
            message = opened[2]
            found[message] = " ".join(pending)
            current, pending = "", []
        elif field:
            if pending:
                current, pending = " ".join(pending), []
            found[f"{message}.{field[1]}"] = field[2] or current
        else:
            pending = []


if __name__ == "__main__":
    sys.exit(main())
