"""Trust through the real store, ledger and pipeline, and the same after every restart.

`Lives.tick` starts the valuer anew at each step and asks for the same book; every step is checked
against the ledger's invariants. What may be lent is worked out by hand: two GPUs net 13,090.2975
dollars each, and each one's share is rounded down to a micro-dollar.
"""

from __future__ import annotations

import msgspec
import pytest

from assay_core.errors import FileError, Refusal
from assay_core.evidence.bundle import EvidenceRefused, Outcome
from assay_core.evidence.statement import device_nonce
from assay_core.instants import HOUR_MS, MINUTE_MS
from assay_core.money import Usd
from assay_valuer.credit.position import State
from assay_valuer.denial import Denial, Denied
from assay_valuer.events import EventError
from assay_valuer.ledger.read import entries_from
from assay_valuer.pipeline import Pipeline
from assay_valuer.standing.assurance import CUSTODY, L0, L1, L2, L2_PLUS
from assay_valuer.standing.trust import FreezeCode, Verdict
from assay_valuer.standing.types import Presence
from assay_valuer.store.schema import ASSET, HOST_TRUST, PROJECTION
from tests.fakes.books import DAY_MS
from tests.fakes.chassis import GPU_MAKER, new_tpm, trusting
from tests.fakes.host import START_MS, WINDOW_MS, FakeGpu
from tests.fakes.lives import Lives, frozen, subject


@pytest.fixture
def books(tmp_path):
    with Lives(tmp_path) as made:
        yield made


