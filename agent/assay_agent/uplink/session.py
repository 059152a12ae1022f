"""One stream to the valuer, from Hello to its end: windows up in chain order, control down."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, Protocol

import grpc
from grpc import aio

from assay_agent import VERSION
from assay_agent.answering import Asked, Told
from assay_agent.spool import Forked, Outgoing, Spool, SpoolFull
from assay_agent.uplink.channel import Denied
from assay_core.errors import Refusal as Reason
from assay_core.errors import ServiceError
from assay_core.evidence.sealed import SealedEvidence
from assay_core.header import SCHEMA, SCHEMAS_ACCEPTED, Head
from assay_core.printable import printable
from assay_core.seal import Envelope, Sealed
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import attestation_pb2_grpc as rpc

WELCOME_S: Final = 30.0
FORK_SHOWN_S: Final = 10.0
"""How long a valuer may take to say that it has seen a fork."""
CANCEL_AGAIN_S: Final = 0.5
ANSWER_S: Final = 30.0
_IN_FLIGHT_MAX: Final = 256
"""Most windows in flight, whatever the valuer allows: what bounds the agent's memory."""
_POSITION_MAX: Final = 2**63 - 1
_DETAIL_MAX: Final = 512
_PCR_MAX: Final = 23

Stream = aio.StreamStreamCall[pb.AgentMessage, pb.ValuerMessage]


class RefusedByValuer(ServiceError):
    """The valuer did not store a window. `retry_after_ms` of 0: the same bytes never will be."""

    def __init__(self, sequence: int, reason: str, detail: str, retry_after_ms: int) -> None:
        super().__init__(f"the valuer refused window {sequence} ({reason}): {detail}")
        self.sequence = sequence
        self.reason = reason
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class Welcome:
    """The valuer's answer to Hello."""

    head: Head | None
    in_flight_max: int
    message_max_bytes: int
    now_ms: int
    schema_max: int


@dataclass(frozen=True, slots=True)
class ProposalAnswer:
    """What became of a proposal: its number where it was kept, or why not, in words."""

    kept: bool
    detail: str


class Listener(Protocol):
    """Who hears what the valuer says."""

    def welcomed(self, welcome: Welcome) -> None:
        """The stream is open."""
        ...

    def acknowledged(self, count: int) -> None:
        """So many more records are durable at the valuer."""
        ...

    def challenged(self, nonce: bytes) -> None:
        """The next header should answer this."""
        ...

    def hinted(self, window_ms: int) -> None:
        """The valuer wishes windows of this length; 0: no wish."""
        ...

    def asked(self, asked: Asked) -> None:
        """The valuer asks for evidence."""
        ...

    def told(self, told: Told) -> None:
        """The valuer says what became of evidence."""
        ...


