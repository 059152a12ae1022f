"""What the API changes: a loan's file, and payments; by the commands' own doors, in one transaction each.

Who replaces a loan's file says which version of it: of two who read the same one, the second is told.
A payment is named by its caller, and by that name stands in the loan's file: however often it is sent,
the debt changes once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from sqlalchemy import Connection, select

from assay_core.errors import FileError
from assay_core.instants import MINUTE_MS, parse_instant
from assay_core.seal import Signer
from assay_valuer.api.bodies import strict_json
from assay_valuer.api.problems import Code, Problem
from assay_valuer.api.views import DebtView, sha256_of
from assay_valuer.credit import loan as loan_file
from assay_valuer.credit.loan import LoanFile, LoanStatus, Payment
from assay_valuer.credit.loan_reading import loan_of
from assay_valuer.credit.schedule import debt_at
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.registry import import_loan
from assay_valuer.store.schema import LOAN

RECORD: Final = "api_write"
AHEAD_MAX_MS: Final = MINUTE_MS
"""A payment's time may be ahead of ours by so much: two clocks are never one."""
_BODY: Final = "the body"


class PaymentBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A payment that was made: when (RFC 3339), and how much in token units."""

    at: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    amount: int


class PaymentView(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a payment. `new`: it is in the file since just now, and not since before."""

    loan: str
    reference: str
    at: str
    amount: int
    new: bool
    sha256: str
    """Of the loan's file as it is now."""
    debt: DebtView


