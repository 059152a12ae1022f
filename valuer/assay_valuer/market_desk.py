"""The market's desk: from rows as they came to the fit that values rest on, in one step.

Rows are judged, what counts becomes a snapshot, something is fitted to it, and all of that is written
in one transaction, with a signed record of the snapshot and of the fit in the ledger. Where feeds are
down there are no new rows, and the same snapshot is fitted again on the next day: it ages, and nothing
is invented. Where a fit fails, the one before stays in use, and the snapshot says why.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec
from sqlalchemy import Connection, select

from assay_core.errors import AssayError
from assay_core.instants import DAY_MS
from assay_core.seal import Signer
from assay_valuer.credit import loan as loan_file
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.market.gradual import Gradual
from assay_valuer.market.observations import Market, Quote, Rejected, read_row
from assay_valuer.market.snapshot import MarketSnapshot, snapshot_of
from assay_valuer.market_store import (
    DETAIL_MAX,
    UNREAD,
    StoredRow,
    StoredSnapshot,
    Summary,
    last_row,
    load_rows,
    newest_parameters,
    newest_snapshot,
    save_parameters,
    save_snapshot,
    save_verdicts,
)
from assay_valuer.store.database import Database
from assay_valuer.store.schema import LOAN
from assay_valuer.valuation import parameters as fitted
from assay_valuer.valuation.parameters import Parameters

SNAPSHOT: Final = "market_snapshot"
PARAMETERS: Final = "market_parameters"
"""Kinds of the ledger's records."""
PARAMETERS_BYTES_MAX: Final = 3 * 1024 * 1024
"""Of a fit's canonical JSON: a ledger entry of 4 MiB has to hold it."""
EPOCH_DAY: Final = 719_163
"""1970-01-01 as an ordinal."""
_LOAD: Final = 10_000
"""Rows read at once."""

Fit: TypeAlias = Callable[[MarketSnapshot, Parameters | None, int], Parameters]
"""Snapshot, the last fit of an earlier day, and the day, to what is fitted."""


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh came to. `parameters` is None where the fit failed: `summary` says why."""

    snapshot: MarketSnapshot
    summary: Summary
    parameters: Parameters | None


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What the store has of a row, as far as this desk knows."""

    reason: str | None
    detail: str | None


class _Read:
    """The store's rows, each judged by itself as of a day, and all of them by the gate."""

    def __init__(self, day: int, interested: frozenset[str]) -> None:
        self.day = day
        self.interested: Final = interested
        self.last = 0
        self.feeds: Final[dict[int, str]] = {}
        self.said: Final[dict[int, _Verdict]] = {}
        self._gradual: Final = {market: Gradual(market, interested) for market in Market}
        self._rejected: Final[dict[Market, list[Rejected]]] = {market: [] for market in Market}

    def add(self, row: StoredRow) -> None:
        """Takes the next row."""
        read = judged(row, self.day)
        if isinstance(read, Quote):
            self._gradual[row.market].add(read)
        else:
            self._rejected[row.market].append(read)
        self.feeds[row.id] = row.feed
        self.said[row.id] = _Verdict(row.reason, row.detail)
        self.last = row.id

    def serves(self, day: int, interested: frozenset[str]) -> bool:
        """Whether what was read says the same on another day: rows dated ahead may count by then."""
        ahead = (one.reason == "date.future" for rows in self._rejected.values() for one in rows)
        return self.interested == interested and (self.day == day or not any(ahead))

    def snapshot(self) -> MarketSnapshot:
        """What counts of everything read."""
        rental, resale = (
            self._gradual[market].judged(self._rejected[market])
            for market in (Market.RENTAL, Market.RESALE)
        )
        return snapshot_of(rental, resale, self.day)


