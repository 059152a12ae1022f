"""Ethereum's JSON-RPC over HTTP: bounded in time and size, every failure named by whose it is.

Blocking, and safe to share between threads. Quantities are integers, data is bytes, addresses are
checksummed strings. An endpoint's URL may hold a key to a paid service: errors name its host only.
"""

from __future__ import annotations

import ipaddress
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec

from assay_core.errors import ServiceError
from assay_core.printable import printable

RESPONSE_BYTES_MAX: Final = 8 * 1024 * 1024
ANSWER_S: Final = 60.0
"""Longest that one answer may take from its first byte to its last, however steadily it drips."""
MESSAGE_MAX: Final = 300
"""Most that is kept of a node's own words."""
REVERT_BYTES_MAX: Final = 1_024
"""Most that is kept of what a contract returned when it said no."""
_REVERTED: Final = 3
_QUANTITY: Final = re.compile(r"0x[0-9a-fA-F]{1,64}")
_COUNT_MAX: Final = 2**63 - 1
"""Largest count of anything on a chain (nonces, blocks, seconds, gas): exact wherever it goes."""
_UNREADABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError)

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
        self.code = code
        self.message = printable(message, MESSAGE_MAX)
        super().__init__(f"{host}: {self.message} (code {code})")


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
        answer_s: float = ANSWER_S,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ChainError("a chain endpoint is an http:// or https:// URL")
        self.host: Final = f"chain endpoint {parts.hostname}"
        # A proxy named in the environment is for the world outside, not for this machine.
        outside = not _is_loopback(parts.hostname)
        self._url = url
        self._response_bytes_max = response_bytes_max
        self._answer_s = answer_s
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
        return self._quantity("eth_blockNumber", convert=_count)

    def block(self, at: Tag | int) -> Block | None:
        """A block's header, or None where the chain has no such block yet."""
        reply = self._ask_maybe("eth_getBlockByNumber", [_block_param(at), False], _BlockReply)
        if reply is None:
            return None
        return self._read(
            lambda: Block(
                number=_count(reply.number),
                hash=_bytes(reply.hash),
                timestamp_s=_count(reply.timestamp),
                base_fee_wei=_integer(reply.base_fee_per_gas),
            )
        )

    def priority_fee_wei(self) -> int:
        """The node's suggestion for a tip per gas."""
        return self._quantity("eth_maxPriorityFeePerGas")

    # ------------------------------------------------------------ accounts

    def nonce(self, address: str, at: Tag = "latest") -> int:
        """Number of transactions sent from the address as of a block."""
        return self._quantity("eth_getTransactionCount", [address, at], convert=_count)

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
        return self._quantity("eth_estimateGas", [_call(to, data, sender)], convert=_count)

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
                block_number=_count(reply.block_number),
                block_hash=_bytes(reply.block_hash),
                succeeded=_integer(reply.status) == 1,
                gas_used=_count(reply.gas_used),
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

    def _quantity(
        self,
        method: str,
        params: Sequence[Param] = (),
        convert: Callable[[str], int] | None = None,
    ) -> int:
        text = self._ask(method, params, str)
        return self._read(lambda: (convert or _integer)(text))

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
        except _UNREADABLE as error:
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
        except _UNREADABLE as error:
            raise ChainMalformed(f"{self.host}: {method}: {error}") from error
        if reply.error is None:
            return bytes(reply.result) or b"null"
        data = _revert_data(reply.error)
        if data is not None:
            raise CallReverted(data)
        raise ChainRejected(self.host, reply.error.code, reply.error.message)

    def _post(self, method: str, body: bytes) -> bytes:
        received = bytearray()
        # Nothing is unpacked: a few packed bytes can hold more than this machine's memory.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        try:
            with self._client.stream("POST", self._url, content=body, headers=headers) as response:
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise ChainMalformed(f"{self.host}: {method}: the answer came compressed")
                until_s = time.monotonic() + self._answer_s
                for chunk in response.iter_raw():
                    received += chunk
                    if len(received) > self._response_bytes_max:
                        raise ChainMalformed(
                            f"{self.host}: {method}: answer above {self._response_bytes_max} bytes"
                        )
                    if time.monotonic() > until_s:
                        raise ChainUnreachable(f"{self.host}: {method}: no end of the answer")
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
        except _UNREADABLE:
            data = None
    if data is not None and data.startswith("0x"):
        try:
            return bytes.fromhex(data[2 : 2 + 2 * REVERT_BYTES_MAX])
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


def _integer(text: str) -> int:
    if _QUANTITY.fullmatch(text) is None:
        raise ValueError("a quantity that is not 0x and at most 64 hexadecimal digits")
    return int(text, 16)


def _count(text: str) -> int:
    number = _integer(text)
    if number > _COUNT_MAX:
        raise ValueError(f"a count beyond {_COUNT_MAX}")
    return number


def _bytes(text: str) -> bytes:
    if not text.startswith("0x"):
        raise ValueError("data without 0x")
    return bytes.fromhex(text[2:])
