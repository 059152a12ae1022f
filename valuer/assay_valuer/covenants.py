"""Covenant files and states in the store: taking a signed file, and keeping what loans came to by it.

A file that is taken is a signed record in the ledger, with the bytes as both parties signed them; so
is each step that changed a state, with its inputs, so that anybody can take it again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, insert, select

from assay_core.covenant import (
    Covenant,
    CovenantRefusal,
    CovenantRefused,
    check_signed,
    decode,
)
from assay_core.errors import ServiceError
from assay_core.seal import COVENANT_TYPE, Envelope, Signer
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.covenant import CovenantState, Record
from assay_valuer.credit.loan import LoanFile
from assay_valuer.events.kept import Signed
from assay_valuer.ledger.append import append_record
from assay_valuer.ledger.read import entry
from assay_valuer.parties import Party, list_parties
from assay_valuer.results import StoredCovenant
from assay_valuer.store.schema import COVENANT, COVENANT_STATE, COVENANT_STEP, LOAN

RECORD: Final = "covenant"
STATE_RECORD: Final = "covenant_state"


class RecordedCovenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ledger's record of a file that was taken. Bytes are base64 in JSON."""

    loan: str
    version: int
    sha256: str
    payload_type: str = COVENANT_TYPE
    payload: bytes
    signatures: tuple[Signed, ...]
    imported_ms: int


def import_covenant(
    connection: Connection, envelope: Envelope, *, loan: str | None, signer: Signer, now_ms: int
) -> tuple[Covenant, bool]:
    """Takes a loan's covenant file, with a signed record; and whether it is new.

    `loan`: whose file it must be, None for whichever it says. Raises CovenantRefused.
    """
    parties = [one for one in list_parties(connection) if one.ended_ms is None]
    covenant = check_signed(envelope, [one.signatory for one in parties])
    _check_loan(connection, covenant, loan, parties)
    digest = hashlib.sha256(envelope.payload).hexdigest()
    if not _check_version(connection, covenant, digest):
        return covenant, False
    roles = {one.key.fingerprint: one for one in parties}
    signatures = tuple(
        Signed(
            who=roles[one.keyid].name,
            role=roles[one.keyid].role,
            fingerprint=one.keyid,
            sig=one.sig,
            signed_ms=now_ms,
        )
        for one in envelope.signatures
    )
    connection.execute(
        insert(COVENANT).values(
            loan_id=covenant.loan,
            version=covenant.version,
            sha256=digest,
            payload=envelope.payload,
            signatures=msgspec.json.encode(signatures).decode(),
            imported_ms=now_ms,
        )
    )
    record = RecordedCovenant(
        loan=covenant.loan,
        version=covenant.version,
        sha256=digest,
        payload=envelope.payload,
        signatures=signatures,
        imported_ms=now_ms,
    )
    append_record(connection, RECORD, msgspec.json.encode(record, order="sorted"), signer, now_ms)
    return covenant, True


def load_covenants(connection: Connection) -> dict[str, tuple[Covenant, ...]]:
    """Every loan's covenant files, by version."""
    found: dict[str, list[Covenant]] = defaultdict(list)
    statement = select(COVENANT).order_by(COVENANT.c.loan_id, COVENANT.c.version)
    for row in connection.execute(statement):
        found[row.loan_id].append(decode(row.payload))
    return {loan: tuple(files) for loan, files in found.items()}


def load_states(connection: Connection) -> dict[str, CovenantState]:
    """The state that each loan came to."""
    return {
        row.loan_id: msgspec.json.decode(row.state, type=CovenantState)
        for row in connection.execute(select(COVENANT_STATE))
    }


def save_state(
    connection: Connection, loan: str, state: CovenantState, result: StoredCovenant, at_ms: int
) -> None:
    """Replaces a loan's newest state and position."""
    connection.execute(delete(COVENANT_STATE).where(COVENANT_STATE.c.loan_id == loan))
    connection.execute(
        insert(COVENANT_STATE).values(
            loan_id=loan,
            at_ms=at_ms,
            state=msgspec.json.encode(state).decode(),
            result=msgspec.json.encode(result).decode(),
        )
    )


def tell_step(connection: Connection, record: Record, signer: Signer) -> None:
    """A signed record of a step that changed a state."""
    payload = msgspec.json.encode(record, order="sorted")
    at = append_record(connection, STATE_RECORD, payload, signer, record.at_ms)
    connection.execute(insert(COVENANT_STEP).values(position=at, loan_id=record.loan))


def history(connection: Connection, loan: str) -> tuple[Record, ...]:
    """A loan's steps as the ledger has them, in order. Raises ServiceError where one is not there."""
    return steps_at(connection, step_positions(connection, loan))


def step_positions(
    connection: Connection, loan: str, *, after: int = -1, limit: int | None = None
) -> Sequence[int]:
    """Where in the ledger a loan's steps stand, in order; up to `limit` of those beyond `after`."""
    where = (COVENANT_STEP.c.loan_id == loan) & (COVENANT_STEP.c.position > after)
    ordered = select(COVENANT_STEP.c.position).where(where).order_by(COVENANT_STEP.c.position)
    return connection.execute(ordered.limit(limit)).scalars().all()


def steps_at(connection: Connection, positions: Iterable[int]) -> tuple[Record, ...]:
    """The steps at these positions. Raises ServiceError where one is not there."""
    return tuple(_step_at(connection, at) for at in positions)


def _step_at(connection: Connection, position: int) -> Record:
    found = entry(connection, position)
    if found is None or found.kind != STATE_RECORD:
        raise ServiceError(f"entry {position} of the ledger is no covenant step: restore the store")
    return msgspec.json.decode(found.body.envelope.payload, type=Record)


def _check_loan(
    connection: Connection, covenant: Covenant, loan: str | None, parties: list[Party]
) -> None:
    """That the file is of a loan that is registered, and its borrower's operator speaks for it."""
    if loan is not None and covenant.loan != loan:
        detail = f"loan: it is the file of {covenant.loan}, not of {loan}"
        raise CovenantRefused(CovenantRefusal.WRONG_LOAN, detail)
    text = connection.execute(select(LOAN.c.terms).where(LOAN.c.id == covenant.loan)).scalar()
    if text is None:
        detail = f"loan: no loan {covenant.loan} is registered: `assay-valuer loan import` first"
        raise CovenantRefused(CovenantRefusal.WRONG_LOAN, detail)
    terms: LoanFile = loan_file.from_json(text)
    borrower = next(one for one in parties if one.name == covenant.parties.borrower)
    if not all(borrower.speaks_for(terms.reserved_for(gpu)[0]) for gpu in terms.pledge):
        detail = (
            f"parties.borrower: {borrower.name} speaks for {', '.join(borrower.sites)} alone, and "
            "not all of the loan's GPUs are reserved for there"
        )
        raise CovenantRefused(CovenantRefusal.UNKNOWN_PARTY, detail)


def _check_version(connection: Connection, covenant: Covenant, digest: str) -> bool:
    """Whether the file is new; an older one than is held takes the place of none."""
    newest = (
        select(COVENANT.c.version, COVENANT.c.sha256)
        .where(COVENANT.c.loan_id == covenant.loan)
        .order_by(COVENANT.c.version.desc())
        .limit(1)
    )
    held = connection.execute(newest).one_or_none()
    if held is None or held.version < covenant.version:
        return True
    if held.sha256 == digest:
        return False
    detail = (
        f"version: {covenant.version}, and version {held.version} was taken already: sign another "
        f"as version {held.version + 1}"
    )
    raise CovenantRefused(CovenantRefusal.OLDER_VERSION, detail)
