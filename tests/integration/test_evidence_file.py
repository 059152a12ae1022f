"""Evidence as an outsider is shown it: exported by the valuer, verified from core alone."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from assay_audit.cli import main as assay
from assay_core.seal import Ed25519Signer
from assay_valuer.ca import write_secret
from assay_valuer.cli import main as assay_valuer
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.tpms import Tpms
from tests.fakes import proving
from tests.fakes.door import FakeValuer, HostClient
from tests.fakes.endorsing import Maker as TpmMaker
from tests.fakes.host import FakeHost
from tests.fakes.nvidia import Maker
from tests.fakes.tpm import FakeTpm

TPMS, DEVICES = TpmMaker(), Maker()


class Exported:
    """A valuer that took one answer of two GPUs and a TPM, and the files it wrote of it."""

    def __init__(self, folder: Path) -> None:
        policy = ValuerPolicy(evidence=Evidence(device_roots=tuple(DEVICES.roots)))
        self.valuer = FakeValuer(folder, tpms=Tpms(roots=TPMS.roots), policy=policy)
        self.client, self.tpm = HostClient(FakeHost(gpu_count=1)), FakeTpm(TPMS)
        self.gpus = [DEVICES.device(number) for number in (0x11, 0x12)]
        self.sealed = asyncio.run(self._serve())
        self.valuer.close()
        signer = self.valuer.signer
        assert isinstance(signer, Ed25519Signer)
        pem = signer._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_secret(folder / "ledger.key", pem)
        (folder / "valuer.yaml").write_text(f"state_dir: {folder}\n")
        self.folder = folder
        self.evidence, self.trust = folder / "evidence.json", folder / "trust.json"
        host = ("--host", self.client.host.host_id)
        assert self.export("evidence", *host, "--out", str(self.evidence)) == 0
        assert self.export("trust", "--out", str(self.trust)) == 0

    async def _serve(self):
        async with self.valuer.serving():
            await proving.enroll(self.valuer, self.client, self.tpm)
            async with self.client.stream() as stream:
                await stream.window(self.client.host.seal())
                await stream.acknowledged()
                challenge = await proving.asked(self.valuer, stream)
                sealed = proving.answer(
                    self.client.host, challenge, tpm=self.tpm, devices=self.gpus
                )
                assert (await proving.send(stream, sealed)).outcome == "accepted"
                return sealed

    def export(self, *words: str) -> int:
        return assay_valuer(["export", *words, "--config", str(self.folder / "valuer.yaml")])

    def verify(self, *more: str) -> int:
        trust = ("--trust", str(self.trust))
        return assay(["verify", "evidence", str(self.evidence), *trust, *more])

    def change(self, path: Path, change: Callable[[dict], None]) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))


ROOT = ("--simulated-root", DEVICES.root.sha256)


@pytest.fixture
def exported(tmp_path: Path) -> Exported:
    return Exported(tmp_path)


def test_what_the_hardware_signed_is_verified_from_two_files(exported: Exported, capsys) -> None:
    assert exported.verify(*ROOT, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True
    names = [step["name"] for step in found["steps"]]
    assert names == ["signature", "statement", "reports", "quote", "device", "device"]
    assert found["host_id"] == exported.client.host.host_id
    assert [device["pdi"] for device in found["devices"]] == [f"{0x11:016x}", f"{0x12:016x}"]
    assert found["pcrs"] == {str(n): exported.tpm.pcrs[n].hex() for n in (0, 2, 4, 7)}
    blobs = json.loads(exported.evidence.read_text())["blobs"]
    assert [base64.b64decode(blob) for blob in blobs] == list(exported.sealed.blobs)
    assert exported.verify(*ROOT) == 0
    said = capsys.readouterr().out
    assert said.count("SIMULATED") == 2
    assert said.endswith("All steps hold.\n")


def failing(exported: Exported, capsys, *more: str) -> str:
    """The name of the one step that fails."""
    assert exported.verify(*more, "--json") == 1
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is False
    return found["steps"][-1]["name"]


def test_devices_under_a_root_that_nobody_named_are_not_believed(exported, capsys) -> None:
    assert failing(exported, capsys) == "device"


def test_a_changed_report_is_found(exported, capsys) -> None:
    def change(content: dict) -> None:
        content["blobs"][0] = base64.b64encode(b"\0" + exported.sealed.blobs[0]).decode()

    exported.change(exported.evidence, change)
    assert failing(exported, capsys, *ROOT) == "reports"


def test_a_changed_statement_is_found(exported, capsys) -> None:
    def change(content: dict) -> None:
        payload = base64.b64decode(content["envelope"]["payload"])
        content["envelope"]["payload"] = base64.b64encode(payload[:-1] + b"\x01").decode()

    exported.change(exported.evidence, change)
    assert failing(exported, capsys, *ROOT) == "signature"


@pytest.mark.parametrize("ak_public", ["another TPM's", "none"])
def test_the_quote_is_judged_by_the_trust_files_attestation_key(
    exported, capsys, ak_public: str
) -> None:
    def change(content: dict) -> None:
        (host,) = content["hosts"]
        if ak_public == "none":
            del host["ak_public"]
        else:
            host["ak_public"] = base64.b64encode(FakeTpm(TPMS).ak.public).decode()

    exported.change(exported.trust, change)
    assert failing(exported, capsys, *ROOT) == "quote"


def test_another_hosts_keys_speak_for_nobody_else(exported, capsys) -> None:
    def change(content: dict) -> None:
        content["hosts"][0]["host_id"] += "0"

    exported.change(exported.trust, change)
    assert failing(exported, capsys, *ROOT) == "signature"


def test_files_that_cannot_be_read_are_said_so(exported, capsys) -> None:
    whole = exported.evidence.read_text()
    exported.change(exported.evidence, lambda content: content.update(format="other"))
    assert exported.verify(*ROOT) == 2
    assert "this version reads 'assay.evidence.v1'" in capsys.readouterr().err
    exported.change(exported.evidence, lambda c: c.update(format="assay.evidence.v1", blobs=["?"]))
    assert exported.verify(*ROOT) == 2
    assert "blobs[0]: not base64" in capsys.readouterr().err
    exported.evidence.write_text(whole)
    exported.change(exported.trust, lambda content: content["hosts"][0].update(ak_public="AAAA"))
    assert exported.verify(*ROOT) == 2
    assert "ak_public" in capsys.readouterr().err


def test_two_files_that_were_swapped_are_told_apart(exported: Exported, capsys) -> None:
    evidence, trust = str(exported.evidence), str(exported.trust)
    for command, mine in (("evidence", evidence), ("window", evidence)):
        assert assay(["verify", command, trust, "--trust", mine]) == 2
        said = capsys.readouterr().err
        assert said.endswith(f"Is it what `assay-valuer export {command}` wrote?\n")
        assert trust in said
    assert assay(["verify", "evidence", evidence, "--trust", evidence]) == 2
    assert "Is it what `assay-valuer export trust` wrote?" in capsys.readouterr().err


def test_what_is_not_there_is_not_exported(exported: Exported, capsys) -> None:
    host = ("--host", exported.client.host.host_id)
    out = ("--out", str(exported.folder / "other.json"))
    assert exported.export("evidence", *host, "--position", "0", *out) == 1
    assert "has no evidence at position 0" in capsys.readouterr().err
    newest = json.loads(exported.evidence.read_text())["position"]
    assert exported.export("evidence", *host, "--position", str(newest), *out) == 0
