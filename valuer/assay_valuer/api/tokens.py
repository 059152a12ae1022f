"""Tokens of the API: who may call, to read or to write, until when.

They are in a file beside the store, mode 0600, of which the running service sees every change: a
token that was revoked is refused from the next request on. Of a token's secret the file has the
SHA-256 alone; who made and who ended one is in the ledger too.
"""

from __future__ import annotations

import base64
import enum
import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import msgspec

from assay_core.errors import AssayError, FileError, ServiceError
from assay_core.instants import DAY_MS, format_instant

PREFIX: Final = "assay-api-1"
FILE: Final = "api-tokens.json"
TOKENS_MAX: Final = 1_000
"""Revoked and expired ones counted."""
LIFE_MAX_MS: Final = 366 * DAY_MS
_FILE_BYTES_MAX: Final = 1024 * 1024
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?", re.ASCII)
_TOKEN: Final = re.compile(rf"{PREFIX}\.([0-9a-f]{{16}})\.([A-Za-z0-9_-]{{43}})", re.ASCII)
_NOBODYS: Final = "00" * 32


class Scope(enum.StrEnum):
    """What a token lets its bearer do. Whoever may write may read."""

    READ = "read"
    WRITE = "write"

    def covers(self, wanted: Scope) -> bool:
        """Whether a token of this scope may do what needs `wanted`."""
        return self is Scope.WRITE or wanted is Scope.READ


class ApiToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A token as the file has it."""

    id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]
    name: str
    scope: Scope
    secret_sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
    created_ms: int
    expires_ms: int
    revoked_ms: int | None = None

    def holds(self, now_ms: int) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_ms is None and now_ms < self.expires_ms


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    tokens: tuple[ApiToken, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenFile:
    """The file. Reading it needs no lock: it is always replaced whole."""

    path: Path

    def load(self) -> tuple[ApiToken, ...]:
        """Every token that there ever was; none where there is no file. Raises FileError."""
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise FileError(f"{self.path}: others may read it; chmod 600 it")
                data = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise FileError(f"{self.path}: cannot be read: {error.strerror}") from error
        try:
            return msgspec.json.decode(data, type=_File).tokens
        except msgspec.MsgspecError as error:
            raise FileError(f"{self.path}: is no file of tokens: {error}") from error

    def find(self, text: str, now_ms: int) -> ApiToken | None:
        """Whose token this is; None where it is nobody's, or holds no more. Raises FileError.

        A token of no known id takes as long to refuse as one with a wrong secret.
        """
        match = _TOKEN.fullmatch(text)
        if match is None:
            return None
        known = next((one for one in self.load() if one.id == match[1]), None)
        expected = _NOBODYS if known is None else known.secret_sha256
        right = hmac.compare_digest(hashlib.sha256(match[2].encode()).hexdigest(), expected)
        return known if known is not None and right and known.holds(now_ms) else None

    @contextmanager
    def changing(self) -> Iterator[_Change]:
        """Holds the file's lock; what the change then has is written when it ends well.

        Raises FileError, ServiceError.
        """
        lock_path = self.path.with_suffix(".lock")
        try:
            lock = os.open(lock_path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ServiceError(f"{lock_path}: cannot be opened: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            change = _Change(self.load())
            yield change
            self._replace(_File(tokens=change.tokens))
        finally:
            os.close(lock)

    def _replace(self, content: _File) -> None:
        """All of the new file or all of the old one, whatever happens, and durable."""
        new = self.path.with_suffix(".new")
        data = msgspec.json.format(msgspec.json.encode(content), indent=1)
        try:
            new.unlink(missing_ok=True)
            handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ServiceError(f"{self.path}: cannot be written: {error.strerror}") from error


class _Change:
    """The tokens while the file's lock is held."""

    def __init__(self, tokens: tuple[ApiToken, ...]) -> None:
        self.tokens = tokens

    def create(self, name: str, scope: Scope, *, life_ms: int, now_ms: int) -> tuple[ApiToken, str]:
        """A new token, and its text, which exists nowhere else. Raises AssayError."""
        if _NAME.fullmatch(name) is None:
            raise AssayError("a token's name: letters, digits, dots, dashes, at most 64")
        if any(one.name == name for one in self.tokens):
            raise AssayError(f"there is a token {name} already, or was: choose another name")
        if len(self.tokens) >= TOKENS_MAX:
            raise AssayError(f"there were {TOKENS_MAX} tokens already, revoked ones counted")
        if not 0 < life_ms <= LIFE_MAX_MS:
            raise AssayError(
                f"a token expires within a year, not at {format_instant(now_ms + life_ms)}"
            )
        secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=")
        made = ApiToken(
            id=secrets.token_hex(8),
            name=name,
            scope=scope,
            secret_sha256=hashlib.sha256(secret).hexdigest(),
            created_ms=now_ms,
            expires_ms=now_ms + life_ms,
        )
        self.tokens = (*self.tokens, made)
        return made, f"{PREFIX}.{made.id}.{secret.decode()}"

    def revoke(self, name: str, now_ms: int) -> ApiToken | None:
        """Ends a token; None where it had ended. Raises AssayError where there is none."""
        known = next((one for one in self.tokens if one.name == name), None)
        if known is None:
            raise AssayError(f"there is no token {name}; see `assay-valuer api-token list`")
        if known.revoked_ms is not None:
            return None
        ended = msgspec.structs.replace(known, revoked_ms=now_ms)
        self.tokens = tuple(ended if one is known else one for one in self.tokens)
        return ended
