"""Windows that a host signed and that mean harm: they may cost the host, and nobody else."""

from __future__ import annotations

import contextlib

import msgspec
import pytest

from assay_core import codec
from assay_core.errors import Refused
from assay_core.header import CloseReason, Period, Source
from assay_core.leaves import Content, Counter, DriverState, Event, EventKind, Gauge, Group
from assay_core.seal import Link, seal_window
from assay_valuer.ledger.read import entries_from
from assay_valuer.rows import gpu_rows
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES
from tests.fakes.host import START_MS, FakeHost

LEAST, MOST = -(2**63), 2**63 - 1
MOST_U32, MOST_U64 = 2**32 - 1, 2**64 - 1


@pytest.fixture
def books(tmp_path):
    made = FakeBooks(tmp_path)
    made.serve(START_MS - 90 * DAY_MS, START_MS + 90 * DAY_MS)
    made.prices(PRICES.replace("2026-11-01", "2026-09-01"))
    yield made
    made.close()


@pytest.fixture
def victim(books):
    """An honest host whose GPUs are pledged, and were seen."""
    one = FakeHost(gpu_count=2)
    books.enrol(one)
    books.loan([gpu.serial for gpu in one.gpus], originated_at="2026-09-01T00:00:00Z")
    books.take(one, one.seal())
    return one


@pytest.fixture
def hostile(books):
    one = FakeHost(seed=8, gpu_count=2, host_id="spiffe://assay.test/site/lab/host/1")
    books.enrol(one)
    return one


def changed(host, group, **values):
    """The host's next contents with these values in every leaf of the group."""
    return tuple(
        Content(one.subject, one.group, {**one.values, **values}) if one.group is group else one
        for one in host.contents()
    )


def counted(book):
    (one,) = book.positions.values()
    return one.counted


def event(first_ms, last_ms, kind=EventKind.XID, code=79):
    return Event(kind, code, first_ms, last_ms, 1)


def times(least, most):
    return [
        (Group.HOST, {"driver_state": int(DriverState.PAUSED), "maintenance_until_ms": most}),
        (Group.HOST, {"driver_state": int(DriverState.PAUSED), "maintenance_until_ms": least}),
        (Group.HOST, {"events": (event(least, most),)}),
        (Group.HEALTH, {"events": (event(least, most),)}),
        (Group.HEALTH, {"events": (event(most, most, EventKind.GPU_LOST, 0),)}),
        (Group.HEALTH, {"events": (event(least, least, EventKind.GPU_LOST, 0),)}),
    ]


@pytest.mark.parametrize(("group", "values"), times(0, codec.TIME_MS_MAX))
def test_times_as_far_as_any_clock_stop_nobody_elses_valuation(
    books, victim, hostile, group, values
):
    books.take(hostile, hostile.seal())
    books.tick(victim.now_ms)
    for _ in range(2):
        books.take(hostile, hostile.seal(contents=changed(hostile, group, **values)))
        assert counted(books.tick(victim.now_ms)) == 2
    assert len(books.database.read(gpu_rows)) == 4  # and it is read back


@pytest.mark.parametrize(("group", "values"), times(-1, codec.TIME_MS_MAX + 1) + times(LEAST, MOST))
def test_times_that_no_clock_shows_stay_outside_the_door(books, victim, hostile, group, values):
    books.take(hostile, hostile.seal())
    with pytest.raises(Refused, match="no clock shows"):
        books.take(hostile, hostile.seal(contents=changed(hostile, group, **values)))
    assert counted(books.tick(victim.now_ms)) == 2


@pytest.mark.parametrize(
    "values",
    [
        {"temperature_mc": Gauge(MOST_U64, MOST_U64, MOST_U64)},
        {"temperature_mc": Gauge(MOST_U64, 2 * MOST_U64, 3 * MOST_U64)},
        {"ecc_uncorrected_aggregate": Counter(MOST_U64, MOST_U64)},
        {"remapped_rows_uncorrected": Counter(MOST_U64, MOST_U64)},
        {"recovery_action": MOST_U32, "polls": MOST_U32, "remap_failed": MOST_U32},
        {"events": tuple(Event(EventKind.XID, MOST_U32 - n, 1, 2, MOST_U32) for n in range(256))},
    ],
    ids=str,
)
def test_numbers_as_large_as_they_come_stop_nobody_elses_valuation(books, victim, hostile, values):
    books.take(hostile, hostile.seal())
    books.tick(victim.now_ms)
    for _ in range(3):
        with contextlib.suppress(Refused, codec.Malformed, ValueError):  # at the door is as good
            books.take(hostile, hostile.seal(contents=changed(hostile, Group.HEALTH, **values)))
        assert counted(books.tick(victim.now_ms)) == 2
    assert len(books.database.read(gpu_rows)) == 4
    books.restarted()
    assert counted(books.tick(victim.now_ms)) == 2


def test_a_window_that_ends_before_1970_stops_nobody_elses_valuation(books, victim, hostile):
    books.take(hostile, hostile.seal())
    books.tick(victim.now_ms)
    sealed = seal_window(
        changed(hostile, Group.HEALTH, polls=0),
        link=Link(hostile.host_id, 0, hostile.boot_id, 1, hostile.previous, b""),
        period=Period(0, LEAST, 0, 0),
        source=Source.NVML,
        close_reason=CloseReason.PERIOD,
        agent_version="0.1.0",
        secret=bytes(32),
        signer=hostile.signer,
    )
    with contextlib.suppress(Refused):  # at the door is as good
        books.take(hostile, sealed)
    assert counted(books.tick(victim.now_ms)) == 2


def test_a_serial_that_another_gpu_has_too_replaces_no_result_in_the_ledger(books, victim, hostile):
    theirs = {gpu.uuid: of.serial for gpu, of in zip(hostile.gpus, victim.gpus, strict=True)}
    contents = tuple(
        Content(
            one.subject,
            one.group,
            {**one.values, "serial": theirs[one.subject], "board_part_number": "another"},
        )
        if one.group is Group.IDENTITY
        else one
        for one in hostile.contents()
    )
    books.take(hostile, hostile.seal(contents=contents))
    book = books.tick(victim.now_ms)
    assert (counted(book), len(book.lines)) == (2, 4)
    (record,) = books.database.read(lambda c: entries_from(c, 0, kind="valuation"))
    results = msgspec.json.decode(record.body.envelope.payload)["results"]
    assert sorted(one["gpu"] for one in results.values()) == sorted([*theirs.values()] * 2)
