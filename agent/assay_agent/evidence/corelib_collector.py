"""Evidence through corelib's one-shot program, reached over its socket. The agent stays unprivileged."""

from __future__ import annotations

import asyncio
import base64
from typing import Final

import msgspec

from assay_agent.evidence.collector import Answer, Unobtainable, admit, check_nonce
from assay_agent.evidence.corelib_wire import ANSWER_BYTES_MAX, GPUS_MAX, Gpu, Told
from assay_agent.evidence.why import Why
from assay_core.evidence.origin import Origin
from assay_core.printable import printable

TIMEOUT_S: Final = 60.0
"""How long all GPUs together may take; NVIDIA names no time, and none was measured by us."""

_ORIGIN: Final = Origin.IN_BAND_CORELIB
_CHAIN_HEADER_BYTES: Final = 52
"""SPDM's (DSP0274 §10.6.1): length and reserved, two bytes each, and the root's SHA-384."""
_CERTIFICATE: Final = b"\x30\x82"
"""How a certificate of 256 bytes to 64 KiB begins: a DER sequence, its length in two bytes more."""
_WORDS_MAX: Final = 200
_PEM_LINE: Final = 64


class CorelibCollector:
    """See Collector."""

    def __init__(self, socket: str, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket
        self._timeout_s = timeout_s

    async def collect(self, nonce: bytes) -> tuple[Answer, ...]:
        """See Collector."""
        check_nonce(nonce)
        try:
            async with asyncio.timeout(self._timeout_s):
                data = await _ask(self._socket, nonce)
        except (FileNotFoundError, ConnectionRefusedError):
            return (Unobtainable(_ORIGIN, Why.SOCKET_MISSING, detail=self._socket),)
        except PermissionError:
            return (Unobtainable(_ORIGIN, Why.SOCKET_DENIED, detail=self._socket),)
        except TimeoutError:
            detail = f"within {self._timeout_s:g} s"
            return (Unobtainable(_ORIGIN, Why.NO_ANSWER, detail=detail),)
        except OSError as error:
            return (Unobtainable(_ORIGIN, Why.NO_ANSWER, detail=str(error)),)
        return answers(data, nonce)


async def _ask(socket: str, nonce: bytes) -> bytes:
    """All that is answered, up to one byte more than an answer may have. Raises OSError."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        writer.write(nonce)
        await writer.drain()
        data = b""
        while len(data) <= ANSWER_BYTES_MAX and (more := await reader.read(64 * 1024)):
            data += more
        return data
    finally:
        writer.close()


def answers(data: bytes, nonce: bytes) -> tuple[Answer, ...]:
    """Each GPU's evidence or reason, from what the one-shot program wrote."""
    if not data:
        return (Unobtainable(_ORIGIN, Why.NO_ANSWER, detail="it closed the connection"),)
    if len(data) > ANSWER_BYTES_MAX:
        return (Unobtainable(_ORIGIN, Why.BAD_ANSWER, detail="it has no end"),)
    try:
        told = msgspec.json.decode(data, type=Told)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        return (Unobtainable(_ORIGIN, Why.BAD_ANSWER, detail=printable(str(error), _WORDS_MAX)),)
    if told.fault is not None:
        return (_unobtainable(told.fault, "", told.detail),)
    if not 1 <= len(told.gpus) <= GPUS_MAX:
        return (Unobtainable(_ORIGIN, Why.BAD_ANSWER, detail=f"{len(told.gpus)} GPUs"),)
    return tuple(_answer(gpu, nonce) for gpu in told.gpus)


def _answer(gpu: Gpu, nonce: bytes) -> Answer:
    if gpu.fault is not None:
        return _unobtainable(gpu.fault, gpu.about, gpu.detail)
    name = printable(gpu.about, _WORDS_MAX)
    try:
        chain_pem = pem(gpu.certificates)
    except ValueError as error:
        return Unobtainable(_ORIGIN, Why.MALFORMED, name, str(error))
    return admit(_ORIGIN, name, nonce, gpu.report, chain_pem)


def _unobtainable(why: Why, about: str, detail: str) -> Unobtainable:
    return Unobtainable(_ORIGIN, why, printable(about, _WORDS_MAX), printable(detail, _WORDS_MAX))


def pem(certificates: bytes) -> bytes:
    """SPDM's certificate chain as PEM, leaf first. Raises ValueError for what is no such chain."""
    found: list[bytes] = []
    at = _CHAIN_HEADER_BYTES
    while at < len(certificates):
        if certificates[at : at + 2] != _CERTIFICATE:
            raise ValueError(f"byte {at} of the chain begins no certificate")
        end = at + 4 + int.from_bytes(certificates[at + 2 : at + 4], "big")
        if end > len(certificates):
            raise ValueError(f"the certificate at byte {at} of the chain is cut short")
        found.append(_pem(certificates[at:end]))
        at = end
    if not found:
        raise ValueError("the chain has no certificate")
    return b"".join(reversed(found))  # SPDM has the root's first


def _pem(certificate: bytes) -> bytes:
    text = base64.b64encode(certificate)
    lines = [text[at : at + _PEM_LINE] for at in range(0, len(text), _PEM_LINE)]
    return b"\n".join((b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b""))
