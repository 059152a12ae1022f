"""When a host is asked for evidence: at random, once in each interval, and never twice for one."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st

from assay_valuer.ingest.examination import ASKED_MAX, SOON_MS, Examination
from assay_valuer.policy import Evidence

HOUR_MS = 3_600_000
POLICY = Evidence()
SECOND_MS = 1_000
START_MS = 1_790_000_000_000


def asked_until(
    examination: Examination, until_ms: int, *, has_tpm: bool = True, step_ms: int = 10_000
) -> list[int]:
    """Looks every few seconds; when a challenge was sent, each answered at once."""
    found = []
    for now_ms in range(START_MS, until_ms, step_ms):
        asked = examination.ask(now_ms, 5, has_tpm=has_tpm)
        if asked is not None:
            found.append(now_ms)
            examination.used(asked)
            examination.proven(asked)
    return found


@given(st.integers(0, 2**32))
@example(140093977)  # draws the last seconds of the last hour
def test_a_tpm_is_asked_once_in_each_hour_at_times_that_nobody_can_know(seed: int) -> None:
    examination = Examination(POLICY, random.Random(seed).randrange)
    examination.opened(START_MS)
    # A look beyond the last hour: what is drawn for its last seconds is sent at the next look.
    times = asked_until(examination, START_MS + 12 * HOUR_MS + 20_000)
    assert START_MS + SECOND_MS <= times[0] <= START_MS + SECOND_MS + SOON_MS + 10_000
    # One in each hour that follows the first, and one more where devices were asked between.
    for hour in range(1, 12):
        begin_ms = START_MS + hour * HOUR_MS
        inside = [at for at in times if begin_ms <= at <= begin_ms + HOUR_MS + 10_000]
        assert 1 <= len(inside) <= 4
    other = Examination(POLICY, random.Random(seed + 1).randrange)
    other.opened(START_MS)
    assert asked_until(other, START_MS + 12 * HOUR_MS + 20_000) != times


def test_the_hours_do_not_drift_with_how_late_we_come_to_ask() -> None:
    late = Examination(POLICY, lambda below: below - 1)  # the last instant of each hour
    late.opened(START_MS)
    times = asked_until(late, START_MS + 12 * HOUR_MS, step_ms=7_000)
    for hour in range(2, 12):
        begin_ms = START_MS + hour * HOUR_MS
        assert [at for at in times if begin_ms <= at < begin_ms + 7_000]


def test_devices_are_asked_in_their_own_interval_and_a_quote_comes_along() -> None:
    examination = Examination(POLICY, random.Random(1).randrange)
    examination.opened(START_MS)
    devices = quotes = 0
    for now_ms in range(START_MS, START_MS + 24 * HOUR_MS, 10_000):
        asked = examination.ask(now_ms, 5, has_tpm=True)
        if asked is not None:
            devices += asked.devices
            quotes += bool(asked.pcrs)
            assert asked.pcrs == POLICY.pcrs
            assert asked.head_sequence == 5
            assert asked.deadline_ms == asked.sent_ms + 300_000
            assert asked.sent_ms == now_ms
    assert 4 <= devices <= 5
    assert 24 <= quotes <= 24 + 5


def test_a_host_without_a_tpm_is_asked_for_no_quote() -> None:
    examination = Examination(POLICY, random.Random(1).randrange)
    examination.opened(START_MS)
    times = asked_until(examination, START_MS + 24 * HOUR_MS, has_tpm=False)
    assert 4 <= len(times) <= 5


def test_nonces_are_fresh_and_those_remembered_are_few() -> None:
    examination = Examination(POLICY, lambda _: 0)
    nonces = []
    for number in range(ASKED_MAX + 4):
        now_ms = START_MS + number * HOUR_MS
        examination.opened(now_ms)
        asked = examination.ask(now_ms + SECOND_MS, 0, has_tpm=True)
        assert asked is not None
        nonces.append(asked.nonce)
    assert len({*nonces}) == len(nonces)
    assert {len(nonce) for nonce in nonces} == {32}
    assert [examination.find(nonce) is not None for nonce in nonces] == [False] * 4 + [
        True
    ] * ASKED_MAX


def test_coming_back_hastens_nothing_where_a_proof_is_young() -> None:
    examination = Examination(POLICY, lambda limit: limit - 1)
    examination.opened(START_MS)
    first = examination.ask(START_MS + SOON_MS + SECOND_MS, 0, has_tpm=True)
    assert first is not None
    # While it is open it is said again, and no other is drawn.
    assert examination.opened(START_MS + SOON_MS + 2 * SECOND_MS) == [first]
    assert examination.ask(START_MS + 20 * 60_000, 0, has_tpm=True) is None
    examination.used(first)
    examination.proven(first)
    for minute in range(1, 59):
        now_ms = START_MS + minute * 60_000
        assert examination.opened(now_ms) == []
        assert examination.ask(now_ms, 0, has_tpm=True) is None


@given(st.integers(0, 2**32))
def test_who_hangs_up_does_not_choose_when_devices_are_asked(seed: int) -> None:
    """A host that has a device for one hour in seven answers when it has it, and comes back then."""
    examination = Examination(POLICY, random.Random(seed).randrange)
    examination.opened(START_MS)
    told: list[int] = []
    for now_ms in range(START_MS, START_MS + 24 * HOUR_MS, 10_000):
        has_it = (now_ms - START_MS) % (7 * HOUR_MS) < HOUR_MS
        if has_it and now_ms % 60_000 == 0:
            examination.opened(now_ms)
        asked = examination.ask(now_ms, 5, has_tpm=True)
        if asked is not None and asked.devices:
            told.append(now_ms)
            if has_it:
                examination.used(asked)
                examination.proven(asked)
    # At first, and then once in each six hours, wherever the hours are that it has it.
    first, *later = told
    assert first <= START_MS + SOON_MS + 2 * 10_000
    until_ms = START_MS + 6 * HOUR_MS
    for number, at_ms in enumerate(later):
        begin_ms = until_ms + number * 6 * HOUR_MS
        assert begin_ms - 10_000 <= at_ms <= begin_ms + 6 * HOUR_MS + 60_000


def test_a_deadline_that_passed_is_told_once_and_what_was_answered_is_not() -> None:
    examination = Examination(POLICY, lambda _: 0)
    examination.opened(START_MS)
    asked = examination.ask(START_MS + SECOND_MS, 0, has_tpm=True)
    assert asked is not None
    assert examination.missed(asked.deadline_ms) == []
    assert examination.missed(asked.deadline_ms + 1) == [asked]
    assert examination.missed(asked.deadline_ms + 2) == []
    examination.opened(asked.deadline_ms + 3)
    again = examination.ask(asked.deadline_ms + 3 + SECOND_MS, 0, has_tpm=True)
    assert again is not None
    examination.used(again)
    assert examination.missed(again.deadline_ms + 1) == []
    examination.unused(again)  # what we could not judge may be answered again
    assert examination.find(again.nonce) == again
    assert examination.missed(again.deadline_ms + 1) == [again]
