"""A host's key in its TPM, and from one key to the next, at the real door: no window is lost."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from assay_agent import enroll, rotation, sealing
from assay_agent.cli import check_tpm, main
from assay_agent.config import TpmConfig, load
from assay_agent.keys import SEALING, KeyStore
from assay_agent.pem import new_sealing_key
from assay_agent.telemetry.diagnosis import State
from assay_agent.tpm import kept
from assay_agent.tpm.errors import TpmError
from assay_agent.uplink import enrollment
from assay_core.errors import FileError, HostError, ServiceError
from assay_core.header import CloseReason
from assay_core.seal import ECDSA_P256, ED25519
from assay_valuer.hosts import find_host
from assay_valuer.ledger.read import entries_from, windows_from
from assay_valuer.tpms import Tpms
from demo.simulated_tpm import Maker
from tests.fakes import swtpm
from tests.fakes.agents import FakeAgent, FakeSource, until
from tests.fakes.door import FakeValuer

ROOT = Path(__file__).resolve().parents[2]
MAKER = Maker()
ROOT_SHA256 = MAKER.root.fingerprint(hashes.SHA256()).hex()


@pytest.fixture
def valuer(tmp_path):
    (tmp_path / "valuer").mkdir()
    valuer = FakeValuer(tmp_path / "valuer", sources=("nvml", "simulated"))
    valuer.registrar = dataclasses.replace(valuer.registrar, tpms=Tpms((ROOT_SHA256,)))
    yield valuer
    valuer.check()
    valuer.close()


@pytest.fixture
def simulated(requires_tool, tmp_path):
    with swtpm.running(requires_tool("swtpm"), tmp_path / "tpm", MAKER) as running:
        yield running


@pytest.fixture
def config(simulated, tmp_path) -> TpmConfig:
    chain = tmp_path / "chain.pem"
    authorities = (MAKER.intermediate, MAKER.root)
    chain.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in authorities))
    return TpmConfig(device=str(simulated.address), ek_chain=str(chain))


@pytest.fixture
def agent(tmp_path, config) -> FakeAgent:
    """Of a host with a TPM."""
    return FakeAgent(tmp_path / "agent", tpm=config)


@pytest.fixture
def plain(tmp_path) -> FakeAgent:
    """Of a host without one."""
    return FakeAgent(tmp_path / "agent")


def play(valuer, scene) -> None:
    async def run() -> None:
        async with valuer.serving():
            await scene()

    asyncio.run(run())


async def enrol(agent: FakeAgent, token: str) -> enroll.Host:
    return (await enroll.enroll(agent.keys, enroll.parse_token(token), None)).host


def settings_of(agent: FakeAgent, tmp_path: Path) -> list[str]:
    lines = [f"state_dir: {agent.keys.state_dir}"]
    if agent.keys.tpm_config is not None:
        device, chain = agent.keys.tpm_config.device, agent.keys.tpm_config.ek_chain
        lines.append(f"tpm: {{device: '{device}', ek_chain: '{chain}'}}")
    file = tmp_path / "agent.yaml"
    file.write_text("\n".join(lines) + "\n")
    return ["--config", str(file)]


async def rotate(agent: FakeAgent, tmp_path: Path, *words: str) -> int:
    return await asyncio.to_thread(main, ["rotate", *words, *settings_of(agent, tmp_path)])


@asynccontextmanager
async def running(agent: FakeAgent):
    """The agent's service; it seals when it is told to."""
    agent.open()
    service = agent.service(FakeSource(), window_ms=900_000, poll_ms=100)
    task = asyncio.ensure_future(service.run())
    try:
        await until(lambda: agent.state() == "connected" or task.done())
        yield service
    finally:
        service.stop()
        await task
        agent.spool.close()


async def seal(agent: FakeAgent, service) -> None:
    """One window, to the valuer's acknowledgement."""
    await until(lambda: service._aggregator.polls > 0)
    assert service._seal(CloseReason.PERIOD)
    await until(lambda: agent.spool.unacknowledged == 0)


def taken(valuer: FakeValuer) -> list[tuple[int, str]]:
    """Each window that the valuer has: its sequence, and who it says sealed it."""
    stored = valuer.database.read(lambda c: windows_from(c, 0))
    return [(w.header.sequence, w.sealed.envelope.signatures[0].keyid) for w in stored]


def facts(valuer: FakeValuer, kind: str) -> list[dict]:
    """The valuer's own records of a kind."""
    found = valuer.database.read(lambda c: entries_from(c, 0, kind=kind))
    return [json.loads(entry.body.envelope.payload) for entry in found]


