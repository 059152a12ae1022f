"""The fold of evidence: every freeze that it knows, and the near miss that must not be one."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec.structs import replace

from assay_core.evidence import tpm as core_tpm
from assay_core.evidence.bundle import Keys, SealingKey
from assay_core.instants import HOUR_MS
from assay_proto.v1 import attestation_pb2 as stream_pb
from assay_valuer import claims, proving
from assay_valuer.assets import Registry
from assay_valuer.fleet import Fleet
from assay_valuer.ledger.append import to_json
from assay_valuer.ledger.read import StoredEvidence
from assay_valuer.standing.holding import Shown
from assay_valuer.standing.trust import FreezeCode, Transition, Verdict
from assay_valuer.standing.types import Asset, Host, Track
from tests.fakes import proving as fake
from tests.fakes.chassis import GPU_MAKER, new_tpm, trusting
from tests.fakes.host import FakeHost
from tests.fakes.nvidia import FWID, Maker, baseboard
from tests.fakes.tpm import TpmKey, TpmSigner

T0 = 1_795_000_000_000
A, B = 1, 2
PCRS = (0, 2, 4, 7)
ROOT = "ab" * 32


class Fold:
    """Hosts A and B, each with a chip, whose answers are folded one after another."""

    def __init__(self, policy=None):
        self.fleet = Fleet([], {}, policy or trusting(), Registry())
        self.known = self.fleet.known
        self.position = 0
        self.machines: dict[int, tuple[FakeHost, object, TpmSigner]] = {}
        self.now_ms = T0

    def enrol(self, host_key, *, tpm=None, ak=None, **facts):
        chip = tpm or new_tpm()
        signer = TpmSigner(chip.signing_key())
        host = FakeHost(gpu_count=1, host_id=f"host-{host_key}")
        host.signer = signer
        host.seal()
        self.machines[host_key] = (host, chip, signer)
        self.known.hosts[host_key] = Host(host_key, host.host_id, "lab", T0, False)
        self.key(host_key, ak=ak, **facts)
        return chip

    def key(self, host_key, *, ak=None, ek="e1", software=False, **facts):
        host, chip, _ = self.machines[host_key]
        bound = {
            "ak_name": (ak or chip.ak).name.hex(),
            "ek_sha256": ek,
            "root_sha256": ROOT,
            "virtual": False,
            "detail": "a TPM of tests",
        }
        record = {"host_id": host.host_id, "tpm": None if software else bound, **facts}
        self.position += 1
        proving.take_key(self.known, to_json(record), (self.now_ms, self.position))

    def gpu(self, number, host_key, pdi):
        """A GPU that its host's windows name by this PDI."""
        self.known.put(
            Asset(
                id=number,
                serial=f"S{number}",
                board_part_number="P",
                uuid=number.to_bytes(16, "big"),
                name="NVIDIA H100",
                host_key=host_key,
                simulated=False,
                track=Track(),
                pdi=pdi,
            )
        )

    def answer(self, host_key, devices=(), *, asked_ms=None, took_ms=1_000, quoted=True, **more):
        """An answer to a challenge of now, or of `asked_ms`."""
        host, chip, signer = self.machines[host_key]
        asked = self.now_ms if asked_ms is None else asked_ms
        nonce = hashlib.sha256(self.position.to_bytes(8, "big")).digest()
        challenge = stream_pb.EvidenceChallenge(nonce=nonce, pcrs=PCRS if quoted else ())
        sealed = fake.answer(host, challenge, **({"tpm": chip, "devices": devices} | more))
        self.position += 1
        stored = StoredEvidence(self.position, host_key, 0, sealed, asked, self.now_ms + took_ms)
        public = core_tpm.public((more.get("quote_by") or chip.ak).public)
        keys = Keys(host.host_id, 0, (SealingKey(signer.public_key, public),))
        proving.take_evidence(self.known, stored, keys)
        self.now_ms += HOUR_MS

    def freezes(self, host_key):
        return [one.code for one in self.known.proofs_of(host_key).freezes]

    def frozen(self, number):
        return [one.code for one in self.known[number].trust.freezes]


@pytest.fixture
def fold():
    made = Fold()
    made.enrol(A)
    made.enrol(B)
    return made


# ---------------------------------------------------------------------------- quotes


def test_a_quote_is_kept_with_when_it_was_asked_for(fold):
    fold.answer(A)
    _, chip, _ = fold.machines[A]
    proof = fold.known.proofs_of(A).tpm
    assert proof is not None
    assert (proof.at_ms, proof.received_ms) == (T0, T0 + 1_000)
    assert (proof.ak_name, proof.clock_ms, proof.reset_count) == (
        chip.ak.name.hex(),
        chip.clock_ms,
        chip.resets,
    )
    assert fold.known.proofs_of(B).tpm is None


