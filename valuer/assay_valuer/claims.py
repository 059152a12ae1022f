"""What comes of a host's showing an asset that another host has: kept with the asset, and decided.

standing.holding has the rules; here they are put to the assets.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from assay_valuer.assets import Assets
from assay_valuer.standing import holding
from assay_valuer.standing.assurance import strength_of
from assay_valuer.standing.holding import Hold, Shown
from assay_valuer.standing.trust import Claim, FreezeCode, Verdict
from assay_valuer.standing.types import Asset, Host


def claim(assets: Assets, asset_id: int, shown: Shown, proved_ms: int | None = None) -> None:
    """Another host than the holder shows an asset; `proved_ms`: and its device answered there."""
    asset = assets[asset_id]
    strength = _strength(assets, asset, shown.host_key, shown.end_ms, proved_ms)
    trust, made = holding.claimed(asset.trust, shown, strength, proved_ms)
    assets.put(replace(asset, trust=trust))
    if made is not None:
        _settle(assets, asset_id, made, shown)


def claim_again(assets: Assets, shown: Shown) -> None:
    """A window that only names a UUID: a claim that its host made before goes on."""
    for asset_id in assets.claimed_by(shown.host_key, shown.uuid):
        claim(assets, asset_id, shown)


def confirm(assets: Assets, asset_id: int, shown: Shown) -> None:
    """The holder shows an asset that others claim."""
    for made in assets[asset_id].trust.claims:
        _settle(assets, asset_id, made, shown)
    asset = assets[asset_id]
    trust = holding.confirmed(asset.trust, shown)
    if trust is not asset.trust:
        assets.put(replace(asset, trust=trust))


def dispute(assets: Assets, asset_id: int, shown: Shown, why: str) -> None:
    """Marks an asset as disputed at once: nothing that could still come would decide it."""
    asset = assets[asset_id]
    trust, made = holding.claimed(asset.trust, shown, 0)
    if made is None or made.verdict is not Verdict.OPEN:
        return
    disputed = msgspec.structs.replace(made, verdict=Verdict.DISPUTED, why=why)
    assets.put(replace(asset, trust=holding.with_claim(trust, disputed)))


def _settle(assets: Assets, asset_id: int, made: Claim, shown: Shown) -> None:
    """Decides a claim once both sides have shown the asset at the same time.

    What is decided stays so until people decide, but for the worse: a device that turns out to
    answer on both is a clone, whatever their word alone came to before.
    """
    asset = assets[asset_id]
    holder = None if asset.host_key is None else assets.hosts.get(asset.host_key)
    claimant = assets.hosts.get(made.host_key)
    if made.verdict is Verdict.CLONE or holder is None or claimant is None:
        return
    if not holding.overlapping(made, shown):
        return
    ours = _hold(assets, asset, holder, shown.end_ms)
    theirs = _hold(assets, asset, claimant, shown.end_ms)
    verdict = holding.judge(ours, theirs)
    if made.verdict is not Verdict.OPEN and verdict is not Verdict.CLONE:
        return
    trust, why = holding.settled(asset.trust, made, verdict, ours)
    assets.put(replace(asset, trust=trust))
    at = (shown.end_ms, shown.position)
    if verdict is Verdict.FALSE:
        detail = f"it shows {asset.label}, which another host has: {why}"
        assets.freeze_host(made.host_key, FreezeCode.FALSE_CLAIM, detail, at)
    elif verdict is Verdict.CLONE:
        assets.freeze(asset_id, FreezeCode.CLONE, why, at)


def _hold(assets: Assets, asset: Asset, host: Host, now_ms: int) -> Hold:
    reserved = assets.reserved(asset.id).names(host.host_id, host.site)
    return Hold(host.host_id, _strength(assets, asset, host.key, now_ms), reserved)


def _strength(
    assets: Assets, asset: Asset, host_key: int, now_ms: int, proved_ms: int | None = None
) -> int:
    """How well a host is proved to have an asset: an index into holding.WORDS."""
    proof = asset.trust.proof
    if proved_ms is None and proof is not None and proof.host_key == host_key:
        proved_ms = proof.at_ms
    for made in asset.trust.claims:
        if proved_ms is None and made.host_key == host_key:
            proved_ms = made.proved_ms
    return strength_of(assets.proofs_of(host_key), proved_ms, assets.policy, now_ms)
