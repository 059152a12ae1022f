"""The valuer as a process: its commands, and SIGKILL at random instants while hosts send."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from assay_core import disclosure
from assay_core.seal import Sealed
from assay_valuer.config import load, paths
from assay_valuer.ledger.check import check_ledger
from assay_valuer.ledger.read import windows_from
from assay_valuer.state import load_ledger_key, open_state
from tests.fakes.door import Ended, HostClient
from tests.fakes.host import FakeHost

KILLS = 12
PROGRAM = Path(sys.executable).parent / "assay-valuer"


class ValuerProcess:
    """`assay-valuer` with a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "valuer.yaml"
        self.ports = free_ports(3)
        enrolment, attestation, metrics = self.ports
        self.config.write_text(
            f"state_dir: {folder / 'state'}\n"
            f"trust_domain: assay.test\n"
            f"enrolment: {{listen: '127.0.0.1:{enrolment}'}}\n"
            f"attestation: {{listen: '127.0.0.1:{attestation}'}}\n"
            f"metrics: {{listen: '127.0.0.1:{metrics}'}}\n"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PROGRAM, *arguments, "--config", self.config],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "run", "--config", self.config], stdin=subprocess.DEVNULL, stderr=log
            )

    def stop(self, number: int) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    async def serving(self) -> None:
        for _ in range(400):
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.ports[1])
                writer.close()
                return
            await asyncio.sleep(0.05)
        raise AssertionError((self.folder / "log").read_text())


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


@pytest.fixture
def valuer(tmp_path: Path) -> Iterator[ValuerProcess]:
    valuer = ValuerProcess(tmp_path)
    yield valuer
    if valuer.process is not None:
        valuer.process.kill()
        valuer.process.wait()


async def send_until_killed(
    client: HostClient, sealed: list[Sealed], acked: dict[int, int]
) -> None:
    """Sends from the valuer's head on, as an agent does; notes what it was told is durable."""
    errors = (grpc.aio.AioRpcError, Ended, asyncio.InvalidStateError, asyncio.CancelledError)
    with contextlib.suppress(*errors):
        async with client.stream() as stream:
            welcome = stream.welcome
            assert welcome is not None
            cursor = welcome.head_sequence + 1 if welcome.has_head else 0
            done = cursor
            while True:
                while cursor - done < 16:
                    if cursor == len(sealed):
                        sealed.append(client.host.seal())
                    await stream.window(sealed[cursor])
                    cursor += 1
                for sequence, position in await stream.acknowledged():
                    assert acked.setdefault(sequence, position) == position
                    done = sequence + 1


