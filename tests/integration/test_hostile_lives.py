"""What an operator may try with events, moves and cards, through enrolment, door and pipeline.

Each step's book is the same from a valuer that starts anew (Lives.tick).
"""

from __future__ import annotations

import pytest
from sqlalchemy import text, update

from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.leaves import Content, Group
from assay_valuer.events import EventError
from assay_valuer.hosts import revoke
from assay_valuer.standing.assurance import CUSTODY, L1, L2
from assay_valuer.standing.trust import Verdict
from assay_valuer.standing.types import Presence
from assay_valuer.store.schema import ASSET_EVENT
from tests.fakes.chassis import GPU_MAKER
from tests.fakes.lives import Lives, frozen


@pytest.fixture
def books(tmp_path):
    with Lives(tmp_path) as made:
        yield made


def test_cards_that_change_places_stop_no_book(books):
    """Both were set free by two people and each answers under the other's serial, in one tick."""
    host = books.machine(devices=True)
    first, second = host.devices
    books.live(host)
    before = [books.line(serial, host.now_ms).asset.identity for serial in host.serials]
    host.devices = [GPU_MAKER.device(0x77), GPU_MAKER.device(0x78)]
    books.show(host, identity=True)
    books.prove(host)
    changed = {f"{serial}: identity_changed" for serial in host.serials}
    assert frozen(books.tick(host.now_ms)) == changed
    host.devices = [second, first]
    lenders = ("lena", "luis")
    books.sign("re_enrol", *host.serials, now_ms=host.now_ms, by=lenders, holder=host.id)
    books.show(host, identity=True)
    books.prove(host)
    book = books.tick(host.now_ms)
    assert frozen(book) == set()
    after = [books.line(serial, host.now_ms).asset.identity for serial in host.serials]
    assert None not in before
    assert after == before[::-1]


def test_no_maintenance_keeps_a_revoked_hosts_gpus_counted(books):
    """Whoever stole its key announces maintenance, which policy accepts, and the host is revoked."""
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    soon_ms = host.now_ms + MINUTE_MS
    books.sign("maintenance", now_ms=host.now_ms, by=("olga",), host=host.id)
    assert books.line(host.serials[0], soon_ms).standing.presence is Presence.IN_TRANSITION
    books.database.write(
        lambda c: revoke(c, host.id, why="its key was stolen", signer=books.key, now_ms=soon_ms)
    )
    assert books.line(host.serials[0], soon_ms).standing.presence is Presence.UNKNOWN
    assert books.position(soon_ms).counted == 0


def test_a_revoked_hosts_gpus_may_still_go_over_to_another(books):
    """The host is swapped, and the old one revoked before its GPUs are in the new one."""
    host = books.machine()
    books.lend(*host.serials)
    books.live(host)
    other = books.machine(seed=9, gpus=0)
    soon_ms = host.now_ms + MINUTE_MS
    books.sign("host_swap", now_ms=host.now_ms, host=host.id, to_host=other.id)
    books.database.write(
        lambda c: revoke(c, host.id, why="swapped", signer=books.key, now_ms=soon_ms)
    )
    assert books.position(soon_ms).counted == 2


def test_a_move_to_a_site_gives_a_gpu_to_one_host_there_and_not_to_the_next(books):
    """A bare host at the new site shows the serial too, while the move is under way."""
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    serial = host.serials[0]
    books.sign("move", serial, now_ms=host.now_ms, days=20, to_site="far")
    there = books.machine(seed=9, gpus=0, site="far", devices=True)
    there.put(host.pull(0))
    thief = books.machine(seed=11, gpus=1, site="far", tpm=False)
    thief.host.gpus[0].serial = serial
    there.now_ms = thief.now_ms = host.now_ms + HOUR_MS
    books.live(there)
    for _ in range(3):
        books.show(there, thief, identity=True)
    books.live(there)
    books.show(thief, identity=True)
    book = books.tick(there.now_ms + MINUTE_MS)
    line = books.line(serial, there.now_ms + MINUTE_MS)
    assert line.asset.host_key == books.found(there).key
    assert line.standing.assurance == L2
    assert [one.verdict for one in line.asset.trust.claims] == [Verdict.FALSE]
    assert frozen(book) == {f"{thief.id}: false_claim"}


def test_a_cheaper_card_vouches_for_no_dearer_one(books):
    """The devices are real, and what the driver calls them is the operator's choice."""
    host = books.machine(devices=True)
    books.lend(*host.serials)
    contents = tuple(
        Content(one.subject, one.group, {**one.values, "name": "NVIDIA B300 SXM6 AC"})
        if one.group is Group.IDENTITY
        else one
        for one in host.contents()
    )
    books.send(host, host.host.seal(contents=contents))
    books.prove(host)
    line = books.line(host.serials[0], host.now_ms)
    assert line.asset.trust.proof is not None
    assert line.standing.assurance == L1
    assert "assurance.other_chip" in {one.code for one in line.standing.findings}


def test_what_was_ever_proposed_is_not_read_at_the_next_proposal_nor_at_each_tick(books):
    """Sixty-four a day, of hundreds of GPUs each, would be gigabytes in a year."""
    host = books.machine()
    books.live(host)
    books.tick(host.now_ms)
    books.sign("move", *host.serials, now_ms=host.now_ms, by=("olga",), to_site="far")
    books.database.write(lambda c: c.execute(update(ASSET_EVENT).values(payload=b"unreadable")))
    books.sign("move", *host.serials, now_ms=host.now_ms, by=("olga",), to_site="farther")
    asked = "SELECT count(decided_ms), sum(decided_ms) FROM asset_event"
    (plan,) = books.database.read(lambda c: c.execute(text(f"EXPLAIN QUERY PLAN {asked}")).all())
    assert "COVERING INDEX" in plan.detail


def test_an_inspection_goes_to_nobody_who_shows_the_serial_first(books):
    """It was made somewhere; whoever shows the GPU then might be anywhere."""
    host = books.machine()
    books.lend(*host.serials)
    with pytest.raises(EventError, match="nobody has shown"):
        books.inspect(*host.serials, now_ms=host.now_ms)
    books.lend(*host.serials, reserve="site: lab")
    books.inspect(*host.serials, now_ms=host.now_ms)
    liar = books.machine(seed=9, site="far")
    for gpu, serial in zip(liar.host.gpus, host.serials, strict=True):
        gpu.serial = serial
    books.live(liar)
    books.live(host)
    for serial in host.serials:
        line = books.line(serial, host.now_ms)
        assert line.asset.host_key == books.found(host).key
        assert line.standing.assurance == L1 | CUSTODY
