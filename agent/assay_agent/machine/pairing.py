"""One Xid, seen twice: the driver's event and the kernel's log tell of the same occurrence.

Two tellings are of one occurrence when they name the same GPU and code, come from different
origins, and are no more than PAIR_MS apart; each is of one occurrence only. So a code that truly
came three times is told three times, whichever origin is late, and whichever missed one.

The earliest occurrence that still lacks an origin takes its telling. Where each origin tells in
the order of its own clock, no other choice pairs more (tests/property compares it with the best
there is).
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass
from typing import Final

PAIR_MS: Final = 10_000
WAITING_MAX: Final = 1_024
"""Most occurrences of one code on one GPU that wait for their other telling."""
KEYS_MAX: Final = 256
"""Most GPUs and codes with occurrences that wait; the longest unheard-of goes first."""


class Origin(enum.IntFlag):
    """Who tells."""

    NVML = 1
    LOG = 2
    WORDS = 4
    """The log, in words: said beside a line with a number, or instead of it, and often repeated."""


_BOTH: Final = Origin.NVML | Origin.LOG


@dataclass(slots=True, eq=False)
class _Occurrence:
    at_ms: int
    told: Origin


class Pairs:
    """Remembers the occurrences that may be told again, bounded."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[bytes, int], deque[_Occurrence]] = {}

    def is_new(self, origin: Origin, subject: bytes, code: int, at_ms: int) -> bool:
        """Whether this telling is of an occurrence that nobody has told yet."""
        key = (subject, code)
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            waiting = deque(maxlen=WAITING_MAX)
            if len(self._waiting) >= KEYS_MAX:
                del self._waiting[next(iter(self._waiting))]
        self._waiting[key] = waiting  # now the last to be forgotten
        for occurrence in waiting:
            near = abs(occurrence.at_ms - at_ms) <= PAIR_MS
            if near and (origin is Origin.WORDS or not occurrence.told & origin):
                self._add(waiting, occurrence, origin)
                return False
        waiting.append(_Occurrence(at_ms, origin))
        return True

    @staticmethod
    def _add(waiting: deque[_Occurrence], occurrence: _Occurrence, origin: Origin) -> None:
        occurrence.told |= origin
        if occurrence.told & _BOTH != _BOTH:
            return
        # Complete, it stays until the next is: words may still be said of it.
        for one in waiting:
            if one.told & _BOTH == _BOTH and one is not occurrence:
                waiting.remove(one)
                return
