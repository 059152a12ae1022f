"""The commands for parties and asset events, over a real state folder."""

from __future__ import annotations

import json
import stat
import time

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import insert

from assay_core import envelope_json
from assay_core.instants import format_instant
from assay_core.seal import ASSET_EVENT_TYPE, ED25519, PublicKey
from assay_valuer.cli import main
from assay_valuer.config import load
from assay_valuer.ledger.check import check_ledger
from assay_valuer.standing.trust import (
    AssetTrust,
    Claim,
    Freeze,
    FreezeCode,
    HostProofs,
    Transition,
    Verdict,
)
from assay_valuer.state import open_state
from assay_valuer.store.schema import ASSET, HOST, HOST_TRUST
from tests.fakes.collateral import NOW, PART, loan_text

DAY_MS = 86_400_000
REPLACEMENT = (
    *("gpu_replacement", "--serial", "S1", "--part", PART, "--new-serial", "S9"),
    *("--new-part", PART, "--until", "14d", "--why", "RMA 1234"),
)


@pytest.fixture
def valuer(tmp_path, capsys, monkeypatch):
    """Runs a command; its exit code, output and messages. The ledger is checked after each."""
    monkeypatch.setenv("COLUMNS", "200")
    config = tmp_path / "valuer.yaml"
    config.write_text(f"state_dir: {tmp_path / 'state'}\n")

    def command(*words):
        code = main([*map(str, words), "--config", str(config)])
        captured = capsys.readouterr()
        state = open_state(load(config))
        state.database.read(lambda c: check_ledger(c, (state.ledger_key.public_key,)))
        state.database.close()
        return code, captured.out, captured.err

    command.folder, command.config = tmp_path, config
    assert command("init")[0] == 0
    return command


@pytest.fixture
def parties(valuer):
    """A lender and an operator, with their keys in files; and a loan of two GPUs."""
    for name, role in (("alice", "lender"), ("bob", "operator")):
        _, public, _ = valuer("party", "key", valuer.folder / f"{name}.key")
        assert valuer("party", "add", name, "--role", role, "--public", public.strip())[0] == 0
    (valuer.folder / "loan.yaml").write_text(loan_text(["S1", "S2"]))
    assert valuer("loan", "import", valuer.folder / "loan.yaml")[0] == 0
    return {name: valuer.folder / f"{name}.key" for name in ("alice", "bob")}


def store(valuer, job):
    state = open_state(load(valuer.config))
    state.database.write(job)
    state.database.close()


def test_a_partys_key_is_its_own_and_never_shown(valuer):
    key = valuer.folder / "alice.key"
    code, public, said = valuer("party", "key", key)
    secret = key.read_text().splitlines()[1]
    assert (code, len(public.strip())) == (0, 64)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert secret not in public + said
    before = key.read_bytes()
    assert valuer("party", "key", key)[0] == 1
    assert key.read_bytes() == before, "never overwritten"
    code, _, said = valuer("party", "add", "alice", "--role", "lender", "--public", key)
    assert (code, "private key" in said, secret in said) == (2, True, False)
    key.chmod(0o640)
    event = ("asset", "propose", *REPLACEMENT, "--key", key)
    code, _, said = valuer(*event)
    assert (code, "chmod 600" in said) == (2, True)
    key.chmod(0o600)
    key.write_text(before.decode()[:60])
    code, _, said = valuer(*event)
    assert (code, secret[:20] in said) == (2, False)


def test_parties_come_and_go(valuer):
    key = Ed25519PrivateKey.generate()
    pem = valuer.folder / "pub.pem"
    pem.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    adding = ("party", "add", "bob", "--role", "operator", "--public", pem)
    assert valuer(*adding, "--site", "fra1", "--site", "fra2")[0] == 0
    assert valuer(*adding)[0] == 1
    assert valuer("party", "add", "eve", "--role", "operator", "--public", "00ff")[0] == 2
    assert valuer("party", "end", "nobody", "--why", "x")[0] == 1
    assert valuer("party", "end", "bob", "--why", "left")[0] == 0
    assert valuer("party", "end", "bob", "--why", "left")[0] == 1
    (bob,) = json.loads(valuer("party", "list", "--json")[1])["parties"]
    assert bob["public_key"] == key.public_key().public_bytes_raw().hex()
    assert (bob["role"], bob["sites"]) == ("operator", ["fra1", "fra2"])
    assert bob["ended_ms"] >= bob["added_ms"]
    assert "bob" in valuer("party", "list")[1]


