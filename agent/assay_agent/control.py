"""How the command line reaches the running agent: one line of JSON each way, over a socket in the
state directory that only the agent's user may open.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal

import msgspec

from assay_core.errors import AssayError, HostError, ServiceError

_SOCKET: Final = "control.sock"
_LINE_BYTES_MAX: Final = 160 * 1024
"""The longest event there is (64 KiB), inside another JSON string."""
_TIMEOUT_S: Final = 60.0


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One thing asked of the running agent."""

    pause_ms: int | None = None
    """Pause for so many milliseconds; 0 ends a pause."""
    proposal: str | None = None
    """Sign this asset event, canonical JSON, and send it to the valuer."""
    rotate_to: Literal["default", "file", "tpm"] | None = None
    """Go over to a new sealing key, there or where the configuration says."""
    anew: bool = False
    """With another key than a rotation under way has."""
    uplink: bool = False
    """How it stands with the valuer: a word (metrics.UplinkState), and what it last said."""


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the agent did, or why not."""

    message: str
    ok: bool


Handler = Callable[[Request], Awaitable[str]]


async def serve(state_dir: Path, handler: Handler) -> asyncio.Server:
    """Listens until the server is closed. `handler` returns what to say, or raises AssayError."""
    path = state_dir / _SOCKET
    path.unlink(missing_ok=True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            reply = await _handle(await reader.readline(), handler)
            writer.write(msgspec.json.encode(reply) + b"\n")
            await writer.drain()
        except (OSError, ValueError):
            return  # the command line went away
        finally:
            writer.close()

    before = os.umask(0o177)
    try:
        return await asyncio.start_unix_server(answer, path, limit=_LINE_BYTES_MAX)
    except OSError as error:
        raise HostError(
            f"{path} cannot be made: {error}; a socket's path may have 107 bytes, choose a shorter "
            "state_dir"
        ) from error
    finally:
        os.umask(before)


def listens(state_dir: Path) -> bool:
    """Whether an agent runs that can be asked."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(state_dir / _SOCKET))
        except OSError:
            return False
    return True


def ask(state_dir: Path, request: Request) -> Reply:
    """Asks the running agent. Raises ServiceError where none runs or none answers."""
    path = state_dir / _SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            with connection.makefile("rb") as file:
                line = file.readline(_LINE_BYTES_MAX)
        return msgspec.json.decode(line, type=Reply)
    except (OSError, msgspec.MsgspecError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ServiceError(
            f"no agent answers at {path} ({why}); is assay-agent running, and do you run this as its "
            "user?"
        ) from error


async def _handle(line: bytes, handler: Handler) -> Reply:
    try:
        request = msgspec.json.decode(line, type=Request)
        return Reply(message=await handler(request), ok=True)
    except msgspec.MsgspecError as error:
        return Reply(message=f"the request cannot be read: {error}", ok=False)
    except AssayError as error:
        return Reply(message=str(error), ok=False)
