"""A fleet of hosts enrolled with a valuer that runs, and the process that plays them."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec
import yaml

from assay_agent.enroll import Token, parse_token
from assay_agent.pem import new_tls_key, signing_request
from assay_agent.uplink import enrollment
from assay_core.instants import MINUTE_MS
from assay_core.seal import PublicKey
from assay_proto.v1 import attestation_pb2 as pb
from assay_valuer import ca
from bench import processes
from bench.load import LENGTH, FleetFile, HostFile
from bench.row import MeasurementFailed
from tests.fakes.host import FakeHost

BIN: Final = Path(sys.executable).parent
WINDOW_MS: Final = 5 * MINUTE_MS
GPUS: Final = 8


@dataclass(frozen=True, slots=True)
class Valuer:
    """A valuer's folder: its configuration, its state, and the ports of its listeners."""

    folder: Path
    enrolment_port: int
    attestation_port: int

    @property
    def config(self) -> Path:
        """valuer.yaml."""
        return self.folder / "valuer.yaml"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.folder / "valuer.log"

    @property
    def state(self) -> Path:
        """The state directory."""
        return self.folder / "state"

    def command(self, *arguments: str) -> list[str]:
        """`assay-valuer` with this configuration."""
        return [str(BIN / "assay-valuer"), *arguments, "--config", str(self.config)]

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """`assay-valuer run`, once it listens."""
        with processes.running(self.command("run"), self.log) as process:
            for port in (self.enrolment_port, self.attestation_port):
                processes.wait_for_port(port, process, self.log)
            yield process

    def followed(self) -> int:
        """How many ledger entries the book has taken so far."""
        with closing(sqlite3.connect(f"file:{self.state}/valuer.db?mode=ro", uri=True)) as store:
            (position,) = store.execute("SELECT max(next_position) FROM projection").fetchone()
            return int(position or 0)


def make_valuer(folder: Path, **settings: object) -> Valuer:
    """Initialises a valuer as an operator does; it takes as many enrolments as come.

    `settings` are further ones of valuer.yaml.
    """
    valuer = Valuer(folder, processes.free_port(), processes.free_port())
    own = {
        "state_dir": str(valuer.state),
        "enrolment": {"listen": f"127.0.0.1:{valuer.enrolment_port}"},
        "attestation": {"listen": f"127.0.0.1:{valuer.attestation_port}"},
        "metrics": {"listen": None},
        "ingest": {"enrolments_per_minute": 100_000, "enrolments_per_minute_of_peer": 100_000},
    }
    valuer.config.write_text(yaml.safe_dump(own | settings))
    processes.run(valuer.command("init"))
    return valuer


def create_token(valuer: Valuer, hosts: int) -> str:
    """A token for so many hosts."""
    return processes.run(
        valuer.command("token", "create", "--site", "bench", "--hosts", str(hosts))
    )


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A host of the fleet, and what its streams are opened with."""

    host: FakeHost
    key_pem: bytes
    chain_pem: bytes


def keys_of(fleet: Sequence[Enrolled]) -> dict[str, PublicKey]:
    """The sealing key of each host, by its id."""
    return {one.host.host_id: one.host.signer.public_key for one in fleet}


def enrol(valuer: Valuer, count: int) -> list[Enrolled]:
    """Enrols new hosts with the running valuer, by one token."""
    token = parse_token(create_token(valuer, count))
    return asyncio.run(_enrol_all(token, count))


async def _enrol_all(token: Token, count: int) -> list[Enrolled]:
    some = asyncio.Semaphore(8)

    async def one(seed: int) -> Enrolled:
        async with some:
            return await _enrol_one(token, seed)

    return list(await asyncio.gather(*(one(seed) for seed in range(count))))


async def _enrol_one(token: Token, seed: int) -> Enrolled:
    host = FakeHost(seed=seed, gpu_count=GPUS, window_ms=WINDOW_MS)
    key_pem = new_tls_key()
    certificates = await enrollment.enroll(
        token.endpoint,
        token.authority_pem,
        None,
        statement=enrollment.enroll_statement(token.id, signing_request(key_pem), host.signer),
        token_secret=token.secret,
        signer=host.signer,
    )
    host.host_id = certificates.host_id
    return Enrolled(host, key_pem, certificates.chain_pem)


def seal(enrolled: Enrolled, windows: int) -> Iterator[bytes]:
    """The host's next windows, as messages; the last ends now."""
    host = enrolled.host
    host.now_ms = time.time_ns() // 1_000_000 - windows * host.window_ms
    for _ in range(windows):
        sealed = host.seal()
        message = pb.AgentMessage()
        message.window.envelope.payload = sealed.envelope.payload
        message.window.envelope.payload_type = sealed.envelope.payload_type
        for signature in sealed.envelope.signatures:
            message.window.envelope.signatures.add(sig=signature.sig, keyid=signature.keyid)
        message.window.leaves.extend(sealed.leaves)
        yield message.SerializeToString(deterministic=True)


def write_fleet(
    folder: Path, authority: Path, fleet: Sequence[Enrolled], windows: Sequence[int]
) -> Path:
    """Seals `windows[i]` windows of host i beforehand and writes what bench/load.py reads."""
    hosts = []
    for number, (enrolled, count) in enumerate(zip(fleet, windows, strict=True)):
        path = folder / f"windows-{number}.bin"
        with path.open("wb") as file:
            for message in seal(enrolled, count):
                file.write(LENGTH.pack(len(message)) + message)
        hosts.append(
            HostFile(
                host_id=enrolled.host.host_id,
                key_pem=enrolled.key_pem.decode(),
                chain_pem=enrolled.chain_pem.decode(),
                windows=str(path),
            )
        )
    path = folder / "fleet.json"
    path.write_bytes(
        msgspec.json.encode(FleetFile(authority_pem=authority.read_text(), hosts=tuple(hosts)))
    )
    return path


@contextmanager
def bare(
    folder: Path, state: Path, keys: Mapping[str, PublicKey]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """bench/bare_stream.py for hosts with these keys, under the authority in `state`.

    Gives its process and port.
    """
    authority = ca.load_authority(state / "ca.pem", state / "ca.key")
    server = authority.issue_server(["127.0.0.1"], time.time_ns() // 1_000_000)
    port = processes.free_port()
    known = {host_id: key.data.hex() for host_id, key in keys.items()}
    (folder / "keys.json").write_text(json.dumps(known))
    (folder / "server.key").write_bytes(server.key_pem)
    (folder / "server.pem").write_bytes(server.certificate.chain_pem)
    command = [sys.executable, "-m", "bench.bare_stream", "--port", str(port)]
    command += ["--key", str(folder / "server.key"), "--certificate", str(folder / "server.pem")]
    command += ["--authority", str(state / "ca.pem"), "--keys", str(folder / "keys.json")]
    log = folder / "bare.log"
    with processes.running(command, log) as process:
        processes.wait_for_port(port, process, log)
        yield process, port


class Load:
    """bench/load.py under orders."""

    def __init__(self, fleet: Path, port: int, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "bench.load",
                    "--fleet",
                    str(fleet),
                    "--endpoint",
                    f"127.0.0.1:{port}",
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=processes.environment(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def order(self, do: str, **numbers: int) -> tuple[int, float]:
        """Gives an order and waits until it is done; how much was done, and the seconds it took."""
        if self._process.stdin is None or self._process.stdout is None:
            raise TypeError("the load has no pipes")
        self._process.stdin.write(json.dumps({"do": do, **numbers}).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise MeasurementFailed(f"the load ended:\n{processes.tail(self._log)}")
        answer = json.loads(line)
        return answer["done"], answer["seconds"]
