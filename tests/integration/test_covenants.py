"""Covenants through the store, the pipeline and the commands: taken, kept, restarted, replayed."""

from __future__ import annotations

import json

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select

from assay_core import envelope_json
from assay_core.covenant import CovenantRefusal, CovenantRefused, Parties, Thresholds
from assay_core.instants import format_instant
from assay_core.seal import Ed25519Signer, Envelope, Signature
from assay_core.signatories import Role
from assay_valuer.cli import main
from assay_valuer.covenants import (
    RECORD,
    STATE_RECORD,
    RecordedCovenant,
    history,
    import_covenant,
    load_covenants,
    load_states,
    tell_step,
)
from assay_valuer.credit.covenant import Level, replay, sha256_of
from assay_valuer.ledger.read import entries_from
from assay_valuer.parties import Party, add_party, end_party
from assay_valuer.pipeline import BookRaced
from assay_valuer.rows import loan_rows
from assay_valuer.store.schema import COVENANT_STATE
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.collateral import PRICES, loan_text
from tests.fakes.covenant import covenant_file, raw, signed
from tests.fakes.host import START_MS, FakeHost

HOUR_MS = 3_600_000
EARLY = PRICES.replace("2026-11-01", "2026-09-01")
CHEAP = EARLY.replace("18000,22000.50,26000", "16000,20000,24000")


class World:
    """A host with four GPUs, a loan of about 80% on them, its lender Alice and its operator Bob."""

    def __init__(self, folder) -> None:
        self.books = FakeBooks(folder)
        self.host = FakeHost(gpu_count=4)
        self.books.enrol(self.host)
        self.books.serve(START_MS - DAY_MS, START_MS + 300 * DAY_MS)
        self.alice, self.bob = self.party("alice", "lender"), self.party("bob", "operator")
        self.books.prices(EARLY)
        serials = [gpu.serial for gpu in self.host.gpus]
        began = format_instant(START_MS)
        self.books.loan(serials, amount=59_000_000_000, originated_at=began)

    def party(self, name, role, *sites):
        key = Ed25519Signer(Ed25519PrivateKey.generate())
        party = Party(name, Role(role), key.public_key, sites, START_MS, None)
        self.books.database.write(lambda c: add_party(c, party, self.books.key, START_MS))
        return key

    def take(self, envelope, loan=None):
        def job(connection):
            return import_covenant(
                connection, envelope, loan=loan, signer=self.books.key, now_ms=START_MS
            )

        try:
            return self.books.database.write(job)
        finally:
            self.books.check()

    def agree(self, **changed):
        return self.take(signed(covenant_file(**changed), self.alice, self.bob))

    def speak(self, now_ms):
        """A window of everything at `now_ms`, and the book then."""
        self.host.now_ms = now_ms
        self.books.take(self.host, self.host.seal())
        return self.books.tick(self.host.now_ms)

    def records(self):
        return self.books.database.read(lambda c: history(c, "loan-1"))

    def state(self):
        return self.books.database.read(load_states).get("loan-1")


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.books.close()


def refused(reason, call):
    with pytest.raises(CovenantRefused) as caught:
        call()
    assert caught.value.reason is reason


# ---------------------------------------------------------------------------- taking files


def test_a_file_is_taken_once_and_is_a_record_with_the_bytes_that_were_signed(world):
    envelope = signed(covenant_file(), world.alice, world.bob)
    assert world.take(envelope) == (covenant_file(), True)
    assert world.take(envelope) == (covenant_file(), False)
    found = world.books.database.read(lambda c: entries_from(c, 0, kind=RECORD))
    (payload,) = [one.body.envelope.payload for one in found]
    told = msgspec.json.decode(payload, type=RecordedCovenant)
    assert (told.payload, told.loan, told.version) == (envelope.payload, "loan-1", 1)
    assert {one.who for one in told.signatures} == {"alice", "bob"}
    signatures = tuple(Signature(one.sig, one.fingerprint) for one in told.signatures)
    assert Envelope(told.payload, told.payload_type, signatures) == envelope


