"""The market in the store: rows as they came, feeds' states, snapshots, and what was fitted.

A row is kept once for each feed and content and never changes, but for what the gate last said of
it. Every function works inside the caller's transaction.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final, TypeVar

import msgspec
from sqlalchemy import Connection, RowMapping, bindparam, func, insert, select, update

from assay_core.errors import ServiceError
from assay_valuer.market.observations import Market, Rejected
from assay_valuer.store.schema import (
    MARKET_FEED,
    MARKET_PARAMETERS,
    MARKET_ROW,
    MARKET_SNAPSHOT,
)
from assay_valuer.valuation import parameters as fitted
from assay_valuer.valuation.parameters import Parameters

BODY_BYTES_MAX: Final = 8_192
"""A row that takes more is kept cut, as one that could not be read."""
UNREAD: Final = "unread"
"""The cell that a row has which could not be read: the code of the reason. See `unread_cells`."""
FEED_ROWS_MAX: Final = 2_000_000
"""A feed that has given so many gives no more, until somebody has looked at it."""
DETAIL_MAX: Final = 512
ERROR_MAX: Final = 512
_BATCH: Final = 500
"""Rows asked for by hash at once: below the bound of variables that any database has."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """How a feed was last found. Times in UTC ms; None where it was never so."""

    name: str
    asked_ms: int
    etag: str | None = None
    last_modified: str | None = None
    content_sha256: str | None = None
    answered_ms: int | None = None
    """The last time that it gave something that could be read."""
    changed_ms: int | None = None
    """The last time that what it gave was new."""
    error: str | None = None
    """Why the newest answer was none; None where it was one."""


@dataclass(frozen=True, slots=True)
class StoredRow:
    """A row as its feed gave it, and what the newest snapshot said of it: None where it counts."""

    id: int
    feed: str
    market: Market
    cells: Mapping[str, str]
    received_ms: int
    reason: str | None
    detail: str | None


class Summary(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is said of a snapshot beside its name."""

    day: int
    counted: dict[str, int]
    """Rows that count, by feed."""
    rejected: dict[str, dict[str, int]]
    """Rows that do not, by feed and reason."""
    interested: tuple[str, ...] = ()
    """Names of sellers that counted for nobody, as loans' files have them."""
    fit_error: str | None = None
    """Why nothing was fitted to it; None where something was."""


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """A snapshot's record. `last_row` is the newest row that it judged."""

    sha256: str
    made_ms: int
    last_row: int
    summary: Summary


# ---------------------------------------------------------------------------- rows


class FeedFull(ServiceError):
    """A feed has given more rows than are kept of one. Nothing was written."""


def add_rows(
    connection: Connection,
    feed: str,
    market: Market,
    rows: Iterable[Mapping[str, str]],
    now_ms: int,
) -> int:
    """Keeps the rows, cells by column name, that this feed never gave before; how many those are.

    Raises FeedFull beyond `FEED_ROWS_MAX`.
    """
    count = select(func.count()).select_from(MARKET_ROW).where(MARKET_ROW.c.feed == feed)
    held = int(connection.execute(count).scalar_one())
    added = 0
    for batch in _batches(rows, _BATCH):
        bodies = {hashlib.sha256(body).digest(): body for body in map(_body, batch)}
        known = connection.execute(
            select(MARKET_ROW.c.sha256).where(
                MARKET_ROW.c.feed == feed, MARKET_ROW.c.sha256.in_(bodies)
            )
        ).scalars()
        for digest in known:
            del bodies[digest]
        new = [
            {
                "feed": feed,
                "market": market.value,
                "sha256": digest,
                "received_ms": now_ms,
                "body": body.decode(),
            }
            for digest, body in bodies.items()
        ]
        added += len(new)
        if held + added > FEED_ROWS_MAX:
            raise FeedFull(f"feed {feed} has given {FEED_ROWS_MAX} rows: look at what it sends")
        if new:
            connection.execute(insert(MARKET_ROW), new)
    return added