class LoanStored(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a loan's file."""

    loan: str
    sha256: str
    feed_id: str
    pledged: int
    expected: int
    """Of these, GPUs that were not seen yet."""
    released: int
    """GPUs that the file names and two parties released: they are not pledged again."""
    debt: DebtView


@dataclass(frozen=True, slots=True)
class Caller:
    """Who writes: a token by its name and id, into this key's ledger, now."""

    name: str
    token_id: str
    signer: Signer
    now_ms: int


@dataclass(frozen=True, slots=True)
class Condition:
    """What must be so of the file that is there. One of both is given.

    `matches`: hashes of versions, of which it is one; `absent`: that there is none.
    """

    matches: tuple[str, ...] = ()
    absent: bool = False


def read_body(body: bytes, loan_id: str) -> LoanFile:
    """A loan's file as JSON. Raises Problem, naming the field."""
    tree = strict_json(body)
    try:
        loan = loan_of(tree, _BODY)
    except FileError as error:
        raise Problem(Code.REFUSED, str(error).removeprefix(f"{_BODY}: ")) from error
    if loan.id != loan_id:
        raise Problem(Code.REFUSED, f"id: {loan.id}, and the address is of {loan_id}")
    return loan


def put_loan(
    connection: Connection, loan: LoanFile, condition: Condition, caller: Caller
) -> tuple[LoanStored, bool]:
    """Replaces a loan's file, or registers a loan; and whether it is new. Raises Problem."""
    held = _held(connection, loan.id)
    _check_condition(held, condition)
    terms = loan_file.to_json(loan)
    try:
        done = import_loan(connection, loan, _BODY, caller.signer, caller.now_ms)
    except FileError as error:
        raise Problem(Code.CONFLICT, str(error).removeprefix(f"{_BODY}: ")) from error
    digest = sha256_of(terms)
    _tell(connection, loan.id, "loan", digest, caller)
    stored = LoanStored(
        loan=loan.id,
        sha256=digest,
        feed_id=f"0x{done.feed_id.hex()}",
        pledged=done.pledged,
        expected=done.expected,
        released=done.released,
        debt=_debt(loan, caller.now_ms),
    )
    return stored, held is None


def post_payment(
    connection: Connection, loan_id: str, reference: str, body: PaymentBody, caller: Caller
) -> PaymentView:
    """Appends a payment to a loan's file, unless it is there. Raises Problem."""
    terms = _held(connection, loan_id)
    if terms is None:
        raise Problem(Code.NOT_FOUND, f"no loan {loan_id} is registered")
    loan = loan_file.from_json(terms)
    before = next((one for one in loan.payments if one.reference == reference), None)
    if before is not None:
        if (before.at, before.amount) != (body.at, body.amount):
            detail = (
                f"payment {reference} is there, of {before.amount} at {before.at}: not the same"
            )
            raise Problem(Code.CONFLICT, detail)
        return _paid(loan, before, sha256_of(terms), caller, new=False)
    _check_payment(loan, body, caller.now_ms)
    payment = Payment(at=body.at, amount=body.amount, reference=reference)
    changed = msgspec.structs.replace(loan, payments=(*loan.payments, payment))
    import_loan(connection, changed, loan_id, caller.signer, caller.now_ms)
    digest = sha256_of(loan_file.to_json(changed))
    _tell(connection, loan_id, "payment", digest, caller)
    return _paid(changed, payment, digest, caller, new=True)


def _check_payment(loan: LoanFile, body: PaymentBody, now_ms: int) -> None:
    """What the loan's file asks of a payment, and that it was made. Raises Problem."""
    try:
        at_ms = parse_instant(body.at)
    except FileError as error:
        raise Problem(Code.REFUSED, f"at: {error}") from error
    if at_ms > now_ms + AHEAD_MAX_MS:
        raise Problem(Code.REFUSED, f"at: {body.at} is yet to come")
    if body.amount <= 0:
        raise Problem(Code.REFUSED, "amount: must be positive, in the token's own units")
    if loan.status is not LoanStatus.ACTIVE:
        raise Problem(Code.CONFLICT, f"loan {loan.id} is {loan.status}: it takes no payments")
    last = loan.payments[-1].at if loan.payments else loan.originated_at
    if at_ms < parse_instant(last):
        detail = (
            f"at: {body.at} is before {last}, the origination or the last payment: PUT the file"
        )
        raise Problem(Code.CONFLICT, detail)
    same = [one for one in loan.payments if parse_instant(one.at) == at_ms]
    if any(one.amount == body.amount for one in same):
        detail = (
            f"a payment of {body.amount} at {body.at} is there under another name: where these are "
            "two, PUT the file"
        )
        raise Problem(Code.CONFLICT, detail)
    if len(loan.payments) >= loan_file.PAYMENTS_MAX:
        raise Problem(Code.CONFLICT, f"the loan has {loan_file.PAYMENTS_MAX} payments already")


def _check_condition(held: str | None, condition: Condition) -> None:
    if condition.absent == bool(condition.matches):
        detail = "if-match: the ETag of the file that is replaced; of a new loan, if-none-match: *"
        raise Problem(Code.UNCONDITIONAL, detail)
    if condition.absent and held is not None:
        raise Problem(Code.STALE, "the loan is registered: say with if-match what you replace")
    if condition.matches and (held is None or sha256_of(held) not in condition.matches):
        detail = (
            "the loan is not registered: if-none-match: * registers it"
            if held is None
            else f"the file is {sha256_of(held)} now: read it, and decide anew"
        )
        raise Problem(Code.STALE, detail)


def _held(connection: Connection, loan_id: str) -> str | None:
    return connection.execute(select(LOAN.c.terms).where(LOAN.c.id == loan_id)).scalar()


def _tell(connection: Connection, loan_id: str, what: str, digest: str, caller: Caller) -> None:
    """Beside the loan's own record: whose word it was."""
    record = to_json(
        {
            "loan": loan_id,
            "what": what,
            "sha256": digest,
            "token": caller.name,
            "token_id": caller.token_id,
            "at_ms": caller.now_ms,
        }
    )
    append_record(connection, RECORD, record, caller.signer, caller.now_ms)


def _paid(
    loan: LoanFile, payment: Payment, digest: str, caller: Caller, *, new: bool
) -> PaymentView:
    return PaymentView(
        loan=loan.id,
        reference=payment.reference or "",
        at=payment.at,
        amount=payment.amount,
        new=new,
        sha256=digest,
        debt=_debt(loan, caller.now_ms),
    )


def _debt(loan: LoanFile, now_ms: int) -> DebtView:
    return DebtView(at_ms=now_ms, owed_micros=debt_at(loan, now_ms).owed.micros)
