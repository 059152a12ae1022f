"""Both sides killed with SIGKILL at random instants: every acknowledged window exactly once.

The agent and the valuer are the real commands, as processes; the chain between them is mutual TLS
on loopback. What the agent was told is durable is read off its spool after each kill, and must
stand in the ledger at the end, where it was said to stand, once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import time

import pytest
from sqlalchemy import select

from assay_core.header import header_hash
from assay_valuer import config
from assay_valuer.ledger.check import check_ledger
from assay_valuer.ledger.read import windows_from
from assay_valuer.state import open_state
from assay_valuer.store.schema import LEDGER_ENTRY
from demo.world import free_port, run, tool

KILLS = int(os.environ.get("ASSAY_KILLS", "50"))
SCENARIO = """\
seed: 11
fleets:
  - {profile: h100, count: 2, load: {shape: burst, period_s: 3}}
"""


class Side:
    """One of the two commands: started, killed, started again."""

    def __init__(self, name, directory):
        self.command = [tool(f"assay-{name}"), "run", "--config", str(directory / f"{name}.yaml")]
        self.log = directory / f"{name}.log"
        self.process = None
        self.start()

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self):
        assert self.process.poll() is None, f"ended by itself: {self.log.read_text()[-2000:]}"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)
        return self.process.returncode


def set_up(directory):
    (directory / "scenario.yaml").write_text(SCENARIO)
    (directory / "valuer.yaml").write_text(
        json.dumps(
            {
                "state_dir": str(directory / "valuer"),
                "trust_domain": "kill.test",
                "enrolment": {"listen": f"127.0.0.1:{free_port()}"},
                "attestation": {"listen": f"127.0.0.1:{free_port()}"},
                "metrics": {"listen": None},
                "sources": ["simulated"],
            }
        )
    )
    (directory / "agent.yaml").write_text(
        json.dumps(
            {
                "state_dir": str(directory / "agent"),
                "poll_ms": 200,
                "window_ms": 1_000,
                "source": {"kind": "simulated", "file": str(directory / "scenario.yaml")},
                "metrics": {"listen": None},
            }
        )
    )


def acknowledged(spool):
    """Sequence → (header hash, ledger position) of every window the agent was told is durable."""
    db = sqlite3.connect(f"file:{spool}?mode=ro", uri=True, timeout=30)
    try:
        rows = db.execute(
            "SELECT sequence, hash, position FROM record "
            "WHERE kind = 'window' AND position IS NOT NULL"
        ).fetchall()
        return {sequence: (digest, position) for sequence, digest, position in rows}
    finally:
        db.close()


def wait_until(what, done, *sides, seconds=60):
    end = time.monotonic() + seconds
    while not done():
        for side in sides:
            assert side.process.poll() is None, side.log.read_text()[-3000:]
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.1)


@pytest.mark.kill
@pytest.mark.timeout(max(300, KILLS * 10))
def test_every_acknowledged_window_is_in_the_ledger_exactly_once(tmp_path):
    seed = int(os.environ.get("ASSAY_SEED", time.time_ns() % 2**32))
    print(f"ASSAY_SEED={seed}")
    chance = random.Random(seed)
    set_up(tmp_path)
    valuer_yaml = tmp_path / "valuer.yaml"
    run(tool("assay-valuer"), "init", "--config", str(valuer_yaml))
    token = run(
        tool("assay-valuer"), "token", "create", "--site", "kill", "--config", str(valuer_yaml)
    )
    valuer = Side("valuer", tmp_path)
    spool = tmp_path / "agent" / "spool.db"
    told = {}
    try:
        enrol(tmp_path, token)
        agent = Side("agent", tmp_path)
        try:
            wait_until("the first window", lambda: spool.exists() and acknowledged(spool), agent)
            killed = {"agent": 0, "valuer": 0}
            while sum(killed.values()) < KILLS:
                time.sleep(chance.uniform(0.05, 2.5))
                victim, name = chance.choice([(agent, "agent"), (valuer, "valuer")])
                victim.kill()
                killed[name] += 1
                now = acknowledged(spool)
                for sequence, found in told.items():
                    assert now.get(sequence, found) == found, "an acknowledgement was forgotten"
                told |= now
                victim.start()
            assert min(killed.values()) > 0
            sealed = max(told)
            wait_until(
                "both to go on after the last kill",
                lambda: max(acknowledged(spool)) > sealed + 2,
                agent,
                valuer,
            )
            assert agent.stop() == 0
        finally:
            agent.stop()
        told |= acknowledged(spool)
        assert valuer.stop() == 0
    finally:
        valuer.stop()
    check(valuer_yaml, told)


def enrol(directory, token):
    end = time.monotonic() + 30
    while True:  # the valuer may still be starting
        done = subprocess.run(
            [tool("assay-agent"), "enroll", "--config", str(directory / "agent.yaml")],
            input=token,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            return
        assert time.monotonic() < end, done.stderr
        time.sleep(0.3)


def check(valuer_yaml, told):
    state = open_state(config.load(valuer_yaml))
    try:
        state.database.read(
            lambda connection: check_ledger(connection, (state.ledger_key.public_key,))
        )
        windows = state.database.read(
            lambda connection: windows_from(connection, position=0, limit=1_000_000)
        )
        kinds = state.database.read(
            lambda connection: connection.execute(select(LEDGER_ENTRY.c.kind)).scalars().all()
        )
    finally:
        state.database.close()
    assert "fork" not in kinds
    assert "gap" not in kinds
    # Exactly once, without a hole, each the successor of the one before.
    assert [window.header.sequence for window in windows] == list(range(len(windows)))
    previous = b""
    stored = {}
    for window in windows:
        assert window.header.previous_header_hash == previous
        previous = header_hash(window.sealed.envelope.payload)
        stored[window.header.sequence] = (previous, window.position)
    assert len(told) > KILLS // 4
    for sequence, found in told.items():
        assert stored.get(sequence) == found, f"window {sequence} was acknowledged and is not there"
    print(f"{KILLS} kills, {len(windows)} windows, {len(told)} known to be acknowledged")
