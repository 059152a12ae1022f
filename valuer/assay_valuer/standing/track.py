"""Following one GPU through its windows: a fold that opens, keeps and ends incidents.

Windows come in the order of their chain, late ones too: history is restored, presence is not, for
presence is judged by when a window was observed.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from assay_core.leaves import Event, EventKind
from assay_valuer.policy import Incidents, ms
from assay_valuer.standing.rules import ROWS_UNCORRECTED_MAX, UNKNOWN_XID, XID_IGNORED, rule_for
from assay_valuer.standing.types import (
    DRIVER_WORKS,
    Incident,
    Kind,
    Severity,
    Sight,
    Track,
)

CLOSED_KEPT_MAX = 32
"""Ended incidents of a GPU that are remembered, newest first to go last."""
OPEN_MAX = 64
"""Open incidents of a GPU that are followed. All that our tables know fit in; who fills the rest with
Xids that nobody knows makes them up, and one more of those changes nothing."""


def observe(track: Track, sight: Sight, policy: Incidents) -> Track:
    """The track after one more window.

    A window of a paused host says nothing of the GPU but that it is in maintenance. One whose
    driver did not answer says that the GPU was not seen. Neither excuses a GPU that had gone by
    itself before: it is missing until it is seen.
    """
    before = track.condition
    condition = msgspec.structs.replace(
        before,
        boot_id=sight.boot_id,
        driver=int(sight.driver),
        lost=sight.lost or (before.lost and not sight.seen),
        alone=not sight.seen and (before.alone or sight.lost or sight.driver in DRIVER_WORKS),
        maintenance_until_ms=None if before.alone else sight.maintenance_until_ms,
        **(_measured(sight) if sight.seen else {}),
    )
    restarted = sight.reset or track.condition.boot_id not in ("", sight.boot_id)
    incidents = tuple(
        _go_on(incident, sight, policy, restarted=restarted)
        if incident.open and incident.position < sight.position
        else incident
        for incident in track.incidents
    )
    incidents = _open_new(incidents, sight, policy)
    missing = None if sight.seen and not sight.lost else track.missing_since_ms
    if (missing is None and not sight.seen and sight.maintenance_until_ms is None) or (
        missing is None and sight.lost
    ):
        missing = _gone_since(sight)
    return Track(
        first_seen_ms=_first(track.first_seen_ms, sight.observed_ms if sight.seen else None),
        seen_ms=max(track.seen_ms or 0, sight.observed_ms) if sight.seen else track.seen_ms,
        missing_since_ms=missing,
        position=sight.position if sight.seen else track.position,
        condition=condition,
        incidents=_bounded(incidents),
    )


def _measured(sight: Sight) -> dict[str, int | None]:
    return {
        "recovery_action": sight.recovery_action,
        "temperature_mc": sight.temperature_mc,
        "ecc_uncorrected": sight.ecc_uncorrected,
    }


def _gone_since(sight: Sight) -> int:
    """When it went: its loss, if the window says when, and never after the window's end."""
    lost = [event.first_ms for event in sight.events if event.kind is EventKind.GPU_LOST]
    return min([*lost, sight.observed_ms])


def _first(earlier: int | None, now: int | None) -> int | None:
    return now if earlier is None else earlier


