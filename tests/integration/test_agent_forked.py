"""A copied or restored agent, with our own software on both sides: the lender hears of it.

Either copy is an honest program. The one that finds another history at the valuer shows its own, for
one key sealed both, and the host freezes (tests/integration/test_attacks.py says what that does).
"""

from __future__ import annotations

import asyncio
import shutil

import pytest

from assay_agent import enroll
from assay_agent.cli import check
from assay_agent.telemetry.diagnosis import State
from assay_valuer.ledger.read import entries_from
from tests.fakes.agents import FakeAgent, FakeSource, until
from tests.fakes.door import FakeValuer


@pytest.fixture
def valuer(tmp_path):
    (tmp_path / "valuer").mkdir()
    valuer = FakeValuer(tmp_path / "valuer", sources=("nvml", "simulated"))
    yield valuer
    valuer.check()
    valuer.close()


def forks(valuer: FakeValuer) -> list[int]:
    found = valuer.database.read(lambda c: entries_from(c, 0, kind="fork"))
    return [entry.sequence for entry in found]


async def sealed(agent: FakeAgent, count: int) -> None:
    """Windows that the valuer takes."""
    agent.open()
    async with agent.running():
        agent.append(count)
        await until(lambda: agent.spool.unacknowledged == 0)


async def refused(agent: FakeAgent, count: int) -> None:
    """Windows sealed without the valuer, and then the valuer's answer."""
    agent.open()
    agent.append(count)
    async with agent.running():
        await until(lambda: agent.state() == "forked")


def test_a_copied_state_that_goes_its_own_way_is_a_fork_at_the_valuer(valuer, tmp_path):
    original, copied = FakeAgent(tmp_path / "one"), FakeAgent(tmp_path / "two")

    async def scene() -> None:
        async with valuer.serving():
            token = enroll.parse_token(valuer.token())
            await enroll.enroll(original.keys, token, None)
            await sealed(original, 2)
            shutil.rmtree(copied.keys.state_dir, ignore_errors=True)
            shutil.copytree(original.keys.state_dir, copied.keys.state_dir)
            await sealed(original, 3)
            assert forks(valuer) == []
            await refused(copied, 2)

    asyncio.run(scene())
    assert forks(valuer) == [3]  # the copy's newest: 0 and 1 are both's


def test_a_restored_state_that_sealed_anew_is_a_fork_at_the_valuer(valuer, tmp_path):
    agent, backup = FakeAgent(tmp_path / "agent"), tmp_path / "backup"

    async def scene() -> None:
        async with valuer.serving():
            token = enroll.parse_token(valuer.token())
            await enroll.enroll(agent.keys, token, None)
            await sealed(agent, 2)
            shutil.copytree(agent.keys.state_dir, backup)
            await sealed(agent, 5)
            shutil.rmtree(agent.keys.state_dir)
            shutil.copytree(backup, agent.keys.state_dir)
            await refused(agent, 1)

    asyncio.run(scene())
    assert forks(valuer) == [2]


def test_a_restored_state_that_sealed_nothing_since_is_no_fork_yet(valuer, tmp_path):
    agent, backup = FakeAgent(tmp_path / "agent"), tmp_path / "backup"

    async def scene() -> None:
        async with valuer.serving():
            token = enroll.parse_token(valuer.token())
            await enroll.enroll(agent.keys, token, None)
            await sealed(agent, 2)
            shutil.copytree(agent.keys.state_dir, backup)
            await sealed(agent, 5)
            shutil.rmtree(agent.keys.state_dir)
            shutil.copytree(backup, agent.keys.state_dir)
            await refused(agent, 0)

    asyncio.run(scene())
    assert forks(valuer) == []  # a person must act all the same: it stops sending


def test_check_says_what_the_running_agent_hears_from_the_valuer(valuer, tmp_path):
    agent, backup = FakeAgent(tmp_path / "agent"), tmp_path / "backup"

    async def asked(after: str) -> tuple[State, str]:
        agent.open()
        service = agent.service(FakeSource(), window_ms=900_000, poll_ms=100)
        task = asyncio.ensure_future(service.run())
        try:
            await until(lambda: service._uplink.said.startswith(after))
            found = await asyncio.to_thread(check.uplink, agent.keys)
        finally:
            service.stop()
            await task
            agent.spool.close()
        assert found is not None
        return found.state, found.code

    async def scene() -> None:
        async with valuer.serving():
            await enroll.enroll(agent.keys, enroll.parse_token(valuer.token()), None)
            assert check.uplink(agent.keys) is None  # none runs
            await sealed(agent, 2)
            shutil.copytree(agent.keys.state_dir, backup)
            assert await asked("connected") == (State.OK, "uplink-connected")
            await sealed(agent, 1)
            shutil.rmtree(agent.keys.state_dir)
            shutil.copytree(backup, agent.keys.state_dir)
            assert await asked("forked") == (State.FAILED, "uplink-needs-person")

    asyncio.run(scene())
