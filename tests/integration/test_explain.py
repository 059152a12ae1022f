"""From price rows to a value, to why, and to the same value again, also from a file alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import func, select, update

from assay_core.asset_events import StatedValue
from assay_core.instants import DAY_MS, HOUR_MS
from assay_core.money import Usd
from assay_valuer.cases import day_of
from assay_valuer.cli import main
from assay_valuer.ledger.body import decode, encode
from assay_valuer.market_store import newest_snapshot
from assay_valuer.rows import gpu_rows
from assay_valuer.store.schema import LEDGER_ENTRY, VALUATION_CASE
from assay_valuer.valuation.value import METHOD
from tests.fakes.host import FakeHost
from tests.fakes.lives import EARLY_PRICES, Lives
from tests.fakes.priced import PricedBooks

GPUS = 4


@pytest.fixture
def world(tmp_path):
    """Four H100s of one baseboard that secure a loan, a price table, and a fitted market."""
    made = PricedBooks(tmp_path)
    made.prices(EARLY_PRICES)
    made.host = FakeHost(gpu_count=GPUS)
    made.enrol(made.host)
    made.loan([gpu.serial for gpu in made.host.gpus], originated_at="2026-09-01T00:00:00Z")
    made.take(made.host, made.host.seal())
    made.quote(made.host.now_ms)
    assert made.refresh(made.host.now_ms) is not None
    made.tick(made.host.now_ms)
    yield made
    made.check()
    made.close()


def newest(world):
    """The newest result of the first GPU."""
    return world.database.read(gpu_rows)[0].result


def count(world, kind):
    statement = select(func.count()).where(LEDGER_ENTRY.c.kind == kind)
    return world.database.read(lambda c: c.execute(statement).scalar())


def run(*words):
    """A command in a process of its own, where numpy cannot be imported and hashes are seeded else."""
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from assay_valuer.cli import main\n"
        "code = main(sys.argv[1:])\n"
        "assert [m for m in sys.modules if m.split('.')[0] == 'numpy'] == ['numpy']\n"
        "sys.exit(code)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "TZ": "Asia/Tokyo"}
    environment.pop("ASSAY_VALUER_CONFIG", None)
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd="/",
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def exported(world, tmp_path, capsys):
    path = tmp_path / "case.json"
    gpu = world.host.gpus[0].serial
    assert main(["explain", gpu, "--export", str(path), *world.words]) == 0
    assert "replay --file" in capsys.readouterr().err
    return path


def test_a_value_rests_on_every_approach_and_its_line_names_its_case(world):
    line = newest(world)
    assert {one.approach for one in line.indications} >= {"market", "income", "cost"}
    assert line.lending_micros < line.values.nolv.mid_micros
    kept = world.database.read(lambda c: c.execute(select(VALUATION_CASE.c.sha256)).scalars().all())
    assert kept == [line.case_sha256]
    assert count(world, "case") == 1


def test_a_value_is_explained_from_its_rows_to_what_is_lent(world, capsys):
    gpu = world.host.gpus[0].serial
    assert main(["explain", gpu, *world.words]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    line = newest(world)
    for words in (
        "H100 SXM5",
        "baseboard",
        "acme $",  # a seller's reference
        "brook $",
        "market export --out rows.jsonl --snapshot",
        "made up for tests",  # the price table's row
        "income",
        "premise.olv",
        str(Usd(line.values.fmv.mid_micros)),
        str(Usd(line.lending_micros)),
        line.case_sha256,
        "is taken off for",  # in its loan
        "trust",
    ):
        assert words in shown, words


def test_each_hash_leads_to_its_record(world, capsys):
    gpu = world.host.gpus[0].serial
    assert main(["explain", gpu, "--json", *world.words]) == 0
    (told,) = json.loads(capsys.readouterr().out)["gpus"]
    value = told["value"]
    hashes = {one["what"]: one for one in value["hashes"]}
    assert set(hashes) == {
        "case", "policy", "price table", "fit", "snapshot", "this GPU's newest line"
    }  # fmt: skip
    kinds = {
        "case": "case",
        "policy": "policy",
        "price table": "prices",
        "fit": "market_parameters",
        "snapshot": "market_snapshot",
        "this GPU's newest line": "valuation",
    }
    for what, one in hashes.items():
        where = LEDGER_ENTRY.c.position == one["position"]
        row = world.database.read(lambda c, w=where: c.execute(select(LEDGER_ENTRY).where(w)).one())
        assert row.kind == kinds[what]
        payload = decode(row.body).envelope.payload
        named = row.hash.hex() if what.startswith("this") else json.loads(payload)["sha256"]
        assert named == one["sha256"], what
    levels = {one["what"]: one for one in value["levels"]}
    assert levels["rental, $ per GPU-hour"]["sellers"] >= 3
    assert value["method"] == METHOD
    assert told["trust"]["trust"]["assurance"] == "L0"


def test_rows_of_a_product_that_do_not_count_are_said_with_their_reason(world, capsys):
    cells = {
        "date": "2026-09-20", "provider": "acme", "accelerator": "H100", "variant": "SXM",
        "gpu_count": "8", "usd_per_gpu_hour": "-1", "kind": "on_demand", "region": "eu",
    }  # fmt: skip
    from assay_valuer.market.observations import Market
    from assay_valuer.market_store import add_rows

    world.database.write(lambda c: add_rows(c, "f", Market.RENTAL, [cells], world.host.now_ms))
    world.refresh(world.host.now_ms)
    main(["explain", world.host.gpus[0].serial, "--json", *world.words])
    (told,) = json.loads(capsys.readouterr().out)["gpus"]
    assert told["value"]["rejected"] == {"price.not_positive": 1}


def test_values_are_listed_with_their_approaches_and_what_is_lent_on(world, capsys):
    assert main(["value", *world.words]) == 0
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    line = newest(world)
    assert "approaches (FMV, weight)" in shown
    for one in line.indications:
        assert f"{one.approach} {Usd(one.range.mid_micros)}" in shown
    assert f"lent on {Usd(line.lending_micros)}" in shown


def test_an_unknown_gpu_is_said_to_be_none(world, capsys):
    assert main(["explain", "nobody", *world.words]) == 1
    assert "there is no GPU nobody" in capsys.readouterr().err


def test_a_file_alone_gives_the_same_value_in_another_process_without_numpy(exported):
    code, said, errors = run("replay", "--file", str(exported))
    assert (code, "FAILS" in said) == (0, False), (said, errors)
    assert "to the micro-dollar" in errors
    for step in ("case", "value", "entry", "signature", "policy", "prices", "parameters"):
        assert re.search(rf"\d\. {step} +holds", said), step
    assert re.search(r"inclusion +unchecked", said)


def digits(text, begin, end):
    return [at for at in range(begin, end) if text[at].isdigit()]


def test_whoever_has_no_valuer_checks_the_case_its_signature_and_its_fit_by_hand(exported, world):
    """As the model card's page says it, with nothing of the product."""
    file = json.loads(exported.read_text())

    def name(content):
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    assert name(file["case"]) == file["sha256"]
    assert name(file["parameters"]) == file["case"]["parameters_sha256"]
    payload, kind = base64.b64decode(file["entry"]["payload"]), file["entry"]["payloadType"]
    record = json.loads(payload)
    assert (record["sha256"], record["case"]) == (file["sha256"], file["case"])
    assert record["valuation"] == file["valuation"]
    key = base64.b64decode(file["ledger_key"]["data"])
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    (signature,) = file["entry"]["signatures"]
    public = Ed25519PublicKey.from_public_bytes(key)
    public.verify(base64.b64decode(signature["sig"]), signed)
    with pytest.raises(InvalidSignature):
        public.verify(base64.b64decode(signature["sig"]), signed + b" ")
    algorithm = file["ledger_key"]["algorithm"]
    fingerprint = hashlib.sha256(algorithm.encode() + b"\0" + key).hexdigest()
    assert fingerprint == world.key.public_key.fingerprint
    newest = world.database.read(newest_snapshot)
    assert file["parameters"]["snapshot_sha256"] == newest.sha256


