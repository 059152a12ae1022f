"""The CALIBER valuation hub as Python sees it: calls encoded, readings decoded, reverts named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import msgspec
from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak

from assay_core.errors import ServiceError
from assay_valuer.oracle.report import FIELDS, Domain, FeedKey, Flag, Report
from assay_valuer.oracle.rpc import CallReverted, ChainMalformed, JsonRpc, Tag
from assay_valuer.oracle.signer import Signature, compact

REPORT_TYPE: Final = "(" + ",".join(type_ for _name, type_ in FIELDS) + ")"
_READING_TYPES: Final = (
    "uint32",
    "uint8",
    "uint128",
    "uint128",
    "uint16",
    "uint16",
    "uint16",
    "uint8",
    "uint8",
    "uint40",
    "uint40",
    "uint40",
)


class HubError(ServiceError):
    """The contract at the configured address does not behave as our hub."""


class HubRefused(ServiceError):
    """The hub reverted. `name` is the contract's error, `arguments` its values in order."""

    def __init__(self, name: str, arguments: tuple[object, ...]) -> None:
        shown = ", ".join(
            f"0x{value.hex()}" if isinstance(value, bytes) else str(value) for value in arguments
        )
        super().__init__(f"the hub refused: {name}({shown})")
        self.name = name
        self.arguments = arguments


class _Input(msgspec.Struct, frozen=True):
    type: str


class _Entry(msgspec.Struct, frozen=True):
    type: str
    name: str = ""
    inputs: tuple[_Input, ...] = ()


class _Range(msgspec.Struct, frozen=True):
    start: int
    length: int


