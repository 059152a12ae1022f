"""Ethereum's JSON-RPC over HTTP: bounded in time and size, every failure named by whose it is.

Blocking, and safe to share between threads. Quantities are integers, data is bytes, addresses are
checksummed strings. An endpoint's URL may hold a key to a paid service: errors name its host only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from assay_core.errors import ServiceError

RESPONSE_BYTES_MAX: Final = 8 * 1024 * 1024
_REVERTED: Final = 3

_T = TypeVar("_T")
Param = bool | int | str | Sequence["Param"] | Mapping[str, "Param"]
Tag = Literal["latest", "pending", "safe", "finalized"]


class ChainError(ServiceError):
    """The chain could not be used. Never the host's fault, never the loan's."""


class ChainUnreachable(ChainError):
    """No answer, or not one in time: the outcome of the request is unknown."""


class ChainMalformed(ChainError):
    """The endpoint answered something that is not JSON-RPC: not a node, or a broken one."""


class ChainRejected(ChainError):
    """The node understood and said no; `message` is its reason."""

    def __init__(self, host: str, code: int, message: str) -> None:
        super().__init__(f"{host}: {message} (code {code})")
        self.code = code
        self.message = message


class CallReverted(ChainError):
    """The contract said no; `data` is what it returned. `oracle.hub.explain` names it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"the contract reverted with 0x{data.hex()}")
        self.data = data


@dataclass(frozen=True, slots=True)
class Block:
    """What is used of a block header."""

    number: int
    hash: bytes
    timestamp_s: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """What is used of a transaction's receipt."""

    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    contract: str | None


class _Fault(msgspec.Struct, frozen=True):
    code: int = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw()


class _Reply(msgspec.Struct, frozen=True):
    result: msgspec.Raw = msgspec.Raw()
    error: _Fault | None = None


class _BlockReply(msgspec.Struct, frozen=True, rename="camel"):
    number: str
    hash: str
    timestamp: str
    base_fee_per_gas: str = "0x0"


class _ReceiptReply(msgspec.Struct, frozen=True, rename="camel"):
    block_number: str
    block_hash: str
    status: str
    gas_used: str
    contract_address: str | None = None


class _TransactionReply(msgspec.Struct, frozen=True):
    hash: str


