"""The spool: bounded, in order, and never a second history."""

from __future__ import annotations

from dataclasses import replace

import pytest

from assay_agent import spool_file
from assay_agent.known import Energy
from assay_agent.spool import Chain, Forked, Spool, SpoolDamaged, known
from assay_agent.window import Aggregator
from assay_core import codec, health
from assay_core.errors import HostError
from assay_core.header import CloseReason, Head, Source, header_hash
from assay_core.leaves import ON_CHANGE, EventKind, IncidentKind
from tests.fakes import spools
from tests.fakes.readings import BOOT_MS, START_MS, happening, poll, reading, uuid
from tests.fakes.spools import append, create, draft, drain, gaps, open_spool, windows


@pytest.fixture
def path(tmp_path):
    return create(tmp_path / "spool.db")


@pytest.fixture
def spool(path):
    found = open_spool(path)
    yield found
    found.close()


def head_of(sealed) -> Head:
    header = codec.decode_header(sealed.envelope.payload)
    return Head(header.sequence, header_hash(sealed.envelope.payload))


def test_what_was_sealed_is_there_byte_for_byte_after_a_restart(path):
    first = open_spool(path)
    sealed = append(first, 3)
    first.close()
    again = open_spool(path)
    assert [out.item for out in drain(again, None)] == sealed
    sealed += append(again)
    assert [out.item for out in drain(again, None)] == sealed
    again.close()


def test_it_goes_on_after_the_valuers_head(spool):
    sealed = append(spool, 5)
    assert windows(drain(spool, head_of(sealed[2]))) == [3, 4]
    assert spool.unacknowledged == 2
    assert drain(spool, head_of(sealed[4])) == []
    assert spool.unacknowledged == 0


def test_a_valuer_restored_from_a_backup_gets_again_what_it_acknowledged(spool):
    sealed = append(spool, 5)
    spool.acknowledge([(n, n + 100) for n in range(5)], START_MS)
    assert spool.unacknowledged == 0
    assert windows(drain(spool, head_of(sealed[1]))) == [2, 3, 4]
    assert windows(drain(spool, None)) == [0, 1, 2, 3, 4]


def test_another_history_at_the_valuer_is_a_fork(spool):
    append(spool, 3)
    with pytest.raises(Forked, match="two agents hold the same key"):
        spool.resume(Head(1, bytes(32)), START_MS)
    with pytest.raises(Forked, match="two agents hold the same key"):
        spool.resume(Head(2, bytes(32)), START_MS)
    with pytest.raises(Forked, match="restored from an older"):
        spool.resume(Head(3, bytes(32)), START_MS)


def test_the_answered_challenge_and_the_source_stand_in_the_header(spool):
    nonce = bytes(range(32))
    sealed = spool.append(
        draft(), source=Source.SIMULATED, answered_challenge=nonce, now_ms=START_MS
    )
    header = codec.decode_header(sealed.envelope.payload)
    assert (header.answered_challenge, header.source) == (nonce, Source.SIMULATED)


def test_acknowledged_windows_go_first_when_the_bound_is_reached(path):
    spool = open_spool(path, bytes_max=300_000)
    append(spool, 20)
    spool.acknowledge([(n, n) for n in range(20)], START_MS)
    head = append(spool, 1)[0]
    before = spool.dropped_windows
    while spool.used_bytes < 295_000:
        append(spool)
    append(spool, 5)
    assert spool.dropped_windows == before == 0
    assert spool.used_bytes <= 300_000
    sent = drain(spool, head_of(head))
    assert gaps(sent) == []
    spool.close()


def test_a_full_spool_drops_its_oldest_and_declares_the_gap(path):
    spool = open_spool(path, bytes_max=70_000)
    sealed = append(spool, 100)
    assert spool.used_bytes <= 70_000
    assert spool.dropped_windows > 0
    sent = drain(spool, None)
    assert gaps(sent) == [(0, spool.dropped_windows - 1)]
    assert windows(sent) == list(range(spool.dropped_windows, 100))
    assert [out.item for out in sent[1:]] == sealed[spool.dropped_windows :]
    spool.close()