def test_one_proposes_another_signs_and_it_is_done(valuer, parties):
    code, told, said = valuer("asset", "propose", *REPLACEMENT, "--key", parties["bob"])
    assert (code, told) == (0, "gpu_replacement 1: proposed\n")
    assert "waits for the signature of lender" in said
    code, told, _ = valuer("asset", "sign", "1", "--key", parties["alice"], "--json")
    done = json.loads(told)
    assert (code, done["state"], done["lacking"]) == (0, "accepted", [])
    assert [(one["who"], one["role"]) for one in done["signed"]] == [
        ("bob", "operator"), ("alice", "lender")]  # fmt: skip
    event = done["event"]
    assert event["until_ms"] - event["begin_ms"] == 14 * DAY_MS
    assert valuer("asset", "sign", "1", "--key", parties["alice"])[0] == 1
    listed = json.loads(valuer("asset", "list", "--json")[1])["assets"]
    assert {one["serial"]: (one["loan"], one["successor_of"]) for one in listed} == {
        "S1": ("loan-1", None), "S2": ("loan-1", None), "S9": ("loan-1", "S1")}  # fmt: skip
    assert "S1" in valuer("asset", "show", "S9")[1]
    assert valuer("asset", "show", "nothing")[0] == 1


def test_proposals_are_refused_withdrawn_and_listed(valuer, parties):
    for _ in range(2):
        valuer("asset", "propose", *REPLACEMENT, "--key", parties["bob"])
    assert len(json.loads(valuer("asset", "events", "--json", "--open")[1])["events"]) == 2
    refusing = ("asset", "refuse", "1", "--why", "no invoice", "--key")
    assert valuer(*refusing, parties["alice"])[0] == 0
    assert valuer(*refusing, parties["alice"])[0] == 1
    assert valuer("asset", "refuse", "7", "--why", "x", "--key", parties["alice"])[0] == 1
    assert valuer("asset", "refuse", "2", "--why", "", "--key", parties["alice"])[0] == 2
    withdrawing = ("asset", "withdraw", "2", "--why", "it works again", "--key")
    assert valuer(*withdrawing, parties["alice"])[0] == 1, "the lender did not propose it"
    assert valuer(*withdrawing, parties["bob"])[0] == 0
    events = json.loads(valuer("asset", "events", "--json")[1])["events"]
    assert [(one["id"], one["state"]) for one in events] == [(2, "withdrawn"), (1, "refused")]
    assert events[1]["detail"] == "refused by alice (lender): no invoice"
    assert "no invoice" in valuer("asset", "events")[1]


def test_parties_that_are_elsewhere_sign_a_file(valuer, parties):
    written = valuer.folder / "event.yaml"
    written.write_text(f"""\
kind: release
why: paid back in part
loan: loan-1
assets:
  - {{serial: S2, board_part_number: "{PART}"}}
""")
    first, both = valuer.folder / "first.json", valuer.folder / "both.json"
    assert valuer("party", "sign", written, "--key", parties["bob"], "--out", first)[0] == 0
    assert valuer("party", "sign", first, "--key", parties["alice"], "--out", both)[0] == 0
    assert valuer("party", "sign", first, "--key", parties["alice"], "--out", both)[0] == 1
    code, told, _ = valuer("asset", "propose", "--file", first)
    assert (code, "proposed" in told) == (0, True)
    code, told, _ = valuer("asset", "propose", "--file", both)
    assert (code, told) == (0, "release 1: accepted\n")
    shown = envelope_json.load(valuer("asset", "events", "--id", "1")[1], "shown")
    assert shown == envelope_json.load(both.read_text(), "both")
    parties_now = json.loads(valuer("party", "list", "--json")[1])["parties"]
    for one, signature in zip(("bob", "alice"), shown.signatures, strict=True):
        public = next(party["public_key"] for party in parties_now if party["name"] == one)
        key = PublicKey(ED25519, bytes.fromhex(public))
        assert key.verifies(signature.sig, ASSET_EVENT_TYPE, shown.payload)
    code, _, said = valuer("loan", "import", valuer.folder / "loan.yaml")
    assert (code, "1 that the file names were released" in said) == (0, True)


