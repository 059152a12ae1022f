"""A value that two lenders put in the place of the automated one: for a while, and by nobody alone."""

from __future__ import annotations

from datetime import date

import pytest
from sqlalchemy import select

from assay_core import asset_events
from assay_core.asset_events import OVERRIDE_MAX_MS, StatedValue
from assay_core.errors import FileError
from assay_core.signatories import Role
from assay_valuer.cli import main
from assay_valuer.events import EventError, State
from assay_valuer.overrides import load_overrides
from assay_valuer.store.schema import VALUE_OVERRIDE
from tests.fakes.collateral import PART, loan_text
from tests.fakes.events import DAY_MS, NOW, FakeDesk, event, new_key
from tests.fakes.host import START_MS
from tests.fakes.valued import Valued, fmv

FMV_MICROS = 17_500_000_000


@pytest.fixture
def desk(tmp_path):
    made = FakeDesk(tmp_path)
    made.carol = made.party("carol", "lender")
    made.loan("A1", "B1")
    yield made
    made.close()


def override(*serials, micros=FMV_MICROS, until_ms=NOW + 14 * DAY_MS, **fields):
    value = StatedValue(fmv_usd_micros=micros, until_ms=until_ms)
    return event("value_override", *serials, value=value, **fields)


def in_force(desk, now_ms=NOW):
    return dict(desk.ledger.database.read(lambda c: load_overrides(c, now_ms)))


def test_two_lenders_sign_it_and_it_holds_of_what_it_names(desk):
    waits = desk.propose(override("A1", why="the class action"), desk.alice)
    assert (waits.state, waits.lacking) == (State.PROPOSED, (Role.LENDER,))
    assert in_force(desk) == {}
    desk.sign(waits, desk.carol)
    (held,) = in_force(desk).values()
    assert list(in_force(desk)) == [desk.asset("A1")]
    assert (held.micros, held.reason) == (FMV_MICROS, "the class action")
    assert held.signed_by == ("alice", "carol")
    (record,) = desk.records()
    assert record.event.value == StatedValue(fmv_usd_micros=FMV_MICROS, until_ms=NOW + 14 * DAY_MS)
    kept = desk.ledger.database.read(
        lambda c: c.execute(select(VALUE_OVERRIDE.c.position)).scalar()
    )
    assert held.position == kept


@pytest.mark.parametrize("second", ["alice", "bob", "dora"])
def test_nobody_alone_and_nobody_of_the_borrower(desk, second):
    """The same lender again, the operator, an appraiser."""
    keys = {"alice": desk.alice, "bob": desk.bob, "dora": desk.party("dora", "appraiser")}
    waits = desk.propose(override("A1"), desk.alice)
    if second == "alice":
        assert desk.sign(waits, desk.alice).state is State.PROPOSED
    else:
        with pytest.raises(EventError, match="is for lender to sign"):
            desk.sign(waits, keys[second])
    assert in_force(desk) == {}


def test_a_lender_who_has_ended_since_counts_for_nothing(desk):
    waits = desk.propose(override("A1"), desk.alice)
    desk.end("alice")
    assert desk.sign(waits, desk.carol).state is State.PROPOSED
    assert in_force(desk) == {}


def test_a_host_cannot_value_its_own(desk):
    host = desk.host("h1")
    desk.shown(host, "A1")
    with pytest.raises(EventError, match="a host proposes no value_override"):
        desk.propose(override("A1"), host.signer)


def test_it_ends_when_it_says(desk):
    until = NOW + 14 * DAY_MS
    desk.propose(override("A1", until_ms=until), desk.alice, desk.carol)
    assert len(in_force(desk, until - 1)) == 1
    assert in_force(desk, until) == {}


