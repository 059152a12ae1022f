"""Enrolment tokens: leave to enrol N hosts of a site, or one host anew, until a set time.

A token carries what a host needs to find the right valuer and trust no other: where enrolment
listens, and the authority to expect there. Of its secret the store has the SHA-256 alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Final

import msgspec
from sqlalchemy import Connection, func, insert, select

from assay_core.errors import AssayError
from assay_core.instants import DAY_MS, format_instant
from assay_core.seal import Signer
from assay_valuer.ledger.append import append_record, to_json
from assay_valuer.store.schema import HOST, TOKEN, TOKEN_USE

PREFIX: Final = "assay-token-1."
HOSTS_MAX: Final = 10_000
LIFE_MAX_MS: Final = 90 * DAY_MS
SITE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")


class TokenError(AssayError):
    """A token cannot be made as asked; says what to ask instead."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a token is for. `host_id` names an existing host that is to be enrolled anew."""

    site: str
    hosts_max: int
    expires_ms: int
    host_id: str | None = None


@dataclass(frozen=True, slots=True)
class StoredToken:
    """A token as the store knows it, and how many hosts have used it."""

    id: str
    site: str
    hosts_max: int
    expires_ms: int
    host_key: int | None
    used: int


class _Wire(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    id: str
    secret: str
    endpoint: str
    authority_pem: str


def create_token(
    connection: Connection,
    terms: Terms,
    *,
    endpoint: str,
    authority_pem: bytes,
    signer: Signer,
    now_ms: int,
) -> str:
    """Makes a token, and the signed record of it; returns its text, which exists nowhere else.

    Raises TokenError.
    """
    host_key, site = _check(connection, terms, now_ms)
    token_id, secret = secrets.token_hex(16), secrets.token_bytes(32)
    connection.execute(
        insert(TOKEN).values(
            id=token_id,
            secret_sha256=hashlib.sha256(secret).digest(),
            site=site,
            hosts_max=terms.hosts_max,
            created_ms=now_ms,
            expires_ms=terms.expires_ms,
            host_key=host_key,
        )
    )
    record = to_json(
        {
            "token": token_id,
            "secret_sha256": hashlib.sha256(secret).hexdigest(),
            "site": site,
            "hosts_max": terms.hosts_max,
            "created_ms": now_ms,
            "expires_ms": terms.expires_ms,
            "host_id": terms.host_id,
        }
    )
    append_record(connection, "token", record, signer, now_ms)
    wire = _Wire(
        id=token_id,
        secret=_text(secret),
        endpoint=endpoint,
        authority_pem=authority_pem.decode("ascii"),
    )
    return PREFIX + _text(msgspec.json.encode(wire))


def find_token(connection: Connection, token_id: str, secret: bytes) -> StoredToken | None:
    """The token with this id and secret; None where there is none, whichever of them is wrong."""
    row = connection.execute(select(TOKEN).where(TOKEN.c.id == token_id)).one_or_none()
    expected = bytes(32) if row is None else row.secret_sha256
    right = hmac.compare_digest(hashlib.sha256(secret).digest(), expected)
    if row is None or not right:
        return None
    used = connection.execute(
        select(func.count()).select_from(TOKEN_USE).where(TOKEN_USE.c.token_id == token_id)
    ).scalar()
    return StoredToken(
        row.id, row.site, row.hosts_max, row.expires_ms, row.host_key, int(used or 0)
    )


def _check(connection: Connection, terms: Terms, now_ms: int) -> tuple[int | None, str]:
    """The host that a token is for, if it names one, and the site; raises TokenError."""
    if not 1 <= terms.hosts_max <= HOSTS_MAX:
        raise TokenError(f"a token is for 1 to {HOSTS_MAX} hosts")
    if not now_ms < terms.expires_ms <= now_ms + LIFE_MAX_MS:
        raise TokenError(
            f"a token expires within 90 days, not at {format_instant(terms.expires_ms)}"
        )
    if terms.host_id is None:
        if SITE.fullmatch(terms.site) is None:
            raise TokenError(
                f"site {terms.site!r}: lower-case letters, digits and dashes, at most 64"
            )
        return None, terms.site
    host = connection.execute(
        select(HOST.c.key, HOST.c.site, HOST.c.revoked_ms).where(HOST.c.host_id == terms.host_id)
    ).one_or_none()
    if host is None:
        raise TokenError(f"there is no host {terms.host_id}; see `assay-valuer host list`")
    if host.revoked_ms is not None:
        raise TokenError(f"{terms.host_id} was revoked; a revoked host never comes back")
    if terms.hosts_max != 1:
        raise TokenError("a token that enrols a host anew is for that one host")
    return host.key, host.site


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
