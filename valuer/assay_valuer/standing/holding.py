"""Which host an asset is with, where two show it: one after the other, or both at once.

One after the other is a move, and asks. Both at once is decided by how well each is proved: a weaker
claim freezes only who makes it; two device reports of one identity are a clone, and freeze the
asset; anything else is disputed, and counts on until a person decides. Pure: a fold over sights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

from assay_core.instants import format_instant
from assay_valuer.standing.trust import CLAIMS_MAX, AssetTrust, Claim, Freeze, Verdict

WORDS: Final = ("its word alone", "a host bound to its TPM", "the device's own report")
"""What each strength of a claim rests on."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A window or answer of a host that shows an asset: whose, from when until when (UTC ms), where
    in the ledger, and under which UUID (hex; "" where by its device alone).
    """

    host_key: int
    host_id: str
    begin_ms: int
    end_ms: int
    position: int
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class Hold:
    """How well one side is proved: `strength` as in Claim; `reserved`: the pledge names this side."""

    host_id: str
    strength: int
    reserved: bool

    @property
    def rank(self) -> tuple[int, bool]:
        """What is compared."""
        return self.strength, self.reserved


def claimed(
    trust: AssetTrust, shown: Shown, strength: int, proved_ms: int | None = None
) -> tuple[AssetTrust, Claim | None]:
    """The trust after another host than the holder showed the asset, and its claim.

    `proved_ms`: when the device itself answered there, if it did now. Where many hosts claim it, a
    better proved claim takes the place of the weakest, and one that is not adds nothing: None.
    """
    held = next((one for one in trust.claims if one.host_key == shown.host_key), None)
    if held is None:
        if len(trust.claims) >= CLAIMS_MAX:
            least = min(trust.claims, key=lambda one: (one.strength, one.last_ms, one.host_key))
            if least.strength >= strength:
                return trust, None
            trust = without_claim(trust, least.host_key)
        held = Claim(
            host_key=shown.host_key,
            host_id=shown.host_id,
            strength=strength,
            since_ms=shown.end_ms,
            last_ms=shown.end_ms,
            uuid=shown.uuid,
            proved_ms=proved_ms,
        )
    else:
        held = msgspec.structs.replace(
            held,
            strength=strength,
            last_ms=max(held.last_ms, shown.end_ms),
            uuid=shown.uuid or held.uuid,
            proved_ms=held.proved_ms if proved_ms is None else proved_ms,
        )
    return with_claim(trust, held), held


def overlapping(claim: Claim, shown: Shown) -> bool:
    """Whether this window of the claimant, or of the holder, shows that both have it at once."""
    if shown.host_key == claim.host_key:
        return claim.holder_after_ms is not None and shown.begin_ms >= claim.holder_after_ms
    return claim.since_ms <= shown.begin_ms < claim.last_ms


def confirmed(trust: AssetTrust, shown: Shown) -> AssetTrust:
    """The trust after its holder showed it once more."""
    claims = tuple(
        msgspec.structs.replace(one, holder_after_ms=shown.begin_ms)
        if one.holder_after_ms is None and shown.begin_ms >= one.since_ms
        else one
        for one in trust.claims
    )
    return trust if claims == trust.claims else msgspec.structs.replace(trust, claims=claims)


def judge(holder: Hold, claimant: Hold) -> Verdict:
    """What it comes to that both show one asset at the same time.

    Whoever the pledge names: a device that answers in two places is relayed from one of them.
    """
    if holder.strength == claimant.strength == len(WORDS) - 1:
        return Verdict.CLONE
    if claimant.rank < holder.rank:
        return Verdict.FALSE
    return Verdict.DISPUTED


def settled(
    trust: AssetTrust, claim: Claim, verdict: Verdict, holder: Hold
) -> tuple[AssetTrust, str]:
    """The trust with a claim's verdict, and the evidence for each side in words."""
    why = (
        f"{claim.host_id} has shown it since {format_instant(claim.since_ms)}, by "
        f"{WORDS[claim.strength]}; {holder.host_id} shows it at the same time, by "
        f"{WORDS[holder.strength]}"
        f"{', and the pledge names it' if holder.reserved else ''}"
    )
    return with_claim(trust, msgspec.structs.replace(claim, verdict=verdict, why=why)), why


def with_claim(trust: AssetTrust, claim: Claim) -> AssetTrust:
    """The trust with this claim in place of the same host's before."""
    others = tuple(one for one in trust.claims if one.host_key != claim.host_key)
    ordered = tuple(sorted((*others, claim), key=lambda one: (one.since_ms, one.host_key)))
    return msgspec.structs.replace(trust, claims=ordered)


def without_claim(trust: AssetTrust, host_key: int) -> AssetTrust:
    """The trust without the claim of one host."""
    kept = tuple(one for one in trust.claims if one.host_key != host_key)
    return trust if kept == trust.claims else msgspec.structs.replace(trust, claims=kept)


def moved(
    trust: AssetTrust,
    host_key: int,
    since_ms: int,
    *,
    freezes: tuple[Freeze, ...] = (),
    same_site: bool,
) -> AssetTrust:
    """The trust once another host has the asset, since `since_ms`.

    `freezes` are those of the host that it leaves: they go with it, or a move would lift them. An
    inspection holds where it was made.
    """
    codes = {one.code for one in trust.freezes}
    return msgspec.structs.replace(
        without_claim(trust, host_key),
        held_since_ms=since_ms,
        freezes=(*trust.freezes, *(one for one in freezes if one.code not in codes)),
        custody=trust.custody if same_site else (),
    )