def test_whatever_is_refused_leaves_nothing(world):
    alice, bob = world.alice, world.bob
    mine = covenant_file()
    other = covenant_file(loan="loan-2")
    refused(CovenantRefusal.WRONG_LOAN, lambda: world.take(signed(other, alice, bob)))
    refused(CovenantRefusal.WRONG_LOAN, lambda: world.take(signed(mine, alice, bob), "loan-2"))
    refused(CovenantRefusal.UNSIGNED, lambda: world.take(signed(mine, alice)))
    mallory = Ed25519Signer(Ed25519PrivateKey.generate())
    refused(CovenantRefusal.BAD_SIGNATURE, lambda: world.take(signed(mine, alice, mallory)))
    same = covenant_file(parties=Parties(lender="alice", borrower="alice"))
    refused(CovenantRefusal.SAME_PARTY, lambda: world.take(signed(same, alice)))
    assert world.books.database.read(load_covenants) == {}


def test_an_older_file_takes_the_place_of_none_and_no_version_is_signed_twice(world):
    first = signed(covenant_file(), world.alice, world.bob)
    world.take(first)
    world.agree(version=3)
    refused(CovenantRefusal.OLDER_VERSION, lambda: world.take(first))
    refused(CovenantRefusal.OLDER_VERSION, lambda: world.agree(version=2))
    refused(CovenantRefusal.OLDER_VERSION, lambda: world.agree(version=3, hysteresis_bps=1))


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_party_that_ended_signs_no_more_and_what_it_signed_stands(world, who):
    world.agree()
    world.books.database.write(
        lambda c: end_party(c, who, why="left", signer=world.books.key, now_ms=START_MS)
    )
    refused(CovenantRefusal.UNKNOWN_PARTY, lambda: world.agree(version=2))
    assert world.speak(START_MS + HOUR_MS).covenants["loan-1"].state.level is Level.CURRENT


def test_an_operator_signs_for_the_sites_that_it_speaks_for(world):
    carl = world.party("carl", "operator", "fra1")
    file = covenant_file(parties=Parties(lender="alice", borrower="carl"))
    refused(CovenantRefusal.UNKNOWN_PARTY, lambda: world.take(signed(file, world.alice, carl)))
    serials = [gpu.serial for gpu in world.host.gpus]
    world.books.loan(serials, extra="site: fra1\n")
    assert world.take(signed(file, world.alice, carl))[1]


# ---------------------------------------------------------------------------- the pipeline


def test_the_state_lives_on_over_restarts_and_replays_from_the_ledger(world):
    world.agree()
    at = START_MS + HOUR_MS
    assert world.speak(at).covenants["loan-1"].state.level is Level.CURRENT
    world.books.prices(CHEAP, at)
    seen = []
    for hours in range(2, 400, 9):
        world.books.restarted()
        book = world.speak(START_MS + hours * HOUR_MS)
        state = book.covenants["loan-1"].state
        assert world.state() == state
        seen.append(state.level)
    assert seen[0] is Level.WATCH
    assert seen[-1] is Level.DEFAULT
    assert [one.rank for one in seen] == sorted(one.rank for one in seen)
    records = world.records()
    codes = [one.code for record in records for one in record.transitions]
    assert codes == [
        "covenant.effective",
        "call.valuation",
        "watch.begun",
        "call.valuation",
        "call.made",
        "default.uncured",
    ]
    files = {sha256_of(covenant_file()): covenant_file()}
    assert replay(files, records) == world.state()
    kept = world.books.database.read(lambda c: entries_from(c, 0, kind=STATE_RECORD))
    assert len([*kept]) == len(records)


def test_one_pipeline_and_one_restarted_at_every_tick_come_to_the_same(world, tmp_path):
    (tmp_path / "other").mkdir()
    other = World(tmp_path / "other")
    worlds = (world, other)
    for one in worlds:
        one.agree()
        one.speak(START_MS + HOUR_MS)
        one.books.prices(CHEAP, START_MS + HOUR_MS)
    for hours in range(2, 120, 13):
        other.books.restarted()
        states = [one.speak(START_MS + hours * HOUR_MS).covenants["loan-1"] for one in worlds]
        assert states[0].state == states[1].state
        assert states[0].inputs == states[1].inputs
    other.books.close()


