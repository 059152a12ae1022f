"""Third parties' appraisals in the store: taking a signed one, and what each GPU was appraised at.

One that is taken is a signed record in the ledger, with the bytes as its appraiser signed them. Of one
appraiser the newest of a GPU holds; of several appraisers each one's. Who has an interest in a loan
appraises none of its GPUs.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import msgspec
from sqlalchemy import Connection, delete, insert, select

from assay_core.appraisal import (
    Appraisal,
    AppraisalRefusal,
    AppraisalRefused,
    check_date,
    check_signed,
    decode,
)
from assay_core.errors import AssayError
from assay_core.instants import DAY_MS
from assay_core.seal import APPRAISAL_TYPE, Envelope, Signer
from assay_valuer.credit import loan as loan_file
from assay_valuer.events.kept import Signed
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.market.labels import seller
from assay_valuer.parties import list_parties
from assay_valuer.pledges import find_asset, pledge_of
from assay_valuer.store.schema import APPRAISAL, APPRAISED, LOAN
from assay_valuer.valuation import case

RECORD: Final = "appraisal"
_EPOCH: Final = date(1970, 1, 1)
_WHY_MAX: Final = 500


class RecordedAppraisal(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The ledger's record of an appraisal that was taken. Bytes are base64 in JSON.

    `asset_ids`: this store's numbers of its GPUs, in its order.
    """

    sha256: str
    payload_type: str = APPRAISAL_TYPE
    payload: bytes
    signatures: tuple[Signed, ...]
    asset_ids: tuple[int, ...]
    imported_ms: int


@dataclass(frozen=True, slots=True)
class TakenAppraisal:
    """An appraisal as the store has it. `withdrawn`: it counts for nothing any more."""

    sha256: str
    appraisal: Appraisal
    imported_ms: int
    position: int
    withdrawn: bool


