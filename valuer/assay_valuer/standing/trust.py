"""What hosts and GPUs have proved, who else claims them, and what they are frozen for.

A fold of the ledger, as everything that standing rests on: evidence, forks, and what people decided.
Kept as JSON beside host and asset. Instants are UTC milliseconds; positions are of ledger entries.
"""

from __future__ import annotations

import enum
from typing import Final

import msgspec


class FreezeCode(enum.StrEnum):
    """Why something is frozen: nothing is lent on it until two people enrol it again."""

    FORK = "chain_fork"  # one key sealed two histories: a copied or restored agent
    CLOCK = (
        "tpm_clock_regression"  # the TPM's clock or reset count went back: another TPM, or state
    )
    EK = "ek_changed"  # the host came back with another TPM, and nobody had said so
    FALSE_CLAIM = "false_claim"  # it shows a GPU that a better-proved host shows at the same time
    CLONE = "clone"  # one device identity answered on two hosts at the same time
    IDENTITY = "identity_changed"  # the same serial number, another device
    REVOKED = "device_revoked"  # the maker revoked its certificate


class Freeze(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One reason, with the evidence for it and against it, in words."""

    code: FreezeCode
    detail: str
    since_ms: int
    position: int


class TpmProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The newest quote that held. It was made between `at_ms`, when its challenge was sent, and
    `received_ms`.
    """

    at_ms: int
    received_ms: int
    position: int
    ak_name: str
    clock_ms: int
    reset_count: int
    restart_count: int
    pcr_digest: str


class DeviceProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The newest report that held, of this device, on this host.

    `certificates` are SHA-256 of those that can be revoked: from its identity key's up to below the
    root. `whole` marks a board whose every GPU and switch named the others. `simulated`: its root is
    one that only this policy names.
    """

    at_ms: int
    position: int
    host_key: int
    chip: str
    driver: str | None
    vbios: str | None
    feature: str | None
    origin: str
    certificates: tuple[str, ...]
    whole: bool
    simulated: bool


class Verdict(enum.StrEnum):
    """What a claim came to."""

    OPEN = "open"  # shown by one host after the other: it may have been moved, a person is asked
    FALSE = "false"  # both at once, and the claimant has the weaker proof: it is frozen
    CLONE = "clone"  # both at once, each with the device's own proof: the asset is frozen
    DISPUTED = "disputed"  # both at once, and neither is better proved: a person must decide


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Another host that shows this asset too, since when, and how well it is proved.

    `strength`: 0 its word, 1 a host bound to its TPM, 2 the device's own report, newest at
    `proved_ms`. `holder_after_ms` is when the holder first showed it again after that.
    """

    host_key: int
    host_id: str
    strength: int
    since_ms: int
    last_ms: int
    uuid: str
    proved_ms: int | None = None
    holder_after_ms: int | None = None
    verdict: Verdict = Verdict.OPEN
    why: str = ""


class Transition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An accepted event that the asset is in the midst of, from `begin_ms` until `until_ms`."""

    event_id: int
    kind: str
    begin_ms: int
    until_ms: int
    why: str
    to_host: str = ""
    to_site: str = ""
    other_asset: int | None = None
    """In a replacement: the asset that takes its place."""

    def leads_to(self, host_id: str, site: str) -> bool:
        """Whether it takes the asset to this host."""
        return self.to_host == host_id if self.to_host else bool(site) and self.to_site == site

    @property
    def away(self) -> bool:
        """Whether it ends on another host than it began, or with another asset."""
        return bool(self.to_host or self.to_site) or self.other_asset is not None


class Custody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An inspection that a custodian and the lender signed, and until when it holds."""

    event_id: int
    custodian: str
    until_ms: int
    document_sha256: str


class Reservation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Who alone may show a pledged asset, where its loan says so: a site, or one host."""

    site: str | None = None
    host_id: str | None = None

    def names(self, host_id: str, site: str) -> bool:
        """Whether this host is named; where nobody is, nobody is named above others."""
        return self.host_id == host_id if self.host_id is not None else self.site == site

    def excludes(self, host_id: str, site: str) -> bool:
        """Whether the pledge is another's."""
        nobody = self.host_id is None and self.site is None
        return not nobody and not self.names(host_id, site)


class AssetTrust(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is known of one GPU beyond what its windows say."""

    proof: DeviceProof | None = None
    claims: tuple[Claim, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    transitions: tuple[Transition, ...] = ()
    custody: tuple[Custody, ...] = ()
    held_since_ms: int | None = None
    """Since when its present host has shown it."""

    def past(self, claim: Claim, now_ms: int, keep_ms: int) -> bool:
        """Whether a claim that nobody decided is history: its host had the asset before and told of
        it late, or showed it for a while, and its holder has shown it for `keep_ms` since.
        """
        if claim.verdict is not Verdict.OPEN:
            return False
        since_ms = self.held_since_ms
        told_late = since_ms is not None and claim.last_ms < since_ms
        gone_back = claim.holder_after_ms is not None and now_ms - claim.last_ms > keep_ms
        return told_late or gone_back


class HostProofs(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is known of one host beyond its chain.

    `root_sha256` is the root that its TPM's certificates lead to; None where they lead to none that
    is listed, and then `ek_detail` says why. `virtual`: it is software, by its names or its root.
    """

    ak_name: str = ""
    ek_sha256: str = ""
    root_sha256: str | None = None
    ek_detail: str = ""
    virtual: bool = False
    tpm: TpmProof | None = None
    devices_absent: str = ""
    """Why its devices gave no evidence, by its own word."""
    freezes: tuple[Freeze, ...] = ()
    transitions: tuple[Transition, ...] = ()


NO_TRUST: Final = AssetTrust()
NO_PROOFS: Final = HostProofs()
NOT_RESERVED: Final = Reservation()
CLAIMS_MAX: Final = 8
"""Claims kept of one asset; what is beyond them adds nothing to what a person must decide."""
MAINTENANCE: Final = "maintenance"
"""The kind of transition that needs no lender where policy accepts it."""
KEPT_MAX: Final = 16
"""Freezes, transitions and inspections kept of one asset or host."""


def current(transitions: tuple[Transition, ...], now_ms: int) -> Transition | None:
    """The transition that is under way; of several, the one that ends last."""
    running = [one for one in transitions if one.begin_ms <= now_ms <= one.until_ms]
    return max(running, key=lambda one: (one.until_ms, one.event_id), default=None)