def keys_at(valuer: FakeValuer, host: enroll.Host) -> list[str]:
    """Fingerprints of those who may seal for the host, oldest first."""
    found = valuer.database.read(lambda c: find_host(c, host.host_id))
    assert found is not None
    return [key.fingerprint for key in found.trust.keys]


def test_a_host_with_a_tpm_enrols_by_its_key_in_there(valuer, agent):
    async def scene():
        host = await enrol(agent, valuer.token())
        signer = agent.keys.signer()
        assert signer.public_key.algorithm == ECDSA_P256
        assert keys_at(valuer, host) == [signer.public_key.fingerprint]
        assert (agent.keys.state_dir / "tpm.json").stat().st_mode & 0o777 == 0o600
        assert not (agent.keys.state_dir / SEALING).exists()
        async with running(agent) as service:
            await seal(agent, service)
        assert taken(valuer) == [(0, signer.public_key.fingerprint)] + [
            (1, signer.public_key.fingerprint)  # the one of its shutdown
        ] * (len(taken(valuer)) - 1)

    play(valuer, scene)
    (record,) = facts(valuer, "enrolment")
    tpm = agent.keys.host_tpm()
    assert record["tpm"]["ak_name"] == tpm.attestation_name.hex()
    assert record["tpm"]["root_sha256"] == ROOT_SHA256


def test_an_enrolment_whose_reply_was_lost_goes_on_with_the_same_keys(valuer, agent):
    async def scene():
        token = enroll.parse_token(valuer.token())
        agent.keys.prepare()
        pending = await enroll._begin(agent.keys, token)
        key = enroll._key(pending)
        secret = await sealing.activate(agent.keys, key, token.endpoint, token.authority_pem, None)
        await enrollment.enroll(
            token.endpoint, token.authority_pem, None,
            statement=enroll.base64.b64decode(pending.statement),
            token_secret=token.secret,
            signer=agent.keys.signer_of(key, agent.keys.state_dir),
            activation=secret,
        )  # fmt: skip
        assert not agent.keys.enrolled  # as where the agent never heard of it
        done = await enroll.enroll(agent.keys, token, None)
        assert done.host.incarnation == 0
        assert agent.keys.host_tpm().keys.signing.public == pending.tpm.signing_public
        assert len(facts(valuer, "enrolment")) == 1

    play(valuer, scene)


@pytest.mark.parametrize("required", [True, False])
def test_a_host_without_its_tpm_enrols_only_where_none_is_required(valuer, tmp_path, required):
    nobody = TpmConfig(device=f"device:{tmp_path}/tpmrm0", required=required)
    agent = FakeAgent(tmp_path / "agent", tpm=nobody)

    async def scene():
        if required:
            with pytest.raises(TpmError, match="enable the TPM"):
                await enrol(agent, valuer.token())
            assert facts(valuer, "enrolment") == []
        else:
            await enrol(agent, valuer.token())
            assert agent.keys.signer().public_key.algorithm == ED25519

    play(valuer, scene)


def test_a_reinstalled_host_keeps_its_tpm_and_puts_the_old_keys_aside(valuer, agent):
    async def scene():
        first = await enrol(agent, valuer.token())
        before = (agent.keys.state_dir / "tpm.json").read_bytes()
        again = await enrol(agent, valuer.token(host_id=first.host_id))
        assert (again.host_id, again.incarnation) == (first.host_id, 1)
        assert (agent.keys.state_dir / "replaced-1" / "tpm.json").read_bytes() == before
        assert (agent.keys.state_dir / "tpm.json").read_bytes() != before

    play(valuer, scene)
    assert [record["ek_changed"] for record in facts(valuer, "enrolment")] == [False, False]


def test_a_key_in_a_tpm_that_is_not_configured_says_what_to_do(valuer, agent):
    async def scene():
        await enrol(agent, valuer.token())
        with pytest.raises(HostError, match=r"tpm: \{\} in agent\.yaml"):
            KeyStore(agent.keys.state_dir).signer()

    play(valuer, scene)


