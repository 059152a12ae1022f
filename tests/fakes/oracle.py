"""A deployed hub with a feed, reports for it, and the ways a test submits them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from eth_abi.abi import encode
from eth_utils.crypto import keccak

from assay_core.money import Usd
from assay_valuer.oracle.deploy import deploy_hub, register_feed, transact
from assay_valuer.oracle.hub import REPORT_TYPE, Hub, explain, selector, submit_data
from assay_valuer.oracle.report import FIELDS, FeedKey, Flag, Report
from assay_valuer.oracle.rpc import CallReverted, JsonRpc, Receipt
from assay_valuer.oracle.signer import LocalSigner, Signature, compact, sign_quorum
from tests.fakes.chain import account

ADMIN, GUARDIAN, OUTSIDER, SENDER = account(0), account(9), account(8), account(7)
SIGNERS = sorted((account(i) for i in range(1, 6)), key=lambda one: int(one.address, 16))
FEED = FeedKey(42161, "0x1C2ED170de32846316784c4fd58A5e3C7563E12f", 7)


def pause() -> None:
    """A moment between two looks at a chain."""
    time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class HubUnderTest:
    """A hub whose signers' keys the test holds."""

    hub: Hub
    signers: tuple[LocalSigner, ...]
    threshold: int
    feed_id: bytes

    @property
    def rpc(self) -> JsonRpc:
        return self.hub.rpc

    def now_s(self) -> int:
        """The chain's own time."""
        block = self.rpc.block("latest")
        if block is None:
            raise RuntimeError("a chain without a block")
        return block.timestamp_s

    def report(self, round_: int = 1) -> Report:
        """A good report: observed a while ago, valid for two days."""
        now_s = self.now_s()
        return Report(
            feed_id=self.feed_id,
            round=round_,
            olv=Usd(212_345_678_901),
            nolv=Usd(180_493_827_065),
            p10=Usd(190_000_000_000),
            p90=Usd(240_000_000_000),
            ltv_gross_bps=7_123,
            ltv_net_bps=8_381,
            coverage_bps=10_000,
            assurance=0,
            flags=Flag.SIMULATED,
            observed_at_s=now_s - 30,
            valid_until_s=now_s + 48 * 3600,
            config_version=1,
            evidence_root=bytes(range(32)),
            methodology_hash=bytes(range(32, 64)),
        )

    def sign(self, report: Report, count: int | None = None) -> tuple[Signature, ...]:
        """A quorum's signatures, or of the first `count` signers."""
        digest = report.digest(self.hub.domain)
        return sign_quorum(self.signers, self.threshold if count is None else count, digest)

    def send(self, data: bytes, key: LocalSigner = OUTSIDER) -> Receipt:
        """A transaction to the hub; raises HubRefused where it would revert."""
        return transact(self.rpc, key, to=self.hub.domain.hub, data=data, pause=pause)

    def submit(self, report: Report) -> Receipt:
        """A quorum-signed report, carried by somebody who has no role at all."""
        return self.send(submit_data(report, self.sign(report)))

    def try_signatures(self, report: Report, signatures: Sequence[Signature]) -> None:
        """Runs `submit` without sending. Raises HubRefused."""
        self._try(submit_data(report, signatures))

    def try_raw(self, report: Report, **members: bytes | int) -> None:
        """As a full quorum would sign the struct with some members changed, past our own checks."""
        names = [name for name, _type in FIELDS]
        values = list(report.values())
        for name, value in members.items():
            values[names.index(name)] = value
        encoded = encode([REPORT_TYPE], [tuple(values)])
        digest = self.rpc.call(self.hub.domain.hub, selector(f"digest({REPORT_TYPE})") + encoded)
        signatures = sign_quorum(self.signers, self.threshold, digest)
        packed = b"".join(compact(one.data) for one in signatures)
        self._try(
            selector(f"submit({REPORT_TYPE},bytes)")
            + encode([REPORT_TYPE, "bytes"], [tuple(values), packed])
        )

    def _try(self, data: bytes) -> None:
        try:
            self.rpc.estimate_gas(self.hub.domain.hub, data, sender=OUTSIDER.address)
        except CallReverted as error:
            raise explain(error.data) from error

    def pass_time(self, seconds: int) -> None:
        """Moves the chain's clock on."""
        self.rpc.request("evm_increaseTime", [seconds])
        self.rpc.request("evm_mine")


def deploy(rpc: JsonRpc, *, signers: int = 5, threshold: int = 3) -> HubUnderTest:
    """A new hub with one registered feed."""
    keys = tuple(SIGNERS[:signers])
    hub = deploy_hub(
        rpc,
        ADMIN,
        admin=ADMIN.address,
        guardian=GUARDIAN.address,
        signers=[key.address for key in keys],
        threshold=threshold,
        pause=pause,
    )
    return HubUnderTest(hub, keys, threshold, register_feed(hub, ADMIN, FEED, pause=pause))


def posted_rounds(world: HubUnderTest) -> list[int]:
    """The rounds of every ReportPosted event of the hub, in the order of the chain."""
    topic = keccak(text=f"ReportPosted(bytes32,uint32,{REPORT_TYPE})")
    query = {
        "fromBlock": "0x0",
        "toBlock": "latest",
        "address": world.hub.domain.hub,
        "topics": ["0x" + topic.hex(), "0x" + world.feed_id.hex()],
    }
    logs = json.loads(world.rpc.request("eth_getLogs", [query]))
    return [int(log["topics"][2], 16) for log in logs]


def changed(report: Report, **members: object) -> Report:
    """The report with other members; still one that we would sign."""
    return replace(report, **members)  # type: ignore[arg-type]  # the caller's own fields
