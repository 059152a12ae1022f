"""GPUs that the driver has lost, and the bus shows in other hands.

A GPU that a virtual machine has (vfio-pci) was never lost, and nothing is told of its going and
coming back. One that left its driver has UNBOUND_S to be bound to another before it counts as lost.
One that is gone from the bus, or is on it with NVIDIA's driver and not shown, is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from assay_agent.telemetry.reading import Happening, Poll
from assay_core.leaves import EventKind, Tenancy

UNBOUND_S: Final = 10.0


class Losses:
    """Losses that the driver told and that may be none."""

    def __init__(self) -> None:
        self._withheld: dict[bytes, Happening] = {}
        self._unbound_s: dict[bytes, float] = {}

    @property
    def any(self) -> bool:
        """Whether a GPU is watched that the driver has lost."""
        return bool(self._withheld)

    @property
    def subjects(self) -> tuple[bytes, ...]:
        """The GPUs that the driver has lost and that may have been given away."""
        return tuple(self._withheld)

    def settle(
        self,
        poll: Poll,
        events: list[Happening],
        tenancies: Mapping[bytes, Tenancy],
        anew: set[bytes],
        now_s: float,
    ) -> list[Happening]:
        """The events, less the losses and returns of GPUs that were given away and came back.

        `anew`: those that a new process is yet to look for.
        """
        told: list[Happening] = []
        for event in events:
            if event.kind is EventKind.GPU_LOST and self._may_be_none(event.subject, tenancies):
                self._withheld[event.subject] = event
            elif event.kind is EventKind.GPU_RETURNED and event.subject in self._withheld:
                del self._withheld[event.subject]
                self._unbound_s.pop(event.subject, None)
            else:
                told.append(event)
        for subject, event in tuple(self._withheld.items()):
            if subject not in anew and self._is_loss(subject, tenancies.get(subject), now_s):
                del self._withheld[subject]
                # Told when it is known: while a guest had it, it was not lost.
                told.append(replace(event, at_ms=poll.at_utc_ms))
        return told

    @staticmethod
    def _may_be_none(subject: bytes, tenancies: Mapping[bytes, Tenancy]) -> bool:
        return tenancies.get(subject) in (Tenancy.PASSED_THROUGH, Tenancy.UNBOUND)

    def _is_loss(self, subject: bytes, who: Tenancy | None, now_s: float) -> bool:
        if who is Tenancy.UNBOUND:
            return now_s - self._unbound_s.setdefault(subject, now_s) >= UNBOUND_S
        self._unbound_s.pop(subject, None)
        return who is not Tenancy.PASSED_THROUGH
