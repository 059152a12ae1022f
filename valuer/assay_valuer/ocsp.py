"""Whether the certificates of devices that prove themselves were revoked: asked before it is too late.

Off unless the configuration says otherwise: without it no GPU is above L1, unless policy waives the
question. Only the responder that the configuration names is ever asked. Whatever fails here is ours
or the network's: an answer that does not come, or does not hold, leaves the last one to grow old.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection, delete, insert, select

from assay_core.errors import FileError, ServiceError
from assay_core.evidence import chain, ocsp
from assay_core.instants import MINUTE_MS
from assay_core.seal import Signer
from assay_valuer.config import is_loopback, is_safe_url
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.ledger.read import evidence_at
from assay_valuer.policy import Evidence, ms
from assay_valuer.service import ServiceContext
from assay_valuer.standing.trust import AssetTrust, DeviceProof
from assay_valuer.store.database import Database
from assay_valuer.store.schema import ASSET, OCSP

_log = structlog.get_logger(__name__)

LOOK_S: Final = 60.0
"""How often it is looked for certificates whose answers grow old."""
RETRY_MS: Final = 10 * MINUTE_MS
"""How long a certificate that got no answer is left alone."""
QUESTIONS_MAX: Final = 200
"""Most that are asked at one look."""
NONCE_BYTES: Final = 32
_TIMEOUT_S: Final = 10.0
_ANSWER_S: Final = 20.0


class OcspUnavailable(ServiceError):
    """The responder could not be asked. Nobody's collateral suffers for it but by age."""


class Responder(Protocol):
    """Who answers."""

    def ask(self, request: bytes) -> bytes:
        """The answer to a request, both DER. Raises OcspUnavailable."""
        ...


