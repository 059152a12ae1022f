"""What the valuer rests on that was made elsewhere or ends one day: roots, catalogues, certificates."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Final

from cryptography import x509
from sqlalchemy import Connection, select

from assay_core.evidence import chain, ek
from assay_core.health import RULES, RULES_SHA256_8, XID_CATALOGUE_DATE
from assay_core.instants import DAY_MS, HOUR_MS, format_duration, format_instant
from assay_valuer.config import ListenerConfig, split_endpoint
from assay_valuer.hosts import list_hosts
from assay_valuer.policy import Evidence, ms
from assay_valuer.state import State
from assay_valuer.store.schema import OCSP

ROOT_WARN_MS: Final = 365 * DAY_MS
AUTHORITY_WARN_MS: Final = 90 * DAY_MS
LISTENER_WARN_MS: Final = DAY_MS
HOST_WARN_MS: Final = HOUR_MS
_CONNECT_S: Final = 2.0
_NAME_CHARS: Final = 16
_YEAR_MS: Final = 36_525 * DAY_MS // 100


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is as it should be, and in words."""

    what: str
    holds: bool
    words: str


def pinned(policy: Evidence, now_ms: int) -> list[Finding]:
    """Every root whose word is taken, and every catalogue that something is judged by."""
    found = [
        Finding("device root", True, f"{sha256}: NVIDIA Device Identity CA, expires in 9999")
        for sha256 in sorted(chain.DEVICE_ROOTS)
    ]
    found += [
        Finding("device root", True, f"{sha256}: SIMULATED devices', named by the policy")
        for sha256 in policy.device_roots
    ]
    found.append(_rim_roots())
    found += _tpm_roots(now_ms)
    found += [
        Finding("TPM root", True, f"{sha256}: SIMULATED TPMs', named by the policy")
        for sha256 in policy.simulated_tpm_roots
    ]
    read_ms = _ms(datetime.fromisoformat(XID_CATALOGUE_DATE).replace(tzinfo=UTC))
    words = f"NVIDIA's Xid catalogue of {XID_CATALOGUE_DATE}, {_ago(read_ms, now_ms)}"
    found.append(Finding("catalogue", True, words))
    words = f"{len(RULES)} health rules, {RULES_SHA256_8}: hosts name theirs by the same hash"
    found.append(Finding("catalogue", True, words))
    return found


def authority(state: State, now_ms: int) -> Finding:
    """The certificate authority: when it was made, and how long it lasts."""
    expires_ms = state.authority.expires_ms
    words = (
        f"made {format_instant(state.authority.issued_ms)}, expires {format_instant(expires_ms)}"
    )
    if expires_ms - now_ms <= AUTHORITY_WARN_MS:
        words += ": make a new one and enrol every host with it before then"
    return Finding("certificate authority", expires_ms - now_ms > AUTHORITY_WARN_MS, words)


def client_certificates(connection: Connection, now_ms: int) -> Finding:
    """Hosts' certificates, the first to expire named. Hosts renew them, so none is amiss here."""
    lasting = sorted(
        (host.certificate_expires_ms, host.host_id)
        for host in list_hosts(connection)
        if host.revoked_ms is None
        and host.certificate_expires_ms is not None
        and host.certificate_expires_ms > now_ms
    )
    if not lasting:
        return Finding("client certificates", True, "no host has one that is valid")
    first_ms, host_id = lasting[0]
    words = f"{len(lasting)} valid; the first expires {_in(first_ms, now_ms)}: {host_id}"
    if first_ms - now_ms <= HOST_WARN_MS:
        words += ", which should have renewed it: look at its agent"
    return Finding("client certificates", True, words)


