"""The valuer's door under load: CPU of each window, and memory of each agent that is connected."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay_core.seal import WINDOW_TYPE, PublicKey
from bench import exporter, fleet, processes, prometheus
from bench.fleet import Load, Valuer
from bench.row import Context, Measurement, MeasurementFailed, Row
from tests.fakes.host import FakeHost

HOSTS: Final = 16
ROUNDS: Final = 6
WINDOWS: Final = 40
"""Of each host and round."""
WARM: Final = 20
"""Windows of each host before the first round."""
STEADY_ROUNDS: Final = 3
STEADY_WINDOWS: Final = 10
FLIGHT: Final = 64
TICK_S: Final = 300
"""The book is worked out at the start, and then not while the door is measured."""
VERIFICATIONS: Final = 3_000

AGENTS_FEW: Final = 20
AGENTS_MORE: Final = 200
SETTLE_S: Final = 3.0
FOLLOW_MAX_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Cost:
    """CPU of one window, microseconds, in the round that took least; and how fast it went.

    What else runs on the machine only adds, so the least is nearest to what it takes.
    """

    cpu_us: float
    per_s: float


def measure_cpu(context: Context) -> Sequence[Row]:
    """`assay-valuer run` under the load of 16 hosts; Ed25519 alone; a bare stream; Prometheus."""
    folder = context.folder
    context.say("enrolling hosts")
    valuer = fleet.make_valuer(folder, tick_s=TICK_S)
    with valuer.running() as process:
        hosts = fleet.enrol(valuer, HOSTS)
        each = WARM + ROUNDS * WINDOWS + STEADY_ROUNDS * STEADY_WINDOWS
        context.say(f"sealing {HOSTS * each} windows of 8 GPUs")
        path = fleet.write_fleet(folder, valuer.state / "ca.pem", hosts, [each] * HOSTS)
        ed25519: list[float] = []
        with Load(path, valuer.attestation_port, folder / "load.log") as load:
            load.order("connect", count=HOSTS)
            stored = _rounds(load, process.pid, context, "assay-valuer", ed25519)
            steady = min(
                (_round(load, process.pid, STEADY_WINDOWS, flight=1) for _ in range(STEADY_ROUNDS)),
                key=lambda cost: cost.cpu_us,
            )
    context.say("following the ledger into the book")
    follow_us = _follow_us(valuer, HOSTS * each)
    with (
        fleet.bare(folder, valuer.state, fleet.keys_of(hosts)) as (process, port),
        Load(path, port, folder / "load.log") as load,
    ):
        load.order("connect", count=HOSTS)
        bare = _rounds(load, process.pid, context, "a bare stream", ed25519)
    one_us = min(ed25519)
    scrape = prometheus.measure(folder / "prometheus", context.say, exporter.FIELDS)
    whole = prometheus.measure(folder / "prometheus-all", context.say, None)
    return [
        Row(
            name="ingest_cpu_ratio",
            value=stored.cpu_us,
            unit="us/window",
            bound=one_us,
            bound_is="the bound is one bare Ed25519 verification",
            ratio=one_us / stored.cpu_us,
            target=0.2,
            judged="ratio",
            better="higher",
            note=f"{stored.per_s:,.0f} windows/s, {HOSTS} hosts. A bare stream that verifies, parses and "
            f"acknowledges, and stores nothing: {bare.cpu_us:,.0f} us, "
            f"ratio {one_us / bare.cpu_us:.2f}. With one window at a time of each host, so that "
            f"commits are small: {steady.cpu_us:,.0f} us. Then, once a tick, following a window into "
            f"the book: {follow_us:,.0f} us more",
        ),
        Row(
            name="ingest_cpu_vs_prometheus",
            value=stored.cpu_us,
            unit="us/window",
            bound=scrape.cpu_us_each,
            bound_is=f"the bound is Prometheus's CPU for one scrape of {scrape.fields} fields as "
            "plain text",
            ratio=stored.cpu_us / scrape.cpu_us_each,
            target=0.7,
            judged="ratio",
            better="lower",
            note=f"{scrape.count} scrapes of {prometheus.TARGETS} hosts, one a second each. The "
            f"window holds more: one scrape of all {whole.fields} fields takes Prometheus "
            f"{whole.cpu_us_each:,.0f} us, ratio {stored.cpu_us / whole.cpu_us_each:.2f}",
        ),
    ]


def measure_rss(context: Context) -> Sequence[Row]:
    """Resident growth from 20 to 220 connected agents, each of which has sent a window."""
    folder, agents = context.folder, AGENTS_FEW + AGENTS_MORE
    context.say(f"enrolling {agents} hosts")
    valuer = fleet.make_valuer(folder, tick_s=TICK_S)
    with valuer.running():
        hosts = fleet.enrol(valuer, agents)
    path = fleet.write_fleet(
        folder, valuer.state / "ca.pem", hosts, [2] * AGENTS_FEW + [1] * AGENTS_MORE
    )
    context.say(f"connecting {agents} agents to assay-valuer")
    with valuer.running() as process:  # afresh: what enrolling took is given back
        held = _rss(path, valuer.attestation_port, process.pid, folder)
    context.say(f"connecting {agents} agents to a bare stream")
    with fleet.bare(folder, valuer.state, fleet.keys_of(hosts)) as (process, port):
        bare = _rss(path, port, process.pid, folder)
    return [
        Row(
            name="ingest_rss_per_agent_kib",
            value=held,
            unit="KiB/agent",
            bound=bare,
            bound_is="the bound is the same of a bare mutual-TLS stream that stores nothing",
            ratio=held / bare,
            target=150,
            judged="value",
            better="lower",
            note=f"growth from {AGENTS_FEW} to {agents} agents",
        )
    ]


def _rounds(load: Load, pid: int, context: Context, what: str, ed25519: list[float]) -> _Cost:
    """The rounds, each between two measurements of what bounds it; adds these to `ed25519`."""
    load.order("send", hosts=HOSTS, windows=WARM, flight=FLIGHT)
    ed25519.append(_ed25519_us())
    costs = []
    for number in range(ROUNDS):
        context.say(f"{what}: round {number + 1} of {ROUNDS}, {HOSTS * WINDOWS} windows")
        costs.append(_round(load, pid, WINDOWS, flight=FLIGHT))
        ed25519.append(_ed25519_us())
    return min(costs, key=lambda cost: cost.cpu_us)


def _round(load: Load, pid: int, windows: int, *, flight: int) -> _Cost:
    before_s = processes.cpu_s(pid)
    done, seconds = load.order("send", hosts=HOSTS, windows=windows, flight=flight)
    used_s = processes.cpu_s(pid) - before_s
    if done != HOSTS * windows:
        raise MeasurementFailed(f"{done} of {HOSTS * windows} windows were acknowledged")
    return _Cost(used_s / done * 1e6, done / seconds)


def _follow_us(valuer: Valuer, windows: int) -> float:
    """CPU of taking one stored window into the book: a start that has them all to take, less one
    that has none.
    """
    used_s = []
    for _ in range(2):
        with valuer.running() as process:
            deadline = time.monotonic() + FOLLOW_MAX_S
            while valuer.followed() < windows:
                processes.alive(process, valuer.log)
                if time.monotonic() > deadline:
                    raise MeasurementFailed("the book does not follow the ledger")
                time.sleep(0.2)
            time.sleep(SETTLE_S)
            used_s.append(processes.cpu_s(process.pid))
    return (used_s[0] - used_s[1]) / windows * 1e6


def _ed25519_us() -> float:
    """CPU of one verification of a window's signature, microseconds."""
    sealed = FakeHost(seed=1).seal()
    key: PublicKey = FakeHost(seed=1).signer.public_key
    payload, signature = sealed.envelope.payload, sealed.envelope.signatures[0].sig
    began_ns = time.thread_time_ns()
    for _ in range(VERIFICATIONS):
        if not key.verifies(signature, WINDOW_TYPE, payload):
            raise MeasurementFailed("a good signature did not verify")
    return (time.thread_time_ns() - began_ns) / VERIFICATIONS / 1e3


def _rss(path: Path, port: int, pid: int, folder: Path) -> float:
    """KiB for each of `AGENTS_MORE` agents, beyond the first `AGENTS_FEW`."""
    with Load(path, port, folder / "load.log") as load:
        held, connected = [], 0
        for count in (AGENTS_FEW, AGENTS_MORE):
            load.order("connect", count=count)
            connected += count
            load.order("send", hosts=connected, windows=1, flight=1)
            time.sleep(SETTLE_S)
            held.append(processes.rss_kib(pid))
    return (held[1] - held[0]) / AGENTS_MORE


CPU: Final = Measurement(
    ("ingest_cpu_ratio", "ingest_cpu_vs_prometheus"),
    "the valuer's CPU for each window of 8 GPUs, verified, stored and acknowledged",
    measure_cpu,
)
RSS: Final = Measurement(
    ("ingest_rss_per_agent_kib",), "the valuer's memory for each connected agent", measure_rss
)