def test_after_a_gap_nothing_counts_as_told(path):
    spool = open_spool(path, bytes_max=70_000)
    append(spool, 60)
    assert spool.gaps == 0
    assert any(one.told for one in spool.known())
    drain(spool, None)
    assert spool.gaps == 1
    assert not any(one.told for one in spool.known())
    spool.close()


def test_a_gap_once_sealed_is_never_changed_and_later_drops_make_another(path):
    spool = open_spool(path, bytes_max=70_000)
    append(spool, 60)
    first = drain(spool, None)[0]
    spool.close()
    again = open_spool(path, bytes_max=70_000)
    append(again, 20)
    sent = drain(again, None)
    assert sent[0] == first
    assert gaps(sent)[1][0] == first.head.sequence + 1
    again.close()


def test_a_gap_begins_after_what_the_valuer_already_has(path):
    spool = open_spool(path, bytes_max=70_000)
    sealed = append(spool, 60)
    dropped = spool.dropped_windows
    assert dropped > 5
    sent = drain(spool, head_of(sealed[4]))  # its acknowledgement was lost, its window was not
    assert gaps(sent) == [(5, dropped - 1)]
    spool.close()


def test_a_fork_hidden_among_dropped_windows_is_still_seen(path):
    spool = open_spool(path, bytes_max=70_000)
    append(spool, 60)
    assert spool.dropped_windows > 5
    with pytest.raises(Forked):
        spool.resume(Head(4, bytes(32)), START_MS)
    spool.close()


def test_the_newest_window_stays_however_small_the_bound(path):
    spool = open_spool(path, bytes_max=1)
    append(spool, 5)
    sent = drain(spool, None)
    assert gaps(sent) == [(0, 3)]
    assert windows(sent) == [4]
    spool.close()


def test_acknowledged_windows_are_kept_for_14_days_and_the_head_for_ever(spool):
    append(spool, 3)
    spool.acknowledge([(n, n) for n in range(3)], START_MS)
    append(spool, 1, now_ms=START_MS + spools.KEEP_MS)
    assert windows(drain(spool, None)) == [0, 1, 2, 3]
    spool.acknowledge([(n, n) for n in range(4)], START_MS)
    append(spool, 1, now_ms=START_MS + spools.KEEP_MS + 1)
    sent = drain(spool, None)
    assert gaps(sent) == [(0, 3)]
    assert windows(sent) == [4]


def test_what_is_known_outlives_a_restart_and_what_was_told_a_boot_does_not(path):
    spool = open_spool(path)
    append(spool, 1, gpus=2)
    spool.close()
    again = open_spool(path)
    known_again = {one.subject: one for one in again.known()}
    assert set(known_again) == {b"", uuid(1), uuid(2)}
    told = {(c.subject, c.group): c.values for c in draft().contents if c.group in ON_CHANGE}
    assert {
        (subject, group): each.values
        for subject, one in known_again.items()
        for group, each in one.told.items()
    } == told
    assert {each.at_boottime_ms for each in known_again[b""].told.values()} == {BOOT_MS + 1_000}
    assert known(path, spools.BOOT_ID) == again.known()
    again.close()
    rebooted = open_spool(path, boot_id=bytes(16))
    assert not any(one.told for one in rebooted.known())
    energies = [one.energy for one in rebooted.known() if one.subject]
    assert energies == [Energy(7, 0, same_boot=False)] * 2
    assert known_again[uuid(1)].energy == Energy(7, 0)
    rebooted.close()


def test_a_gpu_that_is_forgotten_leaves_nothing_behind(spool):
    append(spool, 1, gpus=2)
    last = replace(draft(1_000, gpus=1), forgotten=(uuid(2),))
    spool.append(last, source=Source.NVML, answered_challenge=b"", now_ms=START_MS)
    assert {one.subject for one in spool.known()} == {b"", uuid(1)}
    assert spool._db.execute("SELECT count(*) FROM told").fetchone() == (3,)


