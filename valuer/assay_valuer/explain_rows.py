"""What a GPU's value rests on, read from the store: for `explain`, and for files that replay it."""

from __future__ import annotations

from collections import Counter
from typing import Final

from sqlalchemy import Connection, select

from assay_core import envelope_json
from assay_core.errors import AssayError
from assay_core.seal import PublicKey
from assay_valuer import valuation_store as store
from assay_valuer.explain_value import HashSaid, ValueExplained, explain_value
from assay_valuer.market.names import product_named
from assay_valuer.market_desk import PARAMETERS, SNAPSHOT
from assay_valuer.market_store import load_parameters, load_rejected
from assay_valuer.policy import ValuerPolicy
from assay_valuer.replay import CaseFile, KeyJson
from assay_valuer.results import StoredFinding
from assay_valuer.rows import GpuRow, LoanRow, loan_rows
from assay_valuer.store.schema import PRICE_SNAPSHOT
from assay_valuer.valuation.case import Case
from assay_valuer.valuation_store import KeptCase

REJECTED_MAX: Final = 20_000
"""Most rejected rows that are looked through for those of one product."""
_HAIRCUTS: Final = ("haircut.", "lendable.", "reserve.")
"""Findings of a position that say what is taken off on the way to what is lent."""


def value_explained(connection: Connection, gpu: GpuRow) -> ValueExplained | None:
    """A GPU's newest recorded value; None where it has none that rests on a case."""
    result = gpu.result
    kept = case_of(connection, gpu)
    if result is None or kept is None:
        return None
    record = kept.record
    own = {(one.code, one.detail) for one in record.valuation.findings}
    standing = [one for one in result.findings if (one.code, one.detail) not in own]
    loan = next((one for one in loan_rows(connection) if one.id == gpu.loan), None)
    return explain_value(
        record.case,
        record.valuation,
        gpu=result.gpu,
        loan=gpu.loan,
        counts=result.counts,
        rejected=rejected_of(connection, record.valuation.product),
        standing=tuple(standing),
        position=_haircuts(loan),
        hashes=_hashes(connection, gpu, kept),
    )


def case_of(connection: Connection, gpu: GpuRow) -> KeptCase | None:
    """The case of a GPU's newest recorded value."""
    sha256 = None if gpu.result is None else gpu.result.case_sha256
    return None if sha256 is None else store.kept_case(connection, sha256)


def case_file(
    connection: Connection, gpu: GpuRow, policy: ValuerPolicy, key: PublicKey
) -> CaseFile:
    """All that a GPU's newest value rests on; `key` signs the ledger. Raises AssayError where there
    is no such value.
    """
    name = gpu.serial or f"asset-{gpu.id}"
    kept = case_of(connection, gpu)
    if kept is None:
        raise AssayError(f"{name} has no value that rests on a case; see `assay-valuer gpu show`")
    return file_of(connection, kept, policy, key, gpu=name)


def file_of(
    connection: Connection,
    kept: KeptCase,
    policy: ValuerPolicy,
    key: PublicKey,
    *,
    gpu: str | None = None,
) -> CaseFile:
    """All that a kept case rests on; `gpu`: whose value was asked for."""
    case = kept.record.case
    fit = case.parameters_sha256
    return CaseFile(
        gpu=gpu,
        sha256=kept.record.sha256,
        case=case,
        valuation=kept.record.valuation,
        position=kept.position,
        entry=envelope_json.to_json(kept.envelope),
        ledger_key=KeyJson(algorithm=key.algorithm, data=envelope_json.encode(key.data)),
        policy=policy if policy.sha256 == case.policy_sha256 else None,
        prices=_prices(connection, case),
        parameters=None if fit is None else load_parameters(connection, fit),
    )


def rejected_of(connection: Connection, product: str | None) -> dict[str, int]:
    """How many of the newest rejected rows are of a product, by reason, the most frequent first."""
    if product is None:
        return {}
    reasons: Counter[str] = Counter()
    for one in load_rejected(connection, limit=REJECTED_MAX):
        cells = one.cells
        named = product_named(cells.get("accelerator", ""), cells.get("variant", ""))
        if one.reason is not None and named is not None and str(named) == product:
            reasons[one.reason] += 1
    return dict(reasons.most_common())


def _haircuts(loan: LoanRow | None) -> tuple[StoredFinding, ...]:
    position = None if loan is None else loan.position
    if position is None:
        return ()
    return tuple(one for one in position.findings if one.code.startswith(_HAIRCUTS))


def _prices(connection: Connection, case: Case) -> str | None:
    where = PRICE_SNAPSHOT.c.sha256 == case.prices_sha256
    return connection.execute(select(PRICE_SNAPSHOT.c.rows).where(where)).scalar()


def _hashes(connection: Connection, gpu: GpuRow, kept: KeptCase) -> tuple[HashSaid, ...]:
    case = kept.record.case
    fit = case.parameters_sha256
    fitted = None if fit is None else load_parameters(connection, fit)
    named = [
        ("policy", case.policy_sha256, "policy"),
        ("price table", case.prices_sha256, "prices"),
        ("fit", fit, PARAMETERS),
        ("snapshot", None if fitted is None else fitted.snapshot_sha256, SNAPSHOT),
    ]
    found = [
        HashSaid(what="case", sha256=kept.record.sha256, position=kept.position),
        *(
            HashSaid(what=what, sha256=sha256, position=store.recorded_at(connection, kind, sha256))
            for what, sha256, kind in named
            if sha256 is not None
        ),
    ]
    line = store.line_record(connection, gpu.id)
    if line is not None:
        found.append(HashSaid(what="this GPU's newest line", sha256=line[1], position=line[0]))
    found += [
        HashSaid(what=f"appraisal by {one.appraiser}", sha256=one.document_sha256, position=None)
        for one in case.appraisals
    ]
    if case.subject.contract is not None:
        sha256 = case.subject.contract.document_sha256
        found.append(HashSaid(what="contract", sha256=sha256, position=None))
    return tuple(found)
