"""A ledger with hosts on it and nothing around it: no network, no enrolment calls."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, update

from assay_core.header import Head
from assay_core.seal import Ed25519Signer, Envelope, Sealed
from assay_core.verify import Chain, HostTrust, Policy, VerifiedGap, VerifiedWindow, verify
from assay_core.verify import verify_gap as core_verify_gap
from assay_valuer.hosts import Host, find_host
from assay_valuer.ledger.append import Run, append_runs
from assay_valuer.ledger.check import check_ledger
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.store.schema import HOST, SEALING_KEY
from tests.fakes.host import FakeHost


class FakeLedger:
    """A real store; hosts are put into its registry by hand."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(sqlite_url(str(folder / "valuer.db")))
        migrate(self.database)
        self.signer = Ed25519Signer(Ed25519PrivateKey.generate())

    def add(self, host: FakeHost) -> int:
        def write(connection) -> int:
            result = connection.execute(
                insert(HOST).values(host_id=host.host_id, site="lab", incarnation=0, enrolled_ms=1)
            )
            self._key(connection, result.inserted_primary_key[0], host)
            return result.inserted_primary_key[0]

        return self.database.write(write)

    def reinstall(self, key: int, host: FakeHost) -> None:
        """The host's next incarnation, from its old head."""

        def write(connection) -> None:
            known = find_host(connection, host.host_id)
            assert known is not None
            head = known.head
            host.reinstall(host.incarnation + 1, b"" if head is None else head.hash)
            connection.execute(
                update(HOST)
                .where(HOST.c.key == key)
                .values(incarnation=host.incarnation, head_sequence=None, head_hash=None)
            )
            self._key(connection, key, host)

        self.database.write(write)

    def host(self, host: FakeHost) -> Host:
        found = self.database.read(lambda c: find_host(c, host.host_id))
        assert found is not None
        return found

    def verify(self, host: FakeHost, sealed: Sealed, after: Head | None) -> VerifiedWindow:
        return verify(
            sealed,
            trust=self._trust(host),
            chain=Chain(after, lambda _: None),
            policy=Policy(),
            challenges={},
            now_ms=host.now_ms + host.window_ms,
        )

    def verify_gap(self, host: FakeHost, envelope: Envelope, after: Head | None) -> VerifiedGap:
        return core_verify_gap(
            envelope,
            trust=self._trust(host),
            chain=Chain(after, lambda _: None),
            now_ms=host.now_ms + host.window_ms,
        )

    def append(self, *runs: Run) -> list[list[int]]:
        return self.database.write(lambda c: append_runs(c, runs))

    def check(self) -> int:
        return self.database.read(lambda c: check_ledger(c, (self.signer.public_key,)))

    def close(self) -> None:
        self.database.close()

    def _trust(self, host: FakeHost) -> HostTrust:
        return self.host(host).trust

    @staticmethod
    def _key(connection, key: int, host: FakeHost) -> None:
        public = host.signer.public_key
        connection.execute(
            insert(SEALING_KEY).values(
                fingerprint=public.fingerprint,
                host_key=key,
                incarnation=host.incarnation,
                algorithm=public.algorithm,
                public_key=public.data,
                first_previous_hash=host.previous,
                enrolled_ms=1,
            )
        )