@pytest.mark.parametrize("kind", ["file", "tpm", "file to tpm"])
def test_the_running_agent_goes_over_between_two_windows(valuer, tmp_path, config, kind, capsys):
    agent = FakeAgent(tmp_path / "agent", tpm=config if kind == "tpm" else None)

    async def scene():
        host = await enrol(agent, valuer.token())
        old = agent.keys.signer().public_key.fingerprint
        attested = agent.keys.host_tpm() and agent.keys.host_tpm().attestation_name
        agent.keys.tpm_config = None if kind == "file" else config
        async with running(agent) as service:
            await seal(agent, service)
            assert await rotate(agent, tmp_path) == 0
            new = agent.keys.signer().public_key
            assert new.algorithm == (ED25519 if kind == "file" else ECDSA_P256)
            assert new.fingerprint[:16] in capsys.readouterr().out
            assert keys_at(valuer, host) == [old, new.fingerprint]
            await seal(agent, service)
            await until(lambda: keys_at(valuer, host) == [new.fingerprint])
            await seal(agent, service)
        found = taken(valuer)
        assert [sequence for sequence, _ in found] == list(range(len(found)))
        assert [key for _, key in found[:3]] == [old, new.fingerprint, new.fingerprint]
        files = {each.name for each in agent.keys.state_dir.iterdir()}
        assert ("tpm.json" in files, SEALING in files) == (kind != "file", kind == "file")
        assert "rotating.json" not in files
        if kind == "tpm":
            assert agent.keys.host_tpm().attestation_name == attested
        await enroll.renew(agent.keys, None)  # the new key speaks for the host in everything

    play(valuer, scene)


def test_what_the_old_key_sealed_is_taken_after_the_rotation(valuer, plain, tmp_path):
    """The line was down, the agent stopped: windows wait in the spool, sealed by the old key."""

    async def scene():
        host = await enrol(plain, valuer.token())
        old = plain.keys.signer().public_key.fingerprint
        plain.open()
        plain.append(3)
        plain.spool.close()
        assert await rotate(plain, tmp_path) == 0
        new = plain.keys.signer().public_key.fingerprint
        plain.open()
        plain.append(2)
        async with plain.running():
            await until(lambda: plain.spool.unacknowledged == 0)
        assert taken(valuer) == [(0, old), (1, old), (2, old), (3, new), (4, new)]
        assert keys_at(valuer, host) == [new]

    play(valuer, scene)


def test_a_gap_among_what_the_old_key_sealed_is_the_old_keys_word(valuer, plain, tmp_path):
    async def scene():
        await enrol(plain, valuer.token())
        old = plain.keys.signer().public_key.fingerprint
        plain.open()
        plain.append(40)
        plain.spool.close()
        assert await rotate(plain, tmp_path) == 0
        new = plain.keys.signer().public_key.fingerprint
        plain.bytes_max = 100_000
        plain.open()
        plain.append(2)
        assert plain.spool.dropped_windows > 0
        async with plain.running():
            await until(lambda: plain.spool.unacknowledged == 0)
        found = taken(valuer)
        assert found[-2:] == [(40, new), (41, new)]
        assert found[0][0] > 0
        assert {key for _, key in found[:-2]} == {old}

    play(valuer, scene)


async def lose_reply(agent: FakeAgent, to: rotation.Target) -> bytes:
    """A rotation that the valuer took, and of which the agent never heard; its statement."""
    keys = agent.keys
    pending = await rotation._begin(keys, to)
    host, authority = keys.host(), keys.tls().authority_pem
    secret = await sealing.activate(keys, pending.key, host.enrollment_endpoint, authority, None)
    await enrollment.rotate(
        host.enrollment_endpoint, authority, None,
        statement=pending.statement,
        old=keys.signer(),
        new=keys.signer_of(pending.key, keys.state_dir),
        activation=secret,
    )  # fmt: skip
    return pending.statement


@pytest.mark.parametrize("to", ["file", "tpm"])
def test_a_lost_reply_is_asked_for_again_with_the_same_bytes(valuer, plain, config, tmp_path, to):
    async def scene():
        host = await enrol(plain, valuer.token())
        plain.keys.tpm_config = config
        statement = await lose_reply(plain, to)
        old = plain.keys.signer().public_key.fingerprint
        plain.open()
        plain.append()  # it goes on with the key that it has
        async with plain.running():
            await until(lambda: plain.spool.unacknowledged == 0)
        assert taken(valuer) == [(0, old)]
        assert json.loads((plain.keys.state_dir / "rotating.json").read_bytes())["statement"] == enroll.encode(statement)  # fmt: skip
        assert await rotate(plain, tmp_path, "--to", to) == 0
        new = plain.keys.signer().public_key.fingerprint
        assert keys_at(valuer, host) == [old, new]
        assert len(facts(valuer, "rotation")) == 1

    play(valuer, scene)


