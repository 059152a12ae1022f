"""A valuer's store without its door: hosts are enrolled and windows verified and appended here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from assay_core.header import Head, Source
from assay_core.seal import Ed25519Signer, Sealed
from assay_core.verify import Chain, HostTrust, Policy, VerifiedWindow, verify
from assay_valuer.book import Book
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.ledger.append import Run, append_runs
from assay_valuer.ledger.check import check_ledger
from assay_valuer.market.prices import read_prices
from assay_valuer.pipeline import Pipeline
from assay_valuer.policy import ValuerPolicy
from assay_valuer.registry import Registered, import_loan, import_prices
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.store.schema import HOST, SEALING_KEY, UPTIME
from tests.fakes.collateral import PRICES, loan_text
from tests.fakes.host import START_MS, FakeHost

DAY_MS = 86_400_000


@dataclass
class FakeBooks:
    """A real store and pipeline. `check` holds the ledger to its invariants."""

    folder: Path
    policy: ValuerPolicy = field(default_factory=ValuerPolicy)
    sources: frozenset[Source] = frozenset({Source.NVML, Source.SIMULATED})

    def __post_init__(self) -> None:
        self.database = Database(sqlite_url(str(self.folder / "valuer.db")))
        migrate(self.database)
        self.key = Ed25519Signer(Ed25519PrivateKey.generate())
        self.pipeline = self.restarted()

    def restarted(self) -> Pipeline:
        """Another pipeline on the same store, as after a restart."""
        self.pipeline = Pipeline(self.database, self.key, self.policy)
        return self.pipeline

    def serve(self, begin_ms: int, end_ms: int) -> None:
        """Notes a span in which the valuer was up."""
        self.database.write(
            lambda c: c.execute(insert(UPTIME).values(begin_ms=begin_ms, end_ms=end_ms))
        )

    def enrol(self, host: FakeHost, site: str = "lab") -> None:
        def job(connection):
            key = connection.execute(
                insert(HOST).values(
                    host_id=host.host_id, site=site, incarnation=0, enrolled_ms=START_MS
                )
            ).inserted_primary_key[0]
            public = host.signer.public_key
            connection.execute(
                insert(SEALING_KEY).values(
                    fingerprint=public.fingerprint,
                    host_key=key,
                    incarnation=0,
                    algorithm=public.algorithm,
                    public_key=public.data,
                    first_previous_hash=b"",
                    enrolled_ms=START_MS,
                )
            )

        self.database.write(job)

    def take(self, host: FakeHost, sealed: Sealed, received_ms: int | None = None) -> None:
        """Through core's door and into the ledger, as the valuer's own ingest does it."""

        def job(connection):
            row = connection.execute(select(HOST).where(HOST.c.host_id == host.host_id)).one()
            head = None if row.head_hash is None else Head(row.head_sequence, row.head_hash)
            window: VerifiedWindow = verify(
                sealed,
                trust=HostTrust(host.host_id, 0, (host.signer.public_key,)),
                chain=Chain(head, lambda _: None),
                policy=Policy(self.sources),
                challenges={},
                now_ms=host.now_ms if received_ms is None else received_ms,
            )
            append_runs(connection, [Run(row.key, head, [window])])

        self.database.write(job)

    def revoke(self, host: FakeHost) -> None:
        where = HOST.c.host_id == host.host_id
        self.database.write(lambda c: c.execute(update(HOST).where(where).values(revoked_ms=1)))

    def prices(self, text: str = PRICES, now_ms: int = START_MS) -> None:
        table = read_prices(text, "prices.csv")
        self.database.write(lambda c: import_prices(c, table, self.key, now_ms))

    def loan(self, serials: list[str], now_ms: int = START_MS, **changed: object) -> Registered:
        loan = read_loan(loan_text(serials, **changed), "loan.yaml")  # type: ignore[arg-type]  # test data
        return self.database.write(lambda c: import_loan(c, loan, "loan.yaml", self.key, now_ms))

    def tick(self, now_ms: int) -> Book:
        book = self.pipeline.tick(now_ms)
        self.check()
        return book

    def check(self) -> int:
        return self.database.read(lambda c: check_ledger(c, (self.key.public_key,)))

    def close(self) -> None:
        self.database.close()
