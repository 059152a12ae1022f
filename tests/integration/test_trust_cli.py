"""What a lender reads of trust at a terminal, over a real store; what it names is there to be verified."""

from __future__ import annotations

import json
import shlex

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from assay_audit.cli import main as assay
from assay_core.instants import MINUTE_MS
from assay_core.seal import Ed25519Signer
from assay_valuer.ca import write_secret
from assay_valuer.cli import main
from tests.fakes.chassis import GPU_MAKER, TPM_MAKER
from tests.fakes.lives import Lives

DEVICE_ROOT = ("--simulated-root", GPU_MAKER.root.sha256)


class Told:
    """A host with TPM and devices, and one at L0 that shows its first GPU too and is frozen for it."""

    def __init__(self, folder, capsys, absent="no collector"):
        self.capsys, self.config, self.folder = capsys, folder / "valuer.yaml", folder
        with Lives(folder) as books:
            host = books.machine(devices=True)
            books.lend(*host.serials)
            books.live(host)
            liar = books.machine(seed=9, gpus=2, tpm=False)
            liar.host.gpus[0].serial = host.serials[0]
            for _ in range(2):
                books.show(liar)
                books.live(host)
            asked = books.ask(liar)
            books.take_answer(liar, asked, books.answer(liar, asked, absent=absent))
            books.tick(host.now_ms + MINUTE_MS)
            signer = books.key
        capsys.readouterr()  # what the store logged meanwhile
        self.host, self.liar = host, liar
        assert isinstance(signer, Ed25519Signer)
        pem = signer._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(folder / "ledger.key", pem)
        evidence = {
            "simulated_tpm_roots": [TPM_MAKER.sha256],
            "device_roots": list(GPU_MAKER.roots),
            "ocsp": "waived",
        }
        self.config.write_text(
            json.dumps({"state_dir": str(folder), "policy": {"evidence": evidence}})
        )

    def __call__(self, *words):
        code = main([*words, "--config", str(self.config)])
        assert code == 0
        return self.capsys.readouterr().out


@pytest.fixture
def valuer(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    return Told(tmp_path, capsys)


def test_a_gpu_that_another_host_claims_is_shown_with_both_sides_and_their_strengths(valuer):
    shown = " ".join(valuer("gpu", "show", valuer.host.serials[0]).split())
    assert "SIMULATED: the policy names it" in shown
    assert "claimed by another host: false since" in shown
    assert f"Against it: {valuer.liar.id} has shown it since" in shown
    assert "by its word alone" in shown
    assert f"In its favour: {valuer.host.id} has shown it since" in shown
    assert "The weaker claim is frozen; this asset is not touched." in shown


def test_every_command_that_is_named_writes_what_anyone_can_verify(valuer, monkeypatch):
    """What the hardware signed, and the windows that each side sealed."""
    monkeypatch.chdir(valuer.folder)
    serial = valuer.host.serials[0]
    (told,) = json.loads(valuer("gpu", "show", serial, "--json"))["gpus"]
    look_up = told["explained"]["look_up"]
    shown = valuer("gpu", "show", serial)
    valuer("export", "trust", "--out", "trust.json")
    kinds = []
    for one in look_up:
        assert f"    {one['command']}\n" in shown  # whole, on a line of its own
        program, *words = shlex.split(one["command"])
        assert program == "assay-valuer"
        valuer(*words)
        kind, file = words[1], words[-1]
        root = DEVICE_ROOT if kind == "evidence" else ()
        assert assay(["verify", kind, file, "--trust", "trust.json", *root]) == 0
        (valuer.folder / file).unlink()
        kinds.append(kind)
    assert sorted(kinds) == ["evidence", "window", "window"]
    assert look_up[0]["what"].startswith("host's TPM, its device: ledger position ")


def test_the_frozen_host_its_gpu_and_the_windows_it_was_found_in(valuer, monkeypatch):
    hosts = {one["host_id"]: one for one in json.loads(valuer("host", "list", "--json"))["hosts"]}
    liar, host = hosts[valuer.liar.id], hosts[valuer.host.id]
    assert (liar["tpm_state"], liar["quoted_ms"], liar["devices_proved"]) == ("none", None, 0)
    (freeze,) = liar["freezes"]
    assert freeze["code"] == "false_claim"
    assert (host["tpm_state"], host["gpus"], host["devices_proved"]) == ("simulated", 2, 2)
    assert host["quoted_ms"] == host["devices_ms"] == valuer.host.now_ms
    assert host["freezes"] == []
    for columns in ("80", "160"):
        monkeypatch.setenv("COLUMNS", columns)
        listed = valuer("host", "list")
        assert "\u2026" not in listed
        listed = " ".join(listed.split())
        assert "FROZEN false_claim since" in listed
        assert "key software" in listed
        assert ", SIMULATED; quoted" in listed
        assert "devices 2 of 2 answered, the oldest" in listed
        assert "devices none answered: no collector" in listed
    serial = valuer.host.serials[0]
    amiss = json.loads(valuer("asset", "list", "--amiss", "--json"))["assets"]
    assert [(one["host"], one["serial"]) for one in amiss] == [
        (valuer.liar.id, valuer.liar.serials[1])
    ]
    (held,) = amiss[0]["held"]
    assert (held["what"], held["host"]) == ("its host FROZEN", valuer.liar.id)
    assert held["positions"] == [freeze["position"]]
    assert serial in held["against"][0]


def test_gpu_show_and_asset_show_say_the_same_of_trust(valuer):
    serial = valuer.host.serials[0]
    (gpu,) = json.loads(valuer("gpu", "show", serial, "--json"))["gpus"]
    (asset,) = json.loads(valuer("asset", "show", serial, "--json"))["assets"]
    for one in (gpu, asset):  # but for the ages, which go on between the two
        for factor in one["explained"]["trust"]["factors"]:
            factor["words"] = factor["words"].partition(" ago")[0]
    assert gpu["explained"] == asset["explained"]


def test_a_hosts_own_words_cannot_write_to_the_terminal(tmp_path, capsys):
    """Why its devices gave nothing is what it says; an escape in it would clear the screen."""
    valuer = Told(tmp_path, capsys, absent="gone\x1b[2J\u202eodd")
    for command in (("host", "list"), ("gpu", "show", valuer.liar.serials[1])):
        shown = valuer(*command)
        assert "gone\\x1b[2J\\u202eodd" in shown
        assert "\x1b" not in shown
        assert "\u202e" not in shown


@pytest.mark.parametrize("columns", ["24", "80", "160"])
def test_nothing_is_cut_however_narrow_the_terminal(valuer, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for command in ("gpu", "asset"):
        shown = valuer(command, "show", valuer.host.serials[0])
        assert "\u2026" not in shown.replace("\u2026).", "")  # a document's hash is shortened
        assert valuer.liar.id in "".join(shown.split())