def test_a_key_that_left_its_tpm_is_refused_and_another_try_is_another_key(
    valuer, agent, tmp_path, capsys
):
    async def scene():
        host = await enrol(agent, valuer.token())
        before = agent.keys.signer().public_key
        assert await rotate(agent, tmp_path, "--to", "file") == 1
        said = capsys.readouterr().err
        assert "tpm_needed" in said
        assert "enrol it with a new token" not in said
        assert agent.keys.signer().public_key == before
        refused = (agent.keys.state_dir / "rotating.json").read_bytes()
        assert await rotate(agent, tmp_path, "--to", "file") == 1
        assert (agent.keys.state_dir / "rotating.json").read_bytes() == refused
        assert await rotate(agent, tmp_path, "--to", "file", "--anew") == 1
        assert (agent.keys.state_dir / "rotating.json").read_bytes() != refused
        assert await rotate(agent, tmp_path) == 0  # elsewhere is another key too
        assert keys_at(valuer, host) == [
            before.fingerprint, agent.keys.signer().public_key.fingerprint]  # fmt: skip

    play(valuer, scene)


def test_no_second_rotation_before_the_first_has_sealed(valuer, plain, tmp_path, capsys):
    async def scene():
        await enrol(plain, valuer.token())
        assert await rotate(plain, tmp_path) == 0
        now = plain.keys.signer().public_key
        assert await rotate(plain, tmp_path) == 1
        assert "rotate again once one has" in capsys.readouterr().err
        assert plain.keys.signer().public_key == now

    play(valuer, scene)


def test_a_valuer_that_cannot_be_reached_changes_nothing(valuer, plain, tmp_path, capsys):
    async def first():
        await enrol(plain, valuer.token())

    play(valuer, first)
    before = plain.keys.signer().public_key
    assert asyncio.run(rotate(plain, tmp_path)) == 3
    assert "cannot be reached" in capsys.readouterr().err
    assert plain.keys.signer().public_key == before


def test_a_key_of_systemd_is_not_replaced_by_a_file(valuer, plain, tmp_path):
    async def scene():
        credentials = KeyStore(tmp_path / "credentials")
        credentials.prepare()
        credentials.write(SEALING, new_sealing_key())
        keys = KeyStore(plain.keys.state_dir, credentials.state_dir)
        await enroll.enroll(keys, enroll.parse_token(valuer.token()), None)
        with pytest.raises(HostError, match="only who runs systemd can replace"):
            await rotation.ask(keys, None, "file", anew=False)

    play(valuer, scene)


def test_a_key_of_systemd_goes_into_the_tpm(valuer, agent, tmp_path):
    async def scene():
        credentials = KeyStore(tmp_path / "credentials")
        credentials.prepare()
        credentials.write(SEALING, new_sealing_key())
        keys = KeyStore(agent.keys.state_dir, credentials.state_dir)
        await enroll.enroll(keys, enroll.parse_token(valuer.token()), None)
        old = keys.signer().public_key
        keys.tpm_config = agent.keys.tpm_config
        await rotation.ask(keys, None, None, anew=False)
        rotation.complete(keys)
        assert keys.signer().public_key.algorithm == ECDSA_P256
        assert keys.previous_signer().public_key == old

    play(valuer, scene)


COMPLETE = """
import os, signal, sys
from pathlib import Path
from assay_agent import rotation
from assay_agent.keys import KeyStore
state, left = sys.argv[1], int(sys.argv[2])
def watch(event, args):
    global left
    writes = event == "open" and isinstance(args[2], int) and args[2] & os.O_ACCMODE
    changes = event in ("os.rename", "os.remove")
    if (writes or changes) and str(args[0]).startswith(state):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
keys = KeyStore(Path(state))
sys.addaudithook(watch)
rotation.complete(keys)
"""


