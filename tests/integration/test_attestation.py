"""Attestation over real mTLS: what is taken, what is refused and how, and how streams end.

Every refusal is a named reason at the sender and a counted metric at the valuer, and nothing of it
is stored: the ledger's checker runs after every test.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import event

from assay_core import codec, merkle
from assay_core.header import GapCause, GapRecord, Source
from assay_core.leaves import Leaf
from assay_core.seal import GAP_TYPE, WINDOW_TYPE, Sealed, seal_gap, sign_envelope
from assay_proto.v1 import attestation_pb2 as pb
from assay_proto.v1 import attestation_pb2_grpc, window_pb2
from assay_valuer.config import IngestConfig
from assay_valuer.hosts import find_host, revoke
from assay_valuer.ingest.session import REFUSALS_MAX
from assay_valuer.ledger.read import entries_from, window, windows_from
from tests.fakes.door import (
    FakeValuer,
    HostClient,
    HostStream,
    new_authority,
    window_message,
)
from tests.fakes.host import FakeHost

MINUTE_MS = 60_000


@pytest.fixture
def valuer(tmp_path: Path):
    valuer = FakeValuer(tmp_path)
    yield valuer
    valuer.check()
    valuer.close()


Story = Callable[[HostClient], Awaitable[None]]


def with_host(valuer: FakeValuer, story: Story, *, gpus: int = 2) -> None:
    async def run() -> None:
        async with valuer.serving():
            client = HostClient(FakeHost(gpu_count=gpus))
            await client.enroll(valuer.token())
            await asyncio.wait_for(story(client), 60)

    asyncio.run(run())


def stored(valuer: FakeValuer) -> list[int]:
    """Sequences in the ledger, in its order."""
    found = valuer.database.read(lambda c: windows_from(c, 0))
    return [entry.header.sequence for entry in found]


def refusals(valuer: FakeValuer, reason: str) -> float:
    return valuer.metric("assay_valuer_windows_refused_total", reason=reason)


def resealed(host: FakeHost, sealed: Sealed, leaves: tuple[bytes, ...], **changes: int) -> Sealed:
    """The window with other leaves, honestly signed by the host's own key."""
    header = window_pb2.Header.FromString(sealed.envelope.payload)
    header.leaf_count = len(leaves)
    header.merkle_root = merkle.root([merkle.leaf_hash(leaf) for leaf in leaves])
    for name, value in changes.items():
        setattr(header, name, value)
    return Sealed(
        sign_envelope(WINDOW_TYPE, header.SerializeToString(deterministic=True), host.signer),
        leaves,
    )


