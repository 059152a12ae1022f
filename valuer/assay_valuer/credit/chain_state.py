"""What a loan's router says of it on the chain, held against the loan's own file. Pure.

`ILoanRouterV2.loanState` gives a status, a count of repayments, the time of origination and the balance
of principal with 18 decimals. It gives no deadline: that takes the whole terms, which a loan's file does
not hold. What the endpoints do not answer is unknown, and never a dispute.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from assay_core.instants import DAY_MS, format_instant
from assay_core.money import Usd
from assay_valuer.credit.loan import LoanFile, LoanStatus
from assay_valuer.credit.schedule import debt_at, router_balance_wad
from assay_valuer.findings import Finding

DIFFERS: Final = "chain.differs"
"""The code of the finding that makes a loan DISPUTED."""
AGE_MAX_MS: Final = DAY_MS
"""A reading older than this says so."""


class RouterStatus(enum.StrEnum):
    """As `ILoanRouterV2.LoanStatus`, in its order."""

    UNINITIALIZED = "uninitialized"
    ACTIVE = "active"
    REPAID = "repaid"
    BREACHED = "breached"
    LIQUIDATED = "liquidated"
    COLLATERAL_LIQUIDATED = "collateral_liquidated"


class ChainState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One reading, in which enough endpoints said the same of the same block."""

    router: str
    loan_terms_hash: str
    chain_id: int
    block_number: int
    block_ms: int
    status: RouterStatus
    repayment_count: int
    originated_ms: int
    balance_wad: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,78}$")]
    """Decimal text: wider than 64 bits."""
    endpoints: int
    """How many said so."""


class ChainView(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is known: the newest reading, and why there is no newer one. `asked_ms`: of the last try."""

    asked_ms: int
    state: ChainState | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the reading says of the file."""

    disputed: bool
    findings: tuple[Finding, ...]


_NOTHING: Final = Comparison(disputed=False, findings=())


def compare(loan: LoanFile, view: ChainView | None, now_ms: int) -> Comparison:
    """Whether file and chain say the same of the block that was read, to within rounding.

    A reading that differs stands until another one, or another file, does not: an endpoint that fails
    afterwards settles nothing. A reading of other terms than the file now names is none.
    """
    router = loan.router
    if router is None:
        return _NOTHING
    state = None if view is None else view.state
    if state is not None and (
        state.router.lower() != router.address.lower()
        or state.loan_terms_hash.lower() != router.loan_terms_hash.lower()
        or state.chain_id != loan.chain_id
    ):
        state = None
    findings = list(_unknown(view, state, now_ms))
    differs = () if state is None else tuple(_differences(loan, state))
    findings += differs
    if state is not None and not differs:
        detail = (
            f"The router has {_balance(state)} owing at block {_block(state)}, as the file has."
        )
        findings.append(Finding("chain.agrees", detail))
    return Comparison(bool(differs), tuple(findings))


def _unknown(view: ChainView | None, state: ChainState | None, now_ms: int) -> list[Finding]:
    if view is not None and view.error is not None:
        return [Finding("chain.unknown", f"The router cannot be read now: {view.error}")]
    if state is None:
        return [Finding("chain.unknown", "What the loan's router says has not been read.")]
    if now_ms - state.block_ms > AGE_MAX_MS:
        return [Finding("chain.unknown", f"The router was last read at block {_block(state)}.")]
    return []


def _differences(loan: LoanFile, state: ChainState) -> list[Finding]:
    if state.status.value != _expected(loan).value:
        detail = (
            f"The file says that the loan is {loan.status.value}, and the router at block "
            f"{_block(state)} that it is {state.status.value}."
        )
        return [Finding(DIFFERS, detail)]
    low, high = _balances_wad(loan, state.block_ms)
    balance_wad, rounding = int(state.balance_wad), rounding_wad(loan)
    if low - rounding <= balance_wad <= high + rounding:
        return []
    ours = Usd.from_wad_up(high if balance_wad > high else low)
    detail = (
        f"The file makes the balance {ours} at block {_block(state)}, and the router has "
        f"{_balance(state)}."
    )
    return [Finding(DIFFERS, detail)]


def _expected(loan: LoanFile) -> RouterStatus:
    return RouterStatus(loan.status.value)


def _balances_wad(loan: LoanFile, at_ms: int) -> tuple[int, int]:
    """The least and the most that the file can mean: interest to the instant of each payment, or of
    the whole period that it was due for, as the router has it. Who pays early pays the same.
    """
    if loan.status in (LoanStatus.REPAID, LoanStatus.COLLATERAL_LIQUIDATED):
        return 0, 0
    exact = debt_at(loan, at_ms).balance_wad
    routed = router_balance_wad(loan, at_ms)
    return min(exact, routed), max(exact, routed)


def rounding_wad(loan: LoanFile) -> int:
    """What rounding can come to: a token unit of each tranche, and one more, for each payment and one."""
    return (len(loan.payments) + 1) * (len(loan.tranches) + 1) * loan.scale


def _balance(state: ChainState) -> Usd:
    return Usd.from_wad_up(int(state.balance_wad))


def _block(state: ChainState) -> str:
    return f"{state.block_number} ({format_instant(state.block_ms)})"
