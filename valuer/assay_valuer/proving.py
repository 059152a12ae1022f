"""The fold of evidence: what hosts and devices have proved, and what they are frozen for.

Everything is proved again from the bytes in the ledger, with the keys that enrolment had, so that
whoever has the ledger comes to the same.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from assay_core.evidence import bundle, chain, tpm
from assay_valuer import claims
from assay_valuer.assets import Assets
from assay_valuer.ledger.read import StoredEvidence
from assay_valuer.standing.holding import Shown
from assay_valuer.standing.trust import DeviceProof, FreezeCode, TpmProof

_ABSENT_MAX: Final = 500
BOARD_SWAP: Final = "board_swap"
"""The kind of event that lets a host come back with another TPM."""


def take_evidence(assets: Assets, stored: StoredEvidence, keys: bundle.Keys) -> None:
    """Folds a host's evidence in. Evidence that the ledger should not have kept proves nothing."""
    roots = chain.DEVICE_ROOTS | frozenset(assets.policy.evidence.device_roots)
    try:
        proven = bundle.prove(stored.sealed, keys, now_ms=stored.received_ms, roots=roots)
    except bundle.EvidenceRefused:
        return
    proofs = assets.proofs_of(stored.host_key)
    absent = "; ".join((proven.absent, *proven.failed)).strip("; ")
    proofs = msgspec.structs.replace(proofs, devices_absent=absent[:_ABSENT_MAX])
    assets.put_proofs(stored.host_key, proofs)
    if proven.quoted is not None and proven.signer.attestation is not None:
        _take_quote(assets, stored, proven.quoted, proven.signer.attestation.name.hex())
    whole = (
        set() if proven.topology is None or not proven.topology.whole else {*proven.topology.gpus}
    )
    for one in proven.devices:
        if one.proof.device.kind == "gpu":
            _take_device(assets, stored, one, whole=one.proof.device.identity in whole)


def _take_quote(assets: Assets, stored: StoredEvidence, quoted: tpm.Attested, ak_name: str) -> None:
    """A quote that holds; where the TPM's clock went back, it is not the TPM that it was.

    One by a key that the host went over from says nothing of the new one. One that answers a
    challenge of before the last quote came in may have been made before it, too.
    """
    proofs = assets.proofs_of(stored.host_key)
    if proofs.ak_name != ak_name:
        return
    clock = quoted.clock
    proof = TpmProof(
        at_ms=stored.asked_ms,
        received_ms=stored.received_ms,
        position=stored.position,
        ak_name=ak_name,
        clock_ms=clock.clock_ms,
        reset_count=clock.reset_count,
        restart_count=clock.restart_count,
        pcr_digest=quoted.digest.hex(),
    )
    before = proofs.tpm
    if before is not None and before.ak_name == ak_name:
        if proof.at_ms >= before.received_ms and (why := _went_back(before, proof)):
            at = (stored.received_ms, stored.position)
            assets.freeze_host(stored.host_key, FreezeCode.CLOCK, why, at)
            return
        if proof.at_ms < before.at_ms:
            return
    assets.put_proofs(stored.host_key, msgspec.structs.replace(proofs, tpm=proof))


def _went_back(before: TpmProof, now: TpmProof) -> str:
    """What of a TPM's clock went back, in words; empty where nothing did. Part 1 §36 of TCG's library:
    a reset counts up, and between two resets neither the restarts nor the clock ever go back.
    """
    if now.reset_count < before.reset_count:
        return f"its TPM's reset count went from {before.reset_count} back to {now.reset_count}"
    if now.reset_count > before.reset_count:
        return ""
    if now.restart_count < before.restart_count:
        return f"its TPM's restarts went from {before.restart_count} back to {now.restart_count}"
    if now.clock_ms < before.clock_ms:
        return f"its TPM's clock went from {before.clock_ms} ms back to {now.clock_ms} ms"
    return ""


def _take_device(
    assets: Assets, stored: StoredEvidence, one: bundle.DeviceProof, *, whole: bool
) -> None:
    """A GPU that answered on this host. Its windows name it by its PDI."""
    device = one.proof.device
    proof = _device_proof(stored, one, whole=whole)
    known = assets.by_identity(device.identity)
    if known is not None and assets[known].host_key != stored.host_key:
        _elsewhere(assets, stored, known)
        return
    if known is None:
        here = [
            asset_id
            for asset_id in assets.of_host(stored.host_key)
            if assets[asset_id].pdi == device.pdi
        ]
        if len(here) != 1:
            return  # no window has named it by its PDI yet: the next evidence comes to it
        known = here[0]
        if assets[known].identity is not None:
            why = f"{assets[known].label} answered as another device than before"
            assets.freeze(known, FreezeCode.IDENTITY, why, (stored.received_ms, stored.position))
            return
        assets.bind_identity(known, device.identity, stored.position)
    asset = assets[known]
    held = asset.trust.proof
    if held is None or held.host_key != proof.host_key or held.at_ms <= proof.at_ms:
        assets.put(replace(asset, trust=msgspec.structs.replace(asset.trust, proof=proof)))
    if asset.trust.claims:
        claims.confirm(assets, known, _shown(assets, stored))