class Session:
    """The protocol over one call. `wake` says that the spool holds more."""

    def __init__(
        self, spool: Spool, listener: Listener, *, incarnation: int, clock: Callable[[], int]
    ) -> None:
        self._spool = spool
        self._listener = listener
        self._incarnation = incarnation
        self._clock = clock
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._in_flight: deque[int] = deque()
        self._sent = -1
        self.sent: Head | None = None
        """The newest window that was sent on this stream, or that the valuer had before it."""
        self._call: Stream | None = None
        self._writing = asyncio.Lock()
        self._proposals: dict[bytes, asyncio.Future[ProposalAnswer | None]] = {}
        """What is waited for, by the payload's SHA-256. Answered with None: the stream ended."""

    def wake(self) -> None:
        """More may be sent now."""
        self._more.set()

    async def propose(self, envelope: Envelope) -> ProposalAnswer:
        """Sends a signed asset event, and waits for what becomes of it. Raises ServiceError."""
        call = self._call
        if call is None:
            raise ServiceError("the stream to the valuer is not open yet; try again in a minute")
        digest = hashlib.sha256(envelope.payload).digest()
        waiting: asyncio.Future[ProposalAnswer | None] = asyncio.get_running_loop().create_future()
        self._proposals[digest] = waiting
        try:
            await self._write(call, pb.AgentMessage(proposal=_envelope(envelope)))
            async with asyncio.timeout(ANSWER_S):
                answer = await waiting
        except TimeoutError as error:
            raise ServiceError(
                f"the valuer did not answer within {ANSWER_S:.0f} s; see at the valuer whether it "
                "was kept"
            ) from error
        except (asyncio.InvalidStateError, aio.AioRpcError):  # a write to a call that has ended
            answer = None
        finally:
            self._proposals.pop(digest, None)
        if answer is None:
            raise ServiceError(
                "the stream to the valuer ended before it answered; see at the valuer whether the "
                "proposal was kept, or propose again in a minute"
            )
        return answer

    async def answer(self, sealed: SealedEvidence) -> None:
        """Sends evidence. Raises ServiceError."""
        call = self._call
        if call is None:
            raise ServiceError("the stream to the valuer is not open; it will ask again")
        message = pb.SealedEvidence(envelope=_envelope(sealed.envelope), blobs=sealed.blobs)
        try:
            await self._write(call, pb.AgentMessage(evidence=message))
        except asyncio.InvalidStateError as error:  # a write to a call that has ended
            raise ServiceError("the stream to the valuer ended; it will ask again") from error

    async def run(self, channel: aio.Channel) -> None:
        """Returns when the valuer ends the stream in good order.

        Raises RefusedByValuer, Forked, ServiceError, SpoolFull, or gRPC's own AioRpcError.
        """
        call: Stream = rpc.AttestationStub(channel).Stream()
        try:
            hello = pb.Hello(
                schema_max=SCHEMA, agent_version=VERSION, incarnation=self._incarnation
            )
            await call.write(pb.AgentMessage(hello=hello))
            welcome = await self._welcome(call)
            self._listener.welcomed(welcome)
            cursor = await self._resume(call, welcome)
            self._sent = cursor.sequence
            self.sent = welcome.head
            self._call = call
            await first_of(self._receive(call), self._send(call, cursor, welcome))
        except asyncio.InvalidStateError as error:  # a write to a call that has ended
            raise ServiceError("the stream to the valuer ended") from error
        finally:
            self._call = None
            for answer in self._proposals.values():
                if not answer.done():
                    answer.set_result(None)
            call.cancel()

    async def _resume(self, call: Stream, welcome: Welcome) -> Head:
        """Where to go on. Where the valuer holds another history, ours is shown to it: one key sealed
        both, and who relies on it must know. Raises Forked.
        """
        try:
            return self._spool.resume(welcome.head, self._clock())
        except Forked:
            ours = None if welcome.head is None else self._spool.newest_until(welcome.head.sequence)
            if ours is not None:
                with contextlib.suppress(TimeoutError, aio.AioRpcError, asyncio.InvalidStateError):
                    async with asyncio.timeout(FORK_SHOWN_S):
                        await self._write(call, _message(ours))
                        await _answered(call)
            raise

    async def _write(self, call: Stream, message: pb.AgentMessage) -> None:
        """One message at a time: a call takes no second write while one is under way."""
        async with self._writing:
            await call.write(message)

    async def _welcome(self, call: Stream) -> Welcome:
        try:
            async with asyncio.timeout(WELCOME_S):
                message = await call.read()
        except TimeoutError as error:
            raise ServiceError(f"the valuer did not answer within {WELCOME_S:.0f} s") from error
        if not isinstance(message, pb.ValuerMessage):
            raise await _end_of(call)
        if message.WhichOneof("message") == "refusal":
            raise _refused(message.refusal)
        if message.WhichOneof("message") != "welcome":
            raise ServiceError("the valuer did not begin with Welcome; is it of another version?")
        welcome = message.welcome
        if welcome.schema_max < min(SCHEMAS_ACCEPTED):
            raise RefusedByValuer(
                self._spool.next_sequence,
                Reason.UNSUPPORTED_SCHEMA.value,
                f"it takes schemas up to {welcome.schema_max}, this agent can seal no lower than "
                f"{min(SCHEMAS_ACCEPTED)}; ask the lender to update the valuer",
                0,
            )
        head = Head(welcome.head_sequence, welcome.head_hash) if welcome.has_head else None
        return Welcome(
            head,
            min(max(welcome.in_flight_max, 1), _IN_FLIGHT_MAX),
            welcome.message_max_bytes,
            welcome.now_ms,
            welcome.schema_max,
        )

    async def _send(self, call: Stream, cursor: Head, welcome: Welcome) -> None:
        while True:
            while len(self._in_flight) >= welcome.in_flight_max:
                self._room.clear()
                await self._room.wait()
            self._more.clear()
            outgoing = self._spool.next_after(cursor)
            if outgoing is None:
                await self._more.wait()
                continue
            message = _message(outgoing)
            if 0 < welcome.message_max_bytes < message.ByteSize():
                raise RefusedByValuer(
                    outgoing.head.sequence,
                    "too_large",
                    f"{message.ByteSize()} bytes; this valuer takes {welcome.message_max_bytes}",
                    0,
                )
            cursor = outgoing.head
            self._in_flight.append(cursor.sequence)
            self._sent = cursor.sequence
            await self._write(call, message)
            if isinstance(outgoing.item, Sealed):
                self.sent = cursor

    async def _receive(self, call: Stream) -> None:
        while True:
            message = await call.read()
            if not isinstance(message, pb.ValuerMessage):
                if await call.code() is not grpc.StatusCode.OK:
                    raise await _end_of(call)
                return
            kind = message.WhichOneof("message")
            if kind == "acknowledgements":
                self._acknowledge(message.acknowledgements)
            elif kind == "refusal":
                raise _refused(message.refusal)
            elif kind == "challenge" and len(message.challenge.nonce) == 32:
                self._listener.challenged(message.challenge.nonce)
            elif kind == "hint":
                self._listener.hinted(message.hint.window_ms)
            elif kind == "evidence_challenge" and len(message.evidence_challenge.nonce) == 32:
                self._listener.asked(_asked(message.evidence_challenge))
            elif kind == "evidence_outcome":
                told = message.evidence_outcome
                detail = printable(told.detail, _DETAIL_MAX)
                self._listener.told(Told(printable(told.outcome, 64), detail))
            elif kind == "proposal_answer":
                self._answer(message.proposal_answer)

    def _answer(self, message: pb.ProposalAnswer) -> None:
        waiting = self._proposals.get(message.payload_sha256)
        if waiting is not None and not waiting.done():
            waiting.set_result(ProposalAnswer(message.kept, printable(message.detail, _DETAIL_MAX)))

    def _acknowledge(self, message: pb.Acknowledgements) -> None:
        positions = [(item.sequence, item.position) for item in message.acknowledgements]
        if any(sequence > self._sent for sequence, _ in positions):
            raise ServiceError("the valuer acknowledged a window that was never sent to it")
        if any(position > _POSITION_MAX for _, position in positions):
            raise ServiceError("the valuer acknowledged at a position that no ledger reaches")
        durable = {sequence for sequence, _ in positions}
        taken = len(durable.intersection(self._in_flight))
        self._in_flight = deque(item for item in self._in_flight if item not in durable)
        self._room.set()
        try:
            self._spool.acknowledge(positions, self._clock())
        except SpoolFull:
            # The valuer has it; the next resume notes it. Sending goes on: it is what frees room.
            self._room.set()
        self._listener.acknowledged(taken)