def _go_on(incident: Incident, sight: Sight, policy: Incidents, *, restarted: bool) -> Incident:
    """An open incident after one more window: it stands on, grows worse, or ends."""
    stays = replace(incident, windows=incident.windows + 1)
    if incident.kind is Kind.XID:
        events = _xids(sight, incident.code)
        if events:
            return replace(
                stays,
                seen_ms=max(event.last_ms for event in events),
                count=incident.count + sum(event.count for event in events),
                position=sight.position,
            )
        quiet = sight.observed_ms - incident.seen_ms >= ms(policy.xid_quiet_s)
        over = incident.severity is not Severity.IMPAIRED and sight.seen and (restarted or quiet)
        if over:
            return replace(incident, end_ms=sight.observed_ms)
        return stays if sight.seen else incident
    if incident.kind is Kind.GPU_LOST:
        if sight.seen and not sight.lost:
            return replace(incident, end_ms=sight.observed_ms)
        worse = restarted and sight.maintenance_until_ms is None
        severity = Severity.IMPAIRED if worse else incident.severity
        return replace(stays, severity=severity, position=sight.position)
    shown = _conditions(sight).get(incident.kind)
    if shown is None:  # no value: neither confirmed nor over
        return incident
    if shown == incident.code:
        return replace(stays, seen_ms=sight.observed_ms, position=sight.position)
    return replace(incident, end_ms=sight.observed_ms)


def _conditions(sight: Sight) -> dict[Kind, int | None]:
    """What health shows by itself: the code each condition would have, -1 for "all is well"."""
    if not sight.seen:
        return {}
    action = sight.recovery_action
    return {
        Kind.REMAP_FAILED: _flag(sight.remap_failed),
        Kind.REMAP_PENDING: _flag(sight.remap_pending),
        Kind.RECOVERY_ACTION: None if action is None else (action or -1),
        Kind.ROWS_EXHAUSTED: None
        if sight.rows_uncorrected is None
        else (0 if sight.rows_uncorrected >= ROWS_UNCORRECTED_MAX else -1),
    }


def _flag(value: int | None) -> int | None:
    return None if value is None else (0 if value else -1)


def _open_new(
    incidents: tuple[Incident, ...], sight: Sight, policy: Incidents
) -> tuple[Incident, ...]:
    standing = {(one.kind, one.code) for one in incidents if one.open}
    found: list[Incident] = []

    def begin(kind: Kind, code: int, begin_ms: int, seen_ms: int, count: int) -> None:
        if (kind, code) not in standing:
            standing.add((kind, code))
            severity = _severity(kind, code, begin_ms, incidents, policy)
            found.append(
                Incident(kind, code, severity, begin_ms, seen_ms, None, count, 1, sight.position)
            )

    for event in sight.events:
        if event.kind is EventKind.XID and event.code not in XID_IGNORED:
            begin(Kind.XID, event.code, event.first_ms, event.last_ms, event.count)
    if sight.lost:
        begin(Kind.GPU_LOST, 0, _gone_since(sight), sight.observed_ms, 1)
    for kind, code in _conditions(sight).items():
        if code is not None and code >= 0:
            begin(kind, code, sight.observed_ms, sight.observed_ms, 1)
    return (*incidents, *found)


def _severity(
    kind: Kind, code: int, begin_ms: int, incidents: tuple[Incident, ...], policy: Incidents
) -> Severity:
    rule = rule_for(kind, code)
    if rule.recurs and any(
        one.kind is kind
        and one.code == code
        and begin_ms - (one.end_ms or one.seen_ms) <= ms(policy.xid_recurrence_s)
        for one in incidents
    ):
        return Severity.IMPAIRED
    return rule.severity


def _xids(sight: Sight, code: int) -> list[Event]:
    return [event for event in sight.events if event.kind is EventKind.XID and event.code == code]


def _bounded(incidents: tuple[Incident, ...]) -> tuple[Incident, ...]:
    if len(incidents) <= min(CLOSED_KEPT_MAX, OPEN_MAX):
        return incidents
    closed = [one for one in incidents if not one.open]
    standing = [one for one in incidents if one.open]
    kept = {
        *sorted(closed, key=lambda one: one.end_ms or 0)[-CLOSED_KEPT_MAX:],
        *sorted(standing, key=_unknown)[:OPEN_MAX],
    }
    return tuple(one for one in incidents if one in kept)


def _unknown(incident: Incident) -> bool:
    return rule_for(incident.kind, incident.code) is UNKNOWN_XID
