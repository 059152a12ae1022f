"""A loan's covenant state, folded over time: CURRENT, WATCH, CALL, DEFAULT. Pure.

`step` takes the state, what is so now, the covenant file in force and the time, and gives the next
state with a transition for each thing that changed; nothing changes without one. The rules:

- LTV at or above a threshold counts; it has gone back once it is below the threshold by more than
  the hysteresis. Anything between changes nothing.
- A call takes the file's number of valuations at or above `call_bps`, each so long after the one
  before. A default is a call that was not cured in time, or as many valuations at or above
  `default_bps`. No single valuation does either where the file asks for more.
- An LTV that is unknown moves nothing, and one that is only a ceiling (a pledged GPU was never seen,
  or has no price) makes nothing worse than WATCH. A silent GPU goes on at the value it had: silence
  alone never calls a loan. After the reporting cure period it is a notice, a breach of reporting.
- A default stands until the parties sign another file. A new file begins anew.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from assay_core.covenant import Covenant, encode
from assay_core.instants import HOUR_MS, format_duration
from assay_valuer.credit.position import percent


class Level(enum.StrEnum):
    """How the loan stands by its covenant, best first."""

    CURRENT = "CURRENT"
    WATCH = "WATCH"
    CALL = "CALL"
    DEFAULT = "DEFAULT"

    @property
    def rank(self) -> int:
        """0 for the best."""
        return tuple(Level).index(self)


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is kept in the store and in the ledger."""


class CovenantState(_Stored, frozen=True):
    """Everything that is remembered from one step to the next.

    `call_counted_ms` and `default_counted_ms` are the valuations counted so far, at most as many as
    the file asks for. `stale`, `disputed` and `notice` (of a breach of reporting) stand beside the
    level.
    """

    covenant_sha256: str
    began_ms: int
    since_ms: int
    level: Level = Level.CURRENT
    call_counted_ms: tuple[int, ...] = ()
    default_counted_ms: tuple[int, ...] = ()
    called_ms: int | None = None
    stale: bool = False
    disputed: bool = False
    notice: bool = False


class Inputs(_Stored, frozen=True):
    """What one step rests on. Amounts are micro-dollars; clocks count only time that we served.

    `ltv_bps` is None where no value is known; where not every pledged GPU's value is known it is a
    ceiling, and `complete` is false. `silent_micros` is the part of the value that silent GPUs have.
    """

    debt_micros: int
    value_micros: int | None
    silent_micros: int
    ltv_bps: int | None
    complete: bool
    counted: int
    silent: int
    pledged: int
    assurance: int
    observed_ms: int | None
    stale: bool
    disputed: bool
    called_served_ms: int
    silent_served_ms: int
    chain_differs: bool = False
    """Disputed because the loan's router says otherwise than its file. Older records have none."""


class Transition(_Stored, frozen=True):
    """One change, with its reason. `code` is stable and for machines."""

    code: str
    detail: str
    level_before: Level
    level_after: Level


class Record(_Stored, frozen=True):
    """One step that changed something, as the ledger has it: enough to take the step again."""

    loan: str
    covenant_sha256: str
    methodology: str
    at_ms: int
    inputs: Inputs
    state: CovenantState
    transitions: tuple[Transition, ...]


_PLEDGED: Final = "Something pledged is disputed or frozen."
_CHAIN: Final = "The loan's router says otherwise on the chain than the loan's file."
_Change = tuple[CovenantState, str, str]
_Rule = Callable[[CovenantState, Inputs, Covenant, int], Iterable[_Change]]


def sha256_of(covenant: Covenant) -> str:
    """The file's own name: SHA-256 of its signed bytes, hex."""
    return hashlib.sha256(encode(covenant)).hexdigest()