def test_a_file_is_in_force_from_the_next_tick_and_nothing_is_told_twice(world):
    assert world.speak(START_MS + HOUR_MS).covenants == {}
    world.agree()
    assert [*world.speak(START_MS + 2 * HOUR_MS).covenants] == ["loan-1"]
    told = len(world.records())
    world.speak(START_MS + 3 * HOUR_MS)
    world.books.restarted()
    world.speak(START_MS + 4 * HOUR_MS)
    assert len(world.records()) == told == 1


def test_a_state_that_did_not_change_is_not_written_at_every_tick(world):
    world.agree()

    def written(now_ms):
        world.books.tick(now_ms)
        read = select(COVENANT_STATE.c.at_ms)
        return world.books.database.read(lambda c: c.execute(read).scalar_one())

    at = world.speak(START_MS + HOUR_MS).at_ms
    assert [written(at + seconds * 1_000) - at for seconds in (10, 20, 59, 60)] == [0, 0, 0, 60_000]


def test_a_step_that_could_not_be_kept_is_taken_again(world):
    """State, record and position are one transaction: nothing of it is there without the rest."""
    world.agree()
    world.speak(START_MS + HOUR_MS)
    held = world.state()
    world.books.prices(CHEAP, START_MS + HOUR_MS)
    world.books.database.write(lambda c: c.exec_driver_sql(
        "CREATE TRIGGER no_more BEFORE INSERT ON covenant_state "
        "BEGIN SELECT RAISE(ABORT, 'full'); END"
    ))  # fmt: skip
    world.host.now_ms = START_MS + 2 * HOUR_MS
    world.books.take(world.host, world.host.seal())
    with pytest.raises(BookRaced):
        world.books.tick(world.host.now_ms)
    assert (world.state(), len(world.records())) == (held, 1)
    world.books.database.write(lambda c: c.exec_driver_sql("DROP TRIGGER no_more"))
    book = world.books.tick(world.host.now_ms)
    assert book.covenants["loan-1"].state.level is Level.WATCH
    assert len(world.records()) == 2


def test_a_host_that_fell_silent_is_remembered_over_a_restart_and_calls_nothing(world):
    world.agree()
    world.speak(START_MS + HOUR_MS)
    worth = world.state()
    for days in (1, 2, 5, 30):
        world.books.restarted()
        one = world.books.tick(START_MS + days * DAY_MS).covenants["loan-1"]
        assert (one.state.level, one.inputs.counted) == (worth.level, 0)
        assert one.inputs.silent_micros == 4 * 18_700_425_000
        assert one.state.notice == (days >= 5)
    back = world.speak(START_MS + 31 * DAY_MS).covenants["loan-1"]
    assert (back.state.stale, back.state.notice) == (False, False)


def test_both_positions_are_in_the_rows(world):
    world.agree(thresholds=Thresholds(watch_bps=100, call_bps=200, default_bps=60_000), hysteresis_bps=10)  # fmt: skip
    world.speak(START_MS + HOUR_MS)
    (row,) = world.books.database.read(loan_rows)
    assert row.covenant is not None
    assert row.position is not None
    assert (row.covenant.level, row.covenant.premise) == ("WATCH", "OLV")
    assert row.covenant.tranches[0].owed_micros == row.covenant.inputs.debt_micros
    assert row.position.tranches == row.covenant.tranches


# ---------------------------------------------------------------------------- the commands


@pytest.fixture
def valuer(tmp_path, capsys):
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")

    def command(*words):
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert command("init")[0] == 0
    return command


def sign(valuer, file, key, out):
    code, _, said = valuer("party", "sign", str(file), "--key", str(key), "--out", str(out))
    assert (code, "assay-valuer covenant import" in said) == (0, True)


