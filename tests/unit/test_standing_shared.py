"""GPUs that are alike share what is worked out of one of them, and those that differ in anything do not."""

from __future__ import annotations

from dataclasses import replace as put

import pytest
from msgspec.structs import replace

from assay_core.instants import DAY_MS, HOUR_MS, MINUTE_MS
from assay_valuer.policy import Evidence, ValuerPolicy
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.notes import Note, Notes
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.stand import scene, stand
from assay_valuer.standing.trust import (
    NO_TRUST,
    AssetTrust,
    Custody,
    Freeze,
    FreezeCode,
    Transition,
    Verdict,
)
from assay_valuer.standing.types import Condition
from tests.fakes.collateral import NOW, asset, claimed, host, record
from tests.fakes.proofs import device, tpm

ALWAYS = merge([Span(NOW - 90 * DAY_MS, NOW + DAY_MS)])
FROZEN = Freeze(code=FreezeCode.CLONE, detail="", since_ms=NOW, position=1)
WAY = Transition(event_id=1, kind="relocation", begin_ms=NOW - 1, until_ms=NOW + 1, why="w")
HELD = Custody(event_id=1, custodian="kurt", until_ms=NOW + 1, document_sha256="d")
NOTE = Note(code="a.b", detail="", first_ms=NOW, last_ms=NOW, count=1)
NAMES = ("NVIDIA H200", "NVIDIA B200", "NVIDIA H100 80GB HBM3", None)
HOSTS = {1: host(1), 2: host(2), 3: host(3), 4: host(4), 5: host(5, age_ms=2 * HOUR_MS)}
PROOFS = {
    1: tpm(),
    2: tpm(150 * MINUTE_MS),
    3: tpm(transitions=(WAY,)),
    4: tpm(freezes=(FROZEN,)),
    5: tpm(),
}
ANSWERS = {
    "ik": Revocation(True, NOW, NOW + DAY_MS),
    "bad": Revocation(False, NOW, NOW + DAY_MS),
    "old": Revocation(True, NOW - 99 * DAY_MS, NOW - 90 * DAY_MS),
}
PROVED = device(certificates=("ik",))


def differing(base):
    """The asset, and as many others, each different from it in one thing."""
    yield base
    yield from (put(base, host_key=key) for key in (2, 3, 4, 5, 9, None))
    yield from (put(base, name=name) for name in NAMES)
    yield put(base, simulated=True)
    for changed in (
        {"seen_ms": NOW - 1},
        {"seen_ms": NOW - 8 * DAY_MS},
        {"seen_ms": None},
        {"missing_since_ms": NOW - HOUR_MS},
        {"condition": Condition(passed_through=True)},
        {"condition": Condition(maintenance_until_ms=NOW + 1)},
        {"notes": Notes(findings=(NOTE,))},
        {"health": asset(incidents=(record(),)).track.health},
    ):
        yield put(base, track=put(base.track, **changed))
    yield from (claimed(base, verdict) for verdict in Verdict)
    for trust in ({"freezes": (FROZEN,)}, {"transitions": (WAY,)}, {"custody": (HELD,)}):
        yield put(base, trust=replace(base.trust, **trust))
    for proof in (
        {"at_ms": NOW - 13 * HOUR_MS},
        {"host_key": 2},
        {"chip": "GB100"},
        {"whole": True},
        {"simulated": True},
        {"certificates": ("ik", "bad")},
        {"certificates": ("old",)},
        {"certificates": ("none",)},
    ):
        yield put(base, trust=replace(base.trust, proof=replace(PROVED, **proof)))


@pytest.mark.parametrize("ocsp", ["required", "waived"])
@pytest.mark.parametrize("trust", [NO_TRUST, AssetTrust(proof=PROVED)])
@pytest.mark.parametrize("turn", [1, -1])
def test_a_gpu_stands_beside_others_as_it_does_alone(trust, ocsp, turn):
    policy = ValuerPolicy(evidence=Evidence(ocsp=ocsp))

    def around():
        return scene(HOSTS, ALWAYS, policy, NOW, proofs=PROOFS, revocations=ANSWERS)

    together = around()
    for one in list(differing(put(asset(), trust=trust)))[::turn]:
        assert stand(one, together) == stand(one, around()), one


def test_gpus_of_one_host_with_nothing_to_tell_them_apart_share_one_standing():
    around = scene(HOSTS, ALWAYS, ValuerPolicy(), NOW, proofs=PROOFS, revocations=ANSWERS)
    first, second = (put(asset(n), trust=AssetTrust(proof=PROVED)) for n in (1, 2))
    assert stand(first, around) is stand(second, around)
