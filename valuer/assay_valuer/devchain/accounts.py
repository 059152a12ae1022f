"""The funded accounts. Their keys are printed in every node's manual: worth nothing, anywhere."""

from __future__ import annotations

from functools import cache
from typing import Final

from eth_account.hdaccount import seed_from_mnemonic
from eth_account.hdaccount.deterministic import HDPath

MNEMONIC: Final = "test test test test test test test test test test test junk"
"""PUBLIC. The phrase that anvil and hardhat use too, so the same accounts are funded there."""

ACCOUNTS: Final = 10
BALANCE_WEI: Final = 10_000 * 10**18


@cache
def development_keys() -> tuple[bytes, ...]:
    """The private keys of the funded accounts, 32 bytes each. PUBLIC: never send them value."""
    seed = seed_from_mnemonic(MNEMONIC, "")
    return tuple(bytes(HDPath(f"m/44'/60'/0'/0/{i}").derive(seed)) for i in range(ACCOUNTS))
