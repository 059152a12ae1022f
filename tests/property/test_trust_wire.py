"""Whatever bytes a host sends where trust begins, it is refused by name, and nothing falls over."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from assay_core.errors import Refused
from assay_core.seal import PublicKey
from assay_proto.v1 import attestation_pb2, enrollment_pb2
from assay_valuer.denial import Denied
from assay_valuer.ingest import wire, wire_enrolment
from assay_valuer.tpms import Binding, Tpms
from tests.fakes.endorsing import Maker
from tests.fakes.tpm import FakeTpm, TpmSigner

NOW_MS = 1_795_000_000_000
MAKER = Maker()
TPM = FakeTpm(MAKER)
KEY = TPM.signing_key()
TPMS = Tpms(roots=MAKER.roots)
blobs = st.binary(max_size=300)


def honest() -> tuple[Binding, PublicKey, bytes]:
    attest, signature = TPM.certify(KEY)
    binding = Binding(tuple(TPM.certificates), TPM.ak.public, KEY.public, attest, signature)
    credential = TPMS.activate(TPM.certificates, TPM.ak.public, NOW_MS)
    return binding, TpmSigner(KEY).public_key, TPM.open(credential.blob, credential.secret)


BINDING, PUBLIC, ACTIVATION = honest()


@given(data=blobs)
def test_any_request_is_parsed_or_denied(data: bytes) -> None:
    for parse in (
        wire_enrolment.parse_enroll,
        wire_enrolment.parse_renew,
        wire_enrolment.parse_activate,
        wire_enrolment.parse_rotate,
    ):
        with contextlib.suppress(Denied):
            parse(data)


@given(statement=blobs, signature=blobs, activation=blobs)
def test_any_statement_in_a_request_is_parsed_or_denied(statement, signature, activation) -> None:
    request = enrollment_pb2.RotateRequest(
        statement=statement, signature=signature, new_signature=signature, activation=activation
    )
    with contextlib.suppress(Denied):
        wire_enrolment.parse_rotate(request.SerializeToString())


@given(payload=blobs, kind=st.text(max_size=30), sig=blobs, pieces=st.lists(blobs, max_size=4))
def test_any_evidence_and_proposal_is_parsed_whole_or_refused(payload, kind, sig, pieces) -> None:
    envelope = attestation_pb2.Envelope(
        payload=payload, payload_type=kind, signatures=[attestation_pb2.Signature(sig=sig)]
    )
    evidence = attestation_pb2.SealedEvidence(envelope=envelope, blobs=pieces)
    message = attestation_pb2.AgentMessage(evidence=evidence)
    found = wire.parse_agent_message(message.SerializeToString())
    assert isinstance(found, wire.SealedEvidence)
    assert (found.envelope.payload, found.blobs) == (payload, tuple(pieces))
    proposal = attestation_pb2.AgentMessage(proposal=envelope)
    assert isinstance(wire.parse_agent_message(proposal.SerializeToString()), wire.Proposal)
    for cut in range(1, len(message.SerializeToString()), 7):
        with contextlib.suppress(Refused):
            wire.parse_agent_message(message.SerializeToString()[:-cut])


@settings(max_examples=200)
@given(which=st.integers(0, 5), at=st.integers(0, 10_000), change=st.binary(max_size=3),
       cut=st.integers(0, 3))  # fmt: skip
def test_no_binding_with_a_changed_byte_is_believed(which, at, change, cut) -> None:
    """Of the signature itself, no byte is changed for another: its numbers may have leading zeros."""
    parts = [
        BINDING.ek_certificates[0], BINDING.ak_public, BINDING.key_public,
        BINDING.certify_attest, BINDING.certify_signature, ACTIVATION,
    ]  # fmt: skip
    place = at % (len(parts[which]) + 1)
    if which == 4:
        cut = len(change)
    changed = parts[which][:place] + change + parts[which][place + cut :]
    if changed == parts[which]:
        return
    parts[which] = changed
    leaf, ak, key, attest, signature, activation = parts
    binding = Binding((leaf, BINDING.ek_certificates[1]), ak, key, attest, signature)
    try:
        TPMS.check(binding, PUBLIC, activation, NOW_MS)
    except Denied:
        return
    raise AssertionError(f"part {which} changed at {place} was believed")


def test_the_unchanged_binding_holds() -> None:
    assert TPMS.check(BINDING, PUBLIC, ACTIVATION, NOW_MS).endorsed.root_sha256 == MAKER.sha256
