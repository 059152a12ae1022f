"""Reading a loan's file: every rule between its fields, each refusal with the line and the field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import date
from typing import Final, TypeAlias

import msgspec

from assay_core.errors import FileError
from assay_core.files import Path, line_of, parse
from assay_core.instants import DAY_MS, parse_instant
from assay_core.money import Usd
from assay_valuer.credit.loan import RATE_MAX, Contract, LoanFile
from assay_valuer.credit.written_schedule import schedule_problems
from assay_valuer.market.labels import seller

MICROS_PER_HOUR_MAX: Final = 10**9
"""A GPU-hour for more than $1,000 is a price of something else."""
RESERVE_MICROS_MAX: Final = 10**15
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()

_Problem: TypeAlias = tuple[Path, str]


def read_loan(text: str, name: str) -> LoanFile:
    """The loan in a YAML or JSON file's text. Raises FileError with line and field."""
    loan = parse(text, LoanFile, name)
    for rule in _RULES:
        for path, message in rule(loan):
            field = ".".join(str(part) for part in path)
            raise FileError(f"{name}:{line_of(text, path)}: {field}: {message}")
    return loan


def loan_of(tree: object, name: str) -> LoanFile:
    """The loan in JSON that was read already, held to the same rules. Raises FileError with the field."""
    try:
        loan = msgspec.convert(tree, LoanFile, strict=True)
    except msgspec.ValidationError as error:
        raise FileError(f"{name}: {error}") from error
    for rule in _RULES:
        for path, message in rule(loan):
            raise FileError(f"{name}: {'.'.join(str(part) for part in path)}: {message}")
    return loan


def _token(loan: LoanFile) -> Iterable[_Problem]:
    path: Path = ("collateral_token_ids",)
    if len(loan.collateral_token_ids) != 1:
        yield path, "exactly one token is taken: a feed values one token"
    elif not 0 <= loan.collateral_token_ids[0] < 2**256:
        yield path, "not a token id"


def _tranches(loan: LoanFile) -> Iterable[_Problem]:
    for index, tranche in enumerate(loan.tranches):
        if tranche.amount <= 0:
            yield ("tranches", index, "amount"), "must be positive, in the token's own units"
        if not 0 < tranche.rate <= RATE_MAX:
            yield (
                ("tranches", index, "rate"),
                "must be per second, with 18 decimals, above zero",
            )


def _payments(loan: LoanFile) -> Iterable[_Problem]:
    last_ms, problem = _instant(loan.originated_at)
    if problem is not None:
        yield ("originated_at",), problem
    named: set[str] = set()
    for index, payment in enumerate(loan.payments):
        if payment.reference is not None:
            if payment.reference in named:
                yield ("payments", index, "reference"), f"{payment.reference} is another payment's"
            named.add(payment.reference)
        at_ms, problem = _instant(payment.at)
        if problem is not None:
            yield ("payments", index, "at"), problem
        if at_ms < last_ms:
            yield ("payments", index, "at"), "before the origination or the payment before it"
        if payment.amount <= 0:
            yield ("payments", index, "amount"), "must be positive, in the token's own units"
        last_ms = at_ms


def _pledge(loan: LoanFile) -> Iterable[_Problem]:
    if loan.site is not None and loan.host is not None:
        yield ("host",), "a site is named already: name one of them"
    seen: set[tuple[str, str]] = set()
    for index, gpu in enumerate(loan.pledge):
        if gpu.site is not None and gpu.host is not None:
            yield ("pledge", index, "host"), "a site is named already: name one of them"
        key = (gpu.serial, gpu.board_part_number)
        if key in seen:
            yield ("pledge", index, "serial"), f"{gpu.serial} is pledged twice"
        seen.add(key)
        if gpu.warranty_until is not None and _day(gpu.warranty_until) is None:
            yield ("pledge", index, "warranty_until"), f"{gpu.warranty_until} is no day"


def _sellers(loan: LoanFile) -> Iterable[_Problem]:
    for index, name in enumerate(loan.sellers):
        if seller(name) == _NOBODY:
            yield ("sellers", index), f"{name!r} is nobody's name: it has no letter or digit"


def _contracts(loan: LoanFile) -> Iterable[_Problem]:
    pledged = {gpu.serial for gpu in loan.pledge}
    under: dict[str, int] = {}
    for index, contract in enumerate(loan.contracts):
        problem = _contract(contract, loan)
        if problem is not None:
            field, message = problem
            yield ("contracts", index, field), message
        serials = contract.gpus or tuple(sorted(pledged))
        for place, serial in enumerate(serials):
            path: Path = ("contracts", index, "gpus", place) if contract.gpus else _whole(index)
            if serial not in pledged:
                yield path, f"{serial} is not pledged to this loan"
            if serial in under:
                yield path, f"{serial} earns under contract {under[serial]} already"
            under[serial] = index


def _whole(index: int) -> Path:
    return ("contracts", index)


def _contract(contract: Contract, loan: LoanFile) -> tuple[str, str] | None:
    price, problem = _dollars(contract.usd_per_gpu_hour)
    if problem is not None:
        return "usd_per_gpu_hour", problem
    if not 0 < price <= MICROS_PER_HOUR_MAX:
        return "usd_per_gpu_hour", f"{contract.usd_per_gpu_hour} is no price of a GPU-hour"
    until = _day(contract.until)
    if until is None:
        return "until", f"{contract.until} is no day"
    if until.toordinal() <= _EPOCH_DAY + loan.originated_ms // DAY_MS:
        return "until", "over before the loan began"
    return None


def _reserves(loan: LoanFile) -> Iterable[_Problem]:
    for index, reserve in enumerate(loan.reserves):
        micros, problem = _dollars(reserve.usd)
        if problem is None and not 0 < micros <= RESERVE_MICROS_MAX:
            problem = f"{reserve.usd} is not an amount above zero that a loan could know"
        if problem is not None:
            yield ("reserves", index, "usd"), problem


def _schedule(loan: LoanFile) -> Iterable[_Problem]:
    for index, one in enumerate(loan.schedule):
        if _day(one.due) is None:
            yield ("schedule", index, "due"), f"{one.due} is no day"
    yield from schedule_problems(loan)


def _dollars(text: str) -> tuple[int, str | None]:
    try:
        return Usd.parse(text).micros, None
    except FileError as error:
        return 0, str(error)


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _instant(text: str) -> tuple[int, str | None]:
    try:
        return parse_instant(text), None
    except FileError as error:
        return 0, str(error)


_NOBODY: Final = seller("")
_RULES: Final[tuple[Callable[[LoanFile], Iterable[_Problem]], ...]] = (
    _token,
    _tranches,
    _payments,
    _pledge,
    _sellers,
    _contracts,
    _reserves,
    _schedule,
)
