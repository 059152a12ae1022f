"""py-evm as a chain that mines each transaction into its own block, at the wall clock's time.

Everything here takes and returns bytes and integers; hexadecimal is the RPC module's business.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

from eth.abc import (
    BlockAPI,
    BlockHeaderAPI,
    ComputationAPI,
    LogAPI,
    ReceiptAPI,
    SignedTransactionAPI,
    VirtualMachineAPI,
)
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.constants import BLANK_ROOT_HASH, POST_MERGE_DIFFICULTY, POST_MERGE_NONCE
from eth.db.atomic import AtomicDB
from eth.exceptions import HeaderNotFound, Revert, TransactionNotFound
from eth.typing import AccountDetails, HeaderParams
from eth.vm.forks.prague import PragueVM
from eth.vm.spoof import SpoofTransaction
from eth_account import Account
from eth_typing import Address, BlockNumber, Hash32
from eth_utils.address import to_canonical_address
from eth_utils.exceptions import ValidationError

from assay_valuer.devchain.accounts import BALANCE_WEI, development_keys

CHAIN_ID: Final = 1337
"""One of the ids that the hub knows as a local development chain."""

GAS_LIMIT: Final = 30_000_000
_ESTIMATE_MARGIN: Final = (5, 4)


class Rejected(Exception):
    """The node does not take this request; the text is the one go-ethereum uses."""


class Reverted(Exception):
    """A call failed inside the EVM. `data` is what the contract returned."""

    def __init__(self, data: bytes) -> None:
        super().__init__("execution reverted")
        self.data = data


@dataclass(frozen=True, slots=True)
class Call:
    """An unsigned call or a transaction to be estimated. `to` is empty to deploy."""

    sender: Address
    to: Address
    data: bytes
    value: int
    gas: int


@dataclass(frozen=True, slots=True)
class Included:
    """A transaction, its receipt, and where they stand."""

    block: BlockAPI
    index: int
    transaction: SignedTransactionAPI
    receipt: ReceiptAPI
    gas_used: int
    first_log_index: int


class _Vm(PragueVM):
    """Prague, but blocks may share a second, as they do on rollups: the clock is never ahead."""

    @classmethod
    def validate_header(cls, header: BlockHeaderAPI, parent_header: BlockHeaderAPI) -> None:
        if header.timestamp < parent_header.timestamp:
            raise ValidationError("timestamp must not be before the parent's")
        later = max(header.timestamp, parent_header.timestamp + 1)
        super().validate_header(header.copy(timestamp=later), parent_header)


class _Chain(MiningChain):
    chain_id = CHAIN_ID
    vm_configuration = ConsensusApplier(NoProofConsensus).amend_vm_configuration(
        ((BlockNumber(0), _Vm),)
    )


class Evm:
    """The chain. Not thread-safe: the RPC server holds a lock around each request."""

    def __init__(self) -> None:
        self._ahead_s = 0
        account: AccountDetails = {"balance": BALANCE_WEI, "nonce": 0, "code": b"", "storage": {}}
        funded = {
            to_canonical_address(Account.from_key(key).address): account
            for key in development_keys()
        }
        genesis: dict[str, HeaderParams] = {
            "coinbase": Address(bytes(20)),
            "difficulty": POST_MERGE_DIFFICULTY,
            "extra_data": b"",
            "gas_limit": GAS_LIMIT,
            "mix_hash": Hash32(bytes(32)),
            "nonce": POST_MERGE_NONCE,
            "receipt_root": BLANK_ROOT_HASH,
            "timestamp": int(time.time()),
            "transaction_root": BLANK_ROOT_HASH,
        }
        # from_genesis is declared to return the base class of what it is called on.
        self._chain = cast("_Chain", _Chain.from_genesis(AtomicDB(), genesis, funded))

    # ------------------------------------------------------------ blocks

    def head(self) -> BlockHeaderAPI:
        """Header of the newest mined block."""
        return self._chain.get_canonical_head()

    def block(self, number: int) -> BlockAPI | None:
        """A mined block, or None beyond the head."""
        try:
            return self._chain.get_canonical_block_by_number(BlockNumber(number))
        except HeaderNotFound:
            return None

    def mine(self, transaction: SignedTransactionAPI | None = None) -> None:
        """Mines one block, empty or with the one transaction."""
        chain = self._chain
        chain.header = self._next_header(self.head())
        try:
            if transaction is not None:
                chain.apply_transaction(transaction)
            chain.mine_block()
        finally:
            chain.header = self._next_header(self.head())

    def increase_time(self, seconds: int) -> int:
        """Moves this chain's clock ahead of the wall clock; returns by how much in all."""
        self._ahead_s += seconds
        return self._ahead_s

    def _next_header(self, parent: BlockHeaderAPI) -> BlockHeaderAPI:
        now_s = int(time.time()) + self._ahead_s
        return self._chain.create_header_from_parent(
            parent, timestamp=max(now_s, parent.timestamp), gas_limit=parent.gas_limit
        )

    # ------------------------------------------------------------ state

    def balance(self, address: Address) -> int:
        """Wei at the head."""
        return self._pending().state.get_balance(address)

    def nonce(self, address: Address) -> int:
        """Transactions ever sent from the address; there is no pool, so none are pending."""
        return self._pending().state.get_nonce(address)

    def code(self, address: Address) -> bytes:
        """Contract code at the head, empty for a plain account."""
        return self._pending().state.get_code(address)

    def call(self, call: Call, at: BlockHeaderAPI | None = None) -> bytes:
        """Runs a call on top of block `at`, by default the head. Raises Reverted."""
        return self._execute(call, at).output

    def estimate_gas(self, call: Call) -> int:
        """Gas the call took, with a quarter on top. Raises Reverted."""
        computation = self._execute(call, None)
        numerator, denominator = _ESTIMATE_MARGIN
        spent = call.gas - computation.get_gas_remaining()
        return min(call.gas, spent * numerator // denominator)

    def _pending(self, at: BlockHeaderAPI | None = None) -> VirtualMachineAPI:
        header = self._next_header(at if at is not None else self.head())
        return self._chain.get_vm(header.copy(base_fee_per_gas=0))

    def _execute(self, call: Call, at: BlockHeaderAPI | None) -> ComputationAPI:
        vm = self._pending(at)
        unsigned = self._chain.create_unsigned_transaction(
            nonce=vm.state.get_nonce(call.sender),
            gas_price=0,
            gas=call.gas,
            to=call.to,
            value=call.value,
            data=call.data,
        )
        try:
            # A spoof stands in for a signed transaction by forwarding every attribute.
            spoof = cast("SignedTransactionAPI", SpoofTransaction(unsigned, from_=call.sender))
            computation = vm.state.apply_transaction(spoof)
        except ValidationError as error:
            raise Rejected(f"invalid call: {error}") from error
        if computation.is_error:
            raise Reverted(_revert_data(computation))
        return computation

    # ------------------------------------------------------------ transactions

    def send(self, raw: bytes) -> Hash32:
        """Takes a signed transaction and mines it at once, reverted or not."""
        try:
            transaction = self._chain.get_vm().get_transaction_builder().decode(raw)
            transaction.validate()
            sender = transaction.sender
        except Exception as error:  # the decoder lets rlp, eth-keys and its own errors through
            raise Rejected(f"transaction cannot be decoded: {error}") from error
        if self.included(transaction.hash) is not None:
            raise Rejected("already known")
        if transaction.chain_id != CHAIN_ID:
            raise Rejected(
                f"invalid chain id for signer: have {transaction.chain_id} want {CHAIN_ID}"
            )
        nonce = self.nonce(sender)
        if transaction.nonce < nonce:
            raise Rejected(f"nonce too low: next nonce {nonce}, tx nonce {transaction.nonce}")
        if transaction.nonce > nonce:
            raise Rejected(f"nonce too high: next nonce {nonce}, tx nonce {transaction.nonce}")
        cost = transaction.gas * transaction.max_fee_per_gas + transaction.value
        if self.balance(sender) < cost:
            raise Rejected("insufficient funds for gas * price + value")
        try:
            self.mine(transaction)
        except ValidationError as error:
            raise Rejected(str(error)) from error
        return transaction.hash

    def included(self, transaction_hash: Hash32) -> Included | None:
        """A mined transaction and its receipt, or None."""
        try:
            number, index = self._chain.get_canonical_transaction_index(transaction_hash)
        except TransactionNotFound:
            return None
        block = self._chain.get_canonical_block_by_number(number)
        receipts = block.get_receipts(self._chain.chaindb)
        before = receipts[index - 1].gas_used if index else 0
        return Included(
            block,
            index,
            block.transactions[index],
            receipts[index],
            receipts[index].gas_used - before,
            sum(len(r.logs) for r in receipts[:index]),
        )

    def logs(self, first: int, last: int) -> Iterator[tuple[Included, int, LogAPI]]:
        """Every log of the blocks from `first` to `last`, with its index in the block."""
        for number in range(first, last + 1):
            block = self.block(number)
            if block is None:
                return
            for transaction in block.transactions:
                included = self.included(transaction.hash)
                if included is None:
                    continue
                for i, log in enumerate(included.receipt.logs):
                    yield included, included.first_log_index + i, log


def _revert_data(computation: ComputationAPI) -> bytes:
    error = computation.error
    return bytes(error.args[0]) if isinstance(error, Revert) and error.args else b""