def test_evidence_that_does_not_hold_proves_nothing(fold):
    fold.answer(A, quote_by=TpmKey(0x00050072), tpm=fold.machines[A][1])  # by no key of that chip
    good = fold.known.proofs_of(A).tpm
    assert good is None
    fold.answer(A, signer=TpmSigner(TpmKey(0x00040072)))
    assert fold.known.proofs_of(A).tpm is None
    assert fold.freezes(A) == []


@pytest.mark.parametrize(
    ("clock", "resets", "restarts", "back"),
    [
        (+1, 0, 0, ""),
        (0, 0, 0, ""),
        (-1, 0, 0, "clock went from"),
        (+1, -1, 0, "reset count went from"),
        (-1_000_000, +1, 0, ""),  # Clock is kept only now and then: after a reset it may be behind
        (+1, 0, -1, "restarts went from"),
        (+1, +1, -1, ""),  # a reset begins the restarts anew
    ],
)
def test_what_of_a_tpms_clock_may_never_go_back(fold, clock, resets, restarts, back):
    fold.answer(A)
    before = fold.known.proofs_of(A)
    assert before.tpm is not None
    fold.known.put_proofs(A, replace(before, tpm=replace(before.tpm, restart_count=1)))
    now = replace(
        before.tpm,
        clock_ms=before.tpm.clock_ms + clock,
        reset_count=before.tpm.reset_count + resets,
        restart_count=1 + restarts,
    )
    why = proving._went_back(replace(before.tpm, restart_count=1), now)
    assert (back in why) if back else why == ""


def test_a_tpm_clock_that_went_back_freezes_its_host_and_proves_nothing(fold):
    fold.answer(A)
    _, chip, _ = fold.machines[A]
    chip.clock_ms -= 500_000  # another copy of its state
    before = fold.known.proofs_of(A).tpm
    fold.answer(A)
    assert fold.freezes(A) == [FreezeCode.CLOCK]
    assert fold.known.proofs_of(A).tpm == before
    assert fold.freezes(B) == []


def test_a_reset_count_that_went_back_freezes_too(fold):
    fold.answer(A)
    fold.machines[A][1].resets -= 1
    fold.answer(A)
    assert fold.freezes(A) == [FreezeCode.CLOCK]


def test_a_reboot_and_a_long_time_off_freeze_nothing(fold):
    for _ in range(3):
        fold.answer(A)
        fold.machines[A][1].resets += 1
        fold.machines[A][1].clock_ms -= 1_500  # what an unorderly shutdown loses
    assert fold.freezes(A) == []


def test_an_answer_that_was_asked_for_before_the_last_came_in_may_be_older(fold):
    """Two challenges were open; the second was answered first, the first was sent again."""
    _, chip, _ = fold.machines[A]
    first_ms, fold.now_ms = fold.now_ms, fold.now_ms + 60_000
    made_ms = chip.clock_ms
    chip.clock_ms += 60_000
    fold.answer(A)
    newest = fold.known.proofs_of(A).tpm
    chip.clock_ms = made_ms
    fold.answer(A, asked_ms=first_ms)
    assert fold.freezes(A) == []
    assert fold.known.proofs_of(A).tpm == newest  # and the newer proof stays


def test_a_quote_by_a_key_that_the_host_went_over_from_says_nothing_of_the_new_one(fold):
    fold.answer(A)
    newer = TpmKey(0x00050072)
    fold.key(A, ak=newer)
    assert fold.known.proofs_of(A).tpm is None
    fold.answer(A)  # by the older key, which may still sign for a while
    assert fold.known.proofs_of(A).tpm is None
    fold.machines[A][1].ak = newer
    fold.machines[A][1].clock_ms -= 500_000  # another key's clock is not held against it
    fold.answer(A)
    assert fold.known.proofs_of(A).tpm is not None
    assert fold.freezes(A) == []


# ---------------------------------------------------------------------------- keys and chips


def test_a_key_of_the_same_attestation_key_keeps_the_proof(fold):
    fold.answer(A)
    before = fold.known.proofs_of(A)
    fold.key(A)
    assert fold.known.proofs_of(A) == before


def test_a_software_key_takes_the_tpms_word_away_and_freezes_nothing(fold):
    fold.answer(A)
    fold.key(A, software=True)
    proofs = fold.known.proofs_of(A)
    assert (proofs.ak_name, proofs.root_sha256, proofs.tpm, proofs.freezes) == ("", None, None, ())
    assert proofs.ek_sha256 == "e1"


