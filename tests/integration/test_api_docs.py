"""docs/api.md: its examples are run as they stand, its configuration is read, its errors are the code's."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from assay_core.files import parse
from assay_valuer.api.bodies import BODY_BYTES_MAX
from assay_valuer.api.operations import OPERATIONS
from assay_valuer.api.problems import Code
from assay_valuer.api.tokens import Scope
from assay_valuer.config import ApiConfig, ValuerConfig
from assay_valuer.credit import loan as loan_file
from tests.fakes.api import FakeApi
from tests.fakes.collateral import loan_file as made_loan

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
SERIAL = "1652222012345"


@pytest.fixture
def api(tmp_path):
    made = FakeApi(tmp_path, time.time_ns() // 1_000_000).start()
    yield made
    made.stop()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_run_as_they_stand(api, tmp_path, leave_out):
    """With a shell and curl, in an order in which there is what they ask for."""
    if shutil.which("curl") is None:
        leave_out("there is no curl on this machine")
    asking, changing = PAGE.split("## Changing")
    register, *others = re.findall(r"```sh\n(.*?)```", changing, re.DOTALL)
    (tmp_path / "loan-1.json").write_text(loan_file.to_json(made_loan([SERIAL])))
    environment = {
        "PATH": os.environ["PATH"],
        "ASSAY": api.url,
        "CA": str(tmp_path / "ca.pem"),
        "TOKEN": api.token("books", Scope.WRITE),
    }
    asked = re.findall(r"```sh\n(.*?)```", asking, re.DOTALL)
    assert len(others) == 2
    assert len(asked) == 5
    for script in (register, *others, others[-1], *asked):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        for answer in done.stdout.strip().split("}{"):
            assert answer
    with api.client(environment["TOKEN"]) as client:
        payments = client.get("/v1/loans/loan-1").json()["file"]["payments"]
    assert [one["reference"] for one in payments] == ["wire-20261115"]


def test_every_operation_has_its_example_or_its_words():
    for one in OPERATIONS:
        there = re.sub(r"\{(\w+)\}", lambda m: {"loan": "loan-1", "serial": SERIAL}.get(m[1], "CASE"),
                       one.path)  # fmt: skip
        assert there in PAGE, one.path


def test_its_configuration_is_read_and_names_every_setting():
    (text,) = blocks("yaml")
    read = parse(text, ValuerConfig, "valuer.yaml").api
    plain = ApiConfig()
    assert set(re.findall(r"^  (\w+):", text, re.MULTILINE)) == set(plain.__struct_fields__)
    for name in plain.__struct_fields__[4:]:
        assert getattr(read, name) == getattr(plain, name), name


def test_it_names_every_problem_with_its_status():
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", PAGE, re.MULTILINE)
    told = {name: int(status) for status, name in rows}
    assert told == {code.label: code.status for code in Code}
    assert BODY_BYTES_MAX == 1024 * 1024


def test_its_payment_is_one():
    (body,) = re.findall(r"--data '(\{.*?\})'", PAGE)
    assert set(json.loads(body)) == {"at", "amount"}
