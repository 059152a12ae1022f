"""Evidence through a driver process of its own, so that polls go on whatever becomes of it.

Rules:

1. One question at a time, and a process for each: it ends when it has answered.
2. It is never killed. One that is silent for `timeout_s` hangs in a call: what it told before
   counts, it is left behind and counted, and until it ends no other is started.
3. While the agent is paused nobody is asked, and a question that is out is withdrawn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from assay_agent.telemetry.calls import reason_of
from assay_agent.telemetry.nvml_process import DriverProcess
from assay_agent.telemetry.reading import Sample
from assay_agent.telemetry.table import MODE_NAMES
from assay_agent.telemetry.wire import Attested, Attesting, host_sample
from assay_core.leaves import Reason

TOTAL_TIMEOUT_S: Final = 120.0
"""How long a host full of GPUs may take that do answer, one after another."""
END_TIMEOUT_S: Final = 5.0
"""How long a process may take to end that is not inside the driver."""


@dataclass(frozen=True, slots=True)
class Attestation:
    """What the driver's GPUs answered.

    `modes` are cc_environment, cc_feature, cc_devtools and cc_multi_gpu_mode. `unanswered` are the
    UUIDs of those, and `why` the reason why nobody or not all could be asked; `code` is NVML's
    where it gave one.
    """

    why: Reason | None = None
    code: int = 0
    modes: Mapping[str, Sample] = field(default_factory=dict)
    gpus: tuple[Attested, ...] = ()
    unanswered: tuple[str, ...] = ()


class Attestor:
    """Asks for evidence. Belongs to one event loop."""

    def __init__(
        self, timeout_s: float, host_root: str, total_timeout_s: float = TOTAL_TIMEOUT_S
    ) -> None:
        self._timeout_s = timeout_s
        self._total_timeout_s = total_timeout_s
        self._host_root = host_root
        self._turn = asyncio.Lock()
        self._process: DriverProcess | None = None
        self._left: list[DriverProcess] = []
        self._paused = False

    @property
    def abandoned(self) -> tuple[int, ...]:
        """Process ids of those left behind in a call."""
        return tuple(process.pid for process in self._left)

    async def attest(self, nonce: bytes) -> Attestation:
        """Asks every GPU. Raises nothing for what the driver does."""
        async with self._turn:
            self.reap()
            if self._paused:
                return Attestation(Reason.IN_MAINTENANCE)
            if self._left:
                return Attestation(Reason.DRIVER_UNRESPONSIVE)
            process = self._process = DriverProcess(lambda _happened: None, self._host_root)
            try:
                process.ask_attest(nonce)
                answered = await self._hear(process)
                if answered:
                    await process.wait_end(END_TIMEOUT_S)
                return self._told(process, answered)
            finally:
                if self._process is process:
                    self._process = None
                    self._leave(process)

    async def pause(self) -> None:
        """Withdraws the question that is out; asks nobody until `resume`."""
        self._paused = True
        process, self._process = self._process, None
        if process is not None:
            process.ask_close()
            if not await process.wait_end(min(self._timeout_s, END_TIMEOUT_S)):
                self._leave(process)
        self.reap()

    def resume(self) -> None:
        """GPUs may be asked again."""
        self._paused = False

    def reap(self) -> None:
        """Clears away those that came back."""
        self._left = [process for process in self._left if not process.reap()]

    def _leave(self, process: DriverProcess) -> None:
        if not process.reap():
            process.forget()
            self._left.append(process)

    async def _hear(self, process: DriverProcess) -> bool:
        """Whether it came to its end, and was not given up for its silence or its length."""
        loop = asyncio.get_running_loop()
        limit_s = loop.time() + self._total_timeout_s
        while not process.ended:
            until_s = min(process.spoke_s + self._timeout_s, limit_s)
            if loop.time() >= until_s:
                return False
            await process.wait(until_s)
        return True

    def _told(self, process: DriverProcess, answered: bool) -> Attestation:
        told = process.attesting or Attesting()
        gpus = tuple(process.attested)
        missing = [*told.uuids]
        for gpu in gpus:
            if gpu.uuid in missing:
                missing.remove(gpu.uuid)
        return Attestation(
            why=self._why(process.attesting, answered, missing),
            code=told.code,
            modes=_modes(told),
            gpus=gpus,
            unanswered=tuple(missing),
        )

    def _why(self, told: Attesting | None, answered: bool, missing: list[str]) -> Reason | None:
        if told is not None and told.asleep:
            return Reason.ASLEEP
        if told is not None and told.code:
            return reason_of(told.code)
        if told is not None and not missing:
            return None
        if self._paused:
            return Reason.IN_MAINTENANCE
        return Reason.DRIVER_ERROR if answered else Reason.DRIVER_UNRESPONSIVE


def _modes(told: Attesting) -> dict[str, Sample]:
    try:
        return dict(zip(MODE_NAMES, map(host_sample, told.modes), strict=True))
    except (KeyError, ValueError):  # none were told, or what cannot be: then they are not known
        return {}
