"""A server that is nothing but the transport: what a stream costs before anybody does anything.

The same mutual TLS streams as the valuer's, by the same library. Each window's signature is
verified and its message parsed, it is acknowledged and forgotten. Started by `fleet.Bare`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Final

import grpc
from grpc import aio

from assay_core import codec
from assay_core.header import SCHEMA
from assay_core.seal import ED25519, PublicKey
from assay_proto.v1 import attestation_pb2 as pb

IN_FLIGHT_MAX: Final = 64


class Bare:
    """Serves assay.v1.Attestation, and keeps nothing."""

    def __init__(self, keys: Mapping[str, PublicKey]) -> None:
        self._keys = keys

    async def stream(
        self, requests: AsyncIterator[bytes], context: aio.ServicerContext[bytes, bytes]
    ) -> None:
        """One stream: what is read meanwhile is acknowledged together."""
        pending: list[int] = []
        ready = asyncio.Event()

        async def answer() -> None:
            while True:
                await ready.wait()
                ready.clear()
                message = pb.ValuerMessage()
                for sequence in pending:
                    message.acknowledgements.acknowledgements.add(sequence=sequence)
                pending.clear()
                await context.write(message.SerializeToString())

        writer = asyncio.create_task(answer())
        try:
            async for data in requests:
                message = pb.AgentMessage.FromString(data)
                if message.HasField("hello"):
                    welcome = pb.Welcome(schema_max=SCHEMA, in_flight_max=IN_FLIGHT_MAX)
                    await context.write(pb.ValuerMessage(welcome=welcome).SerializeToString())
                    continue
                envelope = message.window.envelope
                header = codec.decode_header(envelope.payload)
                signature = envelope.signatures[0].sig
                key = self._keys[header.host_id]
                if not key.verifies(signature, envelope.payload_type, envelope.payload):
                    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "a bad signature")
                pending.append(header.sequence)
                ready.set()
        finally:
            writer.cancel()


async def serve(
    keys: Mapping[str, PublicKey], credentials: grpc.ServerCredentials, port: int
) -> None:
    """Serves until it is stopped."""
    server = aio.server()
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(
        Bare(keys).stream
    )
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("assay.v1.Attestation", {"Stream": handler}),)
    )
    server.add_secure_port(f"127.0.0.1:{port}", credentials)
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    """Reads its certificate and the hosts' keys, and serves."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("key", "certificate", "authority", "keys"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    keys = {
        host_id: PublicKey(ED25519, bytes.fromhex(key))
        for host_id, key in json.loads(options.keys.read_text()).items()
    }
    credentials = grpc.ssl_server_credentials(
        [(options.key.read_bytes(), options.certificate.read_bytes())],
        root_certificates=options.authority.read_bytes(),
        require_client_auth=True,
    )
    asyncio.run(serve(keys, credentials, options.port))


if __name__ == "__main__":
    main()
