"""What somebody would do to evidence to make it say more: none of it is believed.

Each attack is made on evidence of our making and, where NVIDIA's samples lie beside the project, on
every real report among them.
"""

from __future__ import annotations

import base64
import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core.evidence import chain, forms, nvidia, spdm
from tests.fakes.nvidia import NOW_MS, Authority, Maker, baseboard, der, issue

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "evidence"
NONCE = bytes(range(100, 132))
ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
"""Of P-384's group: FIPS 186-4 §D.1.2.4."""
SINGLES = ("hopper_a", "hopper_b", "blackwell_a", "ls10_switch_a")
BOARDS = {"hgx_8gpu": 8, "hgx_4switch": 4}
MADE = ("a gpu", "a switch")
REAL = (*SINGLES, *(f"{name} {place}" for name, count in BOARDS.items() for place in range(count)))


@dataclass(frozen=True)
class Case:
    """Evidence that holds, under these roots."""

    name: str
    evidence: nvidia.Evidence
    roots: frozenset[str]

    def verify(self, report=None, path=None, nonce=None):
        evidence = nvidia.Evidence(
            self.evidence.report if report is None else report,
            self.evidence.chain if path is None else tuple(path),
        )
        return nvidia.verify(evidence, nonce=nonce, now_ms=NOW_MS, roots=self.roots)

    def refuses(self, what="", report=None, path=None, nonce=None):
        """Fails, saying what was believed, unless it is refused and by name."""
        try:
            proof = self.verify(report, path, nonce)
        except nvidia.BadEvidence as error:
            return str(error)
        raise AssertionError(f"believed: {what}: {proof.device.identity}")


@functools.cache
def made() -> dict[str, Case]:
    maker = Maker()
    gpu, *_, switch = baseboard(maker, NONCE, gpus=2, switches=1)
    return {
        name: Case(name, one, maker.roots) for name, one in zip(MADE, (gpu, switch), strict=True)
    }


@functools.cache
def real() -> dict[str, Case]:
    found = {}
    for name in SINGLES:
        report, pem = (
            (SAMPLES / f"{name}.{end}").read_bytes() for end in ("report.hex", "chain.pem")
        )
        (found[name],) = forms.read(report, pem)
    for name in BOARDS:
        for place, one in enumerate(forms.read((SAMPLES / f"{name}.json").read_bytes(), None)):
            found[f"{name} {place}"] = one
    return {name: Case(name, one.evidence, chain.DEVICE_ROOTS) for name, one in found.items()}


@pytest.fixture
def samples(leave_out):
    if not SAMPLES.is_dir():
        leave_out("NVIDIA's sample evidence is not beside the project")
    return real()


@pytest.fixture(params=[*MADE, *REAL])
def case(request, leave_out):
    if request.param in MADE:
        return made()[request.param]
    if not SAMPLES.is_dir():
        leave_out("NVIDIA's sample evidence is not beside the project")
    return real()[request.param]


BOARD = frozenset(name for name in REAL if " " in name)
"""Twelve devices of one kind of board: two bits of each byte will do, where all eight are tried on
the others."""


def marks(report: bytes) -> Iterator[tuple[str, int, int]]:
    """The fields of a report: name, first byte, and the byte after its last. DSP0274 §10.11."""
    at = 0

    def field(name: str, size: int) -> tuple[str, int, int]:
        nonlocal at
        begin, at = at, at + size
        return name, begin, at

    def number(size: int) -> int:
        return int.from_bytes(report[at : at + size], "little")

    for name, size in (
        ("request version", 1), ("request code", 1), ("attributes", 1), ("operation", 1),
        ("nonce", 32), ("slot", 1), ("response version", 1), ("response code", 1),
        ("parameters", 2),
    ):  # fmt: skip
        yield field(name, size)
    count = number(1)
    yield field("measurements", 1)
    yield field("their length", 3)
    for place in range(count):
        for name, size in (
            ("index", 1), ("specification", 1), ("size", 2), ("type", 1), ("length", 2),
            ("digest", 48),
        ):  # fmt: skip
            yield field(f"measurement {place} {name}", size)
    yield field("responder's nonce", 32)
    left = number(2)
    yield field("opaque length", 2)
    end = at + left
    while at < end:
        kind, size = number(2), int.from_bytes(report[at + 2 : at + 4], "little")
        yield field(f"opaque {kind} type", 2)
        yield field(f"opaque {kind} length", 2)
        yield field(f"opaque {kind}", size)
    yield field("r", 48)
    yield field("s", 48)
    assert at == len(report)


