"""The ledger's invariants, in one place: tests call it after every step, `check` for people.

1. Positions are gap-free from 0.
2. Every body decodes, and its hash is the one that is indexed.
3. A window's leaves lie under its signed root, and a key enrolled for its host signed it, which
   had not been retired by then: once a newer key has sealed, no older one does.
4. Each chain goes on from the entry before it, or from what enrolment said it starts with.
5. Of a fork, another window stands at its sequence, and the host's key signed both.
6. The valuer's own records are signed by its ledger key.
7. A host's head is the end of its chain.
8. Evidence is signed by a key of its host, and its reports are those whose digests are signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from assay_core import codec, merkle
from assay_core.errors import AssayError
from assay_core.header import Head
from assay_core.seal import ENTRY_TYPE, EVIDENCE_TYPE, GAP_TYPE, WINDOW_TYPE, Envelope, PublicKey
from assay_valuer.ledger.append import EVIDENCE, FORK, GAP, WINDOW
from assay_valuer.ledger.body import BodyError
from assay_valuer.ledger.read import Entry, entries_from, newest_position
from assay_valuer.store.schema import HOST, LEDGER_ENTRY, SEALING_KEY


class LedgerDamaged(AssayError):
    """An invariant of the ledger does not hold."""

    def __init__(self, position: int, what: str) -> None:
        super().__init__(
            f"ledger position {position}: {what}; stop the valuer, keep this store as evidence, "
            "and restore a backup"
        )
        self.position = position


@dataclass(frozen=True, slots=True)
class _Enrolled:
    """A host's incarnation as enrolment has it."""

    host_id: str
    keys: tuple[PublicKey, ...]  # oldest first
    first_previous_hash: bytes
    retired: Mapping[str, int]
    """By fingerprint, from which sequence on a key no longer seals."""


@dataclass(slots=True)
class _State:
    """What was seen so far. `whole` is whether the check began at position 0."""

    whole: bool
    enrolled: Mapping[tuple[int, int], _Enrolled]
    ledger_keys: tuple[PublicKey, ...]
    heads: dict[tuple[int, int], Head] = field(default_factory=dict)
    sealers: dict[tuple[int, int], int] = field(default_factory=dict)
    """Which of its chain's keys, by age, sealed last."""


