"""What the agent asks of the host it runs on: its clocks, its boot, its service manager."""

from __future__ import annotations

import os
import secrets
import socket
import time
import uuid
from pathlib import Path
from typing import Final

from assay_core.errors import HostError
from assay_core.header import Source

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """The host's clocks, milliseconds."""

    def utc_ms(self) -> int:
        """UTC since 1970; may step."""
        return time.time_ns() // 1_000_000

    def boottime_ms(self) -> int:
        """CLOCK_BOOTTIME: since boot, sleep included; never steps."""
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id(source: Source) -> bytes:
    """The kernel's boot id, 16 bytes; made up for a host that is simulated or replayed."""
    if source is not Source.NVML:
        return secrets.token_bytes(16)
    try:
        return uuid.UUID(_BOOT_ID.read_text(encoding="ascii").strip()).bytes
    except (OSError, ValueError) as error:
        raise HostError(f"{_BOOT_ID} cannot be read: {error}; is /proc mounted?") from error


def notify(state: str) -> None:
    """Tells systemd, where it started us: sd_notify(3) over NOTIFY_SOCKET."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as endpoint:
        endpoint.connect("\0" + address[1:] if address.startswith("@") else address)
        endpoint.send(state.encode())


def watchdog_s() -> float | None:
    """How often systemd wants to hear WATCHDOG=1, seconds: half of what it allows. None: not."""
    allowed = os.environ.get("WATCHDOG_USEC", "")
    return int(allowed) / 2_000_000 if allowed.isdigit() else None
