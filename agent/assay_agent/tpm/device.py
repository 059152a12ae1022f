"""Where the TPM is, and how bytes get there: the kernel's device, or a simulated TPM's socket."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import Final, Literal, Protocol, Self, get_args

from assay_agent.tpm import wire
from assay_agent.tpm.errors import TpmBusy, TpmError

TIMEOUT_S: Final = 120.0
"""For one command. A slow TPM looks for an RSA key's primes for a minute."""
_CONNECT_S: Final = 10

Kind = Literal["device", "unix", "tcp"]


class Transport(Protocol):
    """A way to one TPM."""

    def transact(self, command: bytes) -> bytes:
        """The answer to a command. Raises TpmError or TpmBusy."""
        ...

    def close(self) -> None:
        """Ends it. The kernel's resource manager forgets what was loaded through it."""
        ...


class Place(Protocol):
    """Where a TPM is."""

    def open(self) -> Transport:
        """A transport of its own to this TPM. Raises TpmError."""
        ...


@dataclass(frozen=True, slots=True)
class Address:
    """Where a TPM is: `device:/dev/tpmrm0`, `unix:/a/socket` or `tcp:127.0.0.1:2321`."""

    kind: Kind
    place: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError where it is none."""
        name, _, place = text.partition(":")
        for kind in get_args(Kind):
            known: Kind = kind
            if name == known and place.isprintable() and _fits(known, place):
                return cls(known, place)
        raise ValueError(
            f"{text!r} is no place of a TPM: device:/dev/tpmrm0, or for a simulated one unix:/PATH or "
            "tcp:NAME:PORT"
        )

    def __str__(self) -> str:
        """As it stands in the configuration."""
        return f"{self.kind}:{self.place}"

    def open(self) -> Transport:
        """A transport of its own to this TPM. Raises TpmError."""
        try:
            return Descriptor(self._descriptor(), str(self))
        except OSError as error:
            raise explain(error, str(self)) from error

    def _descriptor(self) -> int:
        if self.kind == "device":
            file = os.open(self.place, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
            if not stat.S_ISCHR(os.fstat(file).st_mode):
                os.close(file)
                raise OSError(errno.ENOTTY, "it is no character device")
            return file
        family = socket.AF_UNIX if self.kind == "unix" else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as connection:
            # Bounds the connecting too, which on a Unix socket Python's own timeout does not.
            patience = struct.pack("ll", _CONNECT_S, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
            host, _, port = self.place.rpartition(":")
            connection.connect(self.place if self.kind == "unix" else (host, int(port)))
            connection.setblocking(False)
            return connection.detach()


def _fits(kind: Kind, place: str) -> bool:
    if kind != "tcp":
        return place.startswith("/")
    host, _, port = place.rpartition(":")
    return bool(host) and port.isdecimal() and 0 < int(port) < 65_536


class Descriptor:
    """A transport over a file descriptor that does not block."""

    def __init__(self, file: int, where: str, timeout_s: float = TIMEOUT_S) -> None:
        self._file = file
        self._where = where
        self._timeout_s = timeout_s
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)

    def transact(self, command: bytes) -> bytes:
        """One write, since for a device each is a command; then reads, until the answer is whole."""
        deadline_s = time.monotonic() + self._timeout_s
        try:
            if os.write(self._file, command) != len(command):
                raise TpmError(f"the TPM at {self._where} took half a command: is it one?")
            answer = b""
            while len(answer) < wire.HEADER_BYTES or len(answer) < wire.length(answer):
                left_ms = (deadline_s - time.monotonic()) * 1000
                if left_ms <= 0 or not self._poll.poll(left_ms):
                    raise TpmBusy(
                        f"the TPM at {self._where} gave no answer within {self._timeout_s:g} s"
                    )
                part = os.read(self._file, wire.BYTES_MAX)
                if not part:
                    raise TpmError(f"the TPM at {self._where} went away; was it stopped?")
                answer += part
        except OSError as error:
            raise explain(error, self._where) from error
        return answer

    def close(self) -> None:
        """Ends it."""
        os.close(self._file)


def explain(error: OSError, where: str) -> TpmError:
    """What the operating system says of a TPM, in words that say what to do."""
    match error.errno:
        case errno.ECONNREFUSED | errno.ENOENT if not where.startswith("device:"):
            advice = "nobody listens there: start the simulated TPM"
        case errno.ENOENT | errno.ENXIO | errno.ENODEV:
            advice = (
                "there is none: enable the TPM in the machine's firmware, load its driver, or set "
                "tpm.device to where it is"
            )
        case errno.EACCES | errno.EPERM:
            advice = "the agent may not use it: add the agent's user to the device's group, tss"
        case errno.EBUSY:
            advice = "another program has it to itself: give the agent /dev/tpmrm0, which is shared"
        case _:
            advice = error.strerror or str(error)
    return TpmError(f"the TPM at {where} cannot be reached: {advice}")
