"""A row of the result: one budget, what was measured, and what bounds it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


class MeasurementFailed(Exception):
    """A measurement could not be made; the message says why. Missing a target is not this."""


@dataclass(frozen=True, slots=True)
class Row:
    """One budget of the design.

    `bound` is in the value's unit, measured in the same run where the budget has one; None where
    it has none, and the ratio then is value ÷ target. `judged` says which number the target is
    for, `better` which side of it is met.
    """

    name: str
    value: float
    unit: str
    bound: float | None
    bound_is: str
    ratio: float
    target: float
    judged: Literal["value", "ratio"]
    better: Literal["higher", "lower"]
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        judged = self.ratio if self.judged == "ratio" else self.value
        return judged >= self.target if self.better == "higher" else judged <= self.target


@dataclass(frozen=True, slots=True)
class Context:
    """What a measurement is given: a folder of its own, and where it says what it is doing."""

    folder: Path
    say: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measurement and the rows it makes, by name and in order.

    `run` raises MeasurementFailed. `about` is a line for people.
    """

    names: tuple[str, ...]
    about: str
    run: Callable[[Context], Sequence[Row]]
