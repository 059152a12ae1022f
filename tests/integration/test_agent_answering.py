"""The agent and a valuer that asks for evidence without end."""

from __future__ import annotations

import asyncio
from pathlib import Path

from assay_agent.answering import REST_MAX_S, Answerer, Asked
from assay_core import codec
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import Head, Source
from tests.fakes.agents import FakeAgent, until
from tests.fakes.valuer import FakeValuer

LATE_S = 0.25


class SlowDevices:
    """A collector whose devices take their time, and have no evidence."""

    def __init__(self) -> None:
        self.asked = 0

    async def collect(self, nonce: bytes) -> tuple[()]:
        self.asked += 1
        await asyncio.sleep(LATE_S)
        return ()


class Line:
    """An open stream; keeps what is answered."""

    sent = Head(5, bytes(32))

    def __init__(self) -> None:
        self.answered: list[bytes] = []

    async def answer(self, sealed: SealedEvidence) -> None:
        self.answered.append(codec.decode_evidence(sealed.envelope.payload).challenge)


def test_a_valuer_that_asks_without_end_gets_a_small_share_of_the_devices(tmp_path: Path) -> None:
    nonces = [bytes([number]) * 32 for number in range(1, 60)]
    rests: list[float] = []

    async def scene() -> tuple[SlowDevices, Line]:
        devices, line, awake = SlowDevices(), Line(), asyncio.Event()

        async def rest(seconds: float) -> None:
            rests.append(seconds)
            await awake.wait()

        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder) as desk:
            agent = FakeAgent(tmp_path / "agent")
            await agent.enrol(desk)
            agent.spool.close()
            answerer = Answerer(agent.keys, [devices], Source.SIMULATED, line, lambda: 1, rest=rest)
            running = asyncio.create_task(answerer.run())
            answerer.ask(Asked(nonces[0], 0, (), devices=True))
            await until(lambda: len(rests) == 1)
            for nonce in nonces[1:]:
                answerer.ask(Asked(nonce, 0, (), devices=True))
                await asyncio.sleep(0)
            assert devices.asked == 1  # it rests
            awake.set()
            await until(lambda: len(rests) == 2)
            running.cancel()
        return devices, line

    devices, line = asyncio.run(scene())
    assert (devices.asked, line.answered) == (2, [nonces[0], nonces[-1]])
    assert all(LATE_S < seconds <= REST_MAX_S for seconds in rests)
