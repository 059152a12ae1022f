"""Callers who open what they can and say nothing: everybody else is served all the same."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from itertools import islice

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from assay_proto.v1 import enrollment_pb2 as pb
from assay_valuer.config import IngestConfig
from assay_valuer.ingest.attestation import OPENING_OF_HOST_MAX
from assay_valuer.ingest.server import ENROLMENTS_AT_ONCE
from assay_valuer.ingest.share import CALLS_OF_PEER_MAX, FairShare
from tests.fakes.door import FakeValuer, HostClient
from tests.fakes.host import FakeHost

OWN_CONNECTION = (("grpc.use_local_subchannel_pool", 1),)


@contextlib.asynccontextmanager
async def connections(valuer: FakeValuer, count: int) -> AsyncIterator[list[grpc.aio.Channel]]:
    """So many connections to the enrolment listener, of somebody who has no token."""
    trust = grpc.ssl_channel_credentials(valuer.authority.certificate_pem)
    async with contextlib.AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                grpc.aio.secure_channel(valuer.endpoints.enrolment, trust, options=OWN_CONNECTION)
            )
            for _ in range(count)
        ]


async def outcome(call: grpc.aio.Call) -> grpc.StatusCode | None:
    """How a call that says nothing has ended; None while it is held open."""
    try:
        async with asyncio.timeout(1):
            return await call.code()
    except TimeoutError:
        return None


def silent_watch(channel: grpc.aio.Channel) -> grpc.aio.Call:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=""))


def silent_enrolment(channel: grpc.aio.Channel) -> grpc.aio.Call:
    """The head of a call to Enroll, whose request never comes."""
    return channel.stream_unary("/assay.v1.Enrollment/Enroll", pb.EnrollRequest.SerializeToString)(
        _never()
    )


async def _never() -> AsyncIterator[pb.EnrollRequest]:
    await asyncio.Event().wait()
    yield pb.EnrollRequest()


@pytest.mark.parametrize("squat", [silent_watch, silent_enrolment])
def test_one_address_cannot_shut_the_enrolment_listener(tmp_path, squat) -> None:
    valuer = FakeValuer(tmp_path)

    async def story() -> None:
        async with valuer.serving(), connections(valuer, 8) as channels:
            calls = [squat(channels[n % 8]) for n in range(ENROLMENTS_AT_ONCE)]
            outcomes = await asyncio.gather(*(outcome(call) for call in calls))
            assert outcomes.count(None) == CALLS_OF_PEER_MAX
            assert set(outcomes) == {None, grpc.StatusCode.RESOURCE_EXHAUSTED}
            for call in calls:
                call.cancel()
            client = HostClient(FakeHost())
            await client.enroll(valuer.token())
            await client.renew(valuer)

    asyncio.run(story())
    valuer.close()


def test_a_call_that_takes_too_long_is_ended_and_its_place_is_free_again() -> None:
    share = FairShare(of_peer_max=1, call_s=0.2)

    async def wait(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if request == b"wait":
            await asyncio.Event().wait()
        return request

    handler = grpc.method_handlers_generic_handler(
        "test", {"Call": grpc.unary_unary_rpc_method_handler(wait)}
    )

    async def story() -> None:
        server = grpc.aio.server(interceptors=(share,))
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/test/Call")
            assert await call(b"\x01") == b"\x01"
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await call(b"wait")
            assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert await call(b"\x02") == b"\x02"
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await channel.unary_unary("/test/Other")(b"")
            assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
        await server.stop(None)

    asyncio.run(story())


def test_a_host_that_says_no_hello_keeps_no_other_out(tmp_path) -> None:
    valuer = FakeValuer(tmp_path, IngestConfig(linger_ms=1, streams_max=OPENING_OF_HOST_MAX + 1))

    async def story() -> None:
        async with valuer.serving(), contextlib.AsyncExitStack() as stack:
            mute, honest = HostClient(FakeHost()), HostClient(FakeHost(seed=8))
            await mute.enroll(valuer.token())
            await honest.enroll(valuer.token())
            streams = [
                await stack.enter_async_context(mute.stream(hello=False))
                for _ in range(OPENING_OF_HOST_MAX + 3)
            ]
            ends = [asyncio.ensure_future(stream.refused()) for stream in streams]
            first = [await end for end in islice(asyncio.as_completed(ends, timeout=5), 3)]
            assert {refusal.reason for refusal in first} == {"overloaded"}
            async with honest.stream() as stream:
                await stream.window(honest.host.seal(end_ms=valuer.clock()))
                await stream.acknowledged()
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    asyncio.run(story())
    valuer.close()


def test_a_gap_is_told_with_the_host_that_declared_it(tmp_path, capsys) -> None:
    valuer = FakeValuer(tmp_path)
    client = HostClient(FakeHost())

    async def story() -> None:
        async with valuer.serving():
            await client.enroll(valuer.token())
            async with client.stream() as stream:
                await stream.gap(client.host.gap(3))
                await stream.acknowledged()

    asyncio.run(story())
    valuer.close()
    (line,) = [one for one in capsys.readouterr().out.splitlines() if " gap " in one]
    for said in (client.host.host_id, "first=0", "last=2", "cause=spool_full"):
        assert said in line
