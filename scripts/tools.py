"""The tools that tests need beyond PyPI: where each one is, and fetching those that are missing.

Run as a program it fetches into build/tools and contracts/node_modules, without root, and ends
well even where something cannot be had: it then names what is missing and why, and so does every
test that needed it (see tests/conftest.py). Nothing is taken that is not checked: Debian packages
by apt's signatures and, where one version is pinned, by SHA-256; npm packages by the lock file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
TOOLS: Final = ROOT / "build" / "tools"
REASONS: Final = TOOLS / "missing.json"
CONTRACTS: Final = ROOT / "contracts"
NODE_MODULES: Final = CONTRACTS / "node_modules"

PROMETHEUS_VERSION: Final = "2.42.0+ds-5+deb12u1"
PROMETHEUS_SHA256: Final = {
    "amd64": "81d59a24fce84f7fbe97a45a4f2914b6a5881b5cd1db2a6a0e129e515e1a5f55",
}
# systemd-analyze and those of its libraries that a small machine may lack. Any version reads our
# units alike, so none is pinned; apt's signatures vouch for the bytes.
SYSTEMD_PACKAGES: Final = (
    "systemd",
    "libsystemd-shared",
    "libseccomp2",
    "libkmod2",
    "libapparmor1",
    "libip4tc2",
    "libpam0g",
    "libaudit1",
    "libcap-ng0",
)

# The TPM 2.0 that is a program, for tests and the demo. Any version speaks alike, so none is pinned.
SWTPM_PACKAGES: Final = ("swtpm", "swtpm-libs", "libtpms0", "libseccomp2", "libssl3")

# NVIDIA's own NVML, as Debian redistributes it in its section non-free: libraries that we did not
# write. Without a driver each answers "not loaded", which is what a test asks it.
NVML_SOURCES: Final = """Types: deb
URIs: {mirror}
Suites: bookworm trixie
Components: non-free
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""
NVML_LIBRARIES: Final[Mapping[str, tuple[str, str]]] = {
    "nvml-470": (
        "libnvidia-tesla-470-ml1=470.256.02-1~deb12u1",
        "14b876d2da6fc2b3271c2170a4e69f9ce06b67d608016b7bc1c9119883dc95c2",
    ),
    "nvml-535": (
        "libnvidia-ml1=535.261.03-1",
        "c729da6ab729309dc3f481fe4d38f04ea03b0793154b0962b60117d2f37d082e",
    ),
    "nvml-550": (
        "libnvidia-ml1=550.163.01-2",
        "01c1b67d511d7f52c6aa60e14ed56a8eb725d5dc85784a08214d6cb0f4fd1f89",
    ),
}
"""Package and version, and the SHA-256 of its amd64 file."""


class Unobtainable(Exception):
    """A tool cannot be had here; the message says why."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A tool that is not on this machine."""

    name: str
    why: str


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found) if found else None


