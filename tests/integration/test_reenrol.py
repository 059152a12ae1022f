"""Enrolling a host again, against the real door: a new chain that names the old one's head."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from assay_agent import enroll, spool_file, switch
from assay_agent.cli import main
from assay_agent.keys import KeyStore
from assay_core.errors import HostError
from assay_core.header import header_hash
from assay_valuer.config import IngestConfig
from assay_valuer.hosts import list_trust
from assay_valuer.ledger.read import windows_from
from tests.fakes.agents import FakeAgent, until
from tests.fakes.door import FakeValuer
from tests.fakes.enrolling import KilledEnrolments

MANY = IngestConfig(linger_ms=1, enrolments_per_minute=10_000, enrolments_per_minute_of_peer=10_000)


@pytest.fixture
def valuer(tmp_path: Path):
    (tmp_path / "valuer").mkdir()
    valuer = FakeValuer(tmp_path / "valuer", ingest=MANY)
    yield valuer
    valuer.check()
    valuer.close()


@pytest.fixture
def agent(tmp_path: Path) -> FakeAgent:
    return FakeAgent(tmp_path / "agent")


def during(valuer: FakeValuer, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with valuer.serving():
            await story()

    asyncio.run(run())


async def enrol(agent: FakeAgent, token: str) -> enroll.Enrolment:
    done = await enroll.enroll(agent.keys, enroll.parse_token(token), None)
    agent.open()
    return done


async def send(agent: FakeAgent, count: int) -> bytes:
    """Seals and sends windows over an open spool, which it closes; the head's hash."""
    agent.append(count)
    async with agent.running():
        await until(lambda: agent.spool.unacknowledged == 0)
        return agent.spool._head_hash


def chains(valuer: FakeValuer) -> dict[tuple[str, int], list[bytes]]:
    """Header hashes in order, each with the hash it names before it: host and incarnation → chain."""
    found: dict[tuple[str, int], list[bytes]] = {}
    for window in valuer.database.read(lambda c: windows_from(c, position=0, limit=100_000)):
        key = (window.header.host_id, window.header.incarnation)
        chain = found.setdefault(key, [window.header.previous_header_hash])
        assert window.header.sequence == len(chain) - 1
        assert window.header.previous_header_hash == chain[-1]
        chain.append(header_hash(window.sealed.envelope.payload))
    return found


def test_a_token_for_the_host_begins_its_next_incarnation(valuer, agent):
    async def story():
        first = (await enrol(agent, valuer.token())).host
        head = await send(agent, 3)
        old_key, old_tls = agent.keys.signer().public_key, agent.keys.tls()
        agent.open()
        agent.append(2)  # sealed, and not sent before the agent was stopped
        agent.spool.close()

        again = await enrol(agent, valuer.token(host_id=first.host_id))
        assert (again.host.host_id, again.host.incarnation) == (first.host_id, 1)
        assert (again.replaced, again.changed) == (first, True)
        assert agent.keys.signer().public_key != old_key
        assert agent.keys.tls().key_pem != old_tls.key_pem
        assert agent.spool.next_sequence == 0
        await send(agent, 2)

        old = KeyStore(again.aside)
        assert (old.signer().public_key, old.tls()) == (old_key, old_tls)
        db = sqlite3.connect(again.aside / "spool.db")
        assert db.execute("SELECT sequence FROM body ORDER BY 1").fetchall() == [
            (n,) for n in range(5)
        ]
        db.close()
        found = chains(valuer)
        assert {key: len(chain) - 1 for key, chain in found.items()} == {
            (first.host_id, 0): 3,
            (first.host_id, 1): 2,
        }
        assert found[first.host_id, 1][0] == head == found[first.host_id, 0][-1]

    during(valuer, story)


