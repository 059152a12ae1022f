"""From rows to a fit and its records, over a real store; feeds that are down, and fits that fail."""

from __future__ import annotations

import csv
import io
import json
import random
from datetime import date, timedelta

import msgspec
import pytest
from sqlalchemy import func, select

from assay_core import merkle
from assay_core.instants import DAY_MS
from assay_core.price_proof import Proof, holds
from assay_core.seal import ENTRY_TYPE
from assay_valuer.cli import main
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.ledger.read import entries_from
from assay_valuer.market.observations import Market, read_observations
from assay_valuer.market.quotes import Rejected
from assay_valuer.market.snapshot import snapshot_of
from assay_valuer.market_desk import EPOCH_DAY, MarketDesk, read_snapshot
from assay_valuer.market_store import (
    BODY_BYTES_MAX,
    FeedState,
    add_rows,
    count_rejected,
    load_feeds,
    load_rejected,
    load_rows,
    newest_parameters,
    newest_snapshot,
    note_feed,
    unread_cells,
)
from assay_valuer.registry import import_loan
from assay_valuer.store.schema import MARKET_ROW
from assay_valuer.valuation import parameters as fitted
from assay_valuer.valuation.parameters import Parameters
from tests.fakes.collateral import loan_text
from tests.fakes.ledger import FakeLedger
from tests.fakes.price_files import rental_file, rental_row, rentals, resale_file, resales

LAST_DAY = date(2024, 12, 5)
NOW = (LAST_DAY.toordinal() - EPOCH_DAY) * DAY_MS + 3_600_000


