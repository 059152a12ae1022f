"""What cannot be had or asked is named: tools that tests need, and advisories nobody gave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from scripts import audit, tools

ROOT = Path(__file__).resolve().parent.parent.parent

NEEDS = """
def test_needs_a_tool(requires_tool):
    requires_tool("a-tool-nobody-has")

def test_needs_what_no_set_up_brings(leave_out):
    leave_out("there is no GPU here")

def test_needs_nothing():
    pass
"""


def run_tests(folder: Path, test: str, ci: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "conftest.py")
    (folder / "test_needs.py").write_text(NEEDS)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--rootdir={folder}", "-k", test, str(folder)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_tool_is_named_with_its_reason(tmp_path):
    done = run_tests(tmp_path, "tool or nothing", ci="")
    assert done.returncode == 0, done.stdout
    assert "left out: test_needs.py::test_needs_a_tool because a-tool-nobody-has" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout


def test_a_missing_tool_is_a_failure_under_ci(tmp_path):
    done = run_tests(tmp_path, "tool or nothing", ci="true")
    assert done.returncode == 1
    assert "1 failed, 1 passed" in done.stdout
    assert "a-tool-nobody-has is not available" in done.stdout


def test_what_no_set_up_brings_is_named_and_never_a_failure(tmp_path):
    done = run_tests(tmp_path, "brings", ci="true")
    assert done.returncode == 0
    assert "because there is no GPU here" in done.stdout


def test_a_tool_is_located_or_its_absence_explained():
    assert isinstance(tools.locate("sh"), Path)
    missing = tools.locate("a-tool-nobody-has")
    assert isinstance(missing, tools.Missing)
    assert "make tools" in missing.why


def pip_audit(*rows: dict) -> str:
    return json.dumps({"dependencies": rows, "fixes": []})


def test_packages_that_were_answered_for_are_audited():
    rows = pip_audit({"name": "grpcio", "version": "1", "vulns": []})
    found = audit.read_pip_audit(rows, "", ["grpcio"])
    assert audit.sentences(found) == ["audited (Python): 1 packages, no known vulnerability"]


def test_a_known_vulnerability_is_named_beside_what_was_not_audited():
    rows = pip_audit(
        {"name": "PyYAML", "version": "5.3", "vulns": [{"id": "PYSEC-2021-142"}]},
        {"name": "rich", "skip_reason": "Dependency not found"},
    )
    found = audit.read_pip_audit(rows, "", ["pyyaml", "rich", "httpx"])
    first, second = audit.sentences(found)
    assert first == "VULNERABLE (Python): PyYAML 5.3: PYSEC-2021-142"
    assert second.startswith("NOT AUDITED (Python): 2 of 3 packages")
    assert second.endswith("rich, httpx")


def test_no_answer_is_not_a_clean_bill():
    for found in (
        audit.read_pip_audit("", "ERROR: connection refused", ["rich"]),
        audit.read_npm_audit('{"error": {}}', "npm error audit endpoint failed", ["rich"]),
        audit.read_npm_audit("", "", ["rich"]),
    ):
        (line,) = audit.sentences(found)
        assert line.startswith("NOT AUDITED")
        assert line.endswith("rich")


def test_npm_names_what_is_vulnerable():
    out = json.dumps({"vulnerabilities": {"tmp": {"severity": "low"}}})
    found = audit.read_npm_audit(out, "", ["tmp", "solc"])
    assert audit.sentences(found) == ["VULNERABLE (npm): tmp: low"]
