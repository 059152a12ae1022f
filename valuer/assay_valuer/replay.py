"""Working a value out again: from a case alone, to the micro-dollar, on any machine.

A case file is everything that one value rests on: the case, what it came to, and the ledger's entry that
says both, as the valuer's key signed it; beside it, so that nothing has to be asked for, the policy,
the price table and the fit that the case is taken from. Integers alone are worked with, so no
processor and no build of any library changes a digit. No store, no network, no configuration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final, Literal

import msgspec

from assay_core import envelope_json
from assay_core.envelope_json import EnvelopeJson
from assay_core.errors import FileError
from assay_core.printable import printable
from assay_core.seal import ALGORITHMS, ENTRY_TYPE, Envelope, PublicKey
from assay_valuer.cases import case_policy, valued
from assay_valuer.policy import ValuerPolicy
from assay_valuer.results import StoredValuation, stored_valuation
from assay_valuer.valuation.case import Case
from assay_valuer.valuation.parameters import Parameters
from assay_valuer.valuation.value import METHOD
from assay_valuer.valuation_record import CaseRecord

FORMAT: Final = "assay-case/1"
FILE_BYTES_MAX: Final = 32 * 1024 * 1024
"""A case file holds a whole fit; nothing that is larger is one."""
_SAID_MAX: Final = 5
"""Most differences that are spelled out."""


class KeyJson(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A public key: its algorithm, and its bytes in base64."""

    algorithm: str
    data: str


class CaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One value with all that it rests on. What is None was not in use."""

    format: Literal["assay-case/1"] = FORMAT
    gpu: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    """Whose value was asked for when the file was written; others may share the case."""
    sha256: str
    """The case's name."""
    case: Case
    valuation: StoredValuation
    position: int
    """Of the ledger's entry."""
    entry: EnvelopeJson
    """As it stands in the ledger: DSSE over a record of the case and of what it came to."""
    ledger_key: KeyJson
    policy: ValuerPolicy | None = None
    prices: str | None = None
    """The price table's canonical JSON."""
    parameters: Parameters | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was checked; `holds` is None where it cannot be checked by what there is."""

    name: str
    holds: bool | None
    detail: str


def load(text: bytes, name: str) -> CaseFile:
    """The case file of this content. Raises FileError."""
    if len(text) > FILE_BYTES_MAX:
        raise FileError(f"{name}: larger than {FILE_BYTES_MAX} bytes: no case file")
    try:
        return msgspec.json.decode(text, type=CaseFile)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
        raise FileError(
            f"{name}: not a case file, or changed since `assay-valuer explain --export` wrote it: "
            f"{error}"
        ) from error


def check_file(file: CaseFile) -> Iterator[Step]:
    """Every step by which a case file is checked; each is made, whatever the others came to."""
    yield _named("case", file.case.sha256, file.sha256)
    yield from check_valuation(file.case, file.valuation)
    yield from _check_entry(file)
    yield from _check_sources(file)


def check_valuation(case: Case, recorded: StoredValuation) -> Iterator[Step]:
    """Whether the case comes to what was recorded of it."""
    if case.method != METHOD:
        made = printable(case.method, 64)
        detail = f"made by {made}; this version's method is {METHOD}: replay it with the other's"
        yield Step("method", False, detail)
        return
    again = stored_valuation(valued(case))
    if again == recorded:
        amount = recorded.values
        words = "no value" if amount is None else f"FMV {amount.fmv.mid_micros} micro-dollars"
        yield Step("value", True, f"{words}, and every other number, as recorded")
        return
    found = list(differences(msgspec.to_builtins(recorded), msgspec.to_builtins(again)))
    more = f"; {len(found) - _SAID_MAX} more" if len(found) > _SAID_MAX else ""
    yield Step("value", False, "; ".join(found[:_SAID_MAX]) + more)


def differences(recorded: object, again: object, at: str = "", *, within: int = 0) -> Iterator[str]:
    """Where two trees of JSON differ, numbers by more than `within`: a path, what was recorded and what
    it is now.
    """
    if isinstance(recorded, dict) and isinstance(again, dict):
        for name in sorted({*recorded, *again}):
            path = f"{at}.{name}" if at else str(name)
            yield from differences(recorded.get(name), again.get(name), path, within=within)
    elif isinstance(recorded, list | tuple) and isinstance(again, list | tuple):
        if len(recorded) != len(again):
            yield f"{at}: {len(recorded)} recorded, {len(again)} now"
            return
        for number, (one, other) in enumerate(zip(recorded, again, strict=True)):
            yield from differences(one, other, f"{at}.{number}", within=within)
    elif recorded != again and not _near(recorded, again, within):
        yield f"{at}: {recorded!r} recorded, {again!r} now"


def _near(recorded: object, again: object, within: int) -> bool:
    if isinstance(recorded, int) and isinstance(again, int):
        return abs(recorded - again) <= within
    return False


def check_entry(envelope: Envelope, key: PublicKey) -> bool:
    """Whether the ledger's key, and nobody else, signed an entry."""
    return envelope.payload_type == ENTRY_TYPE and any(
        key.verifies(one.sig, envelope.payload_type, envelope.payload)
        for one in envelope.signatures
    )


def _check_entry(file: CaseFile) -> Iterator[Step]:
    envelope = envelope_json.from_json(file.entry, "entry")
    record = _record(envelope.payload)
    if record is None:
        yield Step("entry", False, "the ledger's entry in the file is no record of a case")
        return
    same = (record.sha256, record.case, record.valuation) == (
        file.sha256,
        file.case,
        file.valuation,
    )
    detail = f"ledger position {file.position} has this very case, and what it came to"
    yield Step("entry", same, detail if same else "the ledger's entry is of something else")
    key = public_key(file.ledger_key)
    if key is None:
        yield Step("signature", False, "the file's ledger_key is no key")
        return
    signed = check_entry(envelope, key)
    words = f"by the key {key.fingerprint}: make sure that it is the valuer's, from someone else"
    yield Step("signature", signed, words if signed else f"not {words.partition(':')[0]}")
    yield Step("inclusion", None, "the file has no proof that the entry stands in a public log")


def _record(payload: bytes) -> CaseRecord | None:
    try:
        return msgspec.json.decode(payload, type=CaseRecord)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _check_sources(file: CaseFile) -> Iterator[Step]:
    """Whether what stands beside the case is what the case was taken from."""
    case = file.case
    if file.policy is not None:
        yield _named("policy", file.policy.sha256, case.policy_sha256)
        if case_policy(file.policy) != case.policy:
            yield Step("policy", False, "the case's part of it is not the policy's")
    if file.prices is not None:
        digest = hashlib.sha256(file.prices.encode()).hexdigest()
        yield _named("prices", digest, case.prices_sha256)
    if file.parameters is not None:
        yield _named("parameters", file.parameters.sha256, case.parameters_sha256)
        product = case.product
        if product is not None and file.parameters.of(product.product) != product:
            yield Step("parameters", False, "the case's product is not the fit's")


def _named(what: str, found: str, said: str | None) -> Step:
    if found == said:
        return Step(what, True, f"SHA-256 {found}")
    return Step(what, False, f"its SHA-256 is {found}, and not {said}: it was changed")


def public_key(key: KeyJson) -> PublicKey | None:
    """The key in a file; None where it is none."""
    try:
        data = envelope_json.decode(key.data, "ledger_key")
    except FileError:
        return None
    return PublicKey(key.algorithm, data) if key.algorithm in ALGORITHMS else None
