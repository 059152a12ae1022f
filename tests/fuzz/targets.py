"""Every parser that takes bytes from a host, or from who publishes prices, with what it is fed and what it may raise.

A target is called with any bytes. It may return, or raise one of its named errors; anything else is
a finding. `seeds` are inputs that hold, or nearly: the fuzzer starts from them.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from lxml import etree
from signxml import DigestAlgorithm, SignatureMethod, XMLSigner

from assay_core import appraisal, asset_events, codec, disclosure
from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.errors import FileError, HostError, Refused
from assay_core.evidence import chain, der, ek, forms, nvidia, ocsp, rim, sealed, spdm, tpm
from assay_core.evidence.origin import Origin
from assay_core.evidence.statement import Quote, Statement
from assay_core.header import Source
from assay_proto.v1 import attestation_pb2, enrollment_pb2
from assay_valuer.denial import Denied
from assay_valuer.ingest import wire, wire_enrolment
from assay_valuer.market.feeds import rows
from assay_valuer.market.feeds.feed import COLUMNS, FeedMalformed, Format
from assay_valuer.market.observations import Market
from tests.fakes import ocsp as responder
from tests.fakes.endorsing import Issuer
from tests.fakes.endorsing import Maker as TpmMaker
from tests.fakes.nvidia import NOW_MS, Authority, Maker, authority, baseboard, issue
from tests.fakes.price_files import rental_file, rental_row, resale_file, resale_row
from tests.fakes.tpm import AK_ATTRIBUTES, FakeTpm, TpmKey, sized

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NONCE = bytes(range(32))


@dataclass(frozen=True)
class Target:
    """A parser: what it does with bytes, what it may raise, and bytes that it likes."""

    run: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], Sequence[bytes]]


@functools.cache
def _board() -> tuple[Maker, nvidia.Evidence, nvidia.Evidence]:
    maker = Maker()
    gpu, switch = baseboard(maker, NONCE, gpus=1, switches=1)
    return maker, gpu, switch


def _reports() -> list[bytes]:
    _, gpu, switch = _board()
    return [gpu.report, switch.report]


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def _report(data: bytes) -> object:
    """A report under the GPU's own chain; every other than its own is refused."""
    maker, gpu, _ = _board()
    evidence = nvidia.Evidence(data, gpu.chain)
    proof = nvidia.verify(evidence, nonce=None, now_ms=NOW_MS, roots=maker.roots)
    if proof.nonce != NONCE:
        raise AssertionError("a report was believed that nobody signed")
    return proof


def _chain(data: bytes) -> object:
    maker, _, _ = _board()
    return chain.verify(chain.read(data), NOW_MS, maker.roots)


def _certificate(data: bytes) -> object:
    """One certificate of a chain, chosen by the first byte, is what the rest says."""
    maker, gpu, _ = _board()
    armour = base64.encodebytes(data[1:])
    pem = b"-----BEGIN CERTIFICATE-----\n" + armour + b"-----END CERTIFICATE-----\n"
    path = list(gpu.chain)
    path[(data[0] if data else 0) % len(path)] = chain.read(pem)[0]
    device = chain.verify(path, NOW_MS, maker.roots)
    if device != chain.verify(gpu.chain, NOW_MS, maker.roots):
        raise AssertionError("a certificate was believed that nobody signed")
    return device


def _certificates() -> list[bytes]:
    _, gpu, _ = _board()
    return [bytes([place]) + one.public_bytes(Encoding.DER) for place, one in enumerate(gpu.chain)]


def _forms() -> list[bytes]:
    _, gpu, switch = _board()
    entries = [
        {
            "evidence": base64.b64encode(one.report).decode(),
            "certificate": base64.b64encode(_pem(one.chain)).decode(),
            "nonce": NONCE.hex(),
        }
        for one in (gpu, switch)
    ]
    return [gpu.report, gpu.report.hex().encode(), json.dumps(entries[:1]).encode()]


def _form(data: bytes) -> object:
    if data.lstrip()[:1] == b"[":
        return forms.read(data, None)
    return forms.read(data, _pem(_board()[1].chain))


_AK = TpmKey(AK_ATTRIBUTES)