def check_ledger(
    connection: Connection,
    ledger_keys: tuple[PublicKey, ...],
    *,
    first: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Checks every entry from position `first` on, and every head; returns how many were checked.

    Raises LedgerDamaged at the first that does not hold. From a `first` above 0 a chain is taken
    to begin with the first of its entries that is seen.
    """
    newest = newest_position(connection)
    count = connection.execute(select(func.count()).select_from(LEDGER_ENTRY)).scalar() or 0
    if count != (0 if newest is None else newest + 1):
        raise LedgerDamaged(newest or 0, f"there are {count} entries up to it: some are missing")
    state = _State(first == 0, _enrolled(connection), ledger_keys)
    position = first
    while newest is not None and position <= newest:
        try:
            found = entries_from(connection, position)
        except BodyError as error:
            raise LedgerDamaged(position, f"at or after it, {error}") from error
        for entry in found:
            if entry.position != position:
                raise LedgerDamaged(position, "the entry is missing")
            _check_entry(connection, entry, state)
            position += 1
        progress(position)
    _check_heads(connection, state)
    return position - first


def _check_entry(connection: Connection, entry: Entry, state: _State) -> None:
    at = entry.position
    if hashlib.sha256(entry.body.envelope.payload).digest() != entry.hash:
        raise LedgerDamaged(at, "its bytes are not those of its hash")
    if entry.kind in (WINDOW, FORK) and entry.body.envelope.payload_type != GAP_TYPE:
        _check_window(connection, entry, state)
    elif entry.kind in (GAP, FORK):
        _check_gap(connection, entry, state)
    elif entry.kind == EVIDENCE:
        _check_evidence(entry, state)
    elif not _signed(entry.body.envelope, ENTRY_TYPE, state.ledger_keys):
        raise LedgerDamaged(at, f"the {entry.kind} record is not signed by the ledger key")


def _check_window(connection: Connection, entry: Entry, state: _State) -> None:
    at, body = entry.position, entry.body
    key, known = _place(entry, state)
    sealer = _sealer(at, body.envelope, WINDOW_TYPE, known)
    header = codec.decode_header(body.envelope.payload)
    if (header.host_id, header.incarnation, header.sequence) != (
        known.host_id,
        entry.incarnation,
        entry.sequence,
    ):
        raise LedgerDamaged(at, "the window is indexed at another place than it was signed for")
    if merkle.root([merkle.leaf_hash(leaf) for leaf in body.leaves]) != header.merkle_root:
        raise LedgerDamaged(at, "the window's leaves are not under its signed root")
    if entry.kind == FORK:
        _check_fork(connection, entry)
        return
    _check_sealer(at, key, header.sequence, sealer, state)
    _check_link(at, key, header.sequence, header.previous_header_hash, state)
    state.heads[key] = Head(header.sequence, entry.hash)


def _check_gap(connection: Connection, entry: Entry, state: _State) -> None:
    key, known = _place(entry, state)
    sealer = _sealer(entry.position, entry.body.envelope, GAP_TYPE, known)
    gap = codec.decode_gap(entry.body.envelope.payload)
    if (gap.host_id, gap.last_sequence) != (known.host_id, entry.sequence):
        raise LedgerDamaged(entry.position, "the gap is indexed at another place than was signed")
    if entry.kind == FORK:
        _check_fork(connection, entry)
        return
    _check_sealer(entry.position, key, gap.first_sequence, sealer, state)
    _check_link(entry.position, key, gap.first_sequence, gap.previous_header_hash, state)
    state.heads[key] = Head(gap.last_sequence, gap.last_dropped_hash)


def _check_evidence(entry: Entry, state: _State) -> None:
    at, body = entry.position, entry.body
    _, known = _place(entry, state)
    _sealer(at, body.envelope, EVIDENCE_TYPE, known)
    statement = codec.decode_evidence(body.envelope.payload)
    if (statement.host_id, statement.incarnation, statement.sequence) != (
        known.host_id,
        entry.incarnation,
        entry.sequence,
    ):
        raise LedgerDamaged(at, "the evidence is of another host or window than it is kept for")
    signed = [d for one in statement.devices for d in (one.report_sha256, one.chain_sha256)]
    if signed != [hashlib.sha256(blob).digest() for blob in body.leaves]:
        raise LedgerDamaged(at, "the evidence's reports are not those that were signed")


def _check_sealer(at: int, key: tuple[int, int], sequence: int, sealer: int, state: _State) -> None:
    """A key that a newer one took over from seals no more, and the registry knows since when."""
    known = state.enrolled[key]
    if sealer < state.sealers.get(key, 0):
        raise LedgerDamaged(at, f"window {sequence} is sealed by a key after a newer one sealed")
    state.sealers[key] = sealer
    retired = [known.retired.get(one.fingerprint) for one in known.keys]
    if any(since is None or since > sequence for since in retired[:sealer]):
        raise LedgerDamaged(at, f"an older key of its host is not retired at window {sequence}")
    since = retired[sealer]
    if since is not None and since <= sequence:
        raise LedgerDamaged(at, f"window {sequence} is sealed by a key retired from {since} on")


def _check_link(
    at: int, key: tuple[int, int], sequence: int, previous: bytes, state: _State
) -> None:
    head = state.heads.get(key)
    if head is None and not state.whole:
        return
    expected = 0 if head is None else head.sequence + 1
    if sequence != expected:
        raise LedgerDamaged(at, f"sequence {sequence} stands where {expected} comes next")
    if previous != (state.enrolled[key].first_previous_hash if head is None else head.hash):
        raise LedgerDamaged(at, f"window {sequence} does not follow the one before it")


def _check_fork(connection: Connection, entry: Entry) -> None:
    other = connection.execute(
        select(func.count())
        .select_from(LEDGER_ENTRY)
        .where(
            LEDGER_ENTRY.c.host_key == entry.host_key,
            LEDGER_ENTRY.c.incarnation == entry.incarnation,
            LEDGER_ENTRY.c.hash == entry.hash,
        )
    ).scalar()
    if other != 1:
        raise LedgerDamaged(entry.position, "the fork's bytes are kept more than once")


def _check_heads(connection: Connection, state: _State) -> None:
    rows = connection.execute(
        select(
            HOST.c.key, HOST.c.host_id, HOST.c.incarnation, HOST.c.head_sequence, HOST.c.head_hash
        )
    )
    for row in rows:
        found = state.heads.get((row.key, row.incarnation))
        if found is None and not state.whole:
            continue
        expected = (None, None) if found is None else (found.sequence, found.hash)
        if expected != (row.head_sequence, row.head_hash):
            raise LedgerDamaged(
                newest_position(connection) or 0,
                f"the head of {row.host_id} is {row.head_sequence}, its chain ends at {expected[0]}",
            )


def _place(entry: Entry, state: _State) -> tuple[tuple[int, int], _Enrolled]:
    if entry.host_key is None or entry.incarnation is None:
        raise LedgerDamaged(entry.position, f"a {entry.kind} has no host")
    key = (entry.host_key, entry.incarnation)
    known = state.enrolled.get(key)
    if known is None:
        raise LedgerDamaged(entry.position, "its host and incarnation were never enrolled")
    return key, known


def _sealer(at: int, envelope: Envelope, payload_type: str, known: _Enrolled) -> int:
    """Which of the host's keys, by age, made the first signature."""
    for age, key in enumerate(known.keys):
        if _signed(envelope, payload_type, (key,)):
            return age
    raise LedgerDamaged(at, "no key enrolled for its host signed it")


def _signed(envelope: Envelope, payload_type: str, keys: tuple[PublicKey, ...]) -> bool:
    return envelope.payload_type == payload_type and any(
        key.verifies(signature.sig, payload_type, envelope.payload)
        for key in keys
        for signature in envelope.signatures[:1]
    )


def _enrolled(connection: Connection) -> Mapping[tuple[int, int], _Enrolled]:
    found: dict[tuple[int, int], _Enrolled] = {}
    rows = connection.execute(
        select(SEALING_KEY, HOST.c.host_id)
        .join(HOST, HOST.c.key == SEALING_KEY.c.host_key)
        .order_by(SEALING_KEY.c.enrolled_ms)
    )
    for row in rows:
        place = (row.host_key, row.incarnation)
        earlier = found.get(place)
        keys = () if earlier is None else earlier.keys
        retired = {} if earlier is None else dict(earlier.retired)
        if row.retired_sequence is not None:
            retired[row.fingerprint] = row.retired_sequence
        found[place] = _Enrolled(
            row.host_id,
            (*keys, PublicKey(row.algorithm, row.public_key)),
            row.first_previous_hash,
            retired,
        )
    return found
