"""What an installation remembers of its GPUs and its host from one window to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from assay_agent.fields import PASSING
from assay_core import health
from assay_core.health import HealthState
from assay_core.instants import DAY_MS
from assay_core.leaves import Group, Reason, Value


@dataclass(frozen=True, slots=True)
class Told:
    """A leaf that travels on change, as last sealed in this boot, and when on the boot clock."""

    values: Mapping[str, Value]
    at_boottime_ms: int

    def is_due(self, now: Mapping[str, Value], at_boottime_ms: int) -> bool:
        """Whether it must travel again: it says something else, or a day has passed."""
        if at_boottime_ms - self.at_boottime_ms >= DAY_MS:
            return True
        told = self.values
        return any(
            # A Reason is an integer too: 1 and NOT_SUPPORTED are not the same.
            (told.get(name).__class__, told.get(name)) != (value.__class__, value)
            for name, value in now.items()
            if not (value.__class__ is Reason and value in PASSING)
        )


@dataclass(frozen=True, slots=True)
class Energy:
    """The driver's energy counter as last read, and the lifetime put together up to there."""

    total_mj: int
    lifetime_mj: int
    same_boot: bool = True


@dataclass(frozen=True, slots=True)
class Known:
    """A GPU that this installation has seen; or, under the subject of the host, the host."""

    subject: bytes
    last_seen_ms: int
    told: Mapping[Group, Told] = field(default_factory=dict)
    energy: Energy | None = None
    health: HealthState = field(default_factory=lambda: health.START)


def travels(told: Told | None, now: Mapping[str, Value], at_boottime_ms: int) -> bool:
    """Whether a leaf that travels on change must: it is another one, or was not told in this boot."""
    return told is None or told.is_due(now, at_boottime_ms)
