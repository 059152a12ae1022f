"""A host's /sys, /proc and /dev as files in a folder, for `source.host_root`.

    machine = FakeMachine(tmp_path / "root").gpus(8)
    machine.bind(3, "vfio-pci")

The addresses are those of the test driver library's GPUs (`shim_address`), so that bus and library
agree until a test says otherwise.
"""

import json
import os
import time
from pathlib import Path
from typing import Self

BOOT_ID = "7e3c5f7a-0b5d-4a2e-9a51-0d6a0c9f1b11"


def shim_address(slot: int) -> str:
    """Where the test driver library puts a GPU, as sysfs writes it."""
    return f"0000:{SHIM_BUSES[slot]:02x}:00.0"


SHIM_BUSES = bytes.fromhex("1b4352619dc3d1df1c4453629ec4d2e0")


class FakeMachine:
    """Real files and links; nothing is patched."""

    def __init__(self, root: Path, *, version: str = "590.48.01") -> None:
        self.root = root
        self.devices = root / "sys/bus/pci/devices"
        self.drivers = root / "sys/bus/pci/drivers"
        self.devices.mkdir(parents=True)
        (root / "dev").mkdir()
        self.write("proc/sys/kernel/random/boot_id", f"{BOOT_ID}\n")
        self.module(version)
        self.function("0000:00:00.0", vendor="0x8086", kind="0x060000")

    def write(self, path: str, text: str) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def module(self, version: str) -> Self:
        """The kernel module that is loaded."""
        self.write(
            "proc/driver/nvidia/version",
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build\n"
            "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n",
        )
        self.write("sys/module/nvidia/version", f"{version}\n")
        return self

    def gpus(self, count: int) -> Self:
        """GPUs where the test driver library has them, bound to NVIDIA's driver."""
        for slot in range(count):
            self.add(shim_address(slot))
        return self

    def add(self, address: str, *, driver: str = "nvidia", kind: str = "0x030200") -> Self:
        self.function(address, vendor="0x10de", kind=kind)
        if driver:
            self.bind(address, driver)
        return self

    def function(self, address: str, *, vendor: str, kind: str) -> Path:
        """Any function of the bus."""
        folder = self.devices / address
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
        return folder

    def bind(self, place: int | str, driver: str) -> Self:
        """Give a function to a driver; "" takes it away from its own."""
        link = self.devices / _address(place) / "driver"
        link.unlink(missing_ok=True)
        if driver:
            (self.drivers / driver).mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.drivers / driver)
        return self

    def remove(self, place: int | str) -> Self:
        """Take a function off the bus."""
        folder = self.devices / _address(place)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return self

    def device_file(self, place: int | str, minor: int, *, there: bool = True) -> Self:
        """What the driver says of a GPU's device file, and the file itself."""
        self.write(
            f"proc/driver/nvidia/gpus/{_address(place)}/information",
            f"Model: \t\t NVIDIA H100\nIRQ:   \t\t 0\nDevice Minor: \t {minor}\n",
        )
        if there:
            (self.root / "dev" / f"nvidia{minor}").touch()
        return self

    def journal(self) -> Self:
        """A journal that may be read; what is in it, a stand-in for journalctl tells."""
        self.write("var/log/journal/0123456789abcdef/system.journal", "")
        return self

    def kmsg(self) -> "FakeKmsg":
        return FakeKmsg(self.root / "dev/kmsg")


class FakeKmsg:
    """A FIFO in the place of /dev/kmsg; open while the test holds it, for a FIFO ends."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.sequence = 0

    def say(self, text: str, *, facility: int = 0, at_us: int | None = None) -> None:
        """One record, as the kernel's /dev/kmsg gives it to a reader."""
        self.sequence += 1
        now_us = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1_000 if at_us is None else at_us
        text = text.replace("\\", "\\x5c").replace("\n", "\\x0a")
        self.raw(f"{facility * 8 + 3},{self.sequence},{now_us},-;{text}\n SUBSYSTEM=pci\n".encode())

    def xid(self, place: int | str, code: int, *, at_us: int | None = None) -> None:
        where = _address(place).rpartition(".")[0]
        self.say(f"NVRM: Xid (PCI:{where}): {code}, pid=1, name=x, GPU told so.", at_us=at_us)

    def raw(self, data: bytes) -> None:
        os.write(self._file, data)

    def close(self) -> None:
        os.close(self._file)


class FakeJournal:
    """A stand-in for journalctl: it notes its arguments, and says what the test says."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.program = folder / "journalctl"
        self._arguments = folder / "arguments"
        self._lines = folder / "lines"
        os.mkfifo(self._lines)
        self._file = os.open(self._lines, os.O_RDWR | os.O_NONBLOCK)
        self.program.write_text(
            f'#!/bin/sh\necho "$@" >> {self._arguments}\nexec cat {self._lines}\n'
        )
        self.program.chmod(0o755)
        self.cursor = 0

    @property
    def starts(self) -> list[list[str]]:
        """The arguments of each start."""
        if not self._arguments.exists():
            return []
        return [line.split() for line in self._arguments.read_text().splitlines()]

    def say(
        self,
        text: str | list[int] | None,
        *,
        facility: str = "0",
        transport: str = "kernel",
        at_ms: int | None = None,
    ) -> None:
        """One line, as `journalctl --output=json` writes it."""
        self.cursor += 1
        at_us = time.time_ns() // 1_000 if at_ms is None else at_ms * 1_000
        line = {
            "__CURSOR": f"s=1;i={self.cursor:x};b=2",
            "__REALTIME_TIMESTAMP": str(at_us),
            "__MONOTONIC_TIMESTAMP": "1",
            "_BOOT_ID": BOOT_ID.replace("-", ""),
            "_TRANSPORT": transport,
            "SYSLOG_FACILITY": facility,
            "MESSAGE": text,
        }
        self.raw(json.dumps(line).encode() + b"\n")

    def xid(self, place: int | str, code: int, *, at_ms: int | None = None) -> None:
        where = _address(place).rpartition(".")[0]
        self.say(f"NVRM: Xid (PCI:{where}): {code}, pid=1, name=x, x", at_ms=at_ms)

    def raw(self, data: bytes) -> None:
        os.write(self._file, data)

    def close(self) -> None:
        os.close(self._file)


def _address(place: int | str) -> str:
    return place if isinstance(place, str) else shim_address(place)