def _attested(data: bytes) -> object:
    """The data is what the TPM signed: so the fuzzer gets behind the signature."""
    r, s = _AK.raw(data)
    signature = bytes.fromhex("0018000b") + sized(r) + sized(s)
    key = tpm.public(_AK.public)
    if data[4:6] == b"\x80\x17":
        return tpm.certificate(data, signature, key)
    return tpm.quote(data, signature, key)


def _signature(data: bytes) -> object:
    return tpm.quote(b"", data, tpm.public(_AK.public))


@functools.cache
def _tpm() -> FakeTpm:
    return FakeTpm(TpmMaker())


def _attestations() -> list[bytes]:
    chip = _tpm()
    return [chip.quote(NONCE, (0, 7))[0], chip.certify(chip.signing_key())[0]]


def _publics() -> list[bytes]:
    recorded = json.loads((GOLDEN / "tpm_swtpm.json").read_text())
    names = ("ek_public", "ak_public", "signing_public")
    return [_AK.public, *(bytes.fromhex(recorded[name]) for name in names)]


def _endorsed(data: bytes) -> object:
    """Certificates one after the other, each behind two bytes of length."""
    certificates = []
    while data:
        size = int.from_bytes(data[:2], "big")
        certificates.append(data[2 : 2 + size])
        data = data[2 + size :]
    return ek.verify(certificates, NOW_MS, roots=_tpm().maker.roots)


def _endorsements() -> list[bytes]:
    return [b"".join(sized(one) for one in _tpm().certificates)]


@functools.cache
def _answerer() -> responder.Answerer:
    maker, gpu, _ = _board()
    issuer = Issuer(maker.provisioner.key, maker.provisioner.certificate)
    signer = responder.delegate(issuer)
    return responder.Answerer(gpu.chain[1], gpu.chain[2], signer, NOW_MS, nonce=NONCE)


def _judged(data: bytes) -> object:
    one = _answerer()
    return ocsp.judge(
        data,
        one.certificate,
        one.issuer,
        nonce=NONCE,
        now_ms=NOW_MS,
        freshness=ocsp.Freshness(age_max_ms=86_400_000, skew_ms=10**11),
    )


@functools.cache
def _rim() -> tuple[Authority, bytes]:
    """A root of manifests, and one manifest under it."""
    root = authority("Test RIM Root")
    key = ec.generate_private_key(ec.SECP384R1())
    tag, sha384 = rim._TAG.strip("{}"), rim._HASH[1 : rim._HASH.index("}")]
    resource = 'type="Measurement" index="0" active="True" alternatives="1"'
    text = (
        f'<SoftwareIdentity xmlns="{tag}" xmlns:n="{sha384}"><Meta product="GH100"/>'
        f'<Payload><Resource {resource} n:Hash0="{"00" * 48}"/></Payload></SoftwareIdentity>'
    )
    signer = XMLSigner(
        signature_algorithm=SignatureMethod.ECDSA_SHA384,
        digest_algorithm=DigestAlgorithm.SHA384,
        c14n_algorithm="http://www.w3.org/2006/12/xml-c14n11",
    )
    pem = _pem([issue("signer", key, root, ca=False), root.certificate]).decode()
    return root, etree.tostring(signer.sign(etree.fromstring(text.encode()), key=key, cert=pem))


def _manifest(data: bytes) -> object:
    return rim.read(data, at_ms=NOW_MS, roots={_rim()[0].sha256})


GOLDENS = ("window_v1.json", "window_v1_health_only.json", "gap_v1.json")


def _golden(name: str) -> tuple[bytes, list[bytes]]:
    """What is signed in a golden file, and its leaves."""
    file = json.loads((GOLDEN / name).read_text())
    leaves = [base64.b64decode(leaf["leaf"]) for leaf in file["leaves"]]
    return base64.b64decode(file["envelope"]["payload"]), leaves


def _headers() -> list[bytes]:
    return [_golden(name)[0] for name in GOLDENS[:2]]


def _leaves() -> list[bytes]:
    return [leaf for name in GOLDENS[:2] for leaf in _golden(name)[1]]


def _leaf(data: bytes) -> object:
    codec.check_leaves([data])
    return codec.decode_leaf(data)