def test_incidents_and_energy_are_remembered_as_of_the_last_sealed_window(path):
    spool = open_spool(path)
    found = Aggregator((), begin_utc_ms=START_MS, begin_boottime_ms=BOOT_MS)
    fell = (happening(1, EventKind.XID, 79),)
    found.add(poll(reading(1, energy_mj=2**62), events=fell))
    found.add(poll(reading(1, energy_mj=2**63 - 1)))
    last = found.draft(
        at_utc_ms=START_MS + 1, at_boottime_ms=BOOT_MS + 1, close_reason=CloseReason.EVENT
    )
    spool.append(last, source=Source.NVML, answered_challenge=b"", now_ms=START_MS)
    spool.close()
    again = open_spool(path)
    one = next(one for one in again.known() if one.subject)
    assert one == next(one for one in last.known if one.subject)
    assert one.energy == Energy(2**63 - 1, 2**62 - 1)
    assert [(each.kind, each.code) for each in health.told(one.health)] == [(IncidentKind.XID, 79)]
    again.close()


def test_a_pause_is_remembered(path):
    spool = open_spool(path)
    assert spool.paused_until_ms() is None
    spool.set_paused_until(START_MS)
    spool.close()
    again = open_spool(path)
    assert again.paused_until_ms() == START_MS
    again.set_paused_until(None)
    assert again.paused_until_ms() is None
    again.close()


def test_a_spool_is_never_made_by_opening_one(tmp_path):
    with pytest.raises(HostError, match="enrol this host"):
        open_spool(tmp_path / "spool.db")
    assert list(tmp_path.iterdir()) == []


def test_a_spool_of_another_incarnation_is_not_gone_on_with(path):
    with pytest.raises(HostError, match="incarnation 1"):
        open_spool(path, chain=Chain(spools.HOST_ID, 1))


@pytest.mark.parametrize("damage", ["garbage", "truncated", "page"])
def test_a_damaged_file_is_moved_aside_and_no_second_history_begins(path, damage):
    spool = open_spool(path)
    append(spool, 40)
    spool.close()
    data = bytearray(path.read_bytes())
    if damage == "garbage":
        data[:] = b"no database at all" * 100
    elif damage == "truncated":
        del data[len(data) // 2 :]
    else:
        data[4096 * 3 : 4096 * 3 + 200] = b"\xff" * 200
    path.write_bytes(data)
    with pytest.raises(SpoolDamaged, match="Enrol this host with a new token"):
        open_spool(path)
    assert not path.exists()
    aside = [each for each in path.parent.iterdir() if "damaged" in each.name]
    assert [each.read_bytes() for each in aside] == [bytes(data)]
    with pytest.raises(HostError, match="there is no spool"):
        open_spool(path)


def test_one_process_a_state_directory(tmp_path):
    second = spool_file.locked(tmp_path)
    with spool_file.locked(tmp_path), pytest.raises(HostError, match="another assay-agent"):
        second.__enter__()
    with spool_file.locked(tmp_path):
        pass


def test_the_file_is_for_its_user_alone(path):
    spool = open_spool(path)
    append(spool)
    beside = [each for each in path.parent.iterdir() if each.name.startswith("spool.db")]
    assert len(beside) == 3
    assert {each.stat().st_mode & 0o777 for each in beside} == {0o600}
    spool.close()


def test_a_spool_of_a_newer_version_is_left_alone(path):
    spool = open_spool(path)
    spool._db.execute("PRAGMA user_version = 9")
    spool.close()
    with pytest.raises(HostError, match="newer"):
        Spool(
            path,
            chain=Chain(spools.HOST_ID, 0),
            signer=spools.SIGNER,
            boot_id=spools.BOOT_ID,
            bytes_max=1,
            acknowledged_keep_ms=1,
            now_ms=START_MS,
        )
    assert path.exists()
