"""`assay-agent propose`: the operator tells the lender, from the host, what is about to happen."""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from pathlib import Path
from typing import Final

from assay_agent import config, control
from assay_agent.cli.durations import duration_ms
from assay_agent.keys import KeyStore
from assay_core import asset_events
from assay_core.asset_events import AssetEvent, Kind, Subject
from assay_core.errors import FileError
from assay_core.instants import parse_instant

KINDS: Final = (
    Kind.MAINTENANCE,
    Kind.GPU_REPLACEMENT,
    Kind.BOARD_SWAP,
    Kind.HOST_SWAP,
    Kind.MOVE,
    Kind.REINSTALL,
)
"""What a host may propose of itself and its GPUs."""


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "propose",
        help="propose maintenance, a replacement or a move to the lender",
        description="Has the running agent sign an asset event with this host's sealing key and "
        "send it to the valuer. Maintenance is accepted by the lender's policy; anything else waits "
        "for the lender's signature. Until the window is over the GPUs count as in transition.",
        epilog="examples: assay-agent propose maintenance --until 4h --why 'driver 590 to 595'; "
        "assay-agent propose gpu_replacement --serial 165092 --part 692-2G520 "
        "--new-serial 165093 --new-part 692-2G520 --until 14d --why 'RMA 1234'; "
        "assay-agent propose move --to-site fra2 --until 3d --why 'rack move'. "
        "Exit status 0: kept; 1: refused, and why.",
    )
    parser.add_argument(
        "kind",
        choices=[kind.value for kind in KINDS],
        metavar="KIND",
        help=", ".join(kind.value for kind in KINDS),
    )
    parser.add_argument(
        "--serial",
        action="append",
        default=[],
        metavar="S",
        help="a GPU; again for more. None: all of this host",
    )
    parser.add_argument(
        "--part",
        action="append",
        default=[],
        metavar="P",
        help="its board part number, one for each --serial",
    )
    parser.add_argument(
        "--new-serial", action="append", default=[], metavar="S", help="what takes its place"
    )
    parser.add_argument(
        "--new-part",
        action="append",
        default=[],
        metavar="P",
        help="and that one's board part number",
    )
    parser.add_argument("--to-host", metavar="HOST_ID", help="where the GPUs go on")
    parser.add_argument("--to-site", metavar="SITE", help="where the GPUs or the host go on")
    parser.add_argument("--begin", metavar="TIME", help="when it begins, RFC 3339 (now)")
    parser.add_argument("--until", type=duration_ms, required=True, metavar="24h", help="how long")
    parser.add_argument("--why", required=True, help="for the lender, and the ledger for ever")


def run(args: argparse.Namespace) -> int:
    """Makes the event, and asks the running agent to sign and send it."""
    settings = config.load(args.config)
    host_id = KeyStore.default(settings).host().host_id
    event = event_of(args, host_id, time.time_ns() // 1_000_000)
    payload = asset_events.encode(event)
    asset_events.decode(payload)
    reply = control.ask(Path(settings.state_dir), control.Request(proposal=payload.decode()))
    print(reply.message, file=sys.stdout if reply.ok else sys.stderr)
    return 0 if reply.ok else 1


def event_of(args: argparse.Namespace, host_id: str, now_ms: int) -> AssetEvent:
    """The event that the command line says, of this host or of GPUs of it. Raises FileError."""
    assets = subjects(args.serial, args.part, "--part")
    replacements = subjects(args.new_serial, args.new_part, "--new-part")
    if replacements and len(replacements) != len(assets):
        raise FileError("--new-serial: one for each --serial")
    kind = Kind(args.kind)
    if kind is Kind.GPU_REPLACEMENT and not replacements:
        raise FileError("gpu_replacement: needs --new-serial and --new-part, what takes its place")
    if args.to_host is not None and not args.to_host.startswith("spiffe://"):
        raise FileError(f"--to-host: {args.to_host} is no host's id, which begins with spiffe://")
    order = sorted(range(len(assets)), key=lambda at: assets[at])
    # A host's own swap or reinstallation names it; what is of some GPUs alone does not.
    of_host = kind in (Kind.BOARD_SWAP, Kind.HOST_SWAP, Kind.REINSTALL) or not assets
    begin_ms = now_ms if args.begin is None else parse_instant(args.begin)
    return AssetEvent(
        kind=kind,
        nonce=str(uuid.uuid4()),
        why=args.why,
        assets=tuple(assets[at] for at in order),
        host=host_id if of_host and kind is not Kind.GPU_REPLACEMENT else None,
        begin_ms=begin_ms,
        until_ms=begin_ms + args.until,
        replacements=tuple(replacements[at] for at in order) if replacements else (),
        to_host=args.to_host,
        to_site=args.to_site,
    )


def subjects(serials: list[str], parts: list[str], option: str) -> list[Subject]:
    """GPUs as typed: a part number each, or one for all. Raises FileError."""
    if len(parts) == 1:
        parts = parts * len(serials)
    if len(parts) != len(serials):
        raise FileError(f"{option}: one for each serial number, or one for all of them")
    return [
        Subject(serial=one, board_part_number=part)
        for one, part in zip(serials, parts, strict=True)
    ]
