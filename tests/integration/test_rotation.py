"""A host's next sealing key, in two phases over the wire: nothing is lost, and the old key ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import select, update

from assay_core.seal import Ed25519Signer, Signer
from assay_valuer.hosts import find_host, revoke
from assay_valuer.ledger.check import LedgerDamaged
from assay_valuer.ledger.read import entries_from, windows_from
from assay_valuer.store.schema import SEALING_KEY
from assay_valuer.tpms import Tpms
from tests.fakes import proving
from tests.fakes.door import Answered, FakeValuer, HostClient
from tests.fakes.endorsing import Maker
from tests.fakes.host import FakeHost
from tests.fakes.tpm import FakeTpm, TpmSigner
from tests.integration.test_enrolment import PERMISSION, denied

MAKER = Maker()
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
Story = Callable[[HostClient], Awaitable[None]]


@pytest.fixture
def valuer(tmp_path: Path):
    valuer = FakeValuer(tmp_path, tpms=Tpms(roots=MAKER.roots))
    yield valuer
    valuer.check()
    valuer.close()


def during(valuer: FakeValuer, story: Story, tpm: FakeTpm | None = None) -> None:
    async def run() -> None:
        async with valuer.serving():
            client = HostClient(FakeHost(gpu_count=1))
            if tpm is None:
                await client.enroll(valuer.token())
            else:
                await proving.enroll(valuer, client, tpm)
            await asyncio.wait_for(story(client), 60)

    asyncio.run(run())


def new_key() -> Signer:
    return Ed25519Signer(Ed25519PrivateKey.generate())


def live(valuer: FakeValuer, client: HostClient) -> list[str]:
    host = valuer.database.read(lambda c: find_host(c, client.host.host_id))
    assert host is not None
    return [key.fingerprint for key in host.trust.keys]


def retired(valuer: FakeValuer) -> dict[str, int | None]:
    rows = valuer.database.read(lambda c: c.execute(select(SEALING_KEY)).all())
    return {row.fingerprint: row.retired_sequence for row in rows}


def test_windows_in_flight_are_not_lost_and_the_old_key_ends_with_the_first_of_the_new(
    valuer: FakeValuer,
) -> None:
    async def story(client: HostClient) -> None:
        host, new = client.host, new_key()
        old = host.signer
        async with client.stream() as stream:
            await stream.window(host.seal())
            await stream.acknowledged()
            flying = [host.seal() for _ in range(3)]  # sealed by the old key, not sent yet
            await proving.rotate(valuer, client, proving.rotate_request(client, new))
            names = [old.public_key.fingerprint, new.public_key.fingerprint]
            assert live(valuer, client) == names
            for sealed in flying:
                await stream.window(sealed)
            host.signer = new
            await stream.window(host.seal())
            assert [sequence for sequence, _ in await stream.acknowledged(4)] == [1, 2, 3, 4]
            assert live(valuer, client) == names[1:]
            assert retired(valuer) == {names[0]: 4, names[1]: None}
            # The very stream that was open before takes the old key no more.
            await stream.window(host.seal(signer=old, advance=False))
            assert (await stream.refused()).reason == "bad_signature"
            await stream.window(host.seal())
            await stream.acknowledged()
        found = valuer.database.read(lambda c: windows_from(c, 0))
        assert [window.header.sequence for window in found] == list(range(6))
        keys = [window.key.fingerprint for _, window in valuer.committed]
        assert keys == [names[0]] * 4 + [names[1]] * 2

    during(valuer, story)


def test_the_old_key_ends_at_once_within_one_batch(valuer: FakeValuer) -> None:
    """Also before the new key's window is on the disk."""

    async def story(client: HostClient) -> None:
        host, old, new = client.host, client.host.signer, new_key()
        async with client.stream() as stream:
            await proving.rotate(valuer, client, proving.rotate_request(client, new))
            host.signer = new
            await stream.window(host.seal())
            await stream.window(host.seal(signer=old))
            refusal = await stream.refused()
            assert (refusal.reason, refusal.sequence) == ("bad_signature", 0)

    during(valuer, story)


