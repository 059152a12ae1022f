"""Addresses on the PCI bus: the one form in which every witness's address is compared."""

from __future__ import annotations

from typing import Final

_HEX: Final = frozenset("0123456789abcdef")
_FUNCTIONS: Final = frozenset("01234567")


def pci_address(text: str) -> str | None:
    """An address as sysfs writes it, "0000:18:00.0"; None for what is none.

    NVML writes the domain in eight digits, the kernel's log leaves out the function. Written
    without `re`: the driver's process is counted in KiB.
    """
    place, dot, function = text.lower().partition(".")
    domain, _, slot = place.partition(":")
    bus, _, device = slot.partition(":")
    if not (4 <= len(domain) <= 8 and len(bus) == len(device) == 2):
        return None
    if not set(domain + bus + device) <= _HEX or (dot and function not in _FUNCTIONS):
        return None
    return f"{int(domain, 16):04x}:{bus}:{device}.{function or 0}"
