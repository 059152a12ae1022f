"""Money: integer micro-dollars inside, 18 decimals on chain, converted here and nowhere else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from assay_core.errors import FileError

MICROS_PER_USD: Final = 1_000_000
WAD_PER_MICRO: Final = 10**12
_DECIMAL: Final = re.compile(r"(-?)(\d{1,15})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True, order=True)
class Usd:
    """An amount of US dollars in whole micro-dollars (1e-6 USD)."""

    micros: int

    @classmethod
    def parse(cls, text: str) -> Usd:
        """Reads "29500" or "29500.25"; more than six decimals is an error, never rounded away."""
        match = _DECIMAL.fullmatch(text.strip())
        if match is None:
            raise FileError(f"{text!r} is not an amount in dollars such as 29500.25")
        sign, whole, fraction = match.groups()
        micros = int(whole) * MICROS_PER_USD + int((fraction or "").ljust(6, "0"))
        return cls(-micros if sign else micros)

    def __add__(self, other: Usd) -> Usd:
        return Usd(self.micros + other.micros)

    def __sub__(self, other: Usd) -> Usd:
        return Usd(self.micros - other.micros)

    def times_down(self, numerator: int, denominator: int) -> Usd:
        """The amount times a ratio, rounded towards minus infinity: for what secures a debt."""
        return Usd(self.micros * numerator // denominator)

    def to_wad(self) -> int:
        """The amount with 18 decimals, as contracts keep it. Exact: nothing is rounded."""
        return self.micros * WAD_PER_MICRO

    @classmethod
    def from_wad_up(cls, wad: int) -> Usd:
        """From 18 decimals, rounded up to a micro-dollar: for what is owed."""
        return cls(-(-wad // WAD_PER_MICRO))

    @classmethod
    def from_wad_down(cls, wad: int) -> Usd:
        """From 18 decimals, rounded down to a micro-dollar: for what secures a debt."""
        return cls(wad // WAD_PER_MICRO)

    def __str__(self) -> str:
        sign = "-" if self.micros < 0 else ""
        dollars, micros = divmod(abs(self.micros), MICROS_PER_USD)
        return f"{sign}${dollars:,}.{micros // 10_000:02d}"


ZERO: Final = Usd(0)


def total(amounts: tuple[Usd, ...] | list[Usd]) -> Usd:
    """The sum of the amounts; of none, zero."""
    return Usd(sum(amount.micros for amount in amounts))
