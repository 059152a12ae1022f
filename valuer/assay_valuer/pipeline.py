"""The valuer's own work, step by step: follow the ledger, appraise, keep what changed.

One thread ticks. What a tick read from the ledger and what it wrote are one transaction with the
projection's position, so that every window is taken exactly once; memory is a copy of the store and
is loaded anew after anything went wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from assay_core.covenant import Covenant
from assay_core.errors import AssayError
from assay_core.evidence.bundle import Keys
from assay_core.instants import MINUTE_MS
from assay_core.seal import Signer
from assay_valuer import book_store, covenants, loan_states, valuation_store
from assay_valuer.appraisals import load_appraisals
from assay_valuer.assets import Binding, Registry
from assay_valuer.book import Book, BookSnapshot, Loan, appraise
from assay_valuer.credit.chain_state import ChainView
from assay_valuer.credit.covenant import CovenantState, Record
from assay_valuer.credit.position import Position, Remembered
from assay_valuer.fleet import HOST_ASSETS_MAX, Fleet
from assay_valuer.following import follow
from assay_valuer.hosts import keys_of
from assay_valuer.ledger.append import append_record, next_position, to_json
from assay_valuer.ledger.read import entry, followed_from
from assay_valuer.market.prices import PriceSnapshot
from assay_valuer.market_store import newest_parameters
from assay_valuer.marks import keep_marks
from assay_valuer.overrides import load_overrides
from assay_valuer.policy import ValuerPolicy
from assay_valuer.results import (
    StoredLine,
    StoredPosition,
    stored_covenant,
    stored_line,
    stored_position,
)
from assay_valuer.standing.assurance import Revocation
from assay_valuer.standing.silence import Span, merge
from assay_valuer.standing.types import Host
from assay_valuer.store.database import Database
from assay_valuer.valuation.case import Appraisal, Override
from assay_valuer.valuation.parameters import Parameters

BATCH_MAX: Final = 200
"""Most windows taken in one transaction."""
UPTIME_LAG_MAX_MS: Final = MINUTE_MS
"""The service notes every few seconds that it is up; a note older than this is of another run."""
POSITION_EVERY_MS: Final = MINUTE_MS
"""A position whose debt alone has moved is written this often."""
LINES_MAX: Final = 500
"""Most GPUs in one record of the ledger."""
CASES_MAX: Final = 200
"""Most cases kept in one transaction."""
VALUATION: Final = "valuation"
POSITION: Final = "position"
POLICY: Final = "policy"
BINDING: Final = "binding"

_T = TypeVar("_T")
_log: Final = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Memory:
    """The store, in memory."""

    fleet: Fleet
    next_position: int
    hosts: dict[int, Host]
    loans: tuple[Loan, ...]
    prices: PriceSnapshot | None
    spans: list[Span]
    revocations: dict[str, Revocation]
    remembered: dict[int, Remembered]
    covenants: dict[str, tuple[Covenant, ...]]
    covenant_states: dict[str, CovenantState]
    parameters: Parameters | None
    appraisals: Mapping[int, tuple[Appraisal, ...]]
    overrides: Mapping[int, Override]
    chain: dict[str, ChainView]
    version: tuple[object, ...]


class Pipeline:
    """Ticks over one store. Only one process at a time may run one."""

    def __init__(self, database: Database, ledger_key: Signer, policy: ValuerPolicy) -> None:
        self._database: Final = database
        self._key: Final = ledger_key
        self._policy: Final = policy
        self._memory: _Memory | None = None
        self._policy_told = False
        self._kept_lines: dict[int, tuple[object, ...]] = {}
        self._kept_positions: dict[str, tuple[tuple[object, ...], int]] = {}
        self._kept_covenants: dict[str, int] = {}
        self._kept_cases: set[str] = set()
        self._marked: str | None = None
        self.book: Book | None = None
        """The newest book; None before the first tick."""
        self.lag: int = 0
        """Ledger entries that the newest book has not taken yet."""

    def tick(self, now_ms: int) -> Book:
        """Takes what the ledger has, appraises, writes what changed, and returns the book.

        Raises StoreError; nothing is lost then, and the next tick goes on from the store.
        """
        try:
            # In this order: a window up to here is of a host that is in the registry read next.
            end = self._database.read(next_position)
            memory = self._refresh(now_ms)
            if not self._policy_told:
                self._database.write(partial(self._tell_policy, now_ms=now_ms))
                self._policy_told = True
            self._follow(memory, end, now_ms)
            book = appraise(self._snapshot(memory, now_ms), self._policy, now_ms)
            self._keep(book)
            self._mark(memory, now_ms)
        except IntegrityError as error:
            self._forget()
            raise BookRaced from error
        except BaseException:  # whatever it was, memory may be ahead of the store now
            self._forget()
            raise
        memory.remembered = dict(book.remembered)
        memory.covenant_states |= {name: one.state for name, one in book.covenants.items()}
        self.book = book
        return book

    def known(self, now_ms: int) -> BookSnapshot:
        """What the store knows now, up to where the running service has followed the ledger. Nothing
        is written: `appraise` makes a book of it. Raises StoreError.
        """
        return self._snapshot(self._refresh(now_ms), now_ms)

    def _forget(self) -> None:
        self._memory = None

    def _refresh(self, now_ms: int) -> _Memory:
        """Memory as the store has it now: loaded anew where somebody else has written."""
        version = self._database.read(book_store.registry_version)
        if self._memory is None or self._memory.version != version:
            self._memory = self._database.read(partial(self._load, now_ms=now_ms))
        # One that ends, ends at its instant.
        self._memory.overrides = self._database.read(partial(load_overrides, now_ms=now_ms))
        self._memory.hosts = self._database.read(book_store.load_hosts)
        self._memory.fleet.known.hosts.update(self._memory.hosts)
        self._memory.spans = self._database.read(book_store.load_uptime)
        self._memory.revocations = self._database.read(book_store.load_revocations)
        self._memory.chain = self._database.read(loan_states.load_views)
        return self._memory

    def _load(self, connection: Connection, now_ms: int) -> _Memory:
        loaded = book_store.load_fleet(connection)
        remembered = book_store.load_remembered(connection)
        if self.book is not None:
            remembered |= self.book.remembered
        hosts = book_store.load_hosts(connection)
        registry = Registry(
            hosts, book_store.load_proofs(connection), book_store.load_reserved(connection)
        )
        return _Memory(
            fleet=Fleet(loaded.assets, loaded.hashes, self._policy, registry),
            next_position=loaded.next_position,
            hosts=hosts,
            revocations=book_store.load_revocations(connection),
            loans=book_store.load_loans(connection),
            prices=book_store.load_prices(connection),
            spans=book_store.load_uptime(connection),
            remembered=remembered,
            covenants=covenants.load_covenants(connection),
            covenant_states=covenants.load_states(connection),
            # Not what a clock that ran ahead has made: it would be of a day that is yet to come.
            parameters=newest_parameters(connection, now_ms + 1),
            appraisals=load_appraisals(connection),
            overrides=load_overrides(connection, now_ms),
            chain={},
            version=book_store.registry_version(connection),
        )

    # ------------------------------------------------------------------ following the ledger

    def _follow(self, memory: _Memory, end: int, now_ms: int) -> None:
        """Takes every entry before position `end`, batch by batch."""
        while memory.next_position < end:
            first = memory.next_position
            read = partial(followed_from, position=first, limit=BATCH_MAX)
            found = [one for one in self._database.read(read) if one.position < end]
            for one in found:
                follow(memory.fleet, one, self._keys_of)
            to = end if len(found) < BATCH_MAX else found[-1].position + 1
            self._advance(memory, first, to, now_ms)
        self.lag = self._database.read(next_position) - memory.next_position

    def _keys_of(self, host_key: int, incarnation: int) -> Keys | None:
        return self._database.read(partial(keys_of, host_key=host_key, incarnation=incarnation))

    def _advance(self, memory: _Memory, first: int, to: int, now_ms: int) -> None:
        changes = memory.fleet.taken()

        def job(connection: Connection) -> tuple[object, ...]:
            if not book_store.save_fleet(connection, memory.fleet, changes, first, to):
                raise BookRaced
            for bound in changes.bound:
                record = _binding_record(memory.fleet, bound)
                append_record(connection, BINDING, record, self._key, now_ms)
            return book_store.registry_version(connection)

        memory.version = self._database.write(job)
        memory.next_position = to
        for host_id in sorted(changes.crowded):
            _log.error("too_many_gpus", host=host_id, followed=HOST_ASSETS_MAX)
        for what, freeze in changes.frozen:
            _log.error("frozen", what=what, code=freeze.code.value, detail=freeze.detail)

    # ------------------------------------------------------------------ appraising

    def _snapshot(self, memory: _Memory, now_ms: int) -> BookSnapshot:
        return BookSnapshot(
            hosts=memory.hosts,
            assets=memory.fleet.assets,
            loans=memory.loans,
            prices=memory.prices,
            uptime=merge(_until_now(memory.spans, now_ms)),
            remembered=memory.remembered,
            hashes=memory.fleet.hashes,
            proofs=memory.fleet.known.proofs,
            revocations=memory.revocations,
            covenants=memory.covenants,
            covenant_states=memory.covenant_states,
            parameters=memory.parameters,
            appraisals=memory.appraisals,
            overrides=memory.overrides,
            chain=memory.chain,
        )

    # ------------------------------------------------------------------ keeping

    def _tell_policy(self, connection: Connection, now_ms: int) -> None:
        """A signed record of the policy, where it is not the one that was recorded last."""
        position = book_store.policy_position(connection)
        told = None if position is None else entry(connection, position)
        payload = msgspec.json.encode(
            {"sha256": self._policy.sha256, "policy": self._policy}, order="sorted"
        )
        if told is None or told.body.envelope.payload != payload:
            at = append_record(connection, POLICY, payload, self._key, now_ms)
            book_store.save_policy_position(connection, at)

    def _keep(self, book: Book) -> None:
        """Writes what changed, with a signed record of it in the ledger."""
        lines = {
            asset_id: stored_line(line, book.remembered.get(asset_id))
            for asset_id, line in book.lines.items()
            if self._kept_lines.get(asset_id) != line.key
        }
        told, written = self._changed_positions(book)
        stepped = [
            name
            for name, one in book.covenants.items()
            if one.transitions
            or book.at_ms - self._kept_covenants.get(name, 0) >= POSITION_EVERY_MS
        ]
        if not lines and not written and not stepped:
            return
        self._keep_cases(book, lines)

        def job(connection: Connection) -> None:
            for ids in batched(sorted(lines), LINES_MAX):
                some = {one: lines[one] for one in ids}
                # By number: what a GPU is called is its host's word, and another may say the same.
                record = _record(book, {str(one): line for one, line in some.items()})
                at = append_record(connection, VALUATION, record, self._key, book.at_ms)
                book_store.save_lines(connection, some, book.at_ms, at)
            if told:
                record = _record(book, {one: written[one] for one in told})
                append_record(connection, POSITION, record, self._key, book.at_ms)
            book_store.save_positions(connection, written, book.at_ms)
            self._keep_covenants(connection, book, stepped)

        self._database.write(job)
        self._kept_lines |= {one: book.lines[one].key for one in lines}
        for loan_id in written:
            key = position_key(book.positions[loan_id])
            self._kept_positions[loan_id] = (key, book.at_ms)
        self._kept_covenants |= dict.fromkeys(stepped, book.at_ms)

    def _keep_cases(self, book: Book, lines: Mapping[int, StoredLine]) -> None:
        """Every case that one of the lines names is in the ledger before the line is."""
        named = {line.case_sha256 for line in lines.values() if line.case_sha256 is not None}
        new = sorted(named - self._kept_cases)
        for some in batched(new, CASES_MAX):
            cases = [book.cases[one] for one in some]
            keep = partial(
                valuation_store.keep_cases, cases=cases, signer=self._key, now_ms=book.at_ms
            )
            self._database.write(keep)
        # Yesterday's are named no more.
        self._kept_cases = (self._kept_cases & set(book.cases)) | named

    def _mark(self, memory: _Memory, now_ms: int) -> None:
        """What products are worth, and what is forecast of it, is on record before it can be known."""
        fit = memory.parameters
        if fit is not None and fit.sha256 != self._marked:
            keep = partial(
                keep_marks,
                parameters=fit,
                prices=memory.prices,
                policy=self._policy,
                signer=self._key,
                now_ms=now_ms,
            )
            self._database.write(keep)
            self._marked = fit.sha256

    def _keep_covenants(self, connection: Connection, book: Book, loans: Sequence[str]) -> None:
        """Writes where covenants stand; each step that changed something is a signed record."""
        for name in loans:
            one = book.covenants[name]
            if one.transitions:
                record = Record(
                    loan=name,
                    covenant_sha256=one.state.covenant_sha256,
                    methodology=book.methodology.hex(),
                    at_ms=book.at_ms,
                    inputs=one.inputs,
                    state=one.state,
                    transitions=one.transitions,
                )
                covenants.tell_step(connection, record, self._key)
            covenants.save_state(connection, name, one.state, stored_covenant(one), book.at_ms)

    def _changed_positions(self, book: Book) -> tuple[list[str], dict[str, StoredPosition]]:
        """The loans whose position is worth a record, and all those worth writing."""
        told, written = [], {}
        for loan_id, position in book.positions.items():
            key, at_ms = self._kept_positions.get(loan_id, ((), 0))
            changed = key != position_key(position)
            if changed:
                told.append(loan_id)
            if changed or book.at_ms - at_ms >= POSITION_EVERY_MS:
                written[loan_id] = stored_position(position, book)
        return told, written


def _binding_record(fleet: Fleet, bound: Binding) -> bytes:
    """That an asset has a stronger identifier from now on, and which evidence showed it."""
    asset = fleet.assets[bound.asset_id]
    return to_json(
        {
            "asset": asset.id,
            "serial": asset.serial,
            "board_part_number": asset.board_part_number,
            "identity": bound.identity,
            "evidence_position": bound.position,
        }
    )


def _until_now(spans: list[Span], now_ms: int) -> list[Span]:
    """The spans, the last of them up to now where it is that of the service that runs."""
    if spans and 0 <= now_ms - spans[-1].end_ms <= UPTIME_LAG_MAX_MS:
        return [*spans[:-1], Span(spans[-1].begin_ms, now_ms)]
    return spans


def batched(ids: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """The items in runs of at most `size`."""
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


class BookRaced(AssayError):
    """Somebody else wrote to the book's tables at the same time. The next tick reads them anew."""

    def __init__(self) -> None:
        super().__init__(
            "the book changed in the store while it was being worked out; it is read anew. If this "
            "goes on, a second valuer runs on this store: stop one"
        )


def position_key(position: Position) -> tuple[object, ...]:
    """What must change for a position to be worth recording anew: not its debt alone."""
    return (
        position.state,
        position.values,
        position.counted,
        position.pledged,
        position.assurance,
        position.simulated,
        position.causes,
        tuple(finding.code for finding in position.findings),
    )


def _record(book: Book, results: dict[str, StoredLine] | dict[str, StoredPosition]) -> bytes:
    """Canonical JSON of results: what was concluded, when, by which method."""
    return msgspec.json.encode(
        {"at_ms": book.at_ms, "methodology": book.methodology.hex(), "results": results},
        order="sorted",
    )