def test_a_rotation_that_was_answered_is_completed_however_often_it_is_cut_off(
    valuer, plain, config, tmp_path
):
    async def scene():
        await enrol(plain, valuer.token())
        plain.keys.tpm_config = config
        await rotation.ask(plain.keys, None, "tpm", anew=False)

    play(valuer, scene)
    old = plain.keys.signer().public_key
    answered = rotation._pending(plain.keys)
    step, killed = 0, -signal.SIGKILL
    while killed == -signal.SIGKILL:
        step += 1
        state = tmp_path / f"step{step}"
        shutil.copytree(plain.keys.state_dir, state)
        killed = subprocess.run(
            [sys.executable, "-c", COMPLETE, str(state), str(step)], cwd=ROOT, check=False
        ).returncode
        keys = KeyStore(state, tpm=config)
        rotation.complete(keys)
        assert keys.host_tpm().keys.signing.public == answered.key.tpm.signing_public
        assert keys.tls().chain_pem in answered.answered.tls_pem.encode()
        assert keys.previous_signer().public_key == old
        assert {each.name for each in state.iterdir()} == {
            *("authority.pem", "host.json", "lock", "previous.json", "spool.db", "tls.pem"),
            "tpm.json",
        }
    assert killed == 0
    assert step > 8


def test_a_tpm_that_does_not_sign_costs_no_reading(valuer, agent, simulated):
    async def scene():
        await enrol(agent, valuer.token())
        async with running(agent) as service:
            await until(lambda: service._aggregator.polls > 0)
            polls = service._aggregator.polls
            simulated.stop()
            assert not service._seal(CloseReason.PERIOD)
            assert agent.metrics.seal_failures.value == 1
            assert service._aggregator.polls >= polls
            simulated.start()
            await seal(agent, service)
        assert taken(valuer)[0][0] == 0

    play(valuer, scene)


def test_one_rotation_at_a_time(valuer, plain, tmp_path):
    async def scene():
        await enrol(plain, valuer.token())
        async with running(plain) as service:
            first = asyncio.ensure_future(service._rotate(None, anew=False))
            await asyncio.sleep(0)
            with pytest.raises(ServiceError, match="under way already"):
                await service._rotate(None, anew=False)
            await first

    play(valuer, scene)


def test_a_quote_comes_with_the_values_it_is_over(valuer, agent, simulated):
    async def scene():
        await enrol(agent, valuer.token())

    play(valuer, scene)
    swtpm.extend(simulated, 7, b"\x22" * 32)
    quoted = agent.keys.host_tpm().quote({0, 7}, bytes(32))
    assert set(quoted.values) == {0, 7}
    assert quoted.values[7] != quoted.values[0] == bytes(32)


def test_check_says_what_the_tpm_does_and_does_not(valuer, plain, config, simulated, tmp_path):
    def found(keys):
        finding = asyncio.run(check_tpm.tpm(keys))
        return finding and (finding.state, finding.code, finding.fix)

    fix = "assay-agent rotate --to tpm"
    assert found(plain.keys) is None
    plain.keys.tpm_config = config
    assert found(plain.keys) == (State.OK, "tpm-there", "")
    plain.keys.tpm_config = None

    async def scene():
        await enrol(plain, valuer.token())
        plain.keys.tpm_config = config
        assert await asyncio.to_thread(found, plain.keys) == (State.WARNING, "tpm-unused", fix)
        assert await rotate(plain, tmp_path) == 0

    play(valuer, scene)
    assert found(plain.keys) == (State.OK, "tpm-seals", "")
    simulated.stop()
    assert found(plain.keys)[:2] == (State.FAILED, "tpm-unusable")
    optional = TpmConfig(device=config.device, required=False)
    assert found(KeyStore(tmp_path / "other", tpm=optional))[:2] == (State.WARNING, "tpm-unusable")


def test_the_configuration_names_a_tpm_or_says_what_is_wrong(tmp_path):
    file = tmp_path / "agent.yaml"
    for text, found in (
        ("", None),
        ("tpm: {}", TpmConfig()),
        ("tpm: {device: 'unix:/a', required: false}", TpmConfig(device="unix:/a", required=False)),
    ):
        file.write_text(text)
        assert load(file).tpm == found
    file.write_text("tpm: {device: /dev/tpmrm0}")
    with pytest.raises(FileError, match=r"tpm\.device: '/dev/tpmrm0' is no place of a TPM"):
        load(file)
    file.write_text("no certificates")
    with pytest.raises(FileError, match=r"tpm\.ek_chain: .* does not hold certificates"):
        kept.machine(TpmConfig(ek_chain=str(file)))


def test_an_agent_without_a_tpm_carries_nothing_of_it():
    done = subprocess.run(
        [sys.executable, "-c", "import assay_agent.cli.run, sys; print(*sys.modules)"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    carried = {name for name in done.stdout.split() if name.startswith("assay_agent.tpm.")}
    assert carried == {"assay_agent.tpm.device", "assay_agent.tpm.errors", "assay_agent.tpm.wire"}