class JsonRpc:
    """One endpoint of one chain."""

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 10.0,
        response_bytes_max: int = RESPONSE_BYTES_MAX,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ChainError("a chain endpoint is an http:// or https:// URL")
        self.host: Final = f"chain endpoint {parts.hostname}"
        # A proxy named in the environment is for the world outside, not for this machine.
        outside = not _is_loopback(parts.hostname)
        self._url = url
        self._response_bytes_max = response_bytes_max
        self._client = httpx.Client(
            timeout=timeout_s, follow_redirects=False, trust_env=outside, http2=False
        )

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def __repr__(self) -> str:
        return f"JsonRpc({self.host})"

    # ------------------------------------------------------------ the chain

    def chain_id(self) -> int:
        """EIP-155 chain id."""
        return self._quantity("eth_chainId")

    def head_number(self) -> int:
        """Number of the newest block."""
        return self._quantity("eth_blockNumber")

    def block(self, at: Tag | int) -> Block | None:
        """A block's header, or None where the chain has no such block yet."""
        reply = self._ask_maybe("eth_getBlockByNumber", [_block_param(at), False], _BlockReply)
        if reply is None:
            return None
        return self._read(
            lambda: Block(
                number=int(reply.number, 16),
                hash=_bytes(reply.hash),
                timestamp_s=int(reply.timestamp, 16),
                base_fee_wei=int(reply.base_fee_per_gas, 16),
            )
        )

    def priority_fee_wei(self) -> int:
        """The node's suggestion for a tip per gas."""
        return self._quantity("eth_maxPriorityFeePerGas")

    # ------------------------------------------------------------ accounts

    def nonce(self, address: str, at: Tag = "latest") -> int:
        """Number of transactions sent from the address as of a block."""
        return self._quantity("eth_getTransactionCount", [address, at])

    def balance_wei(self, address: str) -> int:
        """Wei held by the address."""
        return self._quantity("eth_getBalance", [address, "latest"])

    def code(self, address: str) -> bytes:
        """Code of the contract at the address; empty where there is none."""
        return self._data("eth_getCode", [address, "latest"])

    # ------------------------------------------------------------ contracts and transactions

    def call(
        self, to: str, data: bytes, *, sender: str | None = None, at: Tag | int = "latest"
    ) -> bytes:
        """Runs a read-only call. Raises CallReverted."""
        return self._data("eth_call", [_call(to, data, sender), _block_param(at)])

    def estimate_gas(self, to: str | None, data: bytes, *, sender: str) -> int:
        """Gas the transaction would take now. Raises CallReverted."""
        return self._quantity("eth_estimateGas", [_call(to, data, sender)])

    def send_raw(self, raw: bytes) -> bytes:
        """Hands over a signed transaction; returns its hash. Raises ChainRejected."""
        return self._data("eth_sendRawTransaction", [_hex(raw)])

    def receipt(self, transaction_hash: bytes) -> Receipt | None:
        """The receipt of a mined transaction, else None."""
        reply = self._ask_maybe(
            "eth_getTransactionReceipt", [_hex(transaction_hash)], _ReceiptReply
        )
        if reply is None:
            return None
        return self._read(
            lambda: Receipt(
                block_number=int(reply.block_number, 16),
                block_hash=_bytes(reply.block_hash),
                succeeded=int(reply.status, 16) == 1,
                gas_used=int(reply.gas_used, 16),
                contract=reply.contract_address,
            )
        )

    def knows(self, transaction_hash: bytes) -> bool:
        """Whether the node has the transaction, mined or waiting."""
        reply = self._ask_maybe(
            "eth_getTransactionByHash", [_hex(transaction_hash)], _TransactionReply
        )
        return reply is not None

    # ------------------------------------------------------------ the exchange

    def request(self, method: str, params: Sequence[Param] = ()) -> bytes:
        """Any method; returns the result as JSON. For what a development node adds to the rest."""
        return self._exchange(method, params)

    def _quantity(self, method: str, params: Sequence[Param] = ()) -> int:
        text = self._ask(method, params, str)
        return self._read(lambda: int(text, 16))

    def _data(self, method: str, params: Sequence[Param]) -> bytes:
        text = self._ask(method, params, str)
        return self._read(lambda: _bytes(text))

    def _ask_maybe(self, method: str, params: Sequence[Param], type_: type[_T]) -> _T | None:
        raw = self._exchange(method, params)
        return None if raw == b"null" else self._decode(method, raw, type_)

    def _ask(self, method: str, params: Sequence[Param], type_: type[_T]) -> _T:
        return self._decode(method, self._exchange(method, params), type_)

    def _decode(self, method: str, raw: bytes, type_: type[_T]) -> _T:
        try:
            return msgspec.json.decode(raw, type=type_)
        except msgspec.MsgspecError as error:
            raise ChainMalformed(f"{self.host}: {method}: {error}") from error

    def _read(self, convert: Callable[[], _T]) -> _T:
        try:
            return convert()
        except ValueError as error:
            raise ChainMalformed(f"{self.host}: {error}") from error

    def _exchange(self, method: str, params: Sequence[Param]) -> bytes:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        body = self._post(method, msgspec.json.encode(request))
        try:
            reply = msgspec.json.decode(body, type=_Reply)
        except msgspec.MsgspecError as error:
            raise ChainMalformed(f"{self.host}: {method}: {error}") from error
        if reply.error is None:
            return bytes(reply.result) or b"null"
        data = _revert_data(reply.error)
        if data is not None:
            raise CallReverted(data)
        raise ChainRejected(self.host, reply.error.code, reply.error.message)

    def _post(self, method: str, body: bytes) -> bytes:
        received = bytearray()
        headers = {"Content-Type": "application/json"}
        try:
            with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > self._response_bytes_max:
                        raise ChainMalformed(
                            f"{self.host}: {method}: answer above {self._response_bytes_max} bytes"
                        )
                status = response.status_code
        except httpx.HTTPError as error:
            # The text of an httpx error may repeat the URL, and the URL may hold a key.
            kind = type(error).__name__
            raise ChainUnreachable(f"{self.host}: {method}: no answer ({kind})") from None
        # Some nodes send a JSON-RPC error under 4xx; what is not JSON is told apart when decoded.
        if status >= 500 or (status >= 400 and not received.startswith(b"{")):
            raise ChainUnreachable(f"{self.host}: {method}: HTTP status {status}")
        return bytes(received)


def _is_loopback(hostname: str) -> bool:
    if hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return False


def _revert_data(fault: _Fault) -> bytes | None:
    """What the contract returned, where the error is a revert; nodes word and place it differently."""
    data: str | None = None
    if bytes(fault.data):
        try:
            data = msgspec.json.decode(fault.data, type=str)
        except msgspec.MsgspecError:
            data = None
    if data is not None and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2:])
        except ValueError:
            return None
    if fault.code == _REVERTED or "execution reverted" in fault.message.lower():
        return b""
    return None


def _call(to: str | None, data: bytes, sender: str | None) -> Mapping[str, Param]:
    fields: dict[str, Param] = {"data": _hex(data)}
    if to is not None:
        fields["to"] = to
    if sender is not None:
        fields["from"] = sender
    return fields


def _block_param(at: Tag | int) -> str:
    return hex(at) if isinstance(at, int) else at


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _bytes(text: str) -> bytes:
    if not text.startswith("0x"):
        raise ValueError("data without 0x")
    return bytes.fromhex(text[2:])
