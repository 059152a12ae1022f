"""A process that is many hosts at once: mutual TLS streams, windows sealed beforehand.

Started by `fleet.Load`; orders come as JSON lines on standard input, and each is answered by a line
on standard output once it is done:

    {"do": "connect", "count": 20}                            dial the next 20 hosts
    {"do": "send", "hosts": 16, "windows": 100, "flight": 64} from each, all acknowledged
    {"do": "keep", "count": 16}                               end all streams but the first 16
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from grpc import aio, ssl_channel_credentials

from assay_core.header import SCHEMA
from assay_proto.v1 import attestation_pb2 as pb

METHOD: Final = "/assay.v1.Attestation/Stream"
WAIT_S: Final = 120.0
LENGTH: Final = struct.Struct(">I")


class HostFile(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the fleet: its client certificate, and a file of messages ready to send."""

    host_id: str
    key_pem: str
    chain_pem: str
    windows: str


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet, and the authority that the server's certificate must chain to."""

    authority_pem: str
    hosts: tuple[HostFile, ...]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One line of standard input."""

    do: str
    count: int = 0
    hosts: int = 0
    windows: int = 0
    flight: int = 64


class Host:
    """One host's stream."""

    def __init__(self, host: HostFile, authority_pem: str, endpoint: str) -> None:
        self._host_id = host.host_id
        self._messages = read_messages(Path(host.windows))
        credentials = ssl_channel_credentials(
            authority_pem.encode(), host.key_pem.encode(), host.chain_pem.encode()
        )
        self._channel = aio.secure_channel(
            endpoint, credentials, options=[("grpc.use_local_subchannel_pool", 1)]
        )
        self._stream: aio.StreamStreamCall[bytes, bytes] = self._channel.stream_stream(METHOD)()
        self._flight_max = 1

    async def hello(self) -> None:
        """Says Hello and waits for Welcome."""
        hello = pb.Hello(schema_max=SCHEMA, agent_version="bench", incarnation=0)
        await self._stream.write(pb.AgentMessage(hello=hello).SerializeToString())
        welcome = (await self._read()).welcome
        self._flight_max = welcome.in_flight_max

    async def send(self, windows: int, flight: int) -> int:
        """Sends the next windows, at most so many unacknowledged; returns how many were taken."""
        room = asyncio.Semaphore(min(flight, self._flight_max))
        acknowledged = 0

        async def listen() -> None:
            nonlocal acknowledged
            while acknowledged < windows:
                message = await self._read()
                if message.HasField("refusal"):
                    raise RuntimeError(f"{self._host_id}: refused: {message.refusal}")
                for _ in message.acknowledgements.acknowledgements:
                    acknowledged += 1
                    room.release()

        async with asyncio.TaskGroup() as group:
            group.create_task(listen())
            for _ in range(windows):
                await room.acquire()
                await self._stream.write(next(self._messages))
        return acknowledged

    async def end(self) -> None:
        """Ends the stream and the connection."""
        self._stream.cancel()
        await self._channel.close()

    async def _read(self) -> pb.ValuerMessage:
        data = await asyncio.wait_for(self._stream.read(), WAIT_S)
        if data is aio.EOF or not isinstance(data, bytes):
            code, details = await self._stream.code(), await self._stream.details()
            raise RuntimeError(f"{self._host_id}: the stream ended: {code} {details}")
        return pb.ValuerMessage.FromString(data)


def read_messages(path: Path) -> Iterator[bytes]:
    """The messages in a file, each after its length."""
    with path.open("rb") as file:
        while head := file.read(LENGTH.size):
            yield file.read(LENGTH.unpack(head)[0])


async def obey(fleet: FleetFile, endpoint: str) -> None:
    """Takes orders until standard input ends."""
    hosts: list[Host] = []
    decoder = msgspec.json.Decoder(Order)
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        order = decoder.decode(line)
        began_s, done = time.monotonic(), 0
        if order.do == "connect":
            fresh = [
                Host(one, fleet.authority_pem, endpoint)
                for one in fleet.hosts[len(hosts) : len(hosts) + order.count]
            ]
            for host in fresh:  # one after the other: a crowd would wait on itself
                await host.hello()
            hosts += fresh
            done = len(fresh)
        elif order.do == "send":
            sent = (host.send(order.windows, order.flight) for host in hosts[: order.hosts])
            done = sum(await asyncio.gather(*sent))
        elif order.do == "keep":
            gone, hosts = hosts[order.count :], hosts[: order.count]
            await asyncio.gather(*(host.end() for host in gone))
            done = len(gone)
        seconds = time.monotonic() - began_s
        print(json.dumps({"done": done, "seconds": seconds}), flush=True)
    await asyncio.gather(*(host.end() for host in hosts))


def main() -> None:
    """Reads the fleet and takes orders."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleet", required=True)
    parser.add_argument("--endpoint", required=True)
    options = parser.parse_args()
    fleet = msgspec.json.decode(Path(options.fleet).read_bytes(), type=FleetFile)
    asyncio.run(obey(fleet, options.endpoint))


if __name__ == "__main__":
    main()