def test_another_tpm_freezes_unless_a_board_swap_was_accepted(fold):
    fold.key(A, ek="e2", ek_before="e1", ek_changed=True)
    assert fold.freezes(A) == [FreezeCode.EK]
    for kind, expected in (("board_swap", []), ("reinstall", [FreezeCode.EK])):
        made = Fold()
        made.enrol(A)
        put_transition(made, kind)
        made.key(A, ek="e2", ek_before="e1", ek_changed=True)
        assert made.freezes(A) == expected
        assert made.known.proofs_of(A).ek_sha256 == "e2"


def test_a_board_swap_that_is_over_excuses_nothing(fold):
    put_transition(fold, "board_swap", until_ms=T0 - 1)
    fold.key(A, ek="e2", ek_before="e1", ek_changed=True)
    assert fold.freezes(A) == [FreezeCode.EK]


def put_transition(fold, kind, until_ms=T0 + HOUR_MS):
    one = Transition(event_id=1, kind=kind, begin_ms=0, until_ms=until_ms, why="")
    fold.known.put_proofs(A, replace(fold.known.proofs_of(A), transitions=(one,)))


def test_a_virtual_tpm_is_noted_as_one(fold):
    host, chip, _ = fold.machines[A]
    record = {
        "host_id": host.host_id,
        "tpm": {
            "ak_name": chip.ak.name.hex(),
            "ek_sha256": "e1",
            "root_sha256": ROOT,
            "virtual": True,
            "detail": "virtual TPM",
        },
    }
    proving.take_key(fold.known, to_json(record), (T0, 9))
    assert fold.known.proofs_of(A).virtual
    assert fold.known.proofs_of(A).ek_detail == "virtual TPM"


def test_a_record_of_before_there_were_tpms_is_a_software_keys(fold):
    proving.take_key(fold.known, b'{"host_id":"host-1","site":"lab"}', (T0, 9))
    assert fold.known.proofs_of(A).ak_name == ""
    proving.take_key(fold.known, b'{"host_id":"nobody"}', (T0, 10))


# ---------------------------------------------------------------------------- devices


@pytest.fixture
def device():
    return GPU_MAKER.device(0x77)


