"""What a report costs on a chain: one steady report of a 3-of-5 quorum, on a local EVM."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Final

from eth_abi.abi import encode

from assay_core.money import Usd
from assay_valuer.oracle.report import FIELDS
from bench.row import Context, Measurement, Row
from scripts import tools
from tests.fakes import chain
from tests.fakes.oracle import changed, deploy

PROTOTYPE_GAS: Final = 61_368
"""A prototype of nine members in one storage word, same operation. Not measured here."""
ADDED_MEMBERS: Final = 8
SECOND_WORD_GAS: Final = 5_000
"""NOLV has a storage word of its own: a cold SSTORE over a non-zero value (EIP-2929)."""
LOG_GAS: Final = ADDED_MEMBERS * 32 * 8
"""The event carries the whole struct, 8 gas a byte."""


def measure(context: Context) -> Sequence[Row]:
    """Three reports on one feed; the third is steady: every slot it writes held a value before."""
    context.say("deploying the hub")
    with local_chain(context) as running:
        rpc = running.rpc()
        world = deploy(rpc)
        for round_ in (1, 2):
            world.submit(world.report(round_))
        report = changed(world.report(3), olv=Usd(213_000_000_001), nolv=Usd(181_000_000_001))
        gas = world.submit(report).gas_used
        rpc.close()
    members = encode([type_ for _name, type_ in FIELDS], report.values())
    calldata_gas = sum(16 if byte else 4 for byte in members) * ADDED_MEMBERS // len(FIELDS)
    wider_gas = SECOND_WORD_GAS + LOG_GAS + calldata_gas
    return [
        Row(
            name="gas_single",
            value=gas,
            unit="gas",
            bound=PROTOTYPE_GAS,
            bound_is="the bound is a prototype's record: 9 members, one storage word",
            ratio=gas / PROTOTYPE_GAS,
            target=PROTOTYPE_GAS + wider_gas,
            judged="value",
            better="lower",
            note=f"On {running.kind}. The target allows {wider_gas:,} for the wider struct: "
            f"{SECOND_WORD_GAS:,} for NOLV's storage word, {LOG_GAS:,} for the event and "
            f"{calldata_gas:,} for the calldata of {ADDED_MEMBERS} more members",
        )
    ]


def local_chain(context: Context) -> AbstractContextManager[chain.RunningChain]:
    """anvil where there is one, else the development chain."""
    anvil = tools.locate("anvil")
    if isinstance(anvil, tools.Missing):
        return chain.devchain(context.folder)
    return chain.anvil(anvil, context.folder)


GAS: Final = Measurement(("gas_single",), "gas of one steady 3-of-5 report", measure)
