"""What a GPU's day takes on the valuer's disk: the store as a service would have written it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from sqlalchemy import Connection, insert

from assay_core.header import Head, Source
from assay_core.instants import DAY_MS
from assay_core.leaves import SALT_BYTES, Content
from assay_core.verify import Chain, HostTrust, Policy, VerifiedWindow, verify
from assay_valuer.ledger.append import Run, append_runs
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.store.schema import HOST, SEALING_KEY
from bench.row import Context, Measurement, Row
from bench.simulated_host import WINDOW_MS, SimulatedHost
from tests.fakes.host import START_MS, FakeHost

TARGET_KB: Final = 60
HOSTS: Final = 2
"""Of each kind."""
GPUS: Final = 8
WINDOWS: Final = 432
"""A day and a half of windows of 5 min: enough for pages and indexes to fill as they do."""
POLL_MS: Final = 30_000
"""The agent polls more often; a window's size does not depend on it."""

_RANDOM_BYTES: Final = 64 + 32 + 32 + (2 * GPUS + 1) * SALT_BYTES
"""Of one window: signature, Merkle root, previous header's hash, and a salt for each leaf. They
are random, and nothing shrinks them."""
_SCENARIO: Final = """
seed: {seed}
fleets:
  - {{profile: h100, count: 4, load: {{shape: training}}}}
  - {{profile: h100, count: 4, load: {{shape: burst}}}}
"""
Contents = Callable[[FakeHost], tuple[Content, ...]]


def measure(context: Context) -> Sequence[Row]:
    """Two ledgers: of readings drawn at random, and of the agent's own simulated hosts."""
    drawn = _bytes_per_window(context, "drawn", [_drawn_contents] * HOSTS)
    simulated = _bytes_per_window(
        context, "simulated", [_simulated_contents(seed) for seed in range(HOSTS)]
    )
    worst = max(drawn, simulated)
    to_kb = DAY_MS / WINDOW_MS / GPUS / 1_000
    return [
        Row(
            name="ledger_kb_per_gpu_day",
            value=worst * to_kb,
            unit="kB/GPU/day",
            bound=_RANDOM_BYTES * to_kb,
            bound_is="the bound is a window's random bytes (signature, hashes, salts) alone",
            ratio=worst / _RANDOM_BYTES,
            target=TARGET_KB,
            judged="value",
            better="lower",
            note=f"In the file, indexes included, a window of {GPUS} GPUs takes {drawn:,.0f} bytes "
            f"of readings drawn at random and {simulated:,.0f} of the agent's simulation; the "
            "larger counts",
        )
    ]


def _bytes_per_window(context: Context, kind: str, says: Sequence[Contents]) -> float:
    """Windows of hosts arriving in turn, each verified and appended; then the file's growth."""
    path = context.folder / f"{kind}.db"
    hosts = [
        FakeHost(
            seed=one,
            gpu_count=GPUS,
            host_id=f"spiffe://assay.bench/site/lab/host/{one}",
            source=Source.NVML if kind == "drawn" else Source.SIMULATED,
        )
        for one in range(len(says))
    ]
    database = Database(sqlite_url(str(path)))
    migrate(database)
    database.write(lambda connection: _enrol(connection, hosts))
    database.close()  # the last one out empties the write-ahead log into the file
    empty = path.stat().st_size
    heads: dict[int, Head | None] = dict.fromkeys(range(len(hosts)))
    for window in range(WINDOWS):
        if window % 20 == 0:
            context.say(f"{kind} readings: window {window} of {WINDOWS}")
        runs = []
        for key, host in enumerate(hosts):
            verified = _through_the_door(host, says[key](host), heads[key])
            runs.append(Run(key, heads[key], (verified,)))
            heads[key] = Head(verified.header.sequence, verified.hash)
        database.write(partial(append_runs, runs=runs))
    database.close()
    return (path.stat().st_size - empty) / (len(hosts) * WINDOWS)


def _drawn_contents(host: FakeHost) -> tuple[Content, ...]:
    """Readings drawn at random; what travels on change does so at the start and once a day."""
    return host.contents(identity=host.sequence % (DAY_MS // WINDOW_MS) == 0)


def _simulated_contents(seed: int) -> Contents:
    """The agent's simulation, in the host's own time."""
    simulated = SimulatedHost(
        _SCENARIO.format(seed=seed), start_ms=START_MS, boottime_ms=0, poll_ms=POLL_MS
    )
    return lambda _host: simulated.window().contents


def _enrol(connection: Connection, hosts: Sequence[FakeHost]) -> None:
    for key, host in enumerate(hosts):
        connection.execute(
            insert(HOST).values(
                key=key, host_id=host.host_id, site="lab", incarnation=0, enrolled_ms=host.now_ms
            )
        )
        public = host.signer.public_key
        connection.execute(
            insert(SEALING_KEY).values(
                fingerprint=public.fingerprint,
                host_key=key,
                incarnation=0,
                algorithm=public.algorithm,
                public_key=public.data,
                first_previous_hash=b"",
                enrolled_ms=host.now_ms,
            )
        )


def _through_the_door(
    host: FakeHost, contents: tuple[Content, ...], head: Head | None
) -> VerifiedWindow:
    sealed = host.seal(contents=contents)
    return verify(
        sealed,
        trust=HostTrust(host.host_id, 0, (host.signer.public_key,)),
        chain=Chain(head, lambda _sequence: None),
        policy=Policy(frozenset(Source)),
        challenges={},
        now_ms=host.now_ms,
    )


SIZE: Final = Measurement(
    ("ledger_kb_per_gpu_day",), "bytes on disk per GPU and day at windows of 5 minutes", measure
)
