"""Twelve things that honest operators do or suffer: none freezes anything, none needs two decisions.

Each is told as a diary: what happened, and what the loan shows then. `Diary.shows` asserts at every
entry that nothing is frozen, and that people had to act at most once since the story began.
"""

from __future__ import annotations

import pytest

from assay_core.errors import Refusal
from assay_core.evidence.chain import DEVICE_ROOTS
from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.leaves import Content, Group, MigInstance
from assay_valuer.credit.position import State
from assay_valuer.standing.assurance import CUSTODY, L0, L1, L2
from assay_valuer.standing.types import Cause, Presence
from tests.fakes.books import DAY_MS
from tests.fakes.chassis import GPU_MAKER, Machine
from tests.fakes.host import START_MS, WINDOW_MS, FakeGpu
from tests.fakes.lives import BEGAN_MS, Lives, frozen, subject
from tests.fakes.tpm import AK_ATTRIBUTES, TpmKey

CURRENT, WATCH, STALE = State.CURRENT, State.WATCH, State.STALE


class Diary:
    """A loan on two GPUs of one host at L2, and what it shows as the story goes on."""

    def __init__(self, books: Lives, *, reserve: str = "site: lab") -> None:
        self.books = books
        self.host = books.machine(devices=True)
        self.first, self.second = self.host.serials
        books.lend(self.first, self.second, reserve=reserve)
        books.live(self.host)
        self.shows("it is set up", self.host.now_ms + MINUTE_MS, people=books.people)
        books.people = 0

    def shows(
        self,
        what: str,
        at_ms: int,
        state: State = CURRENT,
        *,
        counted: int = 2,
        level: int = L2,
        causes: tuple[Cause, ...] = (),
        people: int = 1,
    ) -> None:
        book = self.books.tick(at_ms)
        assert frozen(book) == set(), what
        assert self.books.people <= people, what
        one = book.positions["loan-1"]
        told = (one.state, one.counted, one.assurance & ~CUSTODY, one.causes)
        assert told == (state, counted, level, causes), what
        assert one.coverage_bps == counted * 5_000, what

    def where(self, serial: str, at_ms: int) -> Presence:
        return self.books.line(serial, at_ms).standing.presence


@pytest.fixture
def diary(tmp_path):
    with Lives(tmp_path) as books:
        yield Diary(books)


def test_rma(diary):
    """A card breaks, is replaced by another, and the pledge goes over to that one."""
    books, host = diary.books, diary.host
    books.show(host, broken=[0], times=2)
    diary.shows("a row cannot be remapped", host.now_ms, WATCH, counted=1)
    books.show(host, lost=[0], times=5)
    gone_ms = host.now_ms
    diary.shows("it is gone, too", gone_ms, STALE, counted=1, causes=(Cause.GPU,))
    spare = Spare(host)
    books.sign(
        "gpu_replacement",
        diary.first,
        now_ms=gone_ms,
        days=14,
        replacements=(spare.subject,),
    )
    # Both count, the broken one too; that it is broken is still to be seen.
    diary.shows("the replacement is agreed", gone_ms, WATCH)
    assert diary.where(diary.first, gone_ms) is Presence.IN_TRANSITION
    host.pull(0)
    host.now_ms += 3 * DAY_MS  # only the other card for three days
    books.show(host, identity=True)
    books.prove(host)
    # The card that is away has not proved itself for so long: its level falls, the loan is covered.
    diary.shows("three days on its way", host.now_ms + MINUTE_MS, WATCH, level=L1)
    host.put((spare.gpu, spare.device))
    host.boot()
    books.show(host, identity=True)
    diary.shows("the new card is in", host.now_ms, level=L1)
    books.prove(host)
    diary.shows("and has proved itself", host.now_ms + MINUTE_MS)
    assert diary.where(diary.second, host.now_ms + MINUTE_MS) is Presence.PRESENT
    host.now_ms += 15 * DAY_MS
    books.live(host)
    diary.shows("the event is over", host.now_ms + MINUTE_MS)
    book = books.pipeline.book
    assert book is not None
    labels = {book.lines[one].asset.serial for one in book.loans["loan-1"].asset_ids}
    assert labels == {spare.gpu.serial, diary.second}
    assert books.people == 1


class Spare:
    """A card that nobody has seen yet."""

    def __init__(self, host: Machine) -> None:
        self.gpu = FakeGpu(host.host.random.randbytes(16), host.host.random)
        self.device = GPU_MAKER.device(0xFEED)
        self.subject = subject(self.gpu.serial)


