"""The file that node-exporter's textfile collector reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE: Final = 0o644
"""For node-exporter's user to read."""


def replace(name: str, pages: Iterable[str]) -> None:
    """Writes the pages to a file beside `name` and puts it in its place. Raises OSError.

    The name ends in .prom; what is half written does not, so that a collector that comes in
    between reads the older one. A folder of textfiles may be one that others write to: what they
    put in the way of the new file (a link to another, a pipe) is taken away and never written to.
    """
    path = Path(name)
    fresh = path.with_name(f".{path.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, _WRITE, _MODE), "w", encoding="utf-8") as file:
            file.writelines(pages)
            os.fchmod(file.fileno(), _MODE)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
