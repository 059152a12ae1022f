"""Appraisals through the store and the commands: taken once, superseded, withdrawn, never of one's own."""

from __future__ import annotations

import json
from datetime import date, timedelta

import msgspec
import pytest
from sqlalchemy import func, select

from assay_core.appraisal import AppraisalRefusal, AppraisalRefused
from assay_core.covenant import Premise
from assay_core.errors import AssayError
from assay_core.seal import Envelope, Signature
from assay_valuer.appraisals import (
    RECORD,
    RecordedAppraisal,
    import_appraisal,
    list_appraisals,
    load_appraisals,
    withdraw_appraisal,
)
from assay_valuer.cli import main
from assay_valuer.ledger.read import entries_from
from assay_valuer.parties import PartyError
from assay_valuer.store.schema import APPRAISED
from tests.fakes.appraisal import DAY, MICROS, appraisal_of, gpu_at, signed
from tests.fakes.collateral import PART, loan_text
from tests.fakes.events import NOW, FakeDesk, new_key
from tests.fakes.host import START_MS
from tests.fakes.valued import Valued, fmv

AGE_MAX_DAYS = 365


@pytest.fixture
def desk(tmp_path):
    made = FakeDesk(tmp_path)
    made.dora = made.party("dora", "appraiser")
    made.loan("A1", "B1")
    yield made
    made.close()


def take(desk, envelope):
    return desk.write(
        lambda c: import_appraisal(
            c, envelope, age_max_days=AGE_MAX_DAYS, signer=desk.ledger.signer, now_ms=desk.now
        )
    )


def appraise(desk, *serials, **changed):
    return take(desk, signed(appraisal_of(*serials, **changed), desk.dora))


def held(desk, serial):
    return desk.ledger.database.read(load_appraisals).get(desk.asset(serial), ())


def refused(desk, reason, call, *words):
    count = select(func.count()).select_from(APPRAISED)
    before = desk.ledger.database.read(lambda c: c.execute(count).scalar())
    with pytest.raises(AppraisalRefused) as caught:
        call()
    assert caught.value.reason is reason
    for word in words:
        assert word in str(caught.value)
    assert desk.ledger.database.read(lambda c: c.execute(count).scalar()) == before


# ---------------------------------------------------------------------------- taking


def test_it_is_taken_once_and_is_a_record_with_the_bytes_that_were_signed(desk):
    envelope = signed(appraisal_of("A1", "B1"), desk.dora)
    assert take(desk, envelope) == (appraisal_of("A1", "B1"), True)
    assert take(desk, envelope) == (appraisal_of("A1", "B1"), False)
    (entry,) = desk.ledger.database.read(lambda c: entries_from(c, 0, kind=RECORD))
    told = msgspec.json.decode(entry.body.envelope.payload, type=RecordedAppraisal)
    signatures = tuple(Signature(one.sig, one.fingerprint) for one in told.signatures)
    assert Envelope(told.payload, told.payload_type, signatures) == envelope
    assert told.asset_ids == (desk.asset("A1"), desk.asset("B1"))
    (taken,) = desk.ledger.database.read(list_appraisals)
    assert (taken.position, taken.withdrawn) == (entry.position, False)


def test_a_value_is_kept_as_it_was_signed(desk):
    appraise(desk, "A1", premise=Premise.FMV)
    (one,) = held(desk, "A1")
    assert (one.appraiser, one.premise, one.micros) == ("dora", Premise.FMV, MICROS)
    assert date.fromordinal(one.day) == DAY
    assert one.document_sha256 == "d0" * 32
    assert held(desk, "B1") == ()


def test_a_gpu_that_nobody_knows_is_named_and_nothing_is_taken(desk):
    refused(
        desk, AppraisalRefusal.UNKNOWN_GPU, lambda: appraise(desk, "A1", "Z9"), "Z9", "assets.1"
    )
    other_part = msgspec.structs.replace(gpu_at("A1"), board_part_number="other")
    refused(
        desk,
        AppraisalRefusal.UNKNOWN_GPU,
        lambda: appraise(desk, assets=(other_part,)),
        "A1 (other)",
    )


