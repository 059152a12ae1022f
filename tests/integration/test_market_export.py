"""From files to rows that another program, which knows nothing of the valuer, takes for the snapshot."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date, timedelta

import pytest
from sqlalchemy import create_engine, text

from assay_valuer.cli import main
from tests.fakes.price_files import rental_file, rental_row, rentals, resale_file, resales

AUDITOR = (
    "import sys\n"
    "sys.modules['assay_valuer'] = None\n"
    "from assay_audit.cli import main\n"
    "sys.exit(main(sys.argv[1:]))"
)
SHIFT = timedelta(days=date.today().toordinal() - date(2024, 12, 5).toordinal())


def now(rows: list[str]) -> list[str]:
    """The made-up market's last year and a half, ending today."""
    return [(date.fromisoformat(row[:10]) + SHIFT).isoformat() + row[10:] for row in rows]


def assay(*words):
    """The auditor's command, in a process of its own where there is no valuer."""
    done = subprocess.run(
        [sys.executable, "-c", AUDITOR, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def valuer(tmp_path, capsys):
    """Runs a command against a fresh state folder; its exit code, output and messages."""
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")

    def command(*words):
        code = main([*map(str, words), "--config", str(config)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert command("init")[0] == 0
    return command


@pytest.fixture
def fitted(valuer, tmp_path):
    """A valuer with a snapshot of both markets, one row of which does not count; its name."""
    rental, resale = tmp_path / "rental.csv", tmp_path / "resale.csv"
    rental.write_text(rental_file([*now(rentals()), rental_row("2024-01-01", "0")]))
    resale.write_text(resale_file(now(resales())))
    assert valuer("market", "import", rental, "--rental")[0] == 0
    assert valuer("market", "import", resale, "--resale")[0] == 0
    code, out, said = valuer("market", "refresh", "--json")
    assert code == 0, said
    return json.loads(out)["snapshot_sha256"]


def test_rows_go_from_files_to_whoever_doubts_them(valuer, fitted, tmp_path):
    out = tmp_path / "rows.jsonl"
    code, told, said = valuer("market", "export", "--out", out, "--json")
    count = len(rentals()) + len(resales())
    assert (code, json.loads(told)["rows"], f"--root {fitted}" in said) == (0, count, True)
    code, told, said = assay("verify", "prices", out, "--root", fitted, "--json")
    assert code == 0, said
    assert json.loads(told)["rows"] == {"rental": len(rentals()), "resale": len(resales())}
    row = json.loads(out.read_bytes().splitlines()[0])
    rows = [line.split(",") for line in now(rentals())]
    assert [row[1], row[2], row[3]] in [[one[0], float(one[5]), one[1]] for one in rows]

    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:5] + lines[6:]))
    assert assay("verify", "prices", out, "--root", fitted)[0] == 1


def test_one_row_is_proved_by_its_number_or_by_its_line(valuer, fitted, tmp_path):
    out, proof = tmp_path / "rows.jsonl", tmp_path / "proof.json"
    assert valuer("market", "export", "--out", out)[0] == 0
    line = out.read_text().split("\n")[7]
    for words in (("1",), ("--line", line)):
        code, told, said = valuer("market", "prove", *words)
        assert code == 0, said
        proof.write_text(told)
        code, told, said = assay("verify", "price", proof, "--root", fitted)
        assert code == 0, said
    assert f"line 8 of {len(out.read_text().splitlines())}" in told
    code, told, said = valuer("market", "prove", "--line", line.replace("20", "19", 1))
    assert (code, told, "no row that counts" in said) == (1, "", True)
    assert valuer("market", "prove")[0] == 2
    assert valuer("market", "prove", "1", "--line", line)[0] == 2


def test_a_row_that_the_gate_left_out_is_not_proved_though_another_says_the_same(
    valuer, fitted, tmp_path
):
    again = ("market", "import", tmp_path / "rental.csv", "--rental", "--feed", "twin")
    assert valuer(*again)[0] == 0
    assert json.loads(valuer("market", "refresh", "--json")[1])["snapshot_sha256"] == fitted
    code, told, said = valuer("market", "prove", len(rentals()) + len(resales()) + 2)
    assert (code, told, "the same as row" in said) == (1, "", True), said


def test_an_earlier_snapshot_is_exported_by_its_name(valuer, fitted, tmp_path):
    more = tmp_path / "more.csv"
    series = "echo|H100|SXM|8|on_demand|eu"
    more.write_text(rental_file([rental_row(date.today().isoformat(), 3.0, series)]))
    assert valuer("market", "import", more, "--rental")[0] == 0
    newer = json.loads(valuer("market", "refresh", "--json")[1])["snapshot_sha256"]
    assert newer != fitted
    for name, words in ((newer, ()), (fitted, ("--snapshot", fitted.upper()))):
        out = tmp_path / f"{name}.jsonl"
        assert valuer("market", "export", "--out", out, *words)[0] == 0
        assert assay("verify", "prices", out, "--root", name)[0] == 0
    assert assay("verify", "prices", tmp_path / f"{newer}.jsonl", "--root", fitted)[0] == 1
    new = str(
        len(rentals()) + len(resales()) + 2
    )  # counted from one, after a row that has no price
    assert valuer("market", "prove", new)[0] == 0
    code, _, said = valuer("market", "prove", new, "--snapshot", fitted)
    assert (code, "it is newer than the snapshot" in said) == (1, True)
    code, told, _ = valuer("market", "prove", "1", "--snapshot", fitted)
    assert (code, json.loads(told)["snapshot_sha256"]) == (0, fitted)


def test_what_is_not_there_is_not_exported_and_nothing_is_overwritten(valuer, tmp_path):
    out = tmp_path / "rows.jsonl"
    code, _, said = valuer("market", "export", "--out", out)
    assert (code, "no snapshot yet" in said, out.exists()) == (1, True, False)
    code, _, said = valuer("market", "export", "--out", out, "--snapshot", "ab" * 32)
    assert (code, "there is no snapshot abab" in said) == (1, True)
    assert valuer("market", "prove", "1")[0] == 1


def test_a_file_that_is_there_stays_as_it_is(valuer, fitted, tmp_path):
    out = tmp_path / "rows.jsonl"
    out.write_text("mine")
    code, _, said = valuer("market", "export", "--out", out)
    assert (code != 0, "exists already" in said, out.read_text()) == (True, True, "mine")


def test_a_store_that_was_changed_gives_no_rows_and_no_proof(valuer, fitted, tmp_path):
    engine = create_engine(f"sqlite:///{next((tmp_path / 'state').glob('*.db'))}")
    with engine.begin() as connection:
        dearer = '"usd_per_gpu_hour":"1'
        changed = f"UPDATE market_row SET body = replace(body, '{dearer[:-1]}', '{dearer}')"
        assert connection.execute(text(f"{changed} WHERE id = 2")).rowcount == 1
    engine.dispose()
    out = tmp_path / "rows.jsonl"
    code, _, said = valuer("market", "export", "--out", out)
    assert (code != 0, f"not {fitted}" in said, out.exists()) == (True, True, False)
    assert valuer("market", "prove", "1")[0] != 0
