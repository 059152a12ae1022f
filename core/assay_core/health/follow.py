"""Following one GPU through its windows: a fold that opens, keeps and ends incidents.

No clock is read and no order within a window matters: what a window says happens at the times it
names, and at one instant in this order: what cancels, what happened, what restarted. So a
cancellation never ends what came with it or after it, and a restart is never blamed for what came
with it.

An absent value neither confirms an incident nor ends it, and a window of a paused host or of a
driver that does not answer is one of absent values: nothing that was wrong before is excused.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from assay_core.health.incidents import Incidents
from assay_core.health.observation import OF_CONDITION, WELL, Observation
from assay_core.health.rates import measure
from assay_core.health.rules import (
    EVENTS,
    PAGES_DOUBLE_BIT_MAX,
    PAGES_PER_WEEK_MAX,
    PAGES_RETIRED_MAX,
    RETURNED_CANCELS,
    Ends,
    Key,
    rule_for,
)
from assay_core.health.state import DEFAULT, HealthPolicy, HealthState, Place, Record
from assay_core.instants import DAY_MS
from assay_core.leaves import Event, EventKind, Incident, IncidentKind

_CANCEL, _OCCUR, _RESTART = range(3)
_WEEK_MS: Final = 7 * DAY_MS
_PAGES_MAX: Final = 16
"""Rises of the retired pages that are remembered: more within a week are a return by far."""


def follow(state: HealthState, seen: Observation, policy: HealthPolicy = DEFAULT) -> HealthState:
    """The state after one more window; the same state for a window that was followed already."""
    if _followed(state, seen):
        return state
    booted = state.boot_id not in (b"", seen.boot_id)
    place = _place(state.place, seen)
    pages = _pages(state.pages, seen)
    bases, measured = measure(state.bases, seen, restarted=booted or bool(seen.restarts))
    levels = _levels(seen, place, pages)
    records: tuple[Record, ...] = ()
    if state.records or seen.events or seen.lost or _wrong(levels) or _wrong(measured):
        incidents = Incidents(state.records, policy)
        if booted:
            incidents.restart(state.at_ms, boot=True)
        untried = incidents.untried()
        for step in _timeline(seen):
            step(incidents)
        _settle_levels(incidents, seen, levels, untried)
        for kind in _MEASURED:
            incidents.settle_rate(kind, measured.get(kind), seen.at_ms)
        _settle_loss(incidents, seen, untried)
        _settle_events(incidents, seen, untried)
        records = incidents.close_up(seen.at_ms)
    return HealthState(
        at_ms=seen.at_ms,
        order=state.order if seen.order is None else seen.order,
        boot_id=seen.boot_id or state.boot_id,
        records=records,
        bases=bases,
        place=place,
        pages=pages,
    )


def merge_told(
    state: HealthState, told: tuple[Incident, ...], policy: HealthPolicy = DEFAULT
) -> HealthState:
    """What the host says of its incidents, where our windows lost them; call it after `follow`.

    It only ever adds: an incident of which we know none of the kind and code in that time, or an
    earlier beginning and a higher count of one that we know. How bad it is, our rules say. What a
    reading shows to be over is not opened again, and nothing is ended or made less.
    """
    incidents = Incidents(state.records, policy, keep_fresh=True)
    for incident in told:
        incidents.add_told(incident, state.at_ms)
    records = incidents.close_up(state.at_ms)
    return state if records == state.records else replace(state, records=records)


def _followed(state: HealthState, seen: Observation) -> bool:
    if seen.order is not None and state.order is not None:
        return seen.order <= state.order
    return (seen.at_ms, seen.boot_id) == (state.at_ms, state.boot_id)


# ----------------------------------------------------------------------- what happened, in order


_Step = Callable[[Incidents], None]


def _timeline(seen: Observation) -> list[_Step]:
    """The window's happenings, each as a step to take, in the order of their times."""
    steps: list[tuple[int, int, int, int, int, _Step]] = []
    instants: set[int] = set()
    for event in seen.events:
        for key in _cancelled(event):
            for at_ms in {event.first_ms, event.last_ms}:
                instants.add(at_ms)
                steps.append((at_ms, _CANCEL, *key, 0, _canceller(key, at_ms)))
    for at_ms in seen.restarts:
        steps.append((at_ms, _RESTART, 0, 0, 0, _restarter(at_ms)))
    ends = sorted(instants)
    for event in seen.events:
        kind = _incident_kind(event)
        if kind is None:
            continue
        for first_ms, last_ms, count in _parts(event, ends, seen.restarts):
            steps.append(
                (
                    first_ms,
                    _OCCUR,
                    kind,
                    event.code,
                    last_ms,
                    _occurrence(kind, event.code, first_ms, last_ms, count),
                )
            )
    return [step[-1] for step in sorted(steps, key=lambda step: step[:-1])]


