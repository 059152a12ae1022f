"""The agent and a TPM 2.0: a real one, as a program. What it says is judged by core, without it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from assay_agent.tpm import errors
from assay_agent.tpm.device import Address
from assay_agent.tpm.machine import KeyBlobs, Tpm
from assay_agent.tpm.signer import TpmSigner
from assay_core.errors import AssayError, HostError
from assay_core.evidence import tpm as verifier
from assay_core.seal import ECDSA_P256, WINDOW_TYPE, pae
from demo.simulated_tpm import MANUFACTURER, Maker
from tests.fakes import swtpm

ROOT = Path(__file__).resolve().parents[2]
NONCE = bytes(range(32))
SECRET = bytes(range(100, 132))
SEED = bytes(range(200, 232))
MAKER = Maker()


@pytest.fixture
def program(requires_tool):
    return requires_tool("swtpm")


@pytest.fixture
def simulated(program, tmp_path):
    with swtpm.running(program, tmp_path / "tpm", MAKER) as running:
        yield running


@pytest.fixture
def machine(simulated):
    return Tpm(simulated.address)


def credential_for(endorsement_key: bytes, name: bytes) -> tuple[bytes, bytes]:
    key = verifier.public(endorsement_key).key
    assert isinstance(key, rsa.RSAPublicKey)
    made = verifier.make_credential(key, name, SECRET, SEED)
    return made.blob, made.secret


def test_the_makers_certificate_is_read_back_and_is_of_this_tpms_key(machine):
    (found,) = machine.endorsement_certificates()
    certificate = x509.load_der_x509_certificate(found)  # nothing of the index's padding
    certificate.verify_directly_issued_by(MAKER.intermediate)
    MAKER.intermediate.verify_directly_issued_by(MAKER.root)
    assert certificate.public_key() == verifier.public(machine.endorsement_key()).key
    assert MANUFACTURER in str(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName))  # fmt: skip


def test_certificates_that_the_tpm_does_not_hold_come_from_a_file(program, simulated, tmp_path):
    others = (b"one", b"two")
    (own,) = Tpm(simulated.address).endorsement_certificates()
    assert Tpm(simulated.address, others).endorsement_certificates() == (own, *others)
    with swtpm.running(program, tmp_path / "bare") as bare:
        assert Tpm(bare.address, others).endorsement_certificates() == others
        with pytest.raises(errors.TpmError, match=r"name its file in tpm\.ek_chain"):
            Tpm(bare.address).endorsement_certificates()


def test_a_tpms_own_endorsement_key_is_used_and_any_other_left_alone(machine, simulated):
    """A key of another kind at the reserved handle is somebody else's; the profile's is the TPM's."""
    from assay_agent.tpm import templates
    from assay_agent.tpm.commands import ENDORSEMENT, OWNER, Commands
    from assay_agent.tpm.machine import ENDORSEMENT_KEY
    from assay_agent.tpm.wire import NO_PASSWORD

    made = machine.endorsement_key()
    keep = 0x120  # TPM2_EvictControl
    for hierarchy, template in (
        (ENDORSEMENT, templates.STORAGE_KEY),
        (ENDORSEMENT, templates.ENDORSEMENT_KEY),
    ):
        transport = simulated.address.open()
        commands = Commands(transport)
        with commands.primary(hierarchy, template) as (handle, _):
            commands.run(keep, (OWNER, handle), ENDORSEMENT_KEY.to_bytes(4, "big"),
                         authorisations=(NO_PASSWORD,))  # fmt: skip
        transport.close()
        assert machine.endorsement_key() == made
        keys = machine.create_keys()
        assert machine.activate(keys.attestation, *credential_for(made, keys.attestation.name)) == SECRET  # fmt: skip
        if template is templates.STORAGE_KEY:
            simulated.run(keep, (OWNER, ENDORSEMENT_KEY), ENDORSEMENT_KEY.to_bytes(4, "big"))