def test_a_gap_record_of_the_new_key_ends_the_old_one_too(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        host, old, new = client.host, client.host.signer, new_key()
        await proving.rotate(valuer, client, proving.rotate_request(client, new))
        async with client.stream() as stream:
            await stream.window(host.seal())
            host.signer = new
            await stream.gap(host.gap(3))
            await stream.acknowledged(2)
            assert retired(valuer)[old.public_key.fingerprint] == 1
            await stream.window(host.seal(signer=old))
            assert (await stream.refused()).reason == "bad_signature"

    during(valuer, story)


def test_a_lost_answer_costs_nothing(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        new = new_key()
        request = proving.rotate_request(client, new)
        await proving.rotate(valuer, client, request)
        await proving.rotate(valuer, client, request)
        assert len(live(valuer, client)) == 2
        records = valuer.database.read(lambda c: entries_from(c, 0, kind="rotation"))
        (record,) = [json.loads(entry.body.envelope.payload) for entry in records]
        assert record["public_key"] == new.public_key.data.hex()
        assert record["after"] == client.host.signer.public_key.fingerprint
        client.host.signer = new
        async with client.stream() as stream:  # with the certificate of the second answer
            await stream.window(client.host.seal())
            await stream.acknowledged()

    during(valuer, story)


def test_who_may_not_rotate(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        old, new, stranger = client.host.signer, new_key(), new_key()

        async def refused(request, reason: str) -> None:
            await denied(proving.rotate(valuer, client, request), reason, PERMISSION)

        await refused(proving.rotate_request(client, new, old=stranger), "bad_proof")
        await refused(proving.rotate_request(client, new, also=stranger), "bad_proof")
        await refused(proving.rotate_request(client, new, old=new), "bad_proof")
        await refused(proving.rotate_request(client, old), "bad_proof")  # to itself
        other = HostClient(FakeHost(seed=9))
        await other.enroll(valuer.token())
        await refused(proving.rotate_request(client, other.host.signer), "key_enrolled")
        client.host.incarnation = 1
        await refused(proving.rotate_request(client, new), "wrong_incarnation")
        client.host.incarnation = 0
        await proving.rotate(valuer, client, proving.rotate_request(client, new))
        # Not a host that is not let in: the agent must not advise its operator to enrol anew.
        again = proving.rotate(valuer, client, proving.rotate_request(client, new_key()))
        await denied(again, "rotation_open", PRECONDITION)
        client.host.signer = new
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
        # A key that was retired speaks for nobody: a thief who has it gains nothing.
        await refused(proving.rotate_request(client, stranger, old=old), "bad_proof")
        await denied(client.renew(valuer, signer=old), "bad_proof", PERMISSION)
        await client.renew(valuer)
        await refused(proving.rotate_request(client, old, old=new), "key_enrolled")
        assert len(live(valuer, client)) == 1

    during(valuer, story)


def test_a_certificate_of_the_retired_key_opens_no_stream(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        new, old_certificates = new_key(), client.certificates
        valuer.clock.now_ms += 1_000
        await proving.rotate(valuer, client, proving.rotate_request(client, new))
        fresh, client.certificates = client.certificates, old_certificates
        async with client.stream() as stream:  # until the new key seals, the old one serves
            client.host.signer = new
            await stream.window(client.host.seal())
            await stream.acknowledged()
        async with client.stream(hello=False) as stream:
            await stream.send_hello()
            assert (await stream.read()).refusal.reason == "wrong_incarnation"
        client.certificates = fresh
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()

    during(valuer, story)


def test_what_a_key_renews_while_another_takes_its_place_ends_with_it(valuer: FakeValuer) -> None:
    """Whoever stole the old key asks for a certificate between the two phases."""

    async def story(client: HostClient) -> None:
        new, old = new_key(), client.host.signer
        await proving.rotate(valuer, client, proving.rotate_request(client, new))
        fresh = client.certificates
        valuer.clock.now_ms += 1_000
        await client.renew(valuer, signer=old)
        stolen, client.certificates = client.certificates, fresh
        async with client.stream() as stream:
            client.host.signer = new
            await stream.window(client.host.seal())
            await stream.acknowledged()
        client.certificates = stolen
        async with client.stream(hello=False) as stream:
            await stream.send_hello()
            assert (await stream.read()).refusal.reason == "wrong_incarnation"
        client.host.signer = old
        await denied(client.renew(valuer), "bad_proof", PERMISSION)

    during(valuer, story)


def test_a_token_that_was_used_is_no_way_back_for_a_retired_key(valuer: FakeValuer) -> None:
    async def run() -> None:
        async with valuer.serving():
            client, new, token = HostClient(FakeHost(gpu_count=1)), new_key(), valuer.token()
            await client.enroll(token)
            await client.enroll(token)  # a lost answer is given again
            old = client.host.signer
            await proving.rotate(valuer, client, proving.rotate_request(client, new))
            async with client.stream() as stream:
                client.host.signer = new
                await stream.window(client.host.seal())
                await stream.acknowledged()
            client.host.signer = old
            await denied(client.enroll(token), "key_enrolled", PERMISSION)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_tpms_key_follows_a_tpms_key_of_the_same_chip_only(valuer: FakeValuer) -> None:
    tpm, other = FakeTpm(MAKER), FakeTpm(MAKER)

    async def story(client: HostClient) -> None:
        downgrade = proving.rotate_request(client, new_key())
        words = await denied(proving.rotate(valuer, client, downgrade), "tpm_needed", PRECONDITION)
        assert "make the key there" in words
        for chip, reason in ((other, "other_ek"), (tpm, "")):
            key = chip.signing_key()
            request = proving.rotate_request(
                client,
                TpmSigner(key),
                bound=proving.binding(chip, key),
                activation=await proving.activate(valuer, chip),
            )
            if reason:
                await denied(proving.rotate(valuer, client, request), reason, PERMISSION)
                continue
            await proving.rotate(valuer, client, request)
            client.host.signer = TpmSigner(key)
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
        unproved = proving.rotate_request(
            client, TpmSigner(key := tpm.signing_key()), bound=proving.binding(tpm, key)
        )
        await denied(proving.rotate(valuer, client, unproved), "bad_activation", PERMISSION)

    during(valuer, story, tpm)


def test_a_software_host_may_go_over_to_its_tpm_and_not_back(valuer: FakeValuer) -> None:
    tpm = FakeTpm(MAKER)

    async def story(client: HostClient) -> None:
        key = tpm.signing_key()
        request = proving.rotate_request(
            client,
            TpmSigner(key),
            bound=proving.binding(tpm, key),
            activation=await proving.activate(valuer, tpm),
        )
        await proving.rotate(valuer, client, request)
        client.host.signer = TpmSigner(key)
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
        host = valuer.database.read(lambda c: find_host(c, client.host.host_id))
        assert host is not None
        assert host.has_tpm
        back = proving.rotate_request(client, new_key())
        await denied(proving.rotate(valuer, client, back), "tpm_needed", PRECONDITION)

    during(valuer, story)


def test_a_revoked_host_neither_rotates_nor_renews(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        valuer.database.write(
            lambda c: revoke(
                c, client.host.host_id, why="stolen", signer=valuer.signer, now_ms=valuer.clock()
            )
        )
        request = proving.rotate_request(client, new_key())
        await denied(proving.rotate(valuer, client, request), "revoked_host", PERMISSION)
        await denied(client.renew(valuer), "revoked_host", PERMISSION)
        assert len(live(valuer, client)) == 1

    during(valuer, story)


def test_the_ledgers_check_finds_a_key_that_sealed_after_its_end(tmp_path: Path) -> None:
    valuer = FakeValuer(tmp_path)

    async def story(client: HostClient) -> None:
        new = new_key()
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
            await proving.rotate(valuer, client, proving.rotate_request(client, new))
            client.host.signer = new
            await stream.window(client.host.seal())
            await stream.acknowledged()

    during(valuer, story)
    valuer.check()
    for sequence, words in ((2, "not retired at window 1"), (0, "retired from 0 on")):
        valuer.database.write(
            lambda c, at=sequence: c.execute(
                update(SEALING_KEY)
                .where(SEALING_KEY.c.retired_sequence.is_not(None))
                .values(retired_sequence=at)
            )
        )
        with pytest.raises(LedgerDamaged, match=words):
            valuer.check()
    valuer.close()


def test_a_key_that_is_not_the_hosts_still_ends_no_key(valuer: FakeValuer) -> None:
    """A refused window changes nothing, whoever sealed it."""

    async def story(client: HostClient) -> None:
        async with client.stream() as stream:
            await proving.rotate(valuer, client, proving.rotate_request(client, new_key()))
            await stream.window(client.host.seal(signer=new_key(), advance=False))
            assert (await stream.refused()).reason == "bad_signature"
            await stream.window(client.host.seal())
            with pytest.raises(Answered):
                await stream.window(client.host.seal(signer=new_key(), advance=False))
                await stream.acknowledged(2)
            assert len(live(valuer, client)) == 2

    during(valuer, story)


def test_nobody_can_rotate_an_unknown_host(valuer: FakeValuer) -> None:
    async def story(client: HostClient) -> None:
        client.host.host_id += "0"
        request = proving.rotate_request(client, new_key())
        await denied(proving.rotate(valuer, client, request), "unknown_host", PERMISSION)
        with pytest.raises(grpc.aio.AioRpcError):
            await client.renew(valuer)

    during(valuer, story)
