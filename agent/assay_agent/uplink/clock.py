"""The valuer's clock, asked for once."""

from __future__ import annotations

import asyncio

from grpc import aio

from assay_agent import VERSION
from assay_agent.uplink import channel as channels
from assay_core.errors import ServiceError
from assay_core.header import SCHEMA
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import attestation_pb2_grpc as rpc


async def valuer_now_ms(
    channel: aio.Channel, endpoint: str, incarnation: int, timeout_s: float
) -> int:
    """The valuer's clock, UTC milliseconds, from its Welcome. Raises AssayError.

    It says Hello and no more. A valuer lets go of an older stream of the same host, so this is not
    for while the agent runs.
    """
    call = rpc.AttestationStub(channel).Stream()
    hello = pb.Hello(schema_max=SCHEMA, agent_version=VERSION, incarnation=incarnation)
    try:
        await call.write(pb.AgentMessage(hello=hello))
        async with asyncio.timeout(timeout_s):
            message = await call.read()
    except aio.AioRpcError as error:
        raise channels.explain(error, endpoint) from error
    except (TimeoutError, asyncio.InvalidStateError) as error:
        raise ServiceError(f"the valuer at {endpoint} did not say hello") from error
    finally:
        call.cancel()
    if not isinstance(message, pb.ValuerMessage) or not message.HasField("welcome"):
        raise ServiceError(f"the valuer at {endpoint} did not welcome this host")
    return message.welcome.now_ms
