"""What the API can do: each operation once, from which both its routes and its description are made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from assay_valuer.api import views
from assay_valuer.api.bodies import parse, read_body
from assay_valuer.api.changes import (
    Condition,
    LoanStored,
    PaymentBody,
    PaymentView,
    post_payment,
    put_loan,
)
from assay_valuer.api.changes import read_body as read_loan_body
from assay_valuer.api.desk import Desk, answer, etag
from assay_valuer.api.inputs import (
    case_of,
    hash_of,
    header,
    loan_id,
    one_of_header,
    page,
    serial_of,
)
from assay_valuer.api.problems import Code
from assay_valuer.api.tokens import Scope
from assay_valuer.credit.loan import LoanFile
from assay_valuer.replay import CaseFile

Handler = Callable[[Desk, Request], Awaitable[Response]]
_ALWAYS: Final = (Code.BAD_REQUEST, Code.TOO_MANY, Code.BROKEN, Code.UNAVAILABLE)
_WITH_TOKEN: Final = (Code.UNAUTHORISED, Code.FORBIDDEN)
_WITH_BODY: Final = (Code.BAD_JSON, Code.TOO_SLOW, Code.TOO_LARGE, Code.NOT_JSON, Code.REFUSED)


def _none() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked. `scope` None: of anybody, without a token.

    `returns`: the answer's type by status; None: described by itself. `query` and `headers`: what may
    be given, in words.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: Scope | None
    handler: Handler
    returns: Mapping[int, type | None]
    problems: tuple[Code, ...] = ()
    query: Mapping[str, str] = field(default_factory=_none)
    headers: Mapping[str, str] = field(default_factory=_none)
    body: type | None = None

    @property
    def all_problems(self) -> tuple[Code, ...]:
        """Every problem that it may answer with, by status."""
        found = {*_ALWAYS, *self.problems}
        found |= set(_WITH_TOKEN) if self.scope is not None else set()
        found |= set(_WITH_BODY) if self.body is not None else set()
        return tuple(sorted(found, key=lambda code: code.status))


async def _loans(desk: Desk, request: Request) -> Response:
    asked = page(request, text=True)
    found = await desk.read(
        lambda c: views.loans(c, after=asked.after, limit=asked.limit, now_ms=desk.now_ms())
    )
    return answer(found)


async def _loan(desk: Desk, request: Request) -> Response:
    one = loan_id(request)
    policy = desk.policy_sha256
    found = await desk.read(
        lambda c: views.loan(c, one, policy_sha256=policy, now_ms=desk.now_ms())
    )
    return answer(found, headers=etag(found.sha256))


async def _put_loan(desk: Desk, request: Request) -> Response:
    condition = Condition(
        matches=hash_of(request, "if-match"), absent=one_of_header(request, "if-none-match", "*")
    )
    body = await read_body(request, within_s=desk.body_within_s)
    one = loan_id(request)
    loan = await desk.work(lambda: read_loan_body(body, one))
    caller = desk.caller(request)
    stored, new = await desk.write(lambda c: put_loan(c, loan, condition, caller))
    return answer(stored, status=201 if new else 200, headers=etag(stored.sha256))


async def _post_payment(desk: Desk, request: Request) -> Response:
    reference = header(request, "idempotency-key", r"[A-Za-z0-9._-]{1,64}")
    sent = await read_body(request, within_s=desk.body_within_s, most=4_096)
    body = parse(sent, PaymentBody)
    one, caller = loan_id(request), desk.caller(request)
    paid = await desk.write(lambda c: post_payment(c, one, reference, body, caller))
    return answer(paid, status=201 if paid.new else 200, headers=etag(paid.sha256))


async def _history(desk: Desk, request: Request) -> Response:
    one, asked = loan_id(request), page(request, text=False)
    return answer(
        await desk.read(
            lambda c: views.steps(c, one, after=int(asked.after or -1), limit=asked.limit)
        )
    )


async def _gpus(desk: Desk, request: Request) -> Response:
    serial = serial_of(request)
    return answer(await desk.read(lambda c: views.gpus(c, serial, now_ms=desk.now_ms())))


async def _valuation(desk: Desk, request: Request) -> Response:
    case = case_of(request)
    found = await desk.read(lambda c: views.valuation(c, case, desk.policy, desk.ledger_key))
    return answer(found, headers=etag(found.sha256))


async def _market(desk: Desk, request: Request) -> Response:
    page(request, none=True)
    return answer(await desk.read(views.market))


async def _health(desk: Desk, request: Request) -> Response:
    page(request, none=True)
    return answer(await desk.read(views.health))


_PAGE: Final = {"after": "go on beyond this", "limit": "at most so many, 1 to 1000 (100)"}
_KEY: Final = (
    "the payment's name among the loan's: up to 64 letters, digits, dots and dashes. The same again "
    "changes nothing"
)

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "GET", "/healthz", "health", "Whether the valuer's store answers.", None, _health,
        {200: views.Alive},
    ),
    Operation(
        "GET", "/v1/loans", "listLoans", "Every loan, a page at a time.", Scope.READ, _loans,
        {200: views.LoanList}, query=_PAGE,
    ),
    Operation(
        "GET", "/v1/loans/{loan}", "getLoan",
        "One loan: its file, what is owed now, both positions with tranches and findings.",
        Scope.READ, _loan, {200: views.LoanView}, (Code.NOT_FOUND,),
    ),
    Operation(
        "PUT", "/v1/loans/{loan}", "putLoan",
        "Register a loan, or replace its file: what `assay-valuer loan import` does.",
        Scope.WRITE, _put_loan, {200: LoanStored, 201: LoanStored},
        (Code.CONFLICT, Code.STALE, Code.UNCONDITIONAL),
        headers={
            "if-match": "the ETag of the file that is replaced",
            "if-none-match": "*, where the loan is new",
        },
        body=LoanFile,
    ),
    Operation(
        "POST", "/v1/loans/{loan}/payments", "postPayment",
        "Append a payment to a loan's file; sent twice under one key, it is there once.",
        Scope.WRITE, _post_payment, {200: PaymentView, 201: PaymentView},
        (Code.NOT_FOUND, Code.CONFLICT), headers={"idempotency-key": _KEY}, body=PaymentBody,
    ),
    Operation(
        "GET", "/v1/loans/{loan}/history", "getHistory",
        "Every change of the loan's covenant state, with what it rested on.",
        Scope.READ, _history, {200: views.HistoryView}, (Code.NOT_FOUND,), query=_PAGE,
    ),
    Operation(
        "GET", "/v1/gpus/{serial}", "getGpus",
        "Every GPU of a serial number: its newest value, and what people signed of it.",
        Scope.READ, _gpus, {200: views.GpuList}, (Code.NOT_FOUND,),
    ),
    Operation(
        "GET", "/v1/valuations/{case}", "getValuation",
        "All that a recorded value rests on: a file that `assay-valuer replay --file` works out again.",
        Scope.READ, _valuation, {200: CaseFile}, (Code.NOT_FOUND,),
    ),
    Operation(
        "GET", "/v1/market", "getMarket",
        "Price feeds, the newest snapshot, the levels fitted to it, rejected rows by reason.",
        Scope.READ, _market, {200: views.MarketView},
    ),
)  # fmt: skip
