"""Spools with windows in them, and the check that a spool's chain holds."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_agent import spool_file
from assay_agent.spool import Chain, Outgoing, Spool
from assay_agent.window import Aggregator, Draft
from assay_core import verify
from assay_core.header import CloseReason, Head, Source
from assay_core.seal import Ed25519Signer, Sealed
from assay_core.verify import Policy
from tests.fakes.readings import BOOT_MS, START_MS, poll, reading

HOST_ID = "spiffe://assay.test/site/lab/host/1"
SIGNER = Ed25519Signer(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
BOOT_ID = bytes(range(16))
TRUST = verify.HostTrust(HOST_ID, 0, (SIGNER.public_key,))
KEEP_MS = 14 * 86_400_000
NO_HEAD = None


def create(path: Path) -> Path:
    spool_file.create(path, host_id=HOST_ID, incarnation=0, first_previous_hash=b"")
    return path


def open_spool(path: Path, *, bytes_max: int = 2**30, boot_id: bytes = BOOT_ID, **more) -> Spool:
    return Spool(
        path,
        chain=more.get("chain", Chain(HOST_ID, 0)),
        signer=SIGNER,
        boot_id=boot_id,
        bytes_max=bytes_max,
        acknowledged_keep_ms=KEEP_MS,
        now_ms=START_MS,
    )


def draft(after_ms: int = 0, gpus: int = 2) -> Draft:
    aggregator = Aggregator(
        (), begin_utc_ms=START_MS + after_ms, begin_boottime_ms=BOOT_MS + after_ms
    )
    aggregator.add(poll(*(reading(n + 1) for n in range(gpus)), after_ms=after_ms))
    return aggregator.draft(
        at_utc_ms=START_MS + after_ms + 1_000,
        at_boottime_ms=BOOT_MS + after_ms + 1_000,
        close_reason=CloseReason.PERIOD,
    )


def append(spool: Spool, count: int = 1, *, now_ms: int = START_MS, gpus: int = 2) -> list[Sealed]:
    return [
        spool.append(
            draft(spool.next_sequence * 1_000, gpus),
            source=Source.NVML,
            answered_challenge=b"",
            now_ms=now_ms,
        )
        for _ in range(count)
    ]


def drain(spool: Spool, head: Head | None) -> list[Outgoing]:
    """Everything the spool would send after `head`, taken by the real door as it comes.

    Raises Refused where the chain does not hold: this is the invariant of every spool test.
    """
    cursor = spool.resume(head, START_MS)
    hashes = {} if head is None else {head.sequence: head.hash}
    sent: list[Outgoing] = []
    while (outgoing := spool.next_after(cursor)) is not None:
        chain = verify.Chain(None if cursor.sequence < 0 else cursor, hashes.get)
        if isinstance(outgoing.item, Sealed):
            verify.verify(
                outgoing.item,
                trust=TRUST,
                chain=chain,
                policy=Policy(),
                challenges={},
                now_ms=START_MS + 10**9,
            )
        else:
            verify.verify_gap(outgoing.item, trust=TRUST, chain=chain, now_ms=START_MS)
        cursor = outgoing.head
        hashes[cursor.sequence] = cursor.hash
        sent.append(outgoing)
    if cursor.sequence != spool.next_sequence - 1:
        raise AssertionError("the spool does not lead to its own head")
    return sent


def windows(sent: list[Outgoing]) -> list[int]:
    return [out.head.sequence for out in sent if isinstance(out.item, Sealed)]


def gaps(sent: list[Outgoing]) -> list[tuple[int, int]]:
    return [
        (out.first_sequence, out.head.sequence) for out in sent if not isinstance(out.item, Sealed)
    ]
