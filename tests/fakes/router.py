"""A loan router on a real chain, which says of a loan what a test tells it to."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from eth_abi.abi import encode

from assay_valuer.credit.loan import Router
from assay_valuer.oracle.deploy import transact
from assay_valuer.oracle.hub import Artefact, selector
from assay_valuer.oracle.loan_router import RouterReader
from assay_valuer.oracle.rpc import JsonRpc
from tests.fakes.chain import account

ARTEFACT = Path(__file__).with_name("LoanRouterFake.json")
TERMS = "0x" + "5a" * 32
STATUSES = ("uninitialized", "active", "repaid", "breached", "liquidated", "collateral_liquidated")
LENT_WAD = 100_000 * 10**18


def _pause() -> None:
    time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class FakeRouter:
    """Deployed on the chain behind `rpc`."""

    rpc: JsonRpc
    address: str

    @classmethod
    def deployed(cls, rpc: JsonRpc) -> FakeRouter:
        artefact = msgspec.json.decode(ARTEFACT.read_bytes(), type=Artefact)
        code = bytes.fromhex(artefact.bytecode.removeprefix("0x"))
        receipt = transact(rpc, account(3), to=None, data=code, pause=_pause)
        if receipt.contract is None:
            raise RuntimeError("no contract")
        return cls(rpc, receipt.contract)

    @property
    def named(self) -> Router:
        """As a loan's file names it."""
        return Router(address=self.address, loan_terms_hash=TERMS)

    def says(
        self,
        *,
        status: str = "active",
        count: int = 0,
        originated_s: int = 1_785_000_000,
        balance_wad: int = LENT_WAD,
    ) -> None:
        types = ("bytes32", "uint8", "uint16", "uint64", "uint256")
        terms = bytes.fromhex(TERMS[2:])
        told = (terms, STATUSES.index(status), count, originated_s, balance_wad)
        data = selector("set(bytes32,uint8,uint16,uint64,uint256)") + encode(types, told)
        transact(self.rpc, account(3), to=self.address, data=data, pause=_pause)

    def reader(self, others: Sequence[JsonRpc] = ()) -> RouterReader:
        """Of this chain, and of other endpoints beside it."""
        return RouterReader((self.rpc, *others), self.rpc.chain_id())
