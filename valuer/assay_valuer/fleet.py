"""Which asset a window speaks of, and the fold of all windows over all assets.

An asset is known by serial and board part number; while it has none, by its UUID on its host. A
window of another host that shows a known asset never moves it, unless both parties said that it
moves: it is a claim (claims.py). Works in memory; what it changed since the last `taken` is for the
store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from assay_core.health.plausibility import examine
from assay_core.leaves import HOST
from assay_valuer import claims
from assay_valuer.assets import Assets, Changes, Registry
from assay_valuer.policy import ValuerPolicy
from assay_valuer.sights import Identified, WindowSights
from assay_valuer.standing import holding
from assay_valuer.standing.holding import Shown
from assay_valuer.standing.notes import Found
from assay_valuer.standing.track import observe
from assay_valuer.standing.types import Asset, Host, Sight, Track

HOST_ASSETS_MAX: Final = 256
"""Assets that one host can bring into being: many times what a host ever holds, replaced cards
included. One that invents more is not followed, and fills nobody's memory but its own."""


class Fleet:
    """Every asset, as far as the windows taken so far have shown. One thread uses it."""

    def __init__(
        self,
        assets: Iterable[Asset],
        hashes: Mapping[int, bytes],
        policy: ValuerPolicy,
        registry: Registry | None = None,
    ) -> None:
        """`hashes` maps an asset to the hash of the newest window that saw it."""
        self.known = Assets(assets, registry or Registry(), policy)
        self.hashes = dict(hashes)
        self._policy = policy

    @property
    def assets(self) -> Mapping[int, Asset]:
        """The assets by id, as they are now."""
        return self.known.all

    def taken(self) -> Changes:
        """What changed since the last time this was asked."""
        return self.known.taken()

    def take(self, window: WindowSights, host: Host) -> None:
        """Folds one window in. Windows come in the order of their positions."""
        known = self.known
        known.hosts[host.key] = host
        named: dict[int, bytes] = {}
        for uuid, (identity, sight) in window.gpus.items():
            shown = _shown(host, sight, uuid)
            asset = self._resolve(uuid, identity, shown, named, seen=sight.seen)
            if asset is not None:
                named[asset.id] = uuid
        found = self._examine(window, named)
        for asset_id, uuid in named.items():
            sight = window.gpus[uuid][1]
            if found:
                mine = (*found.get(uuid, ()), *found.get(HOST, ()))
                sight = replace(sight, found=mine) if mine else sight
            self._observe(known[asset_id], sight, window)
            if sight.seen and known[asset_id].trust.claims:
                claims.confirm(known, asset_id, _shown(host, sight, uuid))
        if window.unnamed is None:
            return
        for asset_id in known.of_host(window.host_key) - named.keys():
            asset = known[asset_id]
            sight_of = window.of_unnamed(asset.uuid)
            if sight_of is not None and asset.track.seen_ms is not None:
                self._observe(asset, sight_of, window)

    def _examine(
        self, window: WindowSights, named: Mapping[int, bytes]
    ) -> dict[bytes, list[Found]]:
        """What does not hang together in the window: of a GPU by its UUID, of the host by HOST."""
        found: dict[bytes, list[Found]] = {}
        if window.told is None:
            return found
        known = {uuid: self.known[one].track.notes.known for one, uuid in named.items()}
        told = window.told
        for finding in examine(told.contents, told.boot, told.period, known):
            found.setdefault(finding.subject, []).append(Found(finding.code, finding.detail))
        return found

    def _observe(self, asset: Asset, sight: Sight, window: WindowSights) -> None:
        track = observe(asset.track, sight, self._policy)
        simulated = window.simulated if sight.seen else asset.simulated
        self.known.put(replace(asset, track=track, simulated=simulated))
        if sight.seen:
            self.hashes[asset.id] = window.hash

    def _resolve(
        self,
        uuid: bytes,
        identity: Identified | None,
        shown: Shown,
        named: Mapping[int, bytes],
        *,
        seen: bool,
    ) -> Asset | None:
        """The asset a GPU of the window is; None where the window may not speak for it.

        A host that only remembers a GPU claims nothing of another's: it may have gone over there.
        """
        known = self.known
        own = known.by_uuid(shown.host_key, uuid)
        if own is None and not seen and self._of_another(uuid, identity, shown):
            return None
        if identity is None:
            return self._claimed_again(uuid, shown) if own is None else known[own]
        serial = _serial(identity)
        if serial is None:
            found = own
            if found is None and known.with_uuid(uuid):
                self._weak_claim(shown, uuid)
                return None
        else:
            found = known.by_serial(serial)
            if found is None and own is not None and known[own].serial is None:
                found = own  # a stronger identifier for the same asset
        if found is None:
            if len(known.of_host(shown.host_key)) >= HOST_ASSETS_MAX:
                known.changes.crowded.add(shown.host_id)
                return None
            return self._make(uuid, identity, shown)
        if found in named:
            claims.dispute(known, found, shown, f"{shown.host_id} shows it twice in one window")
            return None
        if not self._may_show(known[found], shown):
            claims.claim(known, found, shown)
            return None
        return self._bind(known[found], uuid, identity, shown)

    def _of_another(self, uuid: bytes, identity: Identified | None, shown: Shown) -> bool:
        """Whether a GPU that this host does not have is another's, or is not known by what it says."""
        serial = None if identity is None else _serial(identity)
        if serial is None:
            return identity is None or bool(self.known.with_uuid(uuid))
        found = self.known.by_serial(serial)
        return found is not None and self.known[found].host_key not in (None, shown.host_key)

    def _claimed_again(self, uuid: bytes, shown: Shown) -> Asset | None:
        """The asset that a host claimed by its identity before, and was meanwhile moved to."""
        for asset_id in self.known.claimed_by(shown.host_key, shown.uuid):
            asset = self.known[asset_id]
            if asset.host_key != shown.host_key and self._may_show(asset, shown):
                return self._bind(asset, uuid, _UNTOLD, shown)
        claims.claim_again(self.known, shown)
        return None

    def _may_show(self, asset: Asset, shown: Shown) -> bool:
        """Whether a host may show an asset: it has it, may be the first to, or it was moved there.

        Of several moves the one proposed last stands. What has come to a site is moved no further by
        the same event: there, too, one host has it.
        """
        host = self.known.hosts[shown.host_key]
        if asset.host_key == host.key:
            return True
        if asset.host_key is None:
            return not self.known.reserved(asset.id).excludes(host.host_id, host.site)
        moves = [
            one
            for one in asset.trust.transitions
            if one.begin_ms <= shown.end_ms <= one.until_ms and (one.to_host or one.to_site)
        ]
        last = max(moves, key=lambda one: one.event_id, default=None)
        holder = self.known.hosts.get(asset.host_key)
        if last is None or not last.leads_to(host.host_id, host.site):
            return False
        return holder is None or not last.leads_to(holder.host_id, holder.site)

    def _weak_claim(self, shown: Shown, uuid: bytes) -> None:
        """By UUID alone, to what another host shows: it binds nobody but the claimant, and where
        the other has no serial either, a person must decide.
        """
        for asset_id in self.known.with_uuid(uuid):
            if self.known[asset_id].serial is None:
                why = f"{shown.host_id} shows its UUID too, and neither has a serial number"
                claims.dispute(self.known, asset_id, shown, why)

    def _make(self, uuid: bytes, identity: Identified, shown: Shown) -> Asset:
        asset = Asset(
            id=self.known.new_id(),
            serial=None,
            board_part_number=None,
            uuid=None,
            name=None,
            host_key=None,
            simulated=False,
            track=Track(),
        )
        return self._bind(asset, uuid, identity, shown)

    def _bind(self, asset: Asset, uuid: bytes, identity: Identified, shown: Shown) -> Asset:
        serial = _serial(identity)
        known, trust = self.known, asset.trust
        before = known.by_uuid(shown.host_key, uuid)
        if before is not None and before != asset.id:  # the UUID now belongs to another board
            known.let_go(known[before])
        if asset.host_key is None:
            trust = holding.moved(trust, shown.host_key, shown.end_ms, same_site=True)
        elif asset.host_key != shown.host_key:
            trust = holding.moved(
                trust,
                shown.host_key,
                shown.end_ms,
                freezes=known.proofs_of(asset.host_key).freezes,
                same_site=known.same_site(asset.host_key, shown.host_key),
            )
            known.leave(asset)
        elif asset.uuid is not None and asset.uuid != uuid:
            known.let_go(asset)
        bound = replace(
            asset,
            uuid=uuid,
            host_key=shown.host_key,
            # A board is not another product one day, as its host might like it to be.
            name=asset.name or identity.name,
            serial=asset.serial if serial is None else serial[0],
            board_part_number=asset.board_part_number if serial is None else serial[1],
            pdi=asset.pdi if identity.pdi is None else identity.pdi,
            trust=trust,
        )
        known.put(bound)
        return bound


_UNTOLD: Final = Identified(None, None, None, None)


def _shown(host: Host, sight: Sight, uuid: bytes) -> Shown:
    """A window as one that shows a GPU, by our clock."""
    length_ms = sight.period.end_boottime_ms - sight.period.begin_boottime_ms
    end_ms = sight.observed_ms
    return Shown(host.key, host.host_id, end_ms - length_ms, end_ms, sight.position, uuid.hex())


def _serial(identity: Identified) -> tuple[str, str] | None:
    if identity.serial is None or identity.board_part_number is None:
        return None
    return identity.serial, identity.board_part_number
