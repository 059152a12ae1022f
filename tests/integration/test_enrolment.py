"""Enrolment over real TLS: tokens become certificates, and each bad one a named denial."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from sqlalchemy import func, select, update

from assay_core.seal import ENROLL_TYPE, pae
from assay_core.signatories import Role
from assay_proto.v1 import enrollment_pb2 as pb
from assay_valuer.config import IngestConfig
from assay_valuer.hosts import find_host, revoke
from assay_valuer.parties import Party, add_party
from assay_valuer.store.schema import CERTIFICATE, HOST, SEALING_KEY, TOKEN_USE
from assay_valuer.tokens import TokenError
from tests.fakes.door import HOUR_MS, FakeValuer, HostClient, new_authority
from tests.fakes.host import FakeHost

DAY_MS = 24 * HOUR_MS


@pytest.fixture
def valuer(tmp_path: Path):
    valuer = FakeValuer(tmp_path)
    yield valuer
    valuer.check()
    valuer.close()


def during(valuer: FakeValuer, story: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        async with valuer.serving():
            await story()

    asyncio.run(run())


def counts(valuer: FakeValuer) -> tuple[int, int, int]:
    """How many hosts, keys and uses of tokens there are."""
    return valuer.database.read(
        lambda c: tuple(
            c.execute(select(func.count()).select_from(table)).scalar() or 0
            for table in (HOST, SEALING_KEY, TOKEN_USE)
        )
    )


async def denied(call: Awaitable[object], reason: str, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() is code
    details = caught.value.details() or ""
    assert details.startswith(f"{reason}: ")
    assert ("assay-denial", reason) in list(caught.value.trailing_metadata())
    return details


PERMISSION = grpc.StatusCode.PERMISSION_DENIED
INVALID = grpc.StatusCode.INVALID_ARGUMENT


def test_a_partys_key_is_no_hosts(valuer: FakeValuer) -> None:
    client = HostClient(FakeHost())
    key = client.host.signer.public_key
    party = Party("bob", Role.OPERATOR, key, (), 1, None)
    valuer.database.write(lambda c: add_party(c, party, valuer.signer, 1))

    async def story() -> None:
        words = await denied(client.enroll(valuer.token()), "key_enrolled", PERMISSION)
        assert "is a party's" in words

    during(valuer, story)
    assert counts(valuer) == (0, 0, 0)


def test_a_token_becomes_an_id_and_a_certificate_of_that_name_only(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        reply = await client.enroll(valuer.token())
        fingerprint = client.host.signer.public_key.fingerprint
        assert reply.host_id == f"spiffe://assay.test/site/lab/host/{fingerprint[:16]}"
        assert (reply.incarnation, reply.previous_head_hash) == (0, b"")
        assert reply.attestation_endpoint == valuer.endpoints.attestation
        leaf = x509.load_pem_x509_certificate(reply.certificate_chain_pem)
        extensions = leaf.extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert [name.value for name in names] == [reply.host_id]
        assert leaf.subject == x509.Name([])  # the request's subject is ignored
        usage = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
        assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(reply.authority_pem))
        assert leaf.not_valid_after_utc.timestamp() == pytest.approx(
            (valuer.clock() + DAY_MS) / 1000, abs=1
        )

    during(valuer, story)
    assert valuer.metric("assay_valuer_enrolments_total", call="enroll", outcome="ok") == 1


def test_a_lost_reply_costs_nothing(valuer: FakeValuer) -> None:
    """The same statement again gets the same host; also when the token expired meanwhile."""

    async def story() -> None:
        client = HostClient(FakeHost())
        token = valuer.token()
        request = client.enroll_request(token)
        first = await client.enroll(token, request)
        again = await client.enroll(token, request)
        assert (first.host_id, first.incarnation) == (again.host_id, again.incarnation)
        valuer.clock.now_ms += 2 * HOUR_MS
        late = await client.enroll(token, request)
        assert late.host_id == first.host_id
        valuer.clock.now_ms -= 2 * HOUR_MS
        await client.enroll(token, request)  # TLS goes by the real clock
        assert counts(valuer) == (1, 1, 1)
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            assert await stream.acknowledged() == [(0, 2)]

    during(valuer, story)


def test_unknown_expired_and_used_up_tokens(valuer: FakeValuer) -> None:
    async def story() -> None:
        token = valuer.token(hosts=2)
        clients = [HostClient(FakeHost(seed=n)) for n in range(4)]
        await clients[0].enroll(token)
        await clients[1].enroll(token)
        detail = await denied(clients[2].enroll(token), "spent_token", PERMISSION)
        assert "ask for a new one" in detail
        short = valuer.token(life_ms=1_000)
        valuer.clock.now_ms += 1_000
        await denied(clients[2].enroll(short), "expired_token", PERMISSION)
        good = valuer.token()
        request = clients[2].enroll_request(good)
        request.token_secret = b"x" * 32
        await denied(clients[2].enroll(good, request), "unknown_token", PERMISSION)
        strange = clients[2].enroll_request(good)
        statement = pb.EnrollStatement.FromString(strange.statement)
        statement.token_id = "0" * 32
        signed = clients[2].enroll_request(good)
        signed.statement = statement.SerializeToString()
        signed.signature = sign(clients[2], signed.statement)
        await denied(clients[2].enroll(good, signed), "unknown_token", PERMISSION)
        assert counts(valuer) == (2, 2, 2)
        await clients[2].enroll(good)  # none of this spent it
        assert counts(valuer) == (3, 3, 3)

    during(valuer, story)
    for outcome, count in (("spent_token", 1), ("expired_token", 1), ("unknown_token", 2)):
        metric = valuer.metric("assay_valuer_enrolments_total", call="enroll", outcome=outcome)
        assert metric == count


def sign(client: HostClient, statement: bytes) -> bytes:
    return client.host.signer.sign(pae(ENROLL_TYPE, statement))


def test_bad_proofs_and_bad_requests(valuer: FakeValuer) -> None:
    async def story() -> None:
        token = valuer.token()
        client = HostClient(FakeHost())
        stranger = FakeHost(seed=99).signer
        request = client.enroll_request(token, signer=stranger)
        await denied(client.enroll(token, request), "bad_proof", PERMISSION)
        key = rsa.generate_private_key(65537, 2048)
        builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        weak = builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        good = client.csr()
        for csr in (b"", b"not a request", good[:-20], weak, b"x" * 5_000):
            bad = client.enroll_request(token, csr=csr)
            await denied(client.enroll(token, bad), "bad_csr", INVALID)
        # A request that its own key did not sign: the signature is the last field.
        forged = bytearray(good)
        forged[-1] ^= 1
        bad = client.enroll_request(token, csr=bytes(forged))
        await denied(client.enroll(token, bad), "bad_csr", INVALID)
        whole = client.enroll_request(token).SerializeToString()
        for raw in (whole[:-3], whole + b"\x98\x06\x01", whole + whole):
            await denied(raw_enroll(valuer, raw), "malformed", INVALID)
        assert counts(valuer) == (0, 0, 0)
        await client.enroll(token)

    during(valuer, story)


async def raw_enroll(valuer: FakeValuer, raw: bytes) -> None:
    trust = grpc.ssl_channel_credentials(valuer.authority.certificate_pem)
    async with grpc.aio.secure_channel(valuer.endpoints.enrolment, trust) as channel:
        await channel.unary_unary("/assay.v1.Enrollment/Enroll")(raw, timeout=10)


def test_a_valuer_of_another_authority_is_not_believed(valuer: FakeValuer, tmp_path: Path) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        token = valuer.token()
        other = new_authority(tmp_path, "other")
        valuer.authority, good = other, valuer.authority
        wrong = valuer.token()
        valuer.authority = good
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.enroll(wrong)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await client.enroll(token)

    during(valuer, story)


def test_a_reinstalled_host_gets_its_next_incarnation(valuer: FakeValuer) -> None:
    async def story() -> None:
        old = HostClient(FakeHost())
        await old.enroll(valuer.token())
        async with old.stream() as stream:
            await stream.window(old.host.seal())
            await stream.acknowledged()
        valuer.clock.now_ms += 1_000
        host = FakeHost(seed=8)
        new = HostClient(host)
        reply = await new.enroll(valuer.token(host_id=old.host.host_id))
        assert (reply.host_id, reply.incarnation) == (old.host.host_id, 1)
        assert reply.previous_head_hash == old.host.previous
        async with new.stream() as stream:
            assert stream.welcome is not None
            assert not stream.welcome.has_head
            await stream.window(host.seal())
            await stream.acknowledged()
        # The machine that was there before is not let in again, whatever it calls itself.
        for incarnation in (0, 1):
            async with old.stream(hello=False) as stream:
                await stream.send_hello(incarnation)
                assert (await stream.refused()).reason == "wrong_incarnation"
        await denied(old.enroll(valuer.token()), "key_enrolled", PERMISSION)

    during(valuer, story)


def test_a_revoked_host_stays_out(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        token = valuer.token()
        await client.enroll(token)
        valuer.database.write(
            lambda c: revoke(
                c, client.host.host_id, why="stolen", signer=valuer.signer, now_ms=valuer.clock()
            )
        )
        await denied(client.enroll(token), "revoked_host", PERMISSION)
        await denied(client.renew(valuer), "revoked_host", PERMISSION)
        with pytest.raises(TokenError, match="never comes back"):
            valuer.token(host_id=client.host.host_id)
        async with client.stream(hello=False) as stream:
            await stream.send_hello(0)
            assert (await stream.refused()).reason == "revoked_host"
            assert (await stream.ended())[0] is PERMISSION

    during(valuer, story)


def test_renewal_also_long_after_the_certificate_expired(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        token = valuer.token()
        await client.enroll(token)
        client.tls_key = ec.generate_private_key(ec.SECP256R1())
        await client.renew(valuer)
        async with client.stream() as stream:
            assert stream.welcome is not None
        await denied(client.renew(valuer, signer=FakeHost(seed=99).signer), "bad_proof", PERMISSION)
        stranger = HostClient(FakeHost(seed=99))
        stranger.host.host_id = "spiffe://assay.test/site/lab/host/none"
        await denied(stranger.renew(valuer), "unknown_host", PERMISSION)
        client.host.incarnation = 5
        await denied(client.renew(valuer), "wrong_incarnation", PERMISSION)
        client.host.incarnation = 0
        expire(valuer, 89 * DAY_MS)
        await client.renew(valuer)
        expire(valuer, 91 * DAY_MS)
        await denied(client.renew(valuer), "too_late", PERMISSION)
        await denied(client.enroll(token), "too_late", PERMISSION)  # a used token is no way round

    during(valuer, story)


def expire(valuer: FakeValuer, ago_ms: int) -> None:
    """Makes every certificate to have expired so long ago; the authority's own clock stands."""
    valuer.database.write(
        lambda c: c.execute(update(CERTIFICATE).values(expires_ms=valuer.clock() - ago_ms))
    )


