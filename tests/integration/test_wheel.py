"""What users receive: the built wheel, with no source tree beside it, does what it must."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden"
NOT_FOR_AUDITORS = (
    "grpc",
    "sqlalchemy",
    "rich",
    "structlog",
    "prometheus_client",
    "pynvml",
    "httpx",
    "eth_account",
    "zstandard",
    "assay_agent",
    "assay_valuer",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(wheel: Path, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs code that sees the wheel's packages before any others."""
    start = f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
    return subprocess.run(
        [sys.executable, "-I", "-c", start + code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=wheel,
    )


def test_an_auditor_needs_core_alone(wheel):
    code = f"""
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {NOT_FOR_AUDITORS!r}:
            raise ImportError(name + " is not for auditors")
sys.meta_path.insert(0, Blocked())
from assay_audit import cli
assert cli.__file__.startswith({str(wheel)!r}), cli.__file__
sys.exit(cli.main(sys.argv[1:]))
"""
    window, trust = str(GOLDEN / "window_v1.json"), str(GOLDEN / "trust.json")
    done = python(wheel, code, "verify", "window", window, "--trust", trust)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "All steps hold."


def test_the_roots_of_makers_of_tpms_come_along(wheel):
    code = f"""
from assay_core.evidence import ek
assert ek.__file__.startswith({str(wheel)!r}), ek.__file__
print(len(ek.TPM_ROOTS))
"""
    done = python(wheel, code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "16\n", "")


def test_the_valuer_brings_its_migrations_its_dictionary_and_its_contract(wheel, tmp_path):
    config = tmp_path / "valuer.yaml"
    config.write_text(json.dumps({"state_dir": str(tmp_path / "state")}))
    code = f"""
from assay_valuer import cli
from assay_valuer.ledger import body
from assay_valuer.oracle.hub import artefact
assert cli.__file__.startswith({str(wheel)!r}), cli.__file__
assert artefact().abi
sys.exit(cli.main(["init", "--config", sys.argv[1]]))
"""
    done = python(wheel, code, str(config))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "state" / "valuer.db").exists()


def test_the_agent_starts(wheel):
    code = f"""
from assay_agent import cli
assert cli.__file__.startswith({str(wheel)!r}), cli.__file__
sys.exit(cli.main(["--version"]))
"""
    done = python(wheel, code)
    assert done.returncode == 0
    assert done.stdout.startswith("assay-agent ")


@pytest.mark.parametrize(
    ("package", "absent", "extra"),
    [
        ("assay_agent", "pynvml", "gpu-assay[agent]"),
        ("assay_valuer", "alembic", "gpu-assay[valuer"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(wheel, package, absent, extra):
    code = f"""
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {absent!r}:
            raise ModuleNotFoundError(name, name={absent!r})
sys.meta_path.insert(0, Absent())
from importlib import util
find = util.find_spec
util.find_spec = lambda name, package=None: None if name == {absent!r} else find(name, package)
from {package} import cli
sys.exit(cli.main(["--version"]))
"""
    done = python(wheel, code)
    assert done.returncode == 3
    assert f"not installed: {absent}; install {extra}" in done.stderr


def test_an_auditor_without_the_manifests_extra_is_told_so(wheel, tmp_path):
    """Not by a traceback: a report is checked all the same, a manifest cannot be."""
    (tmp_path / "any").write_bytes(b"")
    code = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("lxml", "signxml"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from assay_audit import cli
sys.exit(cli.main(["evidence", "verify", "--report", sys.argv[1], "--rim", sys.argv[1]]))
"""
    done = python(wheel, code, str(tmp_path / "any"))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("assay: --rim needs the extra `rim`")
