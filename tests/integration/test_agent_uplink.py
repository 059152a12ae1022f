"""The uplink against a valuer that speaks the real protocol over real TLS, and everything between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from assay_agent.uplink.session import first_of
from assay_agent.uplink.uplink import Pace
from assay_core.header import Head
from assay_proto.v1 import attestation_pb2
from tests.fakes.agents import FakeAgent, until
from tests.fakes.proxy import ConnectProxy
from tests.fakes.valuer import FakeValuer, now_ms


def play(tmp_path: Path, scene, *, valuer=None, **agent) -> None:
    """Runs `scene(valuer, agent)` with the agent enrolled and nothing sent yet."""

    async def run() -> None:
        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder, **(valuer or {})) as desk:
            host = FakeAgent(tmp_path / "agent", **agent)
            await host.enrol(desk)
            await scene(desk, host)

    asyncio.run(run())


def refusal(reason: str, retry_after_ms: int) -> attestation_pb2.Refusal:
    return attestation_pb2.Refusal(
        sequence=0, reason=reason, detail="said the test", retry_after_ms=retry_after_ms
    )


def test_windows_arrive_in_order_and_are_acknowledged(tmp_path):
    async def scene(valuer, agent):
        agent.append(5)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == [0, 1, 2, 3, 4]
            agent.append(3)  # on the open stream
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == list(range(8))
            assert agent.state() == "connected"
            assert valuer.hellos == 1

    play(tmp_path, scene)


def test_a_lost_acknowledgement_costs_nothing(tmp_path):
    async def scene(valuer, agent):
        agent.append(4)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
        assert valuer.sequences == [0, 1, 2, 3]
        assert valuer.hellos == 3  # two lines were cut after a window was kept
        assert valuer.received == 4

    play(tmp_path, scene, valuer={"lose_acknowledgements": 2, "in_flight_max": 1})


def test_a_valuer_that_was_down_is_resumed_where_it_left_off(tmp_path):
    async def scene(valuer, agent):
        agent.append(2)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            await valuer.stop_attestation()
            agent.append(3)
            await until(lambda: not agent.uplink.connected)
            await valuer.start_attestation()
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == [0, 1, 2, 3, 4]

    play(tmp_path, scene)


def test_a_valuer_restored_from_a_backup_is_sent_what_it_lost(tmp_path):
    async def scene(valuer, agent):
        agent.append(5)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            del valuer.chain[2:]
            agent.uplink.reconnect()
            await until(lambda: valuer.sequences == [0, 1, 2, 3, 4])

    play(tmp_path, scene)


def test_a_newer_valuer_is_sealed_for_at_the_highest_schema_both_know(tmp_path):
    async def scene(valuer, agent):
        agent.append(2)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == [0, 1]

    play(tmp_path, scene, valuer={"schema_max": 9})


def test_a_valuer_too_old_for_this_agent_is_sent_nothing(tmp_path):
    async def scene(valuer, agent):
        agent.append(2)
        async with agent.running():
            await until(lambda: agent.state() == "refused")
            assert valuer.sequences == []
            assert agent.spool.unacknowledged == 2

    play(tmp_path, scene, valuer={"schema_max": 0})


def test_a_retryable_refusal_is_tried_again(tmp_path):
    async def scene(valuer, agent):
        valuer.refusals = [refusal("overloaded", 1), refusal("sequence_gap", 0)]
        agent.append(2)
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == [0, 1]
            assert agent.metrics.refusals.labels("overloaded").value == 1

    play(tmp_path, scene)


def test_a_final_refusal_stops_the_sending_until_somebody_acted(tmp_path):
    async def scene(valuer, agent):
        valuer.refusals = [refusal("source_not_allowed", 0)] * 8
        agent.append(3)
        async with agent.running():
            await until(lambda: agent.state() == "refused")
            assert valuer.hellos == 1
            assert valuer.chain == []
            valuer.refusals = []
            agent.uplink.reconnect()
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == [0, 1, 2]

    play(tmp_path, scene)


def test_what_no_valuer_says_in_good_faith_ends_the_stream_and_not_the_agent(tmp_path, capfd):
    async def scene(valuer, agent):
        valuer.refusals = [refusal("\x1b[2J", 2**32 - 1)]
        agent.uplink._pace = Pace(least_s=0.01, most_s=0.05, person_s=0.1)
        agent.append()
        async with agent.running():
            await until(lambda: valuer.hellos >= 3)  # it goes on trying, in its own time
            valuer.positions_from = 0
            agent.append()
            await until(lambda: agent.spool.unacknowledged == 0)

    play(tmp_path, scene, valuer={"positions_from": 2**64 - 10})
    said = "".join(capfd.readouterr())
    assert "a position that no ledger reaches" in said
    assert "\x1b[2J" not in said


def test_an_unknown_reason_of_refusal_is_counted_as_other(tmp_path):
    async def scene(valuer, agent):
        valuer.refusals = [refusal("a reason of next year", 1)]
        agent.append()
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
            assert agent.metrics.refusals.labels("other").value == 1

    play(tmp_path, scene)


@pytest.mark.parametrize("head", [Head(1, bytes(32)), Head(7, bytes(32))])
def test_a_fork_is_shown_once_and_stops_the_sending(tmp_path, head):
    async def scene(valuer, agent):
        valuer.head = head
        agent.append(3)
        async with agent.running():
            await until(lambda: agent.state() == "forked")
            assert (valuer.received, valuer.hellos) == (1, 1)
            assert agent.spool.unacknowledged == 3

    play(tmp_path, scene)


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED]
)
def test_a_revoked_host_says_so_and_does_not_hammer(tmp_path, code, capfd):
    async def scene(valuer, agent):
        valuer.deny = code
        agent.append()
        async with agent.running():
            await until(lambda: agent.state() == "denied")
            assert (valuer.hellos, valuer.received) == (1, 0)
            valuer.deny = None
            agent.uplink.reconnect()
            await until(lambda: agent.spool.unacknowledged == 0)

    play(tmp_path, scene)
    assert "the host was revoked" in capfd.readouterr().out


@pytest.mark.parametrize("reason", ["revoked_host", "unknown_host"])
def test_a_refusal_of_the_host_itself_is_a_denial(tmp_path, reason):
    async def scene(valuer, agent):
        valuer.refusals = [refusal(reason, 0)]
        agent.append()
        async with agent.running():
            await until(lambda: agent.state() == "denied")
            assert (valuer.hellos, valuer.chain) == (1, [])

    play(tmp_path, scene)


def test_challenges_and_hints_are_heard(tmp_path):
    async def scene(valuer, agent):
        async with agent.running():
            await until(lambda: agent.uplink.control.window_ms == 7_000)
            assert agent.uplink.control.challenge == bytes(range(32))

    play(tmp_path, scene, valuer={"challenge": bytes(range(32)), "hint_ms": 7_000})


def test_no_more_are_in_flight_than_the_valuer_allows(tmp_path):
    async def scene(valuer, agent):
        valuer.hold = asyncio.Event()
        agent.append(10)
        async with agent.running():
            await until(lambda: valuer.most_unacknowledged == 3)
            valuer.hold.set()
            await until(lambda: agent.spool.unacknowledged == 0)
            assert valuer.sequences == list(range(10))
            assert valuer.most_unacknowledged == 3

    play(tmp_path, scene, valuer={"in_flight_max": 3})


def test_what_the_spool_had_to_drop_is_declared(tmp_path):
    async def scene(valuer, agent):
        agent.append(60)
        dropped = agent.spool.dropped_windows
        assert dropped > 0
        async with agent.running():
            await until(lambda: agent.spool.unacknowledged == 0)
        gap = valuer.chain[0]
        assert (gap.first_sequence, gap.head.sequence, gap.sealed) == (0, dropped - 1, None)
        assert valuer.sequences[1:] == list(range(dropped, 60))

    play(tmp_path, scene, bytes_max=70_000)


def test_a_window_that_this_valuer_never_takes_is_not_sent(tmp_path):
    async def scene(valuer, agent):
        agent.append()
        async with agent.running():
            await until(lambda: agent.state() == "refused")
            assert valuer.received == 0

    play(tmp_path, scene, valuer={"message_max_bytes": 100})


def test_everything_goes_through_the_proxy_when_there_is_one(tmp_path):
    async def scene(valuer, agent):
        async with ConnectProxy() as proxy:
            agent.uplink._proxy = proxy.url
            agent.append(2)
            async with agent.running():
                await until(lambda: agent.spool.unacknowledged == 0)
                assert proxy.asked == [f"CONNECT localhost:{valuer.attestation_port}"]
                proxy.cut()
                agent.append(2)
                await until(lambda: agent.spool.unacknowledged == 0)
                assert valuer.sequences == [0, 1, 2, 3]
                assert len(proxy.asked) == 2

    play(tmp_path, scene)


def test_a_proxy_that_refuses_is_not_gone_around(tmp_path):
    async def scene(valuer, agent):
        async with ConnectProxy() as proxy:
            proxy.refuse = True
            agent.uplink._proxy = proxy.url
            agent.append()
            async with agent.running():
                await until(lambda: len(proxy.asked) >= 3)
                assert valuer.hellos == 0

    play(tmp_path, scene)


def test_the_valuers_authority_is_the_only_one_trusted(tmp_path):
    async def scene(valuer, agent):
        other = tmp_path / "other"
        other.mkdir()
        async with FakeValuer(other) as impostor:
            valuer.listener_key = impostor.authority.issue_server(["localhost"], now_ms())
            await valuer.stop_attestation()
            await valuer.start_attestation()
            agent.append()
            async with agent.running():
                await until(lambda: agent.uplink._failures >= 3)
                assert valuer.hellos == 0

    play(tmp_path, scene)


def test_a_cancellation_that_is_swallowed_once_is_given_again():
    async def stubborn():
        try:
            await asyncio.sleep(1_000)
        except asyncio.CancelledError:
            await asyncio.sleep(1_000)

    async def fails():
        raise ValueError("first to end")

    async def run():
        with pytest.raises(ValueError, match="first to end"):
            await first_of(stubborn(), fails())

    asyncio.run(run())
