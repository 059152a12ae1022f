"""Where each GPU was last seen on the bus, kept over restarts of the agent.

NVML does not name a GPU that a virtual machine has. One that went to its guest before the agent
was started is known by its place alone: it is passed through, and not lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from assay_agent import state_file
from assay_agent.machine.pci import GPUS_MAX
from assay_core.leaves import SUBJECT_BYTES
from assay_core.pci import pci_address

FILE: Final = "gpu-addresses.json"
_FILE_BYTES_MAX: Final = 64 * 1024


class Addresses:
    """GPUs by their subject, each with the address at which it was seen last."""

    def __init__(self, state_dir: Path | None) -> None:
        self._file = None if state_dir is None else state_dir / FILE
        self._kept = self._load()

    def keep(self, seen: Mapping[bytes, str]) -> None:
        """Takes where GPUs are now; a place where another one is now is no longer theirs."""
        taken = set(seen.values())
        others = {s: a for s, a in self._kept.items() if s not in seen and a not in taken}
        kept = dict([*others.items(), *seen.items()][-GPUS_MAX:])
        if kept != self._kept:
            self._kept = kept
            self._save()

    def without(self, seen: Mapping[bytes, str]) -> dict[bytes, str]:
        """Those that are not among the GPUs of this run of the agent."""
        return {s: a for s, a in self._kept.items() if s not in seen}

    def _save(self) -> None:
        if self._file is None:
            return
        named = {subject.hex(): address for subject, address in self._kept.items()}
        # Where the disk is full, it is known for as long as this agent runs.
        state_file.replace(self._file, msgspec.json.encode(named))

    def _load(self) -> dict[bytes, str]:
        if self._file is None:
            return {}
        try:
            with self._file.open("rb") as file:
                text = file.read(_FILE_BYTES_MAX)
            named = msgspec.json.decode(text, type=dict[str, str])
            kept = {bytes.fromhex(name): pci_address(place) for name, place in named.items()}
        except (OSError, ValueError):  # none yet, or none that can be read
            return {}
        return {
            subject: address
            for subject, address in kept.items()
            if address is not None and len(subject) == SUBJECT_BYTES
        }
