"""The spool against kill -9, a torn tail and a full disk."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from assay_agent.spool import Forked, Outgoing, Spool, SpoolFull
from assay_core import codec
from assay_core.header import GapCause, Head
from assay_core.seal import Envelope
from tests.fakes.readings import START_MS
from tests.fakes.spools import append, create, drain, gaps, open_spool, windows

KILLS = int(os.environ.get("ASSAY_KILLS", "50"))
_LINE = struct.Struct(">Q32s")


def in_a_child(work: Callable[[int], None]) -> tuple[int, int]:
    """Runs `work` in a process of its own; returns its id and the end of a pipe from it."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(out)
        try:
            work(into)
        finally:
            os._exit(3)
    os.close(into)
    return child, out


def read_told(out: int, count: int) -> list[Head]:
    told = []
    while len(told) < count:
        line = os.read(out, _LINE.size)
        if len(line) < _LINE.size:
            break
        told.append(Head(*_LINE.unpack(line)))
    return told


def seal_and_tell(path: Path, bytes_max: int) -> Callable[[int], None]:
    """Seals window after window, and tells each once it is durable."""

    def work(into: int) -> None:
        spool = open_spool(path, bytes_max=bytes_max)
        while True:
            sealed = append(spool)[0]
            os.write(into, _LINE.pack(spool.next_sequence - 1, sealed.hash))

    return work


def kill_at_random(path: Path, chance: random.Random, bytes_max: int = 2**30) -> list[Head]:
    """Kills a sealing process at a random instant; returns everything it told before."""
    child, out = in_a_child(seal_and_tell(path, bytes_max))
    told = read_told(out, chance.randrange(1, 12))
    time.sleep(chance.random() * 0.004)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    told += read_told(out, 10_000)
    os.close(out)
    return told


@pytest.mark.kill
def test_nothing_that_was_sealed_is_lost_and_no_sequence_is_used_twice(tmp_path):
    path = create(tmp_path / "spool.db")
    chance = random.Random(4)
    told: dict[int, bytes] = {}
    for _ in range(KILLS):
        for head in kill_at_random(path, chance):
            assert head.sequence not in told
            told[head.sequence] = head.hash
    spool = open_spool(path)
    sent = drain(spool, None)  # every link and signature checked by the door itself
    found = {out.head.sequence: out.head.hash for out in sent}
    assert windows(sent) == list(range(spool.next_sequence))
    assert {n: found[n] for n in told} == told
    # At each kill at most one window was durable and not yet told.
    assert len(found) - len(told) <= KILLS
    spool.close()


