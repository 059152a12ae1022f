"""Gaps against the real door: windows whose acknowledgement was lost, and that the agent dropped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from assay_agent import enroll
from assay_agent.uplink import channel, session
from assay_core.header import Head
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import attestation_pb2_grpc as rpc
from assay_valuer.config import IngestConfig
from assay_valuer.ledger.read import windows_from
from tests.fakes.agents import FakeAgent, until
from tests.fakes.door import FakeValuer

FITS = 70_000
"""Bytes of a spool that holds some windows, and far from all that these tests seal."""


def play(tmp_path: Path, linger_ms: int, scene) -> None:
    (tmp_path / "valuer").mkdir()
    valuer = FakeValuer(tmp_path / "valuer", ingest=IngestConfig(linger_ms=linger_ms))

    async def run() -> None:
        async with valuer.serving():
            agent = FakeAgent(tmp_path / "agent", bytes_max=FITS)
            await enroll.enroll(agent.keys, enroll.parse_token(valuer.token()), None)
            agent.open()
            await scene(valuer, agent)

    asyncio.run(run())
    valuer.check()
    valuer.close()


async def send_and_hang_up(valuer: FakeValuer, agent: FakeAgent, count: int) -> None:
    """Sends what comes next as the agent does, and is gone before any acknowledgement."""
    host, before = agent.keys.host(), arrived(valuer)
    async with channel.open_mutual_tls(host.attestation_endpoint, agent.keys.tls(), None) as opened:
        call = rpc.AttestationStub(opened).Stream()
        await call.write(pb.AgentMessage(hello=pb.Hello(schema_max=1, agent_version="0.1.0")))
        message = await call.read()
        assert isinstance(message, pb.ValuerMessage)
        welcome = message.welcome
        head = Head(welcome.head_sequence, welcome.head_hash) if welcome.has_head else None
        cursor = agent.spool.resume(head, valuer.clock())
        for _ in range(count):
            outgoing = agent.spool.next_after(cursor)
            assert outgoing is not None
            cursor = outgoing.head
            await call.write(session._message(outgoing))
        await until(lambda: arrived(valuer) == before + count)
        call.cancel()


def arrived(valuer: FakeValuer) -> int:
    """Windows and gap records that were ever let in, committed or not."""
    return valuer.door._committer._taken


def chain(valuer: FakeValuer) -> list[tuple[int, int]]:
    """First and last sequence of each run of windows in the ledger; gaps lie between."""
    runs: list[tuple[int, int]] = []
    for window in valuer.database.read(lambda c: windows_from(c, position=0, limit=10_000)):
        sequence = window.header.sequence
        if runs and runs[-1][1] == sequence - 1:
            runs[-1] = (runs[-1][0], sequence)
        else:
            runs.append((sequence, sequence))
    return runs


async def settle(agent: FakeAgent) -> None:
    async with agent.running():
        await until(lambda: agent.spool.unacknowledged == 0)
        assert agent.uplink._failures == 0
        refused = [value for _, value in agent.metrics.refusals.rows()]
        assert refused == []
    agent.open()


@pytest.mark.parametrize("linger_ms", [0, 400])
@pytest.mark.parametrize("sent", [1, 3, 6])
def test_what_was_stored_and_then_dropped_unacknowledged_is_no_gap(tmp_path, linger_ms, sent):
    """With a linger the first stream is gone before its windows are even committed."""

    async def scene(valuer, agent):
        agent.append(sent)
        await send_and_hang_up(valuer, agent, sent)
        agent.append(80)
        dropped = agent.spool.dropped_windows
        assert dropped > sent
        await settle(agent)
        head = agent.spool.next_sequence - 1
        found = chain(valuer)
        assert found == [(0, sent - 1), (dropped, head)]
        agent.spool.close()

    play(tmp_path, linger_ms, scene)


@pytest.mark.parametrize("linger_ms", [0, 400])
def test_a_gap_whose_acknowledgement_was_lost_is_followed_by_another(tmp_path, linger_ms):
    async def scene(valuer, agent):
        for _ in range(4):
            agent.append(80)
            await send_and_hang_up(valuer, agent, 3)  # the gap, and two windows
        agent.append(80)
        await settle(agent)
        found = chain(valuer)
        assert [last - first for first, last in found[:-1]] == [1, 1, 1, 1]
        assert found[-1][1] == agent.spool.next_sequence - 1
        agent.append(5)
        await settle(agent)
        assert chain(valuer)[-1] == (found[-1][0], agent.spool.next_sequence - 1)
        agent.spool.close()

    play(tmp_path, linger_ms, scene)


def test_windows_dropped_while_they_are_in_flight_are_no_gap(tmp_path):
    """The valuer takes its time; meanwhile the agent drops what it has sent and not heard of."""

    async def scene(valuer, agent):
        agent.append(6)
        async with agent.running():
            await until(lambda: arrived(valuer) == 6)
            agent.append(80)
            assert agent.spool.dropped_windows > 6
            await until(lambda: agent.spool.unacknowledged == 0)
            assert agent.uplink._failures == 0
        found = chain(valuer)
        assert (found[0][0], found[-1][1]) == (0, 85)
        assert found[0][1] >= 5

    play(tmp_path, 400, scene)