def test_every_acknowledged_window_survives_kill_9_exactly_once(valuer: ValuerProcess) -> None:
    seed = int(os.environ.get("ASSAY_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"ASSAY_SEED={seed}")
    choose = random.Random(seed)
    assert valuer.command("init").returncode == 0
    hosts = [HostClient(FakeHost(seed=n, gpu_count=2)) for n in range(3)]
    sealed: list[list[Sealed]] = [[] for _ in hosts]
    acked: list[dict[int, int]] = [{} for _ in hosts]

    async def story() -> None:
        valuer.start()
        await valuer.serving()
        made = valuer.command("token", "create", "--hosts", "3", "--site", "lab")
        for client in hosts:
            await client.enroll(made.stdout.strip())
        for _ in range(KILLS):
            await valuer.serving()
            sending = [
                asyncio.create_task(send_until_killed(*each))
                for each in zip(hosts, sealed, acked, strict=True)
            ]
            await asyncio.sleep(choose.uniform(0.05, 0.8))
            assert valuer.stop(signal.SIGKILL) == -signal.SIGKILL
            valuer.start()
            for task in sending:
                await asyncio.wait_for(task, 20)
        await valuer.serving()
        assert valuer.stop(signal.SIGTERM) == 0

    asyncio.run(story())
    state = open_state(load(valuer.config))
    state.database.read(lambda c: check_ledger(c, (state.ledger_key.public_key,)))
    stored: dict[tuple[str, int], list[int]] = {}
    position = 0
    while found := state.database.read(lambda c: windows_from(c, position)):  # noqa: B023
        for window in found:
            place = (window.header.host_id, window.header.sequence)
            stored.setdefault(place, []).append(window.position)
        position = found[-1].position + 1
    state.database.close()
    assert sum(len(one) for one in acked) > KILLS
    for client, acks in zip(hosts, acked, strict=True):
        for sequence, at in acks.items():
            assert stored[client.host.host_id, sequence] == [at]


def test_init_is_needed_and_overwrites_nothing(valuer: ValuerProcess) -> None:
    refused = valuer.command("run")
    assert refused.returncode == 1
    assert "run `assay-valuer init` first" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert valuer.command("init").returncode == 0
    where = paths(load(valuer.config))
    kept = {path: path.read_bytes() for path in where.state_dir.glob("*.key")}
    assert {path.name for path in kept} == {"ca.key", "ledger.key"}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in kept)
    assert where.state_dir.stat().st_mode & 0o777 == 0o700
    again = valuer.command("init")
    assert (again.returncode, "nothing was changed" in again.stderr) == (0, True)
    assert {path: path.read_bytes() for path in kept} == kept
    (where.state_dir / "valuer.db").unlink()
    lost = valuer.command("init")
    assert lost.returncode == 1
    assert "restore the store from its backup" in lost.stderr
    assert load_ledger_key(where.ledger_key).public_key.algorithm == "ed25519"


def test_the_commands_administer_a_running_valuer(valuer: ValuerProcess) -> None:
    valuer.command("init")
    client = HostClient(FakeHost(gpu_count=2))
    sealed = client.host.seal

    async def story() -> None:
        valuer.start()
        await valuer.serving()
        made = valuer.command("token", "create", "--site", "fra1", "--expires", "30m")
        assert len(made.stdout.splitlines()) == 1  # the token and nothing else
        await client.enroll(made.stdout.strip())
        assert "/site/fra1/" in client.host.host_id
        async with client.stream() as stream:
            await stream.window(sealed())
            await stream.acknowledged()
            checked = valuer.command("check", "--json")
            report = json.loads(checked.stdout)
            assert (checked.returncode, report["holds"]) == (0, True)
            listed = json.loads(valuer.command("host", "list", "--json").stdout)["hosts"]
            assert [h["host_id"] for h in listed] == [client.host.host_id]
            assert listed[0]["head_sequence"] == 0
            revoked = valuer.command("host", "revoke", client.host.host_id, "--why", "sold")
            assert revoked.returncode == 0
            assert (await asyncio.wait_for(stream.refused(), 5)).reason == "revoked_host"
        assert "REVOKED" in valuer.command("host", "list").stdout.replace("\n", "")
        again = valuer.command("host", "revoke", client.host.host_id, "--why", "sold")
        assert again.returncode == 1
        assert await scraped(valuer.ports[2]) >= 1
        assert valuer.stop(signal.SIGTERM) == 0

    asyncio.run(story())
    stopped = valuer.command("check", "--json")
    named = {f["what"] for f in json.loads(stopped.stdout)["findings"] if not f["holds"]}
    assert stopped.returncode == 1
    assert named == {"enrolment listener", "attestation listener", "metrics listener"}


async def scraped(port: int) -> float:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.0\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    line = next(x for x in text.splitlines() if x.startswith("assay_valuer_windows_accepted_total"))
    return float(line.split()[-1])


def test_an_exported_window_is_verified_from_core_alone(valuer: ValuerProcess) -> None:
    valuer.command("init")
    client = HostClient(FakeHost(gpu_count=2))

    async def story() -> None:
        valuer.start()
        await valuer.serving()
        await client.enroll(valuer.command("token", "create").stdout.strip())
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
        valuer.stop(signal.SIGTERM)

    asyncio.run(story())
    folder = valuer.folder
    whole, part, trust = (str(folder / name) for name in ("whole.json", "part.json", "trust.json"))
    place = ("--host", client.host.host_id, "--sequence", "0")
    assert valuer.command("export", "window", *place, "--out", whole).returncode == 0
    some = ("--leaves", "0,2")
    assert valuer.command("export", "window", *place, *some, "--out", part).returncode == 0
    assert valuer.command("export", "trust", "--out", trust).returncode == 0
    trusts = disclosure.load_trust(Path(trust).read_text(), trust)
    for path, count in ((whole, 10), (part, 2)):  # of two GPUs, each four leaves
        shown = disclosure.inspect(disclosure.load(Path(path).read_text(), path), trusts)
        assert shown.holds
        assert len(shown.leaves) == count
    over = valuer.command("export", "window", *place, "--out", whole)
    assert (over.returncode, "exists already" in over.stderr) == (1, True)
    none = valuer.command("export", "window", *place[:2], "--sequence", "9", "--out", part + "x")
    assert (none.returncode, "has no window 9" in none.stderr) == (1, True)
    odd = valuer.command("export", "window", *place, "--leaves", "99", "--out", part + "x")
    assert (odd.returncode, "leaves 0 to 9" in odd.stderr) == (2, True)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("trust_domain: Not A Domain", "trust_domain: 'Not A Domain'"),
        ("sources: [nvml, dreams]", ":1: sources"),
        ("nonsense: 1", "unknown field `nonsense`"),
        ("window_ms: 1\nwindow_ms: 2", ":2: window_ms: given twice"),
        ("enrolment: {listen: nowhere}", "enrolment.listen: 'nowhere' is not name:port"),
        ("ingest: {queue_max: 0}", ":1: ingest.queue_max"),
        ("oracle: {enabled: true}", "oracle.rpc_urls: is needed"),
        ("oracle: {hub: '0x12'}", ":1: oracle.hub"),
        ("ocsp: {url: 'http://ocsp.ndis.nvidia.com'}", "ocsp.url: an https:// URL is needed"),
    ],
)
def test_a_bad_configuration_is_refused_with_its_place(
    valuer: ValuerProcess, line: str, named: str
) -> None:
    valuer.config.write_text(line + "\n")
    refused = valuer.command("run")
    assert refused.returncode == 2
    assert named in refused.stderr
    assert "Traceback" not in refused.stderr


def test_two_valuers_share_neither_a_store_nor_a_port(valuer: ValuerProcess) -> None:
    valuer.command("init")

    async def story() -> None:
        valuer.start()
        await valuer.serving()
        second = valuer.command("run")
        assert second.returncode == 3
        assert "another valuer runs on" in second.stderr
        other = valuer.folder / "other.yaml"
        text = valuer.config.read_text().replace("/state\n", "/other\n")
        other.write_text(text.replace(str(valuer.ports[2]), str(free_ports(1)[0])))
        valuer.config = other
        assert valuer.command("init").returncode == 0
        third = valuer.command("run")
        assert third.returncode == 3
        assert "cannot be listened on" in third.stderr
        assert valuer.stop(signal.SIGTERM) == 0

    asyncio.run(story())