def unread_cells(unread: Rejected) -> dict[str, str]:
    """What is kept in `add_rows` of a row that could not be read as cells, with its reason."""
    return {UNREAD: unread.reason, "detail": unread.detail, "line": str(unread.line)}


def load_rows(connection: Connection, after: int = 0, limit: int | None = None) -> list[StoredRow]:
    """Rows that came after the one of this id, in the order they came."""
    query = select(MARKET_ROW).where(MARKET_ROW.c.id > after).order_by(MARKET_ROW.c.id)
    if limit is not None:
        query = query.limit(limit)
    return [_stored(row) for row in connection.execute(query).mappings()]


def load_row(connection: Connection, row_id: int) -> StoredRow | None:
    """A row by its number."""
    query = select(MARKET_ROW).where(MARKET_ROW.c.id == row_id)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _stored(row)


def _stored(row: RowMapping) -> StoredRow:
    return StoredRow(
        row["id"],
        row["feed"],
        Market(row["market"]),
        _CELLS.decode(row["body"]),
        row["received_ms"],
        row["reason"],
        row["detail"],
    )


def last_row(connection: Connection) -> int:
    """The newest row's id; 0 where there is none."""
    return int(connection.execute(select(func.max(MARKET_ROW.c.id))).scalar() or 0)


def save_verdicts(connection: Connection, verdicts: Mapping[int, Rejected | None]) -> None:
    """Notes why rows do not count, by id; None: they do."""
    changes = [
        {
            "of_id": one,
            "new_reason": None if verdict is None else verdict.reason,
            "new_detail": None if verdict is None else verdict.detail[:DETAIL_MAX],
        }
        for one, verdict in sorted(verdicts.items())
    ]
    if changes:
        connection.execute(_VERDICT, changes)


def load_rejected(
    connection: Connection, reason: str | None = None, limit: int = 100
) -> list[StoredRow]:
    """Rows that do not count, the newest first."""
    query = select(MARKET_ROW).where(MARKET_ROW.c.reason.is_not(None))
    if reason is not None:
        query = query.where(MARKET_ROW.c.reason == reason)
    query = query.order_by(MARKET_ROW.c.id.desc()).limit(limit)
    return [_stored(row) for row in connection.execute(query).mappings()]


def count_rejected(connection: Connection) -> dict[str, int]:
    """How many rows do not count, by reason, the most frequent first."""
    count = func.count()
    query = (
        select(MARKET_ROW.c.reason, count)
        .where(MARKET_ROW.c.reason.is_not(None))
        .group_by(MARKET_ROW.c.reason)
        .order_by(count.desc(), MARKET_ROW.c.reason)
    )
    return {row.reason: int(row[1]) for row in connection.execute(query)}


_VERDICT: Final = (
    update(MARKET_ROW)
    .where(MARKET_ROW.c.id == bindparam("of_id"))
    .values(reason=bindparam("new_reason"), detail=bindparam("new_detail"))
)