def test_keys_are_what_the_verifier_asks_of_them(machine):
    keys = machine.create_keys()
    attestation = verifier.public(keys.attestation.public)
    signing = verifier.public(keys.signing.public)
    attestation.expect(verifier.ATTESTATION_KEY, "the attestation key")
    signing.expect(verifier.SIGNING_KEY, "the signing key")
    assert (attestation.name, signing.name) == (keys.attestation.name, keys.signing.name)
    assert isinstance(attestation.key, ec.EllipticCurvePublicKey)
    assert signing.key != attestation.key
    assert machine.create_keys() != keys


def test_the_attestation_key_certifies_the_signing_key(machine):
    keys = machine.create_keys()
    said = machine.certify(keys, NONCE)
    attestation = verifier.public(keys.attestation.public)
    found = verifier.certificate(said.attest, said.signature, attestation)
    assert (found.name, found.extra) == (keys.signing.name, NONCE)
    with pytest.raises(verifier.BadTpm):
        verifier.certificate(said.attest[:-1] + b"\0", said.signature, attestation)


def test_a_signing_key_that_follows_is_certified_by_the_same_attestation_key(machine):
    before = machine.create_keys()
    after = machine.create_signing_key()
    assert after.public != before.signing.public
    said = machine.certify(type(before)(before.attestation, after), NONCE)
    attestation = verifier.public(before.attestation.public)
    assert verifier.certificate(said.attest, said.signature, attestation).name == after.name


def test_a_credential_opens_for_its_key_in_its_tpm_alone(machine, program, tmp_path):
    keys = machine.create_keys()
    mine = credential_for(machine.endorsement_key(), keys.attestation.name)
    assert machine.activate(keys.attestation, *mine) == SECRET
    others = credential_for(machine.endorsement_key(), machine.create_keys().attestation.name)
    with pytest.raises(errors.TpmError, match="for another TPM or another key"):
        machine.activate(keys.attestation, *others)
    with swtpm.running(program, tmp_path / "other") as running:
        other = Tpm(running.address)
        theirs = other.create_keys().attestation
        foreign = credential_for(machine.endorsement_key(), theirs.name)
        with pytest.raises(errors.TpmError, match="for another TPM or another key"):
            other.activate(theirs, *foreign)


@pytest.mark.parametrize("pcrs", [{7}, {0, 1, 2, 7, 16, 23}, set(range(24))])
def test_a_quote_covers_exactly_the_pcrs_asked_for(machine, simulated, pcrs):
    swtpm.extend(simulated, 7, b"\x11" * 32)
    keys = machine.create_keys()
    said = machine.quote(keys.attestation, pcrs, NONCE)
    found = verifier.quote(said.attest, said.signature, verifier.public(keys.attestation.public))
    values = machine.read_pcrs(pcrs)
    assert (found.selection, found.extra) == (frozenset(pcrs), NONCE)
    assert set(values) == pcrs
    assert found.digest == verifier.pcr_digest(values)


def test_a_boot_that_differs_shows_in_the_pcrs(machine, simulated):
    before = machine.read_pcrs({7, 8})
    swtpm.extend(simulated, 7, b"\x11" * 32)
    after = machine.read_pcrs({7, 8})
    assert before[7] != after[7]
    assert before[8] == after[8]
    for wrong in ({24}, {-1}):
        with pytest.raises(ValueError, match="numbered 0 to 23"):
            machine.read_pcrs(wrong)


def test_what_the_window_key_signs_is_verified_as_a_seal(machine):
    signer = TpmSigner(machine, machine.create_keys().signing)
    assert signer.public_key.algorithm == ECDSA_P256
    assert (len(signer.public_key.data), signer.public_key.data[0]) == (65, 4)
    for number in range(20):  # some with a coordinate that begins with zeros, in time
        payload = b"window %d" % number
        signature = signer.sign(pae(WINDOW_TYPE, payload))
        assert len(signature) == 64
        assert signer.public_key.verifies(signature, WINDOW_TYPE, payload)
        assert not signer.public_key.verifies(signature, WINDOW_TYPE, payload + b".")


def test_the_attestation_key_signs_no_windows(machine):
    with pytest.raises(errors.TpmError, match="refused sign"):
        machine.sign(machine.create_keys().attestation, NONCE)


