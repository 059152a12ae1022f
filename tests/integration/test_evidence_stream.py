"""Challenges and answers over real mTLS: each outcome by its name, at the host and in the metrics.

The ledger's checker runs after every test: what was refused is not in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from assay_core import codec
from assay_core.evidence import bundle
from assay_core.evidence import sealed as sealed_evidence
from assay_core.evidence.spdm import REPORT_BYTES_MAX
from assay_core.evidence.statement import Statement
from assay_core.header import Source
from assay_core.seal import (
    ASSET_EVENT_TYPE,
    EVIDENCE_TYPE,
    Ed25519Signer,
    Envelope,
    Signer,
    sign_envelope,
)
from assay_proto.v1 import attestation_pb2 as pb
from assay_valuer.hosts import revoke
from assay_valuer.ingest.session import REFUSALS_MAX
from assay_valuer.ledger.read import StoredEvidence, evidence_of
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.store.database import Database, StoreError, sqlite_url
from assay_valuer.tpms import Tpms
from tests.fakes import proving
from tests.fakes.door import FakeValuer, HostClient, HostStream, to_wire
from tests.fakes.endorsing import Maker as TpmMaker
from tests.fakes.host import FakeHost
from tests.fakes.nvidia import Maker
from tests.fakes.tpm import AK_ATTRIBUTES, FakeTpm, TpmKey

TPMS, DEVICES = TpmMaker(), Maker()
TPM_S, DEVICE_S, WITHIN_S = 3_600, 6 * 3_600, 300
Story = Callable[[HostClient, FakeTpm], Awaitable[None]]


@pytest.fixture
def valuer(tmp_path: Path):
    policy = ValuerPolicy(evidence=Evidence(device_roots=tuple(DEVICES.roots)))
    valuer = FakeValuer(tmp_path, tpms=Tpms(roots=TPMS.roots), policy=policy)
    yield valuer
    valuer.check()
    valuer.close()


def during(valuer: FakeValuer, story: Story, *, software: bool = False) -> None:
    async def run() -> None:
        async with valuer.serving():
            tpm, client = FakeTpm(TPMS), HostClient(FakeHost(gpu_count=1))
            if software:
                await client.enroll(valuer.token())
            else:
                await proving.enroll(valuer, client, tpm)
            await asyncio.wait_for(story(client, tpm), 60)

    asyncio.run(run())


async def begun(client: HostClient, stream: HostStream, windows: int = 2) -> None:
    for _ in range(windows):
        await stream.window(client.host.seal())
    await stream.acknowledged(windows)


def outcomes(valuer: FakeValuer, outcome: str) -> float:
    return valuer.metric("assay_evidence_outcomes_total", outcome=outcome)


def kept(valuer: FakeValuer, client: HostClient) -> StoredEvidence | None:
    return valuer.database.read(lambda c: evidence_of(c, client.host.host_id))


def test_a_tpm_and_a_gpu_answer_and_the_very_bytes_are_kept(valuer: FakeValuer) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            sent_ms = valuer.clock()
            assert len(challenge.nonce) == 32
            assert tuple(challenge.pcrs) == (0, 2, 4, 7)
            assert challenge.devices
            assert challenge.deadline_ms == sent_ms + WITHIN_S * 1_000
            valuer.clock.now_ms += 7_000
            sealed = proving.answer(
                client.host, challenge, tpm=tpm, devices=[DEVICES.device(1), DEVICES.device(2)]
            )
            outcome = await proving.send(stream, sealed)
            assert (outcome.outcome, outcome.nonce) == ("accepted", challenge.nonce)
            assert outcome.detail == "2 devices proved themselves"
            found = kept(valuer, client)
            assert found is not None
            assert found.sealed == sealed
            assert found.position == outcome.position
            assert (found.asked_ms, found.received_ms) == (sent_ms, sent_ms + 7_000)

    during(valuer, story)
    assert outcomes(valuer, "accepted") == 1


def test_a_device_that_does_not_prove_itself_is_set_aside_and_said(valuer: FakeValuer) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            strange = Maker().device(9)
            sealed = proving.answer(
                client.host, challenge, tpm=tpm, devices=[DEVICES.device(1), strange]
            )
            outcome = await proving.send(stream, sealed)
            assert outcome.outcome == "accepted"
            assert outcome.detail.startswith("1 devices proved themselves, 1 did not: device 1: ")

    during(valuer, story)


def test_a_host_without_a_tpm_is_asked_for_its_devices_only(valuer: FakeValuer) -> None:
    async def story(client: HostClient, _: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            assert (list(challenge.pcrs), challenge.devices) == ([], True)
            sealed = proving.answer(client.host, challenge, devices=[DEVICES.device(1)])
            outcome = await proving.send(stream, sealed)
            assert (outcome.outcome, outcome.detail) == ("accepted", "1 devices proved themselves")

    during(valuer, story, software=True)


def test_nobody_is_asked_before_it_has_sealed_anything(valuer: FakeValuer) -> None:
    async def story(client: HostClient, _: FakeTpm) -> None:
        async with client.stream() as stream:
            valuer.clock.now_ms += 10 * proving.SOON_MS
            await asyncio.sleep(2.5)  # two sweeps
            await stream.window(client.host.seal(end_ms=valuer.clock()))
            await stream.acknowledged()
            await stream.until("evidence_challenge")  # and then it is

    during(valuer, story)


async def _late(valuer, stream, client, tpm, challenge):
    valuer.clock.now_ms = challenge.deadline_ms + 1
    return proving.answer(client.host, challenge, tpm=tpm)


async def _other_pcrs(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge, tpm=tpm, pcrs=(0, 2, 4))


async def _more_pcrs(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge, tpm=tpm, pcrs=(0, 2, 4, 7, 16))


async def _false_pcr_value(valuer, stream, client, tpm, challenge):
    good = statement(proving.answer(client.host, challenge, tpm=tpm))
    assert good.quote is not None
    quote = replace(good.quote, pcrs={**good.quote.pcrs, 7: bytes(32)})
    return sealed_evidence.seal(replace(good, quote=quote), (), client.host.signer)


async def _no_quote(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge)


async def _another_ak(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge, tpm=tpm, quote_by=TpmKey(AK_ATTRIBUTES))


async def _old_quote(valuer, stream, client, tpm, challenge):
    """The quote of another challenge, in a statement that answers this one."""
    other = pb.EvidenceChallenge(nonce=b"o" * 32, pcrs=challenge.pcrs)
    old = statement(proving.answer(client.host, other, tpm=tpm))
    return sealed_evidence.seal(replace(old, challenge=challenge.nonce), (), client.host.signer)


async def _old_window(valuer, stream, client, tpm, challenge):
    good = statement(proving.answer(client.host, challenge, tpm=tpm))
    return sealed_evidence.seal(replace(good, sequence=0), (), client.host.signer)


async def _false_window(valuer, stream, client, tpm, challenge):
    good = statement(proving.answer(client.host, challenge, tpm=tpm))
    return sealed_evidence.seal(replace(good, header_hash=bytes(32)), (), client.host.signer)


async def _window_to_come(valuer, stream, client, tpm, challenge):
    good = statement(proving.answer(client.host, challenge, tpm=tpm))
    return sealed_evidence.seal(replace(good, sequence=2**63), (), client.host.signer)


async def _unknown_nonce(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge, tpm=tpm, nonce=b"n" * 32)


async def _stranger(valuer, stream, client, tpm, challenge):
    good = proving.answer(client.host, challenge, tpm=tpm)
    envelope = sign_envelope(EVIDENCE_TYPE, good.envelope.payload, FakeHost(seed=99).signer)
    return bundle.SealedEvidence(envelope, good.blobs)


async def _other_host(valuer, stream, client, tpm, challenge):
    good = statement(proving.answer(client.host, challenge, tpm=tpm))
    named = replace(good, host_id="spiffe://assay.test/site/lab/host/other")
    return sealed_evidence.seal(named, (), client.host.signer)


async def _simulated(valuer, stream, client, tpm, challenge):
    return proving.answer(client.host, challenge, tpm=tpm, source=Source.SIMULATED)


async def _other_blobs(valuer, stream, client, tpm, challenge):
    good = proving.answer(client.host, challenge, tpm=tpm, devices=[DEVICES.device(1)])
    return bundle.SealedEvidence(good.envelope, (good.blobs[0] + b"\0", good.blobs[1]))


async def _malformed(valuer, stream, client, tpm, challenge):
    return bundle.SealedEvidence(sign_envelope(EVIDENCE_TYPE, b"\x08", client.host.signer), ())


async def _large(valuer, stream, client, tpm, challenge):
    envelope = sign_envelope(EVIDENCE_TYPE, bytes(16 * 1024 + 1), client.host.signer)
    return bundle.SealedEvidence(envelope, ())


async def _large_report(valuer, stream, client, tpm, challenge):
    good = proving.answer(client.host, challenge, tpm=tpm, devices=[DEVICES.device(1)])
    return bundle.SealedEvidence(good.envelope, (bytes(REPORT_BYTES_MAX + 1), good.blobs[1]))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (_late, "late"),
        (_other_pcrs, "wrong_pcrs"),
        (_more_pcrs, "wrong_pcrs"),
        (_false_pcr_value, "wrong_pcrs"),
        (_no_quote, "no_quote"),
        (_another_ak, "bad_quote"),
        (_old_quote, "not_bound"),
        (_old_window, "unknown_window"),
        (_false_window, "unknown_window"),
        (_window_to_come, "unknown_window"),
        (_unknown_nonce, "unknown_challenge"),
        (_stranger, "bad_signature"),
        (_other_host, "wrong_host"),
        (_simulated, "source_not_allowed"),
        (_other_blobs, "blob_mismatch"),
        (_malformed, "malformed"),
        (_large, "too_large"),
        (_large_report, "too_large"),
    ],
)
def test_an_answer_that_does_not_hold_is_refused_by_name(valuer, make, expected) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            outcome = await proving.send(stream, await make(valuer, stream, client, tpm, challenge))
            assert outcome.outcome == expected
            assert outcome.detail
            # The stream goes on.
            await stream.window(client.host.seal())
            await stream.acknowledged()
        assert kept(valuer, client) is None

    during(valuer, story)
    assert outcomes(valuer, expected) == 1


def statement(sealed: bundle.SealedEvidence) -> Statement:
    return codec.decode_evidence(sealed.envelope.payload)


def test_an_answer_counts_once(valuer: FakeValuer) -> None:
    """A twin of the report, and the very bytes again, are both replays."""

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            device = DEVICES.device(1)
            sealed = proving.answer(client.host, challenge, tpm=tpm, devices=[device])
            assert (await proving.send(stream, sealed)).outcome == "accepted"
            again = await proving.send(stream, sealed)
            assert (again.outcome, again.nonce) == ("replayed", challenge.nonce)
            twin = proving.answer(client.host, challenge, tpm=tpm, devices=[device])
            assert (await proving.send(stream, twin)).outcome == "replayed"
        async with client.stream() as stream:  # nor does it on another stream
            assert (await proving.send(stream, sealed)).outcome == "replayed"

    during(valuer, story)
    assert outcomes(valuer, "accepted") == 1


def test_when_devices_answer_is_not_their_hosts_choice(valuer: FakeValuer) -> None:
    """One that has a device for an hour shows it whenever its TPM alone is asked."""

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            assert (await proving.asked(valuer, stream)).devices
            valuer.clock.now_ms += 2 * 3_600_000
            challenge = (await stream.until("evidence_challenge")).evidence_challenge
            assert tuple(challenge.pcrs) == (0, 2, 4, 7)
            assert not challenge.devices
            sealed = proving.answer(client.host, challenge, tpm=tpm, devices=[DEVICES.device(1)])
            assert (await proving.send(stream, sealed)).outcome == "not_asked"
            honest = proving.answer(client.host, challenge, tpm=tpm)
            assert (await proving.send(stream, honest)).outcome == "accepted"

    during(valuer, story)


def test_a_host_that_is_enrolled_anew_is_asked_for_its_devices_soon(valuer: FakeValuer) -> None:
    """It proved nothing yet, and people gave it its token: it need not wait for its next turn."""

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            assert (await proving.asked(valuer, stream)).devices
        token = valuer.token(host_id=client.host.host_id)
        await proving.enroll(valuer, client, tpm, token)
        client.host.sequence = 0
        async with client.stream() as stream:
            await begun(client, stream)
            assert (await proving.asked(valuer, stream)).devices

    during(valuer, story)


def test_an_answer_that_failed_is_used_up_too(valuer: FakeValuer) -> None:
    """Nobody may try one challenge until something fits."""

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            bad = proving.answer(client.host, challenge, tpm=tpm, quote_by=TpmKey(AK_ATTRIBUTES))
            assert (await proving.send(stream, bad)).outcome == "bad_quote"
            good = proving.answer(client.host, challenge, tpm=tpm)
            assert (await proving.send(stream, good)).outcome == "replayed"

    during(valuer, story)


class FailingDatabase(Database):
    """A store whose disk is full, while it `fails`."""

    fails = False

    def write(self, job):
        if self.fails:
            raise StoreError("the disk is full")
        return super().write(job)


def test_what_we_cannot_keep_is_our_fault_and_may_be_sent_again(valuer: FakeValuer) -> None:
    valuer.database.close()
    database = valuer.database = FailingDatabase(sqlite_url(str(valuer.folder / "valuer.db")))

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            sealed = proving.answer(client.host, challenge, tpm=tpm)
            database.fails = True
            failed = await proving.send(stream, sealed)
            assert (failed.outcome, failed.detail) == ("unavailable", "the disk is full")
            database.fails = False
            assert (await proving.send(stream, sealed)).outcome == "accepted"

    during(valuer, story)
    assert outcomes(valuer, "unavailable") == 1


def test_another_hosts_challenge_is_nobody_elses(valuer: FakeValuer) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        other, chip = HostClient(FakeHost(seed=5, gpu_count=1)), FakeTpm(TPMS)
        await proving.enroll(valuer, other, chip)
        async with client.stream() as stream, other.stream() as second:
            await begun(client, stream)
            await begun(other, second)
            challenge = await proving.asked(valuer, stream)
            stolen = proving.answer(other.host, challenge, tpm=chip)
            assert (await proving.send(second, stolen)).outcome == "unknown_challenge"
            # What the first host honestly answers is of no use on the second's stream either.
            borrowed = proving.answer(client.host, challenge, tpm=tpm)
            assert (await proving.send(second, borrowed)).outcome == "bad_signature"
            assert (await proving.send(stream, borrowed)).outcome == "accepted"

    during(valuer, story)


def test_a_device_of_another_host_does_not_answer_for_this_one(valuer: FakeValuer) -> None:
    """A relayed report names the other host's attestation key in its nonce."""

    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            foreign = proving.answer(
                client.host, challenge, tpm=FakeTpm(TPMS), devices=[DEVICES.device(1)]
            )
            report, chain = foreign.blobs
            evidence = [bundle.nvidia.Evidence(report, bundle.chains.read(chain))]
            sealed = proving.answer(client.host, challenge, tpm=tpm, evidence=evidence)
            outcome = await proving.send(stream, sealed)
            assert outcome.detail.startswith("0 devices proved themselves, 1 did not")
            assert "another nonce" in outcome.detail

    during(valuer, story)


