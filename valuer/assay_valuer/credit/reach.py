"""How far a covenant goes if what is so now stays so: at once, and when nobody cures it. Pure.

`covenant.step` is taken again and again on copies, at the times at which the file lets a valuation
count or a cure end. Nothing is written, and nothing is foretold: the inputs stand still.
"""

from __future__ import annotations

from dataclasses import dataclass

from msgspec.structs import replace

from assay_core.covenant import Covenant
from assay_core.instants import HOUR_MS
from assay_valuer.credit.covenant import CovenantState, Inputs, Level, step


@dataclass(frozen=True, slots=True)
class Reach:
    """The level after one step, the worst that it comes to with no cure, and how long that takes."""

    at_once: Level
    lasting: Level
    after_hours: int


def reach(state: CovenantState | None, inputs: Inputs, covenant: Covenant, now_ms: int) -> Reach:
    """Where a loan goes from `state` with these inputs, which stay as they are."""
    state, _ = step(state, inputs, covenant, now_ms)
    at_once, lasting, after_ms, elapsed_ms = state.level, state.level, 0, 0
    for number in range(1, covenant.call_valuations + 1):
        elapsed_ms = covenant.call_apart_hours * HOUR_MS * number
        state = _taken(state, inputs, covenant, now_ms + elapsed_ms)
        if state.level.rank > lasting.rank:
            lasting, after_ms = state.level, elapsed_ms
    if state.level is Level.CALL and state.called_ms is not None:
        cured_by_ms = state.called_ms + covenant.value_cure_hours * HOUR_MS
        at_ms = max(cured_by_ms, now_ms + elapsed_ms)
        state = _taken(state, inputs, covenant, at_ms)
        if state.level.rank > lasting.rank:
            lasting, after_ms = state.level, at_ms - now_ms
    return Reach(at_once, lasting, after_ms // HOUR_MS)


def _taken(state: CovenantState, inputs: Inputs, covenant: Covenant, at_ms: int) -> CovenantState:
    """One step later, in which we served all the time since a call."""
    served_ms = 0 if state.called_ms is None else at_ms - state.called_ms
    later = replace(inputs, called_served_ms=max(inputs.called_served_ms, served_ms))
    return step(state, later, covenant, at_ms)[0]
