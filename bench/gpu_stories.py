"""A year in the life of a GPU, as stories of which it is known what was truly the matter.

How often each happens, a GPU-year, is evidence where it says so and judgement elsewhere. What stays
broken is replaced at the story's end; what a restart cures is degraded until then; an application's
doing is nothing of the GPU's.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from assay_core.leaves import Counter, Severity, Value

YEAR_MS: Final = 365 * DAY_MS

# Evidence: Llama 3, 419 interruptions in 16,384 H100 × 54 days = 2,422 GPU-years (its causes by
# glennklockwood.com/garden/component-reliability). An interruption is no return.
FAULTY: Final = 148 / 2_422
HBM: Final = 72 / 2_422
SRAM: Final = 19 / 2_422
GSP: Final = 17 / 2_422
CORRUPTION: Final = 6 / 2_422
THERMAL: Final = 6 / 2_422
# Judgement.
STORM: Final = 0.5
REMAP: Final = 0.05
SMOOTHING: Final = 0.05
MAINTENANCE: Final = 2.0
RELOAD: Final = 3.0
HEAT: Final = 2.0
APPS_PER_YEAR: Final = 12.0
"""Crashes of applications on the mean; by a gamma of shape 0.5, so that some GPUs have many.
Judgement."""
STAYS_PCT: Final = 41.5
"""Share of faults that end in a replacement. Evidence: Crusoe's H200, host replacements of its
cases (same page)."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens: Xids, a reading that changes, a restart, or a loss.

    `xid` 0: none. `of_condition`: the reading is in the condition leaf. `lost`: from now on gone
    or there again; None: as it was.
    """

    at_ms: int
    xid: int = 0
    count: int = 1
    last_ms: int = 0
    field: str = ""
    value: Value = 0
    boot: bool = False
    reset: bool = False
    lost: bool | None = None
    paused_ms: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """What truly was the matter with a GPU for a time. `truth` None: nothing, only noise."""

    name: str
    truth: Severity | None
    begin_ms: int
    end_ms: int
    happened: tuple[Happening, ...]
    replaced: bool = False


class Teller:
    """Makes stories; every draw is from one seeded generator."""

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def year(self) -> list[Story]:
        """One GPU's stories of a year, in the order of their beginnings."""
        tellers = (
            (self._faulty, FAULTY),
            (self._hbm, HBM),
            (self._sram, SRAM),
            (self._gsp, GSP),
            (self._corruption, CORRUPTION),
            (self._thermal, THERMAL),
            (self._storm, STORM),
            (self._remap, REMAP),
            (self._smoothing, SMOOTHING),
            (self._maintenance, MAINTENANCE),
            (self._reload, RELOAD),
            (self._heat, HEAT),
        )
        stories = [tell(at_ms) for tell, per_year in tellers for at_ms in self._times(per_year)]
        for at_ms in self._times(self._draw.gammavariate(0.5, APPS_PER_YEAR / 0.5)):
            stories.append(self._application(at_ms))
        stories.sort(key=lambda story: story.begin_ms)
        end_ms = min((one.end_ms for one in stories if one.replaced), default=YEAR_MS)
        return [one for one in stories if one.begin_ms < end_ms]

    def _times(self, per_year: float) -> Iterator[int]:
        at_ms = 0.0
        while per_year > 0:
            at_ms += self._draw.expovariate(per_year) * YEAR_MS
            if at_ms >= YEAR_MS:
                return
            yield int(at_ms)

    def _within(self, least_ms: int, most_ms: int) -> int:
        return self._draw.randint(least_ms, most_ms)

    def _stays(self) -> bool:
        return self._draw.random() * 100 < STAYS_PCT

    # --------------------------------------------------------------------------------- faults

    def _faulty(self, at_ms: int) -> Story:
        """A GPU that fails: it falls off the bus, stops, loses a link, or breaks its jobs."""
        kind = self._draw.choices(
            (self._off_bus, self._stops, self._link, self._breaks), (4, 4, 1, 1)
        )
        return kind[0](at_ms)

    def _off_bus(self, at_ms: int) -> Story:
        stays = self._stays()
        happened = [Happening(at_ms, xid=79), Happening(at_ms + 5 * SECOND_MS, lost=True)]
        now_ms = at_ms + self._within(HOUR_MS, 8 * HOUR_MS)
        if not stays:
            happened.append(Happening(now_ms, boot=True, lost=False))
            return Story("off the bus", Severity.DEGRADED, at_ms, now_ms, tuple(happened))
        for _ in range(2):
            happened.append(Happening(now_ms, boot=True))
            now_ms += self._within(2 * HOUR_MS, 12 * HOUR_MS)
        end_ms = now_ms + self._within(DAY_MS, 14 * DAY_MS)
        return Story(
            "off the bus", Severity.IMPAIRED, at_ms, end_ms, tuple(happened), replaced=True
        )

    def _stops(self, at_ms: int) -> Story:
        code = self._draw.choice((46, 62, 109, 158))
        return self._resets("stops", at_ms, (code,), action=1, stays=self._stays())

    def _gsp(self, at_ms: int) -> Story:
        """Firmware: what stays is rarer, a tenth. Judgement."""
        stays = self._draw.random() < 0.1
        return self._resets("GSP", at_ms, (self._draw.choice((119, 120)),), action=2, stays=stays)

    def _resets(
        self, name: str, at_ms: int, codes: tuple[int, ...], *, action: int, stays: bool
    ) -> Story:
        """Xids and a recovery action that a restart cures, or does for some days at a time."""
        happened: list[Happening] = []
        now_ms = at_ms
        for _ in range(self._draw.randint(3, 5) if stays else 1):
            last_ms = now_ms + self._within(0, 30 * MINUTE_MS)
            happened += [
                Happening(now_ms, xid=code, count=self._draw.randint(1, 40), last_ms=last_ms)
                for code in codes
            ]
            happened += [
                Happening(now_ms + SECOND_MS, xid=154),
                Happening(now_ms + SECOND_MS, field="recovery_action", value=action),
            ]
            cured_ms = last_ms + self._within(HOUR_MS, 12 * HOUR_MS)
            by_reset = action == 1
            happened += [
                Happening(cured_ms, reset=by_reset, boot=not by_reset),
                Happening(cured_ms, field="recovery_action", value=0),
            ]
            now_ms = cured_ms + self._within(3 * HOUR_MS, 8 * DAY_MS)
        if not stays:
            return Story(name, Severity.DEGRADED, at_ms, cured_ms + HOUR_MS, tuple(happened))
        return Story(name, Severity.IMPAIRED, at_ms, now_ms, tuple(happened), replaced=True)

    def _link(self, at_ms: int) -> Story:
        """An NVLink goes down: degraded for as long as it is."""
        up_ms = at_ms + self._within(2 * HOUR_MS, 5 * DAY_MS)
        down, up = (1,) * 17 + (0,), (1,) * 18
        happened = (
            Happening(at_ms, xid=74, count=3),
            Happening(at_ms, field="nvlink_states", value=down),
            Happening(up_ms, reset=True),
            Happening(up_ms, field="nvlink_states", value=up),
        )
        return Story("NVLink", Severity.DEGRADED, at_ms, up_ms + HOUR_MS, happened)

    def _breaks(self, at_ms: int) -> Story:
        """A bad unit of the GPU fails its jobs day after day, with nothing but their Xids."""
        days = self._draw.randint(8, 20)
        happened = tuple(
            Happening(
                now_ms, xid=self._draw.choice((13, 13, 31)), count=8, last_ms=now_ms + HOUR_MS
            )
            for day in range(days)
            for now_ms in (at_ms + day * DAY_MS + self._within(0, 20 * HOUR_MS),)
        )
        end_ms = at_ms + (days + 1) * DAY_MS
        return Story("breaks its jobs", Severity.IMPAIRED, at_ms, end_ms, happened, replaced=True)

    def _hbm(self, at_ms: int) -> Story:
        """An uncorrectable error in HBM: its row is remapped at the next reset, or cannot be."""
        stays = self._draw.random() < 0.2  # judgement
        reset_ms = at_ms + self._within(HOUR_MS, 2 * DAY_MS)
        code = self._draw.choice((94, 94, 95))
        happened = [
            Happening(at_ms, xid=48),
            Happening(at_ms, xid=171),
            Happening(at_ms + 10, xid=code, count=self._draw.randint(1, 8), last_ms=at_ms + 900),
            Happening(at_ms + 20, xid=63),
            Happening(at_ms + 30, field="remap_pending", value=1),
            Happening(reset_ms, reset=True),
            Happening(reset_ms, field="remap_pending", value=0),
        ]
        if not stays:
            end_ms = reset_ms + HOUR_MS
            return Story("HBM", Severity.DEGRADED, at_ms, end_ms, tuple(happened))
        fails_ms = reset_ms + self._within(HOUR_MS, 5 * DAY_MS)
        happened += [
            Happening(fails_ms, xid=48),
            Happening(fails_ms + 10, xid=64),
            Happening(fails_ms + 20, field="remap_failed", value=1),
        ]
        end_ms = fails_ms + self._within(DAY_MS, 14 * DAY_MS)
        return Story("HBM", Severity.IMPAIRED, at_ms, end_ms, tuple(happened), replaced=True)

    def _sram(self, at_ms: int) -> Story:
        """An uncorrectable error in SRAM; beyond the limit in some. Judgement: a fifth."""
        stays = self._draw.random() < 0.2
        happened = [
            Happening(at_ms, xid=48),
            Happening(at_ms, xid=172),
            Happening(at_ms + 10, xid=95, count=self._draw.randint(1, 20)),
        ]
        reset_ms = at_ms + self._within(HOUR_MS, 12 * HOUR_MS)
        happened.append(Happening(reset_ms, reset=True))
        if not stays:
            end_ms = reset_ms + HOUR_MS
            return Story("SRAM", Severity.DEGRADED, at_ms, end_ms, tuple(happened))
        exceeded = Happening(reset_ms + HOUR_MS, field="ecc_sram_threshold_exceeded", value=1)
        end_ms = reset_ms + self._within(2 * DAY_MS, 14 * DAY_MS)
        return Story("SRAM", Severity.IMPAIRED, at_ms, end_ms, (*happened, exceeded), replaced=True)

    def _corruption(self, at_ms: int) -> Story:
        """Silent data corruption: no reading shows it. It is found by other means."""
        end_ms = at_ms + self._within(DAY_MS, 30 * DAY_MS)
        return Story("silent corruption", Severity.IMPAIRED, at_ms, end_ms, (), replaced=True)

    def _thermal(self, at_ms: int) -> Story:
        """Cooling fails for hours: the clocks are held down most of the time."""
        hours = self._draw.randint(3, 48)
        held_ns = 3_000 * 10**9
        happened = [Happening(at_ms, field="slowdown_hardware_thermal_ns", value=Counter(0, 0))]
        happened += [
            Happening(
                at_ms + hour * HOUR_MS,
                field="slowdown_hardware_thermal_ns",
                value=Counter(held_ns, hour * held_ns),
            )
            for hour in range(1, hours)
        ]
        end_ms = at_ms + (hours + 2) * HOUR_MS
        return Story("thermal", Severity.DEGRADED, at_ms, end_ms, tuple(happened))

    # ---------------------------------------------------------------------------------- noise

    def _application(self, at_ms: int) -> Story:
        """An application crashes, once or in a burst: 31 or 13, and what is cleared away after."""
        first = self._draw.choice((31, 31, 13, 43, 45))
        codes = {first, 45} if self._draw.random() < 0.7 else {first}
        last_ms = at_ms + self._within(0, 10 * SECOND_MS)
        happened = tuple(
            Happening(at_ms, xid=code, count=self._draw.randint(1, 64), last_ms=last_ms)
            for code in sorted(codes)
        )
        return Story("application", None, at_ms, last_ms, happened)

    def _storm(self, at_ms: int) -> Story:
        """A crash loop of hours or days: NVSentinel#1710 saw 1,232 Xid 45 on a node in 3 hours."""
        hours = min(96, 3 + int(self._draw.expovariate(1 / 9)))
        codes = (45,) if self._draw.random() < 0.6 else (31, 43, 45)
        happened = tuple(
            Happening(
                at_ms + hour * HOUR_MS,
                xid=code,
                count=self._draw.randint(50, 160),
                last_ms=at_ms + hour * HOUR_MS + 50 * MINUTE_MS,
            )
            for hour in range(hours)
            for code in codes
        )
        return Story("storm", None, at_ms, at_ms + hours * HOUR_MS, happened)

    def _remap(self, at_ms: int) -> Story:
        """A row is remapped after corrected errors: degraded until the reset that was due."""
        reset_ms = at_ms + self._within(HOUR_MS, 5 * DAY_MS)
        happened = (
            Happening(at_ms, xid=63),
            Happening(at_ms + 10, field="remap_pending", value=1),
            Happening(reset_ms, reset=True),
            Happening(reset_ms, field="remap_pending", value=0),
        )
        return Story("remap", Severity.DEGRADED, at_ms, reset_ms + HOUR_MS, happened)

    def _smoothing(self, at_ms: int) -> Story:
        """Power smoothing is disengaged by heat and engaged again: 163, then 162."""
        back_ms = at_ms + self._within(MINUTE_MS, 3 * HOUR_MS)
        happened = (Happening(at_ms, xid=163), Happening(back_ms, xid=162))
        return Story("smoothing", Severity.DEGRADED, at_ms, back_ms, happened)

    def _maintenance(self, at_ms: int) -> Story:
        """The host is paused, serviced and booted again."""
        end_ms = at_ms + self._within(HOUR_MS, 20 * HOUR_MS)
        happened = (
            Happening(at_ms, paused_ms=end_ms - at_ms),
            Happening(end_ms, boot=True),
        )
        return Story("maintenance", None, at_ms, end_ms, happened)

    def _reload(self, at_ms: int) -> Story:
        """The driver is loaded anew, or the host booted, with nothing wrong."""
        boot = self._draw.random() < 0.5
        return Story("reload", None, at_ms, at_ms, (Happening(at_ms, boot=boot, reset=not boot),))

    def _heat(self, at_ms: int) -> Story:
        """A hot afternoon: a slowdown of a tenth of an hour, which is not sustained."""
        name = "slowdown_hardware_thermal_ns"
        happened = tuple(
            Happening(at_ms + hour * HOUR_MS, field=name, value=Counter(0, hour * 360 * 10**9))
            for hour in range(4)
        )
        return Story("heat", None, at_ms, at_ms + 4 * HOUR_MS, happened)
