"""`assay verify prices` and `price`: rows that are a snapshot hold, and whatever is not so is refused."""

from __future__ import annotations

import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_audit.cli import main
from assay_audit.cli.prices import PROOF_BYTES_MAX
from assay_audit.prices import LINE_BYTES_MAX
from assay_core import merkle
from assay_core.price_proof import Proof, holds, root_of

ROWS = sorted(
    [
        b'["resale","2025-01-31",800.0,"sh\xc2\x85op","RTX 3090","sold_monthly_avg","used"]',
        *(
            f'["rental","2026-04-{day:02}",2.5,"acme","{model}","SXM","8","on_demand","eu"]'.encode()
            for day in (1, 2, 30)
            for model in ("H100", "H200")
        ),
    ]
)


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962, section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\1" + mth(leaves[:split]) + mth(leaves[split:])).digest()


ROOT = mth(ROWS).hex()


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_leaves_that_pass_by_one_by_one_have_the_root_that_the_standard_gives(leaves):
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert merkle.root_in_passing(iter(hashes)) == mth(leaves) == merkle.root(hashes)


@pytest.fixture
def verify(tmp_path, capsys):
    """Checks a file of these bytes; exit code, output, messages."""

    def check(what: str, data: bytes, *words: str, root: str = ROOT):
        path = tmp_path / "given"
        path.write_bytes(data)
        code = main(["verify", what, str(path), "--root", root, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return check


def file_of(rows) -> bytes:
    return b"".join(row + b"\n" for row in rows)


def test_rows_that_are_the_snapshot_hold(verify):
    code, out, _ = verify("prices", file_of(ROWS))
    assert (code, "7 price rows: 6 rental, 1 resale" in out) == (0, True)
    assert "of 2025-01-31 to 2026-04-30" in out
    assert out.endswith("All steps hold.\n")
    code, out, _ = verify("prices", file_of(ROWS), "--json", root=ROOT.upper())
    told = json.loads(out)
    assert (code, told["verified"], told["root"]) == (0, True, ROOT)
    assert [step["name"] for step in told["steps"]] == ["rows", "order", "root"]
    assert told["rows"] == {"rental": 6, "resale": 1}


def test_of_no_rows_there_is_a_snapshot_too(verify):
    assert verify("prices", b"", root=hashlib.sha256(b"").hexdigest())[0] == 0
    assert verify("prices", b"")[0] == 1


@pytest.mark.parametrize(
    ("rows", "step", "words"),
    [
        (ROWS[:-1], "root", "not " + ROOT),
        ([*ROWS[:2], ROWS[3], *ROWS[4:]], "root", "not " + ROOT),
        ([ROWS[0].replace(b"2.5", b"2.6"), *ROWS[1:]], "order", "line 2 stands after"),
        ([ROWS[0].replace(b"2.5", b"2.4"), *ROWS[1:]], "root", "not " + ROOT),
        ([ROWS[1], ROWS[0], *ROWS[2:]], "order", "line 2 stands after one that is greater"),
        ([ROWS[0], *ROWS], "order", "line 2 is there twice"),
        ([*ROWS[:3], b"", *ROWS[3:]], "rows", "line 4: is no price row"),
        ([row + b"\r" for row in ROWS], "rows", "line 1: is no price row"),
        ([b'["rental",{}]'], "rows", "line 1: is no price row"),
        ([b'["rental"]'], "rows", "no JSON list of texts and a number"),
        ([b'["a","2026-04-01",1.0,"b","c"]'], "rows", "neither rental nor resale"),
        ([b'["resale","2026-04-01",1.0,"b","c","d"]'], "rows", "has 4 names"),
        ([b'["resale","2026-04-01",1.0,"b","c",2,"d"]'], "rows", "has 4 names"),
        ([b'["resale","2026-04-01","1","b","c","d","e"]'], "rows", "price is no number"),
        ([b'["resale","2026-04-01",0.0,"b","c","d","e"]'], "rows", "no number above zero"),
        ([b'["resale","20260401",1.0,"b","c","d","e"]'], "rows", "its day is no date"),
        ([b'["resale",2.0,1.0,"b","c","d","e"]'], "rows", "its day is no date"),
        ([b'["resale","2026-04-01",1.0,"b","c","\xff","e"]'], "rows", "no JSON list"),
    ],
)
def test_rows_that_are_not_the_snapshot_do_not_hold_and_it_is_said_where(verify, rows, step, words):
    code, out, _ = verify("prices", file_of(rows), "--json")
    last = json.loads(out)["steps"][-1]
    assert (code, last["name"], last["holds"]) == (1, step, False)
    assert words in last["detail"]
    code, out, _ = verify("prices", file_of(rows))
    assert (code, "FAILS" in out, "do not rely on" in out) == (1, True, True)


def test_a_file_that_cannot_be_read_is_refused(verify, tmp_path, capsys):
    longest = b'["' + b"x" * (LINE_BYTES_MAX - 3) + b'"]'
    assert "has over" in verify("prices", longest + b"\n")[2]
    assert verify("prices", longest + b"\n")[0] == 2
    assert verify("prices", longest[1:] + b"\n")[0] == 1  # as long as a line may be: no row, though
    code, _, said = verify("prices", file_of(ROWS)[:-1])
    assert (code, "line 7 has no end" in said) == (2, True)
    assert verify("prices", b"", root="ab" * 31)[0] == 2
    assert main(["verify", "prices", str(tmp_path / "none"), "--root", ROOT]) == 2
    assert "cannot be read" in capsys.readouterr().err


def proof(at: int, **changes) -> bytes:
    hashes = [merkle.leaf_hash(row) for row in ROWS]
    path = tuple(one.hex() for one in merkle.audit_path(hashes, at))
    told = {"snapshot_sha256": ROOT, "line": ROWS[at].decode(), "index": at, "size": len(ROWS),
            "path": path}  # fmt: skip
    return msgspec.json.encode(Proof(**(told | changes)))


@pytest.mark.parametrize("at", range(len(ROWS)))
def test_a_proof_of_any_row_holds(verify, at):
    code, out, _ = verify("price", proof(at), "--json")
    told = json.loads(out)
    assert (code, told["verified"], told["row"]["market"]) == (0, True, json.loads(ROWS[at])[0])
    code, out, _ = verify("price", proof(at))
    assert (code, f"line {at + 1} of 7 leads to {ROOT}" in out) == (0, True)
    assert "\x85" not in out  # what a seller calls itself is not obeyed by a terminal


@pytest.mark.parametrize(
    ("changes", "root", "step"),
    [
        ({"line": ROWS[1].decode()}, ROOT, "root"),
        ({"index": 1}, ROOT, "root"),
        ({"size": 200}, ROOT, "path"),
        ({"index": 7}, ROOT, "path"),
        ({"path": ("zz",)}, ROOT, "path"),
        ({"path": ("00",) * 3}, ROOT, "path"),
        ({"path": ("00" * 32,) * 3}, ROOT, "root"),
        ({"line": "H100 for $2"}, ROOT, "row"),
        ({}, "0" * 64, "root"),
        # What the proof itself calls the snapshot is not what it is compared with.
        ({"snapshot_sha256": "0" * 64, "line": ROWS[1].decode()}, "0" * 64, "root"),
    ],
)
def test_a_proof_that_leads_elsewhere_does_not_hold(verify, changes, root, step):
    code, out, _ = verify("price", proof(0, **changes), "--json", root=root)
    told = json.loads(out)
    assert (code, told["row"], told["verified"]) == (1, None, False)
    assert told["steps"][-1]["name"] == step
    assert verify("price", proof(0, **changes), root=root)[0] == 1


def test_what_the_proof_calls_its_snapshot_is_not_asked(verify):
    assert verify("price", proof(0, snapshot_sha256="0" * 64))[0] == 0
    lying = msgspec.json.decode(proof(0, snapshot_sha256="0" * 64), type=Proof)
    assert (root_of(lying), holds(lying)) == (ROOT, False)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{}", "Is it what `assay-valuer market prove` printed?"),
        (proof(0, format="assay.price_proof.v2"), "this version reads"),
        (proof(0)[:-1] + b',"more":1}', "unknown field"),
        (proof(0) + b" " * PROOF_BYTES_MAX, "no proof of a row has so many"),
        (b"\xff", "Is it what"),
    ],
)
def test_a_proof_that_cannot_be_read_is_refused(verify, data, words):
    code, _, said = verify("price", data)
    assert (code, words in said) == (2, True), said