def test_silence_is_counted_once_and_a_new_stream_hears_what_is_asked_still(
    valuer: FakeValuer,
) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
        async with client.stream() as stream:
            again = (await stream.until("evidence_challenge")).evidence_challenge
            assert (again.nonce, again.deadline_ms) == (challenge.nonce, challenge.deadline_ms)
            assert outcomes(valuer, "unanswered") == 0
            valuer.clock.now_ms = challenge.deadline_ms + 1
            await asyncio.sleep(2.5)  # two sweeps
            assert outcomes(valuer, "unanswered") == 1
            late = proving.answer(client.host, challenge, tpm=tpm)
            assert (await proving.send(stream, late)).outcome == "late"
        async with client.stream() as stream:  # who was silent is asked soon, and not at once
            fresh = await proving.asked(valuer, stream)
            assert fresh.nonce != challenge.nonce
            sealed = proving.answer(client.host, fresh, tpm=tpm)
            assert (await proving.send(stream, sealed)).outcome == "accepted"

    during(valuer, story)


def test_a_host_is_asked_once_in_each_interval_however_often_it_comes_back(
    valuer: FakeValuer,
) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        asked = 0
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            sealed = proving.answer(client.host, challenge, tpm=tpm, devices=[DEVICES.device(1)])
            await proving.send(stream, sealed)
        for _ in range(4):
            async with client.stream() as stream:
                valuer.clock.now_ms += proving.SOON_MS
                await asyncio.sleep(1.2)
                await stream.window(client.host.seal())
                message = await stream.read()
                asked += message.WhichOneof("message") == "evidence_challenge"
        # The next interval begins an hour after the first challenge; four looks are two minutes.
        assert asked == 0
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
            valuer.clock.now_ms += 2 * TPM_S * 1_000
            challenge = (await stream.until("evidence_challenge")).evidence_challenge
            assert (bool(challenge.pcrs), challenge.devices) == (True, False)

    during(valuer, story)


