"""From the book to the oracle: which loans' feeds get a round, and what stands in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog
from eth_utils.address import to_checksum_address
from sqlalchemy import func, select

from assay_core.errors import FileError
from assay_core.instants import MINUTE_MS
from assay_core.money import ZERO, Usd
from assay_core.units import LTV_BPS_MAX
from assay_valuer.book import Book, Loan
from assay_valuer.config import OracleConfig
from assay_valuer.credit.covenant_position import CovenantPosition
from assay_valuer.credit.position import Position, State
from assay_valuer.feeds import Feed, PostNews, Round
from assay_valuer.oracle.hub import Hub, HubRefused
from assay_valuer.oracle.outbox import Outbox, Post, PostState, RoundTaken
from assay_valuer.oracle.outbox_sql import SqlOutbox
from assay_valuer.oracle.policy import Content, Decision, Published, decide
from assay_valuer.oracle.publisher import Publisher, Terms
from assay_valuer.oracle.report import DEVELOPMENT_CHAIN_IDS, Domain, Flag, Report, ReportError
from assay_valuer.oracle.rpc import ChainUnreachable, JsonRpc
from assay_valuer.oracle.sender import Lane, LaneLimits
from assay_valuer.oracle.signer import open_keystore
from assay_valuer.policy import ValuerPolicy, ms
from assay_valuer.store.database import Database
from assay_valuer.store.schema import OUTBOX

_log: Final = structlog.get_logger(__name__)

RETRY_MS: Final = MINUTE_MS
"""Least wait after a round that failed, whatever the policy says."""


class Oracle:
    """Decides, signs and sends for one hub. One thread steps it; it may block on the network."""

    def __init__(
        self, hub: Hub, publisher: Publisher, lane: Lane, outbox: Outbox, policy: ValuerPolicy
    ) -> None:
        self.hub: Final = hub
        self._publisher: Final = publisher
        self._lane: Final = lane
        self._outbox: Final = outbox
        self._policy: Final = policy
        self._checked = False
        self.feeds: Mapping[str, Feed] = {}
        """Each loan's feed as of the newest step."""

    def step(self, book: Book, now_ms: int) -> tuple[PostNews, ...]:
        """Plans and signs the rounds that are due, and moves every open post on.

        Raises ChainError and the like where the chain cannot be reached.
        """
        if not self._checked:
            self._publisher.check()
            self._checked = True
        changed = list(self._publisher.sign_planned(now_ms))
        decisions: dict[str, Decision] = {}
        faults: set[str] = set()
        for loan_id in book.loans:
            try:
                decisions[loan_id], post = self._offer(book, loan_id, now_ms)
            except (ReportError, RoundTaken) as error:  # of this feed alone: the others go on
                decisions[loan_id], post = self._fault(loan_id, str(error)), None
                faults.add(loan_id)
            changed += [] if post is None else [post]
        changed += self._lane.step(now_ms)
        self.feeds = {
            loan_id: self._feed(book, loan_id, decision, fault=loan_id in faults)
            for loan_id, decision in decisions.items()
        }
        return tuple(_news(post) for post in changed)

    def _offer(self, book: Book, loan_id: str, now_ms: int) -> tuple[Decision, Post | None]:
        """What was decided for a loan's feed, and the round that was planned for it."""
        loan, position = book.loans[loan_id], book.positions[loan_id]
        newest = self._outbox.newest(self.hub.domain, loan.feed_id)
        candidate = content(position, self._policy, book.at_ms, book.covenants.get(loan_id))
        decision = self._decide(loan, position, candidate, newest, now_ms)
        if not decision.publish:
            return decision, None
        report = _report(book, loan, candidate, self._publisher.terms(loan.feed_id))
        return decision, self._publisher.publish(report, now_ms)

    def _fault(self, loan_id: str, why: str) -> Decision:
        """Nothing is published for this feed: said once, not at every step while it stays so."""
        before = self.feeds.get(loan_id)
        if before is None or not before.fault:
            _log.error("feed_not_published", loan=loan_id, why=why)
        return Decision(False, (), why)

    def _feed(self, book: Book, loan_id: str, decision: Decision, *, fault: bool) -> Feed:
        feed_id = book.loans[loan_id].feed_id
        post = self._outbox.newest(self.hub.domain, feed_id)
        return Feed(
            loan_id,
            feed_id,
            book.positions[loan_id].simulated,
            None if post is None else _round(post),
            decision.publish,
            decision.why,
            fault,
        )

    def _decide(
        self, loan: Loan, position: Position, candidate: Content, post: Post | None, now_ms: int
    ) -> Decision:
        if position.simulated and self.hub.domain.chain_id not in DEVELOPMENT_CHAIN_IDS:
            return Decision(False, (), "simulated, and this is no local development chain")
        publishing = self._policy.publishing
        if post is not None and post.state is PostState.FAILED:
            wait_ms = max(ms(publishing.interval_min_s), RETRY_MS)
            if now_ms - post.updated_ms < wait_ms:
                return Decision(False, (), f"round {post.report.round} failed: {post.detail}")
        if post is None or post.state in (PostState.FAILED, PostState.SUPERSEDED):
            try:
                last = self._on_chain(loan.feed_id)
            except HubRefused as error:
                return Decision(False, (), f"{error}; have the hub's admin register the feed")
        else:
            last = _published(post)
        return decide(last, candidate, self._policy.ltv_thresholds_bps, publishing, now_ms)

    def _on_chain(self, feed_id: bytes) -> Published | None:
        """The feed's newest round as the hub shows it. Raises HubRefused for an unknown feed."""
        if self.hub.round_of(feed_id) == 0:
            return None
        shown = self.hub.latest(feed_id)
        return Published(
            shown.round,
            Content(
                olv=Usd.from_wad_down(shown.olv_wad),
                nolv=Usd.from_wad_down(shown.nolv_wad),
                p10=Usd.from_wad_down(shown.olv_wad),
                p90=Usd.from_wad_down(shown.olv_wad),
                ltv_gross_bps=shown.ltv_gross_bps,
                ltv_net_bps=shown.ltv_net_bps,
                coverage_bps=shown.coverage_bps,
                assurance=shown.assurance,
                flags=int(shown.flags & ~Flag.RIPCORD),
                observed_at_s=shown.observed_at_s,
                valid_until_s=shown.valid_until_s,
            ),
            shown.posted_at_s * 1000,
        )


