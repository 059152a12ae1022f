"""What the agent and its driver process say to each other: one JSON object a line.

A GPU's samples travel as numbers in the order of fields.names(): those of every tick, then what is
read deeper, where a list or a text may stand. A field without a value is 0 there, and has its
place and its Reason in a list beside them; place and 0 where it was not due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from assay_agent.telemetry.reading import Sample
from assay_core.leaves import MigInstance, Reason

LINE_BYTES_MAX: Final = 4 * 1024 * 1024

Cell = int | str | list[int | list[int]]
"""A deeper sample: a list has an item for each link, or for each MIG instance."""
HostCell = int | str | tuple[int]
"""A sample of the host; `[n]` for the Reason numbered n."""
Reading = tuple[list[int], list[Cell], list[int]]
"""A GPU's samples of every tick, its deeper ones, and place and Reason of those that are absent."""

_REASONS: Final = {int(reason): reason for reason in Reason}
_ACTIVITIES: Final = 5


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the agent: look at the GPUs, ask them for evidence and end, or let go and end."""

    do: Literal["look", "attest", "close"]
    generation: int = 0
    """The enumeration that the agent knows: of another one it is told everything."""
    depth: int = 1
    nonce: bytes = b""
    """What the evidence is to be signed over."""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A driver call has returned since the last beat."""


class Happened(msgspec.Struct, frozen=True, tag="event"):
    """An event, as soon as the driver delivered it."""

    subject: str
    """The GPU's UUID as 32 hexadecimal digits; empty when the driver did not say which."""
    kind: int
    """An EventKind; 0: GPUs came or went, which the next look will show."""
    code: int
    at_ms: int


class Look(msgspec.Struct, frozen=True, tag="look", kw_only=True, omit_defaults=True):
    """The answer to "look"."""

    code: int = 0
    """0, or what NVML said when it would not start: there is no driver to read."""
    final: bool = False
    """The process ends now: only a new one could find another library."""
    reloaded: bool = False
    """The driver had gone, and is back."""
    asleep: bool = False
    """A GPU sleeps, and the driver was not opened: that would have woken it."""
    generation: int = 0
    depth: int = 1
    """How deep it was; no less than asked."""
    host: list[HostCell] = []
    """table.HOST_NAMES; a look of depth DAY has PLATFORM_NAMES after them."""
    uuids: list[str] | None = None
    """Whose readings follow; None where the agent knows this generation's already."""
    gpus: list[Reading | int] = []
    """By their place in the enumeration; a number is the Reason of all of a GPU's fields."""
    unreadable: tuple[int, ...] = ()
    """A Reason for each GPU that is enumerated and cannot be named."""
    changes: list[tuple[int, int, int]] = []
    """What was found to have happened: a GPU's place, an EventKind and a code."""


class Attesting(msgspec.Struct, frozen=True, tag="attesting", kw_only=True, omit_defaults=True):
    """The first answer to "attest": who will be asked."""

    code: int = 0
    """0, or what NVML said when it would not start."""
    asleep: bool = False
    """A GPU sleeps, and the driver was not opened: that would have woken it."""
    modes: list[HostCell] = []
    """Which modes are on in which a GPU signs, by table.MODE_NAMES."""
    uuids: list[str] = []
    """Who has an answer still to come, as 32 hexadecimal digits; empty: its UUID is none."""


class Attested(msgspec.Struct, frozen=True, tag="attested", kw_only=True, omit_defaults=True):
    """One GPU's evidence, or the call that did not give it."""

    uuid: str = ""
    call: Literal["", "identity", "certificate", "report"] = ""
    """What failed: with NVML's code, or for what it said was there, which is too much."""
    code: int = 0
    said: int = 0
    """Bytes that the driver said there were, where its own structure has no room for them."""
    report: bytes = b""
    chain: bytes = b""


Told = Beat | Happened | Look | Attesting | Attested


def cells(samples: Sequence[Sample], first: int, absent: list[int]) -> list[Cell]:
    """Deeper samples for the wire; what is absent is added by its place, counted from `first`."""
    result: list[Cell] = []
    for place, sample in enumerate(samples, first):
        if isinstance(sample, Reason):
            absent += (place, int(sample))
            result.append(0)
        elif isinstance(sample, tuple):
            result.append([_item(item) for item in sample if not isinstance(item, str)])
        else:
            result.append(sample)
    return result


def _item(item: int | MigInstance) -> int | list[int]:
    if not isinstance(item, MigInstance):
        return item
    activity = item.activity
    shares = [int(activity)] if isinstance(activity, Reason) else [*activity]
    return [item.gpu_instance_id, item.memory_mib, *shares]


def values(names: Sequence[str], reading: Reading) -> dict[str, Sample]:
    """A GPU's samples by name. Raises ValueError and KeyError for what no reading can be."""
    ticks, deeper, absent = reading
    result: dict[str, Sample] = dict(zip(names, ticks, strict=not deeper))
    for name, cell in zip(names[len(ticks) :], deeper, strict=True):
        result[name] = _tuple(cell) if isinstance(cell, list) else cell
    for place, number in zip(absent[::2], absent[1::2], strict=True):
        if number == 0:
            del result[names[place]]
        else:
            result[names[place]] = _REASONS[number]
    return result


def _tuple(items: list[int | list[int]]) -> tuple[int, ...] | tuple[MigInstance, ...]:
    whole = [item for item in items if isinstance(item, int)]
    if len(whole) == len(items):
        return tuple(whole)
    return tuple(_instance(item) for item in items if isinstance(item, list))


def _instance(cell: list[int]) -> MigInstance:
    number, memory_mib, *rest = cell
    if len(rest) != _ACTIVITIES:
        return MigInstance(number, memory_mib, _REASONS[rest[0]])
    graphics, sm, occupancy, tensor, dram = rest
    return MigInstance(number, memory_mib, (graphics, sm, occupancy, tensor, dram))


def host_cell(sample: Sample) -> HostCell:
    """A sample of the host for the wire."""
    if isinstance(sample, Reason):
        return (int(sample),)
    return sample if isinstance(sample, int | str) else (int(Reason.INVALID_VALUE),)


def host_sample(cell: HostCell) -> Sample:
    """A sample of the host off the wire. Raises KeyError for a reason that there is not."""
    return _REASONS[cell[0]] if isinstance(cell, tuple) else cell
