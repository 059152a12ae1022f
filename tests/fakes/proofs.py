"""What hosts and devices proved, as the fold keeps it: fresh, whole and good, unless told."""

from __future__ import annotations

from msgspec.structs import replace

from assay_core.evidence.ek import TPM_ROOTS
from assay_core.instants import DAY_MS
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.trust import DeviceProof, HostProofs, TpmProof
from tests.fakes.collateral import NOW

LISTED = next(iter(TPM_ROOTS))
HOST, OTHER = 1, 2


def tpm(age_ms: int = 0, root: str | None = LISTED, **changed: object) -> HostProofs:
    proof = TpmProof(
        at_ms=NOW - age_ms,
        received_ms=NOW - age_ms,
        position=1,
        ak_name="ak",
        clock_ms=1,
        reset_count=1,
        restart_count=0,
        pcr_digest="",
    )
    held = HostProofs(ak_name="ak", ek_sha256="ek", root_sha256=root, tpm=proof)
    return replace(held, **changed)


def device(age_ms: int = 0, **changed: object) -> DeviceProof:
    held = DeviceProof(
        at_ms=NOW - age_ms,
        position=1,
        host_key=HOST,
        chip="GH100",
        driver=None,
        vbios=None,
        feature=None,
        origin="in_band_nvml",
        certificates=("ik", "ica", "identity"),
        whole=False,
        simulated=False,
    )
    return replace(held, **changed)


def answers(
    *names: str, good: bool = True, age_ms: int = 0, left_ms: int = DAY_MS
) -> dict[str, Revocation]:
    one = Revocation(good, NOW - age_ms, NOW + left_ms)
    return dict.fromkeys(names or ("ik", "ica", "identity"), one)