@pytest.mark.kill
def test_a_full_spool_killed_while_it_drops_still_holds(tmp_path):
    path = create(tmp_path / "spool.db")
    chance = random.Random(5)
    for _ in range(max(5, KILLS // 5)):
        told = kill_at_random(path, chance, bytes_max=60_000)
        spool = open_spool(path, bytes_max=60_000)
        sent = drain(spool, None)
        assert sent[-1].head.sequence >= told[-1].sequence
        spool.close()


@pytest.mark.kill
def test_a_torn_tail_leaves_whole_windows_before_it(tmp_path):
    chance = random.Random(6)
    for attempt in range(max(10, KILLS // 2)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        path = create(folder / "spool.db")
        told = kill_at_random(path, chance)
        log = path.with_name("spool.db-wal")
        data = bytearray(log.read_bytes())
        at = chance.randrange(len(data))
        if attempt % 2:
            del data[at:]
        else:
            data[at:] = chance.randbytes(len(data) - at)
        log.write_bytes(data)
        spool = open_spool(path)
        sent = drain(spool, None)
        hashes = {head.sequence: head.hash for head in told}
        for out in sent:
            assert hashes.setdefault(out.head.sequence, out.head.hash) == out.head.hash
        if sent and sent[-1].head.sequence < told[-1].sequence:
            with pytest.raises(Forked):  # a valuer that has more is told, not written over
                spool.resume(told[-1], 0)
        spool.close()
        shutil.rmtree(folder)


def test_a_disk_that_takes_no_more_leaves_the_sequence_unused(tmp_path):
    """The operating system refuses writes (EFBIG), as it does on a full disk."""
    path = create(tmp_path / "spool.db")

    def work(into: int) -> None:
        spool = open_spool(path)
        append(spool, 2)
        largest = max(each.stat().st_size for each in tmp_path.glob("spool.db*"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest + 120_000, resource.RLIM_INFINITY))
        try:
            for _ in range(1_000):
                append(spool)
        except SpoolFull:
            stopped = spool.next_sequence
            try:
                append(spool)
            except SpoolFull:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                )
                sealed = append(spool)[0]
                sequence = codec.decode_header(sealed.envelope.payload).sequence
                if sequence == stopped > 2:
                    os.write(into, _LINE.pack(sequence, sealed.hash))

    child, out = in_a_child(work)
    told = read_told(out, 1)
    os.close(out)
    os.waitpid(child, 0)
    assert len(told) == 1
    spool = open_spool(path)
    assert drain(spool, None)[-1].head == told[0]
    spool.close()


def fill(spool: Spool, pages_more: int = 16) -> None:
    """The file grows by what `release` leaves it and no more: SQLite's own bound gives "database
    or disk is full", as ENOSPC does. A folder in its place is space that is not set aside again.
    """
    reserve = spool._path.with_name("spool.reserve")
    reserve.unlink()
    reserve.mkdir()
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages + pages_more}")


def gap_causes(sent: list[Outgoing]) -> list[GapCause]:
    return [
        codec.decode_gap(out.item.payload).cause for out in sent if isinstance(out.item, Envelope)
    ]


def test_a_full_disk_takes_the_room_of_acknowledged_windows_first(tmp_path):
    spool = open_spool(create(tmp_path / "spool.db"))
    append(spool, 100)
    spool.acknowledge([(n, n) for n in range(90)], START_MS)
    fill(spool)
    append(spool, 60)
    assert spool.dropped_windows == 0
    hashes = spool._db.execute("SELECT hash FROM record WHERE sequence = 89").fetchone()
    head = Head(89, hashes[0]) if hashes else None
    sent = drain(spool, head)
    assert windows(sent)[-70:] == list(range(90, 160))
    spool.close()


def test_a_full_disk_then_takes_unacknowledged_ones_and_the_gap_says_why(tmp_path):
    spool = open_spool(create(tmp_path / "spool.db"))
    append(spool, 100)
    fill(spool)
    append(spool, 60)
    dropped = spool.dropped_windows
    assert 20 < dropped < 100
    sent = drain(spool, None)
    assert gaps(sent) == [(0, dropped - 1)]
    assert windows(sent) == list(range(dropped, 160))
    assert gap_causes(sent) == [GapCause.DISK_FULL]
    spool.close()


def test_a_spool_at_its_bound_says_that_instead(tmp_path):
    spool = open_spool(create(tmp_path / "spool.db"), bytes_max=100_000)
    append(spool, 100)
    assert gap_causes(drain(spool, None)) == [GapCause.SPOOL_FULL]
    spool.close()


def test_a_full_disk_with_nothing_to_drop_leaves_the_sequence_unused(tmp_path):
    spool = open_spool(create(tmp_path / "spool.db"))
    append(spool, 1)
    fill(spool, 1)
    for _ in range(3):
        with pytest.raises(SpoolFull, match="free space"):
            append(spool, 1, gpus=256)  # more than the file holds in all
    stopped = spool.next_sequence
    assert drain(spool, None)[-1].head.sequence == stopped - 1
    spool._db.execute("PRAGMA max_page_count = 4294967294")
    append(spool)
    assert drain(spool, None)[-1].head.sequence == stopped
    spool.close()


def test_the_space_set_aside_is_given_back_when_the_disk_is_full(tmp_path):
    path = create(tmp_path / "spool.db")
    spool = open_spool(path)
    reserve = path.with_name("spool.reserve")
    assert reserve.stat().st_blocks * 512 >= 2 * 1024 * 1024
    assert reserve.stat().st_mode & 0o777 == 0o600
    append(spool, 100)
    pages = spool._db.execute("PRAGMA page_count").fetchone()[0]
    spool._db.execute(f"PRAGMA max_page_count = {pages}")
    append(spool, 50)  # full at some point; with the space given back it is not any more
    assert spool.next_sequence == 150
    assert 0 < spool.dropped_windows < 50
    assert reserve.is_file()
    assert spool._db.execute("PRAGMA max_page_count").fetchone()[0] > 2**31
    spool.close()