def test_keys_survive_a_restart_and_the_clock_says_there_was_one(machine, simulated):
    keys = machine.create_keys()
    endorsement = machine.endorsement_key()
    attestation = verifier.public(keys.attestation.public)

    def resets() -> int:
        said = machine.quote(keys.attestation, {0}, NONCE)
        return verifier.quote(said.attest, said.signature, attestation).clock.reset_count

    before = resets()
    simulated.stop()
    simulated.start()
    assert machine.endorsement_key() == endorsement
    assert resets() == before + 1  # not obfuscated, as it would be in the owner's hierarchy
    mine = credential_for(endorsement, keys.attestation.name)
    assert machine.activate(keys.attestation, *mine) == SECRET
    signer = TpmSigner(machine, keys.signing)
    assert signer.public_key.verifies(signer.sign(pae(WINDOW_TYPE, b"x")), WINDOW_TYPE, b"x")


def test_another_process_signs_with_the_same_key(machine, simulated):
    key = machine.create_keys().signing
    program = (
        "from assay_agent.tpm.device import Address; from assay_agent.tpm.machine import *; "
        f"key = KeyBlobs({key.public!r}, {key.private!r}); "
        f"print(Tpm(Address.parse({str(simulated.address)!r})).sign(key, bytes(32)).hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert len(bytes.fromhex(done.stdout.strip())) == 64


def test_a_key_of_one_tpm_is_nothing_to_another(machine, program, tmp_path):
    keys = machine.create_keys()
    with swtpm.running(program, tmp_path / "other") as running:
        other = Tpm(running.address)
        with pytest.raises(errors.TpmError, match="another TPM") as refused:
            other.sign(keys.signing, NONCE)
        assert refused.value.code == errors.Code.INTEGRITY
        with pytest.raises(errors.TpmError, match="another TPM"):
            other.quote(keys.attestation, {0}, NONCE)
        assert swtpm.loaded(running) == []


def test_nothing_is_left_loaded_whether_it_went_well_or_not(machine, simulated):
    """Without a resource manager, as here, a TPM is full at three keys and at three sessions."""
    keys = machine.create_keys()
    good = credential_for(machine.endorsement_key(), keys.attestation.name)
    bad = credential_for(machine.endorsement_key(), keys.signing.name)
    broken = KeyBlobs(keys.signing.public, keys.attestation.private)
    for _ in range(50):
        machine.sign(keys.signing, NONCE)
        machine.quote(keys.attestation, {0, 7}, NONCE)
        machine.certify(keys, NONCE)
        machine.activate(keys.attestation, *good)
        with pytest.raises(errors.TpmError):
            machine.activate(keys.attestation, *bad)
        with pytest.raises(errors.TpmError):
            machine.sign(broken, NONCE)
        with pytest.raises(errors.TpmError):
            machine.sign(keys.attestation, NONCE)
    assert swtpm.loaded(simulated) == []
    assert swtpm.loaded(simulated, swtpm.SESSIONS) == []


def test_a_tpm_that_is_full_says_what_to_do(machine, simulated):
    """Somebody else's keys, left loaded in a TPM that is not shared out."""
    from assay_agent.tpm import templates
    from assay_agent.tpm.commands import ENDORSEMENT, Commands

    transport = simulated.address.open()
    commands = Commands(transport)
    with (
        commands.primary(ENDORSEMENT, templates.STORAGE_KEY),
        commands.primary(ENDORSEMENT, templates.STORAGE_KEY),
        commands.primary(ENDORSEMENT, templates.STORAGE_KEY),
        pytest.raises(errors.TpmError, match="/dev/tpmrm0"),
    ):
        commands.primary(ENDORSEMENT, templates.STORAGE_KEY).__enter__()
    transport.close()
    machine.create_keys()


def test_a_hierarchy_with_a_password_says_what_to_do(machine, simulated):
    change = 0x129  # TPM2_HierarchyChangeAuth
    simulated.run(change, (0x4000000B,), b"\0\x04pass")
    with pytest.raises(errors.TpmError, match="tpm2_changeauth"):
        machine.create_keys()


def test_a_character_device_is_spoken_to_as_a_socket_is(simulated):
    with swtpm.as_a_device(simulated) as address:
        machine = Tpm(address)
        keys = machine.create_keys()
        said = machine.quote(keys.attestation, range(24), NONCE)
        attestation = verifier.public(keys.attestation.public)
        assert verifier.quote(said.attest, said.signature, attestation).extra == NONCE


def test_a_tpm_may_be_reached_over_loopback():
    """Somebody who closes in the middle of an answer, over TCP."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address.parse(f"tcp:127.0.0.1:{server.getsockname()[1]}")
        transport = address.open()
        peer, _ = server.accept()
        peer.sendall(b"\x80\x01\0\0\0\x0c\0\0")
        peer.close()
        with pytest.raises(errors.TpmError, match=r"went away|cannot be reached"):
            transport.transact(bytes(10))
        transport.close()


class Recording:
    """Passes everything to a TPM, and keeps its answers; or gives kept ones back."""

    def __init__(self, place, answers=None):
        self.place, self.kept, self.replay = place, [], answers

    def open(self):
        self.transport = None if self.replay is not None else self.place.open()
        return self

    def transact(self, command):
        if self.replay is not None:
            if not self.replay:
                raise errors.TpmError("the recording is at its end")
            return self.replay.pop(0)
        self.kept.append(self.transport.transact(command))
        return self.kept[-1]

    def close(self):
        if self.transport:
            self.transport.close()


def test_an_answer_changed_on_its_way_is_understood_or_named(machine, simulated):
    keys = machine.create_keys()
    credential = credential_for(machine.endorsement_key(), keys.attestation.name)
    operations = (
        lambda tpm: tpm.endorsement_certificates(),
        lambda tpm: tpm.create_keys(),
        lambda tpm: tpm.certify(keys, NONCE),
        lambda tpm: tpm.activate(keys.attestation, *credential),
        lambda tpm: tpm.quote(keys.attestation, {0, 7}, NONCE),
        lambda tpm: tpm.read_pcrs(range(24)),
        lambda tpm: tpm.sign(keys.signing, NONCE),
    )
    recorded = []
    for operation in operations:
        recording = Recording(simulated.address)
        operation(Tpm(recording))
        recorded.append((operation, recording.kept))

    @given(st.sampled_from(recorded), st.data())
    @settings(max_examples=500)
    def change(conversation, data):
        operation, answers = conversation
        which = data.draw(st.integers(0, len(answers) - 1))
        answer = answers[which]
        at = data.draw(st.integers(0, len(answer) - 1))
        cut = data.draw(st.integers(0, 4))
        changed = answer[:at] + data.draw(st.binary(max_size=4)) + answer[at + cut :]
        script = [*answers[:which], changed, *answers[which + 1 :]]
        with contextlib.suppress(AssayError):
            operation(Tpm(Recording(None, script)))

    change()


def test_no_tpm_says_what_to_do(tmp_path):
    with pytest.raises(errors.TpmError, match="enable the TPM in the machine's firmware"):
        Tpm(Address.parse(f"device:{tmp_path}/tpmrm0")).create_keys()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(errors.TpmError, match="no character device"):
        Tpm(Address.parse(f"device:{tmp_path}/file")).create_keys()
    with pytest.raises(HostError, match="start the simulated TPM"):
        Tpm(Address.parse(f"unix:{tmp_path}/nobody")).create_keys()


def test_a_tpm_that_stops_says_so_and_serves_again_when_it_is_back(machine, simulated):
    keys = machine.create_keys()
    simulated.stop()
    with pytest.raises(errors.TpmError, match="start the simulated TPM"):
        machine.sign(keys.signing, NONCE)
    simulated.start()
    assert len(machine.sign(keys.signing, NONCE)) == 64


def test_an_agent_that_may_not_use_the_tpm_is_told_the_group(tmp_path):
    device = tmp_path / "tpmrm0"
    device.write_bytes(b"")
    device.chmod(0o000)
    me = os.geteuid()
    os.seteuid(me or 65534)  # root may open anything; any other user is as good as the agent's
    try:
        with pytest.raises(
            errors.TpmError, match="add the agent's user to the device's group, tss"
        ):
            Address("device", str(device)).open()
    finally:
        os.seteuid(me)