def test_a_device_binds_its_identity_once_and_proves_itself(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    identity = hashlib.sha256(spki(device)).hexdigest()
    one = fold.known[1]
    assert (one.identity, one.trust.proof.at_ms, one.trust.proof.host_key) == (identity, T0, A)
    assert one.trust.proof.simulated
    assert [bound.identity for bound in fold.fleet.taken().bound] == [identity]
    fold.answer(A, [device])
    assert fold.known[1].trust.proof.at_ms == T0 + HOUR_MS
    assert fold.fleet.taken().bound == []


def spki(device):
    return device.ik.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_certificates_that_can_be_revoked_are_those_between_leaf_and_root(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    expected = tuple(
        hashlib.sha256(one.public_bytes(Encoding.DER)).hexdigest() for one in device.chain[1:4]
    )
    assert fold.known[1].trust.proof.certificates == expected


@pytest.mark.parametrize("pdis", [(), (0x78,), (0x77, 0x77)])
def test_a_device_that_no_window_names_or_two_do_is_bound_to_nothing(fold, device, pdis):
    for number, pdi in enumerate(pdis, 1):
        fold.gpu(number, A, pdi)
    fold.gpu(9, B, 0x77)  # another host's word binds nothing here
    fold.answer(A, [device])
    assert all(one.identity is None for one in fold.known.all.values())
    assert fold.known.by_identity(hashlib.sha256(spki(device)).hexdigest()) is None


def test_other_firmware_is_the_same_device(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    before = fold.known[1].identity
    device.update(bytes(reversed(FWID)))
    fold.answer(A, [device])
    assert (fold.known[1].identity, fold.frozen(1)) == (before, [])
    assert fold.known[1].trust.proof.at_ms == T0 + HOUR_MS


def test_the_same_serial_with_another_device_freezes_the_gpu(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    fold.answer(A, [GPU_MAKER.device(0x77)])  # says it has the same PDI, and has another key
    assert fold.frozen(1) == [FreezeCode.IDENTITY]
    assert fold.known[1].trust.proof.at_ms == T0
    assert fold.freezes(A) == []


def test_an_older_answer_of_a_device_replaces_no_newer_one(fold, device):
    fold.gpu(1, A, 0x77)
    fold.now_ms += HOUR_MS
    fold.answer(A, [device])
    newest = fold.known[1].trust.proof
    fold.answer(A, [device], asked_ms=T0, quoted=False)
    assert fold.known[1].trust.proof == newest


def test_a_root_that_policy_does_not_name_proves_nothing(device):
    fold = Fold(trusting(device_roots=()))
    fold.enrol(A)
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    assert (fold.known[1].identity, fold.known[1].trust.proof) == (None, None)
    assert "pinned" in fold.known.proofs_of(A).devices_absent
    assert fold.known.proofs_of(A).tpm is not None  # the quote is the host's own


def test_a_device_that_answers_on_two_hosts_at_once_freezes_the_gpu_and_no_host(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    fold.answer(B, [device])
    assert [one.verdict for one in fold.known[1].trust.claims] == [Verdict.OPEN]
    assert fold.known[1].trust.claims[0].strength == 2
    assert fold.frozen(1) == []  # it may have been moved: a person is asked
    fold.answer(A, [device])
    assert fold.frozen(1) == []  # and back
    fold.answer(B, [device])
    assert [one.verdict for one in fold.known[1].trust.claims] == [Verdict.CLONE]
    assert fold.frozen(1) == [FreezeCode.CLONE]
    assert fold.freezes(A) == fold.freezes(B) == []
    assert fold.known[1].host_key == A


def test_a_device_that_was_moved_without_a_word_is_asked_about_and_frozen_never(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    for _ in range(6):
        fold.answer(B, [device])
        fold.answer(A)  # A lives on without it
    assert [one.verdict for one in fold.known[1].trust.claims] == [Verdict.OPEN]
    assert fold.frozen(1) == []


def test_a_dispute_of_words_becomes_a_clone_when_the_device_answers_on_both(fold, device):
    fold.gpu(1, A, 0x77)
    for at in range(2):
        begin = T0 - 100_000 + at * 10_000
        claims.claim(fold.known, 1, Shown(B, "host-2", begin, begin + 1_000, at, "aa"))
        claims.confirm(fold.known, 1, Shown(A, "host-1", begin + 2_000, begin + 3_000, at, "bb"))
    claims.claim(fold.known, 1, Shown(B, "host-2", T0 - 2_000, T0 - 1_000, 5, "aa"))
    assert [one.verdict for one in fold.known[1].trust.claims] == [Verdict.DISPUTED]
    assert fold.frozen(1) == []
    fold.answer(A, [device])
    fold.answer(B, [device])
    assert [one.verdict for one in fold.known[1].trust.claims] == [Verdict.CLONE]
    assert fold.frozen(1) == [FreezeCode.CLONE]


def test_a_whole_board_is_noted_and_half_of_one_is_not():
    maker = Maker()
    policy = trusting(device_roots=tuple(maker.roots))
    for left_out, whole in ((None, True), (9, False)):
        fold = Fold(policy)
        fold.enrol(A)
        for number in range(8):
            fold.gpu(number + 1, A, 0x1000 + number)
        host, chip, _ = fold.machines[A]
        nonce = hashlib.sha256(fold.position.to_bytes(8, "big")).digest()
        asked = fake.device_nonce(nonce, chip.ak.name, host.previous)
        board = baseboard(maker, asked)
        given = [one for at, one in enumerate(board) if at != left_out]
        fold.answer(A, evidence=given)
        proofs = [fold.known[number].trust.proof for number in range(1, 9)]
        assert [one is not None and one.whole for one in proofs] == [whole] * 8


# ---------------------------------------------------------------------------- revocations, forks


@pytest.mark.parametrize("which", [1, 2, 3])
def test_a_revoked_certificate_freezes_what_it_vouched_for(fold, device, which):
    fold.gpu(1, A, 0x77)
    fold.gpu(2, A, 0x79)
    fold.answer(A, [device])
    name = hashlib.sha256(device.chain[which].public_bytes(Encoding.DER)).hexdigest()
    for status in ("good", "unknown"):
        told = to_json({"certificate_sha256": name, "status": status})
        proving.take_ocsp(fold.known, told, (T0, 50))
        assert fold.frozen(1) == []
    told = to_json({"certificate_sha256": name, "status": "revoked"})
    proving.take_ocsp(fold.known, told, (T0, 51))
    assert fold.frozen(1) == [FreezeCode.REVOKED]
    assert fold.frozen(2) == []
    (freeze,) = fold.known[1].trust.freezes
    assert (freeze.since_ms, freeze.position) == (T0, 51)


def test_a_certificate_that_vouched_for_nothing_here_freezes_nothing(fold, device):
    fold.gpu(1, A, 0x77)
    fold.answer(A, [device])
    told = to_json({"certificate_sha256": "cd" * 32, "status": "revoked"})
    proving.take_ocsp(fold.known, told, (T0, 51))
    assert fold.frozen(1) == []


def test_a_fork_freezes_its_host_once_with_the_first_reason(fold):
    proving.take_fork(fold.known, A, 7, (T0, 3))
    proving.take_fork(fold.known, A, 9, (T0 + 1, 4))
    (freeze,) = fold.known.proofs_of(A).freezes
    assert (freeze.code, freeze.position) == (FreezeCode.FORK, 3)
    assert "windows 7" in freeze.detail
    assert fold.freezes(B) == []
