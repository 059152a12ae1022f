"""The energy a GPU has used since this installation first saw it."""

from __future__ import annotations

from assay_agent.admission import U64_MAX
from assay_agent.telemetry.reading import Sample


class LifetimeEnergy:
    """Energy since the installation first saw a GPU, millijoules: the driver's counter, which
    starts from 0 when the driver loads, put together over reloads, reboots and our own restarts.
    """

    __slots__ = ("_doubt", "_reloaded", "lifetime_mj", "total_mj")

    def __init__(
        self, total_mj: int | None, lifetime_mj: int | None, *, same_boot: bool = True
    ) -> None:
        self.total_mj = total_mj
        """The driver's counter as last read."""
        self.lifetime_mj = lifetime_mj
        self._reloaded = not same_boot
        self._doubt = True

    def reloaded(self) -> None:
        """The driver was loaded anew: all of the next total is new."""
        self._reloaded = True

    def unwatched(self) -> None:
        """The driver may have been loaded anew: a total below the last one is all new."""
        self._doubt = True

    def add(self, sample: Sample | None) -> None:
        """Takes the driver's counter; a fall that nothing explains adds nothing."""
        if sample.__class__ is not int or not 0 <= sample <= U64_MAX:
            return
        number: int = sample
        before, lifetime = self.total_mj, self.lifetime_mj
        if before is None or lifetime is None:
            lifetime = 0
        elif self._reloaded or (self._doubt and number < before):
            lifetime += number
        else:
            lifetime += max(0, number - before)
        self.total_mj, self.lifetime_mj = number, min(lifetime, U64_MAX)
        self._reloaded = self._doubt = False
