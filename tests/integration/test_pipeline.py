"""Sealed windows through a real store into a book: exactly once, and the same after a restart."""

from __future__ import annotations

import msgspec
import pytest
from sqlalchemy import func, select

from assay_core.errors import FileError
from assay_core.header import Source
from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.leaves import (
    Content,
    Counter,
    DriverState,
    Event,
    EventKind,
    Group,
    IncidentKind,
    Reason,
    Severity,
    Tenancy,
)
from assay_core.money import Usd
from assay_valuer.credit.position import State
from assay_valuer.ledger.read import entries_from
from assay_valuer.pipeline import BookRaced, Pipeline
from assay_valuer.policy import ValuerPolicy
from assay_valuer.rows import gpu_rows, loan_rows
from assay_valuer.standing.types import Cause, Presence
from assay_valuer.store.schema import ASSET, LEDGER_ENTRY, PROJECTION
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES
from tests.fakes.host import START_MS, WINDOW_MS, FakeHost

EARLY_PRICES = PRICES.replace("2026-11-01", "2026-09-01")


@pytest.fixture
def books(tmp_path):
    made = FakeBooks(tmp_path)
    made.serve(START_MS - 90 * DAY_MS, START_MS + 90 * DAY_MS)
    made.prices(EARLY_PRICES)
    yield made
    made.check()
    made.close()


@pytest.fixture
def host(books):
    one = FakeHost(gpu_count=4)
    books.enrol(one)
    return one


def serials(host):
    return [gpu.serial for gpu in host.gpus]


def pledged(books, host, **changed):
    changed.setdefault("originated_at", "2026-09-01T00:00:00Z")
    return books.loan(serials(host), **changed)


def edited(host, *, without=(), lost=(), host_values=None, health=None):
    """The host's next contents, changed: GPUs left out or lost, fields overwritten."""
    gone = {host.gpus[index].uuid for index in (*without, *lost)}
    contents = []
    for content in host.contents():
        if content.subject in gone:
            continue
        values = dict(content.values)
        if content.group is Group.HOST:
            values |= {"missing_gpus": tuple(sorted(host.gpus[i].uuid for i in lost))}
            values |= host_values or {}
        if content.group is Group.HEALTH:
            index = next(i for i, gpu in enumerate(host.gpus) if gpu.uuid == content.subject)
            values |= (health or {}).get(index, {})
        contents.append(Content(content.subject, content.group, values))
    return tuple(contents)


def line(book, host, index):
    (found,) = [one for one in book.lines.values() if one.asset.serial == serials(host)[index]]
    return found


def incidents(book):
    return [one for line in book.lines.values() for one in line.asset.track.health.records]


def position(book):
    (one,) = book.positions.values()
    return one


def test_expected_gpus_become_seen_and_are_worth_something(books, host):
    registered = pledged(books, host)
    assert (registered.pledged, registered.expected) == (4, 4)
    before = position(books.tick(START_MS))
    assert (before.counted, before.values, before.ltv_gross_bps) == (0, None, None)
    books.take(host, host.seal())
    book = books.tick(host.now_ms)
    after = position(book)
    assert (after.counted, after.coverage_bps) == (4, 10_000)
    assert after.values is not None
    assert after.values.olv.mid == Usd(4 * 18_700_425_000)
    assert after.observed_ms == host.now_ms
    assert len(book.lines) == 4  # no second asset for a pledged one
    assert {one.standing.presence for one in book.lines.values()} == {Presence.PRESENT}


