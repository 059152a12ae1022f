"""Answers the valuer's challenges: quotes the TPM, asks the devices, and states it all together.

The devices' nonce names the challenge, the TPM's attestation key and the newest window that was
sent; the TPM's quote names the same and the devices' reports. One challenge at a time is answered: a
newer one takes the place of one that waits. However many a valuer sends, TPM and devices are at it for
a small share of the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from assay_agent.evidence import collectors
from assay_agent.keys import KeyStore
from assay_core.codec.evidence import ABSENT_BYTES_MAX
from assay_core.errors import AssayError
from assay_core.evidence.sealed import SealedEvidence, device, seal
from assay_core.evidence.statement import (
    DEVICES_MAX,
    Quote,
    Statement,
    device_nonce,
    quote_extra,
)
from assay_core.header import Head, Source
from assay_core.seal import Signer

if TYPE_CHECKING:
    from assay_agent.evidence.collector import Collected, Collector
    from assay_agent.tpm.kept import HostTpm

RESTS: Final = 9
"""How many times as long as it answered it rests: its devices are at work for somebody."""
REST_MAX_S: Final = 60.0
"""A challenge is open for minutes, and the next may be due at any time."""
_NONE_ON: Final = "no collector of device evidence is switched on"


@dataclass(frozen=True, slots=True)
class Asked:
    """A challenge as it came: see EvidenceChallenge in attestation.proto."""

    nonce: bytes
    deadline_ms: int
    pcrs: tuple[int, ...]
    devices: bool


@dataclass(frozen=True, slots=True)
class Told:
    """What became of an answer, by the valuer's word."""

    outcome: str
    detail: str


class Line(Protocol):
    """The way to the valuer."""

    @property
    def sent(self) -> Head | None:
        """The newest window that was sent on the open stream."""
        ...

    async def answer(self, sealed: SealedEvidence) -> None:
        """Sends an answer. Raises ServiceError where no stream is open."""
        ...


class Answerer:
    """Runs until it is cancelled. What it cannot answer it says in its log, and goes on."""

    def __init__(
        self,
        keys: KeyStore,
        ways: Sequence[Collector],
        source: Source,
        line: Line,
        clock: Callable[[], int],
        *,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`rest` waits for so many seconds."""
        self._keys = keys
        self._ways = ways
        self._source = source
        self._line = line
        self._clock = clock
        self._rest = rest
        self._asked: Asked | None = None
        self._came = asyncio.Event()
        self._log = structlog.get_logger("evidence")

    def ask(self, asked: Asked) -> None:
        """Takes a challenge; it is answered as soon as may be."""
        self._asked = asked
        self._came.set()

    async def run(self) -> None:
        """Answers challenge after challenge."""
        while True:
            await self._came.wait()
            self._came.clear()
            asked, self._asked = self._asked, None
            head = self._line.sent
            if asked is None or head is None:
                continue
            began_s = time.monotonic()
            try:
                await self._line.answer(await self._answer(asked, head))
            except AssayError as error:
                self._log.error("not_answered", detail=str(error))
            await self._rest(min(REST_MAX_S, RESTS * (time.monotonic() - began_s)))

    async def _answer(self, asked: Asked, head: Head) -> SealedEvidence:
        """The evidence that is asked for. Raises AssayError."""
        host, signer, tpm = self._keys.host(), self._keys.signer(), self._keys.host_tpm()
        found, absent = await self._devices(asked, head, signer, tpm)
        devices = tuple(device(one.origin, one.report, one.chain_pem) for one in found)
        quote: Quote | None = None
        if tpm is not None and asked.pcrs:
            extra = quote_extra(asked.nonce, head.hash, devices)
            quoted = await asyncio.to_thread(tpm.quote, asked.pcrs, extra)
            quote = Quote(quoted.statement.attest, quoted.statement.signature, quoted.values)
        statement = Statement(
            host_id=host.host_id,
            incarnation=host.incarnation,
            challenge=asked.nonce,
            sequence=head.sequence,
            header_hash=head.hash,
            collected_ms=self._clock(),
            source=self._source,
            devices=devices,
            devices_absent=absent,
            quote=quote,
        )
        blobs = [blob for one in found for blob in (one.report, one.chain_pem)]
        return await asyncio.to_thread(seal, statement, blobs, signer)

    async def _devices(
        self, asked: Asked, head: Head, signer: Signer, tpm: HostTpm | None
    ) -> tuple[tuple[Collected, ...], str]:
        """What the devices answer, and why those do not that do not."""
        if not asked.devices:
            return (), ""
        if not self._ways:
            return (), _NONE_ON
        name = bytes.fromhex(signer.public_key.fingerprint) if tpm is None else tpm.attestation_name
        nonce = device_nonce(asked.nonce, name, head.hash)
        answers = await collectors.collect(self._ways, nonce)
        found = collectors.collected(answers)[:DEVICES_MAX]
        absent = collectors.absent(answers).encode()[:ABSENT_BYTES_MAX].decode("utf-8", "ignore")
        return found, absent
