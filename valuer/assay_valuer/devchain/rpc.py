"""Ethereum's JSON-RPC methods over the EVM: the ones a wallet, an indexer and our sender call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from eth._utils.address import generate_contract_address
from eth.abc import BlockAPI, BlockHeaderAPI, LogAPI
from eth_typing import Address, Hash32
from eth_utils.address import to_checksum_address

from assay_valuer.devchain.evm import (
    CHAIN_ID,
    GAS_LIMIT,
    Call,
    Evm,
    Included,
    Rejected,
    Reverted,
)

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
REJECTED: Final = -32000
REVERTED: Final = 3

_PRIORITY_FEE_WEI: Final = 10**9
_LOG_BLOCKS_MAX: Final = 10_000
_NEWEST: Final = frozenset({"latest", "pending", "safe", "finalized"})


@dataclass(frozen=True, slots=True)
class RpcFault(Exception):
    """A JSON-RPC error object."""

    code: int
    message: str
    data: str | None = None


def answer(evm: Evm, method: str, params: Sequence[Json]) -> Json:
    """Runs one request. Raises RpcFault."""
    run = _METHODS.get(method)
    if run is None:
        raise RpcFault(METHOD_NOT_FOUND, f"the method {method} does not exist/is not available")
    try:
        return run(evm, params)
    except Reverted as error:
        raise RpcFault(REVERTED, "execution reverted", "0x" + error.data.hex()) from error
    except Rejected as error:
        raise RpcFault(REJECTED, str(error)) from error
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise RpcFault(INVALID_PARAMS, f"invalid params for {method}: {error}") from error


# -------------------------------------------------------------------- reading parameters


def _text(value: Json) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return value


def _bytes(value: Json, length: int | None = None) -> bytes:
    text = _text(value)
    if not text.startswith("0x"):
        raise ValueError("hex string without 0x prefix")
    data = bytes.fromhex(text[2:])
    if length is not None and len(data) != length:
        raise ValueError(f"expected {length} bytes, got {len(data)}")
    return data


def _address(value: Json) -> Address:
    return Address(_bytes(value, 20))


def _quantity(value: Json) -> int:
    return value if isinstance(value, int) else int(_text(value), 16)


def _header(evm: Evm, params: Sequence[Json], index: int) -> BlockHeaderAPI:
    """The block a request is about; by default the newest."""
    tag = params[index] if len(params) > index else "latest"
    if tag is None or tag in _NEWEST:
        return evm.head()
    block = evm.block(0 if tag == "earliest" else _quantity(tag))
    if block is None:
        raise RpcFault(REJECTED, "header not found")
    return block.header


def _call(params: Sequence[Json]) -> Call:
    request = params[0]
    if not isinstance(request, Mapping):
        raise TypeError("expected a call object")
    sender, to = request.get("from"), request.get("to")
    data = request.get("data", request.get("input", "0x"))
    return Call(
        sender=_address(sender) if sender is not None else Address(bytes(20)),
        to=_address(to) if to is not None else Address(b""),
        data=_bytes(data),
        value=_quantity(request.get("value", 0)),
        gas=min(_quantity(request.get("gas", GAS_LIMIT)), GAS_LIMIT),
    )


# -------------------------------------------------------------------- writing results


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _block(block: BlockAPI, *, full: bool) -> Json:
    header = block.header
    transactions: list[Json] = [
        _transaction_fields(block, i) if full else _hex(transaction.hash)
        for i, transaction in enumerate(block.transactions)
    ]
    return {
        "number": hex(block.number),
        "hash": _hex(block.hash),
        "parentHash": _hex(header.parent_hash),
        "timestamp": hex(header.timestamp),
        "baseFeePerGas": hex(header.base_fee_per_gas or 0),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "miner": to_checksum_address(header.coinbase),
        "stateRoot": _hex(header.state_root),
        "transactionsRoot": _hex(header.transaction_root),
        "receiptsRoot": _hex(header.receipt_root),
        "logsBloom": hex(header.bloom),
        "transactions": transactions,
    }


def _transaction_fields(block: BlockAPI, index: int) -> Json:
    transaction = block.transactions[index]
    return {
        "hash": _hex(transaction.hash),
        "blockHash": _hex(block.hash),
        "blockNumber": hex(block.number),
        "transactionIndex": hex(index),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "nonce": hex(transaction.nonce),
        "gas": hex(transaction.gas),
        "maxFeePerGas": hex(transaction.max_fee_per_gas),
        "maxPriorityFeePerGas": hex(transaction.max_priority_fee_per_gas),
        "value": hex(transaction.value),
        "input": _hex(transaction.data),
        "chainId": hex(CHAIN_ID),
    }


def _receipt(included: Included) -> Json:
    block, transaction = included.block, included.transaction
    base_fee = block.header.base_fee_per_gas or 0
    tip = min(transaction.max_priority_fee_per_gas, transaction.max_fee_per_gas - base_fee)
    created = generate_contract_address(transaction.sender, transaction.nonce)
    return {
        "transactionHash": _hex(transaction.hash),
        "transactionIndex": hex(included.index),
        "blockHash": _hex(block.hash),
        "blockNumber": hex(block.number),
        "from": to_checksum_address(transaction.sender),
        "to": to_checksum_address(transaction.to) if transaction.to else None,
        "contractAddress": None if transaction.to else to_checksum_address(created),
        "status": "0x1" if included.receipt.state_root == b"\x01" else "0x0",
        "gasUsed": hex(included.gas_used),
        "cumulativeGasUsed": hex(included.receipt.gas_used),
        "effectiveGasPrice": hex(base_fee + tip),
        "logs": [
            _log(included, included.first_log_index + i, log)
            for i, log in enumerate(included.receipt.logs)
        ],
        "logsBloom": hex(included.receipt.bloom),
    }


def _log(included: Included, index: int, log: LogAPI) -> Json:
    return {
        "address": to_checksum_address(log.address),
        "topics": [_hex(topic.to_bytes(32, "big")) for topic in log.topics],
        "data": _hex(log.data),
        "blockHash": _hex(included.block.hash),
        "blockNumber": hex(included.block.number),
        "transactionHash": _hex(included.transaction.hash),
        "transactionIndex": hex(included.index),
        "logIndex": hex(index),
        "removed": False,
    }


# -------------------------------------------------------------------- methods


def _get_block_by_number(evm: Evm, params: Sequence[Json]) -> Json:
    try:
        block = evm.block(_header(evm, params, 0).block_number)
    except RpcFault:
        return None
    return None if block is None else _block(block, full=len(params) > 1 and params[1] is True)


def _get_transaction(evm: Evm, params: Sequence[Json]) -> Json:
    included = evm.included(Hash32(_bytes(params[0], 32)))
    return None if included is None else _transaction_fields(included.block, included.index)


def _get_receipt(evm: Evm, params: Sequence[Json]) -> Json:
    included = evm.included(Hash32(_bytes(params[0], 32)))
    return None if included is None else _receipt(included)


def _get_logs(evm: Evm, params: Sequence[Json]) -> Json:
    query = params[0]
    if not isinstance(query, Mapping):
        raise TypeError("expected a filter object")
    first = _header(evm, [query.get("fromBlock")], 0).block_number
    last = _header(evm, [query.get("toBlock")], 0).block_number
    if last - first >= _LOG_BLOCKS_MAX:
        raise ValueError(f"more than {_LOG_BLOCKS_MAX} blocks")
    return [
        _log(included, index, log)
        for included, index, log in evm.logs(first, last)
        if _matches(log, query.get("address"), query.get("topics"))
    ]


def _matches(log: LogAPI, address: Json, topics: Json) -> bool:
    if address is not None:
        wanted = [address] if isinstance(address, str) else address
        if not isinstance(wanted, Sequence) or log.address not in [_address(a) for a in wanted]:
            return False
    if topics is None:
        return True
    if not isinstance(topics, Sequence) or len(topics) > len(log.topics):
        return False
    for wanted_topic, topic in zip(topics, log.topics, strict=False):
        if wanted_topic is None:
            continue
        either = [wanted_topic] if isinstance(wanted_topic, str) else wanted_topic
        if not isinstance(either, Sequence):
            raise TypeError("expected a topic or a list of them")
        if topic.to_bytes(32, "big") not in [_bytes(t, 32) for t in either]:
            return False
    return True


def _mine(evm: Evm, _params: Sequence[Json]) -> Json:
    evm.mine()
    return "0x0"


def _gas_price(evm: Evm, _params: Sequence[Json]) -> Json:
    return hex((evm.head().base_fee_per_gas or 0) + _PRIORITY_FEE_WEI)


_METHODS: Final[Mapping[str, Callable[[Evm, Sequence[Json]], Json]]] = {
    "web3_clientVersion": lambda _evm, _params: "assay-devchain/py-evm",
    "net_version": lambda _evm, _params: str(CHAIN_ID),
    "eth_chainId": lambda _evm, _params: hex(CHAIN_ID),
    "eth_syncing": lambda _evm, _params: False,
    "eth_blockNumber": lambda evm, _params: hex(evm.head().block_number),
    "eth_gasPrice": _gas_price,
    "eth_maxPriorityFeePerGas": lambda _evm, _params: hex(_PRIORITY_FEE_WEI),
    "eth_getBlockByNumber": _get_block_by_number,
    "eth_getBalance": lambda evm, params: hex(evm.balance(_address(params[0]))),
    "eth_getTransactionCount": lambda evm, params: hex(evm.nonce(_address(params[0]))),
    "eth_getCode": lambda evm, params: _hex(evm.code(_address(params[0]))),
    "eth_call": lambda evm, params: _hex(evm.call(_call(params), _header(evm, params, 1))),
    "eth_estimateGas": lambda evm, params: hex(evm.estimate_gas(_call(params))),
    "eth_sendRawTransaction": lambda evm, params: _hex(evm.send(_bytes(params[0]))),
    "eth_getTransactionByHash": _get_transaction,
    "eth_getTransactionReceipt": _get_receipt,
    "eth_getLogs": _get_logs,
    "evm_mine": _mine,
    "evm_increaseTime": lambda evm, params: evm.increase_time(_quantity(params[0])),
}
