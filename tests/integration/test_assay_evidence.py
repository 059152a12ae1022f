"""`assay evidence verify`, on NVIDIA's own samples and on evidence of our making."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from assay_audit import cli
from tests.fakes.nvidia import Maker, baseboard

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "evidence"
NONCE = bytes(range(32))


@pytest.fixture
def samples(leave_out):
    if not SAMPLES.is_dir():
        leave_out("NVIDIA's sample evidence is not beside the project")
    return SAMPLES


def run(capsys, *arguments):
    status = cli.main(["evidence", "verify", *map(str, arguments)])
    return status, capsys.readouterr()


def as_json(capsys, *arguments):
    status, printed = run(capsys, *arguments, "--json")
    return status, json.loads(printed.out)


RESULT = {"verified", "device_identity", "chip", "driver", "vbios", "nonce"}
"""What a result has, where it is good; no more and no less. A linked device has a topology too."""
REAL = {
    "hopper_a": ("gpu", "431d480fe5e87274", "GH100", "550.90.07", "96.00.9F.00.01"),
    "hopper_b": ("gpu", "6a5fafcbd9fa5ca3", "GH100", "535.86.09", "96.00.5E.00.01"),
    "blackwell_a": ("gpu", "e6de55c3bdc14277", "GB100", "575.32", "97.00.88.00.0F"),
    "ls10_switch_a": ("nvswitch", "203eb31ad9ed0008", "LS_10", None, "96.10.55.00.01"),
}
"""Kind, PDI (the issuer's serial number less its first byte, as `openssl x509 -serial` prints it),
chip, driver and VBIOS."""


@pytest.mark.parametrize("name", REAL)
def test_a_real_report_is_verified(samples, capsys, name):
    report, pem = samples / f"{name}.report.hex", samples / f"{name}.chain.pem"
    status, found = as_json(capsys, "--report", report, "--chain", pem)
    assert status == 0
    assert found["verified"] is True
    topology = {"topology"} if name == "ls10_switch_a" else set()
    assert set(found) == RESULT | topology
    assert tuple(found[key] for key in ("chip", "driver", "vbios")) == REAL[name][2:]
    status, printed = run(capsys, "--report", report, "--chain", pem)
    assert status == 0
    kind, pdi, chip = REAL[name][:3]
    assert f"verified      {kind} {chip}\n" in printed.out
    assert f"  pdi         {pdi}\n" in printed.out
    assert found["nonce"] == report.read_text()[8:72]
    issuer = x509.load_pem_x509_certificates(pem.read_bytes())[1]
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert found["device_identity"] == hashlib.sha256(spki).hexdigest()


def test_a_real_board_of_eight_gpus_and_four_switches_is_whole(samples, capsys):
    status, found = as_json(
        capsys, "--report", samples / "hgx_8gpu.json", samples / "hgx_4switch.json"
    )
    assert status == 0
    assert len(found) == 12
    assert all(one["verified"] and one["topology"]["whole"] for one in found)
    status, found = as_json(capsys, "--report", samples / "hgx_8gpu.json")
    assert status == 0
    assert not any(one["topology"]["whole"] for one in found)


def test_a_real_report_with_a_bad_signature_is_refused_under_every_chain(samples, capsys):
    report = samples / "hopper_invalid_signature.report.hex"
    for pem in sorted(samples.glob("*.chain.pem")):
        status, found = as_json(capsys, "--report", report, "--chain", pem)
        assert status == 1
        assert found["verified"] is False
        assert "signed" in found["reason"]


def test_a_nonce_is_held_against_a_real_report(samples, capsys):
    """Several public samples share one nonce: who asks for none may be shown any of them."""
    report, pem = samples / "hopper_a.report.hex", samples / "hopper_a.chain.pem"
    nonce = report.read_text()[8:72]
    assert as_json(capsys, "--report", report, "--chain", pem, "--nonce", nonce)[0] == 0
    _, printed = run(capsys, "--report", report, "--chain", pem, "--nonce", nonce)
    assert printed.err == ""
    _, printed = run(capsys, "--report", report, "--chain", pem)
    assert "No --nonce was given" in printed.err
    status, found = as_json(capsys, "--report", report, "--chain", pem, "--nonce", "00" * 32)
    assert (status, found["verified"]) == (1, False)
    assert "another nonce" in found["reason"]


def test_evidence_of_an_unpinned_maker_is_refused_and_said_plainly(tmp_path, capsys):
    evidence = Maker().device(1).answer(NONCE)
    (tmp_path / "report").write_bytes(evidence.report)
    (tmp_path / "chain.pem").write_bytes(
        b"".join(one.public_bytes(Encoding.PEM) for one in evidence.chain)
    )
    status, printed = run(
        capsys, "--report", tmp_path / "report", "--chain", tmp_path / "chain.pem"
    )
    assert status == 1
    assert "NOT VERIFIED" in printed.out
    assert "pinned" in printed.out
    assert "do not rely" in printed.err
    _, found = as_json(capsys, "--report", tmp_path / "report", "--chain", tmp_path / "chain.pem")
    assert set(found) == {"verified", "reason"}


def test_every_device_of_an_unpinned_board_is_refused(tmp_path, capsys):
    maker = Maker()
    devices = [
        {
            "evidence": base64.b64encode(one.report).decode(),
            "certificate": base64.b64encode(
                b"".join(c.public_bytes(Encoding.PEM) for c in one.chain)
            ).decode(),
            "nonce": NONCE.hex(),
        }
        for one in baseboard(maker, NONCE, gpus=2, switches=1)
    ]
    path = tmp_path / "devices.json"
    path.write_text(json.dumps(devices))
    status, found = as_json(capsys, "--report", path)
    assert status == 1
    assert [one["verified"] for one in found] == [False] * 3
    assert all("pinned" in one["reason"] for one in found)


def test_one_device_that_answered_another_nonce_fails_alone(samples, tmp_path, capsys):
    devices = json.loads((samples / "hgx_8gpu.json").read_text())
    asked = devices[0]["nonce"]
    devices[3]["nonce"] = "11" * 32
    path = tmp_path / "devices.json"
    path.write_text(json.dumps(devices))
    for extra in ([], ["--nonce", asked]):
        status, found = as_json(capsys, "--report", path, *extra)
        assert status == 1
        assert [one["verified"] for one in found] == [True] * 3 + [False] + [True] * 4


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b"zz", b"\x11\xe0", b"[" * 5_000, b'[{"x":' + b"[" * 99_999]
)
def test_whatever_a_file_holds_the_answer_is_a_plain_no(tmp_path, capsys, data):
    (tmp_path / "report").write_bytes(data)
    (tmp_path / "chain.pem").write_bytes(b"")
    for extra in ([], ["--chain", tmp_path / "chain.pem"]):
        status, found = as_json(capsys, "--report", tmp_path / "report", *extra)
        assert status == 1
        assert found["verified"] is False
        assert found["reason"]


@pytest.mark.parametrize(("nonce", "why"), [("xyz", "not hexadecimal"), ("00" * 31, "31 bytes")])
def test_a_nonce_that_is_none_is_a_wrong_argument_and_no_verdict(tmp_path, capsys, nonce, why):
    (tmp_path / "report").write_bytes(b"zz")
    status, printed = run(capsys, "--report", tmp_path / "report", "--nonce", nonce)
    assert (status, printed.out) == (2, "")
    assert "--nonce" in printed.err
    assert why in printed.err


def test_what_is_no_manifest_is_not_excused_by_the_time(samples, capsys):
    report, pem = samples / "hopper_b.report.hex", samples / "hopper_b.chain.pem"
    status, printed = run(capsys, "--report", report, "--chain", pem, "--rim", pem)
    assert status == 2
    assert "manifest" in printed.err
    assert "--at" not in printed.err


def test_the_command_says_its_version(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"assay {version('gpu-assay')}\n"


def test_a_file_that_is_not_there_is_another_status(tmp_path, capsys):
    status, printed = run(capsys, "--report", tmp_path / "none")
    assert status == 2
    assert "none" in printed.err


AT_THE_TIME = ("--at", "2025-01-01T00:00:00Z")
"""While the signer of the real manifest was valid: its certificate expired in June 2025."""


def with_manifest(samples, capsys, name, *more):
    report, pem = samples / f"{name}.report.hex", samples / f"{name}.chain.pem"
    manifest = ("--rim", samples / "hopper_b.vbios.rim.xml")
    return run(capsys, "--report", report, "--chain", pem, *manifest, *more)


def test_a_real_report_measured_what_the_manifest_of_its_vbios_has(samples, capsys):
    status, printed = with_manifest(samples, capsys, "hopper_b", *AT_THE_TIME, "--json")
    assert status == 0
    found = json.loads(printed.out)
    assert set(found) == RESULT | {"measurements"}
    assert found["measurements"]["matched"] == 12


def test_a_report_of_other_firmware_than_the_manifests_is_not_verified(samples, capsys):
    status, printed = with_manifest(samples, capsys, "hopper_a", *AT_THE_TIME, "--json")
    assert status == 1
    assert "firmware" in json.loads(printed.out)["reason"]


def test_a_manifest_whose_signer_expired_says_to_look_at_the_evidences_time(samples, capsys):
    status, printed = with_manifest(samples, capsys, "hopper_b")
    assert status == 2
    assert "--at" in printed.err
