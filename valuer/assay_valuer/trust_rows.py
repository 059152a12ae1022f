"""What the store says of trust: where in the ledger to look it up, and what each host has proved."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

import msgspec
from sqlalchemy import Connection, select

from assay_valuer.hosts import HostLine, list_hosts
from assay_valuer.ledger.append import WINDOW
from assay_valuer.policy import ValuerPolicy
from assay_valuer.standing.assurance import TpmState, tpm_state
from assay_valuer.standing.trust import NO_PROOFS, AssetTrust, Freeze, HostProofs
from assay_valuer.store.schema import ASSET, HOST, HOST_TRUST, LEDGER_ENTRY


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the ledger: what it is and whose. `incarnation` and `sequence` are of a chain."""

    position: int
    kind: str
    host: str | None
    incarnation: int | None = None
    sequence: int | None = None


def places(connection: Connection, positions: Collection[int]) -> dict[int, Place]:
    """What stands at these positions of the ledger, as far as anything does. Few: one GPU's."""
    rows = connection.execute(_PLACES.where(LEDGER_ENTRY.c.position.in_(positions)))
    return {row["position"]: Place(**row) for row in rows.mappings()}


def newest_windows(connection: Connection, hosts: Collection[str]) -> list[Place]:
    """The newest window of each of these hosts that has one."""
    joined = _PLACES.where(
        HOST.c.host_id.in_(hosts),
        HOST.c.head_position == LEDGER_ENTRY.c.position,
        LEDGER_ENTRY.c.kind == WINDOW,
    )
    return [Place(**row) for row in connection.execute(joined).mappings()]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRow(HostLine):
    """A host as people list it, with what it has proved.

    `tpm_state`: none, unknown, simulated or believed. `quoted_ms` is when its TPM was asked for the
    newest quote that held, at `quote_position` in the ledger. `devices_proved` of its `gpus` have
    answered on it, the oldest at `devices_ms`; `devices_absent` is its own word why others did not.
    """

    tpm_state: TpmState
    quoted_ms: int | None
    quote_position: int | None
    gpus: int
    devices_proved: int
    devices_ms: int | None
    devices_absent: str
    freezes: tuple[Freeze, ...]


def host_rows(connection: Connection, policy: ValuerPolicy) -> list[HostRow]:
    """Every host, by id."""
    kept = {
        row.host_id: msgspec.json.decode(row.trust, type=HostProofs)
        for row in connection.execute(
            select(HOST.c.host_id, HOST_TRUST.c.trust).join(
                HOST, HOST.c.key == HOST_TRUST.c.host_key
            )
        )
    }
    gpus: dict[str, list[int | None]] = {}
    shown = select(HOST.c.host_id, HOST.c.key, ASSET.c.trust).join(
        HOST, HOST.c.key == ASSET.c.host_key
    )
    for row in connection.execute(shown):
        gpus.setdefault(row.host_id, []).append(_proved_ms(row.trust, row.key))
    return [
        _host_row(line, kept.get(line.host_id, NO_PROOFS), gpus.get(line.host_id, []), policy)
        for line in list_hosts(connection)
    ]


def _proved_ms(trust: str | None, host_key: int) -> int | None:
    """When the device of an asset last answered on this host."""
    proof = None if trust is None else msgspec.json.decode(trust, type=AssetTrust).proof
    return proof.at_ms if proof is not None and proof.host_key == host_key else None


def _host_row(
    line: HostLine, proofs: HostProofs, gpus: list[int | None], policy: ValuerPolicy
) -> HostRow:
    proved = [at_ms for at_ms in gpus if at_ms is not None]
    quote = proofs.tpm
    return HostRow(
        **{field.name: getattr(line, field.name) for field in fields(line)},
        tpm_state=tpm_state(proofs, policy),
        quoted_ms=None if quote is None else quote.at_ms,
        quote_position=None if quote is None else quote.position,
        gpus=len(gpus),
        devices_proved=len(proved),
        devices_ms=min(proved, default=None),
        devices_absent=proofs.devices_absent,
        freezes=proofs.freezes,
    )


_PLACES = select(
    LEDGER_ENTRY.c.position,
    LEDGER_ENTRY.c.kind,
    HOST.c.host_id.label("host"),
    LEDGER_ENTRY.c.incarnation,
    LEDGER_ENTRY.c.sequence,
).outerjoin(HOST, HOST.c.key == LEDGER_ENTRY.c.host_key)
