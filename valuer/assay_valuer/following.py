"""From an entry of the ledger to what it changes in the fleet: one place, in the ledger's order."""

from __future__ import annotations

from collections.abc import Callable

from assay_core.evidence.bundle import Keys
from assay_valuer import proving
from assay_valuer.decisions import take_decision
from assay_valuer.events.record import RECORD, from_record
from assay_valuer.fleet import Fleet
from assay_valuer.ledger.read import (
    Followed,
    StoredEvidence,
    StoredFork,
    StoredRecord,
    StoredWindow,
)
from assay_valuer.sights import sights

KeysOf = Callable[[int, int], Keys | None]
"""The keys that sealed for a host (by its key) and incarnation."""


def follow(fleet: Fleet, entry: Followed, keys_of: KeysOf) -> None:
    """Folds one entry in. Entries come in the order of their positions.

    An entry of a host that the registry does not have changes nothing.
    """
    if isinstance(entry, StoredRecord):
        _follow_record(fleet, entry)
        return
    host = fleet.known.hosts.get(entry.host_key)
    if host is None:
        return
    if isinstance(entry, StoredWindow):
        fleet.take(sights(entry), host)
    elif isinstance(entry, StoredFork):
        at = (entry.received_ms, entry.position)
        proving.take_fork(fleet.known, entry.host_key, entry.sequence, at)
    elif isinstance(entry, StoredEvidence):
        keys = keys_of(entry.host_key, entry.incarnation)
        if keys is not None:
            proving.take_evidence(fleet.known, entry, keys)


def _follow_record(fleet: Fleet, entry: StoredRecord) -> None:
    at = (entry.received_ms, entry.position)
    if entry.kind in ("enrolment", "rotation"):
        proving.take_key(fleet.known, entry.payload, at)
    elif entry.kind == "ocsp":
        proving.take_ocsp(fleet.known, entry.payload, at)
    elif entry.kind == RECORD:
        take_decision(fleet.known, from_record(entry.payload))
