"""The file that node-exporter's textfile collector reads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

_MODE: Final = 0o644
"""For node-exporter's user to read."""


def replace(name: str, pages: Iterable[str]) -> None:
    """Writes the pages to a file beside `name` and puts it in its place. Raises OSError.

    The name ends in .prom; what is half written does not, so that a collector that comes in
    between reads the older one.
    """
    path = Path(name)
    fresh = path.with_name(f".{path.name}.new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(pages)
        fresh.chmod(_MODE)
        fresh.replace(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise
