"""EIP-1559 transactions: fees within caps, signed through `DigestSigner`, never sent from here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from eth_account.typed_transactions.typed_transaction import TypedTransaction
from eth_utils.crypto import keccak
from hexbytes import HexBytes

from assay_core.errors import ServiceError
from assay_valuer.oracle.rpc import JsonRpc
from assay_valuer.oracle.signer import DigestSigner, sign_checked

GWEI: Final = 10**9
_BUMP_NUMERATOR: Final = 9  # 12.5 %: nodes refuse a replacement below 10 % on both fees
_BUMP_DENOMINATOR: Final = 8
_GAS_NUMERATOR: Final = 6
_GAS_DENOMINATOR: Final = 5
_FIRST_WRITES_GAS: Final = 2 * 17_100


class FeeAboveCap(ServiceError):
    """The network asks more than the operator allows: wait, or raise the cap."""


@dataclass(frozen=True, slots=True)
class Fees:
    """Per gas, in wei."""

    max_fee_wei: int
    priority_fee_wei: int

    def bumped(self) -> Fees:
        """The least that replaces a waiting transaction with these fees."""
        return Fees(
            -(-self.max_fee_wei * _BUMP_NUMERATOR // _BUMP_DENOMINATOR),
            -(-self.priority_fee_wei * _BUMP_NUMERATOR // _BUMP_DENOMINATOR),
        )

    def at_least(self, floor: Fees) -> Fees:
        """The higher of the two, fee by fee."""
        return Fees(
            max(self.max_fee_wei, floor.max_fee_wei),
            max(self.priority_fee_wei, floor.priority_fee_wei),
        )


def market_fees(rpc: JsonRpc, cap_wei: int) -> Fees:
    """What a transaction should offer now: twice the base fee and the suggested tip.

    Raises FeeAboveCap if even the present base fee and the tip are above the cap.
    """
    head = rpc.block("latest")
    base_fee_wei = 0 if head is None else head.base_fee_wei
    priority_fee_wei = rpc.priority_fee_wei()
    if base_fee_wei + priority_fee_wei > cap_wei:
        raise FeeAboveCap(
            f"{rpc.host} asks {(base_fee_wei + priority_fee_wei) / GWEI:.2f} gwei per gas, "
            f"above the cap of {cap_wei / GWEI:.2f}: wait, or raise the cap"
        )
    return Fees(min(2 * base_fee_wei + priority_fee_wei, cap_wei), priority_fee_wei)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsigned:
    """A transaction before it is signed. `to` None deploys."""

    chain_id: int
    nonce: int
    to: str | None
    data: bytes
    gas: int
    fees: Fees
    value_wei: int = 0


def sign(unsigned: Unsigned, signer: DigestSigner) -> bytes:
    """The signed transaction's bytes, ready to be kept and then sent. Raises SignerError."""
    fields: dict[str, object] = {
        "type": 2,
        "chainId": unsigned.chain_id,
        "nonce": unsigned.nonce,
        "to": unsigned.to if unsigned.to is not None else b"",
        "value": unsigned.value_wei,
        "data": unsigned.data,
        "gas": unsigned.gas,
        "maxFeePerGas": unsigned.fees.max_fee_wei,
        "maxPriorityFeePerGas": unsigned.fees.priority_fee_wei,
        "accessList": (),
    }
    digest = bytes(TypedTransaction.from_dict(fields).hash())
    signature = sign_checked(signer, digest).data
    signed = TypedTransaction.from_dict(
        fields
        | {
            "r": int.from_bytes(signature[:32], "big"),
            "s": int.from_bytes(signature[32:64], "big"),
            "v": signature[64] - 27,
        }
    )
    return bytes(signed.encode())


def hash_of(raw: bytes) -> bytes:
    """A transaction's hash: the same bytes always have the same one."""
    return keccak(raw)


def fees_of(raw: bytes) -> Fees:
    """The fees that signed bytes offer."""
    fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
    return Fees(int(fields["maxFeePerGas"]), int(fields["maxPriorityFeePerGas"]))


def nonce_of(raw: bytes) -> int:
    """The nonce that signed bytes spend."""
    return int(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["nonce"])


def gas_of(raw: bytes) -> int:
    """The gas limit of signed bytes."""
    return int(TypedTransaction.from_bytes(HexBytes(raw)).as_dict()["gas"])


def with_margin(gas: int) -> int:
    """A gas limit above an estimate: what is not used is not paid.

    A node estimates on top of what waits in its pool. If our own earlier round waits there, storage
    looked written to already, and writing it for the first time costs 17,100 a word more.
    """
    return gas * _GAS_NUMERATOR // _GAS_DENOMINATOR + _FIRST_WRITES_GAS