def import_appraisal(
    connection: Connection, envelope: Envelope, *, age_max_days: int, signer: Signer, now_ms: int
) -> tuple[Appraisal, bool]:
    """Takes an appraisal, with a signed record; and whether it is new. Raises AppraisalRefused."""
    parties = [one for one in list_parties(connection) if one.ended_ms is None]
    appraisal = check_signed(envelope, [one.signatory for one in parties])
    digest = hashlib.sha256(envelope.payload).hexdigest()
    if _is_held(connection, digest):
        return appraisal, False
    today = _EPOCH + timedelta(days=now_ms // DAY_MS)
    check_date(appraisal, today, age_max_days=age_max_days)
    asset_ids = _assets(connection, appraisal)
    _check_disinterest(connection, appraisal, asset_ids)
    (signature,) = envelope.signatures
    signer_of = next(one for one in parties if one.key.fingerprint == signature.keyid)
    signed = Signed(
        who=signer_of.name,
        role=signer_of.role,
        fingerprint=signature.keyid,
        sig=signature.sig,
        signed_ms=now_ms,
    )
    record = RecordedAppraisal(
        sha256=digest,
        payload=envelope.payload,
        signatures=(signed,),
        asset_ids=asset_ids,
        imported_ms=now_ms,
    )
    body = msgspec.json.encode(record, order="sorted")
    position = append_record(connection, RECORD, body, signer, now_ms)
    connection.execute(
        insert(APPRAISAL).values(
            sha256=digest,
            appraiser=appraisal.appraiser,
            payload=envelope.payload,
            signatures=msgspec.json.encode((signed,)).decode(),
            imported_ms=now_ms,
            position=position,
        )
    )
    rows = [
        {"appraisal_sha256": digest, "asset_id": asset_id, "micros": one.usd_micros}
        for asset_id, one in zip(asset_ids, appraisal.assets, strict=True)
    ]
    connection.execute(insert(APPRAISED), rows)
    return appraisal, True


def withdraw_appraisal(
    connection: Connection, sha256: str, *, why: str, signer: Signer, now_ms: int
) -> bool:
    """From now on an appraisal counts for nothing, with a signed record; whether it did before.

    Raises AssayError where there is none of this hash.
    """
    if not 0 < len(why) <= _WHY_MAX:
        raise AssayError(f"say why, in at most {_WHY_MAX} characters: it stays in the ledger")
    where = APPRAISAL.c.sha256 == sha256
    if connection.execute(select(APPRAISAL.c.sha256).where(where)).scalar() is None:
        raise AssayError(f"there is no appraisal {sha256}; see `assay-valuer appraisal list`")
    done = connection.execute(delete(APPRAISED).where(APPRAISED.c.appraisal_sha256 == sha256))
    if done.rowcount == 0:
        return False
    record = to_json({"sha256": sha256, "withdrawn_ms": now_ms, "why": why})
    append_record(connection, RECORD, record, signer, now_ms)
    return True


def load_appraisals(connection: Connection) -> Mapping[int, tuple[case.Appraisal, ...]]:
    """What holds of each asset that was ever appraised, by asset id; by appraiser and premise.

    Of one appraiser those as of its newest day hold, whatever their premise; of two under one premise
    as of one day, the one that was taken last. How old is too old is the policy's to say.
    """
    taken = {one.sha256: one for one in list_appraisals(connection)}
    rows = connection.execute(
        select(APPRAISED, APPRAISAL.c.position)
        .join(APPRAISAL, APPRAISAL.c.sha256 == APPRAISED.c.appraisal_sha256)
        .order_by(APPRAISAL.c.position)
    )
    found: dict[int, dict[str, list[case.Appraisal]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        signed = taken[row.appraisal_sha256].appraisal
        one = case.Appraisal(
            appraiser=signed.appraiser,
            premise=signed.premise,
            micros=row.micros,
            day=signed.effective_on.toordinal(),
            document_sha256=signed.document_sha256,
        )
        found[row.asset_id][one.appraiser].append(one)
    return {
        asset_id: tuple(one for _, said in sorted(by_appraiser.items()) for one in _that_hold(said))
        for asset_id, by_appraiser in found.items()
    }


def list_appraisals(connection: Connection) -> list[TakenAppraisal]:
    """Every appraisal that was ever taken, in the order they were."""
    counting = set(
        connection.execute(select(APPRAISED.c.appraisal_sha256).distinct()).scalars().all()
    )
    return [
        TakenAppraisal(
            sha256=row.sha256,
            appraisal=decode(row.payload),
            imported_ms=row.imported_ms,
            position=row.position,
            withdrawn=row.sha256 not in counting,
        )
        for row in connection.execute(select(APPRAISAL).order_by(APPRAISAL.c.position))
    ]


def _that_hold(said: list[case.Appraisal]) -> list[case.Appraisal]:
    """Of what one appraiser said of one GPU, in the order it was taken."""
    newest = max(one.day for one in said)
    by_premise = {one.premise: one for one in said if one.day == newest}
    return [by_premise[premise] for premise in sorted(by_premise)]


def _is_held(connection: Connection, digest: str) -> bool:
    """Whether it was taken before. Raises AppraisalRefused where it was withdrawn since."""
    where = APPRAISAL.c.sha256 == digest
    if connection.execute(select(APPRAISAL.c.sha256).where(where)).scalar() is None:
        return False
    counts = select(APPRAISED.c.asset_id).where(APPRAISED.c.appraisal_sha256 == digest).limit(1)
    if connection.execute(counts).scalar() is None:
        detail = f"{digest} was taken and withdrawn: have another one signed"
        raise AppraisalRefused(AppraisalRefusal.WITHDRAWN, detail)
    return True


def _assets(connection: Connection, appraisal: Appraisal) -> tuple[int, ...]:
    """The assets that it is of, in its order. Raises AppraisalRefused, naming the first not known."""
    found = []
    for index, one in enumerate(appraisal.assets):
        asset_id = find_asset(connection, one.subject)
        if asset_id is None:
            detail = (
                f"assets.{index}.serial: no GPU {one.subject} is known: pledge it first, or let its "
                "host show it; see `assay-valuer asset list`"
            )
            raise AppraisalRefused(AppraisalRefusal.UNKNOWN_GPU, detail)
        found.append(asset_id)
    return tuple(found)


def _check_disinterest(
    connection: Connection, appraisal: Appraisal, asset_ids: tuple[int, ...]
) -> None:
    """That its appraiser is nobody whom a loan on these GPUs names as the borrower's."""
    pledges = (pledge_of(connection, asset_id) for asset_id in asset_ids)
    for loan_id in sorted({one.loan_id for one in pledges if one is not None}):
        text = connection.execute(select(LOAN.c.terms).where(LOAN.c.id == loan_id)).scalar_one()
        names = {seller(name) for name in loan_file.from_json(text).sellers}
        if seller(appraisal.appraiser) in names:
            detail = (
                f"appraiser: {appraisal.appraiser} sells for the borrower of loan {loan_id}, by that "
                "loan's file: have somebody else appraise"
            )
            raise AppraisalRefused(AppraisalRefusal.INTERESTED, detail)
