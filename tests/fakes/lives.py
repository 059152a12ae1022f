"""Lives of hosts with TPMs and devices, through a real store and pipeline, by clocks passed in.

Hosts enrol by tokens, seal windows that go through core's door, answer challenges, and people sign
events. After every step the ledger is held to its invariants; `books.tick` also starts the valuer
anew and asks that it comes to the same book. What people had to do is counted in `people`.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import shutil
import sqlite3
import uuid
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection, insert

from assay_core import asset_events
from assay_core.asset_events import AssetEvent, Inspection, Kind, Subject
from assay_core.errors import Refusal, Refused
from assay_core.evidence import bundle
from assay_core.evidence.sealed import SealedEvidence
from assay_core.money import Usd
from assay_core.seal import ASSET_EVENT_TYPE, Ed25519Signer, Envelope, Sealed, Signer, sign_envelope
from assay_core.signatories import Role
from assay_core.verify import AlreadyStored, Chain, Policy, verify, verify_gap
from assay_proto.v1 import attestation_pb2 as stream_pb
from assay_valuer.book import Book, Line
from assay_valuer.ca import create_authority, load_authority, write_secret
from assay_valuer.credit.loan_reading import read_loan
from assay_valuer.credit.position import Position
from assay_valuer.enrolment import EnrollStatement, Registrar, Secrets, enroll
from assay_valuer.events import Proposal, propose
from assay_valuer.hosts import Host, find_host
from assay_valuer.ledger.append import (
    Run,
    append_evidence,
    append_fork,
    append_record,
    append_runs,
    to_json,
)
from assay_valuer.ledger.read import chain_entries
from assay_valuer.parties import Party, add_party
from assay_valuer.policy import ValuerPolicy
from assay_valuer.registry import import_loan
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.schema import OCSP
from assay_valuer.tokens import Terms, create_token
from assay_valuer.tpms import Binding, Tpms
from tests.fakes import nvidia, proving
from tests.fakes.books import DAY_MS, FakeBooks
from tests.fakes.chassis import GPU_MAKER, Machine, new_tpm, trusting
from tests.fakes.collateral import PART, PRICES, loan_text
from tests.fakes.door import read_token
from tests.fakes.host import START_MS, FakeHost
from tests.fakes.tpm import FakeTpm, TpmSigner

EARLY_PRICES = PRICES.replace("2026-11-01", "2026-09-01")
NOLV = 11_126_752_875
"""What one GPU nets, micro-dollars: 22,000.50 × .85 × .85 × .70, from `PRICES` and the default policy.
The first of the two factors is for a baseboard that is not whole: an SXM board has 4 or 8."""
BEGAN_MS = START_MS - 90 * DAY_MS


class Lives(FakeBooks):
    """The store, people with keys, and hosts."""

    def __init__(
        self,
        folder: Path,
        policy: ValuerPolicy | None = None,
        *,
        served: Sequence[tuple[int, int]] = ((BEGAN_MS, START_MS + 180 * DAY_MS),),
    ) -> None:
        super().__init__(folder, policy or trusting())
        certificate, key = create_authority("test authority", START_MS - DAY_MS)
        write_secret(folder / "ca.pem", certificate)
        write_secret(folder / "ca.key", key)
        authority = load_authority(folder / "ca.pem", folder / "ca.key")
        self.registrar = Registrar(
            authority,
            self.key,
            "assay.test",
            7 * DAY_MS,
            Tpms(self.policy.evidence.simulated_tpm_roots),
        )
        for span in served:
            self.serve(*span)
        self.prices(EARLY_PRICES)
        self.people = 0
        self.keys: dict[str, Ed25519Signer] = {}
        for name, role in (
            ("lena", Role.LENDER),
            ("luis", Role.LENDER),
            ("olga", Role.OPERATOR),
            ("kurt", Role.CUSTODIAN),
        ):
            self.keys[name] = Ed25519Signer(Ed25519PrivateKey.generate())
            party = Party(name, role, self.keys[name].public_key, (), START_MS, None)
            self.database.write(partial(add_party, party=party, signer=self.key, now_ms=START_MS))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.check()
        self.close()

    # ------------------------------------------------------------------ hosts

    def token(self, machine: Machine | None = None, *, site: str = "lab", hosts: int = 1) -> str:
        """What a person makes: for hosts of a site, or one host anew."""
        self.people += 1
        now_ms = START_MS if machine is None else machine.now_ms
        named = None if machine is None else machine.id
        terms = Terms(site, hosts, now_ms + 30 * DAY_MS, named)
        return self.database.write(
            lambda c: create_token(
                c,
                terms,
                endpoint="127.0.0.1:1",
                authority_pem=self.registrar.authority.certificate_pem,
                signer=self.key,
                now_ms=now_ms,
            )
        )

    def machine(
        self,
        seed: int = 7,
        *,
        gpus: int = 2,
        tpm: FakeTpm | bool = True,
        devices: bool = False,
        site: str = "lab",
        token: str | None = None,
    ) -> Machine:
        """An enrolled host."""
        host = FakeHost(seed=seed, gpu_count=gpus)
        chip = (new_tpm() if tpm else None) if isinstance(tpm, bool) else tpm
        fitted = [GPU_MAKER.device(seed << 32 | at) for at in range(gpus)] if devices else []
        made = Machine(host, chip, fitted, site)
        self.enrol_with(made, token or self.token(site=site))
        return made

    def enrol_with(self, machine: Machine, token: str) -> None:
        """Enrols with a new key, in its TPM where it has one: for the first time or anew."""
        host, tpm = machine.host, machine.tpm
        named = read_token(token)
        binding, activation = None, b""
        signer: Signer
        if tpm is None:
            signer = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(host.random.randbytes(32)))
        else:
            key = tpm.signing_key()
            signer = TpmSigner(key)
            binding = Binding(tuple(tpm.certificates), tpm.ak.public, key.public, *tpm.certify(key))
            held = self.registrar.tpms.activate(tpm.certificates, tpm.ak.public, machine.now_ms)
            activation = tpm.open(held.blob, held.secret)
        csr = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .sign(machine.tls_key, hashes.SHA256())
            .public_bytes(Encoding.DER)
        )
        statement = EnrollStatement(named.id, csr, signer.public_key, "0.1.0", binding)
        padded = named.secret + "=" * (-len(named.secret) % 4)
        secrets = Secrets(base64.urlsafe_b64decode(padded), activation)
        enrolled = self.database.write(
            lambda c: enroll(c, self.registrar, statement, secrets, machine.now_ms)
        )
        host.host_id, host.signer = enrolled.host_id, signer
        host.incarnation, host.sequence = enrolled.incarnation, 0
        host.previous = enrolled.first_previous_hash
        self.check()

    def found(self, machine: Machine) -> Host:
        one = self.database.read(lambda c: find_host(c, machine.id))
        assert one is not None
        return one

    # ------------------------------------------------------------------ what hosts send

    def show(
        self,
        *machines: Machine,
        times: int = 1,
        lost: Sequence[int] = (),
        broken: Sequence[int] = (),
        identity: bool | None = None,
        late_ms: int = 0,
    ) -> None:
        """Each machine's next windows, in turns."""
        for _ in range(times):
            for one in machines:
                contents = one.contents(identity=identity, lost=lost, broken=broken)
                self.send(one, one.host.seal(contents=contents), one.now_ms + late_ms)

    def send(
        self,
        machine: Machine,
        sealed: Sealed,
        now_ms: int | None = None,
        *,
        check: bool = True,
    ) -> Refusal | None:
        """As ingest does it: through the one door; of a fork the second is kept. What was refused."""
        host = self.found(machine)
        now = machine.now_ms if now_ms is None else now_ms

        def at(connection, sequence):
            stands = chain_entries(connection, host.key, host.trust.incarnation, sequence)
            return next((hash_ for _, _, hash_, _ in stands), None)

        def job(connection) -> Refusal | None:
            try:
                window = verify(
                    sealed,
                    trust=host.trust,
                    chain=Chain(host.head, lambda n: at(connection, n)),
                    policy=Policy(self.sources),
                    challenges={},
                    now_ms=now,
                )
            except AlreadyStored:
                return None
            except Refused as refused:
                if refused.reason is Refusal.FORK and refused.sequence is not None:
                    append_fork(
                        connection,
                        sealed,
                        host_key=host.key,
                        incarnation=host.trust.incarnation,
                        sequence=refused.sequence,
                        now_ms=now,
                    )
                return refused.reason
            append_runs(connection, [Run(host.key, host.head, [window])])
            return None

        refused = self.database.write(job)
        if check:
            self.check()
        return refused

    def backfill(self, machine: Machine, sealed: Sequence[Sealed], now_ms: int) -> None:
        """What a host kept while its line was cut, all at once."""
        assert {self.send(machine, one, now_ms, check=False) for one in sealed} == {None}
        self.check()

    def backup(self) -> Path:
        """A copy of the store as it is."""
        copy = self.folder / f"backup-{uuid.uuid4()}.db"
        with contextlib.closing(sqlite3.connect(self.folder / "valuer.db")) as source:
            source.execute("VACUUM INTO ?", (str(copy),))
        return copy

    def restore(self, copy: Path) -> None:
        """The store as it was when the copy was made, and a valuer that starts on it."""
        self.close()
        for name in ("valuer.db", "valuer.db-wal", "valuer.db-shm"):
            (self.folder / name).unlink(missing_ok=True)
        shutil.copy(copy, self.folder / "valuer.db")
        self.database = Database(sqlite_url(str(self.folder / "valuer.db")))
        self.restarted()
        self.check()

    def declare(self, machine: Machine, windows: int) -> None:
        """What a full spool dropped."""
        envelope = machine.host.gap(windows)
        host = self.found(machine)

        def job(connection) -> None:
            gap = verify_gap(
                envelope,
                trust=host.trust,
                chain=Chain(host.head, lambda _: None),
                now_ms=machine.now_ms,
            )
            append_runs(connection, [Run(host.key, host.head, [gap])])

        self.database.write(job)
        self.check()

    def ask(self, machine: Machine, *, asked_ms: int | None = None) -> bundle.Asked:
        """A challenge of now."""
        sent = machine.now_ms if asked_ms is None else asked_ms
        pcrs = self.policy.evidence.pcrs if machine.tpm is not None else ()
        head = self.found(machine).head
        nonce = hashlib.sha256(uuid.uuid4().bytes).digest()
        late = sent + self.policy.evidence.answer_within_s * 1_000
        devices = bool(machine.devices)
        sequence = None if head is None else head.sequence
        return bundle.Asked(nonce, sent, late, pcrs, devices, sequence)

    def answer(self, machine: Machine, asked: bundle.Asked, **changed: object) -> SealedEvidence:
        """The machine's honest answer, but for what is changed."""
        challenge = stream_pb.EvidenceChallenge(nonce=asked.nonce, pcrs=asked.pcrs)
        given = {"tpm": machine.tpm, "devices": machine.devices} | changed
        return proving.answer(machine.host, challenge, **given)  # type: ignore[arg-type]  # test data

    def take_answer(
        self,
        machine: Machine,
        asked: bundle.Asked,
        sealed: SealedEvidence,
        received_ms: int | None = None,
    ) -> bundle.Proven:
        """As ingest judges an answer and keeps it. Raises EvidenceRefused."""
        host = self.found(machine)
        now = machine.now_ms + 1_000 if received_ms is None else received_ms
        statement, _ = bundle.read(sealed, host.evidence_keys)
        head = None if host.head is None else host.head.hash
        bundle.admit(statement, asked, head, self.sources, now)
        roots = frozenset(self.policy.evidence.device_roots)
        proven = bundle.prove(sealed, host.evidence_keys, now_ms=now, roots=roots)
        self.database.write(
            lambda c: append_evidence(
                c,
                sealed,
                host_key=host.key,
                incarnation=host.trust.incarnation,
                sequence=statement.sequence,
                asked_ms=asked.sent_ms,
                now_ms=now,
            )
        )
        self.check()
        return proven

    def prove(self, *machines: Machine) -> None:
        """Each machine is challenged now and answers."""
        for one in machines:
            asked = self.ask(one)
            self.take_answer(one, asked, self.answer(one, asked))

    def live(self, *machines: Machine) -> None:
        """Each shows its GPUs and proves itself."""
        for one in machines:
            self.show(one)
            self.prove(one)

    def ocsp(self, device: nvidia.Device, status: str, now_ms: int) -> None:
        """What was answered about all certificates of a device, as the asker keeps it."""
        for certificate in device.chain[1:-1]:
            self.answered(certificate, status, now_ms)

    def answered(self, certificate: x509.Certificate, status: str, now_ms: int) -> None:
        """What was answered about a certificate: good, revoked or unknown."""
        name = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()

        def job(connection: Connection) -> None:
            connection.execute(OCSP.delete().where(OCSP.c.certificate_sha256 == name))
            connection.execute(
                insert(OCSP).values(
                    certificate_sha256=name,
                    identity="",
                    status=status,
                    this_update_ms=now_ms,
                    next_update_ms=now_ms + DAY_MS,
                    checked_ms=now_ms,
                    response=b"",
                )
            )
            told = to_json({"certificate_sha256": name, "status": status})
            append_record(connection, "ocsp", told, self.key, now_ms)

        self.database.write(job)
        self.check()

    # ------------------------------------------------------------------ what people do

    def sign(
        self,
        kind: str,
        *serials: str,
        now_ms: int,
        by: Sequence[str] = ("olga", "lena"),
        days: float = 1,
        **fields: object,
    ) -> Proposal:
        """An event that these people signed: one human action, however many they are."""
        self.people += 1
        window: dict[str, object] = {}
        if Kind(kind) in asset_events.TRANSITIONS:
            window = {"begin_ms": now_ms, "until_ms": now_ms + int(days * DAY_MS)}
        named: dict[str, object] = {
            "kind": Kind(kind),
            "nonce": str(uuid.uuid4()),
            "why": "a test",
            "assets": tuple(subject(one) for one in sorted(serials)),
        }
        event = AssetEvent(**(named | window | fields))  # type: ignore[arg-type]  # test data
        payload = asset_events.encode(event)
        signatures = tuple(
            sign_envelope(ASSET_EVENT_TYPE, payload, self.keys[one]).signatures[0] for one in by
        )
        envelope = Envelope(payload, ASSET_EVENT_TYPE, signatures)
        done = self.database.write(
            lambda c: propose(c, envelope, policy=self.policy, signer=self.key, now_ms=now_ms)
        )
        self.check()
        return done

    def inspect(self, *serials: str, now_ms: int, days: int = 100) -> Proposal:
        """The custodian looked at them."""
        inspection = Inspection(
            inspector="Kurt",
            inspected_ms=now_ms,
            document_sha256="ab" * 32,
            valid_until_ms=now_ms + days * DAY_MS,
        )
        return self.sign(
            "custody", *serials, now_ms=now_ms, by=("kurt", "lena"), inspection=inspection
        )

    # A thousand dollars are owed, and nothing is due for years: what a loan shows is its GPUs.
    def lend(self, *serials: str, loan_id: str = "loan-1", token_id: int = 7, reserve: str = ""):
        """A loan on these; `reserve`: "site: x" or "host: x", who alone may show them."""
        text = loan_text(
            list(serials),
            loan_id=loan_id,
            token_id=token_id,
            originated_at="2026-09-01T00:00:00Z",
            amount=10_000_000_000,
            payments='[{at: "2026-09-02T00:00:00Z", amount: 9000000000}]',
            extra=f"{reserve}\n" if reserve else "",
        )
        loan = read_loan(text, "loan.yaml")
        return self.database.write(lambda c: import_loan(c, loan, "loan.yaml", self.key, START_MS))

    # ------------------------------------------------------------------ what comes of it

    def tick(self, now_ms: int) -> Book:
        """The book, and the same once more from a valuer that starts anew on the store."""
        book = super().tick(now_ms)
        again = self.restarted().tick(now_ms)
        self.check()
        assert again.lines == book.lines
        assert again.positions == book.positions
        assert again.proofs == book.proofs
        return again

    def line(self, serial: str, now_ms: int) -> Line:
        (found,) = [one for one in self.tick(now_ms).lines.values() if one.asset.serial == serial]
        return found

    @property
    def lending(self) -> Usd:
        """What one GPU is lent on for in the newest book, before assurance: the same for all of them."""
        book = self.pipeline.book
        lines = () if book is None else book.lines.values()
        (one,) = {line.valuation.lending for line in lines if line.loan_id and line.counted}
        if one is None or one >= Usd(NOLV):
            raise AssertionError(f"lent on {one}, which is no low quantile of what nets {NOLV}")
        return one

    def position(self, now_ms: int, loan_id: str = "loan-1") -> Position:
        return self.tick(now_ms).positions[loan_id]


def frozen(book: Book) -> set[str]:
    """What is frozen, and for what."""
    hosts = {
        f"{book.hosts[key].host_id}: {one.code}"
        for key, proofs in book.proofs.items()
        for one in proofs.freezes
    }
    return hosts | {
        f"{line.asset.label}: {one.code}"
        for line in book.lines.values()
        for one in line.asset.trust.freezes
    }


def subject(serial: str) -> Subject:
    return Subject(serial=serial, board_part_number=PART)