def _incident_kind(event: Event) -> IncidentKind | None:
    """The kind of incident that an event is of; a DRAM retirement that was done is none."""
    if event.kind is EventKind.DRAM_RETIREMENT and not event.code:
        return None
    return EVENTS.get(event.kind)


def _cancelled(event: Event) -> tuple[Key, ...]:
    if event.kind is EventKind.GPU_RETURNED:
        return RETURNED_CANCELS
    return rule_for(IncidentKind.XID, event.code).cancels if event.kind is EventKind.XID else ()


def _parts(
    event: Event, ends: Sequence[int], restarts: Sequence[int]
) -> list[tuple[int, int, int]]:
    """An event as first, last and count; in two where something ended between its ends.

    Between them a window does not say when it came: all but the last are taken as at the first.
    `ends` and `restarts` ascend.
    """
    first_ms, last_ms = event.first_ms, event.last_ms
    parted = bisect_right(ends, first_ms) < bisect_right(ends, last_ms) or (
        bisect_left(restarts, first_ms) < bisect_left(restarts, last_ms)
    )
    if parted and event.count > 1:
        return [(first_ms, first_ms, event.count - 1), (last_ms, last_ms, 1)]
    return [(first_ms, last_ms, event.count)]


def _canceller(key: Key, at_ms: int) -> _Step:
    return lambda incidents: incidents.cancel(key, at_ms)


def _restarter(at_ms: int) -> _Step:
    return lambda incidents: incidents.restart(at_ms, boot=False)


def _occurrence(kind: IncidentKind, code: int, first_ms: int, last_ms: int, count: int) -> _Step:
    return lambda incidents: incidents.occur(kind, code, first_ms, last_ms, count)


# --------------------------------------------------------------------------- what readings show


_MEASURED: Final = tuple(
    kind for kind in IncidentKind if kind > 100 and rule_for(kind, 0).ends is Ends.MEASURED
)
_LEVELS: Final = tuple(
    kind for kind in IncidentKind if kind > 100 and rule_for(kind, 0).ends is Ends.CLEARED
)


def _levels(
    seen: Observation, place: Place, pages: tuple[tuple[int, int], ...]
) -> dict[IncidentKind, int]:
    """The conditions that have a value: WELL, or the incident's code."""
    found = {
        IncidentKind.NVLINK_DOWN: _links_down(seen, place),
        IncidentKind.PCIE_DEGRADED: _narrow(seen, place),
        IncidentKind.HIDDEN: _hidden(seen, place),
        IncidentKind.PHANTOM: _phantom(seen, place),
        IncidentKind.PAGES_EXHAUSTED: _pages_exhausted(seen, pages),
    }
    return {**seen.levels, **{kind: code for kind, code in found.items() if code is not None}}


def _wrong(shown: Mapping[IncidentKind, int]) -> bool:
    return any(code != WELL for code in shown.values())


def _settle_levels(
    incidents: Incidents,
    seen: Observation,
    levels: Mapping[IncidentKind, int],
    untried: frozenset[Key],
) -> None:
    unchanged = seen.seen and not seen.condition_read
    for kind in _LEVELS:
        same = unchanged and kind in OF_CONDITION
        incidents.settle_level(kind, levels.get(kind), seen.at_ms, same=same, untried=untried)


