"""`assay evidence verify`: what NVIDIA devices signed, checked offline against the pinned root."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from assay_audit.cli import manifests
from assay_audit.cli.manifests import Measured
from assay_core.errors import FileError
from assay_core.evidence import forms, nvidia
from assay_core.instants import parse_instant

if TYPE_CHECKING:
    from assay_core.evidence.rim import Manifest

_EPILOG: Final = """\
examples:
  assay evidence verify --report gpu.report.hex --chain gpu.chain.pem --nonce 5f3c…
  assay evidence verify --report gpu_evidence.json switch_evidence.json --json
  assay evidence verify --report r.hex --chain c.pem --rim vbios.xml --at 2025-06-01T00:00:00Z

Without --nonce a report may be an old one, or one from the web: what holds is that a genuine device
signed it once. Nothing in it says where the device is or who owns it.

what is printed: identity is the SHA-256 of the device's identity key; pdi the number in its
certificate by which NVML knows it too; topology how GPUs and switches name each other, and only a
whole baseboard's is a proof.

exit status: 0 everything verified, 1 something did not, 2 a wrong argument or file, 3 --rim without
the extra `rim`
"""


@dataclass(frozen=True, slots=True)
class _Result:
    """One device: what its evidence proves, or why it proves nothing."""

    proof: nvidia.Proof | None
    reason: str
    measured: Measured | None = None


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    evidence = verbs.add_parser(
        "evidence",
        help="check what NVIDIA's devices signed, as it came from them",
        description="Checks reports as they come from a GPU or a switch, with no valuer in between.",
    )
    things = evidence.add_subparsers(dest="thing", required=True, metavar="WHAT")
    verify = things.add_parser(
        "verify",
        help="a GPU's or switch's attestation report",
        description="Checks attestation reports of NVIDIA GPUs and switches, offline.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verify.add_argument(
        "--report",
        type=Path,
        required=True,
        nargs="+",
        metavar="FILE",
        help="a report in hex or binary with --chain, or NVIDIA's JSON of several devices",
    )
    verify.add_argument("--chain", type=Path, metavar="FILE", help="the report's certificates, PEM")
    verify.add_argument("--nonce", metavar="HEX", help="what was asked: 32 bytes, hexadecimal")
    verify.add_argument(
        "--rim",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a reference manifest that the device must have measured; again for more; needs the "
        "extra `rim`",
    )
    verify.add_argument("--at", metavar="TIME", help="check as of then, RFC 3339; now if left out")
    verify.add_argument("--json", action="store_true", help="print for machines")
    verify.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """The command; returns its exit status. Raises FileError."""
    now_ms = time.time_ns() // 1_000_000 if args.at is None else parse_instant(args.at)
    asked = None if args.nonce is None else _nonce(args.nonce)
    results = _results(args.report, args.chain, asked, now_ms)
    if args.rim:
        held = manifests.read(args.rim, now_ms)
        results = [_measured(result, held) for result in results]
    proofs = [result.proof for result in results if result.proof is not None]
    linked = any(proof.switches or proof.gpus for proof in proofs)
    board = nvidia.topology(proofs) if linked else None
    if args.json:
        found = [_as_json(result, board) for result in results]
        print(json.dumps(found[0] if len(found) == 1 else found, indent=1))
    else:
        _print(results, board, asked=asked is not None)
    return 0 if len(proofs) == len(results) else 1


def _nonce(text: str) -> bytes:
    try:
        return forms.nonce_bytes(text)
    except nvidia.BadEvidence as error:
        raise FileError(f"--nonce: {error}") from error


def _results(
    reports: Sequence[Path], chain: Path | None, asked: bytes | None, now_ms: int
) -> list[_Result]:
    pem = None if chain is None else _read(chain)
    results: list[_Result] = []
    for path in reports:
        data = _read(path)
        try:
            named = forms.read(data, pem)
        except nvidia.BadEvidence as error:
            results.append(_Result(None, str(error)))
            continue
        results += [_result(one, asked, now_ms) for one in named]
    return results


def _result(named: forms.Named, asked: bytes | None, now_ms: int) -> _Result:
    try:
        if asked is not None and named.claimed_nonce not in (None, asked):
            raise nvidia.BadEvidence("the file names another nonce than the one asked for")
        nonce = named.claimed_nonce if asked is None else asked
        return _Result(nvidia.verify(named.evidence, nonce=nonce, now_ms=now_ms), "")
    except nvidia.BadEvidence as error:
        return _Result(None, str(error))


def _measured(result: _Result, held: Sequence[Manifest]) -> _Result:
    if result.proof is None:
        return result
    try:
        return replace(result, measured=manifests.measured(held, result.proof))
    except nvidia.BadEvidence as error:
        return _Result(None, str(error))


def _read(path: Path) -> bytes:
    """As much of a file as evidence can be, and a byte more for the parser to refuse."""
    try:
        with path.open("rb") as file:
            return file.read(forms.FILE_BYTES_MAX + 1)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from error


_Json = None | bool | int | str | list["_Json"] | dict[str, "_Json"]


def _as_json(result: _Result, board: nvidia.Topology | None) -> _Json:
    proof = result.proof
    if proof is None:
        return {"verified": False, "reason": result.reason}
    found: dict[str, _Json] = {
        "verified": True,
        "device_identity": proof.device.identity,
        "chip": proof.device.chip,
        "driver": proof.driver,
        "vbios": proof.vbios,
        "nonce": proof.nonce.hex(),
    }
    if result.measured is not None:
        found["measurements"] = {
            "manifest_sha256": result.measured.manifest_sha256,
            "matched": result.measured.matched,
        }
    links = proof.switches or proof.gpus
    if board is not None and links:
        found["topology"] = {
            "kind": proof.device.kind,
            "pdi": f"{proof.device.pdi:016x}",
            "linked_pdis": [f"{pdi:016x}" for pdi in links],
            "whole": board.whole,
            "detail": board.why,
        }
    return found


def _print(results: Sequence[_Result], board: nvidia.Topology | None, *, asked: bool) -> None:
    for result in results:
        proof = result.proof
        if proof is None:
            print(f"NOT VERIFIED  {result.reason}")
            continue
        print(f"verified      {proof.device.kind} {proof.device.chip}")
        print(f"  identity    {proof.device.identity}")
        print(f"  pdi         {proof.device.pdi:016x}")
        print(f"  driver      {proof.driver or 'not stated'}")
        print(f"  vbios       {proof.vbios or 'not stated'}")
        print(f"  nonce       {proof.nonce.hex()}")
        if result.measured is not None:
            of = result.measured
            print(f"  measured    {of.matched} of {of.matched} as {of.product} {of.version} should")
        if not proof.firmware_bound:
            print("  firmware    not named in the report, as older firmware does not")
    if board is not None:
        whole = "one whole baseboard" if board.whole else "not one whole baseboard"
        print(f"topology: {whole}: {board.why}")
    good = sum(result.proof is not None for result in results)
    if len(results) > 1:
        print(f"{good} of {len(results)} verified")
    if good and not asked:  # people read this as a verdict: what was not asked is said
        print(
            "No --nonce was given: what holds may be an old report, or one from the web.",
            file=sys.stderr,
        )
    if good < len(results):
        print("Not everything verified: do not rely on what did not.", file=sys.stderr)