def _body(cells: Mapping[str, str]) -> bytes:
    """Canonical JSON of the cells. What no JSON can hold, half of a pair of surrogates, is replaced."""
    try:
        body = _ENCODER.encode(dict(cells))
    except UnicodeEncodeError:
        clean = {_printable(name): _printable(cell) for name, cell in cells.items()}
        body = _ENCODER.encode(clean)
    if len(body) <= BODY_BYTES_MAX:
        return body
    digest = hashlib.sha256(body).hexdigest()
    head = body[: BODY_BYTES_MAX // 4].decode(errors="replace")
    why = f"more than {BODY_BYTES_MAX} bytes; all {len(body)} have SHA-256 {digest}"
    return _ENCODER.encode({UNREAD: "text", "detail": why, "head": head})


def _printable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _batches(rows: Iterable[_T], size: int) -> Iterator[Sequence[_T]]:
    left = iter(rows)
    while batch := list(itertools.islice(left, size)):
        yield batch


_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_CELLS: Final = msgspec.json.Decoder(dict[str, str])


# ---------------------------------------------------------------------------- feeds


def load_feeds(connection: Connection) -> dict[str, FeedState]:
    """How every feed was last found, by name."""
    rows = connection.execute(select(MARKET_FEED).order_by(MARKET_FEED.c.name)).mappings()
    return {row["name"]: FeedState(**row) for row in rows}


def note_feed(connection: Connection, state: FeedState) -> None:
    """Keeps how a feed was found, instead of how it was found before."""
    values = asdict(state)
    values["error"] = None if state.error is None else state.error[:ERROR_MAX]
    where = MARKET_FEED.c.name == state.name
    if connection.execute(update(MARKET_FEED).where(where).values(values)).rowcount == 0:
        connection.execute(insert(MARKET_FEED).values(values))


# ---------------------------------------------------------------------------- snapshots and fits


def newest_snapshot(connection: Connection, until_ms: int | None = None) -> StoredSnapshot | None:
    """The snapshot made last, or last up to an instant."""
    query = select(MARKET_SNAPSHOT).order_by(
        MARKET_SNAPSHOT.c.made_ms.desc(), MARKET_SNAPSHOT.c.last_row.desc()
    )
    if until_ms is not None:
        query = query.where(MARKET_SNAPSHOT.c.made_ms <= until_ms)
    row = connection.execute(query.limit(1)).mappings().one_or_none()
    return None if row is None else _stored_snapshot(row)


def load_snapshot(connection: Connection, sha256: str) -> StoredSnapshot | None:
    """A snapshot by its name."""
    query = select(MARKET_SNAPSHOT).where(MARKET_SNAPSHOT.c.sha256 == sha256)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else _stored_snapshot(row)


def _stored_snapshot(row: RowMapping) -> StoredSnapshot:
    summary = msgspec.json.decode(row["summary"], type=Summary)
    return StoredSnapshot(row["sha256"], row["made_ms"], row["last_row"], summary)


def save_snapshot(connection: Connection, snapshot: StoredSnapshot) -> None:
    """Keeps a snapshot's record; one that counted the same rows before becomes the newest again."""
    values = {
        "made_ms": snapshot.made_ms,
        "last_row": snapshot.last_row,
        "summary": msgspec.json.encode(snapshot.summary, order="sorted").decode(),
    }
    where = MARKET_SNAPSHOT.c.sha256 == snapshot.sha256
    if connection.execute(update(MARKET_SNAPSHOT).where(where).values(values)).rowcount == 0:
        connection.execute(insert(MARKET_SNAPSHOT).values(sha256=snapshot.sha256, **values))


def newest_parameters(connection: Connection, before_ms: int | None = None) -> Parameters | None:
    """The fit in use, or the last one made before an instant.

    Raises msgspec.ValidationError of one that another version wrote.
    """
    query = select(MARKET_PARAMETERS.c.body).order_by(
        MARKET_PARAMETERS.c.made_ms.desc(), MARKET_PARAMETERS.c.sha256
    )
    if before_ms is not None:
        query = query.where(MARKET_PARAMETERS.c.made_ms < before_ms)
    body = connection.execute(query.limit(1)).scalar()
    return None if body is None else fitted.from_json(body)


def load_parameters(connection: Connection, sha256: str) -> Parameters | None:
    """A fit by its name."""
    where = MARKET_PARAMETERS.c.sha256 == sha256
    body = connection.execute(select(MARKET_PARAMETERS.c.body).where(where)).scalar()
    return None if body is None else fitted.from_json(body)


def save_parameters(connection: Connection, parameters: Parameters, now_ms: int) -> None:
    """Makes a fit the one in use; the same one as before becomes the newest again."""
    where = MARKET_PARAMETERS.c.sha256 == parameters.sha256
    moved = connection.execute(update(MARKET_PARAMETERS).where(where).values(made_ms=now_ms))
    if moved.rowcount == 0:
        connection.execute(
            insert(MARKET_PARAMETERS).values(
                sha256=parameters.sha256,
                snapshot_sha256=parameters.snapshot_sha256,
                made_ms=now_ms,
                body=fitted.to_json(parameters).decode(),
            )
        )