def step(
    state: CovenantState | None, inputs: Inputs, covenant: Covenant, now_ms: int
) -> tuple[CovenantState, tuple[Transition, ...]]:
    """The next state, and what changed. None: the loan had no covenant before."""
    name = sha256_of(covenant)
    found: list[Transition] = []
    if state is None or state.covenant_sha256 != name:
        before = Level.CURRENT if state is None else state.level
        state = CovenantState(covenant_sha256=name, began_ms=now_ms, since_ms=now_ms)
        detail = f"Version {covenant.version} of the covenant is in force: all begins anew."
        found.append(
            Transition(
                code="covenant.effective",
                detail=detail,
                level_before=before,
                level_after=state.level,
            )
        )
    for rule in _RULES:
        for after, code, detail in rule(state, inputs, covenant, now_ms):
            found.append(
                Transition(
                    code=code, detail=detail, level_before=state.level, level_after=after.level
                )
            )
            state = after
    return state, tuple(found)


def replay(covenants: Mapping[str, Covenant], records: Sequence[Record]) -> CovenantState | None:
    """The state after a loan's records, in order; each step is taken again from its inputs.

    `covenants`: the files by their SHA-256. Raises ReplayDiffers where a record does not come out.
    """
    state: CovenantState | None = None
    for record in records:
        covenant = covenants.get(record.covenant_sha256)
        if covenant is None:
            raise ReplayDiffers(record, "its covenant file is not there")
        state, transitions = step(state, record.inputs, covenant, record.at_ms)
        if (state, transitions) != (record.state, record.transitions):
            raise ReplayDiffers(record, "taken again, it comes out otherwise")
    return state


class ReplayDiffers(ValueError):
    """A record of a step does not follow from those before it and its own inputs."""

    def __init__(self, record: Record, why: str) -> None:
        super().__init__(f"loan {record.loan}, step at {record.at_ms} ms: {why}")


# ---------------------------------------------------------------------------- the rules


def _beside(
    state: CovenantState, inputs: Inputs, _covenant: Covenant, _now_ms: int
) -> Iterable[_Change]:
    """STALE and DISPUTED, which move no level."""
    if inputs.stale is not state.stale:
        state = replace(state, stale=inputs.stale)
        yield (
            (state, "stale.begun", f"{inputs.silent} of {inputs.pledged} pledged are silent.")
            if state.stale
            else (state, "stale.ended", "No pledged GPU is silent any more.")
        )
    if inputs.disputed is not state.disputed:
        state = replace(state, disputed=inputs.disputed)
        yield (
            (state, "disputed.begun", _CHAIN if inputs.chain_differs else _PLEDGED)
            if state.disputed
            else (state, "disputed.ended", "Nothing pledged is disputed or frozen any more.")
        )


def _reporting(
    state: CovenantState, inputs: Inputs, covenant: Covenant, _now_ms: int
) -> Iterable[_Change]:
    """The notice of a breach of reporting, which moves no level either."""
    over = inputs.silent_served_ms >= covenant.reporting_cure_hours * HOUR_MS
    if over is state.notice:
        return
    state = replace(state, notice=over)
    if over:
        silent = format_duration(inputs.silent_served_ms)
        detail = f"A pledged GPU has been silent for {silent}: a breach of reporting, not of value."
        yield state, "reporting.notice", detail
    else:
        yield state, "reporting.restored", "Every pledged GPU reports, or has not been silent long."


def _counts(
    state: CovenantState, inputs: Inputs, covenant: Covenant, now_ms: int
) -> Iterable[_Change]:
    """Counts valuations at or above what makes a call and a default, and forgets them once below."""
    if state.level is Level.DEFAULT:
        return
    steps = covenant.thresholds
    call = _counted(state.call_counted_ms, steps.call_bps, inputs, covenant, now_ms)
    if call != state.call_counted_ms:
        state = replace(state, call_counted_ms=call)
        yield state, *_told("call", call, steps.call_bps, inputs, covenant)
    default = _counted(state.default_counted_ms, steps.default_bps, inputs, covenant, now_ms)
    if default != state.default_counted_ms:
        state = replace(state, default_counted_ms=default)
        yield state, *_told("default", default, steps.default_bps, inputs, covenant)


