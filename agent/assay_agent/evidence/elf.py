"""For which processors a library was built: as much of ELF as it takes to ask."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_MAGIC: Final = b"\x7fELF"
_HEAD_BYTES: Final = 20
_MACHINE: Final = slice(18, 20)
_CLASS: Final = 4
_FOLDERS: Final = ("lib", "lib64", "usr/lib", "usr/lib64", "usr/local/lib", "opt/nvidia/lib")


def of_other_processors(name: str) -> Path | None:
    """A library of this name where the loader looks, if it is not for this process's processors."""
    ours = _machine(Path(sys.executable))
    for folder in _folders():
        path = folder / name
        theirs = _machine(path)
        if theirs is not None and theirs != ours:
            return path
    return None


def _folders() -> list[Path]:
    """LD_LIBRARY_PATH, then the usual places and, as Debian has them, one level below."""
    asked = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    usual = [Path("/") / folder for folder in _FOLDERS]
    below = [path for folder in usual for path in sorted(folder.glob("*-linux-gnu*"))]
    return [*(Path(folder) for folder in asked if folder), *usual, *below]


def _machine(path: Path) -> tuple[int, bytes] | None:
    """Word size and processor; None for what is no ELF file."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return None
    if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
        return None
    return head[_CLASS], head[_MACHINE]
