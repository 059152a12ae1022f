"""What `assay-valuer check` says of roots, catalogues and certificates, and when it warns."""

from __future__ import annotations

import ssl
import threading
from pathlib import Path

import pytest
from sqlalchemy import insert, update

from assay_core.evidence import chain, ek
from assay_valuer import ca
from assay_valuer.cli import pinned
from assay_valuer.config import ListenerConfig
from assay_valuer.policy import Evidence
from assay_valuer.store.database import Database, sqlite_url
from assay_valuer.store.migrate import migrate
from assay_valuer.store.schema import CERTIFICATE, HOST, OCSP
from tests.fakes.door import FakeClock, new_authority

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW_MS = FakeClock().now_ms


@pytest.fixture
def database(tmp_path: Path):
    database = Database(sqlite_url(str(tmp_path / "valuer.db")))
    migrate(database)
    yield database
    database.close()


def test_every_root_is_listed_and_what_is_simulated_says_so() -> None:
    policy = Evidence(simulated_tpm_roots=("aa" * 32,), device_roots=("bb" * 32,))
    found = pinned.pinned(policy, NOW_MS)
    said = "\n".join(f.words for f in found)
    for sha256 in (*chain.DEVICE_ROOTS, *ek.TPM_ROOTS, "aa" * 32, "bb" * 32):
        assert said.count(sha256) == 1
    simulated = [f for f in found if "SIMULATED" in f.words]
    assert [f.words[:64] for f in simulated] == ["bb" * 32, "aa" * 32]
    assert all(f.holds for f in found)
    assert "Xid catalogue of 2025-10-29" in said
    assert "(list 1)" in said


def test_a_root_that_is_about_to_expire_is_warned_of() -> None:
    first = min(root.certificate.not_valid_after_utc for root in ek.TPM_ROOTS.values())
    near_ms = int(first.timestamp() * 1_000) - 364 * DAY_MS
    amiss = [f for f in pinned.pinned(Evidence(), near_ms) if not f.holds]
    assert {f.what for f in amiss} == {"TPM root"}
    assert all(first.date().isoformat() in f.words for f in amiss)
    assert "install a release with a newer list" in amiss[0].words
    assert not [f for f in pinned.pinned(Evidence(), near_ms - 2 * DAY_MS) if not f.holds]


def test_the_first_client_certificate_to_expire_is_named(database: Database) -> None:
    def look() -> pinned.Finding:
        return database.read(lambda c: pinned.client_certificates(c, NOW_MS))

    assert look().words == "no host has one that is valid"
    for number, left_ms in enumerate((9 * HOUR_MS, 3 * HOUR_MS, -HOUR_MS)):
        database.write(
            lambda c, n=number: c.execute(
                insert(HOST).values(
                    key=n, host_id=f"host{n}", site="s", incarnation=0, enrolled_ms=1
                )
            )
        )
        database.write(
            lambda c, n=number, left=left_ms: c.execute(
                insert(CERTIFICATE).values(
                    serial=str(n), host_key=n, issued_ms=1, expires_ms=NOW_MS + left
                )
            )
        )
    assert look().words == "2 valid; the first expires in 3.0 h: host1"
    database.write(lambda c: c.execute(update(HOST).where(HOST.c.key == 1).values(revoked_ms=1)))
    assert look().words.endswith("host0")


@pytest.mark.parametrize(
    ("answer", "asks", "holds", "words"),
    [
        (("good", HOUR_MS), True, True, "1, the oldest made 1.0 h ago"),
        (("good", 25 * HOUR_MS), True, False, "1 too old"),
        (("good", 25 * HOUR_MS), False, True, "1 too old"),
        (("revoked", HOUR_MS), True, False, "1 REVOKED"),
        (None, True, True, "none yet"),
        (None, False, True, "no GPU is above L1"),
    ],
)
def test_ocsp_answers_have_an_age(database, answer, asks, holds, words) -> None:
    if answer is not None:
        status, age_ms = answer
        row = insert(OCSP).values(
            certificate_sha256="cc" * 32,
            identity="dd" * 32,
            status=status,
            this_update_ms=NOW_MS - age_ms,
            next_update_ms=NOW_MS + DAY_MS,
            checked_ms=NOW_MS,
            response=b"",
        )
        database.write(lambda c: c.execute(row))
    found = database.read(lambda c: pinned.ocsp_answers(c, Evidence(), NOW_MS, asks=asks))
    assert (found.holds, words in found.words) == (holds, True), found.words


def test_a_listener_is_asked_for_its_certificate(tmp_path: Path) -> None:
    ours, strange = new_authority(tmp_path), new_authority(tmp_path, "other")
    key = ours.issue_server(["localhost"], NOW_MS)
    (tmp_path / "server.pem").write_bytes(key.certificate.chain_pem + key.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem")

    def look(authority: ca.Authority, now_ms: int = NOW_MS) -> pinned.Finding:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    try:
                        context.wrap_socket(connection, server_side=True).close()
                    except OSError:
                        return

            thread = threading.Thread(target=serve)
            thread.start()
            config = ListenerConfig(listen=f"127.0.0.1:{port}")
            found = pinned.listener("enrolment", config, authority.certificate_pem, now_ms)
            thread.join()
            return found

    good = look(ours)
    assert good.holds
    assert "expires in 7.0 d" in good.words
    near = look(ours, NOW_MS + 6 * DAY_MS + HOUR_MS)
    assert not near.holds
    assert "should have been renewed" in near.words
    other = look(strange)
    assert not other.holds
    assert "not as this valuer" in other.words
