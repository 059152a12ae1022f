"""Honest fleets raise no finding: a whole day of the simulation, each load, with and without faults."""

from __future__ import annotations

from collections import Counter

import pytest

from assay_agent.telemetry import simulation
from assay_agent.telemetry.reading import Depth, Happening, Poll
from assay_agent.telemetry.scenario import parse
from assay_agent.window import Aggregator
from assay_core.header import CloseReason
from assay_core.health.plausibility import examine
from assay_core.health.plausibility_view import Known, learn
from assay_core.health.reconcile import Verdict, reconcile, totals
from assay_core.leaves import DriverState, Group

START_MS, BOOT_MS = 1_790_000_000_000, 10**9
DAY_MS, WINDOW_MS, POLL_MS = 86_400_000, 300_000, 20_000
BOOT = "aa"
LOADS = """
seed: 11
fleets:
  - {profile: h100, count: 2, load: {shape: burst, level_pct: 90}}
  - {profile: h200, count: 2, load: {shape: diurnal, level_pct: 80}}
  - {profile: b200, count: 2, load: {shape: training, level_pct: 100}}
  - {profile: l40s, count: 2, load: {shape: steady, level_pct: 35}}
"""
OTHERS = """
seed: 12
fleets:
  - {profile: rtx-pro-6000, count: 2, load: {shape: measured}}
  - {profile: h100, count: 2, load: {shape: measured}}
  - {profile: h100, count: 2}
  - {profile: h200, count: 2, mig: 3, load: {shape: diurnal}}
"""
FAULTS = """
faults:
  - {kind: thermal, at_s: 3000, for_s: 2000, gpu: 0}
  - {kind: power_brake, at_s: 3000, for_s: 2000, gpu: 4}
  - {kind: fall_off_bus, at_s: 7000, gpu: 1}
  - {kind: return, at_s: 9100, gpu: 1}
  - {kind: passed_through, at_s: 12000, for_s: 4000, gpu: 2}
  - {kind: reset, at_s: 20000, gpu: 3}
  - {kind: ecc, at_s: 21000, gpu: 3, corrected: 9}
  - {kind: remap_pending, at_s: 22000, gpu: 5}
  - {kind: xid, at_s: 23000, gpu: 5, code: 48}
  - {kind: driver_hang, at_s: 30010, for_s: 4000}
  - {kind: pcie_replays, at_s: 24000, gpu: 5, count: 900}
"""


def polls(scenario, for_ms):
    """What a source would yield, faster than time."""
    gpus = simulation.gpus_of(scenario)
    occurrences = list(simulation.occurrences_of(scenario))
    for after_ms in range(0, for_ms + 1, POLL_MS):
        events = []
        while occurrences and occurrences[0].after_ms <= after_ms:
            one = occurrences.pop(0)
            events.append(Happening(one.subject, one.kind, one.code, START_MS + one.after_ms))
        ends = after_ms % WINDOW_MS == 0
        hangs = simulation.hangs(scenario, after_ms)
        depth = Depth.DAY if after_ms == 0 else Depth.WINDOW if ends or events else Depth.TICK
        versions = {"driver_version": "s", "nvml_version": "s", "kernel_module_version": "s"}
        yield Poll(
            at_utc_ms=START_MS + after_ms,
            at_boottime_ms=BOOT_MS + after_ms,
            driver=DriverState.UNRESPONSIVE if hangs else DriverState.RUNNING,
            host={**versions, "gpu_count": 8, "hidden_gpus": (), "phantom_gpus": ()},
            abandoned_processes=0,
            gpus=()
            if hangs
            else tuple(simulation.read(scenario, gpu, after_ms, depth) for gpu in gpus),
            events=tuple(events),
        )


def windows(scenario, for_ms):
    aggregator = Aggregator((), begin_utc_ms=START_MS, begin_boottime_ms=BOOT_MS)
    for poll in polls(scenario, for_ms):
        aggregator.add(poll)
        if poll.events or (poll.at_utc_ms - START_MS) % WINDOW_MS == 0:
            draft = aggregator.draft(
                at_utc_ms=poll.at_utc_ms,
                at_boottime_ms=poll.at_boottime_ms,
                close_reason=CloseReason.EVENT if poll.events else CloseReason.PERIOD,
            )
            aggregator.restart(draft)
            yield draft


class Story:
    """Plausibility and reconciliation over the windows of one boot."""

    def __init__(self):
        self.known = {}
        self.findings = Counter()
        self.verdicts = Counter()

    def take(self, draft):
        found = examine(draft.contents, BOOT, draft.period, self.known)
        self.findings.update(f"{one.code}: {one.detail}" for one in found)
        gpus = {}
        for one in draft.contents:
            if one.group not in (Group.HOST, Group.PLATFORM):
                gpus.setdefault(one.subject, {})[one.group] = one
        for subject, leaves in gpus.items():
            self.learn(subject, leaves, draft.period)

    def learn(self, subject, leaves, period):
        known = learn(self.known.get(subject, Known()), leaves.get(Group.IDENTITY))
        before = known.totals
        polls = leaves[Group.HEALTH].values["polls"]
        if type(polls) is int and polls:
            after = totals(
                before,
                BOOT,
                period,
                health=leaves[Group.HEALTH],
                use=leaves[Group.USE],
                condition=leaves.get(Group.CONDITION),
            )
            if before is not None and period.begin_boottime_ms - before.boottime_ms > 60_000:
                gap = reconcile(
                    before,
                    after,
                    elapsed_ms=period.end_boottime_ms - before.boottime_ms,
                    restarted=False,
                    power_limit_mw=known.board_limit_mw,
                )
                self.verdicts[gap.verdict] += 1
            known = Known(
                name=known.name,
                memory_total_bytes=known.memory_total_bytes,
                board_limit_mw=known.board_limit_mw,
                totals=after,
            )
        self.known[subject] = known


@pytest.mark.parametrize(
    ("text", "gaps"),
    [(LOADS, 0), (OTHERS, 0), (LOADS + FAULTS, 10)],
    ids=["loads", "others", "faults"],
)
def test_a_simulated_day_has_no_findings(text, gaps):
    story = Story()
    count = 0
    for draft in windows(parse(text, "day.yaml"), DAY_MS):
        story.take(draft)
        count += 1
    assert count > DAY_MS // WINDOW_MS
    assert story.findings == {}
    assert sum(story.verdicts.values()) == gaps
    assert not story.verdicts[Verdict.IMPOSSIBLE]


def test_a_lie_in_the_simulation_is_found():
    scenario = parse(LOADS, "day.yaml")
    first, second = simulation.gpus_of(scenario)[:2]
    story = Story()
    for draft in windows(scenario, 3_600_000):
        shown = [one for one in draft.contents if one.subject != second.subject]
        copied = [
            type(one)(second.subject, one.group, one.values)
            for one in shown
            if one.subject == first.subject
        ]
        story.take(type(draft)((*shown, *copied), draft.period, draft.close_reason, draft.known))
    assert {code.partition(":")[0] for code in story.findings} == {"plausibility.identical"}
