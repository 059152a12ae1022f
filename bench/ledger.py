"""What a GPU's day takes on the valuer's disk: the store as a service would have written it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection, insert

from assay_core.header import Head
from assay_core.instants import DAY_MS
from assay_core.leaves import SALT_BYTES
from assay_core.verify import Chain, HostTrust, Policy, VerifiedWindow, verify
from assay_valuer.ledger.append import Run, append_runs
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.store.schema import HOST, SEALING_KEY
from bench.row import Context, Measurement, Row
from tests.fakes.host import FakeHost

TARGET_KB: Final = 60
HOSTS: Final = 4
GPUS: Final = 8
WINDOWS: Final = 432
"""A day and a half of windows of 5 min: enough for pages and indexes to fill as they do."""

_RANDOM_BYTES: Final = 64 + 32 + 32 + (2 * GPUS + 1) * SALT_BYTES
"""Of one window: signature, Merkle root, previous header's hash, and a salt for each leaf. They
are random, and nothing shrinks them."""


def measure(context: Context) -> Sequence[Row]:
    """Windows of `HOSTS` hosts, arriving in turn, each verified and appended; then the file."""
    path = context.folder / "valuer.db"
    hosts = [
        FakeHost(seed=one, gpu_count=GPUS, host_id=f"spiffe://assay.bench/site/lab/host/{one}")
        for one in range(HOSTS)
    ]
    database = Database(sqlite_url(str(path)))
    migrate(database)
    database.write(lambda connection: _enrol(connection, hosts))
    database.close()  # the last one out empties the write-ahead log into the file
    empty = path.stat().st_size
    heads: dict[int, Head | None] = dict.fromkeys(range(HOSTS))
    for window in range(WINDOWS):
        if window % 20 == 0:
            context.say(f"window {window} of {WINDOWS}, {HOSTS} hosts of {GPUS} GPUs")
        runs = []
        for key, host in enumerate(hosts):
            verified = _through_the_door(host, heads[key])
            runs.append(Run(key, heads[key], (verified,)))
            heads[key] = Head(verified.header.sequence, verified.hash)
        database.write(lambda connection, runs=runs: append_runs(connection, runs))  # type: ignore[misc]
    database.close()
    windows = HOSTS * WINDOWS
    gpu_days = windows * GPUS * hosts[0].window_ms / DAY_MS
    per_window = (path.stat().st_size - empty) / windows
    return [
        Row(
            name="ledger_kb_per_gpu_day",
            value=per_window * windows / gpu_days / 1_000,
            unit="kB/GPU/day",
            bound=_RANDOM_BYTES * windows / gpu_days / 1_000,
            bound_is="the bound is a window's random bytes (signature, hashes, salts) alone",
            ratio=per_window / _RANDOM_BYTES,
            target=TARGET_KB,
            judged="value",
            better="lower",
            note=f"{per_window:,.0f} bytes a window of {GPUS} GPUs in the file, indexes included",
        )
    ]


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


def _through_the_door(host: FakeHost, head: Head | None) -> VerifiedWindow:
    sealed = host.seal()
    return verify(
        sealed,
        trust=HostTrust(host.host_id, 0, (host.signer.public_key,)),
        chain=Chain(head, lambda _sequence: None),
        policy=Policy(),
        challenges={},
        now_ms=host.now_ms,
    )


SIZE: Final = Measurement(
    ("ledger_kb_per_gpu_day",), "bytes on disk per GPU and day at windows of 5 minutes", measure
)
