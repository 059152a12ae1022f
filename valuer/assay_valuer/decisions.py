"""The fold of what people decided: transitions, custody, and the lifting of freezes and disputes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import msgspec

from assay_core.asset_events import TRANSITIONS, Kind
from assay_core.signatories import Role
from assay_valuer.assets import Assets
from assay_valuer.events.record import DecidedEvent
from assay_valuer.standing import holding
from assay_valuer.standing.trust import (
    KEPT_MAX,
    Custody,
    Freeze,
    FreezeCode,
    HostProofs,
    Transition,
    Verdict,
)
from assay_valuer.standing.types import Asset


def take_decision(assets: Assets, decided: DecidedEvent) -> None:
    """Folds a decided event in; one that was refused or withdrawn changes nothing."""
    event = decided.event
    if not decided.accepted:
        return
    host_key = decided.host_keys.get(event.host or "")
    if event.kind in TRANSITIONS:
        _transition(assets, decided, host_key)
    elif event.kind is Kind.CUSTODY:
        _custody(assets, decided)
    elif event.kind is Kind.RE_ENROL:
        _lift(assets, decided, host_key)


def _transition(assets: Assets, decided: DecidedEvent, host_key: int | None) -> None:
    event = decided.event
    if event.begin_ms is None or event.until_ms is None:
        return
    one = Transition(
        event_id=decided.id,
        kind=event.kind.value,
        begin_ms=event.begin_ms,
        until_ms=event.until_ms,
        why=event.why,
        to_host=event.to_host or "",
        to_site=event.to_site or "",
    )
    if host_key is not None and (event.kind is not Kind.HOST_SWAP):
        proofs = assets.proofs_of(host_key)
        kept = _latest(proofs.transitions, one)
        assets.put_proofs(host_key, msgspec.structs.replace(proofs, transitions=kept))
    ids = decided.asset_ids
    if event.kind is Kind.HOST_SWAP and not ids and host_key is not None:
        ids = tuple(sorted(assets.of_host(host_key)))
    for asset_id in ids:
        asset = assets[asset_id]
        mine = msgspec.structs.replace(one, other_asset=decided.replaced_by.get(asset_id))
        kept = _latest(asset.trust.transitions, mine)
        trust = msgspec.structs.replace(asset.trust, transitions=kept)
        if event.to_site is not None:  # an inspection holds where it was made
            trust = msgspec.structs.replace(trust, custody=())
        assets.put(replace(asset, trust=trust))


def _latest(before: tuple[Transition, ...], one: Transition) -> tuple[Transition, ...]:
    """With one more; what ended longest ago goes first where they are too many."""
    others = [held for held in before if held.event_id != one.event_id]
    return tuple(sorted((*others, one), key=lambda each: each.until_ms)[-KEPT_MAX:])


def _custody(assets: Assets, decided: DecidedEvent) -> None:
    inspection = decided.event.inspection
    if inspection is None:
        return
    one = Custody(
        event_id=decided.id,
        custodian=", ".join(who for who, role in decided.signers if role is Role.CUSTODIAN),
        until_ms=inspection.valid_until_ms,
        document_sha256=inspection.document_sha256,
    )
    for asset_id in decided.asset_ids:
        asset = assets[asset_id]
        kept = (*asset.trust.custody, one)[-KEPT_MAX:]
        trust = msgspec.structs.replace(asset.trust, custody=kept)
        assets.put(replace(asset, trust=trust))


def _lift(assets: Assets, decided: DecidedEvent, host_key: int | None) -> None:
    """Two people have looked: what they name is lifted, and who has the assets is who they say.

    Where they name a host alone, its GPUs' own freezes and disputes stay: they say of none who has it.
    """
    event = decided.event
    if host_key is not None:
        proofs = assets.proofs_of(host_key)
        lifted = msgspec.structs.replace(
            proofs,
            freezes=_without(proofs.freezes, event.lifts),
            # What the TPM's clock is held against begins anew: it, or the board, was looked at.
            tpm=None,
        )
        assets.put_proofs(host_key, lifted)
        if _has_false(proofs) and not _has_false(lifted):
            _forget_false(assets, host_key)
    holder = decided.host_keys.get(event.holder or "")
    if holder is not None:
        for asset_id in decided.asset_ids:
            _settle(assets, decided, assets[asset_id], holder)


def _settle(assets: Assets, decided: DecidedEvent, asset: Asset, holder: int) -> None:
    """It is this host's, whoever else claimed it."""
    before = asset.trust
    trust = msgspec.structs.replace(
        before, freezes=_without(before.freezes, decided.event.lifts), claims=()
    )
    codes = {one.code for one in trust.freezes}
    if any(one.code is FreezeCode.IDENTITY and one.code not in codes for one in before.freezes):
        # Whatever device is in it now may prove itself; what the other one proved is over.
        trust = msgspec.structs.replace(trust, proof=None)
        asset = replace(asset, identity=None)
    if asset.host_key != holder:
        told = [bytes.fromhex(one.uuid) for one in before.claims if one.host_key == holder]
        uuid = next((one for one in told if one and assets.by_uuid(holder, one) is None), None)
        same_site = asset.host_key is not None and assets.same_site(asset.host_key, holder)
        trust = holding.moved(trust, holder, decided.decided_ms, same_site=same_site)
        assets.leave(assets[asset.id])
        asset = replace(asset, uuid=uuid, host_key=holder)
    assets.put(replace(asset, trust=trust))


def _has_false(proofs: HostProofs) -> bool:
    return any(one.code is FreezeCode.FALSE_CLAIM for one in proofs.freezes)


def _forget_false(assets: Assets, host_key: int) -> None:
    """What it claimed falsely before is settled: the same again is judged anew."""
    for asset in list(assets.all.values()):
        trust = asset.trust
        if any(one.host_key == host_key and one.verdict is Verdict.FALSE for one in trust.claims):
            assets.put(replace(asset, trust=holding.without_claim(trust, host_key)))


def _without(freezes: tuple[Freeze, ...], lifts: Collection[str]) -> tuple[Freeze, ...]:
    """The freezes that are left when those named are lifted; all are where none is named."""
    return tuple(one for one in freezes if lifts and one.code.value not in lifts)