def test_any_digit_that_is_changed_in_the_case_is_found(exported, capsys):
    """Every digit of the case that the file shows, and of what it came to: each in its turn."""
    whole = json.loads(exported.read_text())
    case = json.dumps(whole["case"], separators=(",", ":"))
    places = digits(case, 0, len(case))
    assert len(places) > 1_000
    for at in places[:: len(places) // 60]:
        flipped = case[:at] + str((int(case[at]) + 1) % 10) + case[at + 1 :]
        try:
            changed = {**whole, "case": json.loads(flipped)}
        except json.JSONDecodeError:  # a number may not begin with a zero
            continue
        exported.write_text(json.dumps(changed))
        code = main(["replay", "--file", str(exported)])
        assert code in (1, 2), flipped[at - 40 : at + 10]
        # By its name already, and not only by the ledger's entry: 2 is what no case can say.
        assert code == 2 or re.search(r"1\. case +FAILS", capsys.readouterr().out)


@pytest.mark.parametrize("part", ["valuation", "sha256", "entry", "policy", "prices", "parameters"])
def test_what_stands_beside_the_case_cannot_be_changed_either(exported, capsys, part):
    whole = json.loads(exported.read_text())
    text = json.dumps(whole[part])
    # A digit in the middle of it, and not of base64, where it may be of a bit that is not used.
    at = digits(text, 0, len(text))[len(digits(text, 0, len(text))) // 2]
    whole[part] = json.loads(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    exported.write_text(json.dumps(whole))
    assert main(["replay", "--file", str(exported)]) in (1, 2)
    assert "as recorded" not in capsys.readouterr().out or part != "valuation"


def test_a_case_and_result_forged_together_lack_the_signature(exported, capsys):
    """Whoever writes his own case and works its value out still has no entry that the key signed."""
    from assay_valuer.cases import valued
    from assay_valuer.replay import CaseFile
    from assay_valuer.results import stored_valuation

    file = msgspec.json.decode(exported.read_bytes(), type=CaseFile)
    rows = tuple(
        msgspec.structs.replace(row, mid_micros=row.high_micros) for row in file.case.table
    )
    case = msgspec.structs.replace(file.case, table=rows)
    forged = msgspec.structs.replace(
        file, case=case, sha256=case.sha256, valuation=stored_valuation(valued(case))
    )
    exported.write_bytes(msgspec.json.encode(forged))
    assert main(["replay", "--file", str(exported)]) == 1
    said = capsys.readouterr().out
    assert re.search(r"value +holds", said)
    assert re.search(r"entry +FAILS", said)


def test_a_file_that_is_no_case_is_a_bad_file(tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text("{}")
    assert main(["replay", "--file", str(path)]) == 2
    assert "not a case file" in capsys.readouterr().err
    assert main(["replay", "--file", str(tmp_path / "none.json")]) == 2
    assert main(["replay"]) == 2
    assert main(["replay", "abcdef0123", "--file", str(path)]) == 2


def test_the_ledgers_records_come_out_the_same(world, capsys):
    name = newest(world).case_sha256
    assert main(["replay", name[:12], *world.words]) == 0
    at = world.database.read(
        lambda c: c.execute(
            select(LEDGER_ENTRY.c.position).where(LEDGER_ENTRY.c.kind == "valuation")
        ).scalars().all()[-1]
    )  # fmt: skip
    assert main(["replay", str(at), *world.words]) == 0
    said = capsys.readouterr().out
    assert all(gpu.serial in said for gpu in world.host.gpus)
    assert main(["replay", str(at), world.host.gpus[1].serial, *world.words]) == 0
    said = capsys.readouterr().out
    assert [gpu.serial in said for gpu in world.host.gpus] == [False, True, False, False]
    assert main(["replay", "0" * 8 + "a", *world.words]) == 1
    assert "no case begins with" in capsys.readouterr().err
    assert main(["replay", "0", *world.words]) == 1
    assert "has no values" in capsys.readouterr().err


def test_a_record_that_the_store_changed_is_found(world, capsys):
    """Whoever can write to the store raises a value in the case's record."""
    name = newest(world).case_sha256
    where = LEDGER_ENTRY.c.kind == "case"
    row = world.database.read(lambda c: c.execute(select(LEDGER_ENTRY).where(where)).one())
    body = decode(row.body)
    fmv = str(newest(world).values.fmv.mid_micros).encode()
    payload = body.envelope.payload.replace(fmv, str(int(fmv) + 1).encode())
    assert payload != body.envelope.payload
    changed = encode(replace(body, envelope=replace(body.envelope, payload=payload)))
    job = update(LEDGER_ENTRY).where(LEDGER_ENTRY.c.position == row.position)
    world.database.write(lambda c: c.execute(job.values(body=changed)))
    assert main(["replay", name, *world.words]) == 1
    said = capsys.readouterr().out
    assert re.search(r"signature +FAILS", said)
    assert re.search(r"value +FAILS .*fmv.mid_micros", said)
    world.database.write(lambda c: c.execute(job.values(body=row.body)))


def test_the_market_is_fitted_again_and_comes_to_the_same(world, capsys):
    assert main(["replay", newest(world).case_sha256, "--refit", *world.words]) == 0
    assert re.search(r"refit +holds", capsys.readouterr().out)


def test_a_refit_of_other_rows_is_another_snapshot(world, capsys):
    world.database.write(lambda c: c.exec_driver_sql("DELETE FROM market_row WHERE id = 1"))
    assert main(["replay", newest(world).case_sha256, "--refit", *world.words]) == 1
    assert re.search(r"refit +FAILS .*rows", capsys.readouterr().out)


def test_the_same_day_writes_nothing_anew_and_the_next_one_one_case(world):
    lines, cases = count(world, "valuation"), count(world, "case")
    for minutes in (1, 2, 3):
        world.tick(world.host.now_ms + minutes * 60_000)
    assert (count(world, "valuation"), count(world, "case")) == (lines, cases)
    world.restarted()
    world.tick(world.host.now_ms + 4 * 60_000)
    assert count(world, "case") == cases  # lines are told again after a restart, cases are not
    world.host.now_ms += DAY_MS
    world.take(world.host, world.host.seal())
    world.tick(world.host.now_ms)
    assert count(world, "case") == cases + 1


def test_the_last_good_fit_ages_and_its_interval_widens(world):
    """No new rows, no new fit: the middle stays where prices stood, and less and less is known."""
    spreads, lent = [], []
    for days in (0, 20, 60, 120):
        book = world.tick(world.host.now_ms + days * DAY_MS)
        valuation = next(iter(book.lines.values())).valuation
        fmv = valuation.values.fmv
        spreads.append(fmv.high.micros * 1_000_000 // fmv.low.micros)
        lent.append(valuation.lending.micros)
    assert spreads == sorted(set(spreads))
    assert lent == sorted(lent, reverse=True)


def test_an_override_of_two_people_appears_and_expires(tmp_path):
    with Lives(tmp_path) as books:
        host = books.machine(gpus=GPUS)
        serials = [gpu.serial for gpu in host.host.gpus]
        books.loan(serials, originated_at="2026-09-01T00:00:00Z")
        books.show(host)
        before = books.tick(host.now_ms)
        (plain,) = {line.valuation.values.fmv.mid for line in before.lines.values()}
        until_ms = host.now_ms + 2 * DAY_MS
        stated = StatedValue(fmv_usd_micros=17_500_000_000, until_ms=until_ms)
        books.sign(
            "value_override", serials[0], now_ms=host.now_ms, by=("lena", "luis"), value=stated
        )
        fmv = worth(books, host.now_ms + HOUR_MS)
        assert fmv[serials[0]] == Usd(17_500_000_000)
        assert {fmv[one] for one in serials[1:]} == {plain}
        (case,) = [case for case in books.pipeline.book.cases.values() if case.override is not None]
        assert case.override.signed_by == ("lena", "luis")
        assert case.override.until == day_of(until_ms - 1)
        # To the millisecond: nothing else has changed in the store.
        assert worth(books, until_ms - 1)[serials[0]] == Usd(17_500_000_000)
        assert worth(books, until_ms)[serials[0]] == plain


def worth(books, now_ms):
    book = books.tick(now_ms)
    return {line.asset.serial: line.valuation.values.fmv.mid for line in book.lines.values()}