def test_a_gpu_that_vanishes_leaves_the_count_after_its_grace_and_comes_back(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    books.tick(host.now_ms)
    for _ in range(3):
        books.take(host, host.seal(contents=edited(host, lost=[1])))
        within = books.tick(host.now_ms)
        assert line(within, host, 1).standing.presence is Presence.MISSING
        assert line(within, host, 1).standing.counts
    books.take(host, host.seal(contents=edited(host, lost=[1])))
    after = books.tick(host.now_ms + MINUTE_MS)
    gone = line(after, host, 1)
    assert (gone.standing.presence, gone.standing.counts) == (Presence.MISSING, False)
    assert gone.standing.severity is Severity.DEGRADED
    short = position(after)
    assert (short.state, short.causes, short.coverage_bps) == (State.STALE, (Cause.GPU,), 7_500)
    assert short.values is not None
    assert short.values.olv.mid == Usd(3 * 18_700_425_000)
    assert short.uncounted_olv > Usd(0)
    books.take(host, host.seal())
    back = books.tick(host.now_ms)
    assert position(back).counted == 4
    assert line(back, host, 1).standing.incidents == ()


def test_an_xid_persists_before_it_moves_the_value(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    whole = position(books.tick(host.now_ms))
    event = Event(EventKind.XID, 48, host.now_ms, host.now_ms, 1)
    books.take(host, host.seal(contents=edited(host, health={2: {"events": (event,)}})))
    once = books.tick(host.now_ms)
    assert position(once).values == whole.values
    assert "incident.degraded" in {one.code for one in line(once, host, 2).standing.findings}
    books.take(host, host.seal())
    twice = books.tick(host.now_ms)
    moved = position(twice)
    assert moved.values is not None
    assert whole.values is not None
    assert moved.values.olv.mid < whole.values.olv.mid
    assert line(twice, host, 2).standing.severity is Severity.DEGRADED


def test_a_failed_remap_takes_a_gpu_out_of_the_count(books, host):
    pledged(books, host)
    for _ in range(2):
        books.take(host, host.seal(contents=edited(host, health={0: {"remap_failed": 1}})))
    one = line(books.tick(host.now_ms), host, 0)
    assert (one.standing.severity, one.standing.counts) == (Severity.IMPAIRED, False)
    assert one.standing.presence is Presence.PRESENT


def test_a_silent_host_its_grace_and_our_own_downtime(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    seen_ms = host.now_ms
    assert position(books.tick(seen_ms + 6 * HOUR_MS)).counted == 4
    late = books.tick(seen_ms + 6 * HOUR_MS + 1)
    assert position(late).counted == 0
    assert position(late).state is State.STALE
    assert {one.standing.cause for one in late.lines.values()} == {Cause.HOST}


def test_silence_while_we_were_down_is_ours(tmp_path):
    made = FakeBooks(tmp_path)
    one = FakeHost(gpu_count=1)
    made.enrol(one)
    made.prices(EARLY_PRICES)
    made.serve(START_MS, START_MS + 2 * WINDOW_MS)
    made.loan(serials(one), originated_at="2026-09-01T00:00:00Z")
    made.take(one, one.seal())
    up_again = one.now_ms + 50 * HOUR_MS
    made.serve(up_again, up_again)
    book = made.tick(up_again + 5_000)
    standing = line(book, one, 0).standing
    assert (standing.presence, standing.cause, standing.counts) == (
        Presence.SILENT,
        Cause.OURS,
        True,
    )
    made.close()


def test_paused_hosts_are_in_maintenance(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    until = host.now_ms + 2 * HOUR_MS
    paused = edited(
        host,
        without=range(4),
        host_values={
            "driver_state": int(DriverState.PAUSED),
            "maintenance_until_ms": until,
            "missing_gpus": Reason.IN_MAINTENANCE,
        },
    )
    books.take(host, host.seal(contents=paused))
    book = books.tick(until - 1)
    assert {one.standing.presence for one in book.lines.values()} == {Presence.MAINTENANCE}
    assert position(book).counted == 4


def test_simulated_gpus_are_valued_and_count_only_by_policy(tmp_path):
    for credit in (False, True):
        folder = tmp_path / str(credit)
        folder.mkdir()
        made = FakeBooks(folder, ValuerPolicy(name="demo", credit_simulated=credit))
        made.prices(EARLY_PRICES)
        one = FakeHost(gpu_count=2, source=Source.SIMULATED)
        made.enrol(one)
        made.loan(serials(one), originated_at="2026-09-01T00:00:00Z")
        made.take(one, one.seal())
        held = position(made.tick(one.now_ms))
        assert held.simulated
        assert held.counted == (2 if credit else 0)
        made.close()


def test_a_second_hosts_claim_disputes_and_never_moves_an_asset(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    thief = FakeHost(seed=9, gpu_count=4, host_id="spiffe://assay.test/site/lab/host/9")
    thief.gpus[0].serial = host.gpus[0].serial
    books.enrol(thief)
    for _ in range(3):  # both go on showing it
        books.take(thief, thief.seal())
        books.take(host, host.seal())
    book = books.tick(host.now_ms)
    one = line(book, host, 0)
    assert one.standing.disputed
    assert one.standing.counts
    assert [claim.host_id for claim in one.asset.trust.claims] == [thief.host_id]
    assert book.hosts[one.asset.host_key].host_id == host.host_id
    assert position(book).state is State.DISPUTED
    # What the thief says of it later, without an identity leaf, binds nobody either.
    lost = Event(EventKind.GPU_LOST, 0, thief.now_ms, thief.now_ms, 1)
    books.take(thief, thief.seal(contents=edited(thief, health={0: {"events": (lost,)}})))
    assert line(books.tick(host.now_ms), host, 0).standing.presence is Presence.PRESENT


def test_a_revoked_host_counts_for_nothing(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    books.tick(host.now_ms)
    books.revoke(host)
    book = books.tick(host.now_ms)
    assert position(book).counted == 0
    assert {one.standing.presence for one in book.lines.values()} == {Presence.UNKNOWN}


def test_a_gpu_without_a_serial_is_known_on_its_own_host_and_gets_its_serial_later(books, host):
    uuid = host.gpus[0].uuid

    def masked():
        contents = []
        for content in host.contents(identity=True):
            values = dict(content.values)
            if content.group is Group.IDENTITY and content.subject == uuid:
                values["serial"] = Reason.NOT_SUPPORTED
            contents.append(Content(content.subject, content.group, values))
        return tuple(contents)

    books.take(host, host.seal(contents=masked()))
    first = books.tick(host.now_ms)
    (bare,) = [one.asset for one in first.lines.values() if one.asset.uuid == uuid]
    assert bare.serial is None
    books.take(host, host.seal(contents=host.contents(identity=True)))
    second = books.tick(host.now_ms)
    assert len(second.lines) == 4
    assert second.lines[bare.id].asset.serial == host.gpus[0].serial


def test_a_gpu_that_a_tenant_has_whole_is_there_and_in_time_not_counted(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    seen_ms = host.now_ms
    away = {0: {"polls": Reason.PASSED_THROUGH, "tenancy": int(Tenancy.PASSED_THROUGH)}}
    for _ in range(5):
        books.take(host, host.seal(contents=edited(host, health=away)))
    one = line(books.tick(host.now_ms), host, 0).standing
    assert (one.presence, one.counts, one.severity) == (Presence.PASSED_THROUGH, True, None)
    host.now_ms = seen_ms + 24 * HOUR_MS
    books.take(host, host.seal(contents=edited(host, health=away)))
    late = books.tick(host.now_ms)
    assert not line(late, host, 0).standing.counts
    assert (position(late).state, position(late).causes) == (State.STALE, (Cause.TENANT,))


# ---------------------------------------------------------------------------- findings


def lying(host, index, **values):
    uuid = host.gpus[index].uuid
    return tuple(
        Content(one.subject, one.group, {**one.values, **values})
        if (one.subject, one.group) == (uuid, Group.USE)
        else one
        for one in host.contents()
    )


def test_what_does_not_hang_together_is_kept_shown_and_moves_no_value(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    honest = position(books.tick(host.now_ms))
    for _ in range(3):
        contents = lying(host, 1, energy_mj=Counter(0, 10**13))
        books.take(host, host.seal(contents=contents))
    book = books.tick(host.now_ms)
    told = line(book, host, 1).standing
    assert [note.code for note in told.notes] == ["plausibility.energy_and_power"]
    assert position(book).values == honest.values
    assert position(book).lendable == honest.lendable
    assert line(books.restarted().tick(host.now_ms), host, 1).standing.notes == told.notes
    rows = books.database.read(gpu_rows)
    (row,) = [one for one in rows if one.serial == serials(host)[1]]
    assert [(note.code, note.count) for note in row.findings] == [
        ("plausibility.energy_and_power", 3)
    ]
    assert row.result is not None
    assert "plausibility.energy_and_power" in {one.code for one in row.result.findings}
    assert not any(one.findings for one in rows if one is not row)


def test_hidden_gpus_are_findings_on_every_gpu_of_their_host(books, host):
    books.take(host, host.seal())
    hidden = edited(host, host_values={"hidden_gpus": ("0000:99:00.0",)})
    books.take(host, host.seal(contents=hidden))
    book = books.tick(host.now_ms)
    codes = {note.code for one in book.lines.values() for note in one.standing.notes}
    assert codes == {"plausibility.bus"}
    assert all(one.standing.notes for one in book.lines.values())
    assert {one.standing.severity for one in book.lines.values()} == {None}


def test_after_windows_that_never_came_counters_are_reconciled(books, host):
    books.take(host, host.seal())
    books.tick(host.now_ms)
    host.gap(12)
    host.sequence, host.previous = 1, books.pipeline.book.hashes[1]
    books.take(host, host.seal())
    book = books.tick(host.now_ms)
    for one in book.lines.values():
        (note,) = one.standing.notes
        assert note.code == "reconciliation.used"
        assert "hours of full load" in note.detail


# ---------------------------------------------------------------------------- exactly once


def test_a_restart_at_any_window_gives_the_same_book(books, host):
    pledged(books, host)
    straight = []
    event = Event(EventKind.XID, 31, START_MS, START_MS, 2)
    for number in range(6):
        health = {1: {"events": (event,)}} if number in (1, 3) else {3: {"remap_pending": 1}}
        lost = [2] if number == 4 else []
        books.take(host, host.seal(contents=edited(host, lost=lost, health=health)))
        if number % 2:
            books.restarted()
        straight.append(books.tick(host.now_ms))
    again = books.restarted().tick(host.now_ms)
    assert again.lines == straight[-1].lines
    assert again.positions == straight[-1].positions
    assert [one.count for one in incidents(again) if one.kind is IncidentKind.XID] == [4]


def test_a_rebuild_from_position_0_gives_what_following_gave(books, host, tmp_path):
    pledged(books, host)
    for number in range(5):
        books.take(host, host.seal(contents=edited(host, lost=[3] if number == 2 else [])))
        books.tick(host.now_ms)
    followed = books.pipeline.book

    def forget(connection):
        connection.execute(PROJECTION.delete())
        unseen = dict.fromkeys(
            (
                *("uuid", "name", "host_key", "first_seen_ms", "seen_ms", "position"),
                *("condition", "health", "notes"),
            ),
            None,
        )
        connection.execute(ASSET.update().values(**unseen, missing_since_ms=None))

    books.database.write(forget)
    rebuilt = books.restarted().tick(host.now_ms)
    assert followed is not None
    assert rebuilt.lines == followed.lines


def test_nothing_new_writes_nothing_to_the_ledger(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    books.tick(host.now_ms)
    entries = books.check()
    for second in range(1, 20):
        books.tick(host.now_ms + second * 1_000)
    assert books.check() == entries


def test_results_are_signed_records_and_what_the_commands_read(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    books.tick(host.now_ms)
    kinds = books.database.read(
        lambda c: dict(
            c.execute(select(LEDGER_ENTRY.c.kind, func.count()).group_by(LEDGER_ENTRY.c.kind)).all()
        )
    )
    assert kinds == {
        "prices": 1,
        "loan": 1,
        "policy": 1,
        "window": 1,
        "case": 1,
        "valuation": 1,
        "position": 1,
    }
    (record,) = books.database.read(lambda c: entries_from(c, 0, kind="position"))
    told = msgspec.json.decode(record.body.envelope.payload)
    assert told["results"]["loan-1"]["coverage_bps"] == 10_000
    gpus, loans = books.database.read(lambda c: (gpu_rows(c), loan_rows(c)))
    assert [gpu.result.counts for gpu in gpus if gpu.result] == [True] * 4
    assert [loan.position.counted for loan in loans if loan.position] == [4]
    assert msgspec.json.encode({"gpus": gpus, "loans": loans})


def test_a_second_valuer_on_the_store_is_noticed_and_nothing_is_taken_twice(books, host):
    pledged(books, host)
    event = Event(EventKind.XID, 31, START_MS, START_MS, 1)
    books.take(host, host.seal(contents=edited(host, health={1: {"events": (event,)}})))
    first = books.pipeline
    second = Pipeline(books.database, books.key, books.policy)
    first.tick(host.now_ms)
    second.tick(host.now_ms)
    books.take(host, host.seal(contents=edited(host, health={1: {"events": (event,)}})))
    second.tick(host.now_ms)
    with pytest.raises(BookRaced):
        first.tick(host.now_ms)
    book = first.tick(host.now_ms)
    assert [one.count for one in incidents(book)] == [2]


def test_a_policy_is_recorded_when_it_changes_and_not_at_each_start(books, host):
    def recorded():
        found = books.database.read(lambda c: entries_from(c, 0, kind="policy"))
        return [msgspec.json.decode(one.body.envelope.payload)["policy"]["name"] for one in found]

    books.tick(START_MS)
    books.restarted().tick(START_MS)
    assert recorded() == ["default"]
    books.policy = ValuerPolicy(name="stricter")
    books.restarted().tick(START_MS)
    assert recorded() == ["default", "stricter"]


def test_a_large_fleets_results_are_several_records(books):
    many = FakeHost(gpu_count=60)
    books.enrol(many)
    hosts = [many, *(FakeHost(seed=n, gpu_count=60, host_id=f"h{n}") for n in range(10, 19))]
    for one in hosts[1:]:
        books.enrol(one)
    for one in hosts:
        books.take(one, one.seal())
    assert len(books.tick(many.now_ms).lines) == 600
    records = books.database.read(lambda c: entries_from(c, 0, kind="valuation"))
    sizes = [len(msgspec.json.decode(one.body.envelope.payload)["results"]) for one in records]
    assert sizes == [500, 100]


# ---------------------------------------------------------------------------- registering


def test_a_gpu_secures_one_loan_at_a_time(books, host):
    pledged(books, host)
    with pytest.raises(FileError, match=r"pledge\.0\.serial: .* pledged to loan loan-1 already"):
        pledged(books, host, loan_id="loan-2", token_id=8)
    with pytest.raises(FileError, match="collateral_token_ids: loan loan-1 has this token"):
        books.loan(["Z1"], loan_id="loan-2")
    with pytest.raises(FileError, match="another collateral token"):
        books.loan(["Z1"], token_id=9)
    assert len(books.tick(START_MS).loans) == 1


def test_newer_terms_replace_a_loans_and_prices_take_effect_at_the_next_tick(books, host):
    pledged(books, host)
    books.take(host, host.seal())
    before = position(books.tick(host.now_ms))
    paid = '[{at: "2026-09-10T00:00:00Z", amount: 50000000000}]'
    pledged(books, host, payments=paid, now_ms=START_MS + 1)
    after = position(books.tick(host.now_ms))
    assert after.debt < before.debt
    books.prices(EARLY_PRICES.replace("22000.50", "23000"), now_ms=START_MS + 2)
    dearer = position(books.tick(host.now_ms))
    assert dearer.values is not None
    assert after.values is not None
    assert dearer.values.olv.mid > after.values.olv.mid
