"""What the agent and its driver process say to each other: one JSON object a line.

A field's samples travel as a list in the order of fields.START_NAMES or fields.TICK_NAMES: a
number, a text, or `[n]` for the Reason numbered n.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from assay_core.leaves import Reason

LINE_BYTES_MAX: Final = 1024 * 1024

Cell = int | str | tuple[int]
"""A sample on the wire."""


class Ask(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From the agent: look at the GPUs, or let go of the driver and end."""

    do: Literal["look", "close"]
    generation: int = 0
    """The enumeration whose identities the agent already holds."""


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """A driver call has returned since the last beat."""


class Happened(msgspec.Struct, frozen=True, tag="xid"):
    """An Xid event, as soon as the driver delivered it."""

    subject: str
    """The GPU's UUID as 32 hexadecimal digits; empty when the driver did not say which."""
    code: int
    at_ms: int


class Look(msgspec.Struct, frozen=True, tag="look", kw_only=True):
    """The answer to "look"."""

    code: int = 0
    """0, or what NVML said when it would not start: there is no driver to read."""
    final: bool = False
    """The process ends now: only a new one could find another library."""
    reloaded: bool = False
    """The driver had gone, and is back."""
    generation: int = 0
    host: tuple[Cell, Cell, Cell] = ((4,), (4,), (4,))
    """driver_version, nvml_version, gpu_count."""
    identities: dict[str, list[Cell]] | None = None
    """By UUID; None when the agent holds this generation's already."""
    gpus: dict[str, list[Cell]] = {}
    """By UUID: the GPUs that answered."""
    unreadable: tuple[int, ...] = ()
    """A Reason for each GPU that is enumerated and cannot be named."""


Told = Beat | Happened | Look


def cell(sample: int | str | Reason) -> Cell:
    """A sample for the wire."""
    return (int(sample),) if isinstance(sample, Reason) else sample


def sample(cell: Cell) -> int | str | Reason:
    """A sample off the wire. Raises ValueError for a reason that there is not."""
    return Reason(cell[0]) if isinstance(cell, tuple) else cell
