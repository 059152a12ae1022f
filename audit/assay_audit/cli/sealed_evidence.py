"""`assay verify evidence`: what a host's hardware answered to a challenge, step by step, offline."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from assay_audit.cli.window import DOES_NOT_HOLD, HOLDS, read_as
from assay_core import disclosure
from assay_core.evidence import file
from assay_core.instants import format_instant

_EPILOG: Final = """\
example:
  assay verify evidence evidence.json --trust trust.json

The trust file says which keys speak for which host, and which attestation key its TPM has. Have it
from someone other than whoever gave you the evidence. What holds is that this host's TPM and these
devices answered one challenge; that the challenge was fresh, only who sent it can say.

exit status: 0 all steps hold, 1 one does not, 2 a file cannot be read
"""


def add(things: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to `assay verify`."""
    evidence = things.add_parser(
        "evidence",
        help="an evidence file: a TPM's quote and devices' reports",
        description="Checks an evidence file step by step, offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    evidence.add_argument("file", type=Path, metavar="FILE", help="the evidence file")
    evidence.add_argument(
        "--trust",
        type=Path,
        required=True,
        metavar="FILE",
        help="which key speaks for which host, as `assay-valuer export trust` writes it",
    )
    evidence.add_argument(
        "--simulated-root",
        action="append",
        default=[],
        metavar="SHA256",
        help="believe simulated devices under this root too; they are marked",
    )
    evidence.add_argument("--json", action="store_true", help="print for machines")
    evidence.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit status. Raises FileError."""
    found = read_as(file.load, args.file, "evidence")
    trust = read_as(disclosure.load_trust, args.trust, "trust")
    examined = file.examine(found, trust, simulated=frozenset(args.simulated_root))
    if args.json:
        print(json.dumps(_as_json(found, examined), indent=1))
    else:
        _print(found, examined)
    return HOLDS if examined.holds else DOES_NOT_HOLD


def _print(found: file.EvidenceFile, examined: file.Examined) -> None:
    for number, step in enumerate(examined.steps, start=1):
        mark = "holds" if step.holds else "FAILS"
        print(f"{number}. {step.name:<10} {mark}  {step.detail}")
    asked, came = (format_instant(at) for at in (found.asked_ms, found.received_ms))
    print(f"By the valuer's own word it was asked for at {asked} and came at {came}.")
    print(
        "All steps hold."
        if examined.holds
        else "Not every step holds: do not rely on what does not."
    )


_Json = None | bool | int | str | list["_Json"] | dict[str, "_Json"]


def _as_json(found: file.EvidenceFile, examined: file.Examined) -> _Json:
    proven = examined.proven
    return {
        "verified": examined.holds,
        "steps": [
            {"name": step.name, "holds": step.holds, "detail": step.detail}
            for step in examined.steps
        ],
        "asked": format_instant(found.asked_ms),
        "received": format_instant(found.received_ms),
        "position": found.position,
        "host_id": None if proven is None else proven.statement.host_id,
        "incarnation": None if proven is None else proven.statement.incarnation,
        "challenge": None if proven is None else proven.statement.challenge.hex(),
        "pcrs": {}
        if proven is None or proven.statement.quote is None
        else {str(number): value.hex() for number, value in proven.statement.quote.pcrs.items()},
        "devices": []
        if proven is None
        else [
            {
                "device_identity": one.proof.device.identity,
                "kind": one.proof.device.kind,
                "chip": one.proof.device.chip,
                "pdi": f"{one.proof.device.pdi:016x}",
                "driver": one.proof.driver,
                "vbios": one.proof.vbios,
                "origin": one.origin.name.lower(),
            }
            for one in proven.devices
        ],
    }
