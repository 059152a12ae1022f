"""What a GPU did while nobody looked: its lifetime counters before a gap against those after it.

A gap is a gap record, a silence, a reload of the driver, another boot, or a GPU that was gone and is
back. The verdict is a finding: it says what the counters can and cannot have come from, and moves no
value by itself. All bounds are *judgement*.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.header import Period
from assay_core.health.values import whole
from assay_core.instants import HOUR_MS, format_duration
from assay_core.leaves import Content

IDLE_PCT: Final = 20
"""Mean power of a GPU that idles, of its limit. Idle measures 10 to 11 % (captures of H100, H200,
L40S); one with a client open draws more."""
IDLE_MW: Final = 120_000
"""The same where no limit is known."""
EXCEEDED_PCT: Final = 110
"""A governor holds mean power at the limit within a few percent; the counter has its own error."""
SPARE_MS: Final = 900_000
"""When in its window a counter was read is not told: the longest window there is."""
_AGE_MAX_MS: Final = 2**53
"""No host is older, whatever its clock says; what is kept stays a number that others can read."""
_MJ_PER_KWH: Final = 3_600_000_000


class Verdict(enum.StrEnum):
    """What became of a GPU over a gap."""

    IDLE = "idle"  # on, and next to nothing was done
    USED = "used"
    RESET = "reset"  # counters began anew: what was before that is not known
    IMPOSSIBLE = "impossible"  # no GPU gets from the one to the other in this time
    UNKNOWN = "unknown"  # nothing to go by


class Totals(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lifetime counters as last told, each None where there was no value.

    `at_ms` (UTC) and `boottime_ms` (since `boot`) are the end of the newest window. Energy starts
    anew with the driver; `energy_lifetime_mj` is what the agent summed up over reloads; the others
    last as the board does. `odometer_age_ms` is how long ago the odometer was first told so, at
    most: it is read once a day.
    """

    at_ms: int
    boot: str
    boottime_ms: int
    energy_mj: int | None = None
    energy_lifetime_mj: int | None = None
    odometer_s: int | None = None
    odometer_age_ms: int = 0
    remapped_corrected: int | None = None
    remapped_uncorrected: int | None = None
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None


_LASTING: Final = {
    "odometer_s": "the odometer",
    "remapped_corrected": "rows remapped after corrected errors",
    "remapped_uncorrected": "rows remapped after uncorrected errors",
    "ecc_corrected": "corrected errors over the board's life",
    "ecc_uncorrected": "uncorrected errors over the board's life",
}
"""Counters of the board that nothing but a write to its memory takes back."""


def elapsed_ms(before: Totals, boot: str, period: Period) -> int:
    """Time from `before` to the end of a window: by the clock that nobody steps, within a boot."""
    if boot == before.boot:
        return max(0, period.end_boottime_ms - before.boottime_ms)
    return max(0, period.end_utc_ms - before.at_ms, period.end_boottime_ms)


def totals(
    before: Totals | None,
    boot: str,
    period: Period,
    *,
    health: Content | None,
    use: Content | None,
    condition: Content | None,
) -> Totals:
    """The totals after a window; what it does not tell stays as it was `before`."""
    told = {
        "energy_mj": whole(use, "energy_mj"),
        "energy_lifetime_mj": whole(use, "energy_lifetime_mj"),
        "odometer_s": whole(condition, "odometer_s"),
        "remapped_corrected": whole(health, "remapped_rows_corrected"),
        "remapped_uncorrected": whole(health, "remapped_rows_uncorrected"),
        "ecc_corrected": whole(health, "ecc_corrected_aggregate"),
        "ecc_uncorrected": whole(health, "ecc_uncorrected_aggregate"),
    }
    news = {name: value for name, value in told.items() if value is not None}
    odometer_s = news.get("odometer_s")
    if before is None or (odometer_s is not None and odometer_s != before.odometer_s):
        age_ms = max(0, period.end_boottime_ms - period.begin_boottime_ms)
    else:
        age_ms = before.odometer_age_ms + elapsed_ms(before, boot, period)
    ends = {
        "at_ms": period.end_utc_ms,
        "boottime_ms": period.end_boottime_ms,
        "odometer_age_ms": min(age_ms, _AGE_MAX_MS),
    }
    if before is None:
        return Totals(boot=boot, **ends, **news)
    return msgspec.structs.replace(before, boot=boot, **ends, **news)


@dataclass(frozen=True, slots=True)
class Reconciled:
    """A verdict on a gap, and what it rests on.

    `energy_mj` is how much was used, at least so much where `at_least`; None: not known.
    `full_load_ms` is the time at the power limit that would take as much.
    """

    verdict: Verdict
    elapsed_ms: int
    energy_mj: int | None
    at_least: bool
    full_load_ms: int | None
    detail: str


