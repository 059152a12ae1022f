"""What the oracle publishes for a feed, and the 32 bytes that its signers sign (EIP-712).

A `Report` that exists would pass the hub's own checks of content: the same rules are applied here,
before anyone signs. What depends on the chain (round, clock, signer set) is checked by a call.
A feed's id is needed to register a loan at all: this module loads without the extra `oracle`, which
signing alone needs.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

import msgspec
from eth_hash.auto import keccak

from assay_core.errors import ServiceError
from assay_core.money import WAD_PER_MICRO, Usd
from assay_core.units import BPS, LTV_BPS_MAX

DOMAIN_NAME: Final = "Assay CALIBER Valuation Hub"
DOMAIN_VERSION: Final = "1"
DECIMALS: Final = 18
"""Of every amount in a report: the scale of USD.AI's contracts and of `Usd.to_wad`."""

VALIDITY_MAX_S: Final = 72 * 3600
"""Longest time from the oldest evidence to the end of validity."""

DEVELOPMENT_CHAIN_IDS: Final = frozenset({31337, 1337, 131277322940537})
"""Local nodes: anvil and hardhat; ganache and our own; eth-tester. Fixed in the hub as well."""

ASSURANCE_MAX: Final = 4
ASSURANCE_CUSTODY: Final = 128

FIELDS: Final = (
    ("feedId", "bytes32"),
    ("round", "uint32"),
    ("decimals", "uint8"),
    ("olv", "uint128"),
    ("nolv", "uint128"),
    ("p10", "uint128"),
    ("p90", "uint128"),
    ("ltvGrossBps", "uint16"),
    ("ltvNetBps", "uint16"),
    ("coverageBps", "uint16"),
    ("assurance", "uint8"),
    ("flags", "uint8"),
    ("observedAt", "uint40"),
    ("validUntil", "uint40"),
    ("configVersion", "uint32"),
    ("evidenceRoot", "bytes32"),
    ("methodologyHash", "bytes32"),
)
"""Names and types of the struct `Report`, in the contract's order."""


class ReportError(ServiceError):
    """We were about to sign something that the hub refuses: our mistake, nothing was published."""


class Flag(enum.IntFlag):
    """Bits of `Report.flags`, as in the contract."""

    RIPCORD = 1  # do not use the value
    COUNTERSIGNED = 2  # an appraiser signed too
    UNDER_REVIEW = 4  # stop new lending; a person is looking
    SIMULATED = 8  # not real hardware; local development chains only
    STALE = 16  # something pledged fell silent and is not counted