def _elsewhere(assets: Assets, stored: StoredEvidence, asset_id: int) -> None:
    """A device that is bound to another host's asset answered here too."""
    claims.claim(assets, asset_id, _shown(assets, stored), proved_ms=stored.asked_ms)


def _shown(assets: Assets, stored: StoredEvidence) -> Shown:
    """An answer as one that shows a GPU: after the challenge was sent, and before it was received."""
    host = assets.hosts[stored.host_key]
    return Shown(host.key, host.host_id, stored.asked_ms, stored.received_ms, stored.position)


def _device_proof(stored: StoredEvidence, one: bundle.DeviceProof, *, whole: bool) -> DeviceProof:
    proof = one.proof
    certificates = chain.read(one.chain_pem)
    names = [
        hashlib.sha256(each.public_bytes(Encoding.DER)).hexdigest() for each in certificates[1:]
    ]
    return DeviceProof(
        at_ms=stored.asked_ms,
        position=stored.position,
        host_key=stored.host_key,
        chip=proof.device.chip,
        driver=proof.driver,
        vbios=proof.vbios,
        feature=proof.feature,
        origin=one.origin.name.lower(),
        certificates=tuple(names[:-1]),
        whole=whole,
        simulated=names[-1] not in chain.DEVICE_ROOTS,
    )


def take_fork(assets: Assets, host_key: int, sequence: int, at: tuple[int, int]) -> None:
    """One key sealed two histories. `at`: when, UTC ms, and the ledger position."""
    why = (
        f"two different windows {sequence} bear its key's signature: a copied or restored agent, or "
        "a stolen key"
    )
    assets.freeze_host(host_key, FreezeCode.FORK, why, at)


class _Tpm(msgspec.Struct, frozen=True):
    """A TPM in a record of enrolment or rotation, as far as the fold needs it."""

    ak_name: str
    ek_sha256: str
    root_sha256: str | None
    detail: str
    virtual: bool


class _KeyRecord(msgspec.Struct, frozen=True):
    """A record of enrolment or rotation. Those made before there were TPMs have none."""

    host_id: str
    tpm: _Tpm | None = None
    ek_before: str | None = None
    ek_changed: bool = False


class _Ocsp(msgspec.Struct, frozen=True):
    """A record of what was answered about a certificate, made when the answer changed."""

    certificate_sha256: str
    status: str


def take_key(assets: Assets, payload: bytes, at: tuple[int, int]) -> None:
    """A key that was enrolled, or that one rotates to: from now on its TPM, or none, vouches."""
    record = msgspec.json.decode(payload, type=_KeyRecord)
    host_key = next((k for k, host in assets.hosts.items() if host.host_id == record.host_id), None)
    if host_key is None:
        return
    proofs = assets.proofs_of(host_key)
    bound = record.tpm
    if bound is None:
        kept = msgspec.structs.replace(
            proofs, ak_name="", root_sha256=None, ek_detail="", virtual=False, tpm=None
        )
        assets.put_proofs(host_key, kept)
        return
    assets.put_proofs(
        host_key,
        msgspec.structs.replace(
            proofs,
            ak_name=bound.ak_name,
            ek_sha256=bound.ek_sha256,
            root_sha256=bound.root_sha256,
            ek_detail=bound.detail,
            virtual=bound.virtual,
            tpm=None if proofs.ak_name != bound.ak_name else proofs.tpm,
        ),
    )
    under_way = [one for one in proofs.transitions if one.begin_ms <= at[0] <= one.until_ms]
    if record.ek_changed and not any(one.kind == BOARD_SWAP for one in under_way):
        why = (
            f"it enrolled with another TPM (endorsement key {bound.ek_sha256[:16]}…) than before "
            f"({(record.ek_before or '')[:16]}…), and no board swap had been accepted"
        )
        assets.freeze_host(host_key, FreezeCode.EK, why, at)


def take_ocsp(assets: Assets, payload: bytes, at: tuple[int, int]) -> None:
    """An answer about a certificate: where it is revoked, whatever it vouched for is frozen."""
    record = msgspec.json.decode(payload, type=_Ocsp)
    if record.status != "revoked":
        return
    for asset in list(assets.all.values()):
        proof = asset.trust.proof
        if proof is not None and record.certificate_sha256 in proof.certificates:
            why = f"its maker revoked certificate {record.certificate_sha256[:16]}…"
            assets.freeze(asset.id, FreezeCode.REVOKED, why, at)