class MarketDesk:
    """Refreshes the market. For one thread; what it has read before it does not read again."""

    def __init__(self, database: Database, signer: Signer, fit: Fit | None = None) -> None:
        """`fit`: None for the product's own, which needs the extra `valuation`."""
        self._database: Final = database
        self._signer: Final = signer
        self._fit: Final = own_fit if fit is None else fit
        self._read: _Read | None = None

    def refresh(self, now_ms: int) -> Refreshed | None:
        """Judges, fits and writes. Raises StoreError.

        None where there are no rows, or since last time none came, no loan named another seller and
        no day began; a fit that failed is tried once more by a new process.
        """
        day = day_of(now_ms)
        before, newest, interested = self._database.read(
            # What a clock that ran ahead has made is not the newest until its time has come.
            lambda c: (newest_snapshot(c, now_ms), last_row(c), interested_sellers(c))
        )
        names = tuple(sorted(interested))
        if newest == 0 or (before is not None and self._stands(before, newest, day, names)):
            return None
        read = self._catch_up(day, interested)
        snapshot = read.snapshot()
        parameters, error = self._fitted(snapshot, day)
        summary = summary_of(snapshot, read.feeds, names, error)
        changes = _changes(read, snapshot)
        stored = StoredSnapshot(snapshot.sha256, now_ms, read.last, summary)

        def write(connection: Connection) -> bool:
            if newest_snapshot(connection, now_ms) != before:
                return False
            save_verdicts(connection, changes)
            _record(connection, stored, parameters, self._signer)
            return True

        if not self._database.write(write):
            # Another process did the same meanwhile: what it wrote is looked at next time.
            self._read = None
            return None
        for one, verdict in changes.items():
            read.said[one] = _said(verdict)
        return Refreshed(snapshot, summary, parameters)

    def _stands(
        self, before: StoredSnapshot, newest: int, day: int, interested: tuple[str, ...]
    ) -> bool:
        """Whether there is nothing that the newest snapshot does not say already."""
        said = before.summary
        if said.fit_error is not None and self._read is None:
            return False
        return (before.last_row, said.day, said.interested) == (newest, day, interested)

    def _catch_up(self, day: int, interested: frozenset[str]) -> _Read:
        """Everything the store has, each row read once a process while it says the same."""
        read = self._read
        if read is None or not read.serves(day, interested):
            read = _Read(day, interested)
        read.day = day
        _read_on(self._database, read)
        self._read = read
        return read

    def _fitted(self, snapshot: MarketSnapshot, day: int) -> tuple[Parameters | None, str | None]:
        """What is fitted to a snapshot, or why nothing is. It goes on from the last fit of an earlier
        day: however often a day's market is fitted, it takes that day's step once.
        """
        midnight_ms = (day - EPOCH_DAY) * DAY_MS
        try:
            previous = self._database.read(lambda c: newest_parameters(c, midnight_ms))
        except msgspec.ValidationError as error:
            return None, f"the fit before is of another version: {error}"
        try:
            parameters = self._fit(snapshot, previous, day)
        except AssayError as error:
            return None, str(error)
        except Exception as error:  # noqa: BLE001 - whatever hostile rows do to the arithmetic, the last fit stays
            return None, f"the fit failed: {type(error).__name__}: {error}"
        size = len(fitted.to_json(parameters))
        if size > PARAMETERS_BYTES_MAX:
            return None, f"the fit has {size} bytes, more than {PARAMETERS_BYTES_MAX}"
        return parameters, None


def own_fit(snapshot: MarketSnapshot, previous: Parameters | None, day: int) -> Parameters:
    """The product's own fit. Raises AssayError where the extra `valuation` is not installed."""
    try:
        from assay_valuer.forecast.fit import fit  # noqa: PLC0415 - needs numpy
    except ModuleNotFoundError as error:
        raise AssayError(
            f"fitting a market needs the extra `valuation` ({error.name} is not installed): in a "
            "clone of this project, pip install '.[valuer,valuation]'"
        ) from error
    return fit(snapshot, previous, day)


def day_of(at_ms: int) -> int:
    """The UTC day of an instant, as an ordinal."""
    return EPOCH_DAY + at_ms // DAY_MS


