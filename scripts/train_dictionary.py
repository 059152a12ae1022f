"""Trains the dictionary that ledger bodies are compressed with, from simulated windows.

    python scripts/train_dictionary.py > body.zdict

The dictionary is part of a body format: once a release has written with one, it may never change,
and a better one makes a new format. The one in the ledger was trained by this, before the first.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_core import seal
from assay_core.header import Source

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from assay_valuer.ledger import body
from bench.simulated_host import SimulatedHost
from tests.fakes.host import FakeHost

DICTIONARY_BYTES = 112_640
PROFILES = ("h100", "h200", "l40s", "b200", "rtx-pro-6000")
SHAPES = ("idle", "steady", "burst", "training")
HOSTS_EACH = 2
"""Of each profile and shape: a dictionary should know the kinds, and none of the hosts."""
WINDOWS_PER_HOST = 24
POLL_MS = 30_000
EPOCH_MS = 1_767_225_600_000


def main() -> None:
    """Writes the dictionary to standard output."""
    samples: list[bytes | bytearray | memoryview] = [
        sample
        for seed, (profile, shape, _) in enumerate(
            (p, s, n) for p in PROFILES for s in SHAPES for n in range(HOSTS_EACH)
        )
        for sample in (*_simulated(seed, profile, shape), *_restless(seed))
    ]
    dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, samples, level=body.LEVEL)
    sys.stdout.buffer.write(dictionary.as_bytes())
    digest = hashlib.sha256(dictionary.as_bytes()).hexdigest()
    sys.stderr.write(f"{len(samples)} windows, SHA-256 {digest}\n")


def _simulated(seed: int, profile: str, shape: str) -> Iterator[bytes]:
    text = f"seed: {seed}\nfleets: [{{profile: {profile}, count: 8, load: {{shape: {shape}}}}}]\n"
    start_ms = EPOCH_MS + seed * 7_919_000
    host = SimulatedHost(text, start_ms=start_ms, boottime_ms=seed * 1_000, poll_ms=POLL_MS)
    signer = seal.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(_bytes(seed, -1)))
    name = f"spiffe://assay.internal/site/dc{seed}/host/{signer.public_key.fingerprint[:16]}"
    previous = b""
    for number in range(WINDOWS_PER_HOST):
        draft = host.window()
        sealed = seal.seal_window(
            draft.contents,
            link=seal.Link(name, 0, _bytes(seed, -2)[:16], number, previous),
            period=draft.period,
            source=Source.NVML,
            close_reason=draft.close_reason,
            agent_version="0.1.0",
            secret=_bytes(seed, number),
            signer=signer,
        )
        previous = sealed.hash
        yield _body(sealed, draft.period.end_utc_ms)


def _restless(seed: int) -> Iterator[bytes]:
    """Windows in which every number wanders, as those of busy hosts do."""
    host = FakeHost(seed=1_000_003 + seed, host_id=f"spiffe://assay.internal/site/lab/host/{seed}")
    for _ in range(WINDOWS_PER_HOST):
        sealed = host.seal()
        yield _body(sealed, host.now_ms)


def _body(sealed: seal.Sealed, observed_ms: int) -> bytes:
    """The array that a body's frame holds."""
    return body.plain(body.Body(sealed.envelope, sealed.leaves, observed_ms))[1]


def _bytes(seed: int, number: int) -> bytes:
    """Bytes that look random and are not."""
    return hashlib.sha256(f"{seed}/{number}".encode()).digest()


if __name__ == "__main__":
    main()
