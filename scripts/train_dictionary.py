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

import msgspec
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from assay_agent.telemetry import scenario, simulation
from assay_agent.telemetry.reading import Poll
from assay_agent.window import Aggregator
from assay_core import seal
from assay_core.header import CloseReason, Source
from assay_core.leaves import DriverState

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fakes.host import FakeHost

DICTIONARY_BYTES = 16_384
PROFILES = ("h100", "h200", "l40s", "b200", "rtx-pro-6000")
SHAPES = ("idle", "steady", "burst", "training")
WINDOWS_PER_HOST = 24
WINDOW_MS = 300_000
POLL_MS = 5_000
EPOCH_MS = 1_767_225_600_000


def main() -> None:
    """Writes the dictionary to standard output."""
    samples: list[bytes | bytearray | memoryview] = [
        sample
        for seed, (profile, shape) in enumerate((p, s) for p in PROFILES for s in SHAPES)
        for sample in (*_simulated(seed, profile, shape), *_restless(seed))
    ]
    dictionary = zstandard.train_dictionary(DICTIONARY_BYTES, samples)
    sys.stdout.buffer.write(dictionary.as_bytes())
    digest = hashlib.sha256(dictionary.as_bytes()).hexdigest()
    sys.stderr.write(f"{len(samples)} windows, SHA-256 {digest}\n")


def _simulated(seed: int, profile: str, shape: str) -> Iterator[bytes]:
    text = f"seed: {seed}\nfleets: [{{profile: {profile}, count: 8, load: {{shape: {shape}}}}}]\n"
    fleet = scenario.parse(text, "training")
    gpus = simulation.gpus_of(fleet)
    start_ms = EPOCH_MS + seed * 7_919_000
    gather = Aggregator((), begin_utc_ms=start_ms, begin_boottime_ms=seed * 1_000)
    signer = seal.Ed25519Signer(Ed25519PrivateKey.from_private_bytes(_bytes(seed, -1)))
    host = f"spiffe://assay.internal/site/dc{seed}/host/{signer.public_key.fingerprint[:16]}"
    previous = b""
    for number in range(WINDOWS_PER_HOST):
        for after_ms in range(number * WINDOW_MS, (number + 1) * WINDOW_MS, POLL_MS):
            readings = tuple(simulation.read(fleet, gpu, after_ms) for gpu in gpus)
            gather.add(
                Poll(
                    at_utc_ms=start_ms + after_ms,
                    at_boottime_ms=seed * 1_000 + after_ms,
                    driver=DriverState.RUNNING,
                    host={
                        "driver_version": "590.48.01",
                        "nvml_version": "13.590.48.01",
                        "gpu_count": len(gpus),
                    },
                    abandoned_processes=0,
                    gpus=readings,
                    events=(),
                )
            )
        end_ms = (number + 1) * WINDOW_MS
        draft = gather.draft(
            at_utc_ms=start_ms + end_ms,
            at_boottime_ms=seed * 1_000 + end_ms,
            close_reason=CloseReason.PERIOD,
        )
        gather.restart(draft)
        sealed = seal.seal_window(
            draft.contents,
            link=seal.Link(host, 0, _bytes(seed, -2)[:16], number, previous),
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
    """The array that a body's frame holds; see ledger.body."""
    envelope = sealed.envelope
    signatures = [(signature.sig, signature.keyid) for signature in envelope.signatures]
    return msgspec.msgpack.encode(
        (envelope.payload, envelope.payload_type, signatures, sealed.leaves, observed_ms, False)
    )


def _bytes(seed: int, number: int) -> bytes:
    """Bytes that look random and are not."""
    return hashlib.sha256(f"{seed}/{number}".encode()).digest()


if __name__ == "__main__":
    main()