def cells(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def fit_nothing(snapshot, previous, day) -> Parameters:
    """A fit that says only what it was given."""
    return Parameters(
        made_day=day,
        snapshot_sha256=snapshot.sha256,
        previous_sha256=None if previous is None else previous.sha256,
        code="test/1",
        products=(),
        classes=(),
    )


@pytest.fixture
def ledger(tmp_path):
    ledger = FakeLedger(tmp_path)
    yield ledger
    ledger.database.close()


def fill(ledger, feed="gpus", rows=None, market=Market.RENTAL, now=NOW) -> int:
    found = cells(rental_file(rentals())) if rows is None else rows
    return ledger.database.write(lambda c: add_rows(c, feed, market, found, now))


def all_entries(ledger):
    return ledger.database.read(lambda c: list(entries_from(c, 0)))


def records(ledger, kind: str) -> list[dict]:
    found = [one for one in all_entries(ledger) if one.kind == kind]
    return [json.loads(entry.body.envelope.payload) for entry in found]


# ---------------------------------------------------------------------------- the store


def test_a_row_is_kept_once_for_each_feed_and_content(ledger):
    rows = cells(rental_file(rentals()))
    assert fill(ledger, rows=rows) == len({json.dumps(row) for row in rows})
    assert fill(ledger, rows=rows[::-1]) == 0
    assert fill(ledger, rows=[rows[0] | {"usd_per_gpu_hour": "9"}]) == 1
    assert fill(ledger, feed="another", rows=rows[:10]) == 10
    stored = ledger.database.read(load_rows)
    assert [row.id for row in stored] == sorted(row.id for row in stored)
    assert dict(stored[0].cells) == rows[0]
    assert [r.id for r in ledger.database.read(lambda c: load_rows(c, stored[4].id, 3))] == [
        row.id for row in stored[5:8]
    ]


def test_a_row_that_nobody_could_keep_is_kept_cut_and_one_that_is_none_with_its_reason(ledger):
    huge = {"date": "2024-01-01", "accelerator": "x" * BODY_BYTES_MAX}
    odd = {"date": "2024-01-01", "provider": "a\ud800b", "accelerator": "H100", "kind": "spot"}
    unread = unread_cells(Rejected(7, "columns", "has more fields than the first line"))
    assert fill(ledger, rows=[huge, odd, unread]) == 3
    MarketDesk(ledger.database, ledger.signer, fit_nothing).refresh(NOW)
    by_reason = {row.reason: row for row in ledger.database.read(load_rejected)}
    assert set(by_reason) == {"text", "price", "columns"}
    assert "8192 bytes" in by_reason["text"].detail
    assert by_reason["columns"].detail == "has more fields than the first line"
    size = ledger.database.read(
        lambda c: c.execute(select(func.max(func.length(MARKET_ROW.c.body))))
    ).scalar()
    assert size <= BODY_BYTES_MAX


def test_how_a_feed_was_found_replaces_how_it_was_found_before(ledger):
    first = FeedState(name="gpus", asked_ms=1, answered_ms=1, changed_ms=1, etag='"a"')
    second = FeedState(name="gpus", asked_ms=2, answered_ms=1, changed_ms=1, error="x" * 9999)
    for state in (first, second):
        ledger.database.write(lambda c, state=state: note_feed(c, state))
    found = ledger.database.read(load_feeds)["gpus"]
    assert (found.asked_ms, found.etag, len(found.error)) == (2, None, 512)


# ---------------------------------------------------------------------------- the desk


def test_a_refresh_writes_verdicts_snapshot_and_fit_with_a_signed_record_of_both(ledger):
    lie = rental_row("2024-11-28", 0.01, "liar|H100|SXM|8|on_demand|eu")
    fill(ledger)
    fill(ledger, "hardware", cells(resale_file(resales())), Market.RESALE)
    fill(ledger, "lies", cells(rental_file([lie])))
    done = MarketDesk(ledger.database, ledger.signer, fit_nothing).refresh(NOW)
    stored = ledger.database.read(newest_snapshot)
    assert stored.sha256 == done.snapshot.sha256
    assert stored.summary.rejected == {"lies": {"outlier": 1}}
    assert (
        sum(stored.summary.counted.values()) + 1
        == ledger.database.read(
            lambda c: c.execute(select(func.count()).select_from(MARKET_ROW))
        ).scalar()
    )
    assert ledger.database.read(count_rejected) == {"outlier": 1}
    # The snapshot is what the same rows give in files, whatever their order.
    today = LAST_DAY.toordinal()
    rows = random.Random(1).sample([*rentals(), lie], len(rentals()) + 1)
    rental = read_observations(rental_file(rows), "r", Market.RENTAL, today)
    resale = read_observations(resale_file(resales()), "h", Market.RESALE, today)
    assert snapshot_of(rental, resale, today).sha256 == stored.sha256
    # The ledger names the snapshot and has the fit in full, signed by the ledger's key.
    (of_snapshot,) = records(ledger, "market_snapshot")
    assert of_snapshot["sha256"] == stored.sha256
    (of_fit,) = records(ledger, "market_parameters")
    kept = fitted.from_json(of_fit["parameters"])
    assert kept == ledger.database.read(newest_parameters) == done.parameters
    assert (of_fit["sha256"], of_fit["snapshot_sha256"]) == (kept.sha256, stored.sha256)
    assert {one.body.envelope.payload_type for one in all_entries(ledger)} == {ENTRY_TYPE}
    ledger.check()


def test_nothing_happens_until_a_row_comes_a_day_begins_or_a_loan_names_a_seller(ledger):
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    assert desk.refresh(NOW) is None  # no rows: nothing is invented
    fill(ledger)
    assert desk.refresh(NOW) is not None
    assert desk.refresh(NOW + 1) is None
    assert MarketDesk(ledger.database, ledger.signer, fit_nothing).refresh(NOW + 1) is None
    fill(ledger, rows=cells(rental_file([rental_row("2024-12-05", 3.01)])))
    assert desk.refresh(NOW + 2) is not None
    assert desk.refresh(NOW + DAY_MS) is not None
    loan = read_loan(loan_text(["S0001"], extra="sellers: [Vast]\n"), "loan.yaml")
    ledger.database.write(lambda c: import_loan(c, loan, "loan.yaml", ledger.signer, NOW))
    done = desk.refresh(NOW + DAY_MS + 1)
    assert done.summary.interested == ("Vast",)
    assert set(done.summary.rejected["gpus"]) == {"interested"}
    assert {row.cells["provider"] for row in ledger.database.read(load_rejected)} == {"vast"}


def test_with_all_feeds_down_the_last_snapshot_stays_and_grows_old(ledger):
    fill(ledger)
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    first = desk.refresh(NOW)
    down = FeedState(name="gpus", asked_ms=NOW + 9 * DAY_MS, answered_ms=NOW, error="timed out")
    ledger.database.write(lambda c: note_feed(c, down))
    later = desk.refresh(NOW + 9 * DAY_MS)
    assert later.snapshot.sha256 == first.snapshot.sha256
    assert later.snapshot.day == first.snapshot.day + 9
    assert max(quote.day for quote in later.snapshot.rental.quotes) <= LAST_DAY.toordinal()
    assert later.parameters.previous_sha256 == first.parameters.sha256


def test_what_a_clock_that_ran_ahead_made_is_not_the_newest_until_its_time_has_come(ledger):
    fill(ledger)
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    ahead = desk.refresh(NOW + 400 * DAY_MS).parameters
    back = desk.refresh(NOW).parameters
    assert back.made_day == ahead.made_day - 400
    assert desk.refresh(NOW + 1) is None  # once, and not at every look
    read = ledger.database.read
    assert read(lambda c: newest_parameters(c, NOW + 1)).sha256 == back.sha256
    assert read(lambda c: newest_snapshot(c, NOW)).made_ms == NOW


def test_a_day_that_is_fitted_twice_goes_on_from_the_day_before_both_times(ledger):
    fill(ledger)
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    before = desk.refresh(NOW).parameters.sha256
    seen = []
    for hour in range(3):
        row = rental_row("2024-12-05", 3.01 + hour)
        fill(ledger, rows=cells(rental_file([row])))
        seen.append(desk.refresh(NOW + DAY_MS + hour).parameters.previous_sha256)
    assert seen == [before] * 3


def test_a_fit_that_fails_leaves_the_last_one_in_use_and_says_why(ledger):
    fill(ledger)
    good = MarketDesk(ledger.database, ledger.signer, fit_nothing).refresh(NOW).parameters

    def failing(snapshot, previous, day):
        raise ArithmeticError("singular")

    desk = MarketDesk(ledger.database, ledger.signer, failing)
    done = desk.refresh(NOW + DAY_MS)
    assert done.parameters is None
    stored = ledger.database.read(newest_snapshot)
    assert stored.summary.fit_error == "the fit failed: ArithmeticError: singular"
    assert ledger.database.read(newest_parameters) == good
    assert len(records(ledger, "market_parameters")) == 1
    # The same process does not try again until something changes; another one does.
    assert desk.refresh(NOW + DAY_MS + 1) is None
    again = MarketDesk(ledger.database, ledger.signer, fit_nothing).refresh(NOW + DAY_MS + 2)
    assert again.parameters.previous_sha256 == good.sha256


def test_a_fit_too_large_for_the_ledger_is_no_fit(ledger):
    fill(ledger)

    def enormous(snapshot, previous, day):
        one = fit_nothing(snapshot, previous, day)
        return msgspec.structs.replace(one, code="x" * 4_000_000)

    done = MarketDesk(ledger.database, ledger.signer, enormous).refresh(NOW)
    assert done.parameters is None
    assert "bytes, more than" in done.summary.fit_error


def test_what_another_process_wrote_meanwhile_is_not_overwritten(ledger):
    fill(ledger)

    def overtaken(snapshot, previous, day):
        other = MarketDesk(ledger.database, ledger.signer, fit_nothing)
        assert other.refresh(NOW) is not None
        return fit_nothing(snapshot, previous, day)

    desk = MarketDesk(ledger.database, ledger.signer, overtaken)
    assert desk.refresh(NOW + 5) is None
    assert ledger.database.read(newest_snapshot).made_ms == NOW
    assert len(records(ledger, "market_snapshot")) == 1


def test_a_row_dated_ahead_counts_when_its_day_has_come(ledger):
    fill(ledger, rows=cells(rental_file([*rentals(), rental_row("2024-12-07", 3.01)])))
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    assert desk.refresh(NOW).summary.rejected == {"gpus": {"date.future": 1}}
    assert desk.refresh(NOW + DAY_MS).summary.rejected == {"gpus": {"date.future": 1}}
    assert desk.refresh(NOW + 2 * DAY_MS).summary.rejected == {}
    assert ledger.database.read(count_rejected) == {}


@pytest.mark.parametrize("seed", range(4))
def test_in_steps_or_at_once_the_same_counts(ledger, tmp_path, seed):
    """Rows in any pieces and any order, through one desk that remembers, or through a new one."""
    luck = random.Random(seed)
    rows = rentals()
    for lie in luck.sample(range(len(rows)), 25):
        parts = rows[lie].split(",")
        parts[5] = str(float(parts[5]) * luck.choice([8, 1000, 0.01, -1]))
        rows[lie] = ",".join(parts)
    luck.shuffle(rows)
    desk = MarketDesk(ledger.database, ledger.signer, fit_nothing)
    at = 0
    while at < len(rows):
        size = luck.choice([1, 40, 200])
        fill(ledger, rows=cells(rental_file(rows[at : at + size])))
        done = desk.refresh(NOW + at)
        at += size
    stored = ledger.database.read(newest_snapshot)
    assert done.snapshot.sha256 == stored.sha256
    assert read_snapshot(ledger.database, stored).sha256 == stored.sha256
    whole = read_observations(rental_file(rows), "r", Market.RENTAL, LAST_DAY.toordinal())
    empty = read_observations("", "h", Market.RESALE, LAST_DAY.toordinal())
    assert snapshot_of(whole, empty, LAST_DAY.toordinal()).sha256 == stored.sha256
    assert ledger.database.read(count_rejected) == whole.reasons()


# ---------------------------------------------------------------------------- the commands


@pytest.fixture
def valuer(tmp_path, capsys):
    """Runs a command against a fresh state folder; its exit code, output and messages."""
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")

    def command(*words):
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert command("init")[0] == 0
    return command


@pytest.fixture
def files(tmp_path) -> tuple[str, str]:
    """The made-up market, a year and a half ago until now."""
    shift = timedelta(days=date.today().toordinal() - LAST_DAY.toordinal())

    def now(rows: list[str]) -> list[str]:
        return [(date.fromisoformat(row[:10]) + shift).isoformat() + row[10:] for row in rows]

    (tmp_path / "rental.csv").write_text(
        rental_file([*now(rentals()), rental_row("2024-01-01", "0")])
    )
    (tmp_path / "resale.csv").write_text(resale_file(now(resales())))
    return str(tmp_path / "rental.csv"), str(tmp_path / "resale.csv")


def test_from_files_to_a_fit_and_a_proof_by_command(valuer, files):
    rental, resale = files
    assert "there are no rows yet" in valuer("market", "refresh")[2]
    code, _, said = valuer("market", "import", rental, "--rental")
    count = len(rentals()) + 1
    assert (code, f"{count} rows, {count} of them new" in said) == (0, True)
    assert valuer("market", "import", resale, "--resale", "--feed", "auctions")[0] == 0
    assert "0 of them new" in valuer("market", "import", rental, "--rental")[2]
    assert valuer("market", "show")[0] == 1  # nothing was judged yet
    code, out, said = valuer("market", "refresh", "--json")
    assert code == 0, said
    sha256 = json.loads(out)["snapshot_sha256"]
    assert valuer("market", "refresh")[0] == 0
    code, out, _ = valuer("market", "show", "--json")
    shown = json.loads(out)
    assert (code, shown["snapshot"]["sha256"]) == (0, sha256)
    assert {feed["name"] for feed in shown["feeds"]} == {"manual", "auctions"}
    assert shown["parameters"]["snapshot_sha256"] == sha256
    code, out, said = valuer("market", "show")
    assert (code, "auctions" in out, "H100 SXM5" in out) == (0, True, True)
    rejected = json.loads(valuer("market", "rejected", "--json")[1])["rejected"]
    assert [(row["reason"], row["cells"]["usd_per_gpu_hour"]) for row in rejected] == [
        ("price.not_positive", "0")
    ]
    assert json.loads(valuer("market", "rejected", "--reason", "jump", "--json")[1]) == {
        "rejected": []
    }
    assert "price.not_positive" in valuer("market", "rejected", "--reason", "jump")[2]
    code, out, _ = valuer("market", "prove", "1")
    proof = msgspec.json.decode(out, type=Proof)
    assert (code, proof.snapshot_sha256, holds(proof)) == (0, sha256, True)
    # By hand, with nothing of the product but SHA-256 and RFC 9162's check.
    leaf = merkle.leaf_hash(proof.line.encode())
    path = [bytes.fromhex(one) for one in proof.path]
    assert merkle.root_from_path(leaf, proof.index, proof.size, path).hex() == sha256
    code, _, said = valuer("market", "prove", str(rejected[0]["id"]))
    assert (code, "is not a price" in said) == (1, True)
    assert valuer("market", "prove", "99999")[0] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.csv", "--rental"), "No such file"),
        (("valuer.yaml", "--rental"), "must end in .csv"),
        (("rental.csv", "--resale"), "no column"),
        (("rental.csv", "--rental", "--feed", "Bad Name"), "--feed"),
        (("rental.csv", "--rental", "--feed", "hourly"), "has a feed of this name"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_and_nothing_is_written(
    valuer, files, tmp_path, words, message
):
    with (tmp_path / "valuer.yaml").open("a") as config:
        config.write("market: {feeds: [{name: hourly, market: rental, path: /nowhere.csv}]}\n")
    code, _, said = valuer("market", "import", str(tmp_path / words[0]), *words[1:])
    assert (code, message in said) == (2, True), said
    assert json.loads(valuer("market", "show", "--json")[1])["feeds"] == []
