"""The agent's own process, by the names every Prometheus client library uses."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from assay_agent.metrics.text import Family, Kind, Row

_SELF: Final = Path("/proc/self")
_STAT: Final = Path("/proc/stat")

_CPU: Final = Family(
    "process_cpu_seconds", Kind.COUNTER, "User and system CPU time of the agent", "seconds"
)
_START: Final = Family(
    "process_start_time_seconds", Kind.GAUGE, "Start of the agent since 1970", "seconds"
)
_RESIDENT: Final = Family(
    "process_resident_memory_bytes", Kind.GAUGE, "Resident memory of the agent", "bytes"
)
_VIRTUAL: Final = Family(
    "process_virtual_memory_bytes", Kind.GAUGE, "Virtual memory of the agent", "bytes"
)
_FILES: Final = Family("process_open_fds", Kind.GAUGE, "Open file descriptors of the agent")
_FILES_MAX: Final = Family(
    "process_max_fds", Kind.GAUGE, "Most file descriptors that the agent may have open"
)


@cache
def _boot_s() -> int | None:
    for line in _STAT.read_text(encoding="ascii").splitlines():
        if line.startswith("btime "):
            return int(line.split()[1])
    return None


def families() -> Iterator[tuple[Family, list[Row]]]:
    """What /proc says; nothing where it cannot be read."""
    try:
        # What follows the command's name, which may itself hold spaces and brackets.
        stat = (_SELF / "stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        boot_s, files = _boot_s(), len(os.listdir(_SELF / "fd"))  # noqa: PTH208 - no paths are needed
    except OSError:
        return
    ticks, page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
    yield _CPU, [("", (int(fields[11]) + int(fields[12])) / ticks)]
    if boot_s is not None:
        yield _START, [("", boot_s + int(fields[19]) / ticks)]
    yield _VIRTUAL, [("", int(fields[20]))]
    yield _RESIDENT, [("", int(fields[21]) * page)]
    yield _FILES, [("", files)]
    yield _FILES_MAX, [("", resource.getrlimit(resource.RLIMIT_NOFILE)[0])]
