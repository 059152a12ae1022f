"""Rates of counters between windows, against the limits of the rules.

A rate is taken over a minute at least, however short the windows are. A counter that fell, or a
restart, is a new beginning: no rate is taken over it.
"""

from __future__ import annotations

from typing import Final

from assay_core.health.observation import TOTALS_OF_CONDITION, WELL, Observation, Total
from assay_core.health.rules import (
    NVLINK_CRC_PER_S,
    NVLINK_REPLAYS_PER_MIN,
    PCIE_REPLAYS_CENTI,
    SLOWDOWN_SHARE_PCT,
    SLOWDOWN_SPAN_MS,
    SPAN_MIN_MS,
)
from assay_core.health.state import Base
from assay_core.instants import MINUTE_MS, SECOND_MS
from assay_core.leaves import IncidentKind

_KINDS: Final = {
    Total.NVLINK_REPLAYS: IncidentKind.NVLINK_ERRORS,
    Total.NVLINK_CRC: IncidentKind.NVLINK_ERRORS,
    Total.NVLINK_FAILED: IncidentKind.NVLINK_ERRORS,
    Total.PCIE_REPLAYS: IncidentKind.PCIE_REPLAYS,
    Total.PCIE_FATAL: IncidentKind.PCIE_ERRORS,
    Total.SLOWDOWN_THERMAL: IncidentKind.THERMAL_SLOWDOWN,
    Total.SLOWDOWN_SOFTWARE: IncidentKind.THERMAL_SLOWDOWN,
    Total.SLOWDOWN_HARDWARE: IncidentKind.THERMAL_SLOWDOWN,
    Total.POWER_BRAKE: IncidentKind.POWER_BRAKE,
}
_AT_ONCE: Final = frozenset({Total.NVLINK_FAILED, Total.PCIE_FATAL})
"""Counters of which a single step is too many."""
_SLOWDOWNS: Final = frozenset(
    {
        Total.SLOWDOWN_THERMAL,
        Total.SLOWDOWN_SOFTWARE,
        Total.SLOWDOWN_HARDWARE,
        Total.POWER_BRAKE,
    }
)


def measure(
    bases: tuple[Base, ...], seen: Observation, *, restarted: bool
) -> tuple[tuple[Base, ...], dict[IncidentKind, int]]:
    """The bases after this window, and what the rates taken in it show: 0 is over a limit."""
    known = {base.total: base for base in bases if not restarted}
    kept: dict[int, Base] = {}
    shown: dict[IncidentKind, int] = {}
    for total, kind in _KINDS.items():
        base = known.get(total)
        value = seen.totals.get(total)
        unread = total in TOTALS_OF_CONDITION and seen.seen and not seen.condition_read
        if value is None and unread and base is not None:
            value = base.latest  # a leaf that did not change did not travel
        if value is None:
            if base is not None:
                kept[total] = base
            continue
        elapsed_ms = 0 if base is None else seen.at_ms - base.since_ms
        if base is None or value < base.latest or elapsed_ms < 0:
            kept[total] = Base(total, seen.at_ms, value, value)
            continue
        least_ms = SLOWDOWN_SPAN_MS if total in _SLOWDOWNS else SPAN_MIN_MS
        if elapsed_ms < (1 if total in _AT_ONCE else least_ms):
            kept[total] = Base(total, base.since_ms, base.at_since, value)
            continue
        kept[total] = Base(total, seen.at_ms, value, value)
        over = _over(total, value - base.at_since, elapsed_ms, seen)
        if over is not None:
            shown[kind] = 0 if over or shown.get(kind) == 0 else WELL
    return tuple(kept.values()), shown


def _over(total: Total, increase: int, elapsed_ms: int, seen: Observation) -> bool | None:
    """Whether the increase is over its limit. None: what the limit hangs on has no value."""
    if total in _AT_ONCE:
        return increase > 0
    if total in _SLOWDOWNS:
        return increase * 100 >= SLOWDOWN_SHARE_PCT * elapsed_ms * 1_000_000
    if total is Total.NVLINK_REPLAYS:
        return increase * MINUTE_MS >= NVLINK_REPLAYS_PER_MIN * elapsed_ms
    if total is Total.NVLINK_CRC:
        return increase * SECOND_MS >= NVLINK_CRC_PER_S * elapsed_ms
    limit = pcie_replays_per_min_max(seen.pcie_generation, seen.pcie_width)
    return None if limit is None else increase * MINUTE_MS > limit * elapsed_ms


def pcie_replays_per_min_max(generation: int | None, lanes: int | None) -> int | None:
    """Most replays a minute that are still well. None: generation or lanes are not known."""
    centi = None if generation is None else PCIE_REPLAYS_CENTI.get(generation)
    return None if centi is None or not lanes else -(-centi * lanes // 100)