def sampled(report: bytes) -> dict[int, str]:
    """The first and last byte of every field; of the measurements the first, a middle, the last."""
    chosen = {}
    count = report[41]
    for name, begin, end in marks(report):
        of_one = re.match(r"measurement (\d+) ", name)
        if of_one and int(of_one[1]) not in (0, count // 2, count - 1):
            continue
        if begin < end:
            chosen |= {begin: name, end - 1: name}
    return chosen


def test_every_field_of_a_report_is_sampled(case):
    names = {re.sub(r"\d+", "n", name) for name in sampled(case.evidence.report).values()}
    assert names >= {
        "nonce", "attributes", "operation", "slot", "parameters", "measurements", "their length",
        "measurement n index", "measurement n type", "measurement n digest", "responder's nonce",
        "opaque length", "opaque n type", "opaque n length", "opaque n", "r", "s",
    }  # fmt: skip


def test_the_evidence_that_is_attacked_holds(case):
    assert case.verify().device.kind in ("gpu", "nvswitch")


def test_no_flip_of_a_byte_is_believed(case):
    report = bytearray(case.evidence.report)
    bits = (0, 7) if case.name in BOARD else range(8)
    for at, name in sampled(bytes(report)).items():
        for bit in bits:
            report[at] ^= 1 << bit
            case.refuses(f"bit {bit} of byte {at}, {name}", bytes(report))
            report[at] ^= 1 << bit


@pytest.mark.parametrize("name", [*MADE, "hopper_a"])
def test_no_other_value_of_a_byte_is_believed(name, leave_out):
    """Every value, where a report says what it is and how long its parts are."""
    if name not in MADE and not SAMPLES.is_dir():
        leave_out("NVIDIA's sample evidence is not beside the project")
    case = (made() if name in MADE else real())[name]
    report = case.evidence.report
    begins = {name: begin for name, begin, _ in marks(report)}
    wanted = ("attributes", "operation", "slot", "parameters", "measurements", "opaque length")
    for what in wanted:
        at = begins[what]
        for value in range(256):
            if value != report[at]:
                changed = report[:at] + bytes([value]) + report[at + 1 :]
                case.refuses(f"{what} {value}", changed)


def test_no_cut_and_no_more_is_believed(case):
    report = case.evidence.report
    ends = {end for _, _, end in marks(report)} | {0, 1, len(report) - 1}
    for end in sorted(ends - {len(report)}):
        case.refuses(f"cut to {end} bytes", report[:end])
        case.refuses(f"{end} bytes gone from the front", report[len(report) - end :])
    for more in (b"\0", b"\n", bytes(96), report[-96:], report):
        case.refuses("more at the end", report + more)
        case.refuses("more in front", more + report)
        case.refuses("more before the signature", report[:-96] + more + report[-96:])


def test_no_field_taken_out_or_doubled_is_believed(case):
    report = case.evidence.report
    for name, begin, end in marks(report):
        if begin < end:
            case.refuses(f"without {name}", report[:begin] + report[end:])
            case.refuses(f"{name} twice", report[:end] + report[begin:end] + report[end:])


def test_no_certificate_with_a_changed_byte_is_believed(case):
    """As the chain's own, or as another device's: whatever is still read says what it said."""
    good = case.verify().device
    path = case.evidence.chain
    for place, certificate in enumerate(path):
        data = certificate.public_bytes(Encoding.DER)
        for at in range(0, len(data), 23):
            changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
            text = base64.encodebytes(changed).decode()
            pem = f"-----BEGIN CERTIFICATE-----\n{text}-----END CERTIFICATE-----\n"
            try:
                (false,) = chain.read(pem.encode())
            except chain.UntrustedChain:
                continue
            case.refuses(f"byte {at} of certificate {place}", path=_with(path, place, false))
    assert case.verify().device == good


def _with(path, place, certificate):
    return (*path[:place], certificate, *path[place + 1 :])


def test_no_chain_in_another_order_or_length_is_believed(case):
    path = case.evidence.chain
    for other in itertools.permutations(path):
        if other != path:
            case.refuses("another order", path=other)
    for place in range(len(path)):
        case.refuses("one gone", path=path[:place] + path[place + 1 :])
        case.refuses("one twice", path=(*path[: place + 1], *path[place:]))
        case.refuses("one for all", path=[path[place]] * len(path))


def _mix(cases: dict[str, Case]) -> int:
    """No device lends another anything: neither chain, nor one certificate, nor a report."""
    mixed = 0
    for (name, one), (other_name, other) in itertools.permutations(cases.items(), 2):
        mine, theirs = one.evidence.chain, other.evidence.chain
        if mine[1] == theirs[1]:
            continue  # two reports of one device
        one.refuses(f"{name} under {other_name}'s chain", path=theirs)
        for place in range(len(mine)):
            if mine[place] != theirs[place]:
                what = f"{name} with certificate {place} of {other_name}"
                one.refuses(what, path=_with(mine, place, theirs[place]))
                one.refuses(f"{what} and all above", path=mine[:place] + theirs[place:])
                mixed += 1
    return mixed


def test_no_chain_mixed_of_several_devices_is_believed():
    maker = Maker()
    board = baseboard(maker, NONCE, gpus=3, switches=2)
    cases = {str(place): Case(str(place), one, maker.roots) for place, one in enumerate(board)}
    assert _mix(cases) == 5 * 4 * 2, "leaf and identity of each differ, what is above is shared"


def test_no_chain_mixed_of_real_devices_is_believed(samples):
    assert _mix(samples) > 16 * 15


def test_a_self_made_root_is_not_believed_whatever_it_calls_itself(case):
    """The whole chain is made anew, name by name, and the report signed by its leaf."""
    path = case.evidence.chain
    above: Authority | None = None
    false = []
    for place in reversed(range(len(path))):
        name = path[place].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
        key = ec.generate_private_key(ec.SECP384R1())
        own = tuple(
            (one.value, one.critical)
            for one in path[place].extensions
            if place == 0 and isinstance(one.value, x509.UnrecognizedExtension)
        )
        certificate = issue(
            str(name), key, above, ca=place > 0, serial=path[place].serial_number, extensions=own
        )
        above = Authority(str(name), key, certificate)
        false.insert(0, certificate)
    assert above is not None
    device = Maker().device(1)
    device.key = above.key
    report = device.sign(case.evidence.report[:-96])
    assert "pinned" in case.refuses("a self-made root", report, false)
    swapped = (*false[:-1], path[-1])
    assert "not issued by" in case.refuses("a self-made identity", report, swapped)
    own_root = Authority("root", above.key, false[-1])
    mine = frozenset({own_root.sha256})
    proof = nvidia.verify(
        nvidia.Evidence(report, tuple(false)), nonce=None, now_ms=NOW_MS, roots=mine
    )
    assert proof.device.pdi == case.verify().device.pdi, "all but the root was made well"


def test_the_twin_of_a_proof_is_the_same_proof(case):
    """(r, n - s) verifies too: another report by its hash, and the same by what it is known by."""
    report = case.evidence.report
    s = int.from_bytes(report[-48:], "big")
    twin = report[:-48] + (ORDER - s).to_bytes(48, "big")
    assert twin != report
    first, second = case.verify(), case.verify(twin)
    assert first.key == second.key == (first.nonce, first.device.identity)
    r = report[-96:-48]
    zero, order = bytes(48), ORDER.to_bytes(48, "big")
    for pair in (
        zero + zero, r + zero, zero + report[-48:], report[-48:] + r, r + order, order + order,
        b"\xff" * 96, r + (ORDER + s).to_bytes(49, "big")[-48:],
    ):  # fmt: skip
        case.refuses("a signature that is none", report[:-96] + pair)


def test_the_twin_of_a_certificate_is_of_the_same_device(case):
    """So a chain is not known by its hash either; the root is, and its twin is not believed."""
    algorithm = bytes.fromhex("300a06082a8648ce3d040303")
    path, good = case.evidence.chain, case.verify()
    for place, certificate in enumerate(path):
        r, s = decode_dss_signature(certificate.signature)
        bits = der(0x03, b"\0" + encode_dss_signature(r, ORDER - s))
        text = base64.encodebytes(der(0x30, certificate.tbs_certificate_bytes + algorithm + bits))
        armour = b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"
        (twin,) = chain.read(armour)
        assert twin != certificate
        if place == len(path) - 1:
            assert "pinned" in case.refuses("a root's twin", path=_with(path, place, twin))
        else:
            assert case.verify(path=_with(path, place, twin)).key == good.key


def test_an_old_report_answers_no_new_nonce(case):
    good = case.verify().nonce
    assert case.verify(nonce=good).nonce == good
    for nonce in (bytes(32), NONCE[::-1], good[:-1] + bytes([good[-1] ^ 1]), good[:-1], b""):
        assert "another nonce" in case.refuses("a replay", nonce=nonce)


def test_public_samples_share_a_nonce_and_are_known_apart(samples):
    """Whoever asks a nonce that is on the web may be answered with what is on the web."""
    proofs = [one.verify() for one in samples.values()]
    assert len({proof.nonce for proof in proofs}) < len(proofs)
    assert len({proof.key for proof in proofs}) == len(proofs)
    board = [proof for name, proof in zip(samples, proofs, strict=True) if " " in name]
    assert len({proof.device.identity for proof in board}) == 12
    assert nvidia.topology(board).whole


def test_a_real_report_that_nobody_signed_verifies_under_no_chain(samples):
    report = forms.report_bytes((SAMPLES / "hopper_invalid_signature.report.hex").read_bytes())
    assert spdm.parse(report).nonce
    assert len(samples) == len(REAL) == 16
    for name, one in samples.items():
        assert "not signed by" in one.refuses(name, report)