class HttpResponder:
    """A responder by HTTP POST (RFC 6960 appendix A): TLS, no redirects, bounded. It blocks."""

    def __init__(self, url: str) -> None:
        """Raises FileError for a URL that is not https, but for this machine's own."""
        if not is_safe_url(url):
            raise FileError("ocsp.url: an https:// URL is needed")
        self._url = url
        self._host = urlsplit(url).hostname or ""
        # A proxy named in the environment is for the world outside, not for this machine.
        outside = not is_loopback(self._host)
        self._client = httpx.Client(
            timeout=_TIMEOUT_S, follow_redirects=False, trust_env=outside, http2=False
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def ask(self, request: bytes) -> bytes:
        """The answer to a request, both DER. Raises OcspUnavailable."""
        headers = {
            "Content-Type": "application/ocsp-request",
            "Accept": "application/ocsp-response",
            "Accept-Encoding": "identity",
        }
        received = bytearray()
        until_s = time.monotonic() + _ANSWER_S
        try:
            with self._client.stream("POST", self._url, content=request, headers=headers) as reply:
                if reply.status_code != httpx.codes.OK:
                    raise OcspUnavailable(f"{self._host}: HTTP status {reply.status_code}")
                for part in reply.iter_raw():
                    received += part
                    if len(received) > ocsp.RESPONSE_BYTES_MAX:
                        raise OcspUnavailable(f"{self._host}: the answer is too long")
                    if time.monotonic() > until_s:
                        raise OcspUnavailable(f"{self._host}: the answer does not end")
        except httpx.HTTPError as error:
            raise OcspUnavailable(f"{self._host}: no answer ({type(error).__name__})") from error
        return bytes(received)


@dataclass(frozen=True, slots=True)
class Question:
    """A certificate in a proven device's chain, by its SHA-256, and its issuer."""

    identity: str
    sha256: str
    certificate: x509.Certificate
    issuer: x509.Certificate


def due(connection: Connection, policy: Evidence, now_ms: int) -> list[Question]:
    """What to ask now: of devices proven lately, what has no answer, or one past half of its time."""
    answers = {row.certificate_sha256: row for row in connection.execute(select(OCSP))}
    lately_ms = now_ms - policy.decayed_intervals * ms(policy.device_interval_s)
    age_max_ms = ms(policy.ocsp_age_max_s)
    found: dict[str, Question] = {}
    rows = connection.execute(
        select(ASSET.c.identity, ASSET.c.trust).where(
            ASSET.c.identity.is_not(None), ASSET.c.trust.is_not(None)
        )
    )
    for row in rows:
        proof = msgspec.json.decode(row.trust, type=AssetTrust).proof
        if proof is None or proof.at_ms < lately_ms:
            continue
        wanted = {
            name
            for name in proof.certificates
            if name not in found
            and (
                (known := answers.get(name)) is None
                or 2 * (now_ms - known.this_update_ms)
                > min(known.next_update_ms - known.this_update_ms, age_max_ms)
            )
        }
        if wanted:
            questions = _questions(connection, proof, row.identity)
            found |= {one.sha256: one for one in questions if one.sha256 in wanted}
    return list(found.values())


def keep(
    connection: Connection,
    question: Question,
    status: ocsp.Status,
    response: bytes,
    *,
    next_update_ms: int,
    signer: Signer,
    now_ms: int,
) -> str | None:
    """Stores an answer; the status before it, where that was another and a record says so.

    An answer older than the stored one changes nothing.
    """
    row = connection.execute(
        select(OCSP).where(OCSP.c.certificate_sha256 == question.sha256)
    ).one_or_none()
    if row is not None and row.this_update_ms > status.this_update_ms:
        return None
    connection.execute(delete(OCSP).where(OCSP.c.certificate_sha256 == question.sha256))
    connection.execute(
        insert(OCSP).values(
            certificate_sha256=question.sha256,
            identity=question.identity,
            status=status.answer.value,
            this_update_ms=status.this_update_ms,
            next_update_ms=next_update_ms,
            checked_ms=now_ms,
            response=response,
        )
    )
    before = "" if row is None else str(row.status)
    if before == status.answer.value:
        return None
    record = to_json(
        {
            "certificate_sha256": question.sha256,
            "identity": question.identity,
            "status": status.answer.value,
            "before": before,
            "this_update_ms": status.this_update_ms,
            "next_update_ms": next_update_ms,
            "revoked_ms": status.revoked_ms,
            "reason": status.reason,
            "response": response.hex(),
        }
    )
    append_record(connection, "ocsp", record, signer, now_ms)
    return before


@dataclass(slots=True)
class Inquiry:
    """Asks one responder, look by look. It blocks: for a thread of its own."""

    database: Database
    responder: Responder
    policy: Evidence
    signer: Signer
    registry: CollectorRegistry
    _failed_ms: dict[str, int] = field(default_factory=dict)
    _answers: dict[str, Counter] = field(init=False)

    def __post_init__(self) -> None:
        counter = Counter(
            "assay_ocsp_answers",
            "Questions whether certificates were revoked, by what was answered.",
            ["answer"],
            registry=self.registry,
        )
        self._answers = {
            name: counter.labels(name) for name in (*(one.value for one in ocsp.Answer), "failed")
        }

    def look(self, now_ms: int) -> None:
        """Asks what is due. Failures are logged and counted. Raises ServiceError for the store's."""
        questions = self.database.read(lambda c: due(c, self.policy, now_ms))
        self._failed_ms = {
            name: at_ms for name, at_ms in self._failed_ms.items() if now_ms - at_ms < RETRY_MS
        }
        asked = [one for one in questions if one.sha256 not in self._failed_ms]
        for question in asked[:QUESTIONS_MAX]:
            try:
                self._ask(question, now_ms)
            except (OcspUnavailable, ocsp.BadOcsp) as error:
                self._failed_ms[question.sha256] = now_ms
                self._answers["failed"].inc()
                _log.warning("ocsp_failed", certificate=question.sha256, error=str(error))
                if isinstance(error, OcspUnavailable):
                    return  # who is down is not asked two hundred times

    def _ask(self, question: Question, now_ms: int) -> None:
        nonce = secrets.token_bytes(NONCE_BYTES)
        response = self.responder.ask(ocsp.request(question.certificate, question.issuer, nonce))
        age_max_ms = ms(self.policy.ocsp_age_max_s)
        status = ocsp.judge(
            response,
            question.certificate,
            question.issuer,
            nonce=nonce,
            now_ms=now_ms,
            freshness=ocsp.Freshness(age_max_ms),
        )
        until_ms = status.next_update_ms
        before = self.database.write(
            lambda c: keep(
                c,
                question,
                status,
                response,
                next_update_ms=status.this_update_ms + age_max_ms if until_ms is None else until_ms,
                signer=self.signer,
                now_ms=now_ms,
            )
        )
        self._answers[status.answer.value].inc()
        if before is None:
            return
        tell = _log.error if status.answer is ocsp.Answer.REVOKED else _log.info
        tell(
            "ocsp_changed",
            certificate=question.sha256,
            identity=question.identity,
            status=status.answer.value,
            before=before,
        )


async def ask_about_revocations(context: ServiceContext) -> None:
    """Asks until it is cancelled, where the configuration says so. A task of the service."""
    state = context.state
    config = state.config.ocsp
    if not config.enabled:
        return
    responder = HttpResponder(config.url)
    inquiry = Inquiry(
        state.database, responder, state.config.policy.evidence, state.ledger_key, context.registry
    )
    try:
        while True:
            try:
                await asyncio.to_thread(inquiry.look, context.now_ms())
            except ServiceError as error:
                _log.warning("ocsp_look_failed", error=str(error))
            await asyncio.sleep(LOOK_S)
    finally:
        responder.close()


def _questions(connection: Connection, proof: DeviceProof, identity: str) -> list[Question]:
    """Whom to ask about in the chain that proved a device; it is in the evidence that was kept."""
    stored = evidence_at(connection, proof.position)
    for pem in () if stored is None else stored.sealed.blobs[1::2]:
        try:
            pairs = ocsp.questions(chain.read(pem))
        except chain.UntrustedChain:
            continue  # of a device that proved nothing
        if tuple(_sha256(certificate) for certificate, _ in pairs) == proof.certificates:
            return [Question(identity, _sha256(one), one, issuer) for one, issuer in pairs]
    return []


def _sha256(certificate: x509.Certificate) -> str:
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
