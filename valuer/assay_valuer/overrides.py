"""Values that two people of the lender's signed in the place of the automated ones, until a time.

They come as asset events of the kind `value_override`, see `events`. Of one GPU the newest holds: one
that ends sooner ends the one before it, which does not come back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Final

import msgspec
from sqlalchemy import Connection, Row, insert, select

from assay_core.asset_events import AssetEvent
from assay_core.instants import DAY_MS
from assay_valuer.store.schema import VALUE_OVERRIDE
from assay_valuer.valuation.case import Override

_EPOCH: Final = date(1970, 1, 1).toordinal()


def keep_override(
    connection: Connection,
    event: AssetEvent,
    asset_ids: Iterable[int],
    signed_by: Sequence[str],
    position: int,
) -> None:
    """Keeps what an event that took effect says; `position`: of its record in the ledger."""
    if event.value is None:
        return
    names = msgspec.json.encode(sorted(set(signed_by))).decode()
    for asset_id in asset_ids:
        connection.execute(
            insert(VALUE_OVERRIDE).values(
                position=position,
                asset_id=asset_id,
                micros=event.value.fmv_usd_micros,
                until_ms=event.value.until_ms,
                reason=event.why,
                signed_by=names,
            )
        )


def load_overrides(connection: Connection, now_ms: int) -> Mapping[int, Override]:
    """The override of each asset that has one in force at `now_ms`, by asset id."""
    newest: dict[int, Row[tuple[object, ...]]] = {}
    statement = select(VALUE_OVERRIDE).order_by(VALUE_OVERRIDE.c.position)
    for row in connection.execute(statement):
        newest[row.asset_id] = row
    return {key: _override(row) for key, row in newest.items() if row.until_ms > now_ms}


def _override(row: Row[tuple[object, ...]]) -> Override:
    found = row._mapping
    return Override(
        micros=found["micros"],
        reason=found["reason"],
        # The last day on which it still stands: the end itself is outside.
        until=_EPOCH + (found["until_ms"] - 1) // DAY_MS,
        signed_by=msgspec.json.decode(found["signed_by"], type=tuple[str, ...]),
        position=found["position"],
    )
