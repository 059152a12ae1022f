"""Enrolment and renewal against a valuer's desk, with replies lost and lies told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography import x509

from assay_agent import enroll
from assay_agent.cli import main
from assay_agent.keys import SEALING, KeyStore
from assay_agent.pem import new_sealing_key
from assay_core.errors import AssayError, HostError, ServiceError
from tests.fakes.agents import FakeAgent
from tests.fakes.proxy import ConnectProxy
from tests.fakes.valuer import HOST_ID, FakeValuer


def play(tmp_path: Path, scene, **valuer) -> None:
    async def run() -> None:
        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder, **valuer) as desk:
            await scene(desk, KeyStore(tmp_path / "state"))

    asyncio.run(run())


async def enrol(valuer: FakeValuer, keys: KeyStore, text: str | None = None, proxy=None):
    return (await enroll.enroll(keys, enroll.parse_token(text or valuer.token), proxy)).host


def test_a_token_becomes_an_identity(tmp_path):
    async def scene(valuer, keys):
        host = await enrol(valuer, keys)
        assert (host.host_id, host.incarnation) == (HOST_ID, 0)
        assert keys.host() == host
        assert valuer.sealing_key == keys.signer().public_key
        leaf = x509.load_pem_x509_certificate(keys.tls().chain_pem)
        name = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert name.get_values_for_type(x509.UniformResourceIdentifier) == [HOST_ID]
        files = {each.name: each for each in keys.state_dir.iterdir()}
        assert set(files) == {
            "authority.pem",
            "host.json",
            "lock",
            "sealing.key",
            "spool.db",
            "tls.pem",
        }
        assert {each.stat().st_mode & 0o777 for each in files.values()} == {0o600}
        for each in files.values():  # the token's secret is used once and kept nowhere
            assert valuer.token_secret not in each.read_bytes()

    play(tmp_path, scene)


def test_a_lost_reply_is_asked_for_again_with_the_same_bytes(tmp_path):
    async def scene(valuer, keys):
        for _ in range(2):
            with pytest.raises(ServiceError, match="the reply was lost"):
                await enrol(valuer, keys)
            assert not keys.enrolled
        host = await enrol(valuer, keys)
        assert host.incarnation == 0
        assert len(valuer.statements) == 3
        assert len(set(valuer.statements)) == 1

    play(tmp_path, scene, lose_enroll_replies=2)


def test_a_token_that_was_used_is_not_taken_again(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        with pytest.raises(HostError, match="the token was used"):
            await enrol(valuer, KeyStore(tmp_path / "another"))

    play(tmp_path, scene)


def test_a_wrong_secret_is_refused_in_words(tmp_path):
    async def scene(valuer, keys):
        text = valuer.token
        valuer.token_secret = bytes(32)
        with pytest.raises(HostError, match="unknown or expired token"):
            await enrol(valuer, keys, text)
        assert not keys.enrolled

    play(tmp_path, scene)


def test_the_token_pins_the_authority(tmp_path):
    async def scene(valuer, keys):
        folder = tmp_path / "impostor"
        folder.mkdir()
        async with FakeValuer(folder) as impostor:
            impostor.token_secret = valuer.token_secret
            impostor.authority = valuer.authority  # its token names the true one, it is another
            with pytest.raises(ServiceError, match="cannot be reached"):
                await enrol(impostor, keys)
            assert impostor.statements == []
            assert (await enrol(valuer, keys)).host_id == HOST_ID

    play(tmp_path, scene)


def test_a_reinstalled_host_begins_a_chain_that_names_the_old_head(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        valuer.token_id, valuer.statements = "T2", []
        valuer.incarnation, valuer.previous_head_hash = 1, bytes(range(32))
        agent = FakeAgent(keys.state_dir)
        await agent.enrol(valuer)
        assert agent.keys.host().incarnation == 1
        agent.append()
        sent = agent.spool.next_after(agent.spool.resume(None, 0))
        agent.spool.close()
        valuer.take_sealed(sent.item)
        assert valuer.header(0).previous_header_hash == bytes(range(32))
        assert (keys.state_dir / "replaced-1" / "spool.db").exists()

    play(tmp_path, scene)


def test_a_chain_is_not_begun_twice_in_one_incarnation(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        (keys.state_dir / "spool.db").unlink()
        with pytest.raises(HostError, match="would be a fork"):
            await enrol(valuer, keys)
        assert not (keys.state_dir / "spool.db").exists()

    play(tmp_path, scene)


def test_an_incarnation_that_a_new_key_may_not_have_changes_nothing(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        before = {each.name: each.read_bytes() for each in keys.state_dir.iterdir()}
        valuer.token_id, valuer.statements = "T2", []
        with pytest.raises(HostError, match="tell the lender"):
            await enrol(valuer, keys)
        after = {each.name: each.read_bytes() for each in keys.state_dir.iterdir()}
        del after["enrolling.json"]
        assert after == before

    play(tmp_path, scene)


def test_the_same_token_again_changes_nothing(tmp_path):
    async def scene(valuer, keys):
        agent = FakeAgent(keys.state_dir)
        await agent.enrol(valuer)
        agent.append(3)
        agent.spool.close()
        tls = keys.tls()
        await agent.enrol(valuer)
        assert (agent.spool.next_sequence, keys.tls()) == (3, tls)
        assert len(valuer.statements) == 1
        agent.spool.close()

    play(tmp_path, scene)


def test_a_new_token_after_a_lost_reply_gets_a_new_key(tmp_path):
    """The valuer may have enrolled the first one: a key belongs to one token and incarnation."""

    async def scene(valuer, keys):
        with pytest.raises(ServiceError, match="the reply was lost"):
            await enrol(valuer, keys)
        first, valuer.token_id, valuer.statements = valuer.sealing_key, "T2", []
        await enrol(valuer, keys)
        assert valuer.sealing_key == keys.signer().public_key != first

    play(tmp_path, scene, lose_enroll_replies=1)


def test_the_sealing_key_of_the_service_manager_is_enrolled_as_it_is(tmp_path):
    async def scene(valuer, keys):
        credentials = KeyStore(tmp_path / "credentials")
        credentials.prepare()
        credentials.write(SEALING, new_sealing_key())
        store = KeyStore(keys.state_dir, credentials.state_dir)
        await enrol(valuer, store)
        assert valuer.sealing_key == credentials.signer().public_key
        assert not (keys.state_dir / SEALING).exists()

    play(tmp_path, scene)


def test_a_certificate_is_renewed_after_it_expired(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        before, sealing = keys.tls(), keys.signer().public_key
        assert before.not_after_ms < valuer.now_ms()
        await enroll.renew(keys, None)
        after = keys.tls()
        assert after.not_after_ms > valuer.now_ms()
        assert after.key_pem != before.key_pem
        assert keys.signer().public_key == sealing
        assert valuer.renewals == 1

    play(tmp_path, scene, certificate_life_ms=60_000, certificate_age_ms=3_600_000)


def test_a_renewal_that_fails_changes_nothing(tmp_path):
    async def scene(valuer, keys):
        await enrol(valuer, keys)
        before = keys.tls()
        keys.write(SEALING, new_sealing_key())
        with pytest.raises(HostError, match="not the enrolled key"):
            await enroll.renew(keys, None)
        assert keys.tls() == before

    play(tmp_path, scene)


def test_enrolment_goes_through_the_proxy(tmp_path):
    async def scene(valuer, keys):
        async with ConnectProxy() as proxy:
            await enrol(valuer, keys, proxy=proxy.url)
            assert proxy.asked == [f"CONNECT localhost:{valuer.enrollment_port}"]

    play(tmp_path, scene)


def test_a_valuer_that_is_away_is_the_services_fault(tmp_path):
    async def scene(valuer, keys):
        text = valuer.token
        for server in tuple(valuer._servers):
            await server.stop(0)
        valuer._servers.clear()
        with pytest.raises(AssayError) as caught:
            await enrol(valuer, keys, text)
        assert isinstance(caught.value, ServiceError)

    play(tmp_path, scene)


def test_the_command_reads_a_file_and_says_who_the_host_is(tmp_path, capsys):
    async def scene(valuer, keys):
        (tmp_path / "token").write_text(valuer.token)
        config = tmp_path / "agent.yaml"
        config.write_text(f"state_dir: {keys.state_dir}\n")
        command = ["enroll", "--token-file", str(tmp_path / "token"), "--config", str(config)]
        assert await asyncio.to_thread(main, command) == 0
        assert HOST_ID in capsys.readouterr().out
        (tmp_path / "token").write_text("nonsense")
        assert await asyncio.to_thread(main, command) == 2
        assert "this is no token" in capsys.readouterr().err

    play(tmp_path, scene)