def _counted(
    counted_ms: tuple[int, ...],
    threshold_bps: int,
    inputs: Inputs,
    covenant: Covenant,
    now_ms: int,
) -> tuple[int, ...]:
    if inputs.ltv_bps is None:
        return counted_ms
    if inputs.ltv_bps < threshold_bps - covenant.hysteresis_bps:
        return ()
    due = not counted_ms or now_ms - counted_ms[-1] >= covenant.call_apart_hours * HOUR_MS
    more = len(counted_ms) < covenant.call_valuations
    reached = inputs.complete and inputs.ltv_bps >= threshold_bps
    return (*counted_ms, now_ms) if due and more and reached else counted_ms


def _told(
    what: str, counted_ms: tuple[int, ...], threshold_bps: int, inputs: Inputs, covenant: Covenant
) -> tuple[str, str]:
    ltv = percent(inputs.ltv_bps or 0)
    if not counted_ms:
        return f"{what}.reset", f"LTV is {ltv}, back under {percent(threshold_bps)}."
    number = f"{len(counted_ms)} of {covenant.call_valuations}"
    return f"{what}.valuation", f"Valuation {number} at or above {percent(threshold_bps)}: {ltv}."


def _level(
    state: CovenantState, inputs: Inputs, covenant: Covenant, now_ms: int
) -> Iterable[_Change]:
    """The level itself: at most one move a step."""
    ltv_bps, steps = inputs.ltv_bps, covenant.thresholds
    if state.level is Level.DEFAULT or ltv_bps is None:
        return
    ltv = f"LTV is {percent(ltv_bps)}"
    if len(state.default_counted_ms) >= covenant.call_valuations:
        detail = f"{ltv}, at or above {percent(steps.default_bps)} as often as agreed."
        yield _moved(state, Level.DEFAULT, now_ms), "default.ltv", detail
    elif state.level is Level.CALL:
        below = ltv_bps < steps.call_bps - covenant.hysteresis_bps
        late = inputs.called_served_ms >= covenant.value_cure_hours * HOUR_MS
        if below:
            back = _settled(ltv_bps, covenant)
            yield _moved(state, back, now_ms), "call.cured", f"{ltv}: the call is cured."
        elif late and inputs.complete:
            cure = format_duration(covenant.value_cure_hours * HOUR_MS)
            detail = f"{ltv}: the call was not cured within {cure}."
            yield _moved(state, Level.DEFAULT, now_ms), "default.uncured", detail
    elif len(state.call_counted_ms) >= covenant.call_valuations:
        detail = f"{ltv}, at or above {percent(steps.call_bps)} as often as agreed."
        yield _moved(state, Level.CALL, now_ms), "call.made", detail
    elif state.level is Level.CURRENT and ltv_bps >= steps.watch_bps:
        detail = f"{ltv}, at or above {percent(steps.watch_bps)}."
        yield _moved(state, Level.WATCH, now_ms), "watch.begun", detail
    elif state.level is Level.WATCH and _settled(ltv_bps, covenant) is Level.CURRENT:
        detail = f"{ltv}, back under {percent(steps.watch_bps)}."
        yield _moved(state, Level.CURRENT, now_ms), "watch.ended", detail


def _settled(ltv_bps: int, covenant: Covenant) -> Level:
    """Where an LTV that comes from above settles."""
    under = ltv_bps < covenant.thresholds.watch_bps - covenant.hysteresis_bps
    return Level.CURRENT if under else Level.WATCH


def _moved(state: CovenantState, level: Level, now_ms: int) -> CovenantState:
    called_ms = now_ms if level is Level.CALL else None
    if level is Level.DEFAULT:
        called_ms = state.called_ms
    return replace(state, level=level, since_ms=now_ms, called_ms=called_ms)


_RULES: Final[tuple[_Rule, ...]] = (_beside, _reporting, _counts, _level)
