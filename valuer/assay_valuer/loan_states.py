"""Reading loans' states from their routers, look by look: what was read, and a record of each change.

Only loans whose file names a router are read, and only on the chain that `oracle.rpc_urls` are of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection, insert, select, update

from assay_core.errors import AssayError, ServiceError
from assay_core.seal import Signer
from assay_valuer import book_store
from assay_valuer.config import OracleConfig
from assay_valuer.credit.chain_state import ChainState, ChainView
from assay_valuer.credit.loan import LoanFile, Router
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.service import ServiceContext
from assay_valuer.store.database import Database
from assay_valuer.store.schema import LOAN_STATE

RECORD: Final = "loan_state"
ERROR_MAX: Final = 1_024
"""Most that is kept of why a router could not be read."""

_log: Final = structlog.get_logger(__name__)


class ReadsRouters(Protocol):
    """Who asks the chain. It may block."""

    def read(self, router: Router) -> ChainState:
        """What a router says of a loan. Raises ServiceError where that is unknown."""
        ...


def load_views(connection: Connection) -> dict[str, ChainView]:
    """What is known of each loan that was ever asked about."""
    rows = connection.execute(select(LOAN_STATE.c.loan_id, LOAN_STATE.c.view))
    return {row.loan_id: msgspec.json.decode(row.view, type=ChainView) for row in rows}


def keep(
    connection: Connection, loan_id: str, view: ChainView, signer: Signer, now_ms: int
) -> bool:
    """Stores what is known now; whether a record says so, because the router says something new."""
    where = LOAN_STATE.c.loan_id == loan_id
    told = connection.execute(select(LOAN_STATE.c.view).where(where)).scalar()
    before = None if told is None else msgspec.json.decode(told, type=ChainView)
    if view.state is None and before is not None:
        view = msgspec.structs.replace(view, state=before.state)
    text = msgspec.json.encode(view).decode()
    if told is None:
        connection.execute(insert(LOAN_STATE).values(loan_id=loan_id, asked_ms=now_ms, view=text))
    else:
        connection.execute(update(LOAN_STATE).where(where).values(asked_ms=now_ms, view=text))
    if view.state is None or _said(view) == _said(before):
        return False
    payload = to_json({"loan": loan_id, "at_ms": now_ms, "state": msgspec.to_builtins(view.state)})
    append_record(connection, RECORD, payload, signer, now_ms)
    return True


def _said(view: ChainView | None) -> tuple[object, ...] | None:
    """What the router says, whatever the block."""
    state = None if view is None else view.state
    if state is None:
        return None
    return (
        state.router.lower(),
        state.loan_terms_hash.lower(),
        state.chain_id,
        state.status,
        state.repayment_count,
        state.originated_ms,
        state.balance_wad,
    )


@dataclass(slots=True)
class Reading:
    """Reads every loan that names a router. It blocks: for a thread of its own."""

    database: Database
    reader: ReadsRouters
    chain_id: int
    signer: Signer
    reads: Counter

    def look(self, now_ms: int) -> Mapping[str, ChainView]:
        """Reads them all once; returns what was found. Raises ServiceError for the store's faults."""
        found: dict[str, ChainView] = {}
        for loan in self.database.read(book_store.load_loans):
            file = loan.file
            if file.router is not None:
                found[file.id] = view = self._ask(file, file.router, now_ms)
                self._keep(file.id, view, now_ms)
        return found

    def _ask(self, file: LoanFile, router: Router, now_ms: int) -> ChainView:
        if file.chain_id != self.chain_id:
            why = (
                f"the loan is on chain {file.chain_id}, and oracle.rpc_urls are of {self.chain_id}"
            )
            return self._failed(file.id, why, now_ms)
        try:
            state = self.reader.read(router)
        except ServiceError as error:
            return self._failed(file.id, str(error), now_ms)
        self.reads.labels("read").inc()
        return ChainView(asked_ms=now_ms, state=state)

    def _failed(self, loan_id: str, why: str, now_ms: int) -> ChainView:
        self.reads.labels("unknown").inc()
        _log.warning("loan_state_unknown", loan=loan_id, why=why)
        return ChainView(asked_ms=now_ms, error=why[:ERROR_MAX])

    def _keep(self, loan_id: str, view: ChainView, now_ms: int) -> None:
        told = self.database.write(lambda c: keep(c, loan_id, view, self.signer, now_ms))
        if told and view.state is not None:
            state = view.state
            _log.info(
                "loan_state",
                loan=loan_id,
                status=state.status.value,
                balance_wad=state.balance_wad,
                block=state.block_number,
            )


async def read_loan_states(context: ServiceContext) -> None:
    """Reads until it is cancelled, where the configuration names endpoints. A task of the service."""
    state = context.state
    config = state.config.oracle
    if not config.rpc_urls or config.loan_state_s == 0:
        return
    reads = reads_counter(context.registry)
    reader = await asyncio.to_thread(_open, config)
    reading = Reading(state.database, reader, config.chain_id, state.ledger_key, reads)
    while True:
        try:
            await asyncio.to_thread(reading.look, context.now_ms())
        except ServiceError as error:
            _log.warning("loan_states_not_kept", error=str(error))
        await asyncio.sleep(config.loan_state_s)


def reads_counter(registry: CollectorRegistry) -> Counter:
    """How often routers were read, and how often what they say stayed unknown."""
    return Counter(
        "assay_loan_state_reads",
        "Times that a loan's router was asked on the chain, by what came of it.",
        ("result",),
        registry=registry,
    )


def _open(config: OracleConfig) -> ReadsRouters:
    """A reader of the configured endpoints. Raises AssayError."""
    try:
        from assay_valuer.oracle.loan_router import RouterReader  # noqa: PLC0415 - extra `oracle`
        from assay_valuer.oracle.rpc import JsonRpc  # noqa: PLC0415 - the same
    except ModuleNotFoundError as error:
        raise AssayError(
            f"oracle.rpc_urls need the extra `oracle` ({error.name} is not installed): "
            "in a clone of this project, pip install '.[valuer,oracle]', or name none"
        ) from error
    return RouterReader(tuple(JsonRpc(url) for url in config.rpc_urls), config.chain_id)
