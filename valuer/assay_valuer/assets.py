"""The assets in memory: found by each of their identifiers, with what they and their hosts proved.

One thread uses it. What changed since the last `taken` is for the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.trust import (
    NO_PROOFS,
    NOT_RESERVED,
    Freeze,
    FreezeCode,
    HostProofs,
    Reservation,
)
from assay_valuer.standing.types import Asset, Host


@dataclass(frozen=True, slots=True)
class Binding:
    """A stronger identifier for an asset, and the evidence that showed it."""

    asset_id: int
    identity: str
    position: int


@dataclass(slots=True)
class Changes:
    """Assets that were made or changed, hosts whose proofs changed, identities bound.

    `frozen`: what was frozen anew, by what a person calls it, and why. `crowded`: hosts, by id, that
    showed more GPUs than are followed.
    """

    assets: set[int] = field(default_factory=set)
    made: set[int] = field(default_factory=set)
    hosts: set[int] = field(default_factory=set)
    bound: list[Binding] = field(default_factory=list)
    frozen: list[tuple[str, Freeze]] = field(default_factory=list)
    crowded: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.assets or self.hosts)


@dataclass(frozen=True, slots=True)
class Registry:
    """What people and enrolment say beside the ledger: hosts by key, what each has proved, and who
    alone may show a pledged asset.
    """

    hosts: Mapping[int, Host] = field(default_factory=dict)
    proofs: Mapping[int, HostProofs] = field(default_factory=dict)
    reserved: Mapping[int, Reservation] = field(default_factory=dict)


class Assets:
    """Every asset by its number, its serial, its device identity, and its UUID on its host."""

    def __init__(self, assets: Iterable[Asset], registry: Registry, policy: ValuerPolicy) -> None:
        self.policy = policy
        self.hosts = dict(registry.hosts)
        self._proofs = dict(registry.proofs)
        self._reserved = registry.reserved
        self._all: dict[int, Asset] = {}
        self._serials: dict[tuple[str, str], int] = {}
        self._identities: dict[str, int] = {}
        # A UUID names a GPU on its own host alone; who else shows it matters only without a serial.
        self._uuids: dict[tuple[int, bytes], int] = {}
        self._holders: dict[bytes, set[int]] = {}
        self._by_host: dict[int, set[int]] = {}
        self._claimed: dict[tuple[int, str], set[int]] = {}
        for asset in assets:
            self._all[asset.id] = asset
            self._index(asset)
        self._next_id = max(self._all, default=0) + 1
        self.changes = Changes()

    @property
    def all(self) -> Mapping[int, Asset]:
        """The assets by number, as they are now."""
        return self._all

    @property
    def proofs(self) -> Mapping[int, HostProofs]:
        """What hosts have proved, by their keys."""
        return self._proofs

    def taken(self) -> Changes:
        """What changed since the last time this was asked."""
        changes, self.changes = self.changes, Changes()
        return changes

    # ------------------------------------------------------------------ finding

    def __getitem__(self, asset_id: int) -> Asset:
        return self._all[asset_id]

    def by_serial(self, serial: tuple[str, str]) -> int | None:
        """The asset with this serial and board part number."""
        return self._serials.get(serial)

    def by_uuid(self, host_key: int, uuid: bytes) -> int | None:
        """The asset that a host shows under this UUID."""
        return self._uuids.get((host_key, uuid))

    def by_identity(self, identity: str) -> int | None:
        """The asset that this device identity is bound to."""
        return self._identities.get(identity)

    def with_uuid(self, uuid: bytes) -> tuple[int, ...]:
        """The assets that any host shows under this UUID."""
        return tuple(self._holders.get(uuid, ()))

    def of_host(self, host_key: int) -> frozenset[int]:
        """The assets that a host has."""
        return frozenset(self._by_host.get(host_key, ()))

    def claimed_by(self, host_key: int, uuid: str) -> tuple[int, ...]:
        """The assets of others that a host claims under this UUID (hex)."""
        return tuple(self._claimed.get((host_key, uuid), ()))

    def proofs_of(self, host_key: int) -> HostProofs:
        """What a host has proved."""
        return self._proofs.get(host_key, NO_PROOFS)

    def same_site(self, one: int, other: int) -> bool:
        """Whether two hosts are known to be at one site."""
        here, there = self.hosts.get(one), self.hosts.get(other)
        return here is not None and there is not None and here.site == there.site

    def reserved(self, asset_id: int) -> Reservation:
        """Who alone may show an asset."""
        return self._reserved.get(asset_id, NOT_RESERVED)

    # ------------------------------------------------------------------ changing

    def new_id(self) -> int:
        """The number of an asset that is about to be made."""
        made, self._next_id = self._next_id, self._next_id + 1
        self.changes.made.add(made)
        return made

    def put(self, asset: Asset) -> None:
        """Replaces an asset by what it is now."""
        before = self._all.get(asset.id)
        if before is not None and before.trust.claims and before.trust is not asset.trust:
            for claim in before.trust.claims:
                self._claimed.get((claim.host_key, claim.uuid), set()).discard(asset.id)
        if before is not None and before.identity not in (None, asset.identity):
            self._identities.pop(before.identity, None)
        self._all[asset.id] = asset
        self.changes.assets.add(asset.id)
        self._index(asset)

    def let_go(self, asset: Asset) -> None:
        """Takes the UUID off an asset."""
        if asset.uuid is not None and asset.host_key is not None:
            self._uuids.pop((asset.host_key, asset.uuid), None)
            self._holders.get(asset.uuid, set()).discard(asset.id)
        self.put(replace(asset, uuid=None))

    def leave(self, asset: Asset) -> None:
        """Takes an asset off its host."""
        self.let_go(asset)
        if asset.host_key is not None:
            self._by_host[asset.host_key].discard(asset.id)

    def bind_identity(self, asset_id: int, identity: str, position: int) -> None:
        """Binds a device identity to an asset that has none."""
        self.put(replace(self._all[asset_id], identity=identity))
        self.changes.bound.append(Binding(asset_id, identity, position))

    def put_proofs(self, host_key: int, proofs: HostProofs) -> None:
        """Replaces what a host has proved."""
        if proofs != self._proofs.get(host_key):
            self._proofs[host_key] = proofs
            self.changes.hosts.add(host_key)

    def freeze_host(
        self, host_key: int, code: FreezeCode, detail: str, at: tuple[int, int]
    ) -> None:
        """Freezes a host, and so every GPU on it. `at`: when, UTC ms, and the ledger position."""
        proofs = self.proofs_of(host_key)
        host = self.hosts.get(host_key)
        label = f"host {host_key}" if host is None else host.host_id
        freezes = self._frozen(proofs.freezes, label, code, detail, at)
        self.put_proofs(host_key, msgspec.structs.replace(proofs, freezes=freezes))

    def freeze(self, asset_id: int, code: FreezeCode, detail: str, at: tuple[int, int]) -> None:
        """Freezes one GPU."""
        asset = self._all[asset_id]
        freezes = self._frozen(asset.trust.freezes, asset.label, code, detail, at)
        self.put(replace(asset, trust=msgspec.structs.replace(asset.trust, freezes=freezes)))

    def _frozen(
        self,
        before: tuple[Freeze, ...],
        label: str,
        code: FreezeCode,
        detail: str,
        at: tuple[int, int],
    ) -> tuple[Freeze, ...]:
        """With one more reason; the first of each code stands."""
        if any(held.code is code for held in before):
            return before
        since_ms, position = at
        one = Freeze(code=code, detail=detail, since_ms=since_ms, position=position)
        self.changes.frozen.append((label, one))
        return (*before, one)

    def _index(self, asset: Asset) -> None:
        if asset.serial is not None and asset.board_part_number is not None:
            self._serials[asset.serial, asset.board_part_number] = asset.id
        if asset.uuid is not None and asset.host_key is not None:
            self._uuids[asset.host_key, asset.uuid] = asset.id
            self._holders.setdefault(asset.uuid, set()).add(asset.id)
        if asset.host_key is not None:
            self._by_host.setdefault(asset.host_key, set()).add(asset.id)
        if asset.identity is not None:
            self._identities[asset.identity] = asset.id
        for claim in asset.trust.claims:
            self._claimed.setdefault((claim.host_key, claim.uuid), set()).add(asset.id)
