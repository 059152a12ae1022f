"""Keys and certificates are for the agent's user alone, and tokens are never quoted."""

from __future__ import annotations

import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay_agent import enroll
from assay_agent.keys import (
    SEALING,
    Enrolling,
    Host,
    KeyStore,
)
from assay_agent.pem import new_sealing_key, new_tls_key, signing_request
from assay_agent.uplink.uplink import Pace
from assay_core.errors import FileError, HostError
from assay_valuer.ca import create_authority
from tests.fakes.readings import START_MS

HOST = Host(
    host_id="spiffe://assay.test/site/a/host/1",
    incarnation=0,
    previous_head_hash="",
    enrollment_endpoint="localhost:1",
    attestation_endpoint="localhost:2",
    schema_max=1,
)


@pytest.fixture
def keys(tmp_path):
    found = KeyStore(tmp_path / "state")
    found.prepare()
    return found


def test_files_are_for_their_owner_alone_and_survive(keys):
    keys.write(SEALING, new_sealing_key())
    enrolling = Enrolling(token_id="T", statement="AA==", tls_key_pem="x", sealing_key_pem="")
    keys.begin_enrolling(enrolling)
    keys.store_host(HOST)
    again = KeyStore(keys.state_dir)
    assert again.signer().public_key == keys.signer().public_key
    assert (again.host(), again.enrolling()) == (HOST, enrolling)
    assert keys.state_dir.stat().st_mode & 0o777 == 0o700
    assert {each.stat().st_mode & 0o777 for each in keys.state_dir.iterdir()} == {0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_key_that_others_can_read_is_refused(keys, mode):
    keys.write(SEALING, new_sealing_key())
    path = keys.state_dir / "sealing.key"
    path.chmod(mode)
    with pytest.raises(HostError, match="readable by other users"):
        keys.signer()


def test_a_directory_that_others_may_enter_is_refused(keys):
    keys.state_dir.chmod(0o750)
    with pytest.raises(HostError, match="chmod 0700"):
        keys.prepare()


def test_a_link_in_the_place_of_a_key_is_not_followed(keys, tmp_path):
    keys.write(SEALING, new_sealing_key())
    path = keys.state_dir / "sealing.key"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HostError, match="cannot be read"):
        keys.signer()


def test_the_sealing_key_may_come_from_the_service_manager(tmp_path, keys):
    credentials = KeyStore(tmp_path / "credentials")
    credentials.prepare()
    for each in (keys, credentials):
        each.write(SEALING, new_sealing_key())
    store = KeyStore(keys.state_dir, credentials.state_dir)
    assert store.signer().public_key == credentials.signer().public_key
    assert KeyStore(keys.state_dir, keys.state_dir / "none").credential() is None


def test_a_host_that_is_not_enrolled_is_told_how(keys):
    with pytest.raises(HostError, match="assay-agent enroll"):
        keys.host()


@pytest.mark.parametrize("name", ["sealing.key", "host.json", "tls.pem"])
def test_a_damaged_file_is_named(keys, name):
    path = keys.state_dir / name
    path.write_bytes(b"\x00garbage")
    path.chmod(0o600)
    read = {"sealing.key": keys.signer, "host.json": keys.host, "tls.pem": keys.tls}[name]
    with pytest.raises(HostError, match=name):
        read()


def test_a_certificate_for_another_key_is_not_kept(keys):
    authority, key = create_authority("a", START_MS)
    with pytest.raises(HostError, match="another key"):
        keys.store_tls(new_tls_key(), authority, authority)
    assert list(keys.state_dir.iterdir()) == []
    keys.store_tls(key, authority, authority)
    assert keys.tls().key_pem == key


def test_the_request_is_for_the_key_it_was_made_with():
    key = new_tls_key()
    assert signing_request(key) != signing_request(new_tls_key())


def token(**changed) -> str:
    document = {
        "id": "T1",
        "secret": base64.urlsafe_b64encode(b"s" * 32).decode(),
        "endpoint": "valuer.example:8443",
        "authority_pem": create_authority("a", START_MS)[0].decode(),
    } | changed
    text = json.dumps({name: value for name, value in document.items() if value is not None})
    return "assay-token-1." + base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def test_a_token_is_read_and_its_secret_never_shown():
    found = enroll.parse_token(f"  {token()}\n")
    assert (found.id, found.secret, found.endpoint) == ("T1", b"s" * 32, "valuer.example:8443")
    assert "ssss" not in repr(found)
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "assay-token-2.abc",
        "assay-token-1.",
        "assay-token-1.!!!",
        "assay-token-1.e30",
        token()[:-40],
        token(secret="c2hvcnQ"),
        token(secret=None),
        token(endpoint="no port"),
        token(endpoint=":8443"),
        token(id=""),
        token(authority_pem="nothing"),
        token(more="than there is"),
    ],
)
def test_what_is_no_token_is_said_so_without_quoting_it(text):
    with pytest.raises(FileError) as caught:
        enroll.parse_token(text)
    assert caught.value.__cause__ is None
    assert len(text) < 20 or text[14:] not in str(caught.value)


@given(
    st.integers(0, 10_000),
    st.floats(0, 1),
    st.floats(0.001, 10),
    st.floats(10, 1_000),
)
def test_backoff_stays_within_its_bounds(failures, drawn, least_s, most_s):
    pace = Pace(least_s=least_s, most_s=most_s)
    wait_s = pace.after(failures, lambda: drawn)
    assert 0 <= wait_s <= most_s
    assert pace.after(failures, lambda: 1.0) >= min(least_s, most_s)
    assert pace.after(failures + 1, lambda: drawn) >= wait_s
    assert pace.after(50, lambda: 1.0) == most_s


def test_the_state_directory_must_be_one_that_can_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HostError, match="cannot be made"):
        KeyStore(tmp_path / "file" / "state").prepare()
    assert os.listdir(tmp_path) == ["file"]
