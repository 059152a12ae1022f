"""The authority, tokens, limits and readiness: what they accept, and what they say otherwise."""

from __future__ import annotations

import base64
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from sqlalchemy import select

from assay_core.errors import AssayError, FileError
from assay_core.instants import DAY_MS, HOUR_MS
from assay_valuer.ca import (
    AUTHORITY_LIFE_MS,
    BadRequest,
    create_authority,
    load_authority,
    spiffe_id,
    write_secret,
)
from assay_valuer.config import ValuerConfig
from assay_valuer.ingest.limits import PEERS_MAX, RateLimiter, address_of
from assay_valuer.ledger.read import entries_from
from assay_valuer.notify import notify, watchdog_interval_s
from assay_valuer.state import create, open_state
from assay_valuer.store.schema import TOKEN
from assay_valuer.tokens import PREFIX, Terms, TokenError, create_token, find_token
from tests.fakes.door import read_token
from tests.fakes.host import FakeHost
from tests.fakes.ledger import FakeLedger

NOW_MS = 1_790_000_000_000


def csr(key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def authority_files(folder: Path) -> tuple[Path, Path]:
    certificate, key = create_authority("test", NOW_MS)
    write_secret(folder / "ca.pem", certificate)
    write_secret(folder / "ca.key", key)
    return folder / "ca.pem", folder / "ca.key"


def test_an_authority_signs_no_other_authorities(tmp_path: Path) -> None:
    authority = load_authority(*authority_files(tmp_path))
    found = x509.load_pem_x509_certificate(authority.certificate_pem).extensions
    constraints = found.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.value.ca, constraints.value.path_length, constraints.critical) == (
        True,
        0,
        True,
    )
    usage = found.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.digital_signature) == (True, False)
    assert authority.expires_ms == NOW_MS + AUTHORITY_LIFE_MS


