"""A store with hosts, loans and parties, where asset events are proposed and signed."""

from __future__ import annotations

import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from assay_core import asset_events
from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.seal import ASSET_EVENT_TYPE, Ed25519Signer, Envelope, sign_envelope
from assay_core.signatories import Role, Verdict
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.events import (
    RECORD,
    DecidedEvent,
    Proposal,
    from_record,
    propose,
    propose_from_host,
    refuse,
    sign,
    withdraw,
)
from assay_valuer.events.draft import decide
from assay_valuer.hosts import find_host, revoke
from assay_valuer.ledger.read import entries_from
from assay_valuer.parties import Party, add_party, end_party
from assay_valuer.pledges import Pledge, expect, pledge_of
from assay_valuer.policy import ValuerPolicy
from assay_valuer.registry import Registered, import_loan
from assay_valuer.store.schema import ASSET, ASSET_EVENT, HOST
from tests.fakes.collateral import PART, loan_text
from tests.fakes.host import FakeHost
from tests.fakes.ledger import FakeLedger

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = 1_795_000_000_000


def new_key() -> Ed25519Signer:
    return Ed25519Signer(Ed25519PrivateKey.generate())


def gpu(serial: str) -> Subject:
    return Subject(serial=serial, board_part_number=PART)


def event(kind: str, *serials: str, now_ms: int = NOW, **fields: object) -> AssetEvent:
    """An event of this kind; in a window of a day where the kind has one, unless told."""
    kind = Kind(kind)
    window = {}
    if kind in asset_events.TRANSITIONS:
        window = {"begin_ms": now_ms, "until_ms": now_ms + DAY_MS}
    named = {"nonce": str(uuid.uuid4()), "why": "a test", "assets": tuple(map(gpu, serials))}
    return AssetEvent(kind=kind, **(named | window | fields))  # type: ignore[arg-type]  # test data


def envelope(of: AssetEvent, *keys: Ed25519Signer) -> Envelope:
    payload = asset_events.encode(of)
    signatures = [sign_envelope(ASSET_EVENT_TYPE, payload, key).signatures[0] for key in keys]
    return Envelope(payload, ASSET_EVENT_TYPE, tuple(signatures))


class FakeDesk:
    """Every act is a transaction, and the ledger is held to its invariants after it."""

    def __init__(self, folder: Path, policy: ValuerPolicy | None = None) -> None:
        self.ledger = FakeLedger(folder)
        self.policy = policy or ValuerPolicy()
        self.now = NOW
        self.hosts = 0
        self.alice = self.party("alice", "lender")
        self.bob = self.party("bob", "operator")

    def write(self, job):
        try:
            return self.ledger.database.write(job)
        finally:
            self.ledger.check()

    def party(self, name: str, role: str, *sites: str, key: Ed25519Signer | None = None):
        key = key or new_key()
        party = Party(name, Role(role), key.public_key, sites, self.now, None)
        self.write(lambda c: add_party(c, party, self.ledger.signer, self.now))
        return key

    def end(self, name: str) -> bool:
        return self.write(
            lambda c: end_party(c, name, why="gone", signer=self.ledger.signer, now_ms=self.now)
        )

    def host(self, name: str, site: str = "lab") -> FakeHost:
        self.hosts += 1
        host = FakeHost(seed=self.hosts, host_id=f"spiffe://assay.test/site/{site}/host/{name}")
        self.ledger.add(host)
        where = HOST.c.host_id == host.host_id
        self.write(lambda c: c.execute(update(HOST).where(where).values(site=site)))
        return host

    def revoke(self, host: FakeHost) -> None:
        self.write(
            lambda c: revoke(c, host.host_id, why="x", signer=self.ledger.signer, now_ms=self.now)
        )

    def shown(self, host: FakeHost, *serials: str) -> list[int]:
        """The GPUs as this host has shown them."""

        def job(connection):
            key = find_host(connection, host.host_id).key
            ids = [expect(connection, gpu(serial)) for serial in serials]
            for one in ids:
                seen = {"host_key": key, "first_seen_ms": NOW, "seen_ms": NOW}
                connection.execute(update(ASSET).where(ASSET.c.id == one).values(**seen))
            return ids

        return self.write(job)

    def loan(self, *serials: str, **changed: object) -> Registered:
        text = loan_text(list(serials), **changed)  # type: ignore[arg-type]  # test data
        return self.import_text(text)

    def import_text(self, text: str) -> Registered:
        loan = read_loan(text, "loan.yaml")
        return self.write(lambda c: import_loan(c, loan, "loan.yaml", self.ledger.signer, self.now))

    def pledge(self, serial: str) -> Pledge | None:
        return self.ledger.database.read(lambda c: pledge_of(c, self.asset(serial) or 0))

    def asset(self, serial: str) -> int | None:
        return self.ledger.database.read(
            lambda c: c.execute(select(ASSET.c.id).where(ASSET.c.serial == serial)).scalar()
        )

    def propose(self, of: AssetEvent, *keys: Ed25519Signer) -> Proposal:
        return self.propose_envelope(envelope(of, *keys))

    def propose_envelope(self, sealed: Envelope) -> Proposal:
        return self.write(
            lambda c: propose(
                c, sealed, policy=self.policy, signer=self.ledger.signer, now_ms=self.now
            )
        )

    def propose_from(self, host: FakeHost, of: AssetEvent, *keys: Ed25519Signer) -> Proposal:
        sealed = envelope(of, *(keys or (host.signer,)))

        def job(connection):
            known = find_host(connection, host.host_id)
            return propose_from_host(
                connection,
                sealed,
                known,
                policy=self.policy,
                signer=self.ledger.signer,
                now_ms=self.now,
            )

        return self.write(job)

    def sign(self, one: Proposal, key: Ed25519Signer) -> Proposal:
        signature = sign_envelope(ASSET_EVENT_TYPE, one.payload, key).signatures[0]
        return self.write(
            lambda c: sign(
                c,
                one.id,
                signature,
                policy=self.policy,
                signer=self.ledger.signer,
                now_ms=self.now,
            )
        )

    def refuse(self, one: Proposal, key: Ed25519Signer, of: Proposal | None = None) -> Proposal:
        word = decide((of or one).sha256, Verdict.REFUSED, "no", key)
        return self.write(
            lambda c: refuse(c, one.id, word, signer=self.ledger.signer, now_ms=self.now)
        )

    def withdraw(self, one: Proposal, key: Ed25519Signer) -> Proposal:
        word = decide(one.sha256, Verdict.WITHDRAWN, "never mind", key)
        return self.write(
            lambda c: withdraw(c, one.id, word, signer=self.ledger.signer, now_ms=self.now)
        )

    def fill(self, proposer: Proposal, count: int) -> None:
        """As many more open proposals of the same proposer."""

        def job(connection):
            row = connection.execute(
                select(ASSET_EVENT).where(ASSET_EVENT.c.id == proposer.id)
            ).one()
            for _ in range(count):
                again = dict(row._mapping) | {"payload_sha256": uuid.uuid4().bytes * 2}
                del again["id"]
                connection.execute(insert(ASSET_EVENT).values(**again))

        self.write(job)

    def records(self) -> list[DecidedEvent]:
        """The decided events, as the ledger has them."""
        return self.ledger.database.read(
            lambda c: [
                from_record(one.body.envelope.payload) for one in entries_from(c, 0, kind=RECORD)
            ]
        )

    def close(self) -> None:
        self.ledger.close()