def ocsp_answers(connection: Connection, policy: Evidence, now_ms: int, *, asks: bool) -> Finding:
    """Answers whether certificates were revoked: how many, how old, and what they mean if too old."""
    rows = connection.execute(select(OCSP)).all()
    revoked = [row for row in rows if row.status == "revoked"]
    stale = [
        row
        for row in rows
        if now_ms > row.next_update_ms or now_ms - row.this_update_ms > ms(policy.ocsp_age_max_s)
    ]
    waived = " (the policy waives the question)" if policy.ocsp == "waived" else ""
    if not rows:
        words = (
            "none yet" if asks else "nobody is asked (ocsp.enabled is false): no GPU is above L1"
        )
        return Finding("OCSP answers", True, words + waived)
    oldest_ms = min(row.this_update_ms for row in rows)
    words = f"{len(rows)}, the oldest made {_ago(oldest_ms, now_ms)}{waived}"
    if revoked:
        words += f"; {len(revoked)} REVOKED: {revoked[0].certificate_sha256[:_NAME_CHARS]}… first"
    if stale:
        words += (
            f"; {len(stale)} too old: GPUs that rest on them, if there are any still, fall to L1"
        )
    return Finding("OCSP answers", not revoked and (not stale or not asks), words)


def listener(what: str, config: ListenerConfig, authority_pem: bytes, now_ms: int) -> Finding:
    """Whether a listener answers, with a certificate of our authority, and how long that lasts."""
    name, port = split_endpoint(config.listen, f"{what}.listen")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)  # noqa: S104 - not bound, dialled
    context = ssl.create_default_context(cadata=authority_pem.decode())
    context.check_hostname = False  # it is dialled where it listens, not by the name it is known by
    context.set_alpn_protocols(["h2"])
    try:
        with (
            socket.create_connection((name, port), timeout=_CONNECT_S) as plain,
            context.wrap_socket(plain) as secured,
        ):
            der = secured.getpeercert(binary_form=True) or b""
    except ssl.SSLError as error:
        words = f"{config.listen} answers, but not as this valuer: {error.reason or error}"
        return Finding(f"{what} listener", False, words)
    except OSError as error:
        words = (
            f"{config.listen} does not answer ({error.strerror or error}): is `assay-valuer run` "
            "running?"
        )
        return Finding(f"{what} listener", False, words)
    certificate = x509.load_der_x509_certificate(der)
    expires_ms = _ms(certificate.not_valid_after_utc)
    words = (
        f"{config.listen} answers; its certificate was made "
        f"{_ago(_ms(certificate.not_valid_before_utc), now_ms)} and expires "
        f"{_in(expires_ms, now_ms)}"
    )
    near = expires_ms - now_ms <= LISTENER_WARN_MS
    if near:
        words += ", and should have been renewed: look at the valuer's log"
    return Finding(f"{what} listener", not near, words)


def _rim_roots() -> Finding:
    if find_spec("signxml") is None:
        return Finding("RIM root", True, "none: the extra `rim` is not installed")
    from assay_core.evidence import rim  # noqa: PLC0415 - needs the extra

    return Finding("RIM root", True, f"{', '.join(sorted(rim.RIM_ROOTS))}: NVIDIA's, for manifests")


def _tpm_roots(now_ms: int) -> list[Finding]:
    found = []
    for sha256, root in ek.TPM_ROOTS.items():
        begin_ms = _ms(root.certificate.not_valid_before_utc)
        end_ms = _ms(root.certificate.not_valid_after_utc)
        words = (
            f"{sha256}: {root.manufacturer}, {root.name}, of {_date(begin_ms)}, "
            f"{(now_ms - begin_ms) // _YEAR_MS} years old, expires {_date(end_ms)} "
            f"(list {ek.TPM_ROOTS_VERSION})"
        )
        near = end_ms - now_ms <= ROOT_WARN_MS
        if near:
            words += ": install a release with a newer list before then"
        found.append(Finding("TPM root", not near, words))
    return found


def _date(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).date().isoformat()


def _ago(at_ms: int, now_ms: int) -> str:
    return f"{format_duration(max(0, now_ms - at_ms))} ago"


def _in(at_ms: int, now_ms: int) -> str:
    left_ms = at_ms - now_ms
    return f"in {format_duration(left_ms)}" if left_ms > 0 else f"ago: {format_duration(-left_ms)}"


def _ms(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000