def test_a_listeners_certificate_is_for_its_names_and_serving_only(tmp_path: Path) -> None:
    authority = load_authority(*authority_files(tmp_path))
    key = authority.issue_server(["valuer.example", "10.0.0.1", "::1"], NOW_MS)
    leaf = x509.load_pem_x509_certificate(key.certificate.chain_pem)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["valuer.example"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1", "::1"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    with pytest.raises(BadRequest, match="not one of a host"):
        spiffe_id(key.certificate.chain_pem)
    with pytest.raises(BadRequest, match="names no host"):
        spiffe_id(b"")


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    authority = load_authority(*authority_files(tmp_path))
    late_ms = authority.expires_ms - HOUR_MS
    issued = authority.issue_host(csr(), "spiffe://x/site/y/host/z", late_ms, DAY_MS)
    assert issued.expires_ms == authority.expires_ms
    assert spiffe_id(issued.chain_pem)[0] == "spiffe://x/site/y/host/z"
    with pytest.raises(AssayError, match="authority has expired"):
        authority.issue_host(csr(), "spiffe://x", authority.expires_ms, DAY_MS)


def test_authority_files_that_cannot_be_used(tmp_path: Path) -> None:
    certificate, key = authority_files(tmp_path)
    (tmp_path / "b").mkdir()
    _, other_key = authority_files(tmp_path / "b")
    with pytest.raises(FileError, match="not the key of"):
        load_authority(certificate, other_key)
    with pytest.raises(FileError, match="cannot be read"):
        load_authority(certificate, tmp_path / "none")
    with pytest.raises(FileError, match="not a certificate in PEM"):
        load_authority(key, key)
    key.chmod(0o640)
    with pytest.raises(FileError, match="others may read this key; chmod 600"):
        load_authority(certificate, key)
    leaf_key = ec.generate_private_key(ec.SECP256R1())
    other = load_authority(tmp_path / "b" / "ca.pem", other_key)
    leaf = other.issue_host(csr(leaf_key), "spiffe://x", NOW_MS, DAY_MS)
    write_secret(tmp_path / "leaf.pem", leaf.chain_pem)
    write_secret(
        tmp_path / "leaf.key",
        leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    with pytest.raises(FileError, match="not a certificate authority"):
        load_authority(tmp_path / "leaf.pem", tmp_path / "leaf.key")


def test_the_operators_own_intermediate_authority_is_taken(tmp_path: Path) -> None:
    root, root_key = authority_files(tmp_path)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(root.read_bytes())
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    signing = load_authority(root, root_key)._key
    intermediate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ours")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=3_650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(signing, hashes.SHA256())
    )
    write_secret(tmp_path / "own.pem", intermediate.public_bytes(Encoding.PEM))
    write_secret(
        tmp_path / "own.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    own = load_authority(tmp_path / "own.pem", tmp_path / "own.key")
    issued = own.issue_host(csr(), "spiffe://x/site/y/host/z", NOW_MS, DAY_MS)
    leaf = x509.load_pem_x509_certificate(issued.chain_pem)
    leaf.verify_directly_issued_by(intermediate)


def test_secrets_are_written_for_their_owner_and_never_over_others(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_secret(path, b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AssayError, match="cannot be written"):
        write_secret(path, b"2")
    assert path.read_bytes() == b"1"


@pytest.fixture
def ledger(tmp_path: Path):
    ledger = FakeLedger(tmp_path)
    yield ledger
    ledger.check()
    ledger.close()


def token(ledger: FakeLedger, terms: Terms) -> str:
    return ledger.database.write(
        lambda c: create_token(
            c,
            terms,
            endpoint="valuer.example:8443",
            authority_pem=b"PEM",
            signer=ledger.signer,
            now_ms=NOW_MS,
        )
    )


def test_a_token_says_where_and_whom_and_is_stored_without_its_secret(ledger: FakeLedger) -> None:
    text = token(ledger, Terms("lab", 3, NOW_MS + DAY_MS))
    assert text.startswith(PREFIX)
    parsed = read_token(text)
    assert (parsed.endpoint, parsed.authority_pem) == ("valuer.example:8443", "PEM")
    secret = parsed.secret
    rows = ledger.database.read(lambda c: c.execute(select(TOKEN)).all())
    assert secret not in str(rows)
    assert secret.encode() not in ledger.database.read(_every_body)
    raw = base64.urlsafe_b64decode(secret + "=")
    found = ledger.database.read(lambda c: find_token(c, parsed.id, raw))
    assert found is not None
    assert (found.site, found.hosts_max, found.used) == ("lab", 3, 0)
    assert ledger.database.read(lambda c: find_token(c, parsed.id, raw[:-1] + b"x")) is None
    assert ledger.database.read(lambda c: find_token(c, "0" * 32, bytes(32))) is None


def _every_body(connection) -> bytes:
    return b"".join(e.body.envelope.payload for e in entries_from(connection, 0))


@pytest.mark.parametrize(
    ("terms", "named"),
    [
        (Terms("Lab", 1, NOW_MS + 1), "site 'Lab'"),
        (Terms("", 1, NOW_MS + 1), "site ''"),
        (Terms("a/../b", 1, NOW_MS + 1), "site"),
        (Terms("lab", 0, NOW_MS + 1), "1 to 10000 hosts"),
        (Terms("lab", 1, NOW_MS), "expires within 90 days"),
        (Terms("lab", 1, NOW_MS + 91 * DAY_MS), "expires within 90 days"),
        (Terms("lab", 1, NOW_MS + 1, "spiffe://none"), "there is no host spiffe://none"),
    ],
)
def test_tokens_that_are_not_made(ledger: FakeLedger, terms: Terms, named: str) -> None:
    with pytest.raises(TokenError, match=named):
        token(ledger, terms)


def test_a_token_for_one_host_is_for_that_host_alone(ledger: FakeLedger) -> None:
    host = FakeHost()
    ledger.add(host)
    with pytest.raises(TokenError, match="that one host"):
        token(ledger, Terms("else", 2, NOW_MS + 1, host.host_id))
    token(ledger, Terms("else", 1, NOW_MS + 1, host.host_id))
    site = ledger.database.read(lambda c: c.execute(select(TOKEN.c.site)).scalar())
    assert site == "lab"  # the host's own, whatever was asked


def test_a_peer_over_its_limit_takes_nothing_from_others() -> None:
    limiter = RateLimiter(per_minute=5, per_minute_of_peer=2)
    flood = [limiter.allows("ipv4:10.0.0.1:1", NOW_MS) for _ in range(20)]
    assert flood == [True, True, *[False] * 18]
    others = [limiter.allows(f"ipv4:10.0.0.{n}:1", NOW_MS) for n in range(2, 8)]
    assert others == [True] * 3 + [False] * 3  # five of all together, two were the flood's
    assert limiter.allows("ipv4:10.0.0.1:2", NOW_MS + 30_000)
    assert not limiter.allows("ipv4:10.0.0.1:3", NOW_MS + 30_000)
    assert not limiter.allows("ipv4:10.0.0.1:3", NOW_MS - 10**9)  # a clock that was set back


def test_the_limiter_is_bounded_and_knows_addresses() -> None:
    limiter = RateLimiter(per_minute=10**6, per_minute_of_peer=1)
    for n in range(PEERS_MAX + 100):
        assert limiter.allows(f"ipv4:10.{n >> 16}.{n >> 8 & 255}.{n & 255}:9", NOW_MS)
    assert len(limiter._peers) == PEERS_MAX
    assert address_of("ipv4:10.0.0.1:5000") == "10.0.0.1"
    assert address_of("ipv6:[2001:db8:1:2:3::4]:5000") == "2001:db8:1:2"
    assert address_of("ipv6:%5B2001:db8:1:2:9::4%5D:5000") == "2001:db8:1:2"
    assert address_of("unix:") == "unix:"


def test_readiness_is_told_to_whoever_asked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        assert notify("READY=1")
        assert listening.recv(64) == b"READY=1"
    assert not notify("READY=1")
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    assert watchdog_interval_s() == 15.0
    monkeypatch.delenv("WATCHDOG_USEC")
    assert watchdog_interval_s() is None


def test_a_state_folder_that_others_may_look_into_is_not_opened(tmp_path: Path) -> None:
    config = ValuerConfig(state_dir=str(tmp_path / "state"))
    create(config, NOW_MS)
    open_state(config).database.close()
    (tmp_path / "state").chmod(0o755)
    for open_ in (open_state, lambda config: create(config, NOW_MS)):
        with pytest.raises(AssayError, match="chmod 700"):
            open_(config)
