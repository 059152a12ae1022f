"""What one host was asked to prove, and when it will be asked next.

Challenges come at random times, one within each interval of the policy, so that evidence cannot be
made ahead or borrowed for the occasion. This outlives a host's streams: who hangs up is neither
forgiven a challenge nor asked more often.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from assay_core.evidence.bundle import Asked
from assay_core.evidence.statement import CHALLENGE_BYTES
from assay_core.instants import SECOND_MS
from assay_valuer.policy import Evidence, ms

ASKED_MAX: Final = 16
"""Challenges of a host that are remembered, answered or not."""
SOON_MS: Final = 30 * SECOND_MS
"""A host that has proved nothing lately is asked within so long; not at once, nor all together."""


@dataclass(slots=True)
class _Turns:
    """Random times, one within each interval. None: no time was drawn yet."""

    interval_ms: int
    below: Callable[[int], int]
    next_ms: int | None = None
    until_ms: int = 0
    proven_ms: int | None = None

    def soon(self, now_ms: int) -> None:
        """Draws a time soon, unless one that is sooner was drawn or a proof is still young."""
        if self.proven_ms is not None and now_ms - self.proven_ms < self.interval_ms:
            return
        drawn_ms = now_ms + SECOND_MS + self.below(SOON_MS)
        if self.next_ms is None or drawn_ms < self.next_ms:
            self.next_ms = drawn_ms
            self.until_ms = max(self.until_ms, now_ms + self.interval_ms)

    def due(self, now_ms: int) -> bool:
        return self.next_ms is not None and now_ms >= self.next_ms

    def passed(self, now_ms: int) -> None:
        """Draws the time within the next interval, which begins where the last one ends, however
        late in it we came to ask; anew from now where a whole one went by without asking.
        """
        missed = now_ms >= self.until_ms + self.interval_ms
        begin_ms = now_ms if missed else self.until_ms
        self.next_ms = begin_ms + self.below(self.interval_ms)
        self.until_ms = begin_ms + self.interval_ms


@dataclass(slots=True)
class Examination:
    """One host's challenges. `below` draws a number from 0 to below its argument.

    Whether there is a TPM to ask is the caller's to say: a host may get one.
    """

    policy: Evidence
    below: Callable[[int], int] = secrets.randbelow
    _asked: dict[bytes, Asked] = field(default_factory=dict)
    _missed: set[bytes] = field(default_factory=set)
    _tpm: _Turns = field(init=False)
    _devices: _Turns = field(init=False)

    def __post_init__(self) -> None:
        self._tpm = _Turns(ms(self.policy.tpm_interval_s), self.below)
        self._devices = _Turns(ms(self.policy.device_interval_s), self.below)

    def opened(self, now_ms: int) -> list[Asked]:
        """A stream begins: what is asked still, to be said again. A TPM that has proved nothing lately
        is asked soon, and devices are where they never were.
        """
        pending = [
            asked
            for asked in self._asked.values()
            if not asked.answered and now_ms <= asked.deadline_ms
        ]
        if not any(asked.pcrs for asked in pending):
            self._tpm.soon(now_ms)
        # A device can be borrowed for the occasion: who hangs up and comes back, having answered
        # nothing, does not choose when it is asked next.
        if self._devices.next_ms is None:
            self._devices.soon(now_ms)
        return pending

    def ask(self, now_ms: int, head_sequence: int, *, has_tpm: bool) -> Asked | None:
        """The next challenge where one is due, for evidence of the chain's head or what follows it.

        Whoever is asked for its devices is asked for a quote too: it binds the reports.
        """
        devices = self._devices.due(now_ms)
        quote = has_tpm and self._tpm.due(now_ms)
        if not devices and not quote:
            return None
        asked = Asked(
            nonce=secrets.token_bytes(CHALLENGE_BYTES),
            sent_ms=now_ms,
            deadline_ms=now_ms + ms(self.policy.answer_within_s),
            pcrs=self.policy.pcrs if has_tpm else (),
            devices=devices,
            head_sequence=head_sequence,
        )
        self._asked[asked.nonce] = asked
        while len(self._asked) > ASKED_MAX:
            oldest = next(iter(self._asked))
            del self._asked[oldest]
            self._missed.discard(oldest)
        if devices:
            self._devices.passed(now_ms)
        if quote:
            self._tpm.passed(now_ms)
        return asked

    def find(self, nonce: bytes) -> Asked | None:
        """The challenge of this nonce, where this host was sent it."""
        return self._asked.get(nonce)

    def used(self, asked: Asked) -> None:
        """Answered: any other answer is a replay."""
        self._mark(asked, answered=True)

    def unused(self, asked: Asked) -> None:
        """It could not be judged, which is our fault: the host may answer again."""
        self._mark(asked, answered=False)

    def proven(self, asked: Asked) -> None:
        """The answer holds, as of when it was asked for."""
        if asked.pcrs:
            self._tpm.proven_ms = asked.sent_ms
        if asked.devices:
            self._devices.proven_ms = asked.sent_ms

    def missed(self, now_ms: int) -> list[Asked]:
        """Challenges whose deadline has passed without an answer; each is told once."""
        found = [
            asked
            for asked in self._asked.values()
            if not asked.answered and now_ms > asked.deadline_ms and asked.nonce not in self._missed
        ]
        self._missed.update(asked.nonce for asked in found)
        return found

    def _mark(self, asked: Asked, *, answered: bool) -> None:
        if asked.nonce in self._asked:
            self._asked[asked.nonce] = replace(asked, answered=answered)
