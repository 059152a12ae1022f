"""Which installed package a file is from, by the package manager's own records, read as files.

Debian's and Arch's are plain text. RPM's are in a database of its own: not read, and said so.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Final

from assay_core.leaves import Reason

NONE: Final = "none"
"""Said where there are records, and no package has the file."""

_DPKG: Final = "var/lib/dpkg"
_PACMAN: Final = "var/lib/pacman/local"
_FILES_AT_ONCE: Final = 8
_LINES_AT_ONCE: Final = 2_000
_PACKAGES_MAX: Final = 20_000
_LIST_BYTES_MAX: Final = 16 * 1024 * 1024


async def owner(root: Path, path: str) -> str | Reason:
    """Name and version of the package that has a file, or NONE; a reason where nobody can tell.

    Gives way to other tasks as it goes: there may be thousands of packages.
    """
    if (root / _DPKG / "info").is_dir():
        name = await _dpkg(root / _DPKG / "info", path)
        if name is None:
            return NONE
        return f"{name} {await _dpkg_version(root / _DPKG / 'status', name)}"
    if (root / _PACMAN).is_dir():
        return await _pacman(root / _PACMAN, path) or NONE
    return Reason.NOT_SUPPORTED


async def _dpkg(info: Path, path: str) -> str | None:
    wanted = _lines(path, prefix=b"/")
    # NVIDIA's own first: the others are looked through only for a file that is none of theirs.
    names = sorted(_names(info, ".list"), key=lambda name: ("nvidia" not in name, name))
    for count, name in enumerate(names):
        if count % _FILES_AT_ONCE == _FILES_AT_ONCE - 1:
            await asyncio.sleep(0)
        if _holds(info / name, wanted):
            return name.removesuffix(".list").partition(":")[0]
    return None


async def _dpkg_version(status: Path, name: str) -> str:
    """The version of an installed package; "?" where its record has none."""
    found = False
    try:
        with status.open(encoding="utf-8", errors="replace") as lines:
            for count, line in enumerate(lines):
                if count % _LINES_AT_ONCE == _LINES_AT_ONCE - 1:
                    await asyncio.sleep(0)
                if line.startswith("Package: "):
                    found = line[9:].strip() == name
                elif found and line.startswith("Version: "):
                    return line[9:].strip()
    except OSError:
        pass  # the name is worth telling without it
    return "?"


async def _pacman(local: Path, path: str) -> str | None:
    wanted = _lines(path, prefix=b"")
    for count, name in enumerate(_names(local, "")):
        if count % _FILES_AT_ONCE == _FILES_AT_ONCE - 1:
            await asyncio.sleep(0)
        if _holds(local / name / "files", wanted):
            package, version, release = [*name.rsplit("-", 2), "?", "?"][:3]
            return f"{package} {version}-{release}"
    return None


def _lines(path: str, *, prefix: bytes) -> tuple[bytes, ...]:
    """The line a list has for a file. Where /lib is /usr/lib, a list may have either."""
    bare = os.fsencode(path).lstrip(b"/")
    other = bare[4:] if bare.startswith(b"usr/") else b"usr/" + bare
    return (b"\n" + prefix + bare + b"\n", b"\n" + prefix + other + b"\n")


def _names(folder: Path, suffix: str) -> list[str]:
    try:
        return sorted(one.name for one in folder.iterdir() if one.name.endswith(suffix))[
            :_PACKAGES_MAX
        ]
    except OSError:
        return []


def _holds(file: Path, wanted: tuple[bytes, ...]) -> bool:
    try:
        with file.open("rb") as listing:
            text = b"\n" + listing.read(_LIST_BYTES_MAX) + b"\n"
    except OSError:
        return False
    return any(line in text for line in wanted)
