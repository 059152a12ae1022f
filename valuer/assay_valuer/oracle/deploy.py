"""Setting a hub up: deployed, its feeds registered. For development chains, the demo and tests.

On a real network the admin is a timelock, which calls the same functions with the same data
(`hub.register_feed_data`, `hub.rotate_signers_data`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from eth_utils.address import to_checksum_address

from assay_valuer.oracle.hub import Hub, HubError, deployment_data, explain, register_feed_data
from assay_valuer.oracle.report import DECIMALS, Domain, FeedKey
from assay_valuer.oracle.rpc import CallReverted, JsonRpc, Receipt
from assay_valuer.oracle.signer import DigestSigner
from assay_valuer.oracle.transaction import GWEI, Unsigned, market_fees, sign, with_margin

FEE_CAP_WEI: Final = 500 * GWEI
RECEIPT_POLLS_MAX: Final = 600


def deploy_hub(
    rpc: JsonRpc,
    deployer: DigestSigner,
    *,
    admin: str,
    guardian: str,
    signers: Sequence[str],
    threshold: int,
    pause: Callable[[], None],
) -> Hub:
    """Deploys a hub and returns it once it is in a block and its code has been read back.

    `pause` waits a moment between two looks at the chain. Raises HubRefused, HubError, ChainError.
    """
    data = deployment_data(admin, guardian, signers, threshold)
    receipt = transact(rpc, deployer, to=None, data=data, pause=pause)
    if receipt.contract is None:
        raise HubError(f"{rpc.host} names no contract in the receipt of a deployment")
    hub = Hub(rpc, Domain(rpc.chain_id(), to_checksum_address(receipt.contract)))
    hub.check()
    return hub


def register_feed(
    hub: Hub, admin: DigestSigner, feed: FeedKey, *, pause: Callable[[], None]
) -> bytes:
    """Registers a feed unless it is already, and returns its id."""
    if not hub.is_registered(feed.feed_id):
        data = register_feed_data(feed, DECIMALS)
        transact(hub.rpc, admin, to=hub.domain.hub, data=data, pause=pause)
    return feed.feed_id


def transact(
    rpc: JsonRpc,
    signer: DigestSigner,
    *,
    to: str | None,
    data: bytes,
    pause: Callable[[], None],
) -> Receipt:
    """Sends one transaction and waits until it is in a block.

    Nothing is kept: this is for set-up, where a lost answer is found by looking. Raises HubRefused
    with the contract's reason, before sending where the node can tell.
    """
    try:
        gas = with_margin(rpc.estimate_gas(to, data, sender=signer.address))
    except CallReverted as error:
        raise explain(error.data) from error
    unsigned = Unsigned(
        chain_id=rpc.chain_id(),
        nonce=rpc.nonce(signer.address),
        to=to,
        data=data,
        gas=gas,
        fees=market_fees(rpc, FEE_CAP_WEI),
    )
    transaction_hash = rpc.send_raw(sign(unsigned, signer))
    for _poll in range(RECEIPT_POLLS_MAX):
        receipt = rpc.receipt(transaction_hash)
        if receipt is not None:
            if not receipt.succeeded:
                raise HubError(f"transaction 0x{transaction_hash.hex()} reverted in its block")
            return receipt
        pause()
    raise HubError(f"transaction 0x{transaction_hash.hex()} is in no block yet; look again later")
