"""Following one GPU through its windows: what was seen of it, its incidents, and its lifetime counters.

Windows come in the order of their chain, late ones too: history is restored, presence is not, for
presence is judged by when a window was observed. Incidents are judged here by the shared rules, from
the window's readings; what its host concluded only ever adds.
"""

from __future__ import annotations

from typing import Final

import msgspec

from assay_core.health import follow, merge_told
from assay_core.health.plausibility_view import learn, remember
from assay_core.health.reconcile import elapsed_ms, reconcile, totals
from assay_core.instants import MINUTE_MS
from assay_core.leaves import EventKind, Group
from assay_valuer.policy import ValuerPolicy, ms
from assay_valuer.standing.notes import Notes, noted, reconciled
from assay_valuer.standing.types import Sight, Track

HOLE_MIN_MS: Final = MINUTE_MS
"""Windows of one boot follow on each other; more time than this between two is a gap."""


def observe(track: Track, sight: Sight, policy: ValuerPolicy) -> Track:
    """The track after one more window.

    A window of a paused host says nothing of the GPU but that it is in maintenance. One whose
    driver did not answer says that the GPU was not seen. Neither excuses a GPU that had gone by
    itself before: it is missing until it is seen, or a virtual machine has it.
    """
    before = track.condition
    seen, lost, passed = sight.seen, sight.lost, sight.health.passed
    alone = not seen and not passed and (before.alone or lost or sight.driver.answers)
    condition = msgspec.structs.replace(
        before,
        boot_id=sight.boot,
        driver=int(sight.driver),
        lost=lost or (before.lost and not seen and not passed),
        alone=alone,
        passed_through=not seen and not lost and (passed or before.passed_through),
        maintenance_until_ms=None if before.alone else sight.maintenance_until_ms,
        **(_measured(sight) if seen else {}),
    )
    missing = None if (seen and not lost) or condition.passed_through else track.missing_since_ms
    if missing is None and (
        lost or not (seen or condition.passed_through or sight.maintenance_until_ms is not None)
    ):
        missing = _gone_since(sight)
    health = follow(track.health, sight.health, policy.incidents)
    if sight.told:
        health = merge_told(health, sight.told, policy.incidents)
    return Track(
        first_seen_ms=sight.observed_ms
        if seen and track.first_seen_ms is None
        else track.first_seen_ms,
        seen_ms=max(track.seen_ms or 0, sight.observed_ms) if seen else track.seen_ms,
        missing_since_ms=missing,
        position=sight.position if seen else track.position,
        condition=condition,
        health=health,
        notes=_notes(track, sight, policy),
    )


def _measured(sight: Sight) -> dict[str, int | None]:
    return {
        "recovery_action": sight.recovery_action,
        "temperature_mc": sight.temperature_mc,
        "ecc_uncorrected": sight.ecc_uncorrected,
    }


def _gone_since(sight: Sight) -> int:
    """When it went: its loss, if the window says when, and never after the window's end."""
    lost = [one.first_ms for one in sight.health.events if one.kind is EventKind.GPU_LOST]
    return min([*lost, sight.observed_ms])


def _notes(track: Track, sight: Sight, policy: ValuerPolicy) -> Notes:
    """What is remembered after the window: findings, and the counters it told, over a gap or not."""
    notes, leaves = track.notes, sight.leaves
    found = sight.found
    known = learn(notes.known, leaves.identity)
    if sight.seen:
        before = known.totals
        after = totals(
            before,
            sight.boot,
            sight.period,
            health=leaves.health,
            use=leaves.use,
            condition=leaves.condition,
        )
        if before is not None and _gap(track, sight, before.boot, before.boottime_ms):
            over = reconcile(
                before,
                after,
                elapsed_ms=elapsed_ms(before, sight.boot, sight.period),
                restarted=sight.reset or before.boot != sight.boot,
                power_limit_mw=known.board_limit_mw,
            )
            found = (*found, reconciled(over.verdict, over.detail))
        told = {
            Group.IDENTITY: leaves.identity is not None,
            Group.CONDITION: leaves.condition is not None,
            Group.PLATFORM: sight.platform,
        }
        restarted = bool(sight.health.restarts) or (
            before is not None and before.boot != sight.boot
        )
        known = remember(known, sight.observed_ms, track.seen_ms, told, restarted=restarted)
        known = msgspec.structs.replace(known, totals=after)
    findings = notes.findings
    if found or findings:
        findings = noted(findings, found, sight.observed_ms, ms(policy.findings.keep_s))
    return Notes(known=known, findings=findings)


def _gap(track: Track, sight: Sight, boot: str, boottime_ms: int) -> bool:
    """Whether something lies between this window and the last that saw the GPU."""
    return (
        sight.reset
        or sight.boot != boot
        or track.missing_since_ms is not None
        or track.condition.passed_through
        or track.condition.maintenance_until_ms is not None
        or any(one.kind is EventKind.GPU_RETURNED for one in sight.health.events)
        or sight.period.begin_boottime_ms - boottime_ms > HOLE_MIN_MS
    )