async def _answered(call: Stream) -> None:
    """Reads until a window has been answered, whatever the answer is, or the stream ends."""
    while isinstance(message := await call.read(), pb.ValuerMessage):
        if message.WhichOneof("message") in ("refusal", "acknowledgements"):
            return


async def first_of(*coroutines: Coroutine[None, None, None]) -> None:
    """Runs all until the first ends, cancels the others, and raises what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        pending = {task for task in tasks if not task.done()}
        while pending:
            # Again if need be: a wait that ends in the very moment can lose a cancellation.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
    failed = [task.exception() for task in tasks if not task.cancelled()]
    for error in failed:
        if error is not None:
            raise error


def _message(outgoing: Outgoing) -> pb.AgentMessage:
    item = outgoing.item
    if isinstance(item, Sealed):
        window = pb.SealedWindow(envelope=_envelope(item.envelope), leaves=item.leaves)
        return pb.AgentMessage(window=window)
    return pb.AgentMessage(gap=_envelope(item))


def _asked(message: pb.EvidenceChallenge) -> Asked:
    pcrs = tuple(sorted({number for number in message.pcrs if number <= _PCR_MAX}))
    return Asked(message.nonce, message.deadline_ms, pcrs, message.devices)


def _envelope(envelope: Envelope) -> pb.Envelope:
    return pb.Envelope(
        payload=envelope.payload,
        payload_type=envelope.payload_type,
        signatures=[pb.Signature(sig=s.sig, keyid=s.keyid) for s in envelope.signatures],
    )


def _refused(refusal: pb.Refusal) -> RefusedByValuer | Denied:
    detail, reason = printable(refusal.detail, _DETAIL_MAX), printable(refusal.reason, 64)
    if refusal.reason in (Reason.UNKNOWN_HOST, Reason.REVOKED_HOST):
        return Denied(f"the valuer does not let this host in ({refusal.reason}): {detail}")
    return RefusedByValuer(refusal.sequence, reason, detail, refusal.retry_after_ms)


async def _end_of(call: Stream) -> aio.AioRpcError | ServiceError:
    """Why a stream ended."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return ServiceError("the valuer ended the stream")
    return aio.AioRpcError(
        code, await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
