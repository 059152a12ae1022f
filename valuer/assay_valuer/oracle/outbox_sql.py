"""The outbox in the store's table `outbox`: what a method wrote is on the disk when it returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
from eth_utils.address import to_checksum_address
from sqlalchemy import Connection, RowMapping, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.elements import ColumnElement

from assay_valuer.oracle.outbox import OPEN_STATES, Post, PostState, RoundTaken
from assay_valuer.oracle.report import Domain, Report
from assay_valuer.oracle.signer import Signature
from assay_valuer.store.database import Database
from assay_valuer.store.schema import OUTBOX


class SqlOutbox:
    """`Outbox` over the store. Safe to share between threads, as the store is."""

    def __init__(self, database: Database) -> None:
        self._database: Final = database

    def add(self, domain: Domain, report: Report, now_ms: int) -> Post:
        """A new PLANNED post. Raises RoundTaken, StoreError."""
        statement = insert(OUTBOX).values(
            chain_id=domain.chain_id,
            hub=domain.hub,
            feed_id=report.feed_id,
            round=report.round,
            state=PostState.PLANNED.value,
            report=report.to_json(),
            signatures="[]",
            raw_transactions="[]",
            created_ms=now_ms,
            updated_ms=now_ms,
            detail="",
        )

        def job(connection: Connection) -> int:
            key = connection.execute(statement).inserted_primary_key
            if key is None:
                raise RoundTaken("the store gave the new post no id")
            return int(key[0])

        try:
            post_id = self._database.write(job)
        except IntegrityError as error:
            raise RoundTaken(
                f"round {report.round} of feed 0x{report.feed_id.hex()} is planned already"
            ) from error
        return Post(
            id=post_id,
            domain=domain,
            report=report,
            state=PostState.PLANNED,
            created_ms=now_ms,
            updated_ms=now_ms,
        )

    def save(self, post: Post) -> None:
        """Replaces what may change of a post: its state, signatures, transactions, fate."""
        statement = (
            update(OUTBOX)
            .where(OUTBOX.c.id == post.id)
            .values(
                state=post.state.value,
                signatures=_dump([[one.signer, one.data.hex()] for one in post.signatures]),
                sender=post.sender,
                nonce=post.nonce,
                raw_transactions=_dump([raw.hex() for raw in post.raw_transactions]),
                block_hash=None if post.block_hash is None else f"0x{post.block_hash.hex()}",
                updated_ms=post.updated_ms,
                detail=post.detail,
            )
        )
        self._database.write(lambda connection: connection.execute(statement))

    def open_posts(self, domain: Domain) -> tuple[Post, ...]:
        """Posts something still has to be done about, oldest first."""
        states = [state.value for state in OPEN_STATES]
        return self._select(*_of(domain), OUTBOX.c.state.in_(states))

    def newest(self, domain: Domain, feed_id: bytes) -> Post | None:
        """The post with the feed's highest round, whatever its state."""
        statement = (
            select(OUTBOX)
            .where(*_of(domain), OUTBOX.c.feed_id == feed_id)
            .order_by(OUTBOX.c.round.desc())
            .limit(1)
        )
        rows = self._database.read(lambda c: c.execute(statement).mappings().all())
        return _post(rows[0]) if rows else None

    def with_nonce(self, chain_id: int, sender: str, nonce: int) -> tuple[Post, ...]:
        """Posts whose newest transaction spends this nonce, whatever their state."""
        return self._select(
            OUTBOX.c.chain_id == chain_id, OUTBOX.c.sender == sender, OUTBOX.c.nonce == nonce
        )

    def _select(self, *conditions: ColumnElement[bool]) -> tuple[Post, ...]:
        statement = select(OUTBOX).where(*conditions).order_by(OUTBOX.c.id)
        rows: Sequence[RowMapping] = self._database.read(
            lambda connection: connection.execute(statement).mappings().all()
        )
        return tuple(_post(row) for row in rows)


def _of(domain: Domain) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return OUTBOX.c.chain_id == domain.chain_id, OUTBOX.c.hub == domain.hub


def _dump(value: list[str] | list[list[str]]) -> str:
    return msgspec.json.encode(value).decode()


def _post(row: RowMapping) -> Post:
    block_hash: str | None = row["block_hash"]
    signatures = msgspec.json.decode(row["signatures"], type=list[tuple[str, str]])
    return Post(
        id=row["id"],
        domain=Domain(row["chain_id"], to_checksum_address(row["hub"])),
        report=Report.from_json(row["report"]),
        state=PostState(row["state"]),
        signatures=tuple(Signature(signer, bytes.fromhex(data)) for signer, data in signatures),
        sender=row["sender"],
        nonce=row["nonce"],
        raw_transactions=tuple(
            bytes.fromhex(raw)
            for raw in msgspec.json.decode(row["raw_transactions"], type=list[str])
        ),
        block_hash=None if block_hash is None else bytes.fromhex(block_hash[2:]),
        created_ms=row["created_ms"],
        updated_ms=row["updated_ms"],
        detail=row["detail"] or "",
    )
