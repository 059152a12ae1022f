"""Fuzzing led by coverage, for a bounded time: `python -m tests.fuzz.fuzz TARGET... --seconds 10`.

Each target runs in a process of its own, from a corpus of its seeds, under libFuzzer (Atheris): what
reaches code that nothing reached before is kept and changed further. A finding is an error that the
parser does not name, an input that takes 10 s, or 2 GiB; it is printed, and kept in build/fuzz.
`all` is every target. `--repeat FILE` feeds one input again, without the fuzzer.

Exit status: 0 nothing found, or no fuzzer for this machine, which is then said; 1 something was.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FINDINGS = ROOT / "build" / "fuzz"
INPUT_BYTES_MAX = 16_384
MEMORY_MIB_MAX = 2_048
INPUT_S_MAX = 10
INSTRUMENTED = ["assay_core", "assay_valuer.ingest", "assay_valuer.market.feeds"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="a parser's name, or all")
    parser.add_argument("--seconds", type=int, default=10, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="targets at a time")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="feed this input and no other")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if importlib.util.find_spec("atheris") is None and args.repeat is None:
        print("NOT AVAILABLE: atheris: the fuzzer has no wheel for this machine or this Python")
        return 0
    if args.inside is not None:
        return _fuzz(args.targets[0], args.seconds, args.inside)
    from tests.fuzz.targets import TARGETS, feed

    names = list(TARGETS) if args.targets == ["all"] else args.targets
    if unknown := sorted(set(names) - set(TARGETS)):
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if args.repeat is not None:
        taken = feed(names[0], args.repeat.read_bytes())
        print(f"{names[0]}: {'taken' if taken else 'refused by name'}")
        return 0
    with ThreadPoolExecutor(args.jobs) as pool:
        well = list(pool.map(lambda name: _run(name, args.seconds), names))
    found = [name for name, held in zip(names, well, strict=True) if not held]
    print(f"{len(names)} targets, {args.seconds} s each: {', '.join(found) or 'nothing'} found")
    return 1 if found else 0


def _run(name: str, seconds: int) -> bool:
    """One target in a process of its own; whether it found nothing."""
    FINDINGS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.fuzz.fuzz", name, "--seconds", str(seconds)]
        began_s = time.monotonic()
        done = subprocess.run(
            [*command, "--inside", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 20 * INPUT_S_MAX,
        )
    lines = done.stderr.splitlines()
    ran = next((line for line in reversed(lines) if line.startswith("Done ")), "")
    took_s = time.monotonic() - began_s
    if done.returncode == 0 and ran:
        print(f"{name:<14} {ran.removeprefix('Done ')}, {took_s:.0f} s in all", flush=True)
        return True
    print(f"{name:<14} FOUND, exit status {done.returncode}", flush=True)
    print("\n".join((*lines[-8:], *done.stdout.splitlines()[-40:])), flush=True)
    return False


def _fuzz(name: str, seconds: int, folder: Path) -> int:
    """Inside that process: never returns where the fuzzer runs."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from tests.fuzz.targets import TARGETS, feed

    for number, seed in enumerate(TARGETS[name].seeds()):
        (folder / f"seed-{number}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-timeout={INPUT_S_MAX}",
        f"-rss_limit_mb={MEMORY_MIB_MAX}",
        f"-artifact_prefix={FINDINGS}/{name}-",
        str(folder),
    ]

    def one_input(data: bytes) -> None:
        feed(name, data)

    atheris.Setup([sys.argv[0], *options], one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
