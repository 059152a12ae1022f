"""From a valuation to a signed post in the outbox: the next round, a quorum's signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from assay_valuer.oracle.hub import Hub, HubError
from assay_valuer.oracle.outbox import Outbox, Post, PostState
from assay_valuer.oracle.report import DEVELOPMENT_CHAIN_IDS, Flag, Report, ReportError
from assay_valuer.oracle.signer import DigestSigner, SignerError, sign_quorum


@dataclass(frozen=True, slots=True)
class Terms:
    """What the chain dictates to a feed's next report."""

    round: int
    config_version: int


class Publisher:
    """Plans reports for one hub and has them signed. Sending them is the lane's business."""

    def __init__(self, hub: Hub, outbox: Outbox, signers: Sequence[DigestSigner]) -> None:
        self._hub: Final = hub
        self._outbox: Final = outbox
        self._signers: Final = tuple(signers)

    def check(self) -> None:
        """Refuses to start where our keys cannot make a quorum the hub accepts.

        Raises HubError, ChainError.
        """
        self._hub.check()
        config = self._hub.config()
        seated = [
            signer.address
            for signer in self._signers
            if self._hub.signer_version(signer.address) == config.version
        ]
        if len(set(seated)) < config.threshold:
            raise HubError(
                f"the hub {self._hub.domain.hub} wants {config.threshold} of its "
                f"{config.signers} signers and {len(set(seated))} of our keys are among them: "
                "configure the keys of its signers, or have the admin rotate the set"
            )

    def terms(self, feed_id: bytes) -> Terms:
        """Round and signer set version for the feed's next report. Raises HubRefused (UnknownFeed)."""
        planned = self._outbox.newest(self._hub.domain, feed_id)
        newest = max(self._hub.round_of(feed_id), 0 if planned is None else planned.report.round)
        return Terms(newest + 1, self._hub.config().version)

    def publish(self, report: Report, now_ms: int) -> Post:
        """Puts the report in the outbox and signs it.

        If signers fail it stays PLANNED and `sign_planned` tries again. Raises ReportError,
        RoundTaken, ChainError.
        """
        domain = self._hub.domain
        if Flag.SIMULATED in report.flags and domain.chain_id not in DEVELOPMENT_CHAIN_IDS:
            raise ReportError(
                f"a simulated report is never signed for chain {domain.chain_id}, "
                "which is not a local development chain"
            )
        return self._sign(self._outbox.add(domain, report, now_ms), now_ms)

    def sign_planned(self, now_ms: int) -> tuple[Post, ...]:
        """Signs what a crash or a failing signer left PLANNED; returns the posts that changed."""
        posts = [
            post
            for post in self._outbox.open_posts(self._hub.domain)
            if post.state is PostState.PLANNED
        ]
        signed = [self._sign(post, now_ms) for post in posts]
        return tuple(after for before, after in zip(posts, signed, strict=True) if before != after)

    def _sign(self, post: Post, now_ms: int) -> Post:
        if post.report.valid_until_s * 1000 <= now_ms:
            signed = replace(post, state=PostState.FAILED, detail="expired before it was signed")
        else:
            try:
                signatures = sign_quorum(
                    self._signers, self._hub.config().threshold, post.report.digest(post.domain)
                )
            except SignerError as error:
                signed = replace(post, detail=str(error))
            else:
                signed = replace(
                    post, state=PostState.QUORUM_SIGNED, signatures=signatures, detail=""
                )
        if signed == post:
            return post
        signed = replace(signed, updated_ms=now_ms)
        self._outbox.save(signed)
        return signed