def test_too_many_calls_are_refused_by_name(tmp_path: Path) -> None:
    valuer = FakeValuer(
        tmp_path, ingest=IngestConfig(enrolments_per_minute=100, enrolments_per_minute_of_peer=3)
    )

    async def story() -> None:
        client = HostClient(FakeHost())
        token = valuer.token()
        for _ in range(3):
            await client.enroll(token)
        await denied(client.enroll(token), "rate_limited", grpc.StatusCode.RESOURCE_EXHAUSTED)
        valuer.clock.now_ms += 20_000
        await client.enroll(token)

    during(valuer, story)
    valuer.close()


def test_health_and_reflection_answer_on_both_listeners(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        await client.enroll(valuer.token())
        trust = grpc.ssl_channel_credentials(valuer.authority.certificate_pem)
        for endpoint, credentials in (
            (valuer.endpoints.enrolment, trust),
            (valuer.endpoints.attestation, client.credentials()),
        ):
            async with grpc.aio.secure_channel(endpoint, credentials) as channel:
                reply = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(service=""), timeout=10
                )
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
                assert "assay.v1" in await listed(channel)

    during(valuer, story)


async def listed(channel: grpc.aio.Channel) -> str:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(
        iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    )
    async for reply in call:
        return str(reply)
    return ""


def test_the_listeners_certificate_is_renewed_without_a_restart(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        await client.enroll(valuer.token())
        async with client.stream() as open_stream:
            before = await serial(valuer)
            assert await serial(valuer) == before
            valuer.clock.now_ms += 4 * DAY_MS
            assert await serial(valuer) != before
            await open_stream.window(client.host.seal())
            await open_stream.acknowledged()

    during(valuer, story)


async def serial(valuer: FakeValuer) -> int:
    name, port = valuer.endpoints.enrolment.split(":")
    context = ssl.create_default_context(cadata=valuer.authority.certificate_pem.decode())
    context.set_alpn_protocols(["h2"])
    # Valid 4 days from now, by the valuer's clock, is not valid now: look without judging.
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection(name, int(port), ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(der).serial_number


def test_what_an_enrolment_changed_is_in_the_ledger(valuer: FakeValuer) -> None:
    async def story() -> None:
        client = HostClient(FakeHost())
        await client.enroll(valuer.token())
        found = valuer.database.read(lambda c: find_host(c, client.host.host_id))
        assert found is not None
        assert found.trust.keys == (client.host.signer.public_key,)

    during(valuer, story)
    assert valuer.check() == 2  # the token and the enrolment, each signed