def _candidates(name: str) -> tuple[Path | None, ...]:
    """Where a tool may be, best first: what we fetched and checked, then what is installed."""
    match name:
        case "prometheus" | "promtool":
            return (TOOLS / "prometheus" / "usr" / "bin" / name, _on_path(name))
        case "anvil":
            return (NODE_MODULES / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil",)
        case "solc":
            return (NODE_MODULES / "solc" / "package.json",)
        case "nvml_shim":
            return (ROOT / "build" / "nvml_shim" / "libnvidia-ml.so.1",)
        case "systemd-analyze":
            return (_on_path(name), TOOLS / "systemd" / name)
        case "swtpm":
            return (_on_path(name), TOOLS / name / name)
        case name if name in NVML_LIBRARIES:
            return (TOOLS / name / "libnvidia-ml.so.1",)
        case _:
            return (_on_path(name),)


def locate(name: str) -> Path | Missing:
    """The tool's path, or why there is none.

    Names: prometheus, promtool, anvil, solc (its package.json), node, nvml_shim (the library
    file), nvml-470, nvml-535 and nvml-550 (NVIDIA's library of that driver), systemd-analyze, swtpm,
    cc, or any program on PATH.
    """
    for path in _candidates(name):
        if path is not None and path.exists():
            return path
    reasons: Mapping[str, str] = {}
    if REASONS.exists():
        reasons = json.loads(REASONS.read_text())
    hint = "run `make shim`" if name == "nvml_shim" else "run `make tools`"
    return Missing(name, reasons.get(name, f"it is not installed; {hint}"))


def _run(argv: Sequence[str], cwd: Path) -> str:
    try:
        done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unobtainable(f"{argv[0]} is not installed on this machine") from error
    if done.returncode != 0:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Unobtainable(f"`{' '.join(argv)}` failed: {lines[-1] if lines else 'no output'}")
    return done.stdout


def _private_apt(folder: Path) -> tuple[str, ...]:
    """Options that give apt package lists of our own, for a user who may not write the system's."""
    state, cache = folder / "state", folder / "cache"
    (state / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (cache / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    return ("-o", f"Dir::State={state}", "-o", f"Dir::Cache={cache}")


def _download(folder: Path, packages: Sequence[str]) -> list[Path]:
    """The .deb files, from the sources this machine's apt is set to, signatures checked by apt."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.deb"):
        old.unlink()
    try:
        _run(["apt-get", "-q", "download", *packages], folder)
    except Unobtainable:
        # The system's lists are empty or out of date: fetch our own, then try once more.
        options = _private_apt(folder)
        _run(["apt-get", "-q", *options, "update"], folder)
        _run(["apt-get", "-q", *options, "download", *packages], folder)
    return sorted(folder.glob("*.deb"))


def _fetch_prometheus() -> None:
    architecture = _run(["dpkg", "--print-architecture"], ROOT).strip()
    if architecture not in PROMETHEUS_SHA256:
        raise Unobtainable(f"no checksum is pinned for {architecture}")
    folder = TOOLS / "download"
    (package,) = _download(folder, [f"prometheus={PROMETHEUS_VERSION}"])
    digest = hashlib.sha256(package.read_bytes()).hexdigest()
    if digest != PROMETHEUS_SHA256[architecture]:
        package.unlink()
        raise Unobtainable(f"{package.name} has SHA-256 {digest}, which is not the pinned one")
    unpacked = TOOLS / "prometheus.part"
    shutil.rmtree(unpacked, ignore_errors=True)
    _run(["dpkg", "-x", str(package), str(unpacked)], ROOT)
    for program in ("prometheus", "promtool"):
        _run([str(unpacked / "usr" / "bin" / program), "--version"], ROOT)
    shutil.rmtree(TOOLS / "prometheus", ignore_errors=True)
    unpacked.rename(TOOLS / "prometheus")
    package.unlink()


def _fetch_unpacked(name: str, packages: Sequence[str], program: str) -> Callable[[], None]:
    """A Debian program of one of these packages, run with the libraries of the others."""

    def fetch() -> None:
        target = TOOLS / name
        shutil.rmtree(target, ignore_errors=True)
        for package in _download(TOOLS / f"download-{name}", packages):
            _run(["dpkg", "-x", str(package), str(target)], ROOT)
            package.unlink()
        libraries = sorted({str(path.parent) for path in target.rglob("*.so*")})
        wrapper = target / program
        unpacked = target / "usr" / "bin" / program
        wrapper.write_text(
            f'#!/bin/sh\nLD_LIBRARY_PATH="{os.pathsep.join(libraries)}" exec "{unpacked}" "$@"\n'
        )
        wrapper.chmod(0o755)
        try:
            _run([str(wrapper), "--version"], ROOT)
        except Unobtainable:
            wrapper.unlink()
            raise

    return fetch


def _debian_mirror() -> str:
    """Where this machine's apt gets Debian from."""
    lists = Path("/etc/apt")
    files = (*sorted(lists.glob("sources.list.d/*")), lists / "sources.list")
    for file in files:
        if not file.is_file():
            continue
        for line in file.read_text().splitlines():
            words = [word for word in line.split() if not word.startswith("[")]
            if len(words) > 1 and words[0] in {"URIs:", "deb"} and words[1].endswith("/debian"):
                return words[1]
    raise Unobtainable("apt on this machine names no Debian mirror")


def _fetch_nvml(name: str) -> Callable[[], None]:
    def fetch() -> None:
        if _run(["dpkg", "--print-architecture"], ROOT).strip() != "amd64":
            raise Unobtainable("its checksum is pinned for amd64 alone")
        package, pinned = NVML_LIBRARIES[name]
        folder = TOOLS / f"download-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "sources").mkdir(parents=True)
        sources = folder / "sources" / "nvidia.sources"
        sources.write_text(NVML_SOURCES.format(mirror=_debian_mirror()))
        options = (
            *_private_apt(folder),
            *("-o", "Dir::State::status=/dev/null", "-o", "Dir::Etc::SourceList=/dev/null"),
            *("-o", f"Dir::Etc::SourceParts={sources.parent}"),
        )
        _run(["apt-get", "-q", *options, "update"], folder)
        _run(["apt-get", "-q", *options, "download", package], folder)
        (file,) = folder.glob("*.deb")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        if digest != pinned:
            raise Unobtainable(f"{file.name} has SHA-256 {digest}, which is not the pinned one")
        _run(["dpkg", "-x", str(file), str(folder / "unpacked")], ROOT)
        (library,) = (folder / "unpacked").rglob("libnvidia-ml.so.1")
        shutil.rmtree(TOOLS / name, ignore_errors=True)
        shutil.copytree(library.parent, TOOLS / name, symlinks=True)
        shutil.rmtree(folder)

    return fetch


def _fetch_npm() -> None:
    stamp = NODE_MODULES / ".lock.sha256"
    lock = hashlib.sha256((CONTRACTS / "package-lock.json").read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == lock:
        return
    _run(["npm", "ci", "--no-progress", "--loglevel=error"], CONTRACTS)
    stamp.write_text(lock)


def _require(name: str) -> Callable[[], None]:
    def check() -> None:
        if _on_path(name) is None:
            raise Unobtainable(f"{name} is not installed on this machine")

    return check


# What is fetched, and how. A tool already in place is left as it is; npm's packages are compared
# with the lock file each time.
FETCHERS: Final[tuple[tuple[tuple[str, ...], Callable[[], None]], ...]] = (
    (("prometheus", "promtool"), _fetch_prometheus),
    (("anvil", "solc"), _fetch_npm),
    (("systemd-analyze",), _fetch_unpacked("systemd", SYSTEMD_PACKAGES, "systemd-analyze")),
    (("swtpm",), _fetch_unpacked("swtpm", SWTPM_PACKAGES, "swtpm")),
    *(((name,), _fetch_nvml(name)) for name in NVML_LIBRARIES),
    (("node",), _require("node")),
    (("cc",), _require("cc")),
)


def fetch(only: Sequence[str] = ()) -> dict[str, str]:
    """Fetch what is missing, or of it what is named. Returns, for each that still is, why."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    reasons: dict[str, str] = {}
    for names, fetcher in FETCHERS:
        if only and not set(names) & set(only):
            continue
        from_npm = fetcher is _fetch_npm
        if not from_npm and not any(isinstance(locate(name), Missing) for name in names):
            continue
        try:
            fetcher()
        except Unobtainable as error:
            reasons.update(dict.fromkeys(names, str(error)))
    if only and REASONS.exists():
        earlier = json.loads(REASONS.read_text())
        reasons = {name: why for name, why in earlier.items() if name not in only} | reasons
    REASONS.write_text(json.dumps(reasons, indent=1, sort_keys=True) + "\n")
    return reasons


def main() -> int:
    """Fetch, say what could not be had, and leave the verdict to the tests that need it."""
    for name, why in sorted(fetch(sys.argv[1:]).items()):
        print(f"NOT AVAILABLE: {name}: {why}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