def test_it_is_of_a_day_that_was_by_our_clock(desk):
    tomorrow, old = DAY + timedelta(days=1), DAY - timedelta(days=AGE_MAX_DAYS + 1)
    refused(
        desk,
        AppraisalRefusal.FROM_THE_FUTURE,
        lambda: appraise(desk, "A1", effective_on=tomorrow),
    )
    refused(desk, AppraisalRefusal.TOO_OLD, lambda: appraise(desk, "A1", effective_on=old))
    appraise(desk, "A1", effective_on=old + timedelta(days=1))


# ---------------------------------------------------------------------------- whose


def test_the_borrowers_operator_appraises_nothing(desk):
    own = signed(appraisal_of("A1", appraiser="bob"), desk.bob)
    refused(desk, AppraisalRefusal.UNKNOWN_PARTY, lambda: take(desk, own), "no appraiser bob")


def test_whoever_sells_for_the_borrower_appraises_none_of_its_collateral(desk):
    """By whatever spelling: names are compared as sellers' names are."""
    desk.loan("A1", "B1", extra="sellers: [Dora Labs, initech]\n")
    refused(desk, AppraisalRefusal.INTERESTED, lambda: appraise(desk, "B1"), "loan-1")
    desk.loan("C1", loan_id="loan-2", token_id=8)
    appraise(desk, "C1")


def test_an_appraisers_key_is_nobody_elses(desk):
    for role in ("operator", "lender"):
        with pytest.raises(PartyError, match="this key is dora's"):
            desk.party("mallory", role, key=desk.dora)
    with pytest.raises(PartyError, match="this key is bob's"):
        desk.party("erin", "appraiser", key=desk.bob)
    with pytest.raises(PartyError, match="name none"):
        desk.party("erin", "appraiser", "fra1")


def test_an_appraiser_who_has_ended_appraises_no_more_and_what_was_taken_stands(desk):
    appraise(desk, "A1")
    desk.end("dora")
    refused(desk, AppraisalRefusal.UNKNOWN_PARTY, lambda: appraise(desk, "B1"))
    assert len(held(desk, "A1")) == 1


def test_a_key_that_nobody_registered_signs_nothing(desk):
    forged = signed(appraisal_of("A1"), new_key())
    refused(desk, AppraisalRefusal.BAD_SIGNATURE, lambda: take(desk, forged))


# ---------------------------------------------------------------------------- which one holds


def micros(desk, serial="A1"):
    return {(one.appraiser, one.premise.value): one.micros for one in held(desk, serial)}


def test_of_one_appraiser_the_newest_day_holds_whenever_it_was_taken(desk):
    before = DAY - timedelta(days=30)
    appraise(desk, assets=(gpu_at("A1", 5),))
    appraise(desk, effective_on=before, assets=(gpu_at("A1", 9), gpu_at("B1", 7)))
    assert micros(desk) == {("dora", "OLV"): 5}
    assert micros(desk, "B1") == {("dora", "OLV"): 7}


def test_a_newer_day_ends_every_premise_of_the_one_before(desk):
    before = DAY - timedelta(days=30)
    appraise(desk, effective_on=before, assets=(gpu_at("A1", 9),))
    appraise(desk, effective_on=before, premise=Premise.FMV, assets=(gpu_at("A1", 11),))
    assert micros(desk) == {("dora", "OLV"): 9, ("dora", "FMV"): 11}
    appraise(desk, assets=(gpu_at("A1", 5),))
    assert micros(desk) == {("dora", "OLV"): 5}


def test_of_one_day_and_premise_the_last_taken_holds(desk):
    appraise(desk, assets=(gpu_at("A1", 9),))
    appraise(desk, assets=(gpu_at("A1", 5),))
    assert micros(desk) == {("dora", "OLV"): 5}


def test_two_appraisers_are_two_opinions(desk):
    erin = desk.party("erin", "appraiser")
    appraise(desk, assets=(gpu_at("A1", 9),))
    take(desk, signed(appraisal_of(appraiser="erin", assets=(gpu_at("A1", 5),)), erin))
    assert micros(desk) == {("dora", "OLV"): 9, ("erin", "OLV"): 5}