def test_what_is_typed_wrong_is_said_and_nothing_is_kept(valuer, parties):
    key = ("--key", parties["bob"])
    for words, code, said in (
        (("maintenance", "--until", "2d", "--why", "x", *key), 2, "until_ms"),
        (("maintenance", "--serial", "S1", "--until", "2h", "--why", "x", *key), 2, "--part"),
        ((*REPLACEMENT,), 2, "--key"),
        ((*REPLACEMENT, "--new-serial", "S8", *key), 2, "--new-serial"),
        (("release", "--loan", "loan-1", "--why", "x", *key), 2, "assets"),
        (("custody", "--serial", "S1", "--part", PART, "--why", "x", *key), 2, "--inspector"),
        (("release", "--loan", "l", "--serial", "S1", "--part", PART, "--why", "x", *key), 1, "no loan l"),
        (("gpu_replacement", "--serial", "S1", "--part", PART, "--why", "x", *key), 2, "--new-serial"),
        (("re_enrol", "--holder", "S1", "--why", "x", *key), 2, "`assay-valuer host list`"),
        ((*key,), 2, "KIND"),
    ):  # fmt: skip
        found, out, err = valuer("asset", "propose", *words)
        assert (found, said in err, out) == (code, True, ""), words
    wrong = valuer.folder / "wrong.yaml"
    wrong.write_text("kind: release\nwhy: x\nloans: loan-1\n")
    code, _, err = valuer("asset", "propose", "--file", wrong, *key)
    assert (code, "wrong.yaml:3: loans" in err) == (2, True)
    assert json.loads(valuer("asset", "events", "--json")[1])["events"] == []


def test_custody_is_typed_with_the_inspections_document(valuer, parties):
    _, public, _ = valuer("party", "key", valuer.folder / "carol.key")
    valuer("party", "add", "carol", "--role", "custodian", "--public", public.strip())
    (valuer.folder / "loan.yaml").write_text(loan_text(["S1", "S2"], extra="site: lab\n"))
    assert valuer("loan", "import", valuer.folder / "loan.yaml")[0] == 0
    inspected = format_instant(time.time_ns() // 1_000_000 - DAY_MS)
    code, _, _ = valuer(
        *("asset", "propose", "custody", "--serial", "S1", "--part", PART, "--until", "90d"),
        *("--inspector", "C. Arol", "--inspected", inspected, "--document", "ab" * 32),
        *("--why", "yearly look", "--key", valuer.folder / "carol.key"),
    )
    assert code == 0
    told = json.loads(valuer("asset", "sign", "1", "--key", parties["alice"], "--json")[1])
    assert told["state"] == "accepted"
    inspection = told["event"]["inspection"]
    assert inspection["valid_until_ms"] - inspection["inspected_ms"] == 90 * DAY_MS


def test_a_lender_sees_what_is_held_against_an_asset_and_the_evidence(valuer, parties):
    freeze = Freeze(code=FreezeCode.CLONE, detail="two reports", since_ms=NOW, position=3)
    claim = Claim(
        host_key=2,
        host_id="spiffe://x/2",
        strength=0,
        since_ms=NOW,
        last_ms=NOW,
        uuid="",
        verdict=Verdict.DISPUTED,
        why="shown by both",
    )
    moving = Transition(event_id=4, kind="move", begin_ms=NOW, until_ms=NOW + DAY_MS, why="to fra2")
    trust = AssetTrust(freezes=(freeze,), claims=(claim,), transitions=(moving,))
    fork = Freeze(code=FreezeCode.FORK, detail="two histories", since_ms=NOW, position=1)

    def job(connection):
        host = {"host_id": "spiffe://x/1", "site": "lab", "incarnation": 0, "enrolled_ms": 1}
        key = connection.execute(insert(HOST).values(**host)).inserted_primary_key[0]
        proofs = msgspec.json.encode(HostProofs(freezes=(fork,))).decode()
        connection.execute(insert(HOST_TRUST).values(host_key=key, trust=proofs))
        told = {"host_key": key, "trust": msgspec.json.encode(trust).decode(), "pdi": "255"}
        where = ASSET.c.serial == "S1"
        connection.execute(ASSET.update().where(where).values(**told, identity="cd" * 32))

    store(valuer, job)
    shown = valuer("asset", "show", "S1")[1]
    for words in ("FROZEN clone", "two reports", "spiffe://x/2", "shown by both", "to fra2",
                  "two histories", "cd" * 32, "00000000000000ff"):  # fmt: skip
        assert words.lower() in " ".join(shown.split()).lower()
    listed = json.loads(valuer("asset", "list", "--amiss", "--json")[1])["assets"]
    assert [one["serial"] for one in listed] == ["S1"]
    assert listed[0]["trust"]["claims"][0]["verdict"] == "disputed"
    assert "FROZEN" in valuer("asset", "list")[1]
