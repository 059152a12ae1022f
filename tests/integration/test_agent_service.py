"""The running agent: what closes a window, what a pause does, what a restart leaves."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from assay_agent import control
from assay_agent.telemetry.reading import Depth
from assay_core import codec
from assay_core.errors import HostError, ServiceError
from assay_core.header import CloseReason
from assay_core.leaves import ON_CHANGE, DriverState, EventKind, Group
from tests.fakes.agents import FakeAgent, FakeSource, until
from tests.fakes.valuer import FakeValuer

LONG_MS = 900_000


def play(tmp_path: Path, scene, **valuer) -> None:
    async def run() -> None:
        folder = tmp_path / "valuer"
        folder.mkdir()
        async with FakeValuer(folder, **valuer) as desk:
            agent = FakeAgent(tmp_path / "agent")
            await agent.enrol(desk)
            await scene(desk, agent)

    asyncio.run(run())


@asynccontextmanager
async def serving(agent: FakeAgent, source: FakeSource, **config):
    service = agent.service(source, **({"window_ms": LONG_MS, "poll_ms": 60_000} | config))
    task = asyncio.ensure_future(service.run())
    try:
        await until(lambda: source.polls > 0 or task.done())
        yield service
    finally:
        service.stop()
        await task
        agent.spool.close()


def leaf(valuer: FakeValuer, index: int, group: Group):
    found = [codec.decode_leaf(data).content for data in valuer.chain[index].sealed.leaves]
    return next(content for content in found if content.group is group)


def test_an_event_closes_a_window_at_once_and_an_end_another(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source):
            source.happen(EventKind.XID, 79)
            await valuer.until(lambda: len(valuer.chain) == 1)
            assert valuer.header(0).close_reason is CloseReason.EVENT
            assert [event.code for event in leaf(valuer, 0, Group.HEALTH).events()] == [79]
        assert source.closed
        assert valuer.header(1).close_reason is CloseReason.SHUTDOWN
        assert valuer.header(1).period.begin_utc_ms == valuer.header(0).period.end_utc_ms

    play(tmp_path, scene)


def test_polls_look_as_deep_as_their_place_in_the_period_asks(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source, poll_ms=300, window_ms=1_000):
            await valuer.until(lambda: len(valuer.chain) >= 2)
            depths = list(source.depths)
        assert depths[0] is Depth.DAY
        assert Depth.DAY not in depths[1:], "once a day"
        assert depths.count(Depth.TICK) > depths.count(Depth.WINDOW) >= 2
        first = depths.index(Depth.WINDOW)
        assert set(depths[1:first]) == {Depth.TICK}, "only the poll that ends a period is deeper"

    play(tmp_path, scene)


def test_slow_leaves_travel_once_and_incidents_outlive_a_restart_of_the_agent(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source):
            source.happen(EventKind.XID, 79)
            await valuer.until(lambda: len(valuer.chain) == 1)
        agent.open()
        again = FakeSource()
        async with serving(agent, again):
            before = len(valuer.chain)
            again.happen(EventKind.XID, 13, number=2)
            await valuer.until(lambda: len(valuer.chain) > max(before, 2))
        groups = [
            [codec.decode_leaf(data).content.group for data in kept.sealed.leaves]
            for kept in valuer.chain
        ]
        assert len(groups) >= 3
        assert {group for group in groups[0] if group in ON_CHANGE} == ON_CHANGE
        assert not any(group in ON_CHANGE for later in groups[1:] for group in later)
        told = [leaf(valuer, n, Group.HEALTH).incidents() for n in (0, len(valuer.chain) - 1)]
        assert [[one.code for one in incidents] for incidents in told] == [[79], [79]]
        assert told[0][0].begin_ms == told[1][0].begin_ms

    play(tmp_path, scene)


def test_slow_leaves_travel_again_after_a_gap_that_may_have_held_them(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source):
            for code, gaps in ((79, 0), (48, 0), (13, 1)):
                agent.spool.gaps = gaps
                before = agent.spool.next_sequence
                source.happen(EventKind.XID, code)
                await until(lambda before=before: agent.spool.next_sequence > before)
            await valuer.until(lambda: len(valuer.chain) >= 3)
        groups = [
            {codec.decode_leaf(data).content.group for data in kept.sealed.leaves} & ON_CHANGE
            for kept in valuer.chain[:3]
        ]
        assert groups == [ON_CHANGE, set(), ON_CHANGE]

    play(tmp_path, scene)


def test_a_driver_that_hangs_does_not_keep_a_pause_from_being_sealed(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source, poll_ms=100):
            source.hang()
            await until(lambda: source.hanging)
            ask = control.Request(pause_ms=1_800_000)
            reply = await asyncio.to_thread(control.ask, agent.keys.state_dir, ask)
            assert reply.ok, reply.message
            await valuer.until(lambda: len(valuer.chain) >= 1)
            assert valuer.header(len(valuer.chain) - 1).close_reason is CloseReason.MAINTENANCE

    play(tmp_path, scene)


def test_a_storm_of_events_fills_few_windows(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source):
            for _ in range(40):
                source.happen(EventKind.XID, 31)
                await asyncio.sleep(0.01)
            await valuer.until(
                lambda: (
                    sum(
                        event.count
                        for index in range(len(valuer.chain))
                        for event in leaf(valuer, index, Group.HEALTH).events()
                    )
                    == 40
                )
            )
            assert len(valuer.chain) < 20

    play(tmp_path, scene)


def test_periods_close_windows_and_the_valuers_wish_is_followed_within_bounds(tmp_path):
    async def scene(valuer, agent):
        async with serving(agent, FakeSource(), poll_ms=100):
            await valuer.until(lambda: len(valuer.chain) >= 2)
            header = valuer.header(1)
            assert header.close_reason is CloseReason.PERIOD
            assert header.period.end_boottime_ms - header.period.begin_boottime_ms >= 1_000

    play(tmp_path, scene, hint_ms=1)


def test_a_challenge_is_answered_in_the_next_header_and_only_there(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source) as service:
            await until(lambda: service._uplink.control.challenge != b"")
            source.happen(EventKind.XID, 13)
            await valuer.until(lambda: len(valuer.chain) == 1)
            assert valuer.header(0).answered_challenge == bytes(range(32))
        assert valuer.header(1).answered_challenge == b""

    play(tmp_path, scene, challenge=bytes(range(32)))


def test_a_pause_closes_the_devices_and_seals_a_maintenance_window(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        folder = agent.keys.state_dir
        async with serving(agent, source):
            assert (folder / "control.sock").stat().st_mode & 0o777 == 0o600
            ask = control.Request(pause_ms=1_800_000)
            reply = await asyncio.to_thread(control.ask, folder, ask)
            assert reply.ok
            assert "every device handle is closed" in reply.message
            assert source.pauses == 1
            await valuer.until(lambda: len(valuer.chain) == 1)
            assert valuer.header(0).close_reason is CloseReason.MAINTENANCE
            state = leaf(valuer, 0, Group.HOST)
            assert state.integer("driver_state") == int(DriverState.PAUSED)
            assert state.integer("maintenance_until_ms") == agent.spool.paused_until_ms()
            assert [event.kind for event in state.events()] == [EventKind.PAUSED]
            reply = await asyncio.to_thread(control.ask, folder, control.Request(pause_ms=0))
            assert reply.ok
            await valuer.until(lambda: len(valuer.chain) == 2)
            assert valuer.header(1).close_reason is CloseReason.EVENT
            assert [e.kind for e in leaf(valuer, 1, Group.HOST).events()] == [EventKind.RESUMED]
            reply = await asyncio.to_thread(
                control.ask, folder, control.Request(pause_ms=25 * 3_600_000)
            )
            assert not reply.ok
            assert "up to 1.0 d" in reply.message

    play(tmp_path, scene)


def test_a_pause_outlives_a_restart_and_ends_when_it_is_over(tmp_path):
    async def scene(valuer, agent):
        agent.spool.set_paused_until(2**44)
        source = FakeSource()
        async with serving(agent, source):
            assert source.pauses == 1
            await valuer.until(lambda: len(valuer.chain) == 1)
            assert valuer.header(0).close_reason is CloseReason.MAINTENANCE
        agent.open()
        agent.spool.set_paused_until(1)
        source = FakeSource()
        async with serving(agent, source):
            assert source.pauses == 0
            await until(lambda: agent.spool.paused_until_ms() is None)

    play(tmp_path, scene)


def test_a_disk_that_takes_no_writes_lets_the_period_go_on(tmp_path):
    async def scene(valuer, agent):
        source = FakeSource()
        async with serving(agent, source, poll_ms=100) as service:
            await until(lambda: source.polls > 0)
            agent.spool._db.execute("PRAGMA query_only = 1")
            while not service._cutter._not_before_ms:
                service._cutter._event_not_before_ms = 0
                source.happen(EventKind.XID, 79)
                await asyncio.sleep(0.02)
            sealed, polls = agent.spool.next_sequence, source.polls
            assert agent.metrics.seal_failures.value >= 1
            await until(lambda: source.polls > polls)
            agent.spool._db.execute("PRAGMA query_only = 0")
        agent.open()
        assert agent.spool.next_sequence == sealed + 1
        agent.spool.close()
        assert valuer.sequences == list(range(sealed + 1))

    play(tmp_path, scene)


def test_a_certificate_past_half_its_life_is_renewed_and_shown(tmp_path):
    async def scene(valuer, agent):
        async with serving(agent, FakeSource()):
            await valuer.until(lambda: valuer.renewals == 1)
            await until(lambda: agent.keys.tls().renew_at_ms > valuer.now_ms())
            shown = agent.keys.tls().chain_pem.decode().strip()
            await valuer.until(lambda: shown in [each.strip() for each in valuer.clients])

    play(tmp_path, scene, certificate_life_ms=86_400_000, certificate_age_ms=50_000_000)


def test_a_second_agent_on_the_same_state_is_turned_away(tmp_path):
    async def scene(valuer, agent):
        from assay_agent import spool_file

        with spool_file.locked(agent.keys.state_dir):
            config = tmp_path / "agent.yaml"
            config.write_text(f"state_dir: {agent.keys.state_dir}\n")
            process = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", COMMAND, "run", "--config", str(config)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert process.returncode == 1
        assert "another assay-agent works in" in process.stderr
        assert "Traceback" not in process.stderr

    play(tmp_path, scene)


COMMAND = "import sys; from assay_agent.cli import main; sys.exit(main())"


class Process:
    """`assay-agent run` as systemd starts it: a process, NOTIFY_SOCKET and all."""

    def __init__(self, config: Path, notify: Path) -> None:
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.unlink(missing_ok=True)
        self.notify.bind(str(notify))
        self.notify.settimeout(60)
        self.log = config.with_suffix(".log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "run", "--config", str(config)],
            stderr=self.log,
            env={**os.environ, "NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "2000000"},
        )

    async def heard(self, word: str) -> None:
        while word not in (await asyncio.to_thread(self.notify.recv, 4096)).decode():
            pass

    async def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, 60)
        self.notify.close()
        self.log.close()
        return code


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_the_command_runs_pauses_survives_kill_and_ends_in_good_order(tmp_path):
    port = free_port()
    (tmp_path / "scenario.yaml").write_text("seed: 7\nfleets:\n  - {profile: h100, count: 8}\n")
    config = tmp_path / "agent.yaml"
    config.write_text(
        f"state_dir: {tmp_path / 'agent'}\npoll_ms: 200\nwindow_ms: 1000\n"
        f"source: {{kind: simulated, file: {tmp_path / 'scenario.yaml'}}}\n"
        f"metrics: {{listen: '127.0.0.1:{port}'}}\n"
    )

    async def scene(valuer, agent):
        agent.spool.close()
        first = Process(config, tmp_path / "notify")
        await first.heard("READY=1")
        await first.heard("WATCHDOG=1")
        await valuer.until(lambda: len(valuer.chain) >= 2)
        text = await asyncio.to_thread(
            lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        )
        assert 'assay_agent_uplink_state{state="connected"} 1' in text
        assert 'source="simulated"' in text
        assert await first.end(signal.SIGKILL) == -signal.SIGKILL

        second = Process(config, tmp_path / "notify")
        await second.heard("READY=1")
        kept = len(valuer.chain)
        await valuer.until(lambda: len(valuer.chain) >= kept + 2)
        pause = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", COMMAND, "pause", "--for", "30m", "--config", str(config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (pause.returncode, pause.stderr) == (0, "")
        assert "every device handle is closed" in pause.stdout
        assert await second.end(signal.SIGTERM) == 0
        headers = [valuer.header(index) for index in range(len(valuer.chain))]
        assert [header.sequence for header in headers] == list(range(len(headers)))
        reasons = {header.close_reason for header in headers}
        assert reasons >= {CloseReason.PERIOD, CloseReason.MAINTENANCE, CloseReason.SHUTDOWN}
        assert len({header.boot_id for header in headers}) == 2  # simulated hosts make one up
        sealed = [
            json.loads(line)
            for line in config.with_suffix(".log").read_text().splitlines()
            if '"sealed"' in line
        ]
        told = {line["sequence"]: line["hash"] for line in sealed}
        assert (
            told.items()
            <= {kept.head.sequence: kept.head.hash.hex() for kept in valuer.chain}.items()
        )

    play(tmp_path, scene)


def test_without_an_agent_the_pause_says_so(tmp_path):
    with pytest.raises(ServiceError, match="is assay-agent running"):
        control.ask(tmp_path, control.Request(pause_ms=1))


def test_a_state_directory_too_deep_for_a_socket_is_named(tmp_path):
    deep = tmp_path / ("x" * 120)
    deep.mkdir()

    async def handler(_request):
        return ""

    with pytest.raises(HostError, match="shorter"):
        asyncio.run(control.serve(deep, handler))
