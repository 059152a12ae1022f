"""Simulated TPMs for tests: real swtpm processes, each in a folder of its own, stopped at the end."""

from __future__ import annotations

import contextlib
import os
import pty
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

from assay_agent.tpm.device import Address
from demo.simulated_tpm import Maker, SimulatedTpm

_EXTEND = 0x182
_CAPABILITY = 0x17A
_HANDLES = 1
TRANSIENT = 0x80000000
SESSIONS = 0x02000000


@contextlib.contextmanager
def running(program: Path, folder: Path, maker: Maker | None = None) -> Iterator[SimulatedTpm]:
    """A TPM that runs, with its maker's certificate where one is given."""
    tpm = SimulatedTpm(program, folder)
    tpm.start()
    try:
        if maker is not None:
            tpm.manufacture(maker)
        yield tpm
    finally:
        tpm.stop()


def loaded(tpm: SimulatedTpm, kind: int = TRANSIENT) -> list[int]:
    """The handles that the TPM holds: keys, or sessions."""
    question = b"".join(number.to_bytes(4, "big") for number in (_HANDLES, kind, 64))
    answer = tpm.run(_CAPABILITY, (), question)
    count = int.from_bytes(answer[5:9], "big")
    handles = [int.from_bytes(answer[9 + 4 * at : 13 + 4 * at], "big") for at in range(count)]
    return [handle for handle in handles if handle >> 24 == kind >> 24]


def extend(tpm: SimulatedTpm, pcr: int, digest: bytes) -> None:
    """Extends a PCR of the SHA-256 bank, as a boot that differs does."""
    tpm.run(_EXTEND, (pcr,), b"\0\0\0\x01\0\x0b" + digest)


@contextlib.contextmanager
def as_a_device(tpm: SimulatedTpm) -> Iterator[Address]:
    """A character device that leads to the TPM: what the kernel's is, on machines that have none."""
    master, slave = pty.openpty()
    tty.setraw(slave)

    def relay() -> None:
        while True:
            try:
                command = os.read(master, 4096)
            except OSError:
                return
            if command == b"end":
                return
            transport = tpm.address.open()
            try:
                answer = transport.transact(command)
            finally:
                transport.close()
            os.write(master, answer)

    thread = threading.Thread(target=relay)
    thread.start()
    try:
        yield Address("device", os.ttyname(slave))
    finally:
        os.write(slave, b"end")
        thread.join()
        os.close(slave)
        os.close(master)