def _links_down(seen: Observation, place: Place) -> int | None:
    links = seen.links
    if links is None:
        return None
    if place.links:
        wanted, mbps = place.links, place.link_mbps
    else:
        wanted, mbps = place.links_seen, _most(links.speeds_mbps)
    slow = any(speed * 100 < mbps * 99 for speed in links.speeds_mbps if speed)
    return 0 if slow or links.active < wanted else WELL


def _most(speeds: tuple[int, ...]) -> int:
    """The speed that most links have; the faster of two that as many have."""
    return max(set(speeds), key=lambda speed: (speeds.count(speed), speed), default=0)


def _narrow(seen: Observation, place: Place) -> int | None:
    if seen.pcie_width is None or not seen.pcie_width or not place.lanes_max:
        return None
    return 0 if seen.pcie_width < place.lanes_max else WELL


def _hidden(seen: Observation, place: Place) -> int | None:
    """Shown to be hidden by its address on the bus, or by an event; shown again by a poll."""
    told = [one.last_ms for one in seen.events if one.kind is EventKind.GPU_HIDDEN]
    back = [one.last_ms for one in seen.events if one.kind is EventKind.GPU_RETURNED]
    if told and max(told) > max(back, default=-1):
        return 0
    if seen.works and seen.hidden is not None and place.address and place.address in seen.hidden:
        return None if seen.passed else 0
    return WELL if seen.passed or (seen.seen and not seen.lost) else None


def _phantom(seen: Observation, place: Place) -> int | None:
    if seen.phantom is None or not place.address or not seen.seen:
        return None
    return 0 if place.address in seen.phantom else WELL


def _pages(pages: tuple[tuple[int, int], ...], seen: Observation) -> tuple[tuple[int, int], ...]:
    count = seen.pages_double_bit
    if count is None:
        return pages
    if pages and count < pages[-1][1]:
        pages = ()
    if not pages or count > pages[-1][1]:
        pages = (*pages, (seen.at_ms, count))
    while len(pages) > _PAGES_MAX or (len(pages) > 1 and seen.at_ms - pages[1][0] > _WEEK_MS):
        pages = pages[1:]
    return pages


def _pages_exhausted(seen: Observation, pages: tuple[tuple[int, int], ...]) -> int | None:
    if seen.pages_retired is None:
        return None
    double = seen.pages_double_bit or 0
    in_week = double - pages[0][1] if pages else 0
    many = double > PAGES_DOUBLE_BIT_MAX and in_week > PAGES_PER_WEEK_MAX
    return 0 if many or seen.pages_retired >= PAGES_RETIRED_MAX else WELL


def _place(place: Place, seen: Observation) -> Place:
    told = seen.told
    if told is not None:
        place = replace(
            place,
            address=place.address if told.address is None else told.address,
            lanes_max=place.lanes_max if told.lanes_max is None else told.lanes_max,
            links=place.links if told.links is None else told.links,
            link_mbps=place.link_mbps if told.links is None else told.link_mbps,
        )
    if seen.links is None:
        return place
    # No link at all is a bridge taken off, and no link lost.
    most = max(place.links_seen, seen.links.active) if seen.links.active else 0
    return place if most == place.links_seen else replace(place, links_seen=most)


# ----------------------------------------------------------------- what has gone, and what is over


def _settle_loss(incidents: Incidents, seen: Observation, untried: frozenset[Key]) -> None:
    key = (IncidentKind.GPU_LOST, 0)
    if seen.lost:
        incidents.stand(key, seen.at_ms)
    elif seen.seen or seen.passed:
        incidents.end(key, seen.at_ms)
    if seen.lost and seen.works and key in untried:
        incidents.worsen(key)
    incidents.worsen_after_loss(key, seen.at_ms)


def _settle_events(incidents: Incidents, seen: Observation, untried: frozenset[Key]) -> None:
    here = seen.seen and not seen.lost
    for key in incidents.open_keys():
        if key[0] > 100 or key[0] is IncidentKind.GPU_LOST:
            continue
        if here:
            incidents.settle_event(key, seen.at_ms)
        elif seen.works and not seen.passed and key in untried:
            incidents.worsen(key)
        incidents.count_window(key, here=here)
