"""What is remembered of a GPU besides its incidents: findings on what it was told to be, and totals.

Findings are of plausibility and of reconciliation. There is one of each code, with when it was first
and last so and how often: what a host says can fill no memory. They never move a value.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from assay_core.health.plausibility import CODES as PLAUSIBILITY
from assay_core.health.plausibility_view import UNKNOWN, Known
from assay_core.health.reconcile import Verdict

_RECONCILED: Final = "reconciliation."
CODES: Final = (*PLAUSIBILITY, *(f"{_RECONCILED}{verdict.value}" for verdict in Verdict))
"""Every code that a note can have."""
_IMPOSSIBLE: Final = f"{_RECONCILED}{Verdict.IMPOSSIBLE.value}"


class Found(NamedTuple):
    """A finding of one window: its code and one sentence with the numbers."""

    code: str
    detail: str


class Note(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finding as kept: the newest detail, and when and how often it was so. UTC ms."""

    code: str
    detail: str
    first_ms: int
    last_ms: int
    count: int

    @property
    def amiss(self) -> bool:
        """Whether it says that something does not hang together, and not only what was done."""
        return not self.code.startswith(_RECONCILED) or self.code == _IMPOSSIBLE


class Notes(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is remembered; kept as JSON beside the asset."""

    known: Known = UNKNOWN
    findings: tuple[Note, ...] = ()


NOTHING: Final = Notes()


def reconciled(verdict: Verdict, detail: str) -> Found:
    """The finding that a verdict on a gap is."""
    return Found(f"{_RECONCILED}{verdict.value}", detail)


def noted(
    notes: tuple[Note, ...], found: Iterable[Found], at_ms: int, keep_ms: int
) -> tuple[Note, ...]:
    """The notes after a window. What was not so for `keep_ms` is forgotten.

    Of the verdicts on gaps the newest stands; that one was impossible is remembered besides.
    """
    kept = {note.code: note for note in notes if at_ms - note.last_ms <= keep_ms}
    for code, detail in found:
        before = kept.get(code)
        if code.startswith(_RECONCILED):
            kept = {
                one: note
                for one, note in kept.items()
                if not one.startswith(_RECONCILED) or one == _IMPOSSIBLE
            }
        kept[code] = Note(
            code=code,
            detail=detail,
            first_ms=at_ms if before is None else before.first_ms,
            last_ms=at_ms if before is None else max(at_ms, before.last_ms),
            count=1 if before is None else before.count + 1,
        )
    return tuple(kept.values())