def test_host_swap(diary):
    """The chassis breaks; its GPUs go on in another one, which is another host with another TPM."""
    books, old = diary.books, diary.host
    new = books.machine(seed=8, gpus=0, site="lab")
    books.live(new)
    books.people = 0  # it stood ready
    old.now_ms += 2 * HOUR_MS
    books.sign("host_swap", now_ms=old.now_ms, host=old.id, to_host=new.id, days=2)
    diary.shows("agreed; the old one is off", old.now_ms, level=L2)
    new.now_ms = old.now_ms + 10 * HOUR_MS
    # Ten hours unseen: beyond any grace, and counted all the same; what was proved is too old.
    diary.shows("on the way", new.now_ms, level=L0)
    for _ in range(2):
        new.put(old.pull(0))
    books.show(new, identity=True)
    diary.shows("in the new chassis", new.now_ms, level=L0)
    books.prove(new)
    diary.shows("which has proved itself", new.now_ms + MINUTE_MS)
    one = books.line(diary.first, new.now_ms + MINUTE_MS).asset
    assert (one.host_key, one.trust.claims) == (books.found(new).key, ())
    new.now_ms += 3 * DAY_MS
    books.live(new)
    diary.shows("the event is over", new.now_ms + MINUTE_MS)
    assert books.people == 1


def test_host_swap_that_is_told_of_afterwards(diary):
    """The same, but nobody thought of it before: it asks, freezes nothing, and is settled by one event."""
    books, old = diary.books, diary.host
    new = books.machine(seed=8, gpus=0, site="lab")
    books.live(new)
    books.people = 0
    new.now_ms = old.now_ms + HOUR_MS
    for _ in range(2):
        new.put(old.pull(0))
    books.show(new, identity=True)
    books.prove(new)
    diary.shows("they show up elsewhere", new.now_ms + MINUTE_MS, level=L2)
    told = {one.code for one in books.line(diary.first, new.now_ms).standing.findings}
    assert "identity.claimed" in told
    books.show(new, times=3)
    new.now_ms += 6 * HOUR_MS
    books.show(new)
    diary.shows("nobody says", new.now_ms, STALE, counted=0, level=L0, causes=(Cause.HOST,))
    books.sign("host_swap", now_ms=new.now_ms, host=old.id, to_host=new.id)
    books.show(new)  # it does not say again who they are
    books.prove(new)
    diary.shows("settled", new.now_ms + MINUTE_MS)
    assert diary.where(diary.first, new.now_ms) is Presence.IN_TRANSITION
    assert books.line(diary.first, new.now_ms).asset.host_key == books.found(new).key
    assert books.people == 1


def test_reinstall(diary):
    """The host is installed anew: another key, another chain, the same TPM."""
    books, host = diary.books, diary.host
    host.now_ms += HOUR_MS
    host.boot()
    assert host.tpm is not None
    host.tpm.ak = TpmKey(AK_ATTRIBUTES)  # what was on the disk is gone
    books.enrol_with(host, books.token(host))
    assert host.host.incarnation == 1
    diary.shows("enrolled anew, not heard yet", host.now_ms, level=L0)
    books.show(host)
    diary.shows("it speaks", host.now_ms, level=L0)
    books.prove(host)
    diary.shows("it has proved itself", host.now_ms + MINUTE_MS)
    assert books.people == 1


def test_rack_move(diary):
    """The host is carried to another rack: off for nine hours, by an announcement."""
    books, host = diary.books, diary.host
    off_ms = host.now_ms
    books.sign("maintenance", now_ms=off_ms, by=("olga",), days=0.5, host=host.id)
    diary.shows("announced", off_ms)
    diary.shows("carried", off_ms + 9 * HOUR_MS, level=L0)
    assert diary.where(diary.first, off_ms + 9 * HOUR_MS) is Presence.IN_TRANSITION
    host.now_ms = off_ms + 9 * HOUR_MS
    host.boot()
    books.live(host)
    diary.shows("back", host.now_ms + MINUTE_MS)
    host.now_ms += DAY_MS
    books.live(host)
    diary.shows("the next day", host.now_ms + MINUTE_MS)
    assert books.people == 1