class Artefact(msgspec.Struct, frozen=True, rename="camel"):
    """ValuationHub.json, as contracts/compile.mjs writes it."""

    abi: tuple[_Entry, ...]
    bytecode: str
    deployed_bytecode: str
    immutable_ranges: tuple[_Range, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the hub keeps of a feed's newest report, amounts in units of 10^-decimals dollars."""

    round: int
    decimals: int
    olv_wad: int
    nolv_wad: int
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    assurance: int
    flags: Flag
    observed_at_s: int
    valid_until_s: int
    posted_at_s: int
    fresh: bool

    def shows(self, report: Report) -> bool:
        """Whether this is what the report said; the ripcord alone may have been added since."""
        return (
            self.round == report.round
            and self.olv_wad == report.olv.to_wad()
            and self.nolv_wad == report.nolv.to_wad()
            and self.ltv_gross_bps == report.ltv_gross_bps
            and self.ltv_net_bps == report.ltv_net_bps
            and self.coverage_bps == report.coverage_bps
            and self.assurance == report.assurance
            and self.flags | Flag.RIPCORD == report.flags | Flag.RIPCORD
            and self.observed_at_s == report.observed_at_s
            and self.valid_until_s == report.valid_until_s
        )


@dataclass(frozen=True, slots=True)
class HubConfig:
    """Whom the hub listens to now."""

    guardian: str
    version: int
    threshold: int
    signers: int
    paused: bool


class Hub:
    """One deployed hub, read through one endpoint."""

    def __init__(self, rpc: JsonRpc, domain: Domain) -> None:
        self.rpc: Final = rpc
        self.domain: Final = domain

    def check(self) -> None:
        """Refuses an endpoint of another chain, and an address that is not this very contract.

        Raises HubError, ChainError.
        """
        chain_id = self.rpc.chain_id()
        if chain_id != self.domain.chain_id:
            raise HubError(
                f"{self.rpc.host} is of chain {chain_id}, not of {self.domain.chain_id}: "
                "correct the endpoint or the chain id"
            )
        if not is_hub_code(self.rpc.code(self.domain.hub)):
            raise HubError(
                f"{self.domain.hub} on chain {chain_id} is not the valuation hub of this version: "
                "correct the address, or deploy a hub"
            )

    def config(self, at: Tag | int = "latest") -> HubConfig:
        """Guardian, signer set version, threshold, number of signers, whether paused."""
        types = ("address", "uint32", "uint8", "uint8", "bool")
        guardian, version, threshold, signers, paused = self._view("config()", b"", types, at)
        if not (
            isinstance(guardian, str)
            and isinstance(version, int)
            and isinstance(threshold, int)
            and isinstance(signers, int)
            and isinstance(paused, bool)
        ):
            raise ChainMalformed(f"{self.rpc.host}: unexpected types in the hub's config")
        return HubConfig(to_checksum_address(guardian), version, threshold, signers, paused)

    def admin(self) -> str:
        """Who registers feeds and rotates signers."""
        (address,) = self._view("admin()", b"", ("address",), "latest")
        return to_checksum_address(str(address))

    def signer_version(self, signer: str) -> int:
        """Signer set version under which the address may sign; 0 if it never could."""
        data = encode(["address"], [signer])
        return self._integer("signerVersion(address)", data, "uint32", "latest")

    def round_of(self, feed_id: bytes, at: Tag | int = "latest") -> int:
        """Newest round; 0 before the first. Raises HubRefused (UnknownFeed)."""
        return self._integer("roundOf(bytes32)", feed_id, "uint32", at)

    def is_registered(self, feed_id: bytes) -> bool:
        """Whether the admin has registered the feed."""
        return self._integer("decimalsOf(bytes32)", feed_id, "uint8", "latest") != 0

    def latest(self, feed_id: bytes, at: Tag | int = "latest") -> Reading:
        """The newest report as a reader sees it. Raises HubRefused (UnknownFeed, NoReport)."""
        values = self._view("latest(bytes32)", feed_id, (*_READING_TYPES, "bool"), at)
        numbers = [value for value in values if isinstance(value, int)]
        if len(numbers) != len(_READING_TYPES) + 1:
            raise ChainMalformed(f"{self.rpc.host}: unexpected types in a reading")
        round_, decimals, olv, nolv, gross, net, coverage, assurance, flags, *times = numbers
        observed, valid, posted, fresh = times
        return Reading(
            round=round_,
            decimals=decimals,
            olv_wad=olv,
            nolv_wad=nolv,
            ltv_gross_bps=gross,
            ltv_net_bps=net,
            coverage_bps=coverage,
            assurance=assurance,
            flags=Flag(flags),
            observed_at_s=observed,
            valid_until_s=valid,
            posted_at_s=posted,
            fresh=bool(fresh),
        )

    def digest(self, report: Report) -> bytes:
        """The digest as the contract computes it; equal to `report.digest(domain)`."""
        data = selector(f"digest({REPORT_TYPE})") + encode([REPORT_TYPE], [report.values()])
        return self._call(data, "latest")

    def _integer(self, signature: str, data: bytes, type_: str, at: Tag | int) -> int:
        (value,) = self._view(signature, data, (type_,), at)
        if not isinstance(value, int):
            raise ChainMalformed(f"{self.rpc.host}: {signature} is not a number")
        return value

    def _view(
        self, signature: str, data: bytes, types: Sequence[str], at: Tag | int
    ) -> tuple[object, ...]:
        output = self._call(selector(signature) + data, at)
        try:
            return tuple(decode(types, output))
        except DecodingError as error:
            raise HubError(
                f"{self.domain.hub} on chain {self.domain.chain_id} gives no answer to "
                f"{signature}: it is not a valuation hub"
            ) from error

    def _call(self, data: bytes, at: Tag | int) -> bytes:
        try:
            return self.rpc.call(self.domain.hub, data, at=at)
        except CallReverted as error:
            raise explain(error.data) from error


# -------------------------------------------------------------------- encoding


def submit_data(report: Report, signatures: Sequence[Signature]) -> bytes:
    """Calldata of `submit`; the signatures in ascending order of their signers."""
    packed = b"".join(compact(signature.data) for signature in signatures)
    return selector(f"submit({REPORT_TYPE},bytes)") + encode(
        [REPORT_TYPE, "bytes"], [report.values(), packed]
    )


def register_feed_data(feed: FeedKey, decimals: int) -> bytes:
    """Calldata of `registerFeed`."""
    token = to_checksum_address(feed.collateral_token)
    return selector("registerFeed(uint256,address,uint256,uint8)") + encode(
        ["uint256", "address", "uint256", "uint8"],
        [feed.chain_id, token, feed.token_id, decimals],
    )


def rotate_signers_data(signers: Sequence[str], threshold: int) -> bytes:
    """Calldata of `rotateSigners`."""
    return selector("rotateSigners(address[],uint8)") + encode(
        ["address[]", "uint8"], [ascending(signers), threshold]
    )


def pause_data() -> bytes:
    """Calldata of `pause`: the ripcord."""
    return selector("pause()")


def unpause_data() -> bytes:
    """Calldata of `unpause`."""
    return selector("unpause()")


def deployment_data(admin: str, guardian: str, signers: Sequence[str], threshold: int) -> bytes:
    """Code and constructor arguments of a new hub."""
    return bytes.fromhex(artefact().bytecode.removeprefix("0x")) + encode(
        ["address", "address", "address[]", "uint8"],
        [admin, guardian, ascending(signers), threshold],
    )


def ascending(addresses: Sequence[str]) -> list[str]:
    """Addresses in the order in which the hub wants them."""
    return sorted(addresses, key=lambda address: int(address, 16))


def selector(signature: str) -> bytes:
    """First four bytes of a function's or an error's hashed signature."""
    return keccak(text=signature)[:4]


# -------------------------------------------------------------------- the artefact


@cache
def artefact() -> Artefact:
    """ABI and bytecode of the hub, as compiled from contracts/src."""
    text = files("assay_valuer.oracle").joinpath("ValuationHub.json").read_bytes()
    return msgspec.json.decode(text, type=Artefact)


def is_hub_code(code: bytes) -> bool:
    """Whether deployed code is this hub's, whatever its constructor filled in."""
    ours = bytearray(bytes.fromhex(artefact().deployed_bytecode.removeprefix("0x")))
    theirs = bytearray(code)
    if len(ours) != len(theirs):
        return False
    for immutable in artefact().immutable_ranges:
        blank = bytes(immutable.length)
        theirs[immutable.start : immutable.start + immutable.length] = blank
    return ours == theirs


@cache
def _errors() -> dict[bytes, tuple[str, tuple[str, ...]]]:
    known: dict[bytes, tuple[str, tuple[str, ...]]] = {
        selector("Panic(uint256)"): ("Panic", ("uint256",))
    }
    for entry in artefact().abi:
        if entry.type == "error":
            types = tuple(one.type for one in entry.inputs)
            known[selector(f"{entry.name}({','.join(types)})")] = (entry.name, types)
    return known


def explain(data: bytes) -> HubRefused:
    """Revert data as the contract's named error; "Reverted" with the bytes if it is none of ours."""
    known = _errors().get(data[:4])
    if known is None:
        return HubRefused("Reverted", (data,))
    name, types = known
    try:
        return HubRefused(name, tuple(decode(types, data[4:])))
    except DecodingError:
        return HubRefused("Reverted", (data,))
