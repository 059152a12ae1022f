"""The command `assay-valuer`; `commands` has what it does."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. 3 where the extra it needs is not installed."""
    # One thread for linear algebra: ours is small, several wait for each other longer than it takes,
    # and the last digit would hang on how many there are. numpy reads it when it is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from assay_valuer.cli import commands  # noqa: PLC0415 - so that what is missing can be said
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("assay_"):
            raise
        sys.stderr.write(
            f"assay-valuer: not installed: {error.name}; install gpu-assay[valuer,oracle]\n"
        )
        return 3
    return commands.main(arguments)