@dataclass(frozen=True, slots=True)
class FeedKey:
    """What a feed values. `chain_id` is the collateral token's, which may not be the hub's."""

    chain_id: int
    collateral_token: str  # 0x and 40 hex digits
    token_id: int  # or a portfolio's id

    @property
    def feed_id(self) -> bytes:
        """keccak256(abi.encode(chainId, collateralToken, tokenId)), 32 bytes."""
        # The ABI puts each of these three in a word of 32 bytes, to the right.
        words = (self.chain_id, int(self.collateral_token, 16), self.token_id)
        return keccak(b"".join(word.to_bytes(32, "big") for word in words))


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature counts: one hub on one chain."""

    chain_id: int
    hub: str  # checksummed address


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One round of one feed. Times are UTC seconds. Raises ReportError if the hub would refuse it."""

    feed_id: bytes
    round: int
    olv: Usd
    nolv: Usd
    p10: Usd
    p90: Usd
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    assurance: int
    flags: Flag
    observed_at_s: int
    valid_until_s: int
    config_version: int
    evidence_root: bytes
    methodology_hash: bytes

    def __post_init__(self) -> None:
        """Applies the hub's rules of content."""
        problem = _problem(self)
        if problem is not None:
            raise ReportError(f"report for feed 0x{self.feed_id.hex()}: {problem}")

    def values(self) -> tuple[bytes | int, ...]:
        """The members in the order of FIELDS, as the ABI encodes them."""
        return (
            self.feed_id,
            self.round,
            DECIMALS,
            self.olv.to_wad(),
            self.nolv.to_wad(),
            self.p10.to_wad(),
            self.p90.to_wad(),
            self.ltv_gross_bps,
            self.ltv_net_bps,
            self.coverage_bps,
            self.assurance,
            int(self.flags),
            self.observed_at_s,
            self.valid_until_s,
            self.config_version,
            self.evidence_root,
            self.methodology_hash,
        )

    def digest(self, domain: Domain) -> bytes:
        """The 32 bytes to sign for one hub on one chain."""
        from eth_account.messages import encode_typed_data  # noqa: PLC0415 - see the module

        names = (name for name, _type in FIELDS)
        message = encode_typed_data(
            full_message={
                "types": {
                    "EIP712Domain": [
                        {"name": "name", "type": "string"},
                        {"name": "version", "type": "string"},
                        {"name": "chainId", "type": "uint256"},
                        {"name": "verifyingContract", "type": "address"},
                    ],
                    "Report": [{"name": name, "type": type_} for name, type_ in FIELDS],
                },
                "primaryType": "Report",
                "domain": {
                    "name": DOMAIN_NAME,
                    "version": DOMAIN_VERSION,
                    "chainId": domain.chain_id,
                    "verifyingContract": domain.hub,
                },
                "message": dict(zip(names, self.values(), strict=True)),
            }
        )
        return keccak(b"\x19" + message.version + message.header + message.body)

    def to_json(self) -> str:
        """For the outbox: amounts in micro-dollars, bytes in hexadecimal."""
        return msgspec.json.encode(
            _Stored(
                feed_id=self.feed_id.hex(),
                round=self.round,
                olv_micros=self.olv.micros,
                nolv_micros=self.nolv.micros,
                p10_micros=self.p10.micros,
                p90_micros=self.p90.micros,
                ltv_gross_bps=self.ltv_gross_bps,
                ltv_net_bps=self.ltv_net_bps,
                coverage_bps=self.coverage_bps,
                assurance=self.assurance,
                flags=int(self.flags),
                observed_at_s=self.observed_at_s,
                valid_until_s=self.valid_until_s,
                config_version=self.config_version,
                evidence_root=self.evidence_root.hex(),
                methodology_hash=self.methodology_hash.hex(),
            )
        ).decode()

    @classmethod
    def from_json(cls, text: str) -> Report:
        """What `to_json` wrote. Raises ReportError."""
        try:
            stored = msgspec.json.decode(text, type=_Stored)
            return cls(
                feed_id=bytes.fromhex(stored.feed_id),
                round=stored.round,
                olv=Usd(stored.olv_micros),
                nolv=Usd(stored.nolv_micros),
                p10=Usd(stored.p10_micros),
                p90=Usd(stored.p90_micros),
                ltv_gross_bps=stored.ltv_gross_bps,
                ltv_net_bps=stored.ltv_net_bps,
                coverage_bps=stored.coverage_bps,
                assurance=stored.assurance,
                flags=Flag(stored.flags),
                observed_at_s=stored.observed_at_s,
                valid_until_s=stored.valid_until_s,
                config_version=stored.config_version,
                evidence_root=bytes.fromhex(stored.evidence_root),
                methodology_hash=bytes.fromhex(stored.methodology_hash),
            )
        except (msgspec.MsgspecError, ValueError) as error:
            raise ReportError(f"a stored report does not read back: {error}") from error


class _Stored(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    feed_id: str
    round: int
    olv_micros: int
    nolv_micros: int
    p10_micros: int
    p90_micros: int
    ltv_gross_bps: int
    ltv_net_bps: int
    coverage_bps: int
    assurance: int
    flags: int
    observed_at_s: int
    valid_until_s: int
    config_version: int
    evidence_root: str
    methodology_hash: str


def _problem(report: Report) -> str | None:
    """The first rule of the hub that the report's content breaks."""
    for name, data in (
        ("feed id", report.feed_id),
        ("evidence root", report.evidence_root),
        ("methodology hash", report.methodology_hash),
    ):
        if len(data) != 32:
            return f"the {name} has {len(data)} bytes, not 32"
    for name, value, least, most in (
        ("round", report.round, 1, 2**32 - 1),
        ("config version", report.config_version, 1, 2**32 - 1),
        ("observed_at_s", report.observed_at_s, 0, 2**40 - 1),
        ("valid_until_s", report.valid_until_s, 0, 2**40 - 1),
        ("ltv_gross_bps", report.ltv_gross_bps, 0, LTV_BPS_MAX),
        ("ltv_net_bps", report.ltv_net_bps, 0, LTV_BPS_MAX),
        ("coverage_bps", report.coverage_bps, 0, BPS),
        ("flags", int(report.flags), 0, 31),
        ("assurance", report.assurance & ~ASSURANCE_CUSTODY, 0, ASSURANCE_MAX),
        ("p10", report.p10.micros, 0, (2**128 - 1) // WAD_PER_MICRO),
        ("p90", report.p90.micros, 0, (2**128 - 1) // WAD_PER_MICRO),
        ("nolv", report.nolv.micros, 0, (2**128 - 1) // WAD_PER_MICRO),
    ):
        if not least <= value <= most:
            return f"{name} is {value}, outside {least} to {most}"
    if not report.p10 <= report.olv <= report.p90:
        return f"not p10 {report.p10} <= OLV {report.olv} <= p90 {report.p90}"
    if report.nolv > report.olv:
        return f"NOLV {report.nolv} above OLV {report.olv}"
    if report.coverage_bps == 0 and report.p90.micros:
        return "a value although nothing is counted"
    if report.coverage_bps and not report.olv.micros:
        return "a value of zero although something is counted"
    if not 0 < report.valid_until_s - report.observed_at_s <= VALIDITY_MAX_S:
        return f"valid for more than {VALIDITY_MAX_S} s after its oldest evidence, or not at all"
    return None