def test_its_last_day_is_the_day_on_which_it_still_stands(desk):
    midnight = (NOW // DAY_MS + 3) * DAY_MS  # 2026-11-21T00:00:00Z
    desk.propose(override("A1", until_ms=midnight), desk.alice, desk.carol)
    (held,) = in_force(desk).values()
    assert held.until == date(2026, 11, 20).toordinal()


def test_a_newer_one_stands_alone_and_what_it_ended_does_not_come_back(desk):
    desk.propose(override("A1", "B1"), desk.alice, desk.carol)
    soon = NOW + DAY_MS
    desk.propose(override("A1", micros=1, until_ms=soon), desk.alice, desk.carol)
    one, other = desk.asset("A1"), desk.asset("B1")
    assert {key: held.micros for key, held in in_force(desk).items()} == {one: 1, other: FMV_MICROS}
    assert list(in_force(desk, soon)) == [other]


def test_it_lasts_no_longer_than_a_month_from_whenever_it_is_decided(desk):
    desk.propose(override("A1", until_ms=NOW + OVERRIDE_MAX_MS), desk.alice)
    for until_ms in (NOW + OVERRIDE_MAX_MS + 1, NOW):
        with pytest.raises(FileError, match=r"value\.until_ms"):
            desk.propose(override("A1", until_ms=until_ms), desk.alice)
    late = desk.propose(override("B1", until_ms=NOW + DAY_MS), desk.alice)
    desk.now = NOW + DAY_MS
    with pytest.raises(FileError, match=r"value\.until_ms"):
        desk.sign(late, desk.carol)
    assert in_force(desk) == {}


def test_a_gpu_that_was_replaced_is_valued_by_its_new_name_alone(desk):
    replaced = event("gpu_replacement", "A1", replacements=override("C1").assets)
    desk.propose(replaced, desk.alice, desk.bob)
    with pytest.raises(EventError, match="C1 has taken the place of A1"):
        desk.propose(override("A1"), desk.alice, desk.carol)


def test_the_command_proposes_and_signs_it(tmp_path, capsys):
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    where = ("--config", str(config))
    assert main(["init", *where]) == 0
    keys = []
    for name in ("alice", "carol"):
        keys.append(str(tmp_path / f"{name}.key"))
        assert main(["party", "key", keys[-1]]) == 0
        public = capsys.readouterr().out.strip()
        assert main(["party", "add", name, "--role", "lender", "--public", public, *where]) == 0
    loan = tmp_path / "loan.yaml"
    loan.write_text(loan_text(["A1"]))
    assert main(["loan", "import", str(loan), *where]) == 0
    said = ["asset", "propose", "value_override", "--serial", "A1", "--part", PART, "--why", "w"]
    assert main([*said, "--until", "14d", "--key", keys[0], *where]) == 2
    assert "needs --fmv and --until" in capsys.readouterr().err
    full = [*said, "--fmv", "17500.25", "--until", "14d", "--key", keys[0], *where]
    assert main(full) == 0
    assert main(["asset", "sign", "1", "--key", keys[1], *where]) == 0
    assert "accepted by alice (lender) and carol (lender)" in capsys.readouterr().err
    assert main(["asset", "events", "--json", *where]) == 0
    assert '"fmv_usd_micros": 17500250000' in capsys.readouterr().out


def test_its_amount_and_its_time_are_bounded():
    for micros in (0, -1, 10**15 + 1):
        with pytest.raises(FileError):
            form_of(micros)


def form_of(micros):
    return asset_events.decode(asset_events.encode(override("A1", micros=micros)))


def test_keys_that_nobody_registered_sign_nothing(desk):
    with pytest.raises(EventError, match="is no party's"):
        desk.propose(override("A1"), desk.alice, new_key())


# ---------------------------------------------------------------------------- in the book


@pytest.fixture
def valued(tmp_path):
    made = Valued(tmp_path)
    yield made
    made.books.close()


def test_a_gpu_is_worth_what_two_lenders_say_from_the_next_tick_until_it_ends(valued):
    automated = [fmv(one) for one in valued.tick()]
    assert len(set(automated)) == 1
    until = START_MS + 2 * DAY_MS
    valued.override(17_000_000_000, until)
    one, other = valued.tick(START_MS + DAY_MS)
    assert sorted((fmv(one), fmv(other))) == sorted((17_000_000_000, automated[0]))
    changed = one if fmv(one) == 17_000_000_000 else other
    told = " ".join(finding.detail for finding in changed.findings)
    for word in ("alice", "carol", "the maker recalls this batch"):
        assert word in told
    assert [fmv(one) for one in valued.tick(until)] == automated
