"""Hardware evidence of one GPU verified, beside the bare signatures that it rests on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core.evidence import chain, forms, nvidia, spdm
from bench.row import Context, Measurement, Row
from tests.fakes.nvidia import NOW_MS, Maker

ROUNDS: Final = 300
BATCH: Final = 10
_ALGORITHM: Final = ec.ECDSA(hashes.SHA384())


def measure(context: Context) -> Sequence[Row]:
    """Both in turn, so that whatever else the machine does falls on both."""
    maker = Maker()
    evidence = maker.device(1).answer(bytes(32), {12: bytes(256)})
    report = evidence.report.hex().encode()
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in evidence.chain)

    def whole() -> None:
        (named,) = forms.read(report, pem)
        nvidia.verify(named.evidence, nonce=bytes(32), now_ms=NOW_MS, roots=maker.roots)

    bare = _bare(evidence)
    context.say(f"verifying {ROUNDS} times")
    whole_s = bare_s = 0.0
    for _ in range(ROUNDS // BATCH):
        whole_s += _cpu_s(whole)
        bare_s += _cpu_s(bare)
    value, bound = whole_s / ROUNDS * 1e3, bare_s / ROUNDS * 1e3
    return [
        Row(
            name="evidence_cpu_ratio",
            value=value,
            unit="ms/GPU",
            bound=bound,
            bound_is="the bound is the five P-384 verifications of a report and its chain, bare",
            ratio=value / bound,
            target=1.5,
            judged="ratio",
            better="lower",
            note="from a report in hex and a chain in PEM to an identity: parsing, path rules, "
            "signatures, nonce and firmware id",
        )
    ]


def _bare(evidence: nvidia.Evidence) -> Callable[[], None]:
    report = spdm.parse(evidence.report)
    half = spdm.SIGNATURE_BYTES // 2
    r, s = (
        int.from_bytes(part, "big") for part in (report.signature[:half], report.signature[half:])
    )
    jobs = [
        (chain.p384_key(parent), child.signature, child.tbs_certificate_bytes)
        for child, parent in itertools.pairwise(evidence.chain)
    ]
    jobs.append((chain.p384_key(evidence.chain[0]), encode_dss_signature(r, s), report.signed))

    def verify() -> None:
        for key, signature, message in jobs:
            key.verify(signature, message, _ALGORITHM)

    return verify


def _cpu_s(work: Callable[[], None]) -> float:
    began_s = time.process_time()
    for _ in range(BATCH):
        work()
    return time.process_time() - began_s


COST: Final = Measurement(
    ("evidence_cpu_ratio",),
    "one GPU's hardware evidence, verified, beside its bare signatures",
    measure,
)