def test_a_token_for_the_site_makes_it_another_host_and_says_so(valuer, agent, tmp_path, capsys):
    async def story():
        first = (await enrol(agent, valuer.token())).host
        await send(agent, 2)
        (tmp_path / "token").write_text(valuer.token())
        (tmp_path / "agent.yaml").write_text(f"state_dir: {agent.keys.state_dir}\n")
        command = ["enroll", "--config", f"{tmp_path}/agent.yaml", "--token-file"]
        command.append(str(tmp_path / "token"))
        assert await asyncio.to_thread(main, command) == 0
        said = capsys.readouterr().out
        assert "this is a new host to the valuer" in said
        assert f"assay-valuer token create --host {first.host_id}" in said
        assert "replaced-1: keep them" in said
        host = agent.keys.host()
        assert (host.host_id != first.host_id, host.incarnation) == (True, 0)
        agent.open()
        await send(agent, 1)
        assert await asyncio.to_thread(main, command) == 0
        assert "nothing changed" in capsys.readouterr().out
        assert agent.keys.host() == host
        # And back to the first: the same host, its next incarnation.
        back = await enrol(agent, valuer.token(host_id=first.host_id))
        assert (back.host.host_id, back.host.incarnation) == (first.host_id, 1)
        assert back.aside is not None
        assert back.aside.name == "replaced-2"
        await send(agent, 1)

    during(valuer, story)


def test_a_forked_host_goes_on_after_it_enrols_again(valuer, agent, tmp_path):
    async def story():
        host = (await enrol(agent, valuer.token())).host
        agent.append(2)
        agent.spool.close()
        shutil.copytree(agent.keys.state_dir, tmp_path / "copy")
        agent.open()
        head = await send(agent, 1)
        copy = FakeAgent(tmp_path / "copy")
        copy.open()
        copy.append(1)
        async with copy.running():
            await until(lambda: copy.state() == "forked")
        await enrol(agent, valuer.token(host_id=host.host_id))
        assert await send(agent, 3)
        found = chains(valuer)
        assert found[host.host_id, 1][0] == head
        assert len(found[host.host_id, 1]) == 4
        # The copy's key is of the old incarnation: it is not let in any more.
        copy.open()
        async with copy.running():
            await until(lambda: copy.state() in ("refused", "denied"))
        assert chains(valuer) == found

    during(valuer, story)


def test_an_agent_that_runs_is_not_enrolled_again_under_its_feet(valuer, agent):
    async def story():
        host = (await enrol(agent, valuer.token())).host
        agent.spool.close()
        token = enroll.parse_token(valuer.token(host_id=host.host_id))
        with (
            spool_file.locked(agent.keys.state_dir),
            pytest.raises(HostError, match="stop it first"),
        ):
            await enroll.enroll(agent.keys, token, None)
        assert agent.keys.host() == host
        assert agent.keys.enrolling() is None

    during(valuer, story)


def test_an_enrolment_killed_before_any_of_its_steps_is_completed_by_the_same_again(
    valuer, agent, tmp_path
):
    """Each round kills the next step of another enrolment of the same host, until none is left."""

    async def story():
        killed = KilledEnrolments()
        await killed.start()
        host_id = (await enrol(agent, valuer.token())).host.host_id
        head = await send(agent, 1)
        step, ended, completed_at_start = 0, -signal.SIGKILL, 0
        while ended == -signal.SIGKILL:
            step += 1
            text = valuer.token(host_id=host_id)
            (tmp_path / "token").write_text(text)
            ended = await killed.enrol(agent.keys.state_dir, tmp_path / "token", step)
            if step % 2 and (agent.keys.state_dir / "switching.json").exists():
                with pytest.raises(HostError, match="was cut off"):
                    agent.keys.host()
                switch.complete(agent.keys)  # as the agent does when it starts
                completed_at_start += 1
            done = await enrol(agent, text)
            assert (done.host.host_id, done.host.incarnation) == (host_id, step)
            assert done.host.previous_head_hash == head.hex()
            left = {each.name for each in agent.keys.state_dir.iterdir()}
            assert left - {"spool.db-wal", "spool.db-shm", "spool.reserve"} == {
                *("authority.pem", "host.json", "lock", "sealing.key", "spool.db", "tls.pem"),
                *(f"replaced-{n}" for n in range(1, step + 1)),
            }
            head = await send(agent, 1)
        assert ended == 0
        await killed.stop()
        assert step > 20
        assert completed_at_start > 3
        # One key and one chain for each: no step made the valuer enrol the same token twice.
        found = chains(valuer)
        assert [key[1] for key in sorted(found)] == list(range(step + 1))
        trust = valuer.database.read(list_trust)
        assert len(trust) == step + 1
        kept = [
            KeyStore(agent.keys.state_dir / f"replaced-{n}").signer().public_key
            for n in range(1, step + 1)
        ]
        assert [each.keys[0] for each in trust[:-1]] == kept

    during(valuer, story)