def reconcile(
    before: Totals,
    after: Totals,
    *,
    elapsed_ms: int,
    restarted: bool,
    power_limit_mw: int | None,
) -> Reconciled:
    """What became of a GPU between the windows that told `before` and `after`, `elapsed_ms` apart.

    `restarted`: the driver is known to have loaded anew in between (a reload, or another boot); what
    counts since it loaded may have begun anew then. `power_limit_mw` is the board's.
    """
    limit_mw = power_limit_mw or None
    energy_mj, at_least = _energy(before, after, restarted=restarted)
    impossible = [*_fallen(before, after), *_too_fast(before, after, elapsed_ms)]
    if energy_mj is not None and limit_mw is not None:
        most_mj = limit_mw * (elapsed_ms + SPARE_MS) * EXCEEDED_PCT // 100_000
        if energy_mj > most_mj:
            impossible.append(
                f"{_kwh(energy_mj)} were used, and the power limit allows {_kwh(most_mj)}"
            )
    if impossible:
        verdict = Verdict.IMPOSSIBLE
    elif energy_mj is None:
        verdict = Verdict.UNKNOWN
    elif energy_mj * 1_000 > _idle_mw(limit_mw) * elapsed_ms:
        verdict = Verdict.USED
    else:
        verdict = Verdict.RESET if at_least else Verdict.IDLE
    full_ms = None if energy_mj is None or limit_mw is None else energy_mj * 1_000 // limit_mw
    return Reconciled(
        verdict,
        elapsed_ms,
        energy_mj,
        at_least,
        full_ms,
        _detail(verdict, elapsed_ms, impossible, energy_mj, full_ms, at_least=at_least),
    )


def _energy(before: Totals, after: Totals, *, restarted: bool) -> tuple[int | None, bool]:
    """Energy used in the gap, and whether that is only the least it can be."""
    found: list[tuple[int, bool]] = []
    if after.energy_mj is not None:
        was_mj = before.energy_mj
        if was_mj is not None and after.energy_mj >= was_mj:
            # After a restart it may yet not have begun anew: what is certain is the difference.
            found.append((after.energy_mj - was_mj, restarted))
        elif was_mj is not None or restarted:
            found.append((after.energy_mj, True))
    lasting = (before.energy_lifetime_mj, after.energy_lifetime_mj)
    if lasting[0] is not None and lasting[1] is not None and lasting[1] >= lasting[0]:
        # The agent's own sum lacks what was used between its last look and a reload.
        found.append((lasting[1] - lasting[0], restarted))
    if not found:
        return None, False
    exact = [one for one in found if not one[1]]
    return max(exact or found)


def _fallen(before: Totals, after: Totals) -> list[str]:
    fallen = []
    for name, words in _LASTING.items():
        was, now = getattr(before, name), getattr(after, name)
        if was is not None and now is not None and now < was:
            fallen.append(f"{words} fell from {was} to {now}")
    return fallen


def _too_fast(before: Totals, after: Totals, elapsed_ms: int) -> list[str]:
    if before.odometer_s is None or after.odometer_s is None:
        return []
    advance_s = after.odometer_s - before.odometer_s
    if advance_s * 1_000 <= before.odometer_age_ms + elapsed_ms + SPARE_MS:
        return []
    return [f"the odometer advanced by {advance_s} s"]


def _idle_mw(limit_mw: int | None) -> int:
    return IDLE_MW if limit_mw is None else limit_mw * IDLE_PCT // 100


def _detail(
    verdict: Verdict,
    elapsed_ms: int,
    impossible: list[str],
    energy_mj: int | None,
    full_ms: int | None,
    *,
    at_least: bool,
) -> str:
    after = f"After {format_duration(elapsed_ms)} unseen"
    if verdict is Verdict.IMPOSSIBLE:
        return f"{after}: {'; '.join(impossible)}, which cannot be."
    if energy_mj is None:
        return f"{after}: there is no energy counter to tell what was done."
    least = "at least " if at_least else ""
    hours = "" if full_ms is None else f", {full_ms / HOUR_MS:.1f} hours of full load"
    used = f"{least}{_kwh(energy_mj)}{hours}"
    if verdict is Verdict.RESET:
        return f"{after}: counters began anew; {used} since then, what was before is not known."
    return f"{after}: {verdict.value}, {used}."


def _kwh(energy_mj: int) -> str:
    return f"{energy_mj / _MJ_PER_KWH:.3f} kWh"
