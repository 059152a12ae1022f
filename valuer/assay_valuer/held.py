"""Whatever is held against one GPU, in words: the evidence for each side, and where it is.

Instants are UTC ms, positions of ledger entries. Pure.
"""

from __future__ import annotations

from typing import Final

import msgspec

from assay_core.instants import format_instant
from assay_valuer.asset_rows import AssetRow
from assay_valuer.policy import ValuerPolicy, ms
from assay_valuer.standing.assurance import strength_of
from assay_valuer.standing.holding import WORDS
from assay_valuer.standing.stand import DECIDE
from assay_valuer.standing.trust import (
    Claim,
    Freeze,
    FreezeCode,
    Reservation,
    Transition,
    Verdict,
)


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A freeze, a claim or a transition: what it is, and the evidence for each side.

    `host` is who it is about: the frozen host, or the claimant. `over`: it holds no more.
    """

    what: str
    code: str
    since_ms: int
    until_ms: int | None = None
    over: bool = False
    host: str | None = None
    against: tuple[str, ...] = ()
    in_favour: tuple[str, ...] = ()
    means: str = ""
    positions: tuple[int, ...] = ()
    event_id: int | None = None

    @property
    def title(self) -> str:
        """What it is, and since or until when."""
        code = self.code.replace("_", " ") if self.what == TRANSITION else self.code
        if self.until_ms is not None:
            state = "over since" if self.over else "until"
            return f"{self.what}: {code} {state} {format_instant(self.until_ms)}"
        past = ", over," if self.over else ""
        return f"{self.what} {code}{past} since {format_instant(self.since_ms)}"


FROZEN: Final = "FROZEN"
HOST_FROZEN: Final = "its host FROZEN"
CLAIMED: Final = "claimed by another host:"
TRANSITION: Final = "IN TRANSITION"

_HONEST: Final = {
    FreezeCode.FORK: "A state folder of an agent that was copied, or restored from a backup, does "
    "this too.",
    FreezeCode.CLOCK: "Going back to a snapshot of a virtual machine does this too; hardware does not.",
    FreezeCode.EK: "A board that was swapped does this too, where nobody proposed that.",
    FreezeCode.FALSE_CLAIM: "An image of one host that was started on another does this too.",
    FreezeCode.CLONE: "No honest cause is known: one of the hosts relays the other's device.",
    FreezeCode.IDENTITY: "A board that was repaired with another die does this too.",
    FreezeCode.REVOKED: "A recall by the maker says nothing of this host.",
}
_THAWS: Final = "Nothing is lent on it, and it does not count, until two lenders enrol it again."


def held_against(row: AssetRow, policy: ValuerPolicy, now_ms: int) -> tuple[Held, ...]:
    """Freezes of it and of its host, claims of others, and transitions, those that are over too."""
    return (
        *(_frozen(FROZEN, one, None) for one in row.trust.freezes),
        *(_frozen(HOST_FROZEN, one, row.host) for one in row.proofs.freezes),
        *(_claimed(row, one, policy, now_ms) for one in row.trust.claims),
        *(_transition(one, now_ms) for one in row.trust.transitions),
    )


def _frozen(what: str, one: Freeze, host: str | None) -> Held:
    return Held(
        what=what,
        code=one.code.value,
        since_ms=one.since_ms,
        host=host,
        against=(sentence(one.detail),),
        in_favour=(_HONEST[one.code],),
        means=_THAWS,
        positions=(one.position,),
    )


def _claimed(row: AssetRow, one: Claim, policy: ValuerPolicy, now_ms: int) -> Held:
    since, last = format_instant(one.since_ms), format_instant(one.last_ms)
    rests_on = WORDS[one.strength]
    # Once decided, what each side had then is in its words.
    shown = f"{one.host_id} has shown it since {since}, by {rests_on}"
    against = [sentence(one.why or shown), f"{one.host_id} showed it last at {last}."]
    if one.proved_ms is not None:
        against.append(f"The device answered there at {format_instant(one.proved_ms)}.")
    past = row.trust.past(one, now_ms, ms(policy.findings.keep_s))
    return Held(
        what=CLAIMED,
        code=one.verdict.value,
        since_ms=one.since_ms,
        over=past,
        host=one.host_id,
        against=tuple(against),
        in_favour=(_holder(row, policy, now_ms),),
        means="Of the past: its holder has shown it since." if past else DECIDE[one.verdict],
    )


def _holder(row: AssetRow, policy: ValuerPolicy, now_ms: int) -> str:
    """Who has it, and how well that is proved now."""
    proof = row.trust.proof
    if row.host is None:
        return "No host has it."
    proved_ms = proof.at_ms if proof is not None and proof.host_key == row.host_key else None
    strength = strength_of(row.proofs, proved_ms, policy, now_ms)
    since_ms = row.trust.held_since_ms
    since = "" if since_ms is None else f" since {format_instant(since_ms)}"
    told = Reservation(site=row.reserved_site, host_id=row.reserved_host)
    reserved = ", and the pledge names it" if told.names(row.host, row.site or "") else ""
    return f"{row.host} has shown it{since}, now by {WORDS[strength]}{reserved}."


def _transition(one: Transition, now_ms: int) -> Held:
    agreed = f"Agreed: {sentence(one.why)}"
    if to := one.to_host or one.to_site:
        agreed += f" It goes to {to}."
    if one.other_asset is not None:
        agreed += f" asset-{one.other_asset} takes its place."
    return Held(
        what=TRANSITION,
        code=one.kind,
        since_ms=one.begin_ms,
        until_ms=one.until_ms,
        over=one.until_ms < now_ms,
        host=one.to_host or None,
        in_favour=(agreed,),
        means="" if one.until_ms < now_ms else "Until then it counts, seen or not.",
        event_id=one.event_id,
    )


def amiss(held: Held) -> bool:
    """Whether it is something that a person should look at now."""
    return not held.over and not (held.what == CLAIMED and held.code == Verdict.FALSE.value)


def sentence(words: str) -> str:
    """With a capital, unless a host's name begins it, and a full stop; nothing stays nothing."""
    words = words.strip()
    first = words[:1] if words.startswith("spiffe://") else words[:1].upper()
    return words and first + words[1:] + ("" if words.endswith(".") else ".")