def test_one_that_was_withdrawn_counts_for_nothing_and_the_one_before_holds_again(desk):
    def withdraw(sha256, why="taken back"):
        return desk.write(
            lambda c: withdraw_appraisal(c, sha256, why=why, signer=desk.ledger.signer, now_ms=NOW)
        )

    appraise(desk, effective_on=DAY - timedelta(days=1), assets=(gpu_at("A1", 9),))
    envelope = signed(appraisal_of(assets=(gpu_at("A1", 5),)), desk.dora)
    take(desk, envelope)
    newest = desk.ledger.database.read(list_appraisals)[-1].sha256
    assert withdraw(newest)
    assert not withdraw(newest)
    assert micros(desk) == {("dora", "OLV"): 9}
    assert [one.withdrawn for one in desk.ledger.database.read(list_appraisals)] == [False, True]
    refused(desk, AppraisalRefusal.WITHDRAWN, lambda: take(desk, envelope))
    for sha256, why in (("00" * 32, "x"), (newest, ""), (newest, "x" * 501)):
        with pytest.raises(AssayError):
            withdraw(sha256, why)
    records = desk.ledger.database.read(lambda c: entries_from(c, 0, kind=RECORD))
    assert json.loads(records[-1].body.envelope.payload) == {
        "sha256": newest,
        "withdrawn_ms": NOW,
        "why": "taken back",
    }


# ---------------------------------------------------------------------------- in the book


def test_values_are_anchored_to_it_from_the_next_tick_until_it_is_withdrawn(tmp_path):
    valued = Valued(tmp_path)
    try:
        automated = [fmv(one) for one in valued.tick()]
        day = date(2026, 9, 20)
        first = gpu_at(valued.host.gpus[0].serial, 9_000_000_000)
        valued.appraise(premise=Premise.FMV, effective_on=day, assets=(first,))
        values = valued.tick(START_MS + 60_000)
        lower = min(values, key=fmv)
        # What is far surer than a table's row weighs far more; both are GPUs without their board.
        assert 9_000_000_000 * 85 // 100 < fmv(lower) < automated[0] * 2 // 3
        assert max(map(fmv, values)) == automated[0]
        assert [one.approach for one in lower.indications if one.approach == "appraisal"]
        (taken,) = valued.books.database.read(list_appraisals)
        valued.books.database.write(
            lambda c: withdraw_appraisal(
                c, taken.sha256, why="a slip", signer=valued.books.key, now_ms=START_MS
            )
        )
        assert [fmv(one) for one in valued.tick(START_MS + 120_000)] == automated
    finally:
        valued.books.close()


# ---------------------------------------------------------------------------- by command


def test_an_appraiser_signs_where_it_is_and_the_valuer_takes_it(tmp_path, capsys):
    config, key = tmp_path / "valuer.yaml", tmp_path / "dora.key"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")
    where = ("--config", str(config))
    assert main(["init", *where]) == 0
    assert main(["party", "key", str(key)]) == 0
    public = capsys.readouterr().out.strip()
    assert main(["party", "add", "dora", "--role", "appraiser", "--public", public, *where]) == 0
    loan, written, sealed = (tmp_path / name for name in ("loan.yaml", "a.yaml", "signed.json"))
    loan.write_text(loan_text(["A1"]))
    assert main(["loan", "import", str(loan), *where]) == 0
    written.write_text(
        f"appraiser: dora\npremise: OLV\neffective_on: {date.today()}\n"
        f"document_sha256: {'d0' * 32}\nassets:\n"
        f'  - {{serial: "A1", board_part_number: "{PART}", usd: "18000"}}\n'
    )
    assert main(["party", "sign", str(written), "--key", str(key), "--out", str(sealed)]) == 0
    assert "keep it with: assay-valuer appraisal import" in capsys.readouterr().err
    assert main(["appraisal", "import", str(written), *where]) == 2
    assert "unsigned" in capsys.readouterr().err
    assert main(["appraisal", "import", str(sealed), *where]) == 0
    assert "dora appraises 1 GPU" in capsys.readouterr().err
    assert main(["appraisal", "import", str(sealed), *where]) == 0
    assert "taken before" in capsys.readouterr().err
    assert main(["appraisal", "list", "--json", *where]) == 0
    (one,) = json.loads(capsys.readouterr().out)["appraisals"]
    assert one["appraisal"]["assets"][0]["usd_micros"] == 18_000_000_000
    assert main(["appraisal", "list", *where]) == 0
    assert "$18,000.00" in capsys.readouterr().out
    assert main(["appraisal", "withdraw", one["sha256"], "--why", "a slip", *where]) == 0
    assert main(["appraisal", "withdraw", one["sha256"], "--why", "a slip", *where]) == 1