def test_rack_move_that_nobody_announced(diary):
    """Within six hours nobody need say a word."""
    books, host = diary.books, diary.host
    host.now_ms += 5 * HOUR_MS
    diary.shows("off", host.now_ms, level=L0)
    host.boot()
    books.live(host)
    diary.shows("back", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_move_of_a_host_to_another_site(diary):
    """By one event; what its loan reserves for the site goes with it, and so does nobody's look."""
    books, host = diary.books, diary.host
    books.inspect(diary.first, diary.second, now_ms=host.now_ms)
    books.people = 0
    assert books.position(host.now_ms + MINUTE_MS).assurance == L2 | CUSTODY
    books.sign("move", now_ms=host.now_ms, host=host.id, to_site="barn", days=3)
    diary.shows("it leaves", host.now_ms + MINUTE_MS)
    assert books.position(host.now_ms + MINUTE_MS).assurance == L2  # nobody inspected it there
    host.now_ms += 2 * DAY_MS
    diary.shows("on the road", host.now_ms, level=L0)
    host.boot()
    books.live(host)
    diary.shows("it is there", host.now_ms + MINUTE_MS)
    assert books.people == 1


def test_48_hours_dark(diary):
    """Its line is cut; it goes on sealing, and sends it all when the line is back."""
    books, host = diary.books, diary.host
    cut_ms = host.now_ms
    host.host.window_ms = 15 * MINUTE_MS
    kept = [host.host.seal(contents=host.contents()) for _ in range(48 * 4)]
    diary.shows("an hour", cut_ms + HOUR_MS)
    diary.shows("six hours", cut_ms + 6 * HOUR_MS, level=L0)
    late = {"counted": 0, "level": L0, "causes": (Cause.HOST,)}
    diary.shows("and more", cut_ms + 6 * HOUR_MS + 1, STALE, **late)
    diary.shows("the end of it", cut_ms + 48 * HOUR_MS - 1, STALE, **late)
    books.backfill(host, kept, host.now_ms)
    diary.shows("it is all there", host.now_ms, level=L0)
    books.prove(host)
    diary.shows("it has proved itself", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_30_days_dark(diary):
    """The site has no power for a month; what no spool could hold is declared."""
    books, host = diary.books, diary.host
    off_ms = host.now_ms
    late = {"counted": 0, "level": L0, "causes": (Cause.HOST,)}
    for days in (1, 8, 29):
        diary.shows(f"day {days}", off_ms + days * DAY_MS, STALE, **late)
    one = books.line(diary.first, off_ms + 8 * DAY_MS).standing
    assert (one.cap_bps, one.observed_ms) == (0, off_ms)
    host.now_ms = off_ms + 30 * DAY_MS
    host.boot()
    books.declare(host, 5)
    books.show(host, identity=True)
    diary.shows("the lights are on", host.now_ms, level=L0)
    books.prove(host)
    diary.shows("it has proved itself", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_gpu_reset(diary):
    """A GPU hangs and is reset: away for a window, and back with its counters begun anew."""
    books, host = diary.books, diary.host
    books.show(host, lost=[1])
    diary.shows("it hangs", host.now_ms)
    assert diary.where(diary.second, host.now_ms) is Presence.MISSING
    books.show(host, identity=True)
    diary.shows("it is back", host.now_ms)
    assert diary.where(diary.second, host.now_ms) is Presence.PRESENT
    books.prove(host)
    diary.shows("it has proved itself", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_driver_upgrade(diary):
    """Other firmware, another leaf, another attestation key of the device: the same identity key."""
    books, host = diary.books, diary.host
    before = books.line(diary.first, host.now_ms + MINUTE_MS).asset
    leaves = [one.leaf.serial_number for one in host.devices]
    host.now_ms += HOUR_MS
    host.boot()
    for one in host.devices:
        one.update(bytes(reversed(range(48))))
    assert leaves != [one.leaf.serial_number for one in host.devices]
    newer = [
        Content(one.subject, one.group, {**one.values, "driver_version": "590.48.01"})
        if one.group is Group.HOST
        else one
        for one in host.contents(identity=True)
    ]
    assert books.send(host, host.host.seal(contents=newer)) is None
    diary.shows("it runs again", host.now_ms)
    books.prove(host)
    diary.shows("it has proved itself", host.now_ms + MINUTE_MS)
    after = books.line(diary.first, host.now_ms + MINUTE_MS).asset
    assert (after.id, after.identity) == (before.id, before.identity)
    assert before.identity is not None
    assert len(books.tick(host.now_ms + MINUTE_MS).lines) == 2
    assert books.people == 0


def test_mig_change(diary):
    """A GPU is cut into instances: the asset is the GPU, whatever its instances are."""
    books, host = diary.books, diary.host
    host.now_ms += HOUR_MS
    uuid = host.host.gpus[0].uuid
    instances = tuple(MigInstance(number, 20_096, (1, 2, 3, 4, 5)) for number in range(3))
    for cut in (instances, instances[:1], ()):
        contents = [
            Content(one.subject, one.group, {**one.values, "mig_instances": cut})
            if (one.subject, one.group) == (uuid, Group.USE)
            else one
            for one in host.contents(identity=True)
        ]
        assert books.send(host, host.host.seal(contents=contents)) is None
        books.prove(host)
        diary.shows(f"{len(cut)} instances", host.now_ms + MINUTE_MS)
    assert len(books.tick(host.now_ms + MINUTE_MS).lines) == 2
    assert books.people == 0


def test_imaged_hosts_that_had_never_enrolled(diary):
    """Two hosts start from one disk image, with all that was in it, and enrol on their own."""
    books = diary.books
    token = books.token(site="lab", hosts=2)  # one act for both
    twins = [books.machine(seed=20 + at, devices=True, token=token) for at in range(2)]
    twins[1].host.boot_id = twins[0].host.boot_id  # the image had run once
    twins[1].tls_key = twins[0].tls_key
    books.live(*twins)
    books.show(*twins, times=3)
    books.prove(*twins)
    books.live(diary.host)
    now_ms = max(one.now_ms for one in (*twins, diary.host)) + MINUTE_MS
    diary.shows("they run", now_ms)
    assert twins[0].id != twins[1].id
    book = books.tick(now_ms)
    assert len({proofs.ek_sha256 for proofs in book.proofs.values()}) == 3
    assert {line.standing.assurance for line in book.lines.values()} == {L2}
    assert not any(line.asset.trust.claims for line in book.lines.values())
    assert books.people == 1


def test_clock_step(diary):
    """The host's clock goes back an hour, and then ahead of ours."""
    books, host = diary.books, diary.host
    real_ms = host.now_ms
    for _ in range(3):
        host.now_ms = real_ms - HOUR_MS
        real_ms += WINDOW_MS
        books.show(host, late_ms=HOUR_MS)
        asked = books.ask(host, asked_ms=real_ms)
        books.take_answer(host, asked, books.answer(host, asked), real_ms + 1_000)
        diary.shows("an hour behind", real_ms + MINUTE_MS)
    host.now_ms = real_ms + 10 * MINUTE_MS
    ahead = host.host.seal(contents=host.contents())
    assert books.send(host, ahead, real_ms) is Refusal.AHEAD_OF_TIME
    diary.shows("ahead: it waits", real_ms + MINUTE_MS)
    assert books.send(host, ahead, host.now_ms) is None
    books.prove(host)
    diary.shows("it is due, and taken", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_valuer_restart(tmp_path):
    """We were down for ten hours: clocks stop, and hosts are waited for."""
    down_ms = START_MS + WINDOW_MS + 2 * MINUTE_MS
    up_ms = down_ms + 10 * HOUR_MS
    served = ((BEGAN_MS, down_ms), (up_ms, up_ms + DAY_MS))
    with Lives(tmp_path, served=served) as books:
        diary = Diary(books)
        host = diary.host
        kept = [host.host.seal(contents=host.contents()) for _ in range(121)]
        diary.shows("we are back", up_ms + MINUTE_MS, level=L0)
        assert books.line(diary.first, up_ms + MINUTE_MS).standing.cause is Cause.OURS
        books.backfill(host, kept, host.now_ms)
        diary.shows("they have told us", host.now_ms, level=L0)
        books.prove(host)
        diary.shows("and proved themselves", host.now_ms + MINUTE_MS)
        assert books.people == 0


def test_valuer_restored_from_a_backup(diary):
    """We lost an hour of the ledger: hosts send it again, and their chains go on."""
    books, host = diary.books, diary.host
    copy = books.backup()
    lost = [host.host.seal(contents=host.contents()) for _ in range(12)]
    books.backfill(host, lost, host.now_ms)
    books.prove(host)
    diary.shows("before", host.now_ms + MINUTE_MS)
    books.restore(copy)
    diary.shows("restored", host.now_ms)
    books.backfill(host, lost, host.now_ms)
    diary.shows("sent again", host.now_ms)
    books.prove(host)
    diary.shows("and proved themselves", host.now_ms + MINUTE_MS)
    assert books.people == 0


def test_the_devices_here_are_none_of_nvidias():
    """What these stories rest on is named by their policy alone."""
    assert not GPU_MAKER.roots & DEVICE_ROOTS
