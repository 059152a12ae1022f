"""Registering what people decide: price tables and loans, with a signed record of each in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, insert, select, update

from assay_core.errors import FileError, ServiceError
from assay_core.seal import Signer
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.loan import LoanFile
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.market import prices as price_table
from assay_valuer.market.prices import PriceSnapshot
from assay_valuer.pledges import pledge_file
from assay_valuer.store.schema import LOAN, PRICE_SNAPSHOT

if TYPE_CHECKING:
    from assay_valuer.oracle.report import FeedKey

PRICES: Final = "prices"
LOAN_RECORD: Final = "loan"


@dataclass(frozen=True, slots=True)
class Registered:
    """What became of a loan file: its feed, and how many of its GPUs have not been seen yet.

    `released`: how many it names that two parties released, and that are not pledged again.
    """

    feed_id: bytes
    pledged: int
    expected: int
    released: int = 0


def feed_key(loan: LoanFile) -> FeedKey:
    """The feed that values the loan's collateral token. Raises ServiceError without the extra."""
    try:
        from assay_valuer.oracle.report import FeedKey  # noqa: PLC0415 - needs the extra `oracle`
    except ModuleNotFoundError as error:
        raise ServiceError(
            f"a loan's feed needs the extra `oracle` ({error.name} is not installed): "
            "in a clone of this project, pip install '.[valuer,oracle]'"
        ) from error
    return FeedKey(loan.chain_id, loan.collateral_token, loan.collateral_token_ids[0])


def feed_of(loan: LoanFile) -> bytes:
    """The id of that feed."""
    return feed_key(loan).feed_id


def import_prices(
    connection: Connection, snapshot: PriceSnapshot, signer: Signer, now_ms: int
) -> None:
    """Makes the snapshot the one in use; one imported before becomes the newest again."""
    rows = price_table.to_json(snapshot)
    where = PRICE_SNAPSHOT.c.sha256 == snapshot.sha256
    moved = connection.execute(update(PRICE_SNAPSHOT).where(where).values(imported_ms=now_ms))
    if moved.rowcount == 0:
        connection.execute(
            insert(PRICE_SNAPSHOT).values(sha256=snapshot.sha256, imported_ms=now_ms, rows=rows)
        )
    payload = to_json({"sha256": snapshot.sha256, "imported_ms": now_ms, "rows": rows})
    append_record(connection, PRICES, payload, signer, now_ms)


def import_loan(
    connection: Connection, loan: LoanFile, name: str, signer: Signer, now_ms: int
) -> Registered:
    """Registers a loan, or replaces the terms and pledge of one that has the same id and feed.

    GPUs that were never seen are registered as EXPECTED; what two parties signed of GPUs since the
    file was imported last stands, see `pledges`. `name` is the file's, for messages. Raises
    FileError where a GPU is pledged to another loan, or the feed values another loan's collateral.
    """
    feed_id = feed_of(loan)
    _check_feed(connection, loan, feed_id, name)
    told = connection.execute(
        select(LOAN.c.terms, LOAN.c.imported_ms).where(LOAN.c.id == loan.id)
    ).one_or_none()
    before = None if told is None else loan_file.from_json(told.terms)
    if told is not None:
        # Two changes of one millisecond are two: by this it is seen that there was another.
        now_ms = max(now_ms, told.imported_ms + 1)
    terms = loan_file.to_json(loan)
    values = {"feed_id": feed_id, "imported_ms": now_ms, "terms": terms}
    moved = connection.execute(update(LOAN).where(LOAN.c.id == loan.id).values(**values))
    if moved.rowcount == 0:
        connection.execute(insert(LOAN).values(id=loan.id, **values))
    done = pledge_file(connection, loan, before, name)
    payload = to_json(
        {"id": loan.id, "feed_id": feed_id.hex(), "imported_ms": now_ms, "terms": terms}
    )
    append_record(connection, LOAN_RECORD, payload, signer, now_ms)
    return Registered(feed_id, len(loan.pledge) - done.released, done.expected, done.released)


def _check_feed(connection: Connection, loan: LoanFile, feed_id: bytes, name: str) -> None:
    held = connection.execute(select(LOAN.c.feed_id).where(LOAN.c.id == loan.id)).scalar()
    if held is not None and held != feed_id:
        raise FileError(f"{name}: id: loan {loan.id} is registered with another collateral token")
    other = connection.execute(
        select(LOAN.c.id).where(LOAN.c.feed_id == feed_id, LOAN.c.id != loan.id)
    ).scalar()
    if other is not None:
        raise FileError(f"{name}: collateral_token_ids: loan {other} has this token already")
