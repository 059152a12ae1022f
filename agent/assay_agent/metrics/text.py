"""Prometheus' text formats, written without a library: the agent's memory is counted in MiB.

Two formats are written: text 0.0.4, and OpenMetrics 1.0 for who asks for it. A family's name is the
one OpenMetrics knows; a counter's series end in _total in both. Tests hold both against
prometheus_client's parsers and promtool.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
_HELP_ESCAPES: Final = str.maketrans({"\\": "\\\\", "\n": "\\n"})


class Kind(enum.StrEnum):
    """What a family's numbers are."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: its name without _total, kind, meaning, and the unit its name ends in."""

    name: str
    kind: Kind
    help: str
    unit: str = ""

    @property
    def series(self) -> str:
        """The name its series carry."""
        return f"{self.name}_total" if self.kind is Kind.COUNTER else self.name


Row = tuple[str, int | float]
"""A series: its labels as `labels` writes them, and its value."""


def labels(pairs: Mapping[str, str]) -> str:
    """Labels as they stand between braces."""
    return ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs.items())


def write(family: Family, rows: Iterable[Row], *, openmetrics: bool) -> str:
    """The family's lines; nothing where it has no series."""
    lines = [
        f"{family.series}{{{marks}}} {_number(value)}"
        if marks
        else f"{family.series} {_number(value)}"
        for marks, value in rows
    ]
    if not lines:
        return ""
    named = family.name if openmetrics else family.series
    head = [
        f"# HELP {named} {family.help.translate(_HELP_ESCAPES)}",
        f"# TYPE {named} {family.kind}",
    ]
    if family.unit:
        # Text 0.0.4 has no units: there the line is a comment, for people.
        head.append(f"# UNIT {named} {family.unit}")
    return "\n".join([*head, *lines, ""])


def _number(value: float) -> str:
    if isinstance(value, bool) or (float(value).is_integer() and abs(value) < 2**53):
        value = int(value)
    return repr(value)


class Metric:
    """A number of the agent's own, or one for each set of labels. None: not known, not shown."""

    __slots__ = ("_cells", "_labels", "family", "value")

    def __init__(self, family: Family, label_names: tuple[str, ...] = ()) -> None:
        self.family = family
        self.value: float | None = 0 if family.kind is Kind.COUNTER else None
        self._labels = label_names
        self._cells: dict[tuple[str, ...], Metric] = {}

    def labels(self, *values: str) -> Metric:
        """The number with these labels."""
        if len(values) != len(self._labels):
            raise ValueError(f"{self.family.name} has the labels {self._labels}")
        cell = self._cells.get(values)
        if cell is None:
            cell = self._cells[values] = Metric(self.family)
        return cell

    def inc(self, by: float = 1) -> None:
        """Counts."""
        self.value = (self.value or 0) + by

    def set(self, value: float) -> None:
        """Says what it is now."""
        self.value = value

    def rows(self) -> Iterator[Row]:
        """Its series."""
        if not self._labels:
            if self.value is not None:
                yield "", self.value
            return
        for values, cell in self._cells.items():
            if cell.value is not None:
                yield labels(dict(zip(self._labels, values, strict=True))), cell.value