class Failover:
    """The same oracle through several endpoints: the next is asked where one cannot be reached."""

    def __init__(self, oracles: Sequence[Oracle], database: Database) -> None:
        self._oracles: Final = tuple(oracles)
        self._database: Final = database
        self._first = 0

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """Each loan's feed as of the newest step that went through."""
        return self._oracles[self._first].feeds

    def step(self, book: Book, now_ms: int) -> tuple[PostNews, ...]:
        """As Oracle.step, over the first endpoint that answers. Raises the last one's error."""
        for offset in range(len(self._oracles)):
            index = (self._first + offset) % len(self._oracles)
            try:
                changed = self._oracles[index].step(book, now_ms)
            except ChainUnreachable:
                if offset == len(self._oracles) - 1:
                    raise
                continue
            self._first = index
            return changed
        return ()

    def counts(self) -> Mapping[str, int]:
        """Posts in the outbox by state, of every hub."""
        rows = self._database.read(lambda connection: connection.execute(_COUNT).all())
        found = {str(state): int(count) for state, count in rows}
        return {state.value: found.get(state.value, 0) for state in PostState}


_COUNT: Final = select(OUTBOX.c.state, func.count()).group_by(OUTBOX.c.state)


def open_oracle(config: OracleConfig, database: Database, policy: ValuerPolicy) -> Failover:
    """The oracle of a configuration; asks no endpoint yet. Raises FileError, AssayError."""
    if config.hub is None or not config.rpc_urls or not config.report_keystores:
        raise FileError("oracle: hub, rpc_urls and report_keystores are needed to publish")
    if config.sender_keystore is None or config.passphrase_file is None:
        raise FileError("oracle: sender_keystore and passphrase_file are needed to publish")
    development = config.chain_id in DEVELOPMENT_CHAIN_IDS
    if config.development and not development:
        raise FileError(f"oracle.development: chain {config.chain_id} is no development chain")
    passphrase = Path(config.passphrase_file)
    signers = [open_keystore(Path(one), passphrase) for one in config.report_keystores]
    sender = open_keystore(Path(config.sender_keystore), passphrase)
    domain = Domain(config.chain_id, to_checksum_address(config.hub))
    limits = LaneLimits(confirm_depth=1 if config.development else None)
    outbox = SqlOutbox(database)
    oracles = []
    for url in config.rpc_urls:
        hub = Hub(JsonRpc(url), domain)
        publisher, lane = Publisher(hub, outbox, signers), Lane(hub, sender, outbox, limits)
        oracles.append(Oracle(hub, publisher, lane, outbox, policy))
    return Failover(oracles, database)


