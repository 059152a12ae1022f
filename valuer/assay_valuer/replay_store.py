"""Replaying what the ledger holds: a case by its name, or the values of one of its records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

import msgspec
from sqlalchemy import Connection, select

from assay_core.errors import AssayError
from assay_core.seal import PublicKey
from assay_valuer import valuation_store as store
from assay_valuer.ledger.read import entry
from assay_valuer.market_desk import own_fit, read_snapshot
from assay_valuer.market_store import StoredSnapshot, Summary, load_parameters
from assay_valuer.replay import Step, check_entry, check_valuation, differences
from assay_valuer.results import StoredLine, StoredValuation
from assay_valuer.store.database import Database
from assay_valuer.store.schema import MARKET_SNAPSHOT
from assay_valuer.valuation.case import Case
from assay_valuer.valuation_store import CASE, KeptCase

REFIT_E6: Final = 100
"""How far a number may lie off when it is fitted again: of a log, a hundredth of a percent."""


def by_name(connection: Connection, prefix: str, key: PublicKey) -> tuple[list[Step], list[Case]]:
    """The steps of replaying the one case that begins so. Raises AssayError where none or two do."""
    found = store.find_cases(connection, prefix)
    if not found:
        raise AssayError(f"no case begins with {prefix}; `assay-valuer explain` names a GPU's")
    if len(found) > 1:
        raise AssayError(f"several cases begin with {prefix}: give more of its digits")
    kept = _kept(connection, found[0])
    return list(_case(kept, key)), [kept.record.case]


def by_position(
    connection: Connection, position: int, gpu: str | None, key: PublicKey
) -> tuple[list[Step], list[Case]]:
    """The steps of replaying every value in a ledger entry, or one GPU's. Raises AssayError."""
    found = entry(connection, position)
    if found is not None and found.kind == CASE:
        record = store.read_record(found.body.envelope.payload, position)
        kept = KeptCase(position, found.body.envelope, record)
        return list(_case(kept, key)), [record.case]
    lines = store.lines_at(connection, position)
    if found is None or lines is None:
        raise AssayError(
            f"ledger position {position} has no values; `assay-valuer explain` says where"
        )
    named = {one: line for one, line in lines.items() if gpu in (None, line.gpu, f"asset-{one}")}
    if not named:
        raise AssayError(f"ledger position {position} has no value of this GPU")
    steps = [_signed(check_entry(found.body.envelope, key), position)]
    kept_by_name: dict[str, KeptCase] = {}
    for one, line in sorted(named.items()):
        name = line.case_sha256
        if name is None:
            steps.append(Step(f"line {one}", None, f"{line.gpu} has no case: no product is known"))
            continue
        if name not in kept_by_name:
            kept_by_name[name] = _kept(connection, name)
            steps += _case(kept_by_name[name], key)
        steps.append(_line(one, line, kept_by_name[name].record.valuation))
    return steps, [one.record.case for one in kept_by_name.values()]


def _kept(connection: Connection, sha256: str) -> KeptCase:
    kept = store.kept_case(connection, sha256)
    if kept is None:
        raise AssayError(f"the store has lost the case {sha256}: restore it from a backup")
    return kept


def _case(kept: KeptCase, key: PublicKey) -> Iterator[Step]:
    record = kept.record
    digest = record.case.sha256
    yield Step(
        "case", digest == record.sha256, f"SHA-256 {digest}, ledger position {kept.position}"
    )
    yield _signed(check_entry(kept.envelope, key), kept.position)
    yield from check_valuation(record.case, record.valuation)


def _signed(holds: bool, position: int) -> Step:
    words = "is signed by this valuer's key" if holds else "is not signed by this valuer's key"
    return Step("signature", holds, f"ledger position {position} {words}")


def _line(number: int, line: StoredLine, valuation: StoredValuation) -> Step:
    """Whether a line says what its case came to: findings stand in the case alone."""
    bare = [msgspec.structs.replace(one, findings=()) for one in valuation.indications]
    said = (line.product, line.values, line.lending_micros, list(line.indications))
    case = (valuation.product, valuation.values, valuation.lending_micros, bare)
    if said == case:
        return Step(f"line {number}", True, f"{line.gpu}: as its case has it")
    found = differences(msgspec.to_builtins(said), msgspec.to_builtins(case))
    return Step(f"line {number}", False, f"{line.gpu}: {'; '.join(found)}")


def refitted(database: Database, cases: Sequence[Case]) -> Iterator[Step]:
    """Whether fitting the market again comes to the parameters that the cases rest on.

    Statistics in floats may differ in the last digits from one machine to the next, and so does what
    is rounded from them: up to `REFIT_E6` of a log is the same. What rests on the parameters as they
    were kept is exact, whatever comes out here.
    """
    named = {one.parameters_sha256 for one in cases if one.parameters_sha256 is not None}
    if not named:
        yield Step("refit", None, "the value rests on no fit")
    for sha256 in sorted(named):
        yield _refit(database, sha256)


def _refit(database: Database, sha256: str) -> Step:
    parameters = database.read(lambda c: load_parameters(c, sha256))
    if parameters is None:
        return Step("refit", None, f"the store does not have the fit {sha256}")
    stored = database.read(lambda c: _snapshot(c, parameters.snapshot_sha256))
    if stored is None:
        return Step("refit", None, f"the store has no snapshot {parameters.snapshot_sha256}")
    # The same rows may have been judged again on a later day.
    day = msgspec.structs.replace(stored.summary, day=parameters.made_day)
    snapshot = read_snapshot(database, replace(stored, summary=day))
    if snapshot.sha256 != parameters.snapshot_sha256:
        words = f"its rows come to the snapshot {snapshot.sha256}: rows or names of sellers changed"
        return Step("refit", False, words)
    before = parameters.previous_sha256
    previous = None if before is None else database.read(lambda c: load_parameters(c, before))
    if before is not None and previous is None:
        return Step("refit", None, f"the store does not have the fit before, {before}")
    again = own_fit(snapshot, previous, parameters.made_day)
    apart = list(
        differences(msgspec.to_builtins(parameters), msgspec.to_builtins(again), within=REFIT_E6)
    )
    if apart:
        return Step("refit", False, "; ".join(apart[:5]))
    words = f"within {REFIT_E6} micro-nats of every number kept"
    return Step("refit", True, "to the last digit" if again == parameters else words)


def _snapshot(connection: Connection, sha256: str) -> StoredSnapshot | None:
    statement = select(MARKET_SNAPSHOT).where(MARKET_SNAPSHOT.c.sha256 == sha256)
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    summary = msgspec.json.decode(row.summary, type=Summary)
    return StoredSnapshot(row.sha256, row.made_ms, row.last_row, summary)
