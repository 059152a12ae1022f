"""Which asset a window speaks of, and the fold of all windows over all assets.

An asset is known by serial and board part number; while it has none, by its UUID on its host. A
window of another host that claims a known asset never moves it: the claim is marked, and disputed
until a person decides. Works in memory; what it changed since the last `taken` is for the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from assay_core.health.plausibility import examine
from assay_core.leaves import HOST
from assay_valuer.policy import ValuerPolicy
from assay_valuer.sights import Identified, WindowSights
from assay_valuer.standing.notes import Found
from assay_valuer.standing.track import observe
from assay_valuer.standing.types import Asset, Sight, Track

HOST_ASSETS_MAX: Final = 256
"""Assets that one host can bring into being: many times what a host ever holds, replaced cards
included. One that invents more is not followed, and fills nobody's memory but its own."""


@dataclass(slots=True)
class Changes:
    """Assets that were made or changed, and identifiers learnt.

    `crowded`: hosts, by id, that showed more GPUs than are followed.
    """

    assets: set[int] = field(default_factory=set)
    made: set[int] = field(default_factory=set)
    pdi: dict[int, int] = field(default_factory=dict)
    crowded: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.assets)


class Fleet:
    """Every asset, as far as the windows taken so far have shown. One thread uses it."""

    def __init__(
        self, assets: Iterable[Asset], hashes: Mapping[int, bytes], policy: ValuerPolicy
    ) -> None:
        """`hashes` maps an asset to the hash of the newest window that saw it."""
        self._assets = {asset.id: asset for asset in assets}
        self._policy = policy
        self.hashes = dict(hashes)
        self._serials: dict[tuple[str, str], int] = {}
        # A UUID names a GPU on its own host alone; who else shows it matters only without a serial.
        self._uuids: dict[tuple[int, bytes], int] = {}
        self._holders: dict[bytes, set[int]] = {}
        self._by_host: dict[int, set[int]] = {}
        self._next_id = max(self._assets, default=0) + 1
        self._changes = Changes()
        for asset in self._assets.values():
            self._index(asset)

    @property
    def assets(self) -> Mapping[int, Asset]:
        """The assets by id, as they are now."""
        return self._assets

    def taken(self) -> Changes:
        """What changed since the last time this was asked."""
        changes, self._changes = self._changes, Changes()
        return changes

    def take(self, window: WindowSights, host_id: str) -> None:
        """Folds one window in. Windows come in the order of their positions."""
        named: dict[int, bytes] = {}
        for uuid, (identity, _) in window.gpus.items():
            asset = self._resolve(uuid, identity, window.host_key, host_id, named)
            if asset is not None:
                named[asset.id] = uuid
        found = self._examine(window, named)
        for asset_id, uuid in named.items():
            sight = window.gpus[uuid][1]
            if found:
                mine = (*found.get(uuid, ()), *found.get(HOST, ()))
                sight = replace(sight, found=mine) if mine else sight
            self._observe(self._assets[asset_id], sight, window)
        if window.unnamed is None:
            return
        for asset_id in self._by_host.get(window.host_key, set()) - named.keys():
            asset = self._assets[asset_id]
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
        known = {uuid: self._assets[one].track.notes.known for one, uuid in named.items()}
        told = window.told
        for finding in examine(told.contents, told.boot, told.period, known):
            found.setdefault(finding.subject, []).append(Found(finding.code, finding.detail))
        return found

    def _observe(self, asset: Asset, sight: Sight, window: WindowSights) -> None:
        track = observe(asset.track, sight, self._policy)
        simulated = window.simulated if sight.seen else asset.simulated
        self._put(replace(asset, track=track, simulated=simulated))
        if sight.seen:
            self.hashes[asset.id] = window.hash

    def _resolve(
        self,
        uuid: bytes,
        identity: Identified | None,
        host_key: int,
        host_id: str,
        named: Mapping[int, bytes],
    ) -> Asset | None:
        """The asset a GPU of the window is; None where the window may not speak for it."""
        own = self._uuids.get((host_key, uuid))
        if identity is None:
            return None if own is None else self._assets[own]
        serial = _serial(identity)
        if serial is None:
            found = own
            if found is None and self._holders.get(uuid):
                self._weak_claim(uuid, host_id)
                return None
        else:
            found = self._serials.get(serial)
            if found is None and own is not None and self._assets[own].serial is None:
                found = own  # a stronger identifier for the same asset
        if found is None:
            if len(self._by_host.get(host_key, ())) >= HOST_ASSETS_MAX:
                self._changes.crowded.add(host_id)
                return None
            return self._make(uuid, identity, host_key)
        asset = self._assets[found]
        if asset.host_key not in (None, host_key) or found in named:
            self._dispute(asset, host_id)
            return None
        return self._bind(asset, uuid, identity, host_key)

    def _weak_claim(self, uuid: bytes, host_id: str) -> None:
        """By UUID alone, to what another host shows: it binds nobody but the claimant, and where
        the other has no serial either, a person must decide.
        """
        for asset_id in self._holders[uuid]:
            if self._assets[asset_id].serial is None:
                self._dispute(self._assets[asset_id], host_id)

    def _make(self, uuid: bytes, identity: Identified, host_key: int) -> Asset:
        asset = Asset(
            id=self._next_id,
            serial=None,
            board_part_number=None,
            uuid=None,
            name=None,
            host_key=None,
            simulated=False,
            track=Track(),
        )
        self._next_id += 1
        self._changes.made.add(asset.id)
        return self._bind(asset, uuid, identity, host_key)

    def _bind(self, asset: Asset, uuid: bytes, identity: Identified, host_key: int) -> Asset:
        serial = _serial(identity)
        before = self._uuids.get((host_key, uuid))
        if before is not None and before != asset.id:  # the UUID now belongs to another board
            self._let_go(self._assets[before])
        if asset.uuid is not None and asset.uuid != uuid:
            self._let_go(asset)
        bound = replace(
            asset,
            uuid=uuid,
            host_key=host_key,
            # A board is not another product one day, as its host might like it to be.
            name=asset.name or identity.name,
            serial=asset.serial if serial is None else serial[0],
            board_part_number=asset.board_part_number if serial is None else serial[1],
        )
        if identity.pdi is not None:
            self._changes.pdi[asset.id] = identity.pdi
        self._put(bound)
        return bound

    def _let_go(self, asset: Asset) -> None:
        """Takes the UUID off an asset."""
        if asset.uuid is not None and asset.host_key is not None:
            self._uuids.pop((asset.host_key, asset.uuid), None)
            self._holders.get(asset.uuid, set()).discard(asset.id)
        self._put(replace(asset, uuid=None))

    def _dispute(self, asset: Asset, host_id: str) -> None:
        if not asset.track.condition.claimed_by:
            condition = msgspec.structs.replace(asset.track.condition, claimed_by=host_id)
            self._put(replace(asset, track=replace(asset.track, condition=condition)))

    def _put(self, asset: Asset) -> None:
        self._assets[asset.id] = asset
        self._changes.assets.add(asset.id)
        self._index(asset)

    def _index(self, asset: Asset) -> None:
        if asset.serial is not None and asset.board_part_number is not None:
            self._serials[asset.serial, asset.board_part_number] = asset.id
        if asset.uuid is not None and asset.host_key is not None:
            self._uuids[asset.host_key, asset.uuid] = asset.id
            self._holders.setdefault(asset.uuid, set()).add(asset.id)
        if asset.host_key is not None:
            self._by_host.setdefault(asset.host_key, set()).add(asset.id)


def _serial(identity: Identified) -> tuple[str, str] | None:
    if identity.serial is None or identity.board_part_number is None:
        return None
    return identity.serial, identity.board_part_number
