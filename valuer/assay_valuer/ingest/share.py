"""A fair share of an open listener: who need show no certificate may not keep it for himself.

The transport bounds the calls that run at once, whoever makes them; without a share of its own for
each network address, one that opens calls and says nothing would shut out every host.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import Final, TypeVar, cast

import grpc
import grpc.aio

from assay_valuer.ingest.limits import address_of

CALLS_OF_PEER_MAX: Final = 8
"""Calls of one network address that run at once."""
CALL_S: Final = 20.0
"""Longest that a call may take, its request's arrival included."""

_Q = TypeVar("_Q")
_A = TypeVar("_A")


class FairShare(grpc.aio.ServerInterceptor):
    """Bounds how many calls a network address has open, and for how long. Used from one event loop."""

    def __init__(self, *, of_peer_max: int = CALLS_OF_PEER_MAX, call_s: float = CALL_S) -> None:
        self._of_peer_max = of_peer_max
        self._call_s = call_s
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[_Q, _A] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[_Q, _A] | None:
        """The method's handler within the share.

        Every method is served as a stream of requests, which looks the same on the wire: a handler
        of single requests would be called only once the request is there, and a caller who never
        sends it would not be counted.
        """
        handler = await continuation(handler_call_details)
        if handler is None:  # no such method: the transport says so
            return None
        return _as_stream(handler, self._shared(handler))

    def _shared(self, handler: grpc.RpcMethodHandler[_Q, _A]) -> _Serve[_Q, _A]:
        async def serve(
            requests: AsyncIterator[_Q], context: grpc.aio.ServicerContext[_Q, _A]
        ) -> None:
            address = address_of(context.peer())
            if self._open[address] >= self._of_peer_max:
                await context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at once from this address"
                )
            self._open[address] += 1
            try:
                async with asyncio.timeout(self._call_s):
                    await _serve(handler, requests, context)
            except TimeoutError:
                await context.abort(
                    grpc.StatusCode.DEADLINE_EXCEEDED, f"a call here may take {self._call_s:.0f} s"
                )
            finally:
                self._open[address] -= 1
                if not self._open[address]:
                    del self._open[address]

        return serve


_Serve = Callable[[AsyncIterator[_Q], "grpc.aio.ServicerContext[_Q, _A]"], Awaitable[None]]
_Behaviour = Callable[[object, object], "AsyncGenerator[_A, None] | Awaitable[_A]"]


def _as_stream(
    handler: grpc.RpcMethodHandler[_Q, _A], serve: _Serve[_Q, _A]
) -> grpc.RpcMethodHandler[_Q, _A]:
    return grpc.stream_stream_rpc_method_handler(
        # The stubs know the blocking server's behaviours only.
        cast("Callable[[Iterator[_Q], grpc.ServicerContext], Iterator[_A]]", serve),
        handler.request_deserializer,
        handler.response_serializer,
    )


async def _serve(
    handler: grpc.RpcMethodHandler[_Q, _A],
    requests: AsyncIterator[_Q],
    context: grpc.aio.ServicerContext[_Q, _A],
) -> None:
    """Calls the handler as what it is, and writes what it answers."""
    argument: object = requests
    if not handler.request_streaming:
        argument = await anext(requests.__aiter__(), None)
        if argument is None:
            return  # the caller went away before it asked
    behaviours = (
        handler.unary_unary,
        handler.unary_stream,
        handler.stream_unary,
        handler.stream_stream,
    )
    (behaviour,) = (one for one in behaviours if one is not None)
    answer = cast("_Behaviour[_A]", behaviour)(argument, context)
    if inspect.isasyncgen(answer):
        async for message in cast("AsyncGenerator[_A, None]", answer):
            await context.write(message)
    else:
        message = await cast("Awaitable[_A]", answer)
        if not handler.response_streaming:
            await context.write(message)
