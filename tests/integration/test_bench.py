"""The bench says what it measured, in the shape others read. What it measured is not tested."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUN = [sys.executable, str(ROOT / "bench" / "run.py")]
KEYS = {"name", "value", "unit", "bound", "ratio", "target", "met"}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, check=False)


def test_a_measurement_is_written_and_printed_in_one_shape(tmp_path):
    output = tmp_path / "bench.json"
    done = run("--only", "ledger_kb_per_gpu_day", "--json", "--output", str(output))
    assert done.returncode == 0, done.stderr
    rows = json.loads(output.read_text())
    assert json.loads(done.stdout) == rows
    assert [row["name"] for row in rows] == ["ledger_kb_per_gpu_day"]
    (row,) = rows
    assert row.keys() == KEYS
    assert row["bound"] < row["value"], "a ledger cannot be smaller than its random bytes"
    assert row["met"] is (row["value"] <= row["target"])


def test_a_name_that_there_is_not_is_refused(tmp_path):
    done = run("--only", "speed", "--output", str(tmp_path / "none.json"))
    assert done.returncode == 2
    assert "ledger_kb_per_gpu_day" in done.stderr
    assert not list(tmp_path.iterdir())


def test_help_shows_an_example():
    done = run("--help")
    assert done.returncode == 0
    assert "example: bench/run.py --only" in done.stdout
