"""Small files in the state directory that the agent keeps for its next run, and can do without."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_WRITE: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC


def replace(file: Path, data: bytes) -> bool:
    """Puts data in a file's place as a whole. False where the disk takes no write: all is as before."""
    fresh = file.with_suffix(".new")
    try:
        with os.fdopen(os.open(fresh, _WRITE, 0o600), "wb") as opened:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        fresh.replace(file)
    except OSError:
        return False
    return True
