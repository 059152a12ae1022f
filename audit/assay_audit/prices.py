"""A market snapshot's price rows against its name: all of them in passing, or one by its proof.

The name is the root of an RFC 6962 Merkle tree over the rows' canonical lines, ascending by their
bytes and each there once. A line is JSON without spaces: market, day, US dollars, and the names of its
series. Nothing is believed but the name, which has to come from elsewhere. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

import msgspec

from assay_core import merkle, price_proof
from assay_core.disclosure import Step
from assay_core.price_proof import Proof

LINE_BYTES_MAX: Final = 16_384
"""Of one line, its end not counted: six names of 256 characters take less, however they are escaped."""
LINES_MAX: Final = 20_000_000
NAMES: Final = {"rental": 6, "resale": 4}
"""How many names the series of each market has."""

_DECODER: Final = msgspec.json.Decoder(list[str | float])


@dataclass(frozen=True, slots=True)
class Row:
    """What a line says. `names`: of its series, the seller (of hardware: the market) and model first."""

    market: str
    day: str
    usd: float
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Examined:
    """The steps as far as they were taken, and what was seen up to there."""

    steps: tuple[Step, ...]
    counts: dict[str, int]
    """Rows by market."""
    first_day: str | None
    last_day: str | None

    @property
    def holds(self) -> bool:
        """Whether every step holds."""
        return all(step.holds for step in self.steps)


class _Wrong(Exception):
    """Why a line fails its step."""

    def __init__(self, step: str, detail: str) -> None:
        self.step: Final = step
        super().__init__(detail)


class _Seen:
    """Goes through lines, and keeps what is said of them; never more than one."""

    def __init__(self) -> None:
        self.counts: Final[Counter[str]] = Counter()
        self.first: str | None = None
        self.last: str | None = None

    def leaves(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The leaf hash of each line. Raises _Wrong of the first that is no row or out of order."""
        before = b""
        for number, line in enumerate(lines, 1):
            try:
                row = read_row(line)
            except ValueError as error:
                raise _Wrong("rows", f"line {number}: {error}") from error
            if line <= before:
                why = "is there twice" if line == before else "stands after one that is greater"
                raise _Wrong("order", f"line {number} {why}: rows ascend by their bytes, each once")
            before = line
            self.counts[row.market] += 1
            self.first = row.day if self.first is None else min(self.first, row.day)
            self.last = row.day if self.last is None else max(self.last, row.day)
            yield merkle.leaf_hash(line)


def read_row(line: bytes) -> Row:
    """A canonical line. Raises ValueError, in words for whoever has the file."""
    if not (line.startswith(b'["') and line.endswith(b'"]')):
        raise ValueError("is no price row: JSON without spaces, in brackets, is")
    try:
        market, day, usd, *names = _DECODER.decode(line)
    except (msgspec.DecodeError, ValueError) as error:
        raise ValueError("is no price row: it is no JSON list of texts and a number") from error
    if not isinstance(market, str) or market not in NAMES:
        raise ValueError("is no price row: its market is neither rental nor resale")
    texts = tuple(name for name in names if isinstance(name, str))
    if len(texts) != len(names) or len(names) != NAMES[market]:
        raise ValueError(f"is no price row: one of {market} has {NAMES[market]} names")
    if not isinstance(usd, float) or not usd > 0:
        raise ValueError("is no price row: its price is no number above zero")
    if not isinstance(day, str) or not _is_date(day):
        raise ValueError("is no price row: its day is no date")
    return Row(market, day, usd, texts)


def _is_date(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def examine(lines: Iterable[bytes], root: str) -> Examined:
    """Whether these lines, without their ends, are the snapshot of this name (hex), whole."""
    seen = _Seen()
    try:
        found = merkle.root_in_passing(seen.leaves(lines)).hex()
    except _Wrong as wrong:
        passed = (
            () if wrong.step == "rows" else (Step("rows", True, "each line up to there is one"),)
        )
        steps = (*passed, Step(wrong.step, False, str(wrong)))
        return Examined(steps, dict(seen.counts), seen.first, seen.last)
    told = f"{seen.counts['rental']} rental, {seen.counts['resale']} resale"
    when = "" if seen.first is None else f", of {seen.first} to {seen.last}"
    same = found == root
    steps = (
        Step("rows", True, f"{seen.counts.total()} price rows: {told}{when}"),
        Step("order", True, "they ascend, and none is there twice"),
        Step("root", same, f"they give {found}" + ("" if same else f", not {root}")),
    )
    return Examined(steps, dict(seen.counts), seen.first, seen.last)


def examine_proof(proof: Proof, root: str) -> tuple[tuple[Step, ...], Row | None]:
    """Whether the proof's line stands in the snapshot of this name (hex), and what it says if so."""
    try:
        row = read_row(proof.line.encode())
    except ValueError as error:
        return (Step("row", False, f"the line {error}"),), None
    steps = [Step("row", True, f"one of {row.market}, {row.day}")]
    found = price_proof.root_of(proof)
    where = f"line {proof.index + 1} of {proof.size}"
    if found is None:
        steps.append(Step("path", False, f"{where} leads to no root by it"))
    else:
        steps.append(Step("path", True, f"{where} leads to {found} by {len(proof.path)} hashes"))
        same = found == root
        steps.append(Step("root", same, "that is the one asked for" if same else f"not to {root}"))
    return tuple(steps), row if all(step.holds for step in steps) else None
