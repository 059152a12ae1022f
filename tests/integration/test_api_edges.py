"""The API's edges: who is slow, who hangs up, a renewed certificate, its description, tokens by command."""

from __future__ import annotations

import json
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import pytest

from assay_core.errors import AssayError, FileError, ServiceError
from assay_valuer import config, replay
from assay_valuer.api import views
from assay_valuer.api.changes import LoanStored, PaymentView
from assay_valuer.api.openapi import PATH
from assay_valuer.api.operations import OPERATIONS
from assay_valuer.api.problems import Code, ProblemBody
from assay_valuer.api.tokens import LIFE_MAX_MS, TOKENS_MAX, Scope, TokenFile
from assay_valuer.cli import main
from assay_valuer.cli.api_token import RECORD
from assay_valuer.ledger.read import entries_from
from assay_valuer.state import open_state
from assay_valuer.valuation_store import keep_cases
from tests.fakes.api import FakeApi
from tests.fakes.events import NOW
from tests.fakes.valuing import case, row
from tests.integration.test_valuer_process import ValuerProcess, free_ports

METHODS = ("GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS")


@pytest.fixture
def api(tmp_path):
    made = FakeApi(tmp_path, time.time_ns() // 1_000_000, head_within_s=1, body_within_s=1)
    made.start()
    yield made
    made.stop()


def connected(api):
    plain = socket.create_connection(("127.0.0.1", api.port), timeout=30)
    return api.trust().wrap_socket(plain, server_hostname="127.0.0.1")


def heard(sealed):
    """All that is said until the other side ends it, which it must."""
    said = b""
    try:
        while chunk := sealed.recv(65_536):
            said += chunk
    except TimeoutError as error:
        raise AssertionError("nobody hung up") from error
    except OSError:
        pass
    return said


# ---------------------------------------------------------------------------- who is slow


def test_who_sends_no_whole_head_is_hung_up_on(api):
    for begun in (b"", b"GET /healthz HTTP/1.1\r\nhost: x\r\n"):
        with connected(api) as sealed:
            sealed.sendall(begun)
            assert heard(sealed) == b""
    with api.client() as client:
        assert client.get("/healthz").status_code == 200


def test_who_is_slow_with_the_second_request_is_hung_up_on_too(api):
    request = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with connected(api) as sealed:
        sealed.sendall(request)
        first = b""
        while b'"ok"' not in first:
            first += sealed.recv(65_536)
        sealed.sendall(request[:10])
        assert heard(sealed) == b""


def test_a_body_that_does_not_come_is_given_up_and_said_so(api):
    token = api.token("writer", Scope.WRITE)
    head = (
        f"PUT /v1/loans/loan-1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        "if-none-match: *\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with connected(api) as sealed:
        sealed.sendall(head.encode())
        said = heard(sealed)
    assert said.startswith(b"HTTP/1.1 408")
    assert b"urn:assay:problem:too_slow" in said
    assert b"connection: close" in said.lower()


def test_a_body_that_says_that_it_is_endless_is_not_waited_for(api):
    token = api.token("writer", Scope.WRITE)
    head = (
        f"PUT /v1/loans/loan-1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        "if-none-match: *\r\ncontent-type: application/json\r\ncontent-length: 1000000000000\r\n\r\n"
    )
    with connected(api) as sealed:
        sealed.sendall(head.encode())
        assert heard(sealed).startswith(b"HTTP/1.1 413")


def test_who_hangs_up_before_the_body_is_whole_leaves_nothing(api):
    token = api.token("writer", Scope.WRITE)
    head = (
        f"PUT /v1/loans/loan-1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\n"
        "if-none-match: *\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    with connected(api) as sealed:
        sealed.sendall(head.encode())
    with api.client(token) as client:
        assert client.get("/v1/loans").json()["loans"] == []


def test_a_head_larger_than_is_taken_and_what_is_no_http_get_no_further(api):
    for sent in (
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 17_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01 nonsense\r\n\r\n",
        b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ):
        with connected(api) as sealed:
            sealed.sendall(sent)
            said = heard(sealed)
        assert said == b"" or said.startswith(b"HTTP/1.1 400")


def test_who_would_be_one_too_many_is_told(tmp_path):
    api = FakeApi(tmp_path, time.time_ns() // 1_000_000, connections_max=3, head_within_s=30)
    api.start()
    try:
        held = [connected(api) for _ in range(3)]
        with api.client() as client:
            assert client.get("/healthz").status_code == 503
        for one in held:
            one.close()
        with api.client() as client:
            for _ in range(200):
                if client.get("/healthz").status_code == 200:
                    break
            else:
                raise AssertionError("it did not come back")
    finally:
        api.stop()


# ---------------------------------------------------------------------------- where it listens


def check(tmp_path, text):
    file = tmp_path / "valuer.yaml"
    file.write_text(text)
    return config.load(file)


def test_it_is_off_unless_it_is_told_where_to_listen():
    assert config.ValuerConfig().api.listen is None


@pytest.mark.parametrize(
    "address", ["0.0.0.0:8446", "10.0.0.1:8446", "valuer.example:8446", "[::]:1"]
)
def test_off_loopback_it_listens_over_tls_alone(tmp_path, address):
    with pytest.raises(FileError, match=r"api\.certificate: is needed off loopback"):
        check(tmp_path, f"api: {{listen: '{address}'}}\n")
    pair = "certificate: /c.pem, key: /k.pem"
    assert check(tmp_path, f"api: {{listen: '{address}', {pair}}}\n").api.listen == address


@pytest.mark.parametrize("address", ["127.0.0.1:8446", "localhost:8446", "[::1]:8446"])
def test_on_loopback_it_may_do_without(tmp_path, address):
    assert check(tmp_path, f"api: {{listen: '{address}'}}\n").api.listen == address


@pytest.mark.parametrize(
    "text",
    ["{listen: here}", "{listen: '127.0.0.1:1', key: k}", "{listen: '127.0.0.1:1', port: 2}"],
)
def test_a_configuration_that_means_nothing_is_refused(tmp_path, text):
    with pytest.raises(FileError, match=r"valuer\.yaml"):
        check(tmp_path, f"api: {text}\n")


def test_it_does_not_start_with_a_key_that_others_may_read(tmp_path):
    api = FakeApi(tmp_path, time.time_ns() // 1_000_000)
    (tmp_path / "api.key").chmod(0o644)
    with pytest.raises(AssertionError, match="chmod 600"):
        api.start()
    api.stop()


def test_it_says_that_it_cannot_listen_where_another_does(api, tmp_path):
    folder = tmp_path / "other"
    folder.mkdir()
    listen = f"127.0.0.1:{api.port}"
    other = FakeApi(folder, time.time_ns() // 1_000_000, listen=listen)
    with pytest.raises(AssertionError, match="cannot be listened on"):
        other.start()
    assert isinstance(other.error, ServiceError)
    other.stop()


def shown(api):
    """The serial number of the certificate that a new caller is shown."""
    with connected(api) as sealed:
        return sealed.getpeercert()["serialNumber"]


def until(holds):
    for _ in range(2_000):
        if holds():
            return
    raise AssertionError("it never came")


def test_a_renewed_certificate_is_taken_and_a_broken_one_is_not(api):
    before = shown(api)
    api.renew_certificate(time.time_ns() // 1_000_000)
    until(lambda: shown(api) != before)
    renewed = shown(api)
    (api.folder / "api.pem").write_text("no certificate")
    with api.client() as client:
        until(lambda: client.get("/healthz").status_code == 200)
    assert shown(api) == renewed


# ---------------------------------------------------------------------------- in the service


def test_it_runs_in_the_service_and_ends_with_it(tmp_path):
    valuer = ValuerProcess(tmp_path)
    (port,) = free_ports(1)
    with valuer.config.open("a") as file:
        file.write(f"api: {{listen: '127.0.0.1:{port}'}}\n")
    assert valuer.command("init").returncode == 0
    token = valuer.command("api-token", "create", "books", "--scope", "read").stdout.strip()
    valuer.start()
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            for _ in range(600):
                try:
                    assert client.get("/healthz").json() == {"status": "ok"}
                    break
                except httpx.TransportError:
                    time.sleep(0.1)
            headers = {"authorization": f"Bearer {token}"}
            assert client.get("/v1/loans", headers=headers).json() == {"loans": [], "next": None}
            assert client.get("/v1/loans").status_code == 401
        assert valuer.stop(signal.SIGTERM) == 0
    finally:
        if valuer.process is not None:
            valuer.process.kill()
            valuer.process.wait()
    log = (tmp_path / "log").read_text()
    assert '"event": "api_listening"' in log
    assert token.rpartition(".")[2] not in log


WITHOUT = """
import asyncio, sys
sys.modules["starlette"] = sys.modules["uvicorn"] = None
from prometheus_client import CollectorRegistry
from assay_core.errors import ServiceError
from assay_valuer.api import serve_api
from assay_valuer.cli import main
from assay_valuer.config import load
from assay_valuer.service import ServiceContext
from assay_valuer.state import open_state
from pathlib import Path
config = sys.argv[1]
assert main(["api-token", "list", "--config", config]) == 0
state = open_state(load(Path(config)))
try:
    asyncio.run(serve_api(ServiceContext(state, CollectorRegistry(), lambda: 0)))
except ServiceError as error:
    print(error)
"""


def test_without_its_extra_the_rest_runs_and_it_says_what_is_missing(tmp_path):
    config_file = tmp_path / "valuer.yaml"
    config_file.write_text(f"state_dir: {tmp_path / 'state'}\napi: {{listen: '127.0.0.1:0'}}\n")
    assert main(["init", "--config", str(config_file)]) == 0
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(config_file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "api.listen needs the extra `api`" in done.stdout


# ---------------------------------------------------------------------------- the description


def described(api):
    with api.client() as client:
        return client.get(PATH).json()


def test_what_is_described_is_what_there_is_and_nothing_else(api):
    told = described(api)["paths"]
    assert set(told) == {one.path for one in OPERATIONS} | {PATH}
    with api.client(api.token("writer", Scope.WRITE)) as client:
        for path, methods in told.items():
            there = re.sub(r"\{\w+\}", "x", path)
            for method in METHODS:
                missing = client.request(method, there).status_code == 405
                assert missing == (method.lower() not in methods), (method, path)


def test_every_operation_tells_its_token_its_body_and_its_problems(api):
    document = described(api)
    for one in OPERATIONS:
        told = document["paths"][one.path][one.method.lower()]
        assert told["security"] == ([] if one.scope is None else [{"token": []}])
        statuses = {int(status) for status in told["responses"]}
        assert statuses == {*one.returns, *(code.status for code in one.all_problems)}
        assert ("requestBody" in told) == (one.body is not None)
        named = {parameter["name"] for parameter in told["parameters"]}
        assert set(re.findall(r"\{(\w+)\}", one.path)) <= named
    assert {code.status for code in Code} >= {400, 401, 403, 404, 408, 409, 412, 413, 422, 429, 503}


def references(tree):
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(tree, list):
        for one in tree:
            yield from references(one)


def test_every_reference_in_it_leads_somewhere(api):
    document = described(api)
    found = set(references(document))
    assert len(found) > 20
    for one in found:
        assert one.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def test_answers_are_of_the_types_that_it_says(api):
    """Strictly: a field more or less, or of another type, fails."""
    api.loan("A1")
    with api.client(api.token("writer", Scope.WRITE)) as client:
        content = client.get("/v1/loans/loan-1").json()["file"]
        etag = client.get("/v1/loans/loan-1").headers["etag"]
        put = client.put("/v1/loans/loan-1", json=content, headers={"if-match": etag})
        paid = client.post(
            "/v1/loans/loan-1/payments",
            json={"at": "2026-11-15T00:00:00Z", "amount": 1},
            headers={"idempotency-key": "k"},
        )
        answers = [
            (client.get("/healthz"), views.Alive),
            (client.get("/v1/loans"), views.LoanList),
            (client.get("/v1/loans/loan-1"), views.LoanView),
            (client.get("/v1/loans/loan-1/history"), views.HistoryView),
            (client.get("/v1/gpus/A1"), views.GpuList),
            (client.get("/v1/market"), views.MarketView),
            (put, LoanStored),
            (paid, PaymentView),
            (client.get("/v1/loans/none"), ProblemBody),
        ]
    for response, type_ in answers:
        read = msgspec.convert(response.json(), type_, strict=True)
        assert json.loads(msgspec.json.encode(read)) == response.json()


def test_a_value_comes_with_all_that_works_it_out_again(api, tmp_path):
    """By the command, from the answer's bytes alone."""
    one = case(table=(row("used", 18_000, 22_000, 26_000),))
    api.write(lambda c: keep_cases(c, [one], api.state.ledger_key, NOW))
    with api.client(api.token("reader")) as client:
        answered = client.get(f"/v1/valuations/{one.sha256}")
        for other in ("00" * 32, one.sha256[:-1], one.sha256.upper()):
            assert client.get(f"/v1/valuations/{other}").status_code == 404
    assert answered.headers["etag"] == f'"{one.sha256}"'
    file = tmp_path / "case.json"
    file.write_bytes(answered.content)
    assert replay.load(answered.content, "case").case == one
    assert main(["replay", "--file", str(file)]) == 0


# ---------------------------------------------------------------------------- tokens


def test_tokens_are_made_shown_once_listed_and_revoked_by_command(tmp_path, capsys):
    file = tmp_path / "valuer.yaml"
    file.write_text(f"state_dir: {tmp_path / 'state'}\n")
    where = ("--config", str(file))
    assert main(["init", *where]) == 0
    capsys.readouterr()
    assert main(["api-token", "create", "books", "--scope", "write", *where]) == 0
    text = capsys.readouterr().out.strip()
    kept = tmp_path / "state" / "api-tokens.json"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert text.rpartition(".")[2] not in kept.read_text()
    now_ms = time.time_ns() // 1_000_000
    found = TokenFile(kept).find(text, now_ms)
    assert (found.name, found.scope) == ("books", Scope.WRITE)
    assert main(["api-token", "create", "books", "--scope", "read", *where]) == 1
    assert "choose another name" in capsys.readouterr().err
    assert main(["api-token", "list", "--json", *where]) == 0
    listed = capsys.readouterr().out
    assert text.rpartition(".")[2] not in listed
    assert "secret" not in listed
    assert [one["name"] for one in json.loads(listed)["tokens"]] == ["books"]
    assert main(["api-token", "revoke", "books", *where]) == 0
    assert main(["api-token", "revoke", "books", *where]) == 1
    assert TokenFile(kept).find(text, now_ms) is None
    assert main(["api-token", "list", *where]) == 0
    assert "revoked" in capsys.readouterr().out
    with_ledger = open_state(config.load(file))
    records = with_ledger.database.read(lambda c: entries_from(c, 0, kind=RECORD))
    told = [json.loads(one.body.envelope.payload) for one in records]
    assert [(one["name"], one["revoked_ms"] is None) for one in told] == [
        ("books", True),
        ("books", False),
    ]
    with_ledger.database.close()


@pytest.fixture
def tokens(tmp_path):
    return TokenFile(tmp_path / "api-tokens.json")


@pytest.mark.parametrize(
    ("name", "life_ms"),
    [("", 1), ("a b", 1), ("-a", 1), ("a" * 65, 1), ("a", 0), ("a", LIFE_MAX_MS + 1)],
)
def test_a_token_that_would_be_nobodys_or_for_ever_is_not_made(tokens, name, life_ms):
    with pytest.raises(AssayError), tokens.changing() as change:
        change.create(name, Scope.READ, life_ms=life_ms, now_ms=NOW)
    assert tokens.load() == ()


def test_there_are_no_more_tokens_than_there_is_room_for(tokens):
    with tokens.changing() as change:
        for number in range(TOKENS_MAX):
            change.create(f"t{number}", Scope.READ, life_ms=1, now_ms=NOW)
        with pytest.raises(AssayError, match="revoked ones counted"):
            change.create("more", Scope.READ, life_ms=1, now_ms=NOW)
    assert len(tokens.load()) == TOKENS_MAX


@pytest.mark.parametrize("text", ["", "{}x", '{"tokens":[{}]}', '{"token":[]}'])
def test_a_file_of_tokens_that_is_none_is_refused_and_left(tokens, text):
    tokens.path.write_text(text)
    tokens.path.chmod(0o600)
    with pytest.raises(FileError, match="no file of tokens"):
        tokens.load()
    with pytest.raises(FileError), tokens.changing():
        pass
    assert tokens.path.read_text() == text


def test_two_changes_at_once_lose_nothing(tokens):
    def make(number):
        with tokens.changing() as change:
            change.create(f"t{number}", Scope.READ, life_ms=1, now_ms=NOW)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(16)))
    assert {one.name for one in tokens.load()} == {f"t{number}" for number in range(16)}
