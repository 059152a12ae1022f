"""What a window says of each GPU; and the short way of reading leaves agrees with the strict one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_core import codec
from assay_core.header import Source
from assay_core.health import START, follow
from assay_core.health.observation import WELL
from assay_core.health.plausibility import examine
from assay_core.instants import DAY_MS
from assay_core.leaves import (
    Content,
    Counter,
    Event,
    EventKind,
    Group,
    Incident,
    IncidentKind,
    Reason,
    Severity,
    Tenancy,
)
from assay_valuer.ledger.read import StoredWindow
from assay_valuer.sights import sights
from tests.fakes.host import START_MS, WINDOW_MS, FakeHost

U = b"\x09" * 16


def stored(host, sealed):
    return StoredWindow(
        position=5,
        host_key=3,
        header=codec.decode_header(sealed.envelope.payload),
        hash=sealed.hash,
        sealed=sealed,
        received_ms=host.now_ms,
        observed_ms=host.now_ms,
        clock_behind=False,
    )


def changed(host, group, subject=None, **values):
    return tuple(
        Content(one.subject, one.group, {**one.values, **values})
        if one.group is group and subject in (None, one.subject)
        else one
        for one in host.contents()
    )


def test_picking_gives_what_decoding_gives():
    host = FakeHost(gpu_count=3)
    event = Event(EventKind.XID, 48, 1, 2, 3)
    sealed = host.seal(
        contents=changed(
            host, Group.HEALTH, host.gpus[1].uuid, events=(event,), recovery_action=Reason.ASLEEP
        )
    )
    wanted = {group: tuple(codec.fields_of(group)) for group in Group}
    strict = [codec.decode_leaf(leaf).content for leaf in sealed.leaves]
    assert codec.pick(sealed.leaves, wanted) == strict
    names = ("events", "polls")
    some = codec.pick(sealed.leaves, {Group.HEALTH: names})
    assert [dict(one.values) for one in some] == [
        {name: one.values[name] for name in names} for one in strict if one.group is Group.HEALTH
    ]
    with pytest.raises(codec.Malformed):
        codec.pick([b"\xff" * 9], wanted)


def test_a_window_says_who_was_seen_and_what_was_read():
    host = FakeHost(gpu_count=2, source=Source.SIMULATED)
    window = sights(stored(host, host.seal()))
    assert window.simulated
    assert set(window.gpus) == {gpu.uuid for gpu in host.gpus}
    identity, sight = window.gpus[host.gpus[0].uuid]
    assert identity is not None
    assert identity.serial == host.gpus[0].serial
    assert (sight.seen, sight.lost, sight.told) == (True, False, ())
    assert sight.health.levels[IncidentKind.REMAP_FAILED] == WELL
    assert sight.leaves.condition is not None
    later = sights(stored(host, host.seal()))
    identity, sight = later.gpus[host.gpus[0].uuid]
    assert identity is None  # identity travels when it changes, and so does condition
    assert sight.leaves.condition is None


def test_a_field_without_a_value_is_none_and_never_zero():
    host = FakeHost(gpu_count=1)
    contents = changed(
        host,
        Group.HEALTH,
        remap_failed=Reason.NO_PERMISSION,
        remapped_rows_uncorrected=Reason.NOT_SUPPORTED,
        polls=Reason.GPU_LOST,
    )
    _, sight = sights(stored(host, host.seal(contents=contents))).gpus[host.gpus[0].uuid]
    assert not sight.seen
    absent = {IncidentKind.REMAP_FAILED, IncidentKind.ROWS_EXHAUSTED}
    assert not absent & sight.health.levels.keys()


def test_a_loss_that_was_followed_by_a_return_is_none():
    host = FakeHost(gpu_count=1)
    lost = Event(EventKind.GPU_LOST, 0, 10, 10, 1)
    back = Event(EventKind.GPU_RETURNED, 0, 20, 20, 1)
    uuid = host.gpus[0].uuid
    for events, gone in (((lost,), True), ((lost, back), False), ((back,), False)):
        contents = changed(host, Group.HEALTH, events=events)
        window = sights(stored(host, host.seal(contents=contents)))
        assert window.gpus[uuid][1].lost is gone


def test_an_honest_window_has_no_findings_and_a_lie_in_it_has_one():
    host = FakeHost(gpu_count=2)
    told = sights(stored(host, host.seal())).told
    assert told is not None
    assert examine(told.contents, told.boot, told.period, {}) == ()
    uuid = host.gpus[1].uuid
    contents = changed(host, Group.USE, uuid, energy_mj=Counter(0, 1))
    told = sights(stored(host, host.seal(contents=contents))).told
    assert told is not None
    (found,) = examine(told.contents, told.boot, told.period, {})
    assert (found.subject, found.code) == (uuid, "plausibility.energy_and_power")


def test_whether_the_platform_was_told_is_told_of_every_gpu():
    host = FakeHost(gpu_count=2)
    for whole in (True, False):
        contents = [one for one in host.contents() if whole or one.group is not Group.PLATFORM]
        window = sights(stored(host, host.seal(contents=contents)))
        has = any(one.group is Group.PLATFORM for one in contents)
        assert {sight.platform for _, sight in window.gpus.values()} == {has}


def test_what_a_clock_that_is_behind_dates_is_dated_by_ours():
    """Else an Xid of just now, told by a host two days behind, were over as soon as it came."""
    host, behind_ms = FakeHost(gpu_count=1), 2 * DAY_MS
    begin_ms, end_ms = START_MS, START_MS + WINDOW_MS
    happened = Event(EventKind.XID, 48, begin_ms + 1, begin_ms + 2, 2)
    incident = Incident(IncidentKind.XID, 48, Severity.DEGRADED, begin_ms, begin_ms + 2, end_ms, 3)
    contents = changed(host, Group.HEALTH, events=(happened,), incidents=(incident,))
    window = stored(host, host.seal(contents=contents))
    assert window.header.period.end_utc_ms == end_ms
    window = replace(window, observed_ms=end_ms + behind_ms, clock_behind=True)
    _, sight = sights(window).gpus[host.gpus[0].uuid]
    (seen,) = sight.health.events
    assert (seen.first_ms, seen.last_ms) == (begin_ms + 1 + behind_ms, begin_ms + 2 + behind_ms)
    (told,) = sight.told
    assert (told.begin_ms, told.end_ms) == (begin_ms + behind_ms, end_ms + behind_ms)
    assert [one.code for one in follow(START, sight.health).open] == [48]


def test_what_its_host_concluded_and_who_has_the_gpu_are_told():
    host = FakeHost(gpu_count=1)
    incident = Incident(IncidentKind.XID, 48, Severity.USER_ERROR, 1, 2, None, 3)
    contents = changed(
        host,
        Group.HEALTH,
        polls=Reason.PASSED_THROUGH,
        tenancy=int(Tenancy.PASSED_THROUGH),
        incidents=(incident,),
    )
    _, sight = sights(stored(host, host.seal(contents=contents))).gpus[host.gpus[0].uuid]
    assert sight.told == (incident,)
    assert (sight.seen, sight.lost, sight.health.passed) == (False, False, True)


def test_a_gpu_that_has_no_leaf_is_unseen_and_lost_where_the_host_misses_it():
    host = FakeHost(gpu_count=1)
    window = sights(stored(host, host.seal(contents=changed(host, Group.HOST, missing_gpus=(U,)))))
    lost, unseen = window.of_unnamed(U), window.of_unnamed(b"\x08" * 16)
    assert lost is not None
    assert unseen is not None
    assert (lost.seen, lost.lost) == (False, True)
    assert (unseen.seen, unseen.lost) == (False, False)


@pytest.mark.parametrize("told", ["S\x1b[2J", "S\n2", "S\u202e1", "S\x00", "x" * 65, " ", ""])
def test_what_no_board_carries_is_no_identifier(told):
    host = FakeHost(gpu_count=1)
    contents = changed(host, Group.IDENTITY, serial=told, board_part_number=told, name=told * 3)
    identity, _ = sights(stored(host, host.seal(contents=contents))).gpus[host.gpus[0].uuid]
    assert identity is not None
    assert (identity.serial, identity.board_part_number, identity.name) == (None, None, None)
