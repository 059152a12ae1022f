"""USD.AI's loan router V2 as Python sees it: one read-only call, believed where endpoints agree.

The interface is `ILoanRouterV2.loanState(bytes32)`. It has a twin, `loanState(uint256)`, that takes the
id of a lender's position: the selector tells them apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from assay_core.errors import ServiceError
from assay_core.instants import SECOND_MS
from assay_valuer.credit.chain_state import ChainState, RouterStatus
from assay_valuer.credit.loan import Router
from assay_valuer.oracle.hub import selector
from assay_valuer.oracle.rpc import Block, CallReverted, ChainError, ChainMalformed, JsonRpc

LOAN_STATE: Final = "loanState(bytes32)"
_TYPES: Final = ("uint8", "uint16", "uint64", "uint256")
_STATE_BYTES: Final = 128


class RouterUnknown(ServiceError):
    """Nothing is known of the loan: endpoints fail, disagree, or are of another chain."""


@dataclass(frozen=True, slots=True)
class RouterReader:
    """Asks every endpoint about the same block; more than half of them must say the same."""

    endpoints: Sequence[JsonRpc]
    chain_id: int

    def read(self, router: Router) -> ChainState:
        """What the router says of the loan now. Raises RouterUnknown, with the reason."""
        needed = len(self.endpoints) // 2 + 1
        heads, problems = self._heads()
        if len(heads) < needed:
            raise RouterUnknown(_said(f"{len(heads)} of {needed} endpoints answer", problems))
        # The oldest of the newest blocks: every endpoint has it.
        number = min(head for _, head in heads)
        answers: Counter[tuple[Block, bytes]] = Counter()
        for rpc, _ in heads:
            try:
                answers[_ask(rpc, router, number)] += 1
            except ChainError as error:
                problems.append(str(error))
        for (block, answer), agree in answers.most_common(1):
            if agree >= needed:
                return _state(router, self.chain_id, block, answer, agree)
            problems.insert(0, f"{agree} of {needed} endpoints say the same of block {number}")
        raise RouterUnknown(_said(f"nothing is agreed on {router.address}", problems))

    def _heads(self) -> tuple[list[tuple[JsonRpc, int]], list[str]]:
        heads, problems = [], []
        for rpc in self.endpoints:
            try:
                chain_id = rpc.chain_id()
                if chain_id == self.chain_id:
                    heads.append((rpc, rpc.head_number()))
                else:
                    problems.append(f"{rpc.host} is of chain {chain_id}, not {self.chain_id}")
            except ChainError as error:
                problems.append(str(error))
        return heads, problems


def _ask(rpc: JsonRpc, router: Router, number: int) -> tuple[Block, bytes]:
    block = rpc.block(number)
    if block is None:
        raise ChainMalformed(f"{rpc.host}: has no block {number}, which it had")
    data = selector(LOAN_STATE) + bytes.fromhex(router.loan_terms_hash.removeprefix("0x"))
    try:
        answer = rpc.call(router.address, data, at=number)
    except CallReverted as error:
        raise ChainMalformed(f"{rpc.host}: {router.address} is no loan router V2") from error
    if len(answer) != _STATE_BYTES:
        raise ChainMalformed(f"{rpc.host}: {router.address} is no loan router V2")
    return block, answer


def _state(router: Router, chain_id: int, block: Block, answer: bytes, agree: int) -> ChainState:
    try:
        status, count, originated_s, balance_wad = decode(_TYPES, answer)
        found = tuple(RouterStatus)[status]
    except (DecodingError, IndexError) as error:
        raise RouterUnknown(f"{router.address} answers what no loan router V2 does") from error
    return ChainState(
        router=router.address,
        loan_terms_hash=router.loan_terms_hash,
        chain_id=chain_id,
        block_number=block.number,
        block_ms=block.timestamp_s * SECOND_MS,
        status=found,
        repayment_count=count,
        originated_ms=originated_s * SECOND_MS,
        balance_wad=str(balance_wad),
        endpoints=agree,
    )


def _said(what: str, problems: Sequence[str]) -> str:
    return "; ".join([what, *problems])