def test_windows_are_acknowledged_durable_and_announced(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        sent = []
        async with client.stream() as stream:
            welcome = stream.welcome
            assert welcome is not None
            assert (welcome.has_head, welcome.schema_max) == (False, 1)
            assert welcome.in_flight_max == 64
            assert welcome.now_ms == valuer.clock()
            for _ in range(5):
                sent.append(client.host.seal())
                await stream.window(sent[-1])
            assert await stream.acknowledged(5) == [(n, n + 2) for n in range(5)]
        for sequence, sealed in enumerate(sent):
            found = valuer.database.read(lambda c, s=sequence: window(c, client.host.host_id, 0, s))
            assert found is not None
            assert found.sealed == sealed
        assert [(p, w.header.sequence) for p, w in valuer.committed] == [
            (n + 2, n) for n in range(5)
        ]
        async with client.stream() as stream:
            welcome = stream.welcome
            assert welcome is not None
            assert (welcome.has_head, welcome.head_sequence) == (True, 4)
            assert welcome.head_hash == client.host.previous

    with_host(valuer, story)
    assert valuer.metric("assay_valuer_windows_accepted_total") == 5


def test_the_same_bytes_again_are_acknowledged_again(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        sealed = [client.host.seal() for _ in range(3)]
        async with client.stream() as stream:
            for one in (*sealed, *sealed):  # some of these find the first still uncommitted
                await stream.window(one)
            acks = await stream.acknowledged(6)
            assert sorted(acks) == sorted([(n, n + 2) for n in range(3)] * 2)
        async with client.stream() as stream:
            await stream.window(sealed[0])
            assert await stream.acknowledged() == [(0, 2)]
        assert stored(valuer) == [0, 1, 2]

    with_host(valuer, story)
    assert valuer.metric("assay_valuer_windows_duplicate_total") == 4


def test_a_gap_record_goes_on_with_the_chain(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        async with client.stream() as stream:
            await stream.window(host.seal())
            gap = host.gap(3)
            await stream.gap(gap)
            await stream.window(host.seal())
            assert await stream.acknowledged(3) == [(0, 2), (3, 3), (4, 4)]
            await stream.gap(gap)
            assert await stream.acknowledged() == [(3, 3)]
        kinds = [e.kind for e in valuer.database.read(lambda c: entries_from(c, 2))]
        assert kinds == ["window", "gap", "window"]
        found = valuer.database.read(lambda c: find_host(c, host.host_id))
        assert found is not None
        assert found.head is not None
        assert found.head.sequence == 4

    with_host(valuer, story)


def test_a_silently_gapped_replayed_or_reordered_chain(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        sealed = [host.seal() for _ in range(5)]
        async with client.stream() as stream:
            for missing in (1, 4, 2):
                await stream.window(sealed[missing])
                refusal = await stream.refused()
                assert (refusal.sequence, refusal.reason) == (missing, "sequence_gap")
                assert refusal.retry_after_ms == 0
                assert "window 0 comes next" in refusal.detail
            await stream.window(sealed[0])
            await stream.window(sealed[1])
            assert await stream.acknowledged(2) == [(0, 2), (1, 3)]
        # One that names another predecessor than the stored head.
        stray = FakeHost(gpu_count=2)
        stray.host_id, stray.sequence, stray.previous = host.host_id, 2, b"p" * 32
        async with client.stream() as stream:
            await stream.window(stray.seal())
            assert (await stream.refused()).reason == "wrong_previous"
            await stream.window(sealed[2])
            await stream.acknowledged()
        assert stored(valuer) == [0, 1, 2]

    with_host(valuer, story)
    assert refusals(valuer, "sequence_gap") == 3
    assert refusals(valuer, "wrong_previous") == 1


def test_of_a_fork_both_are_kept_and_the_stream_ends(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        forked = host.seal(advance=False)
        async with client.stream() as stream:
            await stream.window(host.seal())
            await stream.acknowledged()
        for _ in range(2):  # the second time its bytes are kept already
            async with client.stream() as stream:
                await stream.window(forked)
                refusal = await stream.refused()
                assert (refusal.sequence, refusal.reason) == (0, "fork")
                assert "enrol anew" in refusal.detail
                code, detail = await stream.ended()
                assert code is grpc.StatusCode.FAILED_PRECONDITION
                assert detail.startswith("fork: ")
        found = valuer.database.read(lambda c: entries_from(c, 2))
        assert [(e.kind, e.sequence) for e in found] == [("window", 0), ("fork", 0)]
        assert found[1].body.sealed == forked
        async with client.stream() as stream:  # the chain itself goes on
            await stream.window(host.seal())
            await stream.acknowledged()

    with_host(valuer, story)
    assert valuer.metric("assay_valuer_forks_kept_total") == 1
    assert refusals(valuer, "fork") == 2


def test_a_gap_over_stored_windows_is_a_fork(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        async with client.stream() as stream:
            await stream.window(host.seal())
            await stream.acknowledged()
            record = GapRecord(
                host.host_id, 0, host.boot_id, 0, 0, b"", b"d" * 32, 0, 1, GapCause.DISK_FULL
            )
            await stream.gap(seal_gap(record, host.signer))
            assert (await stream.refused()).reason == "fork"
            await stream.ended()
        assert [e.kind for e in valuer.database.read(lambda c: entries_from(c, 2))] == [
            "window",
            "fork",
        ]

    with_host(valuer, story)


def _altered(sealed: Sealed) -> Sealed:
    leaf = bytearray(sealed.leaves[2])
    leaf[-1] ^= 1
    return Sealed(sealed.envelope, (*sealed.leaves[:2], bytes(leaf), *sealed.leaves[3:]))


def _moved(sealed: Sealed) -> Sealed:
    """One GPU's health, shown as the other's."""
    leaves = list(sealed.leaves)
    leaf = codec.decode_leaf(leaves[2])
    other = codec.decode_leaf(leaves[-1]).content.subject
    moved = type(leaf.content)(other, leaf.content.group, leaf.content.values)
    leaves[2] = codec.encode_leaf(Leaf(leaf.salt, moved))
    return Sealed(sealed.envelope, tuple(leaves))


def _truncated(sealed: Sealed) -> Sealed:
    envelope = sealed.envelope
    cut = type(envelope)(envelope.payload[:-5], envelope.payload_type, envelope.signatures)
    return Sealed(cut, sealed.leaves)


HARM = {
    "leaf_altered": (_altered, "leaf_mismatch"),
    "leaf_missing": (lambda s: Sealed(s.envelope, s.leaves[:-1]), "leaf_count"),
    "leaf_doubled": (lambda s: Sealed(s.envelope, (*s.leaves, s.leaves[1])), "leaf_count"),
    "leaves_swapped": (
        lambda s: Sealed(s.envelope, (s.leaves[0], s.leaves[2], s.leaves[1], *s.leaves[3:])),
        "leaf_mismatch",
    ),
    "leaf_moved_to_another_gpu": (_moved, "leaf_mismatch"),
    "header_truncated": (_truncated, "bad_signature"),
    "no_signature": (
        lambda s: Sealed(type(s.envelope)(s.envelope.payload, WINDOW_TYPE, ()), s.leaves),
        "malformed_envelope",
    ),
    "another_type": (
        lambda s: Sealed(
            type(s.envelope)(s.envelope.payload, GAP_TYPE, s.envelope.signatures), s.leaves
        ),
        "unsupported_schema",
    ),
    "leaf_too_large": (lambda s: Sealed(s.envelope, (b"x" * 70_000, *s.leaves[1:])), "too_large"),
    "too_many_leaves": (lambda s: Sealed(s.envelope, s.leaves * 100), "too_large"),
}


@pytest.mark.parametrize("name", HARM)
def test_what_a_middleman_did_to_a_window(valuer: FakeValuer, name: str) -> None:
    harm, reason = HARM[name]

    async def story(client: HostClient) -> None:
        sealed = client.host.seal()
        async with client.stream() as stream:
            await stream.window(harm(sealed))
            refusal = await stream.refused()
            assert refusal.reason == reason
            assert refusal.detail
            assert stored(valuer) == []
            await stream.window(sealed)  # nothing was stored, lost or repeated
            assert await stream.acknowledged() == [(0, 2)]

    with_host(valuer, story)
    assert refusals(valuer, reason) == 1


def _with_unknown_field(leaf: bytes) -> bytes:
    return leaf + b"\xf8\x07\x01"


def _with_duplicate_field(leaf: bytes) -> bytes:
    return leaf + leaf[:18]  # the salt once more


@pytest.mark.parametrize(
    "harm", [_with_unknown_field, _with_duplicate_field, lambda leaf: leaf[:-1]]
)
def test_leaves_that_the_host_itself_sealed_wrongly(valuer: FakeValuer, harm) -> None:
    async def story(client: HostClient) -> None:
        sealed = client.host.seal()
        bad = resealed(client.host, sealed, (*sealed.leaves[:-1], harm(sealed.leaves[-1])))
        async with client.stream() as stream:
            await stream.window(bad)
            refusal = await stream.refused()
            assert (refusal.sequence, refusal.reason) == (0, "malformed_leaf")
            await stream.window(sealed)
            await stream.acknowledged()

    with_host(valuer, story)
    assert refusals(valuer, "malformed_leaf") == 1


def test_a_header_that_the_host_itself_sealed_wrongly(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host, sealed = client.host, client.host.seal()
        header = sealed.envelope.payload
        async with client.stream() as stream:
            for harm in (header + b"\xf8\x07\x01", header + header[:2], header[:-3], b""):
                bad = Sealed(sign_envelope(WINDOW_TYPE, harm, host.signer), sealed.leaves)
                await stream.window(bad)
                assert (await stream.refused()).reason == "malformed_header"
            for changes, reason in (
                ({"host_id": "spiffe://assay.test/site/lab/host/else"}, "wrong_host"),
                ({"incarnation": 1}, "wrong_incarnation"),
                ({"source": int(Source.SIMULATED)}, "source_not_allowed"),
            ):
                await stream.window(resealed(host, sealed, sealed.leaves, **changes))
                assert (await stream.refused()).reason == reason
            await stream.window(sealed)
            await stream.acknowledged()

    with_host(valuer, story)
    assert refusals(valuer, "malformed_header") == 4


def test_a_key_that_was_never_enrolled(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        stranger = FakeHost(seed=99).signer
        async with client.stream() as stream:
            await stream.window(client.host.seal(signer=stranger, advance=False))
            assert (await stream.refused()).reason == "bad_signature"

    with_host(valuer, story)
    assert refusals(valuer, "bad_signature") == 1


def test_messages_that_are_none(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        good = window_message(client.host.seal()).SerializeToString()
        async with raw_stream(client) as stream:
            for bad in (good[:-7], good + b"\xf8\x07\x01", good + good, b"", b"\xff" * 9):
                await stream.write(bad)
                assert (await raw_refusal(stream)).reason == "malformed_envelope"
            await stream.write(b"\x12\x80\x80\x80\x01" + b"x" * 2 * 1024 * 1024)
            refusal = await raw_refusal(stream)
            assert refusal.reason == "too_large"
            assert "at most" in refusal.detail
            await stream.write(good)
            message = pb.ValuerMessage.FromString(await stream.read())
            assert message.WhichOneof("message") == "acknowledgements"

    with_host(valuer, story)
    assert refusals(valuer, "malformed_envelope") == 5
    assert refusals(valuer, "too_large") == 1


class raw_stream:
    """A stream of bytes, past its Hello."""

    def __init__(self, client: HostClient) -> None:
        self.client = client

    async def __aenter__(self):
        assert self.client.certificates is not None
        self.channel = grpc.aio.secure_channel(
            self.client.certificates.attestation_endpoint, self.client.credentials()
        )
        call = self.channel.stream_stream("/assay.v1.Attestation/Stream")(timeout=20)
        hello = pb.AgentMessage(hello=pb.Hello(schema_max=1, agent_version="x"))
        await call.write(hello.SerializeToString())
        await call.read()
        await call.read()
        return call

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


async def raw_refusal(stream) -> pb.Refusal:
    message = pb.ValuerMessage.FromString(await stream.read())
    assert message.WhichOneof("message") == "refusal"
    return message.refusal


def test_a_message_beyond_the_transports_bound_ends_the_stream(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        async with raw_stream(client) as stream:
            await stream.write(b"x" * 5 * 1024 * 1024)
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stream.read()
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()

    with_host(valuer, story)


def test_a_clock_that_is_ahead_waits(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        ahead = host.seal(end_ms=valuer.clock() + 3 * MINUTE_MS)
        after = host.seal()
        async with client.stream() as stream:
            await stream.window(ahead)
            await stream.window(after)  # already on its way behind it
            first, second = await stream.refused(), await stream.refused()
            assert (first.sequence, first.reason) == (0, "ahead_of_time")
            assert first.retry_after_ms == 2 * MINUTE_MS
            assert (second.sequence, second.reason) == (1, "ahead_of_time")
            assert second.retry_after_ms > 0
            valuer.clock.now_ms += first.retry_after_ms
            await stream.window(ahead)
            assert await stream.acknowledged() == [(0, 2)]
        assert stored(valuer) == [0]

    with_host(valuer, story)


def test_a_clock_that_is_behind_is_taken_and_marked(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        async with client.stream() as stream:
            sent_ms, first = valuer.clock(), stream.challenge
            await stream.window(
                host.seal(answered=stream.challenge, end_ms=sent_ms - 10 * MINUTE_MS)
            )
            await stream.acknowledged()
            await stream.window(host.seal())  # answers nothing: an old window, and no proof
            await stream.acknowledged()
            assert stream.challenge != first  # the answer was followed by a fresh one
        marked = [w.clock_behind for w in valuer.database.read(lambda c: windows_from(c, 0))]
        assert marked == [True, False]
        observed = valuer.committed[0][1].observed_ms
        assert observed == sent_ms

    with_host(valuer, story)
    assert valuer.metric("assay_valuer_windows_clock_behind_total") == 1


def test_a_revoked_hosts_open_stream_ends_within_seconds(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
            valuer.database.write(
                lambda c: revoke(c, client.host.host_id, why="sold", signer=valuer.signer, now_ms=1)
            )
            refusal = await asyncio.wait_for(stream.refused(), 5)
            assert refusal.reason == "revoked_host"
            code, _ = await asyncio.wait_for(stream.ended(), 5)
            assert code is grpc.StatusCode.PERMISSION_DENIED
        assert stored(valuer) == [0]

    with_host(valuer, story)
    assert refusals(valuer, "revoked_host") == 1


def test_a_window_sent_right_after_the_revocation_is_not_stored(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        async with client.stream() as stream:
            valuer.database.write(
                lambda c: revoke(c, client.host.host_id, why="sold", signer=valuer.signer, now_ms=1)
            )
            await stream.window(client.host.seal())
            assert (await stream.refused()).reason in ("unavailable", "revoked_host")
        assert stored(valuer) == []

    with_host(valuer, story)


def test_a_newer_stream_replaces_the_older(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        sealed = [client.host.seal() for _ in range(40)]
        async with client.stream() as older:
            for one in sealed[:20]:
                await older.window(one)
            async with client.stream() as newer:
                welcome = newer.welcome
                assert welcome is not None
                first = welcome.head_sequence + 1 if welcome.has_head else 0
                for one in sealed[first:]:
                    await newer.window(one)
                acks = await newer.acknowledged(40 - first)
                assert [sequence for sequence, _ in acks] == list(range(first, 40))
                assert (await older.ended())[0] is grpc.StatusCode.UNAVAILABLE
        assert stored(valuer) == list(range(40))

    with_host(valuer, story)


def test_strangers_are_kept_out_by_tls(valuer: FakeValuer, tmp_path: Path) -> None:
    async def story(client: HostClient) -> None:
        certificates = client.certificates
        assert certificates is not None
        # No client certificate at all, and one of another authority for this very host.
        bare = grpc.ssl_channel_credentials(certificates.authority_pem)
        other = new_authority(tmp_path, "other")
        issued = other.issue_host(client.csr(), client.host.host_id, valuer.clock(), 10**7)
        false = HostClient(client.host, client.tls_key)
        false.certificates = type(certificates)()
        false.certificates.CopyFrom(certificates)
        false.certificates.certificate_chain_pem = issued.chain_pem
        for credentials in (bare, false.credentials()):
            endpoint = certificates.attestation_endpoint
            async with grpc.aio.secure_channel(endpoint, credentials) as channel:
                call = attestation_pb2_grpc.AttestationStub(channel).Stream(timeout=5)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await HostStream(call).hello()
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        # Nor does a host believe a valuer whose authority is not the one that its token pinned.
        false.certificates.CopyFrom(certificates)
        false.certificates.authority_pem = other.certificate_pem
        with pytest.raises(grpc.aio.AioRpcError):
            async with false.stream():
                pass

    with_host(valuer, story)


def test_a_certificate_that_was_not_issued_for_this_enrolment(valuer: FakeValuer) -> None:
    """Signed by our own authority, but never recorded: not let in."""

    async def story(client: HostClient) -> None:
        assert client.certificates is not None
        client.tls_key = ec.generate_private_key(ec.SECP256R1())
        issued = valuer.authority.issue_host(
            client.csr(), client.host.host_id, valuer.clock(), 10**7
        )
        client.certificates.certificate_chain_pem = issued.chain_pem
        async with client.stream(hello=False) as stream:
            await stream.send_hello()
            assert (await stream.refused()).reason == "wrong_incarnation"
        strange = valuer.authority.issue_host(
            client.csr(), "spiffe://assay.test/site/lab/host/none", valuer.clock(), 10**7
        )
        client.certificates.certificate_chain_pem = strange.chain_pem
        async with client.stream(hello=False) as stream:
            await stream.send_hello()
            assert (await stream.refused()).reason == "unknown_host"
            assert (await stream.ended())[0] is grpc.StatusCode.PERMISSION_DENIED

    with_host(valuer, story)


def test_a_stream_that_does_not_begin_with_a_fitting_hello(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        async with client.stream(hello=False) as stream:
            await stream.send_hello(schema_max=0)
            assert (await stream.refused()).reason == "unsupported_schema"
        async with client.stream(hello=False) as stream:
            await stream.send_hello(incarnation=3)
            assert (await stream.refused()).reason == "wrong_incarnation"
        async with client.stream(hello=False) as stream:
            await stream.window(client.host.seal(advance=False))
            assert (await stream.refused()).reason == "malformed_envelope"
        async with client.stream() as stream:
            await stream.send_hello()
            assert (await stream.refused()).reason == "malformed_envelope"
            await stream.window(client.host.seal())
            await stream.acknowledged()

    with_host(valuer, story)


def test_a_full_queue_refuses_and_loses_nothing(tmp_path: Path) -> None:
    valuer = FakeValuer(tmp_path, ingest=IngestConfig(queue_max=2, in_flight_max=32, linger_ms=200))

    async def story(client: HostClient) -> None:
        sealed = [client.host.seal() for _ in range(12)]
        done: dict[int, int] = {}
        async with client.stream() as stream:
            for one in sealed:
                await stream.window(one)
            refused = []
            while len(done) + len(refused) < 12:
                message = await stream.read()
                if message.WhichOneof("message") == "refusal":
                    refused.append(message.refusal)
                for ack in message.acknowledgements.acknowledgements:
                    done[ack.sequence] = ack.position
            assert refused
            assert {r.reason for r in refused} == {"overloaded"}
            assert all(r.retry_after_ms > 0 for r in refused)
            while len(done) < 12:
                await stream.window(sealed[len(done)])
                done |= dict(await stream.acknowledged())
        assert done == {n: n + 2 for n in range(12)}

    with_host(valuer, story)
    assert refusals(valuer, "overloaded") > 0
    valuer.check()
    valuer.close()


def test_more_streams_than_are_allowed(tmp_path: Path) -> None:
    valuer = FakeValuer(tmp_path, ingest=IngestConfig(streams_max=1))

    async def story(client: HostClient) -> None:
        other = HostClient(FakeHost(seed=3))
        await other.enroll(valuer.token())
        async with client.stream(), other.stream(hello=False) as second:
            await second.send_hello()
            refusal = await second.refused()
            assert (refusal.reason, refusal.retry_after_ms) == ("overloaded", 10_000)
            assert (await second.ended())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED

    with_host(valuer, story)
    valuer.close()


def test_a_host_that_only_sends_rubbish_is_cut_off(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        bad = window_message(_altered(client.host.seal()))
        async with client.stream() as stream:
            for _ in range(REFUSALS_MAX):
                await stream.send(bad)
            code, detail = await stream.ended()
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "refusals on one stream" in detail

    with_host(valuer, story)
    assert stored(valuer) == []


def test_a_valuer_that_stops_acknowledges_what_it_took(valuer: FakeValuer) -> None:
    async def run() -> None:
        async with valuer.serving():
            client = HostClient(FakeHost(gpu_count=2))
            await client.enroll(valuer.token())
            stream_of = client.stream()
            stream = await stream_of.__aenter__()
            for _ in range(10):
                await stream.window(client.host.seal())
            await stream.acknowledged(1)
        assert (await stream.ended())[0] is grpc.StatusCode.UNAVAILABLE

    asyncio.run(run())


def test_a_gap_beyond_any_chain_is_refused(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host = client.host
        record = GapRecord(
            host.host_id, 0, host.boot_id, 0, 2**64 - 1, b"", b"d" * 32, 0, 1, GapCause.DISK_FULL
        )
        async with client.stream() as stream:
            await stream.gap(seal_gap(record, host.signer))
            assert (await stream.refused()).reason == "malformed_header"
            await stream.window(host.seal())
            await stream.acknowledged()

    with_host(valuer, story)


def test_a_full_disk_refuses_and_loses_nothing(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        sealed = [client.host.seal() for _ in range(40)]
        limit(valuer, 1)
        stream_of = client.stream()
        stream = await stream_of.__aenter__()
        for one in sealed:
            await stream.window(one)
        refusal = await stream.refused()
        assert refusal.reason == "unavailable"
        assert "disk is full" in refusal.detail
        assert refusal.retry_after_ms > 0
        assert (await stream.ended())[0] is grpc.StatusCode.UNAVAILABLE
        limit(valuer, 10_000)
        async with client.stream() as stream:
            welcome = stream.welcome
            assert welcome is not None
            first = welcome.head_sequence + 1 if welcome.has_head else 0
            for one in sealed[first:]:
                await stream.window(one)
            await stream.acknowledged(40 - first)
        assert stored(valuer) == list(range(40))

    with_host(valuer, story)


def limit(valuer: FakeValuer, more_pages: int) -> None:
    """Lets the store grow by so many pages only, on every connection there will be."""
    engine = valuer.database._engine
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar() or 0
    engine.dispose()

    def bound(connection, _record) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages + more_pages}")

    event.listen(engine, "connect", bound)


def test_simulated_windows_are_taken_where_the_configuration_says_so(tmp_path: Path) -> None:
    valuer = FakeValuer(tmp_path, sources=("nvml", "simulated"))

    async def story(client: HostClient) -> None:
        client.host.source = Source.SIMULATED
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()

    with_host(valuer, story)
    assert stored(valuer) == [0]
    valuer.close()


def test_an_older_backup_asks_for_what_it_lost(tmp_path: Path) -> None:
    """The agent keeps what was acknowledged: from the restored head it sends it again."""
    (tmp_path / "a").mkdir()
    valuer = FakeValuer(tmp_path / "a")
    sealed: list[Sealed] = []

    async def first(client: HostClient) -> None:
        async with client.stream() as stream:
            for _ in range(2):
                sealed.append(client.host.seal())
                await stream.window(sealed[-1])
            await stream.acknowledged(2)
        keep.append(client)
        source = tmp_path / "a" / "valuer.db"
        with sqlite3.connect(source) as live, sqlite3.connect(tmp_path / "backup.db") as copy:
            live.backup(copy)
        async with client.stream() as stream:
            for _ in range(3):
                sealed.append(client.host.seal())
                await stream.window(sealed[-1])
            await stream.acknowledged(3)

    keep: list[HostClient] = []
    with_host(valuer, first)
    valuer.check()
    valuer.close()
    (tmp_path / "b").mkdir()
    (tmp_path / "backup.db").rename(tmp_path / "b" / "valuer.db")
    restored = FakeValuer(tmp_path / "b")
    restored.authority, restored.signer = valuer.authority, valuer.signer
    restored.registrar = valuer.registrar

    async def second() -> None:
        async with (
            restored.serving() as endpoints,
            keep[0].stream(endpoint=endpoints.attestation) as stream,
        ):
            assert stream.welcome is not None
            assert stream.welcome.head_sequence == 1
            for one in sealed[2:]:
                await stream.window(one)
            await stream.acknowledged(3)

    asyncio.run(second())
    assert stored(restored) == [0, 1, 2, 3, 4]
    restored.check()
    restored.close()
