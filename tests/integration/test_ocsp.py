"""Asking whether devices' certificates were revoked, of a responder that truly listens."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as library
from prometheus_client import CollectorRegistry
from sqlalchemy import insert, select, update

from assay_core.errors import FileError
from assay_core.evidence import sealed as sealed_evidence
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import Statement
from assay_core.header import Source
from assay_valuer.config import OcspConfig, ValuerConfig, paths
from assay_valuer.ledger.append import append_evidence
from assay_valuer.ledger.read import followed_from
from assay_valuer.ocsp import RETRY_MS, HttpResponder, Inquiry, ask_about_revocations
from assay_valuer.policy import Evidence
from assay_valuer.service import ServiceContext
from assay_valuer.standing.trust import AssetTrust, DeviceProof
from assay_valuer.state import State
from assay_valuer.store.schema import ASSET, OCSP
from tests.fakes import ocsp as fake
from tests.fakes.door import FakeClock, new_authority
from tests.fakes.endorsing import Issuer
from tests.fakes.host import FakeHost
from tests.fakes.ledger import FakeLedger
from tests.fakes.nvidia import Device, Maker

HOUR_MS = 3_600_000
POLICY = Evidence()


class FakeResponder:
    """Answers by HTTP for the certificates of one chain; a test sets how."""

    def __init__(self, device: Device) -> None:
        chain = device.chain
        self.pairs = {one.serial_number: (one, issuer) for one, issuer in itertools.pairwise(chain)}
        maker = device.maker
        keys = {a.certificate: a.key for a in (maker.root, maker.identity, maker.provisioner)}
        self.keys: Callable[[x509.Certificate], object] = lambda issuer: keys[issuer]
        self.status: dict[int, library.OCSPCertStatus] = {}
        self.wrong: str = ""
        self.asked: list[int] = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                owner.serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        assert handler.headers["Content-Type"] == "application/ocsp-request"
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        asked = library.load_der_ocsp_request(body)
        self.asked.append(asked.serial_number)
        if self.wrong == "status":
            handler.send_error(503)
            return
        if self.wrong == "redirect" and handler.path != "/elsewhere":
            handler.send_response(307)  # which asks for the same question there
            handler.send_header("Location", self.url + "elsewhere")
            handler.end_headers()
            return
        answer = self.answer(asked)
        if self.wrong == "long":
            answer += bytes(70_000)
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(answer)))
        handler.end_headers()
        handler.wfile.write(answer)

    def answer(self, asked: library.OCSPRequest) -> bytes:
        certificate, issuer = self.pairs[asked.serial_number]
        nonce = asked.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
        signer = fake.delegate(Issuer(self.keys(issuer), issuer))  # type: ignore[arg-type]
        return fake.Answerer(
            certificate,
            issuer,
            signer,
            time.time_ns() // 1_000_000,
            status=self.status.get(asked.serial_number, fake.GOOD),
            nonce=bytes(32) if self.wrong == "nonce" else nonce,
            age_ms=2 * 24 * HOUR_MS if self.wrong == "old" else 60_000,
        ).answer()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


class World:
    """A ledger with one proven GPU, and who asks about it."""

    def __init__(self, folder: Path) -> None:
        self.now_ms = time.time_ns() // 1_000_000
        self.folder = folder
        self.ledger = FakeLedger(folder)
        self.device = Maker().device(7)
        self.responder = FakeResponder(self.device)
        self.registry = CollectorRegistry()
        self.http = HttpResponder(self.responder.url)
        self.inquiry = Inquiry(
            self.ledger.database, self.http, POLICY, self.ledger.signer, self.registry
        )
        self.names = tuple(
            hashlib.sha256(one.public_bytes(Encoding.DER)).hexdigest()
            for one in self.device.chain[1:-1]
        )
        self.prove()

    def prove(self) -> None:
        host = FakeHost()
        key = self.ledger.add(host)
        pem = b"".join(one.public_bytes(Encoding.PEM) for one in self.device.chain)
        blobs = (b"not a chain", b"nor this", b"its report", pem)
        statement = Statement(
            host_id=host.host_id,
            incarnation=0,
            challenge=bytes(32),
            sequence=0,
            header_hash=bytes(32),
            collected_ms=self.now_ms,
            source=Source.NVML,
            devices=tuple(
                sealed_evidence.device(Origin.IN_BAND_NVML, *blobs[at : at + 2]) for at in (0, 2)
            ),
            devices_absent="",
            quote=None,
        )
        sealed = sealed_evidence.seal(statement, blobs, host.signer)
        position = self.ledger.database.write(
            lambda c: append_evidence(
                c, sealed, host_key=key, incarnation=0, sequence=0,
                asked_ms=self.now_ms, now_ms=self.now_ms,
            )
        )  # fmt: skip
        proof = DeviceProof(
            at_ms=self.now_ms, position=position, host_key=key, chip="GH100", driver=None,
            vbios=None, feature=None, origin="in_band_nvml", certificates=self.names, whole=False,
            simulated=True,
        )  # fmt: skip
        trust = msgspec.json.encode(AssetTrust(proof=proof)).decode()
        self.ledger.database.write(
            lambda c: c.execute(insert(ASSET).values(identity="ab" * 32, trust=trust))
        )

    def look(self, after_ms: int = 0) -> None:
        self.inquiry.look(self.now_ms + after_ms)

    def rows(self) -> dict[str, str]:
        found = self.ledger.database.read(lambda c: c.execute(select(OCSP)).all())
        return {row.certificate_sha256: row.status for row in found}

    def records(self) -> list[dict]:
        found = self.ledger.database.read(lambda c: followed_from(c, 1))
        return [json.loads(entry.payload) for entry in found]

    def count(self, answer: str) -> float:
        return self.registry.get_sample_value("assay_ocsp_answers_total", {"answer": answer}) or 0.0


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.ledger.check()
    world.http.close()
    world.responder.stop()
    world.ledger.close()


def test_every_certificate_from_the_identity_key_upwards_is_asked_about_once(world: World) -> None:
    world.look()
    assert world.rows() == dict.fromkeys(world.names, "good")
    assert world.responder.asked == [one.serial_number for one in world.device.chain[1:-1]]
    assert [(r["certificate_sha256"], r["status"], r["before"]) for r in world.records()] == [
        (name, "good", "") for name in world.names
    ]
    world.look()
    assert len(world.responder.asked) == len(world.names)  # the answers are young
    assert world.count("good") == len(world.names)


def test_answers_are_renewed_at_half_their_time_and_only_changes_are_recorded(world: World) -> None:
    world.look()
    world.look(after_ms=13 * HOUR_MS)
    assert len(world.responder.asked) == 2 * len(world.names)
    assert len(world.records()) == len(world.names)


def test_a_revocation_is_kept_and_recorded(world: World) -> None:
    world.look()
    world.responder.status[world.device.ik.certificate.serial_number] = fake.REVOKED
    world.look(after_ms=13 * HOUR_MS)
    assert world.rows()[world.names[0]] == "revoked"
    last = world.records()[-1]
    assert (last["certificate_sha256"], last["identity"]) == (world.names[0], "ab" * 32)
    assert (last["before"], last["status"]) == ("good", "revoked")
    assert last["revoked_ms"] is not None
    assert world.count("revoked") == 1


@pytest.mark.parametrize("wrong", ["status", "redirect", "long", "nonce", "old"])
def test_what_fails_is_ours_and_leaves_the_last_answer_to_age(world: World, wrong: str) -> None:
    world.look()
    before = world.rows()
    world.responder.wrong = wrong
    asked = len(world.responder.asked)
    world.look(after_ms=13 * HOUR_MS)
    assert world.rows() == before
    assert len(world.records()) == len(world.names)
    # Who does not answer at all is not asked on; who answers falsely is asked about each.
    failed = 1 if wrong in ("status", "redirect", "long") else len(world.names)
    assert world.count("failed") == failed
    assert len(world.responder.asked) == asked + failed
    world.responder.wrong = ""
    without = set(world.responder.asked[asked:])
    world.responder.asked.clear()
    world.look(after_ms=13 * HOUR_MS + RETRY_MS - 1)
    assert not without & {*world.responder.asked}
    world.look(after_ms=13 * HOUR_MS + RETRY_MS)
    assert without <= {*world.responder.asked}


def test_nobody_is_asked_about_a_device_that_has_proved_nothing_lately(world: World) -> None:
    lately_ms = POLICY.decayed_intervals * POLICY.device_interval_s * 1_000
    world.look(after_ms=lately_ms + 1)
    assert world.responder.asked == []


def test_evidence_that_is_not_there_is_not_asked_about(world: World) -> None:
    text = world.ledger.database.read(lambda c: c.execute(select(ASSET.c.trust)).scalar())
    moved = json.loads(text)
    moved["proof"]["position"] = 99
    world.ledger.database.write(lambda c: c.execute(update(ASSET).values(trust=json.dumps(moved))))
    world.look()
    assert world.responder.asked == []


@pytest.mark.parametrize("enabled", [True, False])
def test_the_service_asks_where_it_is_told_to(world: World, enabled: bool) -> None:
    """The task of the service, by the real clock, until it is stopped."""
    config = ValuerConfig(ocsp=OcspConfig(enabled=enabled, url=world.responder.url))
    authority = new_authority(world.folder)
    state = State(config, paths(config), world.ledger.database, world.ledger.signer, authority)
    context = ServiceContext(state, CollectorRegistry(), FakeClock())

    async def story() -> None:
        task = asyncio.create_task(ask_about_revocations(context))
        if enabled:
            while len(world.rows()) < len(world.names):  # noqa: ASYNC110 - a store has no event
                await asyncio.sleep(0.05)
            task.cancel()
        await asyncio.wait({task})

    asyncio.run(asyncio.wait_for(story(), 60))
    assert bool(world.responder.asked) is enabled


@pytest.mark.parametrize("url", ["http://ocsp.ndis.nvidia.com", "ftp://localhost", "nonsense"])
def test_only_tls_leaves_this_machine(url: str) -> None:
    with pytest.raises(FileError, match="https"):
        HttpResponder(url)