def test_the_commands_from_a_written_file_to_a_history(valuer, tmp_path):
    loan = tmp_path / "loan.yaml"
    loan.write_text(loan_text(["S0001"]))
    assert "no covenant file" in valuer("loan", "import", str(loan))[2]
    for name, role in (("alice", "lender"), ("bob", "operator")):
        public = valuer("party", "key", str(tmp_path / f"{name}.key"))[1].strip()
        assert valuer("party", "add", name, "--role", role, "--public", public)[0] == 0
    written, once, twice = (tmp_path / name for name in ("c.yaml", "1.json", "2.json"))
    written.write_bytes(raw(covenant_file()))
    assert valuer("covenant", "import", str(written))[0] == 2
    sign(valuer, written, tmp_path / "alice.key", once)
    code, _, said = valuer("covenant", "import", str(once))
    assert (code, "unsigned: the operator has not signed" in said) == (2, True)
    sign(valuer, once, tmp_path / "bob.key", twice)
    code, _, said = valuer("covenant", "import", str(twice), "--loan", "loan-9")
    assert (code, "wrong_loan" in said) == (2, True)
    assert len(envelope_json.load(twice.read_text(), "2.json").signatures) == 2
    code, _, said = valuer("covenant", "import", str(twice))
    assert (code, "signed by alice and bob" in said) == (0, True)
    assert "was taken before" in valuer("covenant", "import", str(twice))[2]
    assert "no covenant file" not in valuer("loan", "import", str(loan))[2]
    assert "no tick has taken it yet" in valuer("covenant", "show", "loan-1")[2]
    assert valuer("covenant", "show", "loan-9")[0] == 1
    assert "no file" in valuer("value")[1]
    code, shown, said = valuer("covenant", "history", "loan-1")
    assert (code, shown, said) == (0, "", "0 steps, each taken again with the same outcome\n")


def test_show_history_and_value_tell_the_positions_apart(world, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    world.agree()
    world.speak(START_MS + HOUR_MS)
    world.books.prices(CHEAP, START_MS + HOUR_MS)
    world.speak(START_MS + 2 * HOUR_MS)
    command = commands_on(world, tmp_path, capsys)
    code, shown, _ = command("covenant", "show", "loan-1")
    assert code == 0
    assert "loan-1, covenant version 1: WATCH" in shown
    assert "loan-1, risk (the house's view, which only advises): WATCH" in shown
    assert "0x0000000000000000000000000000000000000001" in shown
    told = json.loads(command("covenant", "show", "loan-1", "--json")[1])
    assert (told["covenant"]["level"], told["position"]["state"]) == ("WATCH", "WATCH")
    code, shown, said = command("covenant", "history", "loan-1")
    assert (code, "2 steps, each taken again" in said) == (0, True)
    assert "watch.begun: LTV is 86.7" in shown
    value = command("value")
    assert ("covenant LTV" in value[1], "86.7" in value[1]) == (True, True)
    assert "the covenant alone calls a loan" in value[2]


def test_a_history_that_does_not_replay_is_said(world, tmp_path, capsys):
    world.agree()
    world.speak(START_MS + HOUR_MS)
    state = world.books.database.read(lambda c: c.execute(select(COVENANT_STATE)).one()).state
    assert json.loads(state)["level"] == "CURRENT"
    (record,) = world.records()
    forged = msgspec.structs.replace(
        record, state=msgspec.structs.replace(record.state, level=Level.DEFAULT)
    )
    tell(world, forged)
    command = commands_on(world, tmp_path, capsys)
    code, _, said = command("covenant", "history", "loan-1")
    assert (code, "comes out otherwise" in said) == (1, True)


def tell(world, record):
    world.books.database.write(lambda c: tell_step(c, record, world.books.key))


def commands_on(world, tmp_path, capsys):
    """The commands over a state folder whose store is this world's."""
    config = tmp_path / "valuer.yaml"
    config.write_text(
        f"state_dir: {tmp_path / 'state'}\nstore_url: sqlite:///{tmp_path / 'valuer.db'}\n"
    )
    assert main(["init", "--config", str(config)]) == 0
    capsys.readouterr()

    def command(*words):
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command
