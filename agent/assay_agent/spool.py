"""The spool: this host's chain, sealed and durable, until a valuer has it and for a while after.

A window exists once its transaction is committed, and only then may it be sent. The bound is in
bytes of the file: acknowledged windows go first, then the oldest others, whose place in the chain
stays behind so that a signed gap record can say what is missing. On a full disk each new window takes
the place of old ones, in the same order. A gap is sealed when it is next
to be sent, durable before it is, and never changed after.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay_agent import VERSION, spool_file
from assay_agent.known import Known, Told
from assay_agent.spool_data import (
    pack_envelope,
    pack_known,
    pack_window,
    unpack_envelope,
    unpack_known,
    unpack_window,
)
from assay_agent.spool_file import DiskFull, SpoolDamaged, SpoolFull
from assay_agent.window import Draft
from assay_core import codec
from assay_core.errors import HostError
from assay_core.header import GapCause, GapRecord, Head, Source
from assay_core.leaves import ON_CHANGE, Group
from assay_core.seal import (
    SECRET_BYTES,
    Envelope,
    Link,
    Sealed,
    Signer,
    seal_gap,
    seal_window,
)

__all__ = ["Chain", "Forked", "Outgoing", "Spool", "SpoolDamaged", "SpoolFull", "known"]

_EVICT_AT_ONCE: Final = 16
_FORGET_AT_ONCE: Final = 1_000
_DROP_AT_ONCE: Final = {GapCause.SPOOL_FULL: 1, GapCause.DISK_FULL: 8}
"""Unacknowledged windows. On a full disk enough that whole pages become free."""
_ROW_BYTES: Final = 8 * 4_096
"""What a window takes at most besides its body: pages of its record and of the indices."""


class Forked(HostError):
    """The valuer holds another history under this host's key than this spool does."""


@dataclass(frozen=True, slots=True)
class Chain:
    """Whose chain the spool holds."""

    host_id: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What goes next: a window, or a gap record. `head` is the chain's end once it is taken."""

    head: Head
    first_sequence: int
    item: Sealed | Envelope


