"""What the store says of assets as things that are pledged, proved and claimed, for people to decide."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, RowMapping, select

from assay_valuer.results import StoredLine
from assay_valuer.standing.trust import NO_PROOFS, NO_TRUST, AssetTrust, HostProofs
from assay_valuer.store.schema import ASSET, HOST, HOST_TRUST, PLEDGE, VALUATION


class AssetRow(msgspec.Struct, frozen=True, kw_only=True):
    """One asset: its identifiers, where it is, what it secures, its standing, and what is held
    against it. `identity` is the SHA-256 of its device's key; `reserved_*` who alone may show it;
    `proofs` are its host's.
    """

    id: int
    serial: str | None
    board_part_number: str | None
    pdi: str | None
    uuid: str | None
    identity: str | None
    name: str | None
    host_key: int | None
    host: str | None
    site: str | None
    loan: str | None
    reserved_site: str | None
    reserved_host: str | None
    successor_of: str | None
    seen_ms: int | None
    result: StoredLine | None
    trust: AssetTrust
    proofs: HostProofs


def asset_rows(connection: Connection) -> list[AssetRow]:
    """Every asset, by loan, host and serial."""
    before = ASSET.alias()
    statement = (
        select(
            ASSET,
            HOST.c.host_id,
            HOST.c.site,
            PLEDGE.c.loan_id,
            PLEDGE.c.site.label("reserved_site"),
            PLEDGE.c.host_id.label("reserved_host"),
            before.c.serial.label("before"),
            VALUATION.c.result,
            HOST_TRUST.c.trust.label("proofs"),
        )
        .outerjoin(HOST, HOST.c.key == ASSET.c.host_key)
        .outerjoin(HOST_TRUST, HOST_TRUST.c.host_key == ASSET.c.host_key)
        .outerjoin(PLEDGE, PLEDGE.c.asset_id == ASSET.c.id)
        .outerjoin(before, before.c.id == PLEDGE.c.successor_of)
        .outerjoin(VALUATION, VALUATION.c.asset_id == ASSET.c.id)
        .order_by(PLEDGE.c.loan_id, HOST.c.host_id, ASSET.c.serial, ASSET.c.id)
    )
    return [_row(row) for row in connection.execute(statement).mappings()]


def _row(row: RowMapping) -> AssetRow:
    proofs = NO_PROOFS
    if row["proofs"] is not None:
        proofs = msgspec.json.decode(row["proofs"], type=HostProofs)
    return AssetRow(
        id=row["id"],
        serial=row["serial"],
        board_part_number=row["board_part_number"],
        pdi=None if row["pdi"] is None else f"{int(row['pdi']):016x}",
        uuid=None if row["uuid"] is None else row["uuid"].hex(),
        identity=row["identity"],
        name=row["name"],
        host_key=row["host_key"],
        host=row["host_id"],
        site=row["site"],
        loan=row["loan_id"],
        reserved_site=row["reserved_site"],
        reserved_host=row["reserved_host"],
        successor_of=row["before"],
        seen_ms=row["seen_ms"],
        result=None
        if row["result"] is None
        else msgspec.json.decode(row["result"], type=StoredLine),
        trust=NO_TRUST
        if row["trust"] is None
        else msgspec.json.decode(row["trust"], type=AssetTrust),
        proofs=proofs,
    )
