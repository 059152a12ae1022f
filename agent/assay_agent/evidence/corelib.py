"""NVIDIA's corelib, libcorelib.so.1, through ctypes: SPDM with a Blackwell GPU, without CC mode.

Written for exactly what NVIDIA publishes of it: the eleven functions, their signatures and the order
of calls in nv-attestation-sdk-cpp/src/gpu/corelib_client.cpp of NVIDIA/attestation-sdk (Apache-2.0).
The library itself is closed, and needs root. It was never run against hardware by us.
"""

from __future__ import annotations

import ctypes
from contextlib import ExitStack
from typing import Final, Protocol

from assay_agent.evidence import elf
from assay_agent.evidence.corelib_wire import GPUS_MAX, Gpu, Told
from assay_agent.evidence.why import Why

LIBRARY: Final = "libcorelib.so.1"
_REPORT_BYTES_MAX: Final = 0x2000
_CERTIFICATES_BYTES_MAX: Final = 32 * 1024
_SLOTS_MAX: Final = 8
_ABOUT_BYTES: Final = 256
_ALL_MEASUREMENTS: Final = 0xFF
_CODES: Final = (
    "success",
    "failed",
    "invalid argument",
    "buffer too small",
    "not found",
    "not supported",
    "out of memory",
)
"""corelib_error_t, from 0."""


class _Function(Protocol):
    def __call__(self, *arguments: object) -> int: ...


class _Digest(ctypes.Structure):
    """corelib_spdm_digest_t."""

    _fields_ = (("index", ctypes.c_uint8), ("data", ctypes.c_uint8 * 52))


_Size = ctypes.POINTER(ctypes.c_size_t)
_Handle = ctypes.POINTER(ctypes.c_void_p)
_SIGNATURES: Final = {
    "corelib_device_manager_create": (ctypes.c_int, _Handle),
    "corelib_device_manager_destroy": (None, ctypes.c_void_p),
    "corelib_device_manager_discover_inband_gpus": (ctypes.c_int, ctypes.c_void_p, _Handle, _Size),
    "corelib_device_destroy": (None, ctypes.c_void_p),
    "corelib_device_get_description": (ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, _Size),
    "corelib_spdm_client_create": (ctypes.c_int, ctypes.c_void_p, _Handle),
    "corelib_spdm_client_destroy": (None, ctypes.c_void_p),
    "corelib_spdm_reset_session": (ctypes.c_int, ctypes.c_void_p),
    "corelib_spdm_get_digests": (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(_Digest), _Size),
    "corelib_spdm_get_certificate": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint8,
        ctypes.c_char_p,
        _Size,
    ),
    "corelib_spdm_get_measurement_transcript": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_uint8,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
        _Size,
    ),
}
"""What each function returns, and what it takes."""


