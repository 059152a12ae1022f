"""Enrolment with a TPM, over real TLS: what binds a host to a chip, and each way it may not hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from sqlalchemy import select

from assay_proto.v1 import enrollment_pb2 as pb
from assay_valuer.hosts import list_hosts
from assay_valuer.ledger.read import entries_from
from assay_valuer.store.schema import HOST, SEALING_KEY, TPM
from assay_valuer.tpms import Tpms
from tests.fakes import proving
from tests.fakes.door import HOUR_MS, FakeValuer, HostClient
from tests.fakes.endorsing import EK_MARKS, Maker, der
from tests.fakes.host import FakeHost
from tests.fakes.tpm import AK_ATTRIBUTES, SIGNING_ATTRIBUTES, FakeTpm, TpmKey, TpmSigner
from tests.integration.test_enrolment import PERMISSION, denied

MAKER = Maker()
Story = Callable[[], Awaitable[None]]


@pytest.fixture
def valuer(tmp_path: Path):
    valuer = FakeValuer(tmp_path, tpms=Tpms(roots=MAKER.roots))
    yield valuer
    valuer.check()
    valuer.close()


def during(valuer: FakeValuer, story: Story) -> None:
    async def run() -> None:
        async with valuer.serving():
            await asyncio.wait_for(story(), 60)

    asyncio.run(run())


def records(valuer: FakeValuer, kind: str) -> list[dict]:
    found = valuer.database.read(lambda c: entries_from(c, 0, kind=kind))
    return [json.loads(entry.body.envelope.payload) for entry in found]


def rows(valuer: FakeValuer, table) -> list:
    return valuer.database.read(lambda c: c.execute(select(table)).all())


def outcomes(valuer: FakeValuer, call: str, outcome: str) -> float:
    return valuer.metric("assay_valuer_enrolments_total", call=call, outcome=outcome)


def test_a_host_is_bound_to_the_chip_that_opened_the_credential(valuer: FakeValuer) -> None:
    tpm, client = FakeTpm(MAKER), HostClient(FakeHost(gpu_count=1))

    async def story() -> None:
        reply = await proving.enroll(valuer, client, tpm)
        async with client.stream() as stream:
            await stream.window(client.host.seal())
            await stream.acknowledged()
        (kept,) = rows(valuer, TPM)
        assert (kept.ak_name, kept.ak_public) == (tpm.ak.name.hex(), tpm.ak.public)
        assert kept.root_sha256 == MAKER.sha256
        assert "SLB9670" in kept.detail
        (key,) = rows(valuer, SEALING_KEY)
        assert (key.algorithm, key.ak_name) == ("ecdsa-p256", tpm.ak.name.hex())
        (record,) = records(valuer, "enrolment")
        assert record["host_id"] == reply.host_id
        assert record["tpm"]["ek_sha256"] == kept.ek_sha256
        assert record["tpm"]["root_sha256"] == MAKER.sha256
        assert record["tpm"]["virtual"] is False
        assert bytes.fromhex(record["tpm"]["ak_public"]) == tpm.ak.public
        assert len(record["tpm"]["certificates"]) == 2
        assert (record["ek_before"], record["ek_changed"]) == (None, False)

    during(valuer, story)
    assert outcomes(valuer, "activate", "ok") == outcomes(valuer, "enroll", "ok") == 1


def test_a_tpm_that_no_listed_maker_endorsed_enrols_and_its_root_is_unknown(
    valuer: FakeValuer,
) -> None:
    tpm = FakeTpm(Maker())

    async def story() -> None:
        await proving.enroll(valuer, HostClient(FakeHost()), tpm)
        (kept,) = rows(valuer, TPM)
        assert kept.root_sha256 is None
        assert "no listed root" in kept.detail
        assert records(valuer, "enrolment")[0]["tpm"]["root_sha256"] is None

    during(valuer, story)


def test_a_simulated_tpm_is_believed_where_the_policy_names_its_root(tmp_path: Path) -> None:
    simulated = Maker()
    valuer = FakeValuer(tmp_path, tpms=Tpms([simulated.sha256], MAKER.roots))
    tpm = FakeTpm(simulated)
    tpm.certificates.append(der(simulated.root.certificate))

    async def story() -> None:
        await proving.enroll(valuer, HostClient(FakeHost()), tpm)
        record = records(valuer, "enrolment")[0]["tpm"]
        assert (record["root_sha256"], record["virtual"]) == (simulated.sha256, True)
        assert "simulated" in record["detail"]

    during(valuer, story)
    valuer.check()
    valuer.close()


def test_a_key_of_a_curve_without_a_tpm_is_a_software_key(valuer: FakeValuer) -> None:
    client = HostClient(FakeHost())
    client.host.signer = TpmSigner(TpmKey(0))

    async def story() -> None:
        await client.enroll(valuer.token())
        assert [key.ak_name for key in rows(valuer, SEALING_KEY)] == [None]
        assert records(valuer, "enrolment")[0]["tpm"] is None

    during(valuer, story)


@pytest.mark.parametrize("wrong", ["empty", "other host's", "two hours old", "other key's"])
def test_only_what_the_credential_holds_activates_a_key(valuer: FakeValuer, wrong: str) -> None:
    tpm, client = FakeTpm(MAKER), HostClient(FakeHost())

    async def story() -> None:
        key = tpm.signing_key()
        client.host.signer = TpmSigner(key)
        bound = proving.binding(tpm, key)
        activation = await proving.activate(valuer, tpm)
        if wrong == "empty":
            activation = b""
        elif wrong == "other host's":
            activation = await proving.activate(valuer, FakeTpm(MAKER))
        elif wrong == "other key's":
            tpm.ak = TpmKey(AK_ATTRIBUTES)
            activation = await proving.activate(valuer, tpm)
        token = valuer.token(life_ms=9 * HOUR_MS)
        request = proving.enroll_request(client, token, bound, activation)
        if wrong == "two hours old":
            valuer.clock.now_ms += 2 * HOUR_MS
        words = await denied(client.enroll(token, request), "bad_activation", PERMISSION)
        assert "ask for one again" in words
        assert rows(valuer, HOST) == []

    during(valuer, story)
    assert outcomes(valuer, "enroll", "bad_activation") == 1


def test_an_hour_may_end_between_asking_and_enrolling(valuer: FakeValuer) -> None:
    tpm, client = FakeTpm(MAKER), HostClient(FakeHost())

    async def story() -> None:
        key = tpm.signing_key()
        client.host.signer = TpmSigner(key)
        activation = await proving.activate(valuer, tpm)
        token = valuer.token(life_ms=9 * HOUR_MS)
        valuer.clock.now_ms += HOUR_MS
        request = proving.enroll_request(client, token, proving.binding(tpm, key), activation)
        await client.enroll(token, request)

    during(valuer, story)


@pytest.mark.parametrize(
    "attributes",
    [
        AK_ATTRIBUTES & ~0x2,  # may be copied to another TPM
        AK_ATTRIBUTES & ~0x10,  # may get another parent
        AK_ATTRIBUTES & ~0x20,  # was made elsewhere
        AK_ATTRIBUTES & ~0x10000,  # signs what it is given, and so any "quote"
        AK_ATTRIBUTES | 0x20000,  # decrypts too
    ],
)
def test_an_attestation_key_that_could_lie_is_refused_before_anything_else(
    valuer: FakeValuer, attributes: int
) -> None:
    tpm = FakeTpm(MAKER, ak_attributes=attributes)

    async def story() -> None:
        words = await denied(proving.activate(valuer, tpm), "bad_tpm", PERMISSION)
        assert "attributes" in words

    during(valuer, story)


def _copyable(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    key.attributes = SIGNING_ATTRIBUTES & ~0x2
    return proving.binding(tpm, key)


def _imported(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    key.attributes = SIGNING_ATTRIBUTES & ~0x20
    return proving.binding(tpm, key)


def _other_key(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    return proving.binding(tpm, tpm.signing_key())


def _other_name(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    bound = proving.binding(tpm, tpm.signing_key())
    bound.key_public = key.public
    return bound


def _by_another(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    bound = proving.binding(tpm, key)
    bound.certify_attest, bound.certify_signature = tpm.certify(key, by=TpmKey(AK_ATTRIBUTES))
    return bound


def _a_quote(tpm: FakeTpm, key: TpmKey) -> pb.TpmBinding:
    bound = proving.binding(tpm, key)
    bound.certify_attest, bound.certify_signature = tpm.quote(key.name, (0,))
    return bound


@pytest.mark.parametrize(
    "make", [_copyable, _imported, _other_key, _other_name, _by_another, _a_quote]
)
def test_a_sealing_key_that_the_tpm_does_not_hold_is_no_tpm_key(valuer: FakeValuer, make) -> None:
    tpm, client = FakeTpm(MAKER), HostClient(FakeHost())

    async def story() -> None:
        key = tpm.signing_key()
        client.host.signer = TpmSigner(key)
        activation, token = await proving.activate(valuer, tpm), valuer.token()
        request = proving.enroll_request(client, token, make(tpm, key), activation)
        await denied(client.enroll(token, request), "bad_tpm", PERMISSION)
        assert rows(valuer, TPM) == rows(valuer, HOST) == []

    during(valuer, story)
    assert outcomes(valuer, "enroll", "bad_tpm") == 1


def test_certificates_that_are_no_endorsement_keys_are_refused(valuer: FakeValuer) -> None:
    tpm = FakeTpm(MAKER)
    on_a_curve = MAKER.endorse(ec.generate_private_key(ec.SECP256R1()))
    no_purpose = MAKER.endorse(tpm.ek, EK_MARKS[:1])
    modulus = tpm.ek.public_key().public_numbers().n.to_bytes(256, "big")
    even = modulus[:-1] + bytes([modulus[-1] & 0xFE])
    no_modulus = [Maker().endorse(tpm.ek)[0].replace(modulus, even)]  # of a root that nobody knows

    async def story() -> None:
        for certificates in ([], [b"no certificate"], on_a_curve, no_purpose, no_modulus):
            tpm.certificates = certificates
            await denied(proving.activate(valuer, tpm), "bad_tpm", PERMISSION)

    during(valuer, story)


def test_one_chip_is_one_hosts_for_ever(valuer: FakeValuer) -> None:
    tpm = FakeTpm(MAKER)
    first, second = HostClient(FakeHost(seed=1)), HostClient(FakeHost(seed=2))

    async def story() -> None:
        await proving.enroll(valuer, first, tpm)
        words = await denied(proving.enroll(valuer, second, tpm), "ek_enrolled", PERMISSION)
        assert "another host's" in words
        tpm.ak = TpmKey(AK_ATTRIBUTES)  # another key of the same chip changes nothing
        await denied(proving.enroll(valuer, second, tpm), "ek_enrolled", PERMISSION)
        assert len(rows(valuer, HOST)) == 1
        await proving.enroll(valuer, second, FakeTpm(MAKER))

    during(valuer, story)
    assert outcomes(valuer, "enroll", "ek_enrolled") == 2


def test_a_host_enrols_anew_with_its_chip_and_with_another_it_is_said(valuer: FakeValuer) -> None:
    tpm, other, client = FakeTpm(MAKER), FakeTpm(MAKER), HostClient(FakeHost())

    async def story() -> None:
        host_id = (await proving.enroll(valuer, client, tpm)).host_id
        await proving.enroll(valuer, client, tpm, valuer.token(host_id=host_id))
        reply = await proving.enroll(valuer, client, other, valuer.token(host_id=host_id))
        assert (reply.host_id, reply.incarnation) == (host_id, 2)
        first, again, changed = records(valuer, "enrolment")
        old, new = first["tpm"]["ek_sha256"], changed["tpm"]["ek_sha256"]
        assert old != new
        assert [r["ek_changed"] for r in (first, again, changed)] == [False, False, True]
        assert [r["ek_before"] for r in (first, again, changed)] == [None, old, old]
        # Both chips are this host's now.
        third = HostClient(FakeHost(seed=3))
        for chip in (tpm, other):
            await denied(proving.enroll(valuer, third, chip), "ek_enrolled", PERMISSION)

    during(valuer, story)


def test_a_lost_reply_costs_nothing_though_the_credential_is_old(valuer: FakeValuer) -> None:
    tpm, client = FakeTpm(MAKER), HostClient(FakeHost())

    async def story() -> None:
        key = tpm.signing_key()
        client.host.signer = TpmSigner(key)
        activation, token = await proving.activate(valuer, tpm), valuer.token()
        request = proving.enroll_request(client, token, proving.binding(tpm, key), activation)
        first = await client.enroll(token, request)
        valuer.clock.now_ms += 3 * HOUR_MS
        again = await client.enroll(token, request)
        assert (first.host_id, first.incarnation) == (again.host_id, again.incarnation)
        valuer.clock.now_ms -= 3 * HOUR_MS

    during(valuer, story)


def test_messages_that_are_none_are_refused(valuer: FakeValuer) -> None:
    async def story() -> None:
        async with proving.enrolment(valuer) as stub:
            truncated = pb.RotateRequest(statement=b"\x08")
            invalid = grpc.StatusCode.INVALID_ARGUMENT
            await denied(stub.Rotate(truncated), "malformed", invalid)

    during(valuer, story)


def test_people_see_in_which_tpm_a_hosts_key_lives(valuer: FakeValuer) -> None:
    async def story() -> None:
        software, bound = HostClient(FakeHost(seed=1)), HostClient(FakeHost(seed=2))
        await software.enroll(valuer.token())
        await proving.enroll(valuer, bound, FakeTpm(MAKER))
        said = {host.host_id: host.tpm for host in valuer.database.read(list_hosts)}
        assert said[software.host.host_id] is None
        words = said[bound.host.host_id]
        assert words is not None
        assert words.startswith("TPM of IFX, SLB9670")

    during(valuer, story)