def lent(books: Lives, cap_bps: int, gpus: int = 2) -> Usd:
    """So much of what is lent on for one GPU, in the newest book, for so many."""
    return Usd(books.lending.micros * cap_bps // 10_000 * gpus)


def shown(books: Lives, at_ms: int) -> tuple[int, Usd, int]:
    one = books.position(at_ms)
    return one.assurance, one.lendable, one.counted


# ---------------------------------------------------------------------------- from L0 to L2+


def test_a_software_key_is_l0(books):
    host = books.machine(tpm=False)
    books.lend(*host.serials)
    books.show(host)
    assert shown(books, host.now_ms) == (L0, lent(books, 1_000), 2)


def test_levels_rise_with_what_is_proved_and_fall_with_its_age(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.show(host)
    assert shown(books, host.now_ms) == (L0, lent(books, 1_000), 2)  # no quote yet
    asked_ms = host.now_ms
    asked = books.ask(host)
    books.take_answer(host, asked, books.answer(host, asked, devices=()))
    assert shown(books, asked_ms + MINUTE_MS) == (L1, lent(books, 2_500), 2)
    books.prove(host)
    assert shown(books, asked_ms + MINUTE_MS) == (L2, lent(books, 6_000), 2)
    # A quote is whole for two hours, and falls from 60% to 10% by the third.
    assert shown(books, asked_ms + 2 * HOUR_MS) == (L2, lent(books, 6_000), 2)
    assert shown(books, asked_ms + 5 * HOUR_MS // 2) == (L2, lent(books, 3_500), 2)
    assert shown(books, asked_ms + 3 * HOUR_MS) == (L0, lent(books, 1_000), 2)
    # A device's report is whole for twelve, and falls from 60% to 25% by the eighteenth.
    host.now_ms = asked_ms + 15 * HOUR_MS
    books.show(host)
    asked = books.ask(host, asked_ms=host.now_ms)
    books.take_answer(host, asked, books.answer(host, asked, devices=()))
    assert shown(books, asked_ms + 15 * HOUR_MS) == (L2, lent(books, 4_250), 2)
    assert books.position(host.now_ms).values == books.position(asked_ms).values  # never the value


def test_the_identity_that_a_device_proved_is_bound_once_and_recorded_with_its_evidence(books):
    host = books.machine(devices=True)
    books.live(host)
    book = books.tick(host.now_ms + MINUTE_MS)
    books.live(host)
    books.tick(host.now_ms + MINUTE_MS)
    records = books.database.read(lambda c: entries_from(c, 0, kind="binding"))
    told = [msgspec.json.decode(one.body.envelope.payload) for one in records]
    evidence = books.database.read(lambda c: entries_from(c, 0, kind="evidence"))
    assert [one["evidence_position"] for one in told] == [evidence[0].position] * 2
    assert {(one["asset"], one["identity"]) for one in told} == {
        (line.asset.id, line.asset.identity) for line in book.lines.values()
    }
    assert len({one["identity"] for one in told}) == 2


def test_a_whole_baseboard_is_l2_plus_and_with_custody_fifteen_points_more(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.show(host)
    fabric = [GPU_MAKER.device(0x2000 + at, prefix=0x50) for at in range(2)]
    asked = books.ask(host)
    evidence = board(books, host, asked, fabric)
    books.take_answer(host, asked, books.answer(host, asked, evidence=evidence))
    assert shown(books, host.now_ms + MINUTE_MS) == (L2_PLUS, lent(books, 7_000), 2)
    books.inspect(*host.serials, now_ms=host.now_ms + MINUTE_MS)
    code, lendable, _ = shown(books, host.now_ms + 2 * MINUTE_MS)
    assert (code, lendable) == (L2_PLUS | CUSTODY, lent(books, 8_500))


def board(books, host, asked, fabric):
    nonce = device_nonce(asked.nonce, host.tpm.ak.name, host.host.previous)
    ports = b"".join(one.pdi.to_bytes(8, "little") for one in fabric).ljust(144, b"\0")
    linked = b"".join(one.pdi.to_bytes(8, "big") for one in host.devices).ljust(128, b"\0")
    return [
        *(one.answer(nonce, {22: ports}) for one in host.devices),
        *(one.answer(nonce, {22: one.pdi.to_bytes(8, "big"), 26: linked}) for one in fabric),
    ]


def test_of_a_loans_gpus_the_least_proved_is_what_the_loan_shows(books):
    bound, bare = books.machine(devices=True), books.machine(seed=8, tpm=False, gpus=1)
    books.lend(*bound.serials, *bare.serials)
    books.show(bare)
    books.live(bound)
    one = books.position(bound.now_ms + MINUTE_MS)
    assert (one.assurance, one.lendable) == (L0, lent(books, 6_000) + lent(books, 1_000, 1))


def test_where_policy_asks_for_ocsp_there_is_no_l2_without_an_answer(tmp_path):
    with Lives(tmp_path, trusting(ocsp="required")) as books:
        host = books.machine(devices=True)
        books.lend(*host.serials)
        books.live(host)
        now_ms = host.now_ms + MINUTE_MS
        assert shown(books, now_ms)[0] == L1
        for device in host.devices:
            books.ocsp(device, "good", now_ms)
        assert shown(books, now_ms)[0] == L2
        assert frozen(books.tick(now_ms)) == set()
        assert shown(books, now_ms + MINUTE_MS)[0] == L2
        books.ocsp(host.devices[0], "unknown", now_ms)
        # They share all certificates but their own.
        assert shown(books, now_ms)[0] == L1
        assert frozen(books.tick(now_ms)) == set()


def test_a_tpm_of_a_maker_that_nobody_names_is_l0(tmp_path):
    with Lives(tmp_path, trusting(simulated_tpm_roots=())) as books:
        host = books.machine(devices=True)
        books.lend(*host.serials)
        books.live(host)
        one = books.line(host.serials[0], host.now_ms + MINUTE_MS).standing
        assert one.assurance == L0
        assert "assurance.tpm_unknown" in {finding.code for finding in one.findings}


# ---------------------------------------------------------------------------- freezes


def assert_frozen(books, host, code, at_ms, *, others=()):
    """The host is frozen for this, counts for nothing, and stays so; nobody else is."""
    for later in (0, DAY_MS):
        book = books.tick(at_ms + later)
        assert frozen(book) == {f"{host.id}: {code}"}
        one = book.positions["loan-1"]
        assert (one.state, one.counted, one.lendable) == (State.DISPUTED, 0, Usd(0))
    for other in others:
        assert not books.line(other, at_ms).standing.frozen


def test_a_fork_freezes_the_host(books):
    host, other = books.machine(devices=True), books.machine(seed=8)
    books.lend(*host.serials)
    books.live(host, other)
    one = host.host.seal(contents=host.contents(), advance=False)
    two = host.host.seal(contents=host.contents())
    assert books.send(host, one) is None
    assert frozen(books.tick(host.now_ms)) == set()
    assert books.send(host, two) is Refusal.FORK
    assert_frozen(books, host, FreezeCode.FORK, host.now_ms, others=other.serials)
    host.host.previous = one.hash
    books.live(host)  # it goes on as if nothing had been
    assert_frozen(books, host, FreezeCode.FORK, host.now_ms)


def test_a_tpm_clock_that_went_back_freezes_the_host(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    host.tpm.clock_ms -= 500_000
    books.live(host)
    assert_frozen(books, host, FreezeCode.CLOCK, host.now_ms + MINUTE_MS)


def test_another_tpm_freezes_the_host_unless_a_board_swap_was_agreed(books):
    host, swapped = books.machine(devices=True), books.machine(seed=8, devices=True)
    books.lend(*host.serials)
    books.live(host, swapped)
    now_ms = host.now_ms + HOUR_MS
    books.sign("board_swap", now_ms=now_ms, host=swapped.id)
    for one in (host, swapped):
        one.now_ms = now_ms
        one.boot()
        one.tpm = new_tpm()
        books.enrol_with(one, books.token(one))
        books.live(one)
    now_ms = host.now_ms + MINUTE_MS
    assert_frozen(books, host, FreezeCode.EK, now_ms, others=swapped.serials)
    assert books.line(swapped.serials[0], now_ms).standing.assurance == L2


def test_a_chip_is_one_hosts_for_ever(books):
    host = books.machine()
    with pytest.raises(Denied) as denied:
        books.machine(seed=8, tpm=host.tpm)
    assert denied.value.reason is Denial.EK_ENROLLED


def test_a_revoked_device_freezes_itself_and_no_other(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    books.answered(host.devices[0].ik.certificate, "revoked", host.now_ms + MINUTE_MS)
    book = books.tick(host.now_ms + 2 * MINUTE_MS)
    assert frozen(book) == {f"{host.serials[0]}: device_revoked"}
    assert book.positions["loan-1"].counted == 1


# ---------------------------------------------------------------------------- one GPU on two hosts


def clone(books: Lives, host, *, seed: int = 9, devices: bool = True, tpm: bool = True):
    """Another host that shows the first GPU of this one, and relays what its device says."""
    other = books.machine(seed=seed, gpus=1, tpm=tpm)
    other.host.gpus[0].serial = host.serials[0]
    if devices:
        other.devices = [host.devices[0]]
    return other


def test_a_device_that_answers_on_two_hosts_freezes_its_gpu(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    other = clone(books, host)
    for _ in range(2):
        books.live(other, host)
    book = books.tick(host.now_ms + MINUTE_MS)
    assert frozen(book) == {f"{host.serials[0]}: clone"}
    one = book.positions["loan-1"]
    assert (one.state, one.counted, one.lendable) == (State.DISPUTED, 1, lent(books, 6_000, 1))


def test_the_pledges_word_for_its_own_host_does_not_excuse_a_device_in_two_places(books):
    host = books.machine(devices=True)
    books.lend(*host.serials, reserve=f"host: {host.id}")
    books.live(host)
    other = clone(books, host)
    for _ in range(2):
        books.live(other, host)
    assert frozen(books.tick(host.now_ms + MINUTE_MS)) == {f"{host.serials[0]}: clone"}


def test_a_gpu_secures_one_loan_and_a_host_that_claims_it_for_another_gets_nothing(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    with pytest.raises(FileError, match="a GPU secures one loan at a time"):
        books.lend(host.serials[0], loan_id="loan-2", token_id=8)
    other = clone(books, host, devices=False)
    books.lend("X1", loan_id="loan-2", token_id=8)
    books.live(host)
    books.show(other)
    book = books.tick(host.now_ms + MINUTE_MS)
    assert (book.positions["loan-1"].counted, book.positions["loan-2"].counted) == (2, 0)


def test_a_dispute_counts_on_until_two_lenders_say_whose_it_is(books):
    host, other = books.machine(), books.machine(seed=8, gpus=1)
    books.lend(*host.serials)
    other.host.gpus[0].serial = host.serials[0]
    books.live(host, other)
    for _ in range(2):
        books.show(other, host)
    now_ms = host.now_ms
    one = books.position(now_ms)
    assert (one.state, one.counted) == (State.DISPUTED, 2)
    assert frozen(books.tick(now_ms)) == set()
    told = {"now_ms": now_ms, "holder": other.id}
    alone = books.sign("re_enrol", host.serials[0], by=("lena",), **told)
    assert alone.lacking
    assert books.position(now_ms).state is State.DISPUTED
    books.sign("re_enrol", host.serials[0], by=("lena", "luis"), **told)
    one = books.line(host.serials[0], now_ms)
    assert not one.standing.disputed
    assert (one.asset.host_key, one.asset.trust.claims) == (books.found(other).key, ())
    books.show(other)  # and it is seen there at once, without its identity's being told again
    assert books.line(host.serials[0], other.now_ms).asset.track.seen_ms == other.now_ms
    assert books.position(other.now_ms).state is State.CURRENT


def test_what_is_lifted_may_freeze_again(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    liar = clone(books, host, devices=False, tpm=False)
    for _ in range(2):
        books.show(liar, host)
    assert frozen(books.tick(host.now_ms)) == {f"{liar.id}: false_claim"}
    by = ("lena", "luis")
    books.sign("re_enrol", now_ms=host.now_ms, by=by, host=liar.id)
    book = books.tick(host.now_ms)
    assert frozen(book) == set()
    assert book.positions["loan-1"].counted == 2
    for _ in range(2):
        books.show(liar, host, identity=True)
    assert frozen(books.tick(host.now_ms)) == {f"{liar.id}: false_claim"}


def test_two_people_re_enrol_a_forked_host_and_it_proves_itself_again(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    one = host.host.seal(contents=host.contents(), advance=False)
    two = host.host.seal(contents=host.contents())
    books.send(host, one)
    books.send(host, two)
    assert_frozen(books, host, FreezeCode.FORK, host.now_ms)
    books.enrol_with(host, books.token(host))  # a token alone lifts nothing
    books.live(host)
    assert_frozen(books, host, FreezeCode.FORK, host.now_ms + MINUTE_MS)
    with pytest.raises(EventError):
        books.sign("re_enrol", now_ms=host.now_ms, by=("olga", "lena"), host=host.id)
    host.now_ms += DAY_MS + HOUR_MS
    books.live(host)
    books.sign("re_enrol", now_ms=host.now_ms, by=("lena", "luis"), host=host.id)
    assert frozen(books.tick(host.now_ms + MINUTE_MS)) == set()
    books.live(host)
    assert shown(books, host.now_ms + MINUTE_MS) == (L2, lent(books, 6_000), 2)


# ---------------------------------------------------------------------------- replacements


def test_a_replacement_is_pledged_from_when_it_is_seen_and_the_two_never_count_twice(books):
    host = books.machine(devices=True)
    old, kept = host.serials
    books.lend(old, kept)
    books.live(host)
    spare = FakeGpu(host.host.random.randbytes(16), host.host.random)
    now_ms = host.now_ms + MINUTE_MS
    books.sign("gpu_replacement", old, now_ms=now_ms, days=7, replacements=(subject(spare.serial),))
    assert pledged(books, now_ms) == {old, kept}
    assert books.line(spare.serial, now_ms).standing.presence is Presence.EXPECTED
    host.put((spare, GPU_MAKER.device(0xABC)))  # both are in for a while
    books.show(host, identity=True)
    assert pledged(books, host.now_ms) == {spare.serial, kept}
    assert books.position(host.now_ms).counted == 2
    host.pull(0)
    books.live(host)
    assert shown(books, host.now_ms + MINUTE_MS) == (L2, lent(books, 6_000), 2)
    with pytest.raises(FileError, match="a GPU secures one loan at a time"):
        books.lend(old, loan_id="loan-2", token_id=8)
    with pytest.raises(FileError, match="a GPU secures one loan at a time"):
        books.lend(spare.serial, loan_id="loan-2", token_id=8)
    host.put((host.host.gpus[0], None))
    host.host.gpus.pop()
    assert pledged(books, host.now_ms + 8 * DAY_MS) == {spare.serial, kept}


def pledged(books, at_ms):
    book = books.tick(at_ms)
    return {book.lines[one].asset.serial for one in book.loans["loan-1"].asset_ids}


def test_a_spare_that_was_there_all_along_takes_the_place_at_once(books):
    host = books.machine(gpus=3, devices=True)
    old, kept, spare = host.serials
    books.lend(old, kept)
    books.live(host)
    now_ms = host.now_ms + MINUTE_MS
    books.sign("gpu_replacement", old, now_ms=now_ms, replacements=(subject(spare),))
    assert pledged(books, now_ms) == {spare, kept}
    assert books.position(now_ms).counted == 2


def test_a_replacement_that_never_came_is_replaced_in_its_turn(books):
    host = books.machine(gpus=3, devices=True)
    old, kept, third = host.serials
    books.lend(old, kept)
    books.live(host)
    now_ms = host.now_ms + MINUTE_MS
    for before, after in ((old, "LOST-IN-THE-POST"), ("LOST-IN-THE-POST", third)):
        books.sign("gpu_replacement", before, now_ms=now_ms, replacements=(subject(after),))
    assert pledged(books, now_ms) == {third, kept}
    assert books.position(now_ms).counted == 2


def test_an_event_makes_nothing_of_a_gpu_that_nobody_has_shown(books):
    host = books.machine()
    books.lend("UNSEEN", reserve=f"host: {host.id}")
    books.live(host)
    books.sign("move", "UNSEEN", now_ms=host.now_ms, to_site="barn")
    one = books.line("UNSEEN", host.now_ms + MINUTE_MS).standing
    assert (one.presence, one.counts) == (Presence.EXPECTED, False)
    assert books.position(host.now_ms + MINUTE_MS).counted == 0


def test_maintenance_again_and_again_excuses_a_day_and_no_more(books):
    host = books.machine()
    books.lend(*host.serials)
    books.live(host)
    off_ms = host.now_ms
    for day in range(4):
        begin_ms = off_ms + day * DAY_MS
        books.sign("maintenance", now_ms=begin_ms, by=("olga",), host=host.id)
        expected = 2 if day == 0 else 0
        assert books.position(begin_ms + 12 * HOUR_MS).counted == expected


def test_a_valuer_that_runs_takes_note_of_two_events_of_one_millisecond(books):
    host, other = books.machine(), books.machine(seed=8, gpus=0)
    first, second = host.serials
    books.lend(first, second, reserve=f"host: {host.id}")
    books.live(host, other)
    now_ms = host.now_ms + MINUTE_MS
    running = books.pipeline
    running.tick(now_ms)
    for serial in (first, second):
        books.sign("move", serial, now_ms=now_ms, to_host=other.id)
        other.put(host.pull(0))
        running.tick(now_ms)
    other.now_ms = now_ms
    books.show(other, identity=True)
    book = running.tick(other.now_ms)
    key = books.found(other).key
    assert {line.asset.host_key for line in book.lines.values()} == {key}
    assert [running._memory.fleet.known.reserved(one).host_id for one in book.lines] == [
        other.id
    ] * 2


# ---------------------------------------------------------------------------- the ledger alone


def test_the_ledger_alone_gives_the_same_trust(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    other = clone(books, host)
    for _ in range(2):
        books.live(other, host)
    books.tick(host.now_ms)
    books.inspect(host.serials[1], now_ms=host.now_ms)
    host.tpm.clock_ms -= 500_000
    books.live(host)
    now_ms = host.now_ms + MINUTE_MS
    before = books.tick(now_ms)
    assert len(frozen(before)) == 2
    names = ("uuid", "name", "host_key", "first_seen_ms", "seen_ms", "position", "condition")
    unknown = dict.fromkeys((*names, "health", "notes", "missing_since_ms", "identity", "trust"))

    def forget(connection) -> None:
        connection.execute(PROJECTION.delete())
        connection.execute(HOST_TRUST.delete())
        connection.execute(ASSET.update().values(**unknown, pdi=None))

    books.database.write(forget)
    rebuilt = Pipeline(books.database, books.key, books.policy).tick(now_ms)
    assert rebuilt.proofs == before.proofs
    assert {key: line.asset for key, line in rebuilt.lines.items()} == {
        key: line.asset for key, line in before.lines.items()
    }
    assert rebuilt.positions == before.positions


def test_an_answer_that_the_door_refused_is_in_no_ledger(books):
    host = books.machine(devices=True)
    books.live(host)
    asked = books.ask(host)
    sealed = books.answer(host, asked)
    with pytest.raises(EvidenceRefused) as refused:
        books.take_answer(host, asked, sealed, asked.deadline_ms + 1)
    assert refused.value.outcome is Outcome.LATE
    assert len(books.database.read(lambda c: entries_from(c, 0, kind="evidence"))) == 1


def test_claims_show_who_when_and_by_what(books):
    host = books.machine(devices=True)
    books.lend(*host.serials)
    books.live(host)
    liar = clone(books, host, devices=False, tpm=False)
    for _ in range(2):
        books.show(liar, host)
    one = books.line(host.serials[0], host.now_ms)
    (claim,) = one.asset.trust.claims
    assert (claim.verdict, claim.host_id) == (Verdict.FALSE, liar.id)
    (told,) = [f.detail for f in one.standing.findings if f.code == "identity.false"]
    assert liar.id in told
    assert "by its word alone" in told
    assert f"{host.id} shows it at the same time, by the device's own report" in told
    assert one.standing.counts
    assert claim.since_ms == START_MS + WINDOW_MS  # the end of the liar's first window