class Spool:
    """The open spool of one host and incarnation. Not for threads: one event loop owns it."""

    def __init__(
        self,
        path: Path,
        *,
        chain: Chain,
        signer: Signer,
        boot_id: bytes,
        bytes_max: int,
        acknowledged_keep_ms: int,
        now_ms: int,
        previous: Signer | None = None,
    ) -> None:
        """Opens the spool at `path`. Raises SpoolDamaged, SpoolFull or HostError.

        `previous` is the key before the last rotation.
        """
        self._path = path
        self._db = spool_file.connect(path, now_ms)
        spool_file.reserve(path, self._db)
        self._chain = chain
        self._signer = signer
        self._previous = previous
        self._boot_id = boot_id
        self._bytes_max = bytes_max
        self._keep_ms = acknowledged_keep_ms
        row = self._db.execute(
            "SELECT host_id, incarnation, first_previous_hash, next_sequence, head_hash FROM chain"
        ).fetchone()
        if (row[0], row[1]) != (chain.host_id, chain.incarnation):
            self._db.close()
            raise HostError(
                f"the spool at {path} is of {row[0]} incarnation {row[1]}, the certificates are of "
                f"{chain.host_id} incarnation {chain.incarnation}; enrol this host anew"
            )
        self._first_previous_hash: bytes = row[2]
        self._next: int = row[3]
        self._head_hash: bytes = row[4]
        self.dropped_windows = 0
        """Windows that the bound made this process drop before they were acknowledged."""
        self.gaps = 0
        """Gaps that this process has declared: what they held that travels on change is lost."""

    def close(self) -> None:
        """Closes the file; what was committed stays."""
        self._db.close()

    @property
    def next_sequence(self) -> int:
        """The sequence of the next window to be sealed."""
        return self._next

    @property
    def used_bytes(self) -> int:
        """Bytes in use, of at most `bytes_max` and one window."""
        return spool_file.used_bytes(self._db)

    @property
    def unacknowledged(self) -> int:
        """Number of windows that no valuer has acknowledged, dropped ones included."""
        query = "SELECT count(*) FROM record WHERE acknowledged_ms IS NULL AND kind <> 'gap'"
        return int(self._db.execute(query).fetchone()[0])

    @property
    def boot_id(self) -> bytes:
        """The boot in which windows are sealed now."""
        return self._boot_id

    def go_over(self, signer: Signer) -> None:
        """Seals with another key from the next window on."""
        self._previous, self._signer = self._signer, signer

    def known(self) -> tuple[Known, ...]:
        """The host and every GPU this installation has seen, with what was told in this boot."""
        return _known(self._db, self._boot_id)

    def paused_until_ms(self) -> int | None:
        """Until when the operator paused the agent, UTC milliseconds; None: not paused."""
        found: int | None = self._db.execute("SELECT paused_until_ms FROM chain").fetchone()[0]
        return found

    def set_paused_until(self, until_ms: int | None) -> None:
        """Remembers a pause over a restart of the agent."""
        with spool_file.transaction(self._db):
            self._db.execute("UPDATE chain SET paused_until_ms = ?", (until_ms,))

    def append(
        self, draft: Draft, *, source: Source, answered_challenge: bytes, now_ms: int
    ) -> Sealed:
        """Seals the draft as the next window. When this returns, the window is durable.

        Raises SpoolFull: then nothing was sealed and no sequence is used up.
        """
        link = Link(
            host_id=self._chain.host_id,
            incarnation=self._chain.incarnation,
            boot_id=self._boot_id,
            sequence=self._next,
            previous_header_hash=self._head_hash,
            answered_challenge=answered_challenge,
        )
        sealed = seal_window(
            draft.contents,
            link=link,
            period=draft.period,
            source=source,
            close_reason=draft.close_reason,
            agent_version=VERSION,
            secret=secrets.token_bytes(SECRET_BYTES),
            signer=self._signer,
        )
        try:
            dropped = self._store(draft, sealed, now_ms)
            spool_file.reserve(self._path, self._db)
        except DiskFull:
            spool_file.release(self._path, self._db)
            self._make_way(len(pack_window(sealed)))
            dropped = self._store(draft, sealed, now_ms)
        self._next += 1
        self._head_hash = sealed.hash
        self.dropped_windows += dropped
        return sealed

    def _store(self, draft: Draft, sealed: Sealed, now_ms: int) -> int:
        """Makes a window durable, and room within the bound; how many windows that cost."""
        with spool_file.transaction(self._db):
            place = ("window", self._next, self._next, sealed.hash, self._head_hash)
            period = (draft.period.begin_utc_ms, draft.period.end_utc_ms)
            self._insert((*place, *period), pack_window(sealed))
            self._db.execute(
                "UPDATE chain SET next_sequence = ?, head_hash = ?", (self._next + 1, sealed.hash)
            )
            self._remember(draft, sealed)
            self._expire(now_ms)
            return self._evict()

    def _make_way(self, size: int) -> None:
        """Frees room in the file for a window of `size` bytes, as the file cannot grow.

        In a transaction of its own, and no more than that room: where the window can even so not
        be written, trying again drops nothing further.
        """
        dropped = 0
        with spool_file.transaction(self._db):
            while spool_file.free_bytes(self._db) < 2 * size + _ROW_BYTES:
                cost = self._drop_oldest(GapCause.DISK_FULL)
                if cost is None:
                    break
                dropped += cost
        self.dropped_windows += dropped

    def resume(self, head: Head | None, now_ms: int) -> Head:
        """Where to go on, given the valuer's head: what the valuer holds is acknowledged.

        Returns the head to give to `next_after`. Raises Forked where the valuer's history is not
        the one that this spool holds.
        """
        if head is None:
            cursor = Head(-1, self._first_previous_hash)
        else:
            self._check_ours(head)
            cursor = head
        try:
            self._mark(cursor, now_ms)
        except SpoolFull:
            # Only a note for eviction, made again at the next resume; sending is what frees room.
            return cursor
        return cursor

    def newest_until(self, sequence: int) -> Outgoing | None:
        """The newest window that is kept here at or before a sequence; None where there is none."""
        row = self._db.execute(
            "SELECT sequence, hash, data FROM record JOIN body USING (sequence) "
            "WHERE sequence <= ? AND kind = 'window' ORDER BY sequence DESC LIMIT 1",
            (sequence,),
        ).fetchone()
        if row is None:
            return None
        found, digest, data = row
        return Outgoing(Head(found, digest), found, unpack_window(data))

    def next_after(self, cursor: Head) -> Outgoing | None:
        """What the chain goes on with after `cursor`; None at its end.

        Where windows are missing this seals the gap record, durable before it is returned.
        """
        row = self._db.execute(
            "SELECT kind, sequence, first_sequence, hash, data FROM record "
            "LEFT JOIN body USING (sequence) WHERE sequence > ? ORDER BY sequence LIMIT 1",
            (cursor.sequence,),
        ).fetchone()
        if row is None:
            return None
        kind, sequence, first, digest, data = row
        if first != cursor.sequence + 1 or kind == "dropped":
            return self._seal_gap(cursor)
        item = unpack_envelope(data) if kind == "gap" else unpack_window(data)
        return Outgoing(Head(sequence, digest), first, item)

    def acknowledge(self, positions: Iterable[tuple[int, int]], now_ms: int) -> None:
        """Marks sequences as durable at the valuer, each with its ledger position."""
        with spool_file.transaction(self._db):
            for sequence, position in positions:
                self._db.execute(
                    "UPDATE record SET acknowledged_ms = ?, position = ? WHERE sequence = ?",
                    (now_ms, position, sequence),
                )

    def _mark(self, cursor: Head, now_ms: int) -> None:
        with spool_file.transaction(self._db):
            self._db.execute(
                "UPDATE record SET acknowledged_ms = ? "
                "WHERE sequence <= ? AND acknowledged_ms IS NULL",
                (now_ms, cursor.sequence),
            )
            # A valuer restored from a backup needs again what it acknowledged before.
            self._db.execute(
                "UPDATE record SET acknowledged_ms = NULL, position = NULL "
                "WHERE sequence > ? AND acknowledged_ms IS NOT NULL",
                (cursor.sequence,),
            )

    def _check_ours(self, head: Head) -> None:
        if head.sequence >= self._next:
            raise Forked(
                f"the valuer holds window {head.sequence}, this agent sealed none after "
                f"{self._next - 1}: its state was copied, or restored from an older one. Enrol this "
                "host with a new token"
            )
        row = self._db.execute(
            "SELECT hash FROM record WHERE sequence = ?", (head.sequence,)
        ).fetchone()
        ours = self._head_hash if head.sequence == self._next - 1 else row and row[0]
        if ours is not None and ours != head.hash:
            raise Forked(
                f"the valuer's window {head.sequence} is not the one this agent sealed: two agents "
                "hold the same key. Stop the copy, and enrol this host with a new token"
            )

    def _seal_gap(self, cursor: Head) -> Outgoing:
        first = cursor.sequence + 1
        kept_sequence, last_hash, kept_begin_ms, kept = self._db.execute(
            "SELECT sequence, previous_hash, begin_utc_ms, data FROM record "
            "JOIN body USING (sequence) "
            "WHERE sequence >= ? AND kind = 'window' ORDER BY sequence LIMIT 1",
            (first,),
        ).fetchone()
        last = kept_sequence - 1
        begin_ms, end_ms, cause = self._db.execute(
            "SELECT min(begin_utc_ms), max(end_utc_ms), max(cause) FROM record "
            "WHERE sequence BETWEEN ? AND ?",
            (first, last),
        ).fetchone()
        gap = GapRecord(
            host_id=self._chain.host_id,
            incarnation=self._chain.incarnation,
            boot_id=self._boot_id,
            first_sequence=first,
            last_sequence=last,
            previous_header_hash=cursor.hash,
            last_dropped_hash=last_hash,
            begin_utc_ms=kept_begin_ms if begin_ms is None else begin_ms,
            end_utc_ms=kept_begin_ms if end_ms is None else end_ms,
            cause=GapCause.SPOOL_FULL if cause is None else GapCause(cause),
        )
        envelope = seal_gap(gap, self._signer_of(unpack_window(kept)))
        with spool_file.transaction(self._db):
            self._db.execute("DELETE FROM record WHERE sequence BETWEEN ? AND ?", (first, last))
            self._db.execute("DELETE FROM body WHERE sequence BETWEEN ? AND ?", (first, last))
            row = ("gap", first, last, last_hash, cursor.hash, gap.begin_utc_ms, gap.end_utc_ms)
            self._insert(row, pack_envelope(envelope))
            self._db.execute("UPDATE record SET cause = ? WHERE sequence = ?", (gap.cause, last))
            self._db.execute("DELETE FROM told")
        self.gaps += 1
        return Outgoing(Head(last, last_hash), first, envelope)

    def _signer_of(self, window: Sealed) -> Signer:
        """Whose word a gap before this window has to be: a newer key's would end the window's own."""
        (signature,) = window.envelope.signatures
        previous = self._previous
        if previous is not None and signature.keyid == previous.public_key.fingerprint:
            return previous
        return self._signer

    def _insert(self, row: tuple[str, int, int, bytes, bytes, int, int], data: bytes) -> None:
        self._db.execute(
            "INSERT INTO record (kind, first_sequence, sequence, hash, previous_hash, begin_utc_ms, "
            "end_utc_ms) VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        )
        self._db.execute("INSERT INTO body VALUES (?, ?)", (row[2], data))

    def _remember(self, draft: Draft, sealed: Sealed) -> None:
        """What the next run of the agent goes on from, as of this window."""
        self._db.executemany(
            "INSERT OR REPLACE INTO known VALUES (?, ?, ?)",
            [(one.subject, self._boot_id, pack_known(one)) for one in draft.known],
        )
        forgotten = [(subject,) for subject in draft.forgotten]
        self._db.executemany("DELETE FROM known WHERE subject = ?", forgotten)
        self._db.executemany("DELETE FROM told WHERE subject = ?", forgotten)
        self._db.executemany(
            "INSERT OR REPLACE INTO told VALUES (?, ?, ?, ?, ?)",
            [
                (
                    content.subject,
                    content.group.value,
                    self._boot_id,
                    draft.period.end_boottime_ms,
                    leaf,
                )
                for content, leaf in zip(draft.contents, sealed.leaves, strict=True)
                if content.group in ON_CHANGE
            ],
        )

    def _expire(self, now_ms: int) -> None:
        """Forgets windows that were acknowledged long ago; never the head."""
        where = f"acknowledged_ms < {now_ms - self._keep_ms} AND sequence < ?"
        self._delete(where, self._next, _FORGET_AT_ONCE)

    def _evict(self) -> int:
        """Makes room within the bound; returns how many unacknowledged windows that cost."""
        dropped = 0
        while spool_file.used_bytes(self._db) > self._bytes_max:
            cost = self._drop_oldest(GapCause.SPOOL_FULL)
            if cost is None:
                break  # the newest window alone is over the bound, and stays
            dropped += cost
        return dropped

    def _drop_oldest(self, cause: GapCause) -> int | None:
        """Frees some room: acknowledged windows first, then the oldest other, then its place.

        Returns how many unacknowledged windows that cost; None where only the newest is left.
        """
        newest = self._db.execute("SELECT max(sequence) FROM record").fetchone()[0] or 0
        if self._delete("acknowledged_ms IS NOT NULL AND sequence < ?", newest, _EVICT_AT_ONCE):
            return 0
        oldest = self._db.execute(
            "SELECT sequence FROM body JOIN record USING (sequence) "
            "WHERE kind = 'window' AND sequence < ? ORDER BY sequence LIMIT ?",
            (newest, _DROP_AT_ONCE[cause]),
        ).fetchall()
        # Bodies first: on a full disk it is what they leave that the rest is written to.
        self._db.executemany("DELETE FROM body WHERE sequence = ?", oldest)
        self._db.executemany(
            "UPDATE record SET kind = 'dropped', cause = ? WHERE sequence = ?",
            [(cause.value, *each) for each in oldest],
        )
        if oldest:
            return len(oldest)
        forgot = self._delete("kind <> 'window' AND sequence < ?", newest, _FORGET_AT_ONCE)
        return 0 if forgot else None

    def _delete(self, where: str, sequence: int, limit: int) -> int:
        """Deletes the oldest records that the condition names; returns how many."""
        query = f"SELECT sequence FROM record WHERE {where} ORDER BY sequence LIMIT {limit}"  # noqa: S608 - the conditions stand above
        found = self._db.execute(query, (sequence,)).fetchall()
        self._db.executemany("DELETE FROM record WHERE sequence = ?", found)
        self._db.executemany("DELETE FROM body WHERE sequence = ?", found)
        return len(found)


def known(path: Path, boot_id: bytes) -> tuple[Known, ...]:
    """What a spool knows, read beside a running agent. None where there is no spool."""
    if not path.exists():
        return ()
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)
        try:
            return _known(db, boot_id)
        finally:
            db.close()
    except sqlite3.DatabaseError as error:
        raise HostError(f"{path} cannot be read: {error}") from error


def _known(db: sqlite3.Connection, boot_id: bytes) -> tuple[Known, ...]:
    told: dict[bytes, dict[Group, Told]] = {}
    for subject, body, boottime_ms, leaf in db.execute(
        "SELECT subject, body, boottime_ms, leaf FROM told WHERE boot_id = ?", (boot_id,)
    ):
        values = codec.decode_leaf(leaf).content.values
        told.setdefault(subject, {})[Group(body)] = Told(values, boottime_ms)
    return tuple(
        unpack_known(subject, data, told.get(subject, {}), same_boot=boot == boot_id)
        for subject, boot, data in db.execute("SELECT subject, boot_id, data FROM known")
    )
