"""What an operator proposes on the host travels on the agent's stream, signed by the sealing key."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_agent import control, enroll
from assay_agent.cli import main
from assay_core import asset_events
from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.errors import ServiceError
from assay_core.seal import ASSET_EVENT_TYPE, Ed25519Signer, sign_envelope
from assay_valuer.events import HostDesk, State, list_proposals
from assay_valuer.policy import ValuerPolicy
from tests.fakes.agents import FakeAgent, FakeSource, until
from tests.fakes.door import FakeValuer as RealDoor
from tests.fakes.valuer import HOST_ID, FakeValuer, now_ms

DAY_MS = 86_400_000


@asynccontextmanager
async def agent_of(tmp_path, **valuer):
    """A valuer, and an enrolled agent that runs; the command line's answer to some words."""
    folder = tmp_path / "valuer"
    folder.mkdir()
    config = tmp_path / "agent.yaml"
    config.write_text(f"state_dir: {tmp_path / 'agent'}\n")
    async with FakeValuer(folder, **valuer) as desk:
        agent = FakeAgent(tmp_path / "agent")
        await agent.enrol(desk)
        service = agent.service(FakeSource(), window_ms=900_000, poll_ms=60_000)
        task = asyncio.ensure_future(service.run())

        async def propose(*words):
            return await asyncio.to_thread(main, ["propose", *words, "--config", str(config)])

        try:
            await until(lambda: agent.state() == "connected" or task.done())
            yield desk, agent, propose
        finally:
            service.stop()
            await task
            agent.spool.close()


def test_what_is_proposed_arrives_signed_and_the_answer_comes_back(tmp_path, capsys):
    async def scene():
        async with agent_of(tmp_path) as (valuer, _, propose):
            assert await propose("maintenance", "--until", "4h", "--why", "driver update") == 0
            assert await propose(
                *("gpu_replacement", "--serial", "B", "--serial", "A", "--part", "P"),
                *("--new-serial", "B2", "--new-serial", "A2", "--new-part", "Q"),
                *("--until", "14d", "--why", "RMA 1234"),
            ) == 0  # fmt: skip
            assert await propose("move", "--to-site", "fra2", "--until", "3d", "--why", "move") == 0
            return [asset_events.decode(one.payload) for one in valuer.proposals]

    maintenance, replacement, move = asyncio.run(scene())
    assert "proposal 1 is kept" in capsys.readouterr().out
    assert (maintenance.kind, maintenance.host, maintenance.assets) == (
        Kind.MAINTENANCE, HOST_ID, ())  # fmt: skip
    assert maintenance.until_ms - maintenance.begin_ms == DAY_MS // 6
    assert [one.serial for one in replacement.assets] == ["A", "B"]
    assert replacement.replacements == tuple(
        Subject(serial=one, board_part_number="Q") for one in ("A2", "B2")
    )
    assert (move.host, move.to_site, move.until_ms - move.begin_ms) == (HOST_ID, "fra2", 3 * DAY_MS)


def test_what_the_valuer_refuses_is_said_and_what_is_no_event_is_not_sent(tmp_path, capsys):
    async def scene():
        async with agent_of(tmp_path, refuse_proposals="no such GPU") as (valuer, agent, propose):
            maintenance = ("maintenance", "--until", "4h", "--why")
            assert await propose(*maintenance, "x") == 1
            assert await propose("maintenance", "--until", "2d", "--why", "x") == 2
            month = ("--until", "30d", "--why", "x")
            gone = ("--serial", "A", "--part", "P")
            assert await propose("gpu_replacement", *gone, *month) == 2
            assert await propose("move", "--to-host", "gpu-7", *month) == 2
            reply = await asyncio.to_thread(
                control.ask, agent.keys.state_dir, control.Request(proposal='{"kind":"move"}')
            )
            assert not reply.ok
            reply = await asyncio.to_thread(control.ask, agent.keys.state_dir, control.Request())
            assert "asks for nothing" in reply.message
            return len(valuer.proposals)

    assert asyncio.run(scene()) == 1
    said = capsys.readouterr().err
    assert "no such GPU" in said
    assert "until_ms" in said
    assert "--new-serial" in said
    assert "--to-host: gpu-7" in said


def test_where_the_line_is_cut_before_the_answer_it_says_so_and_the_same_again_is_one(tmp_path):
    async def scene():
        async with agent_of(tmp_path, lose_proposal_answers=True) as (valuer, agent, propose):
            assert await propose("maintenance", "--until", "4h", "--why", "x") == 1
            valuer.lose_proposal_answers = False
            await until(lambda: valuer.hellos > 1 and agent.state() == "connected")
            payload = valuer.proposals[0].payload.decode()
            reply = await asyncio.to_thread(
                control.ask, agent.keys.state_dir, control.Request(proposal=payload)
            )
            return reply, valuer.proposals

    reply, proposals = asyncio.run(scene())
    assert reply.ok
    assert proposals[0] == proposals[1]


def test_without_a_stream_it_says_so_and_nothing_is_kept(tmp_path):
    async def scene():
        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder) as desk:
            agent = FakeAgent(tmp_path / "agent")
            await agent.enrol(desk)
            envelope = sign_envelope(ASSET_EVENT_TYPE, b"{}", agent.keys.signer())
            with pytest.raises(ServiceError, match="no stream to the valuer"):
                await agent.uplink.propose(envelope)
            agent.spool.close()

    asyncio.run(scene())


def test_from_the_host_to_the_ledger_and_back(tmp_path):
    """The agent's own uplink, the valuer's own door and desk."""

    async def scene():
        signer = Ed25519Signer(Ed25519PrivateKey.generate())
        valuer = RealDoor(
            tmp_path, clock=now_ms, propose=HostDesk(ValuerPolicy(), signer), sources=("simulated",)
        )
        async with valuer.serving():
            agent = FakeAgent(tmp_path / "agent")
            await enroll.enroll(agent.keys, enroll.parse_token(valuer.token()), None)
            agent.open()
            async with agent.running():
                await until(lambda: agent.state() == "connected")
                host_id = agent.keys.host().host_id
                begin_ms = now_ms()
                maintenance = AssetEvent(
                    kind=Kind.MAINTENANCE,
                    nonce=str(uuid.uuid4()),
                    why="a new driver",
                    host=host_id,
                    begin_ms=begin_ms,
                    until_ms=begin_ms + DAY_MS,
                )
                move = msgspec.structs.replace(maintenance, kind=Kind.MOVE, to_site="fra2")
                elsewhere = msgspec.structs.replace(maintenance, host=HOST_ID)
                answers = [
                    await agent.uplink.propose(
                        sign_envelope(
                            ASSET_EVENT_TYPE, asset_events.encode(one), agent.keys.signer()
                        )
                    )
                    for one in (maintenance, move, elsewhere)
                ]
        kept = valuer.database.read(lambda c: list_proposals(c, limit=9, open_only=False))
        return answers, [(one.state, one.event.kind, one.signed[0].who == host_id) for one in kept]

    answers, kept = asyncio.run(scene())
    assert [answer.kept for answer in answers] == [True, True, False]
    assert "accepted by" in answers[0].detail
    assert "waits for the signature of lender" in answers[1].detail
    assert f"there is no host {HOST_ID}" in answers[2].detail
    assert kept == [(State.PROPOSED, Kind.MOVE, True), (State.ACCEPTED, Kind.MAINTENANCE, True)]
