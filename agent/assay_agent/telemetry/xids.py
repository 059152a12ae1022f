"""Xids of the driver and of the kernel's log, each told once (machine.pairing).

An Xid of the log whose GPU NVML has not yet named waits for the name while there is no driver, at
most HELD_S; then it is the host's.

How far the log was read may be kept once SEALED_S have passed since the last of its Xids was handed
on: the event closes its window at once, and is in the spool by then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from assay_agent.machine.pairing import Origin, Pairs
from assay_agent.machine.xid_lines import Mention
from assay_agent.telemetry.reading import Happening, Poll
from assay_core.leaves import HOST, EventKind

HELD_S: Final = 60.0
HELD_MAX: Final = 1_024
SEALED_S: Final = 5.0


class Xids:
    """Xids of both origins, each told once."""

    def __init__(self, happen: Callable[[Happening], None]) -> None:
        self._happen = happen
        self._pairs = Pairs()
        self._bus_ids: dict[str, bytes] = {}
        self._held: list[tuple[Mention, int, float]] = []
        self._ours: list[Happening] = []
        self._delivered_s = 0.0
        self.unsaved = False
        """Whether it told something since the log's place was last written down."""

    @property
    def delivered(self) -> bool:
        """Whether all that the log told was handed on."""
        return not self._held and not self._ours

    def quiet(self, now_s: float) -> bool:
        """Whether what the log told has been handed on for long enough to be sealed."""
        return self.delivered and now_s - self._delivered_s >= SEALED_S

    def told(self, mention: Mention, at_ms: int) -> None:
        """Takes an Xid of the log."""
        subject = self._bus_ids.get(mention.address)
        if subject is not None:
            self._tell(subject, mention, at_ms)
        elif len(self._held) < HELD_MAX:
            self._held.append((mention, at_ms, _now_s()))

    def know(self, bus_ids: Mapping[bytes, str]) -> None:
        """Takes where each GPU is, as sysfs writes it."""
        self._bus_ids = {address: subject for subject, address in bus_ids.items()}

    def settle(self, poll: Poll, now_s: float) -> list[Happening]:
        """The events of a poll with each Xid once."""
        told: list[Happening] = []
        if not poll.events and self.delivered:
            return told
        for event in poll.events:
            if event in self._ours:
                self._ours.remove(event)
                self._delivered_s, self.unsaved = now_s, True
                told.append(event)
            elif event.kind is not EventKind.XID or self._pairs.is_new(
                Origin.NVML, event.subject, event.code, event.at_ms
            ):
                told.append(event)
        self._ours.clear()  # a storm: the driver's source took no more of them
        told.extend(self._released(poll, now_s))
        return told

    def _released(self, poll: Poll, now_s: float) -> list[Happening]:
        """Xids that waited for their GPU's name, and have it or shall wait no longer."""
        held, self._held = self._held, []
        told = []
        for mention, at_ms, since_s in held:
            subject = self._bus_ids.get(mention.address)
            if subject is None and not poll.driver.answers and now_s - since_s < HELD_S:
                self._held.append((mention, at_ms, since_s))
                continue
            subject = HOST if subject is None else subject
            if self._is_new(subject, mention, at_ms):
                self._delivered_s, self.unsaved = now_s, True
                told.append(Happening(subject, EventKind.XID, mention.code, at_ms))
        return told

    def _tell(self, subject: bytes, mention: Mention, at_ms: int) -> None:
        if self._is_new(subject, mention, at_ms):
            happening = Happening(subject, EventKind.XID, mention.code, at_ms)
            self._ours.append(happening)
            self._happen(happening)

    def _is_new(self, subject: bytes, mention: Mention, at_ms: int) -> bool:
        origin = Origin.WORDS if mention.fallen else Origin.LOG
        return self._pairs.is_new(origin, subject, mention.code, at_ms)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