def _statements() -> list[bytes]:
    _, gpu, _ = _board()
    attest, signature = _tpm().quote(NONCE, (0, 7))
    quote = Quote(attest, signature, _tpm().values((0, 7)))
    device = sealed.device(Origin.IN_BAND_NVML, gpu.report, _pem(gpu.chain))
    statement = Statement(
        "spiffe://example.test/site/a/host/1", 1, NONCE, 7, NONCE, NOW_MS, Source.NVML,
        (device,), "", quote,
    )  # fmt: skip
    return [codec.encode_evidence(statement)]


def _messages() -> list[bytes]:
    pb = attestation_pb2
    made = [pb.AgentMessage(hello=pb.Hello(schema_max=1, agent_version="0.1.0", incarnation=2))]
    for name in GOLDENS:
        payload, leaves = _golden(name)
        signatures = [pb.Signature(sig=bytes(64), keyid="k")]
        envelope = pb.Envelope(payload=payload, payload_type="t", signatures=signatures)
        window = pb.SealedWindow(envelope=envelope, leaves=leaves)
        evidence = pb.SealedEvidence(envelope=envelope, blobs=leaves)
        made += [
            pb.AgentMessage(window=window) if leaves else pb.AgentMessage(gap=envelope),
            pb.AgentMessage(evidence=evidence),
            pb.AgentMessage(proposal=envelope),
        ]
    return [message.SerializeToString(deterministic=True) for message in made]


def _bound() -> enrollment_pb2.TpmBinding:
    chip = _tpm()
    key = chip.signing_key()
    attest, signature = chip.certify(key)
    return enrollment_pb2.TpmBinding(
        ek_certificates=chip.certificates,
        ak_public=chip.ak.public,
        key_public=key.public,
        certify_attest=attest,
        certify_signature=signature,
    )


def _enrolments() -> list[bytes]:
    pb = enrollment_pb2
    statement = pb.EnrollStatement(
        token_id="t", tls_csr=b"csr", sealing_algorithm="ed25519", sealing_public_key=bytes(32),
        agent_version="0.1.0", tpm=_bound(),
    )  # fmt: skip
    signed = statement.SerializeToString(deterministic=True)
    request = pb.EnrollRequest(statement=signed, signature=bytes(64), token_secret=NONCE)
    return [request.SerializeToString(deterministic=True)]


def _renewals() -> list[bytes]:
    pb = enrollment_pb2
    statement = pb.RenewStatement(host_id="h", incarnation=1, tls_csr=b"csr")
    signed = statement.SerializeToString(deterministic=True)
    request = pb.RenewRequest(statement=signed, signature=bytes(64))
    return [request.SerializeToString(deterministic=True)]


def _activations() -> list[bytes]:
    chip = _tpm()
    request = enrollment_pb2.ActivateRequest(
        ek_certificates=chip.certificates, ak_public=chip.ak.public
    )
    return [request.SerializeToString(deterministic=True)]


def _rotations() -> list[bytes]:
    pb = enrollment_pb2
    statement = pb.RotateStatement(
        host_id="h", incarnation=1, sealing_algorithm="ed25519", sealing_public_key=bytes(32),
        tpm=_bound(), tls_csr=b"csr",
    )  # fmt: skip
    signed = statement.SerializeToString(deterministic=True)
    request = pb.RotateRequest(statement=signed, signature=bytes(64), new_signature=bytes(64))
    return [request.SerializeToString(deterministic=True)]


def _disclosed(data: bytes) -> object:
    return disclosure.load(data.decode("utf-8", "replace"), "a file")


def _disclosures() -> list[bytes]:
    return [(GOLDEN / name).read_bytes() for name in GOLDENS]


def _events() -> list[bytes]:
    card = Subject(serial="1650523000001", board_part_number="692-2G520-0200-000")
    said = {"nonce": "7b0c5b0e-6d5c-4c4e-9d0a-2f6f1e3a8c11", "why": "a test"}
    return [
        asset_events.encode(event)
        for event in (
            AssetEvent(kind=Kind.MAINTENANCE, assets=(card,), begin_ms=1, until_ms=2, **said),
            AssetEvent(kind=Kind.RELEASE, assets=(card,), loan="loan-1", **said),
        )
    ]


