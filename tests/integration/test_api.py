"""The lender's API over real TLS and a real store: who may, what is there, what is refused and whose fault."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from assay_valuer.api.changes import RECORD
from assay_valuer.api.openapi import PATH
from assay_valuer.api.problems import MEDIA_TYPE
from assay_valuer.api.tokens import Scope
from assay_valuer.book_store import registry_version
from assay_valuer.credit import loan as loan_file
from assay_valuer.ledger.check import check_ledger
from assay_valuer.ledger.read import entries_from
from assay_valuer.registry import LOAN_RECORD
from tests.fakes.api import FakeApi
from tests.fakes.collateral import loan_file as made_loan
from tests.fakes.events import NOW

PAID_AT = "2026-11-15T05:00:00Z"


@pytest.fixture
def api(tmp_path):
    made = FakeApi(tmp_path, time.time_ns() // 1_000_000)
    made.start()
    yield made
    made.stop()


@pytest.fixture
def reader(api):
    with api.client(api.token("reader")) as client:
        yield client


@pytest.fixture
def writer(api):
    with api.client(api.token("writer", Scope.WRITE)) as client:
        yield client


def file_of(*serials, **changed):
    return json.loads(loan_file.to_json(made_loan(list(serials), **changed)))


def problem(response, status, code):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == MEDIA_TYPE
    told = response.json()
    assert told["type"] == f"urn:assay:problem:{code}"
    assert told["status"] == status
    assert told["fault"] == ("ours" if status >= 500 else "yours")
    return told["detail"]


def register(client, *serials, **changed):
    content = file_of(*serials, **changed)
    return client.put(f"/v1/loans/{content['id']}", json=content, headers={"if-none-match": "*"})


def pay(client, key, amount=2_000_000_000, at=PAID_AT, loan="loan-1"):
    return client.post(
        f"/v1/loans/{loan}/payments",
        json={"at": at, "amount": amount},
        headers={"idempotency-key": key},
    )


# ---------------------------------------------------------------------------- who may


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/loans", "/v1/loans/loan-1", "/v1/market", "/nothing"])
def test_nobody_learns_anything_without_a_token_not_even_what_there_is(api, method, path):
    with api.client() as client:
        response = client.request(method, path)
    problem(response, 401, "unauthorised")
    assert response.headers["www-authenticate"].startswith("Bearer")


def test_a_token_that_does_not_hold_is_none(api):
    good = api.token("good")
    other = api.token("other")
    head, _, secret = good.rpartition(".")
    bad = [
        "x",
        good[:-1],
        good + "A",
        f"{head}.{'A' * 43}",
        f"{other.rpartition('.')[0]}.{secret}",
        f"assay-api-1.{'0' * 16}.{secret}",
        good.replace("assay-api-1", "assay-api-2"),
    ]
    for text in bad:
        with api.client(text) as client:
            problem(client.get("/v1/loans"), 401, "unauthorised")
    with api.client() as client:
        for value in (f"Basic {good}", good, f"Bearer {good} {good}", "Bearer"):
            answered = client.get("/v1/loans", headers={"authorization": value})
            problem(answered, 401, "unauthorised")
        twice = [("authorization", f"Bearer {good}"), ("authorization", f"Bearer {good}")]
        problem(client.get("/v1/loans", headers=twice), 401, "unauthorised")
    with api.client(good) as client:
        assert client.get("/v1/loans").status_code == 200


def test_a_token_ends_when_it_says_and_when_it_is_revoked_from_the_next_request_on(api):
    short, long = api.token("short", life_ms=60_000), api.token("long")
    with api.client(short) as one, api.client(long) as other:
        assert one.get("/v1/loans").status_code == 200
        api.now_ms += 60_000
        problem(one.get("/v1/loans"), 401, "unauthorised")
        assert other.get("/v1/loans").status_code == 200
        with api.tokens.changing() as change:
            change.revoke("long", api.now_ms)
        problem(other.get("/v1/loans"), 401, "unauthorised")


def test_who_may_read_may_not_write(api, reader):
    content = file_of("A1")
    answered = reader.put("/v1/loans/loan-1", json=content, headers={"if-none-match": "*"})
    assert "reader is to read" in problem(answered, 403, "forbidden")
    problem(pay(reader, "k"), 403, "forbidden")
    problem(reader.delete("/v1/loans/loan-1"), 403, "forbidden")
    assert reader.get("/v1/loans").json()["loans"] == []


def test_a_file_of_tokens_that_others_may_read_opens_nothing_and_is_our_fault(api):
    token = api.token("good")
    api.tokens.path.chmod(0o640)
    with api.client(token) as client:
        detail = problem(client.get("/v1/loans"), 503, "unavailable")
    assert str(api.folder) not in detail


def test_it_is_spoken_to_over_tls_alone_and_by_who_trusts_its_authority(api):
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{api.port}/healthz", trust_env=False)
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"{api.url}/healthz", trust_env=False)


def test_more_requests_than_a_token_has_are_put_off_and_another_has_its_own(tmp_path):
    api = FakeApi(tmp_path, time.time_ns() // 1_000_000, requests_per_minute_of_token=3).start()
    try:
        with api.client(api.token("one")) as one, api.client(api.token("two")) as two:
            assert [one.get("/v1/loans").status_code for _ in range(3)] == [200] * 3
            answered = one.get("/v1/loans")
            problem(answered, 429, "too_many_requests")
            assert answered.headers["retry-after"] == "60"
            assert two.get("/v1/loans").status_code == 200
            api.now_ms += 60_000
            assert one.get("/v1/loans").status_code == 200
    finally:
        api.stop()


def test_who_guesses_is_put_off_by_its_address(tmp_path):
    api = FakeApi(tmp_path, time.time_ns() // 1_000_000, requests_per_minute_of_peer=5).start()
    try:
        with api.client("guess") as client:
            answered = [client.get("/v1/loans").status_code for _ in range(6)]
        assert answered == [401] * 5 + [429]
    finally:
        api.stop()


# ---------------------------------------------------------------------------- every answer


def test_every_answer_says_that_no_browser_is_meant(api, reader):
    answers = [reader.get("/v1/loans"), reader.get("/nothing"), api.client().get("/v1/loans")]
    for one in answers:
        assert one.headers["cache-control"] == "no-store"
        assert one.headers["x-content-type-options"] == "nosniff"
        assert one.headers["content-security-policy"].startswith("default-src 'none'")
        assert one.headers["strict-transport-security"].startswith("max-age=")
        assert "server" not in one.headers
        assert not [name for name in one.headers if name.startswith("access-control")]


def test_a_page_of_another_origin_is_not_let_in(reader):
    asked = {"origin": "https://evil.example", "access-control-request-method": "PUT"}
    answered = reader.options("/v1/loans/loan-1", headers=asked)
    assert answered.status_code == 403
    assert not [name for name in answered.headers if name.startswith("access-control")]


def test_the_log_has_a_line_for_each_request_and_no_token_in_it(api, capfd):
    token = api.token("good")
    with api.client(token) as client:
        client.get("/v1/loans", params={"after": "secret-in-a-query"})
        client.get(f"/{token}")
    with api.client(token[:-1] + "A") as client:
        client.get("/v1/loans")
    said = capfd.readouterr()
    lines = [
        line
        for line in (said.out + said.err).splitlines()
        if "status=" in line or '"status"' in line
    ]
    assert len(lines) == 3
    secret = token.rpartition(".")[2]
    assert secret[:20] not in said.out + said.err
    assert "secret-in-a-query" not in said.out + said.err


# ---------------------------------------------------------------------------- loans


def test_a_loan_is_registered_read_and_replaced_by_who_read_it(api, reader, writer):
    made = register(writer, "A1", "B1")
    assert made.status_code == 201
    assert made.json()["pledged"] == made.json()["expected"] == 2
    read = reader.get("/v1/loans/loan-1")
    assert read.headers["etag"] == made.headers["etag"] == f'"{read.json()["sha256"]}"'
    content = read.json()
    assert content["file"] == file_of("A1", "B1")
    assert content["covenant_sha256"] is None
    assert [one["serial"] for one in content["pledged"]] == ["A1", "B1"]
    changed = file_of("A1")
    replaced = writer.put(
        "/v1/loans/loan-1", json=changed, headers={"if-match": read.headers["etag"]}
    )
    assert (replaced.status_code, replaced.json()["pledged"]) == (200, 1)
    assert reader.get("/v1/loans/loan-1").json()["file"] == changed


def test_what_is_owed_is_what_the_loans_file_comes_to_now(api, reader, writer):
    """100,000 dollars at 12% a year from 2026-11-10: interest to the second, rounded up."""
    register(writer, "A1")
    elapsed_s = NOW // 1000 - 1_794_268_800  # 2026-11-10T00:00:00Z
    interest_wad = 100_000 * 3_805_175_038 * elapsed_s
    owed = 100_000_000_000 + -(-interest_wad // 10**12)
    assert reader.get("/v1/loans/loan-1").json()["debt"] == {"at_ms": NOW, "owed_micros": owed}
    (listed,) = reader.get("/v1/loans").json()["loans"]
    assert listed["debt"]["owed_micros"] == owed


def test_amounts_wider_than_64_bits_go_in_and_out_as_they_are(api, reader, writer):
    content = file_of("A1")
    content["currency"]["decimals"] = 18
    content["tranches"][0]["amount"] = 123_456_789_012_345_678_901_234
    content["collateral_token_ids"] = [2**256 - 1]
    made = writer.put("/v1/loans/loan-1", json=content, headers={"if-none-match": "*"})
    assert made.status_code == 201
    assert reader.get("/v1/loans/loan-1").json()["file"] == content


def test_loans_are_listed_a_page_at_a_time(api, reader):
    for number in range(5):
        api.loan(f"A{number}", loan_id=f"loan-{number}", token_id=number)
    seen, after = [], ""
    while after is not None:
        page = reader.get("/v1/loans", params={"limit": 2, "after": after}).json()
        seen.append([one["id"] for one in page["loans"]])
        after = page["next"]
    assert seen == [["loan-0", "loan-1"], ["loan-2", "loan-3"], ["loan-4"]]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=%00", "page=2"]
)
def test_a_query_that_means_nothing_is_refused(reader, query):
    problem(reader.get(f"/v1/loans?{query}"), 400, "bad_request")


def test_of_two_who_read_the_same_version_the_second_is_told(api, writer):
    register(writer, "A1", "B1")
    etag = writer.get("/v1/loans/loan-1").headers["etag"]
    barrier = threading.Barrier(8)

    def put(number):
        content = file_of("A1", amount=100_000_000_000 + number)
        with api.client(api.token(f"w{number}", Scope.WRITE)) as client:
            barrier.wait(30)
            return client.put("/v1/loans/loan-1", json=content, headers={"if-match": etag})

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(put, range(8)))
    assert sorted(one.status_code for one in answers) == [200] + [412] * 7
    winner = next(one for one in answers if one.status_code == 200)
    assert writer.get("/v1/loans/loan-1").headers["etag"] == winner.headers["etag"]
    for one in answers:
        if one is not winner:
            assert winner.json()["sha256"] in problem(one, 412, "stale")


def test_who_replaces_says_what(api, writer):
    content = file_of("A1")
    put = lambda **headers: writer.put(  # noqa: E731
        "/v1/loans/loan-1",
        json=content,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )
    problem(put(), 428, "precondition_required")
    problem(put(if_match='"' + "00" * 32 + '"'), 412, "stale")
    problem(put(if_match="*"), 400, "bad_request")
    problem(put(if_match='W/"x"'), 400, "bad_request")
    problem(put(if_none_match='"x"'), 400, "bad_request")
    assert put(if_none_match="*").status_code == 201
    problem(put(if_none_match="*"), 412, "stale")
    etag = writer.get("/v1/loans/loan-1").headers["etag"]
    problem(put(if_match=etag, if_none_match="*"), 428, "precondition_required")
    assert put(if_match=f'"{"00" * 32}", {etag}').status_code == 200


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "loan-2"}, "the address is of loan-1"),
        ({"extra": 1}, "extra"),
        ({"tranches": []}, "tranches"),
        ({"payments": [{"at": PAID_AT, "amount": 0}]}, "payments.0.amount"),
        ({"originated_at": "soon"}, "originated_at"),
        ({"borrower": None, "chain_id": "1"}, "chain_id"),
        ({"pledge": [{"serial": "A1", "board_part_number": "P"}] * 2}, "pledged twice"),
    ],
)
def test_a_file_that_the_command_would_refuse_is_refused_with_its_field(
    reader, writer, change, words
):
    answered = writer.put(
        "/v1/loans/loan-1", json=file_of("A1") | change, headers={"if-none-match": "*"}
    )
    assert words in problem(answered, 422, "refused")
    assert reader.get("/v1/loans").json()["loans"] == []


def test_a_gpu_secures_one_loan_at_a_time(reader, writer):
    register(writer, "A1")
    answered = register(writer, "A1", loan_id="loan-2", token_id=8)
    assert "A1 is pledged to loan loan-1 already" in problem(answered, 409, "conflict")
    assert [one["id"] for one in reader.get("/v1/loans").json()["loans"]] == ["loan-1"]


def test_two_changes_of_one_millisecond_are_both_seen_by_who_values(api, writer):
    register(writer, "A1")
    versions = [api.read(registry_version)]
    for key in ("wire-1", "wire-2"):
        assert pay(writer, key, amount=len(versions)).status_code == 201
        versions.append(api.read(registry_version))
    assert len(set(versions)) == 3


def test_what_is_written_is_in_the_ledger_with_whose_word_it_was(api, writer):
    register(writer, "A1")
    pay(writer, "wire-1")
    pay(writer, "wire-1")
    told = api.read(lambda c: entries_from(c, 0, kind=RECORD))
    said = [json.loads(one.body.envelope.payload) for one in told]
    assert [(one["what"], one["token"], one["loan"]) for one in said] == [
        ("loan", "writer", "loan-1"),
        ("payment", "writer", "loan-1"),
    ]
    files = api.read(lambda c: entries_from(c, 0, kind=LOAN_RECORD))
    terms = json.loads(json.loads(files[-1].body.envelope.payload)["terms"])
    assert [one["reference"] for one in terms["payments"]] == ["wire-1"]
    api.read(lambda c: check_ledger(c, (api.state.ledger_key.public_key,)))


# ---------------------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    ("body", "code", "status"),
    [
        (b"", "bad_json", 400),
        (b"{", "bad_json", 400),
        (b"\xff", "bad_json", 400),
        (b'{"at":"x","at":"y"}', "bad_json", 400),
        (b'{"amount":NaN}', "bad_json", 400),
        (b'{"amount":1.5}', "bad_json", 400),
        (b'{"at":"\\ud800"}', "bad_json", 400),
        (b"[" * 100_000, "bad_json", 400),
        (b'{"amount":' + b"1" * 5_000 + b"}", "bad_json", 400),
        (b"[]", "refused", 422),
        (b"id: loan-1", "bad_json", 400),
        (b"null", "refused", 422),
    ],
)
def test_a_body_that_is_not_json_to_be_read_in_one_way_is_refused(writer, body, code, status):
    headers = {"if-none-match": "*", "content-type": "application/json"}
    problem(writer.put("/v1/loans/loan-1", content=body, headers=headers), status, code)


def test_a_body_of_another_type_is_refused(writer):
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp"):
        headers = {"if-none-match": "*", "content-type": media}
        answered = writer.put("/v1/loans/loan-1", content=b"{}", headers=headers)
        problem(answered, 415, "unsupported_media_type")


def test_a_body_larger_than_is_taken_is_refused_whether_it_says_so_or_not(api, writer):
    headers = {"if-none-match": "*", "content-type": "application/json"}
    told = writer.put("/v1/loans/loan-1", content=b" " * (2 * 1024 * 1024), headers=headers)
    problem(told, 413, "too_large")

    def chunks():
        for _ in range(64):
            yield b" " * 32_768

    streamed = writer.put("/v1/loans/loan-1", content=chunks(), headers=headers)
    problem(streamed, 413, "too_large")
    assert writer.get("/v1/loans").status_code == 200


# ---------------------------------------------------------------------------- payments


def test_a_payment_changes_the_debt_once_however_often_it_is_sent(api, reader, writer):
    register(writer, "A1")
    before = reader.get("/v1/loans/loan-1").json()["debt"]["owed_micros"]
    first = pay(writer, "wire-1")
    assert (first.status_code, first.json()["new"]) == (201, True)
    after = reader.get("/v1/loans/loan-1").json()["debt"]["owed_micros"]
    assert after < before - 1_999_000_000
    for _ in range(3):
        again = pay(writer, "wire-1")
        assert (again.status_code, again.json()["new"]) == (200, False)
        assert again.json()["sha256"] == first.json()["sha256"]
    assert reader.get("/v1/loans/loan-1").json()["debt"]["owed_micros"] == after


def test_a_payment_sent_by_many_at_once_is_there_once(api, writer):
    register(writer, "A1")
    barrier = threading.Barrier(8)

    def send(number):
        with api.client(api.token(f"w{number}", Scope.WRITE)) as client:
            barrier.wait(30)
            return pay(client, "wire-1").status_code

    with ThreadPoolExecutor(8) as pool:
        answers = sorted(pool.map(send, range(8)))
    assert answers == [200] * 7 + [201]
    payments = writer.get("/v1/loans/loan-1").json()["file"]["payments"]
    assert [one["reference"] for one in payments] == ["wire-1"]


def test_one_key_is_one_payment(writer):
    register(writer, "A1")
    pay(writer, "wire-1")
    assert "not the same" in problem(pay(writer, "wire-1", amount=1), 409, "conflict")
    assert "not the same" in problem(
        pay(writer, "wire-1", at="2026-11-15T05:00:01Z"), 409, "conflict"
    )


def test_the_same_payment_under_another_key_is_asked_about(writer):
    """As after a file that was imported with it, and without its reference."""
    register(writer, "A1", payments=f'[{{at: "{PAID_AT}", amount: 2000000000}}]')
    assert "under another name" in problem(pay(writer, "wire-1"), 409, "conflict")
    assert pay(writer, "wire-2", amount=1).status_code == 201


@pytest.mark.parametrize(
    ("fields", "status", "code", "word"),
    [
        ({"amount": 0}, 422, "refused", "amount"),
        ({"amount": -1}, 422, "refused", "amount"),
        ({"amount": "1"}, 422, "refused", "amount"),
        ({"amount": True}, 422, "refused", "amount"),
        ({"at": "soon"}, 422, "refused", "at"),
        ({"at": "2027-01-01T00:00:00Z"}, 422, "refused", "yet to come"),
        ({"at": "2026-11-09T00:00:00Z"}, 409, "conflict", "before"),
        ({"extra": 1}, 422, "refused", "extra"),
        ({"at": None}, 422, "refused", "at"),
    ],
)
def test_a_payment_that_cannot_have_been_is_refused(writer, fields, status, code, word):
    register(writer, "A1")
    body = {"at": PAID_AT, "amount": 5} | fields
    answered = writer.post("/v1/loans/loan-1/payments", json=body, headers={"idempotency-key": "k"})
    assert word in problem(answered, status, code)
    assert writer.get("/v1/loans/loan-1").json()["file"]["payments"] == []


def test_a_payment_needs_a_name_and_a_loan_that_takes_it(writer):
    register(writer, "A1")
    body = {"at": PAID_AT, "amount": 5}
    problem(writer.post("/v1/loans/loan-1/payments", json=body), 400, "bad_request")
    problem(pay(writer, "not a key"), 400, "bad_request")
    problem(pay(writer, "k", loan="loan-9"), 404, "not_found")
    etag = writer.get("/v1/loans/loan-1").headers["etag"]
    writer.put(
        "/v1/loans/loan-1", json=file_of("A1") | {"status": "repaid"}, headers={"if-match": etag}
    )
    assert "takes no payments" in problem(pay(writer, "k"), 409, "conflict")


# ---------------------------------------------------------------------------- the rest


def test_what_there_is_none_of_is_said_so(reader):
    for path in ("/v1/loans/loan-9", "/v1/loans/loan-9/history", "/v1/gpus/Z9", "/v1/nothing",
                 "/v1/loans/%00", "/v1/gpus/%0a"):  # fmt: skip
        problem(reader.get(path), 404, "not_found")


def test_what_cannot_be_done_with_an_address_is_said_with_what_can(writer):
    answered = writer.delete("/v1/loans/loan-1")
    problem(answered, 405, "method_not_allowed")
    assert answered.headers["allow"] == "GET, PUT"
    assert writer.post(PATH).status_code == 405


def test_anybody_may_ask_whether_it_is_well_and_what_it_can_do(api):
    with api.client() as client:
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.head("/healthz").status_code == 200
        assert client.get(PATH).json()["openapi"].startswith("3.1")


def test_the_market_is_shown_empty_where_no_feed_was_asked(reader):
    assert reader.get("/v1/market").json() == {
        "feeds": [],
        "snapshot": None,
        "parameters_sha256": None,
        "products": [],
        "rejected": {},
    }


def test_a_gpu_is_shown_before_it_is_valued(reader, writer):
    register(writer, "A1")
    (one,) = reader.get("/v1/gpus/A1").json()["gpus"]
    assert (one["gpu"]["loan"], one["gpu"]["result"]) == ("loan-1", None)
    assert (one["appraisals"], one["override"]) == ([], None)
    assert reader.get("/v1/loans/loan-1/history").json() == {
        "loan": "loan-1",
        "steps": [],
        "next": None,
    }