def test_a_host_that_floods_with_answers_loses_its_stream(valuer: FakeValuer) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            nobody = pb.EvidenceChallenge(nonce=b"n" * 32, pcrs=(0,))
            sealed = proving.answer(client.host, nobody, tpm=tpm)
            for _ in range(REFUSALS_MAX):
                assert (await proving.send(stream, sealed)).outcome == "unknown_challenge"
            _, words = await stream.ended()
            assert "refusals on one stream" in words

    during(valuer, story)


def test_a_revoked_host_answers_no_more(valuer: FakeValuer) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            valuer.database.write(
                lambda c: revoke(
                    c,
                    client.host.host_id,
                    why="stolen",
                    signer=valuer.signer,
                    now_ms=valuer.clock(),
                )
            )
            sealed = proving.answer(client.host, challenge, tpm=tpm)
            message = pb.SealedEvidence(envelope=to_wire(sealed.envelope), blobs=sealed.blobs)
            await stream.send(pb.AgentMessage(evidence=message))
            _, words = await stream.ended()
            assert words.startswith("revoked_host")
        assert kept(valuer, client) is None

    during(valuer, story)


def test_evidence_by_the_next_key_is_taken_on_a_stream_that_was_open_before(
    valuer: FakeValuer,
) -> None:
    async def story(client: HostClient, tpm: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            challenge = await proving.asked(valuer, stream)
            key = tpm.signing_key()
            new = proving.TpmSigner(key)
            request = proving.rotate_request(
                client,
                new,
                bound=proving.binding(tpm, key),
                activation=await proving.activate(valuer, tpm),
            )
            await proving.rotate(valuer, client, request)
            sealed = proving.answer(client.host, challenge, tpm=tpm, signer=new)
            assert (await proving.send(stream, sealed)).outcome == "accepted"

    during(valuer, story)


def test_a_cloned_host_run_twice_forks_its_chain(valuer: FakeValuer) -> None:
    """Two that hold one software key cannot both go on: the second's next window is a fork."""

    async def story(client: HostClient, _: FakeTpm) -> None:
        async with client.stream() as stream:
            await begun(client, stream)
            twin = client.host.seal(advance=False)
            await stream.window(client.host.seal())
            await stream.acknowledged()
        async with client.stream() as stream:
            await stream.window(twin)
            assert (await stream.refused()).reason == "fork"
            await stream.ended()

    during(valuer, story, software=True)
    assert valuer.metric("assay_valuer_forks_kept_total") == 1


def test_proposals_have_a_way_in_where_somebody_keeps_them(tmp_path: Path) -> None:
    seen: list[Envelope] = []

    def propose(connection, envelope, host, *, now_ms):
        seen.append(envelope)
        return "kept as event 17"

    valuer = FakeValuer(tmp_path, propose=propose)

    async def story(client: HostClient, _: FakeTpm) -> None:
        kind = "application/vnd.assay.asset-event.v1+json"
        host = client.host

        async def proposed(payload: bytes, kind: str, signer: Ed25519Signer) -> pb.ProposalAnswer:
            envelope = sign_envelope(kind, payload, signer)
            await stream.send(pb.AgentMessage(proposal=to_wire(envelope)))
            return (await stream.until("proposal_answer")).proposal_answer

        async with client.stream() as stream:
            answer = await proposed(b'{"kind":"move"}', kind, host.signer)
            assert (answer.kept, answer.detail) == (True, "kept as event 17")
            assert answer.payload_sha256.hex() == proving.digest(b'{"kind":"move"}')
            for payload, of, by, words in (
                (b"{}", kind, FakeHost(seed=8).signer, "no key that may seal"),
                (b"{}", "application/json", host.signer, "not one signature over"),
                (b" " * (64 * 1024 + 1), kind, host.signer, "at most 65536"),
            ):
                answer = await proposed(payload, of, by)
                assert not answer.kept
                assert words in answer.detail
        assert [envelope.payload for envelope in seen] == [b'{"kind":"move"}']

    during(valuer, story, software=True)
    valuer.close()


def test_one_host_cannot_fill_the_desk_with_proposals(tmp_path: Path) -> None:
    """Each takes the store's one writer for a while, also the one that is kept already."""
    seen: list[str] = []

    def propose(connection, envelope, host, *, now_ms):
        seen.append(host.trust.host_id)
        return "kept as event 17"

    valuer = FakeValuer(tmp_path, propose=propose)

    async def story(client: HostClient, _: FakeTpm) -> None:
        async def proposed(stream: HostStream, signer: Signer) -> pb.ProposalAnswer:
            envelope = sign_envelope(ASSET_EVENT_TYPE, b"{}", signer)
            await stream.send(pb.AgentMessage(proposal=to_wire(envelope)))
            return (await stream.until("proposal_answer")).proposal_answer

        other = HostClient(FakeHost(seed=8))
        await other.enroll(valuer.token())
        for _turn in range(2):  # to begin a new stream makes no difference
            async with client.stream() as stream:
                answers = [await proposed(stream, client.host.signer) for _ in range(8)]
        assert [one.kept for one in answers] == [True] * 2 + [False] * 6
        assert "within a minute" in answers[-1].detail
        async with other.stream() as stream:
            assert (await proposed(stream, other.host.signer)).kept
        valuer.clock.now_ms += 60_000
        async with client.stream() as stream:
            assert (await proposed(stream, client.host.signer)).kept
        assert seen == [client.host.host_id] * 10 + [other.host.host_id, client.host.host_id]

    during(valuer, story, software=True)
    valuer.close()


def test_every_outcome_is_reached_by_some_test_here() -> None:
    text = Path(__file__).read_text()
    assert [one.value for one in bundle.Outcome if f'"{one.value}"' not in text] == []


def test_without_anybody_to_keep_them_proposals_are_refused_in_words(valuer: FakeValuer) -> None:
    async def story(client: HostClient, _: FakeTpm) -> None:
        kind = "application/vnd.assay.asset-event.v1+json"
        async with client.stream() as stream:
            envelope = sign_envelope(kind, b"{}", client.host.signer)
            await stream.send(pb.AgentMessage(proposal=to_wire(envelope)))
            answer = (await stream.until("proposal_answer")).proposal_answer
            assert (answer.kept, answer.detail) == (False, "this valuer takes no proposals")

    during(valuer, story, software=True)