def _appraisals() -> list[bytes]:
    signed = json.loads((GOLDEN / "appraisal_v1.json").read_text())["appraisal"]
    return [base64.b64decode(signed["payload"])]


def _fed(format_: Format) -> Callable[[bytes], object]:
    """Both markets' rows: what is taken is text that a store can keep, in bounds."""

    def run(data: bytes) -> object:
        tables = []
        for market in Market:
            try:
                tables.append(rows.parse(data, format_, market, "feed"))
            except FeedMalformed as error:
                refused = error
        if not tables:
            raise refused
        for row in (row for table in tables for row in table.rows):
            if any(len(cell) > rows.CELL_MAX or not cell.isprintable() for cell in row.values()):
                raise AssertionError("a cell was taken that nobody could keep")
        return tables

    return run


def _tables() -> list[bytes]:
    rental = rental_file([rental_row("2026-11-20", 2.5), rental_row("2026-11-21", "NaN"), "x"])
    resale = resale_file([resale_row("2026-11-20", '"1,000"')])
    return [rental.encode(), resale.encode()]


def _objects() -> list[bytes]:
    row = dict.fromkeys((*COLUMNS[Market.RENTAL], *COLUMNS[Market.RESALE], "title"), "a")
    row |= {"n_obs": None, "gpu_count": 8, "usd_per_gpu_hour": 2.5, "price_usd": float("nan")}
    return [json.dumps([row]).encode(), json.dumps({"rows": [row, 7, [row]]}).encode()]


TARGETS: Mapping[str, Target] = {
    "spdm": Target(spdm.parse, (spdm.MalformedReport,), _reports),
    "report": Target(_report, (nvidia.BadEvidence,), _reports),
    "chain": Target(_chain, (chain.UntrustedChain,), lambda: [_pem(_board()[1].chain)]),
    "certificate": Target(_certificate, (chain.UntrustedChain,), _certificates),
    "forms": Target(_form, (nvidia.BadEvidence,), _forms),
    "der": Target(lambda data: list(der.items(data)), (der.MalformedDer,), _certificates),
    "tpm_public": Target(tpm.public, (tpm.BadTpm,), _publics),
    "tpm_attested": Target(_attested, (tpm.BadTpm,), _attestations),
    "tpm_signature": Target(_signature, (tpm.BadTpm,), lambda: [_tpm().quote(NONCE, (0,))[1]]),
    "ek": Target(_endorsed, (tpm.BadTpm,), _endorsements),
    "ocsp": Target(_judged, (ocsp.BadOcsp,), lambda: [_answerer().answer()]),
    "rim": Target(_manifest, (nvidia.BadEvidence,), lambda: [_rim()[1]]),
    "header": Target(codec.decode_header, (codec.Malformed,), _headers),
    "leaf": Target(_leaf, (codec.Malformed,), _leaves),
    "gap": Target(codec.decode_gap, (codec.Malformed,), lambda: [_golden(GOLDENS[2])[0]]),
    "evidence": Target(codec.decode_evidence, (codec.Malformed,), _statements),
    "agent_message": Target(wire.parse_agent_message, (Refused,), _messages),
    "enroll": Target(wire_enrolment.parse_enroll, (Denied,), _enrolments),
    "renew": Target(wire_enrolment.parse_renew, (Denied,), _renewals),
    "activate": Target(wire_enrolment.parse_activate, (Denied,), _activations),
    "rotate": Target(wire_enrolment.parse_rotate, (Denied,), _rotations),
    "asset_event": Target(asset_events.decode, (FileError,), _events),
    "appraisal": Target(appraisal.decode, (FileError,), _appraisals),
    "feed_csv": Target(_fed(Format.CSV), (FeedMalformed,), _tables),
    "feed_json": Target(_fed(Format.JSON), (FeedMalformed,), _objects),
    "disclosure": Target(_disclosed, (FileError, HostError), _disclosures),
}


def feed(name: str, data: bytes) -> bool:
    """Whether the parser took the data; an error that it does not name goes on."""
    target = TARGETS[name]
    try:
        target.run(data)
    except target.errors:
        return False
    return True