def content(
    position: Position,
    policy: ValuerPolicy,
    now_ms: int,
    covenant: CovenantPosition | None = None,
) -> Content:
    """What a round made of the position would say.

    The LTV is the covenant position's where a covenant file is in force, and else the risk
    position's; the value is of what counts, either way. Where nothing counts, it says so as of now,
    with no value, and no cover unless a covenant goes on with what fell silent.
    """
    values, valid_s = position.values, policy.publishing.valid_s
    ltv = position if covenant is None else covenant
    flags = Flag(0)
    flags |= Flag.STALE if position.stale else Flag(0)
    flags |= Flag.SIMULATED if position.simulated else Flag(0)
    flags |= Flag.UNDER_REVIEW if position.state is State.DISPUTED else Flag(0)
    at_ms = now_ms if position.observed_ms is None else position.observed_ms
    uncovered = LTV_BPS_MAX if position.debt > ZERO else 0
    return Content(
        olv=ZERO if values is None else values.olv.mid,
        nolv=ZERO if values is None else values.nolv.mid,
        p10=ZERO if values is None else values.olv.low,
        p90=ZERO if values is None else values.olv.high,
        ltv_gross_bps=min(_or(ltv.ltv_gross_bps, uncovered), LTV_BPS_MAX),
        ltv_net_bps=min(_or(ltv.ltv_net_bps, uncovered), LTV_BPS_MAX),
        coverage_bps=position.coverage_bps,
        assurance=position.assurance,
        flags=int(flags),
        observed_at_s=at_ms // 1000,
        valid_until_s=at_ms // 1000 + valid_s,
    )


def _or(known: int | None, otherwise: int) -> int:
    return otherwise if known is None else known


def _news(post: Post) -> PostNews:
    return PostNews(
        post.report.feed_id,
        post.report.round,
        post.state.value,
        post.state is PostState.FAILED,
        post.detail,
    )


def _round(post: Post) -> Round:
    report = post.report
    return Round(
        number=report.round,
        state=post.state.value,
        olv=report.olv,
        nolv=report.nolv,
        ltv_gross_bps=report.ltv_gross_bps,
        ltv_net_bps=report.ltv_net_bps,
        coverage_bps=report.coverage_bps,
        planned_ms=post.created_ms,
        observed_ms=ms(report.observed_at_s),
        valid_until_ms=ms(report.valid_until_s),
    )


def _published(post: Post) -> Published:
    report = post.report
    return Published(
        report.round,
        Content(
            olv=report.olv,
            nolv=report.nolv,
            p10=report.p10,
            p90=report.p90,
            ltv_gross_bps=report.ltv_gross_bps,
            ltv_net_bps=report.ltv_net_bps,
            coverage_bps=report.coverage_bps,
            assurance=report.assurance,
            flags=int(report.flags),
            observed_at_s=report.observed_at_s,
            valid_until_s=report.valid_until_s,
        ),
        post.created_ms,
    )


def _report(book: Book, loan: Loan, candidate: Content, terms: Terms) -> Report:
    return Report(
        feed_id=loan.feed_id,
        round=terms.round,
        olv=candidate.olv,
        nolv=candidate.nolv,
        p10=candidate.p10,
        p90=candidate.p90,
        ltv_gross_bps=candidate.ltv_gross_bps,
        ltv_net_bps=candidate.ltv_net_bps,
        coverage_bps=candidate.coverage_bps,
        assurance=candidate.assurance,
        flags=Flag(candidate.flags),
        observed_at_s=candidate.observed_at_s,
        valid_until_s=candidate.valid_until_s,
        config_version=terms.config_version,
        evidence_root=book.evidence_root(loan.file.id),
        methodology_hash=book.methodology,
    )
