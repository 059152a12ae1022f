"""What signs under the test driver library and the test corelib, and what starts corelib's program.

A device authority listens at a unix socket (tests/nvml_shim/authority.h) and answers for GPUs that
sign as NVIDIA's do, under a root of our own. A test makes a GPU answer wrongly with `say`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.nvidia import Device, Maker
from tests.fakes.shim import build_shim

CHAIN_PEM, CHAIN_SPDM, REPORT, COUNT = b"C", b"D", b"R", b"G"
NONCE_BYTES = 32
_QUESTION_BYTES = 2 + NONCE_BYTES


def pem(chain: tuple[x509.Certificate, ...]) -> bytes:
    """Leaf first, as NVML gives it."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in chain)


def spdm_chain(chain: tuple[x509.Certificate, ...]) -> bytes:
    """The root's first, after length, two reserved bytes and 48 of the root's hash."""
    certificates = b"".join(one.public_bytes(Encoding.DER) for one in reversed(chain))
    return (52 + len(certificates)).to_bytes(2, "little") + bytes(2 + 48) + certificates


class DeviceAuthority:
    """GPUs that answer for whoever asks at `socket`; a context manager."""

    def __init__(self, gpus: int = 8) -> None:
        self.maker = Maker()
        self.devices: list[Device] = [self.maker.device(0x1000 + slot) for slot in range(gpus)]
        # A socket's path has 107 bytes at most: pytest's folders may be deeper.
        self._folder = tempfile.mkdtemp(prefix="assay-")
        self.socket = str(Path(self._folder) / "authority")
        self.asked: list[tuple[bytes, int, bytes]] = []
        self._said: dict[tuple[bytes, int], tuple[int, bytes, int | None]] = {}
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.socket)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def say(
        self, what: bytes, slot: int, data: bytes = b"", *, code: int = 0, size: int | None = None
    ) -> None:
        """From now on this GPU answers so; `size` is what it says that there is."""
        self._said[(what, slot)] = (code, data, size)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        shutil.rmtree(self._folder)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                question = connection.recv(_QUESTION_BYTES, socket.MSG_WAITALL)
                if len(question) == _QUESTION_BYTES:
                    connection.sendall(self._answer(question[:1], question[1], question[2:]))

    def _answer(self, what: bytes, slot: int, nonce: bytes) -> bytes:
        self.asked.append((what, slot, nonce))
        code, data, size = self._said.get((what, slot)) or (0, self._truth(what, slot, nonce), None)
        if size is None:
            size = len(self.devices) if what == COUNT else len(data)
        return code.to_bytes(4, "little") + size.to_bytes(4, "little") + data

    def _truth(self, what: bytes, slot: int, nonce: bytes) -> bytes:
        if what == COUNT:
            return b""
        device = self.devices[slot]
        if what == REPORT:
            return device.answer(nonce).report
        return pem(device.chain) if what == CHAIN_PEM else spdm_chain(device.chain)


def corelib_env(authority: DeviceAuthority, folder: Path | None = None) -> dict[str, str]:
    """The environment of a host with corelib installed in `folder`; ours, unless another is named."""
    folder = build_shim() / "corelib" if folder is None else folder
    return {
        **os.environ,
        "LD_LIBRARY_PATH": str(folder),
        "ASSAY_CORELIB_AUTHORITY": authority.socket,
    }


ONE_SHOT = (sys.executable, "-I", "-m", "assay_agent.evidence.corelib_once")


@contextmanager
def socket_unit(
    env: Mapping[str, str], command: tuple[str, ...] = ONE_SHOT
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Does for a test what systemd does for assay-corelib.socket, with Accept=yes and one
    connection at a time: its path, and the programs it started. Ends what is left of them."""
    folder = tempfile.mkdtemp(prefix="assay-")
    path = str(Path(folder) / "corelib.sock")
    started: list[subprocess.Popen[bytes]] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    ours = connection.fileno()
                    if all(program.poll() is not None for program in started):
                        # Output too: systemd gives it to what does not say where else it goes.
                        started.append(subprocess.Popen(command, stdin=ours, stdout=ours, env=env))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield path, started
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()
            for program in started:
                program.kill()
                program.wait()
            shutil.rmtree(folder)
