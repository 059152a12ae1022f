"""What answers as NVML: the library that the driver's process has mapped, and the kernel's module.

The library is made to be replaced, and NVIDIA publishes one that makes GPUs up. This is what the
host itself says of it: evidence that is easy to check and not easy to make up consistently, and no
proof.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from assay_agent.machine.packages import owner
from assay_core.leaves import Reason

BYTES_MAX: Final = 256 * 1024 * 1024
"""A library is 2 MiB; a larger file is not read to its end."""
NAME: Final = "libnvidia-ml.so"

_TEXT_BYTES_MAX: Final = 256
_MAPS_BYTES_MAX: Final = 4 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_DELETED: Final = " (deleted)"
_VERSION: Final = re.compile(r"Kernel Module\s+(?:for \S+\s+)?(\d{1,6}(?:\.\d{1,6}){1,3})\b")
_BARE_VERSION: Final = re.compile(r"\d{1,6}(?:\.\d{1,6}){1,3}")


@dataclass(frozen=True, slots=True)
class Mapped:
    """A library in a process's memory. `deleted`: its file is not at its path any more."""

    path: str
    inode: int
    deleted: bool


@dataclass(frozen=True, slots=True)
class Evidence:
    """The platform leaf's fields of the library."""

    path: str | Reason
    inode: int | Reason
    sha256: str | Reason
    package: str | Reason


def mapped(process: int | str, proc: Path = Path("/proc")) -> Mapped | Reason:
    """The driver's library in a process ("self": this one), by its maps.

    NOT_SAMPLED where the process is gone or has none, INVALID_VALUE where it has several.
    """
    try:
        with (proc / str(process) / "maps").open("rb") as file:
            maps = file.read(_MAPS_BYTES_MAX)
    except PermissionError:
        return Reason.NO_PERMISSION
    except OSError:
        return Reason.NOT_SAMPLED
    found = set()
    for line in maps.splitlines():
        cells = line.split(maxsplit=5)  # range, rights, offset, device, inode, path
        if len(cells) == 6 and b"/" + NAME.encode() in cells[5] and cells[4].isdigit():
            path = cells[5].decode(errors="replace")
            deleted = path.endswith(_DELETED)
            path = path.removesuffix(_DELETED)
            if path.rpartition("/")[2].startswith(NAME):
                found.add(Mapped(path, int(cells[4]), deleted))
    if len(found) > 1:
        return Reason.INVALID_VALUE
    return found.pop() if found else Reason.NOT_SAMPLED


class Library:
    """Finds out about the library; reads a file again only when it is another."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._key: tuple[str, int, int, int, int] | None = None
        self._known: tuple[str | Reason, str | Reason] = (Reason.NOT_SAMPLED, Reason.NOT_SAMPLED)

    async def evidence(self, process: int | str) -> Evidence:
        """What is known of the library that a process has mapped."""
        found = mapped(process)
        if isinstance(found, Reason):
            return Evidence(found, found, found, found)
        sha256, package = await self._file(found)
        path = found.path
        if len(path.encode()) > _TEXT_BYTES_MAX:
            return Evidence(Reason.INVALID_VALUE, found.inode, sha256, package)
        return Evidence(path, found.inode, sha256, package)

    async def _file(self, found: Mapped) -> tuple[str | Reason, str | Reason]:
        if found.deleted:  # what is at its path now is another
            return Reason.NOT_SAMPLED, Reason.NOT_SAMPLED
        try:
            state = os.stat(found.path)  # noqa: PTH116  # no more than a look at a local file
        except OSError:
            return Reason.NOT_SAMPLED, Reason.NOT_SAMPLED
        key = (found.path, state.st_dev, state.st_ino, state.st_mtime_ns, state.st_size)
        if key != self._key:
            sha256 = await _sha256(found.path)
            package = await owner(self._root, found.path)
            if isinstance(package, str) and len(package.encode()) > _TEXT_BYTES_MAX:
                package = Reason.INVALID_VALUE
            self._key, self._known = key, (sha256, package)
        return self._known


def module_version(root: Path) -> str | Reason:
    """The version of the kernel's module that is loaded; DRIVER_ABSENT where none is."""
    found = _VERSION.search(_text(root / "proc/driver/nvidia/version"))
    if found is not None:
        return found[1]
    bare = _BARE_VERSION.fullmatch(_text(root / "sys/module/nvidia/version").strip())
    return Reason.DRIVER_ABSENT if bare is None else bare[0]


async def _sha256(path: str) -> str | Reason:
    """Of a file, a part at a time: the library's 2 MiB take some milliseconds."""
    digest, size = hashlib.sha256(), 0
    try:
        with Path(path).open("rb") as file:  # noqa: ASYNC230  # a part at a time
            while chunk := file.read(_CHUNK_BYTES):
                size += len(chunk)
                if size > BYTES_MAX:
                    return Reason.INVALID_VALUE
                digest.update(chunk)
                await asyncio.sleep(0)
    except PermissionError:
        return Reason.NO_PERMISSION
    except OSError:
        return Reason.NOT_SAMPLED
    return digest.hexdigest()


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(4096).decode("ascii", "replace")
    except OSError:
        return ""