def interested_sellers(connection: Connection) -> frozenset[str]:
    """The names under which parties of any registered loan quote prices."""
    return frozenset(
        name
        for terms in connection.execute(select(LOAN.c.terms)).scalars()
        for name in loan_file.from_json(terms).sellers
    )


def read_snapshot(
    database: Database, at: StoredSnapshot, seen: Callable[[int], None] | None = None
) -> MarketSnapshot:
    """The rows of a stored snapshot, judged anew as of its day. Its name must be compared.

    `seen` is told, now and then, up to which row's number it has read.
    """
    read = _Read(at.summary.day, frozenset(at.summary.interested))
    _read_on(database, read, at.last_row, seen)
    return read.snapshot()


def judged(row: StoredRow, day: int) -> Quote | Rejected:
    """A row as it is by itself, on a day."""
    if UNREAD in row.cells:
        return Rejected(row.id, row.cells[UNREAD][:32], row.cells.get("detail", ""))
    return read_row(row.cells, row.id, row.market, day, row.feed)


def summary_of(
    snapshot: MarketSnapshot,
    feeds: Mapping[int, str],
    interested: tuple[str, ...],
    error: str | None,
) -> Summary:
    """How many rows of each feed count, and why others do not."""
    counted: Counter[str] = Counter()
    rejected: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for found in (snapshot.rental, snapshot.resale):
        counted.update(feeds[quote.line] for quote in found.quotes)
        for one in found.rejected:
            rejected[feeds[one.line]][one.reason] += 1
    return Summary(
        day=snapshot.day,
        counted=dict(sorted(counted.items())),
        rejected={
            feed: dict(sorted(reasons.items())) for feed, reasons in sorted(rejected.items())
        },
        interested=interested,
        fit_error=error,
    )


def _read_on(
    database: Database,
    read: _Read,
    until: int | None = None,
    seen: Callable[[int], None] | None = None,
) -> None:
    """Adds the rows that the store has beyond those read, up to one of this id."""

    def rows_after(connection: Connection) -> list[StoredRow]:
        return load_rows(connection, read.last, _LOAD)

    while rows := database.read(rows_after):
        for row in rows:
            if until is not None and row.id > until:
                return
            read.add(row)
        if seen is not None:
            seen(read.last)


def _changes(read: _Read, snapshot: MarketSnapshot) -> dict[int, Rejected | None]:
    """The verdicts that the store does not have yet."""
    verdicts: dict[int, Rejected | None] = dict.fromkeys(read.said)
    for found in (snapshot.rental, snapshot.resale):
        verdicts.update((one.line, one) for one in found.rejected)
    return {at: verdict for at, verdict in verdicts.items() if _said(verdict) != read.said[at]}


def _said(verdict: Rejected | None) -> _Verdict:
    if verdict is None:
        return _Verdict(None, None)
    return _Verdict(verdict.reason, verdict.detail[:DETAIL_MAX])


def _record(
    connection: Connection,
    stored: StoredSnapshot,
    parameters: Parameters | None,
    signer: Signer,
) -> None:
    """Keeps the snapshot and what was fitted to it, each with a record in the ledger."""
    save_snapshot(connection, stored)
    record = to_json(
        {
            "sha256": stored.sha256,
            "made_ms": stored.made_ms,
            "last_row": stored.last_row,
            "summary": msgspec.json.encode(stored.summary, order="sorted").decode(),
        }
    )
    append_record(connection, SNAPSHOT, record, signer, stored.made_ms)
    if parameters is None:
        return
    save_parameters(connection, parameters, stored.made_ms)
    record = to_json(
        {
            "sha256": parameters.sha256,
            "snapshot_sha256": parameters.snapshot_sha256,
            "made_ms": stored.made_ms,
            "parameters": fitted.to_json(parameters).decode(),
        }
    )
    append_record(connection, PARAMETERS, record, signer, stored.made_ms)
