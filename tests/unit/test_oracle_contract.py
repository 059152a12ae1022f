"""The checked-in ABI and bytecode are what the checked-in source compiles to."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARTEFACT = ROOT / "valuer/assay_valuer/oracle/ValuationHub.json"
SOURCE = ROOT / "contracts/src/ValuationHub.sol"
FAKE = ROOT / "tests/fakes/LoanRouterFake.json"
DEPLOYED_BYTES_MAX = 24_576  # EIP-170


@pytest.mark.parametrize(
    ("artefact", "source"), [(ARTEFACT, SOURCE), (FAKE, FAKE.with_suffix(".sol"))]
)
def test_the_artefact_is_of_this_source(artefact, source):
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert json.loads(artefact.read_text())["sourceSha256"] == digest


@pytest.mark.parametrize(("artefact", "options"), [(ARTEFACT, ()), (FAKE, ("--fake",))])
def test_recompiling_gives_the_same_bytes(requires_tool, artefact, options):
    node = requires_tool("node")
    requires_tool("solc")
    done = subprocess.run(
        [str(node), "compile.mjs", "--stdout", *options],
        cwd=ROOT / "contracts", capture_output=True, check=False, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == artefact.read_text()


def test_the_hub_fits_a_chain():
    code = json.loads(ARTEFACT.read_text())["deployedBytecode"]
    assert 0 < len(bytes.fromhex(code[2:])) <= DEPLOYED_BYTES_MAX


def test_no_file_of_the_contracts_names_where_packages_come_from():
    lock = (ROOT / "contracts/package-lock.json").read_text()
    packages = {k: v for k, v in json.loads(lock)["packages"].items() if k}
    assert packages
    assert all("resolved" not in package for package in packages.values())
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "registry" not in lock