class Fault(Exception):
    """The library, or a device behind it, did not do as asked."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why
        self.detail = detail


class Corelib:
    """The library, loaded. Raises Fault where it is not there, or not the one that is known."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise _unloadable(str(error)) from error
        for name, (result, *takes) in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise Fault(Why.LIBRARY_UNFIT, f"it has no {name}") from error
            function.restype = result
            function.argtypes = takes

    def collect(self, nonce: bytes) -> list[Gpu]:
        """Every GPU's evidence, or its fault. Raises Fault for what concerns all of them."""
        with ExitStack() as held:
            manager = ctypes.c_void_p()
            self._call("corelib_device_manager_create", ctypes.byref(manager))
            held.callback(self._library.corelib_device_manager_destroy, manager)
            discover = "corelib_device_manager_discover_inband_gpus"
            count = ctypes.c_size_t(0)
            self._call(discover, manager, None, ctypes.byref(count))
            if not 1 <= count.value <= GPUS_MAX:
                raise Fault(Why.NO_GPU, f"{count.value} were discovered")
            room = count.value
            devices = (ctypes.c_void_p * room)()
            self._call(discover, manager, devices, ctypes.byref(count))
            handles = [ctypes.c_void_p(each) for each in devices[: min(count.value, room)]]
            for handle in handles:
                held.callback(self._library.corelib_device_destroy, handle)
            return [self._gpu(handle, nonce) for handle in handles]

    def _gpu(self, device: ctypes.c_void_p, nonce: bytes) -> Gpu:
        about = self._description(device)
        client = ctypes.c_void_p()
        try:
            self._call("corelib_spdm_client_create", device, ctypes.byref(client))
            try:
                certificates, report = self._evidence(client, nonce)
            finally:
                self._library.corelib_spdm_client_destroy(client)
        except Fault as fault:
            return Gpu(about=about, fault=fault.why, detail=fault.detail)
        return Gpu(about=about, report=report, certificates=certificates)

    def _description(self, device: ctypes.c_void_p) -> str:
        room = ctypes.create_string_buffer(_ABOUT_BYTES)
        size = ctypes.c_size_t(_ABOUT_BYTES)
        if self._library.corelib_device_get_description(device, room, ctypes.byref(size)) != 0:
            return ""
        return room.raw[: min(size.value, _ABOUT_BYTES)].rstrip(b"\0").decode("utf-8", "replace")

    def _evidence(self, client: ctypes.c_void_p, nonce: bytes) -> tuple[bytes, bytes]:
        """Certificates and report. A session is begun anew before each, as NVIDIA's client does."""
        slot = self._slot(client)
        self._call("corelib_spdm_reset_session", client)
        certificates = self._sized(
            "corelib_spdm_get_certificate", _CERTIFICATES_BYTES_MAX, client, slot
        )
        self._call("corelib_spdm_reset_session", client)
        report = self._sized(
            "corelib_spdm_get_measurement_transcript",
            _REPORT_BYTES_MAX,
            client,
            _ALL_MEASUREMENTS,
            nonce,
            len(nonce),
        )
        return certificates, report

    def _slot(self, client: ctypes.c_void_p) -> int:
        """The first slot that has a chain."""
        name, count = "corelib_spdm_get_digests", ctypes.c_size_t(0)
        self._call(name, client, None, ctypes.byref(count))
        if not 1 <= count.value <= _SLOTS_MAX:
            raise Fault(Why.LIBRARY_ERROR, f"{name}: {count.value} certificate slots")
        digests = (_Digest * count.value)()
        self._call(name, client, digests, ctypes.byref(count))
        slot: int = digests[0].index
        return slot

    def _sized(self, name: str, most: int, *asked: object) -> bytes:
        """What a function writes that is first asked for the size of it."""
        size = ctypes.c_size_t(0)
        self._call(name, *asked, None, ctypes.byref(size))
        if not 1 <= size.value <= most:
            raise Fault(Why.LIBRARY_ERROR, f"{name}: {size.value} bytes; 1 to {most} are taken")
        most = size.value
        room = ctypes.create_string_buffer(most)
        self._call(name, *asked, room, ctypes.byref(size))
        return room.raw[: min(size.value, most)]

    def _call(self, name: str, *arguments: object) -> None:
        function: _Function = getattr(self._library, name)
        code = function(*arguments)
        if code != 0:
            said = _CODES[code] if 0 < code < len(_CODES) else f"code {code}"
            raise Fault(Why.LIBRARY_ERROR, f"{name}: {said}")


def told(nonce: bytes) -> Told:
    """All that can be said for this nonce. Raises nothing for what library and devices do."""
    try:
        return Told(gpus=Corelib().collect(nonce))
    except Fault as fault:
        return Told(fault=fault.why, detail=fault.detail)


def _unloadable(said: str) -> Fault:
    """The loader passes over a library for other processors, and says that there is none."""
    other = elf.of_other_processors(LIBRARY)
    if other is not None:
        return Fault(Why.LIBRARY_OTHER_ARCHITECTURE, str(other))
    if "No such file" in said:
        return Fault(Why.LIBRARY_MISSING, said)
    return Fault(Why.LIBRARY_UNFIT, said)
