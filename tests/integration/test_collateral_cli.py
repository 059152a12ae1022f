"""The commands over a real state folder, and the service's task over a real store."""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from assay_core.health import HealthState, pack
from assay_core.health.plausibility_view import Known
from assay_core.health.reconcile import Totals
from assay_core.instants import format_instant
from assay_core.leaves import Severity
from assay_valuer.cli import main
from assay_valuer.cli.common import flowing
from assay_valuer.config import load
from assay_valuer.desk import keep_the_book
from assay_valuer.service import ServiceContext
from assay_valuer.standing.notes import CODES, Note, Notes
from assay_valuer.state import open_state
from assay_valuer.store.schema import ASSET
from tests.fakes.collateral import NOW, PART, PRICES, loan_text, record

FIRST = ASSET.c.serial == "S0001"
SERIALS = ["S0001", "S0002"]
DAY_MS = 86_400_000
WAIT_MAX_S = 30


@pytest.fixture
def valuer(tmp_path, capsys):
    """Runs a command against a fresh state folder; its exit code, output and messages."""
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\ntick_s: 1\n")

    def command(*words):
        code = main([*words, "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    command.folder = tmp_path
    command.config = config
    assert command("init")[0] == 0
    return command


@pytest.fixture
def files(tmp_path):
    now_ms = int(time.time() * 1000)
    today = format_instant(now_ms - DAY_MS)[:10]
    (tmp_path / "prices.csv").write_text(PRICES.replace("2026-11-01", today))
    text = loan_text(SERIALS, originated_at=format_instant(now_ms - 10 * DAY_MS))
    (tmp_path / "loan.yaml").write_text(text)
    return str(tmp_path / "prices.csv"), str(tmp_path / "loan.yaml")


def test_prices_and_loans_are_imported_and_gpus_are_expected(valuer, files):
    prices, loan = files
    code, _, said = valuer("price", "import", prices)
    assert (code, "3 prices are in use" in said) == (0, True)
    code, _, said = valuer("loan", "import", loan)
    assert (code, "2 of them not seen yet" in said) == (0, True)
    code, shown, _ = valuer("gpu", "list", "--json")
    listed = json.loads(shown)["gpus"]
    assert code == 0
    assert [(one["serial"], one["board_part_number"]) for one in listed] == [
        (serial, PART) for serial in SERIALS
    ]
    assert [(one["loan"], one["seen_ms"], one["result"]) for one in listed] == [
        ("loan-1", None, None)
    ] * 2
    code, shown, said = valuer("value")
    assert code == 1
    assert "nothing has been valued yet" in said
    assert "S0001" in shown
    assert valuer("gpu", "list")[0] == 0


def test_a_price_that_nothing_has_and_a_price_from_the_future(valuer, tmp_path):
    table = tmp_path / "other.csv"
    table.write_text(PRICES.replace("H100,", "H101,"))
    code, _, said = valuer("price", "import", str(table))
    assert (code, "H101" in said) == (0, True)
    table.write_text(PRICES.splitlines()[0] + "\nH100,SXM5,used,1,2,3,2999-01-01,made up\n")
    code, _, said = valuer("price", "import", str(table))
    assert (code, "yet to come" in said) == (2, True)


def test_where_the_terminal_is_narrow_nothing_is_cut(valuer, files, monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    valuer("loan", "import", files[1])
    for command in (("gpu", "list"), ("value",)):
        shown = valuer(*command)[1]
        assert "\u2026" not in shown
        assert all(serial in shown for serial in SERIALS)


def test_one_gpu_is_shown_with_its_incidents_and_what_did_not_hang_together(
    valuer, files, monkeypatch
):
    valuer("loan", "import", files[1])
    code, shown, _ = valuer("gpu", "show", "S0001")
    assert (code, "not valued yet" in shown) == (0, True)
    open_, ended = record(), record(Severity.USER_ERROR, code=31, end_ms=NOW)
    note = Note(code=CODES[0], detail="Off by 9 J.", first_ms=NOW, last_ms=NOW, count=3)
    totals = Totals(at_ms=NOW, boot="aa", boottime_ms=1, energy_mj=77, ecc_corrected=5)
    notes = Notes(known=Known(totals=totals), findings=(note,))
    kept = {
        "health": pack(HealthState(records=(open_, ended))),
        "notes": msgspec.json.encode(notes).decode(),
    }
    state = open_state(load(valuer.config))
    state.database.write(lambda c: c.execute(ASSET.update().where(FIRST).values(**kept)))
    state.database.close()
    monkeypatch.setenv("COLUMNS", "200")
    listed = valuer("gpu", "list")[1]
    assert "1 degraded" in listed
    assert "user_error" not in listed
    shown = valuer("gpu", "show", "S0001")[1]
    for words in ("Xid 48", "Xid 31", "open", "Off by 9 J.", CODES[0], "energy mj", "77"):
        assert words in shown
    assert "boottime" not in shown
    code, shown, _ = valuer("gpu", "show", "S0001", "--json")
    (told,) = json.loads(shown)["gpus"]
    assert [one["severity"] for one in told["incidents"]] == ["degraded", "user_error"]
    assert told["findings"][0]["count"] == 3
    assert told["totals"]["ecc_corrected"] == 5
    monkeypatch.setenv("COLUMNS", "24")
    assert "\u2026" not in valuer("gpu", "show", "S0001")[1]
    code, _, said = valuer("gpu", "show", "nobody")
    assert (code, "there is no GPU nobody" in said) == (1, True)


def test_the_service_values_what_there_is_and_tells_prometheus(valuer, files):
    prices, loan = files
    valuer("price", "import", prices)
    registry = CollectorRegistry()

    async def serve():
        state = open_state(load(valuer.config))
        try:
            context = ServiceContext(state, registry, lambda: int(time.time() * 1000))
            task = asyncio.create_task(keep_the_book(context))
            await _until(lambda: registry.get_sample_value("assay_price_rows") == 3)
            assert valuer("loan", "import", loan)[0] == 0  # by another process, while it runs
            shown = {"loan": "loan-1", "simulated": "false"}
            await _until(lambda: registry.get_sample_value("assay_loan_debt_usd", shown))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            state.database.close()

    asyncio.run(serve())
    code, shown, _ = valuer("value", "--json")
    told = json.loads(shown)
    assert code == 0
    assert told["policy"]["name"] == "default"
    assert [one["result"]["presence"] for one in told["gpus"]] == ["expected"] * 2
    (position,) = [one["position"] for one in told["loans"]]
    assert (position["ltv_gross_bps"], position["values"], position["counted"]) == (None, None, 0)
    assert position["debt_micros"] > 100_000_000_000
    code, shown, said = valuer("value")
    assert code == 0
    assert "unknown" in shown
    assert "automated valuation" in said


async def _until(holds):
    deadline = time.monotonic() + WAIT_MAX_S
    while not holds():
        assert time.monotonic() < deadline, "the service did not get there"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("words", "change", "says"),
    [
        (
            ("price", "import"),
            ("H100,SXM5,used,18000", "H100,SXM5,used,18e3"),
            "prices.csv:2: low_usd",
        ),
        (("loan", "import"), ("day: 15", "day: 0"), "loan.yaml:6: repayment.day"),
    ],
)
def test_a_wrong_file_is_named_with_line_and_field_and_nothing_is_stored(
    valuer, files, words, change, says
):
    old, new = change
    path = files[0] if words[0] == "price" else files[1]
    with open(path, encoding="utf-8") as file:
        text = file.read()
    assert old in text
    with open(path, "w", encoding="utf-8") as file:
        file.write(text.replace(old, new))
    code, shown, said = valuer(*words, path)
    assert (code, shown) == (2, "")
    assert says in said
    assert json.loads(valuer("gpu", "list", "--json")[1]) == {"gpus": []}


def test_a_file_that_is_not_there_is_named(valuer):
    code, _, said = valuer("loan", "import", "/nonexistent/loan.yaml")
    assert code == 2
    assert said == "/nonexistent/loan.yaml: cannot be read: No such file or directory\n"


def test_what_check_says_is_a_line_each_where_nobody_looks(valuer, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    code, shown, _ = valuer("check")
    assert code == 1, "nothing runs"
    assert all(line.startswith(("ok ", "NO ")) for line in shown.splitlines())
    (listener,) = (line for line in shown.splitlines() if "enrolment listener" in line)
    assert listener.endswith("is `assay-valuer run` running?")


def test_words_of_a_persons_do_not_run_into_the_next_sentence():
    assert flowing(["It counts in full.", "Under way: new driver", "L0: by a key"]) == (
        "It counts in full. Under way: new driver. L0: by a key"
    )
    assert flowing([]) == ""
