"""The simulated GPU-years by which false alarms are counted: the same every time, and able to see a
rule that is wrong.
"""

from __future__ import annotations

import random

import pytest

from assay_core.health import rules
from assay_core.leaves import Severity
from bench.false_alarms import SEED, Score, score
from bench.gpu_stories import Story, Teller


def lived(gpu_years: int) -> Score:
    result = Score()
    assert list(score(result, gpu_years, SEED)) == list(range(1, gpu_years + 1))
    return result


def test_the_same_seed_lives_the_same_years():
    assert lived(60) == lived(60)


def test_the_rules_are_seldom_wrong_and_the_gauge_of_the_last_xid_often():
    result = lived(400)
    assert result.wrong_impaired.total() <= 1
    assert result.wrong_degraded.total() < 20
    assert result.missed_degraded.total() == 0
    assert result.gauge_wrong > 40
    seen = {name for name, missed in result.missed_impaired.items() if missed}
    assert seen <= {"silent corruption", "breaks its jobs"}


@pytest.mark.parametrize("severity", [Severity.IMPAIRED, Severity.DEGRADED])
def test_a_rule_that_takes_an_applications_error_for_the_gpus_is_found_out(monkeypatch, severity):
    rule = rules.rule_for(rules.IncidentKind.XID, 45)
    wrong = rules.Rule(
        rule.kind, (45,), severity, rule.meaning, rule.action, rule.source, rule.ends
    )
    monkeypatch.setitem(rules._BY_CODE, (rule.kind, 45), wrong)
    result = lived(40)
    counted = (
        result.wrong_impaired if severity is Severity.IMPAIRED else result.wrong_degraded
    ).total()
    assert counted > 40


def test_a_year_tells_faults_that_stay_faults_that_do_not_and_noise():
    teller = Teller(random.Random(1))
    stories: list[Story] = [story for _ in range(400) for story in teller.year()]
    assert {story.truth for story in stories} == {None, Severity.DEGRADED, Severity.IMPAIRED}
    assert all(story.begin_ms <= story.end_ms for story in stories)
    assert all(story.replaced == (story.truth is Severity.IMPAIRED) for story in stories)
